//! Every way in which a crash can cut a small log, and every bit that can flip.

use raft::eraftpb::{Entry, HardState};

use super::super::record::{Batch, COMMIT_BYTES, HEADER_BYTES, Header, Marker};
use super::super::recover::{Recovery, Refused, Replayed};
use super::{entries, entry, hard_state};

/// What one append wrote.
struct Append {
    entries: Vec<Entry>,
    hard_state: Option<HardState>,
}

fn append(entries: Vec<Entry>, hard_state: Option<HardState>) -> Append {
    Append { entries, hard_state }
}

/// A segment as it was after each of its batches.
struct Written {
    /// The file with all batches.
    image: Vec<u8>,
    header: Header,
    /// Where each batch ends; the first is the marker.
    ends: Vec<usize>,
    chain: u32,
}

/// Writes a segment over `base`, what the file held before.
fn written(base: &[u8], header: Header, marker: Option<Marker>, appends: &[Append]) -> Written {
    let header = Header { segment_bytes: base.len() as u32, ..header };
    let mut image = base.to_vec();
    image[..HEADER_BYTES].copy_from_slice(&header.encode());
    let mut out = Written { image, header, ends: Vec::new(), chain: header.chain() };
    if let Some(marker) = marker {
        out.push(|batch| batch.restarted(marker));
    }
    for append in appends {
        out.push(|batch| {
            if let Some(state) = &append.hard_state {
                batch.hard_state(state);
            }
            append.entries.iter().for_each(|entry| batch.entry(entry));
        });
    }
    out
}

