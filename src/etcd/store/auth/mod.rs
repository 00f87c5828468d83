//! Users, roles and what they may do with which keys.
//!
//! The state changes only by commands from the log (`change`), and is asked
//! by one function, [`authorise`], which every way into the store has to pass:
//! when a request comes in and, for what goes through the log, again when it
//! is applied. What a request needs is said by [`needs`], as a flat list.
//!
//! Under the tag `A`: `A/head`, `A/user/NAME`, `A/role/NAME`.

mod authorise;
mod change;
pub mod needs;
mod ranges;

pub use authorise::authorise;
pub use needs::Need;

use std::collections::BTreeMap;

use proa_etcd_api::authpb::permission::Type;
use proa_etcd_api::authpb::{Permission, Role};
use proa_etcd_api::command::{AuthHead, AuthUser};
use prost::Message;

use crate::keys;
use crate::machine::Corrupt;
use crate::view::{View, Writes};
use ranges::{KeyRange, Ranges};

/// The user that must exist, and the role that may do everything.
///
/// Source: etcd's `rootUser` and `rootRole`.
pub const ROOT: &str = "root";

/// Who may do what. Small: some hundred bytes a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthState {
    head: AuthHead,
    users: BTreeMap<String, User>,
    roles: BTreeMap<String, Vec<Permission>>,
}

/// A user as stored, and what the roles come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct User {
    stored: AuthUser,
    is_root: bool,
    reads: Ranges,
    writes: Ranges,
}

/// What a login is checked against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// The bcrypt hash of the password; `None` when no password is right.
    pub password_hash: Option<String>,
    /// The auth revision of this answer.
    pub revision: u64,
}

impl Default for AuthState {
    /// Authentication is off; the revision is 1, as in a new etcd.
    fn default() -> Self {
        let head = AuthHead { enabled: false, revision: 1, disabled_revision: 0 };
        Self { head, users: BTreeMap::new(), roles: BTreeMap::new() }
    }
}

impl AuthState {
    pub(crate) fn load(view: &dyn View) -> Result<Self, Corrupt> {
        let mut state = Self::default();
        if let Some(stored) = view.get(keys::AUTH_HEAD) {
            let corrupt = |_| Corrupt { what: "auth head", key: keys::AUTH_HEAD.to_vec() };
            state.head = AuthHead::decode(stored.as_slice()).map_err(corrupt)?;
        }
        for (key, stored) in view.scan(keys::AUTH_ROLE, &keys::after_slash(keys::AUTH_ROLE)) {
            let name = name_of(&key, keys::AUTH_ROLE);
            match (name, Role::decode(stored.as_slice())) {
                (Some(name), Ok(role)) => drop(state.roles.insert(name, role.key_permission)),
                (None, _) | (_, Err(_)) => return Err(Corrupt { what: "role", key }),
            }
        }
        for (key, stored) in view.scan(keys::AUTH_USER, &keys::after_slash(keys::AUTH_USER)) {
            let name = name_of(&key, keys::AUTH_USER);
            match (name, AuthUser::decode(stored.as_slice())) {
                (Some(name), Ok(user)) => drop(state.users.insert(name, state.with_rights(user))),
                (None, _) | (_, Err(_)) => return Err(Corrupt { what: "user", key }),
            }
        }
        Ok(state)
    }

    /// Whether requests need a user at all.
    pub fn is_enabled(&self) -> bool {
        self.head.enabled
    }

    /// How often users, roles and permissions have changed, from 1.
    pub fn revision(&self) -> u64 {
        self.head.revision
    }

    /// What the password of `user` is checked against; `None` if there is no
    /// such user.
    pub fn secret(&self, user: &str) -> Option<Secret> {
        let user = &self.users.get(user)?.stored;
        let password_hash = match user.password_hash.as_str() {
            "" => None,
            _ if user.no_password => None,
            hash => Some(hash.to_owned()),
        };
        Some(Secret { password_hash, revision: self.head.revision })
    }

    /// Whether what was proven at auth revision `since` still proves that
    /// somebody is `user`: not after the password was changed, the user
    /// deleted or authentication turned off meanwhile.
    pub fn accepts(&self, user: &str, since: u64) -> bool {
        let is_known = |user: &User| user.stored.secret_revision <= since;
        self.head.enabled
            && self.head.disabled_revision <= since
            && self.users.get(user).is_some_and(is_known)
    }

    /// The roles of a user, ascending.
    pub fn roles_of(&self, user: &str) -> Option<&[String]> {
        self.users.get(user).map(|user| user.stored.roles.as_slice())
    }

    /// All users, ascending.
    pub fn users(&self) -> impl Iterator<Item = &str> {
        self.users.keys().map(String::as_str)
    }

    /// All roles, ascending.
    pub fn roles(&self) -> impl Iterator<Item = &str> {
        self.roles.keys().map(String::as_str)
    }

    /// What a role allows. For the role root that is everything, whatever was
    /// granted to it.
    pub fn permissions(&self, role: &str) -> Option<Vec<Permission>> {
        let granted = self.roles.get(role)?;
        // Source: etcd's `rootPerm`, its empty key included.
        let all = || Permission { perm_type: Type::Readwrite as i32, key: "".into(), range_end: "\0".into() };
        Some(if role == ROOT { vec![all()] } else { granted.clone() })
    }

    fn with_rights(&self, stored: AuthUser) -> User {
        let granted = || stored.roles.iter().filter_map(|role| self.roles.get(role)).flatten();
        let with = |kind: Type| {
            let allows = move |permission: &&Permission| {
                permission.perm_type == kind as i32 || permission.perm_type == Type::Readwrite as i32
            };
            let allowed = granted().filter(allows);
            Ranges::merged(allowed.map(|permission| KeyRange::new(&permission.key, &permission.range_end)))
        };
        let (reads, writes) = (with(Type::Read), with(Type::Write));
        let is_root = stored.roles.iter().any(|role| role == ROOT);
        User { stored, is_root, reads, writes }
    }

    fn set_head(&mut self, writes: &mut Writes, head: AuthHead) {
        self.head = head;
        writes.put(keys::AUTH_HEAD.to_vec(), head.encode_to_vec());
    }

    fn bump(&mut self, writes: &mut Writes) {
        self.set_head(writes, AuthHead { revision: self.head.revision + 1, ..self.head });
    }
}

fn name_of(key: &[u8], tag: &[u8]) -> Option<String> {
    String::from_utf8(key.strip_prefix(tag)?.to_vec()).ok()
}
