//! What a member does with what is wrong: one clear line, and nothing lost.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod etcd;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use etcd::{Cluster, free_url, proa, put_surely, runtime, wait_for};
use proa_etcd_client::api::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest};
use proa_etcd_client::{Client, Error, prefix_range};

/// Runs a member that must refuse to start; its one line.
fn refused(data_dir: &Path, flags: &[&str]) -> String {
    let (client, peer) = (free_url(), free_url());
    let mut args = vec![
        format!("--data-dir={}", data_dir.display()),
        format!("--listen-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
    ];
    // The last of two equal flags counts.
    args.extend(flags.iter().map(|flag| (*flag).to_owned()));
    let mut child = Command::new(proa())
        .arg("etcd")
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let ended = wait_for("the refusal", || child.try_wait().unwrap());
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(ended.code(), Some(1), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

#[test]
fn bad_flags_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    #[rustfmt::skip]
    let rows = [
        ("--nonsense=1",               "etcd: unknown flag --nonsense; etcd --help lists what there is\n"),
        ("--heartbeat-interval=soon",  "etcd: --heartbeat-interval: bad value \"soon\": give a whole number from 1 up\n"),
        ("--cert-file=/x",             "etcd: --cert-file: needs --key-file too\n"),
        ("--unsafe-no-fsync=true",     "etcd: --unsafe-no-fsync: bad value \"true\": not supported, leave it out\n"),
        ("--election-timeout=100",     "etcd: --election-timeout[100ms] should be at least as 5 times as --heartbeat-interval[100ms]\n"),
        ("--discovery=lan://x?size=0", "etcd: --discovery: bad value \"lan://x?size=0\": give lan://NAME?size=N with N from 1 to 9\n"),
        ("--initial-cluster=o=http://127.0.0.1:1", "etcd: --initial-cluster: no member is named \"default\", which is --name; add default=URL\n"),
        ("--listen-client-urls=unix://", "etcd: --listen-client-urls: bad value \"unix://\": give unix://PATH or unix://HOST:PORT, without space, ?, # or %, and no @ in HOST\n"),
        ("--listen-client-urls=unix:///nowhere/x", "etcd: listen unix /nowhere/x: bind: no such file or directory\n"),
        ("--listen-client-urls=http://127.0.0.1:1/x", "etcd: --listen-client-urls: bad value \"http://127.0.0.1:1/x\": give http://HOST:PORT or https://HOST:PORT\n"),
        ("word",                       "etcd: unexpected argument \"word\"; etcd takes only flags\n"),
    ];
    for (flag, want) in rows {
        assert_eq!(refused(&data, &[flag]), want, "{flag}");
    }
    assert!(!data.exists(), "a refused start left something behind");
}

#[test]
fn a_port_in_use_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let text = refused(&folder.path().join("data"), &[&format!("--listen-client-urls=http://{address}")]);
    assert_eq!(text, format!("etcd: listen tcp {address}: bind: address already in use\n"));
    let text = refused(&folder.path().join("data"), &[&format!("--listen-peer-urls=http://{address}")]);
    assert!(
        text.contains(&address.to_string()) && text.to_lowercase().contains("address already in use"),
        "{text}"
    );
}

/// Every file below `folder`, by path, with its content.
fn content(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.extend(content(&path)),
            false => files.push((path.clone(), fs::read(&path).unwrap())),
        }
    }
    files.sort();
    files
}

#[test]
fn a_damaged_log_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start_in(folder.path(), 1, &[]);
    let (client, runtime) = (cluster.client(), runtime());
    let marks: Vec<String> = (0..50).map(|number| format!("marked-value-{number}")).collect();
    runtime.block_on(async {
        for mark in &marks {
            put_surely(&client, "k", mark).await;
        }
    });
    let member = &mut cluster.members[0];
    member.kill();
    let before = content(&member.data_dir);
    // One bit in the middle of what was acknowledged, good records after it.
    let (path, mut bytes) = before
        .iter()
        .find(|(_, bytes)| {
            find(bytes, marks[10].as_bytes()).is_some() && find(bytes, marks[49].as_bytes()).is_some()
        })
        .cloned()
        .expect("the log holds what was written");
    let place = find(&bytes, marks[10].as_bytes()).unwrap();
    bytes[place] ^= 1;
    fs::write(&path, &bytes).unwrap();
    member.start();
    let status = wait_for("the refusal", || member.ended());
    assert!(!status.success());
    let text = member.stderr();
    let last = text.lines().last().unwrap_or_default().to_owned();
    assert!(last.contains(&path.display().to_string()), "the line names the file: {last}");
    assert_eq!(fs::read(&path).unwrap(), bytes, "the damaged file was changed");
    // Mended, all of it is there.
    bytes[place] ^= 1;
    fs::write(&path, &bytes).unwrap();
    member.kill();
    member.start();
    cluster.wait_ready();
    let client = cluster.client();
    let answer = runtime.block_on(async {
        let request = RangeRequest { key: "k".into(), ..RangeRequest::default() };
        client.range(request).await.unwrap()
    });
    assert_eq!(answer.kvs[0].value, marks[49]);
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