impl Written {
    fn push(&mut self, fill: impl FnOnce(&mut Batch<'_>)) {
        let at = self.end();
        let mut bytes = Vec::new();
        let mut batch = Batch::new(&mut bytes, self.chain);
        fill(&mut batch);
        let number = self.header.first_batch + self.ends.len() as u64;
        self.chain = batch.commit(self.header.salt, number, at);
        self.image[at..at + bytes.len()].copy_from_slice(&bytes);
        self.ends.push(at + bytes.len());
    }

    fn end(&self) -> usize {
        self.ends.last().copied().unwrap_or(HEADER_BYTES)
    }

    /// The first `bytes` of the segment, over what the file held before.
    fn cut(&self, base: &[u8], bytes: usize) -> Vec<u8> {
        [&self.image[..bytes], &base[bytes..]].concat()
    }
}

fn header(salt: u64) -> Header {
    Header { segment_bytes: 0, salt, sequence: 1, first_index: 1, first_batch: 1, previous_chain: 0 }
}

fn start() -> Option<Marker> {
    Some(Marker::default())
}

/// Small appends: entries, a vote, an overwritten tail, an empty entry.
fn small() -> Vec<Append> {
    vec![
        append(entries(1..=2, 1, 9), Some(hard_state(1, 7, 0))),
        append(vec![], Some(hard_state(2, 8, 1))),
        append(entries(2..=4, 2, 3), None),
        append(vec![entry(5, 2, 0)], Some(hard_state(2, 8, 4))),
    ]
}

/// A large append between small ones: it spans six sectors.
fn large() -> Vec<Append> {
    vec![
        append(entries(1..=1, 1, 30), Some(hard_state(1, 7, 0))),
        append(entries(2..=5, 1, 550), Some(hard_state(1, 7, 1))),
        append(entries(6..=6, 1, 40), Some(hard_state(1, 7, 5))),
    ]
}

/// What a file held before: zeros, noise, or an earlier life with the same
/// records at the same places, all of them valid under another salt.
fn bases(size: usize, appends: &[Append]) -> Vec<(&'static str, Vec<u8>)> {
    let zeros = vec![0; size];
    let noise = (0..size).map(|at| (at * 131 + at / 7) as u8).collect();
    let earlier = written(&zeros, header(99), start(), appends).image;
    vec![("zeros", zeros), ("noise", noise), ("an earlier life", earlier)]
}

/// What the log says after the marker and the first `count` appends.
fn expected(appends: &[Append], count: usize) -> (Vec<Entry>, HardState) {
    let (mut log, mut state) = (Vec::<Entry>::new(), HardState::default());
    for append in &appends[..count] {
        if let Some(first) = append.entries.first() {
            log.truncate(first.index as usize - 1);
        }
        log.extend(append.entries.iter().cloned());
        state = append.hard_state.clone().unwrap_or(state);
    }
    (log, state)
}

fn recover(segments: &[&[u8]]) -> Result<Replayed, Refused> {
    let mut recovery = Recovery::default();
    for (sequence, segment) in (1..).zip(segments) {
        recovery.segment(sequence, segment)?;
    }
    recovery.finish(segments.last().unwrap())
}

fn content(replayed: Replayed) -> (Vec<Entry>, HardState) {
    (replayed.entries, replayed.hard_state)
}

#[test]
fn a_write_cut_at_any_byte_leaves_the_whole_batches_before_it() {
    for appends in [small(), large()] {
        for (base_name, base) in bases(4096, &appends) {
            let full = written(&base, header(5), start(), &appends);
            for cut in full.ends[0]..=full.end() {
                let image = full.cut(&base, cut);
                let whole = full.ends.iter().filter(|end| **end <= cut).count();
                let replayed = recover(&[&image]).unwrap_or_else(|why| panic!("{base_name}, {cut}: {why:?}"));
                assert_eq!(replayed.end.offset, full.ends[whole - 1], "{base_name}, cut at {cut}");
                assert_eq!(content(replayed), expected(&appends, whole - 1), "{base_name}, cut at {cut}");
            }
        }
    }
}

#[test]
fn any_subset_of_the_sectors_of_the_last_write_leaves_all_of_it_or_nothing() {
    const SECTOR: usize = 512;
    let appends = large();
    let mut torn = 0;
    for (base_name, base) in bases(4096, &appends) {
        for count in 1..=appends.len() {
            let full = written(&base, header(5), start(), &appends[..count]);
            let before = full.cut(&base, full.ends[count - 1]);
            let sectors: Vec<usize> = (full.ends[count - 1] / SECTOR..full.end().div_ceil(SECTOR)).collect();
            for subset in 0u32..1 << sectors.len() {
                let mut image = before.clone();
                for (bit, sector) in sectors.iter().enumerate().filter(|(bit, _)| subset & 1 << bit != 0) {
                    let _ = bit;
                    let bytes = sector * SECTOR..(sector + 1) * SECTOR;
                    image[bytes.clone()].copy_from_slice(&full.image[bytes]);
                }
                let whole = if image == full.image { count } else { count - 1 };
                torn += usize::from(whole < count);
                let replayed = recover(&[&image]).unwrap();
                assert_eq!(content(replayed), expected(&appends, whole), "{base_name}, {count}, {subset:b}");
            }
        }
    }
    assert!(torn > 100, "only {torn} torn writes were tried");
}

#[test]
fn a_torn_write_does_not_come_back_after_the_next_one() {
    let appends = large();
    let base = vec![0; 4096];
    let full = written(&base, header(5), start(), &appends[..2]);
    // All of the second append but its first sector is there, its commit too.
    let mut image = full.image.clone();
    let lost = full.ends[1]..full.ends[1].next_multiple_of(512);
    image[lost].fill(0);
    let replayed = recover(&[&image]).unwrap();
    assert_eq!(replayed.end.cut_bytes as usize, full.end() - full.ends[1]);

    // The log zeroes what it cut and goes on with batches of the same numbers.
    let mut next = written(&base, header(5), start(), &appends[..1]);
    next.image[replayed.end.offset..].fill(0);
    next.push(|batch| batch.entry(&entry(2, 3, 10)));
    next.push(|batch| batch.entry(&entry(3, 3, 10)));
    let (entries, _) = content(recover(&[&next.image]).unwrap());
    assert_eq!(
        entries.iter().map(|entry| (entry.index, entry.term)).collect::<Vec<_>>(),
        [(1, 1), (2, 3), (3, 3)]
    );
}

#[test]
fn a_flipped_bit_before_the_last_batch_is_refused_and_never_cut() {
    let appends = small();
    let last = appends.len();
    for (base_name, base) in bases(1024, &appends) {
        let full = written(&base, header(5), start(), &appends);
        for bit in 0..full.image.len() * 8 {
            let mut image = full.image.clone();
            image[bit / 8] ^= 1 << (bit % 8);
            let found = recover(&[&image]);
            let name = format!("{base_name}, byte {}", bit / 8);
            if bit / 8 < full.ends[last - 1] {
                let Err(Refused::Damaged { sequence: 1, offset, .. }) = found else {
                    panic!("{name}: {found:?}")
                };
                // It points at the damaged record or, for the header, at the header.
                assert!(offset as usize <= bit / 8, "{name}: found at {offset}");
            } else if bit / 8 < full.end() {
                // Not to be told from a torn write: the batch is dropped, whole.
                assert_eq!(content(found.unwrap()), expected(&appends, last - 1), "{name}");
            } else {
                assert_eq!(content(found.unwrap()), expected(&appends, last), "{name}");
            }
        }
    }
}

#[test]
fn every_batch_of_a_finished_segment_counts() {
    let appends = small();
    for (base_name, base) in bases(1024, &appends) {
        let first = written(&base, header(5), start(), &appends);
        let next = Header {
            sequence: 2,
            salt: 6,
            first_index: 6,
            first_batch: 1 + first.ends.len() as u64,
            previous_chain: first.chain,
            ..header(0)
        };
        // A crash right after the rotation leaves a segment without a batch.
        let second = written(&base, next, None, &[]);
        let both = recover(&[&first.image, &second.image]).unwrap();
        assert_eq!(content(both), expected(&appends, appends.len()), "{base_name}");

        for bit in 0..first.image.len() * 8 {
            let mut image = first.image.clone();
            image[bit / 8] ^= 1 << (bit % 8);
            let found = recover(&[&image, &second.image]);
            assert_eq!(found.is_err(), bit / 8 < first.end(), "{base_name}, byte {}", bit / 8);
        }
        for bit in 0..HEADER_BYTES * 8 {
            let mut image = second.image.clone();
            image[bit / 8] ^= 1 << (bit % 8);
            assert!(recover(&[&first.image, &image]).is_err(), "{base_name}, header byte {}", bit / 8);
        }
    }
}

#[test]
fn a_log_that_ends_before_its_commit_index_is_refused() {
    let appends = [append(entries(1..=3, 1, 8), Some(hard_state(1, 7, 4)))];
    let full = written(&[0; 1024], header(5), start(), &appends);
    assert_eq!(recover(&[&full.image]), Err(Refused::Shorter { commit: 4, last: 3 }));
}

#[test]
fn entries_with_a_hole_are_refused() {
    let hole = [append(entries(1..=2, 1, 8), None), append(entries(4..=4, 1, 8), None)];
    let before = [append(entries(0..=0, 1, 8), None)];
    for (name, appends) in [("hole", hole.as_slice()), ("before the start", &before)] {
        let full = written(&[0; 1024], header(5), start(), appends);
        assert!(matches!(recover(&[&full.image]), Err(Refused::Damaged { .. })), "{name}");
    }
    let unmarked = written(&[0; 1024], header(5), None, &[append(entries(1..=1, 1, 8), None)]);
    assert!(matches!(recover(&[&unmarked.image]), Err(Refused::Damaged { .. })), "no marker");
}

#[test]
fn a_commit_record_takes_what_its_constant_says() {
    let empty = written(&[0; 1024], header(5), None, &[append(vec![], None)]);
    assert_eq!(empty.end() - HEADER_BYTES, COMMIT_BYTES);
}
