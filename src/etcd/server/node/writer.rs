//! The thread that waits for the disk: everything that gathered while one
//! fsync ran goes into the next.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use proa_etcd_replica::eraftpb::{Entry, HardState};
use proa_etcd_replica::{Position, Write};

use super::applier::ToApplier;
use super::meta::Layout;
use super::shared::{Installed, Shared, ToCore};
use crate::database::{CopiedFile, DatabaseError, Staged};
use crate::log::disk::Disk;
use crate::log::{Log, LogError, Persisted};
use crate::peer::snapshot::Receiving;

/// Writes joined into one: the bound on how long the first of them waits.
const MAX_JOINED_BYTES: usize = 8 << 20;
/// Pause between two tries when the disk is full.
const FULL_PAUSE: Duration = Duration::from_secs(1);

/// What the log writer is told.
pub(super) enum ToWriter {
    /// Make this durable.
    Write(Write),
    /// Replace the database by what was received, restart the log after it,
    /// then make the write durable.
    Install { write: Write, files: Vec<CopiedFile>, hold: Receiving },
    /// Entries up to here are in the flushed database.
    Compact { index: u64 },
    /// End.
    Stop,
}

/// The writer's possessions.
pub(super) struct Writer<D: Disk> {
    pub(super) log: Log<D>,
    pub(super) layout: Layout<D>,
    /// Makes sure of a received copy: [`crate::database::verify`].
    pub(super) verify: fn(&Path, &[CopiedFile]) -> Result<Staged, DatabaseError>,
    pub(super) shared: Arc<Shared>,
    pub(super) applier: Sender<ToApplier>,
    pub(super) inbox: Receiver<ToWriter>,
    /// What arrived while a write waited for room.
    pub(super) backlog: VecDeque<ToWriter>,
    /// Keeps another snapshot from being received into the folders that this
    /// one's installation moves and removes.
    pub(super) holding: Option<Receiving>,
}

impl<D: Disk> Writer<D> {
    /// Runs until told to stop.
    pub(super) fn run(mut self) {
        prefer_this_thread();
        let mut next = self.wait();
        while let Some(job) = next.take() {
            match job {
                ToWriter::Write(write) => match self.write(write) {
                    Some(other) => next = other,
                    None => return,
                },
                ToWriter::Install { write, files, hold } => {
                    if self.install(&write, &files, hold).is_none() {
                        return;
                    }
                }
                ToWriter::Compact { index } => self.compact(index),
                ToWriter::Stop => return,
            }
            next = next.or_else(|| self.wait());
        }
    }

