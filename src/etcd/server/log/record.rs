//! The bytes of a segment: its header, its records and their checksums. Pure.
//!
//! A segment is a header of [`HEADER_BYTES`], then batches, then bytes of no
//! meaning (zeros, or what an earlier life of the file left). A batch is what
//! one write and one sync made durable: records, the last of them a commit.
//!
//! ```text
//! header   magic 8 | version 4 | segment bytes 4 | salt 8 | sequence 8
//!          | first index 8 | first batch 8 | previous chain 4 | crc 4
//! record   payload length 4 | chain 4 | payload | zeros up to 8
//! payload  kind 1 | ...
//!   1 entry       flags 1, type 1, zero 1, context length 4 | term 8 | index 8 | context | data
//!   2 hard state  zero 7 | term 8 | vote 8 | commit 8
//!   3 compacted   zero 7 | index 8 | term 8
//!   4 restarted   zero 7 | index 8 | term 8
//!   5 commit      zero 7 | salt 8 | batch 8 | offset 8 | chain before 4 | crc 4
//! ```
//! Integers are little-endian. `chain` is the CRC-32C of the record's length
//! and padded payload, continued from the record before it; the first record
//! continues the header's. The header holds a salt drawn for each life of a
//! file, so a record of an earlier life never continues the chain. A commit
//! can also be checked alone ([`commit_at`]): that is how recovery learns
//! that something valid comes after something bad.

use bytes::Bytes;
use raft::eraftpb::{Entry, EntryType, HardState};

/// Size of a segment's header; the first record starts here.
pub const HEADER_BYTES: usize = 56;
/// Size of a commit record.
pub const COMMIT_BYTES: usize = RECORD_BYTES + 40;
/// Size of a hard state record.
pub const HARD_STATE_BYTES: usize = RECORD_BYTES + 32;
/// Size of a marker record (compacted, restarted).
pub const MARKER_BYTES: usize = RECORD_BYTES + 24;
/// What precedes a record's payload.
const RECORD_BYTES: usize = 8;
/// What precedes an entry's context in the payload.
const ENTRY_BYTES: usize = 24;
/// "proa log", then a byte that no text has, so that no editor saves it.
const MAGIC: [u8; 8] = *b"proalog\x93";
/// The layout above.
const VERSION: u32 = 1;

const KIND_ENTRY: u8 = 1;
const KIND_HARD_STATE: u8 = 2;
const KIND_COMPACTED: u8 = 3;
const KIND_RESTARTED: u8 = 4;
const KIND_COMMIT: u8 = 5;
/// Entry flag: raft's deprecated `sync_log`.
const FLAG_SYNC_LOG: u8 = 1;

/// Records start at multiples of this, so recovery can look for commits
/// without trying every byte.
pub const ALIGNMENT: usize = 8;

/// A point in the log: everything up to `index`, which is of `term`, lives
/// elsewhere (in the database or in a snapshot that was received).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marker {
    /// Raft index, 0 before the first entry.
    pub index: u64,
    /// Raft term of that entry.
    pub term: u64,
}

/// The head of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Size of the file when it was written.
    pub segment_bytes: u32,
    /// Random, new for each life of the file.
    pub salt: u64,
    /// Place of the segment in the log, from 1.
    pub sequence: u64,
    /// The index after the log's last when the segment was started.
    pub first_index: u64,
    /// The number of its first batch.
    pub first_batch: u64,
    /// The chain at the end of the segment before it (0 for the first).
    pub previous_chain: u32,
}

impl Header {
    /// The header as bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.segment_bytes.to_le_bytes());
        for word in [self.salt, self.sequence, self.first_index, self.first_batch] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&self.previous_chain.to_le_bytes());
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out.try_into().expect("the fields above are 56 bytes")
    }

    /// Reads a header, or says what is wrong with it.
    ///
    /// # Errors
    /// The bytes are too few, are no header, or were changed.
    pub fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let head = bytes.get(..HEADER_BYTES).ok_or("the file is shorter than its header")?;
        if head[..8] != MAGIC {
            return Err("this is not a log segment");
        }
        if u32_at(head, 52) != crc32c::crc32c(&head[..52]) {
            return Err("the header's checksum is wrong");
        }
        if u32_at(head, 8) != VERSION {
            return Err("the segment was written by a later version");
        }
        Ok(Self {
            segment_bytes: u32_at(head, 12),
            salt: u64_at(head, 16),
            sequence: u64_at(head, 24),
            first_index: u64_at(head, 32),
            first_batch: u64_at(head, 40),
            previous_chain: u32_at(head, 48),
        })
    }

    /// Where the chain of this segment starts.
    pub fn chain(&self) -> u32 {
        crc32c::crc32c(&self.encode())
    }
}

