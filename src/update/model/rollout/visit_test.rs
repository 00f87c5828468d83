#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use super::*;
use crate::omaha::{AppRequest, Event, EventResult, EventType, UpdateCheck};

/// A Monday, noon.
const NOON: u64 = 1_795_435_200;

/// A group whose channel names 2.0.
fn records(settings: &str) -> Records {
    let mut group = Group::following("stable");
    for pair in settings.split(';').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap();
        group.set(name, value).unwrap();
    }
    Records {
        group_name: "g".into(),
        group,
        target: Some(Target { version: "2.0".into(), minimum: String::new(), is_missing: false }),
        releases: BTreeSet::from(["1.0".to_owned(), "2.0".to_owned(), "3.0".to_owned()]),
        ..Records::default()
    }
}

fn asking(version: &str) -> AppRequest {
    let update_check = Some(UpdateCheck::default());
    AppRequest { version: version.into(), update_check, ..AppRequest::default() }
}

/// `3/0 44 x` is an event with a code and a failed version.
fn telling(version: &str, words: &str) -> AppRequest {
    let words: Vec<&str> = words.split(' ').collect();
    let (kind, result) = words[0].split_once('/').unwrap();
    let event = Event {
        kind: EventType(kind.parse().unwrap()),
        result: EventResult(result.parse().unwrap()),
        error_code: words.get(1).map(|code| code.parse().unwrap()),
        failed_version: words.get(2).copied().unwrap_or_default().into(),
        previous_version: "1.0".into(),
        ..Event::default()
    };
    AppRequest { version: version.into(), events: vec![event], ..AppRequest::default() }
}

fn go(records: &mut Records, machine: &str, app: &AppRequest, now_unix_s: u64) -> Outcome {
    let outcome = visit(records, &Visit { app, address: "10.0.0.1", now_unix_s }, machine);
    records.rollout = outcome.rollout.clone();
    records.instance = None;
    let failed = outcome.failed.iter().map(|failed| (failed.version.clone(), failed.clone()));
    records.failed.extend(failed);
    outcome
}

/// What a machine of version 1.0 is told at noon.
fn ask(records: &mut Records, machine: &str) -> String {
    match go(records, machine, &asking("1.0"), NOON).offer.unwrap() {
        Ok(()) => "offered".into(),
        Err(refusal) => refusal.to_string(),
    }
}

#[test]
fn policies_say_no() {
    #[rustfmt::skip]
    let rows = [
        ("",                                           "offered"),
        ("paused=true",                                "the group is paused"),
        ("percentage=0",                               "not among the first 0 %"),
        ("office-hours=Mon 13:00-17:00",               "outside of Mon 13:00-17:00"),
        ("office-hours=Mon 13:00-17:00 +01:00",        "offered"),
        ("rate=1/1h",                                  "offered"),
    ];
    for (settings, want) in rows {
        assert_eq!(ask(&mut records(settings), "m1"), want, "{settings}");
    }
}

#[test]
fn versions_say_no() {
    let mut world = records("");
    #[rustfmt::skip]
    let rows = [
        ("1.0",      "",    "",    "offered"),
        ("2.0.0",    "",    "",    "up to date"),
        ("3.0",      "",    "",    "up to date"),
        ("2.0-rc.1", "",    "",    "offered"),
        ("",         "",    "",    "version \"\" cannot be compared"),
        ("1.0",      "1.",  "",    "it asks for versions 1.*"),
        ("1.0",      "2.",  "",    "offered"),
        ("1.0",      "",    "1.1", "version 1.1 or newer is needed first"),
        ("1.1",      "",    "1.1", "offered"),
    ];
    for (version, prefix, minimum, want) in rows {
        world.target = Some(Target { version: "2.0".into(), minimum: minimum.into(), is_missing: false });
        let mut app = asking(version);
        app.update_check = Some(UpdateCheck { target_version_prefix: prefix.into() });
        let got = go(&mut world, "m1", &app, NOON).offer.unwrap();
        let got = got.map_or_else(|refusal| refusal.to_string(), |()| "offered".into());
        assert_eq!(got, want, "{version} {prefix} {minimum}");
    }
    world.target = Some(Target { version: "2.0".into(), minimum: String::new(), is_missing: true });
    assert_eq!(ask(&mut world, "m1"), "the payload of 2.0 is on no server");
    world.target = None;
    assert_eq!(ask(&mut world, "m1"), "channel stable has no release");
}

