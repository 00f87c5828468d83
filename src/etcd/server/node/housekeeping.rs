//! What the applying thread does beside applying: it makes the database durable, so that
//! the log can be cut, and clears away what compactions gave up.

use proa_etcd_store::scrub;

use super::applier::Applier;
use super::meta;
use super::shared::lock;
use super::writer::ToWriter;
use crate::database::Storage;

/// Entries of a scrub step while nobody waits: about a millisecond even where each
/// of them lies in a block of its own, for whoever comes meanwhile.
pub(super) const SCRUB_BUDGET: usize = 32;
/// Entries of a scrub step after a batch, beside twice those of the batch: under
/// load there is no idle moment, and what is given up must not grow faster than
/// it is cleared away.
pub(super) const SCRUB_WITH_BATCH: usize = 32;
/// Entries cleared away that are worth a flush of their own; in an idle moment of
/// [`super::applier::IDLE_LOOK`] any number is.
const FLUSH_CLEARED: usize = 512;
/// Bytes of applied entries after which the log is compacted however few they
/// are: a member reads its whole log when it starts, on machines of 256 MB.
const MAX_UNCOMPACTED_BYTES: u64 = 32 << 20;
/// Bytes of entries that stay for followers a little behind.
const KEPT_BYTES: u64 = 8 << 20;

impl<S: Storage> Applier<S> {
    /// Flushes the database on another thread and lets the log be cut behind
    /// what was flushed.
    pub(super) fn flush_when_due(&mut self) {
        let entries = self.applied.index.saturating_sub(self.compacted);
        if entries < self.snapshot_count && self.uncompacted_bytes < MAX_UNCOMPACTED_BYTES {
            return;
        }
        self.flush();
    }

    /// Begins a flush on another thread, unless one is on its way.
    pub(super) fn flush(&mut self) -> bool {
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

    pub(super) fn end_flush(&mut self) {
        if let Some(thread) = self.flushing.take() {
            // A panic there was printed already.
            let _ = thread.join();
        }
    }

    /// What was cleared away gives space back once its deletions are in a file
    /// that can be merged; without new writes none would be made.
    pub(super) fn flush_cleared(&mut self, least: usize) {
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
}
