//! What operations write, and that no data makes them write or read anything else.

use super::builder::{compressed, difference, image};
use crate::payload::{
    Operation,
    apply::{Failure, PIECES_MAX, render},
    manifest::Kind,
};
use proptest::prelude::*;
use std::io;

fn operation(kind: Kind, blocks: usize, old: &[u8]) -> Operation {
    Operation {
        kind,
        data_bytes: 0,
        data_sha256: None,
        target_offset: 0,
        target_bytes: blocks * 4096,
        source: Vec::new(),
        source_limit_bytes: old.len() as u64,
    }
}

fn run(operation: &Operation, data: &[u8], old: &[u8]) -> Result<Vec<u8>, String> {
    let mut source = |offset: u64, into: &mut [u8]| {
        let offset = usize::try_from(offset).expect("checked before");
        into.copy_from_slice(&old[offset..offset + into.len()]);
        Ok(())
    };
    render(operation, data, &mut source).map_err(|failure| failure.to_string())
}

fn diff(pieces: &[(u64, Vec<u8>, Vec<u8>)], old: &[u8]) -> Result<Vec<u8>, String> {
    run(&operation(Kind::SourceZstdDiff, 1, old), &compressed(&difference(pieces)), old)
}

fn unpacked(data: &[u8]) -> Result<Vec<u8>, String> {
    run(&operation(Kind::ReplaceZstd, 1, &[]), data, &[])
}

#[test]
fn plain_kinds() {
    let block = image(1, 1);
    let plain = |data: &[u8]| run(&operation(Kind::Replace, 1, &[]), data, &[]);
    assert_eq!(plain(&block), Ok(block.clone()));
    assert!(plain(&block[1..]).is_err());
    assert_eq!(run(&operation(Kind::Zero, 2, &[]), &[], &[]), Ok(vec![0; 8192]));
    assert_eq!(unpacked(&compressed(&block)), Ok(block));
}

