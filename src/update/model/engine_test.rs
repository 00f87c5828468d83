//! The laws of [`super`]: every pair of state and event, every order of events, and
//! every pair of flags at a start.

use super::*;
use crate::slots::stage;

fn target() -> Target {
    Target { version: "2.0.0".to_owned(), root_hash: Sha256([2; 32]), size_bytes: 9 }
}

fn trouble() -> Trouble {
    Trouble { code: ErrorCode::Write, reason: "full".to_owned() }
}

fn every_event() -> Vec<Event> {
    vec![
        Event::CheckDue,
        Event::NoUpdate,
        Event::Offered(target()),
        Event::Retired,
        Event::Written,
        Event::DataMatched,
        Event::Sealed,
        Event::Activated,
        Event::Unfit,
        Event::Failed(trouble()),
        Event::Reported,
        Event::Withdrawn,
        Event::Sound,
        Event::Condemned,
    ]
}

fn every_state() -> Vec<State> {
    vec![
        State::Idle,
        State::Checking,
        State::Available(target()),
        State::Downloading(target()),
        State::Verifying(target()),
        State::Finalizing(target()),
        State::NeedReboot(target()),
        State::Reporting(trouble()),
    ]
}

/// The effects of the event sequence that every update is.
#[test]
fn an_update_is_done_in_the_order_that_is_safe() {
    let events = [
        Event::CheckDue,
        Event::Offered(target()),
        Event::Retired,
        Event::Written,
        Event::DataMatched,
        Event::Sealed,
        Event::Activated,
    ];
    let (mut state, mut done) = (State::Idle, Vec::new());
    for event in events {
        let (next, effects) = state.step(event).expect("an update");
        state = next;
        done.extend(effects);
    }
    use Effect::{Activate, AskServer, Download, ReadBack, Retire, Seal};
    assert_eq!(done, [AskServer, Retire, Download, ReadBack, Seal, Activate]);
    assert_eq!(state, State::NeedReboot(target()));
}

/// Walks every sequence of seven events, legal or not, and looks at what was done.
#[test]
fn no_order_of_events_makes_an_unverified_slot_bootable() {
    fn walk(state: State, done: &mut Vec<(Event, Effect)>, left: usize, seen: &mut usize) {
        if left == 0 {
            return;
        }
        for event in every_event() {
            let Ok((next, effects)) = state.clone().step(event.clone()) else { continue };
            *seen += 1;
            let before = done.len();
            for effect in effects {
                done.push((event.clone(), effect.clone()));
                check(done, &effect);
            }
            walk(next, done, left - 1, seen);
            done.truncate(before);
        }
    }

    /// Each effect that is dangerous has its condition right before it, and since
    /// the last question to the server.
    fn check(done: &[(Event, Effect)], effect: &Effect) {
        let asked = done.iter().rposition(|(_, effect)| *effect == Effect::AskServer).unwrap_or(0);
        let has = |wanted: &Effect| done[asked..].iter().any(|(_, effect)| effect == wanted);
        let reason = &done.last().expect("just pushed").0;
        match effect {
            Effect::Download => assert!(has(&Effect::Retire) && *reason == Event::Retired),
            Effect::ReadBack => assert!(has(&Effect::Download) && *reason == Event::Written),
            Effect::Seal => assert!(has(&Effect::ReadBack) && *reason == Event::DataMatched),
            Effect::Activate => assert!(has(&Effect::Seal) && *reason == Event::Sealed),
            Effect::AskServer
            | Effect::Retire
            | Effect::Withdraw
            | Effect::Reconsider
            | Effect::Report(_) => {}
        }
    }
    let mut seen = 0;
    for state in every_state().into_iter().take(2) {
        walk(state, &mut Vec::new(), 9, &mut seen);
    }
    assert!(seen > 1000, "{seen}");
}

#[test]
fn every_failure_ends_in_a_report_and_then_in_rest() {
    for state in every_state() {
        let running = matches!(
            state,
            State::Checking
                | State::Available(_)
                | State::Downloading(_)
                | State::Verifying(_)
                | State::Finalizing(_)
        );
        match state.step(Event::Failed(trouble())) {
            Ok((State::Reporting(_), effects)) => {
                assert!(running);
                assert_eq!(effects, [Effect::Report(trouble())]);
            }
            Ok((State::Idle | State::NeedReboot(_), effects)) => assert!(!running && effects.is_empty()),
            other => assert!(!running && other.is_err()),
        }
    }
    assert_eq!(State::Reporting(trouble()).step(Event::Reported), Ok((State::Idle, vec![])));
}

#[test]
fn a_difference_that_does_not_fit_is_no_failure() {
    for state in every_state() {
        let answer = state.clone().step(Event::Unfit);
        match state {
            State::Checking | State::Downloading(_) | State::Verifying(_) => {
                assert_eq!(answer, Ok((State::Checking, vec![Effect::AskServer])));
            }
            _ => assert!(answer.is_err(), "{state:?}"),
        }
    }
}

#[test]
fn a_staged_release_is_withdrawn_when_it_fails_elsewhere() {
    let staged = State::NeedReboot(target());
    let step = |event| staged.clone().step(event);
    assert_eq!(step(Event::CheckDue), Ok((staged.clone(), vec![Effect::Reconsider])));
    assert_eq!(step(Event::Sound), Ok((staged.clone(), vec![])));
    assert_eq!(step(Event::Condemned), Ok((staged.clone(), vec![Effect::Withdraw])));
    assert_eq!(step(Event::Withdrawn), Ok((State::Idle, vec![])));
    assert_eq!(step(Event::Failed(trouble())), Ok((staged.clone(), vec![])), "it is tried again");
}

