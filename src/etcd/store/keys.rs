//! Where everything lies in the one ordered key space.
//!
//! | tag | key | value |
//! |---|---|---|
//! | `K` | escaped user key, inverted revision, kind | create revision, version, lease, value |
//! | `B` | revision | a value that lies apart from its version |
//! | `R` | revision | kind, user key |
//! | `L` | lease id | granted and remaining TTL |
//! | `l` | lease id, user key | nothing |
//! | `A` | head, users, roles by name | who may do what |
//! | `M` | names | heads, alarms, members; `M/raft/` is the server's |
//! | `V` | see `v2/keys.rs` | the v2 tree |
//!
//! All versions of a key lie together, newest first: the newest is one seek
//! away, and so is the one visible at a revision. The escape keeps the order
//! of user keys: byte 0 becomes `00 FF`, the end is `00 01`. For key `a` at
//! revision 5.0: `4B 61 00 01 FFFFFFFFFFFFFFFA FFFFFFFF 00`.

/// Keys with this prefix are the server's own; the store never touches them.
pub const RAFT_PREFIX: &[u8] = b"M/raft/";

/// How many bytes follow the escaped user key in a `K` key: what a prefix
/// extractor has to strip to get from a version to its key.
pub const VERSION_SUFFIX_BYTES: usize = 8 + 4 + 1;

/// The bounds of the heads below.
pub(crate) const STORE: &[u8] = b"M/store/";
pub(crate) const STORE_END: &[u8] = b"M/store0";
pub(crate) const HEAD: &[u8] = b"M/store/head";
pub(crate) const SCRUB: &[u8] = b"M/store/scrub";
pub(crate) const ALARM: &[u8] = b"M/alarm/";
pub(crate) const MEMBER: &[u8] = b"M/member/";
pub(crate) const AUTH_HEAD: &[u8] = b"A/head";
pub(crate) const AUTH_USER: &[u8] = b"A/user/";
pub(crate) const AUTH_ROLE: &[u8] = b"A/role/";

/// The first key after every key of a tag.
pub(crate) const VERSIONS_END: &[u8] = b"L";
pub(crate) const LEASES: &[u8] = b"L";
pub(crate) const LEASES_END: &[u8] = b"M";

/// The place of one change: its revision, and its number within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// The revision, at least 1.
    pub main: i64,
    /// The number of the change within the revision, from 0.
    pub sub: u32,
}

/// What one version says about its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It has a value, which is part of the record.
    Put = 0,
    /// It is gone.
    Tombstone = 1,
    /// It has a value, which lies under `B`: see [`crate::record::APART_BYTES`].
    PutApart = 2,
}

/// The part of a `K` key that all versions of `key` share.
pub(crate) fn versions_of(key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + key.len() + 2 + VERSION_SUFFIX_BYTES);
    out.push(b'K');
    for &byte in key {
        out.push(byte);
        if byte == 0 {
            out.push(0xFF);
        }
    }
    out.extend_from_slice(&[0, 1]);
    out
}

/// The first place after all versions that share `prefix`.
pub(crate) fn after_versions(prefix: &[u8]) -> Vec<u8> {
    let mut out = prefix.to_vec();
    // The terminator 00 01 becomes 00 02, which no key contains.
    if let Some(last) = out.last_mut() {
        *last += 1;
    }
    out
}

/// Where the versions of `prefix` begin that are visible at revision `at`.
pub(crate) fn visible_at(prefix: &[u8], at: i64) -> Vec<u8> {
    let mut out = Vec::with_capacity(prefix.len() + 8);
    out.extend_from_slice(prefix);
    out.extend_from_slice(&(!(at as u64)).to_be_bytes());
    out
}

/// The `K` key of one version.
pub(crate) fn version(key: &[u8], place: Place, kind: Kind) -> Vec<u8> {
    let mut out = versions_of(key);
    push_suffix(&mut out, place, kind);
    out
}

fn push_suffix(out: &mut Vec<u8>, place: Place, kind: Kind) {
    out.extend_from_slice(&(!(place.main as u64)).to_be_bytes());
    out.extend_from_slice(&(!place.sub).to_be_bytes());
    out.push(kind as u8);
}

/// Splits a `K` key into what its key's versions share, its place, its kind.
pub(crate) fn split_version(stored: &[u8]) -> Option<(&[u8], Place, Kind)> {
    let (prefix, suffix) = stored.split_at_checked(stored.len().checked_sub(VERSION_SUFFIX_BYTES)?)?;
    let (place, kind) = suffix.split_at(12);
    let place = read_place(place)?;
    let place = Place { main: !place.main, sub: !place.sub };
    Some((prefix, place, read_kind(kind[0])?))
}

/// The user key of what its versions share.
pub(crate) fn user_key(prefix: &[u8]) -> Option<Vec<u8>> {
    let escaped = prefix.strip_prefix(b"K")?.strip_suffix(&[0, 1])?;
    let mut out = Vec::with_capacity(escaped.len());
    let mut bytes = escaped.iter();
    while let Some(&byte) = bytes.next() {
        out.push(byte);
        if byte == 0 && bytes.next() != Some(&0xFF) {
            return None;
        }
    }
    Some(out)
}

/// The `R` key of one change.
pub(crate) fn change(place: Place) -> Vec<u8> {
    placed(b'R', place)
}

/// The `B` key of one value that lies apart.
pub(crate) fn apart(place: Place) -> Vec<u8> {
    placed(b'B', place)
}

