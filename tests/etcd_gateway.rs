//! The JSON gateway, health and metrics as a program without gRPC sees them.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod etcd;
#[path = "etcd_gateway/http.rs"]
mod http;

use etcd::{Cluster, free_url, wait_for};
use http::{Answer, Stream, ask, post};
use serde_json::{Value, json};

/// Requests and what etcd answered; the head of the file says how it was made.
const ANSWERS: &str = include_str!("etcd_gateway/answers.txt");

/// Without what differs from cluster to cluster.
fn bare(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let is_error = fields.contains_key("code");
            let is_own = |name: &str| {
                matches!(name, "cluster_id" | "member_id" | "raft_term" | "peerURLs" | "clientURLs")
                    || is_error && name == "message"
            };
            let kept = fields.into_iter().filter(|(name, _)| !is_own(name));
            Value::Object(kept.map(|(name, value)| (name, bare(value))).collect())
        }
        Value::Array(values) => values.into_iter().map(bare).collect(),
        other => other,
    }
}

/// Status and lines of an answer in the form of the recorded ones.
fn lines(answer: &Answer) -> Vec<String> {
    let line = |line: &str| match serde_json::from_str::<Value>(line) {
        Ok(value) => bare(value).to_string(),
        Err(_) => line.to_owned(),
    };
    let mut lines = vec![answer.status.to_string()];
    lines.extend(answer.body.lines().filter(|line| !line.is_empty()).map(line));
    lines
}

/// The recorded lines, as [`lines`] would give them.
fn recorded() -> Vec<(&'static str, Vec<String>)> {
    let mut pairs: Vec<(&str, Vec<String>)> = Vec::new();
    for line in ANSWERS.lines().filter(|line| !line.starts_with('#')) {
        if let Some(request) = line.strip_prefix("> ") {
            pairs.push((request, Vec::new()));
        } else {
            let line = line.strip_prefix("< ").unwrap();
            let value = serde_json::from_str::<Value>(line).map(bare);
            pairs.last_mut().unwrap().1.push(value.map_or(line.to_owned(), |value| value.to_string()));
        }
    }
    pairs
}

#[test]
fn answers_are_those_that_etcd_gave() {
    let cluster = Cluster::start(1, &[]);
    let url = &cluster.members[0].client_url;
    for (request, want) in recorded() {
        let (method, rest) = request.split_once(' ').unwrap();
        let (path, body) = rest.split_once(' ').unwrap_or((rest, ""));
        let mut got = lines(&ask(url, method, path, &[], body));
        // A second may have passed.
        got.iter_mut().for_each(|line| *line = line.replace("\"TTL\":\"599\"", "\"TTL\":\"600\""));
        // The member's id is its own.
        got.iter_mut().for_each(|line| *line = without_member_id(line));
        if want.get(1).is_some_and(|line| line == "{\"code\":3}") {
            assert!(got[1].contains("\"code\":3") && got[1].contains("\"error\":\""), "{request}: {got:?}");
            got[1].clone_from(&want[1]);
        }
        // Of a member it is recorded what it is called.
        let got: Vec<String> = got.into_iter().map(|line| line.replace("\"m0\"", "\"x\"")).collect();
        assert_eq!(got, want, "{request}");
    }
}

fn without_member_id(line: &str) -> String {
    let Ok(mut value) = serde_json::from_str::<Value>(line) else { return line.to_owned() };
    for member in value.get_mut("members").and_then(Value::as_array_mut).into_iter().flatten() {
        member.as_object_mut().unwrap().remove("ID");
    }
    value.to_string()
}

