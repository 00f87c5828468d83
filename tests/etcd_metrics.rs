//! The names of `/metrics` against those of the real etcd 3.4 and 3.5 after the
//! same requests: a dashboard for etcd finds what it asks for, or here is why not.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod etcd;
mod process;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use etcd::{free_url, proa, quiet, wait_for};
use process::{Process, etcdctl};

/// What etcd has and we have not, by the beginning of its name, and why.
#[rustfmt::skip]
const ABSENT: &[(&str, &str)] = &[
    ("go_",                                            "Go's runtime"),
    ("promhttp_",                                      "the page as Go's library counts it"),
    ("etcd_server_go_version",                         "there is no Go"),
    ("etcd_grpc_proxy_",                               "of another command"),
    ("etcd_debugging_disk_backend_commit_",            "steps of bbolt"),
    ("etcd_disk_backend_defrag_duration_seconds",      "bbolt's defragmentation"),
    ("etcd_disk_defrag_inflight",                      "bbolt's defragmentation"),
    ("etcd_mvcc_db_open_read_transactions",            "transactions of bbolt"),
    ("etcd_debugging_mvcc_index_compaction_",          "there is no index to compact"),
    ("etcd_debugging_mvcc_db_compaction_",             "history is cleared away with later writes, not in one go"),
    ("etcd_debugging_mvcc_total_put_size_in_bytes",    "only etcd's tests look at it"),
    ("etcd_debugging_mvcc_events_total",               "an event is encoded once for all, and not seen again"),
    ("etcd_debugging_mvcc_pending_events_total",       "the same"),
    ("etcd_debugging_lease_ttl_total",                 "only etcd's tests look at it"),
    ("etcd_debugging_snap_",                           "raft snapshots are not marshalled"),
    ("etcd_snap_",                                     "the same"),
    ("etcd_debugging_store_",                          "etcd counts its own members' keys, which are not here"),
    ("etcd_disk_wal_write_duration_seconds",           "writing and syncing are one step"),
    ("etcd_server_apply_duration_seconds",             "what is applied together is measured together"),
    ("etcd_network_server_stream_failures_total",      "peers use no HTTP"),
    ("etcd_network_peer_received_failures_total",      "the same"),
    ("etcd_network_snapshot_",                         "a snapshot for a peer is the database's files"),
];

/// The program of a real etcd.
fn oracle(version: &str) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("buildroot/peers.sh");
    let output = Command::new(script).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "buildroot/peers.sh failed");
    let lines = String::from_utf8(output.stdout).unwrap();
    let folder = lines.lines().find_map(|line| line.strip_prefix(version)?.strip_prefix(' ')).unwrap();
    Path::new(folder).join("usr/bin/etcd")
}

/// Two members, of which the first is asked.
fn start(folder: &Path, oracle: Option<PathBuf>) -> (Vec<Process>, String) {
    std::fs::create_dir(folder).unwrap();
    let peers = [free_url(), free_url()];
    let clients = [free_url(), free_url()];
    let member = |number: usize| {
        let (name, peer, client) = (format!("m{number}"), &peers[number], &clients[number]);
        let log = File::create(folder.join(format!("{name}.log"))).unwrap();
        let mut command = match &oracle {
            None => {
                let mut command = quiet(log);
                command.arg("etcd");
                command
            }
            Some(oracle) => {
                let mut command = Command::new(oracle);
                command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
                command
            }
        };
        command
            .arg(format!("--name={name}"))
            .arg(format!("--data-dir={}", folder.join(&name).display()))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster=m0={},m1={}", peers[0], peers[1]))
            .arg("--metrics=extensive");
        Process(command.spawn().unwrap())
    };
    let members = (0..2).map(member).collect();
    let [client, _] = clients;
    wait_for("a leader", || etcdctl(&client, &[], &["put", "k", "v"]).ok());
    (members, client)
}

fn do_something(url: &str, folder: &Path) {
    let run = |words: &[&str]| {
        etcdctl(url, &[], words).unwrap_or_else(|error| panic!("{words:?} at {url}: {error}"))
    };
    run(&["get", "k"]);
    run(&["del", "k"]);
    let granted = run(&["lease", "grant", "100"]);
    let lease = granted.split(' ').nth(1).unwrap();
    run(&["lease", "keep-alive", "--once", lease]);
    run(&["lease", "revoke", lease]);
    run(&["endpoint", "hashkv"]);
    run(&["snapshot", "save", folder.join("snapshot").to_str().unwrap()]);
    run(&["compact", "2"]);
    run(&["defrag"]);
}

/// A family: its type, and the names of its labels; none without values.
type Page = BTreeMap<String, (String, BTreeSet<String>)>;

fn page(url: &str) -> Page {
    let address = url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let mut page = Page::new();
    let mut family = String::new();
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            page.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
            name.clone_into(&mut family);
        } else if let Some((name, labels)) = line.split_once('{') {
            let (true, Some((_, known))) = (name.starts_with(&family), page.get_mut(&family)) else {
                continue;
            };
            // No value of a label here holds a comma.
            let names = labels.split(',').filter_map(|pair| pair.split_once("=\"")).map(|(name, _)| name);
            known.extend(names.filter(|name| *name != "le").map(str::to_owned));
        }
    }
    page
}

#[test]
fn what_dashboards_of_etcd_ask_for_is_there() {
    let folder = tempfile::tempdir().unwrap();
    assert!(proa().exists());
    let whose = [("ours", None), ("3.4", Some(oracle("3.4"))), ("3.5", Some(oracle("3.5")))];
    let pages = whose.map(|(name, oracle)| {
        let home = folder.path().join(name);
        let (_members, url) = start(&home, oracle);
        do_something(&url, &home);
        // The connection to the other member is looked at every few seconds.
        let measured = "etcd_network_peer_round_trip_time_seconds";
        wait_for("a round trip", || page(&url).get(measured).filter(|found| !found.1.is_empty()).map(drop));
        page(&url)
    });
    let [ours, older, newer] = pages;
    let mut wrong = Vec::new();
    for (version, theirs) in [("3.4", &older), ("3.5", &newer)] {
        for (name, (kind, labels)) in theirs {
            let reason = ABSENT.iter().find(|(prefix, _)| name.starts_with(prefix));
            match (ours.get(name), reason) {
                (None, None) => wrong.push(format!("{name} of {version} is missing")),
                (Some(_), Some((_, reason))) => {
                    wrong.push(format!("{name} is there, though {reason}: take it off the list"));
                }
                (Some((own_kind, own_labels)), None) => {
                    if own_kind != kind
                        || !(labels.is_empty() || own_labels.is_empty() || labels == own_labels)
                    {
                        wrong.push(format!("{name}: {own_kind} {own_labels:?}, not {kind} {labels:?}"));
                    }
                }
                (None, Some(_)) => {}
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
