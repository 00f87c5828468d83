//! The updater killed at any moment: it goes on where the disk is known to have it,
//! and what it makes is the same, with little memory.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod update_support;

use std::time::{Duration, Instant};

use update_support::{Machine, Numbers, Publisher, Server, Wish, system};

const MIB: u64 = 1 << 20;
/// Large enough for some checkpoints.
const SYSTEM_BYTES: u64 = 48 * MIB;
/// What the updater may use, whatever the size of the system.
const PEAK_KIB_MAX: u64 = 16 << 10;

#[test]
fn an_update_that_is_killed_again_and_again_ends_with_the_same_hash() {
    let kills: u32 = std::env::var("PROA_UPDATE_KILLS").map_or(10, |kills| kills.parse().expect("a number"));
    let folder = tempfile::tempdir().unwrap();
    let publisher = Publisher::new(&folder.path().join("keys"));
    let running = system(MIB, 1);
    let release = publisher.release(&system(SYSTEM_BYTES, 2), None, &Wish::default());
    let machine = Machine::new(&folder.path().join("machine"), SYSTEM_BYTES / MIB + 2, &publisher, &running);
    let server = Server::honest(release.clone());

    let begun = Instant::now();
    let mut engine = machine.start(&server, &[]);
    engine.wait_for("an update without kills", |_| machine.is_updated());
    let whole = begun.elapsed();
    let mut peak_kib = engine.kill().expect("it still runs");
    machine.assert_updated(&release);

    let mut numbers = Numbers(0x5eed);
    let (mut updates, mut done) = (1, 0);
    machine.reset();
    while done < kills {
        let engine = machine.start(&server, &[]);
        let wait_ms = numbers.next() % (whole.as_millis() as u64).max(1);
        std::thread::sleep(Duration::from_millis(wait_ms));
        peak_kib = peak_kib.max(engine.kill().unwrap_or(0));
        done += 1;
        if machine.is_updated() {
            machine.assert_updated(&release);
            machine.reset();
            updates += 1;
        }
    }
    let mut engine = machine.start(&server, &[]);
    engine.wait_for("the end of the last update", |_| machine.is_updated());
    peak_kib = peak_kib.max(engine.kill().expect("it still runs"));
    machine.assert_updated(&release);
    println!("{done} kills, {updates} updates before the last, {whole:?} for one, peak {peak_kib} KiB");
    assert!(peak_kib <= PEAK_KIB_MAX, "{peak_kib} KiB of at most {PEAK_KIB_MAX}");
    let events = server.events.lock().unwrap();
    let of = |kind: u32| events.iter().filter(|event| event.kind.0 == kind && event.result.0 == 1).count();
    assert!(of(13) > 0 && of(14) > 0 && of(3) > 0, "download started, finished, update complete");
    assert!(events.iter().all(|event| event.error_code.is_none()), "{events:?}");
}

#[test]
fn a_difference_to_the_running_system_makes_the_same_slot() {
    let folder = tempfile::tempdir().unwrap();
    let publisher = Publisher::new(&folder.path().join("keys"));
    let old = system(4 * MIB, 1);
    let mut new = old.clone();
    new[MIB as usize..MIB as usize + 50_000].fill(7);
    let whole = publisher.release(&new, None, &Wish::default());
    let machine = Machine::new(&folder.path().join("machine"), 8, &publisher, &old);
    let mut engine = machine.start(&Server::honest(whole.clone()), &[]);
    engine.wait_for("the update", |_| machine.is_updated());
    machine.assert_updated(&whole);
}
