//! Placement: what goes where, when a loss is believed, and that it all comes to
//! rest.

use std::collections::BTreeSet;

use proa_fleet_model::engine::{Decision, Memory, Plan, Policy, View, Why, commit, plan, wants};
use proa_fleet_model::registry::DesiredState::{Inactive, Launched, Loaded};
use proa_fleet_model::registry::{Millis, Revision};
use proa_fleet_model::requirements::Requirements;
use proa_fleet_model::txn;
use proptest::prelude::*;

use crate::store::{Store, machine, machine_key, name};

pub fn decide(store: &Store, memory: &Memory, now: u64) -> Plan {
    plan(&store.cluster, memory, &Policy::default(), View::Fresh, Millis(now))
}

/// Plans, carries the plan out, and checks that nothing is left to do.
pub fn run(store: &mut Store, leader: Revision, memory: &Memory, now: u64) -> Plan {
    let first = decide(store, memory, now);
    for txn in commit(leader, &first.decisions) {
        assert!(store.commit(&txn));
    }
    assert_eq!(store.cluster, store.read(), "events and a full read agree");
    let mut left = decide(store, &first.memory, now);
    // Bodies become unused only when the schedule has let go of them.
    left.decisions.retain(|(decision, _)| !matches!(decision, Decision::DropBody { .. }));
    assert_eq!(left.decisions, vec![], "after {:?}", first.decisions);
    first
}

pub fn three_machines() -> (Store, Revision) {
    let mut store = Store::default();
    store.add_machine(1, &[("region", "eu")]);
    store.add_machine(2, &[("region", "us"), ("disk", "ssd")]);
    store.add_machine(3, &[("region", "us")]);
    let leader = store.elect();
    (store, leader)
}

/// Name of the case, units with their `[X-Fleet]` lines, places.
type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);

#[test]
fn units_go_where_they_may_and_fewest_are() {
    let id = machine(3);
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("spread",            &[("a", ""), ("b", ""), ("c", ""), ("d", "")], "a@1 b@2 c@3 d@1"),
        ("machine id",        &[("a", &format!("MachineID={id}")), ("b", "")], "a@3 b@1"),
        ("one of two values", &[("a", "MachineMetadata=\"region=us\" \"region=eu\"")], "a@1"),
        ("two keys",          &[("a", "MachineMetadata=region=us\nMachineMetadata=disk=ssd")], "a@2"),
        ("nowhere",           &[("a", "MachineMetadata=region=mars"), ("b", "")], "b@1"),
        ("conflict",          &[("a@1", "Conflicts=a@*.service"), ("a@2", "Conflicts=a@*.service")], "a@1@1 a@2@2"),
        ("conflict of other", &[("a", ""), ("b", "Conflicts=a.service\nMachineMetadata=region=eu")], "a@1"),
        ("peer",              &[("a", "MachineOf=b.service"), ("b", "MachineMetadata=disk=ssd")], "a@2 b@2"),
        ("peer of peer",      &[("a", "MachineOf=b.service"), ("b", "MachineOf=c.service"), ("c", "MachineMetadata=disk=ssd")], "a@2 b@2 c@2"),
        ("peers in a ring",   &[("a", "MachineOf=b.service"), ("b", "MachineOf=a.service")], ""),
        ("global",            &[("a", "Global=true"), ("b", "")], "a@1 a@2 a@3 b@1"),
        ("global on some",    &[("a", "Global=true\nMachineMetadata=region=us")], "a@2 a@3"),
        ("replaces",          &[("a", "MachineMetadata=region=eu \n"), ("b", "Replaces=c.service\nMachineMetadata=region=eu"), ("c", "")], "a@1 b@1 c@2"),
    ];
    for (case, units, want) in cases {
        let (mut store, leader) = three_machines();
        for (unit, x_fleet) in *units {
            store.add_unit(unit, x_fleet, Launched);
        }
        run(&mut store, leader, &Memory::default(), 0);
        assert_eq!(&store.places(), want, "{case}");
    }
}

#[test]
fn a_new_unit_drives_away_what_it_replaces() {
    let (mut store, leader) = three_machines();
    store.add_unit("old", "", Launched);
    run(&mut store, leader, &Memory::default(), 0);
    store.add_unit("new", "Replaces=old.service\nMachineMetadata=region=eu", Launched);
    run(&mut store, leader, &Memory::default(), 0);
    assert_eq!(store.places(), "new@1 old@2");
}

