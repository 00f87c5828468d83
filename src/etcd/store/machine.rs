//! The replicated state machine: one command after another.

use crate::auth::{AuthState, authorise, needs};
use crate::check;
use crate::keys;
use crate::range;
use crate::record::{Head, LeaseRecord};
use crate::revision::Revision;
use crate::txn::{self, Chosen};
use crate::v2;
use crate::view::{Overlay, View, Writes};
use proa_etcd_api::EtcdError;
use proa_etcd_api::command::{AuthChange, Command, Proposal, Requester, V2Event, command::Op};
use proa_etcd_api::etcdserverpb::{
    AlarmMember, AlarmResponse, AlarmType, CompactionRequest, CompactionResponse, DeleteRangeResponse,
    LeaseCheckpointResponse, LeaseGrantResponse, LeaseRevokeResponse, PutRequest, PutResponse, TxnRequest,
    TxnResponse,
};
use proa_etcd_api::mvccpb::Event;
use proa_etcd_api::v2::V2Error;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What is kept in memory of the replicated state: the head, the leases (about
/// 60 bytes each), the raised alarms and who may do what. Everything else is
/// in the view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    pub(crate) head: Head,
    pub(crate) leases: BTreeMap<i64, LeaseRecord>,
    pub(crate) alarms: BTreeSet<(u64, i32)>,
    pub(crate) auth: Arc<AuthState>,
    v2: v2::Head,
    with_previous: bool,
}

/// What came of a command.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The answer for the client that waits for it.
    pub reply: Result<Reply, EtcdError>,
    /// What watchers are to see, by ascending `mod_revision`. `prev_kv` is
    /// there when there was an entry, unless [`Machine::tell_previous`] said
    /// that nobody wants it; who did not ask for it must not be sent it. Keys
    /// and values of puts share the buffer of the command: copy what is kept
    /// for long.
    pub events: Vec<Event>,
    /// What v2 watchers are to see, by ascending index.
    pub v2_events: Vec<V2Event>,
}

impl Outcome {
    fn without_events(reply: Result<Reply, EtcdError>) -> Self {
        Self { reply, events: Vec::new(), v2_events: Vec::new() }
    }
}

/// An answer, its header empty but for the revision.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "each variant is named after its command")]
pub enum Reply {
    Put(PutResponse),
    DeleteRange(DeleteRangeResponse),
    Txn(TxnResponse),
    Compaction(CompactionResponse),
    LeaseGrant(LeaseGrantResponse),
    LeaseRevoke(LeaseRevokeResponse),
    LeaseCheckpoint(LeaseCheckpointResponse),
    Alarm(AlarmResponse),
    /// Users, roles or permissions were changed.
    Auth,
    /// A member's name and URLs were recorded.
    Member,
    /// The v2 tree was changed, or refused to be.
    V2(Result<V2Event, V2Error>),
    /// So many v2 nodes were ended.
    V2Expired(usize),
    /// An empty command did nothing.
    Nothing,
}

/// A stored entry that this crate did not write, or not like this.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the store's {what} under {} cannot be read", key.escape_ascii())]
pub struct Corrupt {
    /// What should have been there.
    pub what: &'static str,
    /// The stored key.
    pub key: Vec<u8>,
}

impl Machine {
    /// Reads the heads back from what was stored; an empty view is a new store.
    ///
    /// # Errors
    /// [`Corrupt`] if head, leases or alarms are not as they were written, or a later version
    /// wrote them.
    pub fn load(view: &dyn View) -> Result<Self, Corrupt> {
        let head = match view.get(keys::HEAD) {
            Some(stored) => {
                Head::decode(&stored).map_err(|what| Corrupt { what, key: keys::HEAD.to_vec() })?
            }
            // The first change stores a head: keys without one have lost it.
            None => match view.first(b"K", keys::VERSIONS_END) {
                Some(_) => return Err(Corrupt { what: "head", key: keys::HEAD.to_vec() }),
                None => Head::EMPTY,
            },
        };
        let mut leases = BTreeMap::new();
        for (key, stored) in view.scan(keys::LEASES, keys::LEASES_END) {
            match (keys::split_lease(&key), LeaseRecord::decode(&stored)) {
                (Some(id), Some(lease)) => drop(leases.insert(id, lease)),
                (None, _) | (_, None) => return Err(Corrupt { what: "lease", key }),
            }
        }
        let mut alarms = BTreeSet::new();
        for key in view.keys(keys::ALARM, &keys::after_slash(keys::ALARM)) {
            alarms.insert(keys::split_alarm(&key).ok_or(Corrupt { what: "alarm", key })?);
        }
        let auth = Arc::new(AuthState::load(view)?);
        Ok(Self { head, leases, alarms, auth, v2: v2::head(view)?, with_previous: true })
    }

