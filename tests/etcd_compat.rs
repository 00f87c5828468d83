//! Debian's `etcdctl` 3.4, unmodified, and our own, against our members: the
//! same questions, the same answers.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod etcd;

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Output, Stdio};

use etcd::{Cluster, proa, wait_for};

/// A program that speaks etcdctl's language.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tool {
    Debian,
    Own,
}

struct Ctl<'a> {
    tool: Tool,
    cluster: &'a Cluster,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

impl Ctl<'_> {
    /// URLs, as in a member list; etcdctl 3.4 sends them whole as the `:authority`
    /// of its `endpoint` commands.
    fn endpoints(&self) -> String {
        self.cluster.endpoints().join(",")
    }

    fn command(&self, line: &str) -> Command {
        let mut command = match self.tool {
            Tool::Debian => Command::new("/usr/bin/etcdctl"),
            Tool::Own => Command::new(proa()),
        };
        if self.tool == Tool::Own {
            command.arg("etcdctl");
        }
        command
            .env("ETCDCTL_API", "3")
            .env("ETCDCTL_ENDPOINTS", self.endpoints())
            .args(["--dial-timeout=10s", "--command-timeout=30s"])
            .args(line.split(' '))
            .stdin(Stdio::null());
        command
    }

    fn run(&self, line: &str) -> Output {
        let output = self.command(line).output();
        output.unwrap_or_else(|error| panic!("/usr/bin/etcdctl: {error}; install the package etcd-client"))
    }

    /// What a command prints that must succeed.
    fn ok(&self, line: &str) -> String {
        let output = self.run(line);
        assert!(output.status.success(), "{:?} {line}: {}", self.tool, text(&output.stderr));
        text(&output.stdout)
    }

    fn check(&self, line: &str, want: &str) {
        assert_eq!(self.ok(line), want, "{:?} {line}", self.tool);
    }

    /// A command that must fail, with this in its last words.
    fn refused(&self, line: &str, want: &str) {
        let output = self.run(line);
        let error = text(&output.stderr);
        assert!(!output.status.success() && error.contains(want), "{:?} {line}: {error}", self.tool);
    }

    fn with_input(&self, line: &str, input: &str) -> String {
        let mut command = self.command(line);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{:?} {line}", self.tool);
        text(&output.stdout)
    }

    fn json(&self, line: &str) -> serde_json::Value {
        serde_json::from_str(&self.ok(&format!("{line} -w json"))).unwrap()
    }

    fn revision(&self) -> i64 {
        self.json("get nothing")["header"]["revision"].as_i64().unwrap()
    }
}

