//! Two machines with a real systemd each: where units run, and what a bad moment must not do to them.
//!
//! Needs root and systemd on this host; without them it says so and passes, since the
//! cluster test in QEMU covers the same ground.

#![allow(clippy::unwrap_used)]

mod fleetctl_support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use fleetctl_support::{Machine, Store, machine_id, stderr, wait_until};

/// Whether namespaces, control groups and a systemd can be had here.
fn can_run_machines() -> bool {
    let unshare = Command::new("unshare")
        .args([
            "--mount",
            "--pid",
            "--fork",
            "--cgroup",
            "--mount-proc",
            "mount",
            "-t",
            "tmpfs",
            "tmpfs",
            "/run",
        ])
        .status();
    let groups = ["/sys/fs/cgroup", "/sys/fs/cgroup/systemd"]
        .iter()
        .map(|root| Path::new(root).join(format!("proa-probe-{}", std::process::id())))
        .filter(|group| fs::create_dir(group).is_ok() && fs::remove_dir(group).is_ok())
        .count();
    unshare.is_ok_and(|status| status.success()) && groups > 0 && Path::new("/lib/systemd/systemd").exists()
}

/// A unit that writes a line each time it is started, and runs on.
fn diary(root: &Path, name: &str, rest: &str) -> (String, PathBuf) {
    let path = root.join(format!("{name}.service"));
    let diary = root.join(format!("{name}.starts"));
    let command = format!("echo started >>{}; exec sleep 100000", diary.display());
    fs::write(&path, format!("[Service]\nExecStart=/bin/sh -c '{command}'\n{rest}")).unwrap();
    (path.display().to_string(), diary)
}

fn starts(diary: &Path) -> usize {
    fs::read_to_string(diary).unwrap_or_default().lines().count()
}

