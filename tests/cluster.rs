//! The main journey, on the image that users get: three machines boot, find each other,
//! run a unit, lose one of them, and get it back, while the store takes writes.
//!
//! `PROA_IMAGE_DIR` names the folder of the image (build), `PROA_BIN` the binary whose
//! fleetctl is used (the one of this test's build).

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use proa_etcd_client::{
    Client, Timeouts,
    api::etcdserverpb::{PutRequest, RangeRequest},
    prefix_range,
};
use proa_qemu::{Accel, Cluster, Fleet, Image, Outside, machine::MEMORY_MIB};
use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// The promise: three machines are listed this soon after power-on, emulated on 2 cores.
const LISTED_WITHIN: Duration = Duration::from_secs(90);

/// Longer than any other step takes on a busy host.
const PATIENCE: Duration = Duration::from_secs(240);

/// The longest that the store may refuse writes when a machine dies: an election under
/// emulation (3 to 6 s) and a client's request that runs into its deadline before it.
const LONGEST_GAP: Duration = Duration::from_secs(30);

const UNIT: &str = "hello.service";

/// Asks until there is an answer.
fn wait_for<T>(what: &str, within: Duration, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(why) if start.elapsed() > within => panic!("{what}: not within {within:?}: {why}"),
            Err(_) => thread::sleep(Duration::from_millis(250)),
        }
    }
}

/// One line of what happened when, for whoever reads the log of CI.
fn note(start: Instant, what: &str) {
    println!("{:6.1} s  {what}", start.elapsed().as_secs_f64());
}

/// The cluster under test with what the host uses to talk to it.
struct Bench {
    cluster: Cluster,
    proa: PathBuf,
    start: Instant,
    // Last: the machines end before their disks go.
    _dir: tempfile::TempDir,
}

impl Bench {
    fn boot() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image_dir = env::var("PROA_IMAGE_DIR").unwrap_or_else(|_| "build".into());
        let image = Image::open(Path::new(&image_dir)).unwrap_or_else(|error| panic!("{error}"));
        let proa = env::var("PROA_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_proa").into());
        let accel = Accel::find(&image, dir.path()).unwrap();
        let mut cluster =
            Cluster::new(&image, accel, 3, "etcd.nonsense=1 update.nonsense=1", Outside::Closed, dir.path())
                .unwrap();
        let start = Instant::now();
        cluster.power_on().unwrap_or_else(|error| panic!("{error}"));
        note(start, &format!("power on, {}", accel.name()));
        Self { cluster, proa: proa.into(), start, _dir: dir }
    }

    /// fleetctl towards one machine.
    fn fleet(&self, machine: usize) -> Fleet {
        Fleet { proa: self.proa.clone(), endpoint: self.cluster.machines[machine].fleet_endpoint() }
    }

    fn wait_for_three(&self, machine: usize, within: Duration) {
        let fleet = self.fleet(machine);
        wait_for("three machines listed", within, || match fleet.machines()? {
            lines if lines.len() == 3 => Ok(()),
            lines => Err(format!("listed: {lines:?}")),
        });
    }

    /// The number of the machine whose id starts with `short`, by what its console said.
    fn number_of(&self, short: &str) -> usize {
        let said = |text: &str| text.contains(&format!("machine {short}"));
        let found = self.cluster.machines.iter().position(|machine| said(&machine.serial_text()));
        found.unwrap_or_else(|| panic!("no console named a machine {short}..."))
    }

    /// Waits until the unit runs on a machine other than `not`, and returns that one.
    fn wait_for_unit(&self, ask: usize, not: Option<usize>) -> usize {
        let fleet = self.fleet(ask);
        wait_for("the unit runs", PATIENCE, || {
            let line = fleet.unit(UNIT)?.ok_or("not listed")?;
            let words: Vec<_> = line.split_whitespace().collect();
            let [_, machine, "active", "running"] = words[..] else { return Err(line) };
            let number = self.number_of(&machine[..8]);
            if Some(number) == not { Err(line) } else { Ok(number) }
        })
    }

    /// What Debian's etcdctl prints about one machine's member.
    fn etcdctl(&self, machine: usize, arguments: &[&str]) -> Result<String, String> {
        let endpoint = format!("--endpoints=127.0.0.1:{}", self.cluster.machines[machine].etcd_port());
        let mut command = Command::new("/usr/bin/etcdctl");
        command.env_clear().env("ETCDCTL_API", "3").arg(endpoint).args(arguments);
        let output = command.output().expect("the package etcd-client is installed");
        match output.status.success() {
            true => Ok(String::from_utf8(output.stdout).unwrap()),
            false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        }
    }

    /// The three lines of `member list`, in a fixed order, once every member has told its
    /// name: it does so when it serves, which may be after its fleetd is listed.
    fn members(&self, machine: usize) -> BTreeSet<String> {
        wait_for("three started members", PATIENCE, || {
            let list = self.etcdctl(machine, &["member", "list"])?;
            let members: BTreeSet<_> = list.lines().map(str::to_owned).collect();
            let started = members.iter().filter(|member| member.contains(", started,")).count();
            if (members.len(), started) == (3, 3) { Ok(members) } else { Err(list) }
        })
    }
}

