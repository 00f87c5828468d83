//! Pauses while many times the quota is written and deleted, beside a store that
//! keeps everything, beside the peers, and beside the disk with no store at all.
//!
//! The load is paced, not as fast as can be: each request has a time at which it is
//! due, and its latency counts from there, so that a pause is met by every request
//! that fell into it.

#[path = "../churn/mod.rs"]
mod churn;
#[allow(dead_code, reason = "each benchmark uses a part of what they share")]
mod server;

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use churn::{LIVE_PART, VALUE_BYTES, WRITERS};
use proa_etcd_client::Client;
use proa_etcd_client::api::etcdserverpb as pb;
use server::{Product, Servers, load_average, ours};
use tokio::time::Instant;

/// Each writer writes this often: 8 × 32 KiB every 20 ms are 12.5 MiB/s.
const EVERY: Duration = Duration::from_millis(20);
const QUOTA_BYTES: u64 = 128 << 20;
/// So many times the quota is written.
const TIMES: u64 = 10;
/// How often the history of a product that does not see to it is given up.
const COMPACT_EVERY: Duration = Duration::from_secs(1);

/// Who gives up history.
#[derive(Clone, Copy, PartialEq, Eq)]
enum History {
    /// The server, by itself.
    Server,
    /// Nobody: there is room for all of it.
    Nobody,
    /// A client, as operators of etcd do.
    Client,
}

fn main() {
    let mut runs = vec![
        ("proa, bounded by itself".to_owned(), ours(), History::Server),
        ("proa, all history kept".to_owned(), ours(), History::Nobody),
    ];
    for arg in std::env::args().skip(1).filter(|arg| arg != "--bench") {
        let Some((name, program)) = arg.split_once('=') else {
            eprintln!("bench: {arg}: give NAME=PROGRAM");
            std::process::exit(2);
        };
        let product = Product { name: name.to_owned(), command: vec![program.to_owned()] };
        runs.push((format!("{name}, compacted each second"), product, History::Client));
    }
    let load = load_average();
    if load > server::MOST_LOAD {
        eprintln!(
            "bench: the machine is busy (load {load}, at most {}): figures mean little",
            server::MOST_LOAD
        );
    }
    println!(
        "| {TIMES} x {} MiB at 12.5 MiB/s | p50 ms | p99 ms | p99.9 ms | longest ms | MiB at the end |",
        QUOTA_BYTES >> 20
    );
    println!("|---|---|---|---|---|---|");
    let root = std::env::temp_dir();
    print("the disk alone", disk_alone(&root), 0);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads");
    for (name, product, history) in runs {
        let (took, bytes) = runtime.block_on(churn(&product, history, &root));
        print(&name, took, bytes);
    }
}

fn print(name: &str, mut took: Vec<Duration>, bytes: u64) {
    took.sort();
    let ms = |per_mille: usize| took[(took.len() - 1) * per_mille / 1_000].as_secs_f64() * 1_000.0;
    println!(
        "| {name} | {:.2} | {:.2} | {:.2} | {:.1} | {} |",
        ms(500),
        ms(990),
        ms(999),
        ms(1_000),
        bytes >> 20
    );
}

/// What one writer with all of the load waits for: the same bytes in one file, each
/// write made durable.
fn disk_alone(root: &Path) -> Vec<Duration> {
    let mut file = tempfile::tempfile_in(root).expect("a file");
    let block = vec![7; VALUE_BYTES as usize];
    let count = TIMES * QUOTA_BYTES / VALUE_BYTES;
    let every = EVERY / WRITERS as u32;
    let begun = std::time::Instant::now();
    let write = |file: &mut File| file.write_all(&block).and_then(|()| file.sync_data());
    let one = |number: u64| {
        let due = every * u32::try_from(number).expect("a count");
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
        write(&mut file).expect("a write");
        begun.elapsed().saturating_sub(due)
    };
    (0..count).map(one).collect()
}

async fn churn(product: &Product, history: History, root: &Path) -> (Vec<Duration>, u64) {
    let words: Vec<String> = match history {
        History::Server => vec![format!("--quota-backend-bytes={QUOTA_BYTES}")],
        History::Nobody => {
            vec!["--auto-compaction-retention=0".into(), "--quota-backend-bytes=8589934592".into()]
        }
        History::Client => vec!["--quota-backend-bytes=8589934592".into()],
    };
    let servers = Servers::start(product, 1, root, &words).await;
    let client = Client::connect(&servers.urls).expect("a URL made here");
    let compactor = (history == History::Client).then(|| tokio::spawn(compact(client.clone())));
    let begun = Instant::now() + EVERY;
    let writers: Vec<_> =
        (0..WRITERS).map(|writer| tokio::spawn(write(client.clone(), writer, begun))).collect();
    let mut took = Vec::new();
    for writer in writers {
        took.extend(writer.await.expect("a writer that did not panic"));
    }
    if let Some(compactor) = compactor {
        compactor.abort();
    }
    (took, churn::disk_bytes(servers.folder()))
}

/// Writes and deletes until its part of the load is done; how late each answer was.
async fn write(client: Client, writer: u64, begun: Instant) -> Vec<Duration> {
    let rounds = TIMES * LIVE_PART;
    let mut took = Vec::new();
    // The writers take turns.
    let mut due = begun + EVERY * u32::try_from(writer).expect("few writers") / WRITERS as u32;
    for round in 0..rounds {
        for number in 0..churn::keys(QUOTA_BYTES) {
            let put = churn::put(writer, round, number);
            tokio::time::sleep_until(due).await;
            client.put(put).await.expect("a put");
            took.push(due.elapsed());
            due += EVERY;
        }
        tokio::time::sleep_until(due).await;
        client.delete_range(churn::delete(writer)).await.expect("a deletion");
        took.push(due.elapsed());
        due += EVERY;
    }
    took
}

async fn compact(client: Client) {
    loop {
        tokio::time::sleep(COMPACT_EVERY).await;
        let newest = client.range(pb::RangeRequest { key: "none".into(), ..pb::RangeRequest::default() });
        let revision = newest.await.expect("a read").header.map_or(0, |header| header.revision);
        // Nothing was written since the last time: refused, and nothing is amiss.
        drop(client.compact(pb::CompactionRequest { revision, physical: false }).await);
    }
}
