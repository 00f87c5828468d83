//! The reboot lock as its users meet it: clients of the original, locksmithctl,
//! FleetLock, machines that die, and a reboot through the whole gate.
#![allow(clippy::unwrap_used)]

mod etcd;

use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use etcd::{Cluster, free_url, proa, wait_for};
use proa_etcd_client::Client;
use proa_etcd_client::api::etcdserverpb::{PutRequest, RangeRequest, StatusRequest};

/// The original's key. Source: locksmith 0.6.2.
const KEY: &str = "/v2/keys/coreos.com/updateengine/rebootlock/semaphore";

/// One HTTP request without any library: status and body.
fn http(url: &str, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
    let authority = url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(authority).unwrap();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// The lock's value as the v2 API has it, byte for byte.
fn value(url: &str, path: &str) -> String {
    let (status, body) = http(url, "GET", path, "", "");
    assert_eq!(status, 200, "{body}");
    let json: serde_json::Value = serde_json::from_str(&body).unwrap();
    json["node"]["value"].as_str().unwrap().to_owned()
}

/// A write as the original's client makes it: form encoded, guarded by index.
fn swap(url: &str, value: &str, guard: &str) -> u16 {
    let form: String = value.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let kind = "Content-Type: application/x-www-form-urlencoded\r\n";
    http(url, "PUT", &format!("{KEY}?{guard}"), kind, &format!("value={form}")).0
}

fn locksmithctl(endpoints: &[String], words: &[&str]) -> Output {
    Command::new(proa())
        .arg("locksmithctl")
        .args(words)
        .env_clear()
        .env("LOCKSMITHCTL_ENDPOINT", endpoints.join(","))
        .output()
        .unwrap()
}

fn prints(endpoints: &[String], words: &[&str]) -> String {
    let output = locksmithctl(endpoints, words);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn refuses(endpoints: &[String], words: &[&str]) -> String {
    let output = locksmithctl(endpoints, words);
    assert_eq!(output.status.code(), Some(1), "{words:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn the_lock_is_the_originals() {
    let cluster = Cluster::start(3, &[]);
    let at = cluster.endpoints();
    assert_eq!(prints(&at, &["status"]), "Available: 1\nMax: 1\n");
    assert_eq!(prints(&at, &["lock", "b1"]), "");
    assert_eq!(value(&at[2], KEY), r#"{"semaphore":0,"max":1,"holders":["b1"]}"#);
    assert_eq!(refuses(&at, &["lock", "a1"]), "Error locking: semaphore is at 0\n");
    assert_eq!(prints(&at, &["set-max", "2"]), "Old-Max: 1\nMax: 2\n");
    assert_eq!(refuses(&at, &["lock", "b1"]), "Error locking: holder exists\n");
    assert_eq!(prints(&at, &["lock", "a1"]), "");
    let text = prints(&at, &["status"]);
    assert!(text.starts_with("Available: 0\nMax: 2\n\nMACHINE ID\na1\nb1\n"), "{text}");
    assert!(text.contains("a1\tlocked by hand"), "{text}");
    assert_eq!(value(&at[1], KEY), r#"{"semaphore":0,"max":2,"holders":["a1","b1"]}"#);

    // A client of the original gives a slot back.
    let (_, body) = http(&at[0], "GET", KEY, "", "");
    let json: serde_json::Value = serde_json::from_str(&body).unwrap();
    let index = &json["node"]["modifiedIndex"];
    let free = r#"{"semaphore":1,"max":2,"holders":["b1"]}"#;
    assert_eq!(swap(&at[0], free, &format!("prevIndex={index}")), 200);
    assert_eq!(swap(&at[0], free, &format!("prevIndex={index}")), 412);
    assert_eq!(refuses(&at, &["unlock", "a1"]), "Error unlocking: holder does not exist\n");
    assert_eq!(prints(&at, &["unlock", "b1"]), "");
    assert_eq!(value(&at[0], KEY), r#"{"semaphore":2,"max":2,"holders":[]}"#);

    // Groups have locks of their own.
    assert_eq!(prints(&at, &["-group=web 1", "lock", "x"]), "");
    let group = "/v2/keys/coreos.com/updateengine/rebootlock/groups/web+1/semaphore".replace('+', "%2B");
    assert_eq!(value(&at[0], &group), r#"{"semaphore":0,"max":1,"holders":["x"]}"#);
    assert_eq!(prints(&at, &["status"]), "Available: 2\nMax: 2\n");
    assert!(refuses(&at, &["set-max", "many"]).contains("Invalid maximum value: many"));
    assert!(refuses(&["http://127.0.0.1:9".to_owned()], &["status"]).starts_with("Error getting value: "));
}

#[test]
fn of_many_at_once_as_many_as_allowed_get_the_lock() {
    let cluster = Cluster::start(3, &[]);
    let at = cluster.endpoints();
    prints(&at, &["set-max", "2"]);
    let lock = |number: usize| {
        let endpoint = at[number % 3].clone();
        std::thread::spawn(move || locksmithctl(&[endpoint], &["lock", &format!("m{number}")]))
    };
    let all: Vec<_> = (0..6).map(lock).collect();
    let won = all.into_iter().filter_map(|one| one.join().unwrap().status.success().then_some(())).count();
    assert_eq!(won, 2);
    assert!(value(&at[0], KEY).starts_with(r#"{"semaphore":0,"max":2,"#), "{}", value(&at[0], KEY));
}

/// A program of ours; killed when dropped.
struct Running(Child, PathBuf);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
        if std::thread::panicking() {
            eprintln!("--- {}:\n{}", self.1.display(), fs::read_to_string(&self.1).unwrap_or_default());
        }
    }
}

/// A cluster init without units: its cordon is whatever was put last. While it is `broken`, it
/// answers nothing but errors.
fn serve_cordon(socket: &Path, broken: Arc<AtomicBool>) {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        let mut cordon: Option<String> = None;
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") && stream.read_line(&mut head).unwrap() > 0 {}
            let head = head.to_lowercase();
            let length = head.split_once("content-length: ").map(|(_, rest)| rest.lines().next().unwrap());
            let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
            stream.read_exact(&mut body).unwrap();
            match head.split(' ').next().unwrap() {
                _ if broken.load(Ordering::Relaxed) => {}
                "put" => cordon = Some(String::from_utf8(body).unwrap()),
                "delete" => cordon = None,
                _ => {}
            }
            let (status, text) = match &cordon {
                _ if broken.load(Ordering::Relaxed) => (500, ""),
                Some(text) => (200, text.as_str()),
                None if head.starts_with("delete") => (200, "{}"),
                None => (404, ""),
            };
            let length = text.len();
            let answer =
                format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{text}");
            // Who asked may be gone.
            let _ = stream.get_mut().write_all(answer.as_bytes());
        }
    });
}

/// A machine of the cluster, as far as locksmith sees one: an id, a cluster init, and a
/// `systemctl` that only notes that it was called.
struct Machine {
    folder: PathBuf,
    id: String,
    endpoint: String,
    is_fleet_broken: Arc<AtomicBool>,
}

impl Machine {
    fn new(folder: &Path, id: &str, endpoint: &str) -> Self {
        let folder = folder.join(id);
        fs::create_dir(&folder).unwrap();
        let systemctl = folder.join("systemctl");
        fs::write(&systemctl, "#!/bin/sh\necho \"$@\" > \"${0%/*}/went-down\"\n").unwrap();
        fs::set_permissions(&systemctl, fs::Permissions::from_mode(0o755)).unwrap();
        let is_fleet_broken = Arc::default();
        serve_cordon(&folder.join("fleet.sock"), Arc::clone(&is_fleet_broken));
        Self { folder, id: id.to_owned(), endpoint: endpoint.to_owned(), is_fleet_broken }
    }

    fn spawn(&self, words: &[&str]) -> Running {
        let log = self.folder.join(format!("{}.log", words[0]));
        let child = Command::new(proa())
            .args(words)
            .env_clear()
            .env("PATH", format!("{}:/usr/bin:/bin", self.folder.display()))
            .env("UPDATE_ENGINE_MACHINE_ID", &self.id)
            .env("UPDATE_ENGINE_ENDPOINTS", &self.endpoint)
            .env("LOCKSMITHCTL_ENDPOINT", &self.endpoint)
            .env("UPDATE_ENGINE_FLEET", self.folder.join("fleet.sock"))
            .env("UPDATE_ENGINE_BUS", self.folder.join("no-bus.sock"))
            .env("UPDATE_ENGINE_BOOT_RECORD", self.folder.join("no-boot.json"))
            .env("UPDATE_ENGINE_LOCK_INTERVAL", "200ms")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Running(child, log)
    }

    fn locksmithd(&self, more: &[&str]) -> Running {
        self.spawn(&[&["locksmithd"], more].concat())
    }

    fn log(&self, program: &str) -> String {
        fs::read_to_string(self.folder.join(format!("{program}.log"))).unwrap_or_default()
    }

    fn went_down(&self) -> Option<String> {
        fs::read_to_string(self.folder.join("went-down")).ok()
    }
}

#[test]
fn fleetlock_clients_share_the_lock() {
    let cluster = Cluster::start(1, &[]);
    let at = cluster.endpoints();
    let folder = tempfile::tempdir().unwrap();
    let machine = Machine::new(folder.path(), "server", &at[0]);
    let url = free_url();
    let listen = format!("--fleetlock-listen={}", url.trim_start_matches("http://"));
    let _daemon = machine.locksmithd(&[&listen]);
    wait_for("FleetLock", || TcpStream::connect(url.trim_start_matches("http://")).ok());

    let ask = |path: &str, id: &str| {
        let body = format!(r#"{{"client_params":{{"id":"{id}","group":"default"}}}}"#);
        http(&url, "POST", path, "fleet-lock-protocol: true\r\n", &body)
    };
    assert_eq!(ask("/v1/pre-reboot", "n1"), (200, String::new()));
    assert_eq!(ask("/v1/pre-reboot", "n1"), (200, String::new()));
    assert_eq!(value(&at[0], KEY), r#"{"semaphore":0,"max":1,"holders":["n1"]}"#);
    let full = r#"{"kind":"failed_lock_semaphore_full","value":"all 1 slots are taken, by n1"}"#;
    assert_eq!(ask("/v1/pre-reboot", "n2"), (409, full.to_owned()));
    assert_eq!(ask("/v1/steady-state", "n2"), (200, String::new()));
    assert_eq!(ask("/v1/steady-state", "n1"), (200, String::new()));
    assert_eq!(value(&at[0], KEY), r#"{"semaphore":1,"max":1,"holders":[]}"#);

    assert_eq!(http(&url, "POST", "/v1/pre-reboot", "", "{}").0, 400);
    assert_eq!(http(&url, "GET", "/v1/pre-reboot", "fleet-lock-protocol: true\r\n", "").0, 405);
    assert_eq!(ask("/v1/elsewhere", "n1").0, 404);
    let huge = "x".repeat(4000);
    assert_eq!(ask("/v1/pre-reboot", &huge).0, 400);
}

/// What a machine wrote before it vanished.
fn intent(phase: &str, boot: &str) -> String {
    format!(r#"{{"phase":"{phase}","version":"9.1.0","boot":"{boot}","by":"locksmithd","since_unix_s":1}}"#)
}

async fn put(client: &Client, key: &str, value: &str) {
    let put = PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() };
    client.put(put).await.unwrap();
}

async fn get(client: &Client, key: &str) -> Option<String> {
    let range = RangeRequest { key: key.to_owned().into(), ..RangeRequest::default() };
    let answer = client.range(range).await.unwrap();
    answer.kvs.first().map(|kv| String::from_utf8(kv.value.to_vec()).unwrap())
}

#[test]
fn a_machine_that_vanished_frees_the_lock_and_leaves_a_suspicion() {
    let cluster = Cluster::start(1, &[]);
    let at = cluster.endpoints();
    let runtime = etcd::runtime();
    let client = cluster.client();
    let folder = tempfile::tempdir().unwrap();
    prints(&at, &["set-max", "2"]);
    prints(&at, &["lock", "ghost"]);
    prints(&at, &["lock", "person"]);
    runtime.block_on(put(&client, "/proa/reboot/intents/ghost", &intent("rebooting", "x")));
    assert!(prints(&at, &["status"]).contains("ghost\treboots into release 9.1.0"));

    let machine = Machine::new(folder.path(), "watcher", &at[0]);
    let _daemon = machine.locksmithd(&[]);
    // Who never wrote a record is left alone.
    let want = r#"{"semaphore":1,"max":2,"holders":["person"]}"#;
    wait_for("the lock to be free", || (value(&at[0], KEY) == want).then_some(()));
    let text = prints(&at, &["status"]);
    assert!(text.contains("\nSUSPECT RELEASE\tWHY\n9.1.0\tmachine ghost rebooted into it and was"), "{text}");
    let fenced = runtime.block_on(get(&client, "/proa/reboot/intents/ghost")).unwrap();
    assert!(fenced.contains(r#""phase":"given-up""#), "{fenced}");
    assert_eq!(prints(&at, &["clear", "9.1.0"]), "Cleared release 9.1.0\n");
    assert!(!prints(&at, &["status"]).contains("SUSPECT"));
    assert!(refuses(&at, &["clear", "9.1.0"]).contains("nothing is held against"));
}

#[test]
fn a_reboot_goes_through_the_gate_and_the_lock_comes_back_after_it() {
    let mut cluster = Cluster::start(3, &[]);
    let at = cluster.endpoints();
    let runtime = etcd::runtime();
    let folder = tempfile::tempdir().unwrap();
    let leads = |url: &String| {
        let client = Client::connect(std::slice::from_ref(url)).unwrap();
        let status = runtime.block_on(client.status(StatusRequest {})).ok()?;
        Some(status.leader == status.header?.member_id)
    };
    let first = at.iter().position(|url| leads(url) == Some(true)).unwrap();
    let others: Vec<usize> = (0..3).filter(|number| *number != first).collect();
    let [second, third] = others.as_slice() else { unreachable!() };

    // With a member down nobody may reboot.
    cluster.members[*third].kill();
    let machine = Machine::new(folder.path(), "m1", &at[first]);
    let reboot = machine.spawn(&["locksmithctl", "reboot"]);
    wait_for("the quorum to be counted", || {
        machine.log("locksmithctl").contains("the store would have 1 of 3 members, and needs 2").then_some(())
    });
    assert_eq!(machine.went_down(), None);
    // Nor does a machine that cannot tell which member is its own take that for none.
    let lost = Machine::new(folder.path(), "m0", &format!("http://127.0.0.1:9,{}", at[first]));
    let unsure = lost.spawn(&["locksmithctl", "reboot"]);
    wait_for("the own member to be missed", || {
        let line = "cannot tell which member is this machine's: the first endpoint does not answer";
        lost.log("locksmithctl").contains(line).then_some(())
    });
    drop(unsure);
    assert_eq!(lost.went_down(), None);
    cluster.members[*third].start();
    cluster.wait_ready();
    wait_for("the machine to go down", || machine.went_down());
    assert_eq!(machine.went_down().unwrap(), "--no-block reboot\n");
    drop(reboot);
    assert_ne!(leads(&at[first]), Some(true), "the store is led by a machine that goes down");
    assert_eq!(value(&at[*second], KEY), r#"{"semaphore":0,"max":1,"holders":["m1"]}"#);
    assert!(prints(&at, &["status"]).contains("m1\treboots, for "));

    // Meanwhile another one waits for its turn.
    let other = Machine::new(folder.path(), "m2", &at[*second]);
    let waiting = other.spawn(&["locksmithctl", "reboot"]);
    wait_for("the other one to wait", || {
        let log = other.log("locksmithctl");
        (log.contains("the lock is held by m1") || log.contains("the store would have")).then_some(())
    });
    assert_eq!(other.went_down(), None);

    // Back from a boot: what was written says another one.
    let client = cluster.client();
    let written = runtime.block_on(get(&client, "/proa/reboot/intents/m1")).unwrap();
    let mut record: serde_json::Value = serde_json::from_str(&written).unwrap();
    record["boot"] = "another".into();
    runtime.block_on(put(&client, "/proa/reboot/intents/m1", &record.to_string()));
    let _daemon = machine.locksmithd(&[]);
    wait_for("the other one's turn", || other.went_down());
    assert_eq!(value(&at[first], KEY), r#"{"semaphore":0,"max":1,"holders":["m2"]}"#);
    assert_eq!(runtime.block_on(get(&client, "/proa/reboot/intents/m1")), None);
    drop(waiting);
}

#[test]
fn without_a_word_from_the_cluster_init_nobody_reboots() {
    let cluster = Cluster::start(1, &[]);
    let at = cluster.endpoints();
    let folder = tempfile::tempdir().unwrap();
    let machine = Machine::new(folder.path(), "m1", &at[0]);
    let socket = machine.folder.join("fleet.sock");
    fs::rename(&socket, machine.folder.join("away.sock")).unwrap();
    let _reboot = machine.spawn(&["locksmithctl", "reboot"]);
    wait_for("the socket to be missed", || {
        machine.log("locksmithctl").contains("fleet.sock does not exist").then_some(())
    });
    assert_eq!(machine.went_down(), None);
    fs::rename(machine.folder.join("away.sock"), &socket).unwrap();
    wait_for("the machine to go down", || machine.went_down());
}

#[test]
fn the_lock_comes_back_after_a_boot_whatever_strategy_and_cluster_init_do() {
    let cluster = Cluster::start(1, &[]);
    let at = cluster.endpoints();
    let client = cluster.client();
    let runtime = etcd::runtime();
    let folder = tempfile::tempdir().unwrap();
    for (id, strategy, is_broken) in [("m1", "reboot", false), ("m2", "off", true)] {
        prints(&at, &["lock", id]);
        let key = format!("/proa/reboot/intents/{id}");
        runtime.block_on(put(&client, &key, r#"{"phase":"rebooting","boot":"x","by":"locksmithctl"}"#));
        let machine = Machine::new(folder.path(), id, &at[0]);
        machine.is_fleet_broken.store(is_broken, Ordering::Relaxed);
        let _daemon = machine.locksmithd(&[&format!("--reboot-strategy={strategy}")]);
        let free = r#"{"semaphore":1,"max":1,"holders":[]}"#;
        wait_for("the lock to come back", || (value(&at[0], KEY) == free).then_some(()));
        wait_for("the intent to go", || runtime.block_on(get(&client, &key)).is_none().then_some(()));
    }
}
