//! The thread that applies committed entries, publishes what can be read and
//! answers who waits.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::time::{Duration, Instant};

use proa_etcd_api::EtcdError;
use proa_etcd_api::command::auth_change::Change;
use proa_etcd_api::command::command::Op;
use proa_etcd_api::command::{AuthChange, Batch, Proposal};
use proa_etcd_api::etcdserverpb::Member;
use proa_etcd_api::mvccpb::Event;
use proa_etcd_replica::eraftpb::{ConfState, Entry, EntryType};
use proa_etcd_replica::{Position, SnapshotWanted};
use proa_etcd_store::{Machine, Overlay, Reply, Writes, record_member};
use prost::Message as _;

use super::changes::ChangeDone;
use super::housekeeping::{SCRUB_BUDGET, SCRUB_WITH_BATCH};
use super::meta;
use super::outbox::Outbox;
use super::shared::{Installed, Shared, ToCore, Waiter, lock};
use super::types::{AuthStamp, MembersChanged, ReadView, TokenGranted, V2Applied};
use super::writer::ToWriter;
use crate::database::{DatabaseError, Staged, Storage};
use crate::metrics::{METRICS, SLOW_APPLY, add};

/// How long nothing may come before the applier tidies up.
pub(super) const IDLE_LOOK: Duration = Duration::from_secs(1);
/// Longest wait for readers of the old state when a snapshot replaces it.
const READERS_TIMEOUT: Duration = Duration::from_secs(20);

/// What the applying thread is told.
pub(super) enum ToApplier {
    /// Committed entries, in order.
    Entries(Vec<Decided>),
    /// Let these go once the index is applied.
    Reads(u64, Vec<Waiter<()>>),
    /// Flush the database, for the log to be cut: room is short.
    Flush,
    /// Make a copy of the state for a follower.
    Copy(SnapshotWanted),
    /// Replace the state by a snapshot.
    Install { staged: Staged, done: Sender<Installed> },
    /// End.
    Stop,
}

/// A committed entry; a membership change with what became of it.
pub(super) struct Decided {
    pub(super) entry: Entry,
    pub(super) change: Option<Changed>,
}

/// A membership change as the raft thread decided it.
pub(super) struct Changed {
    pub(super) outcome: Result<Accepted, EtcdError>,
    pub(super) done: Option<ChangeDone>,
}

/// A membership change that took place.
pub(super) struct Accepted {
    pub(super) members: ConfState,
    pub(super) member: Member,
    /// All removed members when this removed one.
    pub(super) removed: Option<Vec<u64>>,
}

/// The applier's possessions.
pub(super) struct Applier<S> {
    pub(super) database: Option<S>,
    pub(super) applied: Position,
    pub(super) members: ConfState,
    pub(super) shared: Arc<Shared>,
    pub(super) peers: Arc<dyn Outbox>,
    pub(super) writer: Sender<ToWriter>,
    pub(super) inbox: Receiver<ToApplier>,
    pub(super) reads: Vec<(u64, Vec<Waiter<()>>)>,
    pub(super) snapshot_count: u64,
    /// Index of the last flush for a compaction of the log.
    pub(super) compacted: u64,
    /// Bytes of the entries applied since then.
    pub(super) uncompacted_bytes: u64,
    /// The part of proposal ids that this member's own have in common.
    pub(super) own_ids: u64,
    pub(super) flushing: Option<std::thread::JoinHandle<()>>,
    pub(super) scrubbed: i64,
    /// Entries cleared away since the last flush that was made for them.
    pub(super) cleared: usize,
}

