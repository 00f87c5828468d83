//! Draws v3 operations: valid and invalid, over so few names that they meet.

use proa_etcd_client::api::etcdserverpb::alarm_request::AlarmAction;
use proa_etcd_client::api::etcdserverpb::compare::TargetUnion;
use proa_etcd_client::api::etcdserverpb::request_op::Request;
use proa_etcd_client::api::etcdserverpb::{
    AlarmRequest, AlarmType, CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, PutRequest,
    RangeRequest, RequestOp, TxnRequest, WatchCreateRequest,
};
use prost::bytes::Bytes;

use crate::op::{COMPACTED, NOW, Op};
use crate::random::Random;
use crate::v2;

/// Keys that begin one another, and hold the lowest and the highest byte.
const KEYS: [&[u8]; 14] = [
    b"a",
    b"b",
    b"c",
    b"a\0",
    b"a\0\0",
    b"aa",
    b"ab",
    b"a\xff",
    b"a\xff\xff",
    b"\0",
    b"\0\x01",
    b"\xff",
    b"\xff\xff",
    b"/registry/pods/default/one",
];
/// The longest key that is drawn.
const LONG_KEY_BYTES: usize = 1000;
/// A value of which a few fill one answer of a watch.
const BIG_VALUE_BYTES: usize = 40_000;
/// More than the stores are told to take.
const TOO_BIG_BYTES: usize = 120_000;
/// Far beyond any run: nothing ends by itself while two servers are compared.
const LONG_TTL_S: i64 = 100_000;
/// Transactions inside one another. A fault in how they nest shows at two.
const DEPTH: usize = 3;

/// What differs between two runs with the same kinds of operations.
pub struct Draw {
    pub random: Random,
    /// One put in so many has a big value.
    pub big_value_in: u64,
    /// Whether the v2 API is drawn too.
    pub with_v2: bool,
}

impl Draw {
    pub fn new(seed: u64, with_v2: bool) -> Self {
        let mut random = Random::new(seed);
        let big_value_in = random.pick(&[50, 1000, 1000, 1000]);
        Self { random, big_value_in, with_v2 }
    }

    /// One change and the reads that look at what it did.
    pub fn turn(&mut self) -> Vec<Op> {
        let mut ops = match self.random.below(2000) {
            0 => self.without_space(),
            1 => vec![Op::NewWatchStream],
            2..=9 => vec![Op::WatchProgress],
            10..=99 => vec![Op::Watch(self.watch())],
            100..=169 => vec![Op::CancelWatch(self.random.between(-1, 6))],
            170..=179 => vec![Op::Compact(self.compaction())],
            _ => vec![self.change()],
        };
        for _ in 0..self.random.below(5) {
            ops.push(self.read());
        }
        ops
    }

    /// A raised alarm, what it forbids, and its end.
    fn without_space(&mut self) -> Vec<Op> {
        let member_id = self.random.below(3);
        let alarm = |action: AlarmAction| {
            Op::Alarm(AlarmRequest { action: action.into(), member_id, alarm: AlarmType::Nospace.into() })
        };
        let mut ops = vec![alarm(AlarmAction::Activate)];
        for _ in 0..self.random.below(6) {
            // etcd keeps the v2 tree in memory, outside of the quota; ours is on
            // the disk with everything else. Nor does etcd count the puts of a
            // transaction inside another one: these go on without space there.
            let change = self.v3_change();
            ops.extend((!puts_inside(&change)).then_some(change));
            ops.push(self.read());
        }
        ops.extend([alarm(AlarmAction::Get), alarm(AlarmAction::Deactivate), alarm(AlarmAction::Get)]);
        ops
    }

    fn change(&mut self) -> Op {
        if self.with_v2 && self.random.once_in(3) {
            return Op::V2(v2::draw(&mut self.random));
        }
        self.v3_change()
    }

    fn v3_change(&mut self) -> Op {
        match self.random.below(100) {
            0..=49 => Op::Put(self.put()),
            50..=61 => Op::DeleteRange(self.delete_range()),
            62..=86 => Op::Txn(self.txn(DEPTH)),
            87..=93 => Op::Grant(LeaseGrantRequest { id: self.lease(), ttl: LONG_TTL_S }),
            94 => self.odd_grant(),
            _ => Op::Revoke(self.lease()),
        }
    }

    fn read(&mut self) -> Op {
        if self.with_v2 && self.random.once_in(5) {
            return Op::V2(v2::get(&mut self.random));
        }
        match self.random.below(20) {
            0 => Op::TimeToLive(self.lease(), self.random.once_in(2)),
            1 => Op::Leases,
            2 => Op::KeepAlive(self.lease()),
            3 => Op::Txn(self.reading_txn()),
            _ if self.random.once_in(300) => {
                Op::Range(RangeRequest { sort_order: self.random.pick(&[-1, 3, 100]), ..self.range() })
            }
            _ => Op::Range(self.range()),
        }
    }