/// What a writer saw.
#[derive(Default)]
struct Written {
    /// Every key whose put was acknowledged, with its value.
    acknowledged: BTreeMap<String, String>,
    /// The longest time between two acknowledgements.
    longest_gap: Duration,
}

/// Puts one key after another through some members until it is told to stop.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Written>,
}

impl Writer {
    fn start(endpoints: Vec<String>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(write(&endpoints, &told))
        });
        Self { stop, thread }
    }

    fn finish(self) -> Written {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

async fn write(endpoints: &[String], stop: &AtomicBool) -> Written {
    let client = Client::with_timeouts(endpoints, Timeouts::default()).unwrap();
    let mut written = Written::default();
    let mut last = Instant::now();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let (key, value) = (format!("journey/{number:06}"), format!("value {number}"));
        let put =
            PutRequest { key: key.clone().into(), value: value.clone().into(), ..PutRequest::default() };
        // A put without an answer may have happened or not: nothing is claimed about it.
        if client.put(put).await.is_ok() {
            written.acknowledged.insert(key, value);
            written.longest_gap = written.longest_gap.max(last.elapsed());
            last = Instant::now();
        }
        // A steady trickle; emulated machines have other work to do.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    written.longest_gap = written.longest_gap.max(last.elapsed());
    written
}

/// Every key below `journey/`, read through one member.
fn read_all(endpoint: String) -> BTreeMap<String, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = Client::connect(&[endpoint]).unwrap();
    let (key, range_end) = prefix_range(b"journey/");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let answer = wait_for("reading every key", PATIENCE, || {
        let request =
            RangeRequest { key: key.clone(), range_end: range_end.clone(), ..RangeRequest::default() };
        runtime.block_on(client.range(request)).map_err(|error| error.to_string())
    });
    answer.kvs.iter().map(|pair| (text(&pair.key), text(&pair.value))).collect()
}

/// The memory the guest's kernel found, from its line `Memory: 1K/2K available`.
fn kernel_memory_kib(console: &str) -> u64 {
    let total = console.split("Memory: ").nth(1).and_then(|rest| rest.split('/').nth(1));
    let digits = total.and_then(|rest| rest.split('K').next());
    digits.and_then(|digits| digits.parse().ok()).expect("the kernel tells its memory")
}

fn check_consoles(bench: &Bench) {
    for machine in &bench.cluster.machines {
        let console = machine.serial_text();
        let name = machine.name();
        for key in ["etcd.nonsense", "update.nonsense"] {
            assert!(
                console.contains(&format!("unknown key {key} on the kernel command line")),
                "{name} does not name the unknown key {key} on its console"
            );
        }
        assert!(kernel_memory_kib(&console) <= u64::from(MEMORY_MIB) * 1024, "{name} has too much memory");
    }
    assert_eq!(MEMORY_MIB, 256);
}

