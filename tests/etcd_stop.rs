//! A member that is told to stop: what it has taken in is answered, and its
//! clients go on at the others.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod etcd;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use etcd::{Cluster, Member, PATIENCE, runtime, wait_for};
use proa_etcd_client::api::etcdserverpb::{PutRequest, RangeRequest};
use proa_etcd_client::{Client, Timeouts, WatchItem};
use tokio_stream::StreamExt as _;

/// Requests at a time at each member.
const CLIENTS: usize = 8;

fn terminate(member: &Member) {
    let pid = member.pid().unwrap().to_string();
    assert!(std::process::Command::new("kill").arg(pid).status().unwrap().success());
}

/// Writes a key at one member, again and again, until that is not there any
/// more: how often it was answered, and the last error.
async fn write_until_gone(url: String, key: String, all: Arc<AtomicUsize>) -> (i64, String) {
    let timeouts = Timeouts { connect: Duration::from_secs(5), request: Duration::from_secs(20) };
    let client = Client::with_timeouts(&[url], timeouts).unwrap();
    let mut answered = 0;
    loop {
        let (key, value) = (key.clone().into(), vec![b'v'; 100].into());
        if let Err(error) = client.put(PutRequest { key, value, ..PutRequest::default() }).await {
            return (answered, error.to_string());
        }
        answered += 1;
        all.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_member_that_stops_answers_what_it_has_taken_in() {
    let mut cluster = Cluster::start(3, &[]);
    let runtime = runtime();
    // Each of them stops once, so one stops that leads.
    for number in 0..3 {
        let answered = Arc::new(AtomicUsize::new(0));
        let url = cluster.members[number].client_url.clone();
        let keys: Vec<String> = (0..CLIENTS).map(|client| format!("{number}-{client}")).collect();
        let write = |key: &String| write_until_gone(url.clone(), key.clone(), Arc::clone(&answered));
        let writing: Vec<_> = keys.iter().map(|key| runtime.spawn(write(key))).collect();
        wait_for("load", || (answered.load(Ordering::Relaxed) > 100).then_some(()));
        let begun = Instant::now();
        terminate(&cluster.members[number]);
        let ended = wait_for("the stop", || cluster.members[number].ended());
        assert!(ended.success(), "{ended}");
        assert!(begun.elapsed() < PATIENCE / 10, "it took {:?}", begun.elapsed());
        let other = Client::connect(&[cluster.members[(number + 1) % 3].client_url.clone()]).unwrap();
        for (key, writing) in keys.into_iter().zip(writing) {
            let (answered, last) = runtime.block_on(writing).unwrap();
            assert!(!last.contains("etcdserver"), "member {number}: {last}");
            let request = RangeRequest { key: key.into(), ..RangeRequest::default() };
            let found = runtime.block_on(other.range(request)).unwrap();
            assert_eq!(found.kvs[0].version, answered, "member {number}: {last}");
        }
        cluster.members[number].kill();
        cluster.members[number].start();
        cluster.wait_ready();
    }
}

#[test]
fn watches_go_on_at_another_member_and_hold_up_no_stop() {
    let mut cluster = Cluster::start(3, &[]);
    let runtime = runtime();
    let seen = Arc::new(AtomicUsize::new(0));
    let is_over = Arc::new(AtomicBool::new(false));
    let endpoints = cluster.endpoints();
    let mut watching = Vec::new();
    for number in 0..3 {
        let mut endpoints = endpoints.clone();
        endpoints.rotate_left(number);
        let (seen, is_over) = (Arc::clone(&seen), Arc::clone(&is_over));
        watching.push(runtime.spawn(async move {
            let client = Client::connect(&endpoints).unwrap();
            let mut watch = client.watch("k", "", 1);
            while let Some(item) = watch.next().await {
                match item {
                    WatchItem::Events { events, .. } => seen.fetch_add(events.len(), Ordering::Relaxed),
                    WatchItem::Refused(error) => panic!("{error}"),
                    _ => 0,
                };
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
            }
        }));
    }
    let put = |endpoints: &[String]| {
        let client = Client::connect(endpoints).unwrap();
        let request = PutRequest { key: "k".into(), value: "v".into(), ..PutRequest::default() };
        runtime.block_on(client.put(request)).unwrap();
    };
    let mut written = 0;
    for number in 0..3 {
        put(&endpoints[number..=number]);
        written += 3;
        wait_for("the event", || (seen.load(Ordering::Relaxed) == written).then_some(()));
        let begun = Instant::now();
        terminate(&cluster.members[number]);
        let ended = wait_for("the stop", || cluster.members[number].ended());
        assert!(ended.success(), "{ended}");
        // The time that clients have would be over by then.
        assert!(!cluster.members[number].stderr().contains("have not ended"), "{:?}", begun.elapsed());
        put(&endpoints[(number + 1) % 3..=(number + 1) % 3]);
        written += 3;
        wait_for("the event elsewhere", || (seen.load(Ordering::Relaxed) == written).then_some(()));
        cluster.members[number].kill();
        cluster.members[number].start();
        cluster.wait_ready();
    }
    is_over.store(true, Ordering::Relaxed);
    put(&endpoints);
    watching.into_iter().for_each(|watching| runtime.block_on(watching).unwrap());
}