/// A commit record: all before it in its batch was written in one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Numbered through the whole log, without a hole.
    pub batch: u64,
    /// The chain of all records of the segment before this one.
    pub chain: u32,
}

/// A record as it was read.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// A raft entry.
    Entry(Entry),
    /// Raft's term, vote and commit index.
    HardState(HardState),
    /// Entries up to the marker are no longer in the log; later ones stay.
    Compacted(Marker),
    /// The log was emptied and starts again after the marker.
    Restarted(Marker),
    /// The end of a batch.
    Commit(Commit),
}

/// The size of an entry's record in a segment.
pub fn entry_bytes(entry: &Entry) -> usize {
    RECORD_BYTES + (ENTRY_BYTES + entry.context.len() + entry.data.len()).next_multiple_of(ALIGNMENT)
}

/// Writes one batch of records.
#[derive(Debug)]
pub struct Batch<'a> {
    out: &'a mut Vec<u8>,
    chain: u32,
}

impl<'a> Batch<'a> {
    /// A batch that continues `chain`; `out` is emptied and filled.
    pub fn new(out: &'a mut Vec<u8>, chain: u32) -> Self {
        out.clear();
        Self { out, chain }
    }

    /// Adds an entry, by hand: its protobuf form is never parsed again.
    pub fn entry(&mut self, entry: &Entry) {
        let context = u32::try_from(entry.context.len()).expect("an entry fits a segment, so 32 bits");
        let kind = match entry.entry_type {
            EntryType::EntryNormal => 0,
            EntryType::EntryConfChange => 1,
            EntryType::EntryConfChangeV2 => 2,
        };
        let flags = if entry.sync_log { FLAG_SYNC_LOG } else { 0 };
        self.record(|out| {
            out.extend_from_slice(&[KIND_ENTRY, flags, kind, 0]);
            out.extend_from_slice(&context.to_le_bytes());
            out.extend_from_slice(&entry.term.to_le_bytes());
            out.extend_from_slice(&entry.index.to_le_bytes());
            out.extend_from_slice(&entry.context);
            out.extend_from_slice(&entry.data);
        });
    }

    /// Adds a hard state.
    pub fn hard_state(&mut self, state: &HardState) {
        self.words(KIND_HARD_STATE, &[state.term, state.vote, state.commit]);
    }

    /// Adds a marker after which later entries stay.
    pub fn compacted(&mut self, marker: Marker) {
        self.words(KIND_COMPACTED, &[marker.index, marker.term]);
    }

    /// Adds a marker that empties the log.
    pub fn restarted(&mut self, marker: Marker) {
        self.words(KIND_RESTARTED, &[marker.index, marker.term]);
    }

    /// Ends the batch and returns the chain that the next one continues.
    /// `at` is where the batch goes in its segment.
    pub fn commit(mut self, salt: u64, batch: u64, at: usize) -> u32 {
        let offset = (at + self.out.len()) as u64;
        let chain = self.chain;
        self.record(|out| {
            out.extend_from_slice(&[KIND_COMMIT, 0, 0, 0, 0, 0, 0, 0]);
            let start = out.len();
            for word in [salt, batch, offset] {
                out.extend_from_slice(&word.to_le_bytes());
            }
            out.extend_from_slice(&chain.to_le_bytes());
            let crc = crc32c::crc32c(&out[start..]);
            out.extend_from_slice(&crc.to_le_bytes());
        });
        self.chain
    }

    fn words(&mut self, kind: u8, words: &[u64]) {
        self.record(|out| {
            out.extend_from_slice(&[kind, 0, 0, 0, 0, 0, 0, 0]);
            for word in words {
                out.extend_from_slice(&word.to_le_bytes());
            }
        });
    }

