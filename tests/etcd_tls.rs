//! TLS from outside: who is let in, who is not, and what files changed below a
//! running member do.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod etcd;
mod pki;
mod process;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use etcd::{PATIENCE, free_url, wait_for};
use pki::Ca;
use proa_etcd_client::tls::{ClientTls, TlsFiles};
use process::{Process, etcdctl};

fn secure(url: &str) -> String {
    url.replace("http://", "https://")
}

fn flag(name: &str, value: impl AsRef<Path>) -> String {
    format!("--{name}={}", value.as_ref().display())
}

/// One member that wants certificates of `ca`.
fn guarded(folder: &Path, ca: &Ca, more: &[String]) -> (Process, String) {
    let (client, peer) = (secure(&free_url()), free_url());
    let server = ca.sign("server", 1);
    let mut flags = vec![
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=m0={peer}"),
        flag("cert-file", server.certificate),
        flag("key-file", server.key),
        flag("trusted-ca-file", ca.path()),
        "--client-cert-auth".to_owned(),
    ];
    flags.extend(more.iter().cloned());
    (Process::start(folder, "m0", &flags), client)
}

#[test]
fn only_those_with_a_good_certificate_are_let_in() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, other_ca) = (Ca::new(folder.path(), "ca"), Ca::new(folder.path(), "other"));
    let list = ca.revoke(&[]);
    let (_member, url) = guarded(folder.path(), &ca, &[flag("client-crl-file", list)]);
    let trust = flag("cacert", ca.path());
    let with = |files: &pki::Files| [vec![trust.clone()], files.flags().to_vec()].concat();
    let alice = ca.sign("alice", 2);
    let put = |flags: &[String]| etcdctl(&url, flags, &["put", "k", "v"]);
    wait_for("the member", || put(&with(&alice)).ok());

    let expired = ca.sign_until("expired", 3, SystemTime::now() - Duration::from_secs(3600));
    let stranger = other_ca.sign("alice", 2);
    #[rustfmt::skip]
    let refused = [
        ("expired",        with(&expired)),
        ("of another CA",  with(&stranger)),
        ("none",           vec![trust.clone()]),
        ("the server's CA is not trusted", [vec![flag("cacert", other_ca.path())], alice.flags().to_vec()].concat()),
    ];
    for (name, flags) in refused {
        assert!(put(&flags).is_err(), "{name}");
    }
    let log = fs::read_to_string(folder.path().join("m0.log")).unwrap();
    assert!(log.contains("rejected connection from 127.0.0.1:"), "{log}");
    assert_eq!(etcdctl(&url, &with(&alice), &["get", "k"]).unwrap(), "k\nv\n");
    let unasked = [vec!["--insecure-skip-tls-verify".to_owned()], alice.flags().to_vec()].concat();
    assert_eq!(etcdctl(&url, &unasked, &["get", "k"]).unwrap(), "k\nv\n");

    // Revoked below the running member.
    ca.revoke(&[2]);
    wait_for("the revocation", || put(&with(&alice)).err());
    let bob = ca.sign("bob", 4);
    put(&with(&bob)).unwrap();
}

#[test]
fn one_address_serves_both_schemes() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::new(folder.path(), "ca");
    let plain = free_url();
    let both = format!("{plain},{}", secure(&plain));
    let flags = [format!("--listen-client-urls={both}"), format!("--advertise-client-urls={both}")];
    let (_member, _) = guarded(folder.path(), &ca, &flags);
    wait_for("the member", || etcdctl(&plain, &[], &["put", "k", "v"]).ok());
    let alice = [vec![flag("cacert", ca.path())], ca.sign("alice", 2).flags().to_vec()].concat();
    assert_eq!(etcdctl(&secure(&plain), &alice, &["get", "k"]).unwrap(), "k\nv\n");
    // Who does speak TLS must still show a certificate.
    let stranger = [flag("cacert", ca.path())];
    assert!(etcdctl(&secure(&plain), &stranger, &["get", "k"]).is_err());
}

