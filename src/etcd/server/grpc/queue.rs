//! Keys below one prefix that wait for their turn in the order of their creation:
//! what locks and elections are made of.
//!
//! Everything is asked of the services that clients ask, in the name of who
//! asked for the lock: whoever may not write its keys cannot have it.
//!
//! Source: etcd's `client/v3/concurrency`, whose keys, transactions and texts
//! these are, so that locks taken with etcd's clients and with these services
//! exclude each other.

use std::sync::Arc;

use http::Extensions;
use proa_etcd_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proa_etcd_api::etcdserverpb::range_request::{SortOrder, SortTarget};
use proa_etcd_api::etcdserverpb::request_op::Request as Ask;
use proa_etcd_api::etcdserverpb::{
    Compare, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest, RangeResponse, RequestOp,
    ResponseHeader, TxnRequest, TxnResponse, WatchCreateRequest, WatchResponse,
};
use proa_etcd_api::mvccpb::KeyValue;
use proa_etcd_api::mvccpb::event::EventType;
use prost::Message as _;
use prost::bytes::Bytes;
use tokio::sync::mpsc;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Status};

use super::Front;
use super::pb::kv_server::Kv as _;
use super::pb::lease_server::Lease as _;
use crate::watch::groups::Interest;
use crate::watch::hub::{Delivery, Hub, Outlet, WatcherId};

/// Time to live of the lease of a lock that was asked for without one, in
/// seconds. Source: etcd's `defaultSessionTTL`.
const LEASE_TTL_S: i64 = 60;
/// Events of one key between the hub and who waits for one of them; when it is
/// full the rest is read from the disk.
const QUEUE_ANSWERS: usize = 16;

/// The services of locks and elections.
pub(super) struct Queues {
    pub(super) front: Arc<Front>,
}

/// Who asks, by all that a service may look at: what is done in the course of
/// a request is done in its name.
#[derive(Clone)]
pub(super) struct Asker {
    metadata: MetadataMap,
    extensions: Extensions,
}

impl Asker {
    pub(super) fn of<T>(request: Request<T>) -> (Self, T) {
        let (metadata, extensions, message) = request.into_parts();
        (Self { metadata, extensions }, message)
    }

    fn asks<T>(&self, message: T) -> Request<T> {
        Request::from_parts(self.metadata.clone(), self.extensions.clone(), message)
    }
}

/// A key in its queue.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) key: Bytes,
    /// The key's creating revision: who is served in its order.
    pub(super) revision: i64,
    pub(super) header: ResponseHeader,
    /// The value it had before, when it was there already.
    pub(super) found: Option<Bytes>,
}

impl Queues {
    pub(super) async fn txn(&self, asker: &Asker, request: TxnRequest) -> Result<TxnResponse, Status> {
        Ok(self.front.txn(asker.asks(request)).await?.into_inner())
    }

    pub(super) async fn range(&self, asker: &Asker, request: RangeRequest) -> Result<RangeResponse, Status> {
        Ok(self.front.range(asker.asks(request)).await?.into_inner())
    }

    /// The lease that was given, or a new one.
    pub(super) async fn lease(&self, asker: &Asker, given: i64) -> Result<i64, Status> {
        if given != 0 {
            return Ok(given);
        }
        let request = LeaseGrantRequest { ttl: LEASE_TTL_S, id: 0 };
        Ok(self.front.lease_grant(asker.asks(request)).await?.into_inner().id)
    }

    /// Puts the lease's key into the queue, unless it is there.
    pub(super) async fn enter(
        &self,
        asker: &Asker,
        prefix: &[u8],
        lease: i64,
        value: Bytes,
    ) -> Result<Place, Status> {
        let key = key_of(prefix, lease);
        let put = PutRequest { key: key.clone(), value, lease, ..PutRequest::default() };
        let get = RangeRequest { key: key.clone(), ..RangeRequest::default() };
        let request = TxnRequest {
            compare: vec![created_at(key.clone(), 0)],
            success: vec![op(Ask::RequestPut(put))],
            failure: vec![op(Ask::RequestRange(get))],
        };
        let answer = self.txn(asker, request).await?;
        let header = header_of(answer.header)?;
        let there = answer.responses.into_iter().next().and_then(|response| match response.response {
            Some(proa_etcd_api::etcdserverpb::response_op::Response::ResponseRange(range)) => {
                range.kvs.into_iter().next()
            }
            _ => None,
        });
        Ok(match there {
            Some(KeyValue { create_revision, value, .. }) => {
                Place { key, revision: create_revision, header, found: Some(value) }
            }
            None => Place { key, revision: header.revision, header, found: None },
        })
    }

    /// Waits until no key of the queue is older than `revision`.
    pub(super) async fn wait_for_turn(
        &self,
        asker: &Asker,
        prefix: &[u8],
        revision: i64,
    ) -> Result<(), Status> {
        loop {
            let before = RangeRequest {
                max_create_revision: revision - 1,
                sort_order: SortOrder::Descend as i32,
                ..first(prefix)
            };
            // Nothing was created before the first revision, and 0 is no bound.
            if revision <= 1 {
                return Ok(());
            }
            let answer = self.range(asker, before).await?;
            let Some(last) = answer.kvs.into_iter().next() else { return Ok(()) };
            let from = header_of(answer.header)?.revision + 1;
            let mut changes = Changes::new(&self.front.hub, last.key, Bytes::new(), from);
            while let Some(answer) = changes.next().await {
                if answer.events.iter().any(|event| event.r#type() == EventType::Delete) {
                    break;
                }
            }
            // Without an event too: the next look at the keys says how it is.
        }
    }