    /// Whether events tell what was there before, as at first they do. Large
    /// values are not read when nobody wants them: deleting many keys then costs
    /// no more than their names.
    pub fn tell_previous(&mut self, wanted: bool) {
        self.with_previous = wanted;
    }

    /// Who may do what, as of the last command: cheap to keep beside a view.
    pub fn auth(&self) -> Arc<AuthState> {
        Arc::clone(&self.auth)
    }

    /// How far the store is.
    pub fn head(&self) -> Head {
        self.head
    }

    /// Applies one proposal, if who wants it still may: users and permissions
    /// can have changed since it was let in.
    ///
    /// # Panics
    /// As [`Machine::apply`].
    pub fn apply_proposal(&mut self, view: &dyn View, writes: &mut Writes, proposal: &Proposal) -> Outcome {
        let nobody = Requester::default();
        let requester = proposal.requester.as_ref().unwrap_or(&nobody);
        let Some(command) = &proposal.command else {
            return Outcome::without_events(Ok(Reply::Nothing));
        };
        if let Some(op) = command.op.as_ref().filter(|_| self.auth.is_enabled()) {
            let overlay = Overlay { base: view, writes };
            if let Err(error) = authorise(&self.auth, requester, &needs::command(op), &overlay) {
                return Outcome::without_events(Err(error));
            }
        }
        self.apply(view, writes, command)
    }

    /// Applies one command, whoever wants it.
    ///
    /// `view` is the state before the batch, `writes` what the batch has
    /// written so far. Deterministic and total: the same commands give the
    /// same answers and the same bytes on every member, however they are cut
    /// into batches.
    ///
    /// # Panics
    /// If the view holds an entry that this crate did not write.
    pub fn apply(&mut self, view: &dyn View, writes: &mut Writes, command: &Command) -> Outcome {
        let Some(op) = &command.op else {
            return Outcome::without_events(Ok(Reply::Nothing));
        };
        if let Err(error) = self.admit(op) {
            return Outcome::without_events(Err(error));
        }
        let (mut events, mut v2_events) = (Vec::new(), Vec::new());
        let reply = match op {
            Op::Put(request) => self.put(view, writes, request, &mut events),
            Op::DeleteRange(request) => {
                let response =
                    self.write(view, writes, &mut events, |revision| revision.delete_range(request));
                Ok(Reply::DeleteRange(response))
            }
            Op::Txn(request) => self.txn(view, writes, request, &mut events),
            Op::Compaction(request) => self.compact(writes, request),
            Op::LeaseGrant(request) => self.grant(writes, request),
            Op::LeaseRevoke(request) => self.revoke(view, writes, &request.ids, &mut events),
            Op::LeaseCheckpoint(request) => Ok(self.checkpoint(writes, request)),
            Op::Alarm(request) => Ok(Reply::Alarm(self.alarm(writes, request))),
            Op::Member(member) => crate::members::publish(view, writes, member),
            Op::Auth(change) => self.change_auth(writes, change),
            Op::V2Write(request) => {
                let done = v2::write(view, writes, &mut self.v2, request);
                v2_events.extend(done.iter().filter(|event| !event.refresh).cloned());
                Ok(Reply::V2(done))
            }
            Op::V2Expire(request) => {
                v2_events = v2::expire(view, writes, &mut self.v2, request);
                Ok(Reply::V2Expired(v2_events.len()))
            }
        };
        Outcome { reply, events, v2_events }
    }

