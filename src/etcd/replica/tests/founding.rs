//! Machines found one cluster, whatever gets lost, late or restarted.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;

use proa_etcd_replica::Founded;
use proa_etcd_replica::founding::{
    ALIVE_MS, BEACON_MS, Beacon, Cluster, Decision, Founding, Machines, Myself, Promise, SETTLE_MS, Step, Why,
};
use proptest::prelude::*;

/// splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % limit
    }
}

fn myself(number: u64, size: usize) -> Myself {
    Myself {
        token: "t".into(),
        size,
        machine: format!("{:032x}", number + 1).parse().unwrap(),
        peer_url: format!("http://10.0.0.{number}:2380"),
        client_urls: vec![],
    }
}

struct Machine {
    number: u64,
    size: usize,
    starts_ms: u64,
    founding: Option<Founding>,
    disk: Promise,
    founded: Option<Founded>,
    standby: Option<Cluster>,
}

struct World {
    random: Random,
    machines: Vec<Machine>,
    air: BTreeMap<(u64, u64), (usize, Beacon)>,
    sent: u64,
    now_ms: u64,
}

/// How bad the network is, in percent and milliseconds.
#[derive(Clone, Copy, Debug)]
struct Weather {
    loss: u64,
    delay_ms: u64,
    restarts: u64,
}

impl World {
    fn new(seed: u64, count: u64, size: usize, spread_ms: u64) -> Self {
        let mut random = Random(seed);
        let machines = (0..count)
            .map(|number| Machine {
                number,
                size,
                starts_ms: random.below(spread_ms + 1),
                founding: None,
                disk: Promise::default(),
                founded: None,
                standby: None,
            })
            .collect();
        Self { random, machines, air: BTreeMap::new(), sent: 0, now_ms: 0 }
    }

    fn run(&mut self, duration_ms: u64, weather: Weather) {
        let end = self.now_ms + duration_ms;
        while self.now_ms < end {
            self.now_ms += 50;
            while self.air.first_key_value().is_some_and(|((due, _), _)| *due <= self.now_ms) {
                let (_, (to, beacon)) = self.air.pop_first().unwrap();
                let now_ms = self.now_ms;
                if let Some(founding) = &mut self.machines[to].founding {
                    founding.hear(beacon, now_ms);
                }
            }
            for at in 0..self.machines.len() {
                let restarts = self.random.below(10_000) < weather.restarts;
                if restarts && self.machines[at].founded.is_none() {
                    self.machines[at].founding = None;
                }
                let phase = self.machines[at].number * 50;
                if self.now_ms >= self.machines[at].starts_ms
                    && (self.now_ms + phase).is_multiple_of(BEACON_MS)
                {
                    let beacon = self.turn(at);
                    self.broadcast(at, &beacon, weather);
                }
            }
        }
        self.check_sets();
    }

    fn turn(&mut self, at: usize) -> Beacon {
        let now_ms = self.now_ms;
        let machine = &mut self.machines[at];
        let myself = myself(machine.number, machine.size);
        if let Some(founded) = &machine.founded {
            return Beacon::of_member(&myself, founded.cluster());
        }
        let founding =
            machine.founding.get_or_insert_with(|| Founding::new(myself, machine.disk.clone(), now_ms));
        let Step { promise, beacon, decision } = founding.step(now_ms);
        machine.disk = promise;
        match decision {
            Decision::Wait(_) => {}
            Decision::Found(founded) => machine.founded = Some(founded),
            Decision::Standby(cluster) => machine.standby = Some(cluster),
        }
        beacon
    }

    fn broadcast(&mut self, from: usize, beacon: &Beacon, weather: Weather) {
        for to in (0..self.machines.len()).filter(|to| *to != from) {
            if self.random.below(100) < weather.loss {
                continue;
            }
            let due = self.now_ms + self.random.below(weather.delay_ms + 1);
            self.sent += 1;
            self.air.insert((due, self.sent), (to, beacon.clone()));
        }
    }

    fn sets(&self) -> Vec<Machines> {
        let mut sets: Vec<Machines> = self
            .machines
            .iter()
            .filter_map(|machine| Some(machine.founded.as_ref()?.cluster().founders))
            .collect();
        sets.sort();
        sets.dedup();
        sets
    }

