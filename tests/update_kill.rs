//! The updater killed at any moment: it goes on where the disk is known to have it,
//! and what it makes is the same, with little memory. So it is with the whole system
//! and with the difference to the one that runs; where the difference does not fit
//! what runs, the whole is taken instead.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod update_support;

use std::{
    fs,
    os::unix::fs::FileExt as _,
    path::Path,
    sync::OnceLock,
    time::{Duration, Instant},
};

use proa_release::inspect::inspect;
use update_support::{DIFFERENCE, Machine, Numbers, Publisher, Release, Server, WHOLE, Wish, system};

const MIB: u64 = 1 << 20;
/// Large enough for some checkpoints.
const SYSTEM_BYTES: u64 = 48 * MIB;
/// Enough for two checkpoints; sorting more for the difference takes longer.
const CHANGED_BYTES: u64 = 20 * MIB;
/// What the updater may use, whatever the size of the system.
const PEAK_KIB_MAX: u64 = 16 << 10;

/// Kills the updater again and again, at moments of the whole length of an update,
/// and holds it to what it makes, to its memory, and to what it tells.
fn kill_again_and_again(machine: &Machine, server: &Server, release: &Release) {
    let kills: u32 = std::env::var("PROA_UPDATE_KILLS").map_or(10, |kills| kills.parse().expect("a number"));
    let begun = Instant::now();
    let mut engine = machine.start(server, &[]);
    engine.wait_for("an update without kills", |_| machine.is_updated());
    let whole = begun.elapsed();
    let mut peak_kib = engine.kill().expect("it still runs");
    machine.assert_updated(release);

    let mut numbers = Numbers(0x5eed);
    let (mut updates, mut done) = (1, 0);
    machine.reset();
    while done < kills {
        let engine = machine.start(server, &[]);
        let wait_ms = numbers.next() % (whole.as_millis() as u64).max(1);
        std::thread::sleep(Duration::from_millis(wait_ms));
        peak_kib = peak_kib.max(engine.kill().unwrap_or(0));
        done += 1;
        if machine.is_updated() {
            machine.assert_updated(release);
            machine.reset();
            updates += 1;
        }
    }
    let mut engine = machine.start(server, &[]);
    // That it is complete is told when it is, and only the last one is waited for.
    engine.wait_for("the end of the last update", |_| machine.is_updated() && was_told_all(server));
    peak_kib = peak_kib.max(engine.kill().expect("it still runs"));
    machine.assert_updated(release);
    println!("{done} kills, {updates} updates before the last, {whole:?} for one, peak {peak_kib} KiB");
    assert!(peak_kib <= PEAK_KIB_MAX, "{peak_kib} KiB of at most {PEAK_KIB_MAX}");
    assert_no_failure_was_told(server);
}

/// Whether the server heard that a download started and finished and that an update is
/// complete.
fn was_told_all(server: &Server) -> bool {
    let events = server.events.lock().unwrap();
    let has = |kind: u32| events.iter().any(|event| event.kind.0 == kind && event.result.0 == 1);
    has(13) && has(14) && has(3)
}

fn assert_no_failure_was_told(server: &Server) {
    let events = server.events.lock().unwrap();
    assert!(events.iter().all(|event| event.error_code.is_none()), "{events:?}");
}

#[test]
fn an_update_that_is_killed_again_and_again_ends_with_the_same_hash() {
    let folder = tempfile::tempdir().unwrap();
    let publisher = Publisher::new(&folder.path().join("keys"));
    let running = system(MIB, 1);
    let release = publisher.release(&system(SYSTEM_BYTES, 2), None, &Wish::default());
    let machine = Machine::new(&folder.path().join("machine"), SYSTEM_BYTES / MIB + 2, &publisher, &running);
    let server = Server::honest(release.clone());
    kill_again_and_again(&machine, &server, &release);
}

/// The hashes of the larger system's blocks alone are 1 MiB more.
#[test]
fn memory_does_not_grow_with_the_system() {
    let peak_kib = |mib: u64| {
        let folder = tempfile::tempdir().unwrap();
        let publisher = Publisher::new(&folder.path().join("keys"));
        // Nearly all of it is zeros: the steps are few, and quickly made.
        let mut data = vec![0; (mib * MIB) as usize];
        let start = system(MIB, 2);
        data[..start.len()].copy_from_slice(&start);
        data[40..48].copy_from_slice(&(mib * MIB).to_le_bytes());
        let release = publisher.release(&data, None, &Wish::default());
        let machine = Machine::new(&folder.path().join("machine"), mib + 4, &publisher, &start);
        let mut engine = machine.start(&Server::honest(release.clone()), &[]);
        engine.wait_for("the update", |_| machine.is_updated());
        let peak = engine.kill().expect("it still runs");
        machine.assert_updated(&release);
        peak
    };
    let (small, large) = (peak_kib(32), peak_kib(160));
    println!("peak {small} KiB for 32 MiB, {large} KiB for 160 MiB");
    assert!(large < small + 640, "{small} KiB for 32 MiB and {large} KiB for 160 MiB");
}

/// What changes from a release to the next: some bytes here and there, what moves by
/// whole blocks and by less, what is new, what is gone.
fn changed(old: &[u8]) -> Vec<u8> {
    let part = |from: u64, count: u64| (from * MIB) as usize..((from + count) * MIB) as usize;
    let mut new = old.to_vec();
    new[part(2, 3)].iter_mut().step_by(4999).for_each(|byte| *byte = byte.wrapping_add(1));
    new[part(6, 2)].copy_from_slice(&old[part(12, 2)]);
    let start = part(9, 2).start;
    new[part(9, 2)].copy_from_slice(&old[start + 4321..start + 4321 + (2 * MIB) as usize]);
    new[part(14, 1)].copy_from_slice(&system(MIB, 99));
    new[part(16, 1)].fill(0);
    new
}