#[test]
fn copies_are_in_the_order_given() {
    let old = image(4, 1);
    let copy = |source: &[std::ops::Range<u64>]| {
        let operation = Operation { source: source.to_vec(), ..operation(Kind::SourceCopy, 2, &old) };
        run(&operation, &[], &old)
    };
    assert_eq!(copy(&[12288..16384, 0..4096]), Ok([&old[12288..], &old[..4096]].concat()));
    assert_eq!(copy(&[0..4096, 0..4096]), Ok([&old[..4096], &old[..4096]].concat()));
    for bad in [&[0..4096, 0..0][..], &[0..4096, 0..8192], &[16384..20480, 0..4096], &[]] {
        assert!(copy(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn zstd_must_be_one_frame_of_the_right_size() {
    let block = image(1, 1);
    let good = compressed(&block);
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0][..], b"skip"].concat();
    #[rustfmt::skip]
    let cases = [
        ("empty",               Vec::new()),
        ("no frame",            block.clone()),
        ("too little",          compressed(&block[1..])),
        ("one byte too much",   compressed(&[&block[..], &[0]].concat())),
        ("a bomb",              compressed(&vec![0; 64 << 20])),
        ("truncated",           good[..good.len() - 1].to_vec()),
        ("trailing byte",       [&good[..], &[0]].concat()),
        ("two frames",          [compressed(&block[..2048]), compressed(&block[2048..])].concat()),
        ("skippable first",     [&skippable[..], &good].concat()),
        ("skippable last",      [&good[..], &skippable].concat()),
        ("nothing but skippable", skippable),
    ];
    for (name, data) in cases {
        assert!(unpacked(&data).is_err(), "{name}");
    }
}

/// A frame that asks for a window of 2 GiB for one block of zeros.
#[test]
fn claimed_window_costs_nothing() {
    let header = [0x28, 0xb5, 0x2f, 0xfd, 0, 21 << 3];
    // A last block, run-length encoded, of 4096 bytes: 4096 << 3 | 1 << 1 | 1.
    let block = [0x03, 0x80, 0x00, 0x00];
    let frame = [&header[..], &block].concat();
    assert_eq!(unpacked(&frame), Ok(vec![0; 4096]));
}

#[test]
fn difference_by_example() {
    let old = b"abcdef";
    let mut data = difference(&[(1, vec![0, 1], vec![b'X']), (0, vec![0], vec![b'-'; 4092])]);
    let want = [&b"bdXa"[..], &[b'-'; 4092]].concat();
    let operation = operation(Kind::SourceZstdDiff, 1, old);
    assert_eq!(run(&operation, &compressed(&data), old), Ok(want));
    data.push(0);
    assert!(run(&operation, &compressed(&data), old).is_err(), "a byte too many");
}

#[test]
fn difference_keeps_its_bounds() {
    let old = image(2, 1);
    let limit = old.len() as u64;
    let stream = |bytes: &[u8]| run(&operation(Kind::SourceZstdDiff, 1, &old), &compressed(bytes), &old);
    let pieces = |count: u32, pieces: &[u8]| [&count.to_le_bytes()[..], pieces].concat();
    let huge = [&[0; 8][..], &u32::MAX.to_le_bytes(), &u32::MAX.to_le_bytes()].concat();
    #[rustfmt::skip]
    let cases = [
        ("no count",                 stream(&[1, 0, 0])),
        ("no pieces",                stream(&pieces(0, &[]))),
        ("pieces missing",           stream(&pieces(2, &[0; 16]))),
        ("more pieces than memory",  stream(&pieces(u32::MAX, &[0; 16]))),
        ("pieces of 4 GiB",          stream(&pieces(1, &huge))),
        ("too little",               diff(&[(0, vec![0; 4095], vec![])], &old)),
        ("too much",                 diff(&[(0, vec![0; 4096], vec![1])], &old)),
        ("too much added",           diff(&[(0, vec![0; 4097], vec![])], &old)),
        ("too much in two",          diff(&[(0, vec![0; 4000], vec![]), (0, vec![0; 97], vec![])], &old)),
        ("one byte beyond",          diff(&[(limit - 4095, vec![0; 4096], vec![])], &old)),
        ("far beyond",               diff(&[(u64::MAX, vec![0; 4096], vec![])], &old)),
        ("at the end",               diff(&[(limit, vec![0; 1], vec![0; 4095])], &old)),
    ];
    for (name, result) in cases {
        assert!(result.is_err(), "{name}");
    }
    let last = diff(&[(limit - 4096, vec![0; 4096], vec![])], &old);
    assert_eq!(last.as_deref(), Ok(&old[4096..]), "up to the last byte");
    let unread = diff(&[(u64::MAX, vec![], vec![7; 4096])], &old);
    assert_eq!(unread, Ok(vec![7; 4096]), "a place that nothing is read from");
}

#[test]
fn as_many_pieces_as_there_may_be() {
    let old = image(1, 1);
    let pieces: Vec<_> = (0..PIECES_MAX as u64).map(|at| (at % 4096, vec![1; 16], vec![])).collect();
    let operation = operation(Kind::SourceZstdDiff, PIECES_MAX * 16 / 4096, &old);
    // 65535 times 16 bytes are 16 short of whole blocks; no slot has such pieces.
    assert!(run(&operation, &compressed(&difference(&pieces)), &image(2, 1)).is_err());
    let empty: Vec<_> = (0..PIECES_MAX as u64 - 1).map(|_| (0, vec![], vec![])).collect();
    let pieces = [&empty[..], &[(0, vec![0; 4096], vec![])]].concat();
    assert_eq!(diff(&pieces, &old), Ok(old.clone()));
    let too_many = [vec![(0, vec![], vec![]); 400_000], pieces].concat();
    assert!(diff(&too_many, &old).is_err());
}

#[test]
fn old_system_that_cannot_be_read_is_said() {
    let old = image(1, 1);
    let operation = Operation { source: vec![0..2048, 0..2048], ..operation(Kind::SourceCopy, 1, &old) };
    let failure =
        render(&operation, &[], &mut |_, _| Err(io::Error::other("bad sector"))).expect_err("fails");
    assert_eq!(failure.to_string(), "reading 2048 bytes at 0 of the old system");
    assert!(matches!(failure, Failure::Source { .. }));
}

proptest! {
    /// Against the definition, one byte at a time.
    #[test]
    fn difference_is_what_it_says(parts in prop::collection::vec((0u64..6000, 0usize..700, 0usize..300), 0..8),
                                  fill in any::<u8>()) {
        let old = image(2, 7);
        let (mut pieces, mut want) = (Vec::new(), Vec::new());
        for (number, (offset, add, insert)) in parts.into_iter().enumerate() {
            let room = 4096 - want.len();
            let add = add.min(room);
            let insert = insert.min(room - add);
            let adds: Vec<u8> = (0..add).map(|at| (at * number) as u8 ^ fill).collect();
            for (at, add) in adds.iter().enumerate() {
                want.push(old[offset as usize + at].wrapping_add(*add));
            }
            want.extend(vec![fill; insert]);
            pieces.push((offset, adds, vec![fill; insert]));
        }
        let rest = vec![fill; 4096 - want.len()];
        want.extend_from_slice(&rest);
        pieces.push((0, Vec::new(), rest));
        prop_assert_eq!(diff(&pieces, &old), Ok(want));
    }

    /// Signed nonsense is an error, never a panic, and writes the right number of bytes or none.
    #[test]
    fn nonsense_is_survived(mut stream in prop::collection::vec(any::<u8>(), 0..300), count in 0u8..20) {
        if let Some(first) = stream.first_chunk_mut::<4>() {
            *first = u32::from(count).to_le_bytes();
        }
        let old = image(2, 7);
        for data in [compressed(&stream), stream] {
            for kind in Kind::ALL {
                if let Ok(bytes) = run(&operation(kind, 1, &old), &data, &old) {
                    prop_assert_eq!(bytes.len(), 4096);
                }
            }
        }
    }
}
