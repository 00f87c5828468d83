//! `/v2/auth`: users, roles, and whether they are asked for.

use std::sync::Arc;

use http::{Method, Response, StatusCode};
use proa_etcd_api::command::{V2Write, v2_write::Kind};
use proa_etcd_api::v2::rights::{GUEST, ROOT, Refusal, Role, User};
use proa_etcd_api::v2::{V2Code, V2Error, path};
use proa_etcd_store::v2 as store;
use tonic::body::Body;

use super::{Asked, body, internal, keys, now_ns, reply, users};
use crate::grpc::Front;

/// The largest body: a role with some thousand permissions.
const MAX_BODY_BYTES: usize = 1 << 20;

/// Why a request is refused.
enum Refused {
    /// By what it says.
    Request(StatusCode, &'static str),
    /// By who is there already.
    Auth(Refusal),
    /// By the store.
    Store(V2Error),
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self::Auth(refusal)
    }
}

impl From<V2Error> for Refused {
    fn from(error: V2Error) -> Self {
        Self::Store(error)
    }
}

type Answer = Result<Response<Body>, Refused>;

/// Answers a request below `/v2/auth/`.
pub async fn answer(asked: Asked<'_>) -> Response<Body> {
    let front = asked.front;
    let rest = String::from_utf8_lossy(&path::clean(&asked.path[b"/v2/auth".len()..])).into_owned();
    let parts: Vec<&str> = rest.split('/').skip(1).collect();
    let (allowed, reads): (&'static str, bool) = match *parts {
        ["enable"] => ("GET,PUT,DELETE", asked.method == Method::GET),
        ["users" | "roles"] => ("GET", false),
        ["users" | "roles", _] => ("GET,PUT,DELETE", false),
        ["users" | "roles", ..] => return reply::message(StatusCode::BAD_REQUEST, "Invalid path"),
        _ => return reply::not_found(),
    };
    if !allowed.split(',').any(|method| method == asked.method.as_str()) {
        return reply::wrong_method(allowed);
    }
    if !reads && !users::is_root(front, asked.v2, &asked.request).await {
        return reply::message(StatusCode::UNAUTHORIZED, "Insufficient credentials");
    }
    let method = asked.method.clone();
    let body = match body::read(asked.request.into_body(), MAX_BODY_BYTES).await {
        Ok(body) => body,
        Err(_) => return reply::message(StatusCode::BAD_REQUEST, "Invalid JSON in request body."),
    };
    let done = match (*parts.first().unwrap_or(&""), parts.get(1)) {
        ("enable", _) => switch(front, &method).await,
        ("users", None) => all_users(front),
        ("roles", None) => all_roles(front),
        ("users", Some(name)) => one_user(front, &method, name, &body).await,
        (_, name) => one_role(front, &method, name.unwrap_or(&""), &body).await,
    };
    let mut response = done.unwrap_or_else(|refused| match refused {
        Refused::Request(status, text) => reply::message(status, text),
        Refused::Auth(Refusal { status, text }) => {
            reply::message(StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST), &text)
        }
        Refused::Store(error) => reply::refusal(&error),
    });
    reply::tell_cluster(response.headers_mut(), front);
    response
}

async fn switch(front: &Arc<Front>, method: &Method) -> Answer {
    let is_enabled = users::is_enabled(front);
    match *method {
        Method::PUT if is_enabled => return Err(Refusal::new(409, "already enabled").into()),
        Method::PUT => {
            newest(front).await?;
            if users::user(front, ROOT)?.is_none() {
                return Err(Refusal::new(409, "No root user available, please create one").into());
            }
            if users::role(front, GUEST)?.is_none() {
                create(front, &format!("/roles/{GUEST}"), Role::guest().json()).await?;
            }
            set(front, Kind::Update, "/enabled", b"true".to_vec(), 0).await?;
        }
        Method::DELETE if !is_enabled => return Err(Refusal::new(409, "already disabled").into()),
        Method::DELETE => set(front, Kind::Update, "/enabled", b"false".to_vec(), 0).await?,
        _ => return Ok(told(StatusCode::OK, format!("{{\"enabled\":{is_enabled}}}").into_bytes())),
    }
    Ok(nothing())
}

fn all_users(front: &Front) -> Answer {
    let mut all = Vec::new();
    for name in names(front, "/users")? {
        if let Some(user) = users::user(front, &name)? {
            let known = user.roles.iter().filter_map(|role| users::role(front, role).ok().flatten());
            all.push(user_with_roles(&user, known));
        }
    }
    Ok(told(StatusCode::OK, list("users", &all)))
}

fn all_roles(front: &Front) -> Answer {
    let mut names = names(front, "/roles")?;
    names.push(ROOT.to_owned());
    names.sort();
    let mut all = Vec::new();
    for name in names {
        all.extend(users::role(front, &name)?.map(|role| role.json()));
    }
    Ok(told(StatusCode::OK, list("roles", &all)))
}