#[test]
fn one_machine_goes_first_until_it_runs_the_version() {
    let mut world = records("max-concurrent=2");
    assert_eq!(ask(&mut world, "m1"), "offered");
    assert_eq!(ask(&mut world, "m2"), "m1 goes first");
    assert_eq!(ask(&mut world, "m1"), "offered", "its answer may have got lost");
    for told in ["13/1", "14/1", "3/1", "3/9"] {
        go(&mut world, "m1", &telling("1.0", told), NOON);
        assert_eq!(ask(&mut world, "m2"), "m1 goes first", "after {told}");
    }
    go(&mut world, "m1", &telling("2.0", "3/2"), NOON);
    assert_eq!(ask(&mut world, "m2"), "offered");
    assert_eq!(ask(&mut world, "m3"), "offered");
    assert_eq!(ask(&mut world, "m4"), "2 machines are updating");
    // The next version begins anew.
    world.target = Some(Target { version: "3.0".into(), minimum: String::new(), is_missing: false });
    assert_eq!(ask(&mut world, "m2"), "offered");
    assert_eq!(ask(&mut world, "m3"), "m2 goes first");
}

#[test]
fn a_failure_halts_the_group_and_bars_the_version() {
    for told in ["3/0", "3/0 44", "3/0 44 2.0", "3/0 44 2.0.0", "3/0 5 1.0", "3/0 0", "3/0 268435468"] {
        let mut world = records("safe-mode=false");
        assert_eq!(ask(&mut world, "m1"), "offered");
        let outcome = go(&mut world, "m1", &telling("1.0", told), NOON + 1);
        let [failed] = outcome.failed.as_slice() else { panic!("{told}: {:?}", outcome.failed) };
        assert_eq!((failed.version.as_str(), failed.machine.as_str()), ("2.0", "m1"), "{told}");
        assert_eq!(outcome.instance.status, Status::Failed);
        assert!(ask(&mut world, "m2").starts_with("version 2.0 failed on m1: "), "{told}");
        // Another group has heard of it, too.
        world.rollout = Rollout::default();
        assert!(ask(&mut world, "m2").starts_with("version 2.0 failed on m1: "), "{told}");
        // The next version waits for the operator.
        world.rollout = outcome.rollout.clone();
        world.target = Some(Target { version: "3.0".into(), minimum: String::new(), is_missing: false });
        assert!(ask(&mut world, "m2").starts_with("the group is halted: version 2.0 failed: "), "{told}");
        world.rollout.halt = None;
        assert_eq!(ask(&mut world, "m2"), "offered", "{told}");
    }
}

#[test]
fn a_failure_bars_all_that_equals_the_version() {
    let releases = ["1.0", "2.0+a", "2.0+b"];
    #[rustfmt::skip]
    let rows = [
        // channel  told     recorded
        ("2.0+b",  "2.0+b",  "2.0+b"),
        ("2.0+b",  "2.0",    "2.0+a"),
        ("2.0+b",  "2.0.0",  "2.0+a"),
        ("2.0+a",  "2.0+b",  "2.0+b"),
    ];
    for (channel, told, recorded) in rows {
        let mut world = records("safe-mode=false");
        world.releases = releases.map(str::to_owned).into();
        world.target = Some(Target { version: channel.into(), ..Target::default() });
        assert_eq!(ask(&mut world, "m1"), "offered");
        go(&mut world, "m1", &telling("1.0", &format!("3/0 44 {told}")), NOON);
        assert_eq!(world.failed.keys().collect::<Vec<_>>(), [recorded], "{channel} {told}");
        world.rollout = Rollout::default();
        let answer = ask(&mut world, "m2");
        assert!(
            answer.starts_with(&format!("version {recorded} failed on m1: ")),
            "{channel} {told}: {answer}"
        );
    }
}

#[test]
fn a_failure_counts_for_what_the_same_request_asks() {
    let mut world = records("");
    assert_eq!(ask(&mut world, "m1"), "offered");
    let mut app = telling("1.0", "3/0 44 2.0");
    app.update_check = Some(UpdateCheck::default());
    assert!(matches!(go(&mut world, "m1", &app, NOON).offer, Some(Err(Refusal::Failed { .. }))));
}

