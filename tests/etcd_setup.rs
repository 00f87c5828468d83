//! The ways to set up a member: its file, a discovery token, a gateway, a proxy.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod etcd;
mod process;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;

use etcd::{Cluster, free_url, wait_for};
use process::{Process, etcdctl, spawn};

fn address(url: &str) -> &str {
    url.strip_prefix("http://").unwrap()
}

/// The flags of a member that registers somewhere.
fn registering(client: &str, peer: &str, discovery: &[String]) -> Vec<String> {
    let mut flags = vec![
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
    ];
    flags.extend(discovery.iter().cloned());
    flags
}

/// Starts three members and a fourth that comes too late, and uses them all.
fn found_by_token(folder: &Path, discovery: &[String]) {
    let start = |number: usize| {
        let (client, peer) = (free_url(), free_url());
        let flags = registering(&client, &peer, discovery);
        (Process::start(folder, &format!("m{number}"), &flags), client)
    };
    let members: Vec<(Process, String)> = (0..3).map(start).collect();
    let clients: Vec<&str> = members.iter().map(|(_, client)| client.as_str()).collect();
    wait_for("the members to find each other", || etcdctl(clients[0], &[], &["put", "k", "v"]).ok());
    for client in &clients {
        wait_for("each member", || etcdctl(client, &[], &["get", "k"]).ok().filter(|text| text == "k\nv\n"));
    }
    let list = etcdctl(clients[1], &[], &["member", "list"]).unwrap();
    assert_eq!(list.lines().count(), 3, "{list}");

    // A fourth passes clients on, or ends when it was told to.
    let (late, client) = start(3);
    wait_for("the one who came too late", || {
        etcdctl(&client, &[], &["get", "k"]).ok().filter(|text| text == "k\nv\n")
    });
    drop(late);
    let flags =
        [registering(&free_url(), &free_url(), discovery), vec!["--discovery-fallback=exit".to_owned()]];
    let mut exiting = Process::start(folder, "m4", &flags.concat());
    let status = wait_for("the end of another", || exiting.0.try_wait().unwrap());
    assert!(!status.success());
    let log = fs::read_to_string(folder.join("m4.log")).unwrap();
    assert_eq!(log.lines().last(), Some("etcd: discovery: cluster is full"), "{log}");
}

#[test]
fn members_find_each_other_by_a_token_of_the_v2_api() {
    let folder = tempfile::tempdir().unwrap();
    let registry = Cluster::start(1, &["--enable-v2=true"]);
    let url = &registry.members[0].client_url;
    let path = "/v2/keys/_etcd/registry/demo";
    let mut stream = TcpStream::connect(address(url)).unwrap();
    let request = format!(
        "PUT {path}/_config/size HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: \
         application/x-www-form-urlencoded\r\nContent-Length: 7\r\n\r\nvalue=3"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    found_by_token(folder.path(), &[format!("--discovery={url}{path}")]);
}

#[test]
fn members_find_each_other_by_a_token_of_the_v3_api() {
    let folder = tempfile::tempdir().unwrap();
    let registry = Cluster::start(1, &[]);
    let url = &registry.members[0].client_url;
    etcdctl(url, &[], &["put", "/_etcd/registry/demo/_config/size", "3"]).unwrap();
    let flags = ["--discovery-token=demo".to_owned(), format!("--discovery-endpoints={url}")];
    found_by_token(folder.path(), &flags);
}

#[test]
fn a_token_without_a_size_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let registry = Cluster::start(1, &[]);
    let url = &registry.members[0].client_url;
    let discovery = ["--discovery-token=none".to_owned(), format!("--discovery-endpoints={url}")];
    let mut member = Process::start(folder.path(), "m", &registering(&free_url(), &free_url(), &discovery));
    let status = wait_for("the refusal", || member.0.try_wait().unwrap());
    assert_eq!(status.code(), Some(1));
    let log = fs::read_to_string(folder.path().join("m.log")).unwrap();
    assert_eq!(
        log.lines().last(),
        Some("etcd: discovery: size key not found; set it at /_etcd/registry/none/_config/size"),
        "{log}"
    );
}

