//! The v3 gRPC services over one member.
//!
//! A service checks a request, asks the node or the hub, and fills in the
//! header; what a request means is decided in the store.

mod auth;
mod cluster;
mod election;
mod health;
mod kv;
mod lease;
mod lock;
mod maintenance;
/// The generated service traits.
mod pb;
mod queue;
mod rights;
mod watch;

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, stream};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use proa_etcd_api::EtcdError;
use proa_etcd_api::command::{Command, Requester, command::Op};
use proa_etcd_api::etcdserverpb::ResponseHeader;
use proa_etcd_store::{Need, Reply};
use prost::Message as _;
use tokio::sync::Semaphore;
use tonic::body::Body;
use tonic::codegen::{BoxStream, Service};
use tonic::{Code, Request, Status};

use crate::auth::{Auth, Credentials, OwnConnection};
use crate::ending::{self, Ending};
use crate::lessor::Lessor;
use crate::metrics::{Call, Detail, KeyCount, count_received};
use crate::node::Node;
use crate::space::Space;
use crate::tls::ClientName;
use crate::watch::hub::Hub;
use health::Probes;
use pb::auth_server::AuthServer;
use pb::cluster_server::ClusterServer;
use pb::health::health_server::HealthServer;
use pb::kv_server::KvServer;
use pb::lease_server::LeaseServer;
use pb::maintenance_server::MaintenanceServer;
use pb::v3electionpb::election_server::ElectionServer;
use pb::v3lockpb::lock_server::LockServer;
use pb::watch_server::WatchServer;
use queue::Queues;

/// What a message may have beyond `--max-request-bytes`.
///
/// Source: etcd's `grpcOverheadBytes`.
pub(crate) const OVERHEAD_BYTES: usize = 512 * 1024;

/// Bounds on what clients may ask for.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// `--max-request-bytes`.
    pub request_bytes: usize,
    /// `--max-txn-ops`.
    pub txn_ops: usize,
    /// `--max-concurrent-streams`.
    pub streams: u32,
    /// `--experimental-watch-progress-notify-interval`.
    pub progress_every: Duration,
    /// `--election-timeout` in milliseconds.
    pub election_ms: u64,
    /// `--quota-backend-bytes`.
    pub quota_bytes: u64,
}

/// What all services share.
pub struct Front {
    /// The member.
    pub node: Node,
    /// Its watchers.
    pub hub: Arc<Hub>,
    /// Who asks, and whether they may.
    pub auth: Arc<Auth>,
    /// Its leases' deadlines.
    pub lessor: Arc<Lessor>,
    /// Whether there is room to write.
    pub space: Arc<Space>,
    /// What serves the v2 API; nothing when it is switched off.
    pub v2: Option<Arc<crate::v2::V2>>,
    /// `--enable-grpc-gateway`: whether the v3 API is served in JSON as well.
    pub serves_json: bool,
    /// Bounds on requests.
    pub limits: Limits,
    /// A place for each call that the JSON gateway may have under way: to the services
    /// it is one more connection, with `--max-concurrent-streams` of its own.
    pub json_calls: Arc<Semaphore>,
    /// `--metrics`.
    pub metrics: Detail,
    /// How many keys there are.
    pub keys: Arc<KeyCount>,
    /// Whether the member ends.
    pub ending: Ending,
}

impl Front {
    /// This member's header at `revision`.
    pub fn header(&self, revision: i64) -> ResponseHeader {
        header(&self.node, revision)
    }

    /// `given` with what only the server knows.
    fn complete(&self, given: &mut Option<ResponseHeader>) {
        let revision = given.as_ref().map_or(0, |header| header.revision);
        *given = Some(self.header(revision));
    }

    /// Who sent a request: the first thing that every call asks.
    async fn caller<T: Sync>(&self, request: &Request<T>) -> Result<Requester, Status> {
        if !self.node.is_auth_enabled() {
            return Ok(Requester::default());
        }
        let credentials = Credentials::of(request);
        self.auth.identify(&credentials).await.map_err(refuse)
    }

