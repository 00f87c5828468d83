//! A SHA-256 that can be put down and taken up again after a restart, and two that
//! are made at a time.
//!
//! A transfer that was cut off goes on in the middle, and the hash of the whole
//! must still be that of every byte. `ring` and the usual face of `sha2` hide the
//! state that has to be kept for it; only the compression function is taken from
//! there or from `super::pair`, the rest is counting.
//!
//! Source: FIPS 180-4, sections 5.1.1, 5.3.3 and 6.2.

use super::{
    Sha256, hex,
    pair::{Chunk, Pair, State},
    unhex,
};
use sha2::digest::{consts::U64, generic_array::GenericArray};

const CHUNK_BYTES: usize = size_of::<Chunk>();
const STATE_BYTES: usize = size_of::<State>();

/// Chunks that are compressed by one call, so that what a call costs is shared.
const CHUNKS_AT_ONCE: usize = 16;

const START: State =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// The hash of what came so far.
#[derive(Clone)]
pub struct RunningSha256 {
    state: State,
    bytes: u64,
    /// Starts with what came after the last whole chunk: [`Self::rest`].
    chunk: Chunk,
}

impl Default for RunningSha256 {
    fn default() -> Self {
        Self { state: START, bytes: 0, chunk: [0; CHUNK_BYTES] }
    }
}

impl RunningSha256 {
    /// How many bytes came.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        let (first, whole) = self.take(bytes);
        compress(&mut self.state, first.as_slice());
        compress(&mut self.state, whole);
    }

    /// Takes the next bytes of two messages.
    pub(super) fn update_two(pair: Pair, [a, b]: [&mut Self; 2], [bytes_a, bytes_b]: [&[u8]; 2]) {
        let ((first_a, whole_a), (first_b, whole_b)) = (a.take(bytes_a), b.take(bytes_b));
        let parts = [(first_a.as_slice(), first_b.as_slice()), (whole_a, whole_b)];
        for (chunks_a, chunks_b) in parts {
            let (rest_a, rest_b) = pair.compress([&mut a.state, &mut b.state], chunks_a, chunks_b);
            compress(&mut a.state, rest_a);
            compress(&mut b.state, rest_b);
        }
    }

    /// Takes the next bytes of two messages that go on alike: at once that costs what
    /// one does.
    pub fn update_both(a: &mut Self, b: &mut Self, bytes: &[u8]) {
        match Pair::of_this_processor() {
            Some(pair) => Self::update_two(pair, [a, b], [bytes, bytes]),
            None => [a, b].into_iter().for_each(|hash| hash.update(bytes)),
        }
    }

    /// What is to be compressed when `bytes` have come: the chunk that they complete,
    /// and the whole ones behind it.
    fn take<'a>(&mut self, mut bytes: &'a [u8]) -> (Option<Chunk>, &'a [Chunk]) {
        let waiting = self.rest().len();
        self.bytes += bytes.len() as u64;
        let mut first = None;
        if waiting > 0 {
            let missing = (CHUNK_BYTES - waiting).min(bytes.len());
            let (now, later) = bytes.split_at(missing);
            self.chunk[waiting..][..missing].copy_from_slice(now);
            if waiting + missing < CHUNK_BYTES {
                return (None, &[]);
            }
            (first, bytes) = (Some(self.chunk), later);
        }
        let (whole, rest) = bytes.as_chunks::<CHUNK_BYTES>();
        self.chunk[..rest.len()].copy_from_slice(rest);
        (first, whole)
    }

    /// What came after the last whole chunk: fewer than 64 bytes.
    fn rest(&self) -> &[u8] {
        &self.chunk[..(self.bytes % CHUNK_BYTES as u64) as usize]
    }

    /// The hash of all that came.
    pub fn finish(mut self) -> Sha256 {
        let rest = self.rest();
        let mut tail = [[0; CHUNK_BYTES]; 2];
        let bytes = tail.as_flattened_mut();
        bytes[..rest.len()].copy_from_slice(rest);
        bytes[rest.len()] = 0x80;
        let length = (self.bytes * 8).to_be_bytes();
        let chunks = (rest.len() + 1 + length.len()).div_ceil(CHUNK_BYTES);
        bytes[chunks * CHUNK_BYTES - length.len()..][..length.len()].copy_from_slice(&length);
        compress(&mut self.state, &tail[..chunks]);
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
        hex(&self.state_bytes()) + &hex(self.rest())
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
        let mut chunk = [0; CHUNK_BYTES];
        chunk[..rest.len()].copy_from_slice(rest);
        Some(Self { state, bytes, chunk })
    }
}

fn compress(state: &mut State, chunks: &[Chunk]) {
    let mut batch = [GenericArray::<u8, U64>::default(); CHUNKS_AT_ONCE];
    for group in chunks.chunks(CHUNKS_AT_ONCE) {
        for (to, from) in batch.iter_mut().zip(group) {
            to.copy_from_slice(from);
        }
        sha2::compress256(state, &batch[..group.len()]);
    }
}

#[cfg(test)]
#[path = "running_test.rs"]
mod tests;
