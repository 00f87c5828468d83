//! Users and roles of the v2 API: who may read and write which keys.
//!
//! They lie as JSON in the tree itself, below [`super::path::AUTH`], in etcd's
//! own form.

use super::json::push_text;
use serde_json::Value;
use std::collections::BTreeSet;

/// The role that may do everything; every user of this name has it.
pub const ROOT: &str = "root";
/// The role of who does not say who they are.
pub const GUEST: &str = "guest";

/// Why a change of users or roles is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// etcd's words.
    pub text: String,
}

impl Refusal {
    /// A refusal in etcd's words.
    pub fn new(status: u16, text: impl std::fmt::Display) -> Self {
        Self { status, text: format!("auth: {text}") }
    }
}

/// A list that somebody has given, or has not: Go's JSON tells `null` from
/// `[]`, and to etcd that is a difference.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names(pub Option<Vec<String>>);

impl Names {
    /// These names.
    pub fn of(names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self(Some(names.into_iter().map(Into::into).collect()))
    }

    /// The names.
    pub fn iter(&self) -> impl Iterator<Item = &String> {
        self.0.iter().flatten()
    }

    /// Whether there are none, for whatever reason.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}

/// A user; in a request with what is to change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub user: String,
    /// A password in a request, its bcrypt hash in the tree.
    pub password: String,
    /// Names of roles.
    pub roles: Names,
    /// Roles to add.
    pub grant: Vec<String>,
    /// Roles to take.
    pub revoke: Vec<String>,
}

/// What somebody may read and write: keys, or prefixes with a `*` at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// Keys to read.
    pub read: Names,
    /// Keys to write.
    pub write: Names,
}

/// A role; in a request with what is to change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Role {
    /// The name.
    pub role: String,
    /// What it may do.
    pub permissions: Permissions,
    /// Permissions to add.
    pub grant: Permissions,
    /// Permissions to take.
    pub revoke: Permissions,
}

impl User {
    /// Reads one from JSON; `None` if it is not one.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let json = first_value(text)?;
        let names = |field| strings(json.get(field));
        Some(Self {
            user: string(json.get("user"))?,
            password: string(json.get("password"))?,
            roles: names("roles")?,
            grant: names("grant")?.0.unwrap_or_default(),
            revoke: names("revoke")?.0.unwrap_or_default(),
        })
    }

    /// The JSON for the tree; without the password it is the answer to clients.
    pub fn json(&self, with_password: bool) -> Vec<u8> {
        let mut out = b"{\"user\":".to_vec();
        push_text(&mut out, self.user.as_bytes());
        if with_password {
            out.extend_from_slice(b",\"password\":");
            push_text(&mut out, self.password.as_bytes());
        }
        out.extend_from_slice(b",\"roles\":");
        push_names(&mut out, &self.roles);
        out.push(b'}');
        out
    }

    /// With the role that the root user always has.
    pub fn with_own_role(mut self) -> Self {
        if self.user == ROOT && !self.roles.iter().any(|role| role == ROOT) {
            self.roles.0.get_or_insert_default().push(ROOT.to_owned());
        }
        self
    }

    /// Changed as `wish` says; `hash` is of a new password.
    ///
    /// # Errors
    /// When a role is granted twice or revoked without being there, or when
    /// nothing changes.
    pub fn changed(&self, wish: &User, hash: Option<String>) -> Result<Self, Refusal> {
        let mut roles: BTreeSet<&String> = self.roles.iter().collect();
        for role in &wish.grant {
            if !roles.insert(role) {
                let text = format!("Granting duplicate role {role} for user {}", wish.user);
                return Err(Refusal::new(409, text));
            }
        }
        for role in &wish.revoke {
            if !roles.remove(role) {
                let text = format!("Revoking ungranted role {role} for user {}", wish.user);
                return Err(Refusal::new(409, text));
            }
        }
        let changed = Self {
            user: self.user.clone(),
            password: hash.unwrap_or_else(|| self.password.clone()),
            roles: Names::of(roles),
            ..Self::default()
        };
        if changed == *self {
            let text = "User not updated. Use grant/revoke/password to update the user.";
            return Err(Refusal::new(400, text));
        }
        Ok(changed)
    }
}

