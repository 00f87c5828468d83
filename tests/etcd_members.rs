//! The membership of a running cluster: grown, shrunk and mended under write
//! load, and what is refused because it would endanger the data.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod etcd;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use etcd::{Cluster, Member, free_url, put_surely, runtime, wait_for};
use proa_etcd_client::api::etcdserverpb as pb;
use proa_etcd_client::{Client, Error};
use tokio::runtime::Runtime;

/// Short logs, so that those who join need a snapshot.
const FLAGS: [&str; 1] = ["--snapshot-count=300"];

fn one(member: &Member) -> Client {
    Client::connect(std::slice::from_ref(&member.client_url)).unwrap()
}

fn members(runtime: &Runtime, client: &Client) -> Vec<pb::Member> {
    let request = pb::MemberListRequest { linearizable: true };
    wait_for("the members", || runtime.block_on(client.member_list(request)).ok()).members
}

fn id_of(runtime: &Runtime, member: &Member) -> u64 {
    let status = || runtime.block_on(one(member).status(pb::StatusRequest {})).ok();
    wait_for("its id", status).header.unwrap().member_id
}

#[test]
fn who_says_it_is_ready_has_told_its_name() {
    // An empty token is a token, as for etcd.
    let cluster = Cluster::start(3, &["--initial-cluster-token="]);
    let runtime = runtime();
    for member in &cluster.members {
        let is_ready = || member.stderr().contains("ready to serve client requests").then_some(());
        wait_for("the line that says ready", is_ready);
        let known = members(&runtime, &one(member)).into_iter().find(|known| known.name == member.name);
        assert_eq!(known.unwrap().client_urls, std::slice::from_ref(&member.client_url));
    }
}

fn refusal<T: std::fmt::Debug>(answer: Result<T, Error>) -> String {
    match answer {
        Err(Error::Refused { text, .. } | Error::Unavailable { text, .. }) => text,
        other => format!("{other:?}"),
    }
}

/// Every peer URL by name, as `--initial-cluster` wants it, with one more.
fn initial_cluster(known: &[pb::Member], name: &str, peer_url: &str) -> String {
    let known = known.iter().filter(|member| !member.name.is_empty());
    let known = known.flat_map(|member| member.peer_urls.iter().map(|url| format!("{}={url}", member.name)));
    known.chain([format!("{name}={peer_url}")]).collect::<Vec<_>>().join(",")
}

/// Adds a member as a learner, starts it and gives it its vote.
fn join(runtime: &Runtime, client: &Client, folder: &Path, name: &str) -> Member {
    let peer_url = free_url();
    let request = pb::MemberAddRequest { peer_urls: vec![peer_url.clone()], is_learner: true };
    // Refused while a member is not heard, which it may be for a moment.
    let added =
        wait_for("a place for a learner", || runtime.block_on(client.member_add(request.clone())).ok());
    let id = added.member.unwrap().id;
    let others: Vec<pb::Member> = added.members.into_iter().filter(|member| member.id != id).collect();
    let mut flags = vec!["--initial-cluster-state=existing"];
    flags.extend(FLAGS);
    let mut member = Member::new(folder, name, &peer_url, &initial_cluster(&others, name, &peer_url), &flags);
    member.start();
    wait_for("the learner to catch up", || {
        if let Some(status) = member.ended() {
            panic!("{name} ended with {status}");
        }
        match runtime.block_on(client.member_promote(pb::MemberPromoteRequest { id })) {
            Ok(_) => Some(()),
            // Done before, with the answer lost.
            Err(Error::Refused { text, .. }) if text.contains("can only promote a learner member") => {
                text.ends_with("a learner member").then_some(())
            }
            Err(_) => None,
        }
    });
    assert_eq!(id_of(runtime, &member), id);
    member
}

