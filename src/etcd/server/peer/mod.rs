//! The members' own connections: raft messages, forwarded proposals, questions
//! to the leader, and snapshots.
//!
//! Each member dials every other and sends on what it dialed, so there is one
//! ordered stream for each direction. What cannot be sent now is dropped and
//! reported: raft repeats, and everything else has a deadline. The whole lot
//! runs on one thread of its own, so that load from clients never delays a
//! heartbeat.

pub mod frame;
mod incoming;
mod outgoing;
pub mod question;
mod queue;
pub mod snapshot;
pub mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use proa_etcd_client::tls::ClientTls;
use proa_etcd_replica::eraftpb::Message;
use tokio::sync::watch;

use crate::database::CopiedFile;
use crate::listener::Listen;
use crate::tls::{Gate, PeerTls, ServerTls};
use frame::{Frame, Handshake, Purpose};
use queue::Queue;

/// What peers bring.
pub enum Incoming {
    /// A frame of member `from`.
    Frame {
        /// Who sent it.
        from: u64,
        /// What it says.
        frame: Frame,
    },
    /// A whole snapshot lies where [`crate::database::start_receiving`] put it.
    Snapshot {
        /// Raft's message about it.
        message: Message,
        /// The files and their checksums.
        files: Vec<CopiedFile>,
        /// Others may be received once this is dropped.
        hold: snapshot::Receiving,
    },
    /// What was sent to this member may be lost.
    Unreachable(u64),
    /// A snapshot to this member was delivered, or not.
    SnapshotSent {
        /// The follower.
        to: u64,
        /// Whether it has all of it.
        delivered: bool,
    },
    /// Somebody who is no member asks this one.
    Question {
        /// What.
        question: question::Question,
        /// The address it asks from.
        source: std::net::IpAddr,
        /// Takes the answer.
        reply: question::Reply,
    },
    /// The others say that this member was removed.
    Removed,
}

/// Takes what peers bring; called on the peers' thread, must not block.
pub type Inbox = Arc<dyn Fn(Incoming) + Send + Sync>;

/// What the connections need to know.
#[derive(Clone, Debug)]
pub struct PeersConfig {
    /// Handshakes of other clusters are refused.
    pub cluster_id: u64,
    /// This member.
    pub member_id: u64,
    /// Drawn at each start.
    pub boot: u64,
    /// Where to accept peers.
    pub listen: Vec<Listen>,
    /// How connections are encrypted where an URL says `https`.
    pub tls: PeerTls,
    /// The database's folder, beside which snapshots are received.
    pub database: PathBuf,
}

/// The connections to and from all other members. Clones share them.
#[derive(Clone)]
pub struct Peers {
    shared: Arc<Shared>,
}

struct Shared {
    config: PeersConfig,
    inbox: Inbox,
    links: Mutex<BTreeMap<u64, Link>>,
    /// Members that were removed; their connections are refused with a reason.
    removed: Mutex<BTreeSet<u64>>,
    /// The latest connection of each peer.
    epochs: Mutex<BTreeMap<u64, (u64, u64)>>,
    /// Strangers that were complained about, by id and cluster.
    strangers: Mutex<BTreeSet<(u64, u64)>>,
    count: AtomicU64,
    receiving: Arc<AtomicBool>,
    /// Those who have not said who they are.
    gate: Gate,
    runtime: tokio::runtime::Handle,
    stop: watch::Sender<bool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// The way to one peer.
struct Link {
    queue: Arc<Queue>,
    urls: watch::Sender<Vec<String>>,
    task: tokio::task::AbortHandle,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Peers {
    /// Listens and starts the peers' thread.
    ///
    /// # Errors
    /// An address that cannot be listened on, named.
    pub fn start(config: PeersConfig, inbox: Inbox) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut listeners = Vec::new();
        for listen in &config.listen {
            let tls = encryption(listen, &config.tls)?;
            let _entered = runtime.enter();
            let listener = listen.bind().map_err(|error| {
                io::Error::new(
                    error.kind(),
                    format!("cannot listen for peers on {}: {error}", listen.address),
                )
            })?;
            listeners.push((listener, tls));
        }
        let (stop, mut stopped) = watch::channel(false);
        let shared = Arc::new(Shared {
            config,
            inbox,
            links: Mutex::default(),
            removed: Mutex::default(),
            epochs: Mutex::default(),
            strangers: Mutex::default(),
            count: AtomicU64::new(0),
            receiving: Arc::default(),
            gate: Gate::default(),
            runtime: runtime.handle().clone(),
            stop,
            thread: Mutex::default(),
        });
        for (listener, tls) in listeners {
            runtime.spawn(incoming::accept(listener, tls, Arc::downgrade(&shared)));
        }
        let thread = std::thread::Builder::new().name("etcd-peers".into()).spawn(move || {
            runtime.block_on(async { while stopped.changed().await.is_ok_and(|()| !*stopped.borrow()) {} });
            // Tasks hold the inbox, which holds the member: end them with the thread.
            runtime.shutdown_background();
        })?;
        *lock(&shared.thread) = Some(thread);
        Ok(Self { shared })
    }

