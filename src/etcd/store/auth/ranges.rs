//! Key ranges, and sets of them.

use bytes::Bytes;
use std::collections::BTreeSet;

/// One key, or the keys from one to before another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRange<'a> {
    key: &'a [u8],
    range_end: &'a [u8],
}

impl<'a> KeyRange<'a> {
    /// As in a request: no end is `key` alone, the end `[0]` is no end.
    pub fn new(key: &'a [u8], range_end: &'a [u8]) -> Self {
        Self { key, range_end }
    }

    /// One key.
    pub fn key(key: &'a [u8]) -> Self {
        Self { key, range_end: &[] }
    }

    /// Every key.
    pub const ALL: KeyRange<'static> = KeyRange { key: &[0], range_end: &[0] };

    /// True for a range that some key can be in.
    ///
    /// Source: etcd's `isValidPermissionRange`.
    pub fn is_sound(&self) -> bool {
        !self.key.is_empty() && (matches!(self.range_end, [] | [0]) || self.key < self.range_end)
    }

    fn end(&self) -> End {
        match self.range_end {
            [0] => End::Never,
            end if end > self.key => End::Before(Bytes::copy_from_slice(end)),
            // One key; a range that holds none counts as its first key, so
            // that asking for nothing is not a right that everybody has.
            _ => End::Before([self.key, &[0]].concat().into()),
        }
    }
}

/// Where a range stops.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    /// Before this key.
    Before(Bytes),
    /// It goes on to the last key there can be.
    Never,
}

/// A set of keys: ranges that neither overlap nor touch, ascending.
///
/// `[a, c)`, `b` and `[c, d)` are one range, `[a, d)`; so a request for all of
/// it is allowed by three permissions for its parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges(Vec<(Bytes, End)>);

impl Ranges {
    /// The keys that are in any of `ranges`.
    pub fn merged<'a>(ranges: impl Iterator<Item = KeyRange<'a>>) -> Self {
        let sorted: BTreeSet<(Bytes, End)> =
            ranges.map(|range| (Bytes::copy_from_slice(range.key), range.end())).collect();
        let mut merged: Vec<(Bytes, End)> = Vec::new();
        for (from, end) in sorted {
            match merged.last_mut() {
                Some((_, last)) if *last >= End::Before(from.clone()) => *last = end.max(last.clone()),
                Some(_) | None => merged.push((from, end)),
            }
        }
        Self(merged)
    }

    /// Whether every key of `wanted` is in the set.
    pub fn cover(&self, wanted: KeyRange<'_>) -> bool {
        // They do not touch: what is covered is covered by one.
        let after = self.0.partition_point(|(from, _)| from.as_ref() <= wanted.key);
        after.checked_sub(1).is_some_and(|place| self.0[place].1 >= wanted.end())
    }

    /// The ranges between, before and after: all keys that are not in the set.
    pub fn gaps(&self) -> Vec<(Bytes, End)> {
        let mut gaps = Vec::new();
        let mut from = Bytes::new();
        for (next, end) in &self.0 {
            if from < *next {
                gaps.push((from, End::Before(next.clone())));
            }
            match end {
                End::Before(end) => from = end.clone(),
                End::Never => return gaps,
            }
        }
        gaps.push((from, End::Never));
        gaps
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Keys of up to three letters out of two; ends may also be open.
    fn key() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(prop_oneof![Just(b'a'), Just(b'b'), Just(0)], 1..4)
    }

    fn end() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![Just(vec![]), Just(vec![0]), key(), key()]
    }

    /// Every key of up to four letters: one more letter than the bounds have,
    /// so that there is a key between any two bounds.
    fn world() -> Vec<Vec<u8>> {
        let mut world: Vec<Vec<u8>> = vec![vec![]];
        for length in 0..4 {
            let longest: Vec<Vec<u8>> = world.iter().filter(|key| key.len() == length).cloned().collect();
            let longer =
                longest.iter().flat_map(|key| b"\0ab".iter().map(|byte| [key, &[*byte][..]].concat()));
            world.extend(longer);
        }
        // And one that only an open end reaches.
        world.push(b"zz".to_vec());
        world.remove(0);
        world
    }

    /// Membership, said once more and slowly.
    fn holds(key: &[u8], range_end: &[u8], one: &[u8]) -> bool {
        match range_end {
            [] => one == key,
            [0] => one >= key,
            end if end > key => one >= key && one < end,
            _ => one == key,
        }
    }

    fn in_gap((from, end): &(Bytes, End), one: &[u8]) -> bool {
        let before_end = match end {
            End::Before(end) => one < end.as_ref(),
            End::Never => true,
        };
        one >= from.as_ref() && before_end
    }

    proptest! {
        #[test]
        fn a_set_covers_what_its_ranges_hold_together(
            granted in proptest::collection::vec((key(), end()), 0..6),
            wanted in (key(), end()),
        ) {
            let set = Ranges::merged(granted.iter().map(|(key, end)| KeyRange::new(key, end)));
            let is_granted = |one: &[u8]| granted.iter().any(|(key, end)| holds(key, end, one));
            let naive = world().iter().filter(|one| holds(&wanted.0, &wanted.1, one)).all(|one| is_granted(one));
            prop_assert_eq!(set.cover(KeyRange::new(&wanted.0, &wanted.1)), naive);
        }

        #[test]
        fn gaps_hold_every_other_key(granted in proptest::collection::vec((key(), end()), 0..6)) {
            let set = Ranges::merged(granted.iter().map(|(key, end)| KeyRange::new(key, end)));
            let gaps = set.gaps();
            for one in world() {
                let is_granted = granted.iter().any(|(key, end)| holds(key, end, &one));
                let is_in_gap = gaps.iter().any(|gap| in_gap(gap, &one));
                prop_assert!(is_granted != is_in_gap, "{:?}", one);
            }
        }
    }

    #[test]
    fn touching_ranges_become_one() {
        let parts = [KeyRange::new(b"a", b"c"), KeyRange::key(b"b"), KeyRange::new(b"c", b"d")];
        let whole = Ranges::merged([KeyRange::new(b"a", b"d")].into_iter());
        assert_eq!(Ranges::merged(parts.into_iter()), whole);
        assert!(whole.cover(KeyRange::new(b"a", b"d")));
        assert!(!whole.cover(KeyRange::new(b"a", b"\0")), "an open end needs an open end");
    }
}
