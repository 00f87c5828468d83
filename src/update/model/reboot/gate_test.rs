//! The gate, one refusal after the other.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use super::gate::{Drain, Limits, Sight, Step, Why, next};
use super::lease::{Intent, Phase, Reap, Record, Suspect};
use super::quorum::Voter;
use super::semaphore::Semaphore;
use super::window;

const LIMITS: Limits = Limits { drain_s: 600, held_s: 3600, foreign_s: 0 };

/// The parts of a sight that own something; a case changes what it is about.
struct World {
    pending: Option<&'static str>,
    good: Result<(), String>,
    window: window::State,
    semaphore: Semaphore,
    records: BTreeMap<String, Record>,
    verdicts: BTreeMap<String, String>,
    foreign_s: BTreeMap<String, u64>,
    is_cordoned_by_us: bool,
    drain: Drain,
    draining_s: u64,
    member: Result<Option<u64>, String>,
    voters: Vec<Voter>,
    leader: Option<u64>,
    running: &'static str,
    now: u64,
    limits: Limits,
}

fn voter(id: u64) -> Voter {
    Voter { id, is_healthy: true, is_leaving: false }
}

fn intent(phase: Phase, boot: &str) -> Intent {
    Intent {
        phase,
        version: "2".to_owned(),
        group: String::new(),
        member: 1,
        boot: boot.to_owned(),
        by: "locksmithd".to_owned(),
        since_unix_s: 1000,
    }
}

fn record(is_alive: bool, intent: Intent) -> Record {
    Record { is_alive, intent: Some(intent) }
}

/// Everything is ready: machine `a` has lock and claim, and is drained.
fn ready() -> World {
    World {
        pending: Some("2"),
        good: Ok(()),
        window: window::State::Open,
        semaphore: Semaphore::default().lock("a").unwrap(),
        records: [("a".to_owned(), record(true, intent(Phase::Held, "boot 1")))].into(),
        verdicts: BTreeMap::new(),
        foreign_s: BTreeMap::new(),
        is_cordoned_by_us: true,
        drain: Drain::Done,
        draining_s: 0,
        member: Ok(Some(1)),
        voters: vec![voter(1), voter(2), voter(3)],
        leader: Some(2),
        running: "1",
        now: 1000,
        limits: LIMITS,
    }
}

/// Nothing was begun yet.
fn fresh() -> World {
    World {
        semaphore: Semaphore::default(),
        records: BTreeMap::new(),
        is_cordoned_by_us: false,
        drain: Drain::NotAsked,
        ..ready()
    }
}

fn step(world: &World) -> Step {
    next(&Sight {
        me: "a",
        by: "locksmithd",
        boot: "boot 1",
        running: world.running,
        pending: world.pending,
        good: world.good.clone(),
        window: world.window,
        group: "",
        semaphore: &world.semaphore,
        records: &world.records,
        verdicts: &world.verdicts,
        foreign_s: &world.foreign_s,
        is_cordoned_by_us: world.is_cordoned_by_us,
        drain: world.drain.clone(),
        draining_s: world.draining_s,
        voters: &world.voters,
        member: world.member.clone(),
        leader: world.leader,
        now_unix_s: world.now,
        limits: world.limits,
    })
}

fn check(name: &str, base: fn() -> World, change: impl Fn(&mut World), want: Step) {
    let mut world = base();
    change(&mut world);
    assert_eq!(step(&world), want, "{name}");
}

fn failed() -> BTreeMap<String, String> {
    [("2".to_owned(), "kernel panic".to_owned())].into()
}

fn why_failed() -> Why {
    Why::Failed { version: "2".to_owned(), reason: "kernel panic".to_owned() }
}

#[test]
fn all_conditions_lead_to_the_reboot_and_each_missing_one_away_from_it() {
    let few = || Why::Quorum("the store would have 1 of 3 members, and needs 2".to_owned());
    let commit = || Step::Commit(intent(Phase::Rebooting, "boot 1"));
    check("all there", ready, |_| {}, commit());
    check("no cluster init", ready, |w| w.drain = Drain::Absent, commit());
    check("window", ready, |w| w.window = window::State::OpensIn(9), Step::LetGo(Why::Window(9)));
    check("failed", ready, |w| w.verdicts = failed(), Step::LetGo(why_failed()));
    check("nothing pending", ready, |w| w.pending = None, Step::LetGo(Why::NothingPending));
    check("member down", ready, |w| w.voters[1].is_healthy = false, Step::Rest(few()));
    check("member leaving", ready, |w| w.voters[2].is_leaving = true, Step::Rest(few()));
    check("not asked to leave", ready, |w| w.drain = Drain::NotAsked, Step::Drain);
    let moving = || Drain::Remaining("web.service".to_owned());
    let draining = || Why::Draining("web.service".to_owned());
    check("units there", ready, |w| w.drain = moving(), Step::Rest(draining()));
    check("leader", ready, |w| w.leader = Some(1), Step::HandOver(2));
    check("own lease over", ready, |w| w.records.get_mut("a").unwrap().is_alive = false, {
        Step::Claim(intent(Phase::Held, "boot 1"))
    });
    check("other target", ready, |w| w.pending = Some("3"), {
        Step::Claim(Intent { version: "3".to_owned(), ..intent(Phase::Held, "boot 1") })
    });
    let decided =
        |w: &mut World| w.records = [("a".into(), record(true, intent(Phase::Rebooting, "boot 1")))].into();
    check("decided", ready, decided, Step::Reboot);
    let silent = |w: &mut World| (decided(w), w.records.get_mut("a").unwrap().is_alive = false).1;
    check("decided long ago", ready, silent, Step::LetGo(Why::GivenUp));
}

