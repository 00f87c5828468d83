//! The load: a fixed number of clients, each with one request at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use proa_etcd_client::Client;
use proa_etcd_client::api::etcdserverpb::{PutRequest, RangeRequest};

/// Clients that share one connection, as in a program with several threads.
const CLIENTS_A_CONNECTION: usize = 8;
/// Size of the values in bytes.
const VALUE_BYTES: usize = 256;
/// Different keys that are read and written.
const KEYS: u64 = 10_000;

/// What every client does again and again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Writes one of the keys.
    Put,
    /// Writes a key that nobody wrote before.
    PutNew,
    /// Reads one of the keys, linearizably.
    Get,
}

/// How long a load runs.
#[derive(Clone, Copy)]
pub enum Until {
    /// This time has passed.
    Elapsed(Duration),
    /// This many requests were made.
    Requests(u64),
}

/// What a load met.
pub struct Measured {
    /// Requests a second.
    pub rate: f64,
    /// Requests altogether.
    pub requests: u64,
    latencies_us: Vec<u32>,
}

impl Measured {
    /// A quantile of the latencies in milliseconds.
    pub fn quantile_ms(&self, quantile: f64) -> f64 {
        let last = self.latencies_us.len().saturating_sub(1);
        let place = (last as f64 * quantile).round() as usize;
        self.latencies_us.get(place).map_or(0.0, |us| f64::from(*us) / 1000.0)
    }
}

/// Runs `work` with `clients` clients spread over the members at `urls`.
///
/// # Panics
/// If a request fails: what fails fast would look fast.
pub async fn run(urls: &[String], clients: usize, work: Work, until: Until) -> Measured {
    let connections: Vec<Client> = (0..clients.div_ceil(CLIENTS_A_CONNECTION))
        .map(|number| {
            let url = &urls[number % urls.len()];
            Client::connect(std::slice::from_ref(url)).expect("a URL made here")
        })
        .collect();
    let made = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let tasks: Vec<_> = (0..clients)
        .map(|number| {
            let client = connections[number % connections.len()].clone();
            tokio::spawn(one_client(client, number as u64, work, until, begun, Arc::clone(&made)))
        })
        .collect();
    let mut latencies_us = Vec::new();
    for task in tasks {
        latencies_us.extend(task.await.expect("a client that did not panic"));
    }
    let elapsed_s = begun.elapsed().as_secs_f64();
    latencies_us.sort_unstable();
    let requests = latencies_us.len() as u64;
    Measured { rate: requests as f64 / elapsed_s, requests, latencies_us }
}

async fn one_client(
    client: Client,
    number: u64,
    work: Work,
    until: Until,
    begun: Instant,
    made: Arc<AtomicU64>,
) -> Vec<u32> {
    let value = bytes::Bytes::from(vec![b'v'; VALUE_BYTES]);
    let mut random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut latencies_us = Vec::new();
    loop {
        let request = made.fetch_add(1, Ordering::Relaxed);
        let is_over = match until {
            Until::Elapsed(limit) => begun.elapsed() >= limit,
            Until::Requests(limit) => request >= limit,
        };
        if is_over {
            return latencies_us;
        }
        random = xorshift(random);
        let key = match work {
            Work::Put | Work::Get => format!("bench/{:08}", random % KEYS),
            Work::PutNew => format!("bench/new/{request:012}"),
        };
        let asked = Instant::now();
        match work {
            Work::Put | Work::PutNew => {
                let request = PutRequest { key: key.into(), value: value.clone(), ..PutRequest::default() };
                drop(client.put(request).await.expect("a put"));
            }
            Work::Get => {
                let request = RangeRequest { key: key.into(), ..RangeRequest::default() };
                drop(client.range(request).await.expect("a read"));
            }
        }
        latencies_us.push(u32::try_from(asked.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
}

/// Source: Marsaglia, "Xorshift RNGs" (2003); which keys are chosen matters little.
fn xorshift(mut word: u64) -> u64 {
    word ^= word << 13;
    word ^= word >> 7;
    word ^= word << 17;
    word
}
