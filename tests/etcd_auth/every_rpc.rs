//! Every RPC there is, by the gateway, for every kind of user: who is let in.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use proa_etcd_api::descriptor::RPCS;
use proa_etcd_api::{EtcdError, routes};
use proa_etcd_client::api::authpb::permission::Type;
use serde_json::{Value, json};

use crate::etcd::{Cluster, put_surely, runtime};
use crate::{FAST, add_user, enable, password_of};

/// In the order in which they ask: what only root may do is done last.
const USERS: [&str; 6] = ["", "none", "writer", "one", "prefix", "root"];
/// Who is somebody.
const ANY_USER: &str = "none writer one prefix root";
const EVERYBODY: &str = " none writer one prefix root";

/// A lease with a key that only root may touch, and one with the key `k`.
const FOREIGN_LEASE: i64 = 101;
const OWN_LEASE: i64 = 102;

/// One request: path, body, who is let in.
struct Row {
    path: &'static str,
    body: Value,
    allowed: &'static str,
}

impl Row {
    fn body_of(&self, user: &str) -> Value {
        let body = self.body.to_string();
        let body = body.replace("NAME2", &b(&format!("k{user}2"))).replace("NAME", &b(&format!("k{user}")));
        serde_json::from_str(&body).unwrap()
    }
}

fn row(path: &'static str, allowed: &'static str, body: Value) -> Row {
    Row { path, body, allowed }
}

