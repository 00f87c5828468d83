//! Large values lie apart, and are read by those alone who ask for them.

use super::*;
use proa_etcd_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proa_etcd_store::{Entry, View, hash_kv};
use std::cell::Cell;

/// A view that counts the values that are read by themselves.
struct Counting<'a> {
    view: &'a MemView,
    read: Cell<usize>,
}

impl View for Counting<'_> {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.read.set(self.read.get() + usize::from(key.starts_with(b"B")));
        self.view.get(key)
    }

    fn scan<'a>(&'a self, from: &[u8], end: &[u8]) -> Box<dyn Iterator<Item = Entry> + 'a> {
        self.view.scan(from, end)
    }
}

fn large() -> String {
    "l".repeat(5_000)
}

fn store() -> Store {
    Store::after([grant(1), put_leased("a", &large(), 1), put_leased("b", &large(), 1), put("c", "small")])
}

#[test]
fn what_nobody_asks_for_is_not_read() {
    let all = || RangeRequest { range_end: vec![0].into(), ..read("a") };
    let target_union = Some(TargetUnion::Version(1));
    let target = CompareTarget::Version as i32;
    let result = CompareResult::Equal as i32;
    let range_end: bytes::Bytes = vec![0].into();
    let version = Compare { result, target, key: "a".into(), range_end: range_end.clone(), target_union };
    let value = Compare {
        target: CompareTarget::Value as i32,
        target_union: Some(TargetUnion::Value(large().into())),
        ..version.clone()
    };
    let quiet = || Op::DeleteRange(DeleteRangeRequest { prev_kv: false, ..delete_request("a", "\0") });
    #[rustfmt::skip]
    let cases = [
        ("deletion",                 quiet(),                                                 false, 0),
        ("deletion that tells",      delete("a", "\0"),                                       false, 2),
        ("deletion with watchers",   quiet(),                                                 true,  2),
        ("both",                     delete("a", "\0"),                                       true,  2),
        ("end of a lease",           revoke(&[1]),                                            false, 0),
        ("put",                      put("a", "x"),                                           false, 0),
        ("put that tells",           Op::Put(PutRequest { prev_kv: true, ..put_request("a", "x") }), false, 1),
        ("put of a lease alone",     Op::Put(PutRequest { ignore_value: true, ..put_request("a", "") }), false, 1),
        ("comparison",               Op::Txn(txn(vec![version], vec![], vec![])),             false, 0),
        ("comparison of values",     Op::Txn(txn(vec![value], vec![], vec![])),               false, 2),
    ];
    for (name, op, is_watched, want) in cases {
        let Store { mut machine, view } = store();
        machine.tell_previous(is_watched);
        let counting = Counting { view: &view, read: Cell::new(0) };
        machine.apply(&counting, &mut Writes::default(), &Command { op: Some(op) }).reply.unwrap();
        assert_eq!(counting.read.get(), want, "{name}");
    }
    #[rustfmt::skip]
    let cases = [
        ("range",           all(),                                                             2),
        ("keys",            RangeRequest { keys_only: true, ..all() },                         0),
        ("keys by value",   RangeRequest { keys_only: true, sort_target: 4, sort_order: 1, ..all() }, 2),
        ("number",          RangeRequest { count_only: true, ..all() },                        0),
        ("first",           RangeRequest { limit: 1, ..all() },                                1),
        ("newest",          RangeRequest { limit: 1, sort_target: 3, sort_order: 2, ..all() }, 0),
        ("least value",     RangeRequest { limit: 1, sort_target: 4, sort_order: 1, ..all() }, 2),
        ("since",           RangeRequest { min_mod_revision: 3, ..all() },                     1),
    ];
    for (name, request, want) in cases {
        let Store { machine, view } = store();
        let counting = Counting { view: &view, read: Cell::new(0) };
        range(&counting, machine.head(), &request).unwrap();
        assert_eq!(counting.read.get(), want, "{name}");
    }
}

#[test]
fn a_value_that_lies_with_its_version_still_reads_and_hashes_alike() {
    let store = store();
    // As a store was written that kept every value with its version.
    let mut together = Writes::default();
    let entries: Vec<(Vec<u8>, Vec<u8>)> =
        store.view.entries().map(|(key, value)| (key.to_vec(), value.to_vec())).collect();
    let apart = |place: &[u8]| store.view.get(&[b"B", place].concat());
    for (mut key, mut value) in entries {
        let mut place = key[key.len().saturating_sub(13)..key.len().saturating_sub(1)].to_vec();
        place.iter_mut().for_each(|byte| *byte = !*byte);
        match (key[0], key.last(), value.first()) {
            (b'B', ..) => continue,
            (b'K', Some(2), _) => {
                value.extend(apart(&place).unwrap());
                *key.last_mut().unwrap() = 0;
            }
            (b'R', _, Some(2)) => value[0] = 0,
            _ => {}
        }
        together.put(key, value);
    }
    let mut view = MemView::default();
    view.apply(&together);
    assert_eq!(view.entries().count() + 2, store.view.entries().count());
    let old = Store { machine: Machine::load(&view).unwrap(), view };
    assert_eq!(old.dump(), store.dump());
    let hash = |store: &Store| hash_kv(&store.view, store.machine.head(), 0);
    assert_eq!(hash(&old), hash(&store));
    let events = |store: &Store| {
        proa_etcd_store::events(&store.view, store.machine.head(), 0, 9, 9, &|_: &[u8]| true).unwrap()
    };
    assert_eq!(events(&old), events(&store));
}
