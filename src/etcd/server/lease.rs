//! When leases end. Only the leader's clock counts, and only in its memory.
//!
//! A renewal is not a write: the leader moves a deadline. A new leader does not
//! know the deadlines of the old one and gives every lease its whole time
//! again, so a lease may live longer than it was granted for, never shorter.

use std::collections::BTreeMap;
use std::time::Duration;

/// A point in time: milliseconds of a clock that never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Millis(pub u64);

/// The shortest time to live that is granted, in seconds.
///
/// Source: etcd's `minLeaseTTL`: one and a half election timeouts, rounded up;
/// a lease must outlive an election.
pub fn least_ttl_s(election_ms: u64) -> i64 {
    i64::try_from((election_ms * 3).div_ceil(2).div_ceil(1000)).unwrap_or(i64::MAX)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Deadline {
    granted_s: i64,
    ends: Millis,
}

/// The deadlines of all leases while this member leads; empty when it does not.
#[derive(Clone, Debug, Default)]
pub struct Deadlines {
    leases: BTreeMap<i64, Deadline>,
}

/// How long a lease has, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeToLive {
    /// What it was granted for.
    pub granted_s: i64,
    /// What is left, rounded down as etcd does; 0 when it is about to end.
    pub left_s: i64,
}

impl Deadlines {
    /// Takes over as the leader: every lease gets its time, and the length of
    /// an election on top, during which nobody could renew it.
    pub fn take_over(&mut self, now: Millis, leases: &[(i64, i64)], election: Duration) {
        self.leases.clear();
        let start = Millis(now.0 + millis(election));
        for (id, granted_s) in leases {
            self.leases.insert(*id, deadline(start, *granted_s));
        }
    }

    /// Forgets everything: another member leads.
    pub fn step_down(&mut self) {
        self.leases.clear();
    }

    /// Matches what the store holds: new leases begin now, revoked ones go.
    pub fn reconcile(&mut self, now: Millis, leases: &[(i64, i64)]) {
        let mut known = std::mem::take(&mut self.leases);
        for (id, granted_s) in leases {
            let kept = known.remove(id).filter(|kept| kept.granted_s == *granted_s);
            self.leases.insert(*id, kept.unwrap_or_else(|| deadline(now, *granted_s)));
        }
    }

    /// Adds a lease that was just granted. One of the same id that is known here
    /// is an earlier one, revoked a moment ago.
    pub fn begin(&mut self, now: Millis, id: i64, granted_s: i64) {
        self.leases.insert(id, deadline(now, granted_s));
    }

    /// Gives a lease its whole time again and returns that, in seconds; `None`
    /// if there is no such lease or its time is over.
    ///
    /// A lease that has ended is not renewed even while its revocation is
    /// still on the way: two owners could believe in it.
    pub fn renew(&mut self, now: Millis, id: i64) -> Option<i64> {
        let lease = self.leases.get_mut(&id).filter(|lease| lease.ends > now)?;
        *lease = deadline(now, lease.granted_s);
        Some(lease.granted_s)
    }

    /// How long a lease has.
    pub fn time_to_live(&self, now: Millis, id: i64) -> Option<TimeToLive> {
        let lease = self.leases.get(&id)?;
        let left_ms = lease.ends.0.saturating_sub(now.0);
        Some(TimeToLive {
            granted_s: lease.granted_s,
            left_s: i64::try_from(left_ms / 1000).unwrap_or(i64::MAX),
        })
    }

    /// Puts those that end first in front; of equal ones, and where none is known
    /// because another member leads, the order stays.
    pub fn sort(&self, ids: &mut [i64]) {
        ids.sort_by_key(|id| self.leases.get(id).map_or(Millis(u64::MAX), |lease| lease.ends));
    }

    /// Leases whose time is over, at most `limit`.
    pub fn ended(&self, now: Millis, limit: usize) -> Vec<i64> {
        self.leases.iter().filter(|(_, lease)| lease.ends <= now).map(|(id, _)| *id).take(limit).collect()
    }

    /// Forgets leases that were revoked.
    pub fn forget(&mut self, ids: &[i64]) {
        self.leases.retain(|id, _| !ids.contains(id));
    }
}

fn deadline(start: Millis, granted_s: i64) -> Deadline {
    let granted_ms = u64::try_from(granted_s).unwrap_or(0).saturating_mul(1000);
    Deadline { granted_s, ends: Millis(start.0.saturating_add(granted_ms)) }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn a_lease_granted_again_has_its_whole_time() {
        let mut deadlines = Deadlines::default();
        deadlines.begin(Millis(0), 7, 10);
        deadlines.begin(Millis(9_000), 7, 10);
        assert_eq!(deadlines.ended(Millis(10_000), 10), Vec::<i64>::new());
        assert_eq!(deadlines.ended(Millis(19_000), 10), [7]);
    }

    #[test]
    fn those_that_end_first_stand_in_front_and_unknown_ones_last() {
        let mut deadlines = Deadlines::default();
        for (now, id, granted_s) in [(0, 1, 60), (1, 2, 30), (2, 3, 30), (3, 4, 10)] {
            deadlines.begin(Millis(now), id, granted_s);
        }
        let mut ids = [9, 1, 2, 3, 4, 8];
        deadlines.sort(&mut ids);
        assert_eq!(ids, [4, 2, 3, 1, 9, 8]);
    }

    #[test]
    fn the_least_ttl_is_etcds() {
        for (election_ms, want) in [(1000, 2), (100, 1), (500, 1), (5000, 8)] {
            assert_eq!(least_ttl_s(election_ms), want, "{election_ms} ms");
        }
    }

    #[test]
    fn a_renewed_lease_lives_on_and_an_ended_one_stays_dead() {
        let mut deadlines = Deadlines::default();
        deadlines.begin(Millis(0), 7, 10);
        assert_eq!(deadlines.renew(Millis(9_999), 7), Some(10));
        assert_eq!(deadlines.ended(Millis(19_998), 9), Vec::<i64>::new());
        assert_eq!(deadlines.time_to_live(Millis(9_999), 7), Some(TimeToLive { granted_s: 10, left_s: 10 }));
        assert_eq!(deadlines.ended(Millis(19_999), 9), [7]);
        assert_eq!(deadlines.renew(Millis(19_999), 7), None);
        deadlines.forget(&[7]);
        assert_eq!(deadlines.time_to_live(Millis(20_000), 7), None);
    }

    #[test]
    fn a_new_leader_gives_all_their_time_and_an_election() {
        let mut deadlines = Deadlines::default();
        deadlines.take_over(Millis(5_000), &[(1, 10), (2, 1)], Duration::from_secs(1));
        assert_eq!(deadlines.ended(Millis(6_999), 9), Vec::<i64>::new());
        assert_eq!(deadlines.ended(Millis(7_000), 9), [2]);
        assert_eq!(deadlines.ended(Millis(16_000), 1), [1]);
    }

    #[test]
    fn the_store_decides_which_leases_there_are() {
        let mut deadlines = Deadlines::default();
        deadlines.begin(Millis(0), 1, 10);
        deadlines.begin(Millis(0), 2, 10);
        deadlines.reconcile(Millis(4_000), &[(2, 10), (3, 10)]);
        assert_eq!(deadlines.time_to_live(Millis(4_000), 1), None);
        assert_eq!(deadlines.time_to_live(Millis(4_000), 2).unwrap().left_s, 6);
        assert_eq!(deadlines.time_to_live(Millis(4_000), 3).unwrap().left_s, 10);
    }
}