impl<S: Storage> Applier<S> {
    /// Runs until told to stop; drops the database then.
    pub(super) fn run(mut self) {
        self.publish();
        loop {
            let job = match self.inbox.try_recv() {
                Ok(job) => job,
                // Idle: a step of housekeeping, then wait.
                Err(TryRecvError::Empty) if self.scrub_step(SCRUB_BUDGET) => continue,
                Err(TryRecvError::Empty) => match self.inbox.recv_timeout(IDLE_LOOK) {
                    Ok(job) => job,
                    Err(RecvTimeoutError::Timeout) => {
                        self.flush_cleared(1);
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => break,
                },
                Err(TryRecvError::Disconnected) => break,
            };
            if !self.take(job) {
                break;
            }
        }
        self.end_flush();
        self.shared.release_waiters();
    }

    /// Does one job; `false` ends the thread.
    pub(super) fn take(&mut self, job: ToApplier) -> bool {
        match job {
            ToApplier::Entries(entries) => {
                let before = lock(&self.shared.machine).head().revision;
                self.apply(entries);
                let written = lock(&self.shared.machine).head().revision - before;
                self.scrub_step(SCRUB_WITH_BATCH + 2 * usize::try_from(written).unwrap_or(0));
            }
            ToApplier::Reads(index, waiters) => {
                self.reads.push((index, waiters));
                self.release_reads();
            }
            ToApplier::Flush => {
                self.flush();
            }
            ToApplier::Copy(wanted) => self.copy(wanted),
            ToApplier::Install { staged, done } => self.install(staged, &done),
            ToApplier::Stop => return false,
        }
        true
    }

    pub(super) fn database(&self) -> &S {
        self.database.as_ref().expect("only a replacement takes it away, and puts one back")
    }

    fn apply(&mut self, entries: Vec<Decided>) {
        let begun = Instant::now();
        let mut work = Work::default();
        {
            let view = self.database().snapshot();
            let shared = self.shared.clone();
            let mut machine = lock(&shared.machine);
            work.with_previous = shared.sink.get().is_some_and(|sink| sink.wants_previous());
            machine.tell_previous(work.with_previous);
            for decided in entries {
                self.applied = Position::of(&decided.entry);
                let size_bytes = decided.entry.data.len() as u64;
                self.uncompacted_bytes += size_bytes;
                self.shared.applied_bytes.send_if_modified(|bytes| {
                    let told_mib = *bytes >> 20;
                    *bytes += size_bytes;
                    *bytes >> 20 != told_mib
                });
                match decided.change {
                    Some(changed) => self.apply_change(changed, &mut machine, &mut work),
                    None => apply_normal(&mut machine, &view, &decided.entry, &mut work),
                }
            }
            meta::put_position(&mut work.writes, self.applied, &self.members);
        }
        self.database().write(&work.writes);
        self.publish();
        if work.touches_members {
            self.publish_members();
        }
        self.answer(work);
        self.release_reads();
        if begun.elapsed() > SLOW_APPLY {
            add(&METRICS.applies_slow);
        }
        self.flush_when_due();
    }

    fn apply_change(&mut self, changed: Changed, machine: &mut Machine, work: &mut Work) {
        let outcome = changed.outcome.map(|accepted| {
            self.members = accepted.members;
            match accepted.removed {
                Some(removed) => {
                    machine.forget_member(&mut work.writes, accepted.member.id);
                    meta::put_removed(&mut work.writes, removed);
                }
                None => {
                    // The record's own words (name, client URLs) are kept.
                    let view = self.database().snapshot();
                    let overlay = Overlay { base: &view, writes: &work.writes };
                    let known = proa_etcd_store::members(&overlay).unwrap_or_default();
                    let said = known.into_iter().find(|known| known.id == accepted.member.id);
                    let mut member = accepted.member.clone();
                    if let Some(said) = said {
                        member.name = said.name;
                        member.client_urls = said.client_urls;
                    }
                    record_member(&mut work.writes, &member);
                }
            }
            accepted.member
        });
        work.touches_members = true;
        work.changes.extend(changed.done.map(|done| (done, outcome)));
    }

    /// Makes the state readable.
    pub(super) fn publish(&self) {
        let (head, auth) = {
            let machine = lock(&self.shared.machine);
            (machine.head(), machine.auth())
        };
        let stamp = AuthStamp { is_enabled: auth.is_enabled(), revision: auth.revision() };
        let view = Arc::new(self.database().snapshot());
        let view = ReadView { view, head, auth, applied: self.applied.index };
        self.shared.view.set(Some(Arc::new(view)));
        self.shared.auth.send_if_modified(|known| {
            let is_new = *known != stamp;
            *known = stamp;
            is_new
        });
        let applied = self.applied.index;
        self.shared.status.send_if_modified(|status| {
            let is_new = status.applied != applied;
            status.applied = applied;
            status.committed = status.committed.max(applied);
            is_new
        });
    }

    pub(super) fn publish_members(&self) {
        match proa_etcd_store::members(&self.database().snapshot()) {
            Ok(members) => *lock(&self.shared.members) = members,
            Err(error) => self.shared.fail(&error.to_string()),
        }
    }

    /// Watchers first, so that who saw an answer can find its events.
    fn answer(&mut self, work: Work) {
        if let Some(sink) = self.shared.sink.get() {
            for (revision, events) in work.events {
                sink.take(revision, Arc::new(events), work.with_previous);
            }
        }
        if let Some(sink) = self.shared.tokens.get() {
            work.tokens.into_iter().for_each(sink);
        }
        if let Some(sink) = self.shared.v2_sink.get() {
            work.v2.into_iter().for_each(sink);
        }
        let mut done = Vec::new();
        {
            let mut waiters = lock(&self.shared.waiters);
            for (id, reply) in work.replies {
                if let Ok(reply) = &reply {
                    METRICS.count(reply);
                }
                if id >> 32 == self.own_ids {
                    done.push(id);
                    if let Some(waiter) = waiters.remove(&id) {
                        // It may have given up meanwhile.
                        let _ = waiter.send(reply);
                    }
                }
            }
        }
        let members = lock(&self.shared.members).clone();
        for (done, outcome) in work.changes {
            done(outcome.map(|member| MembersChanged { member, members: members.clone() }));
        }
        let _ = self.shared.core.send(ToCore::Applied { position: self.applied, done });
    }

    fn release_reads(&mut self) {
        let applied = self.applied.index;
        for (_, waiters) in self.reads.extract_if(.., |(index, _)| *index <= applied) {
            for waiter in waiters {
                let _ = waiter.send(Ok(()));
            }
        }
    }

    /// Copies the state for a follower and starts sending it.
    fn copy(&mut self, wanted: SnapshotWanted) {
        let copied: Result<PathBuf, DatabaseError> = self.database().checkpoint();
        match copied {
            Ok(folder) => {
                let from = self.shared.status.borrow().member_id;
                let message =
                    proa_etcd_replica::snapshot_message(from, wanted, self.applied, self.members.clone());
                tracing::info!(
                    "sending a snapshot up to index {} to member {:x}",
                    self.applied.index,
                    wanted.to
                );
                self.peers.send_snapshot(message, folder);
            }
            Err(error) => {
                tracing::warn!("cannot make a snapshot: {error}");
                let _ = self.shared.core.send(ToCore::NoSnapshot { to: wanted.to });
            }
        }
    }

    /// Replaces the whole state. Readers wait: what they would read is from
    /// before the snapshot, and the folder is about to be another one.
    fn install(&mut self, staged: Staged, done: &Sender<Installed>) {
        self.end_flush();
        self.shared.view.set(None);
        let deadline = Instant::now() + READERS_TIMEOUT;
        // A long read may still be at an older view than the last.
        while self.database().is_shared() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        let database = self.database.take().expect("an earlier replacement put it back");
        let replaced = database.replace(staged).map_err(|error| error.to_string());
        let loaded = replaced.and_then(|database| self.load(database));
        match loaded {
            Ok(installed) => {
                self.publish();
                self.publish_members();
                if let Some(sink) = self.shared.sink.get() {
                    sink.take(lock(&self.shared.machine).head().revision, Arc::default(), false);
                }
                if let Some(sink) = self.shared.v2_sink.get() {
                    sink(V2Applied::Replaced);
                }
                self.release_reads();
                let _ = done.send(installed);
            }
            // The copy is in place at the next start, which finishes this.
            Err(error) => {
                eprintln!("etcd: cannot install the received snapshot: {error}; aborting");
                std::process::abort();
            }
        }
    }

    fn load(&mut self, database: S) -> Result<Installed, String> {
        let view = database.snapshot();
        let stored = database.get(meta::POSITION).ok_or("it has no raft position")?;
        let (position, members) = meta::decode_position(stored).map_err(|error| error.to_string())?;
        let machine = Machine::load(&view).map_err(|error| error.to_string())?;
        let records = proa_etcd_store::members(&view).map_err(|error| error.to_string())?;
        let removed = meta::removed(&view).map_err(|error| error.to_string())?;
        drop(view);
        *lock(&self.shared.machine) = machine;
        self.database = Some(database);
        (self.applied, self.members, self.compacted) = (position, members, position.index);
        self.uncompacted_bytes = 0;
        self.scrubbed = 0;
        Ok(Installed { position, members: records, removed })
    }
}

/// What a run of entries comes to.
#[derive(Default)]
struct Work {
    writes: Writes,
    replies: Vec<(u64, Result<Reply, EtcdError>)>,
    events: Vec<(i64, Vec<Event>)>,
    /// Whether events tell what was there before.
    with_previous: bool,
    v2: Vec<V2Applied>,
    changes: Vec<(ChangeDone, Result<Member, EtcdError>)>,
    tokens: Vec<TokenGranted>,
    touches_members: bool,
}

/// What the clients of an entry want; nothing of one that is about the membership or
/// empty, as a new leader's first is.
pub(super) fn proposals(entry: &Entry) -> Vec<Proposal> {
    if entry.data.is_empty() || entry.entry_type != EntryType::EntryNormal {
        return Vec::new();
    }
    // Alike on every member, so leaving it out keeps them alike.
    let Ok(batch) = Batch::decode(entry.data.clone()) else {
        tracing::error!("entry {} is no batch of this version and changes nothing", entry.index);
        return Vec::new();
    };
    batch.proposals
}

fn apply_normal(machine: &mut Machine, view: &dyn proa_etcd_store::View, entry: &Entry, work: &mut Work) {
    for proposal in proposals(entry) {
        let outcome = machine.apply_proposal(view, &mut work.writes, &proposal);
        match proposal.command.and_then(|command| command.op) {
            Some(Op::Member(_)) => work.touches_members = true,
            Some(Op::Auth(AuthChange { change: Some(Change::TokenGrant(grant)) }))
                if outcome.reply.is_ok() =>
            {
                let revision = machine.auth().revision();
                work.tokens.push(TokenGranted { user: grant.user, digest: grant.digest, revision });
            }
            Some(Op::V2Write(write)) => {
                let succeeded = matches!(outcome.reply, Ok(Reply::V2(Ok(_))));
                work.v2.push(V2Applied::Write(write.kind(), succeeded));
            }
            Some(_) | None => {}
        }
        work.v2.extend(outcome.v2_events.into_iter().map(|event| V2Applied::Event(Arc::new(event))));
        work.replies.push((proposal.id, outcome.reply));
        // Ending several leases takes a revision for each.
        for event in outcome.events {
            let revision = event.kv.as_ref().map_or(0, |entry| entry.mod_revision);
            match work.events.last_mut() {
                Some((last, events)) if *last == revision => events.push(event),
                Some(_) | None => work.events.push((revision, vec![event])),
            }
        }
    }
}