#[test]
fn who_has_no_place_is_told_why() {
    let (mut store, leader) = three_machines();
    store.add_unit("mars", "MachineMetadata=region=mars", Launched);
    store.add_unit("peer", "MachineOf=nobody.service", Launched);
    store.add_unit("alone", &format!("MachineID={}", machine(9)), Loaded);
    store.add_unit("a", "Global=true", Launched);
    store.add_unit("foe", "Conflicts=a.service", Launched);
    run(&mut store, leader, &Memory::default(), 0);
    let stuck = decide(&store, &Memory::default(), 0).stuck;
    let text = |unit| stuck[&name(unit)].to_string();
    assert_eq!(text("mars"), "no machine has metadata region=mars");
    assert_eq!(text("peer"), "no machine that would do has unit nobody.service, which MachineOf asks for");
    let want = format!("machine {} is not in the cluster", machine(9));
    assert_eq!(text("alone"), want);
    assert_eq!(text("foe"), "every machine that would do has a unit it conflicts with, such as a.service");
    assert_eq!(proa_fleet_model::engine::explain(&store.cluster), stuck);
}

#[test]
fn a_lost_machine_is_suspected_then_confirmed() {
    let (mut store, leader) = three_machines();
    store.add_unit("a", "", Launched);
    let memory = run(&mut store, leader, &Memory::default(), 0).memory;
    store.delete(&machine_key(1));

    let suspecting = decide(&store, &memory, 1_000);
    assert_eq!((suspecting.decisions, suspecting.wake_at), (vec![], Some(Millis(6_000))));
    let memory = suspecting.memory;
    assert_eq!(decide(&store, &memory, 5_999).decisions, vec![]);

    // A store that did not answer for a while starts the suspicion over.
    let stale = plan(&store.cluster, &memory, &Policy::default(), View::Stale, Millis(6_000));
    assert_eq!(stale, Plan::default());
    assert_eq!(decide(&store, &stale.memory, 7_000).decisions, vec![]);

    let mut back = store.clone();
    back.add_machine(1, &[]);
    assert_eq!(decide(&back, &memory, 6_000).decisions, vec![]);

    let moved = run(&mut store, leader, &memory, 6_000);
    assert_eq!(store.places(), "a@2");
    assert!(matches!(moved.decisions[0].1, Why::MachineLost { since: Millis(1_000) }));

    // Back again: nothing moves a second time.
    store.add_machine(1, &[]);
    run(&mut store, leader, &moved.memory, 7_000);
    assert_eq!(store.places(), "a@2");
}

#[test]
fn a_unit_without_another_place_stays_with_its_lost_machine() {
    let (mut store, leader) = three_machines();
    store.add_unit("a", "MachineMetadata=region=eu", Launched);
    let memory = run(&mut store, leader, &Memory::default(), 0).memory;
    store.delete(&machine_key(1));
    let memory = decide(&store, &memory, 0).memory;
    let plan = run(&mut store, leader, &memory, 5_000);
    assert_eq!(store.places(), "a@1");
    assert_eq!(plan.stuck[&name("a")].to_string(), "no machine has metadata region=eu");
}

#[test]
fn a_machine_that_is_back_before_the_decision_is_written_keeps_its_units() {
    let (mut store, leader) = three_machines();
    store.add_unit("a", "", Launched);
    let memory = run(&mut store, leader, &Memory::default(), 0).memory;
    store.delete(&machine_key(1));
    let memory = decide(&store, &memory, 1_000).memory;
    let moved = decide(&store, &memory, 6_000);
    assert!(matches!(moved.decisions[0], (Decision::Move { .. }, Why::MachineLost { .. })));

    store.add_machine(1, &[]);
    for txn in commit(leader, &moved.decisions) {
        assert!(!store.commit(&txn), "the machine is there again");
    }
    assert_eq!(store.places(), "a@1");
}

#[test]
fn a_global_unit_stays_on_a_lost_machine() {
    let (mut store, leader) = three_machines();
    store.add_unit("a", "Global=true", Launched);
    let memory = run(&mut store, leader, &Memory::default(), 0).memory;
    let everywhere = store.places();
    store.delete(&machine_key(1));
    let memory = run(&mut store, leader, &memory, 1_000).memory;
    run(&mut store, leader, &memory, 6_000);
    assert_eq!(store.places(), everywhere);
}

