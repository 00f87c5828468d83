//! The thread that applies committed entries, publishes what can be read and
//! answers who waits.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::time::{Duration, Instant};

use proa_etcd_api::EtcdError;
use proa_etcd_api::command::auth_change::Change;
use proa_etcd_api::command::command::Op;
use proa_etcd_api::command::{AuthChange, Batch};
use proa_etcd_api::etcdserverpb::Member;
use proa_etcd_api::mvccpb::Event;
use proa_etcd_replica::eraftpb::{ConfState, Entry, EntryType};
use proa_etcd_replica::{Position, SnapshotWanted};
use proa_etcd_store::{Machine, Overlay, Reply, Writes, record_member, scrub};
use prost::Message as _;

use super::changes::ChangeDone;
use super::meta;
use super::outbox::Outbox;
use super::shared::{Installed, Shared, ToCore, Waiter, lock};
use super::types::{AuthStamp, MembersChanged, ReadView, TokenGranted, V2Applied};
use super::writer::ToWriter;
use crate::database::{DatabaseError, Staged, Storage};
use crate::metrics::{METRICS, SLOW_APPLY, add};

/// Entries of a scrub step while nobody waits: about a millisecond even where each
/// of them lies in a block of its own, for whoever comes meanwhile.
pub(super) const SCRUB_BUDGET: usize = 32;
/// Entries of a scrub step after a batch, beside twice those of the batch: under
/// load there is no idle moment, and what is given up must not grow faster than
/// it is cleared away.
const SCRUB_WITH_BATCH: usize = 32;
/// Entries cleared away that are worth a flush of their own; in an idle moment of
/// [`IDLE_LOOK`] any number is.
const FLUSH_CLEARED: usize = 512;
/// How long nothing may come before the applier tidies up.
const IDLE_LOOK: Duration = Duration::from_secs(1);
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

/// Bytes of applied entries after which the log is compacted however few they
/// are: a member reads its whole log when it starts, on machines of 256 MB.
const MAX_UNCOMPACTED_BYTES: u64 = 32 << 20;
/// Bytes of entries that stay for followers a little behind.
const KEPT_BYTES: u64 = 8 << 20;

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

    fn database(&self) -> &S {
        self.database.as_ref().expect("only a replacement takes it away, and puts one back")
    }

    fn apply(&mut self, entries: Vec<Decided>) {
        let begun = Instant::now();
        let mut work = Work::default();
        {
            let view = self.database().snapshot();
            let shared = self.shared.clone();
            let mut machine = lock(&shared.machine);
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
                sink(revision, Arc::new(events));
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

    /// Flushes the database on another thread and lets the log be cut behind
    /// what was flushed.
    fn flush_when_due(&mut self) {
        let entries = self.applied.index.saturating_sub(self.compacted);
        if entries < self.snapshot_count && self.uncompacted_bytes < MAX_UNCOMPACTED_BYTES {
            return;
        }
        self.flush();
    }

    /// Begins a flush on another thread, unless one is on its way.
    fn flush(&mut self) -> bool {
        // To wait for the one before would hold up everything that is applied.
        if self.flushing.as_ref().is_some_and(|flushing| !flushing.is_finished()) {
            return false;
        }
        let entries = self.applied.index.saturating_sub(self.compacted);
        // Of large entries fewer are kept: by their mean size since the last time.
        let kept_by_size = entries.saturating_mul(KEPT_BYTES) / self.uncompacted_bytes.max(1);
        self.compacted = self.applied.index;
        self.uncompacted_bytes = 0;
        self.end_flush();
        let writer = self.writer.clone();
        // Followers a little behind catch up from the log. Source: etcd keeps
        // 5000 entries (DefaultSnapshotCatchUpEntries).
        let keep = 5_000.min(self.snapshot_count).min(kept_by_size);
        let then = move |stored: Option<Vec<u8>>| {
            let flushed = stored.and_then(|stored| meta::decode_position(stored).ok());
            if let Some((position, _)) = flushed {
                let _ = writer.send(ToWriter::Compact { index: position.index.saturating_sub(keep) });
            }
        };
        match self.database().flush_apart(meta::POSITION, Box::new(then)) {
            Ok(thread) => self.flushing = thread,
            Err(error) => tracing::warn!("cannot start a thread to flush the database: {error}"),
        }
        true
    }

    fn end_flush(&mut self) {
        if let Some(thread) = self.flushing.take() {
            // A panic there was printed already.
            let _ = thread.join();
        }
    }

    /// What was cleared away gives space back once its deletions are in a file
    /// that can be merged; without new writes none would be made.
    fn flush_cleared(&mut self, least: usize) {
        if self.cleared >= least && self.flush() {
            self.cleared = 0;
            // The view that is out shows what is cleared away: as long as it is
            // held, merging has to keep that.
            self.publish();
        }
    }

    /// One step of removing what compactions gave up; `false` when all is done.
    pub(super) fn scrub_step(&mut self, budget: usize) -> bool {
        let head = lock(&self.shared.machine).head();
        if head.compact_revision <= self.scrubbed {
            self.flush_cleared(FLUSH_CLEARED);
            return false;
        }
        let step = scrub(&self.database().snapshot(), head, budget);
        if !step.writes.is_empty() {
            self.database().write(&step.writes);
        }
        self.cleared += step.writes.len();
        if step.done {
            self.scrubbed = head.compact_revision;
        }
        true
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
                    sink(lock(&self.shared.machine).head().revision, Arc::default());
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
    v2: Vec<V2Applied>,
    changes: Vec<(ChangeDone, Result<Member, EtcdError>)>,
    tokens: Vec<TokenGranted>,
    touches_members: bool,
}

fn apply_normal(machine: &mut Machine, view: &dyn proa_etcd_store::View, entry: &Entry, work: &mut Work) {
    // A new leader's first entry is empty; membership entries come decided.
    if entry.data.is_empty() || entry.entry_type != EntryType::EntryNormal {
        return;
    }
    // Alike on every member, so leaving it out keeps them alike.
    let Ok(batch) = Batch::decode(entry.data.clone()) else {
        tracing::error!("entry {} is no batch of this version and changes nothing", entry.index);
        return;
    };
    for proposal in batch.proposals {
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
