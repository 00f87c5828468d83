//! Members in one process, on loopback and in temporary folders.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use proa_etcd_api::EtcdError;
use proa_etcd_api::command::{Batch, Command, Proposal, command::Op};
use proa_etcd_api::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest};
use proa_etcd_api::mvccpb::Event;
use proa_etcd_replica::eraftpb::{Entry, Message, MessageType};
use proa_etcd_store::{Reply, range};
use proa_test_ports::free_port;
use prost::Message as _;
use tempfile::TempDir;

use super::*;
use crate::tls::PeerTls;

/// Generous: the machine that tests may be busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

/// Members that know each other by flags.
struct Cluster {
    folders: Vec<TempDir>,
    configs: Vec<NodeConfig>,
    nodes: Vec<Option<Node>>,
}

impl Cluster {
    fn start(count: usize, snapshot_count: u64) -> Self {
        let ports: Vec<u16> = (0..count).map(|_| free_port()).collect();
        let url = |at: usize| format!("http://127.0.0.1:{}", ports[at]);
        let members: BTreeMap<_, _> = (0..count).map(|at| (format!("m{at}"), vec![url(at)])).collect();
        let folders: Vec<TempDir> = (0..count).map(|_| tempfile::tempdir().unwrap()).collect();
        let config = |at: usize| NodeConfig {
            data_dir: folders[at].path().join("data"),
            name: format!("m{at}"),
            listen_peers: vec![SocketAddr::from(([127, 0, 0, 1], ports[at])).into()],
            peer_tls: PeerTls::default(),
            advertise_peer_urls: vec![url(at)],
            advertise_client_urls: vec![format!("http://127.0.0.1:1000{at}")],
            bootstrap: Bootstrap::New { token: "test".into(), members: members.clone() },
            heartbeat_ms: 50,
            election_ms: 500,
            snapshot_count,
            strict_reconfig: true,
        };
        let configs: Vec<NodeConfig> = (0..count).map(config).collect();
        let nodes = configs.iter().map(|config| Some(Node::start(config.clone()).unwrap())).collect();
        Self { folders, configs, nodes }
    }

    fn node(&self, at: usize) -> &Node {
        self.nodes[at].as_ref().unwrap()
    }

    fn stop(&mut self, at: usize) {
        self.nodes[at].take().unwrap().stop();
    }

    /// Goes on from what a power cut would have left: the files as they are
    /// while the member runs, what was not flushed missing.
    fn crash(&mut self, at: usize) {
        let image = self.folders[at].path().join("image");
        let deadline = Instant::now() + PATIENCE;
        while !copy_of_one_moment(&self.configs[at].data_dir, &image) {
            assert!(Instant::now() < deadline, "the files never stood still");
        }
        self.stop(at);
        std::fs::remove_dir_all(&self.configs[at].data_dir).unwrap();
        std::fs::rename(image, &self.configs[at].data_dir).unwrap();
    }

    fn restart(&mut self, at: usize) {
        self.nodes[at] = Some(Node::start(self.configs[at].clone()).unwrap());
    }

    async fn leader(&self) -> usize {
        let find = || {
            let status = |at: &usize| self.nodes[*at].as_ref().map(|node| node.status().borrow().clone());
            (0..self.nodes.len()).find(|at| status(at).is_some_and(|status| status.is_leader))
        };
        until("a leader", || find().is_some()).await;
        find().unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.nodes.iter_mut().filter_map(Option::take).for_each(Node::stop);
    }
}

/// Copies the folder of a member that runs; false when files came, grew or went
/// meanwhile, for then the copy is of no one moment.
fn copy_of_one_moment(from: &Path, to: &Path) -> bool {
    let _ = std::fs::remove_dir_all(to);
    let before = files(from);
    let copied = before.iter().flatten().try_for_each(|(path, _)| {
        let target = to.join(path.strip_prefix(from).unwrap());
        std::fs::create_dir_all(target.parent().unwrap())?;
        std::fs::copy(path, target).map(drop)
    });
    before.is_some() && copied.is_ok() && before == files(from)
}

