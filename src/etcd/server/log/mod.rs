//! The raft log: what a member has promised, on disk before it says so.
//!
//! A log is a folder of segments, files that were filled with zeros before
//! they were used and that are used again when the log is compacted (an
//! fdatasync over blocks that were never written costs a journal commit:
//! p99 4 ms instead of 0.2). Each [`Log::append`] is one write and one
//! fdatasync of records that are chained by checksum and end with a commit
//! record ([`record`]). After a crash, [`recover`] decides what is valid.
//!
//! Order of events the caller keeps:
//! 1. a message that promises entries or a vote is sent only with the
//!    [`Persisted`] of the append that wrote them;
//! 2. when a call returns an error that [`LogError::is_fatal`], the process
//!    aborts: after a failed fsync the disk's content is unknown;
//! 3. [`Log::compact`] gets only an index that the database has flushed;
//! 4. [`Log::reserve`] is called between appends, and client writes are
//!    refused while [`Room::low`].

pub mod disk;
pub mod lock;
pub mod record;
pub mod recover;

mod error;
mod segment;
mod split;
mod terms;
#[cfg(test)]
mod tests;
mod write;

use std::path::{Path, PathBuf};

use raft::eraftpb::{Entry, HardState};

use disk::{Disk, Files};
pub use error::LogError;
use record::{Batch, COMMIT_BYTES, HARD_STATE_BYTES, HEADER_BYTES, Header, MARKER_BYTES, Marker};
use recover::{End, Replayed, Span, note_entries};
use terms::Terms;
use write::{Extra, replay, tidy};

/// What a batch carries besides entries.
const OVERHEAD_BYTES: usize = HARD_STATE_BYTES + COMMIT_BYTES;
/// Kept free in each segment for the batch that compacts: a log without a
/// spare on a full disk must still be able to give segments back.
const COMPACT_BYTES: usize = HARD_STATE_BYTES + MARKER_BYTES + COMMIT_BYTES;

/// Sizes of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// Size of a segment file in bytes, a multiple of 4096 from 8 KiB to 1 GiB;
    /// also the largest entry, nearly. A change counts for new segments.
    pub segment_bytes: u64,
    /// Segments that are made ready beside the live one, so that a disk which
    /// fills up is met while there is still room to write.
    pub spares: usize,
    /// Segments that are given up are kept for their next life while there are
    /// fewer files than this: to fill one with zeros is as much to write as what
    /// it will hold, and the next append waits for it.
    pub kept_files: usize,
    /// Bytes of the file system that no new segment may take: the database
    /// next to the log flushes there, and compacting it frees space.
    pub keep_free_bytes: u64,
}

impl Default for LogOptions {
    /// 16 MiB segments, 1 spare, 6 files kept, 32 MiB kept free.
    ///
    /// The smallest machine has a state disk of about 400 MB. A member that writes
    /// little has two segments of it, 32 MiB; with the 64 MiB of other stores it
    /// would be 128. One that writes much fills three between two compactions,
    /// and has half of the one before them left: with six none is ever made anew.
    /// The largest batch of proposals is 4 MiB.
    fn default() -> Self {
        Self { segment_bytes: 16 << 20, spares: 1, kept_files: 6, keep_free_bytes: 32 << 20 }
    }
}

impl LogOptions {
    fn check(&self) -> Result<(), LogError> {
        let is_good =
            (8 << 10..=1 << 30).contains(&self.segment_bytes) && self.segment_bytes.is_multiple_of(4096);
        if is_good {
            return Ok(());
        }
        let what = format!(
            "segment size {} bytes; it must be a multiple of 4096 from 8192 to 1073741824",
            self.segment_bytes
        );
        Err(LogError::BadOption { what })
    }

    fn fresh_room(&self) -> usize {
        self.segment_bytes as usize - HEADER_BYTES - COMPACT_BYTES - OVERHEAD_BYTES
    }
}

/// What was in a log when it was opened.
#[derive(Clone, Debug, PartialEq)]
pub struct Recovered {
    /// Raft's term, vote and commit index. The commit index is a lower bound.
    pub hard_state: HardState,
    /// The entries after `snapshot`, without a hole.
    pub entries: Vec<Entry>,
    /// Index and term of the entry before the first, when there ever was one.
    pub snapshot: Option<(u64, u64)>,
    /// Bytes of an unacknowledged write that a crash cut off, as far as they
    /// can be told from what an earlier use of the file left.
    pub cut_bytes: u64,
}

