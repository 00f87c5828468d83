//! The registry in the store: the model's plain data as requests, and answers as plain data.

use futures_util::StreamExt;
use hyper::body::Bytes;
use proa_etcd_api::{
    etcdserverpb::{
        Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest, RangeRequest,
        RequestOp, TxnRequest, compare, request_op, response_op,
    },
    mvccpb::{self, KeyValue},
};
use proa_etcd_client::tls::TlsFiles;
use proa_etcd_client::{Client, Error, Timeouts, Watch, WatchItem, prefix_range};
use proa_fleet_model::{
    registry::{Entry, Event, Key, LeaseId, PREFIX, Revision},
    txn::{Guard, MAX_TXN_OPS, Op, Txn},
};

/// Entries of one range request. 1000 records of 200 bytes are far from any
/// limit of a message, and 10 000 units take ten round trips.
const PAGE_ENTRIES: i64 = 1000;

/// The registry of one cluster.
#[derive(Clone)]
pub struct Store {
    client: Client,
    /// What stands in the store in place of the model's [`PREFIX`].
    prefix: String,
}

/// Everything under one prefix, as of one revision.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The revision of all entries; a watch goes on from the next one.
    pub revision: Revision,
    /// In the order of their keys.
    pub entries: Vec<Entry>,
}

/// What to read.
#[derive(Clone, Debug)]
pub enum Place {
    /// One key.
    Key(Key),
    /// Everything that starts with this.
    Under(String),
}

/// One delivery of a watch on the registry.
#[derive(Debug)]
pub enum Change {
    /// What happened, in order.
    Events(Revision, Vec<Event>),
    /// Some of it was lost, or the watch has ended: read everything anew.
    Lost,
}

/// A watch on one prefix.
pub struct Changes {
    watch: Watch,
    prefix: String,
}

impl Store {
    /// The registry under `prefix` in the store with these members.
    ///
    /// # Errors
    /// When an endpoint is none.
    pub fn new(
        endpoints: &[String],
        tls: Option<TlsFiles>,
        prefix: &str,
        timeouts: Timeouts,
    ) -> Result<Self, Error> {
        let client = match tls {
            None => Client::with_timeouts(endpoints, timeouts)?,
            Some(files) => Client::with_tls(endpoints, timeouts, files)?,
        };
        // A machine whose own member is down is no lost machine.
        let client = client.falling_back();
        let slash = if prefix.ends_with('/') { "" } else { "/" };
        Ok(Self { client, prefix: format!("{prefix}{slash}") })
    }