    /// The raised alarms, by member.
    pub fn alarms(&self) -> Vec<AlarmMember> {
        self.alarms.iter().map(|&(member_id, alarm)| AlarmMember { member_id, alarm }).collect()
    }

    /// True if this alarm is raised by any member. With
    /// [`AlarmType::Corrupt`] reads have to be refused as well.
    pub fn alarmed(&self, kind: AlarmType) -> bool {
        self.alarms.iter().any(|&(_, alarm)| alarm == kind as i32)
    }

    /// Refuses what a raised alarm forbids. What clears space or alarms stays
    /// possible.
    fn admit(&self, op: &Op) -> Result<(), EtcdError> {
        let touches_keys = match op {
            Op::Put(_)
            | Op::LeaseGrant(_)
            | Op::Txn(_)
            | Op::DeleteRange(_)
            | Op::Compaction(_)
            | Op::LeaseRevoke(_)
            | Op::V2Write(_)
            | Op::V2Expire(_) => true,
            Op::LeaseCheckpoint(_) | Op::Alarm(_) | Op::Member(_) | Op::Auth(_) => false,
        };
        if touches_keys && self.alarmed(AlarmType::Corrupt) {
            Err(EtcdError::Corrupt)
        } else if check::takes_space(op) && self.alarmed(AlarmType::Nospace) {
            Err(EtcdError::NoSpace)
        } else {
            Ok(())
        }
    }

    /// Runs `work` in a new revision; the head moves on if it changes anything.
    pub(crate) fn write<T>(
        &mut self,
        view: &dyn View,
        writes: &mut Writes,
        events: &mut Vec<Event>,
        work: impl FnOnce(&mut Revision<'_>) -> T,
    ) -> T {
        let mut revision = Revision::begin(view, writes, self.head, self.with_previous);
        let done = work(&mut revision);
        let (head, happened) = revision.finish();
        self.head = head;
        events.extend(happened);
        done
    }

    fn put(
        &mut self,
        view: &dyn View,
        writes: &mut Writes,
        request: &PutRequest,
        events: &mut Vec<Event>,
    ) -> Result<Reply, EtcdError> {
        if request.lease != 0 && !self.leases.contains_key(&request.lease) {
            return Err(EtcdError::LeaseNotFound);
        }
        txn::keeps_something(&Overlay { base: view, writes }, request)?;
        Ok(Reply::Put(self.write(view, writes, events, |revision| revision.put(request))))
    }

    fn txn(
        &mut self,
        view: &dyn View,
        writes: &mut Writes,
        request: &TxnRequest,
        events: &mut Vec<Event>,
    ) -> Result<Reply, EtcdError> {
        let chosen = {
            let overlay = Overlay { base: view, writes };
            let chosen = Chosen::new(&overlay, request);
            chosen.check(&overlay, self.head, &|lease| self.leases.contains_key(&lease))?;
            chosen
        };
        let mut response = self.write(view, writes, events, |revision| chosen.perform(revision));
        response.header = range::header(self.head.revision);
        Ok(Reply::Txn(response))
    }

    fn change_auth(&mut self, writes: &mut Writes, change: &AuthChange) -> Result<Reply, EtcdError> {
        match &change.change {
            // Readers hold the state as it was: they keep it.
            Some(change) => Arc::make_mut(&mut self.auth).change(writes, change).map(|()| Reply::Auth),
            None => Ok(Reply::Nothing),
        }
    }

    fn compact(&mut self, writes: &mut Writes, request: &CompactionRequest) -> Result<Reply, EtcdError> {
        if request.revision <= self.head.compact_revision {
            return Err(EtcdError::Compacted);
        }
        if request.revision > self.head.revision {
            return Err(EtcdError::FutureRevision);
        }
        self.head.compact_revision = request.revision;
        writes.put(keys::HEAD.to_vec(), self.head.encode());
        Ok(Reply::Compaction(CompactionResponse { header: range::header(self.head.revision) }))
    }
}