impl Role {
    /// The role that may do everything.
    pub fn root() -> Self {
        let permissions = Permissions { read: Names::of(["/*"]), write: Names::of(["/*"]) };
        Self { role: ROOT.to_owned(), permissions, ..Self::default() }
    }

    /// What who does not say who they are may do when nobody has decided it.
    pub fn guest() -> Self {
        Self { role: GUEST.to_owned(), ..Self::root() }
    }

    /// Reads one from JSON; `None` if it is not one.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let json = first_value(text)?;
        let permissions = |field: &str| match json.get(field) {
            None | Some(Value::Null) => Some(Permissions::default()),
            Some(Value::Object(fields)) => match fields.get("kv") {
                None | Some(Value::Null) => Some(Permissions::default()),
                Some(Value::Object(kv)) => {
                    Some(Permissions { read: strings(kv.get("read"))?, write: strings(kv.get("write"))? })
                }
                Some(_) => None,
            },
            Some(_) => None,
        };
        Some(Self {
            role: string(json.get("role"))?,
            permissions: permissions("permissions")?,
            grant: permissions("grant")?,
            revoke: permissions("revoke")?,
        })
    }

    /// The JSON, in the tree as for clients.
    pub fn json(&self) -> Vec<u8> {
        let mut out = b"{\"role\":".to_vec();
        push_text(&mut out, self.role.as_bytes());
        out.extend_from_slice(b",\"permissions\":{\"kv\":{\"read\":");
        push_names(&mut out, &self.permissions.read);
        out.extend_from_slice(b",\"write\":");
        push_names(&mut out, &self.permissions.write);
        out.extend_from_slice(b"}}}");
        out
    }

    /// Changed as `wish` says. Revoking what was not granted is no mistake.
    ///
    /// # Errors
    /// When a permission is granted twice, or when nothing changes.
    pub fn changed(&self, wish: &Role) -> Result<Self, Refusal> {
        let one = |kind, have: &Names, grant: &Names, revoke: &Names| {
            let mut all: BTreeSet<&String> = have.iter().collect();
            for key in grant.iter() {
                if !all.insert(key) {
                    return Err(Refusal::new(409, format!("Granting duplicate {kind} permission {key}")));
                }
            }
            let is_kept = |key: &&String| !revoke.iter().any(|revoked| revoked == *key);
            Ok(Names::of(all.into_iter().filter(is_kept)))
        };
        let (have, grant, revoke) = (&self.permissions, &wish.grant, &wish.revoke);
        let read = one("read", &have.read, &grant.read, &revoke.read)?;
        let write = one("write", &have.write, &grant.write, &revoke.write)?;
        let permissions = Permissions { read, write };
        if permissions == self.permissions {
            let text = "Role not updated. Use grant/revoke to update the role.";
            return Err(Refusal::new(400, text));
        }
        Ok(Self { role: self.role.clone(), permissions, ..Self::default() })
    }

    /// Whether the role may do this with `key`, or with all below it.
    ///
    /// Source: etcd's `simpleMatch` and `prefixMatch`: what concerns a whole
    /// tree needs a permission that ends in `*`.
    pub fn may(&self, key: &[u8], access: Access, recursive: bool) -> bool {
        let keys = match access {
            Access::Read => &self.permissions.read,
            Access::Write => &self.permissions.write,
        };
        self.role == ROOT
            || keys.iter().any(|pattern| match pattern.strip_suffix('*') {
                Some(prefix) => key.starts_with(prefix.as_bytes()),
                None => !recursive && pattern.as_bytes() == key,
            })
    }
}

impl Permissions {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.read.is_empty() && self.write.is_empty()
    }
}

/// What is wanted of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Access {
    Read,
    Write,
}

/// What follows the first value is not looked at, as in Go's decoder.
fn first_value(text: &[u8]) -> Option<serde_json::Map<String, Value>> {
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<Value>();
    match values.next()?.ok()? {
        Value::Object(fields) => Some(fields),
        _ => None,
    }
}