/// Clients that write all the time, each its own keys in order.
struct Load {
    ended: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<(String, String)>>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn start(runtime: &Runtime, endpoints: &Arc<Mutex<Vec<String>>>) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::<Mutex<Vec<_>>>::default();
        let task = |writer: usize| {
            let (ended, acknowledged) = (Arc::clone(&ended), Arc::clone(&acknowledged));
            let endpoints = Arc::clone(endpoints);
            runtime.spawn(async move {
                let mut count = 0;
                while !ended.load(Ordering::Relaxed) {
                    let now = endpoints.lock().unwrap().clone();
                    let client = Client::connect(&now).unwrap();
                    while *endpoints.lock().unwrap() == now && !ended.load(Ordering::Relaxed) {
                        count += 1;
                        let (key, value) = (format!("load/{writer}/{count:06}"), format!("{count}"));
                        let (k, v) = (key.clone().into(), value.clone().into());
                        let request = pb::PutRequest { key: k, value: v, ..pb::PutRequest::default() };
                        if client.put(request).await.is_ok() {
                            acknowledged.lock().unwrap().push((key, value));
                        }
                    }
                }
            })
        };
        let tasks = (0..4).map(task).collect();
        Self { ended, acknowledged, tasks }
    }

    fn count(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    /// Waits until writing goes on.
    fn goes_on(&self) {
        let before = self.count();
        wait_for("writes to go on", || (self.count() >= before + 20).then_some(()));
    }

    /// Ends the writers; what was acknowledged must be there, on each member alike.
    fn check(self, runtime: &Runtime, members: &[&Member]) {
        self.ended.store(true, Ordering::Relaxed);
        for task in self.tasks {
            runtime.block_on(task).unwrap();
        }
        let last = runtime.block_on(put_surely(&one(members[0]), "the-end", "the-end"));
        let acknowledged = self.acknowledged.lock().unwrap();
        eprintln!("{} writes acknowledged, revision {last}", acknowledged.len());
        let range = pb::RangeRequest { key: "load/".into(), range_end: "load0".into(), ..Default::default() };
        let found = runtime.block_on(one(members[0]).range(range)).unwrap();
        let found: std::collections::BTreeMap<_, _> =
            found.kvs.into_iter().map(|kv| (kv.key.to_vec(), kv.value.to_vec())).collect();
        for (key, value) in acknowledged.iter() {
            let have = found.get(key.as_bytes()).map(Vec::as_slice);
            assert_eq!(have, Some(value.as_bytes()), "{key} was acknowledged");
        }
        let hash = |member: &&Member| {
            let request = pb::HashKvRequest { revision: last };
            wait_for("a member to catch up", || runtime.block_on(one(member).hash_kv(request)).ok()).hash
        };
        let hashes: Vec<u32> = members.iter().map(hash).collect();
        assert!(hashes.iter().all(|hash| *hash == hashes[0]), "members disagree: {hashes:?}");
    }
}

#[test]
fn three_become_five_become_three_under_load() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start_in(folder.path(), 3, &FLAGS);
    let (runtime, client) = (runtime(), cluster.client());
    let endpoints = Arc::new(Mutex::new(cluster.endpoints()));
    let load = Load::start(&runtime, &endpoints);
    load.goes_on();
    for name in ["m3", "m4"] {
        cluster.members.push(join(&runtime, &client, folder.path(), name));
        load.goes_on();
    }
    assert_eq!(members(&runtime, &client).iter().filter(|member| !member.is_learner).count(), 5);
    // The leader goes first, then another of the first three.
    let status = runtime.block_on(one(&cluster.members[4]).status(pb::StatusRequest {})).unwrap();
    for turn in 0..2 {
        let is_victim = |member: &Member| turn == 1 || id_of(&runtime, member) == status.leader;
        let at = cluster.members.iter().position(is_victim).unwrap();
        let mut gone = cluster.members.remove(at);
        let id = id_of(&runtime, &gone);
        *endpoints.lock().unwrap() = cluster.endpoints();
        let asked = Client::connect(&cluster.endpoints()).unwrap();
        wait_for("the removal", || {
            match runtime.block_on(asked.member_remove(pb::MemberRemoveRequest { id })) {
                Ok(_) => Some(()),
                Err(Error::Refused { text, .. }) if text == "etcdserver: member not found" => Some(()),
                Err(_) => None,
            }
        });
        let ended = wait_for("the removed member to stop", || gone.ended());
        assert_eq!(ended.code(), Some(1));
        let last = gone.stderr().lines().last().unwrap_or_default().to_owned();
        assert!(last.contains("removed from the cluster"), "{last}");
        // It stays removed.
        gone.kill();
        gone.start();
        let ended = wait_for("the removed member to stop again", || gone.ended());
        assert_eq!(ended.code(), Some(1));
        load.goes_on();
    }
    let left: Vec<&Member> = cluster.members.iter().collect();
    assert_eq!(members(&runtime, &one(left[0])).len(), 3);
    load.check(&runtime, &left);
}