    /// The next job. While the disk is low nobody may write, so nobody else would
    /// notice that there is room again.
    fn wait(&mut self) -> Option<ToWriter> {
        loop {
            if let Some(job) = self.backlog.pop_front() {
                return Some(job);
            }
            if !self.shared.is_disk_low.load(Ordering::Relaxed) {
                return self.inbox.recv().ok();
            }
            match self.inbox.recv_timeout(FULL_PAUSE) {
                Ok(job) => return Some(job),
                Err(RecvTimeoutError::Timeout) => self.look_at_room(),
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    fn look_at_room(&mut self) {
        if let Err(error) = self.log.reserve() {
            tracing::warn!("{error}");
        }
        let is_low = self.log.room().map_or(true, |room| room.low);
        self.set_disk_low(is_low);
    }

    /// Notes whether room is short. When it becomes so, the database is flushed:
    /// that lets the log give up segments.
    fn set_disk_low(&mut self, is_low: bool) {
        let was_low = self.shared.is_disk_low.swap(is_low, Ordering::Relaxed);
        if is_low && !was_low {
            // The applier ends only with the member.
            let _ = self.applier.send(ToApplier::Flush);
        }
    }

    /// Waits a while for room. Segments that the database has no need of are
    /// given up meanwhile, before the writes that wait for their space: what is
    /// compacted was applied, so it lies before anything that is not written yet.
    fn make_room(&mut self) {
        let deadline = Instant::now() + FULL_PAUSE;
        while let Ok(job) = self.inbox.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            match job {
                ToWriter::Compact { index } => return self.compact(index),
                other => self.backlog.push_back(other),
            }
        }
    }

    /// Writes `first` and all that waits behind it; returns the job that ends
    /// the run of writes, or `None` to end.
    pub(super) fn write(&mut self, first: Write) -> Option<Option<ToWriter>> {
        let mut joined = Joined::new(first);
        let mut other = None;
        while joined.size_bytes < MAX_JOINED_BYTES {
            match self.backlog.pop_front().or_else(|| self.inbox.try_recv().ok()) {
                Some(ToWriter::Write(write)) => match joined.join(write) {
                    Ok(()) => {}
                    Err(write) => {
                        other = Some(ToWriter::Write(write));
                        break;
                    }
                },
                Some(job) => {
                    other = Some(job);
                    break;
                }
                None => break,
            }
        }
        let receipt = self.append(&joined.entries, joined.hard_state.as_ref())?;
        self.tell(receipt, joined.number, None);
        self.look_at_room();
        Some(other)
    }

    /// Appends and syncs. What is not on the disk is never acknowledged, so
    /// there is no way on but to try again or to end: `None` when the member
    /// was told to stop while the disk was full.
    fn append(&mut self, entries: &[Entry], hard_state: Option<&HardState>) -> Option<Persisted> {
        loop {
            match self.log.append(entries, hard_state) {
                Ok(receipt) => return Some(receipt),
                Err(LogError::NoSpace { .. }) if self.shared.is_ending.load(Ordering::Relaxed) => {
                    return None;
                }
                Err(error @ LogError::NoSpace { .. }) => {
                    self.set_disk_low(true);
                    tracing::error!("{error}; trying again");
                    self.make_room();
                }
                Err(error) => abort(&error),
            }
        }
    }

    /// Only a receipt gets past here: what waits for the disk leaves with it.
    fn tell(&self, _receipt: Persisted, number: u64, installed: Option<Installed>) {
        // Nobody listens when the member stops.
        let _ = self.shared.core.send(ToCore::Synced { number, installed });
    }

    /// `None` when the member ends.
    fn install(&mut self, write: &Write, files: &[CopiedFile], hold: Receiving) -> Option<()> {
        let done = self.stage(write, files, hold)?;
        let installed = done.recv().ok()?;
        self.conclude(write, installed)
    }

    /// The first half: the copy is whole and the applier is told to take it.
    /// Until it has, nothing else may be written.
    pub(super) fn stage(
        &mut self,
        write: &Write,
        files: &[CopiedFile],
        hold: Receiving,
    ) -> Option<Receiver<Installed>> {
        let position = write.snapshot.expect("only a write with a snapshot is sent to install");
        tracing::info!("installing a snapshot up to index {}", position.index);
        let staged = self
            .layout
            .begin_installing(position.index)
            .and_then(|()| Ok((self.verify)(&self.layout.database(), files)?))
            .unwrap_or_else(|error| abort(&error));
        self.holding = Some(hold);
        let (done, installed) = channel();
        // The applier ends only with the member.
        self.applier.send(ToApplier::Install { staged, done }).ok()?;
        Some(installed)
    }

    /// The second half: the database is another one, and the log follows it.
    pub(super) fn conclude(&mut self, write: &Write, installed: Installed) -> Option<()> {
        let position = write.snapshot.expect("only a write with a snapshot is sent to install");
        if let Err(error) = self.restart_log(position, write) {
            abort(&error);
        }
        let receipt = self.append(&write.entries, write.hard_state.as_ref())?;
        self.layout.end_installing().unwrap_or_else(|error| abort(&error));
        self.tell(receipt, write.number, Some(installed));
        self.holding = None;
        Some(())
    }

    fn restart_log(&mut self, position: Position, write: &Write) -> Result<(), LogError> {
        let mut hard_state = write.hard_state.clone().expect("a snapshot comes with the hard state");
        hard_state.commit = position.index;
        let _receipt = self.log.install_snapshot(position.index, position.term, &hard_state)?;
        Ok(())
    }

    pub(super) fn compact(&mut self, index: u64) {
        match self.log.compact(index) {
            Ok(()) => {}
            Err(error) if error.is_fatal() => abort(&error),
            Err(error) => tracing::warn!("cannot compact the log: {error}"),
        }
    }
}

/// Several writes as one.
struct Joined {
    number: u64,
    entries: Vec<Entry>,
    hard_state: Option<HardState>,
    size_bytes: usize,
}

impl Joined {
    fn new(write: Write) -> Self {
        let size_bytes = size_bytes(&write.entries);
        Self { number: write.number, entries: write.entries, hard_state: write.hard_state, size_bytes }
    }

    /// Adds a write that goes on where this ends; gives it back if it does not.
    fn join(&mut self, mut write: Write) -> Result<(), Write> {
        if let (Some(last), Some(first)) = (self.entries.last(), write.entries.first())
            && first.index != last.index + 1
        {
            return Err(write);
        }
        self.number = write.number;
        self.size_bytes += size_bytes(&write.entries);
        self.entries.append(&mut write.entries);
        self.hard_state = write.hard_state.or(self.hard_state.take());
        Ok(())
    }
}

fn size_bytes(entries: &[Entry]) -> usize {
    entries.iter().map(|entry| entry.data.len()).sum()
}

/// Ends the process: what is on the disk is not known any more.
fn abort(error: &dyn std::error::Error) -> ! {
    // Straight to stderr: the last line must not wait in a logger.
    eprintln!("etcd: cannot write the log: {error}; aborting");
    // A test still has to say which one it is.
    #[cfg(test)]
    panic!("aborted");
    #[cfg(not(test))]
    std::process::abort()
}

/// Asks for a real-time priority: woken by the disk under load, an ordinary
/// thread waits a whole tick (4 ms) for its turn where the sync took 0.1 ms.
/// Without the right to it the thread stays ordinary.
fn prefer_this_thread() {
    // SAFETY: plain data; the call affects this thread only.
    unsafe {
        let mut parameters: libc::sched_param = std::mem::zeroed();
        parameters.sched_priority = 10;
        let _ =
            libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &raw const parameters);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(number: u64, indices: &[u64], term: Option<u64>) -> Write {
        let entries = indices.iter().map(|&index| Entry { index, ..Entry::default() }).collect();
        let hard_state = term.map(|term| HardState { term, ..HardState::default() });
        Write { number, entries, hard_state, snapshot: None }
    }

    #[test]
    fn only_writes_that_continue_each_other_are_joined() {
        let mut joined = Joined::new(write(1, &[5, 6], Some(2)));
        assert!(joined.join(write(2, &[7], None)).is_ok());
        assert!(joined.join(write(3, &[], Some(3))).is_ok());
        assert!(joined.join(write(4, &[7, 8], None)).is_err(), "it overwrites");
        assert_eq!((joined.number, joined.entries.len()), (3, 3));
        assert_eq!(joined.hard_state.map(|state| state.term), Some(3));
    }
}
