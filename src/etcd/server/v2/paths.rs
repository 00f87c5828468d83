//! Paths of requests, as Go's `ServeMux` treats them.

use http::Uri;
use proa_etcd_api::v2::form::{Plus, unescape};
use proa_etcd_api::v2::path;

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub enum Decoded {
    /// This; a slash at the end is kept.
    Clean(Vec<u8>),
    /// The same by a shorter path; the client is sent there.
    Elsewhere(String),
    /// Nothing that can be read.
    Broken,
}

/// Decodes the path of a request.
pub fn decode(uri: &Uri) -> Decoded {
    let Ok(path) = unescape(uri.path().as_bytes(), Plus::IsPlus) else { return Decoded::Broken };
    let mut clean = path::clean(&path);
    if path.ends_with(b"/") && clean != b"/" {
        clean.push(b'/');
    }
    if clean == path {
        return Decoded::Clean(path);
    }
    let mut location = escape(&clean);
    if let Some(query) = uri.query() {
        location.push('?');
        location.push_str(query);
    }
    Decoded::Elsewhere(location)
}

/// Source: Go's `shouldEscape` for paths.
fn escape(path: &[u8]) -> String {
    let mut out = String::with_capacity(path.len());
    for &byte in path {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' => out.push(char::from(byte)),
            b'-' | b'_' | b'.' | b'~' | b'$' | b'&' | b'+' | b',' | b'/' | b':' | b';' | b'=' | b'@' => {
                out.push(char::from(byte));
            }
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    #[rustfmt::skip]
    fn paths_are_decoded_and_cleaned() {
        let clean = |path: &str| Decoded::Clean(path.as_bytes().to_vec());
        let elsewhere = |path: &str| Decoded::Elsewhere(path.to_owned());
        let rows = [
            ("/v2/keys/a",          clean("/v2/keys/a")),
            ("/v2/keys/a/",         clean("/v2/keys/a/")),
            ("/v2/keys/a%20b+c",    clean("/v2/keys/a b+c")),
            ("/v2/keys//a?x=1",     elsewhere("/v2/keys/a?x=1")),
            ("/v2/keys/%2F%25",     elsewhere("/v2/keys/%25")),
            ("/v2/keys/../a/./b/",  elsewhere("/v2/a/b/")),
            ("/v2/keys/%zz",        Decoded::Broken),
        ];
        for (path, want) in rows {
            assert_eq!(decode(&path.parse().unwrap()), want, "{path}");
        }
    }
}
