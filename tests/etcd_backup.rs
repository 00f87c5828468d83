//! `ETCDCTL_API=2 etcdctl backup`, and `etcd --force-new-cluster`, which starts what it made.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod etcd;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use etcd::{Cluster, Member, free_url, proa, wait_for};

fn etcdctl(api: &str, words: &[&str]) -> Output {
    Command::new(proa()).arg("etcdctl").args(words).env_clear().env("ETCDCTL_API", api).output().unwrap()
}

fn ok(api: &str, url: &str, line: &str) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    let output = etcdctl(api, &[&["--endpoints", url], words.as_slice()].concat());
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs `backup`; the line that it says on stderr, if it refuses.
fn backup(data_dir: &Path, backup_dir: &Path, more: &[&str]) -> Result<(), String> {
    let (data_dir, backup_dir) = (data_dir.to_str().unwrap(), backup_dir.to_str().unwrap());
    let words = ["backup", "--data-dir", data_dir, "--backup-dir", backup_dir];
    let output = etcdctl("2", &[words.as_slice(), more].concat());
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!((text.lines().count(), output.stdout.len()), (1, 0), "{text}");
    Err(text.trim_end().to_owned())
}

/// Every file below a folder, with its bytes.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for item in fs::read_dir(folder).unwrap() {
        let path = item.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => drop(found.insert(path.clone(), fs::read(path).unwrap())),
        }
    }
    found
}

/// Starts the data dir `folder`/`name` with the flags of somebody new, and waits until it serves.
fn start(folder: &Path, name: &str, flags: &[&str]) -> Member {
    let peer = free_url();
    let mut member = Member::new(folder, name, &peer, &format!("{name}={peer}"), flags);
    start_alone(&mut member);
    member
}

fn start_alone(member: &mut Member) {
    start_serving(member);
    assert_eq!(ok("3", &member.client_url, "member list").lines().count(), 1);
}

fn start_serving(member: &mut Member) {
    member.start();
    wait_for("a member that says where it serves", || {
        assert!(member.ended().is_none(), "{}", member.stderr());
        let listed = etcdctl("3", &["--endpoints", &member.client_url, "member", "list"]);
        String::from_utf8(listed.stdout).unwrap().contains(&member.client_url).then_some(())
    });
}

/// All that is in the v2 tree and its indexes, and all v3 keys with their revisions.
fn state(url: &str) -> [String; 2] {
    let keys = ok("3", url, "get --from-key a -w json");
    let keys = keys.find("\"kvs\"").map_or(String::new(), |at| keys[at..].to_owned());
    [ok("2", url, "-o json get /v2/a") + &ok("2", url, "-o extended ls -r -p /"), keys]
}

