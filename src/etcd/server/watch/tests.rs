//! The hub against a store in memory: whatever is slow, late or dropped, each
//! watcher sees every revision once and in order.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use proa_etcd_api::EtcdError;
use proa_etcd_api::command::{Command, command::Op};
use proa_etcd_api::etcdserverpb::{
    CompactionRequest, PutRequest, ResponseHeader, WatchCreateRequest, WatchResponse,
};
use proa_etcd_api::mvccpb::Event;
use proa_etcd_store::{Head, History, Machine, MemView, Wants, Writes};
use prost::Message as _;
use tokio::sync::mpsc;

use super::groups::Interest;
use super::hub::{Delivery, Hub, Outlet, Past, Sink, channel};

const PATIENCE: Duration = Duration::from_secs(30);

struct Store {
    inner: Mutex<(Machine, MemView)>,
}

impl Store {
    fn new() -> Arc<Self> {
        let view = MemView::default();
        Arc::new(Self { inner: Mutex::new((Machine::load(&view).unwrap(), view)) })
    }

    fn apply(&self, op: Op) -> Vec<Event> {
        let mut inner = self.inner.lock().unwrap();
        let (machine, view) = &mut *inner;
        let mut writes = Writes::default();
        let outcome = machine.apply(view, &mut writes, &Command { op: Some(op) });
        outcome.reply.unwrap();
        view.apply(&writes);
        outcome.events
    }

    fn put(&self, key: &'static str) -> Arc<Vec<Event>> {
        let request = PutRequest { key: key.into(), value: "v".into(), ..PutRequest::default() };
        Arc::new(self.apply(Op::Put(request)))
    }
}

impl Past for Store {
    fn head(&self) -> Head {
        self.inner.lock().unwrap().0.head()
    }

    fn header(&self, revision: i64) -> ResponseHeader {
        ResponseHeader { revision, ..ResponseHeader::default() }
    }

    fn events(&self, from: i64, limit: usize, wants: &dyn Wants) -> Result<History, EtcdError> {
        let inner = self.inner.lock().unwrap();
        let (machine, view) = &*inner;
        proa_etcd_store::events(view, machine.head(), from, machine.head().revision, limit, wants)
    }
}

fn start() -> (Arc<Store>, Sink, Arc<Hub>) {
    let store = Store::new();
    let (sink, source) = channel();
    let hub = Hub::start(Arc::clone(&store) as Arc<dyn Past>, source);
    (store, sink, hub)
}

/// A watcher of every key with a queue of `places`.
fn watch(hub: &Arc<Hub>, from: i64, places: usize) -> mpsc::Receiver<Delivery> {
    watch_with(hub, from, places, false)
}

fn watch_with(hub: &Arc<Hub>, from: i64, places: usize, prev_kv: bool) -> mpsc::Receiver<Delivery> {
    let request = WatchCreateRequest { range_end: vec![0].into(), prev_kv, ..WatchCreateRequest::default() };
    let interest = Interest::new(&request).unwrap();
    let (queue, deliveries) = mpsc::channel(places);
    let id = hub.add(interest, from, Outlet { queue, watch_id: 1, fragment_bytes: None });
    hub.release(id);
    deliveries
}

async fn next(deliveries: &mut mpsc::Receiver<Delivery>) -> WatchResponse {
    let delivery = tokio::time::timeout(PATIENCE, deliveries.recv()).await.unwrap().unwrap();
    WatchResponse::decode(delivery.answer.encode_to_vec().as_slice()).unwrap()
}

async fn revisions(deliveries: &mut mpsc::Receiver<Delivery>, up_to: i64) -> Vec<i64> {
    let mut seen = Vec::new();
    while seen.last() != Some(&up_to) {
        let answer = next(deliveries).await;
        assert!(!answer.canceled, "{answer:?}");
        seen.extend(answer.events.iter().map(|event| event.kv.as_ref().unwrap().mod_revision));
    }
    seen
}

