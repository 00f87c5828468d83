//! Transactions.

use super::*;
use proa_etcd_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proa_etcd_api::etcdserverpb::response_op::Response;
use proa_etcd_store::{events, read_txn};

fn cmp(key: &str, target: CompareTarget, result: CompareResult, given: TargetUnion) -> Compare {
    Compare {
        key: key.as_bytes().to_vec().into(),
        target: target as i32,
        result: result as i32,
        target_union: Some(given),
        range_end: Vec::new().into(),
    }
}

fn value(text: &str) -> TargetUnion {
    TargetUnion::Value(text.as_bytes().to_vec().into())
}

fn apply(store: &mut Store, request: TxnRequest) -> TxnResponse {
    match store.apply(Op::Txn(request)).reply.unwrap() {
        Reply::Txn(response) => response,
        other => panic!("{other:?}"),
    }
}

/// The revisions in the headers of the answers.
fn revisions(response: &TxnResponse) -> Vec<i64> {
    let inner = response.responses.iter().map(|op| match op.response.as_ref().unwrap() {
        Response::ResponsePut(put) => revision_in(&put.header),
        Response::ResponseRange(range) => revision_in(&range.header),
        Response::ResponseDeleteRange(delete) => revision_in(&delete.header),
        Response::ResponseTxn(txn) => revision_in(&txn.header),
    });
    inner.collect()
}

#[test]
fn conditions_look_at_every_field() {
    use {CompareResult as R, CompareTarget as T, TargetUnion as U};
    let store = Store::after([grant(7), put("a", "x"), put_leased("a", "m", 7)]);
    #[rustfmt::skip]
    let cases = [
        ("version equal",          cmp("a", T::Version, R::Equal,    U::Version(2)),        true),
        ("version greater",        cmp("a", T::Version, R::Greater,  U::Version(2)),        false),
        ("created less",           cmp("a", T::Create,  R::Less,     U::CreateRevision(3)), true),
        ("modified not equal",     cmp("a", T::Mod,     R::NotEqual, U::ModRevision(3)),    false),
        ("value equal",            cmp("a", T::Value,   R::Equal,    value("m")),           true),
        ("value less",             cmp("a", T::Value,   R::Less,     value("n")),           true),
        ("lease",                  cmp("a", T::Lease,   R::Equal,    U::Lease(7)),          true),
        ("operand of another kind is 0", cmp("a", T::Mod, R::Greater, U::Version(99)),      true),
        ("no key: version is 0",   cmp("b", T::Version, R::Equal,    U::Version(0)),        true),
        ("no key: created is 0",   cmp("b", T::Create,  R::Greater,  U::CreateRevision(0)), false),
        ("no key: no value is it", cmp("b", T::Value,   R::Equal,    value("")),            false),
        ("no key: nor another",    cmp("b", T::Value,   R::NotEqual, value("x")),           false),
    ];
    for (name, compare, want) in cases {
        let response =
            read_txn(&store.view, store.machine.head(), &txn(vec![compare], vec![], vec![])).unwrap();
        assert_eq!(response.succeeded, want, "{name}");
    }
}

#[test]
fn a_condition_on_a_range_holds_for_every_key() {
    use {CompareResult as R, CompareTarget as T, TargetUnion as U};
    let store = Store::after([put("a", "x"), put("b", "x"), put("b", "x"), put("c", "y")]);
    let ranged = |key, end: &str, target, result, given| Compare {
        range_end: end.as_bytes().to_vec().into(),
        ..cmp(key, target, result, given)
    };
    #[rustfmt::skip]
    let cases = [
        ("all have it",       ranged("a", "c",  T::Value,   R::Equal, value("x")),     true),
        ("one has not",       ranged("a", "\0", T::Value,   R::Equal, value("x")),     false),
        ("one has not",       ranged("a", "z",  T::Version, R::Equal, U::Version(1)),  false),
        ("nobody: compare 0", ranged("x", "z",  T::Version, R::Equal, U::Version(0)),  true),
        ("nobody: no value",  ranged("x", "z",  T::Value,   R::Equal, value("")),      false),
    ];
    for (name, compare, want) in cases {
        let response =
            read_txn(&store.view, store.machine.head(), &txn(vec![compare], vec![], vec![])).unwrap();
        assert_eq!(response.succeeded, want, "{name}");
    }
}

#[test]
fn all_changes_share_one_revision_and_are_read_at_once() {
    let mut store = Store::after([put("a", "1")]);
    let all = || Request::RequestRange(RangeRequest { range_end: vec![0].into(), ..read("\0") });
    let requests = vec![
        all(),
        Request::RequestPut(put_request("b", "2")),
        all(),
        Request::RequestDeleteRange(delete_request("a", "")),
        all(),
        Request::RequestRange(RangeRequest { revision: 2, range_end: vec![0].into(), ..read("\0") }),
    ];
    let response = apply(&mut store, txn(vec![], requests, vec![]));
    assert_eq!(revisions(&response), [2, 3, 3, 3, 3, 3]);
    assert_eq!(revision_in(&response.header), 3);
    let read: Vec<String> = response
        .responses
        .iter()
        .filter_map(|op| match op.response.as_ref() {
            Some(Response::ResponseRange(range)) => Some(show(&range.kvs)),
            Some(_) | None => None,
        })
        .collect();
    assert_eq!(read, ["a=1", "a=1 b=2", "b=2", "a=1"]);
}

