//! How fast an update is applied, the whole system and the difference to the one that
//! runs, against `dd` of the same bytes into the same slot: same machine, same run, in
//! alternating rounds.
//!
//! What is timed of the update is everything between the first byte of the
//! payload and the flags: fetching, unpacking, writing, flushing, reading back,
//! hashing, the tree. What is timed of `dd` is writing the slot's bytes, in pieces as
//! large as the updater's, and flushing them. The file that is the disk has no holes,
//! as a disk has none: to fill one is work of the file system that it lies on.

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

/// Fills the passive slot, on the medium alone.
fn fill(machine: &Machine) {
    let filled = Command::new("dd")
        .args(["if=/dev/zero", "bs=1M", "conv=notrunc,fsync", "oflag=direct"])
        .arg(format!("of={}", machine.disk.display()))
        .args([format!("seek={}", SLOT_B / MIB), format!("count={}", SLOT_BYTES / MIB)])
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(filled.success());
}

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
    (seconds, format!("{seconds:.2} s (processor {own:.2} + {kernel:.2} s, peak {peak} KiB)"))
}

/// Copying the slot's bytes to where an update writes them, in seconds.
fn copy(machine: &Machine, bytes: &Path) -> f64 {
    machine.reset();
    fill(machine);
    let seek = format!("seek={}", SLOT_B / MIB);
    let begun = Instant::now();
    let dd = Command::new("dd")
        .arg(format!("if={}", bytes.display()))
        .arg(format!("of={}", machine.disk.display()))
        .args(["bs=1M", "conv=notrunc,fsync", &seek])
        .stderr(Stdio::null())
        .status()
        .unwrap();
    let seconds = begun.elapsed().as_secs_f64();
    assert!(dd.success());
    seconds
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
    let mut times = [const { Vec::new() }; 3];
    for round in 1..=ROUNDS {
        let (seconds, of_whole) = update(&machine, &servers[0], &whole);
        times[0].push(seconds);
        let (seconds, of_difference) = update(&machine, &servers[1], &both);
        times[1].push(seconds);
        let seconds = copy(&machine, &bytes);
        times[2].push(seconds);
        println!("round {round}: whole {of_whole}, difference {of_difference}, dd {seconds:.2} s");
    }
    let [whole, difference, copied] = times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    });
    let speed = |seconds: f64| SYSTEM_BYTES as f64 / MIB as f64 / seconds;
    println!("dd {:.0} MiB/s", speed(copied));
    for (name, seconds) in [("whole", whole), ("difference", difference)] {
        println!("{name} {:.0} MiB/s: {:.0} % of dd", speed(seconds), 100.0 * copied / seconds);
    }
}
