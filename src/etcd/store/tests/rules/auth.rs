//! Users, roles, permissions: what etcd answers to each change.

use super::*;
use proa_etcd_api::authpb::permission::Type;
use proa_etcd_api::authpb::{Permission, UserAddOptions};
use proa_etcd_api::command::auth_change::Change;
use proa_etcd_api::command::{AuthChange, Proposal, Requester, TokenGrant};
use proa_etcd_api::mvccpb::Event;

pub(super) fn auth(change: Change) -> Op {
    Op::Auth(AuthChange { change: Some(change) })
}

pub(super) fn user_add(name: &str) -> Op {
    let hashed_password = format!("hash of {name}");
    auth(Change::UserAdd(AuthUserAddRequest {
        name: name.to_owned(),
        hashed_password,
        ..AuthUserAddRequest::default()
    }))
}

pub(super) fn role_add(name: &str) -> Op {
    auth(Change::RoleAdd(AuthRoleAddRequest { name: name.to_owned() }))
}

pub(super) fn grant_role(user: &str, role: &str) -> Op {
    auth(Change::UserGrantRole(AuthUserGrantRoleRequest { user: user.to_owned(), role: role.to_owned() }))
}

pub(super) fn permit(role: &str, kind: Type, key: &str, range_end: &str) -> Op {
    let perm = Permission {
        perm_type: kind as i32,
        key: key.as_bytes().to_vec().into(),
        range_end: range_end.as_bytes().to_vec().into(),
    };
    auth(Change::RoleGrantPermission(AuthRoleGrantPermissionRequest {
        name: role.to_owned(),
        perm: Some(perm),
    }))
}

pub(super) fn enable() -> Op {
    auth(Change::Enable(AuthEnableRequest {}))
}

fn disable() -> Op {
    auth(Change::Disable(AuthDisableRequest {}))
}

fn user_delete(name: &str) -> Op {
    auth(Change::UserDelete(AuthUserDeleteRequest { name: name.to_owned() }))
}

fn role_delete(role: &str) -> Op {
    auth(Change::RoleDelete(AuthRoleDeleteRequest { role: role.to_owned() }))
}

fn revoke_role(name: &str, role: &str) -> Op {
    auth(Change::UserRevokeRole(AuthUserRevokeRoleRequest { name: name.to_owned(), role: role.to_owned() }))
}

fn revoke_permission(role: &str, key: &str, range_end: &str) -> Op {
    auth(Change::RoleRevokePermission(AuthRoleRevokePermissionRequest {
        role: role.to_owned(),
        key: key.as_bytes().to_vec().into(),
        range_end: range_end.as_bytes().to_vec().into(),
    }))
}

fn change_password(name: &str, hash: &str) -> Op {
    auth(Change::UserChangePassword(AuthUserChangePasswordRequest {
        name: name.to_owned(),
        hashed_password: hash.to_owned(),
        ..AuthUserChangePasswordRequest::default()
    }))
}

fn token(user: &str, checked_revision: u64) -> Op {
    let digest = vec![7; 32].into();
    auth(Change::TokenGrant(TokenGrant { user: user.to_owned(), digest, checked_revision }))
}

pub(super) fn root() -> [Op; 4] {
    [user_add("root"), role_add("root"), grant_role("root", "root"), enable()]
}

impl Store {
    /// As a proposal of a client.
    pub(super) fn apply_for(&mut self, requester: Requester, op: Op) -> Result<Reply, EtcdError> {
        let before = (self.view.clone(), self.machine.clone());
        let proposal =
            Proposal { id: 1, command: Some(Command { op: Some(op) }), requester: Some(requester) };
        let mut writes = Writes::default();
        let outcome = self.machine.apply_proposal(&self.view, &mut writes, &proposal);
        self.view.apply(&writes);
        if outcome.reply.is_err() {
            assert_eq!(outcome.events, Vec::<Event>::new());
            assert!((&self.view, &self.machine) == (&before.0, &before.1), "a refusal changes nothing");
        }
        outcome.reply
    }

    /// `user`, known as of now.
    pub(super) fn now(&self, user: &str) -> Requester {
        let auth_revision = self.machine.auth().revision();
        Requester { user: user.to_owned(), auth_revision, is_member: false }
    }
}

