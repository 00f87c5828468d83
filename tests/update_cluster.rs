//! Updates of a cluster of three machines, on the image that users get: a good release
//! goes through it while it is used, and a bad one costs one machine a restart.
//!
//! How long writes stand still is held to a time: for a host that does nothing else.
//!
//! `PROA_IMAGE_DIR` names the folder of the image (build), `PROA_BIN` the binary whose
//! commands serve and ask, `PROA_BAD_RELEASES` the bad releases to try, by the names
//! of tests/releases (`all` for every one).

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[path = "update_cluster/background.rs"]
mod background;
mod etcd;
#[path = "update_cluster/load.rs"]
mod load;
mod machines;
mod omahad;
#[path = "update_cluster/probe.rs"]
mod probe;
mod publisher;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use machines::{Bench, Seen, bad_releases, version};
use proa_etcd_client::{Client, api::etcdserverpb::RangeRequest, prefix_range};

/// The promise: a planned restart stops no client's writes for longer.
const LONGEST_GAP: Duration = Duration::from_secs(1);

/// Three machines are as many as a host of two cores takes at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Says its name by HTTP; two of them share no machine.
const WEB: &str = "\
[Service]
ExecStartPre=/bin/mkdir -p /run/web
ExecStartPre=/bin/sh -c 'echo %p-%i >/run/web/index.html'
ExecStart=/bin/busybox httpd -f -p 8080 -h /run/web
Restart=always

[X-Fleet]
Conflicts=web@*.service
";

fn boot(prepare: impl FnOnce(&publisher::Publisher, &std::path::Path)) -> Bench {
    let bench = Bench::boot(3, prepare);
    bench.wait_for_table("three machines ask for updates", |seen| seen.len() == 3);
    bench.wait_for("three machines are listed", || match bench.fleet(0).machines()?.len() {
        3 => Ok(()),
        count => Err(format!("{count} are")),
    });
    bench
}

/// Waits until nobody holds the reboot lock.
fn wait_for_lock(bench: &Bench) {
    bench.wait_for("the reboot lock is free", || {
        let mut command = Command::new(etcd::proa());
        command.args(["locksmithctl", "--endpoint", &bench.cluster.machines[0].etcd_endpoint(), "status"]);
        let output = command.env_clear().output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let is_free = output.status.success() && text.starts_with("Available: 1\nMax: 1\n");
        if is_free { Ok(()) } else { Err(format!("{text}{}", String::from_utf8_lossy(&output.stderr))) }
    });
}

fn start_web(bench: &Bench, ports: &[u16]) {
    let file = bench.dir().join("web@.service");
    fs::write(&file, WEB).unwrap();
    let units = ["web@1.service", "web@2.service"];
    let paths = units.map(|unit| bench.dir().join(unit).display().to_string());
    bench.wait_for("two web servers are started", || {
        bench.fleet(0).ask(&["start", "--no-block", &paths[0], &paths[1]])
    });
    bench.wait_for("both answer", || match probe::ask_each(ports) {
        names if names == ["web-1", "web-2"] => Ok(()),
        names => Err(format!("{names:?}")),
    });
}

/// Every key below `load/`, read through one member.
fn read_all(bench: &Bench, number: usize) -> BTreeMap<String, String> {
    let client = Client::connect(&[bench.cluster.machines[number].etcd_endpoint()]).unwrap();
    let (key, range_end) = prefix_range(b"load/");
    let request = RangeRequest { key, range_end, ..RangeRequest::default() };
    let answer = bench.wait_for(&format!("machine-{} tells every key", number + 1), || {
        etcd::runtime().block_on(client.range(request.clone())).map_err(|error| error.to_string())
    });
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    answer.kvs.iter().map(|pair| (text(&pair.key), text(&pair.value))).collect()
}

fn check_load(bench: &Bench, report: &load::Report) {
    let count = report.acknowledged.len();
    let (gap, at) = report.longest_gap;
    bench.note(&format!(
        "{count} writes and {} reads, by member {:?}; {} sent twice; {} failed; longest gap between two writes \
         of a client {gap:?} (at {:.1} s)",
        report.reads,
        report.answered_by,
        report.retried.len(),
        report.failed.len(),
        at.as_secs_f64()
    ));
    report.retried.iter().for_each(|line| println!("    twice: {line}"));
    assert!(report.failed.is_empty(), "failed requests: {:#?}", report.failed);
    assert!(count > 0 && report.answered_by.iter().all(|count| *count > 0));
    assert!(gap < LONGEST_GAP, "a client's writes stood still for {gap:?}");
    for number in 0..3 {
        let stored = read_all(bench, number);
        for (key, value) in &report.acknowledged {
            assert_eq!(stored.get(key), Some(value), "the acknowledged write of {key}");
        }
    }
}

