//! Every request with every field that touches keys, for every kind of user:
//! what is allowed is compared with a plain statement of which keys are read
//! and which are written.

use super::auth::{enable, grant_role, permit, role_add, root, user_add};
use super::*;
use proa_etcd_api::authpb::permission::Type;
use proa_etcd_api::command::Requester;
use proa_etcd_store::auth::needs;
use proa_etcd_store::{Need, authorise};

/// The keys of this small world, whether they are there or not. `z` is reached
/// only by open ends.
const KEYS: [&str; 6] = ["a", "b", "b0", "b1", "c", "z"];

/// A lease with two keys, one with one, one without any, and one unknown.
const LEASES: [(i64, &[&str]); 4] = [(10, &["a", "b"]), (11, &["b1"]), (12, &[]), (99, &[])];

/// What a user may do, said as keys.
struct Rights {
    user: &'static str,
    reads: fn(&str) -> bool,
    writes: fn(&str) -> bool,
    is_root: bool,
}

fn none(_: &str) -> bool {
    false
}

fn all(_: &str) -> bool {
    true
}

fn b(key: &str) -> bool {
    key == "b"
}

fn b_prefix(key: &str) -> bool {
    key.starts_with('b')
}

const USERS: [Rights; 9] = [
    Rights { user: "", reads: none, writes: none, is_root: false },
    Rights { user: "ghost", reads: none, writes: none, is_root: false },
    Rights { user: "none", reads: none, writes: none, is_root: false },
    Rights { user: "read-b", reads: b, writes: none, is_root: false },
    Rights { user: "write-b", reads: none, writes: b, is_root: false },
    Rights { user: "both-b", reads: b, writes: b, is_root: false },
    Rights { user: "prefix-b", reads: b_prefix, writes: b_prefix, is_root: false },
    Rights { user: "all", reads: all, writes: all, is_root: false },
    Rights { user: "root", reads: all, writes: all, is_root: true },
];

fn store() -> Store {
    let mut ops: Vec<Op> = root()[..3].to_vec();
    for user in ["none", "read-b", "write-b", "both-b", "prefix-b", "all"] {
        ops.extend([user_add(user), role_add(user), grant_role(user, user)]);
    }
    ops.extend([
        permit("read-b", Type::Read, "b", ""),
        permit("write-b", Type::Write, "b", ""),
        permit("both-b", Type::Readwrite, "b", ""),
        // Two halves that touch are one prefix.
        permit("prefix-b", Type::Readwrite, "b", "b1"),
        permit("prefix-b", Type::Readwrite, "b1", "c"),
        permit("all", Type::Readwrite, "\0", "\0"),
    ]);
    for (lease, keys) in &LEASES[..3] {
        ops.push(super::grant(*lease));
        ops.extend(keys.iter().map(|key| put_leased(key, "1", *lease)));
    }
    ops.push(enable());
    Store::after(ops)
}

/// What a request does, in words that have nothing to do with its encoding.
#[derive(Clone, Default)]
struct Does {
    reads: Vec<&'static str>,
    writes: Vec<&'static str>,
    needs_root: bool,
}

impl Does {
    fn and(mut self, other: Does) -> Does {
        self.reads.extend(other.reads);
        self.writes.extend(other.writes);
        self.needs_root |= other.needs_root;
        self
    }

    fn is_allowed(&self, rights: &Rights) -> bool {
        let is_user = !matches!(rights.user, "" | "ghost");
        let reads = self.reads.iter().all(|key| (rights.reads)(key));
        let writes = self.writes.iter().all(|key| (rights.writes)(key));
        rights.is_root || is_user && reads && writes && !self.needs_root
    }
}

