//! `kill -9` under load: whatever dies whenever, no acknowledged write is lost,
//! and time goes one way.
//!
//! `PROA_KILLS` rounds (default 15); `PROA_SEED` repeats the choice of victims.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod etcd;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use etcd::{Cluster, PATIENCE, put_surely, runtime, wait_for};
use proa_etcd_client::api::etcdserverpb::{HashKvRequest, PutRequest, RangeRequest};
use proa_etcd_client::{Client, Timeouts, WatchItem};
use tokio_stream::StreamExt as _;

const WRITERS: usize = 6;
const READERS: usize = 2;
const KEYS: usize = 5;
/// Acknowledged writes between two kills.
const WRITES_A_ROUND: usize = 60;

/// One finished operation of one client.
#[derive(Clone, Debug)]
struct Op {
    key: String,
    /// The value written or read; `None`: read, and there was none.
    value: Option<String>,
    is_write: bool,
    invoked: Instant,
    returned: Instant,
    /// The store's revision when it was done.
    revision: i64,
}

/// What clients saw, and every value that was ever sent.
#[derive(Default)]
struct History {
    ops: Mutex<Vec<Op>>,
    acknowledged: AtomicUsize,
    sent: AtomicUsize,
    ended: AtomicBool,
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        // xorshift64: enough to choose victims.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// A client of one writer or reader, that begins at an endpoint of its own.
fn client_of(endpoints: &[String], number: usize) -> Client {
    let mut endpoints = endpoints.to_vec();
    let places = number % endpoints.len();
    endpoints.rotate_left(places);
    let timeouts = Timeouts { connect: Duration::from_secs(1), request: Duration::from_secs(3) };
    Client::with_timeouts(&endpoints, timeouts).unwrap()
}

async fn write_on(history: Arc<History>, endpoints: Vec<String>, writer: usize) {
    let client = client_of(&endpoints, writer);
    let mut count = 0;
    while !history.ended.load(Ordering::Relaxed) {
        let key = format!("k{}", (writer + count) % KEYS);
        // Never the same twice, also when the outcome stays unknown.
        let value = format!("w{writer}-{count}");
        count += 1;
        history.sent.fetch_add(1, Ordering::Relaxed);
        let request =
            PutRequest { key: key.clone().into(), value: value.clone().into(), ..PutRequest::default() };
        let invoked = Instant::now();
        match client.put(request).await {
            Ok(answer) => {
                let revision = answer.header.unwrap().revision;
                let returned = Instant::now();
                let op = Op { key, value: Some(value), is_write: true, invoked, returned, revision };
                history.ops.lock().unwrap().push(op);
                history.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn read_on(history: Arc<History>, endpoints: Vec<String>, reader: usize) {
    let client = client_of(&endpoints, reader);
    let mut count = 0;
    while !history.ended.load(Ordering::Relaxed) {
        let key = format!("k{}", (reader + count) % KEYS);
        count += 1;
        let request = RangeRequest { key: key.clone().into(), ..RangeRequest::default() };
        let invoked = Instant::now();
        if let Ok(answer) = client.range(request).await {
            let returned = Instant::now();
            let value = answer.kvs.first().map(|kv| String::from_utf8(kv.value.to_vec()).unwrap());
            let revision = answer.header.unwrap().revision;
            let op = Op { key, value, is_write: false, invoked, returned, revision };
            history.ops.lock().unwrap().push(op);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Kills and restarts one member, or all of them.
fn round(cluster: &mut Cluster, history: &History, random: &mut Random) {
    let before = history.acknowledged.load(Ordering::Relaxed);
    let victims = match random.below(5) {
        0 => (0..cluster.members.len()).collect(),
        _ => vec![random.below(3) as usize],
    };
    victims.iter().for_each(|victim| cluster.members[*victim].kill());
    if victims.len() == 1 && random.below(2) == 0 {
        // Sometimes it misses a lot, and the two others go on without it.
        let wanted = before + WRITES_A_ROUND / 2;
        wait_for("writes by the majority", || {
            (history.acknowledged.load(Ordering::Relaxed) >= wanted).then_some(())
        });
    }
    victims.iter().for_each(|victim| cluster.members[*victim].start());
    let wanted = history.acknowledged.load(Ordering::Relaxed) + WRITES_A_ROUND;
    wait_for("writes after a restart", || {
        for member in &mut cluster.members {
            if let Some(status) = member.ended() {
                panic!("{} ended with {status}:\n{}", member.name, member.stderr());
            }
        }
        (history.acknowledged.load(Ordering::Relaxed) >= wanted).then_some(())
    });
}

/// Everything that ever happened, as a watch from the beginning tells it:
/// revision to key and value.
async fn everything(client: &Client, last: i64) -> BTreeMap<i64, (String, String)> {
    let mut events = BTreeMap::new();
    let mut watch = client.watch("\0", "\0", 1);
    while events.last_key_value().is_none_or(|(revision, _)| *revision < last) {
        let item = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap().unwrap();
        match item {
            WatchItem::Events { events: some, .. } => {
                for event in some {
                    let kv = event.kv.unwrap();
                    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                    let before = events.insert(kv.mod_revision, (text(&kv.key), text(&kv.value)));
                    assert_eq!(before, None, "two changes in revision {}", kv.mod_revision);
                }
            }
            WatchItem::Begun { .. } | WatchItem::Progress { .. } => {}
            WatchItem::Compacted { .. } | WatchItem::Refused(_) => panic!("{item:?}"),
        }
    }
    events
}

/// Nobody who began after something was over may see less than it.
fn check_real_time(ops: &[Op]) -> Result<(), String> {
    let mut ops: Vec<&Op> = ops.iter().collect();
    // At one revision there is one write; the reads that saw it come after it.
    ops.sort_by_key(|op| (op.revision, !op.is_write));
    let mut latest: Option<&Op> = None;
    for same in ops.chunk_by(|a, b| a.revision == b.revision && a.is_write == b.is_write) {
        for op in same {
            if let Some(latest) = latest.filter(|latest| latest.invoked > op.returned) {
                return Err(format!("{op:?} was over before {latest:?} began, and has a later revision"));
            }
        }
        let last = same.iter().copied().chain(latest).max_by_key(|op| op.invoked);
        latest = last;
    }
    Ok(())
}

/// Each acknowledged write is where it was acknowledged, each value came once,
/// and each read saw the last write before it.
fn check_against_log(ops: &[Op], log: &BTreeMap<i64, (String, String)>) -> Result<(), String> {
    let mut seen = HashMap::new();
    let mut by_key: HashMap<&str, BTreeMap<i64, &str>> = HashMap::new();
    for (revision, (key, value)) in log {
        if let Some(before) = seen.insert(value, revision) {
            return Err(format!("{value} was written at {before} and at {revision}"));
        }
        by_key.entry(key).or_default().insert(*revision, value);
    }
    for op in ops {
        let written = by_key.get(op.key.as_str()).and_then(|log| log.range(..=op.revision).next_back());
        let found = written.map(|(_, value)| *value);
        let at = written.map(|(revision, _)| *revision);
        if found != op.value.as_deref() || (op.is_write && at != Some(op.revision)) {
            return Err(format!("{op:?}, but the log has {found:?} of revision {at:?}"));
        }
    }
    Ok(())
}

/// All members agree, and on how much.
fn check_hashes(cluster: &Cluster, revision: i64) {
    let runtime = runtime();
    let hashes: Vec<u32> = cluster
        .members
        .iter()
        .map(|member| {
            let client = Client::connect(std::slice::from_ref(&member.client_url)).unwrap();
            // A member that is behind refuses the future revision.
            wait_for("a member to catch up", || {
                Some(runtime.block_on(client.hash_kv(HashKvRequest { revision })).ok()?.hash)
            })
        })
        .collect();
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "members disagree: {hashes:?}");
}

#[test]
fn no_acknowledged_write_is_lost() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let rounds = number("PROA_KILLS").unwrap_or(15);
    let seed = number("PROA_SEED").unwrap_or_else(|| u64::from(std::process::id()) + 1);
    eprintln!("PROA_SEED={seed} PROA_KILLS={rounds}");
    let mut random = Random(seed);
    // Snapshots and log compaction come often, so that kills hit them too.
    let mut cluster = Cluster::start(3, &["--snapshot-count=500"]);
    let (history, runtime) = (Arc::new(History::default()), runtime());
    let mut clients = Vec::new();
    for writer in 0..WRITERS {
        clients.push(runtime.spawn(write_on(Arc::clone(&history), cluster.endpoints(), writer)));
    }
    for reader in 0..READERS {
        clients.push(runtime.spawn(read_on(Arc::clone(&history), cluster.endpoints(), reader)));
    }
    for done in 0..rounds {
        round(&mut cluster, &history, &mut random);
        if done % 10 == 9 {
            eprintln!("{} kills, {} writes", done + 1, history.acknowledged.load(Ordering::Relaxed));
        }
    }
    history.ended.store(true, Ordering::Relaxed);
    let client = cluster.client();
    let (last, log) = runtime.block_on(async {
        for client in clients {
            client.await.unwrap();
        }
        let last = put_surely(&client, "the-end", "the-end").await;
        (last, everything(&client, last).await)
    });
    let ops = history.ops.lock().unwrap().clone();
    let sent = history.sent.load(Ordering::Relaxed);
    eprintln!("{} operations of {sent} writes sent, {} revisions", ops.len(), log.len());
    check_real_time(&ops).unwrap();
    check_against_log(&ops, &log).unwrap();
    check_hashes(&cluster, last);
}

/// The checks find what they are for.
#[test]
fn planted_violations_are_found() {
    let begun = Instant::now();
    let at = |ms| begun + Duration::from_millis(ms);
    let op = |value: Option<&str>, is_write, invoked, returned, revision| Op {
        key: "k".to_owned(),
        value: value.map(str::to_owned),
        is_write,
        invoked: at(invoked),
        returned: at(returned),
        revision,
    };
    let log: BTreeMap<i64, (String, String)> =
        [(2, ("k".to_owned(), "a".to_owned())), (3, ("k".to_owned(), "b".to_owned()))].into();
    let (a, b) = (op(Some("a"), true, 0, 1, 2), op(Some("b"), true, 2, 3, 3));
    #[rustfmt::skip]
    let rows = [
        ("as it was",           vec![a.clone(), b.clone(), op(Some("b"), false, 4, 5, 3)], true,  true),
        ("read goes back",      vec![a.clone(), b.clone(), op(Some("a"), false, 4, 5, 2)], false, true),
        ("read of a lost write",vec![a.clone(), op(None, false, 4, 5, 2)],                 true,  false),
        ("write lost",          vec![op(Some("c"), true, 4, 5, 4)],                        true,  false),
        ("write moved",         vec![op(Some("a"), true, 0, 1, 3)],                        true,  false),
        ("order turned round",  vec![op(Some("b"), true, 0, 1, 3), op(Some("a"), true, 2, 3, 2)], false, true),
        ("overlap is free",     vec![op(Some("b"), true, 0, 9, 3), op(Some("a"), true, 1, 8, 2)], true,  true),
    ];
    for (name, ops, real_time, in_log) in rows {
        assert_eq!(check_real_time(&ops).is_ok(), real_time, "{name}");
        assert_eq!(check_against_log(&ops, &log).is_ok(), in_log, "{name}");
    }
}
