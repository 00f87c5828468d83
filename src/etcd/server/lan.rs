//! Finding the cluster on the local network: beacons by UDP multicast around
//! the pure [`proa_etcd_replica::founding`].
//!
//! Beacons are not authenticated: like the cluster's traffic they belong on a
//! private network. What they can do is bounded: a member with data never
//! changes its cluster because of one, only the addresses it dials, and the
//! peer handshake there checks cluster and member ids.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proa_base::ids::MachineId;
use proa_etcd_api::url;
use proa_etcd_replica::Founded;
use proa_etcd_replica::founding::{
    BEACON_MS, Beacon, Cluster, Decision, Founding, MAX_SIZE, Machines, Myself, Promise,
};
use prost::Message as _;
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::node::{Node, NodeError, write_durably};

/// Where beacons are sent: a group of the administratively scoped block
/// (RFC 2365), on the port after etcd's two.
pub const GROUP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(239, 255, 77, 80), 2382);
/// Largest beacon: two sets of nine ids and the URLs fit, and so does an
/// Ethernet frame.
const MAX_BEACON_BYTES: usize = 1_400;
/// Longest URL in a beacon, and most client URLs.
const MAX_URL_BYTES: usize = 128;
const MAX_CLIENT_URLS: usize = 4;
/// Time between two beacons of a member that runs: only addresses can change.
const REFRESH: Duration = Duration::from_millis(1_000);
/// Members kept in mind while standing by: those of now, and some of before.
const MAX_MEMBERS: usize = 4 * MAX_SIZE;

/// What is needed to find the others.
#[derive(Clone, Debug)]
pub struct LanConfig {
    /// Name of the cluster; others on the same network are ignored.
    pub cluster: String,
    /// Number of machines that found it, 1 to 9.
    pub size: usize,
    /// This machine.
    pub machine: MachineId,
    /// This machine's address on the cluster's network: beacons use its
    /// interface alone.
    pub interface: Ipv4Addr,
    /// Multicast group and port, [`GROUP`] but in tests.
    pub group: SocketAddrV4,
    /// The member's data dir; what was promised to others is kept there.
    pub data_dir: PathBuf,
    /// Where others reach this machine's member.
    pub peer_url: String,
    /// Where clients reach it.
    pub client_urls: Vec<String>,
}

/// What became of looking for the cluster.
#[derive(Debug)]
pub enum Discovered {
    /// Start a member with [`crate::node::Bootstrap::Founded`], then [`announce`].
    Founded(Founded),
    /// The cluster runs without this machine.
    Standby {
        /// Its id.
        cluster_id: u64,
        /// The members' client URLs, as they are heard.
        client_urls: watch::Receiver<Vec<String>>,
        /// And their peer URLs.
        peer_urls: watch::Receiver<Vec<String>>,
    },
}

/// Why the others cannot be looked for.
#[derive(Debug, thiserror::Error)]
pub enum LanError {
    /// The network does not take beacons.
    #[error("cannot send beacons to {group} from {interface}: {source}")]
    Network {
        /// The group.
        group: SocketAddrV4,
        /// The interface's address.
        interface: Ipv4Addr,
        /// The system's word.
        source: io::Error,
    },
    /// The promise cannot be kept on disk.
    #[error(transparent)]
    Promise(#[from] NodeError),
}

impl LanConfig {
    fn myself(&self) -> Myself {
        Myself {
            token: self.cluster.clone(),
            size: self.size,
            machine: self.machine,
            peer_url: self.peer_url.clone(),
            client_urls: self.client_urls.clone(),
        }
    }

    fn promise_path(&self) -> PathBuf {
        self.data_dir.join("founding")
    }

