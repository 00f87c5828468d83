//! Which unit goes to which machine: from the cluster to decisions with reasons.
//!
//! A unit that is well stays where it is. One without a machine goes to the
//! machine with the fewest units that takes it. One whose machine is lost, or
//! whose machine no longer is what it asks for, moves if another machine takes
//! it, and stays otherwise. Global units go to every machine that matches. A
//! cordoned machine is given nothing new; a drained one also gives up what it
//! has, in two steps where that is possible: see the module `handover`.
//!
//! Loss is suspected, then confirmed: see [`Policy`].

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use proa_base::ids::MachineId;

use crate::cluster::Cluster;
pub use crate::commit::commit;
use crate::handover::{self, Pair};
pub use crate::loss::{Memory, Policy};
use crate::registry::{DesiredState, Millis, Revision, ScheduleRecord};
use crate::unit_file::UnitHash;
use crate::unit_name::UnitName;
pub use crate::world::Obstacle;
use crate::world::World;

/// Longest chain of units that follow each other (`MachineOf=`) in one plan; a
/// longer one is finished by the next plan.
const MAX_ROUNDS: usize = 64;

/// Most unused bodies dropped by one plan: each is a transaction of its own.
const MAX_DROPPED_BODIES: usize = 64;

/// How old the picture of the cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// The store answered lately, and all changes up to then are in.
    Fresh,
    /// The store is slow or gone: nothing is decided, and suspicion starts over.
    Stale,
}

/// One change of the schedule. The fields are what their types say.
#[allow(missing_docs)]
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Decision {
    /// The machine no longer runs the unit.
    Unplace { unit: UnitName, machine: MachineId },
    /// The unit leaves one machine for another, in one transaction.
    Move { unit: UnitName, from: MachineId, to: MachineId, record: ScheduleRecord },
    /// The machine runs the unit.
    Place { unit: UnitName, machine: MachineId, record: ScheduleRecord },
    /// The machine runs the unit already; file or desired state are others.
    Update { unit: UnitName, machine: MachineId, record: ScheduleRecord },
    /// Nobody refers to this body since the revision it was last written at.
    DropBody { hash: UnitHash, mod_revision: Revision },
}

/// Why a decision was taken.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// The unit was destroyed.
    Destroyed,
    /// The unit should be inactive.
    Unwanted,
    /// The unit is on another machine as well.
    Duplicate,
    /// The machine was lost.
    MachineLost {
        /// When its record was first missed.
        since: Millis,
    },
    /// The machine is drained.
    Drained,
    /// The machine is not what the unit asks for any more.
    Misplaced(Obstacle),
    /// Another unit came that replaces it.
    ReplacedBy(UnitName),
    /// The machine had the fewest units of those that take it.
    FewestUnits(usize),
    /// The unit is global and the machine matches.
    Global,
    /// The unit's record changed.
    Changed,
    /// Nothing refers to it.
    Unused,
}

/// What to do, and what to remember.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In this order.
    pub decisions: Vec<(Decision, Why)>,
    /// For the next plan.
    pub memory: Memory,
    /// Units that are not where they should be, and why.
    pub stuck: BTreeMap<UnitName, Obstacle>,
    /// When to plan again even if nothing happens.
    pub wake_at: Option<Millis>,
}

/// The decisions that `cluster` asks for.
///
/// Total and deterministic. When its decisions are carried out, the next plan at
/// the same time is empty.
pub fn plan(cluster: &Cluster, memory: &Memory, policy: &Policy, view: View, now: Millis) -> Plan {
    match view {
        View::Stale => return Plan::default(),
        View::Fresh => {}
    }
    let (memory, wake_at) = memory.look(cluster, policy, now);
    let mut engine = Engine::new(cluster, &memory);
    engine.settle_all();
    let (mut decisions, stuck) = engine.finish();
    if cluster.garbage().is_empty() {
        // With garbage about it is not known what refers to a body.
        let unused = cluster.unused_bodies().into_iter().take(MAX_DROPPED_BODIES);
        decisions.extend(
            unused.map(|(hash, mod_revision)| (Decision::DropBody { hash, mod_revision }, Why::Unused)),
        );
    }
    decisions.sort();
    Plan { decisions, memory, stuck, wake_at }
}

