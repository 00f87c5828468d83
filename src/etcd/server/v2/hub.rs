//! Who waits for changes of the v2 tree, by what is waited for.
//!
//! The applying thread offers each event to those it concerns and never
//! waits: whose queue is full misses the event, is told from which index on,
//! and reads what is missing from the history on the disk.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proa_etcd_api::command::V2Event;
use proa_etcd_api::v2::path;
use proa_etcd_store::v2::{Rules, Watch};
use tokio::sync::{Notify, mpsc};

/// Clients that may wait at a time. Each takes about 1.5 KiB with its
/// connection's share: 24 MiB.
const MAX_WAITING: usize = 16_384;
/// Events of one waiter in memory. They are shared with all others, and what
/// does not fit is on the disk.
const QUEUE_EVENTS: usize = 8;

/// Everybody who waits.
#[derive(Default)]
pub struct Hub {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    last_id: u64,
    waiting: usize,
    by_path: BTreeMap<Vec<u8>, Vec<Waiter>>,
    /// The newest index that was offered.
    offered: u64,
}

struct Waiter {
    id: u64,
    watch: Watch,
    queue: mpsc::Sender<Arc<V2Event>>,
    missed: Arc<Missed>,
}

/// What did not fit the queue.
#[derive(Default)]
struct Missed {
    /// The first missed index; 0 for none.
    from: AtomicU64,
    wake: Notify,
}

impl Missed {
    fn miss(&self, index: u64) {
        // The first one counts; whoever reads it takes all from there.
        let _ = self.from.compare_exchange(0, index, Ordering::AcqRel, Ordering::Acquire);
        self.wake.notify_one();
    }
}

/// A place among those who wait, given up when dropped.
pub struct Place {
    hub: Arc<Hub>,
    id: u64,
    path: Vec<u8>,
    queue: mpsc::Receiver<Arc<V2Event>>,
    missed: Arc<Missed>,
}

/// What comes next for a waiter.
#[derive(Debug)]
pub enum Next {
    /// This event.
    Event(Arc<V2Event>),
    /// Everything from this index on has to be read from the history.
    Missed(u64),
    /// Nothing any more: the member stops.
    End,
}

impl Hub {
    /// Takes a place; `None` when there are too many already.
    pub fn join(self: &Arc<Self>, watch: &Watch) -> Option<Place> {
        let (sender, queue) = mpsc::channel(QUEUE_EVENTS);
        let missed = Arc::new(Missed::default());
        let mut state = self.state();
        if state.waiting >= MAX_WAITING {
            return None;
        }
        state.waiting += 1;
        state.last_id += 1;
        let id = state.last_id;
        let waiter = Waiter { id, watch: watch.clone(), queue: sender, missed: Arc::clone(&missed) };
        state.by_path.entry(watch.path.clone()).or_default().push(waiter);
        Some(Place { hub: Arc::clone(self), id, path: watch.path.clone(), queue, missed })
    }

    /// Offers an event, which can be read already, to those it concerns.
    pub fn announce(&self, event: &Arc<V2Event>) {
        let Some(node) = &event.node else { return };
        let mut state = self.state();
        state.offered = node.modified_index;
        let offer = |waiters: &Vec<Waiter>| {
            for waiter in waiters.iter().filter(|waiter| waiter.watch.concerns(event, Rules::Live)) {
                if waiter.queue.try_send(Arc::clone(event)).is_err() {
                    waiter.missed.miss(node.modified_index);
                }
            }
        };
        for step in path::steps(&node.key) {
            state.by_path.get(step).into_iter().for_each(offer);
        }
        if event.prev_node.as_ref().is_some_and(|prev| prev.dir) {
            // Those below are concerned by the end of the directory.
            let below = [&node.key[..], b"/"].concat();
            let inside = state.by_path.range::<[u8], _>((Bound::Included(&below[..]), Bound::Unbounded));
            inside.take_while(|(at, _)| at.starts_with(&below)).for_each(|(_, waiters)| offer(waiters));
        }
    }

