//! Leases from outside: who knows them, and in which order they are listed.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod etcd;

use etcd::{Cluster, runtime};
use proa_etcd_client::Client;
use proa_etcd_client::api::etcdserverpb as pb;

/// Clients of one member each.
fn clients(cluster: &Cluster) -> Vec<Client> {
    let one = |member: &etcd::Member| Client::connect(std::slice::from_ref(&member.client_url)).unwrap();
    cluster.members.iter().map(one).collect()
}

async fn grant(client: &Client, ttl: i64) -> i64 {
    client.lease_grant(pb::LeaseGrantRequest { ttl, id: 0 }).await.unwrap().id
}

#[test]
fn a_lease_is_known_to_whoever_hears_of_it() {
    /// At a time, each of them this often.
    const PAIRS: usize = 24;
    const ROUNDS: usize = 20;
    let cluster = Cluster::start(3, &[]);
    let (runtime, clients) = (runtime(), clients(&cluster));
    let one = |number: usize| {
        let (grants, renews) = (clients[number % 3].clone(), clients[(number / 3) % 3].clone());
        runtime.spawn(async move {
            for _ in 0..ROUNDS {
                let id = grant(&grants, 60).await;
                assert_eq!(renews.lease_keep_alive_once(id).await.unwrap().ttl, 60, "round {number}");
                let left = pb::LeaseTimeToLiveRequest { id, keys: false };
                assert!(renews.lease_time_to_live(left).await.unwrap().ttl > 0, "round {number}");
            }
        })
    };
    for task in (0..PAIRS).map(one).collect::<Vec<_>>() {
        runtime.block_on(task).unwrap();
    }
    let unknown = runtime.block_on(clients[1].lease_keep_alive_once(7)).unwrap();
    assert_eq!(unknown.ttl, 0);
}

#[test]
fn those_that_end_first_are_listed_first() {
    let cluster = Cluster::start(1, &[]);
    let (runtime, client) = (runtime(), cluster.client());
    let mut want = Vec::new();
    for ttl in [50, 40, 30, 20, 10] {
        want.insert(0, runtime.block_on(grant(&client, ttl)));
    }
    let listed = runtime.block_on(client.lease_leases(pb::LeaseLeasesRequest {})).unwrap().leases;
    assert_eq!(listed.iter().map(|lease| lease.id).collect::<Vec<_>>(), want);
}
