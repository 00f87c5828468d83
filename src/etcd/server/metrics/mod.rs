//! What this process counts and measures, under etcd's names, for Prometheus.
//!
//! A count is one relaxed addition where the thing happens; everything else is
//! done when somebody asks. A name of etcd's is there only where the meaning is
//! the same; what has no counterpart here (bbolt, Go's runtime) is left out, each
//! with its reason in `tests/etcd_metrics.rs`.
//!
//! Source: etcd 3.5, "Metrics"; the texts after `HELP` are our own.

mod calls;
mod histogram;
mod keys;
pub(crate) mod peers;
mod process;
mod render;
mod text;
mod versions;

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use proa_etcd_api::etcdserverpb::TxnResponse;
use proa_etcd_api::etcdserverpb::response_op::Response;
use proa_etcd_store::Reply;
use tokio::sync::watch;

use crate::node::Status;
pub use calls::{Call, count_received};
pub use histogram::Histogram;
pub use keys::{Counting, KeyCount};
pub use peers::Peers;
pub use render::{Detail, Facts, render};
pub use text::CONTENT_TYPE;
pub use versions::Versions;

/// Whoever applies for longer is slow. Source: etcd's
/// `--experimental-warning-apply-duration`.
pub const SLOW_APPLY: Duration = Duration::from_millis(100);

/// Everything that is counted; one process is one member.
pub static METRICS: Metrics = Metrics {
    health_success: AtomicU64::new(0),
    health_failures: AtomicU64::new(0),
    leader_changes: AtomicU64::new(0),
    proposals_failed: AtomicU64::new(0),
    reads_failed: AtomicU64::new(0),
    reads_slow: AtomicU64::new(0),
    applies_slow: AtomicU64::new(0),
    heartbeats_late: AtomicU64::new(0),
    learners_promoted: AtomicU64::new(0),
    puts: AtomicU64::new(0),
    deletes: AtomicU64::new(0),
    ranges: AtomicU64::new(0),
    txns: AtomicU64::new(0),
    leases_granted: AtomicU64::new(0),
    leases_revoked: AtomicU64::new(0),
    leases_expired: AtomicU64::new(0),
    leases_renewed: AtomicU64::new(0),
    watch_streams: AtomicU64::new(0),
    log_bytes: AtomicU64::new(0),
    client_received_bytes: AtomicU64::new(0),
    client_sent_bytes: AtomicU64::new(0),
    log_sync: Histogram::empty(),
    commit: Histogram::empty(),
    hash: Histogram::from(10_000, 15),
    hash_by_revision: Histogram::from(10_000, 15),
    snapshot: Histogram::from(10_000, 17),
    peers: Peers::empty(),
    versions: Versions::empty(),
};

/// See [`METRICS`].
#[derive(Debug)]
pub struct Metrics {
    /// Times `/health` said yes.
    pub health_success: AtomicU64,
    /// Times it said no.
    pub health_failures: AtomicU64,
    /// Times another leader was seen.
    pub leader_changes: AtomicU64,
    /// Proposals of clients of this member of which nothing was heard.
    pub proposals_failed: AtomicU64,
    /// Reads that no majority answered in time.
    pub reads_failed: AtomicU64,
    /// Those of them that had a leader to ask.
    pub reads_slow: AtomicU64,
    /// Batches that took longer than [`SLOW_APPLY`] to apply.
    pub applies_slow: AtomicU64,
    /// Heartbeats that this member, as the leader, was late with.
    pub heartbeats_late: AtomicU64,
    /// Learners that got their vote from this member, as the leader.
    pub learners_promoted: AtomicU64,
    /// Puts applied, those in transactions included; so are the next two.
    pub puts: AtomicU64,
    /// Deletions applied.
    pub deletes: AtomicU64,
    /// Ranges answered.
    pub ranges: AtomicU64,
    /// Transactions applied.
    pub txns: AtomicU64,
    /// Leases granted.
    pub leases_granted: AtomicU64,
    /// Leases revoked, by a client or at their end.
    pub leases_revoked: AtomicU64,
    /// Leases that ended by themselves, under this member.
    pub leases_expired: AtomicU64,
    /// Renewals of leases by this member, as the leader.
    pub leases_renewed: AtomicU64,
    /// Watch streams that are open.
    pub watch_streams: AtomicU64,
    /// Bytes written to the raft log.
    pub log_bytes: AtomicU64,
    /// Bytes of gRPC messages of clients.
    pub client_received_bytes: AtomicU64,
    /// Bytes of gRPC messages to clients.
    pub client_sent_bytes: AtomicU64,
    /// How long the raft log took to reach the disk.
    pub log_sync: Histogram,
    /// How long a batch took to be in the database.
    pub commit: Histogram,
    /// How long it took to hash all keys as they are.
    pub hash: Histogram,
    /// The same as of a revision.
    pub hash_by_revision: Histogram,
    /// How long it took to send a snapshot to a client.
    pub snapshot: Histogram,
    /// Requests by their client's version.
    pub versions: Versions,
    /// What went to and came from other members.
    pub peers: Peers,
}

impl Metrics {
    /// Counts what was applied.
    pub fn count(&self, reply: &Reply) {
        match reply {
            Reply::Put(_) => add(&self.puts),
            Reply::DeleteRange(_) => add(&self.deletes),
            Reply::Txn(answer) => self.count_txn(answer),
            Reply::LeaseGrant(_) => add(&self.leases_granted),
            Reply::LeaseRevoke(_) => add(&self.leases_revoked),
            _ => {}
        }
    }

    fn count_txn(&self, answer: &TxnResponse) {
        add(&self.txns);
        for response in &answer.responses {
            match &response.response {
                Some(Response::ResponseRange(_)) => add(&self.ranges),
                Some(Response::ResponsePut(_)) => add(&self.puts),
                Some(Response::ResponseDeleteRange(_)) => add(&self.deletes),
                Some(Response::ResponseTxn(inner)) => self.count_txn(inner),
                None => {}
            }
        }
    }
}

/// Adds one.
pub fn add(count: &AtomicU64) {
    count.fetch_add(1, Relaxed);
}

/// Counts leaders for as long as the member lives.
pub async fn follow_leaders(mut status: watch::Receiver<Status>) {
    let mut last = 0;
    while status.changed().await.is_ok() {
        let leader = status.borrow_and_update().leader_id;
        if leader != 0 && leader != last {
            add(&METRICS.leader_changes);
            last = leader;
        }
    }
}
