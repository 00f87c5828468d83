//! Put, delete, range.

use super::*;

#[test]
fn an_empty_store_is_at_revision_1() {
    let store = Store::new();
    assert_eq!(store.revision(), 1);
    assert_eq!(store.machine.head().compact_revision, -1);
    assert_eq!(revision_in(&store.range(&read("a")).unwrap().header), 1);
}

#[test]
fn puts_count_versions_from_the_creation() {
    let mut store = Store::after([put("a", "1"), put("b", "1"), put("a", "2")]);
    let kv = store.get("a").unwrap();
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (2, 4, 2));
    store.apply(delete("a", "")).reply.unwrap();
    store.apply(put("a", "3")).reply.unwrap();
    let kv = store.get("a").unwrap();
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (6, 6, 1));
}

#[test]
fn every_change_is_an_event_with_what_was_before() {
    let mut store = Store::new();
    assert_eq!(show_events(&store.apply(put("a", "1"))), "put a=1@2 was -");
    assert_eq!(show_events(&store.apply(put("a", "2"))), "put a=2@3 was 1");
    assert_eq!(show_events(&store.apply(put("b", "9"))), "put b=9@4 was -");
    assert_eq!(show_events(&store.apply(delete("a", "z"))), "del a@5 was 2, del b@5 was 9");
    assert_eq!(show_events(&store.apply(put("a", "3"))), "put a=3@6 was -");
}

#[test]
fn prev_kv_comes_only_when_asked_for() {
    for (ask, want) in [(true, "a=1"), (false, "")] {
        let mut store = Store::after([put("a", "1")]);
        let reply = store.apply(Op::Put(PutRequest { prev_kv: ask, ..put_request("a", "2") })).reply.unwrap();
        let Reply::Put(response) = reply else { panic!("{reply:?}") };
        assert_eq!(show(response.prev_kv.as_slice()), want);
        let request = DeleteRangeRequest { prev_kv: ask, ..delete_request("a", "") };
        let reply = store.apply(Op::DeleteRange(request)).reply.unwrap();
        let Reply::DeleteRange(response) = reply else { panic!("{reply:?}") };
        assert_eq!((response.deleted, show(&response.prev_kvs)), (1, want.replace('1', "2")));
    }
}

#[test]
fn deleting_nothing_makes_no_revision() {
    let mut store = Store::after([put("a", "1")]);
    #[rustfmt::skip]
    let cases = [
        ("absent key",          delete("b", "")),
        ("empty range",         delete("b", "z")),
        ("range the wrong way", delete("z", "a")),
        ("key before the end",  delete("a\0", "b")),
    ];
    for (name, op) in cases {
        let reply = store.apply(op).reply.unwrap();
        assert_eq!(header_revision(&reply), 2, "{name}");
        assert_eq!((store.revision(), store.dump()), (2, "a=1".to_owned()), "{name}");
    }
}

#[test]
fn ranges_end_before_their_end() {
    let store = Store::after(["a", "a\0", "ab", "b", "ba", "c"].map(|key| put(key, "")));
    #[rustfmt::skip]
    let cases = [
        ("one key",            "a",  "",   1),
        ("prefix",             "a",  "b",  3),
        ("open end",           "b",  "\0", 3),
        ("everything",         "\0", "\0", 6),
        ("end is no key",      "a",  "az", 3),
        ("end before the key", "c",  "a",  0),
        ("end is the key",     "a",  "a",  0),
        ("longer by a zero",   "a",  "a\0", 1),
    ];
    for (name, key, end, want) in cases {
        let request = RangeRequest { range_end: end.as_bytes().to_vec().into(), ..read(key) };
        let response = store.range(&request).unwrap();
        assert_eq!((response.kvs.len() as i64, response.count), (want, want), "{name}");
    }
}

