//! Transactions: compare first, everything; then do one list or the other.

use crate::keys;
use crate::range::{self, readable};
use crate::record::Head;
use crate::revision::Revision;
use crate::view::View;
use crate::walk::{self, Found, NEWEST, Walk};
use proa_etcd_api::EtcdError;
use proa_etcd_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proa_etcd_api::etcdserverpb::request_op::Request;
use proa_etcd_api::etcdserverpb::response_op::Response;
use proa_etcd_api::etcdserverpb::{
    Compare, PutRequest, RequestOp, ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
};
use proa_etcd_api::mvccpb::KeyValue;
use std::cmp::Ordering;

/// A transaction after its conditions were looked at: what will be done.
pub(crate) struct Chosen<'t> {
    succeeded: bool,
    ops: Vec<ChosenOp<'t>>,
}

enum ChosenOp<'t> {
    Plain(&'t RequestOp),
    Txn(Chosen<'t>),
}

impl<'t> Chosen<'t> {
    /// Decides every condition, also of the transactions inside: they all see
    /// the state before the first operation, as in etcd.
    pub fn new(view: &dyn View, txn: &'t TxnRequest) -> Self {
        let succeeded = txn.compare.iter().all(|compare| holds(view, compare));
        let ops = if succeeded { &txn.success } else { &txn.failure };
        let choose = |op: &'t RequestOp| match &op.request {
            Some(Request::RequestTxn(inner)) => ChosenOp::Txn(Self::new(view, inner)),
            Some(_) | None => ChosenOp::Plain(op),
        };
        Self { succeeded, ops: ops.iter().map(choose).collect() }
    }

    /// Refuses what could fail halfway: all puts first, then all reads, as etcd.
    pub fn check(
        &self,
        view: &dyn View,
        head: Head,
        lease_exists: &dyn Fn(i64) -> bool,
    ) -> Result<(), EtcdError> {
        self.check_each(&|op| match op {
            Request::RequestPut(put) => {
                keeps_something(view, put)?;
                if put.lease == 0 || lease_exists(put.lease) { Ok(()) } else { Err(EtcdError::LeaseNotFound) }
            }
            Request::RequestRange(_) | Request::RequestDeleteRange(_) | Request::RequestTxn(_) => Ok(()),
        })?;
        self.check_each(&|op| match op {
            // Unlike a plain read, etcd takes a negative revision in a
            // transaction for one that is compacted.
            Request::RequestRange(range) if range.revision < head.compact_revision.min(0) => {
                Err(EtcdError::Compacted)
            }
            Request::RequestRange(range) => readable(head, range.revision).map(drop),
            Request::RequestPut(_) | Request::RequestDeleteRange(_) | Request::RequestTxn(_) => Ok(()),
        })
    }

    fn check_each(&self, check: &dyn Fn(&Request) -> Result<(), EtcdError>) -> Result<(), EtcdError> {
        self.ops.iter().try_for_each(|op| match op {
            ChosenOp::Txn(inner) => inner.check_each(check),
            ChosenOp::Plain(op) => op.request.as_ref().map_or(Ok(()), check),
        })
    }

    /// Does what was chosen. Only the outermost answer gets a revision in its
    /// header; inner transactions have an empty one, as in etcd.
    pub fn perform(&self, revision: &mut Revision<'_>) -> TxnResponse {
        let responses = self.ops.iter().map(|op| match op {
            ChosenOp::Plain(op) => ResponseOp { response: perform(op, revision) },
            ChosenOp::Txn(inner) => {
                ResponseOp { response: Some(Response::ResponseTxn(inner.perform(revision))) }
            }
        });
        let responses = responses.collect();
        TxnResponse { header: Some(ResponseHeader::default()), succeeded: self.succeeded, responses }
    }

    /// Reads what was chosen, if nothing in it writes.
    fn read(&self, view: &dyn View, head: Head) -> Result<TxnResponse, EtcdError> {
        let mut responses = Vec::with_capacity(self.ops.len());
        for op in &self.ops {
            let response = match op {
                ChosenOp::Txn(inner) => Some(Response::ResponseTxn(inner.read(view, head)?)),
                ChosenOp::Plain(op) => match &op.request {
                    Some(Request::RequestRange(range)) => {
                        Some(Response::ResponseRange(range::range(view, head, range)?))
                    }
                    Some(_) | None => None,
                },
            };
            responses.push(ResponseOp { response });
        }
        Ok(TxnResponse { header: Some(ResponseHeader::default()), succeeded: self.succeeded, responses })
    }
}

