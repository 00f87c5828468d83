//! What is refused before it is proposed, and what cannot be loaded.

use super::*;
use proa_etcd_store::{View, check, check_range, is_read_only};

fn checked(op: Op) -> Result<(), EtcdError> {
    check(&Command { op: Some(op) }, 4)
}

fn puts(keys: &[&str]) -> Vec<Request> {
    keys.iter().map(|key| Request::RequestPut(put_request(key, ""))).collect()
}

fn deletes(key: &str, end: &str) -> Request {
    Request::RequestDeleteRange(delete_request(key, end))
}

fn inner(success: Vec<Request>, failure: Vec<Request>) -> Request {
    Request::RequestTxn(txn(vec![], success, failure))
}

#[test]
fn single_requests() {
    let value = PutRequest { ignore_value: true, ..put_request("a", "x") };
    let lease = PutRequest { ignore_lease: true, lease: 1, ..put_request("a", "") };
    #[rustfmt::skip]
    let cases = [
        ("good put",           put("a", ""),                Ok(())),
        ("put of no key",      put("", ""),                 Err(EtcdError::EmptyKey)),
        ("value given twice",  Op::Put(value),              Err(EtcdError::ValueProvided)),
        ("lease given twice",  Op::Put(lease),              Err(EtcdError::LeaseProvided)),
        ("delete of no key",   delete("", "\0"),            Err(EtcdError::EmptyKey)),
    ];
    for (name, op, want) in cases {
        assert_eq!(checked(op), want, "{name}");
    }
    #[rustfmt::skip]
    let cases = [
        ("good read",       read("a"),                                      Ok(())),
        ("read of no key",  read(""),                                       Err(EtcdError::EmptyKey)),
        ("no such order",   RangeRequest { sort_order: 3, ..read("a") },    Err(EtcdError::InvalidSortOption)),
        ("no such target",  RangeRequest { sort_target: -1, ..read("a") },  Err(EtcdError::InvalidSortOption)),
    ];
    for (name, request, want) in cases {
        assert_eq!(check_range(&request), want, "{name}");
    }
}

#[test]
fn transactions() {
    let ok = Ok(());
    let duplicate = Err(EtcdError::DuplicateKey);
    #[rustfmt::skip]
    let cases = [
        ("two keys",                      puts(&["a", "b"]),                                                 ok),
        ("one key twice",                 puts(&["a", "a"]),                                                 duplicate),
        ("as many as allowed",            puts(&["a", "b", "c", "d"]),                                       ok),
        ("one too many",                  puts(&["a", "b", "c", "d", "e"]),                                  Err(EtcdError::TooManyOps)),
        ("inner ones count",              vec![inner(puts(&["a", "b", "c"]), vec![])],                       ok),
        ("inner ones count too many",     vec![inner(puts(&["a", "b", "c", "d"]), vec![])],                  Err(EtcdError::TooManyOps)),
        ("put what is deleted",           vec![puts(&["a"]).remove(0), deletes("a", "")],                    duplicate),
        ("put inside of deleted",         vec![puts(&["b"]).remove(0), deletes("a", "c")],                   duplicate),
        ("put at the end of deleted",     vec![puts(&["c"]).remove(0), deletes("a", "c")],                   ok),
        ("put after an open deletion",    vec![deletes("\0", "\0"), puts(&["c"]).remove(0)],                 ok),
        ("delete twice",                  vec![deletes("a", ""), deletes("a", "")],                          ok),
        ("inner put, outer put",          vec![inner(puts(&["a"]), vec![]), puts(&["a"]).remove(0)],         duplicate),
        ("inner put, outer deletion",     vec![inner(vec![], puts(&["a"])), deletes("a", "")],               duplicate),
        ("either branch may put it",      vec![inner(puts(&["a"]), puts(&["a"]))],                           ok),
        ("two inner ones may not",        vec![inner(puts(&["a"]), vec![]), inner(puts(&["a"]), vec![])],    duplicate),
        ("inner deletion, then put",      vec![inner(vec![deletes("a", "")], vec![]), inner(puts(&["a"]), vec![])], duplicate),
        ("inner put, then deletion",      vec![inner(puts(&["a"]), vec![]), inner(vec![deletes("a", "")], vec![])], ok),
        ("bad one inside",                vec![inner(puts(&[""]), vec![])],                                  Err(EtcdError::EmptyKey)),
        ("bad read inside",               vec![Request::RequestRange(read(""))],                             Err(EtcdError::EmptyKey)),
    ];
    for (name, requests, want) in cases {
        assert_eq!(checked(Op::Txn(txn(vec![], requests.clone(), vec![]))), want, "{name}");
        assert_eq!(checked(Op::Txn(txn(vec![], vec![], requests))), want, "{name}, as failure");
    }
    let nameless = txn(vec![Compare::default()], vec![], vec![]);
    assert_eq!(checked(Op::Txn(nameless)), Err(EtcdError::EmptyKey));
    let empty = TxnRequest { success: vec![RequestOp { request: None }], ..TxnRequest::default() };
    assert_eq!(checked(Op::Txn(empty)), Err(EtcdError::KeyNotFound));
}

