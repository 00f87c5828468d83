//! Every watcher of this member, and who feeds it.
//!
//! A watcher is either *synced*: the distributor hands it each revision as it
//! is applied; or *behind*: a task of its own reads history from the disk until
//! it has caught up. A watcher whose queue is full becomes behind, so a slow
//! reader costs nobody else anything and still misses nothing. The hand-over is
//! under one lock: all revisions up to `distributed` were given to synced
//! watchers, and a watcher joins them only when it needs nothing older.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use proa_etcd_api::EtcdError;
use proa_etcd_api::etcdserverpb::{ResponseHeader, WatchResponse};
use proa_etcd_api::mvccpb::Event;
use proa_etcd_store::{Head, History, Wants};
use tokio::sync::{Notify, mpsc};

use super::answer::{Answer, encode_event};
use super::groups::{Groups, Interest};

/// Revisions between the applying thread and the distributor. When it is full
/// everybody catches up from the disk.
const SINK_REVISIONS: usize = 4096;
/// Changes that one turn of catching up looks at: about a millisecond of work.
const CHUNK_CHANGES: usize = 500;
/// How long a watcher waits for a revision that was announced but cannot be
/// read yet; the two happen within one turn of the applying thread.
const PUBLISH_PAUSE: Duration = Duration::from_millis(2);

/// The history that watchers catch up from.
pub trait Past: Send + Sync + 'static {
    /// How far the readable state is.
    fn head(&self) -> Head;

    /// The header of an answer at `revision`.
    fn header(&self, revision: i64) -> ResponseHeader;

    /// Events of `from` up to the newest readable revision, as many as
    /// `limit` changes hold.
    ///
    /// # Errors
    /// [`EtcdError::Compacted`].
    fn events(&self, from: i64, limit: usize, wants: &dyn Wants) -> Result<History, EtcdError>;
}

/// What a stream gets for one of its watchers.
#[derive(Debug)]
pub struct Delivery {
    /// The answer, whole.
    pub answer: Answer,
    /// Cut it into pieces of about this many bytes.
    pub fragment_bytes: Option<usize>,
    /// Whose events these are; `None` for what says nothing about keys.
    pub watcher: Option<WatcherId>,
}

/// Where one watcher's deliveries go.
#[derive(Clone, Debug)]
pub struct Outlet {
    /// The stream's queue, shared by its watchers.
    pub queue: mpsc::Sender<Delivery>,
    /// The watcher's number on that stream.
    pub watch_id: i64,
    /// As [`Delivery::fragment_bytes`].
    pub fragment_bytes: Option<usize>,
}

/// A watcher's number on this member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WatcherId(u64);

struct Watcher {
    interest: Interest,
    outlet: Outlet,
    /// The first revision that it has not got.
    next: i64,
    synced: bool,
}

struct State {
    /// Synced watchers have everything up to this revision.
    distributed: i64,
    last_id: u64,
    watchers: BTreeMap<WatcherId, Watcher>,
    /// The synced ones.
    groups: Groups<WatcherId>,
    /// How many want to know what was there before, for [`Sink::wants_previous`].
    wanting_previous: Arc<AtomicUsize>,
}

/// See the module.
pub struct Hub {
    past: Arc<dyn Past>,
    state: Mutex<State>,
}

/// The events of one or more revisions, and whether they tell what was there before.
type Announced = (Arc<Vec<Event>>, bool);

/// The end of the hub that the applying thread holds: never blocks.
pub struct Sink {
    revisions: mpsc::Sender<Announced>,
    latest: Arc<AtomicI64>,
    overflow: Arc<Notify>,
    wanting_previous: Arc<AtomicUsize>,
}

impl Sink {
    /// Whether there are watchers of what was there before. One that comes after this
    /// was asked reads from the disk what the events do not tell.
    pub fn wants_previous(&self) -> bool {
        self.wanting_previous.load(Ordering::Relaxed) > 0
    }

