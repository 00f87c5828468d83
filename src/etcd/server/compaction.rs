//! Giving up history without being asked: `--auto-compaction-*`, and when none
//! of these flags is given, what takes room and nobody can still want.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proa_etcd_api::EtcdError;
use proa_etcd_api::command::{Command, command::Op};
use proa_etcd_api::etcdserverpb::CompactionRequest;
use tokio::time::{sleep, timeout};

use crate::config::AutoCompaction;
use crate::node::Node;
use crate::space::Space;

/// How often it is looked whether history takes too much room while little is
/// written: it may be old enough now.
const BOUNDED_EVERY: Duration = Duration::from_secs(1);
/// Shortest time between two such looks while much is written: what comes in
/// meanwhile must be small beside the smallest quota that is of use.
const BOUNDED_GAP: Duration = Duration::from_millis(50);
/// History that is kept by default: what the newest writes of this size have
/// left behind. An eighth of etcd's default quota of 2 GiB; a watcher may sleep
/// through 1 000 000 writes of 256 bytes.
const KEPT_BYTES: u64 = 256 << 20;
/// Part of the room there is that history may take, where that is less.
const KEPT_PART: u64 = 8;
/// History younger than this is given up only when half of the room is taken.
/// Kubernetes' API server, which compacts by itself, keeps as much.
const KEPT_AGE: Duration = Duration::from_secs(300);
/// Parts of what is kept in which the past is remembered: history is given up
/// in steps of this size, and the list has this length or little more.
const STEPS: u64 = 16;
/// Longest list: at most this many steps were written within [`KEPT_AGE`].
const MAX_LOOKS: usize = 4_096;

/// What was seen at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    at: Duration,
    revision: i64,
    /// Bytes written up to here, from any beginning.
    written_bytes: u64,
}

/// How much room the database has and takes.
#[derive(Clone, Copy, Debug)]
struct Room {
    taken_bytes: u64,
    /// What it may take: the quota, or what the disk has.
    all_bytes: u64,
}

/// The past as far as it may be needed, oldest first.
#[derive(Debug, Default)]
struct Bounded {
    looks: VecDeque<Look>,
}

impl Bounded {
    /// Notes this moment; the revision up to which history is to be given up,
    /// when there is something to give up.
    fn look(&mut self, now: Look, room: Room) -> Option<i64> {
        let kept_bytes = KEPT_BYTES.min(room.all_bytes / KEPT_PART).max(1);
        let last = self.looks.back();
        if last.is_none_or(|last| now.written_bytes - last.written_bytes >= kept_bytes / STEPS) {
            self.looks.push_back(now);
        }
        let is_tight = room.taken_bytes > room.all_bytes / 2;
        let is_old = |look: &Look| {
            let is_enough = now.written_bytes - look.written_bytes >= kept_bytes;
            is_enough && (is_tight || now.at.saturating_sub(look.at) >= KEPT_AGE)
        };
        let count = self.looks.iter().take_while(|look| is_old(look)).count();
        let surplus = self.looks.len().saturating_sub(MAX_LOOKS);
        let gone = self.looks.drain(..count.max(surplus)).next_back();
        gone.filter(|_| count > 0).map(|look| look.revision)
    }
}

/// Source: etcd's `revInterval`.
const REVISIONS_EVERY: Duration = Duration::from_secs(300);
/// A period is looked at this many times; so history is kept up to a tenth
/// longer than asked for. Source: etcd's `retryDivisor`.
const LOOKS_A_PERIOD: u32 = 10;

/// Revisions as they were at each look, to know which one is a period old.
#[derive(Debug, Default)]
struct Past {
    seen: VecDeque<i64>,
}

impl Past {
    /// Notes the revision of this look; the one of a whole period ago.
    fn look(&mut self, revision: i64) -> Option<i64> {
        self.seen.push_back(revision);
        let whole_period = self.seen.len() > LOOKS_A_PERIOD as usize;
        if whole_period { self.seen.pop_front() } else { None }
    }
}

