//! What goes to other members and comes from them.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Counts by member id. A lock is taken once for many messages: they travel in
/// chunks.
#[derive(Debug)]
pub struct Peers(Mutex<BTreeMap<u64, Counts>>);

/// Of one member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bytes sent to it.
    pub sent_bytes: u64,
    /// Bytes received from it.
    pub received_bytes: u64,
    /// Chunks that did not get through.
    pub failures: u64,
    /// Whether there is a connection to it.
    pub is_connected: bool,
    /// How often that was lost.
    pub disconnections: u64,
}

impl Peers {
    /// Nobody was talked to yet.
    pub const fn empty() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// Notes something about a member.
    pub fn note(&self, member: u64, what: impl FnOnce(&mut Counts)) {
        what(self.all().entry(member).or_default());
    }

    /// The connection is there.
    pub fn connected(&self, member: u64) {
        self.note(member, |counts| counts.is_connected = true);
    }

    /// The connection has ended, in the middle of a chunk or not.
    pub fn disconnected(&self, member: u64) {
        self.note(member, |counts| {
            counts.is_connected = false;
            counts.disconnections += 1;
        });
    }

    /// By member id.
    pub fn counts(&self) -> Vec<(u64, Counts)> {
        self.all().iter().map(|(member, counts)| (*member, *counts)).collect()
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<u64, Counts>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
