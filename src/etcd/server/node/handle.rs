//! The handle of a running member, and how one is started and stopped.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use proa_etcd_api::EtcdError;
use proa_etcd_api::command::{Command, Proposal};
use proa_etcd_api::etcdserverpb::Member;
use proa_etcd_replica::{Config, Replica};
use proa_etcd_store::Reply;
use prost::Message as _;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::applier::Applier;
use super::ask;
use super::boot::{Booted, boot};
use super::core::{Core, Parts};
use super::error::NodeError;
use super::membership::Membership;
use super::shared::{Shared, ToCore, ViewCell, lock};
use super::types::{Answerer, EventSink, MemberChange, MembersChanged, NodeConfig, ReadView, Status};
use super::writer::Writer;
use crate::peer::{Peers, PeersConfig};

/// A running member. Clones are handles to the same one.
#[derive(Clone)]
pub struct Node {
    shared: Arc<Shared>,
}

impl Node {
    /// Opens the member in the data dir, or makes it, and starts its threads.
    ///
    /// # Errors
    /// See [`NodeError`]; then nothing runs, and an existing member's data is
    /// as it was.
    pub fn start(config: NodeConfig) -> Result<Self, NodeError> {
        check(&config)?;
        let booted = boot(&config)?;
        let nonce = random_word();
        let applied = booted.start.applied;
        let conf_state = booted.start.conf_state.clone();
        let log_begins = booted.start.log_base.index;
        let log_bytes = booted.start.entries.iter().map(|entry| entry.data.len() as u64).sum();
        let member_id = booted.identity.member_id;
        let election_ticks = usize::try_from(config.election_ms / config.heartbeat_ms).unwrap_or(10);
        let replica_config = Config {
            election_ticks,
            seed: nonce,
            boot_nonce: nonce,
            // As many as stay in the log; who is further behind gets a snapshot.
            cache_entries: usize::try_from(config.snapshot_count).unwrap_or(usize::MAX),
            ..Config::new(member_id)
        };
        let Booted { identity, layout, log, database, machine, start, members, removed } = booted;
        let replica = Replica::new(replica_config, start)
            .map_err(|source| NodeError::Start { path: layout.root.clone(), source })?;

        let (core, core_inbox) = channel();
        let status = Status {
            cluster_id: identity.cluster_id,
            member_id,
            applied: applied.index,
            ..Status::default()
        };
        let shared = Arc::new(Shared {
            core,
            waiters: Mutex::default(),
            asked: Mutex::default(),
            next_id: AtomicU64::new((nonce & 0xffff_ffff) << 32),
            view: ViewCell::default(),
            machine: Mutex::new(machine),
            members: Mutex::new(members.values().cloned().collect()),
            status: watch::channel(status).0,
            sink: OnceLock::new(),
            answerer: OnceLock::new(),
            peers: OnceLock::new(),
            is_disk_low: AtomicBool::new(false),
            is_ending: AtomicBool::new(false),
            threads: Mutex::default(),
            // etcd's own: 5 s for the disk and two elections.
            request_timeout_ms: 5_000 + 2 * config.election_ms,
        });
        let peers = start_peers(&config, identity.cluster_id, member_id, nonce, layout.database(), &shared)?;
        // Never set before: the handle is made here.
        let _ = shared.peers.set(peers.clone());

        let (to_writer, writer_inbox) = channel();
        let (to_applier, applier_inbox) = channel();
        let writer =
            Writer { log, layout, shared: shared.clone(), applier: to_applier.clone(), inbox: writer_inbox };
        let applier = Applier {
            database: Some(database),
            applied,
            members: conf_state,
            shared: shared.clone(),
            writer: to_writer.clone(),
            inbox: applier_inbox,
            reads: Vec::new(),
            snapshot_count: config.snapshot_count.max(1),
            // What the log holds counts from where it begins, not from this start.
            compacted: log_begins,
            uncompacted_bytes: log_bytes,
            own_ids: nonce & 0xffff_ffff,
            flushing: None,
            scrubbed: 0,
        };
        let myself = Member {
            id: member_id,
            name: config.name.clone(),
            peer_urls: config.advertise_peer_urls.clone(),
            client_urls: config.advertise_client_urls.clone(),
            is_learner: false,
        };
        let core = Core::new(Parts {
            replica,
            shared: shared.clone(),
            peers,
            writer: to_writer,
            applier: to_applier,
            inbox: core_inbox,
            tick: Duration::from_millis(config.heartbeat_ms),
            membership: Membership { members, removed: removed.into_iter().collect() },
            myself,
        });
        let node = Self { shared };
        node.spawn("etcd-log", move || writer.run())?;
        node.spawn("etcd-apply", move || applier.run())?;
        node.spawn("etcd-raft", move || core.run())?;
        Ok(node)
    }