fn every_flags() -> impl Iterator<Item = SlotFlags> + Clone {
    (0..512u64).map(|bits| SlotFlags(bits << 48))
}

#[test]
fn the_slot_to_write_is_never_the_one_that_is_needed() {
    for a in every_flags() {
        for b in every_flags() {
            for running in [0, 1] {
                let slots = [a, b];
                match passive(&slots, running) {
                    Ok(index) => {
                        assert_ne!(index, running);
                        let mut retired = slots;
                        retired[index] = retired[index].retire();
                        assert_eq!(order(&retired).first().map(|boot| boot.index), Some(running), "{a} {b}");
                        let staged = stage(&retired, index, 1);
                        assert_eq!(order(&staged).first().map(|boot| boot.index), Some(index), "{a} {b}");
                        assert_eq!(order(&staged).last().map(|boot| boot.index), Some(running), "{a} {b}");
                    }
                    Err(_) => assert!(!slots[running].successful() || slots[running].priority() == 0),
                }
            }
        }
    }
    assert_eq!(passive(&[SlotFlags::new(1, 0, true)], 0), Err(NoPassiveSlot::OnlyOne));
}

fn installed(is_active: bool) -> Installed {
    Installed {
        version: "2.0.0".to_owned(),
        root_hash: Sha256([2; 32]),
        slot: 4,
        from_version: "1.0.0".to_owned(),
        boot_id: "boot-1".to_owned(),
        is_active,
    }
}

fn start(is_active: bool, b: SlotFlags, boot_id: &str, root: u8, running: usize) -> String {
    let kept = Kept { installed: Some(installed(is_active)), ..Kept::default() };
    let slots = [(3, SlotFlags::new(1, 0, true)), (4, b)];
    let root_hash = Some(Sha256([root; 32]));
    let start = derive(&Found { kept: &kept, slots: &slots, running, root_hash, boot_id });
    let text = format!("{start:?}");
    text.split('(').next().unwrap_or_default().to_owned()
}

#[test]
fn a_start_by_example() {
    let flags = SlotFlags::new;
    #[rustfmt::skip]
    let cases = [
        ("staged",                       true,  flags(2, 1, false), "boot-1", 1, 0, "NeedReboot"),
        ("died before it said so",       false, flags(2, 1, false), "boot-1", 1, 0, "NeedReboot"),
        ("died before the flags",        false, flags(0, 0, false), "boot-1", 1, 0, "Resume"),
        ("power cut before the flags",   false, flags(0, 0, false), "boot-2", 1, 0, "Resume"),
        ("runs, unproven",               true,  flags(2, 0, false), "boot-2", 2, 1, "Prove"),
        ("runs, unproven, cut off",      false, flags(2, 0, false), "boot-2", 2, 1, "Prove"),
        ("runs and is proven",           true,  flags(2, 0, true),  "boot-2", 2, 1, "CameUp"),
        ("fell back",                    true,  flags(2, 0, false), "boot-2", 1, 0, "FellBack"),
        ("the boot gave up on it",       true,  flags(0, 0, false), "boot-2", 1, 0, "FellBack"),
        ("passed over by the boot",      true,  flags(2, 1, false), "boot-2", 1, 0, "FellBack"),
        ("a person withdrew it",         true,  flags(0, 0, false), "boot-1", 1, 0, "SetAside"),
        ("proven, and another is first", true,  flags(1, 0, true),  "boot-3", 1, 0, "SetAside"),
    ];
    for (name, is_active, b, boot_id, root, running, want) in cases {
        assert_eq!(start(is_active, b, boot_id, root, running), want, "{name}");
    }
}

#[test]
fn a_start_without_a_release_looks_at_the_flags_and_the_transfer() {
    let proven = [(3, SlotFlags::new(1, 0, true)), (4, SlotFlags::new(0, 0, false))];
    let unproven = [(3, SlotFlags::new(1, 0, false)), (4, SlotFlags::new(0, 0, false))];
    let kept = Kept::default();
    let found = |slots| derive(&Found { kept: &kept, slots, running: 0, root_hash: None, boot_id: "b" });
    assert_eq!(found(&proven), Start::Idle);
    assert_eq!(found(&unproven), Start::Prove(None));
}

#[test]
fn a_decision_to_go_back_outlives_the_updater_and_not_the_boot() {
    let rollback = Rollback {
        version: "0.9.0".to_owned(),
        root_hash: Sha256([9; 32]),
        slot: 4,
        boot_id: "boot-1".to_owned(),
    };
    let kept = Kept { rollback: Some(rollback.clone()), ..Kept::default() };
    let flags = SlotFlags::new;
    #[rustfmt::skip]
    let cases = [
        ("decided",                      flags(2, 0, true), "boot-1", 0, true),
        ("died before the flags",        flags(1, 0, true), "boot-1", 0, false),
        ("carried out",                  flags(2, 0, true), "boot-2", 1, false),
        ("passed over by the boot",      flags(2, 0, true), "boot-2", 0, false),
        ("another was put first since",  flags(0, 0, true), "boot-1", 0, false),
    ];
    for (name, b, boot_id, running, waits) in cases {
        let slots = [(3, flags(1, 0, true)), (4, b)];
        let found = Found { kept: &kept, slots: &slots, running, root_hash: None, boot_id };
        let want = if waits { Start::RollsBack(rollback.clone()) } else { Start::Idle };
        assert_eq!(derive(&found), want, "{name}");
    }
}