fn reads(keys: &[&'static str]) -> Does {
    Does { reads: keys.to_vec(), ..Does::default() }
}

fn writes(keys: &[&'static str]) -> Does {
    Does { writes: keys.to_vec(), ..Does::default() }
}

/// Ranges of this world, with the keys in them.
const RANGES: [(&str, &str, &[&str]); 7] = [
    ("a", "", &["a"]),
    ("b", "", &["b"]),
    ("b1", "", &["b1"]),
    ("b", "b1", &["b", "b0"]),
    ("b", "c", &["b", "b0", "b1"]),
    ("b", "\0", &["b", "b0", "b1", "c", "z"]),
    ("\0", "\0", &KEYS),
];

/// Every operation that can stand in a transaction, in every form.
fn operations() -> Vec<(String, Request, Does)> {
    let mut all = Vec::new();
    for (key, end, keys) in RANGES {
        let range_end: Vec<u8> = end.into();
        let range = RangeRequest { range_end: range_end.into(), ..read(key) };
        for (form, request) in [
            ("range", range.clone()),
            ("range count-only", RangeRequest { count_only: true, ..range.clone() }),
            ("range keys-only", RangeRequest { keys_only: true, ..range.clone() }),
            ("range past", RangeRequest { revision: 2, limit: 1, serializable: true, ..range.clone() }),
        ] {
            all.push((format!("{form} {key:?}-{end:?}"), Request::RequestRange(request), reads(keys)));
        }
        let delete = delete_request(key, end);
        let plain = DeleteRangeRequest { prev_kv: false, ..delete.clone() };
        all.push((format!("delete {key:?}-{end:?}"), Request::RequestDeleteRange(plain), writes(keys)));
        let does = writes(keys).and(reads(keys));
        all.push((format!("delete prev {key:?}-{end:?}"), Request::RequestDeleteRange(delete), does));
    }
    for key in ["a", "b", "b1"] {
        let plain = put_request(key, "2");
        for (form, request) in [
            ("put", plain.clone()),
            ("put ignore value", PutRequest { value: "".into(), ignore_value: true, ..plain.clone() }),
            ("put ignore lease", PutRequest { ignore_lease: true, ..plain.clone() }),
        ] {
            let prev = PutRequest { prev_kv: true, ..request.clone() };
            all.push((format!("{form} {key}"), Request::RequestPut(request), writes(&[key])));
            let does = writes(&[key]).and(reads(&[key]));
            all.push((format!("{form} prev {key}"), Request::RequestPut(prev), does));
        }
        for (lease, keys) in LEASES {
            let request = PutRequest { lease, ..plain.clone() };
            let does = writes(&[key]).and(writes(keys));
            all.push((format!("put {key} lease {lease}"), Request::RequestPut(request), does));
        }
    }
    all
}

fn compare(key: &str, end: &str) -> Compare {
    let (key, range_end) = (key.as_bytes().to_vec().into(), end.as_bytes().to_vec().into());
    Compare { key, range_end, ..Compare::default() }
}

/// Commands: each operation alone, and in every place of a transaction.
fn commands() -> Vec<(String, Op, Does)> {
    let mut all = Vec::new();
    for (name, request, does) in operations() {
        match &request {
            Request::RequestPut(put) => all.push((name.clone(), Op::Put(put.clone()), does.clone())),
            Request::RequestDeleteRange(delete) => {
                all.push((name.clone(), Op::DeleteRange(delete.clone()), does.clone()));
            }
            Request::RequestRange(_) | Request::RequestTxn(_) => {}
        }
        // A branch that is not taken counts as much: what it would be is read
        // from whether it is refused.
        let places = [
            ("then", txn(vec![], vec![request.clone()], vec![])),
            ("else", txn(vec![], vec![], vec![request.clone()])),
            (
                "nested",
                txn(vec![], vec![], vec![Request::RequestTxn(txn(vec![], vec![], vec![request.clone()]))]),
            ),
            (
                "nested twice",
                txn(
                    vec![],
                    vec![Request::RequestTxn(txn(
                        vec![],
                        vec![Request::RequestTxn(txn(vec![], vec![request.clone()], vec![]))],
                        vec![],
                    ))],
                    vec![],
                ),
            ),
        ];
        for (place, request) in places {
            all.push((format!("txn {place} {name}"), Op::Txn(request), does.clone()));
        }
    }
    for (key, end, keys) in RANGES {
        let compared = txn(vec![compare(key, end)], vec![], vec![]);
        let nested = txn(vec![], vec![], vec![Request::RequestTxn(compared.clone())]);
        all.push((format!("txn compare {key:?}-{end:?}"), Op::Txn(compared), reads(keys)));
        all.push((format!("txn nested compare {key:?}-{end:?}"), Op::Txn(nested), reads(keys)));
    }
    all.push(("txn of nothing".to_owned(), Op::Txn(TxnRequest::default()), Does::default()));
    all.push(("compaction".to_owned(), compact(2), writes(&KEYS)));
    all.push(("lease grant".to_owned(), super::grant(50), Does::default()));
    for (lease, keys) in LEASES {
        all.push((format!("lease revoke {lease}"), revoke(&[lease]), writes(keys)));
        all.push((format!("lease revoke 12 {lease}"), revoke(&[12, lease]), writes(keys)));
    }
    let root = || Does { needs_root: true, ..Does::default() };
    let alarm = |action| Op::Alarm(AlarmRequest { action, member_id: 1, alarm: 0 });
    all.push(("alarm get".to_owned(), alarm(0), Does::default()));
    all.push(("alarm activate".to_owned(), alarm(1), root()));
    all.push(("alarm deactivate".to_owned(), alarm(2), root()));
    all.push(("alarm, no such action".to_owned(), alarm(77), root()));
    all.push(("checkpoint".to_owned(), Op::LeaseCheckpoint(LeaseCheckpointRequest::default()), root()));
    all.push(("member".to_owned(), Op::Member(Member::default()), root()));
    all.push(("auth change".to_owned(), role_add("new"), root()));
    all
}

/// Reads and watches, by what they need.
fn questions() -> Vec<(String, Vec<Need<'static>>, Does)> {
    let mut all: Vec<(String, Vec<Need<'static>>, Does)> = Vec::new();
    for (key, end, keys) in RANGES {
        let request: &'static WatchCreateRequest = Box::leak(Box::new(WatchCreateRequest {
            key: key.as_bytes().into(),
            range_end: end.as_bytes().into(),
            ..WatchCreateRequest::default()
        }));
        all.push((format!("watch {key:?}-{end:?}"), needs::watch(request), reads(keys)));
        let request: &'static RangeRequest =
            Box::leak(Box::new(RangeRequest { range_end: end.as_bytes().into(), ..read(key) }));
        all.push((format!("range {key:?}-{end:?}"), needs::range(request), reads(keys)));
    }
    let whole: &'static WatchCreateRequest =
        Box::leak(Box::new(WatchCreateRequest { range_end: vec![0].into(), ..Default::default() }));
    all.push(("watch of all".to_owned(), needs::watch(whole), reads(&KEYS)));
    for (lease, keys) in LEASES {
        let needs = vec![Need::User, Need::ReadLease(lease)];
        all.push((format!("time to live with keys {lease}"), needs, reads(keys)));
        let needs = vec![Need::User, Need::WriteLease(lease)];
        all.push((format!("keep-alive {lease}"), needs, writes(keys)));
    }
    all
}