fn placed(tag: u8, place: Place) -> Vec<u8> {
    let mut out = Vec::with_capacity(13);
    out.push(tag);
    out.extend_from_slice(&place.main.to_be_bytes());
    out.extend_from_slice(&place.sub.to_be_bytes());
    out
}

/// The place an `R` key stands for.
pub(crate) fn split_change(stored: &[u8]) -> Option<Place> {
    read_place(stored.strip_prefix(b"R")?)
}

/// The value of an `R` key.
pub(crate) fn change_value(kind: Kind, key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + key.len());
    out.push(kind as u8);
    out.extend_from_slice(key);
    out
}

/// Splits the value of an `R` key.
pub(crate) fn split_change_value(value: &[u8]) -> Option<(Kind, &[u8])> {
    let (&kind, key) = value.split_first()?;
    Some((read_kind(kind)?, key))
}

/// The `L` key of a lease.
pub(crate) fn lease(id: i64) -> Vec<u8> {
    tagged(b'L', id)
}

/// The id of an `L` key.
pub(crate) fn split_lease(stored: &[u8]) -> Option<i64> {
    let id = stored.strip_prefix(b"L")?.try_into().ok()?;
    Some(i64::from_be_bytes(id))
}

/// The `l` key that attaches `key` to a lease.
pub(crate) fn attachment(id: i64, key: &[u8]) -> Vec<u8> {
    let mut out = tagged(b'l', id);
    out.extend_from_slice(key);
    out
}

/// From where to where the keys of a lease are listed, and what precedes each.
pub(crate) fn attachments(id: i64) -> (Vec<u8>, Vec<u8>) {
    let from = tagged(b'l', id);
    // As unsigned numbers ids sort like their bytes; after the last comes `m`.
    let end = match (id as u64).checked_add(1) {
        Some(next) => tagged(b'l', next as i64),
        None => b"m".to_vec(),
    };
    (from, end)
}

/// The `M` key of what a member said about itself.
pub(crate) fn member(id: u64) -> Vec<u8> {
    [MEMBER, &id.to_be_bytes()].concat()
}

/// The `M` key of a raised alarm.
pub(crate) fn alarm(member: u64, kind: i32) -> Vec<u8> {
    [ALARM, &member.to_be_bytes(), &kind.to_be_bytes()].concat()
}

/// The member and kind of an alarm's key.
pub(crate) fn split_alarm(stored: &[u8]) -> Option<(u64, i32)> {
    let (member, kind) = stored.strip_prefix(ALARM)?.split_at_checked(8)?;
    Some((u64::from_be_bytes(member.try_into().ok()?), i32::from_be_bytes(kind.try_into().ok()?)))
}

/// The first key after every key that starts with `prefix`, which ends in `/`.
pub(crate) fn after_slash(prefix: &[u8]) -> Vec<u8> {
    let mut out = prefix.to_vec();
    if let Some(last) = out.last_mut() {
        *last += 1;
    }
    out
}

/// The stored bounds of the user keys `[key, range_end)`.
///
/// Empty end: `key` alone. The single byte 0: every key from `key` on.
pub(crate) fn bounds(key: &[u8], range_end: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let from = versions_of(key);
    let end = match range_end {
        [] => after_versions(&from),
        [0] => VERSIONS_END.to_vec(),
        end => versions_of(end),
    };
    (from, end)
}

fn tagged(tag: u8, id: i64) -> Vec<u8> {
    let mut out = Vec::with_capacity(9);
    out.push(tag);
    out.extend_from_slice(&id.to_be_bytes());
    out
}

fn read_place(bytes: &[u8]) -> Option<Place> {
    let (main, sub) = bytes.split_at_checked(8)?;
    Some(Place {
        main: i64::from_be_bytes(main.try_into().ok()?),
        sub: u32::from_be_bytes(sub.try_into().ok()?),
    })
}

fn read_kind(byte: u8) -> Option<Kind> {
    match byte {
        0 => Some(Kind::Put),
        1 => Some(Kind::Tombstone),
        2 => Some(Kind::PutApart),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_worked_example_holds() {
        let stored = version(b"a", Place { main: 5, sub: 0 }, Kind::Put);
        let want = b"K\x61\x00\x01\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFA\xFF\xFF\xFF\xFF\x00";
        assert_eq!(stored, want);
    }

    proptest! {
        #[test]
        fn a_version_comes_back_as_it_was(key: Vec<u8>, main in 1i64.., sub: u32, kind in 0u8..3) {
            let kind = read_kind(kind).unwrap();
            let stored = version(&key, Place { main, sub }, kind);
            let (prefix, place, found) = split_version(&stored).unwrap();
            prop_assert_eq!(user_key(prefix).unwrap(), key);
            prop_assert_eq!((place, found), (Place { main, sub }, kind));
        }

        #[test]
        fn stored_order_is_key_order_then_newest_first(
            a in proptest::collection::vec(0u8..3, 0..4),
            b in proptest::collection::vec(0u8..3, 0..4),
            x in 1i64..9, y in 1i64..9,
        ) {
            let left = version(&a, Place { main: x, sub: 0 }, Kind::Put);
            let right = version(&b, Place { main: y, sub: 0 }, Kind::Put);
            prop_assert_eq!(left.cmp(&right), a.cmp(&b).then(y.cmp(&x)));
            if a < b {
                prop_assert!(after_versions(&versions_of(&a)) <= versions_of(&b));
                prop_assert!(left < after_versions(&versions_of(&a)));
            }
        }
    }
}
