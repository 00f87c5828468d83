//! The raft thread: one turn takes what is there, decides, and hands the work
//! to those who wait for disks and networks. It never waits for either.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use bytes::Bytes;
use proa_etcd_api::EtcdError;
use proa_etcd_api::command::{Command, Proposal, command::Op};
use proa_etcd_api::etcdserverpb::Member;
use proa_etcd_replica::eraftpb::{Entry, EntryType, MessageType};
use proa_etcd_replica::{Output, Position, Replica, Role, Standing, Write, decode_conf_change};
use prost::Message as _;

use super::applier::{Accepted, Changed, Decided, ToApplier};
use super::ask;
use super::changes::Changes;
use super::membership::Membership;
use super::outbox::Outbox;
use super::proposals::{MAX_PENDING, Origin, Pending};
use super::shared::{Installed, Shared, ToCore, Waiter, lock};
use super::writer::ToWriter;
use crate::database::CopiedFile;
use crate::metrics::{METRICS, add};
use crate::peer::Incoming;
use crate::peer::frame::Frame;
use crate::peer::snapshot::Receiving;

/// Inputs taken in one turn before raft is asked what follows.
const MAX_TURN: usize = 4_096;
/// Ticks between two tries to publish this member's name and URLs.
const PUBLISH_TICKS: u64 = 10;
/// Ticks a removed member goes on, so that the others hear of it.
const FAREWELL_TICKS: u64 = 5;

/// The raft thread's possessions.
pub(super) struct Core {
    pub(super) replica: Replica,
    pub(super) shared: Arc<Shared>,
    pub(super) peers: Arc<dyn Outbox>,
    /// Seconds since 1970, for the ids of new members.
    pub(super) clock: fn() -> u64,
    pub(super) writer: Sender<ToWriter>,
    pub(super) applier: Sender<ToApplier>,
    pub(super) inbox: Receiver<ToCore>,
    pub(super) tick: Duration,
    pub(super) member_id: u64,
    pub(super) membership: Membership,
    /// What this member says about itself once there is a leader.
    pub(super) myself: Member,
    /// Unsafe changes of the membership are refused.
    pub(super) is_strict: bool,
    pub(super) state: State,
}

#[derive(Default)]
pub(super) struct State {
    standing: Standing,
    /// The leader that this member told its name and URLs, or tried to.
    published_to: u64,
    pub(super) pending: VecDeque<Pending>,
    pub(super) pending_bytes: usize,
    /// Proposals of clients here that were proposed or forwarded, with the
    /// term: when an entry of a later term was applied and they were not,
    /// they never will be, and are proposed again.
    pub(super) outstanding: HashMap<u64, (u64, Bytes)>,
    reads: BTreeMap<u64, Waiter<()>>,
    pub(super) changes: Changes,
    /// The tick in which each member was last heard.
    pub(super) heard: BTreeMap<u64, u64>,
    received: Option<(Position, Vec<CopiedFile>, Receiving)>,
    copying: bool,
    pub(super) ticks: u64,
    farewell: Option<u64>,
    /// Who is sent to and is no member here, until this tick: removed ones (who
    /// asked for its own removal is owed an answer), and those not known yet.
    pub(super) guests: BTreeMap<u64, (u64, Vec<String>)>,
}

/// What a turn of the raft thread is made from.
pub(super) struct Parts {
    pub(super) replica: Replica,
    pub(super) shared: Arc<Shared>,
    pub(super) peers: Arc<dyn Outbox>,
    pub(super) clock: fn() -> u64,
    pub(super) writer: Sender<ToWriter>,
    pub(super) applier: Sender<ToApplier>,
    pub(super) inbox: Receiver<ToCore>,
    pub(super) tick: Duration,
    pub(super) membership: Membership,
    pub(super) myself: Member,
    pub(super) is_strict: bool,
}

