//! `etcdctl` at clusters that speak TLS and ask who comes: the v2 commands, and
//! mirrors, whose destination is another cluster.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod etcd;
mod pki;
mod process;

use std::path::Path;
use std::process::{Command, Stdio};

use etcd::{Cluster, free_url, proa, wait_for};
use pki::{Ca, Files};
use process::{Process, etcdctl};

/// A member whose clients must show a certificate of `ca`; it and its URL.
fn encrypted(folder: &Path, ca: &Ca) -> (Process, String) {
    let url = free_url().replacen("http", "https", 1);
    let Files { certificate, key } = ca.sign("server", 1);
    let flags = [
        format!("--listen-client-urls={url}"),
        format!("--advertise-client-urls={url}"),
        format!("--listen-peer-urls={}", free_url()),
        format!("--cert-file={}", certificate.display()),
        format!("--key-file={}", key.display()),
        format!("--trusted-ca-file={}", ca.path().display()),
        "--client-cert-auth".to_owned(),
        "--enable-v2=true".to_owned(),
    ];
    (Process::start(folder, "encrypted", &flags), url)
}

/// The exit status of a v2 command and what it printed.
fn v2(endpoint: &str, flags: &[String], words: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(proa());
    command.args(["etcdctl", "--endpoints", endpoint]).args(flags).args(words);
    let output = command.env_clear().env("ETCDCTL_API", "2").output().unwrap();
    let text = if output.status.success() { output.stdout } else { output.stderr };
    (output.status.code(), String::from_utf8(text).unwrap())
}

#[test]
fn the_v2_commands_speak_tls() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::new(folder.path(), "ca");
    let (_member, url) = encrypted(folder.path(), &ca);
    let Files { certificate, key } = ca.sign("client", 2);
    let flags = [
        format!("--ca-file={}", ca.path().display()),
        format!("--cert-file={}", certificate.display()),
        format!("--key-file={}", key.display()),
    ];
    wait_for("the member", || (v2(&url, &flags, &["set", "k", "v"]).0 == Some(0)).then_some(()));
    assert_eq!(v2(&url, &flags, &["get", "k"]), (Some(0), "v\n".to_owned()));
    let (status, health) = v2(&url, &flags, &["cluster-health"]);
    assert!(status == Some(0) && health.ends_with("cluster is healthy\n"), "{health}");
    // Without a certificate, and without the CA, nobody is heard.
    let (status, error) = v2(&url, &flags[..1], &["get", "k"]);
    assert!(status != Some(0), "{error}");
    let (status, error) = v2(&url, &flags[1..], &["get", "k"]);
    assert!(status != Some(0) && error.contains("certificate"), "{error}");
    let (status, error) = v2(&url, &flags[1..2], &["get", "k"]);
    assert_eq!((status, error.as_str()), (Some(1), "--cert-file and --key-file: give both or neither\n"));
}

#[test]
fn a_mirror_tells_each_cluster_what_is_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::new(folder.path(), "ca");
    let source = Cluster::start(1, &[]);
    let from = &source.members[0].client_url;
    etcdctl(from, &[], &["put", "k", "v"]).unwrap();
    let (_member, to) = encrypted(folder.path(), &ca);
    let client = ca.sign("client", 2);
    let [cert, key] = client.flags();
    let known = [format!("--cacert={}", ca.path().display()), cert, key];
    let root = [&known[..], &["--user=root:secret".to_owned()]].concat();
    wait_for("the destination", || etcdctl(&to, &known, &["user", "add", "root:secret"]).ok());
    etcdctl(&to, &known, &["user", "grant-role", "root", "root"]).unwrap();
    etcdctl(&to, &known, &["auth", "enable"]).unwrap();

    let mirror = |flags: &[String]| {
        let mut command = Command::new(proa());
        command.args(["etcdctl", "--endpoints", from, "make-mirror", &to]).args(flags).env_clear();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let dest: Vec<String> = root.iter().map(|flag| flag.replacen("--", "--dest-", 1)).collect();
    let running = Process(mirror(&dest));
    wait_for("the mirrored key", || etcdctl(&to, &root, &["get", "k"]).ok().filter(|text| text == "k\nv\n"));
    drop(running);
    // What the source is told is no business of the destination: it has no login.
    let refused =
        mirror(&[&dest[..3], &["--user=root:secret".to_owned()]].concat()).wait_with_output().unwrap();
    let error = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success(), "{error}");
}
