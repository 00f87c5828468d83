//! What can be refused before anything is proposed.
//!
//! These rules look at a request alone. A command that did not pass them must
//! not be proposed; should one be applied all the same, the outcome is still
//! the same on every member.

use proa_etcd_api::EtcdError;
use proa_etcd_api::command::{Command, command::Op, v2_write::Kind};
use proa_etcd_api::etcdserverpb::range_request::{SortOrder, SortTarget};
use proa_etcd_api::etcdserverpb::request_op::Request;
use proa_etcd_api::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};
use std::collections::BTreeSet;

/// The longest time to live a lease may have: about 285 years, as in etcd.
pub const MAX_LEASE_TTL_S: i64 = 9_000_000_000;

/// Checks what is about to be proposed.
///
/// `max_txn_ops` bounds the operations of a transaction (etcd: 128).
///
/// # Errors
/// As etcd for the same request.
pub fn check(command: &Command, max_txn_ops: usize) -> Result<(), EtcdError> {
    match &command.op {
        Some(Op::Put(request)) => check_put(request),
        Some(Op::DeleteRange(request)) => check_delete_range(request),
        Some(Op::Txn(request)) => check_txn(request, max_txn_ops),
        // How long a lease may be is asked when it is granted, after an alarm as in etcd.
        Some(
            Op::LeaseGrant(_)
            | Op::Compaction(_)
            | Op::LeaseRevoke(_)
            | Op::LeaseCheckpoint(_)
            | Op::Alarm(_)
            | Op::Member(_)
            | Op::Auth(_)
            | Op::V2Write(_)
            | Op::V2Expire(_),
        )
        | None => Ok(()),
    }
}

/// Checks a read.
///
/// # Errors
/// [`EtcdError::EmptyKey`], [`EtcdError::InvalidSortOption`].
pub fn check_range(request: &RangeRequest) -> Result<(), EtcdError> {
    if request.key.is_empty() {
        return Err(EtcdError::EmptyKey);
    }
    let order = SortOrder::try_from(request.sort_order);
    let target = SortTarget::try_from(request.sort_target);
    match (order, target) {
        (Ok(_), Ok(_)) => Ok(()),
        (Err(_), _) | (_, Err(_)) => Err(EtcdError::InvalidSortOption),
    }
}

/// Checks a write.
///
/// # Errors
/// [`EtcdError::EmptyKey`], [`EtcdError::ValueProvided`], [`EtcdError::LeaseProvided`].
pub fn check_put(request: &PutRequest) -> Result<(), EtcdError> {
    if request.key.is_empty() {
        Err(EtcdError::EmptyKey)
    } else if request.ignore_value && !request.value.is_empty() {
        Err(EtcdError::ValueProvided)
    } else if request.ignore_lease && request.lease != 0 {
        Err(EtcdError::LeaseProvided)
    } else {
        Ok(())
    }
}

/// Checks a deletion.
///
/// # Errors
/// [`EtcdError::EmptyKey`].
pub fn check_delete_range(request: &DeleteRangeRequest) -> Result<(), EtcdError> {
    if request.key.is_empty() { Err(EtcdError::EmptyKey) } else { Ok(()) }
}

/// Checks a transaction and all inside it.
///
/// # Errors
/// Of what is inside, [`EtcdError::TooManyOps`], [`EtcdError::DuplicateKey`],
/// [`EtcdError::KeyNotFound`] for an empty operation.
pub fn check_txn(request: &TxnRequest, max_txn_ops: usize) -> Result<(), EtcdError> {
    check_txn_shape(request, max_txn_ops, MAX_NESTED_TXNS)?;
    Touched::by(&request.success)?;
    Touched::by(&request.failure)?;
    Ok(())
}

/// True if no branch of the transaction writes: it can be answered like a read.
pub fn is_read_only(request: &TxnRequest) -> bool {
    request.success.iter().chain(&request.failure).all(|op| match &op.request {
        Some(Request::RequestRange(_)) | None => true,
        Some(Request::RequestPut(_) | Request::RequestDeleteRange(_)) => false,
        Some(Request::RequestTxn(inner)) => is_read_only(inner),
    })
}

