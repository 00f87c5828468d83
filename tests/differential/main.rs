//! The differential fuzzer: one random stream of operations, valid and invalid,
//! for the real etcd 3.4 and for ours; every answer is compared.
//!
//! | variable | meaning |
//! |---|---|
//! | `PROA_FUZZ_SEED` | the seed, as printed by an earlier run; fresh without |
//! | `PROA_FUZZ_OPS` | how many operations; without, as many as the seconds allow |
//! | `PROA_FUZZ_SECONDS` | how long, when no number of operations is given (20) |
//! | `PROA_FUZZ_ORACLE` | 3.4, or 3.5 without the v2 API (3.4) |
//! | `PROA_FUZZ_PAIRS` | how many pairs of stores side by side (4) |
//!
//! Each pair has a stream of its own, drawn from the seed and its number. A pair
//! waits for two disks most of the time: several of them fill two cores.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod answer;
mod draw;
#[path = "../etcd/mod.rs"]
mod etcd;
mod explained;
mod op;
mod pair;
mod peer;
mod random;
mod shrink;
mod tally;
mod v2;
mod watcher;

use std::hash::{BuildHasher as _, RandomState};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use draw::Draw;
use op::Op;
use pair::{Difference, Pair};
use tally::Tally;

/// Turns that are drawn before the operations are sent.
const TURNS_AT_ONCE: usize = 50;
/// A pair starts afresh after so many operations: what is only wrong in young
/// stores is met often, and what is to be shrunk stays short.
const OPS_OF_A_PAIR: u64 = 20_000;

/// What a run may use up.
struct Bounds {
    seed: u64,
    ops: u64,
    until: Instant,
    pairs: u64,
    /// Whether the oracle serves the v2 API.
    with_v2: bool,
}

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}: give a number")))
}

impl Bounds {
    fn read(version: &str) -> Self {
        let day = 24 * 60 * 60;
        let ops = setting("PROA_FUZZ_OPS");
        let seconds = setting("PROA_FUZZ_SECONDS").unwrap_or(if ops.is_some() { day } else { 20 });
        Self {
            seed: setting("PROA_FUZZ_SEED").unwrap_or_else(|| RandomState::new().hash_one("seed") >> 16),
            ops: ops.unwrap_or(u64::MAX),
            until: Instant::now() + Duration::from_secs(seconds),
            pairs: setting("PROA_FUZZ_PAIRS").unwrap_or(4).max(1),
            with_v2: version == "3.4",
        }
    }
}

/// What went wrong in a pair: the stream until there, and its seed.
struct Found {
    seed: u64,
    ops: Vec<Op>,
    difference: Difference,
    stderr: String,
}

/// Memory, when there is room for it, so that no fsync is waited for; both
/// stores gain alike.
fn data_folder() -> PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() }
}

/// One pair from its start to a difference or its end.
async fn run_pair(oracle: &Path, seed: u64, bounds: &Bounds, sent: &AtomicU64) -> Result<Tally, Box<Found>> {
    let mut draw = Draw::new(seed, bounds.with_v2);
    let mut pair = Pair::start(oracle, &data_folder()).await;
    let mut ops = Vec::new();
    loop {
        let from = ops.len();
        ops.extend((0..TURNS_AT_ONCE).flat_map(|_| draw.turn()));
        let mut outcome = pair.run(&ops[from..]).await;
        let count = (ops.len() - from) as u64;
        let all = sent.fetch_add(count, Ordering::Relaxed) + count;
        let done = ops.len() as u64 >= OPS_OF_A_PAIR || all >= bounds.ops || Instant::now() >= bounds.until;
        if done && outcome.is_ok() {
            outcome = pair.finish().await;
        }
        match outcome {
            Err(difference) => {
                return Err(Box::new(Found { seed, ops, difference: *difference, stderr: pair.stderr() }));
            }
            Ok(()) if done => return Ok(pair.tally),
            Ok(()) => {}
        }
    }
}

/// Pairs of one thread, one after the other.
fn run_thread(oracle: &Path, thread: u64, bounds: &Bounds, sent: &AtomicU64) -> Result<Tally, Box<Found>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut tally = Tally::default();
    let mut number = thread;
    while sent.load(Ordering::Relaxed) < bounds.ops && Instant::now() < bounds.until {
        let seed = bounds.seed.wrapping_add(number);
        tally.add(&runtime.block_on(run_pair(oracle, seed, bounds, sent))?);
        number += bounds.pairs;
    }
    Ok(tally)
}

/// Whether a stream shows a difference on fresh stores.
async fn replay(oracle: &Path, ops: Vec<Op>) -> Option<Difference> {
    let mut pair = Pair::start(oracle, &data_folder()).await;
    let difference = match pair.run(&ops).await {
        Ok(()) => pair.finish().await.err(),
        Err(difference) => Some(difference),
    };
    difference.map(|difference| *difference)
}

fn report(oracle: &Path, found: Found) -> String {
    let Found { seed, ops, difference, stderr } = found;
    eprintln!("a difference with PROA_FUZZ_SEED={seed} PROA_FUZZ_PAIRS=1; looking for the shortest stream");
    eprintln!("{difference:#?}\n{stderr}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (ops, difference) = runtime.block_on(shrink::shrink(ops, difference, |ops| replay(oracle, ops)));
    let stream: Vec<String> = ops.iter().map(|op| format!("  {}", op::render(op))).collect();
    format!(
        "{} operations show it:\n{}\n{}\n  etcd: {}\n  Proa: {}",
        ops.len(),
        stream.join("\n"),
        difference.op,
        difference.oracle,
        difference.ours
    )
}

#[test]
fn every_answer_is_the_same_as_etcds() {
    let version = std::env::var("PROA_FUZZ_ORACLE").unwrap_or_else(|_| "3.4".to_owned());
    let (oracle, bounds, sent) = (peer::oracle(&version), Bounds::read(&version), AtomicU64::new(0));
    println!("differential: PROA_FUZZ_SEED={} PROA_FUZZ_PAIRS={}", bounds.seed, bounds.pairs);
    let begun = Instant::now();
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let (oracle, bounds, sent) = (&oracle, &bounds, &sent);
        let threads: Vec<_> =
            (0..bounds.pairs).map(|n| scope.spawn(move || run_thread(oracle, n, bounds, sent))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a thread of pairs")).collect()
    });
    let seconds = begun.elapsed().as_secs_f64();
    let mut tally = Tally::default();
    for outcome in outcomes {
        match outcome {
            Ok(one) => tally.add(&one),
            Err(found) => panic!("{}", report(&oracle, *found)),
        }
    }
    print!("{tally}");
    let operations = tally.operations();
    println!(
        "differential: {operations} operations in {seconds:.0} s ({:.0}/s), 0 differences",
        operations as f64 / seconds
    );
}
