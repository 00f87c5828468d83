//! `get`, `put`, `del`, `compaction`: from arguments to requests.

use std::io::Read as _;

use proa_etcd_client::api::etcdserverpb::range_request::{SortOrder, SortTarget};
use proa_etcd_client::api::etcdserverpb::{CompactionRequest, DeleteRangeRequest, PutRequest, RangeRequest};
use proa_etcd_client::prefix_range;

use super::args::{Args, Flag, switch, value};
use super::failure::Failure;
use super::print::Format;
use super::{Context, emit, emit_bytes};

pub const GET: &[Flag] = &[
    value("consistency", "l for linearizable (default) or s for serializable"),
    value("order", "ASCEND or DESCEND"),
    value("sort-by", "CREATE, KEY, MODIFY, VALUE or VERSION"),
    value("limit", "at most so many entries"),
    value("rev", "read as of this revision"),
    switch("prefix", "keys with this prefix"),
    switch("from-key", "keys from this one on"),
    switch("keys-only", "no values"),
    switch("count-only", "only the count"),
    switch("print-value-only", "no keys"),
];

pub const PUT: &[Flag] = &[
    value("lease", "attach the key to this lease (hexadecimal)"),
    switch("prev-kv", "print the entry before"),
    switch("ignore-value", "keep the value"),
    switch("ignore-lease", "keep the lease"),
];

pub const DEL: &[Flag] = &[
    switch("prefix", "keys with this prefix"),
    switch("from-key", "keys from this one on"),
    switch("range", "accepted: a second argument is a range as it is"),
    switch("prev-kv", "print what was deleted"),
];

const PUT_NEEDS: &str = "put command needs 1 argument and input from stdin or 2 arguments";
/// More than any server takes in one request (1.5 MiB by default, raised by
/// hand at most to some hundred), so that `put k < /dev/zero` ends.
const MAX_VALUE_BYTES: u64 = 1 << 30;

pub const COMPACTION: &[Flag] = &[switch("physical", "wait until space is given back")];

/// The key and range end of `KEY [RANGE_END]` with `--prefix` or `--from-key`.
pub fn key_range(args: &Args, words: &[String], command: &str) -> Result<(Vec<u8>, Vec<u8>), Failure> {
    if args.is_on("prefix") && args.is_on("from-key") {
        return Err(Failure::args("`--prefix` and `--from-key` cannot be set at the same time, choose one"));
    }
    let (key, end) = match words {
        [key] => (key, None),
        [key, end] => (key, Some(end)),
        _ => {
            let text =
                format!("{command} command needs one argument as key and an optional argument as range_end");
            return Err(Failure::args(text));
        }
    };
    if end.is_some() && (args.is_on("prefix") || args.is_on("from-key")) {
        return Err(Failure::args(
            "too many arguments, only accept one argument when `--prefix` or `--from-key` is set",
        ));
    }
    let key = key.clone().into_bytes();
    if args.is_on("prefix") {
        let (key, end) = prefix_range(&key);
        return Ok((key.to_vec(), end.to_vec()));
    }
    if args.is_on("from-key") {
        let key = if key.is_empty() { vec![0] } else { key };
        return Ok((key, vec![0]));
    }
    Ok((key, end.cloned().unwrap_or_default().into_bytes()))
}

/// The request of `get`.
pub fn range_request(args: &Args) -> Result<RangeRequest, Failure> {
    let (key, range_end) = key_range(args, &args.rest, "get")?;
    if args.is_on("keys-only") && args.is_on("count-only") {
        return Err(Failure::args(
            "`--keys-only` and `--count-only` cannot be set at the same time, choose one",
        ));
    }
    let serializable = match args.get("consistency") {
        None | Some("l") => false,
        Some("s") => true,
        Some(other) => return Err(Failure::feature(format!("unknown consistency flag {other:?}"))),
    };
    let order = args.get("order").unwrap_or_default();
    let sort_order = match order.to_uppercase().as_str() {
        "" => SortOrder::None,
        "ASCEND" => SortOrder::Ascend,
        "DESCEND" => SortOrder::Descend,
        _ => return Err(Failure::feature(format!("bad sort order {order}"))),
    };
    let target = args.get("sort-by").unwrap_or_default();
    let sort_target = match target.to_uppercase().as_str() {
        "" | "KEY" => SortTarget::Key,
        "CREATE" => SortTarget::Create,
        "MODIFY" => SortTarget::Mod,
        "VALUE" => SortTarget::Value,
        "VERSION" => SortTarget::Version,
        _ => return Err(Failure::feature(format!("bad sort target {target}"))),
    };
    Ok(RangeRequest {
        key: key.into(),
        range_end: range_end.into(),
        limit: args.number("limit", 0)?,
        revision: args.number("rev", 0)?,
        sort_order: sort_order as i32,
        sort_target: sort_target as i32,
        serializable,
        keys_only: args.is_on("keys-only"),
        count_only: args.is_on("count-only"),
        ..RangeRequest::default()
    })
}

