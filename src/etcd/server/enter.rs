//! A machine that stands by becomes a member: it takes the place of one that is
//! gone, learner first, without anybody's help where that is safe.
//!
//! Every step is decided by the leader and is an ordinary change of the
//! membership ([`crate::peer::question`]); this side asks, again and again,
//! starts when it is welcome, and asks for its vote once it has the data.

use std::time::Duration;

use tokio::sync::watch;

use crate::lan::LanConfig;
use crate::node::{MemberChange, Node};
use crate::peer::question::{Entry, ask_entry};
use crate::tls::PeerTls;

/// Pause between two tries: what is waited for takes seconds (a member must be
/// silent for ten) or a person.
const ASK_EVERY: Duration = Duration::from_secs(3);

/// Asks the members to be let in, for as long as it takes; returns the peer URLs
/// of those that may be joined. Says why it waits, once for each reason.
pub async fn seek(
    lan: &LanConfig,
    cluster_id: u64,
    tls: &PeerTls,
    peer_urls: watch::Receiver<Vec<String>>,
) -> Vec<String> {
    let mut told = String::new();
    loop {
        let urls = peer_urls.borrow().clone();
        let (asked, own, size, client) = (urls.clone(), lan.peer_url.clone(), lan.size, tls.client.clone());
        let answer = tokio::task::spawn_blocking(move || {
            asked.iter().find_map(|url| match ask_entry(url, client.as_ref(), cluster_id, &own, size) {
                Ok(Entry::NotLeader) | Err(_) => None,
                Ok(entry) => Some(entry),
            })
        });
        match answer.await {
            Ok(Some(Entry::Welcome)) => return urls,
            Ok(Some(Entry::Again)) => continue,
            Ok(Some(Entry::Wait(why))) => {
                // Numbers in it change all the time; only the words are news.
                let words: String = why.chars().filter(|c| !c.is_ascii_digit()).collect();
                if words != told {
                    tracing::info!("this machine stands by: {why}");
                    told = words;
                }
            }
            // No leader at the moment, or nobody heard yet.
            Ok(Some(Entry::NotLeader) | None) | Err(_) => {}
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// Makes of a member that entered a whole one: asks for its vote as soon as it
/// has caught up, and tells the others where it is when its address changed.
/// Ends when both are so.
pub async fn settle(node: Node, peer_urls: Vec<String>) {
    loop {
        let us = node.status().borrow().member_id;
        let known = node.members().into_iter().find(|member| member.id == us);
        let change = match known {
            Some(member) if member.peer_urls != peer_urls => {
                MemberChange::Update { id: us, peer_urls: peer_urls.clone() }
            }
            Some(member) if !member.is_learner => return,
            // Or it does not know yet who is a member.
            Some(_) | None => MemberChange::Promote { id: us },
        };
        if let Err(error) = node.change_members(change).await {
            tracing::debug!("not settled yet: {error}");
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::node::{Bootstrap, NodeConfig};
    use bytes::Bytes;
    use proa_etcd_api::command::{Command, command::Op};
    use proa_etcd_api::etcdserverpb::{PutRequest, RangeRequest};
    use proa_etcd_replica::Founded;
    use proa_test_ports::free_port;
    use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
    use std::path::Path;
    use std::time::Instant;

    /// Longer than a member must be silent, by much.
    const PATIENCE: Duration = Duration::from_secs(90);

    fn config(folder: &Path, name: &str, port: u16, bootstrap: Bootstrap) -> NodeConfig {
        NodeConfig {
            data_dir: folder.join(name),
            name: name.into(),
            listen_peers: vec![SocketAddr::from(([127, 0, 0, 1], port)).into()],
            peer_tls: PeerTls::default(),
            advertise_peer_urls: vec![url(port)],
            advertise_client_urls: vec![format!("http://127.0.0.1:1/{name}")],
            bootstrap,
            heartbeat_ms: 100,
            election_ms: 1_000,
            snapshot_count: 100,
            strict_reconfig: true,
        }
    }

    fn url(port: u16) -> String {
        format!("http://127.0.0.1:{port}")
    }

    async fn start(config: NodeConfig) -> Node {
        tokio::task::spawn_blocking(move || Node::start(config).unwrap()).await.unwrap()
    }

    async fn put(node: &Node, key: &str) {
        let request = PutRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..PutRequest::default() };
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = node.propose(Command { op: Some(Op::Put(request.clone())) }).await {
            assert!(Instant::now() < deadline, "put {key}: {error}");
        }
    }

    /// The machine with the emptied disk has another id, and the same address.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_machine_with_an_emptied_disk_takes_its_own_place_again() {
        let folder = tempfile::tempdir().unwrap();
        let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
        let machine = |number: usize| format!("{:032x}", number + 1).parse().unwrap();
        let mut founded = Founded::by("test", &(0..3).map(machine).collect(), |_| None);
        for (port, member) in ports.iter().zip(founded.members.values_mut()) {
            member.peer_url = Some(url(*port));
        }
        let cluster_id = founded.cluster_id;
        let mut nodes = Vec::new();
        for (at, port) in ports.iter().enumerate() {
            let config = config(folder.path(), &format!("m{at}"), *port, Bootstrap::Founded(founded.clone()));
            nodes.push(start(config).await);
        }
        put(&nodes[0], "before").await;
        let gone = nodes.pop().unwrap();
        let old_id = gone.status().borrow().member_id;
        gone.stop();
        put(&nodes[0], "without it").await;
        let lan = LanConfig {
            cluster: "test".into(),
            size: 3,
            machine: machine(7),
            interface: Ipv4Addr::LOCALHOST,
            group: SocketAddrV4::new(Ipv4Addr::new(239, 255, 77, 99), 1),
            data_dir: folder.path().join("new"),
            peer_url: url(ports[2]),
            client_urls: vec![],
        };
        let (_sender, peer_urls) = watch::channel(ports[..2].iter().map(|port| url(*port)).collect());
        let tls = PeerTls::default();
        let sought = seek(&lan, cluster_id, &tls, peer_urls);
        let others = tokio::time::timeout(PATIENCE, sought).await.unwrap();
        let new = start(config(folder.path(), "new", ports[2], Bootstrap::Join { others })).await;
        let settled = settle(new.clone(), vec![url(ports[2])]);
        tokio::time::timeout(PATIENCE, settled).await.unwrap();
        let members = new.members();
        assert!(members.iter().all(|member| member.id != old_id && !member.is_learner), "{members:?}");
        assert_eq!(members.len(), 3);
        // It holds everything, and its vote counts: another one may go.
        nodes.pop().unwrap().stop();
        put(&new, "with it").await;
        new.linearizable().await.unwrap();
        let now = new.view();
        let (key, range_end) = (Bytes::from_static(&[0]), Bytes::from_static(&[0]));
        let request = RangeRequest { key, range_end, ..RangeRequest::default() };
        assert_eq!(proa_etcd_store::range(&now.view, now.head, &request).unwrap().count, 3);
        drop(now);
        new.stop();
        nodes.into_iter().for_each(Node::stop);
    }
}