    /// Announces applied events, in order of revision, and whether they tell what was
    /// there before.
    pub fn announce(&self, events: Arc<Vec<Event>>, with_previous: bool) {
        let Some(last) = events.last() else { return };
        self.latest.store(revision_of(last), Ordering::Release);
        if self.revisions.try_send((events, with_previous)).is_err() {
            self.overflow.notify_one();
        }
    }

    /// Announces that a snapshot has replaced the state, which is now at
    /// `revision`: what it skipped is to be read from the disk.
    pub fn replaced(&self, revision: i64) {
        self.latest.store(revision, Ordering::Release);
        self.overflow.notify_one();
    }
}

/// The distributor's end of a [`Sink`].
pub struct Source {
    revisions: mpsc::Receiver<Announced>,
    latest: Arc<AtomicI64>,
    overflow: Arc<Notify>,
    wanting_previous: Arc<AtomicUsize>,
}

/// Both ends of the way from the applying thread to the hub.
pub fn channel() -> (Sink, Source) {
    let (sender, receiver) = mpsc::channel(SINK_REVISIONS);
    let source = Source {
        revisions: receiver,
        latest: Arc::default(),
        overflow: Arc::default(),
        wanting_previous: Arc::default(),
    };
    let sink = Sink {
        revisions: sender,
        latest: Arc::clone(&source.latest),
        overflow: Arc::clone(&source.overflow),
        wanting_previous: Arc::clone(&source.wanting_previous),
    };
    (sink, source)
}

impl Hub {
    /// A hub whose distributor runs until the [`Sink`] is dropped.
    ///
    /// The sink must be connected already, so that nothing falls between it
    /// and `past`.
    pub fn start(past: Arc<dyn Past>, source: Source) -> Arc<Self> {
        let distributed = past.head().revision;
        let state = State {
            distributed,
            last_id: 0,
            watchers: BTreeMap::new(),
            groups: Groups::default(),
            wanting_previous: Arc::clone(&source.wanting_previous),
        };
        let hub = Arc::new(Self { past, state: Mutex::new(state) });
        tokio::spawn(distribute(Arc::clone(&hub), source));
        hub
    }

    /// The header of an answer at `revision`.
    pub fn header(&self, revision: i64) -> ResponseHeader {
        self.past.header(revision)
    }

    /// The newest revision that a watcher may have seen.
    pub fn revision(&self) -> i64 {
        self.past.head().revision.max(self.state().distributed)
    }

    /// Adds a watcher from revision `from` on; 0 means from now on. A negative
    /// one is compacted, or the beginning, as in etcd.
    /// It gets nothing before [`Hub::release`].
    pub fn add(&self, interest: Interest, from: i64, outlet: Outlet) -> WatcherId {
        let readable = self.past.head().revision;
        let mut state = self.state();
        state.wanting_previous.fetch_add(usize::from(interest.prev_kv), Ordering::Relaxed);
        state.last_id += 1;
        let id = WatcherId(state.last_id);
        let next = if from == 0 { readable.max(state.distributed) + 1 } else { from };
        state.watchers.insert(id, Watcher { interest, outlet, next, synced: false });
        id
    }

    /// Starts the deliveries of a watcher that was added.
    pub fn release(self: &Arc<Self>, id: WatcherId) {
        if !self.advance(id, None) {
            tokio::spawn(catch_up(Arc::clone(self), id));
        }
    }

    /// Ends a watcher; one that has ended is no mistake.
    pub fn remove(&self, id: WatcherId) {
        self.state().remove(id);
    }

    /// How many watchers there are, and how many of them are behind.
    pub fn counts(&self) -> (usize, usize) {
        let state = self.state();
        let behind = state.watchers.values().filter(|watcher| !watcher.synced).count();
        (state.watchers.len(), behind)
    }

