//! Cordons: who is kept away, who leaves, and in which order.

use proa_fleet_model::cordon::{cordon, cordons};
use proa_fleet_model::engine::{Decision, Memory, Plan, Why, commit};
use proa_fleet_model::registry::DesiredState::{Launched, Loaded};
use proa_fleet_model::registry::{Millis, Revision};

use crate::engine::{decide, run, three_machines};
use crate::store::{Store, machine, name};

/// Three machines with these units, each reported to be active where it is.
fn settled(units: &[(&str, &str)]) -> (Store, Revision, Memory) {
    let (mut store, leader) = three_machines();
    for (unit, x_fleet) in units {
        store.add_unit(unit, x_fleet, Launched);
    }
    let memory = run(&mut store, leader, &Memory::default(), 0).memory;
    for place in store.places().split_whitespace() {
        let (unit, number) = place.rsplit_once('@').unwrap();
        store.report(unit, number.parse().unwrap(), "active");
    }
    (store, leader, memory)
}

fn whys(plan: &Plan) -> Vec<&Why> {
    plan.decisions.iter().map(|(_, why)| why).collect()
}

#[test]
fn a_cordoned_machine_keeps_what_it_has_and_is_given_nothing() {
    let (mut store, leader, memory) = settled(&[("a", ""), ("g", "Global=true")]);
    store.cordon(1, false);
    store.cordon(2, false);
    for unit in ["b", "c", "d"] {
        store.add_unit(unit, "", Launched);
    }
    store.add_unit("h", "Global=true", Launched);
    run(&mut store, leader, &memory, 0);
    assert_eq!(store.places(), "a@1 b@3 c@3 d@3 g@1 g@2 g@3 h@3");
    store.uncordon(1);
    run(&mut store, leader, &memory, 0);
    assert_eq!(store.places(), "a@1 b@3 c@3 d@3 g@1 g@2 g@3 h@1 h@3");
}

#[test]
fn who_finds_only_cordoned_machines_is_told_so() {
    let (mut store, leader, memory) = settled(&[]);
    store.cordon(1, false);
    store.add_unit("a", "MachineMetadata=region=eu", Launched);
    let plan = run(&mut store, leader, &memory, 0);
    let want = format!("every machine that would do is cordoned, such as {} (update)", machine(1));
    assert_eq!(plan.stuck[&name("a")].to_string(), want);
}

#[test]
fn a_drained_unit_is_up_elsewhere_before_it_leaves() {
    let (mut store, leader, memory) = settled(&[("a", "")]);
    store.cordon(1, true);
    let first = run(&mut store, leader, &memory, 1_000);
    assert_eq!((store.places().as_str(), whys(&first)), ("a@1 a@2", vec![&Why::Drained]));

    // Starting is not up, and up for a moment is not up either.
    store.report("a", 2, "activating");
    let second = run(&mut store, leader, &first.memory, 2_000);
    store.report("a", 2, "active");
    let third = run(&mut store, leader, &second.memory, 3_000);
    assert_eq!((third.decisions, third.wake_at), (vec![], Some(Millis(6_000))));
    let early = run(&mut store, leader, &third.memory, 5_999);
    assert_eq!(store.places(), "a@1 a@2");

    let last = run(&mut store, leader, &early.memory, 6_000);
    assert!(matches!(last.decisions[0], (Decision::Unplace { .. }, Why::Drained)));
    assert_eq!(store.places(), "a@2");
    store.uncordon(1);
    run(&mut store, leader, &last.memory, 7_000);
    assert_eq!(store.places(), "a@2");
}

#[test]
fn a_unit_that_does_not_come_up_moves_after_a_while() {
    let (mut store, leader, memory) = settled(&[("a", "")]);
    store.cordon(1, true);
    let first = run(&mut store, leader, &memory, 0);
    store.report("a", 2, "failed");
    let seen = run(&mut store, leader, &first.memory, 1_000);
    assert_eq!(seen.wake_at, Some(Millis(121_000)));
    let before = run(&mut store, leader, &seen.memory, 120_999);
    assert_eq!(store.places(), "a@1 a@2");
    run(&mut store, leader, &before.memory, 121_000);
    assert_eq!(store.places(), "a@2");
}