impl Recovered {
    fn of(hard_state: HardState, entries: Vec<Entry>, marker: Marker, end: End) -> Self {
        let snapshot = (marker.index > 0).then_some((marker.index, marker.term));
        Self { hard_state, entries, snapshot, cut_bytes: end.cut_bytes }
    }
}

/// The receipt that what was given to one call is on disk.
///
/// Only this module can make one, so a function that takes it cannot run early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the messages that wait for the disk are released with this"]
pub struct Persisted {
    last_index: u64,
    last_term: u64,
    batch: u64,
}

impl Persisted {
    /// The last index of the log on disk.
    pub fn last_index(&self) -> u64 {
        self.last_index
    }

    /// The term of that entry.
    pub fn last_term(&self) -> u64 {
        self.last_term
    }

    /// The number of the batch: it grows by one with each sync of this log.
    pub fn batch(&self) -> u64 {
        self.batch
    }
}

/// How much can still be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes of records that fit into what is reserved.
    pub reserved_bytes: u64,
    /// Bytes that the file system still has.
    pub disk_bytes: u64,
    /// Refuse client writes: the last spare could not be made, or the file system
    /// has less than [`LogOptions::keep_free_bytes`]. Raft's own writes (votes,
    /// what is in flight) go on into what is reserved.
    pub low: bool,
}

/// The segment that is written to.
#[derive(Debug)]
struct Live<F> {
    file: F,
    path: PathBuf,
    end: End,
}

/// A raft log, open for writing; owned by the thread that waits for the disk.
#[derive(Debug)]
pub struct Log<D: Disk = Files> {
    disk: D,
    dir: PathBuf,
    options: LogOptions,
    live: Live<D::File>,
    /// All segments, oldest first; the live one is the last.
    spans: Vec<Span>,
    spares: Vec<PathBuf>,
    terms: Terms,
    hard_state: HardState,
    /// The bytes of the batch that is being made; kept for its capacity.
    batch: Vec<u8>,
    /// The last spare could not be made.
    low: bool,
    poisoned: bool,
    _lock: D::Lock,
}

impl Log {
    /// [`Log::create_on`] the machine's own files.
    ///
    /// # Errors
    /// As there.
    pub fn create(dir: &Path, options: LogOptions, snapshot: (u64, u64)) -> Result<Self, LogError> {
        Self::create_on(Files, dir, options, snapshot)
    }

    /// [`Log::open_on`] the machine's own files.
    ///
    /// # Errors
    /// As there.
    pub fn open(dir: &Path, options: LogOptions) -> Result<(Self, Recovered), LogError> {
        Self::open_on(Files, dir, options)
    }

    /// What the log in `dir` holds, for who only looks: nothing is locked or
    /// changed. A process that writes it meanwhile may rename or overwrite what is being
    /// read; then this refuses, never gives something else, and can be tried again.
    ///
    /// # Errors
    /// As [`Log::open_on`].
    pub fn look(dir: &Path) -> Result<Recovered, LogError> {
        if !Files.exists(dir) {
            return Err(LogError::Absent { path: dir.to_path_buf() });
        }
        let listing = segment::list(&Files, dir, LogOptions::default().segment_bytes)?;
        let (replayed, _newest) = replay(&Files, dir, &listing.live)?;
        Ok(Recovered::of(replayed.hard_state, replayed.entries, replayed.marker, replayed.end))
    }
}

