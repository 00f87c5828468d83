//! Compaction, what it forbids and what it leaves.

use super::*;
use proa_etcd_store::{events, hash_kv, scrub};

fn scrubbed(mut store: Store) -> Store {
    loop {
        let step = scrub(&store.view, store.machine.head(), 3);
        store.view.apply(&step.writes);
        if step.done {
            return store;
        }
    }
}

#[test]
fn only_the_past_and_the_present_can_be_compacted() {
    let start = || Store::after([put("a", "1"), put("a", "2"), put("a", "3"), compact(3)]);
    assert_eq!(start().refused(compact(3)), EtcdError::Compacted);
    assert_eq!(start().refused(compact(0)), EtcdError::Compacted);
    assert_eq!(start().refused(compact(5)), EtcdError::FutureRevision);
    let reply = start().apply(compact(4)).reply.unwrap();
    assert_eq!(header_revision(&reply), 4);
    // A store that was never compacted can be compacted at nothing, once.
    let mut fresh = Store::after([compact(0)]);
    assert_eq!(fresh.refused(compact(0)), EtcdError::Compacted);
}

#[test]
fn what_was_compacted_cannot_be_read_or_watched() {
    let store = Store::after([put("a", "1"), put("a", "2"), put("a", "3"), compact(3)]);
    for store in [&scrubbed(Store { machine: store.machine.clone(), view: store.view.clone() }), &store] {
        let at = |revision| store.range(&RangeRequest { revision, ..read("a") }).map(|read| show(&read.kvs));
        assert_eq!(at(2), Err(EtcdError::Compacted));
        assert_eq!(at(3), Ok("a=2".to_owned()));
        assert_eq!(at(4), Ok("a=3".to_owned()));
        assert_eq!(at(5), Err(EtcdError::FutureRevision));
        let head = store.machine.head();
        let since = |from| {
            events(&store.view, head, from, 9, 9, &|_: &[u8]| true).map(|history| history.revisions.len())
        };
        assert_eq!(since(2), Err(EtcdError::Compacted));
        assert_eq!(since(3), Ok(2), "the compact revision itself can be watched");
        assert_eq!(since(5), Ok(0));
        assert_eq!(hash_kv(&store.view, head, 2), Err(EtcdError::Compacted));
        assert_eq!(hash_kv(&store.view, head, 5), Err(EtcdError::FutureRevision));
    }
}

#[test]
fn a_deletion_at_the_compact_revision_is_still_told() {
    let store = scrubbed(Store::after([put("a", "1"), delete("a", ""), compact(3)]));
    let history = events(&store.view, store.machine.head(), 3, 3, 9, &|_: &[u8]| true).unwrap();
    let told = &history.revisions[0].1[0];
    assert_eq!((told.r#type, &told.prev_kv, history.next), (1, &None, 4));
}

#[test]
fn scrubbing_keeps_only_what_can_be_read() {
    let entries =
        |store: &Store, tag: &[u8]| store.view.entries().filter(|(key, _)| key.starts_with(tag)).count();
    let mut store = Store::after((0..50).map(|round| put(["a", "b"][round % 2], "x")));
    store.apply(delete("a", "")).reply.unwrap();
    store.apply(put("c", "x")).reply.unwrap();
    assert_eq!((entries(&store, b"K"), entries(&store, b"R")), (52, 52));
    store.apply(compact(53)).reply.unwrap();
    let mut store = scrubbed(store);
    assert_eq!((entries(&store, b"K"), entries(&store, b"R")), (2, 1));
    assert_eq!(store.dump(), "b=x c=x");
    // Nothing to do: nothing to write.
    assert!(scrub(&store.view, store.machine.head(), 9).writes.is_empty());
    // A key that comes again starts over.
    store.apply(put("a", "y")).reply.unwrap();
    assert_eq!(store.get("a").unwrap().version, 1);
}

#[test]
fn history_comes_in_pieces_that_never_split_a_revision() {
    let mut store = Store::after([put("a", "1"), put("b", "2"), put("c", "3")]);
    store.apply(delete("a", "z")).reply.unwrap();
    store.apply(put("d", "4")).reply.unwrap();
    let head = store.machine.head();
    #[rustfmt::skip]
    let cases = [
        ("one at least",       2, 9, 0, vec![(2, 1)],                         3),
        ("two changes",        2, 9, 2, vec![(2, 1), (3, 1)],                 4),
        ("a whole revision",   5, 9, 1, vec![(5, 3)],                         6),
        ("to the end",         2, 9, 9, vec![(2, 1), (3, 1), (4, 1), (5, 3), (6, 1)], 10),
        ("to an end inside",   2, 4, 9, vec![(2, 1), (3, 1), (4, 1)],         5),
        ("from before all",    0, 2, 9, vec![(2, 1)],                         3),
        ("of the future",      7, 9, 9, vec![],                               10),
    ];
    for (name, from, to, limit, want, next) in cases {
        let history = events(&store.view, head, from, to, limit, &|_: &[u8]| true).unwrap();
        let got: Vec<_> = history.revisions.iter().map(|(at, events)| (*at, events.len())).collect();
        assert_eq!((got, history.next), (want, next), "{name}");
    }
    let only_b = events(&store.view, head, 2, 9, 9, &|key: &[u8]| key == b"b").unwrap();
    let got: Vec<_> = only_b.revisions.iter().map(|(at, events)| (*at, events.len())).collect();
    assert_eq!(got, [(3, 1), (5, 1)]);
}

#[test]
fn the_hash_tells_contents_apart() {
    let of = |ops: Vec<Op>| {
        let store = Store::after(ops);
        hash_kv(&store.view, store.machine.head(), 0).unwrap()
    };
    let base = || vec![put("a", "1"), put("b", "2")];
    assert_eq!(of(base()), of(base()));
    assert_ne!(of(base()), of(vec![put("a", "1"), put("b", "3")]));
    assert_ne!(of(base()), of(vec![put("b", "2"), put("a", "1")]));
    let store = Store::after(base().into_iter().chain([put("c", "3")]));
    assert_eq!(hash_kv(&store.view, store.machine.head(), 3), Ok(of(base())), "up to a revision");
}
