//! What the log promises, tried on bytes (`crash`), on files (`files`), and
//! against a list in memory (`model`).
#![allow(clippy::unwrap_used)]

mod crash;
mod files;
mod model;

use raft::eraftpb::{Entry, EntryType, HardState};

use super::{Log, LogOptions};

/// The smallest segments, and no wish to leave the test machine any space.
const SMALL: LogOptions = LogOptions { segment_bytes: 8 << 10, spares: 2, kept_files: 4, keep_free_bytes: 0 };

fn entry(index: u64, term: u64, size: usize) -> Entry {
    let data: Vec<u8> = (0..size).map(|at| (at as u64 * 7 + index * 13 + term) as u8).collect();
    let mut entry = Entry { index, term, data: data.into(), ..Entry::default() };
    // Every field of an entry, in some entry.
    if index.is_multiple_of(3) {
        entry.entry_type = EntryType::EntryConfChangeV2;
        entry.context = vec![index as u8; 5].into();
        entry.sync_log = true;
    }
    entry
}

fn entries(indexes: std::ops::RangeInclusive<u64>, term: u64, size: usize) -> Vec<Entry> {
    indexes.map(|index| entry(index, term, size)).collect()
}

fn hard_state(term: u64, vote: u64, commit: u64) -> HardState {
    HardState { term, vote, commit, ..HardState::default() }
}

fn made(dir: &std::path::Path) -> Log {
    Log::create(dir, SMALL, (0, 0)).unwrap()
}
