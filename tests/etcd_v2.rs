//! The v2 API over HTTP, as programs of its time use it.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod etcd;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use etcd::{Cluster, PATIENCE, wait_for};
use serde_json::{Value, json};

/// An answer: status, the index of the tree, the body.
#[derive(Clone, Debug, PartialEq)]
struct Answer {
    status: u16,
    index: Option<u64>,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

const FORM: &str = "Content-Type: application/x-www-form-urlencoded";

fn send(url: &str, method: &str, target: &str, form: &str) -> std::io::Result<BufReader<TcpStream>> {
    send_with(url, method, target, form, FORM)
}

fn send_with(
    url: &str,
    method: &str,
    target: &str,
    body: &str,
    headers: &str,
) -> std::io::Result<BufReader<TcpStream>> {
    let host = url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(host)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let length = body.len();
    write!(stream, "{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n")?;
    write!(stream, "{headers}\r\nContent-Length: {length}\r\n\r\n{body}")?;
    Ok(BufReader::new(stream))
}

fn read_head(reader: &mut BufReader<TcpStream>) -> std::io::Result<(u16, Vec<(String, String)>)> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| std::io::Error::other(format!("no status in {line:?}")))?;
    let mut headers = Vec::new();
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    Ok((status, headers))
}

fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

fn ask(url: &str, method: &str, target: &str, form: &str) -> std::io::Result<Answer> {
    ask_with(url, method, target, form, FORM)
}

fn ask_with(url: &str, method: &str, target: &str, body: &str, headers: &str) -> std::io::Result<Answer> {
    let mut reader = send_with(url, method, target, body, headers)?;
    let (status, headers) = read_head(&mut reader)?;
    let mut body = String::new();
    if header(&headers, "transfer-encoding") == Some("chunked") {
        while let Some(chunk) = read_chunk(&mut reader)? {
            body += &chunk;
        }
    } else {
        reader.read_to_string(&mut body)?;
    }
    let index = header(&headers, "x-etcd-index").and_then(|index| index.parse().ok());
    Ok(Answer { status, index, body })
}

fn read_chunk(reader: &mut BufReader<TcpStream>) -> std::io::Result<Option<String>> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let size = usize::from_str_radix(line.trim_end(), 16);
    let size = size.map_err(|error| std::io::Error::other(format!("{line:?}: {error}")))?;
    let mut chunk = vec![0; size + 2];
    reader.read_exact(&mut chunk)?;
    chunk.truncate(size);
    Ok((size > 0).then(|| String::from_utf8(chunk).unwrap()))
}

/// Asks until the member answers with less than 500.
fn surely(url: &str, method: &str, target: &str, form: &str) -> Answer {
    wait_for(&format!("{method} {target}"), || {
        ask(url, method, target, form).ok().filter(|answer| answer.status < 500)
    })
}

/// The indexes of the nodes that a watch on `target` is told of, one long poll
/// after the other, from `from` to `last`.
fn follow(url: &str, target: &str, from: u64, last: u64) -> Vec<(String, u64)> {
    let mut seen = Vec::new();
    let mut next = from;
    while next <= last {
        let answer = surely(url, "GET", &format!("{target}?wait=true&recursive=true&waitIndex={next}"), "");
        assert_eq!(answer.status, 200, "{answer:?}");
        let event = answer.json();
        let index = event["node"]["modifiedIndex"].as_u64().unwrap();
        seen.push((event["node"]["key"].as_str().unwrap().to_owned(), index));
        next = index + 1;
    }
    seen
}

