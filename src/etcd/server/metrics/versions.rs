//! Requests by the version that their client says it has.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use http::HeaderMap;

/// Source: etcd's `rpctypes.MetadataClientAPIVersionKey`.
const HEADER: &str = "client-api-version";
/// Source: etcd's `unaryInterceptor`, for a client that does not say.
const UNKNOWN: &str = "unknown";
/// Versions that are told apart: a client may say anything, and each would stay
/// on the page for ever.
const MOST: usize = 64;

/// Counts by version: unary calls and streams.
#[derive(Debug)]
pub struct Versions(Mutex<BTreeMap<String, [u64; 2]>>);

impl Versions {
    /// Nobody asked yet.
    pub const fn empty() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// One more request.
    pub fn count(&self, headers: &HeaderMap, is_stream: bool) {
        let said = headers.get(HEADER).and_then(|version| version.to_str().ok()).unwrap_or(UNKNOWN);
        let mut all = self.all();
        let version = if all.contains_key(said) || all.len() < MOST { said } else { UNKNOWN };
        if let Some(counts) = all.get_mut(version) {
            counts[usize::from(is_stream)] += 1;
            return;
        }
        let mut counts = [0; 2];
        counts[usize::from(is_stream)] = 1;
        all.insert(version.to_owned(), counts);
    }

    /// By version: unary calls and streams.
    pub fn counts(&self) -> Vec<(String, [u64; 2])> {
        self.all().iter().map(|(version, counts)| (version.clone(), *counts)).collect()
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, [u64; 2]>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn only_so_many_versions_are_told_apart() {
        let versions = Versions::empty();
        let says =
            |version: &str| HeaderMap::from_iter([(HEADER.parse().unwrap(), version.parse().unwrap())]);
        versions.count(&HeaderMap::new(), false);
        (0..100).for_each(|number| versions.count(&says(&format!("4.{number}")), true));
        versions.count(&says("4.1"), false);
        let counts: BTreeMap<String, [u64; 2]> = versions.counts().into_iter().collect();
        assert_eq!(counts.len(), MOST);
        assert_eq!((counts["4.1"], counts[UNKNOWN]), ([1, 1], [1, 37]));
    }
}
