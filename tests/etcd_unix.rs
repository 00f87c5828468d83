//! A cluster whose members and clients talk over unix sockets.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod etcd;

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use etcd::{Cluster, Member, proa, put_surely, runtime, wait_for};

/// Members that are reached by the sockets `client0`, `peer0`, ... of `folder` alone.
fn members(folder: &Path, size: usize) -> Vec<Member> {
    let url = |kind: &str, number: usize| format!("unix://{}/{kind}{number}", folder.display());
    let list: Vec<String> = (0..size).map(|number| format!("m{number}={}", url("peer", number))).collect();
    let member = |number: usize| {
        let client = url("client", number);
        let flags = [format!("--listen-client-urls={client}"), format!("--advertise-client-urls={client}")];
        let flags = flags.each_ref().map(String::as_str);
        let name = format!("m{number}");
        let mut member = Member::new(folder, &name, &url("peer", number), &list.join(","), &flags);
        member.client_url = client;
        member
    };
    (0..size).map(member).collect()
}

/// What a command of etcdctl prints that must succeed: Debian's 3.4, or our own.
fn etcdctl(is_own: bool, api: &str, url: &str, words: &[&str]) -> String {
    let mut command = Command::new(if is_own { proa() } else { "/usr/bin/etcdctl".into() });
    if is_own {
        command.arg("etcdctl");
    }
    let output = command.env("ETCDCTL_API", api).args(["--endpoints", url]).args(words).output();
    let output = output.unwrap_or_else(|error| panic!("{error}; install the package etcd-client"));
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_cluster_on_unix_sockets_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start_these(members(folder.path(), 3));
    let runtime = runtime();
    let client = cluster.client();
    runtime.block_on(put_surely(&client, "k", "before"));
    let (all, first) = (cluster.endpoints().join(","), cluster.members[0].client_url.clone());
    for is_own in [false, true] {
        let ctl = |words: &[&str]| etcdctl(is_own, "3", &all, words);
        assert_eq!(ctl(&["get", "k"]), "k\nbefore\n");
        wait_for("the member's URL", || ctl(&["member", "list"]).contains(&first).then_some(()));
        assert!(ctl(&["endpoint", "status"]).contains(&first));
    }
    // Debian's dials no path with the commands of API version 2.
    assert_eq!(etcdctl(true, "2", &first, &["set", "k", "two"]), "two\n");

    cluster.members[0].kill();
    let socket = folder.path().join("client0");
    assert!(socket.exists(), "a killed process removes nothing");
    runtime.block_on(put_surely(&client, "k", "after"));
    cluster.members[0].start();
    cluster.wait_ready();
    assert_eq!(etcdctl(true, "3", &first, &["get", "k"]), "k\nafter\n");
    assert_eq!(etcdctl(true, "2", &first, &["get", "k"]), "two\n");

    let pid = cluster.members[0].pid().unwrap().to_string();
    assert!(Command::new("kill").arg(pid).status().unwrap().success());
    assert!(wait_for("the stop", || cluster.members[0].ended()).success());
    assert!(!socket.exists() && !folder.path().join("peer0").exists(), "its sockets are left");
}

#[test]
fn a_socket_that_somebody_listens_on_is_not_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    for kind in ["client0", "peer0"] {
        let path = folder.path().join(kind);
        let other = UnixListener::bind(&path).unwrap();
        let mut member = members(folder.path(), 1).remove(0);
        member.start();
        assert_eq!(wait_for("the refusal", || member.ended()).code(), Some(1));
        let text = member.stderr().to_lowercase();
        let last = text.lines().last().unwrap_or_default();
        assert!(last.contains(kind) && last.contains("address already in use"), "{text}");
        assert!(path.exists());
        drop(other);
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn tls_is_spoken_on_a_unix_socket_too() {
    let folder = tempfile::tempdir().unwrap();
    let mut member = members(folder.path(), 1).remove(0);
    let [client, peer] =
        ["client", "peer"].map(|kind| format!("unixs://{}/{kind}0", folder.path().display()));
    member.add_flags(&["--auto-tls", "--peer-auto-tls"]);
    member.add_flags(&[
        &format!("--listen-client-urls={client}"),
        &format!("--advertise-client-urls={client}"),
        &format!("--listen-peer-urls={peer}"),
        &format!("--initial-advertise-peer-urls={peer}"),
        &format!("--initial-cluster=m0={peer}"),
    ]);
    member.start();
    wait_for("a member that serves", || member.stderr().contains("ready to serve").then_some(()));
    let ca = member.data_dir.join("fixtures/client/cert.pem");
    let put = ["--cacert", ca.to_str().unwrap(), "put", "k", "v"];
    // Debian's takes the whole path for the name that the certificate should have.
    assert_eq!(etcdctl(true, "3", &client, &put), "OK\n");
}
