//! Calls of clients: how many, of what, how they ended.
//!
//! Source: go-grpc-prometheus, whose names etcd has.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::LazyLock;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, Response};
use hyper::body::{Frame, SizeHint};
use proa_etcd_api::descriptor::{RPCS, Rpc};
use tonic::body::Body;
use tonic::{Code, Status};

use super::text::{Text, label};
use super::{Detail, Histogram, METRICS, add};

/// Names of the codes, in the order of their numbers. Source: Go's `codes.Code`.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// One RPC's counts.
pub struct Counts {
    rpc: &'static Rpc,
    started: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    /// By code.
    handled: [AtomicU64; CODES.len()],
    took: Histogram,
}

/// By path.
static COUNTS: LazyLock<HashMap<String, Counts>> = LazyLock::new(|| {
    let counts = |rpc: &'static Rpc| Counts {
        rpc,
        started: AtomicU64::new(0),
        received: AtomicU64::new(0),
        sent: AtomicU64::new(0),
        handled: [const { AtomicU64::new(0) }; CODES.len()],
        took: Histogram::empty(),
    };
    RPCS.iter().map(|rpc| (format!("/{}/{}", rpc.service, rpc.method), counts(rpc))).collect()
});

/// A call that goes on; dropped without an end it was cancelled.
pub struct Call {
    counts: &'static Counts,
    begun: Instant,
    is_over: bool,
}

impl Call {
    /// A call of a known RPC begins.
    pub fn begin(path: &str, headers: &HeaderMap) -> Option<Self> {
        let counts = COUNTS.get(path)?;
        add(&counts.started);
        METRICS.versions.count(headers, counts.rpc.client_streams || counts.rpc.server_streams);
        Some(Self { counts, begun: Instant::now(), is_over: false })
    }

    /// What the answer is counted by.
    pub fn count_sent(mut self, response: Response<Body>) -> Response<Body> {
        self.look(response.headers());
        response.map(|body| {
            Body::new(Counted { inner: body, messages: MessageCounter::default(), side: Side::Sent(self) })
        })
    }

