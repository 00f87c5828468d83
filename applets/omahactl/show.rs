//! What omahactl prints: tables aligned as fleetctl's, and one record as lines.

use proa_base::utc::utc;
use proa_fleet_model::view::align;
use serde_json::Value;

/// Lines under a header, unless that is not wanted.
fn table(header: &[&str], rows: Vec<Vec<String>>, no_legend: bool) -> String {
    let header = header.iter().map(|word| (*word).to_owned()).collect();
    let header = Some(header).filter(|_| !no_legend);
    align(&header.into_iter().chain(rows).collect::<Vec<_>>())
}

fn rows(list: &Value, row: impl Fn(&Value) -> Vec<String>) -> Vec<Vec<String>> {
    list.as_array().map(|list| list.iter().map(row).collect()).unwrap_or_default()
}

/// A field as a cell; a dash for nothing.
fn cell(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) if text.is_empty() => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(list)) if list.is_empty() => "-".to_owned(),
        Some(Value::Array(list)) => {
            let words: Vec<String> = list.iter().map(|item| cell(item, "")).collect();
            words.join(",")
        }
        Some(other) => other.to_string(),
    }
}

fn time(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_u64).map_or_else(|| "-".to_owned(), utc)
}

fn megabytes(value: &Value) -> String {
    let bytes = value.as_u64().unwrap_or(0);
    format!("{}.{} MB", bytes / 1_000_000, bytes / 100_000 % 10)
}

pub fn releases(list: &Value, no_legend: bool) -> String {
    let packages = |release: &Value| {
        let one = |package: &Value| {
            let kind = match package["from"].as_str() {
                None | Some("") => "full".to_owned(),
                Some(from) => format!("from {from}"),
            };
            format!("{kind} {}", megabytes(&package["size"]))
        };
        let list = release["packages"].as_array().map(|list| list.iter().map(one).collect::<Vec<_>>());
        list.unwrap_or_default().join(", ")
    };
    let state = |release: &Value| if release["failed"] == true { "failed" } else { "good" }.to_owned();
    let row = |release: &Value| {
        vec![
            cell(release, "/version"),
            state(release),
            cell(release, "/channels"),
            cell(release, "/minimum"),
            time(release, "/expires"),
            packages(release),
        ]
    };
    let header = ["VERSION", "STATE", "CHANNELS", "MINIMUM", "EXPIRES", "PAYLOADS"];
    table(&header, rows(list, row), no_legend)
}

pub fn channels(list: &Value, no_legend: bool) -> String {
    let row = |channel: &Value| vec![cell(channel, "/name"), cell(channel, "/version")];
    table(&["CHANNEL", "VERSION"], rows(list, row), no_legend)
}

/// What a group is doing, in one word.
fn state(group: &Value) -> &'static str {
    if !group["rollout"]["halt"].is_null() {
        "halted"
    } else if group["settings"]["paused"] == true {
        "paused"
    } else if group["version"] == "" {
        "empty"
    } else {
        "open"
    }
}

fn updating(group: &Value) -> usize {
    group["rollout"]["in_progress"].as_object().map_or(0, serde_json::Map::len)
}

pub fn groups(list: &Value, no_legend: bool) -> String {
    let row = |group: &Value| {
        vec![
            cell(group, "/name"),
            state(group).to_owned(),
            cell(group, "/settings/channel"),
            cell(group, "/version"),
            updating(group).to_string(),
            cell(group, "/rollout/halt/reason"),
        ]
    };
    table(&["GROUP", "STATE", "CHANNEL", "VERSION", "UPDATING", "REASON"], rows(list, row), no_legend)
}

pub fn group(group: &Value) -> String {
    let mut lines = vec![
        vec!["group".to_owned(), cell(group, "/name")],
        vec!["state".to_owned(), state(group).to_owned()],
        vec!["version".to_owned(), cell(group, "/version")],
    ];
    let settings = group["settings"].as_object();
    for (name, value) in settings.into_iter().flatten() {
        let name = if name == "poll-interval-s" { "poll-interval" } else { name };
        lines.push(vec![name.to_owned(), cell(value, "")]);
    }
    if !group["rollout"]["halt"].is_null() {
        lines.push(vec!["halted".to_owned(), time(group, "/rollout/halt/unix_s")]);
        lines.push(vec!["reason".to_owned(), cell(group, "/rollout/halt/reason")]);
        lines.push(vec!["machine".to_owned(), cell(group, "/rollout/halt/machine")]);
    }
    let proven = group["rollout"]["proven"] == true && group["rollout"]["version"] == group["version"];
    lines.push(vec!["proven".to_owned(), proven.to_string()]);
    let grants = group["rollout"]["in_progress"].as_object();
    for (machine, grant) in grants.into_iter().flatten() {
        let since = time(grant, "/since_unix_s");
        lines.push(vec![
            "updating".to_owned(),
            format!("{machine} to {} since {since}", cell(grant, "/version")),
        ]);
    }
    align(&lines)
}

pub fn instances(list: &Value, no_legend: bool) -> String {
    let row = |instance: &Value| {
        vec![
            cell(instance, "/machine"),
            cell(instance, "/alias"),
            cell(instance, "/group"),
            cell(instance, "/version"),
            cell(instance, "/status"),
            time(instance, "/last_seen_unix_s"),
            cell(instance, "/refusal"),
        ]
    };
    let header = ["MACHINE", "ALIAS", "GROUP", "VERSION", "STATUS", "SEEN", "NO UPDATE BECAUSE"];
    table(&header, rows(list, row), no_legend)
}

pub fn instance(instance: &Value, no_legend: bool) -> String {
    let names =
        ["machine", "alias", "address", "group", "board", "oem", "version", "offered", "status", "refusal"];
    let line = |name: &&str| vec![(*name).to_owned(), cell(instance, &format!("/{name}"))];
    let mut lines: Vec<Vec<String>> = names.iter().map(line).collect();
    lines.push(vec!["first seen".to_owned(), time(instance, "/first_seen_unix_s")]);
    lines.push(vec!["last seen".to_owned(), time(instance, "/last_seen_unix_s")]);
    let row = |entry: &Value| {
        vec![time(entry, "/unix_s"), cell(entry, "/what"), cell(entry, "/version"), cell(entry, "/detail")]
    };
    let history = table(&["TIME", "EVENT", "VERSION", "DETAIL"], rows(&instance["history"], row), no_legend);
    format!("{}\n{history}", align(&lines))
}

pub fn failed(list: &Value, no_legend: bool) -> String {
    let row = |failed: &Value| {
        vec![
            cell(failed, "/version"),
            cell(failed, "/machine"),
            cell(failed, "/group"),
            time(failed, "/unix_s"),
            cell(failed, "/error_code"),
            cell(failed, "/reason"),
        ]
    };
    table(&["VERSION", "MACHINE", "GROUP", "TIME", "CODE", "REASON"], rows(list, row), no_legend)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_halted_group_says_why() {
        let group = serde_json::json!({
            "name": "stable", "version": "2.0",
            "settings": {"channel": "stable", "aliases": [], "paused": false, "percentage": 100},
            "rollout": {
                "version": "2.0", "proven": false, "in_progress": {},
                "halt": {"reason": "version 2.0 failed", "version": "2.0", "machine": "m1", "unix_s": 0},
            },
        });
        let list = groups(&Value::Array(vec![group.clone()]), true);
        assert_eq!(list, "stable\thalted\tstable\t2.0\t0\tversion 2.0 failed\n");
        let text = super::group(&group);
        assert!(text.contains("reason\t\tversion 2.0 failed\n"), "{text:?}");
    }
}
