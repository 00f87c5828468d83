//! Who runs where, while the engine makes up its mind: a copy of the schedule
//! that can be changed, and the question whether a unit may be on a machine.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proa_base::ids::MachineId;

use crate::cluster::Cluster;
use crate::registry::CordonRecord;
use crate::requirements::Requirements;
use crate::unit_name::UnitName;

/// Why a unit is not where its users want it. Its `Display` is for users.
///
/// In order of how near the unit came to a place: when machines refuse a unit
/// for different reasons, the last of them in this order is the one to tell.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Obstacle {
    /// Templates are for making instances of.
    #[error("a template cannot be scheduled; start an instance of it")]
    Template,
    /// The registry does not say what it asks for.
    #[error("{0}")]
    Unreadable(String),
    /// Nobody is there.
    #[error("no machine is in the cluster")]
    NoMachine,
    /// `MachineID=`.
    #[error("machine {0} is not in the cluster")]
    NotTheMachine(MachineId),
    /// `MachineMetadata=`.
    #[error("no machine has metadata {0}")]
    Metadata(String),
    /// `MachineOf=`.
    #[error("no machine that would do has unit {0}, which MachineOf asks for")]
    Peer(UnitName),
    /// `Conflicts=`, of this unit or of the other one.
    #[error("every machine that would do has a unit it conflicts with, such as {0}")]
    Conflict(UnitName),
    /// `Replaces=` of the other one.
    #[error("every machine that would do has a unit that replaces it, such as {0}")]
    Replaced(UnitName),
    /// Machines that are given no more units.
    #[error("every machine that would do is cordoned, such as {machine}{}", because(.reason))]
    Cordoned {
        /// One of them.
        machine: MachineId,
        /// Why, in the words of whoever did it.
        reason: String,
    },
}

fn because(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(" ({reason})") }
}

/// A unit that takes part in scheduling.
pub(crate) struct Wanted {
    pub(crate) requirements: Arc<Requirements>,
}

/// The schedule as it would be.
pub(crate) struct World<'a> {
    /// Machines that can have units, with their metadata.
    pub(crate) usable: BTreeMap<MachineId, BTreeMap<String, String>>,
    /// Units to place.
    pub(crate) wanted: BTreeMap<&'a UnitName, Wanted>,
    on: BTreeMap<MachineId, BTreeSet<&'a UnitName>>,
    at: BTreeMap<&'a UnitName, BTreeSet<MachineId>>,
    /// Units with `Conflicts=` or `Replaces=`: the only ones that can object to
    /// a newcomer which itself has neither.
    wary: BTreeMap<MachineId, BTreeSet<&'a UnitName>>,
    by_load: BTreeSet<(usize, MachineId)>,
    /// Machines that keep what they have and are given nothing more.
    cordons: &'a BTreeMap<MachineId, CordonRecord>,
}

impl<'a> World<'a> {
    /// The machines and units of a cluster, with nothing placed yet.
    pub(crate) fn of(cluster: &'a Cluster) -> Self {
        let alive = cluster.machines().keys();
        let usable: BTreeMap<_, _> =
            alive.filter_map(|&machine| Some((machine, cluster.machine_metadata(machine)?))).collect();
        let wanted = cluster.units().iter().filter_map(|(name, unit)| {
            let requirements = Arc::clone(unit.requirements.as_ref().ok()?);
            Some((name, Wanted { requirements }))
        });
        Self {
            by_load: usable.keys().map(|&machine| (0, machine)).collect(),
            wanted: wanted.collect(),
            usable,
            on: BTreeMap::new(),
            at: BTreeMap::new(),
            wary: BTreeMap::new(),
            cordons: cluster.cordons(),
        }
    }

    pub(crate) fn place(&mut self, name: &'a UnitName, machine: MachineId) {
        let before = self.load(machine);
        if !self.on.entry(machine).or_default().insert(name) {
            return;
        }
        self.at.entry(name).or_default().insert(machine);
        if self.is_wary(name) {
            self.wary.entry(machine).or_default().insert(name);
        }
        self.reload(machine, before);
    }

    pub(crate) fn unplace(&mut self, name: &'a UnitName, machine: MachineId) {
        let before = self.load(machine);
        let removed = self.on.get_mut(&machine).is_some_and(|units| units.remove(name));
        if !removed {
            return;
        }
        if let Some(machines) = self.at.get_mut(name) {
            machines.remove(&machine);
        }
        if let Some(units) = self.wary.get_mut(&machine) {
            units.remove(name);
        }
        self.reload(machine, before);
    }

    fn load(&self, machine: MachineId) -> usize {
        self.on.get(&machine).map_or(0, BTreeSet::len)
    }

    fn reload(&mut self, machine: MachineId, before: usize) {
        if self.by_load.remove(&(before, machine)) {
            self.by_load.insert((self.load(machine), machine));
        }
    }

