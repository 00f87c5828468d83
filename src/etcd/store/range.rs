//! Reads.

use crate::keys;
use crate::record::Head;
use crate::view::View;
use crate::walk::{self, Found, NEWEST, Unread, Walk};
use bytes::Bytes;
use proa_etcd_api::EtcdError;
use proa_etcd_api::etcdserverpb::range_request::{SortOrder, SortTarget};
use proa_etcd_api::etcdserverpb::{RangeRequest, RangeResponse, ResponseHeader};
use proa_etcd_api::mvccpb::KeyValue;

/// Answers a read.
///
/// `view` and `head` must be of one instant. The header carries the head's
/// revision, also when an older one was read; the other fields are the
/// server's. A range is counted to its end whatever the limit, as etcd does:
/// the keys after the limit are walked without their values.
///
/// # Errors
/// [`EtcdError::Compacted`], [`EtcdError::FutureRevision`].
///
/// # Panics
/// If the view holds an entry that this crate did not write.
pub fn range(view: &dyn View, head: Head, request: &RangeRequest) -> Result<RangeResponse, EtcdError> {
    let at = readable(head, request.revision)?;
    let (mut found, count) =
        if request.range_end.is_empty() { read_one(view, request, at) } else { read_many(view, request, at) };
    found.retain(|entry| wanted(request, &entry.kv));
    if request.sort_target() == SortTarget::Value {
        found.iter_mut().for_each(|entry| entry.read(view));
    }
    sort(request, &mut found);
    let limit = usize::try_from(request.limit).unwrap_or(0);
    let more = limit > 0 && found.len() > limit;
    if more {
        found.truncate(limit);
    }
    let answer = |entry: Unread| match request.keys_only {
        true => KeyValue { value: Bytes::new(), ..entry.kv },
        // Large values last: only those of the answer.
        false => entry.whole(view),
    };
    let kvs = found.into_iter().map(answer).collect();
    Ok(RangeResponse { header: header(head.revision), kvs, more, count })
}

/// A response header with nothing but the revision.
pub(crate) fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..ResponseHeader::default() })
}

/// The revision to read at, if it can be read.
pub(crate) fn readable(head: Head, revision: i64) -> Result<i64, EtcdError> {
    if revision > head.revision {
        return Err(EtcdError::FutureRevision);
    }
    if revision <= 0 || revision == head.revision {
        return Ok(NEWEST);
    }
    if revision < head.compact_revision {
        return Err(EtcdError::Compacted);
    }
    Ok(revision)
}

fn read_one(view: &dyn View, request: &RangeRequest, at: i64) -> (Vec<Unread>, i64) {
    match walk::find(view, &request.key, at) {
        Some(_) if request.count_only => (Vec::new(), 1),
        Some(found) => (vec![found.unread()], 1),
        None => (Vec::new(), 0),
    }
}

fn read_many(view: &dyn View, request: &RangeRequest, at: i64) -> (Vec<Unread>, i64) {
    let (from, end) = keys::bounds(&request.key, &request.range_end);
    if request.count_only {
        return (Vec::new(), count(view, &from, &end, at));
    }
    let mut entries = Vec::new();
    let mut found = Walk::entries(view, &from, &end, at);
    let Some(most) = most_to_read(request) else {
        entries.extend(found.map(Found::unread));
        let count = entries.len() as i64;
        return (entries, count);
    };
    let mut rest = None;
    for found in found.by_ref().take(most) {
        if entries.len() + 1 == most {
            rest = Some(keys::after_versions(&found.prefix));
        }
        entries.push(found.unread());
    }
    drop(found);
    let behind = rest.map_or(0, |from| count(view, &from, &end, at));
    let count = entries.len() as i64 + behind;
    (entries, count)
}

fn count(view: &dyn View, from: &[u8], end: &[u8], at: i64) -> i64 {
    Walk::keys(view, from, end, at).count() as i64
}

/// How many entries answer the request; `None` for all of them.
///
/// One more than the limit, to know whether there is more. Filters and sorting
/// need everything; sorting that is only implied by a target does not, as in etcd.
fn most_to_read(request: &RangeRequest) -> Option<usize> {
    let needs_all = request.sort_order != SortOrder::None as i32
        || request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0;
    match usize::try_from(request.limit) {
        Ok(limit) if limit > 0 && !needs_all => limit.checked_add(1),
        Ok(_) | Err(_) => None,
    }
}

fn wanted(request: &RangeRequest, kv: &KeyValue) -> bool {
    let within = |value, min, max| (min == 0 || value >= min) && (max == 0 || value <= max);
    within(kv.mod_revision, request.min_mod_revision, request.max_mod_revision)
        && within(kv.create_revision, request.min_create_revision, request.max_create_revision)
}

fn sort(request: &RangeRequest, entries: &mut [Unread]) {
    let target = request.sort_target();
    let descend = match request.sort_order() {
        // Entries are ascending by key as they come.
        SortOrder::None | SortOrder::Ascend if target == SortTarget::Key => return,
        SortOrder::None | SortOrder::Ascend => false,
        SortOrder::Descend => true,
    };
    entries.sort_by(|Unread { kv: a, .. }, Unread { kv: b, .. }| {
        let order = match target {
            SortTarget::Key => a.key.cmp(&b.key),
            SortTarget::Version => a.version.cmp(&b.version),
            SortTarget::Create => a.create_revision.cmp(&b.create_revision),
            SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
            SortTarget::Value => a.value.cmp(&b.value),
        };
        if descend { order.reverse() } else { order }
    });
}