    fn record(&mut self, payload: impl FnOnce(&mut Vec<u8>)) {
        let start = self.out.len();
        self.out.extend_from_slice(&[0; RECORD_BYTES]);
        payload(self.out);
        let length = self.out.len() - start - RECORD_BYTES;
        let length = u32::try_from(length).expect("a record fits a segment, so 32 bits");
        self.out.resize(self.out.len().next_multiple_of(ALIGNMENT), 0);
        self.out[start..start + 4].copy_from_slice(&length.to_le_bytes());
        self.chain = chained(self.chain, length, &self.out[start + RECORD_BYTES..]);
        self.out[start + 4..start + 8].copy_from_slice(&self.chain.to_le_bytes());
    }
}

/// Reads the record at `at`, which must continue `chain`: the record, where
/// the next one starts, and the chain there. `None` when it does not validate.
pub fn read(segment: &[u8], at: usize, salt: u64, chain: u32) -> Option<(Record, usize, u32)> {
    let head = segment.get(at..at.checked_add(RECORD_BYTES)?)?;
    let length = u32_at(head, 0);
    let start = at + RECORD_BYTES;
    let end = start.checked_add((length as usize).checked_next_multiple_of(ALIGNMENT)?)?;
    let padded = segment.get(start..end)?;
    // The shortest payload has one word after its kind. This also refuses the
    // zeros of a fresh segment without a look at their checksum.
    if (length as usize) < 16 || chained(chain, length, padded) != u32_at(head, 4) {
        return None;
    }
    let record = match padded[0] {
        KIND_COMMIT => Record::Commit(commit_at(segment, at, salt).filter(|it| it.chain == chain)?),
        _ => decode(&padded[..length as usize])?,
    };
    Some((record, end, u32_at(head, 4)))
}

/// The commit record at `at`, checked by itself and not as part of a chain.
pub fn commit_at(segment: &[u8], at: usize, salt: u64) -> Option<Commit> {
    let bytes = segment.get(at..at.checked_add(COMMIT_BYTES)?)?;
    let payload = &bytes[RECORD_BYTES..];
    let is_commit = u64_at(payload, 8) == salt
        && payload[..8] == [KIND_COMMIT, 0, 0, 0, 0, 0, 0, 0]
        && u64_at(payload, 24) == at as u64
        && u32_at(payload, 36) == crc32c::crc32c(&payload[8..36]);
    is_commit.then(|| Commit { batch: u64_at(payload, 16), chain: u32_at(payload, 32) })
}

/// What a payload whose checksum is right means; `None` for what this version
/// does not write.
fn decode(payload: &[u8]) -> Option<Record> {
    match (payload[0], payload.len()) {
        (KIND_ENTRY, ENTRY_BYTES..) => decode_entry(payload).map(Record::Entry),
        (KIND_HARD_STATE, 32) => {
            let (term, vote, commit) = (u64_at(payload, 8), u64_at(payload, 16), u64_at(payload, 24));
            Some(Record::HardState(HardState { term, vote, commit, ..HardState::default() }))
        }
        (KIND_COMPACTED, 24) => Some(Record::Compacted(marker(payload))),
        (KIND_RESTARTED, 24) => Some(Record::Restarted(marker(payload))),
        _ => None,
    }
}

fn decode_entry(payload: &[u8]) -> Option<Entry> {
    let (context, data) = payload[ENTRY_BYTES..].split_at_checked(u32_at(payload, 4) as usize)?;
    let entry_type = match payload[2] {
        0 => EntryType::EntryNormal,
        1 => EntryType::EntryConfChange,
        2 => EntryType::EntryConfChangeV2,
        _ => return None,
    };
    Some(Entry {
        entry_type,
        term: u64_at(payload, 8),
        index: u64_at(payload, 16),
        sync_log: payload[1] & FLAG_SYNC_LOG != 0,
        // Copied: a slice would keep the whole segment in memory.
        context: Bytes::copy_from_slice(context),
        data: Bytes::copy_from_slice(data),
        ..Entry::default()
    })
}

fn marker(payload: &[u8]) -> Marker {
    Marker { index: u64_at(payload, 8), term: u64_at(payload, 16) }
}

fn chained(chain: u32, length: u32, padded: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(chain, &length.to_le_bytes()), padded)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes were sliced"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes were sliced"))
}
