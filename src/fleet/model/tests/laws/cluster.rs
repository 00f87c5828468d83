//! The cluster's picture: garbage harms nobody, events and full reads agree.

use proa_fleet_model::cluster::Cluster;
use proa_fleet_model::engine::{Memory, Policy, View, commit, plan};
use proa_fleet_model::registry::DesiredState::Launched;
use proa_fleet_model::registry::{Entry, Event, Key, Millis, Revision};
use proptest::prelude::*;

use crate::store::{Store, machine, machine_key, name};

#[test]
fn garbage_makes_nothing_disappear() {
    let mut store = Store::default();
    store.add_machine(1, &[]);
    store.add_machine(2, &[]);
    let leader = store.elect();
    store.add_unit("a", "", Launched);
    store.add_unit("b", "", Launched);
    let decide =
        |store: &Store| plan(&store.cluster, &Memory::default(), &Policy::default(), View::Fresh, Millis(0));
    for txn in commit(leader, &decide(&store).decisions) {
        assert!(store.commit(&txn));
    }
    let places = store.places();

    store.put(&machine_key(1), b"{");
    store.put(&Key::Unit(name("a")).to_string(), b"\xff");
    store.put(&Key::State(name("a"), machine(1)).to_string(), b"[]");
    store.put("/proa/fleet/units/no unit", b"{}");
    store.put("/proa/fleet/surprise", b"");
    assert_eq!(decide(&store).decisions, vec![]);
    assert_eq!(store.places(), places);
    assert_eq!(store.cluster.garbage().len(), 5);
    assert_eq!(store.cluster, store.read());

    // A garbled order is written again.
    let key = Key::Schedule(machine(2), name("b")).to_string();
    store.put(&key, b"?");
    assert_eq!(decide(&store).decisions.len(), 1);
    store.delete("/proa/fleet/surprise");
    assert_eq!(store.cluster.garbage().len(), 5);
}

#[test]
fn a_body_under_another_name_is_garbage() {
    let mut store = Store::default();
    let hash = "1c6fb6f3684bafb0c173d8b8b957ceff031180c1".parse().unwrap();
    store.put(&Key::Body(hash).to_string(), b"[Service]\nExecStart=/bin/sleep 100\n");
    assert!(store.cluster.body(hash).is_some());
    store.put(&Key::Body(hash).to_string(), b"[Service]\nExecStart=/bin/sleep 101\n");
    assert!(store.cluster.body(hash).is_none());
    assert_eq!(store.cluster.garbage().len(), 1);
}

#[test]
fn keys_survive_their_text() {
    let hash = "1c6fb6f3684bafb0c173d8b8b957ceff031180c1".parse().unwrap();
    let (id, unit) = (machine(7), name("a"));
    #[rustfmt::skip]
    let cases = [
        (Key::Body(hash),                     "/proa/fleet/bodies/1c6fb6f3684bafb0c173d8b8b957ceff031180c1"),
        (Key::Unit(unit.clone()),             "/proa/fleet/units/a.service"),
        (Key::Schedule(id, unit.clone()),     "/proa/fleet/schedule/00000000000000000000000000000007/a.service"),
        (Key::Machine(id),                    "/proa/fleet/machines/00000000000000000000000000000007"),
        (Key::Metadata(id),                   "/proa/fleet/metadata/00000000000000000000000000000007"),
        (Key::Cordon(id),                     "/proa/fleet/cordons/00000000000000000000000000000007"),
        (Key::State(unit, id),                "/proa/fleet/states/a.service/00000000000000000000000000000007"),
        (Key::Leader,                         "/proa/fleet/engine/leader"),
    ];
    for (key, text) in cases {
        assert_eq!(key.to_string(), text);
        assert_eq!(text.parse::<Key>().unwrap(), key);
    }
}

fn keys() -> impl Strategy<Value = String> {
    let hash = "1c6fb6f3684bafb0c173d8b8b957ceff031180c1";
    let fixed = [
        format!("/proa/fleet/bodies/{hash}"),
        "/proa/fleet/units/a.service".to_owned(),
        "/proa/fleet/units/b@.service".to_owned(),
        format!("/proa/fleet/schedule/{}/a.service", machine(1)),
        format!("/proa/fleet/schedule/{}/b.service", machine(2)),
        machine_key(1),
        format!("/proa/fleet/metadata/{}", machine(1)),
        format!("/proa/fleet/states/a.service/{}", machine(1)),
        "/proa/fleet/engine/leader".to_owned(),
        "/proa/fleet/units/?".to_owned(),
    ];
    prop_oneof![9 => prop::sample::select(fixed.to_vec()), 1 => ".{0,20}"]
}

fn values() -> impl Strategy<Value = Vec<u8>> {
    let hash = "1c6fb6f3684bafb0c173d8b8b957ceff031180c1";
    let fixed = [
        "[Service]\nExecStart=/bin/sleep 100\n".to_owned(),
        format!(r#"{{"hash":"{hash}","desired":"launched","launch":1}}"#),
        format!(r#"{{"hash":"{hash}","desired":"inactive"}}"#),
        r#"{"primaryIP":"10.0.0.1","metadata":{"k":"v"},"version":"1"}"#.to_owned(),
        r#"{"k":"w","x":null}"#.to_owned(),
        format!(r#"{{"machine":"{}"}}"#, machine(1)),
        format!(
            r#"{{"load":"loaded","active":"active","sub":"running","hash":"{hash}","reached":"launched","since":5}}"#
        ),
    ];
    let fixed: Vec<Vec<u8>> = fixed.into_iter().map(String::into_bytes).collect();
    prop_oneof![6 => prop::sample::select(fixed), 1 => prop::collection::vec(any::<u8>(), 0..40)]
}

proptest! {
    #[test]
    fn events_and_a_full_read_agree(events in prop::collection::vec((keys(), prop::option::of(values())), 0..60)) {
        let mut store = Store::default();
        for (key, value) in &events {
            match value {
                Some(value) => store.put(key, value),
                None => store.delete(key),
            }
        }
        prop_assert_eq!(&store.cluster, &store.read());
        let plan = plan(&store.cluster, &Memory::default(), &Policy::default(), View::Fresh, Millis(0));
        prop_assert!(commit(Revision(1), &plan.decisions).len() <= plan.decisions.len());
        let _ = proa_fleet_model::api::units(&store.cluster);
    }

    #[test]
    fn the_order_of_a_full_read_does_not_matter(
        events in prop::collection::btree_map(keys(), values(), 0..10),
    ) {
        let entry = |(key, value): (&String, &Vec<u8>)| Entry {
            key: key.clone(),
            value: value.clone(),
            create_revision: Revision(1),
            mod_revision: Revision(1),
        };
        let forwards = Cluster::from_entries(events.iter().map(entry));
        let mut backwards = Cluster::default();
        for event in events.iter().rev().map(entry).map(Event::Put) {
            backwards.apply(event);
        }
        prop_assert_eq!(forwards, backwards);
    }
}
