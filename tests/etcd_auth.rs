//! Users, roles and permissions: the same words to Debian's etcd and to our
//! members, and every RPC for every kind of user.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod etcd;
#[path = "etcd_auth/every_rpc.rs"]
mod every_rpc;
#[path = "etcd_auth/same_words.rs"]
mod same_words;

use std::path::Path;
use std::time::Duration;

use etcd::{Cluster, PATIENCE, put_surely, runtime, wait_for};
use proa_etcd_client::api::authpb::{Permission, permission::Type};
use proa_etcd_client::api::etcdserverpb::{
    AuthEnableRequest, AuthRoleAddRequest, AuthRoleGrantPermissionRequest, AuthUserAddRequest,
    AuthUserChangePasswordRequest, AuthUserGrantRoleRequest, AuthUserRevokeRoleRequest, PutRequest,
    RangeRequest,
};
use proa_etcd_client::{Client, Error, Timeouts, WatchItem};
use tokio_stream::StreamExt as _;

/// Cheap to hash: what is tested is not bcrypt.
const FAST: &str = "--bcrypt-cost=4";
const ROOT_PASSWORD: &str = "the-root-password";

fn login(endpoints: &[String], user: &str, password: &str) -> Client {
    let timeouts = Timeouts { connect: Duration::from_secs(10), request: Duration::from_secs(30) };
    Client::with_timeouts(endpoints, timeouts).unwrap().as_user(user, password)
}

/// A user with a role of the same name that allows one range.
async fn add_user(client: &Client, name: &str, range: Option<(Type, &str, &str)>) {
    let add = AuthUserAddRequest {
        name: name.to_owned(),
        password: password_of(name),
        ..AuthUserAddRequest::default()
    };
    client.user_add(add).await.unwrap();
    let Some((kind, key, range_end)) = range else { return };
    client.role_add(AuthRoleAddRequest { name: name.to_owned() }).await.unwrap();
    let perm = Permission {
        perm_type: kind as i32,
        key: key.to_owned().into(),
        range_end: range_end.to_owned().into(),
    };
    let grant = AuthRoleGrantPermissionRequest { name: name.to_owned(), perm: Some(perm) };
    client.role_grant_permission(grant).await.unwrap();
    let grant = AuthUserGrantRoleRequest { user: name.to_owned(), role: name.to_owned() };
    client.user_grant_role(grant).await.unwrap();
}

fn password_of(name: &str) -> String {
    if name == "root" { ROOT_PASSWORD.to_owned() } else { format!("password of {name}") }
}

/// Root, and authentication turned on.
async fn enable(client: &Client) {
    add_user(client, "root", None).await;
    let grant = AuthUserGrantRoleRequest { user: "root".to_owned(), role: "root".to_owned() };
    client.user_grant_role(grant).await.unwrap();
    client.auth_enable(AuthEnableRequest {}).await.unwrap();
}

fn put(key: &str, value: &str) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..PutRequest::default() }
}

fn get(key: &str) -> RangeRequest {
    RangeRequest { key: key.to_owned().into(), ..RangeRequest::default() }
}

