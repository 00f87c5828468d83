//! A request for keys, from its method, path and form.

use super::form::Form;
use super::path;
use super::{V2Code, V2Error};
use crate::command::{V2Write, v2_write::Kind};

/// Times before this are a mistake of whoever sent them.
///
/// Source: etcd's `minExpireTime`, 2000-01-01: such a node never expires.
const EARLIEST_EXPIRY_NS: i64 = 946_684_800_000_000_000;

/// The methods of `/v2/keys`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant is named after its method")]
pub enum Method {
    Get,
    Head,
    Put,
    Post,
    Delete,
}

/// What a client wants of the tree.
#[derive(Clone, Debug, PartialEq)]
pub enum Wish {
    /// Read a node.
    Get {
        /// With everything below.
        recursive: bool,
        /// As of now, whatever member is asked.
        quorum: bool,
    },
    /// Wait for a change.
    Wait {
        /// Of anything below as well.
        recursive: bool,
        /// Go on after the first.
        stream: bool,
        /// The first index that counts; 0 is the next.
        since: u64,
    },
    /// Change a node.
    Write(V2Write),
}

/// A request that can be understood.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Whole and clean, below [`path::KEYS`].
    pub path: Vec<u8>,
    /// What to do.
    pub wish: Wish,
    /// `recursive`, which also decides about rights.
    pub recursive: bool,
    /// Answer without nodes when it succeeds.
    pub no_value_on_success: bool,
}

/// Reads a request; `key` is what follows `/v2/keys`, unescaped.
///
/// Children are always told in order, so `sorted` asks for nothing; it is
/// only checked.
///
/// # Errors
/// As etcd, for the field that etcd would name first.
pub fn parse(method: Method, key: &[u8], form: &Form, now_ns: i64) -> Result<Request, V2Error> {
    let path = path::clean(&[path::KEYS, b"/", key].concat());
    if path.len() > path::MAX_BYTES || path::depth(&path) > path::MAX_DEPTH {
        let why =
            format!("the key is longer than {} bytes or deeper than {}", path::MAX_BYTES, path::MAX_DEPTH);
        return Err(V2Error::of_request(V2Code::InvalidForm, why));
    }
    let prev_index = form.number("prevIndex", V2Code::IndexNotANumber)?;
    let since = form.number("waitIndex", V2Code::IndexNotANumber)?;
    let recursive = form.switch("recursive")?;
    form.switch("sorted")?;
    let wait = form.switch("wait")?;
    let dir = form.switch("dir")?;
    let quorum = form.switch("quorum")?;
    let stream = form.switch("stream")?;
    let field = |code, why: &str| V2Error::of_request(code, why);
    if wait && method != Method::Get {
        return Err(field(V2Code::InvalidField, "\"wait\" can only be used with GET requests"));
    }
    let prev_value = form.get("prevValue");
    if prev_value == Some(b"") {
        return Err(field(V2Code::PrevValueRequired, "\"prevValue\" cannot be empty"));
    }
    let no_value_on_success = form.switch("noValueOnSuccess")?;
    let ttl_s = match form.get("ttl") {
        None | Some(b"") => None,
        Some(_) => Some(form.number("ttl", V2Code::TtlNotANumber)?),
    };
    let prev_exist = form.tristate("prevExist", "invalid value for prevExist")?;
    let refresh = form.tristate("refresh", "invalid value for refresh")?.unwrap_or(false);
    let value = form.get("value").unwrap_or_default();
    if refresh && !value.is_empty() {
        return Err(field(V2Code::RefreshValue, "A value was provided on a refresh"));
    }
    if refresh && ttl_s.is_none() {
        return Err(field(V2Code::RefreshTtlRequired, "No TTL value set"));
    }
    let prev_value = prev_value.unwrap_or_default();
    let compares = prev_index != 0 || !prev_value.is_empty();
    let wish = match (kind(method, prev_exist, compares), wait) {
        (Some(kind), _) => Wish::Write(V2Write {
            kind: kind as i32,
            path: path.clone().into(),
            value: value.to_vec().into(),
            dir,
            recursive,
            prev_value: prev_value.to_vec().into(),
            prev_index,
            expires_ns: ttl_s.map_or(0, |ttl_s| expiry(kind, now_ns, ttl_s)),
            refresh,
            now_ns,
        }),
        (None, true) if !quorum => Wish::Wait { recursive, stream, since },
        // Source: etcd turns a GET with quorum into a read before it looks at wait.
        (None, _) => Wish::Get { recursive, quorum: quorum && method == Method::Get },
    };
    Ok(Request { path, wish, recursive, no_value_on_success })
}

