//! What a person may do wrong to a machine that updates: each is told in one line, in
//! the log and by `update_engine_client`, and nothing is lost by it.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod message_bus;
mod update_support;

use std::{fs, process::Command};

use message_bus::{Bus, client};
use proa_update_model::{
    omaha::{AppResponse, CheckAnswer, Request, Response},
    slots::SlotFlags,
};
use update_support::{Engine, Machine, Publisher, Server, Wish, respond, system};

const MIB: u64 = 1 << 20;
const NEVER: &str = "--poll-interval=24h";

struct World {
    bus: Bus,
    machine: Machine,
    server: Server,
    _folder: tempfile::TempDir,
}

impl World {
    /// A release that expires then, on an honest server.
    fn new(expires_unix_s: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let publisher = Publisher::new(&folder.path().join("keys"));
        let wish = Wish { expires_unix_s, ..Wish::default() };
        let server = Server::honest(publisher.release(&system(MIB, 2), None, &wish));
        let machine = Machine::new(&folder.path().join("machine"), 4, &publisher, &system(MIB, 1));
        Self { bus: Bus::start(folder.path()), machine, server, _folder: folder }
    }

    fn start(&self, more: &[&str]) -> Engine {
        let bus = self.bus.flag();
        let flags: Vec<&str> = [&bus, NEVER].into_iter().chain(more.iter().copied()).collect();
        let mut engine = self.machine.start(&self.server, &flags);
        engine.wait_for("the updater on the bus", |_| client(&self.bus, &["-status"]).0);
        engine.wait_for("the end of its start", |engine| engine.log().contains("INFO asks "));
        engine
    }

    /// `-update` says that this is wrong, and so do `-status` and the log, each in one line.
    fn assert_told(&self, engine: &Engine, why: &str) {
        let (done, _, error) = client(&self.bus, &["-update"]);
        assert_eq!((done, error), (false, format!("update_engine_client: {why}\n")));
        let status = client(&self.bus, &["-status"]).1;
        assert!(status.ends_with(&format!("\nLAST_ERROR={why}\n")), "{status}");
        let log = engine.log();
        assert!(log.lines().any(|line| line.ends_with(&format!(" WARN {why}"))), "{why}: {log}");
    }

    fn assert_untouched(&self) {
        assert_eq!(self.machine.flags(), [SlotFlags::new(1, 0, true), SlotFlags::new(0, 0, false)]);
    }

    fn assert_updates(&self) {
        let (done, _, error) = client(&self.bus, &["-update"]);
        assert!(done && self.machine.is_updated(), "{error}");
    }
}

#[test]
fn without_a_server_nobody_is_asked_and_a_person_hears_what_to_set() {
    let world = World::new(u64::from(u32::MAX));
    for server in ["--server=", "--server=disabled"] {
        // Were it asked for by the clock, there would be a warning at each.
        let mut engine = world.start(&[server, "--poll-interval=100ms"]);
        assert!(engine.log().contains("asks nobody: no update server is set"), "{}", engine.log());
        world.assert_told(
            &engine,
            "no update server is set: give SERVER=URL in /etc/proa/update.conf, or update.server=URL on the \
             kernel command line",
        );
        engine.wait_for("one warning", |engine| engine.log().matches("WARN no update server").count() == 1);
    }
    world.assert_untouched();
}

#[test]
fn a_group_that_the_server_does_not_know_is_named() {
    let mut world = World::new(u64::from(u32::MAX));
    world.server = Server::start(|got, stream| {
        let request = Request::parse(&got.body).unwrap();
        let app = AppResponse {
            app_id: request.apps[0].app_id.clone(),
            status: "error-unknownApplicationOrGroup".to_owned(),
            ping: true,
            update_check: Some(CheckAnswer::Error("error-internal".to_owned())),
            events: request.apps[0].events.len(),
        };
        let answer = Response { server: "test".to_owned(), day_elapsed_s: 0, apps: vec![app] };
        respond(stream, "200 OK", "", answer.render().as_bytes());
    });
    let engine = world.start(&["--group=stabel"]);
    assert!(engine.log().contains("for group stabel"), "{}", engine.log());
    world.assert_told(
        &engine,
        "the update server says error-unknownApplicationOrGroup: it has no group \"stabel\"; GROUP= in \
         update.conf or update.group= on the kernel command line names another",
    );
    world.assert_untouched();
}

#[test]
fn a_disk_with_one_slot_keeps_it() {
    let world = World::new(u64::from(u32::MAX));
    let deleted = Command::new("/usr/sbin/sfdisk")
        .args(["--quiet", "--delete"])
        .arg(&world.machine.disk)
        .arg("4")
        .status()
        .expect("/usr/sbin/sfdisk, of the package fdisk");
    assert!(deleted.success());
    let engine = world.start(&[]);
    world.assert_told(&engine, "the disk has no second slot");
    assert_eq!(world.machine.flags(), [SlotFlags::new(1, 0, true)]);
}

#[test]
fn a_disk_that_is_gone_is_named_and_used_again_when_it_is_back() {
    let world = World::new(u64::from(u32::MAX));
    let engine = world.start(&[]);
    let (disk, aside) = (&world.machine.disk, world.machine.folder.join("aside"));
    fs::rename(disk, &aside).unwrap();
    world.assert_told(
        &engine,
        &format!("cannot open disk {}: No such file or directory (os error 2)", disk.display()),
    );
    fs::rename(&aside, disk).unwrap();
    world.assert_updates();
}

#[test]
fn a_full_var_is_told_and_nothing_is_installed() {
    let world = World::new(u64::from(u32::MAX));
    // As when there is no room: the new file cannot be written.
    let block = world.machine.folder.join("state/state.new");
    fs::create_dir_all(&block).unwrap();
    let engine = world.start(&[]);
    let why = format!(
        "cannot write {}/state/state.json: Is a directory (os error 21)",
        world.machine.folder.display()
    );
    assert!(engine.log().contains(&why), "it starts and says so: {}", engine.log());
    world.assert_told(&engine, &why);
    world.assert_untouched();
    fs::remove_dir(&block).unwrap();
    world.assert_updates();
}

#[test]
fn a_clock_that_was_ahead_once_is_forgotten_when_a_person_says_so() {
    let world = World::new(2_500_000_000);
    let state = world.machine.folder.join("state");
    fs::create_dir_all(&state).unwrap();
    fs::write(state.join("state.json"), r#"{"last_checked_unix_s":2600000000}"#).unwrap();
    let engine = world.start(&[]);
    world.assert_told(
        &engine,
        "the release expired on 2049-03-22 04:26:40 and it is 2052-05-22 14:13:20, UTC, as this machine's \
         clock was once; was that wrong, update_engine_client -reset_status forgets it",
    );
    world.assert_untouched();
    assert_eq!(client(&world.bus, &["-reset_status"]), (true, String::new(), String::new()));
    world.assert_updates();
}