/// All files below a folder, with their lengths and times of change; none when one
/// went while they were listed.
fn files(folder: &Path) -> Option<BTreeMap<PathBuf, (u64, SystemTime)>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).ok()? {
        let path = entry.ok()?.path();
        let metadata = path.metadata().ok()?;
        if metadata.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.insert(path, (metadata.len(), metadata.modified().ok()?));
        }
    }
    Some(found)
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn put(key: &str, value: &str) -> Command {
    let request = PutRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        ..PutRequest::default()
    };
    Command { op: Some(Op::Put(request)) }
}

fn get(node: &Node, key: &str) -> Option<String> {
    let now = node.view();
    let request = RangeRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..RangeRequest::default() };
    let found = range(&now.view, now.head, &request).unwrap();
    found.kvs.first().map(|entry| String::from_utf8(entry.value.to_vec()).unwrap())
}

/// Writes as a client does: again, while the cluster is between leaders.
/// Writes until the member says that it is done, and returns how often it did not
/// know: each of those tries may have been written as well.
async fn write(node: &Node, key: &str, value: &str) -> i64 {
    let deadline = Instant::now() + PATIENCE;
    let mut uncertain = 0;
    loop {
        match node.propose(put(key, value)).await {
            Ok(reply) => {
                assert!(matches!(reply, Reply::Put(_)), "{reply:?}");
                return uncertain;
            }
            Err(error) => {
                assert!(Instant::now() < deadline, "put {key}: {error}");
                uncertain += i64::from(error == EtcdError::Timeout);
            }
        }
    }
}

