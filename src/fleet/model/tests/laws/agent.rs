//! One unit in every state, and two units in many: the agent always arrives, by
//! whatever way, and never touches what is well.

use std::collections::BTreeMap;

use proa_fleet_model::agent::{Action, ActiveState, Desired, Have, Launched, LoadState, Observed, plan};
use proa_fleet_model::registry::{DesiredState, Launch, ScheduleRecord};
use proa_fleet_model::unit_file::UnitHash;
use proa_fleet_model::unit_name::UnitName;

use crate::store::name;

fn hash(byte: u8) -> UnitHash {
    UnitHash::from_bytes([byte; 20])
}

fn launched(byte: u8, launch: u64) -> Launched {
    Launched { hash: hash(byte), launch: Launch(launch) }
}

fn wants() -> Vec<Option<ScheduleRecord>> {
    let mut all = vec![None];
    for desired in [DesiredState::Loaded, DesiredState::Launched] {
        for byte in [1, 2] {
            all.push(Some(ScheduleRecord { hash: hash(byte), desired, launch: Launch(1) }));
        }
    }
    all
}

fn haves() -> Vec<Option<Have>> {
    use ActiveState::{Activating, Active, Busy, Failed, Inactive};
    let mut all = vec![None];
    for file in [None, Some(hash(1)), Some(hash(2))] {
        for active in [Active, Activating, Busy, Inactive, Failed] {
            for stale in [false, true] {
                for launched in [None, Some(launched(1, 1)), Some(launched(2, 1)), Some(launched(1, 9))] {
                    for load in [LoadState::Loaded, LoadState::Unusable] {
                        let sub = String::new();
                        all.push(Some(Have { hash: file, load, active, sub, stale, launched }));
                    }
                }
            }
        }
    }
    all
}

/// What systemd and the disk make of one action.
fn perform(action: &Action, observed: &mut Observed) {
    let is_running = |have: &Have| matches!(have.active, ActiveState::Active | ActiveState::Activating);
    match action {
        Action::Stop(unit) => observed.get_mut(unit).unwrap().active = ActiveState::Inactive,
        Action::ResetFailed(unit) => {
            let have = observed.get_mut(unit).unwrap();
            assert_eq!(have.active, ActiveState::Failed);
            have.active = ActiveState::Inactive;
        }
        Action::Remove(unit) => {
            let have = observed.get_mut(unit).unwrap();
            assert!(!is_running(have), "the file of a running unit is removed");
            (have.hash, have.launched, have.stale) = (None, None, true);
        }
        Action::Forget(unit) => observed.get_mut(unit).unwrap().launched = None,
        Action::Write(unit, file) => {
            let have = observed.entry(unit.clone()).or_insert_with(|| Have {
                hash: None,
                load: LoadState::NotFound,
                active: ActiveState::Inactive,
                sub: String::new(),
                stale: true,
                launched: None,
            });
            let is_put_back = have.hash.is_none() && have.launched.is_some_and(|l| l.hash == *file);
            assert!(!is_running(have) || is_put_back, "a running unit gets another file");
            (have.hash, have.stale) = (Some(*file), true);
        }
        Action::Reload => {
            for have in observed.values_mut() {
                have.stale = false;
                if have.hash.is_some() {
                    have.load = LoadState::Loaded;
                }
            }
            observed.retain(|_, have| {
                have.hash.is_some() || have.launched.is_some() || have.active != ActiveState::Inactive
            });
        }
        Action::Start(unit, launched) => {
            let have = observed.get_mut(unit).unwrap();
            assert!(!have.stale, "a start without a reload");
            (have.active, have.launched) = (ActiveState::Active, Some(*launched));
        }
        Action::Adopt(unit, launched) => {
            let have = observed.get_mut(unit).unwrap();
            assert!(is_running(have));
            have.launched = Some(*launched);
        }
    }
}

/// What was going on has ended.
fn wait(observed: &mut Observed) {
    for have in observed.values_mut() {
        if have.active == ActiveState::Busy {
            have.active = ActiveState::Inactive;
        }
    }
}