#[test]
fn half_of_the_machines_is_the_most_that_is_given_up_at_once() {
    let mut store = Store::default();
    for number in 1..=6 {
        store.add_machine(number, &[]);
        store.add_unit(&format!("u{number}"), "", Launched);
    }
    let leader = store.elect();
    let memory = run(&mut store, leader, &Memory::default(), 0).memory;
    for number in 1..=5 {
        store.delete(&machine_key(number));
    }
    let memory = decide(&store, &memory, 0).memory;
    let wave = run(&mut store, leader, &memory, 5_000);
    assert_eq!(store.places(), "u1@6 u2@6 u3@6 u4@4 u5@5 u6@6");
    assert_eq!(wave.wake_at, Some(Millis(65_000)));
    // Three machines are left to count by then, so the next wave is smaller.
    let memory = run(&mut store, leader, &wave.memory, 65_000).memory;
    assert_eq!(store.places(), "u1@6 u2@6 u3@6 u4@6 u5@5 u6@6");
    run(&mut store, leader, &memory, 125_000);
    assert_eq!(store.places(), "u1@6 u2@6 u3@6 u4@6 u5@6 u6@6");
}

#[test]
fn what_users_change_reaches_the_machine_that_has_it() {
    let (mut store, leader) = three_machines();
    store.add_unit("a", "", Launched);
    run(&mut store, leader, &Memory::default(), 0);
    store.add_unit("a", "Conflicts=x", Loaded);
    let changed = run(&mut store, leader, &Memory::default(), 0);
    assert!(matches!(&changed.decisions[0], (Decision::Update { .. }, Why::Changed)));
    assert_eq!(wants(&store.cluster, machine(1))[&name("a")].desired, Loaded);
    // The body of before is collected once the schedule does not use it.
    run(&mut store, leader, &Memory::default(), 0);
    assert_eq!(store.cluster.unused_bodies(), vec![]);

    let known = store.cluster.known_unit(&name("a")).unwrap();
    assert!(store.commit(&txn::set_desired(&name("a"), known, Inactive).unwrap()));
    run(&mut store, leader, &Memory::default(), 0);
    assert_eq!(store.places(), "");
}

#[test]
fn an_engine_out_of_office_changes_nothing() {
    let (mut store, leader) = three_machines();
    store.add_unit("a", "", Launched);
    let decisions = decide(&store, &Memory::default(), 0).decisions;
    store.delete("/proa/fleet/engine/leader");
    store.elect();
    assert!(commit(leader, &decisions).iter().all(|txn| !store.commit(txn)));
}

#[test]
fn plans_of_any_size_fit_into_transactions() {
    let mut store = Store::default();
    for number in 1..=3 {
        store.add_machine(number, &[]);
    }
    let leader = store.elect();
    for number in 0..300 {
        store.add_unit(&format!("u{number}"), "", Launched);
    }
    let memory = run(&mut store, leader, &Memory::default(), 0).memory;
    store.delete(&machine_key(1));
    let memory = decide(&store, &memory, 0).memory;
    run(&mut store, leader, &memory, 5_000);
    assert!(wants(&store.cluster, machine(1)).is_empty());
}

#[derive(Clone, Debug)]
enum Change {
    Unit(u8, usize, bool),
    Destroy(u8),
    Machine(u128, usize),
    Lose(u128),
    Cordon(u128, bool),
    Uncordon(u128),
    Report(u8, u128, bool),
}

const X_FLEET: [&str; 12] = [
    "",
    "Global=true",
    "Global=true\nMachineMetadata=k=1",
    "MachineMetadata=k=1",
    "MachineMetadata=k=2",
    "MachineMetadata=\"k=1\" \"k=2\"",
    "Conflicts=u[0-2].service",
    "Conflicts=*",
    "MachineOf=u0.service",
    "MachineOf=u1.service\nMachineOf=u0.service",
    "MachineID=00000000000000000000000000000002",
    "Replaces=u[1-3].service",
];

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        5 => (0..6u8, 0..X_FLEET.len(), any::<bool>()).prop_map(|(u, x, l)| Change::Unit(u, x, l)),
        1 => (0..6u8).prop_map(Change::Destroy),
        3 => (1..5u128, 0..3usize).prop_map(|(m, k)| Change::Machine(m, k)),
        1 => (1..5u128).prop_map(Change::Lose),
        2 => (1..5u128, any::<bool>()).prop_map(|(m, drain)| Change::Cordon(m, drain)),
        1 => (1..5u128).prop_map(Change::Uncordon),
        3 => (0..6u8, 1..5u128, any::<bool>()).prop_map(|(u, m, up)| Change::Report(u, m, up)),
    ];
    prop::collection::vec(change, 1..40)
}