fn start_unit(bench: &Bench) -> usize {
    let file = "buildroot/demo/hello.service";
    wait_for("the unit is started", PATIENCE, || bench.fleet(0).ask(&["start", "--no-block", file]));
    let runs_on = bench.wait_for_unit(0, None);
    note(bench.start, &format!("{UNIT} runs on machine-{}", runs_on + 1));
    let journal = wait_for("its journal", PATIENCE, || {
        let text = bench.fleet(0).ask(&["journal", "--lines=50", UNIT])?;
        if text.contains("hello from proa-") { Ok(text) } else { Err(text) }
    });
    note(bench.start, &format!("its journal is read: {} lines", journal.lines().count()));
    runs_on
}

/// The member on `machine` is healthy and has applied what the others have.
fn wait_for_member(bench: &Bench, machine: usize, other: usize) {
    wait_for("the member is healthy", PATIENCE, || bench.etcdctl(machine, &["endpoint", "health"]));
    let revision = |machine: usize| -> Result<u64, String> {
        let status = bench.etcdctl(machine, &["endpoint", "status", "--write-out=json"])?;
        let status: serde_json::Value = serde_json::from_str(&status).map_err(|error| error.to_string())?;
        status[0]["Status"]["header"]["revision"].as_u64().ok_or_else(|| status.to_string())
    };
    let goal = wait_for("a revision", PATIENCE, || revision(other));
    wait_for("the member has caught up", PATIENCE, || match revision(machine)? {
        at if at >= goal => Ok(()),
        at => Err(format!("at revision {at} of {goal}")),
    });
}

#[test]
fn a_cluster_boots_runs_a_unit_and_survives_a_machine() {
    let mut bench = Bench::boot();
    bench.wait_for_three(0, LISTED_WITHIN);
    note(bench.start, "three machines are listed");
    check_consoles(&bench);
    let victim = start_unit(&bench);
    let (a, b) = ((victim + 1) % 3, (victim + 2) % 3);
    let members = bench.members(a);

    let survivors = [a, b].map(|number| bench.cluster.machines[number].etcd_endpoint());
    let writer = Writer::start(survivors.to_vec());
    bench.cluster.machines[victim].power_off();
    note(bench.start, &format!("machine-{} lost power", victim + 1));
    let heir = bench.wait_for_unit(a, Some(victim));
    note(bench.start, &format!("{UNIT} runs on machine-{}", heir + 1));

    bench.cluster.machines[victim].power_on().unwrap();
    bench.wait_for_three(a, PATIENCE);
    note(bench.start, &format!("machine-{} is back and listed", victim + 1));
    wait_for_member(&bench, victim, a);
    assert_eq!(bench.members(victim), members, "the same members as before");
    note(bench.start, "its member is healthy and has caught up");

    let written = writer.finish();
    let count = written.acknowledged.len();
    note(bench.start, &format!("{count} writes, at most {:?} apart", written.longest_gap));
    assert!(count > 0 && written.longest_gap <= LONGEST_GAP, "the store did not take writes all the while");
    let stored = read_all(bench.cluster.machines[victim].etcd_endpoint());
    for (key, value) in &written.acknowledged {
        assert_eq!(stored.get(key), Some(value), "the acknowledged write of {key}");
    }
    note(bench.start, "every acknowledged write is there");

    let processes: Vec<_> = bench.cluster.machines.iter().filter_map(|machine| machine.pid()).collect();
    assert_eq!(processes.len(), 3);
    drop(bench);
    let left: Vec<_> = processes.iter().filter(|pid| Path::new(&format!("/proc/{pid}")).exists()).collect();
    assert!(left.is_empty(), "QEMU still runs: {left:?}");
}

#[test]
fn a_missing_image_is_one_clear_line() {
    let dir = tempfile::tempdir().unwrap();
    let line = Image::open(dir.path()).unwrap_err().to_string();
    assert!(line.ends_with("vmlinuz is missing; `make image` makes it") && !line.contains('\n'), "{line}");
}
