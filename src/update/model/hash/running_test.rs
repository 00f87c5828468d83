//! That these are the hashes that `ring` makes, however they come about.

use super::{Pair, RunningSha256};
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
            let mut alone = RunningSha256::default();
            for part in now.chunks(700) {
                RunningSha256::update_both(&mut running, &mut alone, part);
            }
            prop_assert_eq!(alone.finish(), Sha256::of(now));
            left = later;
            running = RunningSha256::load(&running.save(), running.bytes()).expect("just saved");
        }
        running.update(left);
        prop_assert_eq!(running.finish(), Sha256::of(&bytes));
    }

    /// Where the instructions are missing there is nothing to compare.
    #[test]
    fn two_at_a_time_are_those_of_one_and_one(a in prop::collection::vec(any::<u8>(), 0..1000),
                                              b in prop::collection::vec(any::<u8>(), 0..1000),
                                              cut_a in 0usize..1000, cut_b in 0usize..1000) {
        let Some(pair) = Pair::of_this_processor() else { return Ok(()) };
        let (parts_a, parts_b) = (a.split_at(cut_a.min(a.len())), b.split_at(cut_b.min(b.len())));
        let (mut one, mut other) = (RunningSha256::default(), RunningSha256::default());
        RunningSha256::update_two(pair, [&mut one, &mut other], [parts_a.0, parts_b.0]);
        RunningSha256::update_two(pair, [&mut other, &mut one], [parts_b.1, parts_a.1]);
        prop_assert_eq!([one.finish(), other.finish()], [Sha256::of(&a), Sha256::of(&b)]);
    }
}

#[test]
fn padding_at_every_length() {
    for length in 0..200 {
        let bytes = vec![0x5a; length];
        let (mut one, mut other) = (RunningSha256::default(), RunningSha256::default());
        RunningSha256::update_both(&mut one, &mut other, &bytes);
        assert_eq!(one.finish(), Sha256::of(&bytes), "{length} bytes");
        assert_eq!(other.finish(), Sha256::of(&bytes), "{length} bytes");
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