    /// Reports on the queue how far `watchers` all are, as one answer with
    /// `watch_id`; `false` if one of them is behind and cannot say.
    pub fn report_progress(&self, watchers: &[WatcherId], outlet: &Outlet) -> bool {
        let state = self.state();
        let behind = |id: &WatcherId| state.watchers.get(id).is_some_and(|watcher| !watcher.synced);
        if watchers.iter().any(behind) {
            return false;
        }
        let header = Some(self.past.header(state.distributed));
        let answer = WatchResponse { header, watch_id: outlet.watch_id, ..WatchResponse::default() };
        // Under the lock, so that no later revision overtakes the report.
        let delivery = Delivery { answer: Answer::new(answer), fragment_bytes: None, watcher: None };
        outlet.queue.try_send(delivery).is_ok()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing below panics halfway through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records how far a watcher has come; `true` when it needs no task any
    /// more, because it is synced or gone.
    fn advance(&self, id: WatcherId, next: Option<i64>) -> bool {
        let mut guard = self.state();
        let state = &mut *guard;
        let Some(watcher) = state.watchers.get_mut(&id) else { return true };
        watcher.next = next.unwrap_or(watcher.next);
        if watcher.next > state.distributed {
            watcher.synced = true;
            state.groups.insert(&watcher.interest, id);
        }
        watcher.synced
    }

    /// Hands the events of one revision to the synced watchers; who wants to know
    /// what was there before is behind if the events do not tell.
    fn deliver(self: &Arc<Self>, revision: i64, events: &[Event], with_previous: bool) {
        let behind = {
            let mut state = self.state();
            if revision <= state.distributed {
                return;
            }
            if revision > state.distributed + 1 {
                state.unsync_all(revision)
            } else {
                let header = self.past.header(revision);
                state.deliver(header, revision, events, with_previous)
            }
        };
        self.send_catching_up(behind);
    }

    /// After revisions were dropped on the way: `latest` is the newest of them.
    fn recover(self: &Arc<Self>, latest: i64) {
        let behind = {
            let mut state = self.state();
            if latest > state.distributed { state.unsync_all(latest) } else { Vec::new() }
        };
        self.send_catching_up(behind);
    }

    fn send_catching_up(self: &Arc<Self>, behind: Vec<WatcherId>) {
        for id in behind {
            tokio::spawn(catch_up(Arc::clone(self), id));
        }
    }
}

impl State {
    fn remove(&mut self, id: WatcherId) {
        if let Some(watcher) = self.watchers.remove(&id) {
            self.groups.remove(&watcher.interest, id);
            self.wanting_previous.fetch_sub(usize::from(watcher.interest.prev_kv), Ordering::Relaxed);
        }
    }

    /// Takes a watcher out of the synced ones; it needs `next` from the disk.
    fn unsync(&mut self, id: WatcherId, next: i64) {
        if let Some(watcher) = self.watchers.get_mut(&id) {
            watcher.synced = false;
            watcher.next = watcher.next.max(next);
            self.groups.remove(&watcher.interest, id);
        }
    }

    /// Declares everything up to `revision` distributed without having done
    /// so; returns who now has to catch up.
    fn unsync_all(&mut self, revision: i64) -> Vec<WatcherId> {
        let next = self.distributed + 1;
        let is_short = |watcher: &Watcher| watcher.synced && watcher.next <= revision;
        let short = self.watchers.iter().filter(|(_, watcher)| is_short(watcher));
        let ids: Vec<WatcherId> = short.map(|(id, _)| *id).collect();
        ids.iter().for_each(|id| self.unsync(*id, next));
        self.distributed = revision;
        ids
    }