#[test]
fn a_certificate_is_replaced_below_a_running_member() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, next_ca) = (Ca::new(folder.path(), "ca"), Ca::new(folder.path(), "next"));
    let (_member, url) = guarded(folder.path(), &ca, &[]);
    let alice = ca.sign("alice", 2).flags().to_vec();
    let get =
        |ca: &Ca| etcdctl(&url, &[vec![flag("cacert", ca.path())], alice.clone()].concat(), &["get", "k"]);
    wait_for("the member", || get(&ca).ok());
    get(&next_ca).unwrap_err();
    let (now, next) = (folder.path().join("ca"), next_ca.sign("server", 9));
    // The certificate without its key does not count.
    fs::copy(&next.certificate, now.join("server.pem")).unwrap();
    std::thread::sleep(Duration::from_millis(1_100));
    get(&ca).unwrap();
    fs::copy(&next.key, now.join("server.key")).unwrap();
    wait_for("the new certificate", || get(&next_ca).ok());
}

#[test]
fn who_does_not_shake_hands_is_sent_away_and_stops_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::new(folder.path(), "ca");
    let (_member, url) = guarded(folder.path(), &ca, &[]);
    let flags = [vec![flag("cacert", ca.path())], ca.sign("alice", 2).flags().to_vec()].concat();
    wait_for("the member", || etcdctl(&url, &flags, &["put", "k", "v"]).ok());
    let address = url.strip_prefix("https://").unwrap();
    let connect = || {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    };

    let mut plain = connect();
    plain.write_all(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    // The connection may be reset behind the answer.
    let _ = plain.read_to_string(&mut answer);
    assert!(answer.contains("400 Bad Request"), "{answer}");
    assert!(answer.contains("Client sent an HTTP request to an HTTPS server."), "{answer}");

    // One that begins and goes on too slowly, and more silent ones than there are places.
    let mut slow = connect();
    slow.write_all(&[22]).unwrap();
    let crowd: Vec<TcpStream> = (0..700).map(|_| connect()).collect();
    let begun = Instant::now();
    etcdctl(&url, &flags, &["put", "k", "w"]).unwrap();
    let mut byte = [0];
    // Ended by a reset or by the end of what there is to read.
    assert_eq!(slow.read(&mut byte).unwrap_or(0), 0);
    assert!(begun.elapsed() < PATIENCE / 2, "it was let wait {:?}", begun.elapsed());
    drop(crowd);
    etcdctl(&url, &flags, &["put", "k", "x"]).unwrap();
}

/// Three members over `https` with `more` flags each, and their client URLs.
fn three(folder: &Path, more: impl Fn(usize) -> Vec<String>) -> (Vec<Process>, Vec<String>) {
    let peers: Vec<String> = (0..3).map(|_| secure(&free_url())).collect();
    let list: Vec<String> = peers.iter().enumerate().map(|(n, url)| format!("m{n}={url}")).collect();
    let clients: Vec<String> = (0..3).map(|_| secure(&free_url())).collect();
    let start = |number: usize| {
        let (peer, client) = (&peers[number], &clients[number]);
        let mut flags = vec![
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster={}", list.join(",")),
        ];
        flags.extend(more(number));
        Process::start(folder, &format!("m{number}"), &flags)
    };
    ((0..3).map(start).collect(), clients)
}