#[test]
fn units_that_nobody_misses_or_that_must_be_alone_move_at_once() {
    let (mut store, leader, mut memory) =
        settled(&[("alone", "Conflicts=alone.service"), ("down", "MachineMetadata=region=us")]);
    store.add_unit("idle", "", Loaded);
    memory = run(&mut store, leader, &memory, 0).memory;
    assert_eq!(store.places(), "alone@1 down@2 idle@3");
    store.report("down", 2, "failed");
    for (number, want) in
        [(1, "alone@2 down@2 idle@3"), (2, "alone@1 down@3 idle@3"), (3, "alone@1 down@2 idle@1")]
    {
        let mut world = store.clone();
        world.cordon(number, true);
        let plan = run(&mut world, leader, &memory, 0);
        assert!(plan.decisions.iter().all(|(_, why)| *why == Why::Drained), "{:?}", plan.decisions);
        assert_eq!(world.places(), want, "machine {number}");
    }
}

#[test]
fn a_unit_that_no_other_machine_takes_stays_and_says_so() {
    let (mut store, leader, memory) = settled(&[("a", "MachineMetadata=region=eu"), ("g", "Global=true")]);
    store.cordon(1, true);
    let plan = run(&mut store, leader, &memory, 0);
    assert_eq!(store.places(), "a@1 g@1 g@2 g@3");
    assert!(plan.stuck.contains_key(&name("a")));
    let shown = cordon(&store.cluster, machine(1)).unwrap();
    assert_eq!(shown.remaining.len(), 1, "global units are not in the way: {shown:?}");
    assert!(shown.remaining[0].reason.contains("cordoned"), "{shown:?}");
    assert_eq!(cordons(&store.cluster), [shown]);
    assert_eq!(cordon(&store.cluster, machine(2)), None);
}

#[test]
fn units_that_belong_together_leave_together() {
    let (mut store, leader, memory) = settled(&[("a", ""), ("b", "MachineOf=a.service")]);
    store.cordon(1, true);
    let first = run(&mut store, leader, &memory, 0);
    assert_eq!(store.places(), "a@1 a@2 b@1 b@2");
    store.report("a", 2, "active");
    store.report("b", 2, "active");
    let seen = run(&mut store, leader, &first.memory, 1_000);
    run(&mut store, leader, &seen.memory, 4_000);
    assert_eq!(store.places(), "a@2 b@2");
}

#[test]
fn a_cordon_lifted_on_the_way_leaves_the_unit_where_it_was() {
    let (mut store, leader, memory) = settled(&[("a", "")]);
    store.cordon(1, true);
    let first = run(&mut store, leader, &memory, 0);
    store.uncordon(1);
    let back = run(&mut store, leader, &first.memory, 1_000);
    assert_eq!((store.places().as_str(), whys(&back)), ("a@1", vec![&Why::Duplicate]));
}

#[test]
fn a_machine_that_dies_on_the_way_takes_nothing_along() {
    for (dies, want) in [(1, "a@2"), (2, "a@1 a@3")] {
        let (mut store, leader, memory) = settled(&[("a", "")]);
        store.cordon(1, true);
        let first = run(&mut store, leader, &memory, 0);
        store.delete(&crate::store::machine_key(dies));
        // One pass to give the dead one up as a duplicate, one to start over.
        let next = decide(&store, &first.memory, 1_000);
        for txn in commit(leader, &next.decisions) {
            assert!(store.commit(&txn));
        }
        run(&mut store, leader, &next.memory, 1_000);
        assert_eq!(store.places(), want, "machine {dies} died");
    }
}

#[test]
fn a_drain_of_two_machines_ends_on_the_third() {
    let (mut store, leader, mut memory) = settled(&[("a", ""), ("b", ""), ("c", "")]);
    store.cordon(1, true);
    store.cordon(2, true);
    for now in [0, 1_000, 4_000, 8_000] {
        memory = run(&mut store, leader, &memory, now).memory;
        for unit in ["a", "b", "c"] {
            store.report(unit, 3, "active");
        }
    }
    assert_eq!(store.places(), "a@3 b@3 c@3");
}
