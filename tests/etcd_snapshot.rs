//! Snapshots between Proa and the real etcd, 3.4 and 3.5, in both directions:
//! what one saved the other restores, and serves the same.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod etcd;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use etcd::{free_url, proa, wait_for};
use serde_json::Value;

/// Who made a program.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Make {
    Proa,
    /// Debian's, unpacked by `buildroot/peers.sh`.
    Debian(PathBuf),
}

impl Make {
    fn debian(version: &str) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/buildroot/peers.sh");
        let output = Command::new(script).stderr(Stdio::inherit()).output().unwrap();
        assert!(output.status.success(), "{script} failed");
        let listed = String::from_utf8(output.stdout).unwrap();
        let folder = listed.lines().find_map(|line| line.strip_prefix(version)).map(str::trim);
        Self::Debian(folder.unwrap().into())
    }

    fn command(&self, name: &str) -> Command {
        match self {
            Self::Proa => {
                let mut command = Command::new(proa());
                command.arg(name);
                command
            }
            Self::Debian(folder) => Command::new(folder.join("usr/bin").join(name)),
        }
    }

    /// `etcdctl`, its words apart by blanks, without a server.
    fn ctl(&self, line: &str) -> Output {
        self.command("etcdctl").env("ETCDCTL_API", "3").args(line.split(' ')).output().unwrap()
    }

    fn ctl_ok(&self, line: &str) -> String {
        let output = self.ctl(line);
        assert!(output.status.success(), "{self:?} {line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

/// A member by itself; killed when dropped.
struct Server {
    make: Make,
    url: String,
    child: Child,
}

const PEER: &str = "http://127.0.0.1:1";

impl Server {
    /// Starts what lives in `dir`, or somebody new.
    fn start(make: &Make, dir: &Path) -> Self {
        let (url, listen) = (free_url(), free_url());
        let log = std::fs::File::create(dir.with_extension("log")).unwrap();
        let child = make
            .command("etcd")
            .args(["--name=m0", &format!("--data-dir={}", dir.display())])
            .args([format!("--listen-client-urls={url}"), format!("--advertise-client-urls={url}")])
            .args([format!("--listen-peer-urls={listen}"), format!("--initial-advertise-peer-urls={PEER}")])
            .args([format!("--initial-cluster=m0={PEER}"), "--enable-v2=true".to_owned()])
            .env_clear()
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let server = Self { make: make.clone(), url, child };
        wait_for("a member that serves", || {
            let line = format!("--endpoints={} --user=root:pw get x", server.url);
            let bare = format!("--endpoints={} get x", server.url);
            let serves = |line: &str| Make::Proa.ctl(line).status.success();
            (serves(&bare) || serves(&line)).then_some(())
        });
        // The v2 etcdctl goes where the member list says.
        wait_for("a member that has said its URL", || {
            server.ok("member list").contains(&server.url).then_some(())
        });
        server
    }

    fn ok(&self, line: &str) -> String {
        Make::Proa.ctl_ok(&format!("--endpoints={} {line}", self.url))
    }

    fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.ok(&format!("{line} -w json"))).unwrap()
    }

    /// Lives: keys with a past, a lease, users.
    fn live(&self) {
        for number in 0..400 {
            self.ok(&format!("put key{} value{number}", number % 150));
        }
        self.ok("del key3");
        self.ok(&format!("put big {}", "x".repeat(20_000)));
        let lease = self.json("lease grant 7200")["ID"].as_u64().unwrap();
        self.ok(&format!("put leased yes --lease={lease:x}"));
        self.ok("compaction 200");
        self.ok("del key4");
        self.ok("role add reader");
        self.ok("role grant-permission reader read key1 key2");
        self.ok("user add root:pw");
        self.ok("user add anna:secret");
        self.ok("user grant-role anna reader");
        self.ok("role add root");
        self.ok("user grant-role root root");
    }

    /// All that is to be the same, without who answers.
    fn state(&self) -> Vec<Value> {
        let lease = self.json("lease list")["leases"][0]["id"].as_i64().unwrap();
        let lines = [
            "get k --from-key".to_owned(),
            "get big".to_owned(),
            "get key --prefix --rev=250".to_owned(),
            "get key --prefix --keys-only --rev=401".to_owned(),
            "user list".to_owned(),
            "user get anna".to_owned(),
            "role get reader".to_owned(),
            "lease list".to_owned(),
            format!("lease timetolive {lease:x} --keys"),
        ];
        lines.iter().map(|line| self.json(line)).map(without_who).collect()
    }

    fn revision(&self) -> i64 {
        self.json("get nothing")["header"]["revision"].as_i64().unwrap()
    }
}