/// Version 1.0.0, and a release that has the difference to it.
struct TwoReleases {
    _folder: tempfile::TempDir,
    publisher: Publisher,
    old: Vec<u8>,
    new: Release,
}

/// Made once: sorting takes long without the optimiser.
fn two_releases() -> &'static TwoReleases {
    static MADE: OnceLock<TwoReleases> = OnceLock::new();
    MADE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let publisher = Publisher::new(&folder.path().join("keys"));
        let old = system(CHANGED_BYTES, 1);
        let origin = publisher.release(&old, None, &Wish { version: "1.0.0", ..Wish::default() });
        let new = publisher.release(&changed(&old), Some(&origin), &Wish::default());
        TwoReleases { _folder: folder, publisher, old, new }
    })
}

impl TwoReleases {
    fn machine(&self, folder: &Path, running: &[u8]) -> Machine {
        Machine::new(folder, CHANGED_BYTES / MIB + 2, &self.publisher, running)
    }

    fn difference_bytes(&self) -> u64 {
        self.new.difference.as_ref().expect("it has one").1.len() as u64
    }
}

#[test]
fn a_difference_to_the_running_system_makes_the_same_slot() {
    let folder = tempfile::tempdir().unwrap();
    let made = two_releases();
    // Each kind of step is in it, or this would show little.
    let steps = inspect(&made.publisher.folder.join(DIFFERENCE)).unwrap();
    for kind in ["SourceCopy", "SourceZstdDiff", "Zero"] {
        let count = steps.lines().find_map(|line| line.trim().strip_prefix(kind)?.split_whitespace().next());
        assert!(count.is_some_and(|count| count != "0"), "{kind}:\n{steps}");
    }
    let machine = made.machine(folder.path(), &made.old);
    let server = Server::honest(made.new.clone());
    let mut engine = machine.start(&server, &[]);
    engine.wait_for("the update", |_| machine.is_updated());
    drop(engine);
    machine.assert_updated(&made.new);
    let fetched = server.fetched(DIFFERENCE);
    println!("fetched {fetched} bytes, where the whole has {}", made.new.payload.len());
    assert_eq!((fetched, server.fetched(WHOLE)), (made.difference_bytes(), 0));

    machine.reset();
    let server = Server::honest(made.new.clone());
    kill_again_and_again(&machine, &server, &made.new);
    assert_eq!(server.fetched(WHOLE), 0, "no kill makes it take the whole");
}

/// A kill while the flags were written can leave one copy of the partition table as
/// it was before.
#[test]
fn a_start_mends_the_copy_of_the_table_that_is_behind() {
    let folder = tempfile::tempdir().unwrap();
    let publisher = Publisher::new(&folder.path().join("keys"));
    let release = publisher.release(&system(MIB, 2), None, &Wish::default());
    let machine = Machine::new(&folder.path().join("machine"), 4, &publisher, &system(MIB, 1));
    let server = Server::honest(release.clone());
    let at = fs::metadata(&machine.disk).unwrap().len() - 33 * 512;
    let backup = || fs::read(&machine.disk).unwrap().split_off(at as usize);
    let before = backup();
    let mut engine = machine.start(&server, &[]);
    engine.wait_for("the update", |_| machine.is_updated());
    drop(engine);
    assert_ne!(backup(), before, "the flags are in both copies");

    let disk = fs::OpenOptions::new().write(true).open(&machine.disk).unwrap();
    disk.write_all_at(&before, at).unwrap();
    let mut engine = machine.start(&server, &[]);
    engine.wait_for("the other copy", |_| backup() != before);
    engine.wait_for("the first question", |engine| engine.log().contains("asks "));
    drop(engine);
    machine.assert_updated(&release);
}

/// What runs has the version that the difference starts from, and is another system
/// all the same: the whole is taken, and nothing is told as a failure.
#[test]
fn a_difference_that_does_not_fit_what_runs_gives_way_to_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    let made = two_releases();
    let machine = |name: &str, running: &[u8]| made.machine(&folder.path().join(name), running);
    let mut other_build = made.old.clone();
    other_build[CHANGED_BYTES as usize - 1] ^= 1;
    let copied = machine("rotten-where-it-is-copied", &made.old);
    copied.rot(MIB / 2);
    let patched = machine("rotten-where-it-is-patched", &made.old);
    patched.rot(3 * MIB);
    let difference = made.difference_bytes();
    let cases = [(machine("other-build", &other_build), 0), (copied, difference), (patched, difference)];
    for (machine, difference) in cases {
        let server = Server::honest(made.new.clone());
        let mut engine = machine.start(&server, &[]);
        engine.wait_for("the update", |_| machine.is_updated() && was_told_all(&server));
        let log = engine.log();
        drop(engine);
        machine.assert_updated(&made.new);
        assert_eq!(server.fetched(DIFFERENCE), difference, "{log}");
        assert_eq!(server.fetched(WHOLE), made.new.payload.len() as u64, "{log}");
        assert!(log.contains("the difference does not fit what runs here"), "{log}");
        assert_no_failure_was_told(&server);
    }
}
