//! The store as one would write it on a napkin: every revision is a full copy.

use proa_etcd_api::EtcdError;
use proa_etcd_api::command::{Command, command::Op};
use proa_etcd_api::etcdserverpb::compare::TargetUnion;
use proa_etcd_api::etcdserverpb::request_op::Request;
use proa_etcd_api::etcdserverpb::response_op::Response;
use proa_etcd_api::etcdserverpb::*;
use proa_etcd_api::mvccpb::{Event, KeyValue};
use proa_etcd_store::Reply;
use std::collections::{BTreeMap, BTreeSet};

pub type State = BTreeMap<Vec<u8>, KeyValue>;

#[derive(Clone, Default)]
pub struct Naive {
    /// All keys at every revision; the first is revision 1.
    pub states: Vec<State>,
    pub compacted: Option<i64>,
    pub leases: BTreeSet<i64>,
}

/// What is done inside one revision.
struct Draft {
    /// As it was before; watchers are told of nothing in between.
    begin: State,
    state: State,
    revision: i64,
    events: Vec<Event>,
}

impl Naive {
    pub fn new() -> Self {
        Self { states: vec![State::new()], ..Self::default() }
    }

    pub fn revision(&self) -> i64 {
        self.states.len() as i64
    }

    fn newest(&self) -> &State {
        &self.states[self.states.len() - 1]
    }

    fn draft(&self) -> Draft {
        Draft {
            begin: self.newest().clone(),
            state: self.newest().clone(),
            revision: self.revision(),
            events: Vec::new(),
        }
    }

    fn keep(&mut self, draft: Draft) -> Vec<Event> {
        if !draft.events.is_empty() {
            self.states.push(draft.state);
        }
        draft.events
    }

    fn readable(&self, revision: i64, newest: i64) -> Result<(), EtcdError> {
        if revision > newest {
            Err(EtcdError::FutureRevision)
        } else if revision > 0 && revision < self.compacted.unwrap_or(-1) {
            Err(EtcdError::Compacted)
        } else {
            Ok(())
        }
    }

    pub fn range(&self, request: &RangeRequest) -> Result<RangeResponse, EtcdError> {
        self.readable(request.revision, self.revision())?;
        Ok(self.range_in(request, self.newest(), self.revision()))
    }

