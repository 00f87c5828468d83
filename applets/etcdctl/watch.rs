//! `watch`: events as they come, or a command for each; with `-i` as many
//! watches as standard input asks for.

use std::io::BufRead as _;

use proa_etcd_client::api::etcdserverpb::watch_create_request::FilterType;
use proa_etcd_client::api::etcdserverpb::{ResponseHeader, WatchResponse};
use proa_etcd_client::api::mvccpb::Event;
use proa_etcd_client::{Client, Watch, WatchItem, WatchOptions};
use prost::Message as _;
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::StreamExt as _;

use super::args::{Args, Flag, switch, value};
use super::failure::Failure;
use super::print::{Format, Printer, fields_of_entry, fields_of_header, line};
use super::{Context, emit, emit_bytes, go, json, kv, txn};

pub const WATCH: &[Flag] = &[
    value("rev", "from this revision on"),
    value("filter", "leave out PUT or DELETE"),
    switch("prefix", "keys with this prefix"),
    switch("from-key", "keys from this one on"),
    switch("prev-kv", "print the entry before"),
    switch("progress-notify", "say now and then how far the watch has come"),
    switch("interactive", "read watch and progress commands from standard input (-i)"),
];

/// Lines of `watch -i` read ahead of their watches.
const QUEUE_LINES: usize = 16;

/// What one command line asks for.
#[derive(Debug)]
struct Asked {
    key: Vec<u8>,
    range_end: Vec<u8>,
    options: WatchOptions,
    /// Run for each event; may be empty.
    command: Vec<String>,
}

/// A key and a range end from the environment, for commands that are given only flags.
struct Environment {
    key: String,
    range_end: String,
}

impl Environment {
    fn read() -> Result<Self, Failure> {
        let variable = |name| std::env::var(name).unwrap_or_default();
        let own = Self { key: variable("ETCDCTL_WATCH_KEY"), range_end: variable("ETCDCTL_WATCH_RANGE_END") };
        if own.key.is_empty() && !own.range_end.is_empty() {
            return Err(Failure::args(format!(
                "ETCDCTL_WATCH_KEY is empty but got ETCDCTL_WATCH_RANGE_END={:?}",
                own.range_end
            )));
        }
        Ok(own)
    }
}

/// Reads one watch. Source: etcdctl's `parseWatchArgs`, for its refusals.
fn read(args: &Args, environment: &Environment) -> Result<Asked, Failure> {
    let bad = |why: &str| Err(Failure::args(format!("bad number of arguments{why}")));
    let (words, command) = args.rest.split_at(args.before_dashes);
    if args.has_dashes && command.is_empty() {
        return bad(" (found separator --, but no commands)");
    }
    let from_environment: Vec<String> = [&environment.key, &environment.range_end]
        .into_iter()
        .filter(|word| !word.is_empty())
        .cloned()
        .collect();
    let words = match (words.is_empty(), from_environment.is_empty()) {
        (false, false) => return bad(" (found conflicting environment key)"),
        (true, true) => return bad(""),
        (true, false) => &from_environment[..],
        (false, true) => words,
    };
    let (key, range_end) = kv::key_range(args, words, "watch")?;
    let filters = match args.get("filter").map(str::to_uppercase).as_deref() {
        None => Vec::new(),
        Some("PUT") => vec![FilterType::Noput as i32],
        Some("DELETE") => vec![FilterType::Nodelete as i32],
        Some(other) => return Err(Failure::args(format!("bad filter {other:?}: give PUT or DELETE"))),
    };
    let options = WatchOptions {
        from_revision: args.number("rev", 0)?,
        prev_kv: args.is_on("prev-kv"),
        progress_notify: args.is_on("progress-notify"),
        filters,
    };
    Ok(Asked { key, range_end, options, command: command.to_vec() })
}

impl Asked {
    fn start(self, client: &Client) -> (Watch, Vec<String>) {
        (client.watch_with(self.key, self.range_end, self.options), self.command)
    }
}

pub async fn watch(context: &Context) -> Result<(), Failure> {
    context.printer.refuse(&[Format::Table])?;
    let environment = Environment::read()?;
    if context.args.is_on("interactive") {
        return interactive(context, &environment).await;
    }
    let (watch, command) = read(&context.args, &environment)?.start(&context.client);
    let (_asker, asked) = watch::channel(());
    follow(watch, context.printer, command, asked).await
}

/// Prints what comes, until the server ends it.
async fn follow(
    mut items: Watch,
    printer: Printer,
    command: Vec<String>,
    mut progress: watch::Receiver<()>,
) -> Result<(), Failure> {
    loop {
        let item = tokio::select! {
            item = items.next() => item,
            Ok(()) = progress.changed() => {
                items.request_progress();
                continue;
            }
        };
        match item {
            Some(WatchItem::Begun { .. }) => {}
            Some(WatchItem::Events { header, events }) => {
                emit_bytes(&render(printer, header, &events, 0));
                for event in &events {
                    run(&command, header.revision, event).await?;
                }
            }
            Some(WatchItem::Progress { header }) => {
                emit(&format!("progress notify: {}\n", header.revision));
                emit_bytes(&render(printer, header, &[], 0));
            }
            Some(WatchItem::Compacted { header, revision }) => {
                eprintln!("watch was canceled (etcdserver: mvcc: required revision has been compacted)");
                emit_bytes(&render(printer, header, &[], revision));
                return Err(Failure::interrupted(format!(
                    "watch is canceled by the server; history begins at revision {revision}"
                )));
            }
            Some(WatchItem::Refused(error)) => {
                eprintln!("watch was canceled ({error})");
                break;
            }
            None => break,
        }
    }
    Err(Failure::interrupted("watch is canceled by the server"))
}

