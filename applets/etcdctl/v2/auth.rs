//! `user`, `role`, `auth`.

use std::io::BufRead as _;

use hyper::Method;
use hyper::body::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::args::{Flag, switch, value};
use super::super::emit;
use super::super::http::escape;
use super::remote::Refusal;
use super::{Context, End};

pub const ROLES: &[Flag] = &[value("roles", "names, parted by commas")];
pub const PERMISSION: &[Flag] = &[
    value("path", "a key, or a prefix that ends with *"),
    switch("read", "to read it"),
    switch("write", "to write it"),
    switch("readwrite", "both (--rw)"),
];

/// One user. Source: etcd v2 API, "Auth and security API".
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct User {
    user: String,
    roles: Option<Vec<Named>>,
}

/// One role.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Role {
    role: String,
    permissions: Permissions,
}

#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Permissions {
    kv: Paths,
}

#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Paths {
    read: Option<Vec<String>>,
    write: Option<Vec<String>>,
}

/// Users and roles are named, or given whole, depending on the question.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Named {
    Name(String),
    User { user: String },
    Role { role: String },
}

impl Named {
    fn name(&self) -> &str {
        match self {
            Self::Name(name) | Self::User { user: name } | Self::Role { role: name } => name,
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Users {
    users: Option<Vec<Named>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RoleList {
    roles: Option<Vec<Named>>,
}

async fn ask(context: &Context, method: Method, path: &str, body: Option<Value>) -> Result<Bytes, Refusal> {
    let body = body.map(|body| ("application/json", body.to_string()));
    context.remote.ask(method, &format!("/v2/auth/{path}"), body).await.map(|answer| answer.body)
}

fn plain(refusal: Refusal) -> End {
    refusal.plain_end()
}

fn parse<'a, T: Deserialize<'a>>(body: &'a Bytes) -> Result<T, End> {
    serde_json::from_slice(body)
        .map_err(|error| End::plain(format!("the answer cannot be understood: {error}")))
}

fn only<'a>(context: &'a Context, what: &str) -> Result<&'a str, End> {
    match context.args.rest.as_slice() {
        [name] => Ok(name),
        _ => Err(End::plain(format!("Please provide a {what}"))),
    }
}

fn print_names(named: Option<Vec<Named>>) {
    named.iter().flatten().for_each(|named| emit(&format!("{}\n", named.name())));
}

pub async fn user_list(context: &Context) -> Result<(), End> {
    context.no_arguments()?;
    let body = ask(context, Method::GET, "users", None).await.map_err(plain)?;
    print_names(parse::<Users>(&body)?.users);
    Ok(())
}

fn user_path(name: &str) -> String {
    format!("users/{}", escape(name))
}

async fn user(context: &Context, name: &str) -> Result<User, End> {
    parse(&ask(context, Method::GET, &user_path(name), None).await.map_err(plain)?)
}

pub async fn user_add(context: &Context) -> Result<(), End> {
    let given = only(context, "username")?;
    let (name, password) = match given.split_once(':') {
        Some((name, password)) => (name, password.to_owned()),
        None => (given, password_line()?),
    };
    let body = json!({ "user": name, "password": password });
    ask(context, Method::PUT, &user_path(name), Some(body)).await.map_err(plain)?;
    emit(&format!("User {name} created\n"));
    Ok(())
}

/// A password from standard input.
fn password_line() -> Result<String, End> {
    eprint!("New password: ");
    let mut line = String::new();
    match std::io::stdin().lock().read_line(&mut line) {
        Ok(count) if count > 0 => Ok(line.trim_end_matches(['\r', '\n']).to_owned()),
        Ok(_) => Err(End::plain("Error reading password: standard input has ended")),
        Err(error) => Err(End::plain(format!("Error reading password: {error}"))),
    }
}

pub async fn user_get(context: &Context) -> Result<(), End> {
    let user = user(context, only(context, "username")?).await?;
    let roles: Vec<&str> = user.roles.iter().flatten().map(Named::name).collect();
    // Two spaces before the first role, and one when there is none: etcdctl's.
    let roles = if roles.is_empty() { String::new() } else { format!(" {}", roles.join(" ")) };
    emit(&format!("User: {}\nRoles: {roles}\n", user.user));
    Ok(())
}

pub async fn user_remove(context: &Context) -> Result<(), End> {
    let name = only(context, "username")?;
    ask(context, Method::DELETE, &user_path(name), None).await.map_err(plain)?;
    emit(&format!("User {name} removed\n"));
    Ok(())
}

pub async fn user_passwd(context: &Context) -> Result<(), End> {
    let name = only(context, "username")?;
    user(context, name).await?;
    let body = json!({ "user": name, "password": password_line()? });
    ask(context, Method::PUT, &user_path(name), Some(body)).await.map_err(plain)?;
    emit("Password updated\n");
    Ok(())
}

pub async fn user_grant(context: &Context) -> Result<(), End> {
    change_roles(context, "grant").await
}

pub async fn user_revoke(context: &Context) -> Result<(), End> {
    change_roles(context, "revoke").await
}

async fn change_roles(context: &Context, how: &str) -> Result<(), End> {
    let Some(roles) = context.args.get("roles").filter(|roles| !roles.is_empty()) else {
        return Err(End::plain("No roles specified; please use `--roles`"));
    };
    let name = only(context, "username")?;
    user(context, name).await?;
    let roles: Vec<&str> = roles.split(',').collect();
    let body = json!({ "user": name, how: roles });
    ask(context, Method::PUT, &user_path(name), Some(body)).await.map_err(plain)?;
    emit(&format!("User {name} updated\n"));
    Ok(())
}

fn role_path(name: &str) -> String {
    format!("roles/{}", escape(name))
}

async fn role(context: &Context, name: &str) -> Result<Role, Refusal> {
    let body = ask(context, Method::GET, &role_path(name), None).await?;
    Ok(serde_json::from_slice(&body).unwrap_or_default())
}

pub async fn role_list(context: &Context) -> Result<(), End> {
    context.no_arguments()?;
    let body = ask(context, Method::GET, "roles", None).await.map_err(plain)?;
    print_names(parse::<RoleList>(&body)?.roles);
    Ok(())
}

pub async fn role_add(context: &Context) -> Result<(), End> {
    let name = only(context, "role name")?;
    if role(context, name).await.is_ok() {
        return Err(End::plain(format!("Role {name} already exists")));
    }
    let body = json!({ "role": name, "permissions": { "kv": { "read": [], "write": [] } } });
    ask(context, Method::PUT, &role_path(name), Some(body)).await.map_err(plain)?;
    emit(&format!("Role {name} created\n"));
    Ok(())
}

pub async fn role_get(context: &Context) -> Result<(), End> {
    let role = role(context, only(context, "role name")?).await.map_err(plain)?;
    let lines = |paths: &Option<Vec<String>>| -> String {
        paths.iter().flatten().map(|path| format!("\t{path}\n")).collect()
    };
    let (read, write) = (lines(&role.permissions.kv.read), lines(&role.permissions.kv.write));
    emit(&format!("Role: {}\nKV Read:\n{read}KV Write:\n{write}", role.role));
    Ok(())
}

pub async fn role_remove(context: &Context) -> Result<(), End> {
    let name = only(context, "role name")?;
    ask(context, Method::DELETE, &role_path(name), None).await.map_err(plain)?;
    emit(&format!("Role {name} removed\n"));
    Ok(())
}

pub async fn role_grant(context: &Context) -> Result<(), End> {
    change_permission(context, "grant").await
}

pub async fn role_revoke(context: &Context) -> Result<(), End> {
    change_permission(context, "revoke").await
}

async fn change_permission(context: &Context, how: &str) -> Result<(), End> {
    let path = context.args.get("path").unwrap_or_default();
    if path.is_empty() {
        return Err(End::plain("No path specified; please use `--path`"));
    }
    let canonical = canonical(path);
    if canonical != path {
        return Err(End::plain(format!("Not canonical path; please use `--path={canonical}`")));
    }
    let on = |name| context.args.is_on(name);
    let (read, write) = match (on("read"), on("write"), on("readwrite")) {
        (true, false, false) => (vec![path], vec![]),
        (false, true, false) => (vec![], vec![path]),
        (false, false, true) => (vec![path], vec![path]),
        _ => return Err(End::plain("Please specify exactly one of --read, --write or --readwrite")),
    };
    let name = only(context, "role name")?;
    let former = role(context, name).await.map_err(plain)?;
    let body = json!({ "role": name, how: { "kv": { "read": read, "write": write } } });
    let answer = ask(context, Method::PUT, &role_path(name), Some(body)).await.map_err(plain)?;
    if parse::<Role>(&answer)? == former {
        emit(&format!("Role unchanged; already {how}{}\n", if how == "grant" { "ed" } else { "d" }));
    }
    emit(&format!("Role {name} updated\n"));
    Ok(())
}

/// A path with one slash before each part, as etcd's `CanonicalURLPath` makes it.
fn canonical(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let end = if path.ends_with('/') && !parts.is_empty() { "/" } else { "" };
    format!("/{}{end}", parts.join("/"))
}

pub async fn enable(context: &Context) -> Result<(), End> {
    context.no_arguments()?;
    ask(context, Method::PUT, "enable", None).await.map_err(plain)?;
    emit("Authentication Enabled\n");
    Ok(())
}

pub async fn disable(context: &Context) -> Result<(), End> {
    context.no_arguments()?;
    ask(context, Method::DELETE, "enable", None).await.map_err(plain)?;
    emit("Authentication Disabled\n");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_canonical_as_etcd_wants_them() {
        for (path, want) in
            [("x", "/x"), ("/x/*", "/x/*"), ("//x", "/x"), ("/x/", "/x/"), ("/a/../b/.", "/b"), ("/", "/")]
        {
            assert_eq!(canonical(path), want, "{path}");
        }
    }
}
