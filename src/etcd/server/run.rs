//! One member from its settings to its end.

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use proa_base::settings::Settings;
use proa_etcd_api::etcdserverpb::Member;
use proa_etcd_api::mvccpb::Event;
use proa_etcd_api::url::{Address, is_on_network};
use proa_etcd_client::tls::TlsError;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::auth::{Auth, BadTokenKey, Jwt};
use crate::config::{BadConfig, Config, Machine, ServerPlan, Start};
use crate::discovery::DiscoveryError;
use crate::ending::{End, Ending};
use crate::grpc::{self, Front, Limits};
use crate::lan::{self, LanConfig, LanError};
use crate::lessor::Lessor;
use crate::listener::{Listen, Listener};
use crate::metrics::KeyCount;
use crate::node::{Bootstrap, EventSink, Node, NodeConfig, ReadView};
use crate::place::{self, Place};
use crate::space::{self, Space};
use crate::tls::{PeerTls, ServerTls};
use crate::v2::V2;
use crate::watch::hub::{self, Hub, Past};
use crate::{compaction, enter, listen, metrics};

/// How long requests that were taken in hold up the end of the member. They take
/// milliseconds; where there is no majority they would take until they time out.
const DRAIN_PATIENCE: Duration = Duration::from_secs(2);
/// How long what is left of connections may take to end after that.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// Between two looks whether the others know this member's name and URLs.
const READY_POLL: Duration = Duration::from_millis(20);