async fn one_user(front: &Arc<Front>, method: &Method, name: &str, body: &[u8]) -> Answer {
    let missing = || Refusal::new(404, format!("User {name} does not exist."));
    match *method {
        Method::GET => {
            let user = users::user(front, name)?.ok_or_else(missing)?;
            let mut roles = Vec::new();
            for role in user.roles.iter() {
                let known = users::role(front, role)?;
                roles.push(known.ok_or_else(|| Refusal::new(404, format!("Role {role} does not exist.")))?);
            }
            Ok(told(StatusCode::OK, user_with_roles(&user, roles.into_iter())))
        }
        Method::DELETE if name == ROOT && users::is_enabled(front) => {
            Err(Refusal::new(403, "Cannot delete root user while auth is enabled.").into())
        }
        Method::DELETE => {
            let missing = Refusal::new(404, format!("User {name} does not exist"));
            delete(front, &format!("/users/{name}"), missing).await
        }
        _ => {
            let wish = User::parse(body)
                .ok_or(Refused::Request(StatusCode::BAD_REQUEST, "Invalid JSON in request body."))?;
            if wish.user != name {
                let text = "User JSON name does not match the name in the URL";
                return Err(Refused::Request(StatusCode::BAD_REQUEST, text));
            }
            put_user(front, wish).await
        }
    }
}

async fn put_user(front: &Arc<Front>, wish: User) -> Answer {
    let changes = !wish.grant.is_empty() || !wish.revoke.is_empty();
    if changes && !wish.roles.is_empty() {
        let text = "User JSON contains both roles and grant/revoke";
        return Err(Refused::Request(StatusCode::BAD_REQUEST, text));
    }
    newest(front).await?;
    let known = users::user(front, &wish.user)?;
    let below = format!("/users/{}", wish.user);
    match known {
        // Who gives roles means to make a user.
        Some(old) if wish.roles.is_empty() => {
            let index = modified_index(front, &below);
            let changed = old.changed(&wish, hash(front, &wish.password).await?)?;
            set(front, Kind::CompareAndSwap, &below, changed.json(true), index).await?;
            Ok(told(StatusCode::OK, changed.json(false)))
        }
        None if changes => Err(Refusal::new(404, format!("User {} does not exist.", wish.user)).into()),
        _ => {
            let Some(password) = hash(front, &wish.password).await? else {
                let text = format!("Cannot create user {} with an empty password", wish.user);
                return Err(Refusal::new(400, text).into());
            };
            // Source: etcd says 201 only where it could not know beforehand.
            let status = if wish.roles.is_empty() { StatusCode::CREATED } else { StatusCode::OK };
            let user = User { password, ..wish }.with_own_role();
            create(front, &below, user.json(true)).await.map_err(|error| match error {
                Refused::Store(error) if error.code == V2Code::NodeExist => {
                    Refusal::new(409, format!("User {} already exists.", user.user)).into()
                }
                other => other,
            })?;
            Ok(told(status, user.json(false)))
        }
    }
}

/// The hash of a new password; none when none is given.
async fn hash(front: &Front, password: &str) -> Result<Option<String>, Refused> {
    if password.is_empty() {
        return Ok(None);
    }
    match front.auth.hash(password).await.map_err(internal)? {
        Ok(hash) => Ok(Some(hash)),
        Err(too_long) => Err(Refusal::new(400, too_long).into()),
    }
}

async fn one_role(front: &Arc<Front>, method: &Method, name: &str, body: &[u8]) -> Answer {
    let of_root = || Refusal::new(403, format!("Cannot modify role {name}: is root role."));
    let below = format!("/roles/{name}");
    match *method {
        Method::GET => {
            let missing = || Refusal::new(404, format!("Role {name} does not exist."));
            Ok(told(StatusCode::OK, users::role(front, name)?.ok_or_else(missing)?.json()))
        }
        Method::DELETE if name == ROOT => Err(of_root().into()),
        Method::DELETE => {
            let missing = Refusal::new(404, format!("Role {name} doesn't exist."));
            delete(front, &below, missing).await
        }
        _ => {
            let bad = |text| Refused::Request(StatusCode::BAD_REQUEST, text);
            let wish = Role::parse(body).ok_or_else(|| bad("Invalid JSON in request body."))?;
            if wish.role != name {
                return Err(bad("Role JSON name does not match the name in the URL"));
            }
            let changes = !wish.grant.is_empty() || !wish.revoke.is_empty();
            if changes && !wish.permissions.is_empty() {
                return Err(bad("Role JSON contains both permissions and grant/revoke"));
            }
            if name == ROOT {
                return Err(of_root().into());
            }
            put_role(front, &below, wish, changes).await
        }
    }
}

