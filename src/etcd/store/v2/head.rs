//! How far the v2 tree is.

/// The counters of the v2 tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The index of the newest change.
    pub index: u64,
    /// The first index of which every event is kept.
    pub floor: u64,
    /// Bytes of the kept events, keys included.
    pub history_bytes: u64,
}

impl Head {
    /// A new tree. Its index is what etcd has used up for its own bookkeeping
    /// when a cluster of one member takes its first request.
    pub const EMPTY: Head = Head { index: 3, floor: 1, history_bytes: 0 };

    pub(super) fn encode(self) -> Vec<u8> {
        [self.index, self.floor, self.history_bytes].map(u64::to_be_bytes).concat()
    }

    pub(super) fn decode(stored: &[u8]) -> Option<Self> {
        let stored: &[u8; 24] = stored.try_into().ok()?;
        let word = |at: usize| stored[at..at + 8].iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
        Some(Self { index: word(0), floor: word(8), history_bytes: word(16) })
    }
}
