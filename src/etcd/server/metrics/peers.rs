//! What goes to other members and comes from them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Histogram;

/// Counts by member id. A lock is taken once for many messages: they travel in
/// chunks.
#[derive(Debug)]
pub struct Peers {
    counts: Mutex<BTreeMap<u64, Counts>>,
    round_trips: Mutex<BTreeMap<u64, Arc<Histogram>>>,
}

/// Of one member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bytes sent to it.
    pub sent_bytes: u64,
    /// Bytes received from it.
    pub received_bytes: u64,
    /// Chunks that did.
    pub chunks: u64,
    /// Chunks that did not get through.
    pub failures: u64,
    /// How long the connection took to take a chunk.
    pub latency: Latency,
    /// Whether there is a connection to it.
    pub is_connected: bool,
    /// How often that was lost.
    pub disconnections: u64,
}

/// Times of something, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// How many there are.
    pub count: u64,
    /// The last.
    pub last_us: u64,
    /// The shortest.
    pub least_us: u64,
    /// The longest.
    pub most_us: u64,
    sum_us: u64,
    squares: u128,
}

impl Latency {
    /// One more.
    pub fn observe(&mut self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.least_us = if self.count == 0 { us } else { self.least_us.min(us) };
        self.most_us = self.most_us.max(us);
        self.last_us = us;
        self.count += 1;
        self.sum_us = self.sum_us.saturating_add(us);
        self.squares = self.squares.saturating_add(u128::from(us).pow(2));
    }

    /// Average and standard deviation.
    pub fn spread_us(&self) -> (f64, f64) {
        let count = self.count.max(1) as f64;
        let average = self.sum_us as f64 / count;
        // Rounding can take it below nothing.
        (average, (self.squares as f64 / count - average * average).max(0.0).sqrt())
    }
}

impl Peers {
    /// Nobody was talked to yet.
    pub const fn empty() -> Self {
        Self { counts: Mutex::new(BTreeMap::new()), round_trips: Mutex::new(BTreeMap::new()) }
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

    /// How long it took to a member and back.
    pub fn round_trip(&self, member: u64, took: Duration) {
        let mut all = self.round_trips.lock().unwrap_or_else(PoisonError::into_inner);
        // Source of the bounds: etcd's `rttSec`.
        all.entry(member).or_insert_with(|| Arc::new(Histogram::from(100, 16))).observe(took);
    }

    /// By member id.
    pub fn round_trips(&self) -> Vec<(u64, Arc<Histogram>)> {
        let all = self.round_trips.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(member, times)| (*member, Arc::clone(times))).collect()
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<u64, Counts>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_an_average_and_a_spread() {
        let mut latency = Latency::default();
        assert_eq!(latency.spread_us(), (0.0, 0.0));
        [2, 4, 4, 4, 5, 5, 7, 9].iter().for_each(|us| latency.observe(Duration::from_micros(*us)));
        assert_eq!(latency.spread_us(), (5.0, 2.0));
        assert_eq!((latency.last_us, latency.least_us, latency.most_us), (9, 2, 9));
    }
}
