//! What each request needs, flattened: whatever is nested in it, every key it
//! reads or writes is one line of a list.
//!
//! | request | needs |
//! |---|---|
//! | Range, Watch | read of the range |
//! | Put | write of the key; with `prev_kv` its read; with a lease the write of all keys of that lease |
//! | DeleteRange | write of the range; with `prev_kv` its read |
//! | Txn | the read of all compared ranges and what both lists of operations need, at any depth |
//! | Compact | write of every key: it takes the history of all of them |
//! | LeaseGrant | a user |
//! | LeaseRevoke, LeaseKeepAlive | write of all keys of the lease |
//! | LeaseTimeToLive, LeaseLeases | a user; to see keys, their read |
//! | MemberList, Status, Alarm (get) | a user |
//! | Auth (UserGet, RoleGet) | that user, somebody with that role, or root |
//! | AuthEnable ... RoleRevokePermission, other Alarm, Cluster, Maintenance | root |
//! | Authenticate, writes of the v2 API | nothing |
//!
//! Sources: etcd 3.5.29 and the advisories GHSA-q8m4-xhhv-38mg, CVE-2026-33343,
//! CVE-2026-44283, CVE-2023-32082, GHSA-xg4h-6gfc-h4m8.

use proa_etcd_api::command::command::Op;
use proa_etcd_api::etcdserverpb::alarm_request::AlarmAction;
use proa_etcd_api::etcdserverpb::request_op::Request;
use proa_etcd_api::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest,
};

pub use super::ranges::KeyRange;

/// One thing that a request touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need<'a> {
    /// Nothing at all, not even a user.
    Anyone,
    /// To be some user.
    User,
    /// To have the role root.
    Root,
    /// To be this user, or root.
    OwnUser(&'a str),
    /// To have this role, or root.
    OwnRole(&'a str),
    /// To read these keys.
    Read(KeyRange<'a>),
    /// To write these keys.
    Write(KeyRange<'a>),
    /// To read every key that is attached to this lease.
    ReadLease(i64),
    /// To write every key that is attached to this lease.
    WriteLease(i64),
}

impl Need<'_> {
    pub(super) fn is_about_keys(&self) -> bool {
        match self {
            Self::Read(_) | Self::Write(_) | Self::ReadLease(_) | Self::WriteLease(_) => true,
            Self::Anyone | Self::User | Self::Root | Self::OwnUser(_) | Self::OwnRole(_) => false,
        }
    }
}

/// What a command needs. Exhaustive: a new command does not compile before
/// somebody has thought about it.
pub fn command(op: &Op) -> Vec<Need<'_>> {
    match op {
        Op::Put(request) => put(request),
        Op::DeleteRange(request) => delete_range(request),
        Op::Txn(request) => txn(request),
        Op::Compaction(_) => vec![Need::Write(KeyRange::ALL)],
        Op::LeaseGrant(_) => vec![Need::User],
        Op::LeaseRevoke(request) => {
            let leases = request.ids.iter().map(|id| Need::WriteLease(*id));
            std::iter::once(Need::User).chain(leases).collect()
        }
        Op::Alarm(request) if request.action == AlarmAction::Get as i32 => vec![Need::User],
        // The v2 tree has users and roles of its own, as in etcd.
        Op::V2Write(_) => vec![Need::Anyone],
        Op::Alarm(_) | Op::LeaseCheckpoint(_) | Op::Member(_) | Op::Auth(_) | Op::V2Expire(_) => {
            vec![Need::Root]
        }
    }
}

/// What a read needs.
pub fn range(request: &RangeRequest) -> Vec<Need<'_>> {
    vec![Need::Read(KeyRange::new(&request.key, &request.range_end))]
}

/// What a watch needs. An empty key stands for the first one, as in etcd.
pub fn watch(request: &WatchCreateRequest) -> Vec<Need<'_>> {
    let key: &[u8] = if request.key.is_empty() { &[0] } else { &request.key };
    vec![Need::Read(KeyRange::new(key, &request.range_end))]
}

/// What a transaction needs, whatever its conditions will say.
pub fn txn(request: &TxnRequest) -> Vec<Need<'_>> {
    let mut needs = vec![Need::User];
    add_txn(&mut needs, request);
    needs
}

fn put(request: &PutRequest) -> Vec<Need<'_>> {
    let key = KeyRange::key(&request.key);
    let mut needs = vec![Need::Write(key)];
    if request.prev_kv {
        needs.push(Need::Read(key));
    }
    if request.lease != 0 {
        // Who attaches a key to a lease can later end it, and all its keys.
        needs.push(Need::WriteLease(request.lease));
    }
    needs
}

fn delete_range(request: &DeleteRangeRequest) -> Vec<Need<'_>> {
    let range = KeyRange::new(&request.key, &request.range_end);
    let mut needs = vec![Need::Write(range)];
    if request.prev_kv {
        needs.push(Need::Read(range));
    }
    needs
}

fn add_txn<'a>(needs: &mut Vec<Need<'a>>, request: &'a TxnRequest) {
    let compared = request.compare.iter().map(|compare| KeyRange::new(&compare.key, &compare.range_end));
    needs.extend(compared.map(Need::Read));
    request.success.iter().chain(&request.failure).for_each(|op| add_op(needs, op));
}

fn add_op<'a>(needs: &mut Vec<Need<'a>>, op: &'a RequestOp) {
    match &op.request {
        Some(Request::RequestRange(request)) => needs.extend(range(request)),
        Some(Request::RequestPut(request)) => needs.extend(put(request)),
        Some(Request::RequestDeleteRange(request)) => needs.extend(delete_range(request)),
        Some(Request::RequestTxn(request)) => add_txn(needs, request),
        None => {}
    }
}
