//! Who asks, and whether they may: users and roles of the v2 API.
//!
//! They lie in the tree below `/2`, as in etcd, and have nothing to do with
//! the users of v3. What a role may do is decided in `proa_etcd_api::v2::rights`.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, Method, Request, header};
use hyper::body::Incoming;
use proa_etcd_api::v2::rights::{Access, GUEST, ROOT, Role, User};
use proa_etcd_api::v2::{V2Code, V2Error, path};
use proa_etcd_store::v2 as store;
use sha2::{Digest as _, Sha256};

use super::{V2, now_ns};
use crate::grpc::Front;

/// Proven passwords that are remembered: bcrypt takes some 60 ms, and every
/// request of v2 brings the password again.
const MAX_PROVEN: usize = 1024;

/// Passwords that were right a moment ago, as hashes of themselves and of the
/// stored hash: a changed password is another entry.
#[derive(Default)]
pub struct Proven(Mutex<VecDeque<[u8; 32]>>);

impl Proven {
    fn knows(&self, proof: &[u8; 32]) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(proof)
    }

    fn add(&self, proof: [u8; 32]) {
        let mut proven = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        proven.push_back(proof);
        if proven.len() > MAX_PROVEN {
            proven.pop_front();
        }
    }
}

/// A value below `/2` of the state that this member has.
pub fn stored(front: &Front, below: &str) -> Result<Vec<u8>, V2Error> {
    let at = [path::AUTH, below.as_bytes()].concat();
    let event = store::get(&front.node.view().view, &at, false, now_ns())?;
    Ok(event.node.and_then(|node| node.value).unwrap_or_default().to_vec())
}

/// Whether users are asked who they are.
pub fn is_enabled(front: &Front) -> bool {
    stored(front, "/enabled").is_ok_and(|value| value == b"true")
}

/// The user of a name; `None` if there is none.
///
/// # Errors
/// When what is stored is no user.
pub fn user(front: &Front, name: &str) -> Result<Option<User>, V2Error> {
    read(front, &format!("/users/{name}"), |value| User::parse(value).map(User::with_own_role))
}

/// The role of a name; `None` if there is none.
///
/// # Errors
/// When what is stored is no role.
pub fn role(front: &Front, name: &str) -> Result<Option<Role>, V2Error> {
    if name == ROOT {
        return Ok(Some(Role::root()));
    }
    read(front, &format!("/roles/{name}"), Role::parse)
}

fn read<T>(front: &Front, below: &str, parse: impl Fn(&[u8]) -> Option<T>) -> Result<Option<T>, V2Error> {
    match stored(front, below) {
        Ok(value) => parse(&value).map(Some).ok_or_else(|| {
            V2Error::of_request(V2Code::RaftInternal, format!("what is stored at {below} cannot be read"))
        }),
        Err(error) if error.code == V2Code::KeyNotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether a request may do what only root may.
///
/// While v2 has no users of its own but v3 has, nobody can prove by v2 to be
/// root: the back door stays shut.
pub async fn is_root(front: &Front, v2: &V2, request: &Request<Incoming>) -> bool {
    if !is_enabled(front) {
        return !front.node.is_auth_enabled();
    }
    match proven_user(front, v2, request.headers()).await {
        Some(user) => user.roles.iter().any(|role| role == ROOT),
        None => false,
    }
}

/// Whether a request may work on a key, given without `/1`.
pub async fn may(front: &Front, v2: &V2, head: &http::request::Parts, key: &[u8], recursive: bool) -> bool {
    if !is_enabled(front) {
        return true;
    }
    let access = match head.method {
        Method::GET | Method::HEAD => Access::Read,
        _ => Access::Write,
    };
    let allows = |name: &str, recursive| {
        role(front, name).ok().flatten().is_some_and(|role| role.may(key, access, recursive))
    };
    if !head.headers.contains_key(header::AUTHORIZATION) {
        // Source: etcd asks of a guest only the right to the key itself.
        return allows(GUEST, false);
    }
    match proven_user(front, v2, &head.headers).await {
        Some(user) => user.roles.iter().any(|name| allows(name, recursive)),
        None => false,
    }
}

/// The user who has proven to be one.
async fn proven_user(front: &Front, v2: &V2, headers: &HeaderMap) -> Option<User> {
    let (name, password) = credentials(headers)?;
    let user = user(front, &name).ok().flatten();
    let hash = user.as_ref().map(|user| user.password.clone());
    let proof = hash.as_ref().map(|hash| proof(hash, &password));
    if proof.is_some_and(|proof| v2.proven.knows(&proof)) {
        return user;
    }
    let is_right = front.auth.is_right(&password, hash).await.unwrap_or(false);
    if !is_right {
        return None;
    }
    proof.into_iter().for_each(|proof| v2.proven.add(proof));
    user
}

fn proof(hash: &str, password: &str) -> [u8; 32] {
    let mut digest = Sha256::new();
    digest.update((hash.len() as u64).to_be_bytes());
    digest.update(hash);
    digest.update(password);
    digest.finalize().into()
}

/// Name and password of `Authorization: Basic`.
fn credentials(headers: &HeaderMap) -> Option<(String, String)> {
    let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = text.split_once(' ')?;
    let decoded = STANDARD.decode(encoded).ok().filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
    let (name, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    #[rustfmt::skip]
    fn credentials_are_read_as_go_does() {
        let pair = |name: &str, password: &str| Some((name.to_owned(), password.to_owned()));
        let rows = [
            ("Basic Ym9iOnB3",      pair("bob", "pw")),
            ("basic Ym9iOnB3",      pair("bob", "pw")),
            ("Basic Ym9iOnA6dw==",  pair("bob", "p:w")),
            ("Basic Ym9i",          None),
            ("Basic ?",             None),
            ("Bearer Ym9iOnB3",     None),
            ("Basic",               None),
        ];
        for (text, want) in rows {
            let headers = [(header::AUTHORIZATION, text.parse().unwrap())].into_iter().collect();
            assert_eq!(credentials(&headers), want, "{text}");
        }
    }

    #[test]
    fn proven_passwords_are_few_and_tied_to_their_hash() {
        let proven = Proven::default();
        (0..=MAX_PROVEN).for_each(|number| proven.add(proof("hash", &number.to_string())));
        assert!(proven.knows(&proof("hash", "1")) && !proven.knows(&proof("hash", "0")));
        assert!(!proven.knows(&proof("other", "1")) && !proven.knows(&proof("has", "h1")));
    }
}