fn make(store: &mut Store, change: &Change) {
    match change {
        Change::Unit(unit, x_fleet, is_launched) => {
            let desired = if *is_launched { Launched } else { Loaded };
            store.add_unit(&format!("u{unit}"), X_FLEET[*x_fleet], desired);
        }
        Change::Destroy(unit) => {
            let unit = name(&format!("u{unit}"));
            if let Some(known) = store.cluster.known_unit(&unit) {
                assert!(store.commit(&txn::destroy_unit(&unit, known)));
            }
        }
        Change::Machine(number, kind) => {
            let metadata: [&[(&str, &str)]; 3] = [&[], &[("k", "1")], &[("k", "2")]];
            store.add_machine(*number, metadata[*kind]);
        }
        Change::Lose(number) => store.delete(&machine_key(*number)),
        Change::Cordon(number, drain) => store.cordon(*number, *drain),
        Change::Uncordon(number) => store.uncordon(*number),
        Change::Report(unit, number, up) => {
            store.report(&format!("u{unit}"), *number, if *up { "active" } else { "failed" });
        }
    }
}

/// What must be true of the schedule at rest.
fn check_schedule(store: &Store, stuck: &BTreeSet<String>) {
    let cluster = &store.cluster;
    for (unit, record) in cluster.units() {
        let asks = record.requirements.as_ref().unwrap();
        let machines: Vec<_> = cluster.machines_of(unit).collect();
        // A unit that is handed over is on two machines, one of them drained.
        let staying = machines.iter().filter(|id| !cluster.is_draining(**id)).count();
        assert!(asks.global || staying <= 1 && machines.len() <= 2, "{unit} is on {machines:?}");
        let is_stuck = stuck.contains(unit.as_str());
        assert!(asks.global || is_stuck || !machines.is_empty(), "{unit} is nowhere");
        let alive = machines.iter().filter(|id| cluster.machines().contains_key(*id));
        for machine in alive.filter(|id| !cluster.is_draining(**id)) {
            if !is_stuck && !asks.global {
                suits(store, unit, asks, *machine);
            }
        }
    }
}

fn suits(
    store: &Store,
    unit: &proa_fleet_model::unit_name::UnitName,
    asks: &Requirements,
    machine: proa_base::ids::MachineId,
) {
    let cluster = &store.cluster;
    assert!(asks.machine_id.is_none_or(|only| only == machine));
    assert!(asks.metadata_matches(&cluster.machine_metadata(machine).unwrap()));
    let here = &cluster.schedule()[&machine];
    assert!(asks.machine_of.iter().all(|peer| here.contains_key(peer)), "{unit} without peer");
    for other in here.keys().filter(|other| *other != unit) {
        let theirs = cluster.units()[other].requirements.as_ref().unwrap();
        assert!(!asks.conflicts_with(other), "{unit} with {other}");
        assert!(!theirs.conflicts_with(unit), "{unit} with {other}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn every_plan_comes_to_rest_and_keeps_the_rules(changes in changes()) {
        let (mut store, leader) = three_machines();
        let (mut memory, mut now) = (Memory::default(), 0);
        for change in &changes {
            make(&mut store, change);
            let before = store.cluster.clone();
            now += 3_000;
            let done = run(&mut store, leader, &memory, now);
            let stuck = done.stuck.keys().map(ToString::to_string).collect();
            check_schedule(&store, &stuck);
            // Whoever leaves a live machine has a reason; nobody leaves a machine
            // that is only suspected.
            for (decision, why) in &done.decisions {
                if let Decision::Move { from, .. } = decision {
                    let is_alive = before.machines().contains_key(from);
                    match why {
                        Why::MachineLost { since } => {
                            assert!(!is_alive && now - since.0 >= 5_000);
                        }
                        Why::Misplaced(_) => assert!(is_alive),
                        Why::ReplacedBy(_) => {}
                        Why::Drained => assert!(is_alive && before.is_draining(*from)),
                        other => panic!("moved because of {other:?}"),
                    }
                }
            }
            keeps_a_machine(&before, &store, &done);
            memory = done.memory;
        }
    }
}

/// A unit that is still wanted and was on a live machine is on one afterwards, and
/// nobody comes to a cordoned machine.
fn keeps_a_machine(before: &proa_fleet_model::cluster::Cluster, store: &Store, done: &Plan) {
    let after = &store.cluster;
    let is_alive = |id: &proa_base::ids::MachineId| after.machines().contains_key(id);
    for (unit, record) in after.units() {
        let asks = record.requirements.as_ref().unwrap();
        let was_alive = before.machines_of(unit).any(|id| is_alive(&id));
        let is_on = after.machines_of(unit).any(|id| is_alive(&id));
        assert!(asks.global || !was_alive || is_on, "{unit} was taken off its machine");
    }
    for (decision, _) in &done.decisions {
        if let Decision::Place { machine, .. } | Decision::Move { to: machine, .. } = decision {
            assert!(!before.cordons().contains_key(machine), "{decision:?}");
        }
    }
}