#[test]
fn a_member_whose_disk_was_emptied_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start_in(folder.path(), 3, &FLAGS);
    let runtime = runtime();
    let mut gone = cluster.members.remove(2);
    let old_id = id_of(&runtime, &gone);
    let endpoints = Arc::new(Mutex::new(cluster.endpoints()));
    let client = cluster.client();
    let load = Load::start(&runtime, &endpoints);
    load.goes_on();
    gone.kill();
    std::fs::remove_dir_all(&gone.data_dir).unwrap();
    load.goes_on();
    // As it was started before: it may have voted, and does not know any more.
    for flags in [[].as_slice(), &["--initial-cluster-state=existing"]] {
        gone.add_flags(flags);
        gone.start();
        let ended = wait_for("the refusal", || gone.ended());
        assert_eq!(ended.code(), Some(1));
        let last = gone.stderr().lines().last().unwrap_or_default().to_owned();
        assert!(last.contains(&format!("etcdctl member remove {old_id:x}")), "{last}");
        gone.kill();
        assert!(!gone.data_dir.join("identity").exists());
    }
    runtime.block_on(client.member_remove(pb::MemberRemoveRequest { id: old_id })).unwrap();
    let new = join(&runtime, &client, folder.path(), "m2-again");
    load.goes_on();
    let known = members(&runtime, &client);
    assert_eq!(known.len(), 3);
    assert!(known.iter().all(|member| member.id != old_id && !member.is_learner));
    // It carries its share: with another one gone there is still a majority.
    cluster.members[0].kill();
    *endpoints.lock().unwrap() = vec![cluster.members[1].client_url.clone(), new.client_url.clone()];
    load.goes_on();
    load.check(&runtime, &[&new, &cluster.members[1]]);
}

#[test]
fn an_unsafe_step_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start_in(folder.path(), 3, &[]);
    let runtime = runtime();
    let client = Client::connect(&cluster.endpoints()[..2]).unwrap();
    let ids: Vec<u64> = cluster.members.iter().map(|member| id_of(&runtime, member)).collect();
    let add = |url: &str, is_learner| {
        let request = pb::MemberAddRequest { peer_urls: vec![url.to_owned()], is_learner };
        runtime.block_on(client.member_add(request))
    };
    let remove = |id| runtime.block_on(client.member_remove(pb::MemberRemoveRequest { id }));
    let promote = |id| runtime.block_on(client.member_promote(pb::MemberPromoteRequest { id }));
    let known = members(&runtime, &client)[0].peer_urls[0].clone();
    let new = free_url();
    let unhealthy = "etcdserver: unhealthy cluster";
    let not_started = "etcdserver: re-configuration failed due to not enough started members";

    assert_eq!(refusal(add("nonsense", false)), "etcdserver: given member URLs are invalid");
    wait_for("all three to be heard", || {
        (refusal(add(&known, false)) == "etcdserver: Peer URLs already exists").then_some(())
    });
    assert_eq!(refusal(remove(7)), "etcdserver: member not found");
    assert_eq!(refusal(promote(ids[0])), "etcdserver: can only promote a learner member");
    // One is down: who is left is needed.
    cluster.members[2].kill();
    wait_for("the silence to be noticed", || (refusal(add(&known, false)) == unhealthy).then_some(()));
    assert_eq!(refusal(add(&new, true)), unhealthy);
    assert_eq!(refusal(remove(ids[0])), unhealthy);
    assert_eq!(refusal(remove(ids[1])), unhealthy);
    remove(ids[2]).unwrap();
    // A learner that never came up.
    let learner = add(&new, true).unwrap().member.unwrap();
    assert!(learner.is_learner);
    assert_eq!(
        refusal(promote(learner.id)),
        "etcdserver: can only promote a learner member which is in sync with leader"
    );
    assert_eq!(refusal(add(&free_url(), true)), "etcdserver: too many learner members in cluster");
    remove(learner.id).unwrap();
    // A voter that never came up: its vote is missing already.
    let voter = add(&new, false).unwrap().member.unwrap();
    assert_ne!(voter.id, learner.id, "an id never comes back");
    assert_eq!(refusal(add(&free_url(), false)), not_started);
    assert_eq!(refusal(add(&free_url(), true)), unhealthy);
    remove(voter.id).unwrap();
    runtime.block_on(put_surely(&client, "still", "here"));
}

#[test]
fn one_member_cannot_be_removed() {
    let cluster = Cluster::start(1, &[]);
    let runtime = runtime();
    let id = id_of(&runtime, &cluster.members[0]);
    let request = pb::MemberRemoveRequest { id };
    assert_eq!(
        refusal(runtime.block_on(cluster.client().member_remove(request))),
        "etcdserver: re-configuration failed due to not enough started members"
    );
}