async fn put_role(front: &Arc<Front>, below: &str, wish: Role, changes: bool) -> Answer {
    let name = wish.role.clone();
    if !changes {
        let role = Role { role: wish.role, permissions: wish.permissions, ..Role::default() };
        create(front, below, role.json()).await.map_err(|error| match error {
            Refused::Store(error) if error.code == V2Code::NodeExist => {
                Refusal::new(409, format!("Role {name} already exists.")).into()
            }
            other => other,
        })?;
        return Ok(told(StatusCode::CREATED, role.json()));
    }
    newest(front).await?;
    let index = modified_index(front, below);
    let missing = || Refusal::new(404, format!("Role {name} does not exist."));
    let changed = users::role(front, &name)?.ok_or_else(missing)?.changed(&wish)?;
    set(front, Kind::CompareAndSwap, below, changed.json(), index).await?;
    Ok(told(StatusCode::OK, changed.json()))
}

/// Everything that was acknowledged before is in what is read next.
async fn newest(front: &Front) -> Result<(), Refused> {
    Ok(front.node.linearizable().await.map_err(internal)?)
}

/// Makes the directories and the switch, if they are not there.
///
/// Source: etcd's `ensureAuthDirectories`: the same nodes in the same order.
async fn prepare(front: &Arc<Front>) -> Result<(), Refused> {
    if users::stored(front, "/enabled").is_ok() {
        return Ok(());
    }
    for (below, dir) in [("", true), ("/users", true), ("/roles", true), ("/enabled", false)] {
        let value = if dir { Vec::new() } else { b"false".to_vec() };
        let write = V2Write { dir, ..write(Kind::Create, below, value) };
        match keys::propose(front, write).await {
            Err(error) if error.code != V2Code::NodeExist => return Err(error.into()),
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}

fn write(kind: Kind, below: &str, value: Vec<u8>) -> V2Write {
    let path = [path::AUTH, below.as_bytes()].concat().into();
    V2Write { kind: kind as i32, path, value: value.into(), now_ns: now_ns(), ..V2Write::default() }
}

async fn create(front: &Arc<Front>, below: &str, value: Vec<u8>) -> Result<(), Refused> {
    set(front, Kind::Create, below, value, 0).await
}

/// `prev_index` guards a change against another one at the same time.
async fn set(
    front: &Arc<Front>,
    kind: Kind,
    below: &str,
    value: Vec<u8>,
    prev_index: u64,
) -> Result<(), Refused> {
    prepare(front).await?;
    keys::propose(front, V2Write { prev_index, ..write(kind, below, value) }).await?;
    Ok(())
}

async fn delete(front: &Arc<Front>, below: &str, missing: Refusal) -> Answer {
    prepare(front).await?;
    match keys::propose(front, write(Kind::Delete, below, Vec::new())).await {
        Ok(_) => Ok(nothing()),
        Err(error) if error.code == V2Code::KeyNotFound => Err(missing.into()),
        Err(error) => Err(error.into()),
    }
}

fn modified_index(front: &Front, below: &str) -> u64 {
    let at = [path::AUTH, below.as_bytes()].concat();
    let read = store::get(&front.node.view().view, &at, false, 0);
    read.ok().and_then(|event| event.node).map_or(0, |node| node.modified_index)
}

fn names(front: &Front, below: &str) -> Result<Vec<String>, V2Error> {
    let at = [path::AUTH, below.as_bytes()].concat();
    match store::get(&front.node.view().view, &at, false, 0) {
        Ok(event) => {
            let nodes = event.node.map(|node| node.nodes).unwrap_or_default();
            let name = |key: &[u8]| String::from_utf8_lossy(path::name(key)).into_owned();
            Ok(nodes.iter().map(|node| name(&node.key)).collect())
        }
        Err(error) if error.code == V2Code::KeyNotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn user_with_roles(user: &User, roles: impl Iterator<Item = Role>) -> Vec<u8> {
    let bare = User { user: user.user.clone(), ..User::default() }.json(false);
    let mut out = bare.strip_suffix(b",\"roles\":null}").unwrap_or(&bare).to_vec();
    let roles: Vec<Vec<u8>> = roles.map(|role| role.json()).collect();
    if !roles.is_empty() {
        out.extend_from_slice(b",\"roles\":[");
        out.extend_from_slice(&roles.join(&b','));
        out.push(b']');
    }
    out.push(b'}');
    out
}

/// A list of objects; none at all is `null`, as Go writes it.
fn list(name: &str, items: &[Vec<u8>]) -> Vec<u8> {
    match items {
        [] => format!("{{\"{name}\":null}}").into_bytes(),
        items => [format!("{{\"{name}\":[").as_bytes(), &items.join(&b','), b"]}"].concat(),
    }
}

fn told(status: StatusCode, mut body: Vec<u8>) -> Response<Body> {
    body.push(b'\n');
    reply::json(status, body)
}

/// Done, and nothing to say; with the type that etcd gives it.
fn nothing() -> Response<Body> {
    reply::json(StatusCode::OK, Vec::new())
}
