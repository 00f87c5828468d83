//! The log in memory: what raft-rs reads, bounded in bytes.

use std::collections::VecDeque;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Storage, StorageError};

/// A place in the raft log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Raft index; the first entry ever is 1.
    pub index: u64,
    /// Term of the entry at `index`.
    pub term: u64,
}

impl Position {
    /// The position of `entry`.
    pub fn of(entry: &Entry) -> Self {
        Self { index: entry.index, term: entry.term }
    }
}

/// What one entry costs besides its payload: struct, index, allocation.
const ENTRY_OVERHEAD_BYTES: usize = 128;

/// The entries after `base`, in memory.
///
/// Entries that are not applied or not persisted are always kept, because
/// raft-rs reads them; older ones are kept for slow followers while they fit.
pub(crate) struct Cache {
    hard_state: HardState,
    conf_state: ConfState,
    /// The last entry that is no longer here.
    base: Position,
    entries: VecDeque<Entry>,
    size_bytes: usize,
    /// Last applied position: what a snapshot is at least as new as.
    applied: Position,
}

impl Cache {
    pub(crate) fn new(
        hard_state: HardState,
        conf_state: ConfState,
        base: Position,
        applied: Position,
        entries: Vec<Entry>,
    ) -> Self {
        let size_bytes = entries.iter().map(cost_bytes).sum();
        Self { hard_state, conf_state, base, entries: entries.into(), size_bytes, applied }
    }

    /// The last entry's position, or the base when there is none.
    pub(crate) fn last(&self) -> Position {
        self.entries.back().map_or(self.base, Position::of)
    }

    /// Appends a run of entries, first cutting whatever it overwrites.
    ///
    /// # Panics
    ///
    /// When the run leaves a gap or reaches below the base: raft-rs broke its
    /// own contract and nothing may be written.
    pub(crate) fn append(&mut self, run: &[Entry]) {
        let Some(first) = run.first() else { return };
        assert!(first.index > self.base.index, "append at {} below base {:?}", first.index, self.base);
        assert!(first.index <= self.last().index + 1, "append at {} after {:?}", first.index, self.last());
        while self.last().index >= first.index {
            let cut = self.entries.pop_back().expect("last is above base, so an entry is there");
            self.size_bytes -= cost_bytes(&cut);
        }
        self.size_bytes += run.iter().map(cost_bytes).sum::<usize>();
        self.entries.extend(run.iter().cloned());
    }

    /// Starts again after a snapshot.
    pub(crate) fn restart(&mut self, base: Position) {
        self.base = base;
        self.entries.clear();
        self.size_bytes = 0;
    }

    /// Notes the applied position and drops what is old and does not fit.
    pub(crate) fn applied(&mut self, index: u64, persisted: u64, limit_bytes: usize, limit_entries: usize) {
        if let Some(term) = self.lookup(index) {
            self.applied = Position { index, term };
        }
        let floor = index.min(persisted);
        while self.base.index < floor && (self.size_bytes > limit_bytes || self.entries.len() > limit_entries)
        {
            let old = self.entries.pop_front().expect("base is below persisted, so an entry is there");
            self.size_bytes -= cost_bytes(&old);
            self.base = Position::of(&old);
        }
    }

    /// Bytes of the entries after `index`.
    pub(crate) fn bytes_after(&self, index: u64) -> usize {
        if self.last().index == index { 0 } else { self.size_bytes }
    }

    fn lookup(&self, index: u64) -> Option<u64> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        let at = index.checked_sub(self.base.index + 1)?;
        self.entries.get(usize::try_from(at).ok()?).map(|entry| entry.term)
    }
}

fn cost_bytes(entry: &Entry) -> usize {
    entry.data.len() + entry.context.len() + ENTRY_OVERHEAD_BYTES
}

impl Storage for Cache {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.base.index {
            return Err(Error::Store(StorageError::Compacted));
        }
        assert!(high <= self.last().index + 1, "entries to {high} asked, last is {:?}", self.last());
        let at = |index: u64| (index - self.base.index - 1) as usize;
        let limit = max_size.into().unwrap_or(u64::MAX);
        let mut taken = 0_u64;
        let fits = |entry: &&Entry| {
            let first = taken == 0;
            taken = taken.saturating_add(cost_bytes(entry) as u64);
            first || taken <= limit
        };
        Ok(self.entries.range(at(low)..at(high)).take_while(fits).cloned().collect())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        match self.lookup(index) {
            Some(term) => Ok(term),
            None if index < self.base.index => Err(Error::Store(StorageError::Compacted)),
            None => Err(Error::Store(StorageError::Unavailable)),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.base.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last().index)
    }

    /// Only the position: the data travels apart and is at least this new.
    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        if self.applied.index == 0 || self.applied.index < request_index {
            return Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        let mut snapshot = Snapshot::default();
        snapshot.mut_metadata().index = self.applied.index;
        snapshot.mut_metadata().term = self.applied.term;
        Ok(snapshot)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64, size: usize) -> Entry {
        Entry { index, term, data: vec![0; size].into(), ..Entry::default() }
    }

    fn cache(base: u64, count: u64) -> Cache {
        let at = Position { index: base, term: 1 };
        let entries = (base + 1..=base + count).map(|index| entry(index, 1, 10)).collect();
        Cache::new(HardState::default(), ConfState::default(), at, at, entries)
    }

    #[test]
    fn append_cuts_what_it_overwrites() {
        let mut cache = cache(5, 4);
        cache.append(&[entry(8, 2, 10)]);
        assert_eq!(cache.last(), Position { index: 8, term: 2 });
        assert_eq!(cache.term(7).unwrap(), 1);
        assert_eq!(cache.size_bytes, 3 * (10 + ENTRY_OVERHEAD_BYTES));
    }

    #[test]
    fn only_applied_and_persisted_entries_are_dropped() {
        for (applied, persisted, want_first) in [(7, 9, 8), (9, 6, 7), (9, 9, 10), (5, 9, 6)] {
            let mut cache = cache(5, 4);
            cache.applied(applied, persisted, 0, 0);
            assert_eq!(cache.first_index().unwrap(), want_first, "applied {applied}, persisted {persisted}");
            assert_eq!(cache.term(want_first - 1).unwrap(), 1);
        }
    }

    #[test]
    fn entries_give_at_least_one_and_respect_the_limit() {
        let cache = cache(0, 4);
        let read = |limit: u64| cache.entries(1, 5, limit, GetEntriesContext::empty(false)).unwrap().len();
        assert_eq!(read(0), 1);
        assert_eq!(read(2 * (10 + ENTRY_OVERHEAD_BYTES as u64)), 2);
        assert_eq!(read(u64::MAX), 4);
    }
}