#[test]
fn a_learner_answers_only_what_may_be_old() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start_in(folder.path(), 1, &[]);
    let (runtime, client) = (runtime(), cluster.client());
    runtime.block_on(put_surely(&client, "k", "v"));
    let peer_url = free_url();
    let request = pb::MemberAddRequest { peer_urls: vec![peer_url.clone()], is_learner: true };
    runtime.block_on(client.member_add(request)).unwrap();
    let list = initial_cluster(&members(&runtime, &client), "learner", &peer_url);
    let flags = ["--initial-cluster-state=existing"];
    let mut learner = Member::new(folder.path(), "learner", &peer_url, &list, &flags);
    learner.start();
    let asked = one(&learner);
    let old = pb::RangeRequest { key: "k".into(), serializable: true, ..pb::RangeRequest::default() };
    wait_for("the data", || {
        let answer = runtime.block_on(asked.range(old.clone())).ok()?;
        (answer.kvs.first()?.value == "v").then_some(())
    });
    let refused = "etcdserver: rpc not supported for learner";
    let new = pb::RangeRequest { serializable: false, ..old };
    let put = pb::PutRequest { key: "k".into(), ..pb::PutRequest::default() };
    assert!(refusal(runtime.block_on(asked.range(new))).contains(refused));
    assert!(refusal(runtime.block_on(asked.put(put))).contains(refused));
    assert!(runtime.block_on(asked.status(pb::StatusRequest {})).unwrap().is_learner);
    let id = id_of(&runtime, &learner);
    wait_for("its name", || members(&runtime, &client).iter().any(|m| m.name == "learner").then_some(()));
    // Nobody can be led by who has no vote.
    let request = pb::MoveLeaderRequest { target_id: id };
    assert_eq!(refusal(runtime.block_on(client.move_leader(request))), "etcdserver: bad leader transferee");
}

#[test]
fn who_was_not_added_cannot_join() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start_in(folder.path(), 1, &[]);
    let known = members(&runtime(), &cluster.client());
    let peer_url = free_url();
    let list = initial_cluster(&known, "new", &peer_url);
    let flags = ["--initial-cluster-state=existing"];
    let mut new = Member::new(folder.path(), "new", &peer_url, &list, &flags);
    new.start();
    assert_eq!(wait_for("the refusal", || new.ended()).code(), Some(1));
    let text = new.stderr();
    assert!(text.contains("has no member with the peer URLs") && text.lines().count() == 1, "{text}");
    // Nor when nobody answers.
    let list = format!("new={peer_url},m0={}", free_url());
    let mut new = Member::new(folder.path(), "lone", &peer_url, &list.replace("new=", "lone="), &flags);
    new.start();
    assert_eq!(wait_for("the refusal", || new.ended()).code(), Some(1));
    let text = new.stderr();
    assert!(text.contains("cannot fetch cluster info from peer urls") && text.lines().count() == 1, "{text}");
}

#[test]
fn the_lead_goes_where_it_is_sent() {
    let mut cluster = Cluster::start(3, &[]);
    let runtime = runtime();
    let status = |member: &Member| runtime.block_on(one(member).status(pb::StatusRequest {})).unwrap();
    let leader_id = status(&cluster.members[0]).leader;
    let ids: Vec<u64> = cluster.members.iter().map(|member| id_of(&runtime, member)).collect();
    let leader = ids.iter().position(|id| *id == leader_id).unwrap();
    let follower = (leader + 1) % 3;
    let move_to = |at: usize, target_id| {
        runtime.block_on(one(&cluster.members[at]).move_leader(pb::MoveLeaderRequest { target_id }))
    };
    assert_eq!(refusal(move_to(follower, ids[follower])), "etcdserver: not leader");
    assert_eq!(refusal(move_to(leader, 7)), "etcdserver: bad leader transferee");
    move_to(leader, ids[leader]).unwrap();
    move_to(leader, ids[follower]).unwrap();
    wait_for("the new leader everywhere", || {
        cluster.members.iter().all(|member| status(member).leader == ids[follower]).then_some(())
    });
    // Who is told to stop hands over first: the others need no election.
    let terminate = std::process::Command::new("kill")
        .arg(cluster.members[follower].pid().unwrap().to_string())
        .status()
        .unwrap();
    assert!(terminate.success());
    let ended = wait_for("the stop", || cluster.members[follower].ended());
    assert!(ended.success(), "{ended}");
    let now = status(&cluster.members[leader]);
    assert!(now.leader != 0 && now.leader != ids[follower], "{now:?}");
}

#[test]
fn a_member_moves_to_another_address() {
    let mut cluster = Cluster::start(3, &[]);
    let runtime = runtime();
    let (client, id) = (cluster.client(), id_of(&runtime, &cluster.members[2]));
    let peer_url = free_url();
    let request = pb::MemberUpdateRequest { id, peer_urls: vec![peer_url.clone()] };
    let changed = runtime.block_on(client.member_update(request)).unwrap();
    assert!(changed.members.iter().any(|member| member.id == id && member.peer_urls == [peer_url.clone()]));
    cluster.members[2].kill();
    runtime.block_on(put_surely(&client, "k", "v"));
    let listen = format!("--listen-peer-urls={peer_url}");
    cluster.members[2].add_flags(&[&listen]);
    cluster.members[2].start();
    let moved = one(&cluster.members[2]);
    let request = pb::RangeRequest { key: "k".into(), ..pb::RangeRequest::default() };
    wait_for("the moved member", || {
        (runtime.block_on(moved.range(request.clone())).ok()?.kvs.first()?.value == "v").then_some(())
    });
}