fn row(machine: &Machine, unit: &str) -> Vec<String> {
    let output =
        machine.fleetctl(&["list-units", "--no-legend", "--full", "--fields=machine,active,sub,unit"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|line| line.ends_with(&format!("\t{unit}"))).unwrap_or_default();
    line.split_whitespace().map(str::to_owned).collect()
}

fn is_active_on(asked: &Machine, unit: &str, number: u8) -> bool {
    let row = row(asked, unit);
    row.len() == 4
        && row[0] == format!("{}/10.77.0.{number}", machine_id(number))
        && row[1..3] == ["active", "running"]
}

#[test]
fn units_run_move_and_survive() {
    if !can_run_machines() {
        eprintln!("skipped: needs root, unshare(1), writable control groups and systemd");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let mut store = Store::start(root.path());
    let first = Machine::with_systemd(root.path(), 1, &store);
    let second = Machine::with_systemd(root.path(), 2, &store);
    wait_until("two machines are listed", || {
        first.fleetctl(&["list-machines", "--no-legend"]).stdout.iter().filter(|byte| **byte == b'\n').count()
            == 2
    });

    a_unit_starts_stops_and_goes(&first, root.path());
    let (path, pinned) = diary(root.path(), "pinned", "[X-Fleet]\nMachineMetadata=number=1\n");
    let said = second.fleetctl_ok(&["start", &path]);
    assert_eq!(said, "Unit pinned.service launched on 00000001.../10.77.0.1\n");
    wait_until("pinned is active on 1", || is_active_on(&second, "pinned.service", 1));
    status_is_fetched_from_the_machine_that_has_it(&second);
    failures_are_told(&first, root.path());

    a_drained_machine_is_emptied_without_a_gap(&first, root.path());

    let (path, free) = diary(root.path(), "free", "");
    let said = first.fleetctl_ok(&["start", &path]);
    assert_eq!(said, "Unit free.service launched on 00000002.../10.77.0.2\n", "the machine with fewer units");

    fleetd_ends_and_units_run_on(&first, &second, &[&pinned, &free]);
    the_store_ends_and_units_run_on(&mut store, &first, &[&pinned, &free]);
    let second = a_lost_machine_gives_its_units_away(root.path(), &store, &first, second, &free);
    assert_eq!(starts(&pinned), 1, "nothing of all this concerned it");
    drop((first, second));
}

fn a_unit_starts_stops_and_goes(machine: &Machine, root: &Path) {
    let (path, diary) = diary(root, "simple", "[Install]\nWantedBy=default.target\n");
    let said = machine.fleetctl_ok(&["start", &path]);
    assert!(said.starts_with("Unit simple.service launched on 0000000"), "{said}");
    wait_until("it is active", || {
        row(machine, "simple.service").get(1).is_some_and(|active| active == "active")
    });
    assert_eq!(starts(&diary), 1);
    let said = machine.fleetctl_ok(&["stop", "simple"]);
    assert!(said.starts_with("Unit simple.service loaded on 0000000"), "{said}");
    assert_eq!(
        row(machine, "simple.service")[1..3],
        ["inactive", "dead"],
        "stop returns when it has stopped"
    );
    machine.fleetctl_ok(&["start", "simple"]);
    wait_until("it has started again", || starts(&diary) == 2);
    assert_eq!(machine.fleetctl_ok(&["unload", "simple"]), "Unit simple.service inactive\n");
    assert!(row(machine, "simple.service").is_empty());
    machine.fleetctl_ok(&["load", "simple"]);
    assert_eq!(row(machine, "simple.service")[1..3], ["inactive", "dead"]);
    machine.fleetctl_ok(&["start", "simple"]);
    wait_until("it has started a third time", || starts(&diary) == 3);
    fs::write(&path, fs::read_to_string(&path).unwrap().replace("100000", "200000")).unwrap();
    machine.fleetctl_ok(&["start", "--replace", &path]);
    wait_until("the new version has started", || starts(&diary) == 4);
    assert_eq!(machine.fleetctl_ok(&["destroy", "simple"]), "Destroyed simple.service\n");
    assert!(row(machine, "simple.service").is_empty());
}

/// The unit is up on the other machine before it ends on this one.
fn a_drained_machine_is_emptied_without_a_gap(machine: &Machine, root: &Path) {
    let path = root.join("flow.service");
    let diary = root.join("flow.diary");
    let note = |word: &str| format!("echo {word} >>{}", diary.display());
    let command = format!("trap \"{}; exit\" TERM; {}; sleep 100000 & wait", note("down"), note("up"));
    fs::write(&path, format!("[Service]\nExecStart=/bin/sh -c '{command}'\n")).unwrap();
    let said = machine.fleetctl_ok(&["start", &path.display().to_string()]);
    assert_eq!(said, "Unit flow.service launched on 00000002.../10.77.0.2\n", "the machine with fewer units");

    let said = machine.fleetctl_ok(&["drain", "00000002...", "--reason", "a look inside"]);
    assert_eq!(said, "Drained 00000002.../10.77.0.2\n");
    wait_until("it has ended there", || fs::read_to_string(&diary).unwrap().ends_with("down\n"));
    assert_eq!(fs::read_to_string(&diary).unwrap(), "up\nup\ndown\n");
    wait_until("flow is active on 1", || is_active_on(machine, "flow.service", 1));
    let listed = machine.fleetctl_ok(&["list-machines", "--no-legend", "--fields=ip,state"]);
    assert_eq!(listed, "10.77.0.1\tready\n10.77.0.2\tdraining\n");

    // Nobody takes what is for one machine only, and it says so.
    let output = machine.fleetctl(&["drain", "self", "--block-attempts=8"]);
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(text.contains("is not empty after 8 looks: "), "{text}");
    assert!(text.contains("pinned.service: every machine that would do is cordoned"), "{text}");
    let output = machine.fleetctl(&["cordon", "0000"]);
    assert_eq!(stderr(&output), "\"0000\" is the beginning of 2 ids; give more of its digits\n");
    assert_eq!(machine.fleetctl_ok(&["uncordon", "self"]), "Uncordoned this machine\n");
    assert_eq!(machine.fleetctl_ok(&["uncordon", "00000002"]), "Uncordoned 00000002.../10.77.0.2\n");
    machine.fleetctl_ok(&["destroy", "flow"]);
}

fn status_is_fetched_from_the_machine_that_has_it(other: &Machine) {
    let output = other.fleetctl(&["status", "pinned"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}{}", stderr(&output));
    assert!(text.contains("Active: active (running)"), "{text}");
    let output = other.fleetctl(&["journal", "nothing"]);
    assert_eq!(stderr(&output), "Unit nothing.service: unit does not exist\n");
    assert_eq!(output.status.code(), Some(1));
}

fn failures_are_told(machine: &Machine, root: &Path) {
    let path = root.join("broken.service");
    fs::write(&path, "[Service]\nExecStart=/nowhere/program\n").unwrap();
    let output = machine.fleetctl(&["start", &path.display().to_string()]);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("Unit broken.service is loaded failed failed on 0000000"), "{text}");
    assert_eq!(machine.fleetctl_ok(&["destroy", "broken"]), "Destroyed broken.service\n");
}

fn fleetd_ends_and_units_run_on(first: &Machine, second: &Machine, diaries: &[&Path]) {
    for signal in ["-TERM", "-KILL"] {
        first.signal_fleetd(signal);
        second.signal_fleetd(signal);
        wait_until("both are active again", || {
            is_active_on(first, "pinned.service", 1) && is_active_on(second, "free.service", 2)
        });
    }
    for diary in diaries {
        assert_eq!(starts(diary), 1, "{}", diary.display());
    }
}

fn the_store_ends_and_units_run_on(store: &mut Store, machine: &Machine, diaries: &[&Path]) {
    store.down();
    wait_until("fleetd says that the store is away", || {
        machine.log().matches("units stay as they are").count() > 0
    });
    // Longer than leases live: nothing is to be seen, so nothing can be waited for.
    thread::sleep(Duration::from_secs(6));
    // A fleetd that starts without a store finds its units as well.
    machine.signal_fleetd("-KILL");
    thread::sleep(Duration::from_secs(2));
    store.up();
    wait_until("both are active", || {
        is_active_on(machine, "pinned.service", 1) && is_active_on(machine, "free.service", 2)
    });
    for diary in diaries {
        assert_eq!(starts(diary), 1, "{}: {}", diary.display(), machine.log());
    }
}

fn a_lost_machine_gives_its_units_away(
    root: &Path,
    store: &Store,
    first: &Machine,
    mut second: Machine,
    diary: &Path,
) -> Machine {
    second.kill();
    wait_until("the unit of the lost machine runs on the other", || is_active_on(first, "free.service", 1));
    assert_eq!(starts(diary), 2);
    drop(second);
    let second = Machine::with_systemd(root, 2, store);
    wait_until("the machine is back", || {
        let output = second.fleetctl(&["list-machines", "--no-legend"]);
        String::from_utf8_lossy(&output.stdout).lines().count() == 2
    });
    assert!(is_active_on(&second, "free.service", 1), "a unit that is well stays");
    second
}