    fn odd_grant(&mut self) -> Op {
        let ttl = self.random.pick(&[-1, 0, 1, 9_000_000_000, 9_000_000_001, i64::MAX, i64::MIN]);
        Op::GrantBriefly(LeaseGrantRequest { id: 4000, ttl })
    }

    /// Ids that meet; 0 is no lease, and some are never granted.
    fn lease(&mut self) -> i64 {
        self.random.weighted(&[(1, 0), (3, 1), (3, 2), (3, 3), (2, i64::MAX), (1, -7), (1, 77)])
    }

    fn key(&mut self) -> Bytes {
        match self.random.below(100) {
            0 => Bytes::new(),
            1 => vec![b'k'; LONG_KEY_BYTES].into(),
            _ => Bytes::from_static(self.random.pick(&KEYS)),
        }
    }

    fn range_end(&mut self) -> Bytes {
        match self.random.below(10) {
            0..=3 => Bytes::new(),
            4 | 5 => Bytes::from_static(b"\0"),
            6 => Bytes::from_static(b"b"),
            _ => self.key(),
        }
    }

    fn value(&mut self) -> Bytes {
        if self.random.once_in(self.big_value_in) {
            return vec![b'v'; BIG_VALUE_BYTES].into();
        }
        match self.random.below(20) {
            0 if self.random.once_in(300) => vec![b'v'; TOO_BIG_BYTES].into(),
            0..=2 => Bytes::new(),
            3 => vec![b'w'; 300].into(),
            4 => Bytes::from_static(b"\0\xff"),
            _ => self.random.below(10).to_string().into(),
        }
    }

    /// A revision to read at or to start from.
    fn revision(&mut self) -> i64 {
        match self.random.below(20) {
            0..=9 => 0,
            10..=15 => NOW - self.random.between(0, 60),
            16 => NOW + self.random.between(-1, 2),
            17 | 18 => COMPACTED + self.random.between(-2, 3),
            _ => self.random.pick(&[-1, 1, 2, i64::MIN, i64::MAX]),
        }
    }

    /// One side of a filter by revision; mostly open.
    fn bound(&mut self) -> i64 {
        match self.random.below(12) {
            0..=8 => 0,
            9 | 10 => NOW - self.random.between(0, 80),
            _ => self.random.pick(&[-1, 1, 5, i64::MAX]),
        }
    }

    /// A number of an enumeration, seldom one that it does not have.
    fn number_of(&mut self, count: i64) -> i32 {
        if self.random.once_in(60) {
            self.random.pick(&[-1, 7, 100])
        } else {
            self.random.between(0, count - 1) as i32
        }
    }

    fn range(&mut self) -> RangeRequest {
        let sorted = self.random.once_in(3);
        RangeRequest {
            key: self.key(),
            range_end: self.range_end(),
            limit: self.random.weighted(&[(6, 0), (1, 1), (1, 2), (1, 5), (1, -1)]),
            revision: self.revision(),
            sort_order: if sorted { self.random.between(0, 2) as i32 } else { 0 },
            // Always a known one: the others kill etcd 3.4.
            sort_target: if sorted { self.random.between(0, 4) as i32 } else { 0 },
            serializable: self.random.once_in(4),
            keys_only: self.random.once_in(8),
            count_only: self.random.once_in(8),
            min_mod_revision: self.bound(),
            max_mod_revision: self.bound(),
            min_create_revision: self.bound(),
            max_create_revision: self.bound(),
        }
    }

    fn put(&mut self) -> PutRequest {
        let ignore_value = self.random.once_in(12);
        let ignore_lease = self.random.once_in(12);
        // Seldom both: a value, and the wish to keep the one there is.
        let contradicts = self.random.once_in(10);
        PutRequest {
            key: self.key(),
            value: if ignore_value && !contradicts { Bytes::new() } else { self.value() },
            lease: if self.random.once_in(3) && (!ignore_lease || contradicts) { self.lease() } else { 0 },
            prev_kv: self.random.once_in(3),
            ignore_value,
            ignore_lease,
        }
    }

    fn delete_range(&mut self) -> DeleteRangeRequest {
        // Not everything at once too often: there must be something to read.
        let range_end = if self.random.once_in(3) { self.range_end() } else { Bytes::new() };
        DeleteRangeRequest { key: self.key(), range_end, prev_kv: self.random.once_in(3) }
    }

    fn compare(&mut self) -> Compare {
        let target = self.number_of(5);
        // Mostly the operand that belongs to the target.
        let kind = if self.random.once_in(30) { self.random.between(0, 5) as i32 } else { target };
        let target_union = match kind {
            0 => Some(TargetUnion::Version(self.random.between(0, 3))),
            1 => Some(TargetUnion::CreateRevision(self.bound())),
            2 => Some(TargetUnion::ModRevision(self.bound())),
            3 => Some(TargetUnion::Value(self.value())),
            4 => Some(TargetUnion::Lease(self.lease())),
            _ => None,
        };
        let range_end = if self.random.once_in(4) { self.range_end() } else { Bytes::new() };
        Compare { result: self.number_of(4), target, key: self.key(), range_end, target_union }
    }