#[test]
fn a_key_put_and_deleted_in_one_revision_has_both_events() {
    let request =
        txn(vec![], vec![inner(puts(&["a"]), vec![]), inner(vec![deletes("a", "")], vec![])], vec![]);
    assert_eq!(checked(Op::Txn(request.clone())), Ok(()));
    let mut store = Store::new();
    assert_eq!(show_events(&store.apply(Op::Txn(request))), "put a=@2 was -, del a@2 was -");
    assert_eq!(store.dump(), "");
}

#[test]
fn a_transaction_is_read_only_if_no_branch_writes() {
    let reads = || vec![Request::RequestRange(read("a"))];
    #[rustfmt::skip]
    let cases = [
        ("empty",         txn(vec![], vec![], vec![]),                              true),
        ("reads",         txn(vec![], reads(), reads()),                            true),
        ("inner reads",   txn(vec![], vec![inner(reads(), vec![])], vec![]),        true),
        ("failure puts",  txn(vec![], reads(), puts(&["a"])),                       false),
        ("inner deletes", txn(vec![], vec![inner(vec![], vec![deletes("a", "")])], vec![]), false),
    ];
    for (name, request, want) in cases {
        assert_eq!(is_read_only(&request), want, "{name}");
    }
}

#[test]
fn damaged_heads_are_told_by_key() {
    let good = Store::after([grant(1), put("a", "1")]);
    let damage = |from: &[u8], value: Option<Vec<u8>>| {
        let mut view = good.view.clone();
        let (key, _) = view.scan(from, b"\xFF").next().unwrap();
        let mut writes = Writes::default();
        writes.puts.insert(key, value);
        view.apply(&writes);
        Machine::load(&view).map(|_| ()).map_err(|error| error.to_string())
    };
    let head = Err("the store's head under M/store/head cannot be read".to_owned());
    assert_eq!(damage(b"M/store/head", None), head);
    assert_eq!(damage(b"M/store/head", Some(vec![1, 2, 3])), head);
    let with_format = |format: &[u8]| {
        let stored = good.view.get(b"M/store/head").unwrap();
        damage(b"M/store/head", Some([&stored[..16], format].concat()))
    };
    assert_eq!([&[][..], &[1], &[2]].map(with_format), [Ok(()), Ok(()), Ok(())]);
    let later = "the store's head (a later version wrote it) under M/store/head cannot be read";
    assert_eq!([&[3][..], &[9, 9]].map(with_format), [Err(later.to_owned()), Err(later.to_owned())]);
    let lease = r"the store's lease under L\x00\x00\x00\x00\x00\x00\x00\x01 cannot be read";
    assert_eq!(damage(b"L", Some(vec![0x80])), Err(lease.to_owned()));
    assert!(good.machine == Machine::load(&good.view).unwrap());
}

#[test]
fn transactions_nest_only_so_deep() {
    let nested = |levels: usize| {
        (1..levels).fold(txn(vec![], vec![], vec![]), |inside, _| {
            txn(vec![], vec![Request::RequestTxn(inside)], vec![])
        })
    };
    assert_eq!(check(&Command { op: Some(Op::Txn(nested(32))) }, 128), Ok(()));
    assert_eq!(check(&Command { op: Some(Op::Txn(nested(33))) }, 128), Err(EtcdError::TooManyOps));
}