fn refusal<T: std::fmt::Debug>(answer: Result<T, Error>) -> String {
    match answer {
        Err(Error::Refused { text, .. }) => text,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_token_is_good_at_every_member_and_a_new_one_is_got_when_it_is_lost() {
    let mut cluster = Cluster::start(3, &[FAST]);
    let runtime = runtime();
    let alice = runtime.block_on(async {
        let anybody = cluster.client();
        put_surely(&anybody, "k", "0").await;
        add_user(&anybody, "alice", Some((Type::Readwrite, "k", ""))).await;
        enable(&anybody).await;
        login(&cluster.endpoints(), "alice", &password_of("alice"))
    });
    // One client asks all members in turn, with the token that one gave it.
    for round in 0..3 {
        runtime.block_on(async { put_surely(&alice, "k", &format!("{round}")).await });
        cluster.members[round].kill();
        runtime.block_on(async { put_surely(&alice, "k", &format!("{round} with two members")).await });
        cluster.members[round].start();
        cluster.wait_ready_as(ROOT_PASSWORD);
    }
    // A member that started anew knows no token: only a new login helps.
    cluster.members.iter_mut().for_each(|member| member.kill());
    cluster.members.iter_mut().for_each(|member| member.start());
    cluster.wait_ready_as(ROOT_PASSWORD);
    runtime.block_on(async {
        put_surely(&alice, "k", "after all").await;
        assert_eq!(refusal(alice.put(put("other", "1")).await), "etcdserver: permission denied");
    });
}

#[test]
fn a_watch_ends_with_its_right_and_shows_nothing_after_it() {
    let cluster = Cluster::start(1, &[FAST]);
    runtime().block_on(async {
        let anybody = cluster.client();
        put_surely(&anybody, "k", "0").await;
        add_user(&anybody, "alice", Some((Type::Read, "k", ""))).await;
        enable(&anybody).await;
        let root = login(&cluster.endpoints(), "root", ROOT_PASSWORD);
        for round in 0..20 {
            let alice = login(&cluster.endpoints(), "alice", &password_of("alice"));
            let mut watch = alice.watch("k", "", 0);
            let mut open_ended = alice.watch("k", "\0", 0);
            assert!(
                matches!(open_ended.next().await, Some(WatchItem::Refused(_))),
                "an open end is not one key"
            );
            assert!(matches!(watch.next().await, Some(WatchItem::Begun { .. })));
            root.put(put("k", "shown")).await.unwrap();
            match watch.next().await {
                Some(WatchItem::Events { events, .. }) => {
                    assert_eq!(events[0].kv.as_ref().unwrap().value.as_ref(), b"shown");
                }
                other => panic!("{other:?}"),
            }
            let (name, role) = ("alice".to_owned(), "alice".to_owned());
            root.user_revoke_role(AuthUserRevokeRoleRequest { name, role }).await.unwrap();
            root.put(put("k", "secret")).await.unwrap();
            match tokio::time::timeout(PATIENCE, watch.next()).await.unwrap() {
                Some(WatchItem::Refused(error)) => {
                    assert!(error.to_string().ends_with("etcdserver: permission denied"), "{error}");
                }
                other => panic!("round {round}: {other:?}"),
            }
            let (user, role) = ("alice".to_owned(), "alice".to_owned());
            root.user_grant_role(AuthUserGrantRoleRequest { user, role }).await.unwrap();
        }
    });
}

#[test]
fn a_new_password_voids_the_tokens_of_the_old_one() {
    let cluster = Cluster::start(1, &[FAST]);
    runtime().block_on(async {
        let anybody = cluster.client();
        put_surely(&anybody, "k", "0").await;
        add_user(&anybody, "alice", Some((Type::Readwrite, "k", ""))).await;
        enable(&anybody).await;
        let root = login(&cluster.endpoints(), "root", ROOT_PASSWORD);
        let alice = login(&cluster.endpoints(), "alice", &password_of("alice"));
        alice.put(put("k", "1")).await.unwrap();
        let change = AuthUserChangePasswordRequest {
            name: "alice".to_owned(),
            password: "another".to_owned(),
            ..AuthUserChangePasswordRequest::default()
        };
        root.user_change_password(change).await.unwrap();
        // The client tries the old password once more; that is wrong as well.
        let wrong = "etcdserver: authentication failed, invalid user ID or password";
        assert_eq!(refusal(alice.put(put("k", "2")).await), wrong);
        let alice = login(&cluster.endpoints(), "alice", "another");
        alice.put(put("k", "3")).await.unwrap();
        assert_eq!(refusal(cluster.client().range(get("k")).await), "etcdserver: user name is empty");
    });
}

#[test]
fn a_signed_token_is_good_at_every_member_and_outlives_them_all() {
    let keys = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/etcd/server/auth/testdata");
    let (private, public) = (keys.join("ec1.pem"), keys.join("ec.pub"));
    let signed = format!(
        "--auth-token=jwt,sign-method=ES256,priv-key={},pub-key={}",
        private.display(),
        public.display()
    );
    let mut cluster = Cluster::start(3, &[FAST, &signed]);
    runtime().block_on(async {
        let anybody = cluster.client();
        put_surely(&anybody, "k", "0").await;
        add_user(&anybody, "alice", Some((Type::Readwrite, "k", ""))).await;
        enable(&anybody).await;
    });
    let token = every_rpc::token(&cluster, "alice");
    assert_eq!(token.split('.').count(), 3, "{token}");
    cluster.members.iter_mut().for_each(|member| member.kill());
    cluster.members.iter_mut().for_each(|member| member.start());
    cluster.wait_ready_as(ROOT_PASSWORD);
    for member in 0..3 {
        let answer = every_rpc::get(&cluster, member, "k", &token);
        assert!(answer.contains("\"kvs\""), "{answer}");
        let answer = every_rpc::get(&cluster, member, "other", &token);
        assert!(answer.contains("etcdserver: permission denied"), "{answer}");
        let answer = every_rpc::get(&cluster, member, "k", &token.replace('a', "b"));
        assert!(answer.contains("etcdserver: invalid auth token"), "{answer}");
    }
}

#[test]
fn a_key_for_tokens_that_cannot_be_used_is_said_in_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = format!("--data-dir={}", folder.path().join("d").display());
    let run = |tokens: &str| {
        let output = std::process::Command::new(etcd::proa())
            .args(["etcd", &data_dir, &format!("--auth-token={tokens}")])
            .env_clear()
            .output()
            .unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let missing = run("jwt,sign-method=RS256,priv-key=/nowhere");
    assert!(missing.contains("--auth-token: priv-key=/nowhere: No such file"), "{missing}");
    let unknown = run("jwt,sign-method=XS1,priv-key=/nowhere");
    assert!(unknown.contains("sign-method=XS1: give one of HS256 "), "{unknown}");
    assert!(!folder.path().join("d").exists(), "nothing is begun");
}

#[test]
fn nothing_secret_is_on_the_disk() {
    let cluster = Cluster::start(1, &[FAST]);
    let token = runtime().block_on(async {
        let anybody = cluster.client();
        put_surely(&anybody, "marker", "a-value-that-is-on-the-disk").await;
        enable(&anybody).await;
        every_rpc::token(&cluster, "root")
    });
    let holds = |text: &str| files(&cluster.members[0].data_dir).iter().any(|file| contains(file, text));
    wait_for("what was written", || holds("a-value-that-is-on-the-disk").then_some(()));
    assert!(holds("$2b$04$"), "the hash is where it is looked for");
    assert!(!holds(ROOT_PASSWORD), "the password is on the disk");
    assert!(!holds(&token), "the token is on the disk");
}

fn files(folder: &Path) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(
            |path| if path.is_dir() { files(&path) } else { std::fs::read(&path).into_iter().collect() },
        )
        .collect()
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}
