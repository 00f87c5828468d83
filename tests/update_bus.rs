//! The updater on a message bus, as third parties and a person meet it: a real
//! dbus-daemon, `busctl` and `gdbus`, and `update_engine_client`.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod message_bus;
mod update_support;

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use message_bus::{Bus, client};
use proa_update_model::slots::SlotFlags;
use update_support::{Machine, Publisher, Release, Server, Wish, offer, payload_part, respond, system};

const MIB: u64 = 1 << 20;
/// No question but the one that is asked for.
const NEVER: &str = "--poll-interval=24h";

struct World {
    folder: tempfile::TempDir,
    machine: Machine,
    release: Release,
}

fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let publisher = Publisher::new(&folder.path().join("keys"));
    let release = publisher.release(&system(MIB, 2), None, &Wish::default());
    let machine = Machine::new(&folder.path().join("machine"), 4, &publisher, &system(MIB, 1));
    World { folder, machine, release }
}

/// A server that has nothing new until it is told to.
fn shy(release: &Release) -> (Server, Arc<AtomicBool>) {
    let (release, has_it) = (Arc::new(release.clone()), Arc::new(AtomicBool::new(false)));
    let shared = Arc::clone(&has_it);
    let server = Server::start(move |got, stream| match got.method.as_str() {
        "POST" if shared.load(Ordering::SeqCst) => {
            respond(stream, "200 OK", "", offer(got, &release).as_bytes());
        }
        "POST" => respond(stream, "200 OK", "", update_support::nothing(got).as_bytes()),
        _ => payload_part(stream, got, &release.payload),
    });
    (server, has_it)
}