    fn network(&self) -> impl Fn(io::Error) -> LanError + use<> {
        let (group, interface) = (self.group, self.interface);
        move |source| LanError::Network { group, interface, source }
    }
}

/// Sends beacons until it is known which cluster this machine belongs to.
/// Says why it waits, once for each reason.
///
/// # Errors
/// See [`LanError`].
pub async fn discover(config: &LanConfig) -> Result<Discovered, LanError> {
    let dir = &config.data_dir;
    std::fs::create_dir_all(dir).map_err(|source| NodeError::Io {
        action: "make",
        path: dir.clone(),
        source,
    })?;
    let socket = open(config).map_err(config.network())?;
    let mut promise = read_promise(&config.promise_path())?;
    let start = Instant::now();
    let now_ms = || start.elapsed().as_millis() as u64;
    let mut founding = Founding::new(config.myself(), promise.clone(), now_ms());
    let mut told = None;
    loop {
        let step = founding.step(now_ms());
        if step.promise != promise {
            // Durable before anybody hears of it.
            promise = step.promise;
            write_durably(&config.promise_path(), &encode_promise(&promise))?;
        }
        send(&socket, config, &step.beacon).await;
        match step.decision {
            Decision::Wait(why) => {
                // The numbers in it change all the time; the kind is news.
                let kind = std::mem::discriminant(&why);
                if told != Some(kind) {
                    tracing::info!("looking for cluster {}: {why}", config.cluster);
                    told = Some(kind);
                }
            }
            Decision::Found(founded) => {
                tracing::info!(
                    "founded cluster {:x} with {} members",
                    founded.cluster_id,
                    founded.members.len()
                );
                return Ok(Discovered::Founded(founded));
            }
            Decision::Standby(cluster) => {
                tracing::info!(
                    "cluster {:x} runs without this machine; passing clients on to it",
                    cluster.id
                );
                let (clients, peers) = urls_of(founding.beacons(), &cluster);
                let (clients, client_urls) = watch::channel(clients);
                let (peers, peer_urls) = watch::channel(peers);
                let cluster_id = cluster.id;
                tokio::spawn(follow(socket, config.cluster.clone(), cluster, clients, peers));
                return Ok(Discovered::Standby { cluster_id, client_urls, peer_urls });
            }
        }
        let pause = Instant::now() + Duration::from_millis(BEACON_MS);
        while let Ok(beacon) =
            timeout(pause.saturating_duration_since(Instant::now()), receive(&socket)).await
        {
            founding.hear(beacon, now_ms());
        }
    }
}

/// Tells the network about the member that runs here, and keeps the addresses
/// of its peers up to date. Ends only with an error.
///
/// # Errors
/// The network does not take beacons; the member runs on without them.
pub async fn announce(config: LanConfig, node: Node) -> Result<(), LanError> {
    let socket = open(&config).map_err(config.network())?;
    let promise = read_promise(&config.promise_path())?;
    // One that entered later speaks for the cluster that it knew from outside.
    let outside = promise.outside.map(|cluster| cluster.founders);
    let Some(founders) = promise.committed.or(outside) else { return Ok(()) };
    let founded = Founded::by(&config.cluster, &founders, |_| None);
    let beacon = Beacon::of_member(&config.myself(), founded.cluster());
    loop {
        send(&socket, &config, &beacon).await;
        let pause = Instant::now() + REFRESH;
        while let Ok(heard) = timeout(pause.saturating_duration_since(Instant::now()), receive(&socket)).await
        {
            let is_peer = heard.token == config.cluster && heard.machine != config.machine;
            let Some(peer) = founded.members.get(&heard.machine).filter(|_| is_peer) else { continue };
            node.set_peer_urls(peer.id, vec![heard.peer_url]);
        }
    }
}

/// Learns where the members of `cluster` are, for as long as somebody wants to
/// know where they serve clients.
async fn follow(
    socket: UdpSocket,
    token: String,
    cluster: Cluster,
    clients: watch::Sender<Vec<String>>,
    peers: watch::Sender<Vec<String>>,
) {
    let mut heard: BTreeMap<MachineId, Beacon> = BTreeMap::new();
    loop {
        tokio::select! {
            () = clients.closed() => return,
            beacon = receive(&socket) => {
                let is_member = beacon.token == token && beacon.member.as_ref() == Some(&cluster);
                if is_member && (heard.len() < MAX_MEMBERS || heard.contains_key(&beacon.machine)) {
                    heard.insert(beacon.machine, beacon);
                    let (now_clients, now_peers) = urls_of(heard.values(), &cluster);
                    set(&clients, now_clients);
                    set(&peers, now_peers);
                }
            }
        }
    }
}

fn set(urls: &watch::Sender<Vec<String>>, now: Vec<String>) {
    urls.send_if_modified(|urls| {
        let is_new = *urls != now;
        *urls = now;
        is_new
    });
}

/// Client URLs and peer URLs of the members among those that were heard.
fn urls_of<'a>(beacons: impl Iterator<Item = &'a Beacon>, cluster: &Cluster) -> (Vec<String>, Vec<String>) {
    let (mut clients, mut peers) = (Vec::new(), Vec::new());
    for beacon in beacons.filter(|beacon| beacon.member.as_ref() == Some(cluster)) {
        clients.extend(beacon.client_urls.iter().cloned());
        peers.push(beacon.peer_url.clone());
    }
    (clients, peers)
}

fn open(config: &LanConfig) -> io::Result<UdpSocket> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    // Two members on one machine, as tests have them, hear the same group.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddrV4::new(*config.group.ip(), config.group.port()).into())?;
    socket.join_multicast_v4(config.group.ip(), &config.interface)?;
    socket.set_multicast_if_v4(&config.interface)?;
    socket.set_multicast_ttl_v4(1)?;
    socket.set_multicast_loop_v4(true)?;
    UdpSocket::from_std(socket.into())
}

/// Sends one beacon; a lost one is repeated soon.
async fn send(socket: &UdpSocket, config: &LanConfig, beacon: &Beacon) {
    if let Err(error) = socket.send_to(&encode(beacon), config.group).await {
        tracing::debug!("cannot send a beacon: {error}");
    }
}