    /// Lets a caller in as of the newest state; for what reads no keys.
    fn admit_now(&self, by: &Requester, needs: &[Need<'_>]) -> Result<(), Status> {
        self.auth.admit(by, needs, &self.node.view()).map(drop).map_err(refuse)
    }

    /// Checks a command and whether `by` may do it, has it agreed on and
    /// applied, and gives its answer.
    async fn propose(&self, by: &Requester, op: Op) -> Result<Reply, Status> {
        if self.space.is_low() && proa_etcd_store::takes_space(&op) {
            return Err(refuse(EtcdError::NoSpace));
        }
        let command = Command { op: Some(op) };
        proa_etcd_store::check(&command, self.limits.txn_ops).map_err(refuse)?;
        if command.encoded_len() > self.limits.request_bytes {
            return Err(refuse(EtcdError::RequestTooLarge));
        }
        let Some(op) = command.op else { return Ok(Reply::Nothing) };
        self.auth.propose(by, op).await.map_err(refuse)
    }
}

/// The header of an answer of `node` at `revision`.
pub fn header(node: &Node, revision: i64) -> ResponseHeader {
    let status = node.status();
    let status = status.borrow();
    ResponseHeader {
        cluster_id: status.cluster_id,
        member_id: status.member_id,
        revision,
        raft_term: status.term,
    }
}

/// The gRPC status of a refusal.
pub fn refuse(error: EtcdError) -> Status {
    Status::new(Code::from_i32(error.code() as i32), error.text())
}

/// An answer of another kind than its command: the store and this crate are
/// not of one version.
fn unexpected(reply: &Reply) -> Status {
    Status::internal(format!("unexpected answer of the store: {reply:?}"))
}

/// What a member without a vote answers; of ranges only those that may be old.
///
/// Source: etcd's `isRPCSupportedForLearner` and its stream interceptor.
fn serves_as_learner(path: &str) -> bool {
    matches!(
        path,
        "/etcdserverpb.KV/Range" | "/etcdserverpb.Maintenance/Status" | "/etcdserverpb.Maintenance/Snapshot"
    )
}

/// Whether a call's answers go on for as long as its client wants them to.
fn goes_on(path: &str) -> bool {
    matches!(
        path,
        "/etcdserverpb.Watch/Watch"
            | "/etcdserverpb.Lease/LeaseKeepAlive"
            | "/v3electionpb.Election/Observe"
            | "/grpc.health.v1.Health/Watch"
    )
}

/// Whether a call waits for other clients before it is answered.
fn waits_for_others(path: &str) -> bool {
    matches!(path, "/v3lockpb.Lock/Lock" | "/v3electionpb.Election/Campaign")
}

/// Whether who asks would rather hear that there is no leader than wait for one.
///
/// Source: etcd's `rpctypes.MetadataRequireLeaderKey`.
fn needs_leader(headers: &http::HeaderMap) -> bool {
    headers.get("hasleader").is_some_and(|value| value == "true")
}

/// `answers` for a client that wants to hear when there is no leader any more, for
/// `patience`. The end of the answers ends them, though a leader could still be lost.
fn while_led<T: Send + 'static>(
    answers: impl Stream<Item = Result<T, Status>> + Send + 'static,
    node: Node,
    patience: Duration,
) -> BoxStream<T> {
    let lost = stream::once(leader_lost(node, patience)).map(|lost| Some(Err(lost)));
    let answers = answers.map(Some).chain(stream::once(ready(None)));
    let whole = stream::select(answers, lost).take_while(|answer| ready(answer.is_some()));
    Box::pin(whole.filter_map(ready))
}

/// What ends a stream that needs a leader, when there has been none for `patience`.
async fn leader_lost(node: Node, patience: Duration) -> Status {
    let mut status = node.status();
    loop {
        let lost = status.wait_for(|status| status.leader_id == 0).await.is_ok();
        let back = async { status.wait_for(|status| status.leader_id != 0).await.is_ok() };
        if !lost || !matches!(tokio::time::timeout(patience, back).await, Ok(true)) {
            return refuse(EtcdError::NoLeader);
        }
    }
}