    /// Tells everybody that events were skipped: a snapshot was installed.
    pub fn replaced(&self) {
        let state = self.state();
        let waiters = state.by_path.values().flatten();
        waiters.for_each(|waiter| waiter.missed.miss(state.offered + 1));
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.state().waiting
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing above panics halfway through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// The next event that was offered, or what was missed.
    pub async fn next(&mut self) -> Next {
        loop {
            let event = tokio::select! {
                event = self.queue.recv() => event,
                () = self.missed.wake.notified() => self.queue.try_recv().ok(),
            };
            let missed = self.missed.from.load(Ordering::Acquire);
            let index = |event: &V2Event| event.node.as_ref().map_or(0, |node| node.modified_index);
            match event {
                Some(event) if missed == 0 || index(&event) < missed => {
                    if missed != 0 {
                        // What was queued before comes first; then look again.
                        self.missed.wake.notify_one();
                    }
                    return Next::Event(event);
                }
                // Later ones are read from the disk with what was missed.
                Some(_) | None if missed != 0 => {
                    self.missed.from.store(0, Ordering::Release);
                    return Next::Missed(missed);
                }
                Some(event) => return Next::Event(event),
                None if self.queue.is_closed() => return Next::End,
                None => {}
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.hub.state();
        if let Some(waiters) = state.by_path.get_mut(&self.path) {
            waiters.retain(|waiter| waiter.id != self.id);
            if waiters.is_empty() {
                state.by_path.remove(&self.path);
            }
            state.waiting -= 1;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;
    use proa_etcd_api::command::{V2Node, v2_event::Action};

    fn event(index: u64, key: &str, action: Action, dir: bool) -> Arc<V2Event> {
        let node =
            V2Node { key: key.as_bytes().to_vec().into(), modified_index: index, dir, ..V2Node::default() };
        Arc::new(V2Event {
            action: action as i32,
            node: Some(node.clone()),
            prev_node: Some(node),
            refresh: false,
        })
    }

    fn watch(path: &str, recursive: bool) -> Watch {
        Watch { path: path.as_bytes().to_vec(), recursive }
    }

    async fn index(place: &mut Place) -> u64 {
        match place.next().await {
            Next::Event(event) => event.node.as_ref().unwrap().modified_index,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn events_go_to_those_they_concern() {
        let hub = Arc::new(Hub::default());
        let mut file = hub.join(&watch("/1/a/b", false)).unwrap();
        let mut all = hub.join(&watch("/1", true)).unwrap();
        let mut dir = hub.join(&watch("/1/a", false)).unwrap();
        hub.announce(&event(4, "/1/a/c", Action::Set, false));
        hub.announce(&event(5, "/1/a/_b", Action::Set, false));
        hub.announce(&event(6, "/1/a/b", Action::Set, false));
        hub.announce(&event(7, "/1/a", Action::Delete, true));
        assert_eq!((index(&mut file).await, index(&mut file).await), (6, 7));
        assert_eq!((index(&mut all).await, index(&mut all).await, index(&mut all).await), (4, 6, 7));
        assert_eq!(index(&mut dir).await, 7);
        assert_eq!(hub.waiting(), 3);
        drop((file, all, dir));
        assert_eq!(hub.waiting(), 0);
    }

    #[tokio::test]
    async fn who_is_slow_is_told_what_it_missed() {
        let hub = Arc::new(Hub::default());
        let mut place = hub.join(&watch("/1", true)).unwrap();
        let most = QUEUE_EVENTS as u64;
        (1..=most + 3).for_each(|index| hub.announce(&event(index, "/1/a", Action::Set, false)));
        for want in 1..=most {
            assert_eq!(index(&mut place).await, want);
        }
        assert!(matches!(place.next().await, Next::Missed(from) if from == most + 1));
        hub.announce(&event(most + 4, "/1/a", Action::Set, false));
        assert_eq!(index(&mut place).await, most + 4);
        hub.replaced();
        assert!(matches!(place.next().await, Next::Missed(from) if from == most + 5));
    }
}