#[test]
fn third_parties_speak_with_the_updater_as_with_the_original() {
    let World { folder, machine, release } = world();
    let bus = Bus::start(folder.path());
    let server = Server::honest(release.clone());
    let mut engine = machine.start(&server, &[&bus.flag(), NEVER]);
    bus.wait_for_name(&mut engine);

    let shown = bus.busctl(&["introspect", message_bus::NAME, message_bus::PATH]).unwrap();
    for (member, kind, signature) in [
        (".AttemptUpdate", "method", "- -"),
        (".ResetStatus", "method", "- -"),
        (".Rollback", "method", "- -"),
        (".GetStatus", "method", "- xdssx"),
        (".StatusUpdate", "signal", "xdssx -"),
    ] {
        let line = shown.lines().find(|line| line.starts_with(member)).unwrap_or_default();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert!(words.join(" ").starts_with(&format!("{member} {kind} {signature}")), "{member}: {shown}");
    }
    // Names of the arguments, for whoever makes a client of it.
    let xml = bus.busctl(&["introspect", "--xml-interface", message_bus::NAME, message_bus::PATH]).unwrap();
    for name in ["last_checked_time", "progress", "current_operation", "new_version", "new_size"] {
        assert_eq!(xml.matches(&format!("name=\"{name}\"")).count(), 2, "{xml}");
    }

    let monitor = bus.monitor();
    assert_eq!(bus.call("GetStatus").unwrap().trim(), r#"xdssx 0 0 "UPDATE_STATUS_IDLE" "" 0"#);
    let refused = bus.call("Rollback").unwrap_err();
    assert!(refused.contains("the other slot holds no system that was found good"), "{refused}");
    assert_eq!(bus.call("AttemptUpdate").unwrap(), "");
    engine.wait_for("the update", |_| machine.is_updated());
    machine.assert_updated(&release);
    engine.wait_for("the signal of it", |_| monitor.seen().contains("UPDATED_NEED_REBOOT"));
    let signal = monitor.seen();
    let signal = signal.lines().rfind(|line| line.contains("UPDATED_NEED_REBOOT")).unwrap();
    let prefix = format!("{}: com.coreos.update1.Manager.StatusUpdate (int64 ", message_bus::PATH);
    assert!(signal.starts_with(&prefix), "{signal}");
    let end = format!("1.0, 'UPDATE_STATUS_UPDATED_NEED_REBOOT', '2.0.0', int64 {})", release.payload.len());
    assert!(signal.ends_with(&end), "{signal}");

    assert_eq!(bus.call("ResetStatus").unwrap(), "");
    assert_eq!(machine.flags(), [SlotFlags::new(1, 0, true), SlotFlags::new(0, 0, false)]);
    assert!(bus.call("GetStatus").unwrap().contains("UPDATE_STATUS_IDLE"));
}

#[test]
fn what_cannot_be_remembered_as_withdrawn_still_boots_next() {
    let World { folder, machine, release } = world();
    let bus = Bus::start(folder.path());
    let server = Server::honest(release.clone());
    let mut engine = machine.start(&server, &[&bus.flag(), NEVER]);
    bus.wait_for_name(&mut engine);
    bus.call("AttemptUpdate").unwrap();
    engine.wait_for("the end of it", |_| bus.call("GetStatus").unwrap().contains("NEED_REBOOT"));
    // As on a full /var: the file cannot be replaced. A release that was retired and is
    // still known as active would count as failed in the next boot, everywhere.
    let (state, aside) = (machine.folder.join("state"), machine.folder.join("aside"));
    fs::rename(&state, &aside).unwrap();
    fs::write(&state, "").unwrap();
    let refused = bus.call("ResetStatus").unwrap_err();
    assert!(refused.contains("cannot write "), "{refused}");
    fs::remove_file(&state).unwrap();
    fs::rename(&aside, &state).unwrap();
    machine.assert_updated(&release);
    assert!(bus.call("GetStatus").unwrap().contains("NEED_REBOOT"));

    bus.call("ResetStatus").unwrap();
    assert_eq!(machine.flags(), [SlotFlags::new(1, 0, true), SlotFlags::new(0, 0, false)]);
}

#[test]
fn a_bus_that_comes_late_or_again_or_is_taken_is_waited_for() {
    let World { folder, machine, release } = world();
    let mut bus = Bus::start(folder.path());
    bus.stop();
    let server = Server::honest(release);
    let mut engine = machine.start(&server, &[&bus.flag(), NEVER]);
    engine
        .wait_for("a word on the missing bus", |engine| engine.log().contains("nobody reaches the updater"));
    bus.restart();
    bus.wait_for_name(&mut engine);

    // As systemd does it when dbus.service is restarted.
    bus.stop();
    engine.wait_for("a word on the lost bus", |engine| engine.log().contains("it went away; tries again"));
    bus.restart();
    bus.wait_for_name(&mut engine);
    assert!(bus.call("GetStatus").unwrap().contains("UPDATE_STATUS_IDLE"));

    // A second updater on one bus says so, and takes over when the first ends.
    let second = Machine::new(
        &folder.path().join("second"),
        4,
        &Publisher::new(&folder.path().join("other-keys")),
        &system(MIB, 1),
    );
    let mut waiting = second.start(&server, &[&bus.flag(), NEVER]);
    let why = "another process has the name com.coreos.update1; tries again";
    waiting.wait_for("a word on the other owner", |waiting| waiting.log().contains(why));
    engine.kill();
    bus.wait_for_name(&mut waiting);
}

#[test]
fn a_person_updates_by_hand_and_hears_how_it_ended() {
    let World { folder, machine, release } = world();
    let mut bus = Bus::start(folder.path());
    let not_running =
        "update_engine_client: update_engine does not run; \"journalctl -u update-engine\" says why\n";
    for flag in ["-status", "-update", "-check_for_update", "-rollback", "-watch_for_updates"] {
        assert_eq!(client(&bus, &[flag]), (false, String::new(), not_running.to_owned()), "{flag}");
    }
    let (server, has_it) = shy(&release);
    let mut engine = machine.start(&server, &[&bus.flag(), NEVER]);
    bus.wait_for_name(&mut engine);

    let (done, out, error) = client(&bus, &["-status"]);
    let idle = "LAST_CHECKED_TIME=0\nPROGRESS=0.000000\nCURRENT_OP=UPDATE_STATUS_IDLE\n\
                NEW_VERSION=0.0.0\nNEW_SIZE=0\n";
    assert_eq!((done, out.as_str(), error.as_str()), (true, idle, ""));
    assert_eq!(client(&bus, &["--last_failure"]).1, "no release has failed on this machine\n");
    let (done, out, error) = client(&bus, &["-rollback"]);
    let want = "update_engine_client: the other slot holds no system that was found good\n";
    assert_eq!((done, out.as_str(), error.as_str()), (false, "", want));

    // There is nothing: the question is over before anybody can look.
    for _ in 0..5 {
        let (done, out, error) = client(&bus, &["-update"]);
        assert!(done && error.is_empty() && out.ends_with("NEW_VERSION=0.0.0\nNEW_SIZE=0\n"), "{out}{error}");
    }
    has_it.store(true, Ordering::SeqCst);
    let (done, out, error) = client(&bus, &["-update"]);
    assert!(done && error.is_empty(), "{out}{error}");
    assert!(out.contains("CURRENT_OP=UPDATE_STATUS_UPDATED_NEED_REBOOT\nNEW_VERSION=2.0.0\n"), "{out}");
    assert!(!out.contains(['\r', '#', '\x1b']), "a bar is for terminals: {out}");
    machine.assert_updated(&release);
    let (done, ..) = client(&bus, &["-reset_status"]);
    assert!(done);

    // One that goes wrong says why, at once and when it is asked for.
    drop(engine);
    let mut engine = machine.start(&server, &[&bus.flag(), NEVER, "--server=http://127.0.0.1:1/"]);
    bus.wait_for_name(&mut engine);
    let (done, _, error) = client(&bus, &["-update"]);
    let why = "cannot reach http://127.0.0.1:1/: Connection refused (os error 111)";
    assert_eq!((done, error), (false, format!("update_engine_client: {why}\n")));
    assert!(client(&bus, &["-status"]).1.ends_with(&format!("\nLAST_ERROR={why}\n")));
    assert!(engine.log().contains(why), "{}", engine.log());

    bus.stop();
    let (done, _, error) = client(&bus, &["-status"]);
    let want = format!("update_engine_client: cannot reach the message bus {}: ", bus.socket.display());
    assert!(!done && error.starts_with(&want) && error.lines().count() == 1, "{error}");
}

#[test]
fn on_a_terminal_an_update_is_a_bar() {
    let World { folder, machine, release } = world();
    let bus = Bus::start(folder.path());
    let server = Server::honest(release);
    let mut engine = machine.start(&server, &[&bus.flag(), NEVER]);
    bus.wait_for_name(&mut engine);
    let shown = bus.on_terminal("update_engine_client -update");
    assert!(shown.contains('\r') && !shown.contains("CURRENT_OP"), "{shown:?}");
    let last = shown.trim_end().rsplit('\r').next().unwrap_or_default();
    let bar = format!("[{}] 100 % updated need reboot 2.0.0", "#".repeat(40));
    assert!(last.starts_with(&bar), "{shown:?}");
}

#[test]
fn flags_that_there_are_not_are_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let bus = Bus::start(folder.path());
    for words in [&["-updat"][..], &["status"], &[], &["-status", "-update"], &["-status=false"], &["-"]] {
        let (done, out, error) = client(&bus, words);
        assert!(!done && out.is_empty() && error.lines().count() == 1, "{words:?}: {out}{error}");
        assert!(error.starts_with("update_engine_client: "), "{words:?}: {error}");
    }
}