/// Bytes as the gateway wants them.
fn b(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = text.as_bytes().chunks(3).flat_map(|chunk| {
        let bits = chunk.iter().fold(0, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        let digit = move |place: usize| match place <= chunk.len() {
            true => char::from(DIGITS[(bits >> (18 - 6 * place)) as usize & 63]),
            false => '=',
        };
        (0..4).map(digit)
    });
    digits.collect()
}

fn keys() -> Vec<Row> {
    let put = |key: &str, more: Value| merged(json!({"key": b(key), "value": b("v")}), more);
    let range = |key: &str, end: &str| json!({"key": b(key), "range_end": b(end)});
    let put_op = |key: &str, more: Value| json!({"request_put": put(key, more)});
    let range_op = |key: &str| json!({"request_range": range(key, "")});
    let delete_op = |key: &str, prev: bool| json!({"request_delete_range": merged(range(key, ""), json!({"prev_kv": prev}))});
    let then = |op: Value| json!({"success": [op]});
    let nested = |op: Value| json!({"failure": [{"request_txn": {"success": [{"request_txn": then(op)}]}}]});
    let compare = |key: &str, end: &str| json!({"compare": [range(key, end)]});
    vec![
        row("/v3/kv/range", "one prefix root", range("k", "")),
        row("/v3/kv/range", "one prefix root", merged(range("k", ""), json!({"count_only": true}))),
        row("/v3/kv/range", "prefix root", range("k", "l")),
        row("/v3/kv/range", "root", range("k", "\0")),
        row("/v3/kv/range", "root", merged(range("k", "\0"), json!({"limit": 1, "serializable": true}))),
        row("/v3/kv/range", "root", range("a", "")),
        row("/v3/kv/put", "writer one prefix root", put("k", json!({}))),
        row("/v3/kv/put", "one prefix root", put("k", json!({"prev_kv": true}))),
        row("/v3/kv/put", "prefix root", put("k1", json!({}))),
        row("/v3/kv/put", "root", put("k", json!({"lease": FOREIGN_LEASE}))),
        row("/v3/kv/put", "writer one prefix root", put("k", json!({"lease": OWN_LEASE}))),
        row("/v3/kv/txn", ANY_USER, json!({})),
        row("/v3/kv/txn", "writer one prefix root", then(put_op("k", json!({"lease": OWN_LEASE})))),
        row("/v3/kv/txn", "one prefix root", then(put_op("k", json!({"prev_kv": true})))),
        row("/v3/kv/txn", "root", then(put_op("k", json!({"lease": FOREIGN_LEASE})))),
        row("/v3/kv/txn", "one prefix root", then(range_op("k"))),
        row("/v3/kv/txn", "root", json!({"failure": [range_op("a")]})),
        row("/v3/kv/txn", "one prefix root", nested(range_op("k"))),
        row("/v3/kv/txn", "root", nested(range_op("a"))),
        row("/v3/kv/txn", "root", nested(put_op("b", json!({})))),
        row(
            "/v3/kv/txn",
            "one prefix root",
            nested(put_op("k", json!({"prev_kv": true, "lease": OWN_LEASE}))),
        ),
        row("/v3/kv/txn", "root", nested(put_op("k", json!({"lease": FOREIGN_LEASE})))),
        row("/v3/kv/txn", "writer one prefix root", nested(delete_op("k", false))),
        row("/v3/kv/txn", "one prefix root", nested(delete_op("k", true))),
        row("/v3/kv/txn", "one prefix root", compare("k", "")),
        row("/v3/kv/txn", "prefix root", compare("k", "l")),
        row("/v3/kv/txn", "root", compare("a", "")),
        row("/v3/kv/txn", "root", json!({"success": [{"request_txn": compare("a", "")}]})),
        row("/v3/kv/deleterange", "prefix root", range("k1", "k9")),
        row("/v3/kv/deleterange", "one prefix root", merged(range("k", ""), json!({"prev_kv": true}))),
        row("/v3/kv/deleterange", "writer one prefix root", range("k", "")),
        row("/v3/kv/put", "writer one prefix root", put("k", json!({"lease": OWN_LEASE}))),
        row("/v3/kv/compaction", "root", json!({"revision": 2})),
        row("/v3/watch", "one prefix root", json!({"create_request": range("k", "")})),
        row("/v3/watch", "prefix root", json!({"create_request": range("k", "l")})),
        row("/v3/watch", "root", json!({"create_request": range("k", "\0")})),
        row("/v3/watch", "root", json!({"create_request": {"range_end": b("\0"), "prev_kv": true}})),
    ]
}

fn leases() -> Vec<Row> {
    let id = |id: i64| json!({"ID": id});
    let with_keys = |id: i64| json!({"ID": id, "keys": true});
    vec![
        row("/v3/lease/grant", ANY_USER, json!({"TTL": 600})),
        row("/v3/lease/keepalive", "root", id(FOREIGN_LEASE)),
        row("/v3/lease/keepalive", "writer one prefix root", id(OWN_LEASE)),
        row("/v3/lease/timetolive", ANY_USER, id(FOREIGN_LEASE)),
        row("/v3/lease/timetolive", "root", with_keys(FOREIGN_LEASE)),
        row("/v3/lease/timetolive", "one prefix root", with_keys(OWN_LEASE)),
        row("/v3/lease/leases", "root", json!({})),
        row("/v3/lease/revoke", "root", id(FOREIGN_LEASE)),
        row("/v3/lease/revoke", "root", json!({"ID": OWN_LEASE + 1})),
    ]
}

/// Calls whose arguments are as good as none: only who asks is looked at.
fn administration() -> Vec<Row> {
    let none = || json!({});
    let member = || json!({"ID": 1});
    let user = |name: &str| json!({"name": name});
    let role = |role: &str| json!({"role": role});
    vec![
        row("/v3/cluster/member/list", ANY_USER, none()),
        row("/v3/cluster/member/add", "root", json!({"peerURLs": ["no URL"]})),
        row("/v3/cluster/member/remove", "root", member()),
        row("/v3/cluster/member/update", "root", member()),
        row("/v3/cluster/member/promote", "root", member()),
        row("/v3/maintenance/alarm", ANY_USER, none()),
        row("/v3/maintenance/alarm", "root", json!({"action": "ACTIVATE"})),
        row("/v3/maintenance/alarm", "root", json!({"action": "DEACTIVATE", "alarm": "NOSPACE"})),
        row("/v3/maintenance/status", ANY_USER, none()),
        row("/v3/maintenance/defragment", "root", none()),
        row("/v3/maintenance/hash", "root", none()),
        row("/v3/maintenance/hashkv", "root", none()),
        row("/v3/maintenance/snapshot", "root", none()),
        row("/v3/maintenance/transfer-leadership", "root", none()),
        row("/v3/auth/authenticate", EVERYBODY, json!({"name": "nobody", "password": "x"})),
        row("/v3/auth/status", "root", none()),
        row("/v3/auth/user/add", "root", json!({"name": "one", "password": "x"})),
        row("/v3/auth/user/get", "one root", user("one")),
        row("/v3/auth/user/get", "none root", user("none")),
        row("/v3/auth/user/get", "root", user("root")),
        row("/v3/auth/user/list", "root", none()),
        row("/v3/auth/user/delete", "root", user("nobody")),
        row("/v3/auth/user/changepw", "root", json!({"name": "nobody", "password": "x"})),
        row("/v3/auth/user/grant", "root", json!({"user": "one", "role": "no role"})),
        row("/v3/auth/user/revoke", "root", json!({"name": "one", "role": "no role"})),
        row("/v3/auth/role/add", "root", user("one")),
        row("/v3/auth/role/get", "one root", role("one")),
        row("/v3/auth/role/get", "root", role("root")),
        row("/v3/auth/role/list", "root", none()),
        row("/v3/auth/role/delete", "root", role("no role")),
        row("/v3/auth/role/grant", "root", json!({"name": "no role", "perm": {"key": b("k")}})),
        row("/v3/auth/role/revoke", "root", json!({"role": "no role", "key": b("k")})),
        row("/v3/auth/enable", "root", none()),
    ]
}

/// Each user queues up by a name of its own, `kUSER`: nobody waits for another.
fn queues() -> Vec<Row> {
    let name = || json!({"name": "NAME"});
    let leader = || json!({"name": "NAME", "key": b("k/1"), "rev": 1, "lease": OWN_LEASE});
    vec![
        row("/v3/lock/lock", "prefix root", name()),
        row("/v3/lock/unlock", "prefix root", json!({"key": b("k/1")})),
        row("/v3/election/campaign", "prefix root", json!({"name": "NAME2", "value": b("v")})),
        row("/v3/election/proclaim", "prefix root", json!({"leader": leader(), "value": b("v")})),
        row("/v3/election/leader", "prefix root", json!({"name": "NAME2"})),
        row("/v3/election/observe", "prefix root", json!({"name": "NAME2"})),
        row("/v3/election/resign", "prefix root", json!({"leader": leader()})),
    ]
}

fn merged(mut into: Value, more: Value) -> Value {
    if let (Value::Object(into), Value::Object(more)) = (&mut into, more) {
        into.extend(more);
    }
    into
}

/// What a member says about a key.
pub fn get(cluster: &Cluster, member: usize, key: &str, token: &str) -> String {
    ask_at(&cluster.members[member].client_url, "/v3/kv/range", Some(token), &json!({"key": b(key)}))
}

fn ask(cluster: &Cluster, path: &str, token: Option<&str>, body: &Value) -> String {
    ask_at(&cluster.members[0].client_url, path, token, body)
}

/// Asks by HTTP; what came until the first whole line of the answer's body.
fn ask_at(url: &str, path: &str, token: Option<&str>, body: &Value) -> String {
    let address = url.trim_start_matches("http://").to_owned();
    let mut connection = TcpStream::connect(&address).unwrap();
    connection.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let body = body.to_string();
    let token = token.map_or(String::new(), |token| format!("Authorization: {token}\r\n"));
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\nConnection: close\r\n{token}\r\n",
        body.len()
    );
    connection.write_all((head + &body).as_bytes()).unwrap();
    let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let read = connection.read(&mut piece).unwrap_or_else(|error| panic!("{path} {body}: {error}"));
        answer.extend_from_slice(&piece[..read]);
        let text = String::from_utf8_lossy(&answer);
        let is_whole = text.split_once("\r\n\r\n").is_some_and(|(_, body)| body.contains("}\n"));
        if read == 0 || is_whole {
            return text.into_owned();
        }
    }
}