    /// What a request of this call is counted by.
    pub fn counts(&self) -> &'static Counts {
        self.counts
    }

    /// The call ends with the status in headers or trailers, if there is one.
    fn look(&mut self, headers: &HeaderMap) {
        if let Some(status) = Status::from_header_map(headers) {
            self.end(status.code());
        }
    }

    fn end(&mut self, code: Code) {
        if !std::mem::replace(&mut self.is_over, true) {
            let number = usize::try_from(code as i32).unwrap_or(0);
            add(&self.counts.handled[number]);
            self.counts.took.observe(self.begun.elapsed());
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

/// A request body that is counted.
pub fn count_received(counts: &'static Counts, body: Body) -> Body {
    Body::new(Counted { inner: body, messages: MessageCounter::default(), side: Side::Received(counts) })
}

struct Counted {
    inner: Body,
    messages: MessageCounter,
    side: Side,
}

enum Side {
    Received(&'static Counts),
    Sent(Call),
}

impl hyper::body::Body for Counted {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let next = ready!(Pin::new(&mut self.inner).poll_frame(context));
        let this = &mut *self;
        match (&next, &mut this.side) {
            (Some(Ok(frame)), side) => {
                if let Some(data) = frame.data_ref() {
                    let messages = this.messages.feed(data);
                    let (count, bytes) = match side {
                        Side::Received(counts) => (&counts.received, &METRICS.client_received_bytes),
                        Side::Sent(call) => (&call.counts.sent, &METRICS.client_sent_bytes),
                    };
                    count.fetch_add(messages, Relaxed);
                    bytes.fetch_add(data.len() as u64, Relaxed);
                } else if let (Some(trailers), Side::Sent(call)) = (frame.trailers_ref(), side) {
                    call.look(trailers);
                }
            }
            (Some(Err(status)), Side::Sent(call)) => call.end(status.code()),
            (Some(Err(_)), Side::Received(_)) | (None, _) => {}
        }
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Counts the messages of a stream as their first bytes pass: each is preceded
/// by a flag and its length in four bytes.
#[derive(Default)]
struct MessageCounter {
    prefix: [u8; 5],
    /// How much of `prefix` is there.
    held: usize,
    /// Bytes of a message that are still to come.
    left: usize,
}

impl MessageCounter {
    fn feed(&mut self, mut bytes: &[u8]) -> u64 {
        let mut messages = 0;
        while !bytes.is_empty() {
            let wanted = if self.left > 0 { self.left } else { self.prefix.len() - self.held };
            let (taken, rest) = bytes.split_at(wanted.min(bytes.len()));
            bytes = rest;
            if self.left > 0 {
                self.left -= taken.len();
                continue;
            }
            self.prefix[self.held..self.held + taken.len()].copy_from_slice(taken);
            self.held += taken.len();
            if self.held == self.prefix.len() {
                let [_, a, b, c, d] = self.prefix;
                self.left = u32::from_be_bytes([a, b, c, d]) as usize;
                self.held = 0;
                messages += 1;
            }
        }
        messages
    }
}

/// Writes all of it; how long calls took only for `--metrics=extensive`.
pub fn render(text: &mut Text, detail: Detail) {
    let mut all: Vec<(&String, &Counts)> = COUNTS.iter().collect();
    all.sort_by_key(|(path, _)| *path);
    let all: Vec<(String, &Counts)> = all.iter().map(|(_, counts)| (labels(counts.rpc), *counts)).collect();
    let mut family = |name, help, of: fn(&Counts) -> &AtomicU64| {
        text.begin(name, "counter", help);
        for (labels, counts) in &all {
            text.value(labels, of(counts).load(Relaxed));
        }
    };
    family("grpc_server_started_total", "Calls begun.", |counts| &counts.started);
    family("grpc_server_msg_received_total", "Messages received.", |counts| &counts.received);
    family("grpc_server_msg_sent_total", "Messages sent.", |counts| &counts.sent);
    text.begin("grpc_server_handled_total", "counter", "Calls ended, by status.");
    for (labels, counts) in &all {
        for (code, count) in CODES.iter().zip(&counts.handled) {
            let count = count.load(Relaxed);
            // Most of them never happen.
            if count > 0 || *code == "OK" {
                text.value(&format!("{},{labels}", label("grpc_code", code)), count);
            }
        }
    }
    if detail == Detail::Extensive {
        text.begin("grpc_server_handling_seconds", "histogram", "How long calls took.");
        for (labels, counts) in &all {
            text.buckets(labels, &counts.took);
        }
    }
}

fn labels(rpc: &Rpc) -> String {
    let kind = match (rpc.client_streams, rpc.server_streams) {
        (false, false) => "unary",
        (true, false) => "client_stream",
        (false, true) => "server_stream",
        (true, true) => "bidi_stream",
    };
    [label("grpc_method", rpc.method), label("grpc_service", rpc.service), label("grpc_type", kind)].join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_however_they_arrive() {
        let wire = b"\0\0\0\0\x03abc\0\0\0\0\0\x01\0\0\0\x01x";
        for size in 1..=wire.len() {
            let mut counter = MessageCounter::default();
            let sum: u64 = wire.chunks(size).map(|piece| counter.feed(piece)).sum();
            assert_eq!(sum, 3, "in pieces of {size}");
        }
    }

    #[test]
    fn a_call_ends_once() {
        let path = "/etcdserverpb.Maintenance/MoveLeader";
        let handled = |code: Code| COUNTS[path].handled[code as usize].load(Relaxed);
        let call = Call::begin(path, &HeaderMap::new()).expect("an RPC");
        let refused = call.count_sent(Status::not_found("x").into_http());
        assert_eq!(handled(Code::NotFound), 1);
        drop(refused);
        assert_eq!(handled(Code::Cancelled), 0);
        drop(Call::begin(path, &HeaderMap::new()));
        assert_eq!(handled(Code::Cancelled), 1);
        assert_eq!(COUNTS[path].started.load(Relaxed), 2);
        assert!(Call::begin("/etcdserverpb.KV/Nope", &HeaderMap::new()).is_none());
    }
}
