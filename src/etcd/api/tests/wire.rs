//! The bytes that etcd's own clients and servers put on the wire.
//!
//! A number that changes here breaks every client and every stored log.

use proa_etcd_api::command::{AuthChange, Batch, Command, LeaseRevoke, Proposal, Requester, command::Op};
use proa_etcd_api::etcdserverpb::*;
use proa_etcd_api::mvccpb::{Event, KeyValue};
use prost::Message;

/// The numbers of the fields that are set, in order, with their wire types:
/// `1:len 3:int`.
fn fields(message: &impl Message) -> String {
    let encoded = message.encode_to_vec();
    let mut rest = encoded.as_slice();
    let mut out = Vec::new();
    while !rest.is_empty() {
        let (number, kind) = prost::encoding::decode_key(&mut rest).expect("a field");
        prost::encoding::skip_field(kind, number, &mut rest, Default::default()).expect("its value");
        let kind = if kind == prost::encoding::WireType::Varint { "int" } else { "len" };
        out.push(format!("{number}:{kind}"));
    }
    out.join(" ")
}

#[test]
fn fields_have_the_numbers_of_etcd() {
    let header = || Some(ResponseHeader { cluster_id: 1, member_id: 1, revision: 1, raft_term: 1 });
    let bytes = || vec![b'x'].into();
    let text = || vec!["x".to_owned()];
    let kv = || KeyValue {
        key: bytes(),
        create_revision: 1,
        mod_revision: 1,
        version: 1,
        value: bytes(),
        lease: 1,
    };
    let check = |name: &str, got: String, want: &str| assert_eq!(got, want, "{name}");

    check("header", fields(&header().unwrap_or_default()), "1:int 2:int 3:int 4:int");
    check("entry", fields(&kv()), "1:len 2:int 3:int 4:int 5:len 6:int");
    check("event", fields(&Event { r#type: 1, kv: Some(kv()), prev_kv: Some(kv()) }), "1:int 2:len 3:len");
    let range = RangeRequest {
        key: bytes(),
        range_end: bytes(),
        limit: 1,
        revision: 1,
        sort_order: 1,
        sort_target: 1,
        serializable: true,
        keys_only: true,
        count_only: true,
        min_mod_revision: 1,
        max_mod_revision: 1,
        min_create_revision: 1,
        max_create_revision: 1,
    };
    let all = "1:len 2:len 3:int 4:int 5:int 6:int 7:int 8:int 9:int 10:int 11:int 12:int 13:int";
    check("range", fields(&range), all);
    let ranged = RangeResponse { header: header(), kvs: vec![kv()], more: true, count: 1 };
    check("range's answer", fields(&ranged), "1:len 2:len 3:int 4:int");
    let put = PutRequest {
        key: bytes(),
        value: bytes(),
        lease: 1,
        prev_kv: true,
        ignore_value: true,
        ignore_lease: true,
    };
    check("put", fields(&put), "1:len 2:len 3:int 4:int 5:int 6:int");
    let delete = DeleteRangeRequest { key: bytes(), range_end: bytes(), prev_kv: true };
    check("delete", fields(&delete), "1:len 2:len 3:int");
    let deleted = DeleteRangeResponse { header: header(), deleted: 1, prev_kvs: vec![kv()] };
    check("delete's answer", fields(&deleted), "1:len 2:int 3:len");
    let union = Some(compare::TargetUnion::Value(bytes()));
    let compare = Compare { result: 1, target: 1, key: bytes(), target_union: union, range_end: bytes() };
    check("compare", fields(&compare), "1:int 2:int 3:len 7:len 64:len");
    let watch = WatchCreateRequest {
        key: bytes(),
        range_end: bytes(),
        start_revision: 1,
        progress_notify: true,
        filters: vec![1],
        prev_kv: true,
        watch_id: 1,
        fragment: true,
    };
    check("watch", fields(&watch), "1:len 2:len 3:int 4:int 5:len 6:int 7:int 8:int");
    let watched = WatchResponse {
        header: header(),
        watch_id: 1,
        created: true,
        canceled: true,
        compact_revision: 1,
        cancel_reason: "x".to_owned(),
        fragment: true,
        events: vec![Event::default()],
    };
    check("watch's answer", fields(&watched), "1:len 2:int 3:int 4:int 5:int 6:len 7:int 11:len");
    let live =
        LeaseTimeToLiveResponse { header: header(), id: 1, ttl: 1, granted_ttl: 1, keys: vec![bytes()] };
    check("time to live", fields(&live), "1:len 2:int 3:int 4:int 5:len");
    check("grant", fields(&LeaseGrantRequest { ttl: 1, id: 0 }), "1:int");
    let member =
        Member { id: 1, name: "x".to_owned(), peer_urls: text(), client_urls: text(), is_learner: true };
    check("member", fields(&member), "1:int 2:len 3:len 4:len 5:int");
    let status = StatusResponse {
        header: header(),
        version: "x".to_owned(),
        db_size: 1,
        leader: 1,
        raft_index: 1,
        raft_term: 1,
        raft_applied_index: 1,
        errors: text(),
        db_size_in_use: 1,
        is_learner: true,
    };
    check("status", fields(&status), "1:len 2:len 3:int 4:int 5:int 6:int 7:int 8:len 9:int 10:int");
    let hash = HashKvResponse { header: header(), hash: 1, compact_revision: 1, hash_revision: 1 };
    check("hash", fields(&hash), "1:len 2:int 3:int 4:int");
}

#[test]
fn commands_keep_their_numbers_in_stored_logs() {
    let ops = [
        Op::Put(PutRequest::default()),
        Op::DeleteRange(DeleteRangeRequest::default()),
        Op::Txn(TxnRequest::default()),
        Op::Compaction(CompactionRequest::default()),
        Op::LeaseGrant(LeaseGrantRequest::default()),
        Op::LeaseRevoke(LeaseRevoke::default()),
        Op::LeaseCheckpoint(LeaseCheckpointRequest::default()),
        Op::Alarm(AlarmRequest::default()),
        Op::Member(Member::default()),
    ];
    for (number, op) in ops.into_iter().enumerate() {
        assert_eq!(fields(&Command { op: Some(op) }), format!("{}:len", number + 1));
    }
    let auth = Command { op: Some(Op::Auth(AuthChange::default())) };
    assert_eq!(fields(&auth), "12:len");
    let requester = Requester { user: "x".to_owned(), auth_revision: 1, is_member: true };
    assert_eq!(fields(&requester), "1:len 2:int 3:int");
    let proposal =
        Proposal { id: 1, command: Some(Command::default()), requester: Some(Requester::default()) };
    assert_eq!(fields(&proposal), "1:int 2:len 3:len");
    assert_eq!(fields(&Batch { proposals: vec![proposal] }), "1:len");
}
