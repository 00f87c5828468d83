//! Waiting in line for a name: what locks and elections are made of.
//!
//! Each waiter has one key below the name, under a lease of its own; the
//! oldest key holds the name. The layout is the one of etcd's `concurrency`
//! package, so that its users and these wait in the same line.

use proa_etcd_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proa_etcd_api::etcdserverpb::range_request::{SortOrder, SortTarget};
use proa_etcd_api::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, ResponseHeader, TxnRequest,
    TxnResponse, request_op::Request, response_op::Response,
};
use proa_etcd_api::mvccpb::KeyValue;
use proa_etcd_api::mvccpb::event::EventType;
use prost::bytes::Bytes;
use tokio_stream::StreamExt as _;

use crate::watch::{WatchItem, WatchOptions};
use crate::{Client, Error, prefix_range};

/// A place in the line.
#[derive(Clone, Debug)]
pub struct Place {
    /// The key that marks it.
    pub key: Bytes,
    /// Who was here earlier has a smaller one.
    pub create_revision: i64,
    /// What the store said last about it.
    pub header: ResponseHeader,
}

/// The key of the waiter with this lease.
pub fn key_of(name: &str, lease: i64) -> Bytes {
    format!("{}{lease:x}", prefix_of(name)).into()
}

fn prefix_of(name: &str) -> String {
    format!("{name}/")
}

/// The read of the oldest key below a name.
fn oldest(name: &str) -> RangeRequest {
    let (key, range_end) = prefix_range(prefix_of(name).as_bytes());
    RangeRequest {
        key,
        range_end,
        limit: 1,
        sort_order: SortOrder::Ascend.into(),
        sort_target: SortTarget::Create.into(),
        ..RangeRequest::default()
    }
}

fn is_created(key: &Bytes, create_revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key: key.clone(),
        target_union: Some(TargetUnion::CreateRevision(create_revision)),
        ..Compare::default()
    }
}

fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

impl Client {
    /// Joins the line for `name` with a value; a place from before is kept, and
    /// gets the value.
    ///
    /// # Errors
    /// The store's, see [`Error`].
    pub async fn queue_join(&self, name: &str, lease: i64, value: &[u8]) -> Result<Place, Error> {
        let key = key_of(name, lease);
        let get = RangeRequest { key: key.clone(), ..RangeRequest::default() };
        let value = Bytes::copy_from_slice(value);
        let put = PutRequest { key: key.clone(), value: value.clone(), lease, ..PutRequest::default() };
        let join = TxnRequest {
            compare: vec![is_created(&key, 0)],
            success: vec![op(Request::RequestPut(put.clone()))],
            failure: vec![op(Request::RequestRange(get))],
        };
        let answer = self.txn(join).await?;
        let header = answer.header.unwrap_or_default();
        let Some(former) = former_place(&answer) else {
            return Ok(Place { key, create_revision: header.revision, header });
        };
        if former.value != value {
            let renew = TxnRequest {
                compare: vec![is_created(&key, former.create_revision)],
                success: vec![op(Request::RequestPut(put))],
                failure: Vec::new(),
            };
            self.txn(renew).await?;
        }
        Ok(Place { key, create_revision: former.create_revision, header })
    }

    /// Waits until nobody is before `place`: then it holds the name.
    ///
    /// # Errors
    /// The store's; and [`Error::Protocol`] when the place itself is gone,
    /// because its lease has ended.
    pub async fn queue_wait(&self, name: &str, place: &mut Place) -> Result<(), Error> {
        let (prefix, range_end) = prefix_range(prefix_of(name).as_bytes());
        loop {
            // Whoever is directly before: one deletion wakes one waiter.
            let before = RangeRequest {
                key: prefix.clone(),
                range_end: range_end.clone(),
                limit: 1,
                sort_order: SortOrder::Descend.into(),
                sort_target: SortTarget::Create.into(),
                max_create_revision: place.create_revision - 1,
                ..RangeRequest::default()
            };
            let answer = self.range(before).await?;
            let header = answer.header.unwrap_or_default();
            let Some(before) = answer.kvs.into_iter().next() else { break };
            self.wait_deleted(before.key, header.revision + 1).await?;
        }
        let own = self.range(RangeRequest { key: place.key.clone(), ..RangeRequest::default() }).await?;
        if own.kvs.is_empty() {
            return Err(Error::Protocol("session expired".to_owned()));
        }
        place.header = own.header.unwrap_or_default();
        Ok(())
    }

    async fn wait_deleted(&self, key: Bytes, from_revision: i64) -> Result<(), Error> {
        let options = WatchOptions { from_revision, ..WatchOptions::default() };
        let mut watch = self.watch_with(key, Bytes::new(), options);
        while let Some(item) = watch.next().await {
            match item {
                WatchItem::Events { events, .. } => {
                    if events.iter().any(|event| event.r#type() == EventType::Delete) {
                        return Ok(());
                    }
                }
                WatchItem::Begun { .. } | WatchItem::Progress { .. } => {}
                // The loop above reads anew.
                WatchItem::Compacted { .. } => return Ok(()),
                WatchItem::Refused(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Leaves the line, unless the place belongs to somebody else by now.
    ///
    /// # Errors
    /// The store's, see [`Error`].
    pub async fn queue_leave(&self, place: &Place) -> Result<(), Error> {
        let delete = DeleteRangeRequest { key: place.key.clone(), ..DeleteRangeRequest::default() };
        let leave = TxnRequest {
            compare: vec![is_created(&place.key, place.create_revision)],
            success: vec![op(Request::RequestDeleteRange(delete))],
            failure: Vec::new(),
        };
        self.txn(leave).await.map(drop)
    }

    /// Who holds the name, and what the store said about it.
    ///
    /// # Errors
    /// The store's, see [`Error`].
    pub async fn queue_holder(&self, name: &str) -> Result<(Option<KeyValue>, ResponseHeader), Error> {
        let answer = self.range(oldest(name)).await?;
        Ok((answer.kvs.into_iter().next(), answer.header.unwrap_or_default()))
    }
}

/// What an earlier run of the same waiter left.
fn former_place(answer: &TxnResponse) -> Option<&KeyValue> {
    match answer.responses.first()?.response.as_ref()? {
        Response::ResponseRange(range) if !answer.succeeded => range.kvs.first(),
        _ => None,
    }
}
