//! Machines of the image that users get, which follow an update server on this host.

#![allow(dead_code, reason = "each test uses its part")]

use std::{
    env,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use proa_qemu::{Accel, Cluster, Fleet, Image, Outside};

use super::{etcd::proa, publisher::Publisher};

/// Longer than a download, two starts and the wait for health take on a busy host.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// The releases of tests/releases that no machine may keep.
pub const BAD_RELEASES: [&str; 5] = ["kernel-crash", "init-crash", "init-hang", "store-dead", "unit-dead"];

/// The bad releases to try: those that `PROA_BAD_RELEASES` names (`all` for every one),
/// else `usual`.
pub fn bad_releases(usual: &str) -> Vec<&'static str> {
    let wanted = env::var("PROA_BAD_RELEASES").unwrap_or_else(|_| usual.to_owned());
    let known = |name: &str| BAD_RELEASES.into_iter().find(|known| *known == name);
    match wanted.as_str() {
        "all" => BAD_RELEASES.to_vec(),
        names => names.split(',').map(|name| known(name).unwrap_or_else(|| panic!("{name}?"))).collect(),
    }
}

/// The version of a test's release, above that of any image.
pub fn version(number: usize) -> String {
    format!("1000.0.{number}")
}

/// The image under test.
pub fn image_dir() -> PathBuf {
    PathBuf::from(env::var("PROA_IMAGE_DIR").unwrap_or_else(|_| "build".into()))
}

/// One machine as the update server sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub machine: String,
    pub version: String,
    pub status: String,
    /// Why it was offered nothing when it asked last; a dash when it was.
    pub refusal: String,
}

/// Machines, and who publishes releases for them.
pub struct Bench {
    pub cluster: Cluster,
    pub publisher: Publisher,
    pub start: Instant,
    // Last: the machines end before their disks go.
    dir: tempfile::TempDir,
}

impl Bench {
    /// Switches `size` machines on, once `prepare` has made its releases.
    pub fn boot(size: u8, prepare: impl FnOnce(&Publisher, &Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image_dir = image_dir();
        let image = Image::open(&image_dir).unwrap_or_else(|error| panic!("{error}"));
        let publisher = Publisher::start(dir.path());
        prepare(&publisher, &image_dir);
        let accel = Accel::find(&image, dir.path()).unwrap();
        let words = format!(
            "update.server={} update.group=stable update.reboot-strategy=etcd-lock update.poll-interval=5s \
             update.lock-interval=2s update.good-after=5s update.boot-deadline=90s proa.watchdog=30",
            publisher.url()
        );
        let mut cluster = Cluster::new(&image, accel, size, &words, Outside::Host, dir.path()).unwrap();
        let start = Instant::now();
        cluster.power_on().unwrap_or_else(|error| panic!("{error}"));
        let bench = Self { cluster, publisher, start, dir };
        bench.note(&format!("power on, {}", accel.name()));
        bench
    }

    /// A folder for what the test writes.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// One line of what happened when, for whoever reads the log of CI.
    pub fn note(&self, what: &str) {
        println!("{:6.1} s  {what}", self.start.elapsed().as_secs_f64());
    }

    /// Asks until there is an answer; else panics with the last reason and the consoles.
    pub fn wait_for<T>(&self, what: &str, mut ask: impl FnMut() -> Result<T, String>) -> T {
        let begun = Instant::now();
        loop {
            match ask() {
                Ok(answer) => {
                    self.note(what);
                    return answer;
                }
                Err(why) if begun.elapsed() > PATIENCE => {
                    let consoles = self.consoles();
                    panic!("{what}: not within {PATIENCE:?}: {why}\n{consoles}");
                }
                Err(_) => thread::sleep(Duration::from_millis(500)),
            }
        }
    }

    /// Waits until the server's table of machines is as `wanted`.
    pub fn wait_for_table(&self, what: &str, wanted: impl Fn(&[Seen]) -> bool) {
        self.wait_for(what, || {
            let seen = self.seen();
            if wanted(&seen) { Ok(()) } else { Err(format!("the server knows {seen:?}")) }
        });
    }

    /// The server's table of machines.
    pub fn seen(&self) -> Vec<Seen> {
        let table = self.publisher.omahactl(&["instance", "list", "--no-legend"]);
        let line = |line: &str| {
            // Cells are padded with tabs to their column's width, and never empty.
            let cells: Vec<&str> = line.split('\t').map(str::trim).filter(|cell| !cell.is_empty()).collect();
            let [machine, _, _, version, status, _, refusal] = cells[..] else { panic!("a row: {line:?}") };
            let [machine, version, status, refusal] = [machine, version, status, refusal].map(str::to_owned);
            Seen { machine, version, status, refusal }
        };
        table.lines().map(line).collect()
    }

    /// How often a machine started a slot, by what the first stage says of each. Where that
    /// starts the slot's own kernel, it says the same once more under that one.
    pub fn starts(&self, number: usize, letter: char) -> usize {
        let console = self.cluster.machines[number].serial_text();
        let said: Vec<&str> = console.lines().filter_map(|line| line.split("init: ").nth(1)).collect();
        let chosen = format!("slot {letter} (partition");
        let is_start =
            |pair: &&[&str]| pair[0].starts_with(&chosen) && !pair[1].starts_with("starting kernel");
        said.windows(2).filter(is_start).count()
    }

    /// The starts of both slots, of each machine.
    pub fn all_starts(&self) -> Vec<(usize, usize)> {
        let both = |number| (self.starts(number, 'A'), self.starts(number, 'B'));
        (0..self.cluster.machines.len()).map(both).collect()
    }

    /// The number of the machine with an id, by what its console said.
    pub fn number_of(&self, id: &str) -> usize {
        let said = |text: &str| text.contains(&format!("machine {}", &id[..8]));
        let found = self.cluster.machines.iter().position(|machine| said(&machine.serial_text()));
        found.unwrap_or_else(|| panic!("no console named the machine {id}"))
    }

    /// fleetctl towards one machine.
    pub fn fleet(&self, number: usize) -> Fleet {
        Fleet { proa: proa(), endpoint: self.cluster.machines[number].fleet_endpoint() }
    }

    fn consoles(&self) -> String {
        let tail = |text: String| {
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(40)..].join("\n")
        };
        let one = |machine: &proa_qemu::Machine| {
            format!("--- {}'s console ends:\n{}\n", machine.name(), tail(machine.serial_text()))
        };
        self.cluster.machines.iter().map(one).collect()
    }
}