fn arrive(desired: &Desired, observed: &mut Observed, from: &str) {
    for _ in 0..4 {
        wait(observed);
        let steps = plan(desired, observed);
        for (action, _) in &steps {
            perform(action, observed);
        }
    }
    wait(observed);
    assert_eq!(plan(desired, observed), vec![], "three rounds are enough, from {from}");
    for (unit, want) in desired {
        let have = &observed[unit];
        assert_eq!(have.hash, Some(want.hash), "{from}");
        assert!(!have.stale, "{from}");
        let asked = Launched { hash: want.hash, launch: want.launch };
        match want.desired {
            DesiredState::Launched if have.load == LoadState::Unusable => {}
            DesiredState::Launched => assert_eq!(have.launched, Some(asked), "{from}"),
            DesiredState::Loaded | DesiredState::Inactive => assert_eq!(have.launched, None, "{from}"),
        }
    }
    for (unit, have) in observed.iter().filter(|(unit, _)| !desired.contains_key(*unit)) {
        assert_eq!((have.hash, have.launched), (None, None), "{unit} from {from}");
        assert_eq!(have.active, ActiveState::Inactive, "{unit} from {from}");
    }
    // systemd forgets an inactive unit without a file by itself.
    observed.retain(|_, have| have.hash.is_some() || have.launched.is_some());
}

fn check(desired: &Desired, start: &Observed) {
    let from = format!("{desired:?} and {start:?}");
    let mut straight = start.clone();
    arrive(desired, &mut straight, &from);
    let first = plan(desired, start);
    for crash_after in 0..=first.len() {
        let mut observed = start.clone();
        for (action, _) in &first[..crash_after] {
            perform(action, &mut observed);
        }
        arrive(desired, &mut observed, &format!("{from}, crash after {crash_after}"));
        assert_eq!(observed, straight, "{from}, crash after {crash_after}");
    }
}

fn one<T>(unit: &UnitName, value: Option<T>) -> BTreeMap<UnitName, T> {
    value.into_iter().map(|value| (unit.clone(), value)).collect()
}

#[test]
fn the_agent_arrives_from_every_state_and_after_every_crash() {
    let unit = name("web");
    for want in wants() {
        for have in haves() {
            check(&one(&unit, want), &one(&unit, have));
        }
    }
}

#[test]
fn two_units_do_not_get_into_each_others_way() {
    let (web, db) = (name("web"), name("db"));
    for want_web in wants() {
        for have_web in haves().into_iter().step_by(23) {
            for want_db in wants() {
                for have_db in haves().into_iter().step_by(29) {
                    let mut desired = one(&web, want_web);
                    desired.extend(one(&db, want_db));
                    let mut observed = one(&web, have_web.clone());
                    observed.extend(one(&db, have_db));
                    check(&desired, &observed);
                }
            }
        }
    }
}

#[test]
fn what_is_well_is_left_alone() {
    let unit = name("web");
    let want = ScheduleRecord { hash: hash(1), desired: DesiredState::Launched, launch: Launch(1) };
    for have in haves().into_iter().flatten() {
        let is_launched = have.hash == Some(hash(1)) && have.launched == Some(launched(1, 1));
        if is_launched && !have.stale {
            // Running, finished, failed or stopped by hand: its start was issued.
            let steps = plan(&one(&unit, Some(want)), &one(&unit, Some(have.clone())));
            assert_eq!(steps, vec![], "{have:?}");
        }
        let is_running = have.active == ActiveState::Active && have.hash == Some(hash(1));
        if is_running {
            let steps = plan(&one(&unit, Some(want)), &one(&unit, Some(have.clone())));
            let is_gentle = |action: &Action| matches!(action, Action::Adopt(..) | Action::Reload);
            assert!(steps.iter().all(|(action, _)| is_gentle(action)), "{have:?}: {steps:?}");
        }
    }
}

#[test]
fn steps_are_in_the_order_they_must_be_done() {
    let mut desired = one(&name("new"), wants()[3]);
    desired.extend(one(&name("changed"), wants()[4]));
    let gone = Have {
        hash: Some(hash(1)),
        load: LoadState::Loaded,
        active: ActiveState::Failed,
        sub: "failed".to_owned(),
        stale: false,
        launched: Some(launched(1, 1)),
    };
    let mut observed = one(&name("gone"), Some(gone.clone()));
    observed.extend(one(&name("changed"), Some(gone)));
    let steps: Vec<String> = plan(&desired, &observed).iter().map(|(action, _)| word(action)).collect();
    let want = "reset changed, reset gone, remove gone, write changed, write new, reload, \
                start changed, start new";
    assert_eq!(steps.join(", "), want);
}

fn word(action: &Action) -> String {
    let unit = action.unit().map(UnitName::stem).unwrap_or_default();
    let verb = match action {
        Action::Stop(_) => "stop ",
        Action::ResetFailed(_) => "reset ",
        Action::Remove(_) => "remove ",
        Action::Forget(_) => "forget ",
        Action::Write(..) => "write ",
        Action::Reload => "reload",
        Action::Start(..) => "start ",
        Action::Adopt(..) => "adopt ",
    };
    format!("{verb}{unit}")
}