    fn range_in(&self, request: &RangeRequest, newest: &State, revision: i64) -> RangeResponse {
        let state = match request.revision {
            at if at > 0 && at <= self.revision() && at != revision => &self.states[at as usize - 1],
            _ => newest,
        };
        let mut kvs = select(state, &request.key, &request.range_end);
        let count = kvs.len() as i64;
        if request.count_only {
            kvs.clear();
        }
        let filters = [
            request.min_mod_revision,
            request.max_mod_revision,
            request.min_create_revision,
            request.max_create_revision,
        ];
        let limit = request.limit as usize;
        // Sorting that is only implied comes after the limit.
        if request.sort_order == 0 && filters == [0; 4] && limit > 0 {
            kvs.truncate(limit + 1);
        }
        kvs.retain(|kv| {
            (filters[0] == 0 || kv.mod_revision >= filters[0])
                && (filters[1] == 0 || kv.mod_revision <= filters[1])
                && (filters[2] == 0 || kv.create_revision >= filters[2])
                && (filters[3] == 0 || kv.create_revision <= filters[3])
        });
        match request.sort_target {
            0 => kvs.sort_by(|a, b| a.key.cmp(&b.key)),
            1 => kvs.sort_by_key(|kv| kv.version),
            2 => kvs.sort_by_key(|kv| kv.create_revision),
            3 => kvs.sort_by_key(|kv| kv.mod_revision),
            _ => kvs.sort_by(|a, b| a.value.cmp(&b.value)),
        }
        if request.sort_order == 2 {
            kvs = reverse_between_equals(kvs, request.sort_target);
        }
        let more = limit > 0 && kvs.len() > limit;
        if more {
            kvs.truncate(limit);
        }
        if request.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value.clear());
        }
        RangeResponse { header: header(revision), kvs, more, count }
    }

    /// The answer and the events of a command.
    pub fn apply(&mut self, command: &Command) -> (Result<Reply, EtcdError>, Vec<Event>) {
        let mut events = Vec::new();
        let reply = self.reply(command, &mut events);
        (reply, events)
    }

    fn reply(&mut self, command: &Command, events: &mut Vec<Event>) -> Result<Reply, EtcdError> {
        let Some(op) = &command.op else { return Ok(Reply::Nothing) };
        match op {
            Op::Put(put) => {
                self.may_put_lease(put)?;
                self.may_keep(put)?;
                let mut draft = self.draft();
                let response = draft.put(put);
                *events = self.keep(draft);
                Ok(Reply::Put(response))
            }
            Op::DeleteRange(delete) => {
                let mut draft = self.draft();
                let response = draft.delete(delete);
                *events = self.keep(draft);
                Ok(Reply::DeleteRange(response))
            }
            Op::Txn(txn) => {
                let flat = self.decide(txn);
                self.may(&flat, &|op| self.may_put(op))?;
                self.may(&flat, &|op| self.may_read(op))?;
                let mut draft = self.draft();
                let mut response = self.perform(&flat, &mut draft);
                *events = self.keep(draft);
                response.header = header(self.revision());
                Ok(Reply::Txn(response))
            }
            Op::Compaction(request) => {
                if request.revision <= self.compacted.unwrap_or(-1) {
                    return Err(EtcdError::Compacted);
                }
                self.readable(request.revision, self.revision())?;
                self.compacted = Some(request.revision);
                Ok(Reply::Compaction(CompactionResponse { header: header(self.revision()) }))
            }
            Op::LeaseGrant(LeaseGrantRequest { id, ttl }) => match (*id, self.leases.contains(id)) {
                (0, _) => Err(EtcdError::LeaseNotFound),
                (_, true) => Err(EtcdError::LeaseExists),
                (id, false) => {
                    self.leases.insert(id);
                    let (header, error) = (header(self.revision()), String::new());
                    Ok(Reply::LeaseGrant(LeaseGrantResponse { header, id, ttl: *ttl, error }))
                }
            },
            Op::LeaseRevoke(request) => {
                let before = self.leases.len();
                for id in &request.ids {
                    if self.leases.remove(id) {
                        events.extend(self.end_lease(*id));
                    }
                }
                if self.leases.len() == before {
                    return Err(EtcdError::LeaseNotFound);
                }
                Ok(Reply::LeaseRevoke(LeaseRevokeResponse { header: header(self.revision()) }))
            }
            Op::LeaseCheckpoint(_) => {
                Ok(Reply::LeaseCheckpoint(LeaseCheckpointResponse { header: header(self.revision()) }))
            }
            Op::Alarm(_) | Op::Member(_) | Op::Auth(_) | Op::V2Write(_) | Op::V2Expire(_) => {
                unreachable!("not generated")
            }
        }
    }

    fn end_lease(&mut self, id: i64) -> Vec<Event> {
        let mut draft = self.draft();
        for (key, kv) in self.newest() {
            if kv.lease == id {
                draft.remove(key);
            }
        }
        self.keep(draft)
    }

    fn may_put_lease(&self, put: &PutRequest) -> Result<(), EtcdError> {
        let known = put.lease == 0 || self.leases.contains(&put.lease);
        if known { Ok(()) } else { Err(EtcdError::LeaseNotFound) }
    }

    fn may_keep(&self, put: &PutRequest) -> Result<(), EtcdError> {
        let missing = !self.newest().contains_key(&put.key[..]);
        if missing && (put.ignore_value || put.ignore_lease) { Err(EtcdError::KeyNotFound) } else { Ok(()) }
    }

    /// The same transaction with conditions replaced by what they came to.
    fn decide(&self, txn: &TxnRequest) -> (bool, Vec<Decided>) {
        let holds = txn.compare.iter().all(|compare| {
            let kvs = select(self.newest(), &compare.key, &compare.range_end);
            match kvs.is_empty() {
                true => compare.target != 3 && meets(compare, &KeyValue::default()),
                false => kvs.iter().all(|kv| meets(compare, kv)),
            }
        });
        let ops = if holds { &txn.success } else { &txn.failure };
        let decided = ops.iter().map(|op| match op.request.clone() {
            Some(Request::RequestTxn(inner)) => {
                let (holds, ops) = self.decide(&inner);
                Decided::Txn(holds, ops)
            }
            Some(other) => Decided::Op(other),
            None => unreachable!("checked"),
        });
        (holds, decided.collect())
    }

    fn may(
        &self,
        (_, ops): &(bool, Vec<Decided>),
        check: &dyn Fn(&Request) -> Result<(), EtcdError>,
    ) -> Result<(), EtcdError> {
        ops.iter().try_for_each(|op| match op {
            Decided::Txn(holds, ops) => self.may(&(*holds, ops.clone()), check),
            Decided::Op(op) => check(op),
        })
    }

    fn may_put(&self, op: &Request) -> Result<(), EtcdError> {
        let Request::RequestPut(put) = op else { return Ok(()) };
        self.may_keep(put)?;
        self.may_put_lease(put)
    }

    fn may_read(&self, op: &Request) -> Result<(), EtcdError> {
        let Request::RequestRange(range) = op else { return Ok(()) };
        if range.revision < 0 && range.revision < self.compacted.unwrap_or(-1) {
            return Err(EtcdError::Compacted);
        }
        self.readable(range.revision, self.revision())
    }

    fn perform(&self, (succeeded, ops): &(bool, Vec<Decided>), draft: &mut Draft) -> TxnResponse {
        let mut responses = Vec::new();
        for op in ops {
            let response = match op {
                Decided::Txn(holds, ops) => {
                    Response::ResponseTxn(self.perform(&(*holds, ops.clone()), draft))
                }
                Decided::Op(Request::RequestPut(put)) => Response::ResponsePut(draft.put(put)),
                Decided::Op(Request::RequestDeleteRange(delete)) => {
                    Response::ResponseDeleteRange(draft.delete(delete))
                }
                Decided::Op(Request::RequestRange(range)) => {
                    Response::ResponseRange(self.range_in(range, &draft.state, draft.shown()))
                }
                Decided::Op(Request::RequestTxn(_)) => unreachable!("decided"),
            };
            responses.push(ResponseOp { response: Some(response) });
        }
        TxnResponse { header: Some(ResponseHeader::default()), succeeded: *succeeded, responses }
    }
}