#[test]
fn the_data_of_another_cluster_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start_in(folder.path(), 1, &["--initial-cluster-token=first"]);
    cluster.members[0].kill();
    let data_dir = cluster.members[0].data_dir.clone();
    let peer = free_url();
    let text = refused(
        &data_dir,
        &[
            "--name=m0",
            &format!("--initial-advertise-peer-urls={peer}"),
            &format!("--initial-cluster=m0={peer}"),
            "--initial-cluster-token=second",
        ],
    );
    assert!(text.contains("cluster") && text.contains(&data_dir.display().to_string()), "{text}");
}

/// A file system of its own for a data dir; unmounted when dropped.
struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    fn new(size_mib: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size_mib}m"), "proa-test"])
            .arg(folder.path())
            .status()
            .unwrap();
        assert!(status.success(), "mounting a tmpfs needs root");
        Self { folder }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A test that fails must not leave the mount behind.
        let _ = Command::new("umount").arg("-l").arg(self.folder.path()).status();
    }
}

/// Runs this very test again where it may mount; `true` when that was done.
fn ran_in_a_namespace(test: &str) -> bool {
    let is_root = fs::metadata("/proc/self").is_ok_and(|metadata| {
        use std::os::unix::fs::MetadataExt as _;
        metadata.uid() == 0
    });
    if is_root {
        return false;
    }
    let status = Command::new("unshare")
        .arg("-rm")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .status()
        .unwrap();
    assert!(status.success(), "{test} in a namespace of its own");
    true
}

async fn put(client: &Client, key: &str, bytes: usize) -> Result<(), Error> {
    let value = vec![b'x'; bytes];
    let request = PutRequest { key: key.to_owned().into(), value: value.into(), ..PutRequest::default() };
    client.put(request).await.map(drop)
}

#[test]
fn a_full_disk_refuses_writes_and_loses_none() {
    if ran_in_a_namespace("a_full_disk_refuses_writes_and_loses_none") {
        return;
    }
    let disk = SmallDisk::new(700);
    let mut cluster = Cluster::start_in(disk.folder.path(), 1, &[]);
    let runtime = runtime();
    // Somebody else takes the space, as it happens on machines.
    let ballast = disk.folder.path().join("ballast");
    let mut acknowledged = Vec::new();
    let client = cluster.client();
    runtime.block_on(put_surely(&client, "first", "x"));
    fill(&ballast);
    let refusal = runtime.block_on(async {
        for number in 0..100_000 {
            let key = format!("full/{number:06}");
            match put(&client, &key, 100_000).await {
                Ok(()) => acknowledged.push(key),
                Err(error) => return Some(error),
            }
        }
        None
    });
    let refusal = refusal.expect("a full disk ends writing");
    eprintln!("after {} writes: {refusal}", acknowledged.len());
    let ended = cluster.members[0].ended();
    match (&refusal, ended) {
        (_, Some(status)) => {
            assert!(!status.success(), "ended with {status}");
            let text = cluster.members[0].stderr();
            assert!(text.lines().last().is_some_and(|line| line.contains("No space left")), "{text}");
            cluster.members[0].kill();
        }
        (Error::Refused { text, .. }, None) => {
            assert_eq!(text, "etcdserver: mvcc: database space exceeded");
            // What makes room is still done.
            let delete = DeleteRangeRequest { key: "first".into(), ..DeleteRangeRequest::default() };
            runtime.block_on(client.delete_range(delete)).unwrap();
        }
        (other, None) => panic!("{other}"),
    }
    fs::remove_file(&ballast).unwrap();
    if ended.is_some() {
        cluster.members[0].start();
        cluster.wait_ready();
    }
    let client = cluster.client();
    // The alarm clears itself, and every acknowledged write is there.
    wait_for("writes to be taken again", || runtime.block_on(put(&client, "again", 1)).ok());
    let (key, range_end) = prefix_range(b"full/");
    let request = RangeRequest { key, range_end, keys_only: true, ..RangeRequest::default() };
    let found = runtime.block_on(client.range(request)).unwrap();
    let found: Vec<String> = found.kvs.iter().map(|kv| String::from_utf8(kv.key.to_vec()).unwrap()).collect();
    for key in &acknowledged {
        assert!(found.contains(key), "{key} was acknowledged and is lost");
    }
}

/// Takes all space but a little, so that the end comes soon.
fn fill(path: &Path) {
    use std::io::Write as _;
    let mut file = fs::File::options().create(true).append(true).open(path).unwrap();
    let block = vec![0; 1 << 20];
    while file.write_all(&block).is_ok() {}
    let length = file.metadata().unwrap().len();
    file.set_len(length.saturating_sub(200 << 20)).unwrap();
}