/// Why units are on no machine although they should be on one, and why units are
/// on a machine that does not suit them any more. A unit that is about to be
/// placed is not among them.
pub fn explain(cluster: &Cluster) -> BTreeMap<UnitName, Obstacle> {
    let memory = Memory::default();
    let mut engine = Engine::new(cluster, &memory);
    engine.settle_all();
    engine.stuck
}

/// Whether a unit can take part in scheduling at all.
fn ready(cluster: &Cluster, name: &UnitName) -> Result<(), Obstacle> {
    if name.is_template() {
        return Err(Obstacle::Template);
    }
    match cluster.units().get(name).map(|unit| &unit.requirements) {
        Some(Err(reason)) => Err(Obstacle::Unreadable(reason.clone())),
        Some(Ok(_)) | None => Ok(()),
    }
}

struct Engine<'a> {
    cluster: &'a Cluster,
    memory: &'a Memory,
    world: World<'a>,
    /// Where units were when the plan began, without those that had to go.
    before: BTreeMap<&'a UnitName, BTreeSet<MachineId>>,
    /// Drained units that run on a machine until another one has them up.
    leaving: BTreeMap<&'a UnitName, MachineId>,
    whys: BTreeMap<(&'a UnitName, MachineId), Why>,
    decisions: Vec<(Decision, Why)>,
    stuck: BTreeMap<UnitName, Obstacle>,
}

impl<'a> Engine<'a> {
    fn new(cluster: &'a Cluster, memory: &'a Memory) -> Self {
        let mut engine = Self {
            cluster,
            memory,
            world: World::of(cluster),
            before: BTreeMap::new(),
            leaving: BTreeMap::new(),
            whys: BTreeMap::new(),
            decisions: Vec::new(),
            stuck: BTreeMap::new(),
        };
        for (&machine, units) in cluster.schedule() {
            for name in units.keys() {
                engine.take_in(name, machine);
            }
        }
        engine.drop_duplicates();
        for (name, machines) in engine.before.clone() {
            for machine in machines {
                engine.world.place(name, machine);
            }
            engine.let_go(name);
        }
        engine
    }

    fn unplace(&mut self, unit: &UnitName, machine: MachineId, why: Why) {
        let unit = unit.clone();
        self.decisions.push((Decision::Unplace { unit, machine }, why));
    }

    fn take_in(&mut self, name: &'a UnitName, machine: MachineId) {
        let Some(unit) = self.cluster.units().get(name) else {
            return self.unplace(name, machine, Why::Destroyed);
        };
        // A record that cannot be read is no reason to stop anything.
        let desired = unit.known.map(|known| known.record.desired);
        if desired == Some(DesiredState::Inactive) {
            return self.unplace(name, machine, Why::Unwanted);
        }
        self.before.entry(name).or_default().insert(machine);
    }

    /// One machine for each unit that is not global: the one it has been on for
    /// longest, of those that are alive. A unit that is handed over has two.
    fn drop_duplicates(&mut self) {
        let handovers = handover::pairs(self.cluster);
        let doubled: Vec<&UnitName> = self
            .before
            .iter()
            .filter(|(name, machines)| machines.len() > 1 && self.is_ordinary(name))
            .map(|(name, _)| *name)
            .collect();
        for name in doubled {
            let machines = self.before.remove(name).unwrap_or_default();
            if let Some(&Pair { from, to }) = handovers.get(name) {
                for &extra in machines.iter().filter(|machine| ![from, to].contains(machine)) {
                    self.unplace(name, extra, Why::Duplicate);
                }
                self.before.insert(name, BTreeSet::from([from, to]));
                self.leaving.insert(name, from);
                continue;
            }
            let age = |machine: &MachineId| {
                let is_gone = !self.cluster.machines().contains_key(machine);
                (is_gone, self.came_at(name, *machine), *machine)
            };
            let mut by_age: Vec<MachineId> = machines.into_iter().collect();
            by_age.sort_by_key(age);
            for &extra in &by_age[1..] {
                self.unplace(name, extra, Why::Duplicate);
            }
            self.before.insert(name, BTreeSet::from([by_age[0]]));
        }
    }