#[test]
fn changes_are_refused_as_in_etcd() {
    use EtcdError as E;
    let alice = || vec![user_add("alice"), role_add("r"), permit("r", Type::Read, "k", "")];
    #[rustfmt::skip]
    type Row = (&'static str, Vec<Op>, Op, Result<(), E>);
    let rows: Vec<Row> = vec![
        ("enable without root", vec![], enable(), Err(E::RootUserNotExist)),
        ("enable, root has no role", vec![user_add("root")], enable(), Err(E::RootRoleNotExist)),
        ("role root need not exist", vec![user_add("root")], grant_role("root", "root"), Ok(())),
        ("enable twice", root().to_vec(), enable(), Ok(())),
        ("disable twice", vec![], disable(), Ok(())),
        ("user without a name", vec![], user_add(""), Err(E::UserEmpty)),
        ("user twice", alice(), user_add("alice"), Err(E::UserExists)),
        ("delete unknown user", vec![], user_delete("x"), Err(E::UserNotFound)),
        ("delete root, disabled", vec![user_add("root")], user_delete("root"), Ok(())),
        ("delete root, enabled", root().to_vec(), user_delete("root"), Err(E::InvalidAuthManagement)),
        ("password of unknown user", vec![], change_password("x", "h"), Err(E::UserNotFound)),
        ("grant to unknown user", alice(), grant_role("x", "r"), Err(E::UserNotFound)),
        ("grant unknown role", alice(), grant_role("alice", "x"), Err(E::RoleNotFound)),
        ("grant role", alice(), grant_role("alice", "r"), Ok(())),
        ("revoke role not granted", alice(), revoke_role("alice", "r"), Err(E::RoleNotGranted)),
        ("revoke from unknown user", alice(), revoke_role("x", "r"), Err(E::UserNotFound)),
        (
            "revoke root from root",
            root().to_vec(),
            revoke_role("root", "root"),
            Err(E::InvalidAuthManagement),
        ),
        ("role without a name", vec![], role_add(""), Err(E::RoleEmpty)),
        ("role twice", alice(), role_add("r"), Err(E::RoleExists)),
        ("delete unknown role", vec![], role_delete("x"), Err(E::RoleNotFound)),
        ("delete role root, enabled", root().to_vec(), role_delete("root"), Err(E::InvalidAuthManagement)),
        ("permit unknown role", vec![], permit("x", Type::Read, "k", ""), Err(E::RoleNotFound)),
        ("permit no key", alice(), permit("r", Type::Read, "", "z"), Err(E::InvalidAuthManagement)),
        ("permit empty range", alice(), permit("r", Type::Read, "b", "a"), Err(E::InvalidAuthManagement)),
        ("permit open range", alice(), permit("r", Type::Read, "b", "\0"), Ok(())),
        ("revoke permission", alice(), revoke_permission("r", "k", ""), Ok(())),
        (
            "revoke another permission",
            alice(),
            revoke_permission("r", "k", "l"),
            Err(E::PermissionNotGranted),
        ),
        ("revoke of unknown role", vec![], revoke_permission("r", "k", ""), Err(E::RoleNotFound)),
        ("token while disabled", alice(), token("alice", 9), Err(E::AuthNotEnabled)),
        ("token of unknown user", root().to_vec(), token("x", 9), Err(E::AuthFailed)),
        ("token", root().to_vec(), token("root", 9), Ok(())),
        ("token, password changed", root().to_vec(), token("root", 1), Err(E::AuthOldRevision)),
    ];
    for (name, before, op, want) in rows {
        let mut store = Store::after(before);
        let got = match want {
            Ok(()) => store.apply(op).reply.map(drop),
            Err(_) => Err(store.refused(op)),
        };
        assert_eq!(got, want, "{name}");
    }
    let empty = auth(Change::RoleGrantPermission(AuthRoleGrantPermissionRequest::default()));
    assert_eq!(Store::new().refused(empty), E::PermissionNotGiven);
}

#[test]
fn the_revision_counts_changes_and_not_what_changes_nothing() {
    let mut store = Store::new();
    let mut steps = Vec::new();
    let ops = [
        user_add("root"),
        role_add("root"),
        grant_role("root", "root"),
        grant_role("root", "root"),
        enable(),
        change_password("root", "h"),
        role_add("r"),
        permit("r", Type::Read, "k", ""),
        permit("r", Type::Write, "k", ""),
        revoke_permission("r", "k", ""),
        role_delete("r"),
        disable(),
        disable(),
    ];
    for op in ops {
        store.apply(op).reply.unwrap();
        steps.push(store.machine.auth().revision());
    }
    assert_eq!(steps, [2, 3, 4, 4, 4, 5, 6, 7, 8, 9, 10, 11, 11]);
    assert_eq!(store.revision(), 1, "keys have a revision of their own");
}

#[test]
fn roles_show_their_permissions_by_key_and_root_shows_all() {
    let mut store = Store::after(root());
    let ops = [
        role_add("r"),
        permit("r", Type::Read, "b", "c"),
        permit("r", Type::Write, "a", ""),
        permit("r", Type::Read, "b", ""),
        permit("r", Type::Readwrite, "b", "c"),
        permit("root", Type::Read, "x", ""),
    ];
    for op in ops {
        store.apply(op).reply.unwrap();
    }
    let show = |role: &str| {
        let permissions = store.machine.auth().permissions(role).unwrap();
        let one = |p: &Permission| {
            let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
            format!("{}:{}-{}", p.perm_type, text(&p.key), text(&p.range_end))
        };
        permissions.iter().map(one).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(show("r"), "1:a- 0:b- 2:b-c");
    assert_eq!(show("root"), "2:-\\x00");
    assert_eq!(store.machine.auth().permissions("x"), None);
}

#[test]
fn a_deleted_role_is_taken_from_its_users() {
    let mut store = Store::after(root());
    for op in [user_add("u"), role_add("r"), permit("r", Type::Write, "k", ""), grant_role("u", "r")] {
        store.apply(op).reply.unwrap();
    }
    assert!(store.apply_for(store.now("u"), put("k", "1")).is_ok());
    store.apply(role_delete("r")).reply.unwrap();
    assert_eq!(store.machine.auth().roles_of("u"), Some(&[][..]));
    // A new role of the same name is another one.
    store.apply(role_add("r")).reply.unwrap();
    store.apply(permit("r", Type::Write, "k", "")).reply.unwrap();
    assert_eq!(store.apply_for(store.now("u"), put("k", "2")), Err(EtcdError::PermissionDenied));
}

#[test]
fn what_was_let_in_before_a_change_is_asked_again() {
    let mut store = Store::after(root());
    for op in [user_add("u"), role_add("r"), permit("r", Type::Write, "k", ""), grant_role("u", "r")] {
        store.apply(op).reply.unwrap();
    }
    let early = store.now("u");
    assert!(store.apply_for(early.clone(), put("k", "1")).is_ok());
    store.apply(revoke_role("u", "r")).reply.unwrap();
    assert_eq!(store.apply_for(early, put("k", "2")), Err(EtcdError::AuthOldRevision));
    assert_eq!(store.apply_for(store.now("u"), put("k", "2")), Err(EtcdError::PermissionDenied));
    // Nor does the user root from before a new password change anything.
    let early = store.now("root");
    store.apply(change_password("root", "h")).reply.unwrap();
    assert_eq!(store.apply_for(early, role_add("x")), Err(EtcdError::AuthOldRevision));
}

#[test]
fn an_alarm_lets_nobody_in() {
    // etcd 3.5 forgot about permissions while the alarm NOSPACE was raised.
    let mut store = Store::after(root());
    let alarm = AlarmRequest { action: 1, member_id: 1, alarm: AlarmType::Nospace as i32 };
    for op in [user_add("u"), put("k", "1"), Op::Alarm(alarm)] {
        store.apply(op).reply.unwrap();
    }
    for op in [disable(), delete("k", ""), user_delete("u")] {
        assert_eq!(store.apply_for(store.now("u"), op), Err(EtcdError::PermissionDenied));
    }
}

#[test]
fn proof_ends_with_the_password_the_user_and_authentication() {
    let prepared = || Store::after(root().into_iter().chain([user_add("u")]));
    let rows: Vec<(&str, Vec<Op>, bool)> = vec![
        ("nothing happens", vec![role_add("r")], true),
        ("another user's password", vec![change_password("root", "h")], true),
        ("password", vec![change_password("u", "h")], false),
        ("user deleted", vec![user_delete("u")], false),
        ("user made anew", vec![user_delete("u"), user_add("u")], false),
        ("off and on", vec![disable(), enable()], false),
    ];
    for (name, ops, want) in rows {
        let mut store = prepared();
        let since = store.machine.auth().revision();
        assert!(store.machine.auth().accepts("u", since), "{name}");
        for op in ops {
            store.apply(op).reply.unwrap();
        }
        assert_eq!(store.machine.auth().accepts("u", since), want, "{name}");
    }
}

#[test]
fn a_password_is_looked_at_only_where_there_is_one() {
    let no_password = auth(Change::UserAdd(AuthUserAddRequest {
        name: "cert".to_owned(),
        options: Some(UserAddOptions { no_password: true }),
        hashed_password: "ignored".to_owned(),
        ..AuthUserAddRequest::default()
    }));
    let store = Store::after([user_add("u"), no_password, change_password("cert", "ignored")]);
    let state = store.machine.auth();
    let hash = |user| state.secret(user).and_then(|secret| secret.password_hash);
    assert_eq!(hash("u"), Some("hash of u".to_owned()));
    assert_eq!((hash("cert"), hash("x")), (None, None));
}
