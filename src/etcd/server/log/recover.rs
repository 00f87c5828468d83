//! What a log says after a crash, decided from the bytes of its segments. Pure.
//!
//! The rule (protocol-aware recovery, FAST 2018): a batch is written only
//! after the sync of the one before it came back. So when a record does not
//! validate, and a commit of a *later* batch does, the record was durable once
//! and is damaged: nothing is cut, the log is refused. When there is no later
//! commit, the last write was cut off by the crash: it was never acknowledged
//! and is dropped, whole.
//!
//! One case looks like both: damage in the very last batch. It is dropped as a
//! torn write, so two more things limit it. [`super::Log::open`] writes one
//! more batch at once, which takes the ambiguity from all that was there; and a log that
//! ends before the commit index it recorded is refused ([`Refused::Shorter`]).
//!
//! A torn write is taken to keep each 512-byte sector whole, old or new, as
//! disks promise; a sector that a write shares with the batch before it holds
//! that batch's bytes in both versions.

use raft::eraftpb::{Entry, HardState};

use super::record::{ALIGNMENT, COMMIT_BYTES, HEADER_BYTES, Header, Marker, Record, commit_at, read};

/// Why a log is not opened. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Acknowledged bytes are damaged.
    Damaged {
        /// The segment's sequence number.
        sequence: u64,
        /// The first byte of the first record that does not validate.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// The log ends before the commit index that it recorded.
    Shorter {
        /// The recorded commit index.
        commit: u64,
        /// The last index of the log.
        last: u64,
    },
}

/// Where the next batch goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// The live segment's header.
    pub header: Header,
    /// Offset after its last commit record.
    pub offset: usize,
    /// The chain there.
    pub chain: u32,
    /// The number of the next batch.
    pub next_batch: u64,
    /// Bytes of a torn batch after `offset` that still validate.
    pub cut_bytes: u64,
}

/// The highest index that a segment holds and that was not overwritten by a
/// later one: the segment can go when the log is compacted up to there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The segment's sequence number.
    pub sequence: u64,
    /// 0 when it holds no entry that counts.
    pub last_index: u64,
}

/// Notes that the newest segment now holds the entries `first..=last`.
pub fn note_entries(spans: &mut [Span], first: u64, last: u64) {
    for span in spans.iter_mut() {
        span.last_index = span.last_index.min(first.saturating_sub(1));
    }
    if let Some(newest) = spans.last_mut() {
        newest.last_index = last;
    }
}

/// What was recovered.
#[derive(Clone, Debug, PartialEq)]
pub struct Replayed {
    /// The last hard state; its commit index is at least the marker's.
    pub hard_state: HardState,
    /// The entries after the marker.
    pub entries: Vec<Entry>,
    /// What lies before the first entry.
    pub marker: Marker,
    /// Where to go on.
    pub end: End,
    /// The segments, oldest first.
    pub spans: Vec<Span>,
}

/// Reads segments, oldest first, one at a time.
#[derive(Debug, Default)]
pub struct Recovery {
    marker: Option<Marker>,
    /// Index of `entries[0]`, or of the next entry while there is none.
    first: u64,
    entries: Vec<Entry>,
    hard_state: HardState,
    spans: Vec<Span>,
    end: Option<End>,
    /// First byte of the newest segment that did not validate.
    bad_at: usize,
}

impl Recovery {
    /// Reads the next segment, whose name says `sequence`.
    ///
    /// # Errors
    /// [`Refused::Damaged`]: it, or the end of the one before it, is damaged.
    pub fn segment(&mut self, sequence: u64, bytes: &[u8]) -> Result<(), Refused> {
        let damaged = |offset: usize, what| Refused::Damaged { sequence, offset: offset as u64, what };
        let header = Header::decode(bytes).map_err(|what| damaged(0, what))?;
        if header.sequence != sequence {
            return Err(damaged(24, "the header belongs to another segment"));
        }
        // Sizes never change: this was no crash of ours.
        if bytes.len() != header.segment_bytes as usize {
            return Err(damaged(bytes.len(), "the file is not as long as it was made"));
        }
        match self.end {
            Some(before) if header.sequence != before.header.sequence + 1 => {
                return Err(damaged(0, "the segment before this one is missing"));
            }
            // This segment was started after the last batch of the one before
            // was durable, so its header knows how that one ended.
            Some(before)
                if header.first_batch != before.next_batch || header.previous_chain != before.chain =>
            {
                return Err(self.damaged_before(before));
            }
            Some(_) => {}
            None => self.first = header.first_index,
        }
        self.spans.push(Span { sequence, last_index: 0 });
        self.batches(header, bytes).map_err(|(offset, what)| damaged(offset, what))
    }

