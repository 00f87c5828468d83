//! The records in the store: plain keys and JSON, read together and written
//! only if nobody else has written meanwhile.

use bytes::Bytes;
use proa_etcd_api::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, compare,
    range_request::{SortOrder, SortTarget},
    request_op, response_op,
};
use proa_etcd_client::{Client, Error, Timeouts, prefix_range};
use serde::{Serialize, de::DeserializeOwned};

use crate::{config::Config, error::Refused};

/// For one connection to one member of the store.
const CONNECT_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);
/// Records of one page: instances of 40 KB make 4 MB.
const PAGE_RECORDS: i64 = 100;

/// The records of one update server, or of several that serve together.
#[derive(Clone)]
pub struct Store {
    client: Client,
    prefix: String,
}

/// A record as it was read.
#[derive(Clone, Debug)]
pub struct Record {
    /// The key without the store's prefix.
    pub key: String,
    /// Its JSON.
    pub value: Bytes,
    /// Its last change.
    pub revision: i64,
}

/// What to read.
#[derive(Clone, Debug)]
pub enum Place {
    /// One record.
    Key(String),
    /// All records whose keys begin like this.
    Under(String),
    /// Only the keys of these.
    KeysUnder(String),
    /// Only the keys of these, those whose records were written longest ago first.
    OldestUnder(String),
    /// Only how many there are.
    CountUnder(String),
}

/// What was read at one place.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The records, by key.
    pub records: Vec<Record>,
    /// How many there are.
    pub count: i64,
    /// The store's revision that this was read at.
    pub as_of: i64,
}

/// What to write, and what must not have changed for that.
#[derive(Clone, Debug, Default)]
pub struct Change {
    guards: Vec<(String, i64)>,
    guards_under: Vec<(String, i64)>,
    writes: Vec<(String, Option<Bytes>)>,
}

impl Record {
    /// The last part of the key: a name.
    pub fn name(&self) -> &str {
        self.key.rsplit('/').next().unwrap_or(&self.key)
    }

    /// The record's value.
    ///
    /// # Errors
    /// 500 when somebody else has written what we cannot read.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Refused> {
        serde_json::from_slice(&self.value).map_err(|error| {
            let text = format!("record {} cannot be read: {error}", self.key);
            Refused::new(http::StatusCode::INTERNAL_SERVER_ERROR, text)
        })
    }
}

impl Found {
    /// The record at a place that is one key.
    pub fn one(&self) -> Option<&Record> {
        self.records.first()
    }

    /// Its last change; 0 when there is none.
    pub fn revision(&self) -> i64 {
        self.one().map_or(0, |record| record.revision)
    }
}

impl Change {
    /// Only if the record was last changed then; 0 for a record that is not there.
    pub fn guard(&mut self, key: impl Into<String>, revision: i64) {
        self.guards.push((key.into(), revision));
    }

    /// Only if no record under a prefix was made or changed since that revision
    /// of the store.
    pub fn guard_under(&mut self, prefix: impl Into<String>, as_of: i64) {
        self.guards_under.push((prefix.into(), as_of));
    }

    /// Writes a record.
    pub fn put(&mut self, key: impl Into<String>, value: &impl Serialize) {
        let json = serde_json::to_vec(value).expect("our own types become JSON");
        self.writes.push((key.into(), Some(json.into())));
    }

    /// Deletes a record.
    pub fn delete(&mut self, key: impl Into<String>) {
        self.writes.push((key.into(), None));
    }
}

impl Store {
    /// The records under the prefix that `config` says.
    ///
    /// # Errors
    /// When an endpoint is none.
    pub fn new(config: &Config) -> Result<Self, Error> {
        let timeouts = Timeouts { connect: CONNECT_TIMEOUT, request: config.request_timeout };
        let client = match &config.tls {
            None => Client::with_timeouts(&config.endpoints, timeouts)?,
            Some(files) => Client::with_tls(&config.endpoints, timeouts, files.clone())?,
        };
        Ok(Self { client: client.falling_back(), prefix: config.prefix.clone() })
    }

    /// Reads several places as of one moment, in their order.
    ///
    /// # Errors
    /// The store's.
    pub async fn read(&self, places: &[Place]) -> Result<Vec<Found>, Error> {
        let success = places.iter().map(|place| self.lookup(place)).collect();
        let answer = self.client.txn(TxnRequest { success, ..TxnRequest::default() }).await?;
        let as_of = answer.header.map_or(0, |header| header.revision);
        let found = answer.responses.into_iter().map(|response| match response.response {
            Some(response_op::Response::ResponseRange(range)) => {
                let record = |kv: proa_etcd_api::mvccpb::KeyValue| Record {
                    key: self.inward(&kv.key),
                    value: kv.value,
                    revision: kv.mod_revision,
                };
                Found { count: range.count, records: range.kvs.into_iter().map(record).collect(), as_of }
            }
            _ => Found::default(),
        });
        Ok(found.collect())
    }

