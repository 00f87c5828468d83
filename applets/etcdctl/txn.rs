//! `txn`: three lists of lines from standard input, parted by empty lines.

use std::io::BufRead;

use proa_etcd_client::api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proa_etcd_client::api::etcdserverpb::request_op::Request;
use proa_etcd_client::api::etcdserverpb::{Compare, RequestOp, TxnRequest};

use super::args::{Args, Flag, switch};
use super::failure::Failure;
use super::print::Format;
use super::{Context, emit, emit_bytes, kv};

pub const TXN: &[Flag] = &[switch("interactive", "say what is read next")];

pub async fn txn(context: &Context) -> Result<(), Failure> {
    if !context.args.rest.is_empty() {
        return Err(Failure::args("txn command does not accept argument"));
    }
    context.printer.refuse(&[Format::Table])?;
    let request = read(&mut std::io::stdin().lock(), context.args.is_on("interactive"))?;
    let answer = context.client.txn(request).await?;
    emit_bytes(&context.printer.txn(&answer));
    Ok(())
}

fn read(input: &mut dyn BufRead, interactive: bool) -> Result<TxnRequest, Failure> {
    let mut section = |title: &str| {
        if interactive {
            emit(&format!("{title}:\n"));
        }
        lines(input)
    };
    let compare = section("compares")?;
    let success = section("success requests (get, put, del)")?;
    let failure = section("failure requests (get, put, del)")?;
    let operations = |lines: &[String]| lines.iter().map(|line| operation(line)).collect::<Result<_, _>>();
    Ok(TxnRequest {
        compare: compare.iter().map(|line| condition(line)).collect::<Result<_, _>>()?,
        success: operations(&success)?,
        failure: operations(&failure)?,
    })
}

/// Lines up to an empty one.
fn lines(input: &mut dyn BufRead) -> Result<Vec<String>, Failure> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        let read = input.read_line(&mut line);
        let count = read.map_err(|error| Failure::input(format!("reading standard input: {error}")))?;
        if count == 0 {
            // What is cut off must not be carried out in part.
            return Err(Failure::input("EOF: each of the three lists ends with an empty line"));
        }
        let line = line.trim();
        if line.is_empty() {
            return Ok(lines);
        }
        lines.push(line.to_owned());
    }
}

/// `mod("key") > "0"`. Source: etcdctl's txn command.
fn condition(line: &str) -> Result<Compare, Failure> {
    let wrong = || {
        Failure::input(format!(
            "malformed comparison: {line}; want TARGET(\"KEY\") OP \"VALUE\" with create, mod, ver, val or lease, and =, <, > or !="
        ))
    };
    let (target, rest) = line.split_once('(').ok_or_else(wrong)?;
    let (key, rest) = quoted(rest.trim_start()).ok_or_else(wrong)?;
    let rest = rest.trim_start().strip_prefix(')').ok_or_else(wrong)?.trim_start();
    let (operator, rest) = rest.split_once(char::is_whitespace).ok_or_else(wrong)?;
    let (value, rest) = quoted(rest.trim_start()).ok_or_else(wrong)?;
    if !rest.trim().is_empty() {
        return Err(wrong());
    }
    let result = match operator {
        "=" | "==" => CompareResult::Equal,
        ">" => CompareResult::Greater,
        "<" => CompareResult::Less,
        "!=" => CompareResult::NotEqual,
        _ => return Err(wrong()),
    };
    let number = || value.parse::<i64>().map_err(|_| wrong());
    let (target, union) = match target.trim() {
        "ver" | "version" => (CompareTarget::Version, TargetUnion::Version(number()?)),
        "c" | "create" => (CompareTarget::Create, TargetUnion::CreateRevision(number()?)),
        "m" | "mod" => (CompareTarget::Mod, TargetUnion::ModRevision(number()?)),
        "val" | "value" => (CompareTarget::Value, TargetUnion::Value(value.clone().into())),
        "lease" => (CompareTarget::Lease, TargetUnion::Lease(super::lease::parse_id(&value)?)),
        _ => return Err(wrong()),
    };
    Ok(Compare {
        result: result as i32,
        target: target as i32,
        key: key.into(),
        target_union: Some(union),
        ..Compare::default()
    })
}

/// A text in double quotes with Go's escapes, and what follows it.
///
/// Source: Go's `strconv.Unquote`. A byte that is no text of its own (`\xff`) is
/// refused, since a command line could not hold it either.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut out = String::new();
    let mut rest = text.strip_prefix('"')?.chars();
    loop {
        match rest.next()? {
            '"' => return Some((out, rest.as_str())),
            '\\' => out.push(escaped(&mut rest)?),
            plain => out.push(plain),
        }
    }
}