    /// Makes the connections match `members`: id to peer URLs, without this
    /// member. New URLs take effect at the next dial.
    pub fn set_members(&self, members: &BTreeMap<u64, Vec<String>>) {
        let mut links = lock(&self.shared.links);
        links.retain(|id, link| {
            let stays = members.contains_key(id);
            if !stays {
                link.task.abort();
            }
            stays
        });
        for (id, urls) in members {
            match links.get(id) {
                Some(link) => {
                    // URLs may be unknown until a member publishes them; what
                    // was learned otherwise is better than nothing.
                    if !urls.is_empty() {
                        link.urls.send_if_modified(|now| {
                            let is_new = now != urls;
                            now.clone_from(urls);
                            is_new
                        });
                    }
                }
                None => {
                    let queue = Arc::<Queue>::default();
                    let (sender, receiver) = watch::channel(urls.clone());
                    let dialing = outgoing::run(Arc::downgrade(&self.shared), *id, receiver, queue.clone());
                    let task = self.shared.runtime.spawn(dialing).abort_handle();
                    links.insert(*id, Link { queue, urls: sender, task });
                }
            }
        }
    }

    /// Notes members whose connections are refused from now on.
    pub fn set_removed(&self, removed: impl IntoIterator<Item = u64>) {
        lock(&self.shared.removed).extend(removed);
    }

    /// Where a peer is dialed, if it is one.
    pub fn urls(&self, id: u64) -> Vec<String> {
        lock(&self.shared.links).get(&id).map(|link| link.urls.borrow().clone()).unwrap_or_default()
    }

    /// Replaces the URLs a peer is dialed at, learned from a beacon.
    pub fn set_urls(&self, id: u64, urls: Vec<String>) {
        if let Some(link) = lock(&self.shared.links).get(&id) {
            link.urls.send_if_modified(|now| {
                let is_new = *now != urls;
                *now = urls;
                is_new
            });
        }
    }

    /// Sends `frame`, or says that it was dropped.
    pub fn send(&self, to: u64, frame: &Frame) -> bool {
        let queue = lock(&self.shared.links).get(&to).map(|link| link.queue.clone());
        queue.is_some_and(|queue| queue.push(frame))
    }

    /// Sends the copy in `folder` with raft's `message`, on a thread of its
    /// own; the result arrives as [`Incoming::SnapshotSent`].
    pub fn send_snapshot(&self, message: Message, folder: PathBuf) {
        let to = message.to;
        let handshake = self.shared.handshake(to, Purpose::Snapshot);
        let (urls, inbox) = (self.urls(to), self.shared.inbox.clone());
        let tls = self.shared.config.tls.client.clone();
        let send = move || {
            let sent = snapshot::send(&urls, tls.as_ref(), handshake, &message, &folder);
            if let Err(error) = &sent {
                tracing::warn!("cannot send a snapshot to member {to:x}: {error}");
            }
            // The copy only costs space; the next one replaces it anyway.
            let _ = std::fs::remove_dir_all(&folder);
            inbox(Incoming::SnapshotSent { to, delivered: sent.is_ok() });
        };
        if let Err(error) = std::thread::Builder::new().name("etcd-snapshot".into()).spawn(send) {
            tracing::warn!("cannot start a thread to send a snapshot: {error}");
            (self.shared.inbox)(Incoming::SnapshotSent { to, delivered: false });
        }
    }

    /// Ends all connections and the thread.
    pub fn stop(&self) {
        self.shared.stop.send_replace(true);
        let thread = lock(&self.shared.thread).take();
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
        {
            // A panic there was printed already.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn handshake(&self, to: u64, purpose: Purpose) -> Handshake {
        Handshake {
            purpose,
            cluster_id: self.config.cluster_id,
            from: self.config.member_id,
            to,
            boot: self.config.boot,
            count: self.count.fetch_add(1, Ordering::Relaxed) + 1,
        }
    }
}

/// What a listener needs to accept peers.
fn encryption(listen: &Listen, tls: &PeerTls) -> io::Result<Option<Arc<ServerTls>>> {
    match (listen.encrypted, &tls.server) {
        (false, _) => Ok(None),
        (true, Some(server)) => Ok(Some(Arc::clone(server))),
        (true, None) => Err(io::Error::other(format!(
            "cannot listen on TLS for {}: KeyFile and CertFile are not presented",
            listen.address
        ))),
    }
}

/// What dialing an `https` URL needs.
fn dialing(tls: Option<&ClientTls>) -> io::Result<&ClientTls> {
    tls.ok_or_else(|| {
        io::Error::other("an https URL needs --peer-trusted-ca-file, --peer-cert-file or --peer-auto-tls")
    })
}