fn refusal(rights: &Rights, needs_root: bool) -> EtcdError {
    match rights.user {
        "" => EtcdError::UserEmpty,
        "ghost" if needs_root => EtcdError::UserNotFound,
        _ => EtcdError::PermissionDenied,
    }
}

#[test]
fn every_command_is_done_for_those_who_may_and_for_nobody_else() {
    let prepared = store();
    let commands = commands();
    for rights in &USERS {
        for (name, op, does) in &commands {
            let mut store = Store { machine: prepared.machine.clone(), view: prepared.view.clone() };
            let by = match rights.user {
                "" => Requester::default(),
                user => store.now(user),
            };
            let got = store.apply_for(by, op.clone());
            let refused = matches!(
                got,
                Err(EtcdError::PermissionDenied | EtcdError::UserEmpty | EtcdError::UserNotFound)
            );
            assert_eq!(!refused, does.is_allowed(rights), "{name} by {:?}: {got:?}", rights.user);
            if refused {
                assert_eq!(got, Err(refusal(rights, does.needs_root)), "{name} by {:?}", rights.user);
            }
        }
    }
    assert!(commands.len() > 250, "{} commands", commands.len());
}

#[test]
fn every_question_is_answered_to_those_who_may_and_to_nobody_else() {
    let store = store();
    let auth = store.machine.auth();
    for rights in &USERS {
        for (name, needs, does) in questions() {
            let by = match rights.user {
                "" => Requester::default(),
                user => store.now(user),
            };
            let got = authorise(&auth, &by, &needs, &store.view);
            let want = if does.is_allowed(rights) { Ok(()) } else { Err(refusal(rights, false)) };
            assert_eq!(got, want, "{name} by {:?}", rights.user);
        }
    }
}

#[test]
fn own_users_and_roles_may_be_looked_at() {
    let store = store();
    let auth = store.machine.auth();
    let rows = [
        ("own user", "both-b", Need::OwnUser("both-b"), Ok(())),
        ("another user", "both-b", Need::OwnUser("root"), Err(EtcdError::PermissionDenied)),
        ("own role", "both-b", Need::OwnRole("both-b"), Ok(())),
        ("another role", "both-b", Need::OwnRole("read-b"), Err(EtcdError::PermissionDenied)),
        ("root, another user", "root", Need::OwnUser("both-b"), Ok(())),
        ("root, another role", "root", Need::OwnRole("both-b"), Ok(())),
        ("any user", "none", Need::User, Ok(())),
        ("root's", "all", Need::Root, Err(EtcdError::PermissionDenied)),
        ("nobody's", "", Need::Anyone, Ok(())),
        ("nobody is no user", "", Need::User, Err(EtcdError::UserEmpty)),
    ];
    for (name, user, need, want) in rows {
        let by = if user.is_empty() { Requester::default() } else { store.now(user) };
        assert_eq!(authorise(&auth, &by, &[need], &store.view), want, "{name}");
        if user.is_empty() {
            let got = authorise(&auth, &by, &[], &store.view);
            assert_eq!(got, Err(EtcdError::UserEmpty), "{name}: no needs are no permission");
            let got = authorise(&auth, &by, &[need, Need::User], &store.view);
            assert_eq!(got, Err(EtcdError::UserEmpty), "{name}: one open need opens no other");
        }
    }
}

#[test]
fn the_v2_tree_is_not_v3s_to_forbid() {
    let mut store = store();
    let write = Op::V2Write(proa_etcd_api::command::V2Write::default());
    let refusal = store.apply_for(Requester::default(), write).err();
    assert!(!matches!(refusal, Some(EtcdError::UserEmpty | EtcdError::PermissionDenied)), "{refusal:?}");
}

#[test]
fn members_do_what_they_must_and_nobody_else_is_one() {
    let mut store = store();
    let member = Requester { is_member: true, ..Requester::default() };
    assert!(store.apply_for(member, revoke(&[10])).is_ok());
    assert_eq!(store.get("a"), None);
    assert_eq!(store.apply_for(Requester::default(), revoke(&[11])), Err(EtcdError::UserEmpty));
}