    fn spawn(&self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), NodeError> {
        let thread = std::thread::Builder::new().name(name.into()).spawn(run).map_err(NodeError::Thread)?;
        lock(&self.shared.threads).push(thread);
        Ok(())
    }

    /// Proposes `command` through the leader, wherever it is, and returns what
    /// came of it once it is applied here. It is applied at most once: it is
    /// proposed again only when the log proves that it was lost.
    ///
    /// # Errors
    /// The state machine's refusal; `TooManyRequests`, `NoSpace`: nothing
    /// happened; `Timeout`, `Stopped`: it may still happen.
    pub async fn propose(&self, command: Command) -> Result<Reply, EtcdError> {
        let id = self.shared.own_id();
        let body: Bytes = Proposal { id, command: Some(command) }.encode_to_vec().into();
        let (waiter, done) = oneshot::channel();
        lock(&self.shared.waiters).insert(id, waiter);
        let _forget = Forget { shared: &self.shared, id };
        self.shared.core.send(ToCore::Propose { id, body }).map_err(|_| EtcdError::Stopped)?;
        self.wait(done).await
    }

    /// Waits until everything that was acknowledged by any member when this
    /// was called is in [`Node::view`].
    ///
    /// # Errors
    /// `Timeout` without a leader that has a majority behind it; `TooManyRequests`; `Stopped`.
    pub async fn linearizable(&self) -> Result<(), EtcdError> {
        let (waiter, done) = oneshot::channel();
        self.shared.core.send(ToCore::Read(waiter)).map_err(|_| EtcdError::Stopped)?;
        self.wait(done).await
    }