#[derive(Clone)]
enum Decided {
    Op(Request),
    Txn(bool, Vec<Decided>),
}

impl Draft {
    fn shown(&self) -> i64 {
        self.revision + i64::from(!self.events.is_empty())
    }

    fn put(&mut self, put: &PutRequest) -> PutResponse {
        let before = self.state.get(&put.key[..]).cloned();
        let old = before.clone().unwrap_or_default();
        let kv = KeyValue {
            key: put.key.clone(),
            create_revision: if before.is_some() { old.create_revision } else { self.revision + 1 },
            mod_revision: self.revision + 1,
            version: old.version + 1,
            value: if put.ignore_value { old.value } else { put.value.clone() },
            lease: if put.ignore_lease { old.lease } else { put.lease },
        };
        self.state.insert(put.key.to_vec(), kv.clone());
        self.events.push(Event {
            r#type: 0,
            kv: Some(kv),
            prev_kv: self.begin.get(&put.key[..]).filter(|_| before.is_some()).cloned(),
        });
        PutResponse { header: header(self.revision + 1), prev_kv: before.filter(|_| put.prev_kv) }
    }

    fn delete(&mut self, delete: &DeleteRangeRequest) -> DeleteRangeResponse {
        let found = select(&self.state, &delete.key, &delete.range_end);
        for kv in &found {
            self.remove(&kv.key);
        }
        let deleted = found.len() as i64;
        let prev_kvs = if delete.prev_kv { found } else { Vec::new() };
        DeleteRangeResponse { header: header(self.shown()), deleted, prev_kvs }
    }

    fn remove(&mut self, key: &[u8]) {
        self.state.remove(key);
        let kv = KeyValue { key: key.to_vec().into(), mod_revision: self.revision + 1, ..Default::default() };
        self.events.push(Event { r#type: 1, kv: Some(kv), prev_kv: self.begin.get(key).cloned() });
    }
}

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..ResponseHeader::default() })
}

fn select(state: &State, key: &[u8], range_end: &[u8]) -> Vec<KeyValue> {
    let inside = |candidate: &[u8]| match range_end {
        [] => candidate == key,
        [0] => candidate >= key,
        end => candidate >= key && candidate < end,
    };
    state.iter().filter(|(candidate, _)| inside(candidate)).map(|(_, kv)| kv.clone()).collect()
}

/// Descending order that leaves equal entries in ascending key order.
fn reverse_between_equals(kvs: Vec<KeyValue>, target: i32) -> Vec<KeyValue> {
    let same = |a: &KeyValue, b: &KeyValue| match target {
        0 => a.key == b.key,
        1 => a.version == b.version,
        2 => a.create_revision == b.create_revision,
        3 => a.mod_revision == b.mod_revision,
        _ => a.value == b.value,
    };
    let groups: Vec<Vec<KeyValue>> = kvs.chunk_by(same).map(<[KeyValue]>::to_vec).collect();
    groups.into_iter().rev().flatten().collect()
}

fn meets(compare: &Compare, kv: &KeyValue) -> bool {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let union = compare.target_union.clone();
    let order = match compare.target {
        0 => kv.version.cmp(&if let Some(TargetUnion::Version(given)) = union { given } else { 0 }),
        1 => kv.create_revision.cmp(&if let Some(TargetUnion::CreateRevision(given)) = union {
            given
        } else {
            0
        }),
        2 => kv.mod_revision.cmp(&if let Some(TargetUnion::ModRevision(given)) = union { given } else { 0 }),
        3 => kv.value.cmp(&if let Some(TargetUnion::Value(given)) = union {
            given
        } else {
            Default::default()
        }),
        4 => kv.lease.cmp(&if let Some(TargetUnion::Lease(given)) = union { given } else { 0 }),
        _ => Equal,
    };
    match compare.result {
        0 => order == Equal,
        1 => order == Greater,
        2 => order == Less,
        3 => order != Equal,
        _ => true,
    }
}
