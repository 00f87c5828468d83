//! What the handle and the threads of a member share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;
use proa_etcd_api::EtcdError;
use proa_etcd_api::etcdserverpb::Member;
use proa_etcd_replica::Position;
use proa_etcd_store::{Machine, Reply};
use tokio::sync::{oneshot, watch};

use super::changes::ChangeDone;
use super::types::{Answerer, AuthStamp, EventSink, MemberChange, ReadView, Status, TokenSink, V2Sink};
use crate::peer::{Incoming, Peers};

/// An answer somebody waits for.
pub(super) type Waiter<T> = oneshot::Sender<Result<T, EtcdError>>;

/// What the raft thread is told.
pub(super) enum ToCore {
    /// Propose this, from a client here. The bytes are a `Proposal`.
    Propose { id: u64, body: Bytes },
    /// Answer when what is committed now is applied.
    Read(Waiter<()>),
    /// Change the membership; only the leader can.
    Change(MemberChange, ChangeDone),
    /// Hand leadership to this member, if this one leads.
    Transfer { to: u64 },
    /// Hand leadership to the best of the others, if this one leads.
    HandOver,
    /// Something from a peer.
    Peer(Incoming),
    /// The write is on the disk; it ended with this snapshot in place.
    Synced { number: u64, installed: Option<Installed> },
    /// The database holds everything up to here. `done` are the ids of this
    /// member's proposals among it.
    Applied { position: Position, done: Vec<u64> },
    /// A snapshot could not be made for this follower.
    NoSnapshot { to: u64 },
    /// End.
    Stop,
}

/// A snapshot that replaced the database.
pub(super) struct Installed {
    pub(super) position: Position,
    pub(super) members: Vec<Member>,
    pub(super) removed: Vec<u64>,
}

/// Shared by the handle and all threads.
pub(super) struct Shared {
    pub(super) core: Sender<ToCore>,
    /// Clients of this member that wait for a proposal.
    pub(super) waiters: Mutex<HashMap<u64, Waiter<Reply>>>,
    /// Questions this member asked the leader.
    pub(super) asked: Mutex<HashMap<u64, oneshot::Sender<Result<Bytes, EtcdError>>>>,
    pub(super) next_id: AtomicU64,
    pub(super) view: ViewCell,
    pub(super) machine: Mutex<Machine>,
    pub(super) members: Mutex<Vec<Member>>,
    pub(super) status: watch::Sender<Status>,
    pub(super) auth: watch::Sender<AuthStamp>,
    pub(super) sink: OnceLock<Box<dyn EventSink>>,
    pub(super) tokens: OnceLock<TokenSink>,
    pub(super) v2_sink: OnceLock<V2Sink>,
    pub(super) answerer: OnceLock<Answerer>,
    pub(super) peers: OnceLock<Peers>,
    /// Bytes of the entries that were applied since the start; told of each MiB.
    pub(super) applied_bytes: watch::Sender<u64>,
    /// The log's file system is nearly full: no more proposals.
    pub(super) is_disk_low: AtomicBool,
    /// The member was told to end.
    pub(super) is_ending: AtomicBool,
    pub(super) threads: Mutex<Vec<JoinHandle<()>>>,
    /// What a proposal may take, in milliseconds.
    pub(super) request_timeout_ms: u64,
}

/// Locks; a poisoned lock is one whose holder panicked, and what it guards is
/// replaced whole, so it is never half done.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The current read view; empty only while a snapshot replaces the database.
#[derive(Default)]
pub(super) struct ViewCell {
    view: Mutex<Option<Arc<ReadView>>>,
    is_there: Condvar,
}

impl ViewCell {
    pub(super) fn set(&self, view: Option<Arc<ReadView>>) {
        *lock(&self.view) = view;
        self.is_there.notify_all();
    }

    /// Whether a snapshot is replacing the database.
    pub(super) fn is_away(&self) -> bool {
        lock(&self.view).is_none()
    }

    /// The newest view; waits out a replacement, which takes milliseconds.
    pub(super) fn get(&self) -> Arc<ReadView> {
        if let Some(view) = &*lock(&self.view) {
            return view.clone();
        }
        // A worker of a runtime hands its other tasks on before it waits.
        match tokio::runtime::Handle::try_current().map(|handle| handle.runtime_flavor()) {
            Ok(tokio::runtime::RuntimeFlavor::MultiThread) => tokio::task::block_in_place(|| self.wait()),
            Ok(_) | Err(_) => self.wait(),
        }
    }

    fn wait(&self) -> Arc<ReadView> {
        let mut view = lock(&self.view);
        loop {
            if let Some(view) = &*view {
                return view.clone();
            }
            view = self.is_there.wait(view).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Shared {
    /// The member is over: says why and lets every waiter go.
    pub(super) fn fail(&self, why: &str) {
        tracing::error!("{why}");
        self.is_ending.store(true, Ordering::Relaxed);
        self.status.send_modify(|status| {
            status.is_leader = false;
            status.leader_id = 0;
            status.stopped.get_or_insert_with(|| why.into());
        });
        self.release_waiters();
        // The threads end; the handle stays usable for its last words.
        let _ = self.core.send(ToCore::Stop);
    }

    pub(super) fn release_waiters(&self) {
        for (_, waiter) in lock(&self.waiters).drain() {
            let _ = waiter.send(Err(EtcdError::Stopped));
        }
        for (_, waiter) in lock(&self.asked).drain() {
            let _ = waiter.send(Err(EtcdError::Stopped));
        }
    }
}