#[test]
fn members_with_certificates_of_their_own_form_a_cluster() {
    let folder = tempfile::tempdir().unwrap();
    let auto = vec!["--auto-tls".to_owned(), "--peer-auto-tls".to_owned()];
    let (_members, clients) = three(folder.path(), |_| auto.clone());
    let flags = ["--insecure-skip-tls-verify".to_owned()];
    wait_for("a cluster", || etcdctl(&clients[0], &flags, &["put", "k", "v"]).ok());
    for client in &clients {
        wait_for("each member", || {
            etcdctl(client, &flags, &["get", "k"]).ok().filter(|text| text == "k\nv\n")
        });
    }
    assert!(folder.path().join("m0/fixtures/client/cert.pem").exists());
    // Whoever trusts this very certificate needs not look away.
    let trust = flag("cacert", folder.path().join("m0/fixtures/client/cert.pem"));
    assert_eq!(etcdctl(&clients[0], &[trust], &["get", "k"]).unwrap(), "k\nv\n");
}

#[test]
fn a_member_with_the_wrong_name_is_kept_out() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::new(folder.path(), "ca");
    let flags = |number: usize| {
        // The third is of the same CA, under a name that is not allowed.
        let name = if number == 2 { "intruder" } else { "member" };
        let peer = ca.sign(name, 10 + number as u64);
        let copy = |path: &Path| {
            let copied = folder.path().join(format!("{number}-{}", path.file_name().unwrap().display()));
            fs::copy(path, &copied).unwrap();
            copied
        };
        vec![
            "--auto-tls".to_owned(),
            flag("peer-cert-file", copy(&peer.certificate)),
            flag("peer-key-file", copy(&peer.key)),
            flag("peer-trusted-ca-file", ca.path()),
            "--peer-client-cert-auth".to_owned(),
            "--peer-cert-allowed-cn=member".to_owned(),
        ]
    };
    let (mut members, clients) = three(folder.path(), flags);
    let skip = ["--insecure-skip-tls-verify".to_owned()];
    wait_for("two of three", || etcdctl(&clients[0], &skip, &["put", "k", "v"]).ok());
    wait_for("the other of the two", || etcdctl(&clients[1], &skip, &["get", "k"]).ok());
    // It hears the others, who dial it, and cannot answer: what it asks for times out.
    etcdctl(&clients[2], &skip, &["put", "k", "x"]).unwrap_err();
    // Both ends say why, in etcd's words.
    let log = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    let refusal = "client certificate authentication failed";
    assert!(log("m0.log").contains(refusal) || log("m1.log").contains(refusal));
    assert!(log("m2.log").contains("remote error: tls: bad certificate"), "{}", log("m2.log"));
    drop(members.remove(0));
    etcdctl(&clients[1], &skip, &["put", "k", "y"]).unwrap_err();
}

#[test]
fn certificates_that_are_their_own_ca_are_for_clients_members_and_peers() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, own) = Ca::alone(folder.path(), "own", |_| ());
    let peer = |name: &str, path: &Path| flag(&format!("peer-{name}"), path);
    let (_members, clients) = three(folder.path(), |_| {
        vec![
            flag("cert-file", &own.certificate),
            flag("key-file", &own.key),
            flag("trusted-ca-file", ca.path()),
            "--client-cert-auth".to_owned(),
            peer("cert-file", &own.certificate),
            peer("key-file", &own.key),
            peer("trusted-ca-file", &ca.path()),
            "--peer-client-cert-auth".to_owned(),
        ]
    });
    let trust = [vec![flag("cacert", ca.path())], own.flags().to_vec()].concat();
    wait_for("a cluster", || etcdctl(&clients[0], &trust, &["put", "k", "v"]).ok());
    wait_for("each member", || {
        etcdctl(&clients[2], &trust, &["get", "k"]).ok().filter(|got| got == "k\nv\n")
    });
    // Without a certificate, or with another one, it is as ever.
    etcdctl(&clients[0], &trust[..1], &["get", "k"]).unwrap_err();
    let (other_ca, other) = Ca::alone(folder.path(), "other", |_| ());
    let stranger = [vec![flag("cacert", ca.path())], other.flags().to_vec()].concat();
    etcdctl(&clients[0], &stranger, &["get", "k"]).unwrap_err();
    let elsewhere = [vec![flag("cacert", other_ca.path())], own.flags().to_vec()].concat();
    etcdctl(&clients[0], &elsewhere, &["get", "k"]).unwrap_err();
    // It is still a CA.
    let alice = [vec![flag("cacert", ca.path())], ca.sign("alice", 2).flags().to_vec()].concat();
    etcdctl(&clients[0], &alice, &["get", "k"]).unwrap();
}

