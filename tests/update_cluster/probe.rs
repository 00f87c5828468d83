//! Whether a unit of several instances answers, asked again and again.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use futures_util::future::{join, select_ok};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::background::{Background, Stop};

/// Between two probes.
const PAUSE: Duration = Duration::from_millis(250);

/// How long a probe may take: a machine that is emulated beside others starts a process
/// for each answer.
const LIMIT: Duration = Duration::from_secs(2);

/// The longest answer that is read.
const ANSWER_MAX_BYTES: u64 = 4096;

/// What the probes saw.
#[derive(Default)]
pub struct Report {
    /// How many there were.
    pub probes: usize,
    /// Those that nobody answered.
    pub failed: Vec<String>,
    /// Who answered first how often.
    pub answers: BTreeMap<String, usize>,
    /// The longest time to an answer, and when it came.
    pub slowest: (Duration, Duration),
}

/// Starts probes of all `ports` of this host: one answer is enough. Times of the report
/// are counted from `start`.
pub fn start(ports: Vec<u16>, start: Instant) -> Background<Report> {
    Background::start(move |stop| run(ports, start, stop))
}

async fn run(ports: Vec<u16>, start: Instant, stop: Stop) -> Report {
    let mut report = Report::default();
    while !stop.is_told() {
        let begun = Instant::now();
        let all = select_ok(ports.iter().map(|port| Box::pin(ask(*port))));
        let (answer, ()) = join(timeout(LIMIT, all), sleep(PAUSE)).await;
        report.probes += 1;
        let at = start.elapsed();
        match answer {
            Ok(Ok(((name, took), _))) => {
                report.slowest = report.slowest.max((took, at));
                *report.answers.entry(name).or_default() += 1;
            }
            Ok(Err(error)) => report.failed.push(format!("{:.1} s: {error}", at.as_secs_f64())),
            Err(_) => report.failed.push(format!(
                "{:.1} s: no answer since {:?}",
                at.as_secs_f64(),
                begun.elapsed()
            )),
        }
    }
    report
}

/// What the unit behind a port of this host says by HTTP, and how long it took.
async fn ask(port: u16) -> Result<(String, Duration), String> {
    let begun = Instant::now();
    let mut answer = String::new();
    let mut exchange = async || {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
        stream.take(ANSWER_MAX_BYTES).read_to_string(&mut answer).await
    };
    exchange().await.map_err(|error| error.to_string())?;
    let is_good = answer.split(' ').nth(1) == Some("200");
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.trim());
    match body.filter(|_| is_good) {
        Some(name) if !name.is_empty() => Ok((name.to_owned(), begun.elapsed())),
        Some(_) | None => Err(format!("the answer is {answer:?}")),
    }
}

/// What the unit behind each port says at the moment, of those that answer.
pub fn ask_each(ports: &[u16]) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let one = |port: &u16| timeout(LIMIT, ask(*port));
    let answers = runtime.block_on(async { futures_util::future::join_all(ports.iter().map(one)).await });
    let mut names: Vec<String> =
        answers.into_iter().filter_map(|answer| Some(answer.ok()?.ok()?.0)).collect();
    names.sort();
    names
}