    fn is_wary(&self, name: &UnitName) -> bool {
        self.requirements(name).is_some_and(|asks| !asks.conflicts.is_empty() || !asks.replaces.is_empty())
    }

    pub(crate) fn requirements(&self, name: &UnitName) -> Option<&Requirements> {
        Some(&*self.wanted.get(name)?.requirements)
    }

    /// The machines a unit is on.
    pub(crate) fn machines_of(&self, name: &UnitName) -> BTreeSet<MachineId> {
        self.at.get(name).cloned().unwrap_or_default()
    }

    /// How many units a machine has.
    pub(crate) fn units_on(&self, machine: MachineId) -> usize {
        self.load(machine)
    }

    /// What speaks against `name` being on `machine`, for as long as it is there.
    pub(crate) fn objection(&self, name: &UnitName, machine: MachineId) -> Option<Obstacle> {
        let asks = self.requirements(name)?;
        let Some(metadata) = self.usable.get(&machine) else {
            return Some(Obstacle::NoMachine);
        };
        if let Some(only) = asks.machine_id.filter(|only| *only != machine) {
            return Some(Obstacle::NotTheMachine(only));
        }
        if !asks.metadata_matches(metadata) {
            return Some(Obstacle::Metadata(asks.metadata_text()));
        }
        let here = self.on.get(&machine);
        let is_here = |peer: &&UnitName| here.is_some_and(|units| units.contains(*peer));
        if let Some(peer) = asks.machine_of.iter().find(|peer| !is_here(peer)) {
            return Some(Obstacle::Peer(peer.clone()));
        }
        let rival = self.others(name, machine, asks.conflicts.is_empty()).find(|other| {
            let theirs = self.requirements(other);
            asks.conflicts_with(other) || theirs.is_some_and(|theirs| theirs.conflicts_with(name))
        });
        rival.map(|rival| Obstacle::Conflict(rival.clone()))
    }

    /// Who is on `machine` besides `name`; only those that can object, if it has
    /// no objections of its own.
    fn others<'s>(
        &'s self,
        name: &'s UnitName,
        machine: MachineId,
        only_wary: bool,
    ) -> impl Iterator<Item = &'a UnitName> + 's {
        let units = if only_wary { &self.wary } else { &self.on };
        let units = units.get(&machine).into_iter().flatten().copied();
        units.filter(move |other| *other != name)
    }

    /// Whether `driver` drives `driven` away from a machine they share. Two units
    /// that replace each other do neither, and global units are everywhere.
    fn drives_away(&self, driver: &UnitName, driven: &UnitName) -> bool {
        let (Some(driver_asks), Some(driven_asks)) = (self.requirements(driver), self.requirements(driven))
        else {
            return false;
        };
        driver != driven
            && driver_asks.replaces_unit(driven)
            && !driven_asks.replaces_unit(driver)
            && !driven_asks.global
            && !driver_asks.global
    }

    /// The units that leave `machine` when `name` comes there.
    pub(crate) fn driven_away_by(&self, name: &'a UnitName, machine: MachineId) -> Vec<&'a UnitName> {
        let is_harmless = self.requirements(name).is_none_or(|asks| asks.replaces.is_empty());
        if is_harmless {
            return Vec::new();
        }
        let others = self.others(name, machine, false);
        others.filter(|other| self.drives_away(name, other)).collect()
    }

    fn replacer(&self, name: &UnitName, machine: MachineId) -> Option<&'a UnitName> {
        self.others(name, machine, true).find(|other| self.drives_away(other, name))
    }

    /// Why a machine is given nothing new.
    pub(crate) fn cordoned(&self, machine: MachineId) -> Option<Obstacle> {
        let reason = self.cordons.get(&machine)?.reason.clone();
        Some(Obstacle::Cordoned { machine, reason })
    }

    /// The machine with the fewest units that takes this one; of several the one
    /// with the lowest id.
    ///
    /// `peaceful`: not where it would drive others away.
    pub(crate) fn choose(&self, name: &'a UnitName, peaceful: bool) -> Result<MachineId, Obstacle> {
        let mut nearest = Obstacle::NoMachine;
        let only = self.requirements(name).and_then(|asks| asks.machine_id);
        if let Some(only) = only.filter(|only| !self.usable.contains_key(only)) {
            return Err(Obstacle::NotTheMachine(only));
        }
        for &(_, machine) in &self.by_load {
            let replaced = || {
                let by_other = self.replacer(name, machine).cloned();
                let by_this = || self.driven_away_by(name, machine).first().map(|one| (*one).clone());
                by_other.or_else(|| peaceful.then(by_this).flatten()).map(Obstacle::Replaced)
            };
            let cordoned = || self.cordoned(machine);
            match self.objection(name, machine).or_else(replaced).or_else(cordoned) {
                None => return Ok(machine),
                Some(obstacle) => nearest = nearest.max(obstacle),
            }
        }
        Err(nearest)
    }
}