#[test]
fn a_backup_starts_as_what_was_copied() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start_in(folder.path(), 3, &[]);
    let url = cluster.members[0].client_url.clone();
    let data_dir = cluster.members[0].data_dir.clone();
    for number in 0..30 {
        ok("3", &url, &format!("put key{number} old"));
    }
    let lease = ok("3", &url, "lease grant 7200");
    let lease = lease.split(' ').nth(1).unwrap();
    ok("3", &url, &format!("put leased yes --lease={lease}"));
    // A slash at the end is what completion of file names leaves.
    let running = folder.path().join("running/");
    let refused = backup(&data_dir, &running, &["--with-v3"]).unwrap_err();
    assert!(refused.contains("runs; stop it first"), "{refused}");
    assert!(!running.exists() && !folder.path().join("running.part").exists());
    ok("2", &url, "set /v2/a answered");
    backup(&data_dir, &running, &[]).unwrap();
    let [then, _] = state(&url);
    ok("2", &url, "set /v2/b later");
    ok("3", &url, "del key7");
    let now = state(&url);
    cluster.members.iter_mut().for_each(Member::kill);

    let before = files(&data_dir);
    let stopped = folder.path().join("stopped");
    backup(&data_dir, &stopped, &["--with-v3"]).unwrap();
    assert!(before == files(&data_dir), "the source has changed");

    // By its own flags alone: whoever started it so would be in nobody's cluster.
    let peer = free_url();
    let mut plain = Member::new(folder.path(), "stopped", &peer, &format!("stopped={peer}"), &[]);
    plain.start();
    wait_for("the end of a member without an address", || plain.ended());
    assert!(plain.stderr().contains("start it with --force-new-cluster"), "{}", plain.stderr());
    drop(plain);

    let with_v2 = start(folder.path(), "running", &["--force-new-cluster"]);
    assert_eq!(state(&with_v2.client_url), [then, String::new()]);
    let mut with_v3 = start(folder.path(), "stopped", &["--force-new-cluster"]);
    assert_eq!(state(&with_v3.client_url), now);
    ok("3", &with_v3.client_url, "put more yes");
    ok("3", &with_v3.client_url, &format!("lease timetolive {lease}"));
    with_v3.kill();
    with_v3.add_flags(&["--force-new-cluster=false"]);
    start_alone(&mut with_v3);
    assert_eq!(ok("3", &with_v3.client_url, "get more"), "more\nyes\n");
    assert_eq!(identity(&stopped).intersection(&identity(&data_dir)).count(), 0);

    // The member itself may go on alone too, as who it was.
    let mut alone = cluster.members.swap_remove(0);
    let was = identity(&data_dir);
    alone.add_flags(&["--force-new-cluster"]);
    start_alone(&mut alone);
    assert_eq!((state(&url), identity(&data_dir)), (now, was));
    ok("2", &url, "set /v2/c alone");

    // A flag that was left on drops nobody who has joined since.
    ok("3", &url, "member add late --learner --peer-urls=http://127.0.0.1:1");
    alone.kill();
    alone.start();
    wait_for("the end of who would drop another", || alone.ended());
    assert!(alone.stderr().contains("others have joined since; leave the flag out"), "{}", alone.stderr());
    alone.kill();
    alone.add_flags(&["--force-new-cluster=false"]);
    start_serving(&mut alone);
    assert_eq!(ok("3", &url, "member list").lines().count(), 2);
    alone.kill();
    alone.add_flags(&["--force-new-cluster"]);
    start_alone(&mut alone);
}

fn identity(data_dir: &Path) -> std::collections::BTreeSet<String> {
    fs::read_to_string(data_dir.join("identity")).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn what_cannot_be_copied_is_named_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let mut member = start(folder.path(), "m", &[]);
    member.kill();
    fs::create_dir_all(at("go/member/snap")).unwrap();
    fs::create_dir_all(at("full/x")).unwrap();
    fs::write(at("file"), "x").unwrap();
    fs::create_dir_all(at("n.part")).unwrap();
    let before = files(folder.path());
    #[rustfmt::skip]
    let rows = [
        ("no folder",         "none", "new",   "",                   "cannot read"),
        ("a file",            "file", "new",   "",                   "cannot read"),
        ("one of Go's etcd",  "go",   "new",   "",                   "is no data dir of Proa's etcd"),
        ("not empty",         "m",    "full",  "",                   "is not empty"),
        ("a file in the way", "m",    "file",  "",                   "is not empty"),
        ("itself",            "m",    "m",     "",                   "which is not to be changed"),
        ("inside",            "m",    "m/x/y", "",                   "which is not to be changed"),
        ("a part of itself",  "n.part", "n",   "",                   "which is not to be changed"),
        ("a log elsewhere",   "m",    "new",   "--wal-dir=x",        "--wal-dir is not supported"),
        ("a log elsewhere",   "m",    "new",   "--backup-wal-dir=x", "--backup-wal-dir is not supported"),
        ("an argument",       "m",    "new",   "x",                  "No arguments accepted"),
        ("an unknown flag",   "m",    "new",   "--with-v4",          "unknown flag: --with-v4"),
    ];
    for (name, data_dir, backup_dir, more, want) in rows {
        let more: Vec<&str> = more.split_whitespace().collect();
        let text = backup(&at(data_dir), &at(backup_dir), &more).unwrap_err();
        assert!(text.contains(want), "{name}: {text}");
        assert!(before == files(folder.path()) && !at("new").exists(), "{name}: left something");
    }
    let missing = etcdctl("2", &["backup", "--data-dir", "x"]);
    assert_eq!(missing.status.code(), Some(1));
    assert_eq!(String::from_utf8(missing.stderr).unwrap(), "backup: needs --backup-dir=FOLDER\n");

    // Where nobody lives there is nothing to go on with.
    let peer = free_url();
    let flags = ["--force-new-cluster"];
    let mut nobody = Member::new(folder.path(), "nobody", &peer, &format!("nobody={peer}"), &flags);
    nobody.start();
    wait_for("the end of who has nothing", || nobody.ended());
    assert!(nobody.stderr().contains("holds no member"), "{}", nobody.stderr());
}
