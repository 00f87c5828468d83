//! The v2 API: requests as they go over the wire, and answers without times.

use std::fmt;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use prost::bytes::Bytes;
use serde_json::Value;

use crate::random::Random;

/// A client of one store's HTTP side.
pub type Http = Client<HttpConnector, Full<Bytes>>;

/// Far beyond any run, as for leases.
const LONG_TTL_S: &str = "100000";
/// A body that ends this late has lost its end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Directories and keys in one another; hidden ones; spellings of the same.
const PATHS: [&str; 20] = [
    "/a",
    "/b",
    "/c",
    "/d",
    "/d/x",
    "/d/y",
    "/d/e",
    "/d/e/f",
    "/d/_h",
    "/_h",
    "/_h/x",
    "/d/",
    "//a",
    "/d//x",
    "/d/./x",
    "/d/e/../x",
    "/",
    "",
    "/%C3%A4",
    "/a%20b",
];

/// Where waits look: not below what can be deleted. Of a directory's end etcd
/// tells who waits below it only if the node was there, but who asks for the
/// past always; ours tells both, for whoever waits below has to know.
const WAITED_PATHS: [&str; 6] = ["/a", "/b", "/c", "/d", "/", "/_h"];

/// A value of a parameter; an index is relative to the store's.
#[derive(Clone, Debug)]
pub enum Given {
    Text(&'static str),
    Number(u64),
    Index(i64),
}

/// One request.
#[derive(Clone)]
pub struct V2 {
    pub method: &'static str,
    pub path: &'static str,
    /// Parameters in the query.
    pub query: Pairs,
    /// Parameters in the body.
    pub form: Pairs,
    /// A wait: the answer may come long after the request.
    pub waits: bool,
    /// What indexes are relative to.
    pub now: u64,
}

impl V2 {
    fn new(method: &'static str, path: &'static str, query: Pairs, form: Pairs) -> Self {
        Self { method, path, query, form, waits: false, now: 0 }
    }

    /// Whether it asks for an order; without, etcd's is that of a Go map.
    fn is_sorted(&self) -> bool {
        self.query.iter().any(|(name, given)| *name == "sorted" && matches!(given, Given::Text("true" | "1")))
    }
}

type Pairs = Vec<(&'static str, Given)>;

impl fmt::Debug for V2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |pairs: &[(&str, Given)]| {
            let one = |(name, given): &(&str, Given)| match given {
                Given::Text(text) => format!("{name}={text}"),
                Given::Number(number) => format!("{name}={number}"),
                Given::Index(offset) => format!("{name}=(now {offset:+})"),
            };
            pairs.iter().map(one).collect::<Vec<_>>().join("&")
        };
        write!(f, "{} /v2/keys{}?{} {}", self.method, self.path, text(&self.query), text(&self.form))
    }
}

/// What came back, in a form in which two can be compared.
#[derive(Clone, Debug, PartialEq)]
pub struct V2Answer {
    pub status: u16,
    pub index: Option<u64>,
    pub content_type: String,
    pub body: Value,
}

fn encode(pairs: &[(&str, Given)], index: u64) -> String {
    let one = |(name, given): &(&str, Given)| match given {
        Given::Text(text) => format!("{name}={text}"),
        Given::Number(number) => format!("{name}={number}"),
        Given::Index(offset) => format!("{name}={}", (index as i64 + offset).max(1)),
    };
    pairs.iter().map(one).collect::<Vec<_>>().join("&")
}

pub fn client() -> Http {
    Client::builder(TokioExecutor::new()).build_http()
}

/// Sends a request; back comes the head of the answer.
pub async fn send(http: &Http, url: &str, request: &V2) -> Result<http::Response<Incoming>, String> {
    let query = encode(&request.query, request.now);
    let uri = format!("{url}/v2/keys{}{}{query}", request.path, if query.is_empty() { "" } else { "?" });
    let mut builder = http::Request::builder().method(request.method).uri(&uri);
    if !request.form.is_empty() {
        builder = builder.header("content-type", "application/x-www-form-urlencoded");
    }
    let body = Full::new(Bytes::from(encode(&request.form, request.now)));
    let sent = builder.body(body).map_err(|error| format!("{uri}: {error}"))?;
    match tokio::time::timeout(PATIENCE, http.request(sent)).await {
        Ok(answer) => answer.map_err(|error| format!("{uri}: {error}")),
        Err(_) => Err(format!("{uri}: no answer")),
    }
}

/// The whole answer, without times.
pub async fn receive(request: &V2, response: http::Response<Incoming>) -> Result<V2Answer, String> {
    let header = |name: &str| {
        let value = response.headers().get(name).and_then(|value| value.to_str().ok());
        value.map(str::to_owned)
    };
    let (status, index) = (response.status().as_u16(), header("x-etcd-index"));
    let content_type = header("content-type").unwrap_or_default();
    let body = response.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
    let text = String::from_utf8_lossy(&body).into_owned();
    let mut body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    forget_times(&mut body);
    if !request.is_sorted() {
        sort_nodes(&mut body);
    }
    Ok(V2Answer { status, index: index.and_then(|index| index.parse().ok()), content_type, body })
}