impl<D: Disk> Log<D> {
    /// Makes a log in `dir` (and `dir`, if need be) that starts after
    /// `snapshot`: index and term, (0, 0) for a new cluster.
    ///
    /// # Errors
    /// [`LogError::Exists`], [`LogError::NoSpace`] (nothing is left behind that
    /// counts as a log), [`LogError::InUse`], [`LogError::BadOption`], I/O.
    pub fn create_on(
        disk: D,
        dir: &Path,
        options: LogOptions,
        snapshot: (u64, u64),
    ) -> Result<Self, LogError> {
        options.check()?;
        segment::make_dir(&disk, dir)?;
        let lock = disk.lock(dir)?;
        let listing = segment::list(&disk, dir, options.segment_bytes)?;
        if !listing.live.is_empty() {
            return Err(LogError::Exists { path: dir.to_path_buf() });
        }
        let mut spares = tidy(&disk, listing)?;
        let spare = match spares.pop() {
            Some(spare) => spare,
            None => segment::make_spare(&disk, dir, options.segment_bytes, options.keep_free_bytes)?,
        };
        let (index, term) = snapshot;
        let marker = Marker { index, term };
        let header = Header {
            segment_bytes: options.segment_bytes as u32,
            salt: disk.salt(),
            sequence: 1,
            first_index: index + 1,
            first_batch: 1,
            previous_chain: 0,
        };
        let hard_state = HardState { term, commit: index, ..HardState::default() };
        // The first batch goes in with the header: a log has its marker from
        // the moment it has its name.
        let mut first = Vec::new();
        let mut batch = Batch::new(&mut first, header.chain());
        batch.hard_state(&hard_state);
        batch.restarted(marker);
        let chain = batch.commit(header.salt, 1, HEADER_BYTES);
        let head = [header.encode().as_slice(), &first].concat();
        let file = segment::start(&disk, dir, &spare, 1, &head)?;

        let end = End { header, offset: head.len(), chain, next_batch: 2, cut_bytes: 0 };
        let mut log = Self {
            live: Live { file, path: segment::live_path(dir, 1), end },
            spans: vec![Span { sequence: 1, last_index: 0 }],
            terms: Terms::after(marker),
            disk,
            dir: dir.to_path_buf(),
            options,
            spares,
            hard_state,
            batch: first,
            low: false,
            poisoned: false,
            _lock: lock,
        };
        log.reserve()?;
        Ok(log)
    }

    /// Opens the log in `dir`: drops a write that a crash cut off, and makes
    /// what is left distinguishable from one (see [`recover`]).
    ///
    /// # Errors
    /// [`LogError::Absent`] when there is none; [`LogError::Corrupt`] and
    /// [`LogError::Shorter`] when acknowledged data is missing, in which case
    /// nothing was changed; [`LogError::InUse`], [`LogError::BadOption`], I/O.
    pub fn open_on(disk: D, dir: &Path, options: LogOptions) -> Result<(Self, Recovered), LogError> {
        options.check()?;
        if !disk.exists(dir) {
            return Err(LogError::Absent { path: dir.to_path_buf() });
        }
        let lock = disk.lock(dir)?;
        let listing = segment::list(&disk, dir, options.segment_bytes)?;
        let (replayed, newest) = replay(&disk, dir, &listing.live)?;
        let spares = tidy(&disk, listing)?;

        let Replayed { hard_state, entries, marker, end, spans } = replayed;
        let path = segment::live_path(dir, end.header.sequence);
        let file = segment::open(&disk, &path)?;
        // What lies after the end never gets a second chance to look valid.
        if newest[end.offset..].iter().any(|byte| *byte != 0) {
            segment::zero_from(&disk, &file, &path, end.offset as u64, newest.len() as u64)?;
        }
        let mut terms = Terms::after(marker);
        for entry in &entries {
            terms.push(entry.index, entry.term);
        }
        let mut log = Self {
            disk,
            dir: dir.to_path_buf(),
            options,
            live: Live { file, path, end },
            spans,
            spares,
            terms,
            hard_state: hard_state.clone(),
            batch: Vec::new(),
            low: false,
            poisoned: false,
            _lock: lock,
        };
        // A full disk is met by refusing writes, not by refusing to start.
        match log.reserve() {
            Ok(()) | Err(LogError::NoSpace { .. }) => {}
            Err(error) => return Err(error),
        }
        // One batch more: damage to what was the last one is now in the middle.
        if log.live_room().is_some() {
            log.write(&[], Extra::HardState)?;
        }
        Ok((log, Recovered::of(hard_state, entries, marker, end)))
    }

