//! One member: inputs in, [`Output`] out.

use std::collections::VecDeque;

use raft::eraftpb::{ConfChange, ConfState, Entry, EntryType, HardState, Message, MessageType, Snapshot};
use raft::{RawNode, SnapshotStatus, StateRole};

use crate::cache::{Cache, Position};
use crate::change::encode_conf_change;
use crate::config::{Config, Start, StartError};
use crate::input::{Broken, Dropped, Here, Verdict, judge};
use crate::output::{Output, ProposeError, Role, SnapshotWanted, Standing, Write};
use crate::reads::Reads;

/// Messages of one raft-rs `Ready`, held until it is on the disk.
struct Held {
    number: u64,
    needs_write: bool,
    messages: Vec<Message>,
}

/// One raft member without I/O.
pub struct Replica {
    raw: RawNode<Cache>,
    config: Config,
    reads: Reads,
    standing: Standing,
    held: VecDeque<Held>,
    released: Vec<Message>,
    /// What the last issued write holds; the term in it is what is durable at
    /// most, `durable_term` what is durable at least.
    written_state: HardState,
    durable_term: u64,
    pending_terms: VecDeque<(u64, u64)>,
    timeout_ticks: usize,
    random: u64,
}

impl Replica {
    /// Starts a member from what its disk holds.
    ///
    /// # Errors
    ///
    /// When [`Start::check`] finds that acknowledged data is missing.
    pub fn new(config: Config, start: Start) -> Result<Self, StartError> {
        start.check()?;
        let mut hard_state = start.hard_state;
        // The commit index is written only along with other things, so it may
        // be older than the database, which holds nothing uncommitted.
        hard_state.commit = hard_state.commit.max(start.applied.index);
        let cache =
            Cache::new(hard_state.clone(), start.conf_state, start.log_base, start.applied, start.entries);
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&config.raft(start.applied.index), cache, &logger)
            .map_err(|error| StartError::Refused(error.to_string()))?;
        let mut replica = Self {
            raw,
            reads: Reads::new(config.boot_nonce),
            standing: Standing { term: hard_state.term, ..Standing::default() },
            held: VecDeque::new(),
            released: Vec::new(),
            durable_term: hard_state.term,
            written_state: hard_state,
            pending_terms: VecDeque::new(),
            timeout_ticks: config.election_ticks,
            random: config.seed,
            config,
        };
        replica.draw_timeout();
        Ok(replica)
    }

    /// One heartbeat interval has passed.
    pub fn tick(&mut self) {
        self.reads.tick();
        let raft = &self.raw.raft;
        // raft-rs asserts that a new leader's whole log is on its disk; with a
        // slow disk a member waits here instead of standing for election.
        let disk_is_behind = raft.raft_log.last_index() != raft.raft_log.persisted;
        if raft.state != StateRole::Leader && disk_is_behind {
            return;
        }
        self.raw.tick();
        self.keep_timeout();
    }

    /// Takes a message from a peer.
    ///
    /// # Errors
    ///
    /// [`Broken`] when the message proves that this member lost data: stop.
    pub fn step(&mut self, message: Message) -> Result<Option<Dropped>, Broken> {
        let raft = &self.raw.raft;
        let here = Here {
            id: raft.id,
            term: raft.term,
            last_index: raft.raft_log.last_index(),
            is_leader: raft.state == StateRole::Leader,
            is_behind: self.raw.store().bytes_after(raft.raft_log.applied) > self.config.unapplied_bytes
                && raft.raft_log.committed > raft.raft_log.applied,
            is_of_one_voter: raft.prs().is_singleton(),
            knows_sender: raft.prs().get(message.from).is_some(),
        };
        match judge(&message, &here) {
            Verdict::Step => {}
            Verdict::Drop(why) => return Ok(Some(why)),
            Verdict::Stop(broken) => return Err(broken),
        }
        // The only errors are «unknown peer» and «dropped»: both are raft's
        // everyday business and it repeats what matters.
        let _ = self.raw.step(message);
        self.keep_timeout();
        Ok(None)
    }

    /// Proposes one entry and says where it will be if it survives.
    ///
    /// # Errors
    ///
    /// See [`ProposeError`]; nothing is ever forwarded to another member.
    pub fn propose(&mut self, context: Vec<u8>, data: Vec<u8>) -> Result<Position, ProposeError> {
        self.may_propose()?;
        self.raw.propose(context, data).map_err(|_| ProposeError::Full)?;
        Ok(self.last())
    }

    /// Proposes a membership change; `change.context` travels with it.
    ///
    /// # Errors
    ///
    /// As [`Replica::propose`], and while an earlier change is not applied or
    /// the member to get a vote is a learner that lags by more than a tenth.
    pub fn propose_conf_change(&mut self, change: &ConfChange) -> Result<Position, ProposeError> {
        self.may_propose()?;
        let raft = &self.raw.raft;
        // raft-rs would turn the entry into an empty one without a word.
        if raft.has_pending_conf() {
            return Err(ProposeError::ChangePending);
        }
        if change.change_type == raft::eraftpb::ConfChangeType::AddNode && !self.is_caught_up(change.node_id)
        {
            return Err(ProposeError::LearnerBehind);
        }
        let mut entry = Entry::default();
        entry.set_entry_type(EntryType::EntryConfChange);
        entry.data = encode_conf_change(change).into();
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.raw.raft.id;
        message.set_entries(vec![entry].into());
        self.raw.raft.step(message).map_err(|_| ProposeError::Full)?;
        Ok(self.last())
    }

    /// Whether an earlier membership change is not applied yet.
    pub fn has_pending_change(&self) -> bool {
        self.raw.raft.has_pending_conf()
    }

    /// Whether `id` may vote as far as its log is concerned: it is no learner,
    /// or holds nine tenths of what is committed. Known to the leader only.
    ///
    /// Source: etcd's `readyPercent`.
    pub fn is_caught_up(&self, id: u64) -> bool {
        let raft = &self.raw.raft;
        if !raft.prs().conf().learners().contains(&id) {
            return true;
        }
        let matched = raft.prs().get(id).map_or(0, |progress| progress.matched);
        matched.saturating_mul(10) >= raft.raft_log.committed.saturating_mul(9)
    }

    /// The voter to hand leadership to: the one with the longest log of those
    /// that were heard lately. `None` when this member does not lead, or is alone.
    pub fn successor(&self) -> Option<u64> {
        let raft = &self.raw.raft;
        if raft.state != StateRole::Leader {
            return None;
        }
        let conf = raft.prs().conf();
        let is_able = |id: u64| id != raft.id && !conf.learners().contains(&id);
        let able = raft.prs().iter().filter(|(id, progress)| is_able(**id) && progress.recent_active);
        able.max_by_key(|(id, progress)| (progress.matched, **id)).map(|(id, _)| *id)
    }

    /// Ticks without a leader after which this member stands for election.
    pub fn election_ticks(&self) -> usize {
        self.config.election_ticks
    }

    fn may_propose(&self) -> Result<(), ProposeError> {
        let raft = &self.raw.raft;
        if raft.state != StateRole::Leader {
            return Err(ProposeError::NotLeader { leader_id: raft.leader_id });
        }
        if raft.lead_transferee.is_some() {
            return Err(ProposeError::Transferring);
        }
        Ok(())
    }

    /// Makes a committed membership change effective; returns the members
    /// after it, to be stored with the entry's index.
    ///
    /// # Errors
    ///
    /// raft's reason why the change cannot be: the caller treats the entry as
    /// refused, on every member alike.
    pub fn apply_conf_change(&mut self, change: &ConfChange) -> Result<ConfState, String> {
        let state = self.raw.apply_conf_change(change).map_err(|error| error.to_string())?;
        let raft = &mut self.raw.raft;
        // raft-rs lets who is no member any more lead on or stand for election,
        // and panics at the next acknowledgement or vote.
        if raft.state != StateRole::Follower && raft.prs().get(raft.id).is_none() {
            raft.become_follower(raft.term, raft::INVALID_ID);
        }
        self.keep_timeout();
        Ok(state)
    }

    /// Asks for a linearizable read; the answer is a [`crate::ReadReady`] whose
    /// `up_to` reaches the returned ticket.
    pub fn read_index(&mut self) -> u64 {
        self.reads.ask()
    }

    /// The writes up to `number` are on the disk.
    pub fn persisted(&mut self, number: u64) {
        while self.pending_terms.front().is_some_and(|&(write, _)| write <= number) {
            let (_, term) = self.pending_terms.pop_front().expect("just seen");
            self.durable_term = term;
        }
        self.release(number);
    }

    /// Everything up to `index` is readable from the database.
    pub fn applied(&mut self, index: u64) {
        let log = &self.raw.raft.raft_log;
        // A report may be overtaken by the snapshot that replaced its state.
        if index > log.applied && index <= log.committed.min(log.persisted) {
            self.raw.advance_apply_to(index);
        }
        let (applied, persisted) = {
            let log = &self.raw.raft.raft_log;
            (log.applied, log.persisted)
        };
        let (bytes, entries) = (self.config.cache_bytes, self.config.cache_entries);
        self.raw.mut_store().applied(applied, persisted, bytes, entries);
    }

    /// A snapshot asked for by [`Output::snapshots`] was delivered, or not.
    pub fn snapshot_sent(&mut self, to: u64, delivered: bool) {
        let status = if delivered { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.raw.report_snapshot(to, status);
    }

    /// A message to `peer` was lost on the way.
    pub fn unreachable(&mut self, peer: u64) {
        self.raw.report_unreachable(peer);
    }

    /// Hands leadership to `to`, when this member leads.
    pub fn transfer_leader(&mut self, to: u64) {
        self.raw.transfer_leader(to);
    }

    /// Stands for election now instead of at the timeout; with one voter this
    /// wins at once.
    pub fn campaign(&mut self) {
        // Refused only where an election would be wrong (a pending change).
        let _ = self.raw.campaign();
        self.keep_timeout();
    }

    /// Who leads, as seen now.
    pub fn standing(&self) -> Standing {
        let raft = &self.raw.raft;
        let role = match raft.state {
            StateRole::Leader => Role::Leader,
            StateRole::Follower => Role::Follower,
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
        };
        Standing { role, leader_id: raft.leader_id, term: raft.term }
    }

    /// The last position of the log, on the disk or not.
    pub fn last(&self) -> Position {
        let log = &self.raw.raft.raft_log;
        Position { index: log.last_index(), term: log.last_term() }
    }

    /// The last index known to be committed.
    pub fn committed(&self) -> u64 {
        self.raw.raft.raft_log.committed
    }

    /// The last index reported as applied.
    pub fn applied_index(&self) -> u64 {
        self.raw.raft.raft_log.applied
    }

    /// Writes that were issued and not reported as persisted.
    pub fn writes_in_flight(&self) -> usize {
        self.held.iter().filter(|held| held.needs_write).count()
    }

    /// Whether this member is a learner in the current configuration.
    pub fn is_learner(&self) -> bool {
        self.raw.raft.prs().conf().learners().contains(&self.raw.raft.id)
    }

    /// Collects all that is to do now.
    pub fn poll(&mut self) -> Output {
        let mut output = Output::default();
        self.begin_read();
        while self.raw.has_ready() {
            self.take_ready(&mut output);
            self.begin_read();
        }
        output.send.append(&mut self.released);
        let standing = self.standing();
        if standing != self.standing {
            self.standing = standing;
            output.standing = Some(standing);
        }
        output
    }

    /// Starts a read round where raft would not drop it in silence.
    fn begin_read(&mut self) {
        let raft = &self.raw.raft;
        let answers = match raft.state {
            StateRole::Leader => raft.commit_to_current_term(),
            StateRole::Follower => raft.leader_id != 0,
            StateRole::Candidate | StateRole::PreCandidate => false,
        };
        if answers && let Some(context) = self.reads.begin() {
            self.raw.read_index(context);
        }
    }

    fn take_ready(&mut self, output: &mut Output) {
        let mut ready = self.raw.ready();
        let number = ready.number();
        let mut snapshot = None;
        if !ready.snapshot().is_empty() {
            let metadata = ready.snapshot().get_metadata();
            let position = Position { index: metadata.index, term: metadata.term };
            self.raw.mut_store().restart(position);
            snapshot = Some(position);
        }
        // raft-rs reads these back through the cache from here on.
        self.raw.mut_store().append(ready.entries());
        if let Some(soft) = ready.ss()
            && (soft.leader_id != self.standing.leader_id || soft.raft_state != StateRole::Leader)
        {
            self.reads.abandon();
        }
        for state in ready.take_read_states() {
            output.reads.extend(self.reads.finish(&state.request_ctx, state.index));
        }
        let committed = ready.take_committed_entries();
        // Who is removed leaves, and may be needed to find out again that its
        // removal was committed: that is not left to memory.
        let changes_members = committed.iter().any(|entry| entry.entry_type != EntryType::EntryNormal);
        output.committed.extend(committed);
        let now = ready.take_messages();
        self.pass_on(now, output);
        let needs_write = ready.must_sync() || changes_members;
        if needs_write {
            let hard_state = self.raw.raft.hard_state();
            let is_news = snapshot.is_some() || hard_state != self.written_state;
            let changed = is_news.then(|| hard_state.clone());
            self.pending_terms.push_back((number, hard_state.term));
            self.written_state = hard_state;
            output.writes.push(Write {
                number,
                entries: ready.take_entries(),
                hard_state: changed,
                snapshot,
            });
        }
        let later = ready.take_persisted_messages();
        let (free, bound) = later.into_iter().partition(|message| self.is_free(message));
        self.pass_on(free, output);
        self.held.push_back(Held { number, needs_write, messages: bound });
        self.raw.advance_append_async(ready);
        self.release(0);
    }

    /// Whether `message` promises nothing that is not on the disk yet.
    ///
    /// An answer to a heartbeat says only «I have seen your term», so it need
    /// not wait for entries; waiting would make every read as slow as the
    /// slowest disk.
    fn is_free(&self, message: &Message) -> bool {
        match message.msg_type {
            MessageType::MsgReadIndex => true,
            MessageType::MsgHeartbeatResponse => message.term <= self.durable_term,
            _ => false,
        }
    }

    /// Lets go what is held up to `number`, and what follows without a write.
    fn release(&mut self, number: u64) {
        let mut done = 0;
        while let Some(held) = self.held.front() {
            if held.needs_write && held.number > number {
                break;
            }
            let held = self.held.pop_front().expect("just seen");
            done = held.number;
            self.released.extend(held.messages);
        }
        if done != 0 {
            self.raw.on_persist_ready(done);
        }
    }

    fn pass_on(&mut self, messages: Vec<Message>, output: &mut Output) {
        for message in messages {
            if message.msg_type == MessageType::MsgSnapshot {
                let at_least = message.get_snapshot().get_metadata().index;
                output.snapshots.push(SnapshotWanted { to: message.to, at_least, term: message.term });
            } else {
                output.send.push(message);
            }
        }
    }

    /// Puts our own timeout back: raft-rs draws one at random at every reset,
    /// and randomness is an argument here.
    fn keep_timeout(&mut self) {
        if self.raw.raft.term != self.standing.term || self.standing().role != self.standing.role {
            self.draw_timeout();
        }
        self.raw.raft.set_randomized_election_timeout(self.timeout_ticks);
    }

    fn draw_timeout(&mut self) {
        // splitmix64: well spread even for neighbouring seeds.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.random;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^= word >> 31;
        let base = self.config.election_ticks;
        self.timeout_ticks = base + (word % base as u64) as usize;
        self.raw.raft.set_randomized_election_timeout(self.timeout_ticks);
    }
}

/// The message with which `from` announces to `wanted.to` a snapshot of
/// `position`, at least as new as what was wanted, and `members` as of there.
pub fn snapshot_message(
    from: u64,
    wanted: SnapshotWanted,
    position: Position,
    members: ConfState,
) -> Message {
    let mut snapshot = Snapshot::default();
    let metadata = snapshot.mut_metadata();
    metadata.index = position.index;
    metadata.term = position.term;
    metadata.set_conf_state(members);
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgSnapshot);
    message.to = wanted.to;
    message.from = from;
    message.term = wanted.term;
    message.set_snapshot(snapshot);
    message
}
