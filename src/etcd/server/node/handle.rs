//! The handle of a running member, and how one is started and stopped.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use proa_etcd_api::EtcdError;
use proa_etcd_api::command::{Command, Proposal, Requester};
use proa_etcd_api::etcdserverpb::{AlarmMember, Member};
use proa_etcd_api::url;
use proa_etcd_store::Reply;
use prost::Message as _;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::ask;
use super::assemble::{Threads, World, assemble, share};
use super::boot::boot;
use super::error::NodeError;
use super::meta::Identity;
use super::shared::{Shared, ToCore, lock};
use super::types::{
    Answerer, AuthStamp, EventSink, MemberChange, MembersChanged, NodeConfig, ReadView, Status, TokenSink,
    V2Sink,
};
use crate::metrics::{METRICS, add};
use crate::peer::{Peers, PeersConfig};

/// Pause before the leader is asked again, when there is none at the moment.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// Longest time that a stop is held up for another leader.
const HAND_OVER: Duration = Duration::from_secs(1);

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
        let identity = booted.identity;
        let (shared, inbox) = share(&config, &booted, nonce);
        let peers = start_peers(&config, identity, nonce, booted.layout.database(), &shared)?;
        // Never set before: the handle is made here.
        let _ = shared.peers.set(peers.clone());

        let world = World { peers: Arc::new(peers.clone()), clock: unix_s, verify: crate::database::verify };
        let threads = assemble(&config, booted, nonce, (shared.clone(), inbox), world);
        let Threads { core, writer, applier } = threads.inspect_err(|_| peers.stop())?;
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

    /// Proposes `command` for somebody who did not say who they are. With
    /// authentication on that is refused but for what needs no user.
    ///
    /// # Errors
    /// As [`Node::propose_for`].
    pub async fn propose(&self, command: Command) -> Result<Reply, EtcdError> {
        self.propose_for(None, command).await
    }

    /// Proposes what the member itself wants, whoever may do what: never what
    /// a client has asked for.
    ///
    /// # Errors
    /// As [`Node::propose_for`].
    pub async fn propose_as_member(&self, command: Command) -> Result<Reply, EtcdError> {
        self.propose_for(Some(member()), command).await
    }

    /// Proposes `command` through the leader, wherever it is, and returns what
    /// came of it once it is applied here. It is applied at most once: it is
    /// proposed again only when the log proves that it was lost.
    ///
    /// # Errors
    /// The state machine's refusal; `TooManyRequests`, `NoSpace`: nothing
    /// happened; `Timeout`, `Stopped`: it may still happen.
    pub async fn propose_for(
        &self,
        requester: Option<Requester>,
        command: Command,
    ) -> Result<Reply, EtcdError> {
        let id = self.shared.own_id();
        let body: Bytes = Proposal { id, command: Some(command), requester }.encode_to_vec().into();
        let (waiter, done) = oneshot::channel();
        lock(&self.shared.waiters).insert(id, waiter);
        let _forget = Forget { shared: &self.shared, id };
        self.shared.core.send(ToCore::Propose { id, body }).map_err(|_| EtcdError::Stopped)?;
        let answer = self.wait(done).await;
        if matches!(answer, Err(EtcdError::Timeout)) {
            add(&METRICS.proposals_failed);
        }
        answer
    }

    /// Waits until everything that was acknowledged by any member when this
    /// was called is in [`Node::view`].
    ///
    /// # Errors
    /// `Timeout` without a leader that has a majority behind it; `TooManyRequests`; `Stopped`.
    pub async fn linearizable(&self) -> Result<(), EtcdError> {
        let (waiter, done) = oneshot::channel();
        self.shared.core.send(ToCore::Read(waiter)).map_err(|_| EtcdError::Stopped)?;
        let answer = self.wait(done).await;
        if matches!(answer, Err(EtcdError::Timeout)) {
            add(&METRICS.reads_failed);
            if self.shared.status.borrow().leader_id != 0 {
                add(&METRICS.reads_slow);
            }
        }
        answer
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

    /// Whether the state that `view` gives is being replaced: who reads for
    /// long is to end.
    pub fn is_being_replaced(&self) -> bool {
        self.shared.view.is_away()
    }

    /// The raised alarms, by member.
    pub fn alarms(&self) -> Vec<AlarmMember> {
        lock(&self.shared.machine).alarms()
    }

    /// Proposals of clients here that wait for their answer.
    pub fn pending_proposals(&self) -> usize {
        lock(&self.shared.waiters).len()
    }

    /// Where this member stands, now and whenever it changes.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.shared.status.subscribe()
    }

    /// How far users and permissions are, now and whenever they change.
    pub fn auth(&self) -> watch::Receiver<AuthStamp> {
        self.shared.auth.subscribe()
    }

    /// How far users and permissions are now.
    pub fn auth_stamp(&self) -> AuthStamp {
        *self.shared.auth.borrow()
    }

    /// Whether requests need a user, as of the applied state: cheap to ask.
    pub fn is_auth_enabled(&self) -> bool {
        self.shared.auth.borrow().is_enabled
    }

    /// Takes the tokens that are granted. Can be set once; call it before
    /// serving clients.
    pub fn set_token_sink(&self, sink: TokenSink) {
        let _ = self.shared.tokens.set(sink);
    }

    /// All members by id, as of the applied state.
    pub fn members(&self) -> Vec<Member> {
        lock(&self.shared.members).clone()
    }

    /// Whether this was a member that has been removed.
    pub fn was_removed(&self, id: u64) -> bool {
        super::meta::removed(&self.view().view).is_ok_and(|removed| removed.contains(&id))
    }

    /// Takes the events of every revision, on the applying thread and in
    /// order; must be quick. Can be set once; call it before serving clients.
    pub fn set_event_sink(&self, sink: Box<dyn EventSink>) {
        let _ = self.shared.sink.set(sink);
    }

    /// Takes what happens to the v2 tree, as [`Node::set_event_sink`] for v3.
    pub fn set_v2_sink(&self, sink: V2Sink) {
        let _ = self.shared.v2_sink.set(sink);
    }

    /// Leases of the applied state: id and granted time to live in seconds.
    pub fn leases(&self) -> Vec<(i64, i64)> {
        let machine = lock(&self.shared.machine);
        machine.leases().map(|(id, lease)| (id, lease.granted_ttl)).collect()
    }

    /// Whether a lease is among those of the applied state.
    pub fn has_lease(&self, id: i64) -> bool {
        lock(&self.shared.machine).lease(id).is_some()
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
        let _forget = ForgetQuestion { shared: &self.shared, id };
        let sent = self
            .shared
            .peers
            .get()
            .is_some_and(|peers| peers.send(leader, &crate::peer::frame::Frame::Ask { id, body }));
        if sent { self.wait(done).await } else { Err(EtcdError::NoLeader) }
    }

    /// Sets who answers questions when this member leads. Can be set once.
    pub fn set_answerer(&self, answerer: Answerer) {
        let _ = self.shared.answerer.set(answerer);
    }

    /// Changes the membership, through the leader.
    ///
    /// # Errors
    /// etcd's refusals (see [`EtcdError`]); those of [`Node::ask_leader`].
    pub async fn change_members(&self, change: MemberChange) -> Result<MembersChanged, EtcdError> {
        let question = ask::of_change(&change);
        let deadline = Instant::now() + Duration::from_millis(self.shared.request_timeout_ms);
        loop {
            match self.ask(question.clone()).await {
                // Nothing was done, and there will be another leader: this one
                // may have handed over just because it is to be removed.
                Err(EtcdError::NotLeader | EtcdError::NoLeader) if Instant::now() < deadline => {
                    tokio::time::sleep(ASK_AGAIN).await;
                }
                Err(error) => return Err(error),
                Ok(answer) => return ask::decode_changed(answer),
            }
        }
    }

    /// Hands leadership to the voter `to`; returns when it leads.
    ///
    /// # Errors
    /// `NotLeader` when this member does not lead, `BadLeaderTransferee` when
    /// `to` is no voter, `TimeoutLeaderTransfer`.
    pub async fn move_leader(&self, to: u64) -> Result<(), EtcdError> {
        let mut status = self.status();
        if !status.borrow().is_leader {
            return Err(EtcdError::NotLeader);
        }
        if !self.members().iter().any(|member| member.id == to && !member.is_learner) {
            return Err(EtcdError::BadLeaderTransferee);
        }
        self.shared.core.send(ToCore::Transfer { to }).map_err(|_| EtcdError::Stopped)?;
        let limit = Duration::from_millis(self.shared.request_timeout_ms);
        match timeout(limit, status.wait_for(|status| status.leader_id == to)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(EtcdError::Stopped),
            Err(_) => Err(EtcdError::TimeoutLeaderTransfer),
        }
    }

    /// Before a stop: if this member leads, lets another one lead first, so
    /// that the cluster need not wait for an election. Tries for a moment only.
    pub async fn hand_over(&self) {
        let mut status = self.status();
        let (is_leader, us) = (status.borrow().is_leader, status.borrow().member_id);
        if !is_leader || self.shared.core.send(ToCore::HandOver).is_err() {
            return;
        }
        let has_moved = |status: &Status| status.leader_id != us && status.leader_id != 0;
        // If nobody takes over in time the others elect as after a crash.
        let _ = timeout(HAND_OVER, status.wait_for(has_moved)).await;
    }

    #[cfg(test)]
    pub(super) fn pretend_disk_is_low(&self) {
        self.shared.is_disk_low.store(true, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(super) fn hear(&self, message: proa_etcd_replica::eraftpb::Message) {
        use crate::peer::{Incoming, frame::Frame};
        let heard = Incoming::Frame { from: message.from, frame: Frame::Raft(message) };
        self.shared.core.send(ToCore::Peer(heard)).expect("the core runs");
    }

    /// Bytes of all commands that were applied since this member started: what
    /// history has grown by at most. Wakes who waits about once a MiB.
    pub fn applied_bytes(&self) -> watch::Receiver<u64> {
        self.shared.applied_bytes.subscribe()
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

/// The requester of what a member wants by itself.
pub(super) fn member() -> Requester {
    Requester { is_member: true, ..Requester::default() }
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

/// Takes a question back when whoever asked has gone.
struct ForgetQuestion<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for ForgetQuestion<'_> {
    fn drop(&mut self) {
        lock(&self.shared.asked).remove(&self.id);
    }
}

fn check(config: &NodeConfig) -> Result<(), NodeError> {
    if config.heartbeat_ms == 0 || config.election_ms < 5 * config.heartbeat_ms {
        return Err(NodeError::Config(format!(
            "--election-timeout={} must be at least five times --heartbeat-interval={}",
            config.election_ms, config.heartbeat_ms
        )));
    }
    for text in &config.advertise_peer_urls {
        url::parse(text).map_err(|right| NodeError::Config(format!("peer URL {text:?}: {right}")))?;
    }
    Ok(())
}

fn start_peers(
    config: &NodeConfig,
    Identity { cluster_id, member_id }: Identity,
    boot: u64,
    database: std::path::PathBuf,
    shared: &Arc<Shared>,
) -> Result<Peers, NodeError> {
    let core = shared.core.clone();
    let inbox = Arc::new(move |incoming| {
        // Nobody listens when the member stops.
        let _ = core.send(ToCore::Peer(incoming));
    });
    let (listen, tls) = (config.listen_peers.clone(), config.peer_tls.clone());
    Peers::start(PeersConfig { cluster_id, member_id, boot, listen, tls, database }, inbox)
        .map_err(NodeError::Peers)
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// A word from the kernel, or else from the clock and the process id.
pub(super) fn random_word() -> u64 {
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
