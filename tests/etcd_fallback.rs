//! A client that knows one member and falls back to the others, as fleetd does.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod etcd;

use etcd::{Cluster, put_surely, runtime, wait_for};
use proa_etcd_client::api::etcdserverpb::StatusRequest;
use proa_etcd_client::{Client, Watch, WatchItem};
use tokio_stream::StreamExt as _;

async fn values(watch: &mut Watch, count: usize) -> Vec<String> {
    let mut values = Vec::new();
    while values.len() < count {
        match tokio::time::timeout(etcd::PATIENCE, watch.next()).await.unwrap().unwrap() {
            WatchItem::Events { events, .. } => {
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                values.extend(events.into_iter().map(|event| text(&event.kv.unwrap().value)));
            }
            WatchItem::Begun { .. } | WatchItem::Progress { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    values
}

#[test]
fn a_client_of_a_dead_member_is_served_by_the_others_and_comes_back() {
    let mut cluster = Cluster::start(3, &[]);
    let runtime = runtime();
    let own = cluster.members[0].client_url.clone();
    let client = {
        let _inside = runtime.enter();
        Client::connect(std::slice::from_ref(&own)).unwrap().falling_back()
    };
    let member_id = || runtime.block_on(client.status(StatusRequest {})).map(|s| s.header.unwrap().member_id);
    let first = runtime.block_on(put_surely(&client, "k", "1"));
    let own_id = member_id().unwrap();
    // It learns beside its requests.
    wait_for("the other members to be known", || {
        member_id().unwrap();
        (client.fallback_endpoints().len() == 2).then_some(())
    });
    let mut watch = {
        let _inside = runtime.enter();
        client.watch("k", "", first)
    };
    assert_eq!(runtime.block_on(values(&mut watch, 1)), ["1"]);

    cluster.members[0].kill();
    runtime.block_on(put_surely(&client, "k", "2"));
    assert_ne!(member_id().unwrap(), own_id);
    assert_eq!(runtime.block_on(values(&mut watch, 1)), ["2"], "the watch goes on elsewhere");

    cluster.members[0].start();
    wait_for("the own member to be asked again", || (member_id().ok()? == own_id).then_some(()));
    runtime.block_on(put_surely(&client, "k", "3"));
    assert_eq!(runtime.block_on(values(&mut watch, 1)), ["3"], "nothing is lost or said twice");
}

#[test]
fn a_client_that_may_not_fall_back_does_not() {
    let mut cluster = Cluster::start(3, &[]);
    let runtime = runtime();
    let client = Client::connect(std::slice::from_ref(&cluster.members[0].client_url)).unwrap();
    runtime.block_on(put_surely(&client, "k", "1"));
    cluster.members[0].kill();
    assert!(runtime.block_on(client.status(StatusRequest {})).is_err());
    assert!(client.fallback_endpoints().is_empty());
}