    /// Puts `entries` into the log and returns when they, and `hard_state` if
    /// it is given, are on disk: one write, one fdatasync (more only when they
    /// are larger than a segment).
    ///
    /// Entries continue the log, or start at an index that it holds and then
    /// replace it and all that came after. The commit index is written as at most
    /// the last index, so that a log which ends before it is known to have lost entries.
    ///
    /// # Errors
    /// [`LogError::NoSpace`], [`LogError::TooLarge`], [`LogError::Gap`]:
    /// nothing was written. [`LogError::is_fatal`]: abort.
    pub fn append(
        &mut self,
        entries: &[Entry],
        hard_state: Option<&HardState>,
    ) -> Result<Persisted, LogError> {
        self.guarded(|log| {
            log.check_continues(entries)?;
            if entries.is_empty() && hard_state.is_none() {
                return Ok(());
            }
            let parts = log.lay_out(entries)?;
            let extra = match hard_state {
                Some(state) => {
                    log.hard_state = state.clone();
                    Extra::HardState
                }
                None => Extra::Nothing,
            };
            let mut rest = entries;
            for part in parts {
                if part.rotate {
                    log.rotate()?;
                }
                let (now, later) = rest.split_at(part.count);
                log.write(now, extra)?;
                rest = later;
            }
            Ok(())
        })
    }

    /// Gives back the segments that hold nothing after `index`, oldest first.
    /// Writes only when there is one: the hard state and the new start of the log
    /// go into the live segment before the first file is given up.
    ///
    /// `index` must be one that the database has flushed: the entries up to it are gone.
    ///
    /// # Errors
    /// [`LogError::Gap`] when `index` is after the end. As [`Log::append`] otherwise.
    pub fn compact(&mut self, index: u64) -> Result<(), LogError> {
        let done = self.guarded(|log| {
            let Marker { index: first, .. } = log.terms.marker();
            if index > log.terms.last() {
                return Err(LogError::Gap { index, first: first + 1, last: log.terms.last() });
            }
            let Some(term) = log.terms.get(index) else { return Ok(()) };
            let gone = log.segments_up_to(index);
            if gone == 0 {
                return Ok(());
            }
            if log.live.end.offset + COMPACT_BYTES > log.live.end.header.segment_bytes as usize {
                log.spares_for(1)?;
                log.rotate()?;
            }
            log.write(&[], Extra::Compacted(Marker { index, term }))?;
            log.terms.compact(index);
            log.recycle(gone)
        });
        done.map(|_receipt| ())
    }

    /// Empties the log and lets it start again after a snapshot that was
    /// received: all entries are forgotten, the commit index becomes `index`.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub fn install_snapshot(
        &mut self,
        index: u64,
        term: u64,
        hard_state: &HardState,
    ) -> Result<Persisted, LogError> {
        self.guarded(|log| {
            if log.live.end.offset + COMPACT_BYTES > log.live.end.header.segment_bytes as usize {
                log.spares_for(1)?;
                log.rotate()?;
            }
            let marker = Marker { index, term };
            log.terms = Terms::after(marker);
            log.hard_state = hard_state.clone();
            log.hard_state.commit = index;
            log.write(&[], Extra::Restarted(marker))?;
            note_entries(&mut log.spans, 0, 0);
            log.recycle(log.spans.len() - 1)
        })
    }

    /// Makes the spares that are missing. Call it between appends, after their
    /// receipts went out: filling a segment takes tens of milliseconds. It does
    /// nothing when all are there, which is nearly always (segments are recycled).
    ///
    /// # Errors
    /// [`LogError::NoSpace`]: [`Room::low`] is set until a later call succeeds. I/O.
    pub fn reserve(&mut self) -> Result<(), LogError> {
        let made = self.spares_for(self.options.spares);
        self.low = made.is_err();
        made
    }

    /// How much can still be written; one system call.
    ///
    /// # Errors
    /// The file system cannot be asked.
    pub fn room(&self) -> Result<Room, LogError> {
        let disk_bytes = segment::available_bytes(&self.disk, &self.dir)?;
        let spares = self.spares.len() as u64 * self.options.fresh_room() as u64;
        let reserved_bytes = self.live_room().unwrap_or(0) as u64 + spares;
        let low = self.low || disk_bytes < self.options.keep_free_bytes;
        Ok(Room { reserved_bytes, disk_bytes, low })
    }

    /// The index before the first entry that the log still holds.
    pub fn marker_index(&self) -> u64 {
        self.terms.marker().index
    }

    /// The last index in the log.
    pub fn last_index(&self) -> u64 {
        self.terms.last()
    }
}