/// What stands behind a backslash.
fn escaped(rest: &mut std::str::Chars<'_>) -> Option<char> {
    let byte = |value: u32| char::from_u32(value).filter(char::is_ascii);
    match rest.next()? {
        'a' => Some('\x07'),
        'b' => Some('\x08'),
        'f' => Some('\x0c'),
        'n' => Some('\n'),
        'r' => Some('\r'),
        't' => Some('\t'),
        'v' => Some('\x0b'),
        plain @ ('"' | '\\') => Some(plain),
        'x' => byte(number(rest, 2, 16)?),
        high @ '0'..='7' => byte(high.to_digit(8)? * 64 + number(rest, 2, 8)?),
        'u' => char::from_u32(number(rest, 4, 16)?),
        'U' => char::from_u32(number(rest, 8, 16)?),
        _ => None,
    }
}

/// As many digits as an escape has.
fn number(rest: &mut std::str::Chars<'_>, digits: usize, radix: u32) -> Option<u32> {
    (0..digits).try_fold(0, |value, _| Some(value * radix + rest.next()?.to_digit(radix)?))
}

/// `put KEY VALUE`, `get ...`, `del ...` with the flags of those commands.
fn operation(line: &str) -> Result<RequestOp, Failure> {
    let words = split(line).ok_or_else(|| Failure::input(format!("unterminated quote: {line}")))?;
    let unknown = || Failure::input(format!("invalid txn request: {line}; want put, get or del"));
    let (command, words) = words.split_first().ok_or_else(unknown)?;
    let request = match command.as_str() {
        "get" => Request::RequestRange(kv::range_request(&Args::parse(words, kv::GET)?)?),
        "put" => {
            let args = Args::parse(words, kv::PUT)?;
            // Standard input is being read for the transaction itself.
            if args.rest.len() != 2 && !args.is_on("ignore-value") {
                return Err(Failure::args(format!("invalid txn request: {line}; put needs KEY and VALUE")));
            }
            Request::RequestPut(kv::put_request(&args)?)
        }
        "del" => Request::RequestDeleteRange(kv::delete_request(&Args::parse(words, kv::DEL)?)?),
        _ => return Err(unknown()),
    };
    Ok(RequestOp { request: Some(request) })
}

/// Words, of which some are in single or double quotes; `None` when a quote
/// does not end.
pub fn split(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() {
        let (word, after) = if rest.starts_with('"') {
            quoted(rest)?
        } else if let Some(inner) = rest.strip_prefix('\'') {
            let (word, after) = inner.split_once('\'')?;
            (word.to_owned(), after)
        } else {
            let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            (rest[..end].to_owned(), &rest[end..])
        };
        words.push(word);
        rest = after.trim_start();
    }
    Some(words)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_is_read_as_etcdctl_does() {
        let text = "mod(\"k 1\") > \"0\"\nval(\"a\") = \"x\\\"y\"\n\nput 'b c' \"d e\"\nget a --limit=2\n\ndel a b\n\n";
        let request = read(&mut text.as_bytes(), false).unwrap();
        assert_eq!(request.compare[0].key, "k 1");
        assert_eq!(request.compare[0].target_union, Some(TargetUnion::ModRevision(0)));
        assert_eq!(request.compare[1].target_union, Some(TargetUnion::Value("x\"y".into())));
        let Some(Request::RequestPut(put)) = &request.success[0].request else { panic!("{request:?}") };
        assert_eq!((put.key.as_ref(), put.value.as_ref()), (&b"b c"[..], &b"d e"[..]));
        let Some(Request::RequestDeleteRange(delete)) = &request.failure[0].request else {
            panic!("{request:?}")
        };
        assert_eq!(delete.range_end, "b");
        let cut = text.trim_end();
        assert_eq!(read(&mut cut.as_bytes(), false).unwrap_err().code, 3);
    }

    #[test]
    fn escapes_are_those_of_go() {
        let rows = [
            (r#"get "key \"with\" space""#, Some(r#"key "with" space"#)),
            (r#"get "value \x23""#, Some("value #")),
            (r#"get "\a\b\f\n\r\t\v\\""#, Some("\x07\x08\x0c\n\r\t\x0b\\")),
            (r#"get "\043\u00e9\U0001f600""#, Some("#\u{e9}\u{1f600}")),
            (r#"get 'as \x23'"#, Some(r"as \x23")),
            (r#"get "\xff""#, None),
            (r#"get "\x2""#, None),
            (r#"get "\d""#, None),
            (r#"get "\08""#, None),
        ];
        for (line, want) in rows {
            let words = split(line);
            assert_eq!(words.as_ref().map(|words| words[1].as_str()), want, "{line}");
        }
    }

    #[test]
    fn malformed_lines_are_refused() {
        for line in
            ["mod(k) = \"0\"", "mod(\"k\") ~ \"0\"", "mod(\"k\") = \"x\"", "foo(\"k\") = \"0\"", "mod"]
        {
            assert!(condition(line).is_err(), "{line}");
        }
        for line in ["put a", "put \"a", "run a b", "get --foo a"] {
            assert!(operation(line).is_err(), "{line}");
        }
    }
}
