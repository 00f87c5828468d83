//! A SHA-256 that can be put down and taken up again after a restart.
//!
//! A transfer that was cut off goes on in the middle, and the hash of the whole
//! must still be that of every byte. `ring` and the usual face of `sha2` hide the
//! state that has to be kept for it; only the compression function is taken from
//! there, the rest is counting.
//!
//! Source: FIPS 180-4, sections 5.1.1, 5.3.3 and 6.2.

use crate::hash::{Sha256, hex, unhex};
use sha2::digest::{consts::U64, generic_array::GenericArray};

const CHUNK_BYTES: usize = 64;
const STATE_BYTES: usize = 32;

/// Chunks that are compressed by one call, so that what a call costs is shared.
const CHUNKS_AT_ONCE: usize = 16;

const START: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// The hash of what came so far.
#[derive(Clone, PartialEq, Eq)]
pub struct RunningSha256 {
    state: [u32; 8],
    bytes: u64,
    /// What came after the last whole chunk: fewer than 64 bytes.
    rest: Vec<u8>,
}

impl Default for RunningSha256 {
    fn default() -> Self {
        Self { state: START, bytes: 0, rest: Vec::with_capacity(CHUNK_BYTES) }
    }
}

impl RunningSha256 {
    /// How many bytes came.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        if !self.rest.is_empty() {
            let missing = (CHUNK_BYTES - self.rest.len()).min(bytes.len());
            self.rest.extend_from_slice(&bytes[..missing]);
            bytes = &bytes[missing..];
            if self.rest.len() < CHUNK_BYTES {
                return;
            }
            let whole = std::mem::take(&mut self.rest);
            self.compress(&whole);
        }
        let whole = bytes.len() - bytes.len() % CHUNK_BYTES;
        self.compress(&bytes[..whole]);
        self.rest.extend_from_slice(&bytes[whole..]);
    }

    fn compress(&mut self, chunks: &[u8]) {
        let mut batch = [GenericArray::<u8, U64>::default(); CHUNKS_AT_ONCE];
        for group in chunks.chunks(CHUNKS_AT_ONCE * CHUNK_BYTES) {
            let count = group.len() / CHUNK_BYTES;
            for (to, from) in batch.iter_mut().zip(group.chunks_exact(CHUNK_BYTES)) {
                to.copy_from_slice(from);
            }
            sha2::compress256(&mut self.state, &batch[..count]);
        }
    }

    /// The hash of all that came.
    pub fn finish(mut self) -> Sha256 {
        let bits = self.bytes * 8;
        let mut tail = std::mem::take(&mut self.rest);
        tail.push(0x80);
        while tail.len() % CHUNK_BYTES != CHUNK_BYTES - 8 {
            tail.push(0);
        }
        tail.extend_from_slice(&bits.to_be_bytes());
        self.compress(&tail);
        Sha256(self.state_bytes())
    }

    fn state_bytes(&self) -> [u8; STATE_BYTES] {
        let mut bytes = [0; STATE_BYTES];
        for (to, word) in bytes.chunks_exact_mut(4).zip(self.state) {
            to.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }

    /// The state as hex digits: 64, then those of up to 63 bytes that wait.
    pub fn save(&self) -> String {
        hex(&self.state_bytes()) + &hex(&self.rest)
    }

    /// The hash whose [`Self::save`] gave `text` when `bytes` had come; `None`
    /// when it could not have.
    pub fn load(text: &str, bytes: u64) -> Option<Self> {
        let saved = unhex(text)?;
        let (head, rest) = saved.split_at_checked(STATE_BYTES)?;
        if rest.len() as u64 != bytes % CHUNK_BYTES as u64 {
            return None;
        }
        let mut state = START;
        for (word, from) in state.iter_mut().zip(head.as_chunks::<4>().0) {
            *word = u32::from_be_bytes(*from);
        }
        Some(Self { state, bytes, rest: rest.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::RunningSha256;
    use crate::hash::Sha256;
    use proptest::prelude::*;

    proptest! {
        /// However the bytes are cut, and put down and taken up at each cut.
        #[test]
        fn same_hash_as_in_one_go(bytes in prop::collection::vec(any::<u8>(), 0..5000),
                                  cuts in prop::collection::vec(0usize..2000, 0..12)) {
            let mut running = RunningSha256::default();
            let mut left = &bytes[..];
            for cut in cuts {
                let (now, later) = left.split_at(cut.min(left.len()));
                running.update(now);
                left = later;
                running = RunningSha256::load(&running.save(), running.bytes()).expect("just saved");
            }
            running.update(left);
            prop_assert_eq!(running.finish(), Sha256::of(&bytes));
        }
    }

    #[test]
    fn padding_at_every_length() {
        for length in 0..200 {
            let bytes = vec![0x5a; length];
            let mut running = RunningSha256::default();
            running.update(&bytes);
            assert_eq!(running.finish(), Sha256::of(&bytes), "{length} bytes");
        }
    }

    #[test]
    fn what_could_not_be_saved_is_not_loaded() {
        let mut running = RunningSha256::default();
        running.update(b"abc");
        let saved = running.save();
        assert!(RunningSha256::load(&saved, 3).is_some());
        assert!(RunningSha256::load(&saved, 67).is_some(), "the same rest");
        for (text, bytes) in [(saved.as_str(), 4), (&saved[1..], 3), (&saved[2..], 3), ("", 0), ("zz", 0)] {
            assert!(RunningSha256::load(text, bytes).is_none(), "{text:?} after {bytes}");
        }
    }
}