/// Of a time to live only whether there is one is comparable.
fn forget_times(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (name, inner) in map.iter_mut() {
                if matches!(name.as_str(), "ttl" | "expiration") {
                    *inner = Value::Bool(true);
                } else {
                    forget_times(inner);
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(forget_times),
        _ => {}
    }
}

fn sort_nodes(node: &mut Value) {
    match node {
        Value::Object(map) => map.values_mut().for_each(sort_nodes),
        Value::Array(list) => {
            list.iter_mut().for_each(sort_nodes);
            list.sort_by_key(|node| node["key"].as_str().map(str::to_owned));
        }
        _ => {}
    }
}

/// A wait that is under way in one store.
pub struct Waiting {
    answer: tokio::task::JoinHandle<Result<V2Answer, String>>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.answer.abort();
    }
}

impl Waiting {
    /// Begins a wait; from then on the store has its watcher, because it has
    /// sent the head of the answer. `done` is told of the end.
    pub async fn begin(http: &Http, url: &str, request: &V2) -> Result<Self, String> {
        let response = send(http, url, request).await?;
        let request = request.clone();
        let answer = tokio::spawn(async move { receive(&request, response).await });
        Ok(Self { answer })
    }

    pub fn has_ended(&self) -> bool {
        self.answer.is_finished()
    }

    /// The end, which has come or is about to.
    pub async fn end(&mut self) -> Result<V2Answer, String> {
        match tokio::time::timeout(PATIENCE, &mut self.answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the wait has not ended".to_owned()),
        }
    }
}

/// Draws requests.
pub fn draw(random: &mut Random) -> V2 {
    match random.below(20) {
        0..=6 => set(random),
        7..=9 => delete(random),
        10 => post(random),
        11 => wait(random),
        12 => odd(random),
        _ => get(random),
    }
}

/// A read, which may overtake others.
pub fn get(random: &mut Random) -> V2 {
    let mut query = Vec::new();
    for name in ["recursive", "sorted", "quorum"] {
        if random.once_in(3) {
            query.push((name, flag(random)));
        }
    }
    V2::new("GET", random.pick(&PATHS), query, Vec::new())
}

fn flag(random: &mut Random) -> Given {
    Given::Text(random.weighted(&[(20, "true"), (4, "false"), (1, ""), (1, "1"), (1, "maybe")]))
}

fn index(random: &mut Random) -> Given {
    match random.below(12) {
        0 => Given::Text(random.pick(&["", "-1", "x", "99999999999999999999"])),
        1 => Given::Number(0),
        _ => Given::Index(random.between(-40, 1)),
    }
}

fn value(random: &mut Random) -> Given {
    Given::Text(random.pick(&["1", "2", "3", "", "a%20b", "%C3%A4", "x%26y%3Dz", "%FF"]))
}

/// What a change may hang on.
fn conditions(random: &mut Random, pairs: &mut Vec<(&'static str, Given)>) {
    if random.once_in(5) {
        pairs.push(("prevExist", flag(random)));
    }
    if random.once_in(5) {
        pairs.push(("prevValue", value(random)));
    }
    if random.once_in(5) {
        pairs.push(("prevIndex", index(random)));
    }
}

fn set(random: &mut Random) -> V2 {
    let (mut form, mut query) = (Vec::new(), Vec::new());
    if !random.once_in(10) {
        form.push(("value", value(random)));
    }
    let in_query = random.once_in(3);
    conditions(random, if in_query { &mut query } else { &mut form });
    if random.once_in(6) {
        form.push(("dir", flag(random)));
    }
    if random.once_in(6) {
        form.push(("ttl", Given::Text(random.weighted(&[(9, LONG_TTL_S), (3, ""), (1, "x"), (1, "-1")]))));
    }
    if random.once_in(15) {
        form.push(("refresh", flag(random)));
    }
    if random.once_in(10) {
        query.push(("noValueOnSuccess", flag(random)));
    }
    V2::new("PUT", random.pick(&PATHS), query, form)
}

fn delete(random: &mut Random) -> V2 {
    let mut query = Vec::new();
    conditions(random, &mut query);
    for name in ["dir", "recursive"] {
        if random.once_in(3) {
            query.push((name, flag(random)));
        }
    }
    V2::new("DELETE", random.pick(&PATHS), query, Vec::new())
}

fn post(random: &mut Random) -> V2 {
    let mut form = vec![("value", value(random))];
    if random.once_in(4) {
        form.push(("ttl", Given::Text(LONG_TTL_S)));
    }
    V2::new("POST", random.pick(&PATHS), Vec::new(), form)
}

fn wait(random: &mut Random) -> V2 {
    let mut query = vec![("wait", Given::Text("true"))];
    if random.once_in(2) {
        query.push(("recursive", Given::Text("true")));
    }
    if !random.once_in(3) {
        query.push(("waitIndex", Given::Index(random.between(-60, 2))));
    }
    V2 { waits: true, ..V2::new("GET", random.pick(&WAITED_PATHS), query, Vec::new()) }
}

/// Requests that make no sense.
fn odd(random: &mut Random) -> V2 {
    let method = random.pick(&["PATCH", "OPTIONS", "POST", "PUT", "DELETE", "GET"]);
    let names = ["wait", "waitIndex", "stream", "ttl", "prevIndex", "dir", "unknown"];
    // A wait that works would need somebody to wait for it.
    let texts = ["x", "-1", "", "maybe"];
    let query = vec![(random.pick(&names), Given::Text(random.pick(&texts)))];
    V2::new(method, random.pick(&PATHS), query, Vec::new())
}
