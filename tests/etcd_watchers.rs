//! A flood of writes on other keys, while watchers of both APIs sleep, restart,
//! move to another member or sit on one that is killed: each gets its exact sequence.
//!
//! `PROA_WATCH_WRITES` (default 20 000) foreign writes. Most come as transactions
//! of 128 puts, each of which counts as a write; the rest are single puts of both APIs.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod etcd;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use etcd::{Cluster, PATIENCE, runtime};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::{self, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use proa_etcd_client::api::etcdserverpb as pb;
use proa_etcd_client::{Client, Timeouts, WatchItem, prefix_range};
use serde_json::Value;
use tokio_stream::StreamExt as _;

/// What one writer does again and again: as a transaction, alone, and by the v2 API.
const BATCHED: u64 = 128;
const SINGLE: u64 = 58;
const V2: u64 = 14;
const WRITERS: u64 = 16;
/// Writes on the watched keys, spread over the flood.
const OWN: u64 = 120;
/// Members killed one after the other, each away for a part of the flood.
const KILLS: u64 = 6;
/// How long a watcher that moves waits for an event before it goes elsewhere.
const VISIT: Duration = Duration::from_millis(700);
const PAUSE: Duration = Duration::from_millis(20);

type Http = legacy::Client<HttpConnector, Full<Bytes>>;
/// Which own write, and at which revision or index it happened.
type Sequence = Vec<(u64, u64)>;

/// The flood, as everybody sees it.
struct Flood {
    endpoints: Vec<String>,
    http: Http,
    wanted: u64,
    begun: AtomicU64,
    done: AtomicU64,
    is_over: AtomicBool,
}

fn client_at(endpoints: &[String], first: usize) -> Client {
    let mut endpoints = endpoints.to_vec();
    let places = first % endpoints.len();
    endpoints.rotate_left(places);
    let timeouts = Timeouts { connect: Duration::from_secs(1), request: Duration::from_secs(5) };
    Client::with_timeouts(&endpoints, timeouts).unwrap()
}

/// Tries until it works.
async fn surely<T, F: Future<Output = Option<T>>>(what: &str, mut attempt: impl FnMut() -> F) -> T {
    let begun = Instant::now();
    loop {
        if let Some(done) = attempt().await {
            return done;
        }
        assert!(begun.elapsed() < PATIENCE, "waited too long for: {what}");
        tokio::time::sleep(PAUSE).await;
    }
}

fn put(key: String, value: String) -> pb::PutRequest {
    pb::PutRequest { key: key.into(), value: value.into(), ..pb::PutRequest::default() }
}

fn put_op(key: String, value: String) -> pb::RequestOp {
    pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put(key, value))) }
}