/// Answers a transaction that only reads ([`crate::is_read_only`]), without
/// the log.
///
/// `view` and `head` must be of one instant.
///
/// # Errors
/// [`EtcdError::Compacted`], [`EtcdError::FutureRevision`].
///
/// # Panics
/// If the view holds an entry that this crate did not write.
pub fn read_txn(view: &dyn View, head: Head, request: &TxnRequest) -> Result<TxnResponse, EtcdError> {
    let chosen = Chosen::new(view, request);
    chosen.check(view, head, &|_| true)?;
    let mut response = chosen.read(view, head)?;
    response.header = range::header(head.revision);
    Ok(response)
}

/// Refuses a put that keeps the value or the lease of a key that is not there.
pub(crate) fn keeps_something(view: &dyn View, put: &PutRequest) -> Result<(), EtcdError> {
    let keeps = put.ignore_value || put.ignore_lease;
    if keeps && walk::find(view, &put.key, NEWEST).is_none() { Err(EtcdError::KeyNotFound) } else { Ok(()) }
}

fn perform(op: &RequestOp, revision: &mut Revision<'_>) -> Option<Response> {
    Some(match op.request.as_ref()? {
        Request::RequestRange(range) => {
            // `check` has refused what cannot be read; the head only grows.
            Response::ResponseRange(revision.range(range).unwrap_or_default())
        }
        Request::RequestPut(put) => Response::ResponsePut(revision.put(put)),
        Request::RequestDeleteRange(delete) => Response::ResponseDeleteRange(revision.delete_range(delete)),
        Request::RequestTxn(_) => return None,
    })
}

/// True if every key of the condition's range meets it. Where there is none,
/// a key of all zeros is compared instead; but no value equals, exceeds or
/// differs from a value that is not there.
fn holds(view: &dyn View, compare: &Compare) -> bool {
    let mut any = false;
    let needs_value = compare.target == CompareTarget::Value as i32;
    let mut meets = |found: Found| {
        any = true;
        let kv = if needs_value { found.entry(view) } else { found.unread().kv };
        meets(compare, &kv)
    };
    let all = if compare.range_end.is_empty() {
        walk::find(view, &compare.key, NEWEST).is_none_or(&mut meets)
    } else {
        let (from, end) = keys::bounds(&compare.key, &compare.range_end);
        Walk::entries(view, &from, &end, NEWEST).all(&mut meets)
    };
    if any {
        return all;
    }
    !needs_value && self::meets(compare, &KeyValue::default())
}

fn meets(compare: &Compare, kv: &KeyValue) -> bool {
    let order = match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Value) => kv.value.as_ref().cmp(given_value(compare)),
        Ok(CompareTarget::Version) => kv.version.cmp(&given_number(compare)),
        Ok(CompareTarget::Create) => kv.create_revision.cmp(&given_number(compare)),
        Ok(CompareTarget::Mod) => kv.mod_revision.cmp(&given_number(compare)),
        Ok(CompareTarget::Lease) => kv.lease.cmp(&given_number(compare)),
        // etcd compares nothing then, and nothing is equal to nothing.
        Err(_) => Ordering::Equal,
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => order == Ordering::Equal,
        Ok(CompareResult::Greater) => order == Ordering::Greater,
        Ok(CompareResult::Less) => order == Ordering::Less,
        Ok(CompareResult::NotEqual) => order != Ordering::Equal,
        Err(_) => true,
    }
}

fn given_value(compare: &Compare) -> &[u8] {
    match &compare.target_union {
        Some(TargetUnion::Value(value)) => value,
        Some(_) | None => &[],
    }
}

/// The operand; 0 when it is of another kind than the target asks for.
fn given_number(compare: &Compare) -> i64 {
    use {CompareTarget as Target, TargetUnion as Given};
    match (compare.target(), &compare.target_union) {
        (Target::Version, Some(Given::Version(number)))
        | (Target::Create, Some(Given::CreateRevision(number)))
        | (Target::Mod, Some(Given::ModRevision(number)))
        | (Target::Lease, Some(Given::Lease(number))) => *number,
        (_, Some(_) | None) => 0,
    }
}
