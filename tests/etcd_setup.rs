//! The ways to set up a member: its file, a discovery token, a gateway, a proxy.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod etcd;
mod pki;
mod process;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd::{Cluster, PATIENCE, free_url, proa, quiet, runtime, wait_for};
use pki::Ca;
use proa_etcd_client::api::etcdserverpb::StatusRequest;
use proa_etcd_client::{Client, Timeouts, WatchItem};
use process::{Process, etcdctl, spawn};
use tokio_stream::StreamExt as _;

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
fn a_registry_that_asks_who_comes_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let registry = Cluster::start(1, &[]);
    let url = &registry.members[0].client_url;
    etcdctl(url, &[], &["put", "/_etcd/registry/demo/_config/size", "3"]).unwrap();
    for words in
        [&["user", "add", "root:secret"][..], &["user", "grant-role", "root", "root"], &["auth", "enable"]]
    {
        etcdctl(url, &[], words).unwrap();
    }
    let flags = ["--discovery-token=demo".to_owned(), format!("--discovery-endpoints={url}")];
    let who = ["--discovery-user=root".to_owned(), "--discovery-password=secret".to_owned()];
    found_by_token(folder.path(), &[&flags[..], &who].concat());
    // Both in one word, and wrong.
    let wrong = [&flags[..], &["--discovery-user=root:guess".to_owned()]].concat();
    let mut member = Process::start(folder.path(), "m", &registering(&free_url(), &free_url(), &wrong));
    let status = wait_for("the refusal", || member.0.try_wait().unwrap());
    assert_eq!(status.code(), Some(1));
    let log = fs::read_to_string(folder.path().join("m.log")).unwrap();
    let last = log.lines().last().unwrap_or_default();
    assert!(last.starts_with("etcd: discovery: ") && last.contains("invalid user ID or password"), "{log}");
}

/// An HTTP proxy that counts its connections: one that is told whom to ask, and
/// one that carries bytes.
fn http_proxy() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let used = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&used);
    std::thread::spawn(move || {
        for client in listener.incoming() {
            count.fetch_add(1, Ordering::Relaxed);
            std::thread::spawn(move || carry(client.unwrap()));
        }
    });
    (url, used)
}

/// One connection. Whatever breaks it, who asks will notice.
fn carry(mut client: TcpStream) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).ok()?;
        head.extend(byte);
    }
    let head = String::from_utf8(head).ok()?;
    let (method, rest) = head.split_once(' ')?;
    let mut server = if method == "CONNECT" {
        let server = TcpStream::connect(rest.split_once(' ')?.0).ok()?;
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").ok()?;
        server
    } else {
        let (at, path) = rest.strip_prefix("http://")?.split_once('/')?;
        let mut server = TcpStream::connect(at).ok()?;
        server.write_all(format!("{method} /{path}").as_bytes()).ok()?;
        server
    };
    let (mut from, mut to) = (client.try_clone().ok()?, server.try_clone().ok()?);
    std::thread::spawn(move || std::io::copy(&mut from, &mut to));
    std::io::copy(&mut server, &mut client).ok()?;
    client.shutdown(std::net::Shutdown::Both).ok()
}

#[test]
fn a_token_is_asked_for_through_a_proxy() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::new(folder.path(), "ca");
    let files = ca.sign("registry", 1);
    let (plain, encrypted) = (free_url(), free_url().replacen("http", "https", 1));
    let flags = [
        format!("--listen-client-urls={plain},{encrypted}"),
        format!("--advertise-client-urls={plain}"),
        format!("--listen-peer-urls={}", free_url()),
        format!("--cert-file={}", files.certificate.display()),
        format!("--key-file={}", files.key.display()),
    ];
    let _registry = Process::start(folder.path(), "registry", &flags);
    for (token, base) in [("plain", &plain), ("encrypted", &encrypted)] {
        let mut set = Command::new(proa());
        set.args(["etcdctl", "--endpoints", &plain, "--no-sync", "set"]).env("ETCDCTL_API", "2");
        set.args([&format!("/_etcd/registry/{token}/_config/size"), "1"]);
        wait_for("the registry", || set.output().unwrap().status.success().then_some(()));
        let (proxy, used) = http_proxy();
        let url = free_url();
        let flags = [
            format!("--discovery={base}/v2/keys/_etcd/registry/{token}"),
            format!("--discovery-proxy={proxy}"),
        ];
        let mut flags = registering(&url, &free_url(), &flags);
        flags.extend([
            format!("--name={token}"),
            format!("--data-dir={}", folder.path().join(token).display()),
        ]);
        let _member = Process(
            Command::new(proa())
                .arg("etcd")
                .args(&flags)
                .env_clear()
                .env("SSL_CERT_FILE", ca.path())
                .stderr(fs::File::create(folder.path().join(format!("{token}.log"))).unwrap())
                .spawn()
                .unwrap(),
        );
        wait_for("a member of its own", || etcdctl(&url, &[], &["put", "k", "v"]).ok());
        assert!(used.load(Ordering::Relaxed) >= 4, "each question goes through the proxy");
    }
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
    let told = UnixDatagram::bind(folder.path().join("notify")).unwrap();
    told.set_read_timeout(Some(PATIENCE)).unwrap();
    let log = fs::File::create(folder.path().join("gateway.log")).unwrap();
    let mut gateway = quiet(log);
    gateway.arg("etcd").args(&words).env("NOTIFY_SOCKET", folder.path().join("notify"));
    let _gateway = Process(gateway.spawn().unwrap());
    // A unit with Type=notify waits for this.
    let mut word = [0; 64];
    let length = told.recv(&mut word).unwrap();
    assert_eq!(&word[..length], b"READY=1");
    let said = fs::read_to_string(folder.path().join("gateway.log")).unwrap();
    assert!(said.contains("ready to proxy client requests"), "{said}");
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

#[test]
fn json_and_streams_are_as_switched() {
    let cluster = Cluster::start(1, &["--enable-grpc-gateway=false", "--max-concurrent-streams=1"]);
    let url = &cluster.members[0].client_url;
    let mut stream = TcpStream::connect(address(url)).unwrap();
    let request = "POST /v3/kv/range HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 15\r\n\r\n{\"key\":\"Zm9v\"}\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");

    // A watch takes the one place that its connection has; another has its own.
    let runtime = runtime();
    let _inside = runtime.enter();
    let timeouts = Timeouts { request: Duration::from_secs(1), ..Timeouts::default() };
    let client = || Client::with_timeouts(std::slice::from_ref(url), timeouts).unwrap();
    let one = client();
    let ask = |client: &Client| runtime.block_on(client.status(StatusRequest {})).is_ok();
    assert!(ask(&one));
    let mut watch = one.watch("k", "", 0);
    let begun = runtime.block_on(watch.next()).unwrap();
    assert!(matches!(begun, WatchItem::Begun { .. }), "{begun:?}");
    assert!(!ask(&one));
    assert!(ask(&client()));
}
