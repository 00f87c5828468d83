//! One member from its settings to its end.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use proa_base::settings::Settings;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{BadConfig, Config, Machine, Start};
use crate::grpc::{self, Front, Limits};
use crate::lessor::Lessor;
use crate::node::{Bootstrap, Node, NodeConfig, ReadView, is_member};
use crate::space::{self, Space};
use crate::watch::hub::{self, Hub, Past};
use crate::{compaction, listen};

/// How long connections may take to end when the member stops.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// Why a member did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Settings that contradict each other.
    #[error(transparent)]
    Config(#[from] BadConfig),
    /// A client port that cannot be listened on.
    #[error("listen tcp {address}: bind: {}", os_text(.source))]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
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
    let config = Config::new(settings, &machine()?)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|source| RunError::System { what: "starting threads", source })?;
    let ended = runtime.block_on(serve(&config));
    let (node, result) = match ended {
        Ok((node, result)) => (Some(node), result),
        Err(error) => (None, Err(error)),
    };
    // Connections first: what they hold of the database must be gone before
    // the database is closed.
    stop(runtime, node);
    result
}

fn stop(runtime: Runtime, node: Option<Node>) {
    if let Some(node) = node {
        runtime.block_on(async { node.stop() });
    }
    runtime.shutdown_timeout(STOP_PATIENCE);
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

/// Everything between the ports opening and the signal to stop.
async fn serve(config: &Config) -> Result<(Node, Result<(), RunError>), RunError> {
    let mut listeners = Vec::new();
    for address in &config.listen_clients {
        listeners.push(open(*address)?);
    }
    let node = Node::start(node_config(config).await?)?;
    if let Err(error) = check_identity(config, &node) {
        return Ok((node, Err(error.into())));
    }
    let front = front(config, &node);
    let database = config.data_dir.clone();
    tokio::spawn(space::watch(Arc::clone(&front.space), node.clone(), database, config.quota_bytes));
    tokio::spawn(compaction::run(node.clone(), config.auto_compaction));
    for listener in listeners {
        tokio::spawn(listen::serve(listener, Arc::clone(&front)));
    }
    tell_ready(config, &node);
    let result = until_stopped(&node).await;
    Ok((node, result))
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

fn open(address: SocketAddr) -> Result<TcpListener, RunError> {
    listen::bind(address).map_err(|source| RunError::Listen { address, source })
}

fn front(config: &Config, node: &Node) -> Arc<Front> {
    let (sink, source) = hub::channel();
    node.set_event_sink(Box::new(move |_, events| sink.announce(events)));
    let hub = Hub::start(Arc::new(node.clone()), source);
    let limits = Limits {
        request_bytes: config.max_request_bytes,
        txn_ops: config.max_txn_ops,
        election_ms: config.election_ms,
    };
    let lessor = Lessor::start(node, Duration::from_millis(config.election_ms));
    Arc::new(Front { node: node.clone(), hub, lessor, space: Arc::new(Space::default()), limits })
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
        wants: &dyn Fn(&[u8]) -> bool,
    ) -> Result<proa_etcd_store::History, proa_etcd_api::EtcdError> {
        let now = self.view();
        let ReadView { view, head, .. } = &*now;
        proa_etcd_store::events(view, *head, from, head.revision, limit, wants)
    }
}

/// Says on stderr, in words that etcd's users look for, and to systemd that
/// clients are served.
fn tell_ready(config: &Config, node: &Node) {
    let urls = config.advertise_client_urls.join(",");
    // A cut-off machine must not be started anew again and again for having
    // no leader: systemd hears of a member that answers, not of a cluster.
    if let Err(error) = proa_base::notify::notify("READY=1") {
        tracing::warn!("telling systemd: {error}");
    }
    let (name, mut status) = (config.name.clone(), node.status());
    let listen: Vec<String> = config.listen_clients.iter().map(ToString::to_string).collect();
    tokio::spawn(async move {
        let Ok(status) = status.wait_for(|status| status.leader_id != 0).await.map(|now| now.clone()) else {
            return;
        };
        eprintln!(
            "published local member to cluster through raft: name={name} member-id={:x} cluster-id={:x} client-urls={urls}",
            status.member_id, status.cluster_id
        );
        eprintln!("enabled capabilities for version {}", crate::CLUSTER_VERSION);
        eprintln!("ready to serve client requests on {}", listen.join(","));
    });
}

async fn until_stopped(node: &Node) -> Result<(), RunError> {
    let listen =
        |kind| signal(kind).map_err(|source| RunError::System { what: "listening to signals", source });
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let mut status = node.status();
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        stopped = status.wait_for(|status| status.stopped.is_some()) => {
            let why = stopped.ok().and_then(|status| status.stopped.clone());
            Err(RunError::Stopped(why.unwrap_or_else(|| "the node has ended".into())))
        }
    }
}

async fn node_config(config: &Config) -> Result<NodeConfig, RunError> {
    Ok(NodeConfig {
        data_dir: config.data_dir.clone(),
        name: config.name.clone(),
        listen_peers: config.listen_peers.clone(),
        advertise_peer_urls: config.advertise_peer_urls.clone(),
        advertise_client_urls: config.advertise_client_urls.clone(),
        bootstrap: bootstrap(config).await?,
        heartbeat_ms: config.heartbeat_ms,
        election_ms: config.election_ms,
        snapshot_count: config.snapshot_count,
    })
}

async fn bootstrap(config: &Config) -> Result<Bootstrap, RunError> {
    if is_member(&config.data_dir) {
        return Ok(Bootstrap::Existing);
    }
    Ok(match &config.start {
        Start::New(cluster) => Bootstrap::New { token: config.token.clone(), members: cluster.0.clone() },
        Start::Join(cluster) => Bootstrap::Join { members: cluster.0.clone() },
        Start::Discover(_) => return Err(RunError::Config(BadConfig::no_discovery())),
    })
}
