//! All short stories of two machines, and random long ones of eight, held
//! against a witness that knows nothing of the records.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::omaha::{AppRequest, Event, EventResult, EventType, UpdateCheck};

const VERSIONS: [&str; 3] = ["1.0", "2.0", "3.0"];

#[derive(Clone, Copy, Debug)]
enum Act {
    /// The machine asks for an update.
    Ask(usize),
    /// It restarts into what it was offered and says that all is well.
    Complete(usize),
    /// It is back on its version and says that what it was offered failed.
    Fail(usize),
    /// Its network fails.
    Trouble(usize),
    /// The channel names this version.
    Release(usize),
    /// An operator clears the halt.
    Clear,
    /// An operator clears the failed versions.
    Pardon,
    /// The most machines at one time.
    Limit(u32),
    /// Whether one goes first.
    Safe(bool),
}

/// One group, its machines, and what a witness saw.
struct World {
    records: Records,
    machines: Vec<Machine>,
    now: u64,
    /// Versions that failed and were not pardoned.
    barred: BTreeSet<String>,
    halted: bool,
    /// The version that is known to run well somewhere.
    proven: Option<String>,
    /// Machines that hold an offer, and of what.
    holding: BTreeMap<usize, String>,
}

#[derive(Clone)]
struct Machine {
    version: String,
    offered: Option<String>,
    instance: Option<Instance>,
}

impl World {
    fn new(machines: usize, limit: u32, safe: bool) -> Self {
        let mut group = Group::following("stable");
        group.max_concurrent = limit;
        group.safe_mode = safe;
        let machine = Machine { version: VERSIONS[0].into(), offered: None, instance: None };
        let target = Some(Target { version: VERSIONS[1].into(), minimum: String::new(), is_missing: false });
        let releases = VERSIONS.map(str::to_owned).into();
        let records = Records { group_name: "g".into(), group, target, releases, ..Records::default() };
        Self {
            records,
            machines: vec![machine; machines],
            now: 1_000_000,
            barred: BTreeSet::new(),
            halted: false,
            proven: None,
            holding: BTreeMap::new(),
        }
    }

    fn send(&mut self, number: usize, events: Vec<Event>, asks: bool) -> Option<Result<(), Refusal>> {
        self.now += 1;
        let update_check = asks.then(UpdateCheck::default);
        let version = self.machines[number].version.clone();
        let app = AppRequest { version, update_check, events, ..AppRequest::default() };
        self.records.instance = self.machines[number].instance.clone();
        let seen = Visit { app: &app, address: "", now_unix_s: self.now };
        let outcome = visit(&self.records, &seen, &format!("m{number}"));
        self.records.rollout = outcome.rollout;
        self.machines[number].instance = Some(outcome.instance);
        self.records.failed.extend(outcome.failed.into_iter().map(|failed| (failed.version.clone(), failed)));
        outcome.offer
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Ask(number) => self.ask(number),
            Act::Complete(number) => {
                let Some(version) = self.machines[number].offered.take() else { return };
                let previous = std::mem::replace(&mut self.machines[number].version, version.clone());
                self.send(number, vec![event(2, None, &previous)], false);
                self.holding.remove(&number);
                if version == self.records.rollout.version {
                    self.proven = Some(version);
                }
            }
            Act::Fail(number) => {
                let Some(version) = self.machines[number].offered.take() else { return };
                self.send(number, vec![event(0, Some(44), "")], false);
                self.holding.remove(&number);
                self.barred.insert(version);
                self.halted = true;
                self.proven = None;
            }
            Act::Trouble(number) => {
                if self.machines[number].offered.take().is_some() {
                    self.send(number, vec![event(0, Some(37), "")], false);
                    self.holding.remove(&number);
                }
            }
            Act::Release(number) => {
                self.records.target = Some(Target {
                    version: VERSIONS[number].into(),
                    minimum: String::new(),
                    is_missing: false,
                });
            }
            Act::Clear => {
                self.records.rollout.halt = None;
                self.halted = false;
            }
            Act::Pardon => {
                self.records.failed.clear();
                self.barred.clear();
            }
            Act::Limit(limit) => self.records.group.max_concurrent = limit,
            Act::Safe(safe) => self.records.group.safe_mode = safe,
        }
    }

    fn ask(&mut self, number: usize) {
        let before = self.machines[number].offered.clone();
        if self.send(number, Vec::new(), true) != Some(Ok(())) {
            return;
        }
        let version = self.records.target.as_ref().unwrap().version.clone();
        assert!(!self.halted, "offered {version} in a halted group");
        assert!(!self.barred.contains(&version), "offered {version}, which failed");
        assert!(self.machines[number].version < version, "offered what it runs");
        self.machines[number].offered = Some(version.clone());
        self.holding.insert(number, version.clone());
        if before.as_ref() == Some(&version) {
            return;
        }
        let limit = self.records.group.max_concurrent as usize;
        assert!(limit == 0 || self.holding.len() <= limit, "{} at one time", self.holding.len());
        let of_this = self.holding.values().filter(|held| **held == version).count();
        if self.records.group.safe_mode && self.proven.as_ref() != Some(&version) {
            assert_eq!(of_this, 1, "{version} is not proven and went to a second machine");
        }
    }
}

fn event(result: u32, error_code: Option<u32>, previous: &str) -> Event {
    Event {
        kind: EventType::UPDATE_COMPLETE,
        result: EventResult(result),
        error_code,
        previous_version: previous.into(),
        ..Event::default()
    }
}

/// Every story of five acts of two machines: 11^5, in each of four groups.
#[test]
fn no_short_story_breaks_the_rules() {
    let acts = [
        Act::Ask(0),
        Act::Ask(1),
        Act::Complete(0),
        Act::Complete(1),
        Act::Fail(0),
        Act::Fail(1),
        Act::Trouble(0),
        Act::Release(2),
        Act::Release(1),
        Act::Clear,
        Act::Pardon,
    ];
    const LENGTH: u32 = 5;
    for (limit, safe) in [(1, false), (1, true), (0, true), (0, false)] {
        for story in 0..acts.len().pow(LENGTH) {
            let mut world = World::new(2, limit, safe);
            let mut rest = story;
            for _ in 0..LENGTH {
                world.act(acts[rest % acts.len()]);
                rest /= acts.len();
            }
        }
    }
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (0..8_usize).prop_map(Act::Ask),
        3 => (0..8_usize).prop_map(Act::Complete),
        1 => (0..8_usize).prop_map(Act::Fail),
        1 => (0..8_usize).prop_map(Act::Trouble),
        1 => (1..3_usize).prop_map(Act::Release),
        1 => Just(Act::Clear),
        1 => Just(Act::Pardon),
        1 => (0..4_u32).prop_map(Act::Limit),
        1 => any::<bool>().prop_map(Act::Safe),
    ]
}

proptest! {
    #[test]
    fn no_long_story_breaks_the_rules(
        limit in 0..4_u32,
        safe in any::<bool>(),
        acts in proptest::collection::vec(act(), 0..120),
    ) {
        let mut world = World::new(8, limit, safe);
        for act in acts {
            world.act(act);
        }
    }
}
