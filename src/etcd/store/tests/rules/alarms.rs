//! Alarms and members.

use super::*;
use proa_etcd_api::etcdserverpb::alarm_request::AlarmAction;
use proa_etcd_store::{members, record_member};

fn alarm(action: AlarmAction, member_id: u64, alarm: AlarmType) -> Op {
    Op::Alarm(AlarmRequest { action: action as i32, member_id, alarm: alarm as i32 })
}

fn told(store: &mut Store, op: Op) -> Vec<(u64, i32)> {
    match store.apply(op).reply.unwrap() {
        Reply::Alarm(response) => {
            response.alarms.iter().map(|alarm| (alarm.member_id, alarm.alarm)).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn alarms_are_raised_listed_and_cleared() {
    use {AlarmAction as Do, AlarmType as Kind};
    let mut store = Store::new();
    #[rustfmt::skip]
    let cases = [
        ("none at first",         alarm(Do::Get, 0, Kind::None),           vec![]),
        ("raise",                 alarm(Do::Activate, 7, Kind::Nospace),   vec![(7, 1)]),
        ("raise again",           alarm(Do::Activate, 7, Kind::Nospace),   vec![(7, 1)]),
        ("raise another",         alarm(Do::Activate, 8, Kind::Corrupt),   vec![(8, 2)]),
        ("raise nothing",         alarm(Do::Activate, 8, Kind::None),      vec![]),
        ("list all",              alarm(Do::Get, 0, Kind::None),           vec![(7, 1), (8, 2)]),
        ("list one kind",         alarm(Do::Get, 0, Kind::Corrupt),        vec![(8, 2)]),
        ("clear of another",      alarm(Do::Deactivate, 9, Kind::Nospace), vec![]),
        ("clear",                 alarm(Do::Deactivate, 7, Kind::Nospace), vec![(7, 1)]),
        ("clear again",           alarm(Do::Deactivate, 7, Kind::Nospace), vec![]),
        ("one is left",           alarm(Do::Get, 0, Kind::None),           vec![(8, 2)]),
    ];
    for (name, op, want) in cases {
        assert_eq!(told(&mut store, op), want, "{name}");
    }
}

#[test]
fn without_space_only_what_needs_none_is_done() {
    let puts = || txn(vec![], vec![], vec![Request::RequestPut(put_request("a", ""))]);
    let nested = txn(vec![], vec![Request::RequestTxn(puts())], vec![]);
    let frees = txn(vec![], vec![Request::RequestDeleteRange(delete_request("a", ""))], vec![]);
    let start = || {
        let full = alarm(AlarmAction::Activate, 1, AlarmType::Nospace);
        Store::after([grant(5), put_leased("a", "1", 5), put("a", "2"), full])
    };
    let endless = Op::LeaseGrant(LeaseGrantRequest { id: 7, ttl: i64::MAX });
    for op in [put("a", "3"), Op::Txn(puts()), Op::Txn(nested), grant(6), endless] {
        assert_eq!(start().refused(op.clone()), EtcdError::NoSpace, "{op:?}");
    }
    for op in [delete("a", ""), Op::Txn(frees), compact(2), revoke(&[5])] {
        assert!(start().apply(op.clone()).reply.is_ok(), "{op:?}");
    }
}

#[test]
fn a_corrupt_store_does_nothing_with_keys() {
    let corrupt = alarm(AlarmAction::Activate, 1, AlarmType::Corrupt);
    let mut store = Store::after([grant(5), put("a", "1"), corrupt]);
    assert!(store.machine.alarmed(AlarmType::Corrupt));
    let empty = Op::Txn(TxnRequest::default());
    for op in [put("a", "3"), delete("a", ""), empty, compact(2), grant(6), revoke(&[5])] {
        assert_eq!(store.refused(op.clone()), EtcdError::Corrupt, "{op:?}");
    }
    assert_eq!(told(&mut store, alarm(AlarmAction::Deactivate, 1, AlarmType::Corrupt)), [(1, 2)]);
    store.apply(put("a", "3")).reply.unwrap();
}

#[test]
fn a_member_tells_its_name_only_while_it_is_one() {
    let said = Member { id: 3, name: "m3".into(), client_urls: vec!["http://c".into()], ..Member::default() };
    let mut store = Store::new();
    assert_eq!(store.refused(Op::Member(said.clone())), EtcdError::MemberNotFound);
    let added = Member { id: 3, peer_urls: vec!["http://p".into()], is_learner: true, ..Member::default() };
    let mut writes = Writes::default();
    record_member(&mut writes, &added);
    store.view.apply(&writes);
    store.apply(Op::Member(said.clone())).reply.unwrap();
    let want = Member { name: said.name, client_urls: said.client_urls, ..added };
    assert_eq!(members(&store.view), Ok(vec![want]));
    let mut writes = Writes::default();
    store.machine.forget_member(&mut writes, 3);
    store.view.apply(&writes);
    assert_eq!(members(&store.view), Ok(vec![]));
}

#[test]
fn the_alarms_of_a_removed_member_end_with_it() {
    let raise = |member| alarm(AlarmAction::Activate, member, AlarmType::Nospace);
    let mut store = Store::after([raise(3), raise(4)]);
    let mut writes = Writes::default();
    store.machine.forget_member(&mut writes, 3);
    store.view.apply(&writes);
    assert_eq!(told(&mut store, alarm(AlarmAction::Get, 0, AlarmType::None)), [(4, 1)]);
}
