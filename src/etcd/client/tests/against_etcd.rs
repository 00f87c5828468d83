//! The client against Debian's etcd, a server that is not ours.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use proa_etcd_client::api::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, MemberListRequest, PutRequest, RangeRequest,
    StatusRequest,
};
use proa_etcd_client::api::mvccpb::event::EventType;
use proa_etcd_client::{Client, Code, Error, Timeouts, Watch, WatchItem, prefix_range};
use proa_test_ports::free_url;
use tokio_stream::StreamExt as _;

const ETCD: &str = "/usr/bin/etcd";
/// Longer than anything here takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// One etcd process; killed when dropped.
struct Etcd {
    child: Child,
    args: Vec<String>,
    url: String,
}

fn spawn(args: &[String]) -> Child {
    Command::new(ETCD)
        .args(args)
        .env_clear()
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{ETCD}: {error}; install the package etcd-server"))
}

impl Etcd {
    fn start(data_dir: &Path) -> Self {
        let (url, peer) = (free_url(), free_url());
        let data_dir = data_dir.display();
        let args = [
            format!("--data-dir={data_dir}"),
            format!("--listen-client-urls={url}"),
            format!("--advertise-client-urls={url}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
        ]
        .to_vec();
        Self { child: spawn(&args), args, url }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn start_again(&mut self) {
        self.child = spawn(&self.args);
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // It may be dead already, on purpose.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn put(client: &Client, key: &str, value: &str) -> i64 {
    let request =
        PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..PutRequest::default() };
    let begun = std::time::Instant::now();
    loop {
        match client.put(request.clone()).await {
            Ok(answer) => return answer.header.unwrap().revision,
            Err(Error::Unavailable { .. }) if begun.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

async fn next_events(watch: &mut Watch) -> Vec<(EventType, String, i64)> {
    loop {
        let item = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap();
        match item.unwrap() {
            WatchItem::Begun { .. } | WatchItem::Progress { .. } => {}
            WatchItem::Events { events, .. } => return events.iter().map(summary).collect(),
            other => panic!("{other:?}"),
        }
    }
}

fn summary(event: &proa_etcd_client::api::mvccpb::Event) -> (EventType, String, i64) {
    let kv = event.kv.as_ref().unwrap();
    (event.r#type(), String::from_utf8(kv.key.to_vec()).unwrap(), kv.mod_revision)
}

#[tokio::test]
async fn calls_answer_and_a_dead_endpoint_is_left() {
    let directory = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(directory.path());
    // Nothing listens on the first: reads and writes alike go to the second.
    let client = Client::connect(&[free_url(), etcd.url.clone()]).unwrap();
    let first = put(&client, "/a/1", "one").await;
    put(&client, "/a/2", "two").await;
    put(&client, "/b", "other").await;
    let (key, range_end) = prefix_range(b"/a/");
    let request = RangeRequest { key, range_end, ..RangeRequest::default() };
    let answer = client.range(request.clone()).await.unwrap();
    assert_eq!(answer.kvs.len(), 2);
    assert_eq!(answer.kvs[0].mod_revision, first);

    let future = RangeRequest { revision: first + 100, ..request };
    let refused = client.range(future).await.unwrap_err();
    assert!(refused.is_refused(Code::OutOfRange), "{refused:?}");
    assert_eq!(refused.to_string(), "etcdserver: mvcc: required revision is a future revision");

    let members = client.member_list(MemberListRequest::default()).await.unwrap().members;
    assert_eq!(members.len(), 1);
    let status = client.status(StatusRequest::default()).await.unwrap();
    assert_eq!(status.leader, members[0].id);

    let lease = client.lease_grant(LeaseGrantRequest { ttl: 60, id: 0 }).await.unwrap();
    assert_eq!(client.lease_keep_alive_once(lease.id).await.unwrap().ttl, 60);
    assert_eq!(client.lease_keep_alive_once(lease.id + 1).await.unwrap().ttl, 0);
}

#[tokio::test]
async fn a_lost_store_is_unavailable_in_time() {
    let timeouts = Timeouts { connect: Duration::from_millis(500), request: Duration::from_millis(500) };
    let client = Client::with_timeouts(&[free_url(), free_url()], timeouts).unwrap();
    let error = client.put(PutRequest::default()).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { sent: false, .. }), "{error:?}");
    // A listener that never answers: the write may have arrived.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let client = Client::with_timeouts(&[url], timeouts).unwrap();
    let error = client.put(PutRequest::default()).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { sent: true, .. }), "{error:?}");
}

#[tokio::test]
async fn a_watch_goes_on_after_a_restart_and_misses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut etcd = Etcd::start(directory.path());
    let client = Client::connect(std::slice::from_ref(&etcd.url)).unwrap();
    let first = put(&client, "k", "1").await;
    let mut watch = client.watch("k", "", first);
    assert_eq!(next_events(&mut watch).await, [(EventType::Put, "k".to_owned(), first)]);

    etcd.kill();
    etcd.start_again();
    let second = put(&client, "k", "2").await;
    let delete = DeleteRangeRequest { key: "k".into(), ..DeleteRangeRequest::default() };
    client.delete_range(delete).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 2 {
        seen.extend(next_events(&mut watch).await);
    }
    let want = [(EventType::Put, "k".to_owned(), second), (EventType::Delete, "k".to_owned(), second + 1)];
    assert_eq!(seen, want);
}

#[tokio::test]
async fn a_watch_of_lost_history_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(directory.path());
    let client = Client::connect(std::slice::from_ref(&etcd.url)).unwrap();
    put(&client, "k", "1").await;
    let last = put(&client, "k", "2").await;
    client.compact(CompactionRequest { revision: last, physical: false }).await.unwrap();
    let mut watch = client.watch("k", "", 1);
    let mut lost = None;
    while let Some(item) = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap() {
        match item {
            WatchItem::Begun { .. } => {}
            WatchItem::Compacted { revision, .. } => lost = Some(revision),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(lost, Some(last));
}
