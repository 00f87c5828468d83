//! How fast an update is, the whole system and the difference to the one that runs,
//! against `dd` of the same bytes into the same slot: same machine, same run, in
//! alternating rounds.
//!
//! What is timed of the update is everything between the first byte of the
//! payload and the flags: fetching, unpacking, writing, flushing, reading back,
//! hashing, the tree. What is timed of `dd` is writing the slot's bytes, in pieces as
//! large as the updater's, and flushing them: through the page cache and past it, the
//! faster counts. A second time is that of another `dd`, which reads the slot back: of
//! the two together an update can take less, since it does both at once. The file that
//! is the disk has no holes, as a disk has none: to fill one is work of the file system
//! that it lies on.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[path = "../update_support/mod.rs"]
mod update_support;

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use update_support::{Machine, Publisher, Release, Server, Wish, system};

const MIB: u64 = 1 << 20;
const SYSTEM_BYTES: u64 = 160 * MIB;
const ROUNDS: usize = 5;
/// A slot is larger by its hash tree.
const SLOT_BYTES: u64 = SYSTEM_BYTES + 8 * MIB;
/// Where the passive slot begins.
const SLOT_B: u64 = MIB + SLOT_BYTES;

/// Of the system, what another build changes: the last part, some bytes here and there.
const CHANGED_BYTES: u64 = 16 * MIB;

fn rebuilt(old: &[u8]) -> Vec<u8> {
    let mut new = old.to_vec();
    let changed = &mut new[(SYSTEM_BYTES - CHANGED_BYTES) as usize..];
    changed.iter_mut().step_by(499).for_each(|byte| *byte = byte.wrapping_add(1));
    new
}

/// One update from its offer to the flags, in seconds.
fn update(machine: &Machine, server: &Server, release: &Release) -> (f64, String) {
    machine.reset();
    fill(machine);
    let mut engine = machine.start(server, &[]);
    engine.wait_for("the transfer", |engine| engine.log().contains(" is offered"));
    let begun = Instant::now();
    engine.wait_for("the update", |_| machine.is_updated());
    let seconds = begun.elapsed().as_secs_f64();
    let (own, kernel) = engine.processor_s().unwrap_or_default();
    let peak = engine.kill().unwrap_or(0);
    machine.assert_updated(release);
    (seconds, format!("{seconds:.3} s (processor {own:.2} + {kernel:.2} s, peak {peak} KiB)"))
}

fn dd(arguments: &str) {
    let done = Command::new("dd").args(arguments.split(' ')).stderr(Stdio::null()).status().unwrap();
    assert!(done.success());
}

/// Fills the passive slot, on the medium alone.
fn fill(machine: &Machine) {
    let (disk, slot, count) = (machine.disk.display(), SLOT_B / MIB, SLOT_BYTES / MIB);
    dd(&format!("if=/dev/zero of={disk} bs=1M count={count} seek={slot} conv=notrunc,fsync oflag=direct"));
}

/// Copying the slot's bytes to where an update writes them, and then reading them back
/// as well, in seconds.
fn copy(machine: &Machine, bytes: &Path, how: &str) -> [f64; 2] {
    machine.reset();
    fill(machine);
    // What is copied is in memory, as what is fetched is.
    assert!(!fs::read(bytes).unwrap().is_empty());
    let (bytes, disk) = (bytes.display(), machine.disk.display());
    let (slot, count) = (SLOT_B / MIB, SYSTEM_BYTES / MIB);
    let begun = Instant::now();
    dd(&format!("if={bytes} of={disk} bs=1M count={count} seek={slot} conv=notrunc,fsync{how}"));
    let written = begun.elapsed().as_secs_f64();
    dd(&format!("if={disk} of=/dev/null bs=1M count={count} skip={slot} iflag=direct"));
    [written, begun.elapsed().as_secs_f64()]
}

/// What is measured, in seconds: the whole system, the difference, `dd`, and `dd` with
/// another that reads back.
type Times = [f64; 4];

fn tell(rounds: &[Times]) {
    let median = |which: usize| {
        let mut times: Vec<f64> = rounds.iter().map(|times| times[which]).collect();
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    let speed = |seconds: f64| SYSTEM_BYTES as f64 / MIB as f64 / seconds;
    let (copied, read_back) = (median(2), median(3));
    println!("dd {:.0} MiB/s, with reading back {:.0} MiB/s", speed(copied), speed(read_back));
    for (which, name) in [(0, "whole"), (1, "difference")] {
        let seconds = median(which);
        let (of_copied, of_both) = (100.0 * copied / seconds, 100.0 * read_back / seconds);
        println!(
            "{name} {:.0} MiB/s: {of_copied:.0} % of dd, {of_both:.0} % of dd with reading back",
            speed(seconds)
        );
    }
}

fn main() {
    let folder = tempfile::tempdir_in(std::env::var_os("PROA_BENCH_DIR").unwrap_or(".".into())).unwrap();
    let publisher = Publisher::new(&folder.path().join("keys"));
    let old = system(SYSTEM_BYTES, 1);
    let origin = publisher.release(&old, None, &Wish { version: "1.0.0", ..Wish::default() });
    let both = publisher.release(&rebuilt(&old), Some(&origin), &Wish::default());
    let whole = Release { difference: None, ..both.clone() };
    let machine = Machine::new(&folder.path().join("machine"), SLOT_BYTES / MIB, &publisher, &old);
    let servers = [Server::honest(whole.clone()), Server::honest(both.clone())];
    let bytes = folder.path().join("bytes");
    fs::write(&bytes, &whole.slot).unwrap();
    let mut rounds = Vec::new();
    for round in 1..=ROUNDS {
        let (of_whole, whole_text) = update(&machine, &servers[0], &whole);
        let (of_difference, difference_text) = update(&machine, &servers[1], &both);
        let [cached, direct] = ["", " oflag=direct"].map(|how| copy(&machine, &bytes, how));
        let [written, read] = [0, 1].map(|which| cached[which].min(direct[which]));
        println!("round {round}: whole {whole_text}, difference {difference_text}");
        println!("         dd {written:.3} s, with reading back {read:.3} s");
        rounds.push([of_whole, of_difference, written, read]);
    }
    tell(&rounds);
}
