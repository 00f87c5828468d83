//! Where the v2 tree lies in the key space.
//!
//! | key | value |
//! |---|---|
//! | `Vh` index | the event of this index |
//! | `Vi` | how far the tree is |
//! | `Vn` depth path | a node |
//! | `Vt` expiry path | nothing |
//!
//! Nodes are sorted by depth first, so that the children of a directory lie
//! together, by name, with nothing of theirs between them. For `/1/a`:
//! `56 6E 0002 2F 31 2F 61`.

use proa_etcd_api::v2::path;

pub const HEAD: &[u8] = b"Vi";
pub const ALL: &[u8] = b"V";
pub const ALL_END: &[u8] = b"W";
pub const HISTORY_END: &[u8] = b"Vi";
pub const EXPIRIES: &[u8] = b"Vt";
pub const EXPIRIES_END: &[u8] = b"Vu";

/// The key of a node.
pub fn node(at: &[u8]) -> Vec<u8> {
    of_depth(path::depth(at), at)
}

/// Paths are bounded ([`path::MAX_BYTES`]), so a depth fits its two bytes.
fn of_depth(depth: usize, tail: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 + tail.len() + 1);
    out.extend_from_slice(b"Vn");
    out.extend_from_slice(&(depth as u16).to_be_bytes());
    out.extend_from_slice(tail);
    out
}

/// The first possible key of a child of `dir`, and the first after all.
pub fn children(dir: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let base = if dir == b"/" { b"" } else { dir };
    let depth = path::depth(dir) + 1;
    (of_depth(depth, &[base, b"/"].concat()), of_depth(depth, &[base, b"0"].concat()))
}

/// The path of a node's key.
pub fn split_node(key: &[u8]) -> Option<&[u8]> {
    key.strip_prefix(b"Vn")?.get(2..)
}

/// The key of the event of an index.
pub fn event(index: u64) -> Vec<u8> {
    [b"Vh", &index.to_be_bytes()[..]].concat()
}

/// The index of an event's key.
pub fn split_event(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.strip_prefix(b"Vh")?.try_into().ok()?))
}

/// The key that says when a node ends. Times before 1970 come first.
pub fn expiry(expires_ns: i64, at: &[u8]) -> Vec<u8> {
    let ordered = (expires_ns as u64) ^ (1 << 63);
    [EXPIRIES, &ordered.to_be_bytes(), at].concat()
}

/// Time and path of such a key.
pub fn split_expiry(key: &[u8]) -> Option<(i64, &[u8])> {
    let (time, at) = key.strip_prefix(EXPIRIES)?.split_at_checked(8)?;
    let ordered = u64::from_be_bytes(time.try_into().ok()?);
    Some(((ordered ^ (1 << 63)) as i64, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_lie_together_and_by_name() {
        let (from, end) = children(b"/a");
        let inside: [&[u8]; 4] = [b"/a/!", b"/a/b", b"/a/0", b"/a/\xFF"];
        for path in inside {
            assert!(from < node(path) && node(path) < end, "{}", path.escape_ascii());
        }
        let outside: [&[u8]; 5] = [b"/a", b"/ab", b"/a0/b", b"/a/b/c", b"/b/c"];
        for path in outside {
            assert!(node(path) < from || node(path) >= end, "{}", path.escape_ascii());
        }
        let (from, end) = children(b"/");
        assert!(from < node(b"/a") && node(b"/a") < end && node(b"/a/b") >= end);
    }

    #[test]
    fn keys_come_apart() {
        assert_eq!(split_node(&node(b"/a/b")), Some(&b"/a/b"[..]));
        assert_eq!(split_event(&event(7)), Some(7));
        for time in [i64::MIN, -1, 0, 1, i64::MAX] {
            assert_eq!(split_expiry(&expiry(time, b"/a")), Some((time, &b"/a"[..])));
        }
        assert!(expiry(-1, b"/z") < expiry(0, b"/a") && expiry(0, b"/a") < expiry(1, b"/a"));
    }
}