#[test]
fn a_release_that_completed_can_still_fail() {
    let mut world = records("");
    assert_eq!(ask(&mut world, "m1"), "offered");
    go(&mut world, "m1", &telling("2.0", "3/2"), NOON);
    assert!(world.rollout.proven);
    go(&mut world, "m1", &telling("1.0", "3/0 44 2.0"), NOON);
    assert!(!world.rollout.proven && world.rollout.halt.is_some());
    assert!(world.failed.contains_key("2.0"));
}

#[test]
fn troubles_of_one_machine_blame_no_release() {
    for code in [2, 9, 14, 36, 37, 40, 2404] {
        let mut world = records("");
        assert_eq!(ask(&mut world, "m1"), "offered");
        let outcome = go(&mut world, "m1", &telling("1.0", &format!("3/0 {code} 2.0")), NOON);
        assert_eq!((outcome.failed, outcome.rollout.halt), (vec![], None), "{code}");
        assert_eq!(ask(&mut world, "m2"), "offered", "{code}: the next machine goes first");
    }
}

#[test]
fn strangers_cannot_bar_what_is_no_release_nor_halt_what_is_not_theirs() {
    let mut world = records("safe-mode=false");
    assert_eq!(ask(&mut world, "m1"), "offered");
    go(&mut world, "m2", &telling("1.0", "3/0 44 9.9"), NOON);
    assert!(world.failed.is_empty() && world.rollout.halt.is_none());
    // A release of before: it is barred, what is spread today goes on.
    go(&mut world, "m2", &telling("1.0", "3/0 44 3.0"), NOON);
    assert!(world.failed.contains_key("3.0") && world.rollout.halt.is_none());
}

#[test]
fn a_rate_is_kept_in_every_window() {
    let mut world = records("safe-mode=false;rate=2/1h;max-concurrent=0");
    let mut began = Vec::new();
    for minute in 0..240 {
        let machine = format!("m{minute}");
        let now = NOON + minute * 60;
        if go(&mut world, &machine, &asking("1.0"), now).offer == Some(Ok(())) {
            began.push(now);
        }
    }
    let in_window = |end: u64| began.iter().filter(|at| **at <= end && **at + 3600 > end).count();
    assert!(began.iter().all(|at| in_window(*at) <= 2), "{began:?}");
    assert_eq!(began.len(), 8);
}

#[test]
fn a_clock_that_was_ahead_holds_nothing_up_for_longer_than_a_period() {
    const YEAR_S: u64 = 365 * 86_400;
    let mut world = records("safe-mode=false;rate=1/1h");
    assert_eq!(go(&mut world, "m1", &asking("1.0"), NOON + YEAR_S).offer, Some(Ok(())));
    go(&mut world, "m1", &asking("2.0"), NOON + YEAR_S);
    assert_eq!(ask(&mut world, "m2"), "1/1h updates have begun");
    assert_eq!(go(&mut world, "m2", &asking("1.0"), NOON + 3600).offer, Some(Ok(())));
    // Nor does a lost word.
    go(&mut world, "m1", &asking("2.0"), NOON);
    go(&mut world, "m1", &asking("2.0"), NOON + SETTLED_S);
    assert!(!world.rollout.in_progress.contains_key("m1"));
}

#[test]
fn the_share_only_grows_with_the_percentage() {
    let machines: Vec<String> = (0..200).map(|number| format!("{number:032x}")).collect();
    let share = |percentage: u32| -> BTreeSet<&String> {
        let settings = format!("safe-mode=false;percentage={percentage}");
        machines.iter().filter(|machine| ask(&mut records(&settings), machine) == "offered").collect()
    };
    let mut before = BTreeSet::new();
    for percentage in 0..=100 {
        let now = share(percentage);
        assert!(now.is_superset(&before), "{percentage}");
        before = now;
    }
    assert_eq!(before.len(), 200);
    assert!((70..130).contains(&share(50).len()), "{}", share(50).len());
    let is_other_for_another_version =
        |machine: &&String| percentile(machine, "2.0") != percentile(machine, "3.0");
    assert!(machines.iter().filter(is_other_for_another_version).count() > 190);
}

#[test]
fn a_lost_word_does_not_stop_a_rollout() {
    let mut world = records("");
    assert_eq!(ask(&mut world, "m1"), "offered");
    let running = asking("2.0");
    go(&mut world, "m1", &running, NOON);
    assert_eq!(ask(&mut world, "m2"), "m1 goes first");
    // It fell back meanwhile: the time counts anew.
    go(&mut world, "m1", &asking("1.0"), NOON + 60);
    go(&mut world, "m1", &running, NOON + SETTLED_S);
    assert_eq!(ask(&mut world, "m2"), "m1 goes first");
    go(&mut world, "m1", &running, NOON + 2 * SETTLED_S);
    assert_eq!(ask(&mut world, "m2"), "offered");
}

