//! Text as the Go programs print it that scripts compare it with.

use std::fmt::Write as _;
use std::time::Duration;

/// Bytes as Go's `%q` shows them: in double quotes, what cannot be printed escaped.
///
/// Source: Go's `strconv.Quote`.
pub fn quote(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() + 2);
    out.push('"');
    for chunk in bytes.utf8_chunks() {
        chunk.valid().chars().for_each(|c| quote_char(&mut out, c));
        for byte in chunk.invalid() {
            // Writing to a String does not fail, here and below.
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out.push('"');
    out
}

fn quote_char(out: &mut String, c: char) {
    let _ = match c {
        '"' | '\\' => write!(out, "\\{c}"),
        '\x07' => write!(out, "\\a"),
        '\x08' => write!(out, "\\b"),
        '\x0c' => write!(out, "\\f"),
        '\n' => write!(out, "\\n"),
        '\r' => write!(out, "\\r"),
        '\t' => write!(out, "\\t"),
        '\x0b' => write!(out, "\\v"),
        c if c.is_ascii_control() => write!(out, "\\x{:02x}", u32::from(c)),
        c if is_printable(c) => write!(out, "{c}"),
        c if u32::from(c) <= 0xffff => write!(out, "\\u{:04x}", u32::from(c)),
        c => write!(out, "\\U{:08x}", u32::from(c)),
    };
}

/// Whether a character shows: letters, marks, numbers, punctuation, symbols
/// and the one ASCII space, as Go's `unicode.IsPrint` has it.
fn is_printable(c: char) -> bool {
    // Behind another character a combining mark is not escaped by Rust either.
    let text = format!("x{c}");
    text.escape_debug().eq(text.chars())
}

/// A list as `%v` shows a `[]string`.
pub fn list<T: AsRef<str>>(items: &[T]) -> String {
    let items: Vec<&str> = items.iter().map(AsRef::as_ref).collect();
    format!("[{}]", items.join(" "))
}

/// A time that passed, as Go's `time.Duration` prints itself: `7.717652ms`.
pub fn duration(took: Duration) -> String {
    let nanos = took.as_nanos();
    let shown = |unit: u128, digits: usize, name: &str| {
        let text = format!("{}.{:0digits$}", nanos / unit, nanos % unit);
        format!("{}{name}", text.trim_end_matches('0').trim_end_matches('.'))
    };
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => shown(1_000, 3, "µs"),
        1_000_000..1_000_000_000 => shown(1_000_000, 6, "ms"),
        _ => {
            let (minutes, seconds) = (nanos / 60_000_000_000, nanos % 60_000_000_000);
            let text = format!("{}.{:09}", seconds / 1_000_000_000, seconds % 1_000_000_000);
            let seconds = format!("{}s", text.trim_end_matches('0').trim_end_matches('.'));
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

/// A JSON document as Go's `encoding/json` escapes it: safe inside HTML.
pub fn json(value: &serde_json::Value) -> String {
    let text = value.to_string();
    if !text.contains(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        return text;
    }
    // These stand only inside strings: the rest of JSON has none of them.
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_those_of_go() {
        #[rustfmt::skip]
        let rows: [(&[u8], &str); 7] = [
            (b"plain",             r#""plain""#),
            (b"a\"b\\c",           r#""a\"b\\c""#),
            (b"\x00\x07\t\n\x7f",  r#""\x00\a\t\n\x7f""#),
            ("é\u{301}語".as_bytes(), "\"é\u{301}語\""),
            (b"\xff\xc3(",         r#""\xff\xc3(""#),
            ("\u{a0}\u{200b}".as_bytes(), r#""\u00a0\u200b""#),
            ("\u{10ffff}".as_bytes(), r#""\U0010ffff""#),
        ];
        for (bytes, want) in rows {
            assert_eq!(quote(bytes), want, "{bytes:?}");
        }
    }

    #[test]
    fn durations_are_those_of_go() {
        #[rustfmt::skip]
        let rows = [
            (0,                 "0s"),
            (999,               "999ns"),
            (1_500,             "1.5µs"),
            (7_717_652,         "7.717652ms"),
            (5_000_000_000,     "5s"),
            (61_000_000_001,    "1m1.000000001s"),
            (3_600_000_000_000, "1h0m0s"),
        ];
        for (nanos, want) in rows {
            assert_eq!(duration(Duration::from_nanos(nanos)), want);
        }
    }

    #[test]
    fn json_is_safe_in_html_as_gos_is() {
        let value = serde_json::json!({ "b": "<&>\u{2028}é", "a": 1 });
        assert_eq!(json(&value), r#"{"b":"\u003c\u0026\u003e\u2028é","a":1}"#);
    }
}
