//! Which term each index of the log has, in a few numbers. Pure.

use super::record::Marker;

/// The terms of a log that starts after a marker, as runs.
///
/// A run is the first index of a term; a log has as many as it has seen
/// leaders, so a list is small. Example: entries 11..=14 of term 3 and 15 of
/// term 5, after the marker (10, 2): `runs = [(10, 2), (11, 3), (15, 5)]`, `last = 15`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// First index and its term, both ascending; never empty.
    runs: Vec<(u64, u64)>,
    last: u64,
}

impl Terms {
    /// A log without entries after `marker`.
    pub fn after(marker: Marker) -> Self {
        Self { runs: vec![(marker.index, marker.term)], last: marker.index }
    }

    /// The index before the first entry, and its term.
    pub fn marker(&self) -> Marker {
        let (index, term) = self.runs[0];
        Marker { index, term }
    }

    /// The last index; the marker's when there is no entry.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// The term of `index`, or `None` outside `marker..=last`.
    pub fn get(&self, index: u64) -> Option<u64> {
        if index > self.last {
            return None;
        }
        self.runs.iter().rev().find(|(first, _)| *first <= index).map(|(_, term)| *term)
    }

    /// Puts an entry at `index`, and forgets what was there and after it.
    ///
    /// # Panics
    /// `index` is not in `marker + 1 ..= last + 1`.
    pub fn push(&mut self, index: u64, term: u64) {
        assert!(index > self.runs[0].0 && index <= self.last + 1, "entry {index} after {}", self.last);
        self.runs.retain(|(first, _)| *first < index);
        if self.runs.last().is_none_or(|(_, before)| *before != term) {
            self.runs.push((index, term));
        }
        self.last = index;
    }

    /// Moves the marker to `index`, which must be in `marker..=last`.
    pub fn compact(&mut self, index: u64) {
        let Some(term) = self.get(index) else { return };
        self.runs.retain(|(first, _)| *first > index);
        self.runs.insert(0, (index, term));
    }
}