/// The token of a user, got by its password.
pub fn token(cluster: &Cluster, user: &str) -> String {
    let login = json!({"name": user, "password": password_of(user)});
    let answer = ask(cluster, "/v3/auth/authenticate", None, &login);
    let token = answer.split("\"token\":\"").nth(1).and_then(|rest| rest.split('"').next());
    token.unwrap_or_else(|| panic!("{user}: {answer}")).to_owned()
}

fn prepare(cluster: &Cluster) {
    runtime().block_on(async {
        let anybody = cluster.client();
        put_surely(&anybody, "k", "0").await;
        add_user(&anybody, "none", None).await;
        add_user(&anybody, "writer", Some((Type::Write, "k", ""))).await;
        add_user(&anybody, "one", Some((Type::Readwrite, "k", ""))).await;
        add_user(&anybody, "prefix", Some((Type::Readwrite, "k", "l"))).await;
    });
    for (lease, key) in [(FOREIGN_LEASE, "a"), (OWN_LEASE, "k"), (OWN_LEASE + 1, "b")] {
        ask(cluster, "/v3/lease/grant", None, &json!({"ID": lease, "TTL": 3600}));
        let put = json!({"key": b(key), "value": b("0"), "lease": lease});
        assert!(ask(cluster, "/v3/kv/put", None, &put).contains("revision"), "{key}");
    }
    runtime().block_on(async { enable(&cluster.client()).await });
}

