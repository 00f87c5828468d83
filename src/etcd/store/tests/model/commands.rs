//! Random commands over few keys and leases, so that they meet.

use proa_etcd_api::command::{Command, LeaseRevoke, command::Op};
use proa_etcd_api::etcdserverpb::compare::TargetUnion;
use proa_etcd_api::etcdserverpb::request_op::Request;
use proa_etcd_api::etcdserverpb::*;
use proptest::collection::vec;
use proptest::prelude::*;

/// Keys that begin one another, hold byte 0 and the highest byte.
const KEYS: [&[u8]; 7] = [b"a", b"a\x00", b"a\x00\x01", b"ab", b"b", b"\xFF", b"\x00"];

/// The long ones lie apart from their versions.
const VALUES: [&[u8]; 6] = [b"", b"x", b"y", b"zz", &[b'l'; 4096], &[b'm'; 5000]];

fn key() -> impl Strategy<Value = Vec<u8>> {
    proptest::sample::select(&KEYS[..]).prop_map(<[u8]>::to_vec)
}

fn range_end() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => Just(Vec::new()),
        1 => Just(vec![0]),
        2 => key(),
        1 => Just(b"\xFF\xFF".to_vec()),
    ]
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    proptest::sample::select(&VALUES[..]).prop_map(<[u8]>::to_vec)
}

fn lease() -> impl Strategy<Value = i64> {
    prop_oneof![4 => Just(0), 3 => 1i64..4, 1 => Just(-7)]
}

fn put() -> impl Strategy<Value = PutRequest> {
    let rare = || proptest::bool::weighted(0.1);
    (key(), value(), lease(), any::<bool>(), rare(), rare()).prop_map(
        |(key, value, lease, prev_kv, ignore_value, ignore_lease)| PutRequest {
            key: key.into(),
            value: if ignore_value { Vec::new() } else { value }.into(),
            lease: if ignore_lease { 0 } else { lease },
            prev_kv,
            ignore_value,
            ignore_lease,
        },
    )
}

fn delete_range() -> impl Strategy<Value = DeleteRangeRequest> {
    (key(), range_end(), any::<bool>()).prop_map(|(key, range_end, prev_kv)| DeleteRangeRequest {
        key: key.into(),
        range_end: range_end.into(),
        prev_kv,
    })
}

/// A read with any options.
pub fn range() -> impl Strategy<Value = RangeRequest> {
    let bound = || prop_oneof![6 => Just(0i64), 1 => 1i64..20];
    let often_zero = || prop_oneof![2 => Just(0i32), 1 => 0i32..5];
    (
        (key(), range_end(), prop_oneof![Just(0i64), 0i64..4], prop_oneof![2 => Just(0i64), 1 => -2i64..30]),
        (0i32..3, often_zero(), proptest::bool::weighted(0.2), proptest::bool::weighted(0.2)),
        (bound(), bound(), bound(), bound()),
    )
        .prop_map(
            |((key, range_end, limit, revision), (order, target, keys_only, count_only), bounds)| {
                RangeRequest {
                    key: key.into(),
                    range_end: range_end.into(),
                    limit,
                    revision,
                    sort_order: order,
                    sort_target: target,
                    keys_only,
                    count_only,
                    min_mod_revision: bounds.0,
                    max_mod_revision: bounds.1,
                    min_create_revision: bounds.2,
                    max_create_revision: bounds.3,
                    serializable: false,
                }
            },
        )
}

fn compare() -> impl Strategy<Value = Compare> {
    let number = || 0i64..6;
    let union = prop_oneof![
        number().prop_map(|number| Some(TargetUnion::Version(number))),
        number().prop_map(|number| Some(TargetUnion::CreateRevision(number))),
        number().prop_map(|number| Some(TargetUnion::ModRevision(number))),
        value().prop_map(|value| Some(TargetUnion::Value(value.into()))),
        lease().prop_map(|lease| Some(TargetUnion::Lease(lease))),
        Just(None),
    ];
    // Results and targets that do not exist have a meaning as well.
    (0i32..5, 0i32..6, key(), range_end(), union).prop_map(
        |(result, target, key, range_end, target_union)| Compare {
            result,
            target,
            key: key.into(),
            target_union,
            range_end: range_end.into(),
        },
    )
}

fn txn() -> impl Strategy<Value = TxnRequest> {
    let leaf = prop_oneof![
        range().prop_map(Request::RequestRange),
        put().prop_map(Request::RequestPut),
        delete_range().prop_map(Request::RequestDeleteRange),
    ];
    let op = leaf.prop_recursive(2, 8, 2, |op| {
        let ops = || vec(op.clone().prop_map(wrap), 0..3);
        (vec(compare(), 0..2), ops(), ops()).prop_map(|(compare, success, failure)| {
            Request::RequestTxn(TxnRequest { compare, success, failure })
        })
    });
    let ops = || vec(op.clone().prop_map(wrap), 0..4);
    (vec(compare(), 0..3), ops(), ops()).prop_map(|(compare, success, failure)| TxnRequest {
        compare,
        success,
        failure,
    })
}

fn wrap(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

/// A command; most can succeed.
pub fn command() -> impl Strategy<Value = Command> {
    let id = || 1i64..4;
    let op = prop_oneof![
        8 => put().prop_map(Op::Put),
        3 => delete_range().prop_map(Op::DeleteRange),
        6 => txn().prop_map(Op::Txn),
        1 => (-1i64..40).prop_map(|revision| Op::Compaction(CompactionRequest { revision, physical: false })),
        3 => (0i64..4, 1i64..9).prop_map(|(id, ttl)| Op::LeaseGrant(LeaseGrantRequest { id, ttl })),
        1 => vec(id(), 1..3).prop_map(|ids| Op::LeaseRevoke(LeaseRevoke { ids })),
        1 => (id(), 1i64..9).prop_map(|(id, remaining_ttl)| Op::LeaseCheckpoint(LeaseCheckpointRequest {
            checkpoints: vec![LeaseCheckpoint { id, remaining_ttl }],
        })),
    ];
    proptest::option::weighted(0.98, op).prop_map(|op| Command { op })
}
