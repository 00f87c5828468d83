//! Leases.

use super::*;
use proa_etcd_store::{LeaseRecord, lease_keys};

fn keys(store: &Store, id: i64) -> String {
    lease_keys(&store.view, id).iter().map(|key| String::from_utf8_lossy(key)).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_lease_is_granted_once() {
    let mut store = Store::new();
    let reply = store.apply(grant(5)).reply.unwrap();
    assert_eq!(header_revision(&reply), 1, "a lease is no change of keys");
    assert_eq!(store.machine.lease(5), Some(LeaseRecord { granted_ttl: 60, remaining_ttl: 0 }));
    #[rustfmt::skip]
    let cases = [
        ("again",    LeaseGrantRequest { id: 5, ttl: 1 },             EtcdError::LeaseExists),
        ("id 0",     LeaseGrantRequest { id: 0, ttl: 1 },             EtcdError::LeaseNotFound),
        ("too long", LeaseGrantRequest { id: 6, ttl: 9_000_000_001 }, EtcdError::LeaseTtlTooLarge),
    ];
    for (name, request, want) in cases {
        assert_eq!(store.refused(Op::LeaseGrant(request)), want, "{name}");
    }
}

#[test]
fn a_put_attaches_and_detaches() {
    let mut store = Store::after([grant(1), grant(2), put_leased("a", "", 1), put_leased("b", "", 1)]);
    assert_eq!((keys(&store, 1), keys(&store, 2)), ("a b".to_owned(), String::new()));
    store.apply(put_leased("a", "", 2)).reply.unwrap();
    assert_eq!((keys(&store, 1), keys(&store, 2)), ("b".to_owned(), "a".to_owned()));
    store.apply(put_leased("a", "again", 2)).reply.unwrap();
    assert_eq!(keys(&store, 2), "a");
    store.apply(put("a", "")).reply.unwrap();
    assert_eq!(keys(&store, 2), "");
    store.apply(delete("b", "")).reply.unwrap();
    assert_eq!(keys(&store, 1), "");
    assert_eq!(store.refused(put_leased("a", "", 3)), EtcdError::LeaseNotFound);
}

#[test]
fn a_revoked_lease_takes_its_keys_in_one_revision() {
    let mut store =
        Store::after([grant(1), put_leased("b", "2", 1), put("k", "stays"), put_leased("a", "1", 1)]);
    let outcome = store.apply(revoke(&[1]));
    assert_eq!(show_events(&outcome), "del a@5 was 1, del b@5 was 2");
    assert_eq!(header_revision(&outcome.reply.unwrap()), 5);
    assert_eq!((store.dump().as_str(), store.machine.lease(1)), ("k=stays", None));
    assert_eq!(store.refused(revoke(&[1])), EtcdError::LeaseNotFound);
}

#[test]
fn revoking_many_makes_one_revision_each() {
    let mut store =
        Store::after([grant(1), grant(2), grant(3), put_leased("a", "", 1), put_leased("b", "", 3)]);
    let outcome = store.apply(revoke(&[3, 9, 2, 1]));
    assert_eq!(show_events(&outcome), "del b@4 was , del a@5 was ");
    assert_eq!((store.revision(), store.machine.leases().count()), (5, 0));
}

#[test]
fn a_revoked_lease_without_keys_makes_no_revision() {
    let mut store = Store::after([grant(1)]);
    let reply = store.apply(revoke(&[1])).reply.unwrap();
    assert_eq!((header_revision(&reply), store.revision()), (1, 1));
}

#[test]
fn keys_of_neighbouring_ids_are_not_mixed() {
    for (id, next) in [(255, 256), (-1, 1), (i64::MAX, i64::MIN)] {
        let store =
            Store::after([grant(id), grant(next), put_leased("a", "", id), put_leased("b", "", next)]);
        assert_eq!((keys(&store, id).as_str(), keys(&store, next).as_str()), ("a", "b"), "{id}");
    }
}

#[test]
fn a_checkpoint_keeps_what_is_left() {
    let mut store = Store::after([grant(1)]);
    let checkpoints = [(1, 20), (2, 30)].map(|(id, remaining_ttl)| LeaseCheckpoint { id, remaining_ttl });
    let request = LeaseCheckpointRequest { checkpoints: checkpoints.to_vec() };
    store.apply(Op::LeaseCheckpoint(request)).reply.unwrap();
    assert_eq!(store.machine.lease(1), Some(LeaseRecord { granted_ttl: 60, remaining_ttl: 20 }));
    assert_eq!(store.machine.lease(2), None);
}
