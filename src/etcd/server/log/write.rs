//! How the log writes: one batch, one rotation, one recycled file at a time.

use std::path::{Path, PathBuf};

use raft::eraftpb::Entry;

use super::disk::Disk;
use super::record::{Batch, HEADER_BYTES, Header, Marker, entry_bytes};
use super::recover::{End, Recovery, Refused, Replayed, Span, note_entries};
use super::split::{Part, split};
use super::{COMPACT_BYTES, Live, Log, LogError, OVERHEAD_BYTES, Persisted, segment};

/// What a batch says besides its entries.
#[derive(Clone, Copy, Debug)]
pub(super) enum Extra {
    /// Nothing.
    Nothing,
    /// The log's hard state.
    HardState,
    /// The hard state and a later start.
    Compacted(Marker),
    /// The hard state and that all entries are forgotten.
    Restarted(Marker),
}

impl<D: Disk> Log<D> {
    /// Runs a call that writes; after a fatal error the log takes no other.
    pub(super) fn guarded(
        &mut self,
        call: impl FnOnce(&mut Self) -> Result<(), LogError>,
    ) -> Result<Persisted, LogError> {
        if self.poisoned {
            return Err(LogError::Poisoned { path: self.dir.clone() });
        }
        // Set before, so that a panic in the middle counts as well.
        self.poisoned = true;
        let done = call(self);
        self.poisoned = done.as_ref().is_err_and(LogError::is_fatal);
        let last_index = self.terms.last();
        let last_term = self.terms.get(last_index).expect("the last index has a term");
        done.map(|()| Persisted { last_index, last_term, batch: self.live.end.next_batch - 1 })
    }

    /// Whether `entries` are without a hole and start inside the log or at its end.
    pub(super) fn check_continues(&self, entries: &[Entry]) -> Result<(), LogError> {
        let (first, last) = (self.terms.marker().index + 1, self.terms.last());
        let start = entries.first().map_or(first, |entry| entry.index);
        let gap = |index| LogError::Gap { index, first, last };
        if !(first..=last + 1).contains(&start) {
            return Err(gap(start));
        }
        match (start..).zip(entries).find(|(want, entry)| entry.index != *want) {
            Some((_, entry)) => Err(gap(entry.index)),
            None => Ok(()),
        }
    }

    /// Decides the batches of an append and makes sure that all of them have
    /// their segment before the first is written.
    pub(super) fn lay_out(&mut self, entries: &[Entry]) -> Result<Vec<Part>, LogError> {
        let sizes: Vec<usize> = entries.iter().map(entry_bytes).collect();
        let fresh_room = self.options.fresh_room();
        let parts = split(&sizes, self.live_room(), fresh_room).map_err(|(at, size)| LogError::TooLarge {
            index: entries[at].index,
            size_bytes: size as u64,
            limit_bytes: fresh_room as u64,
        })?;
        self.spares_for(parts.iter().filter(|part| part.rotate).count())?;
        Ok(parts)
    }

    /// What entries may take in the live segment; `None` when it is full.
    pub(super) fn live_room(&self) -> Option<usize> {
        let size = self.live.end.header.segment_bytes as usize;
        size.checked_sub(self.live.end.offset + COMPACT_BYTES + OVERHEAD_BYTES)
    }

    /// Makes spares until there are `count`.
    pub(super) fn spares_for(&mut self, count: usize) -> Result<(), LogError> {
        while self.spares.len() < count {
            let size = self.options.segment_bytes;
            let keep_free = self.options.keep_free_bytes;
            self.spares.push(segment::make_spare(&self.disk, &self.dir, size, keep_free)?);
        }
        Ok(())
    }