    /// The log as the segments tell it; `newest` is the last one that was read.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn finish(mut self, newest: &[u8]) -> Result<Replayed, Refused> {
        let nothing = Refused::Damaged { sequence: 0, offset: 0, what: "the log has no segment" };
        let mut end = self.end.ok_or(nothing)?;
        let later = commits_after(newest, end.offset, end.header.salt);
        if later.iter().any(|(_, batch)| *batch > end.next_batch) {
            return Err(self.damaged_before(end));
        }
        let evidence = later.iter().map(|(at, _)| at + COMMIT_BYTES).max().unwrap_or(0);
        end.cut_bytes = evidence.max(self.bad_at).saturating_sub(end.offset) as u64;

        let whole = self.marker.filter(|marker| self.first == marker.index + 1);
        let Some(marker) = whole else {
            let what = "entries are missing between the start of the log and its first segment";
            return Err(Refused::Damaged { sequence: self.spans[0].sequence, offset: 0, what });
        };
        let last = marker.index + self.entries.len() as u64;
        if self.hard_state.commit > last {
            return Err(Refused::Shorter { commit: self.hard_state.commit, last });
        }
        self.hard_state.commit = self.hard_state.commit.max(marker.index);
        let Self { hard_state, entries, spans, .. } = self;
        Ok(Replayed { hard_state, entries, marker, end, spans })
    }

    fn damaged_before(&self, end: End) -> Refused {
        let what = "a record does not validate, but a later batch was written after it was durable";
        Refused::Damaged { sequence: end.header.sequence, offset: self.bad_at as u64, what }
    }

    /// Reads the batches of a segment up to the first that is not whole.
    fn batches(&mut self, header: Header, bytes: &[u8]) -> Result<(), (usize, &'static str)> {
        let mut end = End {
            header,
            offset: HEADER_BYTES,
            chain: header.chain(),
            next_batch: header.first_batch,
            cut_bytes: 0,
        };
        let (mut at, mut chain) = (end.offset, end.chain);
        // A batch counts only when its commit was read.
        let mut batch = Vec::new();
        while let Some((record, next, chained)) = read(bytes, at, header.salt, chain) {
            if let Record::Commit(commit) = record {
                if commit.batch != end.next_batch {
                    break;
                }
                for (offset, record) in batch.drain(..) {
                    self.apply(record).map_err(|what| (offset, what))?;
                }
                end = End { offset: next, chain: chained, next_batch: commit.batch + 1, ..end };
            } else {
                batch.push((at, record));
            }
            (at, chain) = (next, chained);
        }
        self.bad_at = at;
        self.end = Some(end);
        Ok(())
    }

    fn apply(&mut self, record: Record) -> Result<(), &'static str> {
        match record {
            Record::Entry(entry) => self.put(entry)?,
            Record::HardState(state) => self.hard_state = state,
            Record::Compacted(marker) => {
                let gone = (marker.index + 1).saturating_sub(self.first);
                let gone = usize::try_from(gone).map_or(self.entries.len(), |it| it.min(self.entries.len()));
                self.entries.drain(..gone);
                self.first = self.first.max(marker.index + 1);
                self.marker = Some(marker);
            }
            Record::Restarted(marker) => {
                self.entries.clear();
                self.first = marker.index + 1;
                self.marker = Some(marker);
                note_entries(&mut self.spans, 0, 0);
            }
            Record::Commit(_) => {}
        }
        Ok(())
    }

    fn put(&mut self, entry: Entry) -> Result<(), &'static str> {
        let index = entry.index;
        if self.marker.is_some_and(|marker| index <= marker.index) {
            return Err("an entry lies before the start of the log");
        }
        if index > self.first + self.entries.len() as u64 {
            return Err("an entry is missing");
        }
        // An index below `first` replaces entries of a segment that is gone.
        let keep = index.saturating_sub(self.first);
        self.entries.truncate(usize::try_from(keep).expect("less than the entries in memory"));
        self.first = self.first.min(index);
        note_entries(&mut self.spans, index, index);
        self.entries.push(entry);
        Ok(())
    }
}

/// Every commit record after `from` that validates by itself: offset, batch.
fn commits_after(segment: &[u8], from: usize, salt: u64) -> Vec<(usize, u64)> {
    (from.next_multiple_of(ALIGNMENT)..segment.len())
        .step_by(ALIGNMENT)
        .filter_map(|at| commit_at(segment, at, salt).map(|commit| (at, commit.batch)))
        .collect()
}