/// One delivery; `compact_revision` is 0 unless it is the last one of a lost watch.
fn render(printer: Printer, header: ResponseHeader, events: &[Event], compact_revision: i64) -> Vec<u8> {
    let canceled = compact_revision > 0;
    match printer.format {
        Format::Json => line(&json!({
            "Header": json::header(Some(&header)),
            "Events": events.iter().map(json::event).collect::<Vec<_>>(),
            "CompactRevision": compact_revision,
            "Canceled": canceled,
            "Created": false,
        }))
        .into_bytes(),
        Format::Protobuf => {
            let events = events.to_vec();
            let header = Some(header);
            WatchResponse { header, events, canceled, compact_revision, ..WatchResponse::default() }
                .encode_to_vec()
        }
        Format::Fields => {
            let one = |event: &Event| {
                let before = event.prev_kv.as_ref().map_or(String::new(), |kv| fields_of_entry("Prev", kv));
                let after = event.kv.as_ref().map_or(String::new(), |kv| fields_of_entry("", kv));
                format!("\"Type\" : {}\n{before}{after}", event.r#type().as_str_name())
            };
            let events: String = events.iter().map(one).collect();
            (fields_of_header(Some(&header)) + &events).into_bytes()
        }
        Format::Simple | Format::Table => {
            let mut out = Vec::new();
            for event in events {
                out.extend_from_slice(event.r#type().as_str_name().as_bytes());
                out.push(b'\n');
                event.prev_kv.iter().chain(&event.kv).for_each(|kv| printer.entry(&mut out, kv));
            }
            out
        }
    }
}

/// Runs the user's command with the event in its environment.
///
/// Source: etcdctl's watch command, `ETCD_WATCH_*`.
async fn run(command: &[String], revision: i64, event: &Event) -> Result<(), Failure> {
    let Some((program, arguments)) = command.split_first() else { return Ok(()) };
    let kv = event.kv.clone().unwrap_or_default();
    let status = tokio::process::Command::new(program)
        .args(arguments)
        .env("ETCD_WATCH_REVISION", revision.to_string())
        .env("ETCD_WATCH_EVENT_TYPE", go::quote(event.r#type().as_str_name().as_bytes()))
        .env("ETCD_WATCH_KEY", go::quote(&kv.key))
        .env("ETCD_WATCH_VALUE", go::quote(&kv.value))
        .status()
        .await;
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failure::error(format!("command {program:?} ended with {status}"))),
        Err(error) => Err(Failure::error(format!("command {program:?}: {error}"))),
    }
}

/// `watch KEY ...` and `progress`, a line each. A bad line is named and
/// passed over; the watches that run go on.
async fn interactive(context: &Context, environment: &Environment) -> Result<(), Failure> {
    let mut lines = input_lines();
    let mut watches: JoinSet<Result<(), Failure>> = JoinSet::new();
    let (progress, _) = watch::channel(());
    loop {
        let line = tokio::select! {
            line = lines.recv() => line,
            Some(ended) = watches.join_next() => {
                match ended {
                    // Refusals are said where they came; a command that failed ends all.
                    Ok(Err(failure)) if failure.is_error() => return Err(failure),
                    _ => continue,
                }
            }
        };
        let Some(line) = line else {
            return Err(Failure::input("error reading watch request line: EOF"));
        };
        let words = txn::split(&line).unwrap_or_default();
        match words.split_first().map(|(word, rest)| (word.as_str(), rest)) {
            Some(("watch", words)) => {
                let asked_for = Args::parse(words, WATCH).and_then(|args| read(&args, environment));
                match asked_for {
                    Ok(asked_for) => {
                        let (watch, command) = asked_for.start(&context.client);
                        watches.spawn(follow(watch, context.printer, command, progress.subscribe()));
                    }
                    Err(failure) => eprintln!("Invalid command {line} ({})", failure.text),
                }
            }
            Some(("progress", [])) => {
                // Without a watch there is nobody to ask.
                let _ = progress.send(());
            }
            Some(_) => eprintln!("Invalid command {line} (only support watch)"),
            None => eprintln!("Invalid command: {line} (watch and progress supported)"),
        }
    }
}

/// Standard input, line by line, from a thread of its own.
fn input_lines() -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel(QUEUE_LINES);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    fn asked(line: &str, key: &str, range_end: &str) -> Result<String, String> {
        let words: Vec<String> = line.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect();
        let args = Args::parse(&words, WATCH).unwrap();
        let environment = Environment { key: key.to_owned(), range_end: range_end.to_owned() };
        let asked = read(&args, &environment).map_err(|failure| failure.text)?;
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ok(format!("{} {} {}", text(asked.key), text(asked.range_end), asked.command.join(" ")))
    }

    #[test]
    fn arguments_are_read_as_etcdctl_does() {
        #[rustfmt::skip]
        let rows = [
            ("a",                  "",  "",  Ok("a  ")),
            ("a b",                "",  "",  Ok("a b ")),
            ("a --prefix",         "",  "",  Ok("a b ")),
            ("a b -- echo --rev",  "",  "",  Ok("a b echo --rev")),
            ("-- echo x",          "k", "",  Ok("k  echo x")),
            ("--rev 1",            "k", "l", Ok("k l ")),
            ("",                   "",  "",  Err("bad number of arguments")),
            ("-- echo",            "",  "",  Err("bad number of arguments")),
            ("a --",               "",  "",  Err("bad number of arguments (found separator --, but no commands)")),
            ("a",                  "k", "",  Err("bad number of arguments (found conflicting environment key)")),
        ];
        for (line, key, range_end, want) in rows {
            let want = want.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(asked(line, key, range_end), want, "{line}");
        }
    }
}
