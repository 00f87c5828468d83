//! Paths of the v2 tree: absolute, clean, of bytes.

/// Below this lies what clients see as `/`.
///
/// Source: etcd's `StoreKeysPrefix`; errors and answers are told without it.
pub const KEYS: &[u8] = b"/1";
/// Below this lie the users and roles of the v2 API.
///
/// Source: etcd's `StorePermsPrefix`.
pub const AUTH: &[u8] = b"/2";
/// The longest path: a request line has 64 KiB in most servers and proxies,
/// and paths are keys of the database.
pub const MAX_BYTES: usize = 16 << 10;
/// The deepest path. Answers nest as deep as the tree, and every client parses
/// JSON by recursion.
pub const MAX_DEPTH: usize = 512;

/// The shortest path that means the same, as Go's `path.Clean` of a rooted
/// path: no empty parts, no `.`, no `..`.
pub fn clean(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let mut out = Vec::with_capacity(path.len() + 1);
    for part in parts {
        out.push(b'/');
        out.extend_from_slice(part);
    }
    if out.is_empty() {
        out.push(b'/');
    }
    out
}

/// The directory of a clean path; `/` is its own.
pub fn parent(path: &[u8]) -> &[u8] {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(0) | None => b"/",
        Some(end) => &path[..end],
    }
}

/// The last part of a clean path.
pub fn name(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
}

/// The number of parts of a clean path; 0 for `/`.
pub fn depth(path: &[u8]) -> usize {
    match path {
        b"/" => 0,
        path => path.iter().filter(|byte| **byte == b'/').count(),
    }
}

/// Every path from the first part to the whole: `/a/b` gives `/a`, `/a/b`.
pub fn steps(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ends = (1..=path.len()).filter(|end| path.get(*end).is_none_or(|byte| *byte == b'/'));
    ends.map(|end| &path[..end]).filter(|step| *step != b"/")
}

/// What lies below `dir` on the way to `path`, with its slash; `None` if
/// `path` does not lie below it. `/a/b` below `/a` is `/b`.
pub fn below<'a>(dir: &[u8], path: &'a [u8]) -> Option<&'a [u8]> {
    let rest = if dir == b"/" { Some(path) } else { path.strip_prefix(dir) };
    rest.filter(|rest| rest.len() > 1 && rest[0] == b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[rustfmt::skip]
    fn paths_are_cleaned_as_go_does() {
        let rows: [(&[u8], &[u8]); 9] = [
            (b"",            b"/"),
            (b"/",           b"/"),
            (b"a",           b"/a"),
            (b"/a/",         b"/a"),
            (b"//a///b",     b"/a/b"),
            (b"/a/./b",      b"/a/b"),
            (b"/a/../b",     b"/b"),
            (b"/../../b",    b"/b"),
            (b"/a/..",       b"/"),
        ];
        for (path, want) in rows {
            assert_eq!(clean(path), want, "{}", path.escape_ascii());
        }
    }

    #[test]
    fn paths_come_apart() {
        assert_eq!((parent(b"/a/b"), name(b"/a/b"), depth(b"/a/b")), (&b"/a"[..], &b"b"[..], 2));
        assert_eq!((parent(b"/a"), name(b"/a"), depth(b"/a")), (&b"/"[..], &b"a"[..], 1));
        assert_eq!((parent(b"/"), name(b"/"), depth(b"/")), (&b"/"[..], &b""[..], 0));
        assert_eq!(steps(b"/a/bc/d").collect::<Vec<_>>(), [&b"/a"[..], b"/a/bc", b"/a/bc/d"]);
        assert_eq!(steps(b"/").count(), 0);
        assert_eq!(below(b"/a", b"/a/b/c"), Some(&b"/b/c"[..]));
        assert_eq!(below(b"/", b"/a"), Some(&b"/a"[..]));
        assert_eq!((below(b"/a", b"/ab"), below(b"/a", b"/a"), below(b"/", b"/")), (None, None, None));
    }
}
