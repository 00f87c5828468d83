//! The v2 API over HTTP: keys, members, machines, statistics, users.
//!
//! What a request means is decided in `proa_etcd_api::v2` and in the store;
//! here are paths, methods and headers, and the clients that wait.

mod auth;
mod body;
mod expiry;
mod hub;
mod keys;
mod members;
mod paths;
mod reply;
mod stats;
mod users;
mod waiting;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::{Method, Request, Response};
use hyper::body::Incoming;
use proa_etcd_api::EtcdError;
use proa_etcd_api::v2::{V2Code, V2Error};
use tonic::body::Body;

use crate::grpc::Front;
use crate::node::{Node, V2Applied};
use hub::Hub;
use reply::not_found;
use stats::{Counters, Since};
use users::Proven;

/// What the v2 API keeps in memory.
pub struct V2 {
    hub: Arc<Hub>,
    counters: Counters,
    proven: Proven,
    since: Arc<Since>,
}

impl V2 {
    /// Starts serving the v2 tree of `node`.
    pub fn start(node: &Node) -> Arc<Self> {
        let v2 = Arc::new(Self {
            hub: Arc::default(),
            counters: Counters::default(),
            proven: Proven::default(),
            since: Since::start(node),
        });
        let told = Arc::clone(&v2);
        node.set_v2_sink(Box::new(move |applied| match applied {
            V2Applied::Write(kind, succeeded) => told.counters.count_write(kind, succeeded),
            V2Applied::Event(event) => {
                told.counters.count_event(&event);
                told.hub.announce(&event);
            }
            V2Applied::Replaced => told.hub.replaced(),
        }));
        tokio::spawn(expiry::run(node.clone()));
        v2
    }
}

/// One request and who is asked.
struct Asked<'a> {
    front: &'a Arc<Front>,
    v2: &'a Arc<V2>,
    method: Method,
    /// Decoded and clean; a slash at the end is kept.
    path: Vec<u8>,
    request: Request<Incoming>,
}

/// Answers one request below `/v2/`.
pub async fn answer(front: &Arc<Front>, request: Request<Incoming>) -> Response<Body> {
    let Some(v2) = &front.v2 else { return not_found() };
    let path = match paths::decode(request.uri()) {
        paths::Decoded::Clean(path) => path,
        paths::Decoded::Elsewhere(location) => return reply::redirect(request.method(), &location),
        paths::Decoded::Broken => return reply::bad_request(),
    };
    let method = request.method().clone();
    route(Asked { front, v2, method, path, request }).await
}

async fn route(asked: Asked<'_>) -> Response<Body> {
    let path = asked.path.as_slice();
    if path == b"/v2/keys" || path.starts_with(b"/v2/keys/") {
        return keys::answer(asked).await;
    }
    if path == b"/v2/members" || path.starts_with(b"/v2/members/") {
        return members::answer(asked).await;
    }
    if path.starts_with(b"/v2/auth/") {
        return auth::answer(asked).await;
    }
    match path {
        b"/v2/machines" => members::machines(&asked),
        b"/v2/stats/store" | b"/v2/stats/self" | b"/v2/stats/leader" => stats::answer(&asked),
        _ => not_found(),
    }
}

/// The wall clock, in nanoseconds since 1970.
fn now_ns() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
}

/// A refusal of the cluster, in the words of v2.
fn internal(error: EtcdError) -> V2Error {
    V2Error::of_request(V2Code::RaftInternal, error.text())
}