    /// The law: two founded sets are the same, or share no machine.
    fn check_sets(&self) {
        let sets = self.sets();
        for (at, one) in sets.iter().enumerate() {
            for other in &sets[at + 1..] {
                assert!(one.is_disjoint(other), "{one:?} and {other:?} share a machine");
            }
        }
    }
}

const QUIET: Weather = Weather { loss: 0, delay_ms: 20, restarts: 0 };

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Loss, disorder, late machines, more machines than needed, restarts.
    #[test]
    fn machines_that_hear_each_other_found_one_cluster(
        seed: u64, count in 1_u64..=7, size in 1_usize..=4, spread_ms in 0_u64..12_000,
        loss in 0_u64..30, delay_ms in 0_u64..600, restarts in 0_u64..60,
    ) {
        prop_assume!(count as usize >= size);
        let mut world = World::new(seed, count, size, spread_ms);
        world.run(20_000, Weather { loss, delay_ms, restarts });
        world.run(40_000, QUIET);
        let sets = world.sets();
        prop_assert_eq!(sets.len(), 1, "founded {:?}", sets);
        prop_assert_eq!(sets[0].len(), size);
        for machine in &world.machines {
            let id = myself(machine.number, size).machine;
            prop_assert_eq!(machine.founded.is_some(), sets[0].contains(&id));
            prop_assert_eq!(machine.standby.is_some(), !sets[0].contains(&id));
        }
    }

    /// However bad the network, no machine is in two clusters.
    #[test]
    fn founded_sets_never_overlap(
        seed: u64, count in 2_u64..=7, size in 1_usize..=4, spread_ms in 0_u64..12_000,
        loss in 30_u64..95, delay_ms in 0_u64..6_000, restarts in 0_u64..200,
    ) {
        let mut world = World::new(seed, count, size, spread_ms);
        world.run(60_000, Weather { loss, delay_ms, restarts });
        world.run(20_000, QUIET);
        world.check_sets();
    }
}

#[test]
fn every_member_starts_from_the_same_ids() {
    let mut world = World::new(1, 5, 3, 1_000);
    world.run(20_000, QUIET);
    let founded: Vec<_> = world.machines.iter().filter_map(|machine| machine.founded.clone()).collect();
    assert_eq!(founded.len(), 3);
    let ids = |founded: &Founded| founded.members.values().map(|member| member.id).collect::<Vec<_>>();
    assert!(
        founded
            .iter()
            .all(|other| other.cluster_id == founded[0].cluster_id && ids(other) == ids(&founded[0]))
    );
}

#[test]
fn a_machine_left_out_never_founds_after_a_power_cut() {
    let mut world = World::new(2, 6, 3, 0);
    world.run(20_000, QUIET);
    let outside: Vec<usize> = (0..6).filter(|at| world.machines[*at].standby.is_some()).collect();
    assert_eq!(outside.len(), 3);
    // The members stay dark; those left out come back first.
    let mut dark = World::new(3, 6, 3, 0);
    for at in 0..6 {
        dark.machines[at].disk = world.machines[at].disk.clone();
        if !outside.contains(&at) {
            dark.machines[at].starts_ms = u64::MAX;
        }
    }
    dark.run(60_000, QUIET);
    assert_eq!(dark.sets(), Vec::<Machines>::new());
    assert!(outside.iter().all(|at| dark.machines[*at].standby.is_some()));
}

#[test]
fn a_founder_without_its_data_stands_by_like_any_other() {
    let mut founding = Founding::new(myself(0, 1), Promise::default(), 0);
    let founders = Machines::from([myself(0, 1).machine]);
    let cluster = Cluster { id: 7, founders };
    founding.hear(Beacon::of_member(&myself(1, 1), cluster.clone()), 0);
    assert_eq!(founding.step(SETTLE_MS).decision, Decision::Standby(cluster));
}

#[test]
fn a_copied_disk_is_named() {
    let mut founding = Founding::new(myself(0, 1), Promise::default(), 0);
    let twin = Myself { peer_url: "http://10.0.0.9:2380".into(), ..myself(0, 1) };
    founding.hear(Beacon::of_member(&twin, Cluster { id: 7, founders: Machines::new() }), 0);
    let want = Why::SameId { peer_url: "http://10.0.0.9:2380".into() };
    assert_eq!(founding.step(ALIVE_MS).decision, Decision::Wait(want));
}
