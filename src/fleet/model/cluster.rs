//! The cluster as the registry describes it.
//!
//! Built from a full read and kept up by watch events; both ways end in the same
//! value. A record that cannot be read is listed in [`Cluster::garbage`] and
//! changes nothing: it never makes a unit or a machine disappear.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use proa_base::ids::MachineId;
use serde::de::DeserializeOwned;

use crate::registry::{
    CordonRecord, Entry, Event, Key, LeaderRecord, MachineRecord, MetadataRecord, Revision, ScheduleRecord,
    StateRecord, UnitRecord,
};
use crate::requirements::Requirements;
use crate::txn::KnownUnit;
use crate::unit_file::{UnitFile, UnitHash};
use crate::unit_name::UnitName;

/// Everything the registry says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    units: BTreeMap<UnitName, Unit>,
    bodies: BTreeMap<UnitHash, Body>,
    machines: BTreeMap<MachineId, Option<MachineRecord>>,
    metadata: BTreeMap<MachineId, Metadata>,
    cordons: BTreeMap<MachineId, CordonRecord>,
    schedule: BTreeMap<MachineId, BTreeMap<UnitName, Placement>>,
    states: BTreeMap<UnitName, BTreeMap<MachineId, StateRecord>>,
    leader: Option<Leader>,
    garbage: BTreeMap<String, String>,
    /// Which units refer to a body, so that its arrival finds them.
    users: BTreeMap<UnitHash, BTreeSet<UnitName>>,
}

/// A unit and what is known about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Its record; `None` when that is garbage: the unit exists, and nothing
    /// is to be done with it.
    pub known: Option<KnownUnit>,
    /// What its body asks for, or why that is unknown.
    pub requirements: Result<Arc<Requirements>, String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Body {
    file: Result<Arc<UnitFile>, String>,
    mod_revision: Revision,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Metadata {
    record: MetadataRecord,
    mod_revision: Revision,
}

/// A unit on a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// What the machine was told; `None` when that is garbage.
    pub record: Option<ScheduleRecord>,
    /// When the unit came to this machine.
    pub create_revision: Revision,
}

/// The engine in office.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// Its record; `None` when that is garbage.
    pub record: Option<LeaderRecord>,
    /// When it came into office; each term has another one.
    pub create_revision: Revision,
}

impl Cluster {
    /// The cluster described by all keys of the registry.
    pub fn from_entries(entries: impl IntoIterator<Item = Entry>) -> Self {
        let mut cluster = Self::default();
        for entry in entries {
            cluster.apply(Event::Put(entry));
        }
        cluster
    }

    /// Takes one change in.
    pub fn apply(&mut self, event: Event) {
        match event {
            Event::Put(entry) => match entry.key.parse() {
                Ok(key) => {
                    let problem = self.put(key, &entry);
                    self.note(&entry.key, problem);
                }
                Err(error) => self.note(&entry.key, Some(format!("{error}"))),
            },
            Event::Delete { key } => {
                self.note(&key, None);
                if let Ok(key) = key.parse() {
                    self.delete(key);
                }
            }
        }
    }

    fn note(&mut self, key: &str, problem: Option<String>) {
        match problem {
            Some(problem) => self.garbage.insert(key.to_owned(), problem),
            None => self.garbage.remove(key),
        };
    }

    /// Stores one record, and says what is wrong with it.
    fn put(&mut self, key: Key, entry: &Entry) -> Option<String> {
        match key {
            Key::Body(hash) => self.put_body(hash, entry),
            Key::Unit(name) => {
                let (record, problem) = read::<UnitRecord>(entry);
                self.put_unit(name, record.map(|record| known_unit(record, entry)));
                problem
            }
            Key::Schedule(machine, name) => {
                let (record, problem) = read(entry);
                let create_revision = entry.create_revision;
                let placement = Placement { record, create_revision };
                self.schedule.entry(machine).or_default().insert(name, placement);
                problem
            }
            Key::Machine(machine) => {
                let (record, problem) = read(entry);
                // Garbage or not: the key says that the machine is alive.
                self.machines.insert(machine, record);
                problem
            }
            Key::Metadata(machine) => {
                let (record, problem) = read::<MetadataRecord>(entry);
                let mod_revision = entry.mod_revision;
                let record = record.unwrap_or_default();
                self.metadata.insert(machine, Metadata { record, mod_revision });
                problem
            }
            Key::Cordon(machine) => {
                let (record, problem) = read::<CordonRecord>(entry);
                // Garbage or not: somebody wanted no more units there. Those that
                // run stay, since a drain is only what can be read.
                self.cordons.insert(machine, record.unwrap_or_default());
                problem
            }
            Key::State(name, machine) => {
                let (record, problem) = read(entry);
                match record {
                    Some(record) => {
                        self.states.entry(name).or_default().insert(machine, record);
                    }
                    None => remove_inner(&mut self.states, &name, &machine),
                }
                problem
            }
            Key::Leader => {
                let (record, problem) = read(entry);
                let create_revision = entry.create_revision;
                self.leader = Some(Leader { record, create_revision });
                problem
            }
        }
    }

