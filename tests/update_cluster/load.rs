//! Clients of the store that write and read through every member all the while.
//!
//! Each writes a key, and then reads it by a linearizable read through another member.
//! A request that a member does not answer is sent once more, to the one of the others
//! that has answered last; the silent one is left alone until it answers a look, as
//! balancers do.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    time::{Duration, Instant},
};

use futures_util::future::{join, join_all};
use proa_etcd_client::{
    Client, Error,
    api::etcdserverpb::{PutRequest, RangeRequest},
};
use tokio::time::{sleep, timeout};

use crate::background::{Background, Stop};

/// Clients that ask at the same time.
const CLIENTS: usize = 3;

/// How long the first member may take: with the second one's usual answer it stays
/// below the longest gap that is allowed.
const FIRST: Duration = Duration::from_millis(500);

/// How long the second one may take before the request has failed.
const SECOND: Duration = Duration::from_secs(5);

/// Between two requests of a client; emulated machines have other work to do.
const PAUSE: Duration = Duration::from_millis(50);

/// Between two looks at members that did not answer.
const LOOK: Duration = Duration::from_millis(500);

/// What the clients saw.
#[derive(Default)]
pub struct Report {
    /// Every key whose put was acknowledged, with its value.
    pub acknowledged: BTreeMap<String, String>,
    /// Reads that were answered.
    pub reads: usize,
    /// Requests by the member that answered.
    pub answered_by: Vec<usize>,
    /// Why requests were sent a second time.
    pub retried: Vec<String>,
    /// Requests that the second member did not answer either, and wrong answers.
    pub failed: Vec<String>,
    /// The longest time between two acknowledged writes of one client, and when it ended.
    pub longest_gap: (Duration, Duration),
}

struct Load {
    urls: Vec<String>,
    clients: Vec<RefCell<Client>>,
    is_well: Vec<Cell<bool>>,
    answered: Vec<Cell<Instant>>,
    start: Instant,
    report: RefCell<Report>,
    stop: Stop,
}

/// Starts the clients. Times of the report are counted from `start`.
pub fn start(urls: Vec<String>, start: Instant) -> Background<Report> {
    Background::start(move |stop| run(urls, start, stop))
}

fn connect(url: &str) -> Client {
    Client::connect(&[url.to_owned()]).unwrap()
}

async fn run(urls: Vec<String>, start: Instant, stop: Stop) -> Report {
    let load = Load {
        clients: urls.iter().map(|url| RefCell::new(connect(url))).collect(),
        is_well: urls.iter().map(|_| Cell::new(true)).collect(),
        answered: urls.iter().map(|_| Cell::new(start)).collect(),
        start,
        report: RefCell::new(Report { answered_by: vec![0; urls.len()], ..Report::default() }),
        stop,
        urls,
    };
    let clients = join_all((0..CLIENTS).map(|client| load.work(client)));
    let looks = join_all((0..load.urls.len()).map(|member| load.look_after(member)));
    join(clients, looks).await;
    load.report.into_inner()
}

impl Load {
    /// One client: writes and reads in turn, each through the next member.
    async fn work(&self, client: usize) {
        let mut last = Instant::now();
        let mut number = 0;
        while !self.stop.is_told() {
            let (key, value) = (format!("load/{client}/{number:06}"), format!("value {number}"));
            // Each key is written once: a first put that arrives late changes nothing.
            let put =
                PutRequest { key: key.clone().into(), value: value.clone().into(), ..PutRequest::default() };
            let turn = client + 2 * number;
            let put = self.ask(turn, format!("put {key}"), async |client| client.put(put.clone()).await);
            let is_acknowledged = put.await.is_some();
            if is_acknowledged {
                self.note_gap(last);
                last = Instant::now();
                self.report.borrow_mut().acknowledged.insert(key.clone(), value.clone());
            }
            sleep(PAUSE).await;
            let get = RangeRequest { key: key.clone().into(), ..RangeRequest::default() };
            let get =
                self.ask(turn + 1, format!("get {key}"), async |client| client.range(get.clone()).await);
            if let Some(answer) = get.await {
                let read = answer.kvs.first().map(|pair| String::from_utf8_lossy(&pair.value).into_owned());
                let mut report = self.report.borrow_mut();
                report.reads += 1;
                if is_acknowledged && read.as_ref() != Some(&value) {
                    report.failed.push(format!("get {key}: {read:?} after an acknowledged {value:?}"));
                }
            }
            sleep(PAUSE).await;
            number += 1;
        }
        self.note_gap(last);
    }

    fn note_gap(&self, last: Instant) {
        let gap = (last.elapsed(), self.start.elapsed());
        let longest = &mut self.report.borrow_mut().longest_gap;
        *longest = gap.max(*longest);
    }

    /// Asks a member, and where it does not answer once another one.
    async fn ask<T>(
        &self,
        turn: usize,
        what: String,
        send: impl AsyncFn(Client) -> Result<T, Error>,
    ) -> Option<T> {
        let first = self.first(turn);
        let why = match self.ask_member(first, FIRST, &send).await {
            Ok(answer) => return Some(answer),
            Err(why) => why,
        };
        self.is_well[first].set(false);
        let second = self.second(first);
        let line = format!(
            "{:.1} s: {what}: machine-{}: {why}; then machine-{}",
            self.start.elapsed().as_secs_f64(),
            first + 1,
            second + 1
        );
        match self.ask_member(second, SECOND, &send).await {
            Ok(answer) => {
                self.report.borrow_mut().retried.push(line);
                Some(answer)
            }
            Err(why) => {
                self.report.borrow_mut().failed.push(format!("{line}: {why}"));
                None
            }
        }
    }

    async fn ask_member<T>(
        &self,
        member: usize,
        limit: Duration,
        send: &impl AsyncFn(Client) -> Result<T, Error>,
    ) -> Result<T, String> {
        let client = self.clients[member].borrow().clone();
        match timeout(limit, send(client)).await {
            Ok(Ok(answer)) => {
                self.report.borrow_mut().answered_by[member] += 1;
                self.answered[member].set(Instant::now());
                Ok(answer)
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer in {limit:?}")),
        }
    }

    /// The next member that is well, or just the next one.
    fn first(&self, turn: usize) -> usize {
        let count = self.urls.len();
        let mut members = (turn..turn + count).map(|member| member % count);
        members.find(|member| self.is_well[*member].get()).unwrap_or(turn % count)
    }

    /// The member beside `first` that has answered last.
    fn second(&self, first: usize) -> usize {
        let others = (0..self.urls.len()).filter(|member| *member != first);
        others.max_by_key(|member| self.answered[*member].get()).expect("three members")
    }

    /// Looks for a member that did not answer until it does. On a new connection each
    /// time: one that was begun while its machine was down may hang for a minute.
    async fn look_after(&self, member: usize) {
        while !self.stop.is_told() {
            sleep(LOOK).await;
            if self.is_well[member].get() {
                continue;
            }
            let client = connect(&self.urls[member]);
            let get = RangeRequest { key: "load/look".into(), ..RangeRequest::default() };
            if let Ok(Ok(_)) = timeout(FIRST, client.range(get)).await {
                self.clients[member].replace(client);
                self.answered[member].set(Instant::now());
                self.is_well[member].set(true);
            }
        }
    }
}
