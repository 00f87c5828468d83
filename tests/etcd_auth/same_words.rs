//! The same command lines to Debian's etcd and to ours, by Debian's etcdctl and
//! by ours: the same words come back.

use std::process::{Command, Stdio};

use crate::FAST;
use crate::etcd::{Cluster, PATIENCE, free_url, proa, wait_for};

/// Debian's etcd 3.4, a process; killed when dropped.
struct Debian {
    child: std::process::Child,
    url: String,
    _folder: tempfile::TempDir,
}

impl Debian {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (url, peer) = (free_url(), free_url());
        let child = Command::new("/usr/bin/etcd")
            .arg(format!("--data-dir={}", folder.path().join("d").display()))
            .arg(format!("--listen-client-urls={url}"))
            .arg(format!("--advertise-client-urls={url}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster=default={peer}"))
            .arg(FAST)
            .env_clear()
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("/usr/bin/etcd: {error}; install the package etcd-server"));
        let debian = Self { child, url, _folder: folder };
        wait_for("Debian's etcd", || {
            let said = run(Tool::Debian, &debian.url, "endpoint health");
            said.contains("is healthy").then_some(())
        });
        debian
    }
}

impl Drop for Debian {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tool {
    Debian,
    Own,
}

/// What a command line says, on both streams, and whether it succeeds.
fn run(tool: Tool, url: &str, line: &str) -> String {
    let mut command = match tool {
        Tool::Debian => Command::new("/usr/bin/etcdctl"),
        Tool::Own => Command::new(proa()),
    };
    if tool == Tool::Own {
        command.arg("etcdctl");
    }
    let patience = format!("--command-timeout={}s", PATIENCE.as_secs());
    // `''` is an argument that is empty.
    let words = line.split(' ').map(|word| if word == "''" { "" } else { word });
    let output = command
        .env_clear()
        .env("ETCDCTL_API", "3")
        .env("ETCDCTL_ENDPOINTS", url)
        .args(["--dial-timeout=10s", &patience])
        .args(words)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{tool:?}: {error}; install the package etcd-client"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    // Go's client logs each refusal before etcdctl says it.
    let errors: String = text(&output.stderr)
        .lines()
        .filter(|line| !line.starts_with('{'))
        .map(|line| format!("{line}\n"))
        .collect();
    let ending = if output.status.success() { "ok" } else { "failed" };
    without_ids(&format!("{}{errors}=> {ending}", text(&output.stdout)))
}

/// The same text without what is different in every cluster.
fn without_ids(text: &str) -> String {
    let mut out = text.to_owned();
    for field in [
        "\"cluster_id\":",
        "\"member_id\":",
        "\"raft_term\":",
        "\"ClusterID\" : ",
        "\"MemberID\" : ",
        "\"RaftTerm\" : ",
    ] {
        let mut rest = out.as_str();
        let mut clean = String::new();
        while let Some(place) = rest.find(field) {
            clean += &rest[..place + field.len()];
            clean.push('0');
            rest = rest[place + field.len()..].trim_start_matches(|c: char| c.is_ascii_digit());
        }
        out = clean + rest;
    }
    out
}

/// One after another, with the state that those before have left.
const LINES: &[&str] = &[
    "auth enable",
    "user add root:rp",
    "user add root:rp",
    "role grant-permission x read k",
    "role add r",
    "role add r",
    "role grant-permission r read k",
    "role grant-permission r write k",
    "role grant-permission r readwrite /a --prefix",
    "role grant-permission r read b c",
    "role grant-permission r readwrite m --from-key",
    "role grant-permission r read '' --prefix",
    "role grant-permission r read k --prefix --from-key",
    "role grant-permission r read k z --prefix",
    "role grant-permission r read k z --from-key",
    "role grant-permission r",
    "role get r",
    "role get r -w json",
    "role get r -w fields",
    "role get x",
    "role list",
    "role list -w json",
    "role list -w fields",
    "role revoke-permission r zz",
    "role revoke-permission r k",
    "role revoke-permission r /a --prefix",
    "role revoke-permission r m --from-key",
    "role revoke-permission r b c",
    "role revoke-permission r '' --prefix",
    "role revoke-permission r",
    "role get r",
    "role grant-permission r read k",
    "user add u:up",
    "user add v --new-user-password=vp",
    "user add nopw --no-password",
    "user grant-role u r",
    "user grant-role u r",
    "user grant-role u r -w json",
    "user grant-role u r -w fields",
    "user grant-role u x",
    "user grant-role x r",
    "user grant-role u",
    "user get u",
    "user get u --detail",
    "user get u -w json",
    "user get u -w fields",
    "user list -w fields",
    "role get r -w table",
    "user grant-role u r -w table",
    "user get x",
    "user list",
    "user list -w json",
    "user list x",
    "user revoke-role u x",
    "user revoke-role u r",
    "user revoke-role u",
    "user grant-role u r",
    "user passwd v --interactive=false",
    "user passwd x --interactive=false",
    "auth enable x",
    "auth enable",
    "auth enable",
    "put k v",
    "get k",
    "--user u:up put k v",
    "--user u:wrong put k v",
    "--user nobody:up put k v",
    "--user nopw: put k v",
    "--user root:rp put k v",
    "--user root --password rp put k v",
    "--user root:rp --password rp get k",
    "--user u:up get k",
    "--user u:up get k l",
    "--user u:up watch k --rev 1 l",
    "--user root:rp role grant-permission r readwrite k",
    "--user u:up get k",
    "--user u:up put k w",
    "--user u:up put k w --prev-kv",
    "--user u:up put l w",
    "--user u:up del k",
    "--user u:up user list",
    "--user u:up user get u",
    "--user u:up user get root",
    "--user u:up role get r",
    "--user u:up role get root",
    "--user u:up role list",
    "--user u:up user add y:z",
    "--user root:rp user delete root",
    "--user root:rp user revoke-role root root",
    "--user root:rp role delete root",
    "--user root:rp role delete r",
    "--user root:rp role delete r",
    "--user root:rp user get u",
    "--user u:up get k",
    "--user u:up auth disable",
    "--user u:up member add x --peer-urls=http://127.0.0.1:1",
    "auth disable",
    "--user root:rp auth disable",
    "get k",
    "user delete u",
    "user delete u",
    "user delete",
    "role add",
    "role delete",
    "role get",
    "user get",
];

#[test]
fn etcdctl_hears_the_same_from_debians_etcd_and_from_ours() {
    let debian = Debian::start();
    let want: Vec<String> = LINES.iter().map(|line| run(Tool::Debian, &debian.url, line)).collect();
    for tool in [Tool::Debian, Tool::Own] {
        let cluster = Cluster::start(1, &[FAST]);
        let url = &cluster.members[0].client_url;
        let mut differences = String::new();
        for (line, want) in LINES.iter().zip(&want) {
            let got = run(tool, url, line);
            if got != *want {
                differences += &format!("$ {line}\n{got}\ninstead of\n{want}\n\n");
            }
        }
        assert!(differences.is_empty(), "{tool:?}:\n{differences}");
    }
}