    /// Writes one batch to the live segment, which must have room for it.
    pub(super) fn write(&mut self, entries: &[Entry], extra: Extra) -> Result<(), LogError> {
        let last = entries.last().map_or(self.terms.last(), |entry| entry.index);
        let mut hard_state = self.hard_state.clone();
        hard_state.commit = hard_state.commit.min(last);
        let end = self.live.end;
        let mut batch = Batch::new(&mut self.batch, end.chain);
        match extra {
            Extra::Nothing => {}
            Extra::HardState => batch.hard_state(&hard_state),
            Extra::Compacted(marker) => {
                batch.hard_state(&hard_state);
                batch.compacted(marker);
            }
            Extra::Restarted(marker) => {
                batch.hard_state(&hard_state);
                batch.restarted(marker);
            }
        }
        for entry in entries {
            batch.entry(entry);
        }
        let chain = batch.commit(end.header.salt, end.next_batch, end.offset);
        segment::write_and_sync(
            &self.disk,
            &self.live.file,
            &self.live.path,
            &self.batch,
            end.offset as u64,
        )?;

        let offset = end.offset + self.batch.len();
        self.live.end = End { offset, chain, next_batch: end.next_batch + 1, ..end };
        if let (Some(first), Some(last)) = (entries.first(), entries.last()) {
            note_entries(&mut self.spans, first.index, last.index);
        }
        for entry in entries {
            self.terms.push(entry.index, entry.term);
        }
        Ok(())
    }

    /// Goes on in a new segment. There must be a spare.
    pub(super) fn rotate(&mut self) -> Result<(), LogError> {
        let spare = self.spares.pop().expect("the caller made sure of a spare");
        let before = self.live.end;
        let header = Header {
            segment_bytes: self.options.segment_bytes as u32,
            salt: self.disk.salt(),
            sequence: before.header.sequence + 1,
            first_index: self.terms.last() + 1,
            first_batch: before.next_batch,
            previous_chain: before.chain,
        };
        let file = segment::start(&self.disk, &self.dir, &spare, header.sequence, &header.encode())?;
        self.spans.push(Span { sequence: header.sequence, last_index: 0 });
        self.live = Live {
            file,
            path: segment::live_path(&self.dir, header.sequence),
            end: End { header, offset: HEADER_BYTES, chain: header.chain(), ..before },
        };
        Ok(())
    }

    /// How many of the oldest segments hold nothing after `index`.
    pub(super) fn segments_up_to(&self, index: u64) -> usize {
        let older = &self.spans[..self.spans.len() - 1];
        older.iter().take_while(|span| span.last_index <= index).count()
    }

    /// Gives up the `count` oldest segments: as a spare, or to the file system
    /// when there are enough. One after the other, so that a crash leaves no
    /// hole in the sequence.
    pub(super) fn recycle(&mut self, count: usize) -> Result<(), LogError> {
        let live = self.spans.len() - count;
        let most_spares = self.options.spares.max(self.options.kept_files.saturating_sub(live));
        for span in self.spans.drain(..count) {
            let live = segment::live_path(&self.dir, span.sequence);
            let spare = segment::spare_path(&self.dir, span.sequence);
            let size = self.disk.size_bytes(&live);
            if self.spares.len() < most_spares && size == self.options.segment_bytes {
                segment::rename(&self.disk, &live, &spare)?;
                self.spares.push(spare);
            } else {
                segment::remove(&self.disk, &live)?;
            }
            segment::sync_dir(&self.disk, &self.dir)?;
        }
        Ok(())
    }
}

/// Reads the segments of a log; also returns the bytes of the newest.
pub(super) fn replay<D: Disk>(disk: &D, dir: &Path, live: &[u64]) -> Result<(Replayed, Vec<u8>), LogError> {
    let refused = |refused| match refused {
        Refused::Damaged { sequence, offset, what } => {
            LogError::Corrupt { path: segment::live_path(dir, sequence), offset, what }
        }
        Refused::Shorter { commit, last } => LogError::Shorter { path: dir.to_path_buf(), commit, last },
    };
    if live.is_empty() {
        return Err(LogError::Absent { path: dir.to_path_buf() });
    }
    let mut recovery = Recovery::default();
    let mut newest = Vec::new();
    for sequence in live {
        newest = segment::read(disk, &segment::live_path(dir, *sequence))?;
        recovery.segment(*sequence, &newest).map_err(refused)?;
    }
    recovery.finish(&newest).map(|replayed| (replayed, newest)).map_err(refused)
}

/// Removes what a crash left half done; returns the spares.
pub(super) fn tidy<D: Disk>(disk: &D, listing: segment::Listing) -> Result<Vec<PathBuf>, LogError> {
    for path in &listing.leftovers {
        segment::remove(disk, path)?;
    }
    Ok(listing.spares)
}
