//! `check perf` and `check datascale`: whether a cluster is up to a load.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant, SystemTime};

use proa_etcd_client::api::etcdserverpb::{
    CompactionRequest, DefragmentRequest, DeleteRangeRequest, PutRequest, RangeRequest,
};
use proa_etcd_client::prefix_range;
use prost::bytes::Bytes;
use tokio::sync::{Mutex, mpsc};

use super::args::{Args, Flag, switch, value};
use super::failure::Failure;
use super::http::{self, Ask};
use super::{Context, emit, endpoints};

pub const PERF: &[Flag] = &[
    value("load", "s, m, l or xl: how much (default s)"),
    value("prefix", "where the keys go (default /etcdctl-check-perf/)"),
    switch("auto-compact", "compact afterwards"),
    switch("auto-defrag", "defragment afterwards"),
];
pub const DATASCALE: &[Flag] = &[
    value("load", "s, m, l or xl: how much (default s)"),
    value("prefix", "where the keys go (default /etcdctl-check-datascale/)"),
    switch("auto-compact", "compact afterwards"),
    switch("auto-defrag", "defragment afterwards"),
];

/// How long `check perf` writes.
const PERF_TIME: Duration = Duration::from_secs(60);
/// What a write of `check perf` may take, and how much writes may differ.
const SLOWEST: Duration = Duration::from_millis(500);
const DEVIATION: Duration = Duration::from_millis(100);
/// Share of the wanted rate that passes.
const ENOUGH: f64 = 0.9;
/// Answers that wait to be counted.
const QUEUE: usize = 1024;

/// One load: writes a second (or in all), and who makes them.
#[derive(Clone, Copy)]
struct Load {
    writes: u32,
    clients: usize,
}

/// Source: etcdctl's `checkPerfCfgMap`.
fn perf_load(name: &str) -> Option<Load> {
    let (writes, clients) = match name {
        "s" | "small" => (150, 50),
        "m" | "medium" => (1_000, 200),
        "l" | "large" => (8_000, 500),
        "xl" | "xLarge" => (15_000, 1_000),
        _ => return None,
    };
    Some(Load { writes, clients })
}

/// Source: etcdctl's `checkDatascaleCfgMap`.
fn datascale_load(name: &str) -> Option<Load> {
    let (writes, clients) = match name {
        "s" | "small" => (10_000, 50),
        "m" | "medium" => (100_000, 200),
        "l" | "large" => (1_000_000, 500),
        "xl" | "xLarge" => (3_000_000, 1_000),
        _ => return None,
    };
    Some(Load { writes, clients })
}

fn load(args: &Args, read: fn(&str) -> Option<Load>) -> Result<Load, Failure> {
    let name = args.get("load").unwrap_or("s");
    read(name).ok_or_else(|| Failure::feature(format!("unknown load option {name}")))
}

/// One write as it went.
struct Outcome {
    took: Duration,
    error: Option<String>,
}

/// All writes of a run.
#[derive(Default)]
struct Tally {
    count: u32,
    sum_s: f64,
    square_sum: f64,
    slowest: Duration,
    errors: BTreeMap<String, u32>,
}

impl Tally {
    fn add(&mut self, outcome: Outcome) {
        if let Some(error) = outcome.error {
            *self.errors.entry(error).or_default() += 1;
            return;
        }
        let seconds = outcome.took.as_secs_f64();
        self.count += 1;
        self.sum_s += seconds;
        self.square_sum += seconds * seconds;
        self.slowest = self.slowest.max(outcome.took);
    }

    fn deviation_s(&self) -> f64 {
        let count = f64::from(self.count.max(1));
        let mean = self.sum_s / count;
        (self.square_sum / count - mean * mean).max(0.0).sqrt()
    }

    fn errors(&self) -> String {
        if self.errors.is_empty() {
            return String::new();
        }
        let lines = self.errors.iter().map(|(error, count)| format!("FAIL: ERROR({error}) -> {count}\n"));
        "FAIL: too many errors\n".to_owned() + &lines.collect::<String>()
    }
}

/// The verdict on `check perf`, and whether it passes.
fn verdict(tally: &Tally, wanted: u32, took: Duration) -> (String, bool) {
    let mut text = tally.errors();
    let mut passes = text.is_empty();
    let mut say = |good: bool, pass: String, fail: String| {
        passes &= good;
        text += &if good { format!("PASS: {pass}\n") } else { fail };
    };
    let rate = f64::from(tally.count) / took.as_secs_f64().max(f64::EPSILON);
    let whole = rate as u64 + 1;
    say(
        rate / f64::from(wanted) > ENOUGH,
        format!("Throughput is {whole} writes/s"),
        format!("FAIL: Throughput too low: {whole} writes/s\n"),
    );
    let slowest = tally.slowest.as_secs_f64();
    say(
        tally.slowest <= SLOWEST,
        format!("Slowest request took {slowest:.6}s"),
        format!("Slowest request took too long: {slowest:.6}s\n"),
    );
    let deviation = tally.deviation_s();
    say(
        deviation <= DEVIATION.as_secs_f64(),
        format!("Stddev is {deviation:.6}s"),
        format!("Stddev too high: {deviation:.6}s\n"),
    );
    text += if passes { "PASS\n" } else { "FAIL\n" };
    (text, passes)
}