/// True if a command may make the database grow; with too little space it is
/// refused, and everything else is what makes room or needs none.
///
/// Source: etcd's quota applier.
pub fn takes_space(op: &Op) -> bool {
    match op {
        Op::Put(_) | Op::LeaseGrant(_) => true,
        Op::Txn(request) => puts(request),
        Op::V2Write(request) => !matches!(request.kind(), Kind::Delete | Kind::CompareAndDelete),
        Op::DeleteRange(_)
        | Op::Compaction(_)
        | Op::LeaseRevoke(_)
        | Op::LeaseCheckpoint(_)
        | Op::Alarm(_)
        | Op::Member(_)
        | Op::Auth(_)
        | Op::V2Expire(_) => false,
    }
}

/// True if some branch of the transaction puts, that is: may need space.
pub(crate) fn puts(request: &TxnRequest) -> bool {
    request.success.iter().chain(&request.failure).any(|op| match &op.request {
        Some(Request::RequestPut(_)) => true,
        Some(Request::RequestTxn(inner)) => puts(inner),
        Some(Request::RequestRange(_) | Request::RequestDeleteRange(_)) | None => false,
    })
}

/// Transactions inside one another. The log's own messages go around a request,
/// and what decodes 100 levels at the client's door must decode there too.
const MAX_NESTED_TXNS: usize = 32;

fn check_txn_shape(request: &TxnRequest, max_txn_ops: usize, levels: usize) -> Result<(), EtcdError> {
    let levels = levels.checked_sub(1).ok_or(EtcdError::TooManyOps)?;
    let ops = request.compare.len().max(request.success.len()).max(request.failure.len());
    // What is inside may use what is left; so nesting is bounded as well.
    let left = max_txn_ops.checked_sub(ops).ok_or(EtcdError::TooManyOps)?;
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(EtcdError::EmptyKey);
    }
    request.success.iter().chain(&request.failure).try_for_each(|op| match &op.request {
        Some(Request::RequestRange(inner)) => check_range(inner),
        Some(Request::RequestPut(inner)) => check_put(inner),
        Some(Request::RequestDeleteRange(inner)) => check_delete_range(inner),
        Some(Request::RequestTxn(inner)) => check_txn_shape(inner, left, levels),
        None => Err(EtcdError::KeyNotFound),
    })
}

/// The keys that a list of operations may put, and the ranges it may delete.
#[derive(Default)]
struct Touched<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: Vec<(&'a [u8], &'a [u8])>,
}

impl<'a> Touched<'a> {
    /// Refuses a second put of a key, and a put of a key that is deleted too.
    ///
    /// Order as in etcd, which lets one case through: a transaction inside
    /// may delete what one before it put. So a key can change more than once
    /// in a revision.
    fn by(ops: &'a [RequestOp]) -> Result<Self, EtcdError> {
        let mut all = Self::default();
        for op in ops {
            if let Some(Request::RequestDeleteRange(delete)) = &op.request {
                all.deletes.push((&delete.key, &delete.range_end));
            }
        }
        for op in ops {
            if let Some(Request::RequestTxn(inner)) = &op.request {
                all.add_either(Self::by(&inner.success)?, Self::by(&inner.failure)?)?;
            }
        }
        for op in ops {
            if let Some(Request::RequestPut(put)) = &op.request {
                all.add_put(&put.key)?;
            }
        }
        Ok(all)
    }

    /// Adds two lists of which only one will be done.
    fn add_either(&mut self, success: Self, failure: Self) -> Result<(), EtcdError> {
        for key in success.puts.union(&failure.puts) {
            self.add_put(key)?;
        }
        self.deletes.extend(success.deletes);
        self.deletes.extend(failure.deletes);
        Ok(())
    }

    fn add_put(&mut self, key: &'a [u8]) -> Result<(), EtcdError> {
        let deleted = self.deletes.iter().any(|&(from, end)| match end {
            [] => from == key,
            // An open end, the byte 0, overlaps with nothing here, as in etcd:
            // "delete all, then put these" is one transaction.
            end => from <= key && key < end,
        });
        if deleted || !self.puts.insert(key) { Err(EtcdError::DuplicateKey) } else { Ok(()) }
    }
}