    /// Reads one record.
    ///
    /// # Errors
    /// The store's.
    pub async fn get(&self, key: &str) -> Result<Found, Error> {
        let found = self.read(&[Place::Key(key.to_owned())]).await?;
        Ok(found.into_iter().next().unwrap_or_default())
    }

    /// Hands all records under a prefix to `take`, page after page, so that
    /// never all are in memory.
    ///
    /// # Errors
    /// The store's, or that of `take`.
    pub async fn each(
        &self,
        prefix: &str,
        mut take: impl FnMut(&Record) -> Result<(), Refused>,
    ) -> Result<(), Refused> {
        let (mut key, range_end) = prefix_range(self.outward(prefix).as_ref());
        loop {
            let range_end = range_end.clone();
            let request = RangeRequest { key, range_end, limit: PAGE_RECORDS, ..RangeRequest::default() };
            let answer = self.client.range(request).await?;
            for kv in &answer.kvs {
                let record =
                    Record { key: self.inward(&kv.key), value: kv.value.clone(), revision: kv.mod_revision };
                take(&record)?;
            }
            let Some(last) = answer.kvs.last().filter(|_| answer.more) else { return Ok(()) };
            key = [last.key.as_ref(), b"\0"].concat().into();
        }
    }

    /// Makes a change; `false` when a guard failed and nothing was done.
    ///
    /// # Errors
    /// The store's. After [`Error::Unavailable`] it may have been made all the same.
    pub async fn commit(&self, change: Change) -> Result<bool, Error> {
        let one = change.guards.iter().map(|(key, revision)| self.compare(key, *revision));
        let under = change.guards_under.iter().map(|(prefix, as_of)| self.compare_under(prefix, *as_of));
        let request = TxnRequest {
            compare: one.chain(under).collect(),
            success: change.writes.into_iter().map(|(key, value)| self.write(&key, value)).collect(),
            failure: Vec::new(),
        };
        Ok(self.client.txn(request).await?.succeeded)
    }

    fn lookup(&self, place: &Place) -> RequestOp {
        let (Place::Key(key)
        | Place::Under(key)
        | Place::KeysUnder(key)
        | Place::OldestUnder(key)
        | Place::CountUnder(key)) = place;
        let key = self.outward(key);
        let (key, range_end) = match place {
            Place::Key(_) => (key, Bytes::new()),
            Place::Under(_) | Place::KeysUnder(_) | Place::OldestUnder(_) | Place::CountUnder(_) => {
                prefix_range(&key)
            }
        };
        let is_oldest = matches!(place, Place::OldestUnder(_));
        let (sort_order, sort_target) =
            if is_oldest { (SortOrder::Ascend, SortTarget::Mod) } else { Default::default() };
        let range = RangeRequest {
            key,
            range_end,
            sort_order: sort_order.into(),
            sort_target: sort_target.into(),
            keys_only: is_oldest || matches!(place, Place::KeysUnder(_)),
            count_only: matches!(place, Place::CountUnder(_)),
            ..RangeRequest::default()
        };
        RequestOp { request: Some(request_op::Request::RequestRange(range)) }
    }

    fn write(&self, key: &str, value: Option<Bytes>) -> RequestOp {
        let key = self.outward(key);
        let request = match value {
            Some(value) => {
                request_op::Request::RequestPut(PutRequest { key, value, ..PutRequest::default() })
            }
            None => request_op::Request::RequestDeleteRange(DeleteRangeRequest {
                key,
                ..DeleteRangeRequest::default()
            }),
        };
        RequestOp { request: Some(request) }
    }

    fn compare(&self, key: &str, revision: i64) -> Compare {
        Compare {
            result: compare::CompareResult::Equal.into(),
            target: compare::CompareTarget::Mod.into(),
            key: self.outward(key),
            target_union: Some(compare::TargetUnion::ModRevision(revision)),
            ..Compare::default()
        }
    }

    fn compare_under(&self, prefix: &str, as_of: i64) -> Compare {
        let (key, range_end) = prefix_range(&self.outward(prefix));
        Compare {
            result: compare::CompareResult::Less.into(),
            key,
            range_end,
            ..self.compare(prefix, as_of + 1)
        }
    }

    fn outward(&self, key: &str) -> Bytes {
        format!("{}{key}", self.prefix).into()
    }

    fn inward(&self, key: &[u8]) -> String {
        let text = String::from_utf8_lossy(key);
        text.strip_prefix(&self.prefix).unwrap_or(&text).to_owned()
    }
}