    /// Deletes a key if it is still the one created at `revision`.
    pub(super) async fn leave(
        &self,
        asker: &Asker,
        key: Bytes,
        revision: i64,
    ) -> Result<ResponseHeader, Status> {
        let delete = DeleteRangeRequest { key: key.clone(), ..DeleteRangeRequest::default() };
        let request = TxnRequest {
            compare: vec![created_at(key, revision)],
            success: vec![op(Ask::RequestDeleteRange(delete))],
            failure: Vec::new(),
        };
        header_of(self.txn(asker, request).await?.header)
    }

    /// Leaves the queue when dropped: for who stops waiting, because it was
    /// refused or because its client has gone.
    pub(super) fn leave_when_dropped(&self, asker: &Asker, place: &Place) -> Leave {
        let queues = Self { front: Arc::clone(&self.front) };
        Leave { queues: Some((queues, asker.clone(), place.key.clone(), place.revision)) }
    }
}

/// See [`Queues::leave_when_dropped`].
pub(super) struct Leave {
    queues: Option<(Queues, Asker, Bytes, i64)>,
}

impl Leave {
    /// Its turn has come: the key stays.
    pub(super) fn stay(mut self) {
        self.queues = None;
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        let (Some((queues, asker, key, revision)), Ok(runtime)) =
            (self.queues.take(), tokio::runtime::Handle::try_current())
        else {
            return;
        };
        runtime.spawn(async move {
            if let Err(status) = queues.leave(&asker, key, revision).await {
                // The lease ends it.
                tracing::warn!("giving up a place in a queue: {}", status.message());
            }
        });
    }
}

/// The changes of one key or range, from a revision on; ends with `None` when
/// that is not in the history any more.
pub(super) struct Changes {
    hub: Arc<Hub>,
    id: Option<WatcherId>,
    deliveries: mpsc::Receiver<Delivery>,
}

impl Changes {
    pub(super) fn new(hub: &Arc<Hub>, key: Bytes, range_end: Bytes, from: i64) -> Self {
        let (queue, deliveries) = mpsc::channel(QUEUE_ANSWERS);
        let request = WatchCreateRequest { key, range_end, ..WatchCreateRequest::default() };
        let id = Interest::new(&request).ok().map(|interest| {
            let id = hub.add(interest, from, Outlet { queue, watch_id: 0, fragment_bytes: None });
            hub.release(id);
            id
        });
        Self { hub: Arc::clone(hub), id, deliveries }
    }

    pub(super) async fn next(&mut self) -> Option<WatchResponse> {
        let Delivery { answer, .. } = self.deliveries.recv().await?;
        let answer = WatchResponse::decode(answer.encode_to_vec().as_slice()).ok()?;
        (!answer.canceled).then_some(answer)
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.hub.remove(id);
        }
    }
}

/// What the keys of a lock or an election begin with.
pub(super) fn prefix_of(name: &[u8]) -> Bytes {
    [name, b"/"].concat().into()
}

/// The key of one lease. Source: etcd's `fmt.Sprintf("%s%x", pfx, lease)`.
fn key_of(prefix: &[u8], lease: i64) -> Bytes {
    let sign = if lease < 0 { "-" } else { "" };
    [prefix, format!("{sign}{:x}", lease.unsigned_abs()).as_bytes()].concat().into()
}

/// The first that was created of the keys with a prefix that ends in `/`.
pub(super) fn first(prefix: &[u8]) -> RangeRequest {
    RangeRequest {
        key: Bytes::copy_from_slice(prefix),
        range_end: end_of(prefix),
        limit: 1,
        sort_order: SortOrder::Ascend as i32,
        sort_target: SortTarget::Create as i32,
        ..RangeRequest::default()
    }
}

/// The end of the keys with a prefix that ends in `/`, whose successor is `0`.
pub(super) fn end_of(prefix: &[u8]) -> Bytes {
    [prefix.strip_suffix(b"/").unwrap_or(prefix), b"0"].concat().into()
}

/// Holds if the key was created at the revision; 0 if there is none.
pub(super) fn created_at(key: Bytes, revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal as i32,
        target: CompareTarget::Create as i32,
        key,
        target_union: Some(TargetUnion::CreateRevision(revision)),
        range_end: Bytes::new(),
    }
}

pub(super) fn op(request: Ask) -> RequestOp {
    RequestOp { request: Some(request) }
}

pub(super) fn header_of(header: Option<ResponseHeader>) -> Result<ResponseHeader, Status> {
    header.ok_or_else(|| Status::internal("an answer of the store without a header"))
}

/// A refusal as these services pass it on. Source: etcd's, which reach the
/// client as errors without a code.
pub(super) fn without_code(status: Status) -> Status {
    Status::new(Code::Unknown, status.message())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_etcds_clients() {
        #[rustfmt::skip]
        let rows: [(&[u8], i64, &[u8]); 4] = [
            (b"lock", 0x5e95_a20b, b"lock/5e95a20b"),
            (b"",     1,           b"/1"),
            (b"a/b",  i64::MAX,    b"a/b/7fffffffffffffff"),
            (b"x",    -16,         b"x/-10"),
        ];
        for (name, lease, want) in rows {
            let prefix = prefix_of(name);
            let key = key_of(&prefix, lease);
            assert_eq!(key, want);
            assert!(prefix < key && key < end_of(&prefix));
        }
    }
}