#[test]
fn a_watch_goes_on_for_as_long_as_it_is_read() {
    let cluster = Cluster::start(1, &[]);
    let url = &cluster.members[0].client_url;
    let mut watch = Stream::open(url, "/v3/watch", r#"{"create_request":{"key":"aw=="}}"#);
    assert_eq!(watch.next_line()["result"]["created"], true);
    for number in 1..=3 {
        post(url, "/v3/kv/put", r#"{"key":"aw==","value":"dg=="}"#);
        let event = &watch.next_line()["result"]["events"][0]["kv"];
        assert_eq!(event["version"], number.to_string());
    }
    post(url, "/v3/kv/deleterange", r#"{"key":"aw=="}"#);
    assert_eq!(watch.next_line()["result"]["events"][0]["type"], "DELETE");
}

#[test]
fn a_quiet_watcher_is_told_how_far_it_is_as_often_as_is_set() {
    let cluster = Cluster::start(1, &["--experimental-watch-progress-notify-interval=200ms"]);
    let url = &cluster.members[0].client_url;
    let create = r#"{"create_request":{"key":"aw==","progress_notify":true}}"#;
    let mut watch = Stream::open(url, "/v3/watch", create);
    assert_eq!(watch.next_line()["result"]["created"], true);
    for _ in 0..2 {
        let result = watch.next_line()["result"].take();
        assert_eq!((&result["events"], &result["header"]["revision"]), (&Value::Null, &json!("1")));
    }
}

#[test]
fn a_call_beyond_the_limit_waits_until_another_has_ended() {
    let cluster = Cluster::start(1, &["--max-concurrent-streams=2"]);
    let url = cluster.members[0].client_url.clone();
    let open = || Stream::open(&url, "/v3/watch", r#"{"create_request":{"key":"aw=="}}"#);
    let mut watches = [open(), open()];
    for watch in &mut watches {
        assert_eq!(watch.next_line()["result"]["created"], true);
    }
    let (answered, answer) = std::sync::mpsc::channel();
    let asking = url.clone();
    std::thread::spawn(move || answered.send(post(&asking, "/v3/kv/range", r#"{"key":"aw=="}"#).status));
    assert!(answer.recv_timeout(std::time::Duration::from_millis(300)).is_err(), "there is no place for it");
    drop(watches);
    assert_eq!(answer.recv_timeout(etcd::PATIENCE).unwrap(), 200);
}

#[test]
fn what_a_stream_cannot_read_is_said_on_it() {
    let cluster = Cluster::start(1, &[]);
    let url = &cluster.members[0].client_url;
    let unreadable = r#"{"create_request":{"key":5}}"#;
    let answer = ask(url, "POST", "/v3/watch", &[], unreadable);
    // Also to who wants to hear when there is no leader any more.
    let needs_leader = [("Grpc-Metadata-hasleader", "true")];
    assert_eq!(ask(url, "POST", "/v3/watch", &needs_leader, unreadable).body, answer.body);
    let error = serde_json::from_str::<Value>(&answer.body).unwrap()["error"].clone();
    assert_eq!((answer.status, &error["http_status"]), (400, &json!("Bad Request")));
    assert_eq!(error["message"], "invalid value for bytes field key: 5");
    let answer = ask(url, "POST", "/v3/lease/keepalive", &[], r#"{"ID":1} {"ID":"#);
    let lines: Vec<&str> = answer.body.lines().collect();
    assert!(lines[0].contains("\"result\""), "{answer:?}");
    assert!(lines[1].contains("the request ends in the middle of an object"), "{answer:?}");
    let large = format!(r#"{{"key":"{}"}}"#, "A".repeat(5 << 20));
    assert_eq!(post(url, "/v3/kv/put", &large).status, 429);
}

#[test]
fn who_goes_away_leaves_the_queue_of_a_lock() {
    let cluster = Cluster::start(1, &[]);
    let url = &cluster.members[0].client_url;
    for id in 1..=3 {
        post(url, "/v3/lease/grant", &format!(r#"{{"TTL":600,"ID":{id}}}"#));
    }
    let keys = || {
        // Everything from "lock/" to "lock0".
        let range = r#"{"key":"bG9jay8=","range_end":"bG9jazA=","count_only":true}"#;
        post(url, "/v3/kv/range", range).json()["count"].clone()
    };
    let first = post(url, "/v3/lock/lock", r#"{"name":"bG9jaw==","lease":1}"#).json();
    assert_eq!(first["key"], "bG9jay8x");
    let second = Stream::open(url, "/v3/lock/lock", r#"{"name":"bG9jaw==","lease":2}"#);
    wait_for("the second in the queue", || (keys() == "2").then_some(()));
    let mut third = Stream::open(url, "/v3/lock/lock", r#"{"name":"bG9jaw==","lease":3}"#);
    wait_for("the third in the queue", || (keys() == "3").then_some(()));
    drop(second);
    wait_for("the second out of the queue", || (keys() == "2").then_some(()));
    post(url, "/v3/lock/unlock", r#"{"key":"bG9jay8x"}"#);
    assert_eq!(third.next_line()["key"], "bG9jay8z", "its turn came");
}

#[test]
fn who_waits_under_a_lease_that_ends_is_told() {
    let cluster = Cluster::start(1, &[]);
    let url = &cluster.members[0].client_url;
    for id in 1..=2 {
        post(url, "/v3/lease/grant", &format!(r#"{{"TTL":600,"ID":{id}}}"#));
    }
    post(url, "/v3/lock/lock", r#"{"name":"bG9jaw==","lease":1}"#);
    let mut second = Stream::open(url, "/v3/lock/lock", r#"{"name":"bG9jaw==","lease":2}"#);
    wait_for("the second in the queue", || {
        let left = post(url, "/v3/lease/timetolive", r#"{"ID":2,"keys":true}"#).json();
        left["keys"].is_array().then_some(())
    });
    post(url, "/v3/lease/revoke", r#"{"ID":2}"#);
    post(url, "/v3/lock/unlock", r#"{"key":"bG9jay8x"}"#);
    assert_eq!(second.next_line()["error"], "mutex: session is expired");
}

#[test]
fn an_observer_hears_every_word_of_every_leader() {
    let cluster = Cluster::start(3, &[]);
    let (url, other) = (&cluster.members[0].client_url, &cluster.members[1].client_url);
    for id in 1..=2 {
        post(url, "/v3/lease/grant", &format!(r#"{{"TTL":600,"ID":{id}}}"#));
    }
    let mut observer = Stream::open(other, "/v3/election/observe", r#"{"name":"ZQ=="}"#);
    let campaign = |id: u8, value: &str| format!(r#"{{"name":"ZQ==","lease":{id},"value":"{value}"}}"#);
    let won = post(url, "/v3/election/campaign", &campaign(1, "YQ==")).json();
    assert_eq!(observer.next_line()["result"]["kv"]["value"], "YQ==");
    let mut next = Stream::open(url, "/v3/election/campaign", &campaign(2, "Yg=="));
    let words = ["MQ==", "Mg==", "Mw=="];
    for word in words {
        let proclaim = json!({"leader": won["leader"], "value": word}).to_string();
        assert_eq!(post(url, "/v3/election/proclaim", &proclaim).status, 200);
    }
    for word in words {
        assert_eq!(observer.next_line()["result"]["kv"]["value"], word);
    }
    post(url, "/v3/election/resign", &json!({"leader": won["leader"]}).to_string());
    assert_eq!(next.next_line()["leader"]["lease"], "2");
    assert_eq!(observer.next_line()["result"]["kv"]["value"], "Yg==");
    let late = json!({"leader": won["leader"], "value": "IQ=="}).to_string();
    assert_eq!(post(url, "/v3/election/proclaim", &late).json()["error"], "election: not leader");
}

#[test]
fn rights_are_those_of_the_token() {
    let cluster = Cluster::start(1, &[]);
    let url = &cluster.members[0].client_url;
    let user = r#"{"name":"root","password":"p"}"#;
    assert_eq!(post(url, "/v3/auth/user/add", user).status, 200);
    assert_eq!(post(url, "/v3/auth/user/grant", r#"{"user":"root","role":"root"}"#).status, 200);
    assert_eq!(post(url, "/v3/auth/enable", "{}").status, 200);
    let put = r#"{"key":"aw==","value":"dg=="}"#;
    let refused = post(url, "/v3/kv/put", put);
    assert_eq!((refused.status, &refused.json()["error"]), (400, &json!("etcdserver: user name is empty")));
    let lock = post(url, "/v3/lock/lock", r#"{"name":"bG9jaw==","lease":1}"#);
    assert_eq!(lock.json()["error"], "etcdserver: user name is empty");
    let token = post(url, "/v3/auth/authenticate", user).json()["token"].as_str().unwrap().to_owned();
    let with = |token: &str| ask(url, "POST", "/v3/kv/put", &[("Authorization", token)], put);
    assert_eq!(with(&token).status, 200);
    let refused = with("nonsense");
    assert_eq!((refused.status, &refused.json()["error"]), (401, &json!("etcdserver: invalid auth token")));
    // Who only looks whether the member is well needs no rights.
    assert_eq!(ask(url, "GET", "/health", &[], "").status, 200);
}

#[test]
fn a_member_without_a_majority_lives_but_is_not_ready() {
    let mut cluster = Cluster::start(3, &[]);
    let url = cluster.members[0].client_url.clone();
    let get = |path: &str| ask(&url, "GET", path, &[], "");
    assert_eq!(
        get("/readyz?verbose").body,
        "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\nok\n"
    );
    cluster.members[1].kill();
    cluster.members[2].kill();
    wait_for("no leader", || {
        let page = get("/metrics").body;
        page.lines().any(|line| line == "etcd_server_has_leader 0").then_some(())
    });
    assert_eq!(get("/livez").status, 200);
    assert_eq!(get("/health?serializable=true").status, 200);
    let health = get("/health");
    assert_eq!(
        (health.status, health.body.as_str()),
        (503, r#"{"health":"false","reason":"RAFT NO LEADER"}"#)
    );
    let ready = get("/readyz");
    assert_eq!(ready.status, 503);
    assert!(
        ready
            .body
            .starts_with("[+]data_corruption ok\n[+]serializable_read ok\n[-]linearizable_read failed: ")
    );
    assert_eq!(get("/readyz?exclude=linearizable_read").status, 200);
}

/// The value of one line of a page of metrics.
fn metric(page: &str, name: &str) -> f64 {
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in\n{page}")).parse().unwrap()
}

#[test]
fn metrics_tell_what_was_done() {
    let metrics_url = free_url();
    let flag = format!("--listen-metrics-urls={metrics_url}");
    let cluster = Cluster::start(1, &[&flag, "--metrics=extensive"]);
    let url = &cluster.members[0].client_url;
    let before = ask(&metrics_url, "GET", "/metrics", &[], "");
    assert!(before.head.contains("content-type: text/plain; version=0.0.4"), "{}", before.head);
    for _ in 0..5 {
        post(url, "/v3/kv/put", r#"{"key":"aw=="}"#);
    }
    post(
        url,
        "/v3/kv/txn",
        r#"{"success":[{"request_put":{"key":"Yg=="}},{"request_range":{"key":"Yg=="}}]}"#,
    );
    post(url, "/v3/kv/put", r#"{}"#);
    let after = ask(&metrics_url, "GET", "/metrics", &[], "").body;
    let grown = |name: &str| metric(&after, name) - metric(&before.body, name);
    let labels = |code: &str| {
        format!(r#"{{{code}grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"}}"#)
    };
    let ok = format!("grpc_server_handled_total{}", labels("grpc_code=\"OK\","));
    let sum = |name: &str| format!("grpc_server_{name}{}", labels(""));
    let bad = format!("grpc_server_handled_total{}", labels("grpc_code=\"InvalidArgument\","));
    #[rustfmt::skip]
    let rows = [
        ("etcd_mvcc_put_total",                           6.0),
        ("etcd_mvcc_txn_total",                           1.0),
        ("etcd_debugging_mvcc_current_revision",          6.0),
        ("etcd_debugging_mvcc_keys_total",                2.0),
        ("etcd_server_proposals_failed_total",            0.0),
        (&ok,                                             5.0),
        (&sum("started_total"),                           6.0),
        (&sum("msg_received_total"),                      6.0),
        (&sum("msg_sent_total"),                          5.0),
        (&sum("handling_seconds_count"),                  6.0),
    ];
    for (name, want) in rows {
        assert_eq!(grown(name), want, "{name}");
    }
    assert_eq!(metric(&after, &bad), 1.0);
    for name in
        ["etcd_disk_wal_fsync_duration_seconds_count", "etcd_disk_backend_commit_duration_seconds_count"]
    {
        assert!(grown(name) >= 6.0, "{name}");
    }
    assert!(metric(&after, "process_resident_memory_bytes") > 1e6);
    assert_eq!(metric(&after, "etcd_server_has_leader"), 1.0);
    assert_eq!(metric(&after, "etcd_server_leader_changes_seen_total"), 1.0);
    every_family_is_described(&after);
    // That port is for nothing else.
    assert_eq!(ask(&metrics_url, "GET", "/health", &[], "").status, 200);
    for path in ["/version", "/v3/kv/range"] {
        assert_eq!(ask(&metrics_url, "POST", path, &[], "{}").status, 404, "{path}");
    }
}

/// Each family once, with its help and its type before its values.
fn every_family_is_described(page: &str) {
    let mut families = std::collections::BTreeSet::new();
    let mut family = "";
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            family = rest.split(' ').next().unwrap();
            assert!(families.insert(family), "{family} twice");
        } else if !line.starts_with("# HELP ") {
            assert!(line.starts_with(family), "{line} is not of {family}");
        }
    }
}

#[test]
fn a_browser_may_ask_from_anywhere() {
    let cluster = Cluster::start(1, &[]);
    let url = &cluster.members[0].client_url;
    for (method, path, body) in
        [("OPTIONS", "/v3/kv/range", ""), ("POST", "/v3/kv/range", "{}"), ("GET", "/version", "")]
    {
        let answer = ask(url, method, path, &[("Origin", "http://elsewhere")], body);
        assert!(answer.head.contains("access-control-allow-origin: *"), "{path}: {}", answer.head);
    }
}

#[test]
fn a_stream_that_is_behind_is_owed_one_progress_report() {
    const ASKED: usize = 1000;
    let cluster = Cluster::start(1, &[]);
    let url = &cluster.members[0].client_url;
    let page = || ask(url, "GET", "/metrics", &[], "").body;
    let mut watch = Stream::open_to_send(url, "/v3/watch");
    watch.send(r#"{"create_request":{"key":"aw=="}}"#);
    assert_eq!(watch.next_line()["result"]["created"], true);
    // Nobody reads: the sockets fill up, then the queue, then it is behind.
    let put = json!({"key": "aw==", "value": "A".repeat(256 << 10)}).to_string();
    wait_for("a watcher that is behind", || {
        assert_eq!(post(url, "/v3/kv/put", &put).status, 200);
        (metric(&page(), "etcd_debugging_mvcc_slow_watcher_total") == 1.0).then_some(())
    });
    watch.send(&r#"{"progress_request":{}}"#.repeat(ASKED));
    let received = r#"grpc_server_msg_received_total{grpc_method="Watch",grpc_service="etcdserverpb.Watch",grpc_type="bidi_stream"}"#;
    wait_for("all requests to be taken", || (metric(&page(), received) == (ASKED + 1) as f64).then_some(()));
    post(url, "/v3/kv/deleterange", r#"{"key":"aw=="}"#);
    let (mut reports, mut is_deleted) = (0, false);
    while reports == 0 || !is_deleted {
        let result = watch.next_line()["result"].take();
        reports += usize::from(result["watch_id"] == "-1");
        is_deleted |=
            result["events"].as_array().is_some_and(|all| all.iter().any(|one| one["type"] == "DELETE"));
    }
    // A second report would have been on its way before this event.
    post(url, "/v3/kv/put", r#"{"key":"aw==","value":"bGFzdA=="}"#);
    loop {
        let result = watch.next_line()["result"].take();
        reports += usize::from(result["watch_id"] == "-1");
        if result["events"][0]["kv"]["value"] == "bGFzdA==" {
            break;
        }
    }
    assert_eq!(reports, 1);
}