#[test]
fn a_trusted_certificate_that_is_not_good_is_refused() {
    use rcgen::ExtendedKeyUsagePurpose::{Any, ClientAuth, ServerAuth};
    let folder = tempfile::tempdir().unwrap();
    let hour = Duration::from_secs(3600);
    let (good_ca, good) = Ca::alone(folder.path(), "good", |_| ());
    let (_, late) = Ca::alone(folder.path(), "late", |of| of.not_after = (SystemTime::now() - hour).into());
    let (_, early) =
        Ca::alone(folder.path(), "early", |of| of.not_before = (SystemTime::now() + hour).into());
    let (_, client) = Ca::alone(folder.path(), "client", |of| of.extended_key_usages = vec![ClientAuth]);
    let (_, server) = Ca::alone(folder.path(), "server", |of| of.extended_key_usages = vec![ServerAuth]);
    let (_, any) = Ca::alone(folder.path(), "any", |of| of.extended_key_usages = vec![Any]);
    let (_, host) = Ca::alone(folder.path(), "host", |of| of.subject_alt_names.clear());
    let (revoked_ca, revoked) = Ca::alone(folder.path(), "revoked", |_| ());
    // Certificate; whether it is taken from a member, from a client.
    #[rustfmt::skip]
    let rows = [
        ("good",           &good,    true,  true),
        ("expired",        &late,    false, false),
        ("not valid yet",  &early,   false, false),
        ("for clients",    &client,  false, true),
        ("for servers",    &server,  true,  false),
        ("for anything",   &any,     true,  true),
        ("of no host",     &host,    false, true),
        ("revoked",        &revoked, true,  false),
    ];
    let bundle = folder.path().join("all.pem");
    let every: Vec<u8> = rows.iter().flat_map(|row| fs::read(&row.1.certificate).unwrap()).collect();
    fs::write(&bundle, every).unwrap();
    let more = [flag("trusted-ca-file", &bundle), flag("client-crl-file", revoked_ca.revoke(&[1]))];
    // A member for each, all at once: starting takes longest.
    let members = rows.map(|(name, shown, ..)| {
        let own = [flag("cert-file", &shown.certificate), flag("key-file", &shown.key)];
        let home = folder.path().join(format!("member {name}"));
        fs::create_dir(&home).unwrap();
        guarded(&home, &good_ca, &[more.to_vec(), own.to_vec()].concat())
    });
    let get = |url: &str, trust: String, by: &pki::Files| {
        etcdctl(url, &[vec![trust], by.flags().to_vec()].concat(), &["get", "k"])
    };
    let trust = flag("cacert", &bundle);
    for ((name, shown, from_a_member, from_a_client), (_, url)) in rows.iter().zip(&members) {
        wait_for("the member", || get(url, "--insecure-skip-tls-verify".to_owned(), &good).ok());
        let answer = get(url, trust.clone(), &good);
        assert_eq!(answer.is_ok(), *from_a_member, "a member that is {name}: {answer:?}");
        let answer = get(&members[0].1, trust.clone(), shown);
        assert_eq!(answer.is_ok(), *from_a_client, "a client that is {name}: {answer:?}");
    }
}

