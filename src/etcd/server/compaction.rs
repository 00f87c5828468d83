//! Giving up history without being asked: `--auto-compaction-*`.

use std::collections::VecDeque;
use std::time::Duration;

use proa_etcd_api::EtcdError;
use proa_etcd_api::command::{Command, command::Op};
use proa_etcd_api::etcdserverpb::CompactionRequest;

use crate::config::AutoCompaction;
use crate::node::Node;

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
pub async fn run(node: Node, how: AutoCompaction) {
    let every = match how {
        AutoCompaction::Off => return,
        AutoCompaction::Periodic(period) => period / LOOKS_A_PERIOD,
        AutoCompaction::Revisions(_) => REVISIONS_EVERY,
    };
    let mut past = Past::default();
    loop {
        tokio::time::sleep(every).await;
        let head = node.view().head;
        // Members that do not lead look on, to know the past when they do.
        let revision = match how {
            AutoCompaction::Off => None,
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
        Ok(_) => tracing::info!("compacted history before revision {revision}"),
        Err(EtcdError::Compacted) => {}
        Err(error) => tracing::warn!("compacting history before revision {revision}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