fn check_probe(bench: &Bench, report: &probe::Report) {
    let (slowest, at) = report.slowest;
    bench.note(&format!(
        "{} probes, answered by {:?}, {} failed; slowest answer {slowest:?} (at {:.1} s)",
        report.probes,
        report.answers,
        report.failed.len(),
        at.as_secs_f64()
    ));
    assert!(report.failed.is_empty(), "failed probes: {:#?}", report.failed);
    assert!(report.answers.keys().eq(["web-1", "web-2"]), "{:?}", report.answers);
}

#[test]
fn a_rolling_update_loses_no_request_and_no_answer() {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let new = version(1);
    let bench = boot(|publisher, image| publisher.make(image, &new, None));
    let ports: Vec<u16> = bench.cluster.machines.iter().map(|machine| machine.unit_port()).collect();
    start_web(&bench, &ports);
    let urls = bench.cluster.machines.iter().map(|machine| machine.etcd_endpoint()).collect();
    let load = load::start(urls, bench.start);
    let probe = probe::start(ports, bench.start);

    bench.publisher.offer(&new);
    bench.note(&format!("release {new} is offered"));
    for count in 1..=3 {
        bench.wait_for_table(&format!("{count} of 3 run it and find it good"), |seen| {
            let is_done = |one: &&Seen| one.version == new && one.status == "complete";
            seen.iter().filter(is_done).count() >= count
        });
    }
    wait_for_lock(&bench);
    let (load, probe) = (load.finish(), probe.finish());
    check_load(&bench, &load);
    check_probe(&bench, &probe);
    assert_eq!(bench.all_starts(), [(1, 1); 3], "each machine started each slot once");
    assert_eq!(bench.fleet(0).machines().unwrap().len(), 3);
}

#[test]
fn a_bad_release_restarts_one_machine_of_three() {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let bad: Vec<(String, &str)> = bad_releases("unit-dead,init-hang")
        .into_iter()
        .enumerate()
        .map(|(number, name)| (version(number + 1), name))
        .collect();
    let bench = boot(|publisher, image| {
        bad.iter().for_each(|(version, name)| publisher.make(image, version, Some(name)));
    });
    for (number, (version, name)) in bad.iter().enumerate() {
        // The usual policy offers a release to one machine first; without it all three
        // have it ready, and only the reboot lock stands before two of them.
        let safe_mode = number % 2 == 0;
        bench.publisher.omahactl(&["group", "set", "stable", &format!("safe-mode={safe_mode}")]);
        offer_bad_release(&bench, version, &format!("{name}, safe-mode={safe_mode}"));
        bench.publisher.omahactl(&["group", "clear", "stable"]);
    }
}

fn offer_bad_release(bench: &Bench, version: &str, what: &str) {
    let before = bench.all_starts();
    let versions = |seen: &[Seen]| seen.iter().map(|one| one.version.clone()).collect::<BTreeSet<_>>();
    let running = versions(&bench.seen());
    bench.publisher.offer(version);
    bench.note(&format!("release {version} is offered: {what}"));
    let failed = || bench.publisher.omahactl(&["failed", "list", "--no-legend"]);
    let line = || failed().lines().find(|line| line.starts_with(&format!("{version}\t"))).map(str::to_owned);
    let line = bench.wait_for("a machine is back and says why", || line().ok_or_else(failed));
    bench.note(&line);
    let halted = bench.publisher.omahactl(&["group", "list", "--no-legend"]);
    assert!(halted.contains("\thalted\t") && halted.contains(version), "{halted}");
    bench.note(halted.trim_end());
    wait_for_lock(bench);
    // A machine that is fetching a release or has it ready does not ask.
    let refusal = format!("version {version} failed on ");
    bench.wait_for_table("nobody has it any more", |seen| {
        seen.iter().all(|one| one.refusal.starts_with(&refusal))
    });

    let after = bench.all_starts();
    let starts: Vec<(usize, usize)> =
        before.iter().zip(&after).map(|(before, after)| (after.0 - before.0, after.1 - before.1)).collect();
    bench.note(&format!("starts of slots A and B since it was offered, by machine: {starts:?}"));
    let restarted: Vec<usize> = (0..3).filter(|number| starts[*number] != (0, 0)).collect();
    let [victim] = restarted[..] else { panic!("machines that were restarted: {restarted:?}") };
    assert_eq!(starts[victim].0, 1, "back within two starts");
    assert!(starts[victim].1 <= 1, "the bad release was started {} times", starts[victim].1);
    let named = line.split('\t').map(str::trim).filter(|cell| !cell.is_empty()).nth(1);
    assert_eq!(named.map(|id| bench.number_of(id)), Some(victim), "{line}");
    assert_eq!(versions(&bench.seen()), running);
}