/// Where keys of a check go; refused when there are some already.
async fn free_prefix(context: &Context, usual: &str) -> Result<String, Failure> {
    let prefix = context.args.get("prefix").unwrap_or(usual).to_owned();
    let (key, range_end) = prefix_range(prefix.as_bytes());
    let request = RangeRequest { key, range_end, limit: 1, ..RangeRequest::default() };
    if !context.client.range(request).await?.kvs.is_empty() {
        return Err(Failure::input(format!(
            "prefix {prefix:?} has keys. Delete with etcdctl del --prefix {prefix} first"
        )));
    }
    Ok(prefix)
}

/// A key that no other write of the run has: the prefix, random digits, and
/// zeros up to `size_bytes`.
struct Keys {
    prefix: String,
    size_bytes: usize,
    state: u64,
}

impl Keys {
    fn new(prefix: String, size_bytes: usize) -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { prefix, size_bytes, state: now.as_nanos() as u64 | 1 }
    }

    fn next(&mut self) -> Bytes {
        // Source: Marsaglia, "Xorshift RNGs"; never 0 and never twice in 2^64 - 1 steps.
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        let mut key = format!("{}{:016x}", self.prefix, self.state).into_bytes();
        key.resize(self.prefix.len() + self.size_bytes, 0);
        key.into()
    }
}

/// Writes whatever comes, each of `count` clients one at a time.
fn start_writers(
    context: &Context,
    count: usize,
    value: &Bytes,
) -> Result<(mpsc::Sender<Bytes>, mpsc::Receiver<Outcome>), Failure> {
    let (keys, waiting) = mpsc::channel::<Bytes>(count);
    let (done, outcomes) = mpsc::channel(QUEUE);
    let waiting = std::sync::Arc::new(Mutex::new(waiting));
    for _ in 0..count {
        let client = context.connect(&context.endpoints)?;
        let (waiting, done, value) = (waiting.clone(), done.clone(), value.clone());
        tokio::spawn(async move {
            loop {
                let key = waiting.lock().await.recv().await;
                let Some(key) = key else { return };
                let begun = Instant::now();
                let request = PutRequest { key, value: value.clone(), ..PutRequest::default() };
                let error = client.put(request).await.err().map(|error| error.to_string());
                if done.send(Outcome { took: begun.elapsed(), error }).await.is_err() {
                    return;
                }
            }
        });
    }
    Ok((keys, outcomes))
}

/// A line that grows, for people who wait.
fn progress(done: u64, whole: u64, unit: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("\r{done} / {whole} {unit}{}", if done >= whole { "\n" } else { "" });
    }
}

pub async fn perf(context: &Context) -> Result<(), Failure> {
    let load = load(&context.args, perf_load)?;
    let prefix = free_prefix(context, "/etcdctl-check-perf/").await?;
    let value = Bytes::from(vec![0; 1024]);
    let (keys, mut outcomes) = start_writers(context, load.clients, &value)?;
    let begun = Instant::now();
    let mut source = Keys::new(prefix.clone(), 256);
    let pace = async move {
        let mut due = tokio::time::interval(Duration::from_secs(1) / load.writes);
        // The timer's steps are a millisecond: what falls between two is due at once.
        due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
        let mut seconds = 0;
        while begun.elapsed() < PERF_TIME {
            due.tick().await;
            if keys.send(source.next()).await.is_err() {
                return;
            }
            if begun.elapsed().as_secs() > seconds {
                seconds = begun.elapsed().as_secs();
                progress(seconds, PERF_TIME.as_secs(), "s");
            }
        }
    };
    let count = async {
        let mut tally = Tally::default();
        while let Some(outcome) = outcomes.recv().await {
            tally.add(outcome);
        }
        tally
    };
    let ((), tally) = tokio::join!(pace, count);
    let took = begun.elapsed();
    clean(context, &prefix).await?;
    let (text, passes) = verdict(&tally, load.writes, took);
    emit(&text);
    if passes { Ok(()) } else { Err(Failure::said()) }
}

/// Deletes what the check wrote, and gives its space back if asked to.
async fn clean(context: &Context, prefix: &str) -> Result<(), Failure> {
    let (key, range_end) = prefix_range(prefix.as_bytes());
    let answer = context.client.delete_range(DeleteRangeRequest { key, range_end, prev_kv: false }).await?;
    if context.args.is_on("auto-compact") {
        let revision = answer.header.map_or(0, |header| header.revision);
        emit(&format!("Compacting with revision {revision}\n"));
        context.client.compact(CompactionRequest { revision, physical: true }).await?;
        emit(&format!("Compacted with revision {revision}\n"));
    }
    if context.args.is_on("auto-defrag") {
        for endpoint in &context.endpoints {
            emit(&format!("Defragmenting {endpoint:?}\n"));
            endpoints::one(context, endpoint)?.defragment(DefragmentRequest {}).await?;
            emit(&format!("Defragmented {endpoint:?}\n"));
        }
    }
    Ok(())
}