#[test]
fn a_machine_that_changes_its_group_leaves_no_grant_behind() {
    let mut old = records("");
    let granted = go(&mut old, "m1", &asking("1.0"), NOON);
    assert_eq!(ask(&mut old, "m2"), "m1 goes first");
    let mut new = records("");
    new.group_name = "other".into();
    new.instance = Some(granted.instance);
    new.left = Some(old.rollout.clone());
    let outcome = go(&mut new, "m1", &asking("1.0"), NOON);
    assert_eq!((outcome.offer, outcome.instance.group.as_str()), (Some(Ok(())), "other"));
    old.rollout = outcome.left.unwrap();
    assert_eq!(ask(&mut old, "m2"), "offered");
}

#[test]
fn a_first_boot_proves_nothing() {
    let mut world = records("");
    assert_eq!(ask(&mut world, "m1"), "offered");
    let mut fresh = telling("2.0", "3/2");
    fresh.events[0].previous_version = "0.0.0.0".into();
    go(&mut world, "m9", &fresh, NOON);
    assert!(!world.rollout.proven);
    go(&mut world, "m1", &fresh, NOON);
    assert!(world.rollout.proven, "it was granted just this");
}

#[test]
fn history_is_the_newest_events() {
    for (offered, most) in [("2.0", HISTORY_ENTRIES_MAX), ("", STRANGER_ENTRIES_MAX)] {
        let mut world = records("");
        let mut kept = Instance { offered: offered.into(), ..Instance::default() };
        for number in 0..200_u64 {
            world.instance = Some(kept);
            let app = telling("1.0", "13/1");
            kept = visit(&world, &Visit { app: &app, address: "", now_unix_s: number }, "m1").instance;
        }
        assert_eq!(kept.history.len(), most);
        assert_eq!(kept.history.last().unwrap().unix_s, 199);
        assert_eq!((kept.first_seen_unix_s, kept.last_seen_unix_s), (0, 199));
    }
}

#[test]
fn a_machine_that_was_made_up_costs_little() {
    let mut world = records("paused=true");
    let long = "\u{1F600}".repeat(512);
    let mut app = telling(&long, "3/0 44");
    app.machine_alias = long.clone();
    app.board = long.clone();
    app.oem = long.clone();
    app.events[0].reason = long.clone();
    app.events[0].failed_version = long;
    app.events = vec![app.events[0].clone(); 10];
    app.update_check = Some(UpdateCheck::default());
    for number in 0..20 {
        let seen = Visit { app: &app, address: "2001:db8::1", now_unix_s: NOON + number };
        world.instance = Some(visit(&world, &seen, &"x".repeat(64)).instance);
    }
    let bytes = serde_json::to_vec(&world.instance).unwrap().len();
    assert!(bytes < 2048, "{bytes}");
}

#[test]
fn who_is_updating_is_not_forgotten() {
    let mut world = records("safe-mode=false");
    for machine in ["m1", "m3"] {
        assert_eq!(ask(&mut world, machine), "offered");
    }
    let rollouts = [Rollout::default(), world.rollout];
    assert_eq!(choose_forgotten(&["m1", "m2", "m3"], &rollouts), Some("m2"));
    assert_eq!(choose_forgotten(&["m1", "m3"], &rollouts), None);
}

#[test]
fn the_largest_record_stays_small() {
    let mut world = records("safe-mode=false;max-concurrent=0;rate=1000/720h");
    for number in 0..2000 {
        ask(&mut world, &format!("{number:064}"));
    }
    assert_eq!(world.rollout.in_progress.len(), IN_PROGRESS_MAX);
    let bytes = serde_json::to_vec(&world.rollout).unwrap().len();
    assert!(bytes < 200_000, "{bytes}");
}

#[test]
fn machine_ids_can_be_keys() {
    assert_eq!(machine_key("{AB-1}").as_deref(), Some("AB-1"));
    for bad in ["", "a/b", "..", "a b", &"x".repeat(65), "é"] {
        assert_eq!(machine_key(bad), None, "{bad}");
    }
}