#[test]
fn waiting_ends() {
    let moving = |w: &mut World| w.drain = Drain::Remaining("pinned.service".to_owned());
    let after = |seconds: u64| move |w: &mut World| (moving(w), w.draining_s = seconds).1;
    let draining = || Step::Rest(Why::Draining("pinned.service".to_owned()));
    check("still", ready, after(599), draining());
    check("enough", ready, after(600), Step::Commit(intent(Phase::Rebooting, "boot 1")));
    // Held for long, by a clock that may have jumped: the units have just been asked.
    let held = |seconds: u64| move |w: &mut World| (moving(w), w.now = 1000 + seconds).1;
    check("held, not draining", ready, held(3599), draining());
    let why = || Why::TooLong("units are leaving: pinned.service".to_owned());
    check("lock for others", ready, held(3600), Step::LetGo(why()));
    let for_ever = |w: &mut World| (after(9999)(w), w.limits.drain_s = 0).1;
    check("no limit", ready, for_ever, draining());
}

#[test]
fn what_is_not_known_lets_nothing_through() {
    let no_fleet = || Why::NoFleet("fleetd: no answer".to_owned());
    let mute =
        |w: &mut World| (w.drain, w.draining_s) = (Drain::Unknown("fleetd: no answer".to_owned()), 9999);
    check("fleetd is mute", ready, mute, Step::Rest(no_fleet()));
    let long = |w: &mut World| (mute(w), w.now = 4600).1;
    check("and stays so", ready, long, Step::LetGo(Why::TooLong(no_fleet().to_string())));

    let lost = |w: &mut World| w.member = Err("no such host".to_owned());
    let unknown = || Why::Quorum("no such host".to_owned());
    check("no member known", fresh, lost, Step::Rest(unknown()));
    let claimed_without = |w: &mut World| {
        lost(w);
        w.records.get_mut("a").unwrap().intent.as_mut().unwrap().member = 0;
    };
    check("nor when it was claimed", ready, claimed_without, Step::Rest(unknown()));
    check("known when it was claimed", ready, lost, Step::Commit(intent(Phase::Rebooting, "boot 1")));
    let and_one_down = |w: &mut World| (lost(w), w.voters[1].is_healthy = false).1;
    let few = "the store would have 1 of 3 members, and needs 2".to_owned();
    check("and one down", ready, and_one_down, Step::Rest(Why::Quorum(few)));
    check("and it leads", ready, |w| (lost(w), w.leader = Some(1)).1, Step::HandOver(2));
}

#[test]
fn a_cordon_that_outlived_the_lock_is_lifted_rather_than_waited_with() {
    let cordoned = |w: &mut World| (w.is_cordoned_by_us, w.voters[1].is_healthy) = (true, false);
    let few = "the store would have 1 of 3 members, and needs 2".to_owned();
    check("no quorum", fresh, cordoned, Step::LetGo(Why::Quorum(few)));
    let by_hand = |w: &mut World| {
        w.is_cordoned_by_us = true;
        w.semaphore = w.semaphore.lock("a").unwrap();
    };
    check("locked by hand", fresh, by_hand, Step::LetGo(Why::ByHand));
}