/// The services behind one door.
#[derive(Clone)]
pub struct Services {
    front: Arc<Front>,
    kv: KvServer<Front>,
    watch: WatchServer<Front>,
    lease: LeaseServer<Front>,
    cluster: ClusterServer<Front>,
    maintenance: MaintenanceServer<Front>,
    lock: LockServer<Queues>,
    election: ElectionServer<Queues>,
    auth: AuthServer<Front>,
    health: HealthServer<Probes>,
}

impl Services {
    /// All services of `front`.
    pub fn new(front: &Arc<Front>) -> Self {
        let bytes = front.limits.request_bytes + OVERHEAD_BYTES;
        let queues = Arc::new(Queues { front: Arc::clone(front) });
        let shared = Arc::clone(front);
        let front = || Arc::clone(front);
        Self {
            front: shared,
            kv: KvServer::from_arc(front()).max_decoding_message_size(bytes),
            watch: WatchServer::from_arc(front()).max_decoding_message_size(bytes),
            lease: LeaseServer::from_arc(front()).max_decoding_message_size(bytes),
            cluster: ClusterServer::from_arc(front()).max_decoding_message_size(bytes),
            maintenance: MaintenanceServer::from_arc(front()).max_decoding_message_size(bytes),
            lock: LockServer::from_arc(Arc::clone(&queues)).max_decoding_message_size(bytes),
            election: ElectionServer::from_arc(queues).max_decoding_message_size(bytes),
            auth: AuthServer::from_arc(front()).max_decoding_message_size(bytes),
            health: HealthServer::new(Probes),
        }
    }

    /// Answers one gRPC request from the network.
    pub async fn answer(&mut self, request: http::Request<Incoming>) -> http::Response<Body> {
        let status = |error: hyper::Error| Status::internal(error.to_string());
        let mut request = request.map(|body| Body::new(body.map_err(status)));
        // Only what came as gRPC speaks for the connection it came on.
        if let Some(name) = request.extensions_mut().remove::<ClientName>() {
            request.extensions_mut().insert(OwnConnection(name));
        }
        self.call(request).await
    }

    /// Answers one gRPC request, wherever it comes from.
    pub async fn call(&mut self, request: http::Request<Body>) -> http::Response<Body> {
        let Some(call) = Call::begin(request.uri().path(), request.headers()) else {
            return self.dispatch(request).await;
        };
        let counts = call.counts();
        let response = self.dispatch(request.map(|body| count_received(counts, body))).await;
        call.count_sent(response)
    }

    async fn dispatch(&mut self, request: http::Request<Body>) -> http::Response<Body> {
        let ending = self.front.ending.clone();
        if waits_for_others(request.uri().path()) {
            return tokio::select! {
                biased;
                answer = self.ask(request) => answer,
                () = ending.begun() => ending::stopped().into_http(),
            };
        }
        let goes_on = goes_on(request.uri().path());
        let answer = self.ask(request).await;
        if goes_on { answer.map(|answers| ending.cut(answers)) } else { answer }
    }

    async fn ask(&mut self, request: http::Request<Body>) -> http::Response<Body> {
        let service = request.uri().path().split('/').nth(1).unwrap_or_default();
        if self.front.node.status().borrow().is_learner && !serves_as_learner(request.uri().path()) {
            return refuse(EtcdError::NotSupportedForLearner).into_http();
        }
        if needs_leader(request.headers()) && self.front.node.status().borrow().leader_id == 0 {
            return refuse(EtcdError::NoLeader).into_http();
        }
        // The generated services are always ready: no need to ask them.
        let answer = match service {
            "etcdserverpb.KV" => self.kv.call(request).await,
            "etcdserverpb.Watch" => self.watch.call(request).await,
            "etcdserverpb.Lease" => self.lease.call(request).await,
            "etcdserverpb.Cluster" => self.cluster.call(request).await,
            "etcdserverpb.Maintenance" => self.maintenance.call(request).await,
            "v3lockpb.Lock" => self.lock.call(request).await,
            "v3electionpb.Election" => self.election.call(request).await,
            "etcdserverpb.Auth" => self.auth.call(request).await,
            "grpc.health.v1.Health" => self.health.call(request).await,
            _ => Ok(Status::unimplemented(format!("unknown service {service}")).into_http()),
        };
        match answer {
            Ok(answer) => answer,
            Err(never) => match never {},
        }
    }
}
