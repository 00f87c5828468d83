//! Going back to the other slot by hand: what boots next, what is remembered, and how
//! the decision is taken back.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod message_bus;
mod update_support;

use std::{fs, process::Command};

use message_bus::{Bus, client};
use proa_update_model::slots::SlotFlags;
use update_support::{Engine, Machine, Publisher, Release, Server, Wish, proa, system};

const MIB: u64 = 1 << 20;
const NEVER: &str = "--poll-interval=24h";

/// A machine that has installed 2.0.0, booted into it and found it good.
struct World {
    bus: Bus,
    machine: Machine,
    release: Release,
    server: Server,
    _folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let publisher = Publisher::new(&folder.path().join("keys"));
        let release = publisher.release(&system(MIB, 2), None, &Wish::default());
        let machine = Machine::new(&folder.path().join("machine"), 4, &publisher, &system(MIB, 1));
        let server = Server::honest(release.clone());
        let bus = Bus::start(folder.path());
        let world = Self { bus, machine, release, server, _folder: folder };
        let mut engine = world.start(NEVER);
        assert_eq!(client(&world.bus, &["-update"]).2, "");
        engine.wait_for("the update", |_| world.machine.is_updated());
        drop(engine);
        world.machine.boots("B", &world.release);
        world.slotctl(&["good", "B"]);
        drop(world.start(NEVER));
        world
    }

    /// Starts the updater and waits until it takes orders.
    fn start(&self, interval: &str) -> Engine {
        let mut engine = self.machine.start(&self.server, &[&self.bus.flag(), interval]);
        engine.wait_for("the updater on the bus", |_| {
            let (is_there, ..) = client(&self.bus, &["-status"]);
            is_there
        });
        engine.wait_for("where it is", |engine| engine.log().contains("INFO asks "));
        engine
    }

    fn slotctl(&self, words: &[&str]) -> String {
        let output = Command::new(proa())
            .args(["slotctl", "--disk"])
            .arg(&self.machine.disk)
            .args(words)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The slot that `slotctl show` says will boot.
    fn next(&self) -> String {
        let shown = self.slotctl(&["show"]);
        let lines: Vec<&str> = shown.lines().filter(|line| line.contains("next")).collect();
        assert_eq!(lines.len(), 1, "{shown}");
        lines[0].split_whitespace().next().unwrap().to_owned()
    }

    fn kept(&self) -> String {
        fs::read_to_string(self.machine.folder.join("state/state.json")).unwrap()
    }

    fn roll_back(&self) {
        let want = (true, "the other system boots next\n".to_owned(), String::new());
        assert_eq!(client(&self.bus, &["-rollback"]), want);
    }
}

fn both_good() -> [SlotFlags; 2] {
    [SlotFlags::new(1, 0, true), SlotFlags::new(2, 0, true)]
}

#[test]
fn what_was_rolled_back_is_not_installed_again() {
    let world = World::new();
    let mut engine = world.start(NEVER);
    assert_eq!(world.machine.flags(), both_good());
    world.roll_back();
    // A has to show again that it is good, or falls back to B.
    assert_eq!(world.machine.flags(), [SlotFlags::new(3, 1, false), SlotFlags::new(2, 0, true)]);
    assert!(world.next().contains('A'), "{}", world.slotctl(&["show"]));
    let status = client(&world.bus, &["-status"]).1;
    assert!(status.contains("CURRENT_OP=UPDATE_STATUS_UPDATED_NEED_REBOOT\nNEW_VERSION=1.0.0\n"), "{status}");

    // It outlives the updater, which would install into the slot that boots next otherwise.
    drop(engine);
    engine = world.start("--poll-interval=150ms");
    let status = client(&world.bus, &["-status"]).1;
    assert!(status.contains("CURRENT_OP=UPDATE_STATUS_UPDATED_NEED_REBOOT\nNEW_VERSION=1.0.0\n"), "{status}");
    drop(engine);

    world.machine.boots("A", &world.release);
    world.slotctl(&["good", "A"]);
    engine = world.start("--poll-interval=150ms");
    let why = "version 2.0.0 is not installed again: it failed here: a person rolled back from it";
    engine.wait_for("the offer to be refused", |engine| engine.log().contains(why));
    assert_eq!(world.machine.flags(), [SlotFlags::new(3, 0, true), SlotFlags::new(2, 0, true)]);
    let failure = client(&world.bus, &["-last_failure"]).1;
    assert!(failure.contains("a person rolled back from it") && failure.contains("2.0.0"), "{failure}");
}

#[test]
fn a_rollback_is_taken_back_by_reset_status() {
    let world = World::new();
    let _engine = world.start(NEVER);
    world.roll_back();
    assert_eq!(client(&world.bus, &["-reset_status"]), (true, String::new(), String::new()));
    assert!(world.next().contains('B'), "{}", world.slotctl(&["show"]));
    // The other one has its proof again: it is what B falls back to.
    assert_eq!(world.machine.flags(), [SlotFlags::new(3, 0, true), SlotFlags::new(4, 0, true)]);
    assert!(client(&world.bus, &["-status"]).1.contains("CURRENT_OP=UPDATE_STATUS_IDLE\n"));
    assert_eq!(client(&world.bus, &["-last_failure"]).1, "no release has failed on this machine\n");
    assert!(!world.kept().contains("rolled back"), "{}", world.kept());
}

#[test]
fn a_rollback_to_what_does_not_run_any_more_is_told() {
    let world = World::new();
    let engine = world.start(NEVER);
    world.roll_back();
    drop(engine);
    // Its try is spent, and the machine is back.
    world.slotctl(&["set", "A", "--tries=0"]);
    let engine = world.start(NEVER);
    assert!(engine.log().contains("version 1.0.0 was to run again, as a person decided, and does not"));
    assert!(client(&world.bus, &["-status"]).1.contains("CURRENT_OP=UPDATE_STATUS_IDLE\n"));
    assert!(world.next().contains('B'), "{}", world.slotctl(&["show"]));
}

#[test]
fn a_rollback_that_cannot_be_remembered_changes_nothing() {
    let world = World::new();
    let _engine = world.start(NEVER);
    // As on a full /var: the file cannot be replaced.
    let state = world.machine.folder.join("state");
    let aside = world.machine.folder.join("aside");
    fs::rename(&state, &aside).unwrap();
    fs::write(&state, "").unwrap();
    let (done, out, error) = client(&world.bus, &["-rollback"]);
    let want = format!("update_engine_client: cannot write {}/state.json: ", state.display());
    assert!(!done && out.is_empty() && error.starts_with(&want) && error.lines().count() == 1, "{error}");
    assert_eq!(world.machine.flags(), both_good());
    assert!(client(&world.bus, &["-status"]).1.contains("CURRENT_OP=UPDATE_STATUS_IDLE\n"));

    // There is room again.
    fs::remove_file(&state).unwrap();
    fs::rename(&aside, &state).unwrap();
    world.roll_back();
}