    /// The second step of a handover: the old machine lets go of the unit.
    fn let_go(&mut self, name: &'a UnitName) {
        if self.memory.is_handed_over(name)
            && let Some(from) = self.leaving.remove(name)
        {
            self.world.unplace(name, from);
            self.whys.insert((name, from), Why::Drained);
        }
    }

    /// The machine that a unit has to stay on: of two the one it is handed over to.
    fn home(&self, name: &UnitName) -> Option<MachineId> {
        let leaving = self.leaving.get(name);
        self.world.machines_of(name).into_iter().find(|machine| Some(machine) != leaving)
    }

    fn is_ordinary(&self, name: &UnitName) -> bool {
        self.world.requirements(name).is_some_and(|asks| !asks.global)
    }

    fn came_at(&self, name: &UnitName, machine: MachineId) -> Option<Revision> {
        let placement = self.cluster.schedule().get(&machine)?.get(name)?;
        Some(placement.create_revision)
    }

    /// Lets every unit find its place, until none moves any more.
    fn settle_all(&mut self) {
        let wanted = self.cluster.units().iter().filter(|(_, unit)| {
            let desired = unit.known.map(|known| known.record.desired);
            desired != Some(DesiredState::Inactive)
        });
        // Newcomers first: of two units that cannot live together, the one that
        // came later is asked to leave.
        let mut order: Vec<&'a UnitName> = wanted.map(|(name, _)| name).collect();
        let came_at = |name: &UnitName| {
            let machines = self.before.get(name).into_iter().flatten();
            machines.filter_map(|machine| self.came_at(name, *machine)).max()
        };
        order.sort_by_cached_key(|name| (Reverse(came_at(name)), *name));
        order.retain(|name| match ready(self.cluster, name) {
            Ok(()) => true,
            Err(obstacle) => {
                self.stuck.insert((*name).clone(), obstacle);
                false
            }
        });
        for _ in 0..MAX_ROUNDS {
            let mut has_moved = false;
            for &name in &order {
                has_moved |= match self.is_ordinary(name) {
                    true => self.settle(name),
                    false => self.spread(name),
                };
            }
            if !has_moved {
                return;
            }
        }
    }

    /// Finds a place for a unit that needs one; whether it moved.
    fn settle(&mut self, name: &'a UnitName) -> bool {
        let current = self.home(name);
        let why = match current {
            None => None,
            Some(machine) => match self.trouble(name, machine) {
                None => {
                    self.stuck.remove(name);
                    return false;
                }
                trouble => trouble,
            },
        };
        let chosen = self.world.choose(name, false);
        let unwell = |to: MachineId| match current {
            Some(_) => self.unwell_peer(name, to),
            None => None,
        };
        match chosen.and_then(|to| unwell(to).map_or(Ok(to), |peer| Err(Obstacle::Peer(peer)))) {
            Ok(to) => {
                let why = why.unwrap_or(Why::FewestUnits(self.world.units_on(to)));
                self.relocate(name, current, to, why);
                self.drive_away(name, to);
                true
            }
            Err(obstacle) => {
                self.stuck.insert(name.clone(), obstacle);
                false
            }
        }
    }

    /// Why a unit has to leave the machine it is on.
    fn trouble(&self, name: &UnitName, machine: MachineId) -> Option<Why> {
        if !self.cluster.machines().contains_key(&machine) {
            let since = self.memory.lost_since(machine)?;
            return Some(Why::MachineLost { since });
        }
        // A machine whose record is garbage is alive: let it be.
        self.world.usable.get(&machine)?;
        let drained =
            || (self.cluster.is_draining(machine) && self.is_ordinary(name)).then_some(Why::Drained);
        self.world.objection(name, machine).map(Why::Misplaced).or_else(drained)
    }

    /// A unit follows the ones it must be with only to where they stay: units
    /// that name each other would otherwise chase each other for ever.
    fn unwell_peer(&self, name: &UnitName, machine: MachineId) -> Option<UnitName> {
        let peers = self.world.requirements(name).map(|asks| &asks.machine_of);
        let mut peers = peers.into_iter().flatten();
        peers.find(|peer| self.trouble(peer, machine).is_some()).cloned()
    }

