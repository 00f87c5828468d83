//! How fast an update is applied, against `dd` of the same bytes into the same
//! slot: same machine, same run, in alternating rounds.
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
    process::{Command, Stdio},
    time::Instant,
};

use update_support::{Machine, Publisher, Server, Wish, system};

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

fn main() {
    let folder = tempfile::tempdir_in(std::env::var_os("PROA_BENCH_DIR").unwrap_or(".".into())).unwrap();
    let publisher = Publisher::new(&folder.path().join("keys"));
    let release = publisher.release(&system(SYSTEM_BYTES, 2), None, &Wish::default());
    let machine = Machine::new(&folder.path().join("machine"), SLOT_BYTES / MIB, &publisher, &system(MIB, 1));
    let server = Server::honest(release.clone());
    let bytes = folder.path().join("bytes");
    fs::write(&bytes, &release.slot).unwrap();
    let (mut applied, mut copied) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        machine.reset();
        fill(&machine);
        let mut engine = machine.start(&server, &[]);
        engine.wait_for("the transfer", |engine| engine.log().contains(" is offered"));
        let begun = Instant::now();
        engine.wait_for("the update", |_| machine.is_updated());
        applied.push(begun.elapsed().as_secs_f64());
        let (own, kernel) = engine.processor_s().unwrap_or_default();
        let peak = engine.kill().unwrap_or(0);
        machine.assert_updated(&release);

        machine.reset();
        fill(&machine);
        let seek = format!("seek={}", SLOT_B / MIB);
        let begun = Instant::now();
        let dd = Command::new("dd")
            .arg(format!("if={}", bytes.display()))
            .arg(format!("of={}", machine.disk.display()))
            .args(["bs=1M", "conv=notrunc,fsync", &seek])
            .stderr(Stdio::null())
            .status()
            .unwrap();
        copied.push(begun.elapsed().as_secs_f64());
        assert!(dd.success());
        println!(
            "round {round}: update {:.2} s (processor {own:.2} + {kernel:.2} s, peak {peak} KiB), dd {:.2} s",
            applied[round - 1],
            copied[round - 1]
        );
    }
    let median = |mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    let (applied, copied) = (median(applied), median(copied));
    let speed = |seconds: f64| SYSTEM_BYTES as f64 / MIB as f64 / seconds;
    println!(
        "update {:.0} MiB/s, dd {:.0} MiB/s: {:.0} % of dd",
        speed(applied),
        speed(copied),
        100.0 * copied / applied
    );
}
