//! A release that waits for its reboot while it fails on another machine.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod etcd;
mod update_support;

use etcd::{Cluster, put_surely, runtime};
use proa_update_model::slots::SlotFlags;
use update_support::{Machine, Publisher, Server, Wish, system};

const MIB: u64 = 1 << 20;

#[test]
fn a_staged_release_that_failed_elsewhere_boots_no_more_and_is_not_taken_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = Cluster::start(1, &[]);
    let publisher = Publisher::new(&folder.path().join("keys"));
    let release = publisher.release(&system(MIB, 2), None, &Wish::default());
    let machine = Machine::new(&folder.path().join("machine"), 4, &publisher, &system(MIB, 1));
    let server = Server::honest(release.clone());
    let endpoints = format!("--endpoints={}", store.endpoints().join(","));
    let mut engine = machine.start(&server, &[&endpoints]);
    engine.wait_for("the update", |_| machine.is_updated());
    machine.assert_updated(&release);

    let key = format!("/proa/update/failed/{}", release.root_hash);
    let record =
        r#"{"version":"2.0.0","reason":"fleetd.service is not active","machine":"other","unix_s":1}"#;
    runtime().block_on(put_surely(&store.client(), &key, record));
    let only_a = [SlotFlags::new(1, 0, true), SlotFlags::new(0, 0, false)];
    let state = machine.folder.join("state/state.json");
    engine.wait_for("the slot to be retired", |_| {
        std::fs::read_to_string(&state).is_ok_and(|state| !state.contains("is_active"))
    });
    assert_eq!(machine.flags(), only_a);
    let why = "version 2.0.0 does not boot next any more: it failed on machine other: \
               fleetd.service is not active";
    assert!(engine.log().contains(why), "{}", engine.log());

    // The server, which has not heard of it, goes on to offer the release.
    engine.wait_for("the offer to be refused", |engine| {
        engine.log().contains("version 2.0.0 is not installed again: it failed on machine other")
    });
    assert_eq!(machine.flags(), only_a);
}