    fn compares(&mut self) -> Vec<Compare> {
        (0..self.random.below(3)).map(|_| self.compare()).collect()
    }

    fn txn(&mut self, depth: usize) -> TxnRequest {
        if self.random.once_in(500) {
            return self.long_txn();
        }
        let mut txn =
            TxnRequest { compare: self.compares(), success: self.ops(depth), failure: self.ops(depth) };
        if has_open_delete(&txn) {
            keep_nothing(&mut txn);
        }
        txn
    }

    fn ops(&mut self, depth: usize) -> Vec<RequestOp> {
        let one = |draw: &mut Self| match draw.random.below(16) {
            0..=4 => Some(Request::RequestRange(draw.range())),
            5..=10 => Some(Request::RequestPut(draw.put())),
            11..=13 => Some(Request::RequestDeleteRange(draw.delete_range())),
            14 if draw.random.once_in(20) => None,
            _ if depth > 0 => Some(Request::RequestTxn(draw.txn(depth - 1))),
            _ => Some(Request::RequestRange(draw.range())),
        };
        (0..self.random.below(4)).map(|_| RequestOp { request: one(self) }).collect()
    }

    /// About as many operations as a transaction may have.
    fn long_txn(&mut self) -> TxnRequest {
        let count = self.random.between(127, 129);
        let range = |_| RequestOp { request: Some(Request::RequestRange(self.range())) };
        TxnRequest { success: (0..count).map(range).collect(), ..TxnRequest::default() }
    }

    fn reading_txn(&mut self) -> TxnRequest {
        let ranges = |draw: &mut Self| {
            let count = draw.random.below(4);
            (0..count)
                .map(|_| RequestOp { request: Some(Request::RequestRange(draw.range())) })
                .collect::<Vec<_>>()
        };
        TxnRequest { compare: self.compares(), success: ranges(self), failure: ranges(self) }
    }

    fn compaction(&mut self) -> CompactionRequest {
        let revision = match self.random.below(10) {
            0..=5 => NOW - self.random.between(0, 200),
            6 => NOW,
            7 => NOW + 1,
            8 => COMPACTED + self.random.between(-1, 1),
            _ => self.random.pick(&[0, -1, i64::MAX]),
        };
        CompactionRequest { revision, physical: self.random.once_in(2) }
    }

    fn watch(&mut self) -> WatchCreateRequest {
        WatchCreateRequest {
            key: self.key(),
            range_end: self.range_end(),
            start_revision: self.revision(),
            progress_notify: self.random.once_in(4),
            filters: (0..self.random.below(3)).map(|_| self.number_of(2)).collect(),
            prev_kv: self.random.once_in(3),
            watch_id: if self.random.once_in(4) { self.random.between(1, 6) } else { 0 },
            fragment: self.random.once_in(3),
        }
    }
}

fn ops(txn: &TxnRequest) -> impl Iterator<Item = &Request> {
    txn.success.iter().chain(&txn.failure).filter_map(|op| op.request.as_ref())
}

/// Whether some deletion has no end: a put after it may be of a deleted key.
fn has_open_delete(txn: &TxnRequest) -> bool {
    ops(txn).any(|op| match op {
        Request::RequestDeleteRange(delete) => delete.range_end == b"\0"[..],
        Request::RequestTxn(inner) => has_open_delete(inner),
        Request::RequestRange(_) | Request::RequestPut(_) => false,
    })
}

/// Has no put keep a value or lease: etcd 3.4 dies when a key with what is to
/// be kept was deleted earlier in the transaction.
fn keep_nothing(txn: &mut TxnRequest) {
    for op in txn.success.iter_mut().chain(&mut txn.failure) {
        match &mut op.request {
            Some(Request::RequestPut(put)) => (put.ignore_value, put.ignore_lease) = (false, false),
            Some(Request::RequestTxn(inner)) => keep_nothing(inner),
            Some(Request::RequestRange(_) | Request::RequestDeleteRange(_)) | None => {}
        }
    }
}

/// Whether some transaction inside of `op` puts.
fn puts_inside(op: &Op) -> bool {
    let Op::Txn(txn) = op else { return false };
    ops(txn).any(|op| matches!(op, Request::RequestTxn(inner) if puts(inner)))
}

fn puts(txn: &TxnRequest) -> bool {
    ops(txn).any(|op| match op {
        Request::RequestPut(_) => true,
        Request::RequestTxn(inner) => puts(inner),
        Request::RequestRange(_) | Request::RequestDeleteRange(_) => false,
    })
}