impl Flood {
    /// A request of the v2 API at one member; `None` when that has no answer now.
    async fn v2(&self, member: usize, method: &str, target: &str, form: &str) -> Option<(u16, Value)> {
        let url = format!("{}/v2/keys/{target}", self.endpoints[member % self.endpoints.len()]);
        let request = http::Request::builder()
            .method(method)
            .uri(url)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Full::from(form.to_owned()))
            .unwrap();
        let answer = self.http.request(request).await.ok()?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.ok()?.to_bytes();
        (status < 500).then(|| (status, serde_json::from_slice(&body).unwrap()))
    }

    /// One writer's part of the flood.
    async fn write(self: Arc<Self>, writer: u64) {
        let client = client_at(&self.endpoints, writer as usize);
        let key = |number: u64| format!("foreign/{writer}/{number:03}");
        let members = AtomicUsize::new(writer as usize);
        let round = BATCHED + SINGLE + V2;
        while self.begun.fetch_add(round, Ordering::Relaxed) < self.wanted {
            let success = (0..BATCHED).map(|n| put_op(key(n), format!("{n:064}"))).collect();
            let txn = pb::TxnRequest { success, ..pb::TxnRequest::default() };
            surely("a transaction", || async { client.txn(txn.clone()).await.ok() }).await;
            self.done.fetch_add(BATCHED, Ordering::Relaxed);
            for number in 0..SINGLE {
                let put = put(key(number), format!("{number:064}"));
                surely("a put", || async { client.put(put.clone()).await.ok() }).await;
                self.done.fetch_add(1, Ordering::Relaxed);
            }
            for number in 0..V2 {
                let target = format!("foreign/{writer}/{number}");
                surely("a put of v2", || async {
                    let member = members.load(Ordering::Relaxed);
                    let asked = self.v2(member, "PUT", &target, "value=x");
                    let answer = tokio::time::timeout(Duration::from_secs(5), asked).await.ok().flatten();
                    if answer.is_none() {
                        members.fetch_add(1, Ordering::Relaxed);
                    }
                    answer
                })
                .await;
                self.done.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// One own write, certainly once: its revision and its index.
    async fn own(&self, client: &Client, number: u64) -> (u64, u64) {
        let key = format!("own/{number:05}");
        let absent = pb::Compare {
            key: key.clone().into(),
            target: pb::compare::CompareTarget::Version as i32,
            target_union: Some(pb::compare::TargetUnion::Version(0)),
            ..pb::Compare::default()
        };
        // Asked again when the outcome is unknown: it writes once, and reads where that was.
        let get = pb::RangeRequest { key: key.clone().into(), ..pb::RangeRequest::default() };
        let get = pb::RequestOp { request: Some(pb::request_op::Request::RequestRange(get)) };
        let success = vec![put_op(key.clone(), number.to_string()), get.clone()];
        let txn = pb::TxnRequest { compare: vec![absent], success, failure: vec![get] };
        let answer = surely("an own write", || async { client.txn(txn.clone()).await.ok() }).await;
        let read = answer.responses.into_iter().next_back().unwrap().response.unwrap();
        let pb::response_op::Response::ResponseRange(read) = read else { panic!("{read:?}") };
        let revision = read.kvs[0].mod_revision as u64;

        let member = AtomicUsize::new(number as usize);
        let index = surely("an own write of v2", || async {
            let member = member.fetch_add(1, Ordering::Relaxed);
            let form = format!("value={number}&prevExist=false");
            let answer = tokio::time::timeout(Duration::from_secs(5), self.v2(member, "PUT", &key, &form));
            let (status, body) = answer.await.ok().flatten()?;
            if status == 201 {
                return body["node"]["modifiedIndex"].as_u64();
            }
            assert_eq!(body["errorCode"], 105, "{body}");
            self.v2(member, "GET", &format!("{key}?quorum=true"), "").await?.1["node"]["modifiedIndex"]
                .as_u64()
        })
        .await;
        (revision, index)
    }

    /// All own writes, each when its part of the flood is done.
    async fn own_all(self: Arc<Self>, first: (u64, u64)) -> (Sequence, Sequence) {
        let client = client_at(&self.endpoints, 0);
        let (mut revisions, mut indexes) = (vec![(0, first.0)], vec![(0, first.1)]);
        for number in 1..=OWN {
            while self.done.load(Ordering::Relaxed) < self.wanted * number / (OWN + 1) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            let (revision, index) = self.own(&client, number).await;
            revisions.push((number, revision));
            indexes.push((number, index));
        }
        (revisions, indexes)
    }

    async fn sleep_it_over(&self) {
        while !self.is_over.load(Ordering::Relaxed) {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// How a watcher lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Habit {
    /// Stays with its client, which finds another member by itself.
    Steady,
    /// Knows one member only, also while that is dead.
    Glued,
    /// Begins again at another member after so many events.
    Moves { events: usize },
    /// Sees so many events and is away until the flood is over.
    Sleeps { events: usize },
}

const HABITS: [Habit; 6] = [
    Habit::Steady,
    Habit::Glued,
    Habit::Moves { events: 1 },
    Habit::Moves { events: 7 },
    Habit::Sleeps { events: 1 },
    Habit::Sleeps { events: 40 },
];

impl Habit {
    /// Events until it goes away.
    fn events(self) -> usize {
        match self {
            Self::Steady | Self::Glued => usize::MAX,
            Self::Moves { events } | Self::Sleeps { events } => events,
        }
    }

    /// How long it waits in one place.
    fn waits(self) -> Duration {
        if matches!(self, Self::Moves { .. }) { VISIT } else { PATIENCE * 10 }
    }

    /// What it does between two visits.
    async fn goes_away(self, flood: &Flood) {
        match self {
            Self::Sleeps { .. } => flood.sleep_it_over().await,
            Self::Steady | Self::Glued | Self::Moves { .. } => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// What a watcher of the v3 API sees from `first` on.
async fn watch_v3(flood: Arc<Flood>, habit: Habit, first: u64) -> Sequence {
    let (key, range_end) = prefix_range(b"own/");
    let (mut seen, mut next) = (Sequence::new(), first);
    for visit in 0.. {
        let place = visit % flood.endpoints.len();
        let endpoints = match habit {
            Habit::Glued => &flood.endpoints[..1],
            Habit::Moves { .. } => &flood.endpoints[place..=place],
            Habit::Steady | Habit::Sleeps { .. } => &flood.endpoints[..],
        };
        let mut watch = client_at(endpoints, visit).watch(key.clone(), range_end.clone(), next as i64);
        let full = seen.len().saturating_add(habit.events());
        while seen.len() < full {
            let Ok(item) = tokio::time::timeout(habit.waits(), watch.next()).await else { break };
            match item.unwrap() {
                WatchItem::Events { events, .. } => {
                    for event in events {
                        let kv = event.kv.unwrap();
                        let number = str::from_utf8(&kv.value).unwrap().parse().unwrap();
                        next = kv.mod_revision as u64 + 1;
                        seen.push((number, kv.mod_revision as u64));
                    }
                }
                WatchItem::Begun { .. } | WatchItem::Progress { .. } => {}
                item @ (WatchItem::Compacted { .. } | WatchItem::Refused(_)) => panic!("{habit:?}: {item:?}"),
            }
            if seen.last().is_some_and(|(number, _)| *number == OWN) {
                return seen;
            }
        }
        drop(watch);
        habit.goes_away(&flood).await;
    }
    unreachable!("it watches until the last own write")
}

/// Where a watcher of the v2 API goes for its next visit.
fn place_of(habit: Habit, visit: usize) -> usize {
    if habit == Habit::Glued { 0 } else { visit }
}

/// Number and index that a v2 event tells.
fn told(event: &Value) -> (u64, u64) {
    let node = &event["node"];
    let number = node["value"].as_str().unwrap_or_else(|| panic!("{event}")).parse().unwrap();
    (number, node["modifiedIndex"].as_u64().unwrap())
}

/// What a client of the v2 API sees that waits for one event after the other.
async fn wait_v2(flood: Arc<Flood>, habit: Habit, first: u64) -> Sequence {
    let (mut seen, mut next, mut visit) = (Sequence::new(), first, 0);
    while seen.last().is_none_or(|(number, _)| *number < OWN) {
        let target = format!("own?wait=true&recursive=true&waitIndex={next}");
        let asked = flood.v2(place_of(habit, visit), "GET", &target, "");
        let Some((status, event)) = tokio::time::timeout(habit.waits(), asked).await.ok().flatten() else {
            visit += 1;
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        assert_eq!(status, 200, "{habit:?}: {event}");
        let (number, index) = told(&event);
        next = index + 1;
        seen.push((number, index));
        if seen.len() % habit.events() == 0 {
            visit += 1;
            habit.goes_away(&flood).await;
        }
    }
    seen
}

/// What a client of the v2 API sees that reads streams, and goes on with another
/// one when that ends.
async fn stream_v2(flood: Arc<Flood>, habit: Habit, first: u64) -> Sequence {
    let (mut seen, mut next) = (Sequence::new(), first);
    for visit in 0.. {
        let url = &flood.endpoints[place_of(habit, visit) % flood.endpoints.len()];
        let target = format!("{url}/v2/keys/own?wait=true&stream=true&recursive=true&waitIndex={next}");
        let request = http::Request::get(target).body(Full::default()).unwrap();
        let full = seen.len().saturating_add(habit.events());
        let asked = tokio::time::timeout(habit.waits(), flood.http.request(request)).await;
        if let Ok(Ok(answer)) = asked
            && answer.status().as_u16() < 500
        {
            assert_eq!(answer.status(), 200, "{habit:?}");
            let (mut body, mut text) = (answer.into_body(), Vec::new());
            while seen.len() < full {
                let frame = tokio::time::timeout(habit.waits(), body.frame()).await;
                let Ok(Some(Ok(frame))) = frame else { break };
                text.extend_from_slice(frame.data_ref().unwrap());
                while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = text.drain(..=end).collect();
                    let (number, index) = told(&serde_json::from_slice(&line).unwrap());
                    next = index + 1;
                    seen.push((number, index));
                    if number == OWN {
                        return seen;
                    }
                }
            }
        }
        habit.goes_away(&flood).await;
    }
    unreachable!("it reads until the last own write")
}

/// Waits for a part of the flood; it must not stand still.
fn wait_until(flood: &Flood, writes: u64) {
    let (mut last, mut moved) = (0, Instant::now());
    loop {
        let done = flood.done.load(Ordering::Relaxed);
        if done >= writes {
            return;
        }
        if done > last {
            (last, moved) = (done, Instant::now());
        }
        assert!(moved.elapsed() < PATIENCE, "the flood stands still at {done} writes");
        std::thread::sleep(PAUSE);
    }
}

#[test]
fn a_flood_on_other_keys_costs_no_watcher_an_event() {
    let writes = std::env::var("PROA_WATCH_WRITES").map_or(20_000, |text| text.parse().unwrap());
    // Snapshots come often, so that a member that was away is sent one.
    let mut cluster = Cluster::start(3, &["--snapshot-count=2000"]);
    let runtime = runtime();
    let flood = Arc::new(Flood {
        endpoints: cluster.endpoints(),
        http: legacy::Client::builder(TokioExecutor::new()).build_http(),
        wanted: writes,
        begun: AtomicU64::new(0),
        done: AtomicU64::new(0),
        is_over: AtomicBool::new(false),
    });
    let first = runtime.block_on(flood.own(&cluster.client(), 0));
    let own = runtime.spawn(Arc::clone(&flood).own_all(first));
    let mut watchers = Vec::new();
    for habit in HABITS {
        let flood = || Arc::clone(&flood);
        watchers.push(("v3", habit, runtime.spawn(watch_v3(flood(), habit, first.0))));
        watchers.push(("v2 wait", habit, runtime.spawn(wait_v2(flood(), habit, first.1))));
        watchers.push(("v2 stream", habit, runtime.spawn(stream_v2(flood(), habit, first.1))));
    }
    let begun = Instant::now();
    let writers: Vec<_> = (0..WRITERS).map(|n| runtime.spawn(Arc::clone(&flood).write(n))).collect();
    for kill in 0..KILLS {
        let part = |half: u64| writes * (2 * kill + half) / (2 * KILLS + 1);
        let victim = &mut cluster.members[(kill % 3) as usize];
        wait_until(&flood, part(1));
        victim.kill();
        wait_until(&flood, part(2));
        victim.start();
    }
    let (revisions, indexes) = runtime.block_on(async {
        for writer in writers {
            writer.await.unwrap();
        }
        own.await.unwrap()
    });
    flood.is_over.store(true, Ordering::Relaxed);
    let (done, elapsed) = (flood.done.load(Ordering::Relaxed), begun.elapsed());
    for (api, habit, watcher) in watchers {
        let seen = runtime.block_on(async { tokio::time::timeout(PATIENCE, watcher).await });
        let seen = seen.unwrap_or_else(|_| panic!("{api} {habit:?} never saw the last own write")).unwrap();
        let want = if api == "v3" { &revisions } else { &indexes };
        assert_eq!(&seen, want, "{api} {habit:?}");
    }
    let round = BATCHED + SINGLE + V2;
    eprintln!(
        "{done} foreign writes in {elapsed:.1?}: {}% in transactions of {BATCHED}, {}% single puts, {}% by v2; \
         {KILLS} kills; {} watchers, each with its {} events",
        100 * BATCHED / round,
        100 * SINGLE / round,
        100 * V2 / round,
        3 * HABITS.len(),
        OWN + 1
    );
}