/// The next valid beacon.
async fn receive(socket: &UdpSocket) -> Beacon {
    let mut buffer = [0; MAX_BEACON_BYTES];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, _)) => {
                if let Some(beacon) = decode(&buffer[..length]) {
                    return beacon;
                }
            }
            Err(error) => {
                tracing::debug!("cannot receive beacons: {error}");
                tokio::time::sleep(Duration::from_millis(BEACON_MS)).await;
            }
        }
    }
}

/// A beacon's bytes.
#[derive(Clone, PartialEq, prost::Message)]
struct WireBeacon {
    #[prost(string, tag = "1")]
    token: String,
    #[prost(uint64, tag = "2")]
    size: u64,
    #[prost(string, tag = "3")]
    machine: String,
    #[prost(string, tag = "4")]
    peer_url: String,
    #[prost(string, repeated, tag = "5")]
    client_urls: Vec<String>,
    #[prost(uint64, tag = "6")]
    round: u64,
    #[prost(message, optional, tag = "7")]
    view: Option<WireSet>,
    #[prost(message, optional, tag = "8")]
    committed: Option<WireSet>,
    #[prost(message, optional, tag = "9")]
    member: Option<WireCluster>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireSet {
    #[prost(string, repeated, tag = "1")]
    machines: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireCluster {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, optional, tag = "2")]
    founders: Option<WireSet>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WirePromise {
    #[prost(uint64, tag = "1")]
    round: u64,
    #[prost(message, optional, tag = "2")]
    committed: Option<WireSet>,
    #[prost(message, optional, tag = "3")]
    outside: Option<WireCluster>,
}

fn encode_set(set: &Machines) -> WireSet {
    WireSet { machines: set.iter().map(ToString::to_string).collect() }
}

fn decode_set(set: WireSet) -> Option<Machines> {
    if set.machines.len() > MAX_SIZE {
        return None;
    }
    set.machines.iter().map(|machine| machine.parse().ok()).collect()
}

fn encode_cluster(cluster: &Cluster) -> WireCluster {
    WireCluster { id: cluster.id, founders: Some(encode_set(&cluster.founders)) }
}

fn decode_cluster(cluster: WireCluster) -> Option<Cluster> {
    Some(Cluster { id: cluster.id, founders: decode_set(cluster.founders?)? })
}

/// `Some(None)` for what is not there, `None` for what is wrong.
fn optional<A, B>(value: Option<A>, decode: impl Fn(A) -> Option<B>) -> Option<Option<B>> {
    match value {
        None => Some(None),
        Some(value) => decode(value).map(Some),
    }
}

fn encode(beacon: &Beacon) -> Vec<u8> {
    WireBeacon {
        token: beacon.token.clone(),
        size: beacon.size as u64,
        machine: beacon.machine.to_string(),
        peer_url: beacon.peer_url.clone(),
        client_urls: beacon.client_urls.iter().take(MAX_CLIENT_URLS).cloned().collect(),
        round: beacon.round,
        view: beacon.view.as_ref().map(encode_set),
        committed: beacon.committed.as_ref().map(encode_set),
        member: beacon.member.as_ref().map(encode_cluster),
    }
    .encode_to_vec()
}

fn decode(bytes: &[u8]) -> Option<Beacon> {
    let wire = WireBeacon::decode(bytes).ok()?;
    // A stranger may send members elsewhere on the network, not to sockets of their machines.
    let is_far = |url: &String| url::parse(url).is_ok_and(|url| url.address.tcp().is_some());
    let is_url = |url: &String| url.len() <= MAX_URL_BYTES && is_far(url);
    if !is_url(&wire.peer_url)
        || wire.client_urls.len() > MAX_CLIENT_URLS
        || !wire.client_urls.iter().all(is_url)
    {
        return None;
    }
    Some(Beacon {
        token: wire.token,
        size: usize::try_from(wire.size).ok()?,
        machine: wire.machine.parse().ok()?,
        peer_url: wire.peer_url,
        client_urls: wire.client_urls,
        round: wire.round,
        view: optional(wire.view, decode_set)?,
        committed: optional(wire.committed, decode_set)?,
        member: optional(wire.member, decode_cluster)?,
    })
}

fn encode_promise(promise: &Promise) -> Vec<u8> {
    WirePromise {
        round: promise.round,
        committed: promise.committed.as_ref().map(encode_set),
        outside: promise.outside.as_ref().map(encode_cluster),
    }
    .encode_to_vec()
}

fn read_promise(path: &Path) -> Result<Promise, NodeError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Promise::default()),
        Err(source) => return Err(NodeError::Io { action: "read", path: path.to_owned(), source }),
    };
    let what = "it must hold what this machine promised while the cluster was founded";
    let damaged = || NodeError::Damaged { path: path.to_owned(), what };
    let wire = WirePromise::decode(&bytes[..]).map_err(|_| damaged())?;
    Ok(Promise {
        round: wire.round,
        committed: optional(wire.committed, decode_set).ok_or_else(damaged)?,
        outside: optional(wire.outside, decode_cluster).ok_or_else(damaged)?,
    })
}

#[cfg(test)]
#[path = "lan_tests.rs"]
mod tests;
