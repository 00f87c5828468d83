//! Answers and errors as JSON, byte for byte as Go's encoder writes them.

use super::path;
use super::{V2Code, V2Error};
use crate::command::{V2Event, V2Node, v2_event::Action};

/// An answer, with the newline at its end; paths are told without `prefix`.
///
/// With `without_nodes` only the action is told (`noValueOnSuccess`).
pub fn event(event: &V2Event, prefix: &[u8], without_nodes: bool) -> Vec<u8> {
    let mut out = b"{\"action\":\"".to_vec();
    out.extend_from_slice(action(event.action()).as_bytes());
    out.push(b'"');
    if !without_nodes {
        for (name, node) in [("node", &event.node), ("prevNode", &event.prev_node)] {
            if let Some(node) = node {
                out.extend_from_slice(format!(",\"{name}\":").as_bytes());
                push_node(&mut out, node, prefix);
            }
        }
    }
    out.extend_from_slice(b"}\n");
    out
}

/// The body of a refusal, with the newline at its end.
pub fn error(error: &V2Error, prefix: &[u8]) -> Vec<u8> {
    let (number, text) = (error.code.number(), error.code.text());
    let mut out = format!("{{\"errorCode\":{number},\"message\":\"{text}\"").into_bytes();
    let cause = match error.code {
        // The only cause that is no path and may begin like one.
        V2Code::RaftInternal => error.cause.as_slice(),
        _ => error.cause.strip_prefix(prefix).unwrap_or(&error.cause),
    };
    if !cause.is_empty() {
        out.extend_from_slice(b",\"cause\":");
        push_text(&mut out, cause);
    }
    out.extend_from_slice(format!(",\"index\":{}}}\n", error.index).as_bytes());
    out
}

/// The name of an action in answers.
pub fn action(action: Action) -> &'static str {
    match action {
        Action::Get => "get",
        Action::Create => "create",
        Action::Set => "set",
        Action::Update => "update",
        Action::Delete => "delete",
        Action::CompareAndSwap => "compareAndSwap",
        Action::CompareAndDelete => "compareAndDelete",
        Action::Expire => "expire",
    }
}

fn push_node(out: &mut Vec<u8>, node: &V2Node, prefix: &[u8]) {
    let mut fields = Fields { out, next: b'{' };
    let key = node.key.strip_prefix(prefix).unwrap_or(&node.key);
    if !key.is_empty() {
        push_text(fields.field("key"), key);
    }
    if let Some(value) = &node.value {
        push_text(fields.field("value"), value);
    }
    if node.dir {
        fields.field("dir").extend_from_slice(b"true");
    }
    if node.expires_ns != 0 {
        let time = time(node.expires_ns);
        push_text(fields.field("expiration"), time.as_bytes());
    }
    if node.ttl_s != 0 {
        fields.field("ttl").extend_from_slice(node.ttl_s.to_string().as_bytes());
    }
    if !node.nodes.is_empty() {
        let out = fields.field("nodes");
        for (number, child) in node.nodes.iter().enumerate() {
            out.push(if number == 0 { b'[' } else { b',' });
            push_node(out, child, prefix);
        }
        out.push(b']');
    }
    for (name, index) in [("modifiedIndex", node.modified_index), ("createdIndex", node.created_index)] {
        if index != 0 {
            fields.field(name).extend_from_slice(index.to_string().as_bytes());
        }
    }
    fields.end();
}

struct Fields<'a> {
    out: &'a mut Vec<u8>,
    next: u8,
}

impl Fields<'_> {
    fn field(&mut self, name: &str) -> &mut Vec<u8> {
        self.out.push(self.next);
        self.next = b',';
        self.out.extend_from_slice(format!("\"{name}\":").as_bytes());
        self.out
    }

    fn end(self) {
        if self.next == b'{' {
            self.out.push(b'{');
        }
        self.out.push(b'}');
    }
}