/// Why a member did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Settings that contradict each other.
    #[error(transparent)]
    Config(#[from] BadConfig),
    /// A client port that cannot be listened on.
    #[error("listen {} {address}: bind: {reason}", address.network())]
    Listen {
        /// Where.
        address: Address<SocketAddr>,
        /// Why not, in the system's words.
        reason: String,
    },
    /// The machine could not be asked about itself, or gave no threads.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What came of it.
        source: std::io::Error,
    },
    /// The member did not come up.
    #[error(transparent)]
    Node(#[from] crate::node::NodeError),
    /// A certificate or a key that cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A key for tokens that cannot be used.
    #[error(transparent)]
    TokenKey(#[from] BadTokenKey),
    /// The others cannot be looked for.
    #[error(transparent)]
    Lan(#[from] LanError),
    /// The first members were not found by their token.
    #[error(transparent)]
    Discovery(#[from] DiscoveryError),
    /// The member stopped itself to keep its data safe.
    #[error("stopped: {0}")]
    Stopped(Arc<str>),
}

/// The system's words without Rust's `(os error N)`, in lower case as Go's.
fn os_text(error: &std::io::Error) -> String {
    let text = error.to_string();
    let bare = text.split(" (os error").next().unwrap_or_default();
    bare.to_lowercase()
}

/// Runs a member until it is told to stop; what to return from `main`.
pub fn run(settings: &Settings) -> ExitCode {
    proa_base::log::start(settings.get("log-level"));
    match start_and_serve(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => proa_base::cli::fail("etcd", &error),
    }
}

fn start_and_serve(settings: &Settings) -> Result<(), RunError> {
    let machine = machine()?;
    let config = Config::new(settings, &machine)?;
    config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|source| RunError::System { what: "starting threads", source })?;
    let mut node = None;
    let result = runtime.block_on(serve(&config, &machine, &mut node));
    stop(runtime, node);
    result
}

fn stop(runtime: Runtime, node: Option<Node>) {
    // The node has a runtime of its own, which must not end inside of ours: one
    // handle outlives every task that has another.
    if let Some(node) = &node {
        node.clone().stop();
    }
    runtime.shutdown_timeout(STOP_PATIENCE);
    drop(node);
}

fn machine() -> Result<Machine, RunError> {
    let address = proa_base::machine::advertised_address()
        .map_err(|source| RunError::System { what: "listing addresses", source })?;
    let host_name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host_name = match host_name.trim() {
        "" => "default".to_owned(),
        name => name.to_owned(),
    };
    Ok(Machine { address, host_name })
}

/// Everything between the ports opening and the signal to stop; a member that
/// was started is left in `started` for its caller to stop.
async fn serve(config: &Config, machine: &Machine, started: &mut Option<Node>) -> Result<(), RunError> {
    let mut signals = Signals::new()?;
    let client_tls = config.client_tls.as_ref().map(ServerPlan::open).transpose()?;
    let peer_tls = config.peer_tls.open()?;
    let jwt = config.auth.tokens.open()?;
    let open_all = |all: &[Listen]| {
        let one = |listen: &Listen| {
            let tls = client_tls.clone().filter(|_| listen.encrypted);
            let tls = tls.map(|tls| if listen.also_plain { Arc::new(tls.taking_plain()) } else { tls });
            Ok((open(listen)?, tls))
        };
        all.iter().map(one).collect::<Result<Vec<(Listener, Option<Arc<ServerTls>>)>, RunError>>()
    };
    let listeners = open_all(&config.listen_clients)?;
    let metrics_listeners = open_all(&config.listen_metrics)?;
    let lan = lan_config(config, machine)?;
    let place = tokio::select! {
        place = place::find(config, lan.as_ref(), peer_tls.client.clone()) => place?,
        () = signals.stop() => return Ok(()),
    };
    let bootstrap = match place {
        Place::Member(bootstrap) => bootstrap,
        Place::Standby(standby) => tokio::select! {
            bootstrap = place::stand_by(standby, lan.as_ref(), &listeners, &peer_tls) => bootstrap,
            () = signals.stop() => return Ok(()),
        },
    };
    let node_config = node_config(config, peer_tls, bootstrap);
    // Opening may read for seconds, and a failed start ends a runtime.
    let node = tokio::task::spawn_blocking(move || Node::start(node_config))
        .await
        .map_err(|error| RunError::System { what: "starting the member", source: error.into() })??;
    *started = Some(node.clone());
    check_identity(config, &node)?;
    let (end, ending) = Ending::new();
    let front = front(config, &node, jwt, ending);
    let database = config.data_dir.join("db");
    tokio::spawn(space::watch(Arc::clone(&front.space), node.clone(), database, config.quota_bytes));
    let space = Arc::clone(&front.space);
    tokio::spawn(compaction::run(node.clone(), config.auto_compaction, space, config.quota_bytes));
    tokio::spawn(metrics::follow_leaders(node.status()));
    let mut served = JoinSet::new();
    for (listener, tls) in listeners {
        served.spawn(listen::serve(listener, tls, Arc::clone(&front)));
    }
    for (listener, tls) in metrics_listeners {
        tokio::spawn(listen::serve_metrics(listener, tls, Arc::clone(&front)));
    }
    if let Some(lan) = lan {
        tokio::spawn(announce(lan, node.clone()));
        tokio::spawn(enter::settle(node.clone(), config.advertise_peer_urls.clone()));
    }
    tell_systemd();
    tokio::spawn(tell_when_ready(config.clone(), node.clone()));
    let mut status = node.status();
    tokio::select! {
        () = signals.stop() => {
            drain(&node, &end, served).await;
            Ok(())
        }
        stopped = status.wait_for(|status| status.stopped.is_some()) => {
            let why = stopped.ok().and_then(|status| status.stopped.clone());
            Err(RunError::Stopped(why.unwrap_or_else(|| "the node has ended".into())))
        }
    }
}

/// Answers what was taken in, and sends clients to other members meanwhile.
async fn drain(node: &Node, end: &End, mut served: JoinSet<()>) {
    end.begin();
    let all = async { while served.join_next().await.is_some() {} };
    // Another leader agrees on what waits here, so both go on at the same time.
    let (_, drained) = tokio::join!(node.hand_over(), tokio::time::timeout(DRAIN_PATIENCE, all));
    if drained.is_err() {
        tracing::warn!("stopping with connections of clients that have not ended");
    }
}

fn lan_config(config: &Config, machine: &Machine) -> Result<Option<LanConfig>, RunError> {
    let Start::Discover(discovery) = &config.start else { return Ok(None) };
    let IpAddr::V4(interface) = machine.address else {
        return Err(BadConfig::no_network(machine.address).into());
    };
    let id = std::fs::read_to_string("/etc/machine-id")
        .map_err(|source| RunError::System { what: "reading /etc/machine-id", source })?;
    let id = id.trim().parse().map_err(|error| RunError::System {
        what: "reading /etc/machine-id",
        source: std::io::Error::other(error),
    })?;
    Ok(Some(LanConfig {
        cluster: discovery.cluster.clone(),
        size: discovery.size,
        machine: id,
        interface,
        group: lan::GROUP,
        data_dir: config.data_dir.clone(),
        peer_url: config.advertise_peer_urls.first().cloned().unwrap_or_default(),
        // A socket is of this machine alone; others are told of what they can dial.
        client_urls: config.advertise_client_urls.iter().filter(|url| is_on_network(url)).cloned().collect(),
    }))
}

async fn announce(lan: LanConfig, node: Node) {
    if let Err(error) = lan::announce(lan, node).await {
        tracing::warn!("telling others this member's addresses: {error}");
    }
}

/// The signals that end a member.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self, RunError> {
        let listen =
            |kind| signal(kind).map_err(|source| RunError::System { what: "listening to signals", source });
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Refuses the data of another member or cluster.
///
/// The flags only name the first members, and a member's peer URLs may have
/// been changed since; what must match is the identity or the URLs.
fn check_identity(config: &Config, node: &Node) -> Result<(), BadConfig> {
    let Start::New(cluster) = &config.start else { return Ok(()) };
    let Some(peer_urls) = cluster.0.get(&config.name) else { return Ok(()) };
    let status = node.status().borrow().clone();
    let is_named = proa_etcd_replica::ids::member_id(peer_urls, &config.token, None) == status.member_id;
    let known = node.members().into_iter().find(|member| member.id == status.member_id);
    let has_urls = known.is_some_and(|member| member.peer_urls.iter().all(|url| peer_urls.contains(url)));
    if is_named || has_urls {
        return Ok(());
    }
    Err(BadConfig::another_cluster(&config.data_dir, status.member_id, status.cluster_id))
}

fn open(listen: &Listen) -> Result<Listener, RunError> {
    let unopened = |error| RunError::Listen { address: listen.address.clone(), reason: os_text(&error) };
    listen.bind().map_err(unopened)
}

fn front(config: &Config, node: &Node, jwt: Option<Jwt>, ending: Ending) -> Arc<Front> {
    let (sink, source) = hub::channel();
    let keys = Arc::new(KeyCount::default());
    node.set_event_sink(Box::new(Announcer { sink, keys: Arc::clone(&keys) }));
    let hub = Hub::start(Arc::new(node.clone()), source);
    let limits = Limits {
        request_bytes: config.max_request_bytes,
        txn_ops: config.max_txn_ops,
        streams: config.max_streams,
        progress_every: config.watch_progress_every,
        election_ms: config.election_ms,
        quota_bytes: config.quota_bytes,
    };
    let lessor = Lessor::start(node, Duration::from_millis(config.election_ms));
    let auth = Auth::start(node, &config.auth, jwt);
    let v2 = config.serves_v2.then(|| V2::start(node));
    let space = Arc::new(Space::default());
    let (serves_json, metrics) = (config.serves_json, config.metrics);
    let node = node.clone();
    let json_calls = Arc::new(Semaphore::new((config.max_streams as usize).min(Semaphore::MAX_PERMITS)));
    Arc::new(Front {
        node,
        hub,
        auth,
        lessor,
        space,
        v2,
        serves_json,
        limits,
        json_calls,
        metrics,
        keys,
        ending,
    })
}

/// Tells watchers, and counts.
struct Announcer {
    sink: hub::Sink,
    keys: Arc<KeyCount>,
}

impl EventSink for Announcer {
    fn wants_previous(&self) -> bool {
        self.sink.wants_previous()
    }

    fn take(&self, revision: i64, events: Arc<Vec<Event>>, with_previous: bool) {
        if events.is_empty() {
            self.keys.forget();
            self.sink.replaced(revision);
        } else {
            self.keys.note(revision, &events);
            self.sink.announce(events, with_previous);
        }
    }
}

impl Past for Node {
    fn head(&self) -> proa_etcd_store::Head {
        self.view().head
    }

    fn header(&self, revision: i64) -> proa_etcd_api::etcdserverpb::ResponseHeader {
        grpc::header(self, revision)
    }

    fn events(
        &self,
        from: i64,
        limit: usize,
        wants: &dyn proa_etcd_store::Wants,
    ) -> Result<proa_etcd_store::History, proa_etcd_api::EtcdError> {
        let now = self.view();
        let ReadView { view, head, .. } = &*now;
        proa_etcd_store::events(view, *head, from, head.revision, limit, wants)
    }
}

/// Tells systemd that clients are served. A cut-off machine must not be started
/// anew again and again for having no leader: what counts is a member that
/// answers, not a cluster.
pub(crate) fn tell_systemd() {
    if let Err(error) = proa_base::notify::notify("READY=1") {
        tracing::warn!("telling systemd: {error}");
    }
}

/// Says on stderr, in words that etcd's users look for, when there is a leader and
/// every member can know where this one serves clients: who waits for these lines
/// may ask for the members next.
async fn tell_when_ready(config: Config, node: Node) {
    let mut status = node.status();
    let Ok(status) = status.wait_for(|status| status.leader_id != 0).await.map(|now| now.clone()) else {
        return;
    };
    let is_known = |member: &Member| {
        (member.id, &member.name, &member.client_urls)
            == (status.member_id, &config.name, &config.advertise_client_urls)
    };
    while !node.members().iter().any(is_known) {
        tokio::time::sleep(READY_POLL).await;
    }
    let listen: Vec<String> = config.listen_clients.iter().map(|listen| listen.address.to_string()).collect();
    eprintln!(
        "published local member to cluster through raft: name={} member-id={:x} cluster-id={:x} client-urls={}",
        config.name,
        status.member_id,
        status.cluster_id,
        config.advertise_client_urls.join(",")
    );
    eprintln!("enabled capabilities for version {}", crate::CLUSTER_VERSION);
    eprintln!("ready to serve client requests on {}", listen.join(","));
}

fn node_config(config: &Config, peer_tls: PeerTls, bootstrap: Bootstrap) -> NodeConfig {
    // Found by records, members know each other by the records' hosts.
    let advertise_peer_urls = match (&config.start, &bootstrap) {
        (Start::Srv { .. }, Bootstrap::New { members, .. }) => members.get(&config.name),
        (_, _) => None,
    };
    NodeConfig {
        advertise_peer_urls: advertise_peer_urls.unwrap_or(&config.advertise_peer_urls).clone(),
        data_dir: config.data_dir.clone(),
        name: config.name.clone(),
        listen_peers: config.listen_peers.clone(),
        peer_tls,
        advertise_client_urls: config.advertise_client_urls.clone(),
        bootstrap,
        heartbeat_ms: config.heartbeat_ms,
        election_ms: config.election_ms,
        snapshot_count: config.snapshot_count,
        strict_reconfig: config.strict_reconfig,
    }
}
