//! `watch`: events as they come, or a command for each.

use std::process::Command;

use proa_etcd_client::api::etcdserverpb::watch_create_request::FilterType;
use proa_etcd_client::api::mvccpb::Event;
use proa_etcd_client::{WatchItem, WatchOptions};
use serde_json::json;
use tokio_stream::StreamExt as _;

use super::args::{Flag, switch, value};
use super::failure::Failure;
use super::print::{Format, line};
use super::{Context, emit, json, kv};

pub const WATCH: &[Flag] = &[
    value("rev", "from this revision on"),
    value("filter", "leave out PUT or DELETE"),
    switch("prefix", "keys with this prefix"),
    switch("from-key", "keys from this one on"),
    switch("prev-kv", "print the entry before"),
    switch("progress-notify", "say now and then how far the watch has come"),
];

pub async fn watch(context: &Context) -> Result<(), Failure> {
    let args = &context.args;
    let (words, command) = args.rest.split_at(args.before_dashes);
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
    let mut items = context.client.watch_with(key, range_end, options);
    while let Some(item) = items.next().await {
        match item {
            WatchItem::Begun { .. } => {}
            WatchItem::Events { revision, events } => deliver(context, revision, &events, command)?,
            WatchItem::Progress { revision } => emit(&format!("progress notify: {revision}\n")),
            WatchItem::Compacted { revision } => {
                eprintln!("watch was canceled (etcdserver: mvcc: required revision has been compacted)");
                return Err(Failure::interrupted(format!(
                    "watch is canceled by the server; history begins at revision {revision}"
                )));
            }
            WatchItem::Refused(error) => return Err(error.into()),
        }
    }
    Err(Failure::interrupted("watch is canceled by the server"))
}

fn deliver(context: &Context, revision: i64, events: &[Event], command: &[String]) -> Result<(), Failure> {
    if context.printer.format == Format::Json {
        let events: Vec<_> = events.iter().map(json::event).collect();
        emit(&line(&json!({
            "Header": { "revision": revision },
            "Events": events,
            "CompactRevision": 0,
            "Canceled": false,
            "Created": false,
        })));
        return Ok(());
    }
    for event in events {
        let before = event.prev_kv.as_ref().map_or(String::new(), |kv| context.printer.entry(kv));
        let after = event.kv.as_ref().map_or(String::new(), |kv| context.printer.entry(kv));
        emit(&format!("{}\n{before}{after}", event.r#type().as_str_name()));
        if let Some((program, arguments)) = command.split_first() {
            run(program, arguments, revision, event)?;
        }
    }
    Ok(())
}

/// Runs the user's command with the event in its environment.
///
/// Source: etcdctl's watch command, `ETCD_WATCH_*`.
fn run(program: &str, arguments: &[String], revision: i64, event: &Event) -> Result<(), Failure> {
    let kv = event.kv.clone().unwrap_or_default();
    let status = Command::new(program)
        .args(arguments)
        .env("ETCD_WATCH_REVISION", revision.to_string())
        .env("ETCD_WATCH_EVENT_TYPE", format!("{:?}", event.r#type().as_str_name()))
        .env("ETCD_WATCH_KEY", format!("{:?}", String::from_utf8_lossy(&kv.key)))
        .env("ETCD_WATCH_VALUE", format!("{:?}", String::from_utf8_lossy(&kv.value)))
        .status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failure::error(format!("command {program:?} ended with {status}"))),
        Err(error) => Err(Failure::error(format!("command {program:?}: {error}"))),
    }
}