/// A string in quotes.
///
/// Source: Go's encoding/json: what HTML could take for markup and the line
/// ends of JavaScript are escaped, each byte that is no UTF-8 becomes `\ufffd`.
pub fn push_text(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    for chunk in text.utf8_chunks() {
        for char in chunk.valid().chars() {
            match char {
                '"' => out.extend_from_slice(b"\\\""),
                '\\' => out.extend_from_slice(b"\\\\"),
                '\n' => out.extend_from_slice(b"\\n"),
                '\r' => out.extend_from_slice(b"\\r"),
                '\t' => out.extend_from_slice(b"\\t"),
                '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\x1F' => {
                    out.extend_from_slice(format!("\\u{:04x}", u32::from(char)).as_bytes());
                }
                char => out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        for _ in chunk.invalid() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
    out.push(b'"');
}

/// A point in time in UTC, as Go's `RFC3339Nano`: nanoseconds without the
/// zeros at their end.
pub fn time(unix_ns: i64) -> String {
    const SECOND_NS: i64 = 1_000_000_000;
    let (seconds, nanos) = (unix_ns.div_euclid(SECOND_NS), unix_ns.rem_euclid(SECOND_NS));
    let (year, month, day) = civil(seconds.div_euclid(86_400));
    let of_day = seconds.rem_euclid(86_400);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    let mut text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    if nanos != 0 {
        let digits = format!(".{nanos:09}");
        text.push_str(digits.trim_end_matches('0'));
    }
    text.push('Z');
    text
}

/// Year, month and day of a day since 1970.
///
/// Eras of 400 years from March on, as Howard Hinnant's `civil_from_days`.
fn civil(day: i64) -> (i64, i64, i64) {
    let day = day + 719_468;
    let era = day.div_euclid(146_097);
    let of_era = day.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, of_year - (153 * shifted + 2) / 5 + 1)
}

/// The answer to a read or write of keys, as clients see it.
pub fn keys_event(answer: &V2Event, without_nodes: bool) -> Vec<u8> {
    event(answer, path::KEYS, without_nodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8]) -> String {
        String::from_utf8_lossy(bytes).into_owned()
    }

    #[test]
    #[rustfmt::skip]
    fn times_are_written_as_go_does() {
        let rows = [
            (0,                             "1970-01-01T00:00:00Z"),
            (951_827_696_000_000_000,       "2000-02-29T12:34:56Z"),
            (1_795_486_863_962_837_957,     "2026-11-24T02:21:03.962837957Z"),
            (1_795_486_863_962_800_000,     "2026-11-24T02:21:03.9628Z"),
            (-1,                            "1969-12-31T23:59:59.999999999Z"),
            (i64::MAX,                      "2262-04-11T23:47:16.854775807Z"),
        ];
        for (ns, want) in rows {
            assert_eq!(time(ns), want);
        }
    }

    #[test]
    fn text_is_escaped_as_go_does() {
        let mut out = Vec::new();
        push_text(&mut out, "<a&b>\"\\é\n\t\r\u{1}\u{7f}\u{2028}".as_bytes());
        assert_eq!(text(&out), r#""\u003ca\u0026b\u003e\"\\é\n\t\r\u0001"#.to_owned() + "\u{7f}\\u2028\"");
        out.clear();
        push_text(&mut out, b"\xff\xfea\xe2\x82");
        assert_eq!(text(&out), r#""\ufffd\ufffda\ufffd\ufffd""#);
    }

    #[test]
    fn answers_are_written_as_etcd_does() {
        let key = |text: &'static str| text.as_bytes().into();
        let file = V2Node {
            key: key("/1/a"),
            value: Some(key("")),
            created_index: 4,
            modified_index: 5,
            expires_ns: 951_827_696_000_000_000,
            ttl_s: 3,
            ..V2Node::default()
        };
        let root = V2Node { key: key("/1"), dir: true, nodes: vec![file.clone()], ..V2Node::default() };
        let get = V2Event { action: Action::Get as i32, node: Some(root), ..V2Event::default() };
        let want = r#"{"action":"get","node":{"dir":true,"nodes":[{"key":"/a","value":"","expiration":"2000-02-29T12:34:56Z","ttl":3,"modifiedIndex":5,"createdIndex":4}]}}"#;
        assert_eq!(text(&keys_event(&get, false)), want.to_owned() + "\n");
        let set = V2Event { action: Action::Set as i32, node: Some(file), prev_node: None, refresh: true };
        assert_eq!(text(&keys_event(&set, true)), "{\"action\":\"set\"}\n");
    }

    #[test]
    fn refusals_are_written_as_etcd_does() {
        let refusal = |cause: &str| V2Error { code: V2Code::NotFile, cause: cause.into(), index: 10 };
        let row = |cause: &str| text(&error(&refusal(cause), path::KEYS));
        assert_eq!(row("/1"), "{\"errorCode\":102,\"message\":\"Not a file\",\"index\":10}\n");
        assert_eq!(
            row("/1/a"),
            "{\"errorCode\":102,\"message\":\"Not a file\",\"cause\":\"/a\",\"index\":10}\n"
        );
        assert_eq!(row("/"), "{\"errorCode\":102,\"message\":\"Not a file\",\"cause\":\"/\",\"index\":10}\n");
    }
}
