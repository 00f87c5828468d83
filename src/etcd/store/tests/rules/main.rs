//! One rule of etcd a test: a table of requests and what must come of them.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod alarms;
mod auth;
mod auth_matrix;
mod compaction;
mod kv;
mod leases;
mod refusals;
mod txn;
mod values;

use proa_etcd_api::EtcdError;
use proa_etcd_api::command::{Command, LeaseRevoke, command::Op};
use proa_etcd_api::etcdserverpb::request_op::Request;
use proa_etcd_api::etcdserverpb::*;
use proa_etcd_api::mvccpb::KeyValue;
use proa_etcd_store::{Machine, MemView, Outcome, Reply, Writes, range};

/// A store of one member that applies every command at once.
struct Store {
    machine: Machine,
    view: MemView,
}

impl Store {
    fn new() -> Self {
        let view = MemView::default();
        Self { machine: Machine::load(&view).unwrap(), view }
    }

    /// A store after these commands, all of which succeed.
    fn after(ops: impl IntoIterator<Item = Op>) -> Self {
        let mut store = Self::new();
        for op in ops {
            store.apply(op).reply.unwrap();
        }
        store
    }

    fn apply(&mut self, op: Op) -> Outcome {
        let mut writes = Writes::default();
        let outcome = self.machine.apply(&self.view, &mut writes, &Command { op: Some(op) });
        self.view.apply(&writes);
        assert_eq!(Machine::load(&self.view).as_ref(), Ok(&self.machine), "what is stored is what is known");
        outcome
    }

    fn refused(&mut self, op: Op) -> EtcdError {
        let before = (self.view.clone(), self.machine.clone());
        let outcome = self.apply(op);
        assert_eq!(outcome.events, [], "a refusal is no event");
        assert!((&self.view, &self.machine) == (&before.0, &before.1), "a refusal changes nothing");
        outcome.reply.unwrap_err()
    }

    fn revision(&self) -> i64 {
        self.machine.head().revision
    }

    fn range(&self, request: &RangeRequest) -> Result<RangeResponse, EtcdError> {
        range(&self.view, self.machine.head(), request)
    }

    fn get(&self, key: &str) -> Option<KeyValue> {
        self.range(&read(key)).unwrap().kvs.pop()
    }

    /// All keys, with their values: `a=1 b=2`.
    fn dump(&self) -> String {
        show(&self.range(&RangeRequest { range_end: vec![0].into(), ..read("\0") }).unwrap().kvs)
    }
}

/// Entries as text: `a=1 b=2`.
fn show(kvs: &[KeyValue]) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    kvs.iter().map(|kv| format!("{}={}", text(&kv.key), text(&kv.value))).collect::<Vec<_>>().join(" ")
}

/// Events as text: `put a=1@2 was -, del a@3 was 1`.
fn show_events(outcome: &Outcome) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let events = outcome.events.iter().map(|event| {
        let kv = event.kv.as_ref().unwrap();
        let was = event.prev_kv.as_ref().map_or("-".to_owned(), |kv| text(&kv.value));
        match event.r#type {
            0 => format!("put {}={}@{} was {was}", text(&kv.key), text(&kv.value), kv.mod_revision),
            _ => format!("del {}@{} was {was}", text(&kv.key), kv.mod_revision),
        }
    });
    events.collect::<Vec<_>>().join(", ")
}

fn read(key: &str) -> RangeRequest {
    RangeRequest { key: key.as_bytes().to_vec().into(), ..RangeRequest::default() }
}

fn put_request(key: &str, value: &str) -> PutRequest {
    let (key, value) = (key.as_bytes().to_vec().into(), value.as_bytes().to_vec().into());
    PutRequest { key, value, ..PutRequest::default() }
}

fn delete_request(key: &str, range_end: &str) -> DeleteRangeRequest {
    let (key, range_end) = (key.as_bytes().to_vec().into(), range_end.as_bytes().to_vec().into());
    DeleteRangeRequest { key, range_end, prev_kv: true }
}

fn put(key: &str, value: &str) -> Op {
    Op::Put(put_request(key, value))
}

fn put_leased(key: &str, value: &str, lease: i64) -> Op {
    Op::Put(PutRequest { lease, ..put_request(key, value) })
}

fn delete(key: &str, range_end: &str) -> Op {
    Op::DeleteRange(delete_request(key, range_end))
}

fn compact(revision: i64) -> Op {
    Op::Compaction(CompactionRequest { revision, physical: false })
}

fn grant(id: i64) -> Op {
    Op::LeaseGrant(LeaseGrantRequest { id, ttl: 60 })
}

fn revoke(ids: &[i64]) -> Op {
    Op::LeaseRevoke(LeaseRevoke { ids: ids.to_vec() })
}

fn ops(requests: Vec<Request>) -> Vec<RequestOp> {
    requests.into_iter().map(|request| RequestOp { request: Some(request) }).collect()
}

fn txn(compare: Vec<Compare>, success: Vec<Request>, failure: Vec<Request>) -> TxnRequest {
    TxnRequest { compare, success: ops(success), failure: ops(failure) }
}

fn revision_in(header: &Option<ResponseHeader>) -> i64 {
    header.as_ref().unwrap().revision
}

fn header_revision(reply: &Reply) -> i64 {
    revision_in(match reply {
        Reply::Put(response) => &response.header,
        Reply::DeleteRange(response) => &response.header,
        Reply::Txn(response) => &response.header,
        Reply::Compaction(response) => &response.header,
        Reply::LeaseGrant(response) => &response.header,
        Reply::LeaseRevoke(response) => &response.header,
        Reply::LeaseCheckpoint(response) => &response.header,
        Reply::Alarm(response) => &response.header,
        Reply::Auth | Reply::Member | Reply::Nothing | Reply::V2(_) | Reply::V2Expired(_) => {
            panic!("no header in {reply:?}")
        }
    })
}