#[test]
fn keys_answer_as_etcds_do() {
    let cluster = Cluster::start(1, &[]);
    let url = &cluster.members[0].client_url;
    // A new member of etcd 3.4 has used three indexes for itself as well.
    #[rustfmt::skip]
    let rows = [
        ("GET",    "/v2/keys",                       "",                     200, r#"{"action":"get","node":{"dir":true}}"#),
        ("PUT",    "/v2/keys/a",                     "value=1",              201, r#"{"action":"set","node":{"key":"/a","value":"1","modifiedIndex":4,"createdIndex":4}}"#),
        ("PUT",    "/v2/keys/a",                     "value=2",              200, r#"{"action":"set","node":{"key":"/a","value":"2","modifiedIndex":5,"createdIndex":5},"prevNode":{"key":"/a","value":"1","modifiedIndex":4,"createdIndex":4}}"#),
        ("GET",    "/v2/keys/x/y",                   "",                     404, r#"{"errorCode":100,"message":"Key not found","cause":"/x","index":5}"#),
        ("PUT",    "/v2/keys/a/b",                   "value=1",              400, r#"{"errorCode":104,"message":"Not a directory","cause":"/a","index":5}"#),
        ("PUT",    "/v2/keys/a?prevIndex=4",         "value=3",              412, r#"{"errorCode":101,"message":"Compare failed","cause":"[4 != 5]","index":5}"#),
        ("PUT",    "/v2/keys/a?prevValue=2",         "value=3",              200, r#"{"action":"compareAndSwap","node":{"key":"/a","value":"3","modifiedIndex":6,"createdIndex":5},"prevNode":{"key":"/a","value":"2","modifiedIndex":5,"createdIndex":5}}"#),
        ("PUT",    "/v2/keys/a?prevExist=false",     "value=4",              412, r#"{"errorCode":105,"message":"Key already exists","cause":"/a","index":6}"#),
        ("POST",   "/v2/keys/q",                     "value=1",              201, r#"{"action":"create","node":{"key":"/q/00000000000000000007","value":"1","modifiedIndex":7,"createdIndex":7}}"#),
        ("DELETE", "/v2/keys/q",                     "",                     403, r#"{"errorCode":102,"message":"Not a file","cause":"/q","index":7}"#),
        ("DELETE", "/v2/keys/q?dir=true",            "",                     403, r#"{"errorCode":108,"message":"Directory not empty","cause":"/q","index":7}"#),
        ("DELETE", "/v2/keys/q?recursive=true",      "",                     200, r#"{"action":"delete","node":{"key":"/q","dir":true,"modifiedIndex":8,"createdIndex":7},"prevNode":{"key":"/q","dir":true,"modifiedIndex":7,"createdIndex":7}}"#),
        ("PUT",    "/v2/keys/_h",                    "value=%3C%26%FF",      201, r#"{"action":"set","node":{"key":"/_h","value":"\u003c\u0026\ufffd","modifiedIndex":9,"createdIndex":9}}"#),
        ("GET",    "/v2/keys?quorum=true",           "",                     200, r#"{"action":"get","node":{"dir":true,"nodes":[{"key":"/a","value":"3","modifiedIndex":6,"createdIndex":5}]}}"#),
        ("PUT",    "/v2/keys/n?noValueOnSuccess=1",  "value=1",              201, r#"{"action":"set"}"#),
        ("PUT",    "/v2/keys/a",                     "value=%zz",            400, r#"{"errorCode":210,"message":"Invalid POST form","cause":"invalid URL escape \"%zz\"","index":0}"#),
        ("PUT",    "/v2/keys/a",                     "ttl=x",                400, r#"{"errorCode":202,"message":"The given TTL in POST form is not a number","cause":"invalid value for \"ttl\"","index":0}"#),
        ("DELETE", "/v2/keys",                       "",                     400, r#"{"errorCode":107,"message":"Root is read only","cause":"/","index":10}"#),
        ("GET",    "/v2/keys/a?wait=true&waitIndex=5", "",                   200, r#"{"action":"set","node":{"key":"/a","value":"2","modifiedIndex":5,"createdIndex":5},"prevNode":{"key":"/a","value":"1","modifiedIndex":4,"createdIndex":4}}"#),
    ];
    for (method, target, form, status, body) in rows {
        let answer = ask(url, method, target, form).unwrap();
        assert_eq!(
            (answer.status, answer.body),
            (status, body.to_owned() + "\n"),
            "{method} {target} {form}"
        );
    }
    assert_eq!(ask(url, "GET", "/v2/keys/a", "").unwrap().index, Some(10));
    let answer = ask(url, "PATCH", "/v2/keys/a", "").unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (405, "Method Not Allowed\n"));
}

#[test]
fn the_v2_api_can_be_switched_off() {
    let cluster = Cluster::start(1, &["--enable-v2=false"]);
    let answer = ask(&cluster.members[0].client_url, "GET", "/v2/keys", "").unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (404, "404 page not found\n"));
}

/// A waiter sleeps over a flood on other keys and the restart of its member,
/// and goes on there or elsewhere.
#[test]
fn a_waiter_gets_its_exact_sequence_on_any_member() {
    let mut cluster = Cluster::start(3, &[]);
    let urls = cluster.endpoints();
    let first = surely(&urls[0], "PUT", "/v2/keys/mine/0", "value=0").index.unwrap();
    cluster.members[0].kill();
    let mut want = vec![("/mine/0".to_owned(), first)];
    for number in 1..=20 {
        // More between two of its own than etcd keeps in total.
        for other in 0..55 {
            surely(&urls[1], "PUT", &format!("/v2/keys/other/{other}"), "value=x");
        }
        let key = format!("/mine/{number}");
        let index = surely(&urls[1], "PUT", &format!("/v2/keys{key}"), "value=1").index.unwrap();
        want.push((key, index));
    }
    let last = want.last().unwrap().1;
    cluster.members[0].start();
    cluster.wait_ready();
    for url in &urls {
        assert_eq!(follow(url, "/v2/keys/mine", first, last), want, "at {url}");
    }
}

#[test]
fn what_ends_by_itself_ends_alike_everywhere() {
    let cluster = Cluster::start(3, &[]);
    let urls = cluster.endpoints();
    let made = surely(&urls[0], "PUT", "/v2/keys/d?dir=true", "ttl=1");
    assert_eq!(made.json()["node"]["ttl"], json!(1));
    let index = surely(&urls[1], "PUT", "/v2/keys/d/deep/er", "value=1").index.unwrap();
    let ended: Vec<Answer> = urls
        .iter()
        .map(|url| surely(url, "GET", &format!("/v2/keys/d/deep/er?wait=true&waitIndex={}", index + 1), ""))
        .collect();
    for answer in &ended {
        assert_eq!(answer.json()["action"], json!("expire"));
        assert_eq!(answer.body, ended[0].body);
    }
    for url in &urls {
        assert_eq!(surely(url, "GET", "/v2/keys/d/deep?quorum=true", "").status, 404);
    }
    let refreshed = surely(&urls[0], "PUT", "/v2/keys/r", "value=1&ttl=100");
    assert_eq!(refreshed.status, 201);
    let refreshed = surely(&urls[0], "PUT", "/v2/keys/r?prevExist=true", "refresh=true&ttl=200");
    assert_eq!(refreshed.json()["node"]["value"], json!("1"));
    assert_eq!(refreshed.json()["node"]["ttl"], json!(200));
}

/// The lines of a stream, as they come.
fn stream(url: &str, target: &str) -> Receiver<Value> {
    let mut reader = send(url, "GET", target, "").unwrap();
    assert_eq!(read_head(&mut reader).unwrap().0, 200);
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        while let Ok(Some(chunk)) = read_chunk(&mut reader) {
            for line in chunk.lines() {
                if sender.send(serde_json::from_str(line).unwrap()).is_err() {
                    return;
                }
            }
        }
    });
    lines
}

#[test]
fn a_stream_tells_everything_in_order() {
    let cluster = Cluster::start(1, &[]);
    let url = &cluster.members[0].client_url;
    let before = surely(url, "PUT", "/v2/keys/s/before", "value=1").index.unwrap();
    let live = stream(url, "/v2/keys/s?wait=true&stream=true&recursive=true");
    let late = stream(url, &format!("/v2/keys/s?wait=true&stream=true&recursive=true&waitIndex={before}"));
    let mut want = Vec::new();
    for number in 0..200 {
        surely(url, "PUT", "/v2/keys/s/_hidden", "value=x");
        let answer = surely(url, "PUT", &format!("/v2/keys/s/{}", number % 7), &format!("value={number}"));
        want.push(answer.index.unwrap());
    }
    let index = |lines: &Receiver<Value>| {
        lines.recv_timeout(PATIENCE).unwrap()["node"]["modifiedIndex"].as_u64().unwrap()
    };
    assert_eq!(index(&late), before);
    for want in want {
        assert_eq!((index(&live), index(&late)), (want, want));
    }
    assert!(live.recv_timeout(Duration::from_millis(1)).is_err(), "and nothing else");
}

#[test]
fn users_may_do_what_their_roles_say() {
    let cluster = Cluster::start(1, &["--bcrypt-cost=4"]);
    let url = &cluster.members[0].client_url;
    let [nobody, root, bob] = [FORM.to_owned(), basic("cm9vdDpycA=="), basic("Ym9iOnB3")];
    let denied = r#"{"message":"Insufficient credentials"}"#;
    #[rustfmt::skip]
    let rows = [
        (&nobody, "GET",    "/v2/auth/enable",      "",                                           200, "{\"enabled\":false}\n"),
        (&nobody, "PUT",    "/v2/auth/enable",      "",                                           409, r#"{"message":"auth: No root user available, please create one"}"#),
        (&nobody, "PUT",    "/v2/auth/users/root",  r#"{"user":"root","password":"rp"}"#,         201, "{\"user\":\"root\",\"roles\":[\"root\"]}\n"),
        (&nobody, "PUT",    "/v2/auth/users/bob",   r#"{"user":"bob","password":"pw"}"#,          201, "{\"user\":\"bob\",\"roles\":null}\n"),
        (&nobody, "PUT",    "/v2/auth/roles/r",     r#"{"role":"r"}"#,                            201, "{\"role\":\"r\",\"permissions\":{\"kv\":{\"read\":null,\"write\":null}}}\n"),
        (&nobody, "PUT",    "/v2/auth/roles/r",     r#"{"role":"r","grant":{"kv":{"read":["/a*"],"write":["/a"]}}}"#, 200, "{\"role\":\"r\",\"permissions\":{\"kv\":{\"read\":[\"/a*\"],\"write\":[\"/a\"]}}}\n"),
        (&nobody, "PUT",    "/v2/auth/users/bob",   r#"{"user":"bob","grant":["r"]}"#,            200, "{\"user\":\"bob\",\"roles\":[\"r\"]}\n"),
        (&nobody, "PUT",    "/v2/auth/enable",      "",                                           200, ""),
        (&nobody, "PUT",    "/v2/auth/roles/guest", "{}",                                         401, denied),
        (&bob,    "PUT",    "/v2/auth/roles/guest", "{}",                                         401, denied),
        (&root,   "PUT",    "/v2/auth/roles/guest", r#"{"role":"guest","revoke":{"kv":{"read":["/*"],"write":["/*"]}}}"#, 200, "{\"role\":\"guest\",\"permissions\":{\"kv\":{\"read\":[],\"write\":[]}}}\n"),
        (&root,   "DELETE", "/v2/auth/users/root",  "",                                           403, r#"{"message":"auth: Cannot delete root user while auth is enabled."}"#),
        (&bob,    "POST",   "/v2/members",          "{}",                                         401, denied),
    ];
    for (who, method, target, body, status, want) in rows {
        let answer = ask_with(url, method, target, body, who).unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (status, want), "{method} {target} {body}");
    }
    let status = |who: &str, method: &str, target: &str| {
        ask_with(url, method, &format!("/v2/keys{target}"), "value=1", who).unwrap().status
    };
    let wrong = basic("Ym9iOng=");
    for (who, method, target, want) in [
        (&bob, "PUT", "/a", 201),
        (&bob, "PUT", "/ab", 401),
        (&bob, "GET", "/a?recursive=true", 200),
        (&bob, "GET", "/ab", 404),
        (&bob, "DELETE", "/a?recursive=true", 401),
        (&bob, "GET", "/", 401),
        (&wrong, "GET", "/a", 401),
        (&nobody, "GET", "/a", 401),
        (&nobody, "GET", "/a?wait=true", 401),
        (&root, "PUT", "/ab", 201),
    ] {
        assert_eq!(status(who, method, target), want, "{who} {method} {target}");
    }
}

fn basic(credentials: &str) -> String {
    format!("{FORM}\r\nAuthorization: Basic {credentials}")
}

#[test]
fn members_are_listed_and_changed() {
    let cluster = Cluster::start(3, &[]);
    let url = &cluster.members[0].client_url;
    let mut urls: Vec<String> = cluster.endpoints();
    urls.sort();
    // Each member says its URLs once there is a leader.
    wait_for("all members are known", || {
        (ask(url, "GET", "/v2/machines", "").ok()?.body == urls.join(", ")).then_some(())
    });
    let listed = ask(url, "GET", "/v2/members", "").unwrap().json();
    let members = listed["members"].as_array().unwrap();
    assert_eq!(members.len(), 3);
    for member in &cluster.members {
        let is_it = |told: &&Value| told["name"] == json!(member.name);
        let told = members.iter().find(is_it).unwrap_or_else(|| panic!("{} is in {listed}", member.name));
        assert_eq!(told["clientURLs"], json!([member.client_url]));
    }
    let leader = ask(url, "GET", "/v2/members/leader", "").unwrap().json();
    assert!(members.contains(&leader), "{leader}");
    let itself = ask(url, "GET", "/v2/stats/self", "").unwrap().json();
    assert_eq!((&itself["name"], &itself["leaderInfo"]["leader"]), (&json!("m0"), &leader["id"]));
    let json_body = "Content-Type: application/json";
    let change = |method: &str, target: &str, body: &str| {
        ask_with(url, method, &format!("/v2/members{target}"), body, json_body).unwrap()
    };
    assert_eq!(change("POST", "", "{}").body, r#"{"message":"no valid URLs given"}"#);
    assert_eq!(change("POST", "", r#"{"peerURLs":["x"]}"#).status, 400);
    assert_eq!(change("DELETE", "/12", "").body, r#"{"message":"No such member: 12"}"#);
    let known = format!("{{\"peerURLs\":{}}}", members[1]["peerURLs"]);
    let twice = wait_for("a known URL is refused", || {
        // Right after the start members have not been connected for long enough.
        Some(change("POST", "", &known)).filter(|answer| answer.status != 500)
    });
    assert_eq!((twice.status, twice.body.as_str()), (409, r#"{"message":"membership: peerURL exists"}"#));
    let peer_url = etcd::free_url();
    let body = format!("{{\"peerURLs\":[\"{peer_url}\"]}}");
    let added = wait_for("a member is added", || Some(change("POST", "", &body)).filter(|a| a.status < 500));
    assert_eq!((added.status, &added.json()["peerURLs"]), (201, &json!([peer_url])));
    let id = added.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(change("DELETE", &format!("/{id}"), "").status, 204);
    let gone = format!("{{\"message\":\"Member permanently removed: {id}\"}}");
    assert_eq!(change("DELETE", &format!("/{id}"), ""), Answer { status: 410, index: None, body: gone });
}