    /// Returns who is behind now.
    fn deliver(
        &mut self,
        header: ResponseHeader,
        revision: i64,
        events: &[Event],
        with_previous: bool,
    ) -> Vec<WatcherId> {
        let (mut behind, mut closed) = (Vec::new(), Vec::new());
        for (interest, (ids, places)) in self.groups.wanting(events) {
            if interest.prev_kv && !with_previous {
                behind.extend(ids.iter().filter(|id| self.watchers[id].next <= revision));
                continue;
            }
            let encoded: Vec<Bytes> =
                places.iter().map(|place| encode_event(&interest.cut(&events[*place]))).collect();
            for id in ids {
                let watcher = &self.watchers[id];
                if watcher.next > revision {
                    continue;
                }
                match watcher.outlet.queue.try_send(watcher.outlet.events(*id, header, &encoded)) {
                    Ok(()) => {}
                    Err(mpsc::error::TrySendError::Full(_)) => behind.push(*id),
                    Err(mpsc::error::TrySendError::Closed(_)) => closed.push(*id),
                }
            }
        }
        closed.into_iter().for_each(|id| self.remove(id));
        behind.iter().for_each(|id| self.unsync(*id, revision));
        self.distributed = revision;
        behind
    }
}

impl Outlet {
    fn events(&self, id: WatcherId, header: ResponseHeader, encoded: &[Bytes]) -> Delivery {
        let answer = Answer::events(header, self.watch_id, encoded);
        Delivery { answer, fragment_bytes: self.fragment_bytes, watcher: Some(id) }
    }

    /// The end of a watcher that needs what is compacted; etcd gives no reason
    /// besides the revision.
    fn cancelled(&self, header: ResponseHeader, compact_revision: i64) -> Delivery {
        let answer = WatchResponse {
            header: Some(header),
            watch_id: self.watch_id,
            canceled: true,
            compact_revision,
            ..WatchResponse::default()
        };
        Delivery { answer: Answer::new(answer), fragment_bytes: None, watcher: None }
    }
}

fn revision_of(event: &Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

async fn distribute(hub: Arc<Hub>, mut source: Source) {
    loop {
        tokio::select! {
            events = source.revisions.recv() => {
                let Some((events, with_previous)) = events else { return };
                for same in events.chunk_by(|a, b| revision_of(a) == revision_of(b)) {
                    hub.deliver(revision_of(&same[0]), same, with_previous);
                }
            }
            () = source.overflow.notified() => hub.recover(source.latest.load(Ordering::Acquire)),
        }
    }
}

/// Feeds one watcher from the disk until it is synced or gone.
async fn catch_up(hub: Arc<Hub>, id: WatcherId) {
    loop {
        let (interest, outlet, next) = match hub.state().watchers.get(&id) {
            Some(watcher) => (watcher.interest.clone(), watcher.outlet.clone(), watcher.next),
            None => return,
        };
        let past = Arc::clone(&hub.past);
        let reading = tokio::task::spawn_blocking(move || {
            let readable = past.head().revision;
            if next > readable {
                return (Ok(History { revisions: Vec::new(), next }), interest);
            }
            (past.events(next, CHUNK_CHANGES, &interest), interest)
        });
        let Ok((history, interest)) = reading.await else { return };
        let history = match history {
            Ok(history) => history,
            // `Compacted` is all that reading the past can be refused with.
            Err(_) => {
                hub.remove(id);
                let head = hub.past.head();
                let header = hub.past.header(head.revision);
                // A stream that is gone needs no farewell.
                let _ = outlet.queue.send(outlet.cancelled(header, head.compact_revision)).await;
                return;
            }
        };
        let wanted = history.revisions.iter().flat_map(|(_, events)| events);
        let encoded: Vec<Bytes> = wanted
            .filter(|event| interest.passes(event.r#type()))
            .map(|event| encode_event(&interest.cut(event)))
            .collect();
        let header = hub.past.header(history.next - 1);
        if !encoded.is_empty() && outlet.queue.send(outlet.events(id, header, &encoded)).await.is_err() {
            return hub.remove(id);
        }
        if hub.advance(id, Some(history.next)) {
            return;
        }
        if history.next == next {
            tokio::time::sleep(PUBLISH_PAUSE).await;
        }
    }
}