/// Source: etcd's `applierV2store`: which change a request stands for.
fn kind(method: Method, prev_exist: Option<bool>, compares: bool) -> Option<Kind> {
    match (method, prev_exist, compares) {
        (Method::Get | Method::Head, _, _) => None,
        (Method::Post, _, _) => Some(Kind::CreateInOrder),
        (Method::Delete, _, true) => Some(Kind::CompareAndDelete),
        (Method::Delete, _, false) => Some(Kind::Delete),
        (Method::Put, Some(false), _) => Some(Kind::Create),
        (Method::Put, Some(true), false) => Some(Kind::Update),
        (Method::Put, None, false) => Some(Kind::Set),
        (Method::Put, Some(true) | None, true) => Some(Kind::CompareAndSwap),
    }
}

/// When a node that is written now ends. Wraps as etcd's arithmetic does, so
/// that a time to live that is no number of this world means the same.
fn expiry(kind: Kind, now_ns: i64, ttl_s: u64) -> i64 {
    let expires_ns = now_ns.wrapping_add((ttl_s as i64).wrapping_mul(1_000_000_000));
    match kind {
        Kind::Set | Kind::Create | Kind::CreateInOrder if expires_ns < EARLIEST_EXPIRY_NS => 0,
        _ => expires_ns,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    const NOW_NS: i64 = 1_700_000_000_000_000_000;

    fn read(method: Method, body: &str) -> Result<Request, V2Error> {
        parse(method, b"/a", &Form::parse(body.as_bytes(), b"").unwrap(), NOW_NS)
    }

    fn write(method: Method, body: &str) -> V2Write {
        match read(method, body).unwrap().wish {
            Wish::Write(write) => write,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    #[rustfmt::skip]
    fn the_form_decides_what_a_write_is() {
        let rows = [
            (Method::Put,    "value=1",                     Kind::Set),
            (Method::Put,    "prevExist=false&prevIndex=1", Kind::Create),
            (Method::Put,    "prevExist=true",              Kind::Update),
            (Method::Put,    "prevExist=true&prevIndex=1",  Kind::CompareAndSwap),
            (Method::Put,    "prevValue=x",                 Kind::CompareAndSwap),
            (Method::Put,    "prevIndex=0",                 Kind::Set),
            (Method::Post,   "prevValue=x",                 Kind::CreateInOrder),
            (Method::Delete, "prevExist=false",             Kind::Delete),
            (Method::Delete, "prevIndex=3",                 Kind::CompareAndDelete),
        ];
        for (method, body, want) in rows {
            assert_eq!(write(method, body).kind(), want, "{method:?} {body}");
        }
    }

    #[test]
    #[rustfmt::skip]
    fn a_bad_field_is_named() {
        let rows = [
            ("prevIndex=x&recursive=x",  V2Code::IndexNotANumber,    "invalid value for \"prevIndex\""),
            ("recursive=yes",            V2Code::InvalidField,       "invalid value for \"recursive\""),
            ("wait=true",                V2Code::InvalidField,       "\"wait\" can only be used with GET requests"),
            ("prevValue=",               V2Code::PrevValueRequired,  "\"prevValue\" cannot be empty"),
            ("ttl=1s",                   V2Code::TtlNotANumber,      "invalid value for \"ttl\""),
            ("prevExist=",               V2Code::InvalidField,       "invalid value for prevExist"),
            ("refresh=maybe",            V2Code::InvalidField,       "invalid value for refresh"),
            ("refresh=1&value=x&ttl=1",  V2Code::RefreshValue,       "A value was provided on a refresh"),
            ("refresh=1&ttl=",           V2Code::RefreshTtlRequired, "No TTL value set"),
        ];
        for (body, code, why) in rows {
            assert_eq!(read(Method::Put, body), Err(V2Error::of_request(code, why)), "{body}");
        }
    }

    #[test]
    #[rustfmt::skip]
    fn times_to_live_become_points_in_time() {
        let rows = [
            ("ttl=",                                    0),
            ("ttl=5",                                   NOW_NS + 5_000_000_000),
            ("ttl=0",                                   NOW_NS),
            // Source: in Go such a number of seconds wraps around into the past.
            ("ttl=18446744073709551615",                NOW_NS - 1_000_000_000),
            ("ttl=9223372036",                          0),
            ("ttl=9223372036&prevExist=true",           NOW_NS.wrapping_add(9_223_372_036_000_000_000)),
        ];
        for (body, want) in rows {
            assert_eq!(write(Method::Put, body).expires_ns, want, "{body}");
        }
    }

    #[test]
    fn paths_that_are_too_much_are_refused() {
        let form = Form::default();
        assert!(parse(Method::Get, &[b'a'; path::MAX_BYTES], &form, 0).is_err());
        assert!(parse(Method::Get, &b"/a".repeat(path::MAX_DEPTH), &form, 0).is_err());
        assert_eq!(parse(Method::Get, b"//a/../b/", &form, 0).unwrap().path, b"/1/b");
    }
}