/// The request of `put`; a missing value is read from standard input.
pub fn put_request(args: &Args) -> Result<PutRequest, Failure> {
    let ignore_value = args.is_on("ignore-value");
    let (key, value) = match args.rest.as_slice() {
        [] => return Err(Failure::args(PUT_NEEDS)),
        [_, _, ..] if ignore_value => {
            return Err(Failure::args("put command needs only 1 argument when 'ignore-value' is set"));
        }
        [key] if ignore_value => (key, Vec::new()),
        [key] => (key, read_stdin()?),
        // Words beyond the value would be lost without a sound.
        [_, _, _, ..] => return Err(Failure::args(format!("{PUT_NEEDS}; quote a value with spaces"))),
        [key, value] => (key, value.clone().into_bytes()),
    };
    Ok(PutRequest {
        key: key.clone().into(),
        value: value.into(),
        lease: args.get("lease").map_or(Ok(0), super::lease::parse_id)?,
        prev_kv: args.is_on("prev-kv"),
        ignore_value,
        ignore_lease: args.is_on("ignore-lease"),
    })
}

/// A value from standard input; none at all is a forgotten argument.
fn read_stdin() -> Result<Vec<u8>, Failure> {
    let mut value = Vec::new();
    match std::io::stdin().lock().take(MAX_VALUE_BYTES).read_to_end(&mut value) {
        Ok(count) if count > 0 => Ok(value),
        Ok(_) | Err(_) => Err(Failure::args(PUT_NEEDS)),
    }
}

/// The request of `del`.
pub fn delete_request(args: &Args) -> Result<DeleteRangeRequest, Failure> {
    let (key, range_end) = key_range(args, &args.rest, "del")?;
    Ok(DeleteRangeRequest { key: key.into(), range_end: range_end.into(), prev_kv: args.is_on("prev-kv") })
}

pub async fn get(context: &Context) -> Result<(), Failure> {
    let request = range_request(&context.args)?;
    let format = context.printer.format;
    // etcdctl refuses JSON too, though it holds the count.
    if request.count_only && !matches!(format, Format::Fields | Format::Json) {
        return Err(Failure::args("--count-only is only for `--write-out=fields`"));
    }
    if context.printer.value_only && format != Format::Simple {
        return Err(Failure::args("print-value-only is only for `--write-out=simple`"));
    }
    context.printer.refuse(&[Format::Table])?;
    let answer = context.client.range(request).await?;
    emit_bytes(&context.printer.range(&answer));
    Ok(())
}

pub async fn put(context: &Context) -> Result<(), Failure> {
    let request = put_request(&context.args)?;
    context.printer.refuse(&[Format::Table])?;
    let answer = context.client.put(request).await?;
    emit_bytes(&context.printer.put(&answer));
    Ok(())
}

pub async fn del(context: &Context) -> Result<(), Failure> {
    let request = delete_request(&context.args)?;
    context.printer.refuse(&[Format::Table])?;
    let answer = context.client.delete_range(request).await?;
    emit_bytes(&context.printer.delete(&answer));
    Ok(())
}

pub async fn compaction(context: &Context) -> Result<(), Failure> {
    let [text] = context.args.rest.as_slice() else {
        return Err(Failure::args("compaction command needs 1 argument"));
    };
    let revision =
        text.parse().map_err(|_| Failure::error(format!("bad revision {text:?}: give a whole number")))?;
    let physical = context.args.is_on("physical");
    context.client.compact(CompactionRequest { revision, physical }).await?;
    emit(&format!("compacted revision {revision}\n"));
    Ok(())
}