    async fn wait<T>(&self, done: oneshot::Receiver<Result<T, EtcdError>>) -> Result<T, EtcdError> {
        match timeout(Duration::from_millis(self.shared.request_timeout_ms), done).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(EtcdError::Stopped),
            Err(_) => Err(EtcdError::Timeout),
        }
    }

    /// The newest applied state. While a received snapshot replaces the
    /// database (a moment, on a member that was far behind) the call waits.
    ///
    /// Keep it for one request only: it holds up such a replacement.
    pub fn view(&self) -> Arc<ReadView> {
        self.shared.view.get()
    }

    /// Where this member stands, now and whenever it changes.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.shared.status.subscribe()
    }

    /// All members by id, as of the applied state.
    pub fn members(&self) -> Vec<Member> {
        lock(&self.shared.members).clone()
    }

    /// Takes the events of every revision, on the applying thread and in
    /// order; must be quick. Can be set once; call it before serving clients.
    pub fn set_event_sink(&self, sink: EventSink) {
        let _ = self.shared.sink.set(sink);
    }

    /// Leases of the applied state: id and granted time to live in seconds.
    pub fn leases(&self) -> Vec<(i64, i64)> {
        let machine = lock(&self.shared.machine);
        machine.leases().map(|(id, lease)| (id, lease.granted_ttl)).collect()
    }

    /// Asks the leader, which may be this member; its [`Answerer`] answers.
    ///
    /// # Errors
    /// `NoLeader`; `NotLeader` when it has just changed; the answerer's own; `Timeout`.
    pub async fn ask_leader(&self, question: Bytes) -> Result<Bytes, EtcdError> {
        self.ask(ask::of_user(&question)).await
    }

    async fn ask(&self, body: Bytes) -> Result<Bytes, EtcdError> {
        let (leader, us) = {
            let status = self.shared.status.borrow();
            (status.leader_id, status.member_id)
        };
        let (waiter, done) = oneshot::channel();
        if leader == 0 {
            return Err(EtcdError::NoLeader);
        }
        if leader == us {
            ask::answer_here(&self.shared, body, move |answer| drop(waiter.send(answer)));
            return self.wait(done).await;
        }
        let id = self.shared.own_id();
        lock(&self.shared.asked).insert(id, waiter);
        let sent = self
            .shared
            .peers
            .get()
            .is_some_and(|peers| peers.send(leader, &crate::peer::frame::Frame::Ask { id, body }));
        let answer = if sent { self.wait(done).await } else { Err(EtcdError::NoLeader) };
        lock(&self.shared.asked).remove(&id);
        answer
    }

    /// Sets who answers questions when this member leads. Can be set once.
    pub fn set_answerer(&self, answerer: Answerer) {
        let _ = self.shared.answerer.set(answerer);
    }

    /// Changes the membership, through the leader.
    ///
    /// # Errors
    /// etcd's refusals (see [`EtcdError`]); `Unhealthy` while another change
    /// is on its way; those of [`Node::ask_leader`].
    pub async fn change_members(&self, change: MemberChange) -> Result<MembersChanged, EtcdError> {
        ask::decode_changed(self.ask(ask::of_change(&change)).await?)
    }

    /// Replaces the addresses a peer is dialed at, learned from a beacon.
    pub fn set_peer_urls(&self, id: u64, urls: Vec<String>) {
        if let Some(peers) = self.shared.peers.get() {
            peers.set_urls(id, urls);
        }
    }

    /// Ends the member: its threads are joined and the database is dropped,
    /// but for views that somebody still holds. Other handles answer `Stopped`.
    pub fn stop(self) {
        self.shared.is_ending.store(true, Ordering::Relaxed);
        let _ = self.shared.core.send(ToCore::Stop);
        if let Some(peers) = self.shared.peers.get() {
            peers.stop();
        }
        let threads = std::mem::take(&mut *lock(&self.shared.threads));
        for thread in threads {
            // A panic there was printed already.
            let _ = thread.join();
        }
        self.shared.release_waiters();
        self.shared.view.set(None);
    }
}

/// Takes a waiter back when its client has gone.
struct Forget<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        lock(&self.shared.waiters).remove(&self.id);
    }
}

fn check(config: &NodeConfig) -> Result<(), NodeError> {
    if config.heartbeat_ms == 0 || config.election_ms < 5 * config.heartbeat_ms {
        return Err(NodeError::Config(format!(
            "--election-timeout={} must be at least five times --heartbeat-interval={}",
            config.election_ms, config.heartbeat_ms
        )));
    }
    match config.advertise_peer_urls.iter().find_map(|url| crate::peer::authority(url).err()) {
        Some(error) => Err(NodeError::Config(error)),
        None => Ok(()),
    }
}

fn start_peers(
    config: &NodeConfig,
    cluster_id: u64,
    member_id: u64,
    boot: u64,
    database: std::path::PathBuf,
    shared: &Arc<Shared>,
) -> Result<Peers, NodeError> {
    let core = shared.core.clone();
    let inbox = Arc::new(move |incoming| {
        // Nobody listens when the member stops.
        let _ = core.send(ToCore::Peer(incoming));
    });
    let listen = config.listen_peers.clone();
    Peers::start(PeersConfig { cluster_id, member_id, boot, listen, database }, inbox)
        .map_err(NodeError::Peers)
}

/// A word from the kernel, or else from the clock and the process id.
fn random_word() -> u64 {
    let mut bytes = [0; 8];
    // SAFETY: the buffer is as long as is said.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if got == 8 {
        return u64::from_ne_bytes(bytes);
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    now.as_nanos() as u64 ^ u64::from(std::process::id()) << 32
}

/// Whether a member lives in this data dir.
pub fn is_member(data_dir: &std::path::Path) -> bool {
    data_dir.join("identity").exists()
}
