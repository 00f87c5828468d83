//! Which bytes of the new data are like which bytes of the old: the scan of bsdiff.
//!
//! Programs that are linked again keep their code but move it, and with it change
//! the addresses in it: long stretches are the old ones but for a few bytes in
//! every hundred. Such a stretch is found by the exact matches in it and then
//! grown over the bytes that differ. Subtracting the old from it leaves almost
//! nothing but zeros, which compress to almost nothing.
//!
//! Source: Colin Percival, "Naive differences of executable code", 2003.

use std::cmp::Ordering;

/// By how many bytes an exact match at another distance must beat what the current
/// distance explains already: a piece costs about as much as 8 bytes.
const WORTH_A_PIECE: usize = 8;

/// A run of the new data: `add` bytes that are like the old ones from `source` on,
/// then `insert` bytes that are like nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where the like bytes start in the old data.
    pub source: usize,
    /// How many are like the old ones, more or less.
    pub add: usize,
    /// How many new ones follow them.
    pub insert: usize,
}

/// The old data with all its suffixes in order.
pub struct Old<'a> {
    bytes: &'a [u8],
    order: Vec<i32>,
}

/// The place in the new data where another distance begins, and what is there.
#[derive(Clone, Copy)]
struct Anchor {
    target: usize,
    source: usize,
}

impl<'a> Old<'a> {
    /// Sorts the suffixes: four times the memory of `bytes`, some seconds for 60 MB.
    ///
    /// # Panics
    /// When there are 2 GiB or more; a slot cannot hold them.
    pub fn new(bytes: &'a [u8]) -> Self {
        assert!(i32::try_from(bytes.len()).is_ok(), "old data of {} bytes", bytes.len());
        let mut order = vec![0; bytes.len()];
        divsufsort::sort_in_place(bytes, &mut order);
        Self { bytes, order }
    }

    /// The old data itself.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Takes `target` apart; the pieces make it up, in order and without a gap.
    ///
    /// `guess` is the place in the old data that the start of `target` is probably
    /// like, such as its own place. It saves a piece, and may be wrong.
    pub fn pieces(&self, target: &[u8], guess: usize) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut here = Anchor { target: 0, source: guess.min(self.bytes.len()) };
        let mut scan = 0;
        while here.target < target.len() {
            let next = self.next_anchor(target, &mut scan, here);
            let end = next.map_or(target.len(), |next| next.target);
            let mut forward = self.grow_forward(target, here, end);
            let mut backward = next.map_or(0, |next| self.grow_backward(target, next, here.target));
            let between = end - here.target;
            if let (Some(next), true) = (next, forward + backward > between) {
                let overlap = forward + backward - between;
                let kept = self.cut(target, (here, next), end - backward, overlap);
                forward = forward - overlap + kept;
                backward -= kept;
            }
            let insert = between - forward - backward;
            // A wrong guess leaves an empty piece at the start.
            if forward + insert > 0 {
                pieces.push(Piece { source: here.source, add: forward, insert });
            }
            let Some(next) = next else { break };
            here = Anchor { target: next.target - backward, source: next.source - backward };
        }
        pieces
    }

    /// The next place from `scan` on where another distance than that of `here`
    /// explains more; `scan` is left behind the exact match there.
    fn next_anchor(&self, target: &[u8], scan: &mut usize, here: Anchor) -> Option<Anchor> {
        let is_explained = |at: usize| {
            let source = here.source + at - here.target;
            self.bytes.get(source).is_some_and(|byte| *byte == target[at])
        };
        // `explained` of the bytes from `scan` to `counted` are as the current distance says.
        let (mut counted, mut explained) = (*scan, 0_usize);
        while *scan < target.len() {
            let (source, len) = self.longest(&target[*scan..]);
            while counted < *scan + len {
                explained += usize::from(is_explained(counted));
                counted += 1;
            }
            if len == explained && len != 0 {
                *scan += len;
                (counted, explained) = (*scan, 0);
            } else if len > explained + WORTH_A_PIECE {
                let found = Anchor { target: *scan, source };
                *scan += len;
                return Some(found);
            } else {
                explained -= usize::from(is_explained(*scan) && counted > *scan);
                *scan += 1;
                counted = counted.max(*scan);
            }
        }
        None
    }

    /// The longest start of `wanted` that the old data has, and where.
    fn longest(&self, wanted: &[u8]) -> (usize, usize) {
        // What both ends of the range have in common with `wanted`, all between
        // have, too: no comparison begins at the beginning again.
        let suffix = |at: usize| {
            let start = usize::try_from(self.order[at]).expect("an offset of the old data");
            (start, &self.bytes[start..])
        };
        let (mut low, mut high) = (0, self.order.len());
        let (mut low_len, mut high_len) = (0, 0);
        let mut best = (0, 0);
        while low < high {
            let middle = low + (high - low) / 2;
            let (start, have) = suffix(middle);
            let known = low_len.min(high_len);
            let len = known + common(&have[known.min(have.len())..], &wanted[known..]);
            if len > best.1 {
                best = (start, len);
            }
            match have.get(len).cmp(&wanted.get(len)) {
                Ordering::Less => (low, low_len) = (middle + 1, len),
                Ordering::Equal => break,
                Ordering::Greater => (high, high_len) = (middle, len),
            }
        }
        best
    }

    /// How far the distance of `here` is worth keeping: the length at which right
    /// bytes beat wrong ones by the most.
    fn grow_forward(&self, target: &[u8], here: Anchor, end: usize) -> usize {
        let pairs = self.bytes[here.source..].iter().zip(&target[here.target..end]);
        most(pairs.map(|(old, new)| old == new))
    }

    /// The same from an anchor backwards, not beyond `start`.
    fn grow_backward(&self, target: &[u8], here: Anchor, start: usize) -> usize {
        let old = self.bytes[..here.source].iter().rev();
        most(old.zip(target[start..here.target].iter().rev()).map(|(old, new)| old == new))
    }

    /// Where two distances explain the same `overlap` bytes from `start` on: how many
    /// of them are best left to the first.
    fn cut(&self, target: &[u8], (first, second): (Anchor, Anchor), start: usize, overlap: usize) -> usize {
        let (mut best, mut score, mut best_score) = (0, 0_i64, 0);
        for (done, at) in (start..start + overlap).enumerate() {
            let old_first = self.bytes[first.source + at - first.target];
            let old_second = self.bytes[second.source - (second.target - at)];
            score += i64::from(old_first == target[at]) - i64::from(old_second == target[at]);
            if score > best_score {
                (best, best_score) = (done + 1, score);
            }
        }
        best
    }
}

/// How many leading bytes `a` and `b` have in common.
fn common(a: &[u8], b: &[u8]) -> usize {
    const WIDE: usize = 16;
    let whole = a.chunks_exact(WIDE).zip(b.chunks_exact(WIDE)).take_while(|(a, b)| a == b).count() * WIDE;
    whole + a[whole..].iter().zip(&b[whole..]).take_while(|(a, b)| a == b).count()
}

/// The length at which the equal ones exceed the others by the most; 0 when never.
fn most(equal: impl Iterator<Item = bool>) -> usize {
    let (mut best, mut score, mut best_score) = (0, 0_i64, 0);
    for (index, equal) in equal.enumerate() {
        score += if equal { 1 } else { -1 };
        if score > best_score {
            (best, best_score) = (index + 1, score);
        }
    }
    best
}

#[cfg(test)]
#[path = "matches_test.rs"]
mod tests;