    fn relocate(&mut self, name: &'a UnitName, from: Option<MachineId>, to: MachineId, why: Why) {
        match from {
            // The first step of a handover. One that runs twice already moves at once.
            Some(from)
                if why == Why::Drained
                    && !self.leaving.contains_key(name)
                    && handover::keeps_running(self.cluster, name, from) =>
            {
                self.leaving.insert(name, from);
            }
            Some(from) => self.world.unplace(name, from),
            None => {}
        }
        self.world.place(name, to);
        self.whys.insert((name, to), why);
        self.stuck.remove(name);
    }

    /// Moves the units that `name` replaces from the machine it came to.
    fn drive_away(&mut self, name: &'a UnitName, machine: MachineId) {
        for driven in self.world.driven_away_by(name, machine) {
            // One that finds no other place stays: better two than none.
            if let Ok(to) = self.world.choose(driven, true) {
                self.relocate(driven, Some(machine), to, Why::ReplacedBy(name.clone()));
            }
        }
    }

    /// Puts a global unit on every machine that matches; whether that changed
    /// anything.
    fn spread(&mut self, name: &'a UnitName) -> bool {
        let mut has_changed = false;
        let here = self.world.machines_of(name);
        for &machine in &here {
            let trouble = match self.trouble(name, machine) {
                // A global unit has no other place to go to, so it stays with a
                // unit that came later although it conflicts with it, and on a
                // machine that is not heard: taken off, it would be stopped and
                // started when the machine is heard again.
                Some(Why::Misplaced(Obstacle::Conflict(_)) | Why::MachineLost { .. }) | None => continue,
                Some(trouble) => trouble,
            };
            self.world.unplace(name, machine);
            self.whys.insert((name, machine), trouble);
            has_changed = true;
        }
        let usable: Vec<MachineId> = self.world.usable.keys().copied().collect();
        for machine in usable.into_iter().filter(|machine| !here.contains(machine)) {
            if self.world.objection(name, machine).is_none() && self.world.cordoned(machine).is_none() {
                self.world.place(name, machine);
                self.whys.insert((name, machine), Why::Global);
                has_changed = true;
            }
        }
        has_changed
    }

    /// The difference between where units were and where they are now.
    fn finish(mut self) -> (Vec<(Decision, Why)>, BTreeMap<UnitName, Obstacle>) {
        let units = self.cluster.units().iter();
        let readable = units.filter_map(|(name, unit)| {
            unit.requirements.as_ref().ok()?;
            Some((name, ScheduleRecord::from(unit.known?.record)))
        });
        for (name, record) in readable.collect::<Vec<_>>() {
            let before = self.before.get(name).cloned().unwrap_or_default();
            let after = self.world.machines_of(name);
            let mut gone: Vec<MachineId> = before.difference(&after).copied().collect();
            for &machine in after.difference(&before) {
                let unit = name.clone();
                let why = self.whys.get(&(name, machine)).cloned().unwrap_or(Why::Global);
                let decision = match gone.pop() {
                    Some(from) if self.is_ordinary(name) => {
                        Decision::Move { unit, from, to: machine, record }
                    }
                    Some(from) => {
                        gone.push(from);
                        Decision::Place { unit, machine, record }
                    }
                    None => Decision::Place { unit, machine, record },
                };
                self.decisions.push((decision, why));
            }
            for machine in gone {
                let why = self.whys.get(&(name, machine)).cloned().unwrap_or(Why::Unwanted);
                self.unplace(name, machine, why);
            }
            for &machine in before.intersection(&after) {
                let placement = self.cluster.schedule().get(&machine).and_then(|on| on.get(name));
                if placement.and_then(|placement| placement.record) != Some(record) {
                    let unit = name.clone();
                    self.decisions.push((Decision::Update { unit, machine, record }, Why::Changed));
                }
            }
        }
        (self.decisions, self.stuck)
    }
}

/// What one machine has to run, by the schedule: the `desired` of its agent.
/// Records that are garbage are left out; their keys are in
/// [`Cluster::garbage`], and an agent that finds any there does not plan.
pub fn wants(cluster: &Cluster, machine: MachineId) -> BTreeMap<UnitName, ScheduleRecord> {
    let units = cluster.schedule().get(&machine).into_iter().flatten();
    units.filter_map(|(name, placement)| Some((name.clone(), placement.record?))).collect()
}
