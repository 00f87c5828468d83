//! The file of `--config-file`: the part of YAML that etcd's configuration uses.
//!
//! Keys are the flags' names. A value is a word, a quoted text or a list; two
//! sections hold the settings of certificates. Whatever else YAML can say is
//! refused with its line: half understood would be worse.

use std::collections::BTreeSet;

/// What is wrong with a file, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct BadFile {
    /// Counted from 1.
    pub line: usize,
    /// What would be right.
    pub what: String,
}

/// The sections, and what their keys are called as flags. Source: etcd's
/// `embed.securityConfig`.
#[rustfmt::skip]
const SECTIONS: &[(&str, &[(&str, &str)])] = &[
    ("client-transport-security", &[
        ("cert-file", "cert-file"), ("key-file", "key-file"),
        ("client-cert-file", "client-cert-file"), ("client-key-file", "client-key-file"),
        ("client-cert-auth", "client-cert-auth"), ("trusted-ca-file", "trusted-ca-file"),
        ("auto-tls", "auto-tls"), ("crl-file", "client-crl-file"),
        ("allowed-hostname", "client-cert-allowed-hostname"),
    ]),
    ("peer-transport-security", &[
        ("cert-file", "peer-cert-file"), ("key-file", "peer-key-file"),
        ("client-cert-file", "peer-client-cert-file"), ("client-key-file", "peer-client-key-file"),
        ("client-cert-auth", "peer-client-cert-auth"), ("trusted-ca-file", "peer-trusted-ca-file"),
        ("auto-tls", "peer-auto-tls"), ("crl-file", "peer-crl-file"),
        ("allowed-cn", "peer-cert-allowed-cn"), ("allowed-hostname", "peer-cert-allowed-hostname"),
    ]),
];

/// What the lines after this one belong to.
enum Place {
    Top,
    /// A section of [`SECTIONS`], by number.
    Section(usize),
    /// A key whose list may follow.
    List {
        key: String,
        items: Vec<String>,
    },
}

/// The settings of a file by their flags' names, those without a value left out.
///
/// # Errors
/// The first line that is not understood.
pub fn parse(text: &str) -> Result<Vec<(String, String)>, BadFile> {
    let mut pairs = Vec::new();
    let mut seen = BTreeSet::new();
    let mut place = Place::Top;
    for (number, line) in text.lines().enumerate() {
        let bad = |what: String| BadFile { line: number + 1, what };
        let line = without_comment(line).trim_end();
        if line.is_empty() || line == "---" || line == "..." {
            continue;
        }
        let content = line.trim_start_matches(' ');
        if content.starts_with('\t') {
            return Err(bad("indent with spaces, YAML knows no tabs".to_owned()));
        }
        if let Some(item) = content.strip_prefix("- ") {
            let Place::List { items, .. } = &mut place else {
                return Err(bad("a list belongs below a key without a value".to_owned()));
            };
            items.push(scalar(item).map_err(bad)?);
            continue;
        }
        finish(&mut place, &mut pairs);
        let (key, value) = key_and_value(content).map_err(bad)?;
        let section = match (&place, content.len() < line.len()) {
            (Place::Section(section), true) => Some(*section),
            (Place::Top | Place::List { .. }, true) => {
                return Err(bad(format!("{key} must not be indented here")));
            }
            (_, false) => None,
        };
        if section.is_none() {
            place = Place::Top;
        }
        let name = match section {
            None => key.replace('_', "-"),
            Some(section) => flag_name(section, &key).map_err(bad)?.to_owned(),
        };
        let is_new = seen.insert(name.clone());
        if !is_new {
            return Err(bad(format!("{key} is given twice")));
        }
        match SECTIONS.iter().position(|(section, _)| *section == name) {
            Some(section) if value.is_empty() => place = Place::Section(section),
            Some(_) => return Err(bad(format!("{key} is a section, its keys belong below it, indented"))),
            None if value.is_empty() && section.is_none() => {
                place = Place::List { key: name, items: Vec::new() };
            }
            None => pairs.extend(self::value(value).map_err(bad)?.map(|value| (name, value))),
        }
    }
    finish(&mut place, &mut pairs);
    Ok(pairs)
}