fn check(cluster: &Cluster, row: &Row, user: &str, token: Option<&str>) {
    let body = row.body_of(user);
    let answer = ask(cluster, row.path, token, &body);
    let refused = [EtcdError::PermissionDenied, EtcdError::UserEmpty, EtcdError::InvalidAuthToken];
    let refused = refused.iter().find(|error| answer.contains(error.text()));
    let is_allowed = match user {
        "" => row.allowed == EVERYBODY,
        user => row.allowed.split(' ').any(|allowed| allowed == user),
    };
    assert_eq!(refused.is_none(), is_allowed, "{} {body} by {user:?}: {answer}", row.path);
    match (user, refused) {
        ("", Some(refused)) => assert_eq!(*refused, EtcdError::UserEmpty, "{} {body}", row.path),
        (_, Some(refused)) => assert_eq!(*refused, EtcdError::PermissionDenied, "{} {body}", row.path),
        (_, None) => {}
    }
}

#[test]
fn every_rpc_lets_in_who_may_and_nobody_else() {
    let mut rows = keys();
    rows.extend(queues());
    rows.extend(leases());
    rows.extend(administration());
    // Last, for it ends everything.
    rows.push(row("/v3/auth/disable", "root", json!({})));
    for rpc in RPCS {
        let has_row =
            rows.iter().any(|row| routes::find(row.path).is_some_and(|known| std::ptr::eq(known, rpc)));
        assert!(has_row, "{}.{} has no row here", rpc.service, rpc.method);
    }
    let cluster = Cluster::start(1, &[FAST]);
    prepare(&cluster);
    let tokens = USERS.map(|user| (!user.is_empty()).then(|| token(&cluster, user)));
    for row in &rows {
        for (user, token) in USERS.iter().zip(&tokens) {
            check(&cluster, row, user, token.as_deref());
        }
        // A token that nobody was given lets nobody in, not even to what is open to all users.
        if row.allowed != EVERYBODY && row.path != "/v3/auth/disable" {
            let answer = ask(&cluster, row.path, Some("guessed"), &row.body_of(""));
            assert!(answer.contains(EtcdError::InvalidAuthToken.text()), "{}: {answer}", row.path);
        }
    }
    let after = ask(&cluster, "/v3/kv/range", None, &json!({"key": b("k")}));
    assert!(after.contains("revision"), "authentication is off: {after}");
}