#[test]
fn a_transaction_that_changes_nothing_makes_no_revision() {
    let mut store = Store::after([put("a", "1")]);
    let absent = || Request::RequestDeleteRange(delete_request("x", ""));
    for request in [
        txn(vec![], vec![], vec![]),
        txn(vec![], vec![Request::RequestRange(read("a"))], vec![]),
        txn(vec![], vec![absent(), absent()], vec![Request::RequestPut(put_request("a", "2"))]),
    ] {
        let response = apply(&mut store, request);
        assert!(response.succeeded);
        assert_eq!((revision_in(&response.header), store.revision()), (2, 2));
    }
}

#[test]
fn inner_conditions_see_the_state_before_the_outer_changes() {
    use {CompareResult as R, CompareTarget as T, TargetUnion as U};
    let inner = txn(
        vec![cmp("a", T::Version, R::Equal, U::Version(0))],
        vec![Request::RequestPut(put_request("b", "absent before"))],
        vec![Request::RequestPut(put_request("b", "seen"))],
    );
    let mut store = Store::new();
    let requests = vec![Request::RequestPut(put_request("a", "1")), Request::RequestTxn(inner)];
    let response = apply(&mut store, txn(vec![], requests, vec![]));
    assert_eq!(store.dump(), "a=1 b=absent before");
    assert_eq!(revisions(&response), [2, 0], "an inner transaction has an empty header");
}

#[test]
fn a_refused_transaction_does_nothing_at_all() {
    let first = || Request::RequestPut(put_request("a", "2"));
    let keep = PutRequest { ignore_value: true, ..put_request("none", "") };
    let lease = PutRequest { lease: 9, ..put_request("b", "") };
    let at = |revision| Request::RequestRange(RangeRequest { revision, ..read("a") });
    #[rustfmt::skip]
    let cases = [
        ("value of nothing",   Request::RequestPut(keep),  EtcdError::KeyNotFound),
        ("no such lease",      Request::RequestPut(lease), EtcdError::LeaseNotFound),
        ("its own revision",   at(4),                      EtcdError::FutureRevision),
        ("compacted revision", at(1),                      EtcdError::Compacted),
        ("negative revision",  at(-5),                     EtcdError::Compacted),
    ];
    for (name, request, want) in cases {
        let mut store = Store::after([put("a", "1"), put("a", "1"), compact(2)]);
        assert_eq!(store.refused(Op::Txn(txn(vec![], vec![first(), request], vec![]))), want, "{name}");
    }
}

#[test]
fn only_the_chosen_branch_is_looked_at() {
    let broken = || Request::RequestPut(PutRequest { lease: 9, ..put_request("b", "") });
    let mut store = Store::new();
    let response =
        apply(&mut store, txn(vec![], vec![Request::RequestPut(put_request("a", "1"))], vec![broken()]));
    assert!(response.succeeded);
    assert_eq!(store.dump(), "a=1");
}

#[test]
fn puts_are_refused_before_reads() {
    let keep = PutRequest { ignore_value: true, ..put_request("none", "") };
    let future = Request::RequestRange(RangeRequest { revision: 99, ..read("a") });
    let mut store = Store::after([put("a", "1")]);
    let both = txn(vec![], vec![future.clone(), Request::RequestPut(keep.clone())], vec![]);
    assert_eq!(store.refused(Op::Txn(both)), EtcdError::KeyNotFound);
    let inside = Request::RequestTxn(txn(vec![], vec![Request::RequestPut(keep)], vec![]));
    assert_eq!(store.refused(Op::Txn(txn(vec![], vec![future, inside], vec![]))), EtcdError::KeyNotFound);
}

#[test]
fn watchers_are_told_what_was_before_the_revision() {
    let mut store = Store::after([put("a", "1")]);
    let inside = |request| Request::RequestTxn(txn(vec![], vec![request], vec![]));
    let requests = vec![
        inside(Request::RequestPut(put_request("a", "2"))),
        inside(Request::RequestPut(put_request("b", "2"))),
        inside(Request::RequestDeleteRange(delete_request("a", "c"))),
    ];
    let outcome = store.apply(Op::Txn(txn(vec![], requests, vec![])));
    let want = "put a=2@3 was 1, put b=2@3 was -, del a@3 was 1, del b@3 was -";
    assert_eq!(show_events(&outcome), want);
    let late = events(&store.view, store.machine.head(), 3, 3, 100, &|_: &[u8]| true).unwrap();
    assert_eq!(late.revisions, [(3, outcome.events)]);
}

#[test]
fn what_is_deleted_and_put_again_is_new_to_watchers() {
    let mut store = Store::after([put("a", "1")]);
    // A deletion without an end leaves room for puts.
    let requests = vec![
        Request::RequestDeleteRange(delete_request("a", "\0")),
        Request::RequestPut(put_request("a", "2")),
    ];
    let outcome = store.apply(Op::Txn(txn(vec![], requests, vec![])));
    assert_eq!(show_events(&outcome), "del a@3 was 1, put a=2@3 was -");
    let late = events(&store.view, store.machine.head(), 3, 3, 100, &|_: &[u8]| true).unwrap();
    assert_eq!(late.revisions, [(3, outcome.events)]);
}