/// Ends a list that may have been there; a section goes on until the next key
/// that is not indented.
fn finish(place: &mut Place, pairs: &mut Vec<(String, String)>) {
    if let Place::List { key, items } = place {
        if !items.is_empty() {
            pairs.push((std::mem::take(key), items.join(",")));
        }
        *place = Place::Top;
    }
}

fn flag_name(section: usize, key: &str) -> Result<&'static str, String> {
    let (name, keys) = SECTIONS[section];
    match keys.iter().find(|(known, _)| *known == key) {
        Some((_, flag)) => Ok(flag),
        None => {
            let known: Vec<&str> = keys.iter().map(|(known, _)| *known).collect();
            Err(format!("{name} has no key {key}; there are {}", known.join(", ")))
        }
    }
}

fn key_and_value(content: &str) -> Result<(String, &str), String> {
    let wrong = || "give KEY: VALUE".to_owned();
    let (key, value) = match content.split_once(": ") {
        Some((key, value)) => (key, value),
        None => (content.strip_suffix(':').ok_or_else(wrong)?, ""),
    };
    let key = key.trim().trim_matches(['"', '\'']);
    let is_key = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if key.is_empty() || !key.chars().all(is_key) {
        return Err(wrong());
    }
    Ok((key.to_owned(), value.trim()))
}

/// A value as the text of a flag; `None` for one that says nothing.
fn value(text: &str) -> Result<Option<String>, String> {
    if let Some(inside) = text.strip_prefix('[') {
        let inside = inside.strip_suffix(']').ok_or("a list ends with ] on the same line")?;
        let items = inside.split(',').map(str::trim).filter(|item| !item.is_empty());
        let items: Vec<String> = items.map(scalar).collect::<Result<_, _>>()?;
        return Ok((!items.is_empty()).then(|| items.join(",")));
    }
    if matches!(text, "" | "null" | "Null" | "NULL" | "~") {
        return Ok(None);
    }
    // An empty text asks for the default, as in etcd's own sample.
    scalar(text).map(|text| Some(text).filter(|text| !text.is_empty()))
}

fn scalar(text: &str) -> Result<String, String> {
    let text = text.trim();
    match text.chars().next() {
        Some('"') => double_quoted(text),
        Some('\'') => {
            let inside = text[1..].strip_suffix('\'').ok_or("the quote is not closed")?;
            // A quote inside is written twice.
            if inside.replace("''", "").contains('\'') {
                return Err("a ' inside of single quotes is written twice".to_owned());
            }
            Ok(inside.replace("''", "'"))
        }
        Some(first @ ('&' | '*' | '!' | '|' | '>' | '{' | '%' | '@' | '`')) => Err(format!(
            "{first:?} means something in YAML that is not supported here; put the value in quotes"
        )),
        Some(_) | None => Ok(text.to_owned()),
    }
}

fn double_quoted(text: &str) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text[1..].chars();
    while let Some(c) = rest.next() {
        match c {
            '"' if rest.as_str().is_empty() => return Ok(out),
            '"' => return Err("there is something behind the closing quote".to_owned()),
            '\\' => match rest.next() {
                Some(escaped @ ('"' | '\\' | '/')) => out.push(escaped),
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some(_) | None => return Err("give one of \\\" \\\\ \\/ \\n \\t".to_owned()),
            },
            c => out.push(c),
        }
    }
    Err("the quote is not closed".to_owned())
}