fn string(json: Option<&Value>) -> Option<String> {
    match json {
        None | Some(Value::Null) => Some(String::new()),
        Some(Value::String(text)) => Some(text.clone()),
        Some(_) => None,
    }
}

fn strings(json: Option<&Value>) -> Option<Names> {
    match json {
        None | Some(Value::Null) => Some(Names(None)),
        Some(Value::Array(items)) => {
            items.iter().map(|item| string(Some(item))).collect::<Option<_>>().map(|names| Names(Some(names)))
        }
        Some(_) => None,
    }
}

fn push_names(out: &mut Vec<u8>, names: &Names) {
    let Some(names) = &names.0 else { return out.extend_from_slice(b"null") };
    out.push(b'[');
    for (number, name) in names.iter().enumerate() {
        out.extend_from_slice(if number == 0 { b"" } else { b"," });
        push_text(out, name.as_bytes());
    }
    out.push(b']');
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    #[rustfmt::skip]
    fn permissions_are_keys_or_prefixes() {
        let role = Role::parse(br#"{"role":"r","permissions":{"kv":{"read":["/a","/d/*",""],"write":["/d/x"]}}}"#).unwrap();
        let rows: [(&[u8], Access, bool, bool); 9] = [
            (b"/a",    Access::Read,  false, true),
            (b"/a",    Access::Read,  true,  false),
            (b"/a/b",  Access::Read,  false, false),
            (b"/d",    Access::Read,  false, false),
            (b"/d/",   Access::Read,  true,  true),
            (b"/d/x",  Access::Read,  true,  true),
            (b"/d/x",  Access::Write, false, true),
            (b"/d/x",  Access::Write, true,  false),
            (b"/e",    Access::Write, false, false),
        ];
        for (key, access, recursive, want) in rows {
            assert_eq!(role.may(key, access, recursive), want, "{} {access:?} {recursive}", key.escape_ascii());
        }
        assert!(Role::root().may(b"/x", Access::Write, true));
    }

    #[test]
    fn users_are_changed_as_in_etcd() {
        let user = User::parse(br#"{"user":"bob","password":"$2a$","roles":["a","b"]}"#).unwrap();
        let wish = |json: &str| User::parse(json.as_bytes()).unwrap();
        let changed = user.changed(&wish(r#"{"user":"bob","grant":["c"],"revoke":["a"]}"#), None).unwrap();
        assert_eq!(changed.json(true), br#"{"user":"bob","password":"$2a$","roles":["b","c"]}"#);
        assert_eq!(changed.json(false), br#"{"user":"bob","roles":["b","c"]}"#);
        let refused = |json: &str| user.changed(&wish(json), None).unwrap_err().text;
        assert_eq!(
            refused(r#"{"user":"bob","grant":["a"]}"#),
            "auth: Granting duplicate role a for user bob"
        );
        assert_eq!(
            refused(r#"{"user":"bob","revoke":["z"]}"#),
            "auth: Revoking ungranted role z for user bob"
        );
        assert!(refused(r#"{"user":"bob"}"#).starts_with("auth: User not updated."));
        let root = User { user: ROOT.to_owned(), ..User::default() };
        assert_eq!(root.with_own_role().roles, Names::of([ROOT]));
        let bare = wish(r#"{"user":"al","password":"x"}"#);
        assert_eq!(bare.json(false), br#"{"user":"al","roles":null}"#);
        assert_eq!(bare.changed(&bare, None).unwrap().json(false), br#"{"user":"al","roles":[]}"#);
    }

    #[test]
    fn what_is_no_user_or_role_is_refused() {
        for text in ["", "{", "[]", "1", r#"{"user":1}"#, r#"{"user":"a","roles":"r"}"#] {
            assert_eq!(User::parse(text.as_bytes()), None, "{text}");
        }
        for text in [r#"{"role":[]}"#, r#"{"permissions":{"kv":[]}}"#, r#"{"grant":1}"#] {
            assert_eq!(Role::parse(text.as_bytes()), None, "{text}");
        }
        assert!(User::parse(br#"{"user":"a","unknown":1} rest"#).is_some());
    }
}
