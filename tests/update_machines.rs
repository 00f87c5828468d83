//! Updates of machines, on the image that users get: one takes a release and keeps it,
//! takes a bad one and gives it back, and does not take that one again.
//!
//! `PROA_IMAGE_DIR` names the folder of the image (build), `PROA_BIN` the binary whose
//! commands serve and ask, `PROA_BAD_RELEASES` the bad releases to try, by the names
//! of tests/releases (init-crash; `all` for every one).

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod etcd;
mod omahad;
mod publisher;

use proa_qemu::{Accel, Cluster, Image, Outside};
use publisher::Publisher;
use std::{
    env,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

/// Longer than a download, two starts and the wait for health take on a busy host.
const PATIENCE: Duration = Duration::from_secs(300);

const BAD_RELEASES: [&str; 5] = ["kernel-crash", "init-crash", "init-hang", "store-dead", "unit-dead"];

/// One line of what happened when, for whoever reads the log of CI.
fn note(start: Instant, what: &str) {
    println!("{:6.1} s  {what}", start.elapsed().as_secs_f64());
}

struct Bench {
    cluster: Cluster,
    publisher: Publisher,
    image_dir: PathBuf,
    start: Instant,
    // Last: the machines end before their disks go.
    _dir: tempfile::TempDir,
}

impl Bench {
    fn boot(size: u8) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image_dir = PathBuf::from(env::var("PROA_IMAGE_DIR").unwrap_or_else(|_| "build".into()));
        let image = Image::open(&image_dir).unwrap_or_else(|error| panic!("{error}"));
        let publisher = Publisher::start(dir.path());
        let accel = Accel::find(&image, dir.path()).unwrap();
        let words = format!(
            "update.server={} update.group=stable update.reboot-strategy=etcd-lock update.poll-interval=5s \
             update.lock-interval=2s update.good-after=5s update.boot-deadline=90s proa.watchdog=30",
            publisher.url()
        );
        let mut cluster = Cluster::new(&image, accel, size, &words, Outside::Host, dir.path()).unwrap();
        let start = Instant::now();
        cluster.power_on().unwrap_or_else(|error| panic!("{error}"));
        note(start, &format!("power on, {}", accel.name()));
        Self { cluster, publisher, image_dir, start, _dir: dir }
    }

    /// Waits until the server's table of machines says what `wanted` looks for.
    fn wait_for(&self, what: &str, wanted: impl Fn(&str) -> bool) {
        let begun = Instant::now();
        loop {
            let seen = self.publisher.omahactl(&["instance", "list", "--no-legend"]);
            if wanted(&seen) {
                return note(self.start, what);
            }
            if begun.elapsed() > PATIENCE {
                let console = self.cluster.machines[0].serial_text();
                let tail: Vec<&str> = console.lines().rev().take(60).collect();
                let tail = tail.into_iter().rev().collect::<Vec<_>>().join("\n");
                panic!(
                    "{what}: not within {PATIENCE:?}; the server knows:\n{seen}\nthe console ends:\n{tail}"
                );
            }
            thread::sleep(Duration::from_millis(500));
        }
    }

    /// How often a slot was started, by what the first stage says of each. Where that
    /// starts the slot's own kernel, it says the same once more under that one.
    fn starts(&self, letter: char) -> usize {
        let console = self.cluster.machines[0].serial_text();
        let said: Vec<&str> = console.lines().filter_map(|line| line.split("init: ").nth(1)).collect();
        let chosen = format!("slot {letter} (partition");
        let is_start =
            |pair: &&[&str]| pair[0].starts_with(&chosen) && !pair[1].starts_with("starting kernel");
        said.windows(2).filter(is_start).count()
    }
}

/// The words of the table's line of the only machine.
fn is(seen: &str, version: &str, status: &str) -> bool {
    let words: Vec<&str> = seen.split('\t').map(str::trim).filter(|word| !word.is_empty()).collect();
    words.contains(&version) && words.contains(&status)
}

#[test]
fn a_good_release_stays_and_a_bad_one_is_given_back_once() {
    let bench = Bench::boot(1);
    let image = bench.image_dir.clone();
    bench.wait_for("the machine asks for updates", |seen| seen.contains("0.1.0"));
    bench.publisher.publish(&image, "0.1.1", Some("kernel-other"));
    note(bench.start, "release 0.1.1 is published, with another kernel");
    bench.wait_for("it runs 0.1.1 and finds it good", |seen| is(seen, "0.1.1", "complete"));
    assert_eq!(bench.starts('A'), 1);

    let wanted = env::var("PROA_BAD_RELEASES").unwrap_or_else(|_| "init-crash".into());
    let bad: Vec<&str> = if wanted == "all" { BAD_RELEASES.to_vec() } else { wanted.split(',').collect() };
    for (number, name) in bad.into_iter().enumerate() {
        let version = format!("0.1.{}", number + 2);
        let before = (bench.starts('A'), bench.starts('B'));
        bench.publisher.publish(&image, &version, Some(name));
        note(bench.start, &format!("release {version} is published: {name}"));
        let failed = || bench.publisher.omahactl(&["failed", "list", "--no-legend"]);
        bench.wait_for("it is back on 0.1.1 and says why", |_| failed().contains(&version));
        note(bench.start, failed().lines().find(|line| line.contains(&version)).unwrap());
        let halted = bench.publisher.omahactl(&["group", "list", "--no-legend"]);
        assert!(halted.contains("halted"), "{halted}");
        // The server offers it to nobody, and the machine would not take it.
        let starts = (bench.starts('A') - before.0, bench.starts('B') - before.1);
        assert_eq!(starts.1, 1, "back within two starts");
        assert!(starts.0 <= 1, "the bad release was started {} times", starts.0);
        bench.publisher.omahactl(&["group", "clear", "stable"]);
    }
}