fn without_who(mut answer: Value) -> Value {
    let fields = answer.as_object_mut().unwrap();
    let revision = fields.get("header").map(|header| header["revision"].clone());
    fields.insert("header".to_owned(), revision.unwrap_or_default());
    // It goes on ageing.
    fields.remove("ttl");
    answer
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn restored(make: &Make, file: &Path, dir: &Path, more: &str) -> Server {
    let line = format!(
        "snapshot restore {} --data-dir={} --name=m0 --initial-cluster=m0={PEER} --initial-advertise-peer-urls={PEER}{more}",
        file.display(),
        dir.display()
    );
    make.ctl_ok(&line);
    Server::start(make, dir)
}

/// One life in `from`, saved by each etcdctl, restored by and started in each server.
fn travels(from: &Make, saved_by: &[Make], restored_by: &[Make]) {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(from, &folder.path().join("from"));
    server.live();
    let state = server.state();
    for (number, tool) in saved_by.iter().enumerate() {
        let file = folder.path().join(format!("{number}.db"));
        tool.ctl_ok(&format!("--endpoints={} snapshot save {}", server.url, file.display()));
        let status = format!("snapshot status {} -w json", file.display());
        let statuses: Vec<Value> =
            saved_by.iter().map(|tool| serde_json::from_str(&tool.ctl_ok(&status)).unwrap()).collect();
        assert!(statuses.iter().all(|status| *status == statuses[0]), "{saved_by:?} differ: {statuses:?}");
        assert_eq!(statuses[0]["revision"].as_i64(), Some(server.revision()));
    }
    for (number, make) in restored_by.iter().enumerate() {
        let dir = folder.path().join(format!("to{number}"));
        let exact = if *make == Make::Proa { " --bump-revision=0" } else { "" };
        let copy = restored(make, &folder.path().join("0.db"), &dir, exact);
        for (found, want) in copy.state().iter().zip(&state) {
            assert_eq!(found, want, "from {from:?} to {:?}", copy.make);
        }
        // It is a whole member: it takes writes, and logins once they are asked for.
        copy.ok("put after the-restore");
        assert_eq!(copy.revision(), state[0]["header"].as_i64().unwrap() + 1);
        copy.ok("auth enable");
        let login = "--user=anna:secret get key1";
        wait_for("a login", || {
            Make::Proa.ctl(&format!("--endpoints={} {login}", copy.url)).status.success().then_some(())
        });
    }
}

#[test]
fn what_proa_saved_real_etcd_serves() {
    let all = [Make::Proa, Make::debian("3.4"), Make::debian("3.5")];
    travels(&Make::Proa, &all, &all);
}

#[test]
fn what_etcd_3_4_saved_proa_serves() {
    travels(&Make::debian("3.4"), &[Make::debian("3.4"), Make::Proa], &[Make::Proa]);
}

#[test]
fn what_etcd_3_5_saved_proa_serves() {
    travels(&Make::debian("3.5"), &[Make::Proa, Make::debian("3.5")], &[Make::Proa]);
}

#[test]
fn a_restored_store_is_past_every_watcher_and_has_the_v2_tree() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("s.db");
    let server = Server::start(&Make::Proa, &folder.path().join("from"));
    let v2 = |server: &Server, line: &str| {
        let mut command = Make::Proa.command("etcdctl");
        command.env("ETCDCTL_API", "2").arg(format!("--endpoints={}", server.url)).args(line.split(' '));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    server.ok("put a 1");
    v2(&server, "set /dir/file content");
    server.ok(&format!("snapshot save {}", file.display()));
    let before = server.revision();
    let copy = restored(&Make::Proa, &file, &folder.path().join("to"), "");
    assert_eq!(copy.revision(), before + 1_000_000_000);
    assert_eq!(copy.ok("get a"), "a\n1\n");
    assert_eq!(v2(&copy, "get /dir/file"), "content\n");
    let late = Make::Proa.ctl(&format!("--endpoints={} get a --rev={before}", copy.url));
    let text = String::from_utf8_lossy(&late.stderr).into_owned();
    assert!(text.contains("required revision has been compacted"), "{text}");
}

#[test]
fn bad_snapshots_are_refused_and_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let server = Server::start(&Make::Proa, &at("from"));
    server.ok("put a 1");
    server.ok(&format!("snapshot save {}", at("good.db").display()));
    let good = std::fs::read(at("good.db")).unwrap();
    let mut changed = good.clone();
    changed[9000] ^= 1;
    std::fs::write(at("changed.db"), changed).unwrap();
    std::fs::write(at("bare.db"), &good[..good.len() - 32]).unwrap();
    std::fs::write(at("cut.db"), &good[..8192 + 32]).unwrap();
    std::fs::write(at("text.db"), "hello").unwrap();
    std::fs::create_dir(at("full")).unwrap();
    std::fs::write(at("full/file"), "").unwrap();
    #[rustfmt::skip]
    let rows = [
        ("changed.db", "to",   "",                  "expected sha256"),
        ("bare.db",    "to",   "",                  "snapshot missing hash but --skip-hash-check=false"),
        ("cut.db",     "to",   "--skip-hash-check", "the file ends before it"),
        ("text.db",    "to",   "--skip-hash-check", "the file is no bbolt database"),
        ("missing.db", "to",   "",                  "No such file"),
        ("good.db",    "full", "",                  "not empty or could not be read"),
        ("good.db",    "to",   "--name=other",      "couldn't find local name"),
    ];
    for (file, dir, more, want) in rows {
        let line = format!("snapshot restore {} --data-dir={} {more}", at(file).display(), at(dir).display());
        let output = Make::Proa.ctl(line.trim_end());
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(want), "{file} {more}: {text}");
        assert!(!at("to").exists() && !at("to.part").exists(), "{file}");
    }
    let line = format!(
        "snapshot restore {} --data-dir={} --skip-hash-check",
        at("bare.db").display(),
        at("to").display()
    );
    Make::Proa.ctl_ok(&line);
    let two = Make::Proa.ctl("--endpoints=a:1,b:1 snapshot save x");
    assert!(String::from_utf8_lossy(&two.stderr).contains("one selected node"));
}