/// The line without its comment: `#` at its start or behind a space, outside of quotes.
fn without_comment(line: &str) -> &str {
    let mut quote = None;
    let mut before = ' ';
    for (at, c) in line.char_indices() {
        match (quote, c) {
            (None, '#') if before.is_whitespace() => return &line[..at],
            (None, '"' | '\'') if matches!(before, ' ' | '[' | ',') => quote = Some(c),
            (Some('"'), '"') if before == '\\' => {}
            (Some(open), c) if c == open => quote = None,
            (_, _) => {}
        }
        before = c;
    }
    line
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    const SAMPLE: &str = "\
# This is the configuration file for the etcd server.
---
name: 'default'          # a comment
data-dir:
wal-dir: null
snapshot-count: 10000
quota-backend-bytes: 0
listen-peer-urls: http://localhost:2380
listen-client-urls: \"http://localhost:2379,http://10.0.0.1:2379\"
initial-cluster: a=http://h#1:2380
cors:
cipher-suites: [TLS_A, 'TLS_B']
";

    fn pairs(text: &str) -> String {
        let pairs = parse(text).unwrap();
        pairs.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn etcds_sample_is_read() {
        assert_eq!(
            pairs(SAMPLE),
            "name=default snapshot-count=10000 quota-backend-bytes=0 listen-peer-urls=http://localhost:2380 \
             listen-client-urls=http://localhost:2379,http://10.0.0.1:2379 initial-cluster=a=http://h#1:2380 \
             cipher-suites=TLS_A,TLS_B"
        );
    }

    #[test]
    fn sections_and_lists_become_flags() {
        #[rustfmt::skip]
        let rows = [
            ("client-transport-security:\n  cert-file: a b\n  client-cert-auth: true\nname: x", "cert-file=a b client-cert-auth=true name=x"),
            ("peer-transport-security:\n    auto-tls: true\n    allowed-cn: c",                "peer-auto-tls=true peer-cert-allowed-cn=c"),
            ("log-outputs:\n- a\n- 'b'\nname: x",                                              "log-outputs=a,b name=x"),
            ("log-outputs:\n  - stderr\n",                                                     "log-outputs=stderr"),
            ("log-outputs: []\nname: ''",                                                      ""),
            ("auto-compaction-retention: \"1\"\nname: 'it''s'",                                "auto-compaction-retention=1 name=it's"),
            ("name: \"a # \\\" b\" # c",                                                       "name=a # \" b"),
            ("max_txn_ops: 3\r\n",                                                             "max-txn-ops=3"),
        ];
        for (text, want) in rows {
            assert_eq!(pairs(text), want, "{text}");
        }
    }

    #[test]
    fn what_is_not_understood_is_named_with_its_line() {
        #[rustfmt::skip]
        let rows = [
            ("name: a\nnonsense",                          "line 2: give KEY: VALUE"),
            ("name: a\nname: b",                           "line 2: name is given twice"),
            ("name: |\n  a",                               "line 1: '|' means something in YAML that is not supported here; put the value in quotes"),
            ("  name: a",                                  "line 1: name must not be indented here"),
            ("name: a\n  data-dir: b",                     "line 2: data-dir must not be indented here"),
            ("\tname: a",                                  "line 1: indent with spaces, YAML knows no tabs"),
            ("name: \"a",                                  "line 1: the quote is not closed"),
            ("name: a\n- b",                               "line 2: a list belongs below a key without a value"),
            ("peer-transport-security:\n  nonsense: a",    "line 2: peer-transport-security has no key nonsense; there are cert-file, key-file, client-cert-file, client-key-file, client-cert-auth, trusted-ca-file, auto-tls, crl-file, allowed-cn, allowed-hostname"),
            ("peer-transport-security:\nname: a\n  auto-tls: b", "line 3: auto-tls must not be indented here"),
            ("peer-transport-security: a",                 "line 1: peer-transport-security is a section, its keys belong below it, indented"),
            ("cipher-suites: [\n  A]",                     "line 1: a list ends with ] on the same line"),
            ("{\"name\": \"a\"}",                          "line 1: give KEY: VALUE"),
        ];
        for (text, want) in rows {
            assert_eq!(parse(text).unwrap_err().to_string(), want, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn garbage_never_panics(text in "(?s)[ -~\n\t\u{e4}'\"\\[\\]:#-]{0,200}") {
            let _ = parse(&text);
        }
    }
}