#[test]
fn options_of_a_range_work_together() {
    let store = Store::after([put("a", "3"), put("b", "1"), put("c", "2"), put("b", "1")]);
    let all = || RangeRequest { range_end: vec![0].into(), ..read("a") };
    #[rustfmt::skip]
    let cases = [
        ("limit",                     RangeRequest { limit: 2, ..all() },                                  "a=3 b=1", true,  3),
        ("limit that is enough",      RangeRequest { limit: 3, ..all() },                                  "a=3 b=1 c=2", false, 3),
        ("count only",                RangeRequest { count_only: true, limit: 1, ..all() },                "", false, 3),
        ("keys only",                 RangeRequest { keys_only: true, ..all() },                           "a= b= c=", false, 3),
        ("descend",                   RangeRequest { sort_order: 2, ..all() },                             "c=2 b=1 a=3", false, 3),
        ("by value, limit",           RangeRequest { sort_order: 1, sort_target: 4, limit: 1, ..all() },   "b=1", true, 3),
        ("by value, order implied",   RangeRequest { sort_target: 4, ..all() },                            "b=1 c=2 a=3", false, 3),
        ("implied sort after limit",  RangeRequest { sort_target: 4, limit: 1, ..all() },                  "b=1", true, 3),
        ("implied sort of the first", RangeRequest { sort_order: 0, sort_target: 3, limit: 1, ..all() },   "a=3", true, 3),
        ("by version",                RangeRequest { sort_order: 2, sort_target: 1, limit: 1, ..all() },   "b=1", true, 3),
        ("by creation",               RangeRequest { sort_order: 2, sort_target: 2, ..all() },             "c=2 b=1 a=3", false, 3),
        ("modified since",            RangeRequest { min_mod_revision: 4, ..all() },                       "b=1 c=2", false, 3),
        ("modified until",            RangeRequest { max_mod_revision: 4, ..all() },                       "a=3 c=2", false, 3),
        ("created since, limit",      RangeRequest { min_create_revision: 3, limit: 1, ..all() },          "b=1", true, 3),
        ("created until",             RangeRequest { max_create_revision: 2, ..all() },                    "a=3", false, 3),
        ("at a revision",             RangeRequest { revision: 3, ..all() },                               "a=3 b=1", false, 2),
    ];
    for (name, request, want, more, count) in cases {
        let response = store.range(&request).unwrap();
        assert_eq!(
            (show(&response.kvs).as_str(), response.more, response.count),
            (want, more, count),
            "{name}"
        );
        assert_eq!(revision_in(&response.header), 5, "{name}: the header tells the newest revision");
    }
}

#[test]
fn many_old_versions_are_stepped_over() {
    let mut store = Store::new();
    for round in 0..40 {
        for key in ["a", "b", "c"] {
            store.apply(put(key, &round.to_string())).reply.unwrap();
        }
    }
    for (revision, want) in [(0, "a=39 b=39 c=39"), (4, "a=0 b=0 c=0"), (62, "a=20 b=19 c=19")] {
        let request = RangeRequest { revision, range_end: vec![0].into(), ..read("\0") };
        assert_eq!(show(&store.range(&request).unwrap().kvs), want, "at {revision}");
        let counted = store.range(&RangeRequest { count_only: true, ..request }).unwrap();
        assert_eq!(counted.count, 3, "at {revision}");
    }
}

#[test]
fn a_put_may_keep_value_or_lease() {
    let keep_value = |key| Op::Put(PutRequest { ignore_value: true, lease: 2, ..put_request(key, "") });
    let keep_lease = |key| Op::Put(PutRequest { ignore_lease: true, ..put_request(key, "new") });
    let start = || Store::after([grant(1), grant(2), put_leased("a", "old", 1)]);
    #[rustfmt::skip]
    let cases = [
        ("value", keep_value("a"), "old", 2),
        ("lease", keep_lease("a"), "new", 1),
    ];
    for (name, op, value, lease) in cases {
        let mut store = start();
        store.apply(op).reply.unwrap();
        let kv = store.get("a").unwrap();
        assert_eq!((kv.value.as_ref(), kv.lease, kv.version), (value.as_bytes(), lease, 2), "{name}");
    }
    assert_eq!(start().refused(keep_value("b")), EtcdError::KeyNotFound);
    assert_eq!(start().refused(keep_lease("b")), EtcdError::KeyNotFound);
}