#[test]
fn the_lock_is_taken_after_everything_else_is_known() {
    let claim = || Step::Claim(intent(Phase::Held, "boot 1"));
    check("first", fresh, |_| {}, claim());
    check("window", fresh, |w| w.window = window::State::OpensIn(9), Step::Rest(Why::Window(9)));
    check("failed", fresh, |w| w.verdicts = failed(), Step::Rest(why_failed()));
    check("nothing", fresh, |w| w.pending = None, Step::Rest(Why::NothingPending));
    let mine = || BTreeMap::from([("a".to_owned(), record(true, intent(Phase::Held, "boot 1")))]);
    check("claimed", fresh, |w| w.records = mine(), Step::TakeLock);
    let other = |w: &mut World| {
        w.semaphore = w.semaphore.lock("b").unwrap();
        w.records.insert("b".to_owned(), record(true, intent(Phase::Held, "boot b")));
    };
    check("held", fresh, other, Step::Rest(Why::Locked("b".to_owned())));
    let too_late = |w: &mut World| {
        other(w);
        w.records.extend(mine());
    };
    check("another was faster", fresh, too_late, Step::LetGo(Why::Locked("b".to_owned())));
    check("max 0", fresh, |w| w.semaphore = w.semaphore.set_max(0).unwrap(), Step::Rest(Why::NoSlots));
    let by_hand = |w: &mut World| w.semaphore = w.semaphore.lock("a").unwrap();
    check("by hand", fresh, by_hand, Step::Rest(Why::ByHand));
    let ctl = |w: &mut World| {
        let intent = Intent { by: "locksmithctl".to_owned(), ..intent(Phase::Held, "boot 1") };
        w.records.insert("a".to_owned(), record(true, intent));
    };
    check("other program", fresh, ctl, Step::Rest(Why::OtherProgram));
    check("a cordon left behind", fresh, |w| (w.pending, w.is_cordoned_by_us) = (None, true), {
        Step::LetGo(Why::NothingPending)
    });
}

#[test]
fn a_machine_that_comes_back_accounts_for_its_reboot() {
    let back = || World {
        records: [("a".to_owned(), record(false, intent(Phase::Rebooting, "boot 0")))].into(),
        pending: None,
        running: "2",
        ..ready()
    };
    let missing = || Err("etcd.service is failed".to_owned());
    check("well", back, |_| {}, Step::LetGo(Why::Back));
    check("not yet", back, |w| w.good = missing(), {
        Step::Rest(Why::NotGood("etcd.service is failed".to_owned()))
    });
    let accused = Suspect {
        version: "2".to_owned(),
        machine: "a".to_owned(),
        reason: "machine a rebooted into it and came back with release 1".to_owned(),
        unix_s: 1000,
    };
    check("went back", back, |w| w.running = "1", Step::Accuse(accused));
    let known = |w: &mut World| (w.running = "1", w.verdicts = failed()).1;
    check("went back, known", back, known, Step::LetGo(Why::Back));
    let given_up = |w: &mut World| {
        w.records = [("a".into(), record(true, intent(Phase::GivenUp, "boot 0")))].into();
        w.good = missing();
    };
    check("given up", back, given_up, Step::LetGo(Why::GivenUp));
    let crashed = |w: &mut World| {
        w.records = [("a".into(), record(false, intent(Phase::Held, "boot 0")))].into();
        w.running = "1";
    };
    check("crashed before it decided", back, crashed, Step::LetGo(Why::Back));
}

#[test]
fn dead_holders_are_fenced_and_then_removed() {
    let b = |w: &mut World, record| {
        w.semaphore = Semaphore::default().lock("b").unwrap();
        w.records.insert("b".to_owned(), record);
    };
    let fence = |phase: Phase, reason: Option<&str>| {
        let suspect = reason.map(|reason| Suspect {
            version: "2".to_owned(),
            machine: "b".to_owned(),
            reason: reason.to_owned(),
            unix_s: 1000,
        });
        assert_ne!(phase, Phase::GivenUp);
        Step::Reap(Reap::Fence { holder: "b".to_owned(), intent: intent(Phase::GivenUp, "x"), suspect })
    };
    let lost = |phase| move |w: &mut World| b(w, record(false, intent(phase, "x")));
    check("draining", fresh, lost(Phase::Held), fence(Phase::Held, None));
    let reason = "machine b rebooted into it and was not heard of any more";
    check("rebooting", fresh, lost(Phase::Rebooting), fence(Phase::Rebooting, Some(reason)));
    let remove = || Step::Reap(Reap::Remove { holder: "b".to_owned() });
    check("fenced", fresh, lost(Phase::GivenUp), remove());
    let revenant = |w: &mut World| b(w, record(true, intent(Phase::GivenUp, "x")));
    check("fenced and there again", fresh, revenant, remove());
}

#[test]
fn foreign_holders_are_respected_as_long_as_was_asked_for() {
    let foreign = |limit: u64| {
        move |w: &mut World| {
            w.semaphore = Semaphore::default().lock("old").unwrap();
            w.foreign_s = [("old".to_owned(), 100)].into();
            w.limits.foreign_s = limit;
        }
    };
    check("for ever", fresh, foreign(0), Step::Rest(Why::Locked("old".to_owned())));
    check("longer", fresh, foreign(101), Step::Rest(Why::Locked("old".to_owned())));
    check("no longer", fresh, foreign(100), Step::Reap(Reap::Remove { holder: "old".to_owned() }));
}
