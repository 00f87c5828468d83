//! Simple tokens: random words that every member learns from the log.
//!
//! The log holds their digests only: who reads a disk can use none of them.
//! They live in memory, so a member that starts anew knows none; clients then
//! log in again, as with etcd. Each member counts by its own clock from its
//! own last use.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use proa_etcd_api::command::Requester;
use sha2::{Digest as _, Sha256};

use crate::node::TokenGranted;

/// Tokens that are remembered, some 150 bytes each. When there are more, those
/// that would end first go: somebody logs in anew for every request.
const MAX_TOKENS: usize = 65_536;
/// How many go at a time, so that finding them is rare.
const EVICTED: usize = MAX_TOKENS / 16;
/// Random bytes of a token: far beyond guessing.
const RANDOM_BYTES: usize = 24;

struct Known {
    owner: Requester,
    ends: Instant,
}

/// The tokens that this member knows, by digest.
pub(super) struct Tokens {
    ttl: Duration,
    known: Mutex<HashMap<Bytes, Known>>,
}

impl Tokens {
    pub fn new(ttl: Duration) -> Self {
        Self { ttl, known: Mutex::default() }
    }

    /// Remembers a token.
    pub fn add(&self, granted: TokenGranted) {
        let now = Instant::now();
        let TokenGranted { user, digest, revision } = granted;
        let owner = Requester { user, auth_revision: revision, is_member: false };
        let mut known = self.known();
        if known.len() >= MAX_TOKENS {
            make_room(&mut known, now);
        }
        known.insert(digest, Known { owner, ends: now + self.ttl });
    }

    /// Who was given this token, and at which auth revision; it then has its
    /// whole time again.
    pub fn owner(&self, token: &str) -> Option<Requester> {
        let now = Instant::now();
        let digest = digest(token);
        let mut known = self.known();
        let found = known.get_mut(&digest)?;
        if found.ends <= now {
            known.remove(&digest);
            return None;
        }
        found.ends = now + self.ttl;
        Some(found.owner.clone())
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Bytes, Known>> {
        // Each change is one call of the map.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn make_room(known: &mut HashMap<Bytes, Known>, now: Instant) {
    known.retain(|_, token| token.ends > now);
    if known.len() < MAX_TOKENS {
        return;
    }
    let mut ends: Vec<Instant> = known.values().map(|token| token.ends).collect();
    let (_, last, _) = ends.select_nth_unstable(EVICTED);
    let last = *last;
    known.retain(|_, token| token.ends > last);
}

/// A new token and its digest.
pub(super) fn make() -> (String, Bytes) {
    let mut random = [0; RANDOM_BYTES];
    fill(&mut random);
    let token: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let digest = digest(&token);
    (token, digest)
}

fn digest(token: &str) -> Bytes {
    Bytes::copy_from_slice(&Sha256::digest(token.as_bytes()))
}

/// Random bytes from the kernel. A machine that has none cannot keep a secret.
fn fill(bytes: &mut [u8]) {
    // SAFETY: the buffer is as long as is said.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    assert_eq!(usize::try_from(got), Ok(bytes.len()), "the kernel gives random bytes");
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    fn granted(user: &str, digest: Bytes) -> TokenGranted {
        TokenGranted { user: user.to_owned(), digest, revision: 7 }
    }

    #[test]
    fn a_token_names_its_owner_and_no_other_does() {
        let tokens = Tokens::new(Duration::from_secs(300));
        let (token, digest) = make();
        tokens.add(granted("alice", digest.clone()));
        let owner = tokens.owner(&token).unwrap();
        assert_eq!((owner.user.as_str(), owner.auth_revision, owner.is_member), ("alice", 7, false));
        assert_eq!(tokens.owner(&make().0), None);
        let printed: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(tokens.owner(&printed), None, "what is in the log is no token");
    }

    #[test]
    fn a_token_whose_time_is_over_is_unknown() {
        let tokens = Tokens::new(Duration::ZERO);
        let (token, digest) = make();
        tokens.add(granted("alice", digest));
        assert_eq!(tokens.owner(&token), None);
        assert!(tokens.known().is_empty(), "and forgotten");
    }

    #[test]
    fn memory_is_bounded_and_the_newest_stay() {
        let tokens = Tokens::new(Duration::from_secs(300));
        for number in 0..MAX_TOKENS + 10 {
            tokens.add(granted("a", Bytes::copy_from_slice(&number.to_be_bytes())));
        }
        let (token, digest) = make();
        tokens.add(granted("last", digest));
        assert!(tokens.known().len() <= MAX_TOKENS);
        assert_eq!(tokens.owner(&token).unwrap().user, "last");
    }
}