    fn delete(&mut self, key: Key) {
        match key {
            Key::Body(hash) => {
                self.bodies.remove(&hash);
                self.refresh_users(hash);
            }
            Key::Unit(name) => {
                self.leave_body(&name);
                self.units.remove(&name);
            }
            Key::Schedule(machine, name) => remove_inner(&mut self.schedule, &machine, &name),
            Key::Machine(machine) => drop(self.machines.remove(&machine)),
            Key::Metadata(machine) => drop(self.metadata.remove(&machine)),
            Key::Cordon(machine) => drop(self.cordons.remove(&machine)),
            Key::State(name, machine) => remove_inner(&mut self.states, &name, &machine),
            Key::Leader => self.leader = None,
        }
    }

    fn put_body(&mut self, hash: UnitHash, entry: &Entry) -> Option<String> {
        let file = read_body(hash, entry);
        let problem = file.as_ref().err().cloned();
        let mod_revision = entry.mod_revision;
        let file = file.map(Arc::new);
        self.bodies.insert(hash, Body { file, mod_revision });
        self.refresh_users(hash);
        problem
    }

    fn put_unit(&mut self, name: UnitName, known: Option<KnownUnit>) {
        self.leave_body(&name);
        if let Some(known) = known {
            self.users.entry(known.record.hash).or_default().insert(name.clone());
        }
        let requirements = self.read_requirements(&name, known);
        self.units.insert(name, Unit { known, requirements });
    }

    fn leave_body(&mut self, name: &UnitName) {
        let known = self.units.get(name).and_then(|unit| unit.known);
        if let Some(known) = known {
            remove_member(&mut self.users, &known.record.hash, name);
        }
    }

    fn refresh_users(&mut self, hash: UnitHash) {
        for name in self.users.get(&hash).cloned().unwrap_or_default() {
            let known = self.units.get(&name).and_then(|unit| unit.known);
            let requirements = self.read_requirements(&name, known);
            self.units.insert(name, Unit { known, requirements });
        }
    }

    fn read_requirements(
        &self,
        name: &UnitName,
        known: Option<KnownUnit>,
    ) -> Result<Arc<Requirements>, String> {
        let Some(known) = known else {
            return Err("its record in the registry is garbage".to_owned());
        };
        let hash = known.record.hash;
        let file = self.body(hash).ok_or_else(|| format!("its unit file {hash} is missing"))?;
        let requirements = Requirements::of(name, file).map_err(|error| error.to_string())?;
        Ok(Arc::new(requirements))
    }

    /// Every unit there is.
    pub fn units(&self) -> &BTreeMap<UnitName, Unit> {
        &self.units
    }

    /// One unit's record, for changing it.
    pub fn known_unit(&self, name: &UnitName) -> Option<KnownUnit> {
        self.units.get(name)?.known
    }

    /// The unit file with this hash.
    pub fn body(&self, hash: UnitHash) -> Option<&Arc<UnitFile>> {
        self.bodies.get(&hash)?.file.as_ref().ok()
    }

    /// The unit file of this unit.
    pub fn unit_file(&self, name: &UnitName) -> Option<&Arc<UnitFile>> {
        self.body(self.known_unit(name)?.record.hash)
    }

    /// Bodies that no unit and no machine refers to, each with its revision.
    pub fn unused_bodies(&self) -> Vec<(UnitHash, Revision)> {
        let placements = self.schedule.values().flat_map(BTreeMap::values);
        let scheduled: BTreeSet<UnitHash> =
            placements.filter_map(|placement| Some(placement.record?.hash)).collect();
        let bodies = self.bodies.iter();
        bodies
            .filter(|(hash, _)| !self.users.contains_key(hash) && !scheduled.contains(hash))
            .map(|(hash, body)| (*hash, body.mod_revision))
            .collect()
    }