    /// Reads one key.
    ///
    /// # Errors
    /// As every call here: the store's, see [`Error`].
    pub async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        let request = RangeRequest { key: self.outward(&key.to_string()), ..RangeRequest::default() };
        let answer = self.client.range(request).await?;
        Ok(answer.kvs.into_iter().next().map(|kv| entry(&self.prefix, kv)))
    }

    /// Reads keys and everything under prefixes as of one moment, at most [`MAX_TXN_OPS`] of them
    /// a request; absent keys are left out.
    ///
    /// # Errors
    /// See [`Store::get`].
    pub async fn read_together(&self, places: &[Place]) -> Result<Vec<Entry>, Error> {
        let mut entries = Vec::new();
        for places in places.chunks(MAX_TXN_OPS) {
            let success = places.iter().map(|place| self.lookup(place)).collect();
            let request = TxnRequest { success, ..TxnRequest::default() };
            for response in self.client.txn(request).await?.responses {
                if let Some(response_op::Response::ResponseRange(range)) = response.response {
                    entries.extend(range.kvs.into_iter().map(|kv| entry(&self.prefix, kv)));
                }
            }
        }
        Ok(entries)
    }

    /// Reads everything under a prefix of the registry.
    ///
    /// # Errors
    /// See [`Store::get`].
    pub async fn read(&self, prefix: &str) -> Result<Snapshot, Error> {
        let (mut key, range_end) = prefix_range(&self.outward(prefix));
        let mut snapshot = Snapshot { revision: Revision(0), entries: Vec::new() };
        loop {
            let request = RangeRequest {
                key,
                range_end: range_end.clone(),
                limit: PAGE_ENTRIES,
                // Later pages are of the first one's moment.
                revision: snapshot.revision.0,
                ..RangeRequest::default()
            };
            let answer = self.client.range(request).await?;
            if snapshot.revision == Revision(0) {
                snapshot.revision = Revision(answer.header.map_or(0, |header| header.revision));
            }
            let Some(last) = answer.kvs.last() else { return Ok(snapshot) };
            key = [last.key.as_ref(), b"\0"].concat().into();
            snapshot.entries.extend(answer.kvs.into_iter().map(|kv| entry(&self.prefix, kv)));
            if !answer.more {
                return Ok(snapshot);
            }
        }
    }

    /// Does a transaction; `None` when a guard failed and nothing was done.
    ///
    /// # Errors
    /// See [`Store::get`]. After [`Error::Unavailable`] it may have been done all the same.
    pub async fn commit(&self, txn: &Txn) -> Result<Option<Revision>, Error> {
        let request = TxnRequest {
            compare: txn.guards.iter().map(|guard| self.compare(guard)).collect(),
            success: txn.ops.iter().map(|op| self.operation(op)).collect(),
            failure: Vec::new(),
        };
        let answer = self.client.txn(request).await?;
        let revision = answer.header.map_or(0, |header| header.revision);
        Ok(answer.succeeded.then_some(Revision(revision)))
    }

    /// Watches a prefix of the registry for what happens after a revision.
    pub fn watch(&self, prefix: &str, after: Revision) -> Changes {
        let (key, range_end) = prefix_range(&self.outward(prefix));
        Changes { watch: self.client.watch(key, range_end, after.0 + 1), prefix: self.prefix.clone() }
    }

    /// Makes a lease that lives for `ttl_s` seconds without a keep-alive.
    ///
    /// # Errors
    /// See [`Store::get`].
    pub async fn grant(&self, ttl_s: i64) -> Result<LeaseId, Error> {
        let answer = self.client.lease_grant(LeaseGrantRequest { ttl: ttl_s, ..Default::default() }).await?;
        Ok(LeaseId(answer.id))
    }

    /// Gives a lease its whole time again; `false` when it is no more.
    ///
    /// # Errors
    /// See [`Store::get`].
    pub async fn keep_alive(&self, lease: LeaseId) -> Result<bool, Error> {
        Ok(self.client.lease_keep_alive_once(lease.0).await?.ttl > 0)
    }

    /// Ends a lease and what lives under it.
    ///
    /// # Errors
    /// See [`Store::get`].
    pub async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        self.client.lease_revoke(LeaseRevokeRequest { id: lease.0 }).await.map(drop)
    }

    fn lookup(&self, place: &Place) -> RequestOp {
        let (key, range_end) = match place {
            Place::Key(key) => (self.outward(&key.to_string()), Bytes::new()),
            Place::Under(prefix) => prefix_range(&self.outward(prefix)),
        };
        let range = RangeRequest { key, range_end, ..RangeRequest::default() };
        RequestOp { request: Some(request_op::Request::RequestRange(range)) }
    }

    fn outward(&self, key: &str) -> Bytes {
        let inner = key.strip_prefix(PREFIX).expect("the model's keys start with its prefix");
        format!("{}{inner}", self.prefix).into()
    }

    fn compare(&self, guard: &Guard) -> Compare {
        use compare::{CompareResult, CompareTarget, TargetUnion};
        let (key, target, value) = match guard {
            Guard::Missing(key) => (key, CompareTarget::Create, TargetUnion::CreateRevision(0)),
            Guard::CreateRevision(key, at) => (key, CompareTarget::Create, TargetUnion::CreateRevision(at.0)),
            Guard::ModRevision(key, at) => (key, CompareTarget::Mod, TargetUnion::ModRevision(at.0)),
        };
        Compare {
            result: CompareResult::Equal.into(),
            target: target.into(),
            key: self.outward(key),
            target_union: Some(value),
            ..Compare::default()
        }
    }

    fn operation(&self, op: &Op) -> RequestOp {
        let request = match op {
            Op::Put { key, value, lease } => request_op::Request::RequestPut(PutRequest {
                key: self.outward(key),
                value: value.clone().into(),
                lease: lease.map_or(0, |lease| lease.0),
                ..PutRequest::default()
            }),
            Op::Delete { key } => request_op::Request::RequestDeleteRange(DeleteRangeRequest {
                key: self.outward(key),
                ..DeleteRangeRequest::default()
            }),
        };
        RequestOp { request: Some(request) }
    }
}

impl Changes {
    /// The next delivery. After [`Change::Lost`] there is no other.
    pub async fn next(&mut self) -> Change {
        loop {
            match self.watch.next().await {
                Some(WatchItem::Events { header, events }) => {
                    let events = events.into_iter().filter_map(|event| self.event(event)).collect();
                    return Change::Events(Revision(header.revision), events);
                }
                Some(WatchItem::Begun { .. } | WatchItem::Progress { .. }) => {}
                Some(WatchItem::Compacted { .. }) | None => return Change::Lost,
                Some(WatchItem::Refused(error)) => {
                    tracing::warn!("the store ended a watch: {error}");
                    return Change::Lost;
                }
            }
        }
    }

    fn event(&self, event: mvccpb::Event) -> Option<Event> {
        let is_delete = event.r#type() == mvccpb::event::EventType::Delete;
        let kv = event.kv?;
        if is_delete {
            let key = inward(&self.prefix, &kv.key);
            return Some(Event::Delete { key });
        }
        Some(Event::Put(entry(&self.prefix, kv)))
    }
}

fn entry(prefix: &str, kv: KeyValue) -> Entry {
    Entry {
        key: inward(prefix, &kv.key),
        value: kv.value.to_vec(),
        create_revision: Revision(kv.create_revision),
        mod_revision: Revision(kv.mod_revision),
    }
}

fn inward(prefix: &str, key: &[u8]) -> String {
    let text = String::from_utf8_lossy(key);
    format!("{PREFIX}{}", text.strip_prefix(prefix).unwrap_or(&text))
}