pub async fn datascale(context: &Context) -> Result<(), Failure> {
    let load = load(&context.args, datascale_load)?;
    let prefix = free_prefix(context, "/etcdctl-check-datascale/").await?;
    let before = resident_bytes(context, "before").await?;
    emit(&format!(
        "Start data scale check for work load [{} key-value pairs, 1024 bytes per key-value, {} concurrent clients].\n",
        load.writes, load.clients
    ));
    let value = Bytes::from(vec![0; 512]);
    let (keys, mut outcomes) = start_writers(context, load.clients, &value)?;
    let mut source = Keys::new(prefix.clone(), 512);
    let feed = async move {
        for _ in 0..load.writes {
            if keys.send(source.next()).await.is_err() {
                return;
            }
        }
    };
    let count = async {
        let mut tally = Tally::default();
        let mut done: u32 = 0;
        while let Some(outcome) = outcomes.recv().await {
            tally.add(outcome);
            done += 1;
            if done.is_multiple_of(load.writes / 100) {
                progress(done.into(), load.writes.into(), "writes");
            }
        }
        tally
    };
    let ((), tally) = tokio::join!(feed, count);
    let after = resident_bytes(context, "after").await?;
    clean(context, &prefix).await?;
    let errors = tally.errors();
    if !errors.is_empty() {
        emit(&errors);
        return Err(Failure::said());
    }
    let used_mib = (after - before) / f64::from(1 << 20);
    emit(&format!("PASS: Approximate system memory used : {used_mib:.2} MB.\n"));
    Ok(())
}

/// What the first endpoint says of its memory.
async fn resident_bytes(context: &Context, when: &str) -> Result<f64, Failure> {
    let endpoint = context.endpoints.first().map_or("", String::as_str);
    let scheme = if context.tls.is_some() { "https" } else { "http" };
    let base = if endpoint.contains("://") { endpoint.to_owned() } else { format!("{scheme}://{endpoint}") };
    let ask = Ask { tls: context.tls.clone().unwrap_or_default(), ..Ask::get(&base, "/metrics") };
    let why = match http::ask(&ask, context.timeouts.request).await {
        Ok(answer) => match resident_in(&String::from_utf8_lossy(&answer.body)) {
            Some(bytes) => return Ok(bytes),
            None => "could not find: process_resident_memory_bytes".to_owned(),
        },
        Err(error) => format!("fetch error: {error}"),
    };
    emit(&format!("{why}\nFAIL: Could not read process_resident_memory_bytes {when} the put operations.\n"));
    Err(Failure::said())
}

fn resident_in(metrics: &str) -> Option<f64> {
    let value = |line: &str| line.strip_prefix("process_resident_memory_bytes ")?.trim().parse().ok();
    metrics.lines().find_map(value).filter(|bytes| *bytes > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(count: u32, took_ms: u64, slowest_ms: u64) -> Tally {
        let mut tally = Tally::default();
        (1..count).for_each(|_| tally.add(Outcome { took: Duration::from_millis(took_ms), error: None }));
        tally.add(Outcome { took: Duration::from_millis(slowest_ms), error: None });
        tally
    }

    #[test]
    fn each_bar_of_the_performance_check_counts() {
        let minute = Duration::from_secs(60);
        let good = tally(9_000, 5, 20);
        let want = "PASS: Throughput is 151 writes/s\nPASS: Slowest request took 0.020000s\nPASS: Stddev is 0.000158s\nPASS\n";
        assert_eq!(verdict(&good, 150, minute), (want.to_owned(), true));
        let slow = tally(8_000, 5, 20);
        let (text, passes) = verdict(&slow, 150, minute);
        assert!(!passes && text.starts_with("FAIL: Throughput too low: 134 writes/s\n"), "{text}");
        let (text, passes) = verdict(&tally(9_000, 5, 501), 150, minute);
        assert!(!passes && text.contains("Slowest request took too long: 0.501000s\n"), "{text}");
        let mut failed = tally(9_000, 5, 20);
        failed.add(Outcome { took: Duration::ZERO, error: Some("no".to_owned()) });
        let (text, passes) = verdict(&failed, 150, minute);
        assert!(!passes && text.starts_with("FAIL: too many errors\nFAIL: ERROR(no) -> 1\n"), "{text}");
    }

    #[test]
    fn keys_of_a_check_differ_and_have_their_size() {
        let mut keys = Keys::new("/p/".to_owned(), 256);
        let some: std::collections::BTreeSet<Bytes> = (0..1000).map(|_| keys.next()).collect();
        assert_eq!(some.len(), 1000);
        assert!(some.iter().all(|key| key.len() == 259 && key.starts_with(b"/p/")));
    }

    #[test]
    fn memory_is_found_among_the_metrics() {
        let text = "# TYPE process_resident_memory_bytes gauge\nprocess_resident_memory_bytes 2.5e+07\n";
        assert_eq!(resident_in(text), Some(2.5e7));
        assert_eq!(resident_in("up 1\n"), None);
    }
}