    /// The machines that are alive; `None` for one whose record is garbage.
    pub fn machines(&self) -> &BTreeMap<MachineId, Option<MachineRecord>> {
        &self.machines
    }

    /// The metadata of a machine: what it was configured with, and over that what
    /// was set through the API. `None` when the machine is not alive or its
    /// record is garbage.
    pub fn machine_metadata(&self, machine: MachineId) -> Option<BTreeMap<String, String>> {
        let mut metadata = self.machines.get(&machine)?.as_ref()?.metadata.clone();
        for (key, value) in self.metadata.get(&machine).iter().flat_map(|set| &set.record) {
            match value {
                Some(value) => metadata.insert(key.clone(), value.clone()),
                None => metadata.remove(key),
            };
        }
        Some(metadata)
    }

    /// The metadata set through the API, and its revision.
    pub fn set_metadata(&self, machine: MachineId) -> Option<(&MetadataRecord, Revision)> {
        let set = self.metadata.get(&machine)?;
        Some((&set.record, set.mod_revision))
    }

    /// The machines that are given no more units, alive or not.
    pub fn cordons(&self) -> &BTreeMap<MachineId, CordonRecord> {
        &self.cordons
    }

    /// Whether the units of a machine are asked to leave it.
    pub fn is_draining(&self, machine: MachineId) -> bool {
        self.cordons.get(&machine).is_some_and(|cordon| cordon.drain)
    }

    /// The address of a machine that is alive.
    pub fn machine_ip(&self, machine: MachineId) -> Option<IpAddr> {
        self.machines.get(&machine)?.as_ref()?.primary_ip
    }

    /// What each machine was told to run, machines that are gone included.
    pub fn schedule(&self) -> &BTreeMap<MachineId, BTreeMap<UnitName, Placement>> {
        &self.schedule
    }

    /// The machines that were told to run this unit.
    pub fn machines_of<'a>(&'a self, name: &'a UnitName) -> impl Iterator<Item = MachineId> + 'a {
        let holds = move |(_, units): &(&MachineId, &BTreeMap<UnitName, Placement>)| units.contains_key(name);
        self.schedule.iter().filter(holds).map(|(machine, _)| *machine)
    }

    /// What systemd says about units, by unit and machine.
    pub fn states(&self) -> &BTreeMap<UnitName, BTreeMap<MachineId, StateRecord>> {
        &self.states
    }

    /// The engine in office.
    pub fn leader(&self) -> Option<&Leader> {
        self.leader.as_ref()
    }

    /// Keys that could not be read, and why.
    pub fn garbage(&self) -> &BTreeMap<String, String> {
        &self.garbage
    }
}

fn known_unit(record: UnitRecord, entry: &Entry) -> KnownUnit {
    KnownUnit { record, mod_revision: entry.mod_revision }
}

fn read<T: DeserializeOwned>(entry: &Entry) -> (Option<T>, Option<String>) {
    match serde_json::from_slice(&entry.value) {
        Ok(record) => (Some(record), None),
        Err(error) => (None, Some(error.to_string())),
    }
}

fn read_body(hash: UnitHash, entry: &Entry) -> Result<UnitFile, String> {
    let text = std::str::from_utf8(&entry.value).map_err(|error| error.to_string())?;
    let file = UnitFile::parse(text).map_err(|error| error.to_string())?;
    if file.hash() != hash {
        return Err(format!("the content has the hash {}", file.hash()));
    }
    Ok(file)
}

fn remove_inner<K: Ord, L: Ord, V>(map: &mut BTreeMap<K, BTreeMap<L, V>>, outer: &K, inner: &L) {
    if let Some(rest) = map.get_mut(outer) {
        rest.remove(inner);
        if rest.is_empty() {
            map.remove(outer);
        }
    }
}

fn remove_member<K: Ord, V: Ord>(map: &mut BTreeMap<K, BTreeSet<V>>, key: &K, member: &V) {
    if let Some(rest) = map.get_mut(key) {
        rest.remove(member);
        if rest.is_empty() {
            map.remove(key);
        }
    }
}
