//! No maintenance: many times the quota is written and deleted, and writing
//! never ends, the disk stays bounded, and in the end the space comes back.
//!
//! `PROA_QUOTA_MIB` (default 96) is written `PROA_TIMES` (default 10) times.
//! Pauses are measured and printed; what they may be depends on the machine.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod churn;
mod etcd;
mod process;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use etcd::{Cluster, put_surely, runtime, wait_for};
use proa_etcd_client::api::etcdserverpb as pb;

/// What waits to be merged, however small the quota: as `space` allows.
const MERGING_BYTES: u64 = 96 << 20;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

#[test]
fn ten_times_the_quota_is_written_and_deleted_without_maintenance() {
    let quota = number("PROA_QUOTA_MIB", 96) << 20;
    let times = number("PROA_TIMES", 10);
    let cluster = Cluster::start(1, &[&format!("--quota-backend-bytes={quota}")]);
    let (runtime, client) = (runtime(), cluster.client());
    let database = cluster.members[0].data_dir.join("db");
    let ended = Arc::new(AtomicBool::new(false));
    let most = Arc::new(AtomicU64::new(0));
    let watcher = {
        let (ended, most, database) = (Arc::clone(&ended), Arc::clone(&most), database.clone());
        std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                most.fetch_max(churn::disk_bytes(&database), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
        })
    };
    let (begun, keys) = (Instant::now(), churn::keys(quota));
    let rounds = times * churn::LIVE_PART;
    let writer = |writer: u64| {
        let client = client.clone();
        runtime.spawn(async move {
            let mut took = Vec::new();
            for round in 0..rounds {
                for number in 0..keys {
                    let put = churn::put(writer, round, number);
                    let asked = Instant::now();
                    client.put(put).await.unwrap();
                    took.push(asked.elapsed());
                }
                assert_eq!(client.delete_range(churn::delete(writer)).await.unwrap().deleted, keys as i64);
            }
            took
        })
    };
    let writers: Vec<_> = (0..churn::WRITERS).map(writer).collect();
    let mut took: Vec<Duration> =
        writers.into_iter().flat_map(|writer| runtime.block_on(writer).unwrap()).collect();
    let elapsed = begun.elapsed();
    ended.store(true, Ordering::Relaxed);
    watcher.join().unwrap();
    took.sort();
    let part = |per_mille: usize| took[(took.len() - 1) * per_mille / 1_000];
    let most = most.load(Ordering::Relaxed);
    eprintln!(
        "{} MiB in {} puts, {elapsed:.1?}: p50 {:?}, p99 {:?}, p99.9 {:?}, longest {:?}; disk at most {} MiB",
        (took.len() as u64 * churn::VALUE_BYTES) >> 20,
        took.len(),
        part(500),
        part(990),
        part(999),
        part(1_000),
        most >> 20
    );
    assert!(most < 2 * quota + MERGING_BYTES, "the database took {most} bytes, its quota is {quota}");
    // Everything is deleted; what is left is history that nobody can want.
    let last = runtime.block_on(put_surely(&client, "the-end", "the-end"));
    runtime.block_on(client.compact(pb::CompactionRequest { revision: last, physical: true })).unwrap();
    wait_for("the space to come back", || (churn::disk_bytes(&database) < quota / 4).then_some(()));
    let alarms = runtime.block_on(client.alarm(pb::AlarmRequest::default())).unwrap().alarms;
    assert_eq!(alarms, []);
}

/// What runbooks for etcd say: compact, defragment, clear the alarm, go on.
#[test]
fn who_compacts_and_defragments_a_full_store_can_write_at_once() {
    let cluster = Cluster::start(1, &["--quota-backend-bytes=1048576"]);
    let url = &cluster.members[0].client_url;
    let etcdctl = |words: &[&str]| process::etcdctl(url, &[], words);
    let mut word = 1_u64;
    let mut next = || {
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        format!("{word:016x}")
    };
    let refused = wait_for("a full store", || {
        let value: String = (0..4_096).map(|_| next()).collect();
        etcdctl(&["put", "k", &value]).err()
    });
    assert!(refused.contains("etcdserver: mvcc: database space exceeded"), "{refused}");
    let (runtime, client) = (runtime(), cluster.client());
    let answer = runtime.block_on(client.range(pb::RangeRequest { key: "k".into(), ..Default::default() }));
    let revision = answer.unwrap().header.unwrap().revision.to_string();
    etcdctl(&["compact", &revision, "--physical"]).unwrap();
    etcdctl(&["defrag"]).unwrap();
    etcdctl(&["alarm", "disarm"]).unwrap();
    assert_eq!(etcdctl(&["put", "k", "small"]).unwrap(), "OK\n");
}
