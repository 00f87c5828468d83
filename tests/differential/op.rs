//! One operation of the stream, and what is left open in it until it is sent.
//!
//! Revisions are drawn relative to the store's: so a stream that was cut down
//! still asks for what just happened, and shrinking works.

use proa_etcd_client::api::etcdserverpb::compare::TargetUnion;
use proa_etcd_client::api::etcdserverpb::request_op::Request;
use proa_etcd_client::api::etcdserverpb::{
    AlarmRequest, CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest,
    RequestOp, TxnRequest, WatchCreateRequest,
};

use crate::v2::V2;

/// Stands for the revision that the store has when the operation is sent:
/// `NOW - 3` is the third before it.
pub const NOW: i64 = 1 << 50;
/// Stands for the revision that history was compacted to.
pub const COMPACTED: i64 = 1 << 51;
/// How far from the two a number may be to be understood as relative.
const REACH: i64 = 1 << 20;

#[derive(Clone, Debug)]
pub enum Op {
    Range(RangeRequest),
    Put(PutRequest),
    DeleteRange(DeleteRangeRequest),
    Txn(TxnRequest),
    Compact(CompactionRequest),
    Grant(LeaseGrantRequest),
    /// Granted and revoked at once: for times to live that would soon end.
    GrantBriefly(LeaseGrantRequest),
    Revoke(i64),
    KeepAlive(i64),
    TimeToLive(i64, bool),
    Leases,
    Alarm(AlarmRequest),
    Watch(WatchCreateRequest),
    CancelWatch(i64),
    WatchProgress,
    /// Ends the watch stream and opens another.
    NewWatchStream,
    V2(V2),
}

/// What both stores have come to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known {
    pub revision: i64,
    pub compacted: i64,
    /// The newest index of the v2 API.
    pub v2_index: u64,
}

impl Known {
    fn settle(self, number: &mut i64) {
        for (base, value) in [(NOW, self.revision), (COMPACTED, self.compacted)] {
            if (base - REACH..=base + REACH).contains(number) {
                *number = value + (*number - base);
                return;
            }
        }
    }

    fn settle_range(self, range: &mut RangeRequest) {
        self.settle(&mut range.revision);
        self.settle(&mut range.min_mod_revision);
        self.settle(&mut range.max_mod_revision);
        self.settle(&mut range.min_create_revision);
        self.settle(&mut range.max_create_revision);
    }

    fn settle_txn(self, txn: &mut TxnRequest) {
        for compare in &mut txn.compare {
            if let Some(TargetUnion::CreateRevision(number) | TargetUnion::ModRevision(number)) =
                &mut compare.target_union
            {
                self.settle(number);
            }
        }
        for op in txn.success.iter_mut().chain(&mut txn.failure) {
            match &mut op.request {
                Some(Request::RequestRange(range)) => self.settle_range(range),
                Some(Request::RequestTxn(inner)) => self.settle_txn(inner),
                Some(Request::RequestPut(_) | Request::RequestDeleteRange(_)) | None => {}
            }
        }
    }
}

impl Op {
    /// The operation with every revision as a number.
    pub fn settled(&self, known: Known) -> Self {
        let mut op = self.clone();
        match &mut op {
            Self::Range(range) => known.settle_range(range),
            Self::Txn(txn) => known.settle_txn(txn),
            Self::Compact(compaction) => known.settle(&mut compaction.revision),
            Self::Watch(create) => {
                known.settle(&mut create.start_revision);
                // A negative one makes etcd 3.4 lose the events of others too.
                create.start_revision = create.start_revision.max(0);
            }
            Self::V2(request) => request.now = known.v2_index,
            _ => {}
        }
        op
    }

    /// Whether it changes nothing: such operations may overtake one another.
    pub fn only_reads(&self) -> bool {
        match self {
            Self::Range(_) | Self::TimeToLive(..) | Self::Leases | Self::KeepAlive(_) => true,
            Self::V2(request) => request.method == "GET" && !request.waits,
            Self::Txn(txn) => reads(&txn.success) && reads(&txn.failure),
            _ => false,
        }
    }
}

fn reads(ops: &[RequestOp]) -> bool {
    ops.iter().all(|op| match &op.request {
        Some(Request::RequestRange(_)) => true,
        Some(Request::RequestTxn(inner)) => reads(&inner.success) && reads(&inner.failure),
        Some(Request::RequestPut(_) | Request::RequestDeleteRange(_)) | None => false,
    })
}

/// An operation or an answer for people: without what is empty or 0.
pub fn render(thing: &impl std::fmt::Debug) -> String {
    const EMPTY: [&str; 7] = [": 0", ": false", ": b\"\"", ": []", ": None", ": \"\"", "sort_target: Key"];
    // What the draws repeat to make something long.
    let mut text = format!("{thing:?}");
    for byte in ["k", "v", "w"] {
        for count in [120_000, 40_000, 1000, 300] {
            text = text.replace(&byte.repeat(count), &format!("({count} x {byte})"));
        }
    }
    let kept = |part: &&str| part.contains(['{', '}']) || !EMPTY.iter().any(|empty| part.ends_with(empty));
    let text = text.split(", ").filter(kept).collect::<Vec<_>>().join(", ");
    text.replace("raft_term: 0 ", "").replace("cluster_id: 0, ", "")
}