impl Core {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts {
            replica,
            shared,
            peers,
            clock,
            writer,
            applier,
            inbox,
            tick,
            membership,
            myself,
            is_strict,
        } = parts;
        let member_id = myself.id;
        let mut state = State::default();
        state.changes.next_token = shared.next_id.load(Ordering::Relaxed) ^ member_id;
        Self {
            replica,
            shared,
            peers,
            clock,
            writer,
            applier,
            inbox,
            tick,
            member_id,
            membership,
            myself,
            is_strict,
            state,
        }
    }

    /// Runs until told to stop.
    pub(super) fn run(mut self) {
        self.begin();
        let mut next_tick = Instant::now() + self.tick;
        loop {
            let wait = next_tick.saturating_duration_since(Instant::now());
            let first = match self.inbox.recv_timeout(wait) {
                Ok(input) => Some(input),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let more: Vec<ToCore> = self.inbox.try_iter().take(MAX_TURN).collect();
            let mut goes_on = true;
            for input in first.into_iter().chain(more) {
                goes_on &= self.take(input);
            }
            let now = Instant::now();
            if now >= next_tick {
                // After a pause of the machine one tick, not all that were
                // missed: the leader may just have been paused as well.
                let is_late = now > next_tick + self.tick;
                if is_late && self.is_leader() {
                    // As in etcd: the next one goes out after twice its time.
                    add(&METRICS.heartbeats_late);
                }
                next_tick = now + self.tick;
                goes_on &= self.on_tick();
            }
            if !goes_on {
                break;
            }
            self.turn();
        }
        self.end();
    }

    /// What comes before the first input.
    pub(super) fn begin(&mut self) {
        self.set_peers();
        // Alone, there is nobody to wait for.
        if self.membership.members.len() == 1 {
            self.replica.campaign();
        }
    }

    /// What follows the inputs that were taken.
    pub(super) fn turn(&mut self) {
        self.submit();
        self.start_changes();
        self.perform();
    }

    fn end(&mut self) {
        let _ = self.writer.send(ToWriter::Stop);
        let _ = self.applier.send(ToApplier::Stop);
        for waiter in std::mem::take(&mut self.state.reads).into_values() {
            let _ = waiter.send(Err(EtcdError::Stopped));
        }
        self.state.changes.end(EtcdError::Stopped);
    }

    /// Takes one input; `false` ends the member.
    pub(super) fn take(&mut self, input: ToCore) -> bool {
        match input {
            ToCore::Propose { id, body } => self.on_propose(id, body),
            ToCore::Read(waiter) => {
                if self.state.reads.len() >= MAX_PENDING {
                    let _ = waiter.send(Err(EtcdError::TooManyRequests));
                } else {
                    self.state.reads.insert(self.replica.read_index(), waiter);
                }
            }
            ToCore::Change(change, done) => self.on_change(change, done),
            ToCore::Transfer { to } => self.on_transfer(to),
            ToCore::HandOver => {
                if let Some(successor) = self.replica.successor() {
                    self.on_transfer(successor);
                }
            }
            ToCore::Peer(incoming) => return self.on_peer(incoming),
            ToCore::Synced { number, installed } => self.on_synced(number, installed),
            ToCore::Applied { position, done } => self.on_applied(position, &done),
            ToCore::NoSnapshot { to } => {
                self.state.copying = false;
                self.replica.snapshot_sent(to, false);
            }
            ToCore::Stop => return false,
        }
        true
    }

    fn on_peer(&mut self, incoming: Incoming) -> bool {
        match incoming {
            Incoming::Frame { from, frame } => return self.on_frame(from, frame),
            Incoming::Unreachable(peer) => self.replica.unreachable(peer),
            Incoming::SnapshotSent { to, delivered } => {
                self.state.copying = false;
                self.replica.snapshot_sent(to, delivered);
            }
            Incoming::Snapshot { message, files, hold } => {
                let metadata = message.get_snapshot().get_metadata();
                let position = Position { index: metadata.index, term: metadata.term };
                // Raft says in the next output whether it wants it.
                self.state.received = Some((position, files, hold));
                return self.step(message);
            }
            Incoming::Question { question, source, reply } => self.on_stranger(question, source, reply),
            Incoming::Removed => {
                self.shared
                    .fail("this member was removed from the cluster; its data dir is of no use any more");
                return false;
            }
        }
        true
    }

    fn on_frame(&mut self, from: u64, frame: Frame) -> bool {
        if self.membership.members.contains_key(&from) {
            self.state.heard.insert(from, self.state.ticks);
        }
        match frame {
            Frame::Here { urls } => self.on_here(from, urls),
            // A snapshot travels on a connection of its own, with its files.
            Frame::Raft(message) if message.msg_type == MessageType::MsgSnapshot => {}
            Frame::Raft(message) => return self.step(message),
            Frame::Forward { id, term, body } => {
                let standing = self.replica.standing();
                let leads = standing.role == Role::Leader && standing.term == term;
                let is_full = self.state.pending.len() >= MAX_PENDING || self.lacks_room(&body);
                if leads && !is_full && Proposal::decode(body.clone()).is_ok_and(|proposal| proposal.id == id)
                {
                    self.hold(Pending { id, body, origin: Some(Origin { member: from, term }) });
                } else {
                    self.peers.send(from, &Frame::Refused { id, term, is_full: leads && is_full });
                }
            }
            Frame::Refused { id, term, is_full } => {
                let forwarded_in = self.state.outstanding.get(&id).map(|(term, _)| *term);
                if forwarded_in == Some(term)
                    && let Some((_, body)) = self.state.outstanding.remove(&id)
                {
                    if is_full {
                        self.answer(id, EtcdError::TooManyRequests);
                    } else {
                        self.hold(Pending { id, body, origin: None });
                    }
                }
            }
            Frame::Ask { id, body } => ask::on_question(&self.shared, from, id, body),
            Frame::Answer { id, body } => ask::on_answer(&self.shared, id, body),
        }
        true
    }

    fn step(&mut self, message: proa_etcd_replica::eraftpb::Message) -> bool {
        // Its connections are refused, but this came before. Raft follows a leader of a
        // later term even if that is no member, and those who were left may have one.
        if self.membership.removed.contains(&message.from) {
            return true;
        }
        let stepped = self.replica.step(message);
        stepped.inspect_err(|broken| self.shared.fail(&broken.to_string())).is_ok()
    }

    fn on_synced(&mut self, number: u64, installed: Option<Installed>) {
        self.replica.persisted(number);
        if let Some(Installed { position, members, removed }) = installed {
            self.replica.applied(position.index);
            // Nobody says which proposals the snapshot holds: to propose one of
            // them again could write it twice.
            for id in std::mem::take(&mut self.state.outstanding).into_keys() {
                self.answer(id, EtcdError::Timeout);
            }
            self.state.changes.end(EtcdError::Timeout);
            self.membership.members = members.into_iter().map(|member| (member.id, member)).collect();
            self.membership.removed = removed.into_iter().collect();
            self.set_peers();
        }
    }

    fn on_applied(&mut self, position: Position, done: &[u64]) {
        self.replica.applied(position.index);
        for id in done {
            self.state.outstanding.remove(id);
        }
        if self.state.outstanding.values().any(|(term, _)| *term < position.term) {
            let mut lost: Vec<_> =
                self.state.outstanding.extract_if(|_, (term, _)| *term < position.term).collect();
            // As their clients sent them.
            lost.sort_unstable_by_key(|(id, _)| *id);
            for (id, (_, body)) in lost {
                self.hold(Pending { id, body, origin: None });
            }
        }
    }

    pub(super) fn on_tick(&mut self) -> bool {
        self.replica.tick();
        self.state.ticks += 1;
        self.state.reads.retain(|_, waiter| !waiter.is_closed());
        {
            // Clients that gave up are not waited for.
            let waiters = lock(&self.shared.waiters);
            self.state.outstanding.retain(|id, _| waiters.contains_key(id));
            self.state
                .pending
                .retain(|pending| pending.origin.is_some() || waiters.contains_key(&pending.id));
        }
        self.state.pending_bytes = self.state.pending.iter().map(|pending| pending.body.len()).sum();
        let ticks = self.state.ticks;
        if self.state.guests.values().any(|(end, _)| *end <= ticks) {
            self.state.guests.retain(|_, (end, _)| *end > ticks);
            self.set_peers();
        }
        self.say_where();
        let leader_id = self.state.standing.leader_id;
        let is_new = std::mem::replace(&mut self.state.published_to, leader_id) != leader_id;
        if is_new || self.state.ticks % PUBLISH_TICKS == 1 {
            self.publish_myself();
        }
        if self.state.farewell.is_some_and(|end| self.state.ticks >= end) {
            self.shared.fail("this member was removed from the cluster; its data dir is of no use any more");
            return false;
        }
        true
    }

    /// Tells the cluster this member's name and client URLs, until it knows.
    fn publish_myself(&mut self) {
        let known = lock(&self.shared.members).iter().find(|member| member.id == self.member_id).cloned();
        let Some(known) = known else { return };
        let is_known = known.name == self.myself.name && known.client_urls == self.myself.client_urls;
        if is_known || self.replica.standing().leader_id == 0 {
            return;
        }
        let command = Command { op: Some(Op::Member(self.myself.clone())) };
        let id = self.shared.own_id();
        let proposal = Proposal { id, command: Some(command), requester: Some(super::handle::member()) };
        let (waiter, _nobody) = tokio::sync::oneshot::channel();
        lock(&self.shared.waiters).insert(id, waiter);
        self.hold(Pending { id, body: proposal.encode_to_vec().into(), origin: None });
    }

    /// Does all that raft wants done.
    pub(super) fn perform(&mut self) {
        let output = self.replica.poll();
        let Output { send, snapshots, writes, committed, reads, standing } = output;
        for message in send {
            let to = message.to;
            if !self.peers.send(to, &Frame::Raft(message)) {
                self.replica.unreachable(to);
            }
        }
        for write in writes {
            self.write(write);
        }
        if !committed.is_empty() {
            let decided = committed.into_iter().map(|entry| self.decide(entry)).collect();
            let _ = self.applier.send(ToApplier::Entries(decided));
        }
        for ready in reads {
            let later = self.state.reads.split_off(&(ready.up_to + 1));
            let waiters: Vec<_> = std::mem::replace(&mut self.state.reads, later).into_values().collect();
            // What is applied can be read already: it is published before it is said.
            if self.shared.status.borrow().applied >= ready.index {
                for waiter in waiters {
                    // It may have given up meanwhile.
                    let _ = waiter.send(Ok(()));
                }
            } else {
                let _ = self.applier.send(ToApplier::Reads(ready.index, waiters));
            }
        }
        for wanted in snapshots {
            if self.state.copying {
                self.replica.snapshot_sent(wanted.to, false);
            } else {
                self.state.copying = true;
                let _ = self.applier.send(ToApplier::Copy(wanted));
            }
        }
        // What raft did not want is given up; what it wanted was taken above.
        self.state.received = None;
        self.tell_status(standing);
    }

    fn write(&mut self, write: Write) {
        let job = match write.snapshot {
            None => ToWriter::Write(write),
            Some(position) => match self.state.received.take() {
                Some((received, files, hold)) if received == position => {
                    ToWriter::Install { write, files, hold }
                }
                Some(_) | None => {
                    unreachable!("raft takes a snapshot in the turn in which it was stepped")
                }
            },
        };
        // The writer ends only with the member.
        let _ = self.writer.send(job);
    }

    /// Membership changes take effect here, on the thread that owns raft, in
    /// the log's order; the applier stores what came of them.
    fn decide(&mut self, entry: Entry) -> Decided {
        self.state.changes.lose_before(entry.term);
        if entry.entry_type == EntryType::EntryNormal {
            return Decided { entry, change: None };
        }
        let decoded = decode_conf_change(&entry.data);
        let token = decoded.as_ref().map_or(0, |change| change.id);
        let outcome = decoded.map_err(|_| EtcdError::MemberNotFound).and_then(|change| {
            let member = self.membership.judge(&change)?;
            let members = self.replica.apply_conf_change(&change).map_err(|why| {
                tracing::warn!("raft refused a membership change: {why}");
                EtcdError::Unhealthy
            })?;
            self.membership.apply(&change, member.clone());
            let is_gone = self.membership.removed.contains(&member.id);
            let removed = is_gone.then(|| self.membership.removed.iter().copied().collect());
            let end = self.state.ticks + FAREWELL_TICKS;
            if is_gone && member.id == self.member_id {
                self.state.farewell = Some(end);
            } else if is_gone {
                self.state.guests.insert(member.id, (end, member.peer_urls.clone()));
            }
            Ok(Accepted { members, member, removed })
        });
        if outcome.is_ok() {
            self.set_peers();
        }
        Decided { entry, change: Some(Changed { outcome, done: self.state.changes.take(token) }) }
    }

    pub(super) fn set_peers(&mut self) {
        self.state.heard.retain(|id, _| self.membership.members.contains_key(id));
        let others = self.membership.members.values().filter(|member| member.id != self.member_id);
        let guests = self.state.guests.iter().map(|(id, (_, urls))| (*id, urls.clone()));
        let urls = others.map(|member| (member.id, member.peer_urls.clone())).chain(guests).collect();
        self.peers.set_members(&urls);
        let removed: Vec<u64> = self.membership.removed.iter().copied().collect();
        self.peers.set_removed(&removed);
    }

    fn tell_status(&mut self, standing: Option<Standing>) {
        if let Some(standing) = standing {
            let was = std::mem::replace(&mut self.state.standing, standing);
            if was.leader_id != standing.leader_id && standing.leader_id != 0 {
                let us = if standing.role == Role::Leader { " (this one)" } else { "" };
                tracing::info!("member {:x}{us} leads in term {}", standing.leader_id, standing.term);
            }
            if was.leader_id != 0 && standing.leader_id == 0 {
                tracing::warn!("no leader in term {}", standing.term);
            }
        }
        let now = self.replica.standing();
        let (committed, is_learner) = (self.replica.committed(), self.replica.is_learner());
        self.shared.status.send_if_modified(|status| {
            let before = status.clone();
            status.leader_id = now.leader_id;
            status.term = now.term;
            status.is_leader = now.role == Role::Leader;
            status.committed = committed.max(status.applied);
            status.is_learner = is_learner;
            *status != before
        });
    }
}
