//! Gives back the space of what a compaction gave up, in bounded steps.
//!
//! The log of changes drives it: only keys that changed up to the compact
//! revision are looked at. What stays of a key is every version of the
//! compact revision and later, and the one that was visible just before it,
//! unless that is a deletion or the compact revision has a version itself.

use crate::keys::{self, Kind, Place};
use crate::record::Head;
use crate::view::{View, Writes};
use crate::walk;
use std::collections::BTreeSet;

/// One step of the work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scrub {
    /// What to store, this member's own; empty if there was nothing to do.
    pub writes: Writes,
    /// True if nothing is left to do once `writes` are stored.
    pub done: bool,
}

/// Where the work stands.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Progress {
    /// The compact revision that is worked towards.
    target: i64,
    /// The first change that was not looked at; beyond the target when done.
    next: Place,
}

/// Plans the next step, which looks at or deletes at most about `budget` entries.
///
/// `view` may be older than the newest state, and commands may be applied
/// between planning a step and storing it: what a compaction gave up cannot
/// come back. But steps must not overlap each other, nor the replacement of
/// the whole state by a snapshot.
///
/// # Panics
/// If the view holds an entry that this crate did not write.
pub fn scrub(view: &dyn View, head: Head, budget: usize) -> Scrub {
    let target = head.compact_revision;
    let stored = view.get(keys::SCRUB);
    let progress = stored.map(|stored| Progress::decode(&stored).expect("scrub wrote its own progress"));
    let start = match progress {
        Some(Progress { target: same, next }) if same == target => next,
        // Changes of the old target itself were looked at but kept.
        Some(Progress { target: old, next }) => Place { main: next.main.min(old), sub: 0 },
        None => Place { main: 0, sub: 0 },
    };
    let mut writes = Writes::default();
    if start.main > target {
        return Scrub { writes, done: true };
    }
    let stopped = step(view, start, target, budget, &mut writes);
    let next = stopped.unwrap_or(Place { main: target + 1, sub: 0 });
    writes.put(keys::SCRUB.to_vec(), Progress { target, next }.encode());
    Scrub { writes, done: stopped.is_none() }
}

/// Returns where it stopped, or `None` at the end.
fn step(view: &dyn View, start: Place, target: i64, budget: usize, writes: &mut Writes) -> Option<Place> {
    // One change and one old version: with less nothing would ever end.
    let mut left = budget.max(2);
    let mut handled = BTreeSet::new();
    let end = keys::change(Place { main: target + 1, sub: 0 });
    for entry in view.scan(&keys::change(start), &end) {
        let (place, _, key) = walk::split_change(&entry);
        if left == 0 {
            return Some(place);
        }
        left -= 1;
        let prefix = keys::versions_of(key);
        if !handled.contains(&prefix) {
            if !delete_superseded(view, &prefix, target, &mut left, writes) {
                return Some(place);
            }
            handled.insert(prefix);
        }
        if place.main < target {
            writes.delete(entry.0);
        }
    }
    None
}

/// Deletes old versions of one key; false if `left` did not suffice.
fn delete_superseded(
    view: &dyn View,
    prefix: &[u8],
    target: i64,
    left: &mut usize,
    writes: &mut Writes,
) -> bool {
    let mut visible = false;
    let mut tombstone = None;
    let end = keys::after_versions(prefix);
    for stored in view.keys(&keys::visible_at(prefix, target), &end) {
        let (_, place, kind) = walk::split_version(&stored);
        if place.main == target {
            visible = true;
        } else if !visible {
            visible = true;
            tombstone = (kind == Kind::Tombstone).then_some(stored);
        } else if *left == 0 {
            return false;
        } else {
            *left -= 1;
            if kind == Kind::PutApart {
                writes.delete(keys::apart(place));
            }
            writes.delete(stored);
        }
    }
    // The deletion goes last: without it older versions would be visible again.
    if let Some(stored) = tombstone {
        writes.delete(stored);
    }
    true
}

impl Progress {
    fn encode(self) -> Vec<u8> {
        let mut out = keys::change(self.next);
        out.extend_from_slice(&self.target.to_be_bytes());
        out
    }

    fn decode(stored: &[u8]) -> Option<Self> {
        let (next, target) = stored.split_at_checked(stored.len().checked_sub(8)?)?;
        let target = i64::from_be_bytes(target.try_into().ok()?);
        Some(Self { target, next: keys::split_change(next)? })
    }
}