#[test]
fn a_member_is_set_up_by_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let (client, peer) = (free_url(), free_url());
    let data = folder.path().join("data");
    let file = folder.path().join("etcd.yml");
    let text = format!(
        "# a member\nname: 'filed'\ndata-dir: {}\nlisten-client-urls: {client}\nadvertise-client-urls: \
         {client}\nlisten-peer-urls: {peer}\ninitial-advertise-peer-urls: {peer}\ninitial-cluster: \
         \"filed={peer}\"\nlog-outputs: [stderr]\nclient-transport-security:\n  cert-file:\n",
        data.display()
    );
    fs::write(&file, &text).unwrap();
    let config = format!("--config-file={}", file.display());
    let member = spawn(folder.path(), "filed", std::slice::from_ref(&config));
    wait_for("the member", || etcdctl(&client, &[], &["put", "k", "v"]).ok());
    let list = etcdctl(&client, &[], &["member", "list"]).unwrap();
    assert!(list.contains(", filed, "), "{list}");
    assert!(data.join("identity").exists());
    drop(member);

    let refused = |text: &str, flags: &[String]| {
        fs::write(&file, text).unwrap();
        let words = [std::slice::from_ref(&config), flags].concat();
        let mut member = spawn(folder.path(), "refused", &words);
        let status = wait_for("the refusal", || member.0.try_wait().unwrap());
        assert_eq!(status.code(), Some(1));
        fs::read_to_string(folder.path().join("refused.log")).unwrap()
    };
    let path = file.display();
    #[rustfmt::skip]
    let rows = [
        ("name: a\nnonsense\n",             format!("etcd: {path}, line 2: give KEY: VALUE\n")),
        ("name: a\nnonsense: 1\n",          "etcd: unknown file key nonsense; etcd --help lists what there is\n".to_owned()),
        ("heartbeat-interval: soon\n",      "etcd: heartbeat-interval: bad value \"soon\": give a whole number from 1 up\n".to_owned()),
    ];
    for (text, want) in rows {
        assert_eq!(refused(text, &[]), want, "{text}");
    }
    // A flag is stronger than the file.
    let want = "etcd: --heartbeat-interval: bad value \"0\": give a whole number from 1 up\n";
    assert_eq!(refused("heartbeat-interval: 100\n", &["--heartbeat-interval=0".to_owned()]), want);
}

#[test]
fn a_gateway_and_a_proxy_pass_clients_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(3, &[]);
    let endpoints: Vec<String> = cluster.endpoints().iter().map(|url| address(url).to_owned()).collect();
    let gateway_url = free_url();
    let words = [
        "gateway".to_owned(),
        "start".to_owned(),
        format!("--endpoints={}", endpoints.join(",")),
        format!("--listen-addr={}", address(&gateway_url)),
    ];
    let _gateway = spawn(folder.path(), "gateway", &words);
    wait_for("the gateway", || etcdctl(&gateway_url, &[], &["put", "k", "v"]).ok());

    let proxy_url = free_url();
    let list = cluster.peer_list();
    let flags = [
        "--proxy=on".to_owned(),
        format!("--listen-client-urls={proxy_url}"),
        format!("--initial-cluster={list}"),
    ];
    let _proxy = Process::start(folder.path(), "proxy", &flags);
    wait_for("the proxy", || etcdctl(&proxy_url, &[], &["get", "k"]).ok().filter(|text| text == "k\nv\n"));
    // One member less, and nobody who asks through them notices for long.
    cluster.members[0].kill();
    for url in [&gateway_url, &proxy_url] {
        wait_for("the other members", || etcdctl(url, &[], &["put", "k", "w"]).ok());
    }
    assert!(!folder.path().join("proxy").exists(), "a proxy keeps nothing");
}