/// Compacts for as long as the process lives, while this member leads.
pub async fn run(node: Node, how: AutoCompaction, space: Arc<Space>, quota_bytes: u64) {
    let started = Instant::now();
    let (mut past, mut bounded) = (Past::default(), Bounded::default());
    let mut written = node.applied_bytes();
    loop {
        match how {
            AutoCompaction::Off => return,
            AutoCompaction::Bounded => {
                sleep(BOUNDED_GAP).await;
                // Late is as good as written.
                let _ = timeout(BOUNDED_EVERY, written.changed()).await;
            }
            AutoCompaction::Periodic(period) => sleep(period / LOOKS_A_PERIOD).await,
            AutoCompaction::Revisions(_) => sleep(REVISIONS_EVERY).await,
        }
        let head = node.view().head;
        // Members that do not lead look on, to know the past when they do.
        let revision = match how {
            AutoCompaction::Off => None,
            AutoCompaction::Bounded => {
                let written_bytes = *written.borrow_and_update();
                let now = Look { at: started.elapsed(), revision: head.revision, written_bytes };
                let taken_bytes = space.size().total_bytes;
                let all_bytes = quota_bytes.min(taken_bytes.saturating_add(space.spare_bytes()));
                bounded.look(now, Room { taken_bytes, all_bytes })
            }
            AutoCompaction::Periodic(_) => past.look(head.revision),
            AutoCompaction::Revisions(kept) => Some(head.revision - kept),
        };
        let Some(revision) = revision.filter(|revision| *revision > head.compact_revision.max(0)) else {
            continue;
        };
        if node.status().borrow().is_leader {
            compact(&node, revision).await;
        }
    }
}

async fn compact(node: &Node, revision: i64) {
    let request = CompactionRequest { revision, physical: false };
    match node.propose_as_member(Command { op: Some(Op::Compaction(request)) }).await {
        Ok(_) => tracing::debug!("compacted history before revision {revision}"),
        Err(EtcdError::Compacted) => {}
        Err(error) => tracing::warn!("compacting history before revision {revision}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks once a second while `rate` bytes a second are written; the revision
    /// is the second. What was given up, and when.
    fn compactions(seconds: u64, rate: u64, room: Room) -> Vec<(u64, i64)> {
        let mut bounded = Bounded::default();
        let look = |second: u64| {
            let at = Duration::from_secs(second);
            let now = Look { at, revision: second as i64, written_bytes: second * rate };
            bounded.look(now, room).map(|revision| (second, revision))
        };
        (0..seconds).filter_map(look).collect()
    }

    #[test]
    fn history_is_kept_while_there_is_room_and_somebody_may_want_it() {
        const MIB: u64 = 1 << 20;
        let room = |taken, all| Room { taken_bytes: taken * MIB, all_bytes: all * MIB };
        // Slow writes: all of it for days.
        assert_eq!(compactions(3_600, MIB / 100, room(100, 2_048)), []);
        // Fast writes with room: the last five minutes.
        let fast = compactions(1_000, 10 * MIB, room(500, 2_048));
        assert!(fast.iter().all(|(at, revision)| at - *revision as u64 >= 300), "{fast:?}");
        assert!(fast.last().is_some_and(|(at, revision)| at - *revision as u64 <= 302), "{fast:?}");
        // Without room: the last 256 MiB, or an eighth of what there is.
        for (room, kept) in [(room(1_500, 2_048), 256), (room(100, 128), 16)] {
            let fast = compactions(1_000, MIB, room);
            assert!(fast.iter().all(|(at, revision)| at - *revision as u64 >= kept), "{fast:?}");
            let last = fast.last().map(|(at, revision)| at - *revision as u64);
            assert!(last.is_some_and(|age| age <= kept + kept / STEPS + 1), "{fast:?}");
        }
    }

    #[test]
    fn the_list_of_looks_is_bounded() {
        let mut bounded = Bounded::default();
        for second in 0..100_000 {
            let at = Duration::from_millis(second);
            let now = Look { at, revision: second as i64, written_bytes: second << 30 };
            bounded.look(now, Room { taken_bytes: 0, all_bytes: u64::MAX });
            assert!(bounded.looks.len() <= MAX_LOOKS);
        }
    }

    #[test]
    fn a_whole_period_must_have_passed() {
        let mut past = Past::default();
        for revision in 1..=10 {
            assert_eq!(past.look(revision), None);
        }
        assert_eq!(past.look(11), Some(1));
        assert_eq!(past.look(12), Some(2));
    }
}