async fn read(node: &Node, key: &str) -> Option<String> {
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = node.linearizable().await {
        assert!(Instant::now() < deadline, "read {key}: {error}");
    }
    get(node, key)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_member_keeps_its_data_over_a_crash() {
    let mut cluster = Cluster::start(1, 10_000);
    for round in 0..3 {
        for number in 0..20 {
            write(cluster.node(0), &format!("k{round}/{number}"), "v").await;
        }
        cluster.crash(0);
        cluster.restart(0);
        for number in 0..20 {
            assert_eq!(read(cluster.node(0), &format!("k{round}/{number}")).await, Some("v".into()));
        }
    }
    assert_eq!(cluster.node(0).view().head.revision, 61, "nothing was applied twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_writes_and_reads_through_the_leader() {
    let cluster = Cluster::start(3, 10_000);
    let leader = cluster.leader().await;
    for at in 0..3 {
        write(cluster.node(at), &format!("from{at}"), "here").await;
        assert_eq!(get(cluster.node(at), &format!("from{at}")), Some("here".into()), "its own write");
        for other in 0..3 {
            assert_eq!(read(cluster.node(other), &format!("from{at}")).await, Some("here".into()));
        }
    }
    let names = |at: usize| {
        let members = cluster.node(at).members();
        members.into_iter().map(|member| (member.name, member.client_urls.len())).collect::<Vec<_>>()
    };
    until("published URLs", || (0..3).all(|at| names(at).iter().all(|(_, urls)| *urls == 1))).await;

    cluster.node(leader).set_answerer(Box::new(|question| Ok([b"re: ", &question[..]].concat().into())));
    let follower = (leader + 1) % 3;
    let answer = cluster.node(follower).ask_leader(Bytes::from_static(b"hello")).await;
    assert_eq!(answer, Ok(Bytes::from_static(b"re: hello")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_survive_the_loss_of_the_leader() {
    let mut cluster = Cluster::start(3, 10_000);
    let mut uncertain = 0;
    for number in 0..30 {
        if number % 10 == 5 {
            let leader = cluster.leader().await;
            cluster.crash(leader);
            let other = (leader + 1) % 3;
            uncertain += write(cluster.node(other), &format!("k{number}"), "v").await;
            cluster.restart(leader);
        } else {
            uncertain += write(cluster.node(number % 3), &format!("k{number}"), "v").await;
        }
    }
    for at in 0..3 {
        for number in 0..30 {
            assert_eq!(
                read(cluster.node(at), &format!("k{number}")).await,
                Some("v".into()),
                "m{at} k{number}"
            );
        }
    }
    let revisions: Vec<i64> = (0..3).map(|at| cluster.node(at).view().head.revision).collect();
    assert!(revisions.iter().all(|revision| *revision == revisions[0]), "{revisions:?}");
    assert!((31..=31 + uncertain).contains(&revisions[0]), "{revisions:?}, {uncertain} uncertain");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_share_entries_and_watchers_see_all_in_order() {
    let cluster = Cluster::start(3, 10_000);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = seen.clone();
    cluster.node(0).set_event_sink(Box::new(move |revision, events: Arc<Vec<Event>>| {
        sink.lock().unwrap().push((revision, events.len()));
    }));
    cluster.leader().await;
    let tasks = (0..200).map(|number| {
        let node = cluster.node(number % 3).clone();
        tokio::spawn(async move { write(&node, &format!("k{number}"), "v").await })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    cluster.node(0).linearizable().await.unwrap();
    let seen = seen.lock().unwrap().clone();
    assert_eq!(seen, (2..=201).map(|revision| (revision, 1)).collect::<Vec<_>>());
    let applied = cluster.node(0).view().applied;
    assert!(applied < 150, "200 writes took {applied} entries");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_is_far_behind_gets_a_snapshot() {
    let mut cluster = Cluster::start(3, 20);
    let leader = cluster.leader().await;
    let (lagging, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let mut uncertain = write(cluster.node(lagging), "before", "v").await;
    cluster.stop(lagging);
    for number in 0..120 {
        uncertain += write(cluster.node(other), &format!("k{number}"), "v").await;
    }
    cluster.restart(lagging);
    assert_eq!(read(cluster.node(lagging), "k119").await, Some("v".into()));
    // It goes on from there, and so it does after a crash.
    uncertain += write(cluster.node(lagging), "after", "v").await;
    cluster.crash(lagging);
    cluster.restart(lagging);
    for key in ["before", "k0", "k60", "k119", "after"] {
        assert_eq!(read(cluster.node(lagging), key).await, Some("v".into()), "{key}");
    }
    let revision = cluster.node(lagging).view().head.revision;
    assert!((123..=123 + uncertain).contains(&revision), "{revision}, {uncertain} uncertain");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_member_stops_and_says_so() {
    let cluster = Cluster::start(3, 10_000);
    let leader = cluster.leader().await;
    let gone = (leader + 1) % 3;
    let id = cluster.node(gone).status().borrow().member_id;
    let stranger = cluster.node(gone).change_members(MemberChange::Remove { id: 7 }).await;
    assert_eq!(stranger.err(), Some(EtcdError::MemberNotFound));
    let deadline = Instant::now() + PATIENCE;
    let changed = loop {
        match cluster.node(gone).change_members(MemberChange::Remove { id }).await {
            Ok(changed) => break changed,
            // The new leader has not heard all of them yet.
            Err(error) => assert!(error == EtcdError::Unhealthy && Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!((changed.member.id, changed.members.len()), (id, 2));
    let mut status = cluster.node(gone).status();
    let waited = tokio::time::timeout(PATIENCE, status.wait_for(|status| status.stopped.is_some())).await;
    let why = waited.unwrap().unwrap().stopped.clone().unwrap();
    assert!(why.contains("was removed"), "{why}");
    write(cluster.node(leader), "still", "here").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_went_on_alone_is_not_led_by_those_it_left() {
    let mut cluster = Cluster::start(3, 10_000);
    let leader = cluster.leader().await;
    write(cluster.node(leader), "k", "v").await;
    // One that it knew, and one that has joined the others since.
    let old = cluster.node((leader + 1) % 3).status().borrow().member_id;
    (0..3).for_each(|at| cluster.stop(at));
    cluster.configs[leader].bootstrap = Bootstrap::Alone;
    cluster.restart(leader);
    let node = cluster.node(leader);
    write(node, "k", "w").await;
    let now = node.status().borrow().clone();
    // The others have gone on as well, with a later leader.
    let term = now.term + 10;
    for from in [old, 99] {
        let said = |msg_type| Message { msg_type, from, to: now.member_id, term, ..Message::default() };
        let proposal = Proposal { id: 1, command: Some(put("k", "theirs")), ..Proposal::default() };
        let data = Batch { proposals: vec![proposal] }.encode_to_vec().into();
        let theirs = Entry { index: now.applied + 1, term, data, ..Entry::default() };
        node.hear(Message {
            index: now.applied,
            log_term: now.term,
            commit: theirs.index,
            entries: vec![theirs].into(),
            ..said(MessageType::MsgAppend)
        });
        node.hear(Message { commit: now.applied + 100, ..said(MessageType::MsgHeartbeat) });
    }
    // What is asked after that is answered after that.
    assert_eq!(read(node, "k").await, Some("w".into()));
    assert_eq!(node.status().borrow().term, now.term);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_nothing_is_acknowledged() {
    let mut cluster = Cluster::start(3, 10_000);
    let leader = cluster.leader().await;
    write(cluster.node(leader), "k", "v").await;
    cluster.stop((leader + 1) % 3);
    cluster.stop((leader + 2) % 3);
    let (written, seen) =
        tokio::join!(cluster.node(leader).propose(put("k", "w")), cluster.node(leader).linearizable());
    assert_eq!((written.err(), seen.err()), (Some(EtcdError::Timeout), Some(EtcdError::Timeout)));
    assert_eq!(get(cluster.node(leader), "k"), Some("v".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_makes_room_is_proposed_on_a_full_disk() {
    let cluster = Cluster::start(1, 10_000);
    let node = cluster.node(0);
    write(node, "k", "v").await;
    // The log's thread looks again after each write, so this holds for one.
    let deadline = Instant::now() + PATIENCE;
    loop {
        node.pretend_disk_is_low();
        match node.propose(put("k", "w")).await {
            Err(EtcdError::NoSpace) => break,
            other => assert!(Instant::now() < deadline, "{other:?}"),
        }
    }
    let request = DeleteRangeRequest { key: Bytes::from_static(b"k"), ..DeleteRangeRequest::default() };
    let deleted = node.propose(Command { op: Some(Op::DeleteRange(request)) }).await;
    assert!(deleted.is_ok(), "{deleted:?}");
    assert_eq!(read(node, "k").await, None);
}

#[test]
fn contradictions_are_named_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let config = NodeConfig {
        data_dir: data_dir.clone(),
        name: "a".into(),
        listen_peers: vec![],
        peer_tls: PeerTls::default(),
        advertise_peer_urls: vec!["http://127.0.0.1:1".into()],
        advertise_client_urls: vec![],
        bootstrap: Bootstrap::New { token: "t".into(), members: BTreeMap::new() },
        heartbeat_ms: 100,
        election_ms: 1_000,
        snapshot_count: 10_000,
        strict_reconfig: true,
    };
    let named = |name: &str, url: &str| BTreeMap::from([(name.to_owned(), vec![url.to_owned()])]);
    let new = |members| Bootstrap::New { token: "t".into(), members };
    #[rustfmt::skip]
    let cases = [
        (NodeConfig { election_ms: 200, ..config.clone() },                                "--election-timeout=200"),
        (NodeConfig { advertise_peer_urls: vec!["ftp://x".into()], ..config.clone() },     "ftp://x"),
        (NodeConfig { bootstrap: new(named("b", "http://h:1")), ..config.clone() },        "couldn't find local name \"a\""),
        (NodeConfig { bootstrap: new(named("a", "http://h:1")), ..config.clone() },        "--initial-advertise-peer-urls"),
        (NodeConfig { bootstrap: Bootstrap::Existing, ..config },                          "holds no member"),
    ];
    for (config, want) in cases {
        let error = Node::start(config).err().unwrap().to_string();
        assert!(error.contains(want), "{error:?} lacks {want:?}");
    }
    assert!(!is_member(&data_dir));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_of_another_cluster_is_kept_out() {
    let cluster = Cluster::start(1, 10_000);
    write(cluster.node(0), "k", "v").await;
    // Same addresses, another token: another cluster that believes m0 is in it.
    let port = free_port();
    let folder = tempfile::tempdir().unwrap();
    let mine = format!("http://127.0.0.1:{port}");
    let theirs = cluster.configs[0].advertise_peer_urls.clone();
    let members = BTreeMap::from([("m0".to_owned(), theirs), ("stranger".to_owned(), vec![mine.clone()])]);
    let stranger = Node::start(NodeConfig {
        data_dir: folder.path().join("data"),
        name: "stranger".into(),
        listen_peers: vec![SocketAddr::from(([127, 0, 0, 1], port)).into()],
        advertise_peer_urls: vec![mine],
        bootstrap: Bootstrap::New { token: "other".into(), members },
        ..cluster.configs[0].clone()
    })
    .unwrap();
    assert_eq!(stranger.linearizable().await, Err(EtcdError::Timeout));
    assert_eq!(stranger.status().borrow().leader_id, 0);
    stranger.stop();
    assert_eq!(read(cluster.node(0), "k").await, Some("v".into()));
}