#[tokio::test]
async fn the_past_the_present_and_the_future_are_one_stream() {
    let (store, sink, hub) = start();
    for _ in 0..3 {
        sink.announce(store.put("a"), true);
    }
    let (mut past, mut present, mut future) = (watch(&hub, 2, 64), watch(&hub, 0, 64), watch(&hub, 6, 64));
    for _ in 0..3 {
        sink.announce(store.put("a"), true);
    }
    assert_eq!(revisions(&mut past, 7).await, [2, 3, 4, 5, 6, 7]);
    assert_eq!(revisions(&mut present, 7).await, [5, 6, 7]);
    assert_eq!(revisions(&mut future, 7).await, [6, 7]);
}

#[tokio::test]
async fn a_slow_reader_and_a_full_sink_miss_nothing() {
    const PUTS: i64 = 10_000;
    let (store, sink, hub) = start();
    let (mut slow, mut other) = (watch(&hub, 2, 1), watch(&hub, 0, 16));
    // More than the sink holds: the distributor does not run meanwhile.
    for _ in 0..PUTS {
        sink.announce(store.put("a"), true);
    }
    let want: Vec<i64> = (2..PUTS + 2).collect();
    assert_eq!(revisions(&mut slow, PUTS + 1).await, want);
    assert_eq!(revisions(&mut other, PUTS + 1).await, want);
    sink.announce(store.put("a"), true);
    assert_eq!(revisions(&mut slow, PUTS + 2).await, [PUTS + 2]);
}

#[tokio::test]
async fn a_snapshot_is_heard_of_without_another_write() {
    let (store, sink, hub) = start();
    sink.announce(store.put("a"), true);
    let mut watcher = watch(&hub, 0, 64);
    // What a snapshot brings is in the state and was never announced.
    store.put("a");
    store.put("a");
    sink.replaced(4);
    assert_eq!(revisions(&mut watcher, 4).await.last(), Some(&4));
}

#[tokio::test]
async fn lost_history_cancels_with_the_revision_that_is_left() {
    let (store, sink, hub) = start();
    for _ in 0..5 {
        sink.announce(store.put("a"), true);
    }
    // Once this one has seen them, later watchers find them only on the disk.
    revisions(&mut watch(&hub, 2, 64), 6).await;
    store.apply(Op::Compaction(CompactionRequest { revision: 5, physical: false }));
    let answer = next(&mut watch(&hub, 2, 4)).await;
    assert!(answer.canceled);
    assert_eq!((answer.compact_revision, answer.events.len()), (5, 0));
}

#[tokio::test]
async fn what_was_there_before_is_told_also_to_who_came_after_it_was_asked_for() {
    let (store, sink, hub) = start();
    assert!(!sink.wants_previous());
    // Nobody wanted it when these were applied.
    store.inner.lock().unwrap().0.tell_previous(false);
    let without = [store.put("a"), store.put("a")];
    let (mut plain, mut curious) = (watch(&hub, 2, 64), watch_with(&hub, 2, 64, true));
    without.into_iter().for_each(|events| sink.announce(events, false));
    assert!(sink.wants_previous());
    store.inner.lock().unwrap().0.tell_previous(true);
    sink.announce(store.put("a"), true);
    let mut seen = Vec::new();
    while seen.len() < 3 {
        seen.extend(next(&mut curious).await.events);
    }
    let before: Vec<i64> =
        seen.iter().map(|event| event.prev_kv.as_ref().map_or(0, |kv| kv.mod_revision)).collect();
    assert_eq!(before, [0, 2, 3]);
    assert_eq!(revisions(&mut plain, 4).await, [2, 3, 4]);
    drop(curious);
    // Who is gone is found out with the next event.
    sink.announce(store.put("a"), true);
    revisions(&mut plain, 5).await;
    tokio::time::timeout(PATIENCE, async {
        while sink.wants_previous() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .unwrap();
}