/// A command that runs on; killed when dropped.
struct Running {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn lines(&mut self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.lines.next().unwrap().unwrap()).collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn keys_and_values(ctl: &Ctl) {
    ctl.check("put /a/1 one", "OK\n");
    ctl.check("put /a/2 two", "OK\n");
    ctl.check("put /a/3 three", "OK\n");
    let old = ctl.revision();
    ctl.check("put /a/1 uno --prev-kv", "OK\n/a/1\none\n");
    ctl.check("get /a/1", "/a/1\nuno\n");
    ctl.check("get /a/1 --print-value-only", "uno\n");
    ctl.check(&format!("get /a/1 --rev {old}"), "/a/1\none\n");
    ctl.check("get /a/1 /a/3", "/a/1\nuno\n/a/2\ntwo\n");
    ctl.check("get /a/ --prefix --keys-only", "/a/1\n\n/a/2\n\n/a/3\n\n");
    ctl.check("get /a/ --prefix --limit 1 --order=DESCEND", "/a/3\nthree\n");
    ctl.check("get /a/ --prefix --sort-by=MODIFY --order=DESCEND --limit=1", "/a/1\nuno\n");
    ctl.check("get /a/2 --from-key --limit=2 --consistency=s", "/a/2\ntwo\n/a/3\nthree\n");
    ctl.check("get /missing", "");
    let answer = ctl.json("get /a/ --prefix --limit=2");
    assert_eq!((answer["count"].as_i64(), answer["more"].as_bool()), (Some(3), Some(true)));
    assert_eq!(answer["kvs"][0]["key"], "L2EvMQ==");
    assert!(answer["header"]["cluster_id"].is_u64() && answer["header"]["raft_term"].is_u64());
    ctl.check("del /a/1 --prev-kv", "1\n/a/1\nuno\n");
    ctl.check("del /a/ --prefix", "2\n");
    ctl.check("del /a/ --prefix", "0\n");
    ctl.refused("get /a/1 --rev 999999", "etcdserver: mvcc: required revision is a future revision");
}

fn transactions(ctl: &Ctl) {
    ctl.check("put t 1", "OK\n");
    let script = "val(\"t\") = \"1\"\n\nput t 2\nget t\n\nget t\ndel t\n\n";
    assert_eq!(ctl.with_input("txn", script), "SUCCESS\n\nOK\n\nt\n2\n");
    assert_eq!(ctl.with_input("txn", script), "FAILURE\n\nt\n2\n\n1\n");
    let fresh = "ver(\"t\") = \"0\"\nmod(\"t\") = \"0\"\n\nput t \"new one\"\n\n\n";
    assert_eq!(ctl.with_input("txn", fresh), "SUCCESS\n\nOK\n");
    ctl.check("get t --print-value-only", "new one\n");
}

fn watches(ctl: &Ctl) {
    ctl.ok("del w");
    ctl.check("put w 1", "OK\n");
    let from = ctl.revision();
    ctl.check("put w 2", "OK\n");
    ctl.check("del w", "1\n");
    let mut past = Running::start(ctl.command(&format!("watch w --rev {from} --prev-kv")));
    assert_eq!(past.lines(13), ["PUT", "w", "1", "PUT", "w", "1", "w", "2", "DELETE", "w", "2", "w", ""]);
    // The same stream goes on with what happens now.
    ctl.check("put w 3", "OK\n");
    assert_eq!(past.lines(3), ["PUT", "w", "3"]);
    let mut prefix = Running::start(ctl.command(&format!("watch p/ --prefix --rev {}", ctl.revision() + 1)));
    ctl.check("put q 0", "OK\n");
    ctl.check("put p/1 1", "OK\n");
    assert_eq!(prefix.lines(3), ["PUT", "p/1", "1"]);
}

fn leases(ctl: &Ctl) {
    let granted = ctl.ok("lease grant 300");
    let id = granted.split(' ').nth(1).unwrap().to_owned();
    assert_eq!(granted, format!("lease {id} granted with TTL(300s)\n"));
    ctl.check(&format!("put leased yes --lease={id}"), "OK\n");
    let left = ctl.ok(&format!("lease timetolive {id} --keys"));
    assert!(left.starts_with(&format!("lease {id} granted with TTL(300s), remaining(")), "{left}");
    assert!(left.ends_with("s), attached keys([leased])\n"), "{left}");
    let kept = format!("lease {id} keepalived with TTL(300)\n");
    ctl.check(&format!("lease keep-alive {id} --once"), &kept);
    assert!(ctl.ok("lease list").contains(&id));
    ctl.check(&format!("lease revoke {id}"), &format!("lease {id} revoked\n"));
    ctl.check("get leased", "");
    ctl.refused(&format!("lease revoke {id}"), "etcdserver: requested lease not found");
    ctl.refused("put k v --lease=1234", "etcdserver: requested lease not found");
    // One that nobody renews ends, and its key with it.
    let short = ctl.ok("lease grant 1").split(' ').nth(1).unwrap().to_owned();
    ctl.check(&format!("put fleeting yes --lease={short}"), "OK\n");
    wait_for("the lease to end", || ctl.ok("get fleeting").is_empty().then_some(()));
    ctl.check(&format!("lease timetolive {short}"), &format!("lease {short} already expired\n"));
}

fn cluster(ctl: &Ctl, size: usize) {
    let members = ctl.ok("member list");
    assert_eq!(members.lines().count(), size, "{members}");
    wait_for("members to be published", || {
        ctl.ok("member list").lines().all(|line| line.contains(", started, m")).then_some(())
    });
    let document = ctl.json("member list");
    assert_eq!(document["members"].as_array().unwrap().len(), size);
    // With `--cluster`, the URLs are those of the member list.
    for line in ["endpoint status", "endpoint status --cluster"] {
        let status = ctl.json(line);
        let rows = status.as_array().unwrap();
        let urls: BTreeSet<&str> = rows.iter().map(|one| one["Endpoint"].as_str().unwrap()).collect();
        let want: BTreeSet<&str> = ctl.cluster.members.iter().map(|one| one.client_url.as_str()).collect();
        assert_eq!(urls, want, "{:?} {line}", ctl.tool);
        let is_leader =
            |one: &&serde_json::Value| one["Status"]["leader"] == one["Status"]["header"]["member_id"];
        assert_eq!(rows.iter().filter(is_leader).count(), 1, "{status}");
    }
    let table = ctl.ok("endpoint status -w table");
    assert_eq!(table.lines().count(), 4 + size, "{table}");
    bare_endpoints(ctl, size);
    for line in ["endpoint health", "endpoint health --cluster"] {
        let health = ctl.run(line);
        let said = text(&health.stdout) + &text(&health.stderr);
        assert!(health.status.success(), "{:?} {line}: {said}", ctl.tool);
        for url in ctl.cluster.endpoints() {
            let want = format!("{url} is healthy: successfully committed proposal: took = ");
            assert_eq!(said.matches(&want).count(), 1, "{:?} {line}: {said}", ctl.tool);
        }
    }
    ctl.check("alarm list", "");
}

/// `HOST:PORT`, the form of etcdctl's own default.
fn bare_endpoints(ctl: &Ctl, size: usize) {
    let bare = ctl.endpoints().replace("http://", "");
    let output = ctl.command("endpoint status").env("ETCDCTL_ENDPOINTS", &bare).output().unwrap();
    assert!(output.status.success(), "{:?}: {}", ctl.tool, text(&output.stderr));
    assert_eq!(text(&output.stdout).lines().count(), size, "{:?}", ctl.tool);
}

fn compaction(ctl: &Ctl) {
    ctl.check("put c 1", "OK\n");
    let first = ctl.revision();
    ctl.check("put c 2", "OK\n");
    let second = ctl.revision();
    ctl.check(&format!("compaction {second}"), &format!("compacted revision {second}\n"));
    ctl.refused(&format!("get c --rev {first}"), "etcdserver: mvcc: required revision has been compacted");
    ctl.refused(&format!("watch c --rev {first}"), "etcdserver: mvcc: required revision has been compacted");
    ctl.refused(&format!("compaction {first}"), "etcdserver: mvcc: required revision has been compacted");
    ctl.check("get c", "c\n2\n");
}

fn all_of_it(size: usize) {
    let cluster_of = Cluster::start(size, &[]);
    for tool in [Tool::Debian, Tool::Own] {
        let ctl = Ctl { tool, cluster: &cluster_of };
        keys_and_values(&ctl);
        transactions(&ctl);
        watches(&ctl);
        leases(&ctl);
        cluster(&ctl, size);
        compaction(&ctl);
    }
}

#[test]
fn etcdctl_works_with_one_member() {
    all_of_it(1);
}

#[test]
fn etcdctl_works_with_three_members() {
    all_of_it(3);
}

#[test]
fn our_etcdctl_refuses_as_etcds_does() {
    let run = |line: &str| {
        let output = Command::new(proa()).arg("etcdctl").args(line.split(' ')).output().unwrap();
        (output.status.code(), text(&output.stderr))
    };
    #[rustfmt::skip]
    let rows = [
        ("foo",                     1,   "Error: unknown command \"foo\" for \"etcdctl\"; run 'etcdctl --help' for usage\n"),
        ("get",                     128, "Error: get command needs one argument as key and an optional argument as range_end\n"),
        ("get a --foo",             1,   "Error: unknown flag: --foo\n"),
        ("get a --order=FOO",       4,   "Error: bad sort order FOO\n"),
        ("get a --prefix --from-key", 128, "Error: `--prefix` and `--from-key` cannot be set at the same time, choose one\n"),
        ("get a --endpoints=ftp://x:1", 128, "Error: bad endpoint \"ftp://x:1\": give http://HOST:PORT, https://HOST:PORT or unix://SOCKET\n"),
        ("lease grant x",           128, "Error: bad TTL \"x\": give a number of seconds\n"),
    ];
    for (line, code, want) in rows {
        assert_eq!(run(line), (Some(code), want.to_owned()), "{line}");
    }
    let (code, error) = run("get a --endpoints=127.0.0.1:1");
    assert_eq!(code, Some(1));
    assert!(error.starts_with("Error: store unavailable: ") && error.lines().count() == 1, "{error}");
}