/// One request over HTTP/1.1, under a certificate: its status and body.
fn post(url: &str, ca: &Ca, identity: &pki::Files, path: &str, headers: &str, body: &str) -> (u16, String) {
    let files = TlsFiles {
        trusted_ca: Some(ca.path()),
        identity: Some((identity.certificate.clone(), identity.key.clone())),
        ..TlsFiles::default()
    };
    let address = url.strip_prefix("https://").unwrap();
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut stream = ClientTls::new(files).unwrap().connect_blocking(address, stream.into()).unwrap();
    let length = body.len();
    write!(stream, "POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n").unwrap();
    write!(stream, "{headers}Content-Length: {length}\r\n\r\n{body}").unwrap();
    let mut answer = String::new();
    // The end of the connection may be told or not.
    let _ = stream.read_to_string(&mut answer);
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    (status.unwrap_or_else(|| panic!("no status in {answer:?}")), body.unwrap_or_default())
}

/// Who shows a certificate is the user of its common name, and nobody else;
/// through the JSON gateway it is nobody.
#[test]
fn the_name_of_a_certificate_is_a_user_but_not_at_the_gateway() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::new(folder.path(), "ca");
    let (_member, url) = guarded(folder.path(), &ca, &["--bcrypt-cost=4".to_owned()]);
    let [alice, bob, carol] = [("alice", 2), ("bob", 3), ("carol", 4)].map(|(name, n)| ca.sign(name, n));
    let run = |who: &pki::Files, words: &[&str]| {
        etcdctl(&url, &[vec![flag("cacert", ca.path())], who.flags().to_vec()].concat(), words)
    };
    wait_for("the member", || run(&alice, &["put", "other", "v"]).ok());
    // Alice may write one key, bob is a user without rights, carol is no user.
    #[rustfmt::skip]
    let rows: [&[&str]; 8] = [
        &["user", "add", "root:rp"],
        &["user", "grant-role", "root", "root"],
        &["user", "add", "alice", "--no-password"],
        &["user", "add", "bob", "--no-password"],
        &["role", "add", "writer"],
        &["role", "grant-permission", "writer", "readwrite", "mine"],
        &["user", "grant-role", "alice", "writer"],
        &["auth", "enable"],
    ];
    for words in rows {
        run(&carol, words).unwrap_or_else(|error| panic!("{words:?}: {error}"));
    }
    assert_eq!(run(&alice, &["put", "mine", "1"]).unwrap(), "OK\n");
    assert_eq!(run(&alice, &["get", "mine"]).unwrap(), "mine\n1\n");
    let as_root = ["--user=root:rp", "put", "other", "2"];
    assert_eq!(run(&alice, &as_root).unwrap(), "OK\n", "a login counts for more than a name");
    #[rustfmt::skip]
    let refused: [(&pki::Files, &[&str]); 6] = [
        (&alice, &["put", "other", "3"]),
        (&alice, &["get", "other"]),
        (&alice, &["user", "list"]),
        (&bob,   &["put", "mine", "3"]),
        (&bob,   &["get", "mine"]),
        (&carol, &["put", "mine", "3"]),
    ];
    for (who, words) in refused {
        let error = run(who, words).unwrap_err();
        assert!(error.contains("permission denied"), "{} {words:?}: {error}", who.certificate.display());
    }

    // "mine" and "4" in base64.
    let put = r#"{"key":"bWluZQ==","value":"NA=="}"#;
    let gateway = |who: &pki::Files, headers: &str| post(&url, &ca, who, "/v3/kv/put", headers, put);
    for who in [&alice, &bob, &carol] {
        let (status, body) = gateway(who, "");
        assert_eq!(status, 400, "{body}");
        assert!(body.contains("etcdserver: user name is empty"), "{body}");
    }
    let login = r#"{"name":"root","password":"rp"}"#;
    let (status, body) = post(&url, &ca, &bob, "/v3/auth/authenticate", "", login);
    assert_eq!(status, 200, "{body}");
    let token = body.split(r#""token":""#).nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    let (status, body) = gateway(&bob, &format!("Authorization: {token}\r\n"));
    assert_eq!(status, 200, "{body}");
    assert_eq!(run(&alice, &["get", "mine"]).unwrap(), "mine\n4\n");
}
