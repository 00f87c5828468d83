//! The layout of the registry: which key holds what, as types and as text.
//!
//! | key under `/proa/fleet/`     | value                     | lease          | written by |
//! |------------------------------|---------------------------|----------------|------------|
//! | `bodies/<sha1>`              | text of the unit file     | -              | API        |
//! | `units/<unit>`               | [`UnitRecord`]            | -              | API        |
//! | `schedule/<machine>/<unit>`  | [`ScheduleRecord`]        | -              | engine     |
//! | `machines/<machine>`         | [`MachineRecord`]         | the machine's  | agent      |
//! | `metadata/<machine>`         | [`MetadataRecord`]        | -              | API        |
//! | `cordons/<machine>`          | [`CordonRecord`]          | -              | API        |
//! | `states/<unit>/<machine>`    | [`StateRecord`]           | the machine's  | agent      |
//! | `engine/leader`              | [`LeaderRecord`]          | the engine's   | engine     |
//!
//! An agent needs one watch, on `schedule/<its own id>/`: what it has to run is
//! there with the hash of the body, global units included. Bodies are addressed
//! by their content, so each is fetched once and can never be stale.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use proa_base::ids::MachineId;
use serde::{Deserialize, Serialize};

use crate::unit_file::{BadUnitHash, UnitHash};
use crate::unit_name::{BadUnitName, UnitName};

/// What every key of the registry starts with.
pub const PREFIX: &str = "/proa/fleet/";

/// A revision of the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revision(pub i64);

/// A lease of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaseId(pub i64);

/// A point in time in milliseconds.
///
/// In records: since 1970 (UTC). For the engine: of any one clock that never
/// goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub u64);

/// What the cluster is asked to do with a unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DesiredState {
    /// Known, and on no machine.
    #[default]
    Inactive,
    /// On a machine, known to systemd there, not started by us.
    Loaded,
    /// On a machine and started.
    Launched,
}

impl DesiredState {
    /// The word of the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inactive => "inactive",
            Self::Loaded => "loaded",
            Self::Launched => "launched",
        }
    }
}

/// A text that is no desired state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid value {0:?} for desiredState; right would be inactive, loaded or launched")]
pub struct BadDesiredState(pub String);

impl FromStr for DesiredState {
    type Err = BadDesiredState;

    fn from_str(text: &str) -> Result<Self, BadDesiredState> {
        let all = [Self::Inactive, Self::Loaded, Self::Launched];
        let found = all.into_iter().find(|state| state.as_str() == text);
        found.ok_or_else(|| BadDesiredState(text.to_owned()))
    }
}

impl fmt::Display for DesiredState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Counts how often a unit was asked to launch: each time its desired state
/// becomes `launched`, and each explicit restart.
///
/// An agent starts a unit once for each (hash, launch), so that a unit which
/// failed, finished or was stopped by hand is not started in a loop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Launch(pub u64);

/// A unit as its users want it. The name is the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UnitRecord {
    /// The body under `bodies/`.
    pub hash: UnitHash,
    /// What is to be done with it.
    pub desired: DesiredState,
    /// How often a launch was asked for.
    #[serde(default)]
    pub launch: Launch,
}

/// A unit that one machine has to run. Machine and unit are the key.
///
/// `desired` is [`DesiredState::Loaded`] or [`DesiredState::Launched`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ScheduleRecord {
    /// The body under `bodies/`.
    pub hash: UnitHash,
    /// What is to be done with it.
    pub desired: DesiredState,
    /// How often a launch was asked for.
    #[serde(default)]
    pub launch: Launch,
}

impl From<UnitRecord> for ScheduleRecord {
    fn from(unit: UnitRecord) -> Self {
        let UnitRecord { hash, desired, launch } = unit;
        Self { hash, desired, launch }
    }
}

/// A machine that is alive: the record lives as long as the lease it is under.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineRecord {
    /// Address the machine is known by.
    #[serde(default, rename = "primaryIP", skip_serializing_if = "Option::is_none")]
    pub primary_ip: Option<IpAddr>,
    /// What it was configured with.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// `host:port` of its API, where other machines fetch journals and status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<String>,
    /// Version of the agent.
    #[serde(default)]
    pub version: String,
}

/// Metadata set through the API. It wins over what the machine was configured
/// with; `null` takes a key away.
pub type MetadataRecord = BTreeMap<String, Option<String>>;

/// A machine that is given no more units. Machine is the key.
///
/// The record outlives the machine's: one that reboots comes back cordoned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CordonRecord {
    /// Whether the units that are there leave, too.
    #[serde(default)]
    pub drain: bool,
    /// For whoever wonders, in words.
    #[serde(default)]
    pub reason: String,
    /// The program that put it here and takes it away again; empty for a person.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by: String,
    /// Whether a person's cordon without `drain` was here before, and comes back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep: bool,
}

/// What systemd says about a unit on one machine. Unit and machine are the key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateRecord {
    /// systemd's LoadState.
    pub load: String,
    /// systemd's ActiveState.
    pub active: String,
    /// systemd's SubState.
    pub sub: String,
    /// Hash of the file that is loaded.
    pub hash: UnitHash,
    /// What the agent has reached: `launched` once it has issued the start of
    /// this hash, `loaded` before; what became of the start is in `active`.
    pub reached: DesiredState,
    /// When the states above became what they are, since 1970.
    pub since: Millis,
    /// Why the agent cannot bring the unit to what is wanted, in words for whoever waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// The engine that decides: the record lives as long as the lease it is under.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderRecord {
    /// The machine it runs on.
    #[serde(with = "id_text")]
    pub machine: MachineId,
    /// Its version.
    #[serde(default)]
    pub version: String,
}

/// [`MachineId`] in JSON: its 32 digits.
pub(crate) mod id_text {
    use proa_base::ids::MachineId;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(id: &MachineId, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(id)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<MachineId, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// A key of the registry. Its `Display` is the key's text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// `bodies/<sha1>`.
    Body(UnitHash),
    /// `units/<unit>`.
    Unit(UnitName),
    /// `schedule/<machine>/<unit>`.
    Schedule(MachineId, UnitName),
    /// `machines/<machine>`.
    Machine(MachineId),
    /// `metadata/<machine>`.
    Metadata(MachineId),
    /// `cordons/<machine>`.
    Cordon(MachineId),
    /// `states/<unit>/<machine>`.
    State(UnitName, MachineId),
    /// `engine/leader`.
    Leader,
}

/// Why a text is no key of the registry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    /// Not one of the shapes in the table of this module.
    #[error("no key of this registry")]
    Shape,
    /// The unit in it is none.
    #[error(transparent)]
    Unit(#[from] BadUnitName),
    /// The machine in it is none.
    #[error(transparent)]
    Machine(#[from] proa_base::ids::BadMachineId),
    /// The hash in it is none.
    #[error(transparent)]
    Hash(#[from] BadUnitHash),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Body(hash) => write!(f, "{PREFIX}bodies/{hash}"),
            Self::Unit(name) => write!(f, "{PREFIX}units/{name}"),
            Self::Schedule(machine, name) => write!(f, "{PREFIX}schedule/{machine}/{name}"),
            Self::Machine(machine) => write!(f, "{PREFIX}machines/{machine}"),
            Self::Metadata(machine) => write!(f, "{PREFIX}metadata/{machine}"),
            Self::Cordon(machine) => write!(f, "{PREFIX}cordons/{machine}"),
            Self::State(name, machine) => write!(f, "{PREFIX}states/{name}/{machine}"),
            Self::Leader => write!(f, "{PREFIX}engine/leader"),
        }
    }
}

impl FromStr for Key {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<Self, BadKey> {
        let inner = text.strip_prefix(PREFIX).ok_or(BadKey::Shape)?;
        let parts: Vec<&str> = inner.split('/').collect();
        Ok(match parts.as_slice() {
            ["bodies", hash] => Self::Body(hash.parse()?),
            ["units", name] => Self::Unit(name.parse()?),
            ["schedule", machine, name] => Self::Schedule(machine.parse()?, name.parse()?),
            ["machines", machine] => Self::Machine(machine.parse()?),
            ["metadata", machine] => Self::Metadata(machine.parse()?),
            ["cordons", machine] => Self::Cordon(machine.parse()?),
            ["states", name, machine] => Self::State(name.parse()?, machine.parse()?),
            ["engine", "leader"] => Self::Leader,
            _ => return Err(BadKey::Shape),
        })
    }
}

/// What an agent watches and reads: all that one machine has to run.
pub fn schedule_prefix(machine: MachineId) -> String {
    format!("{PREFIX}schedule/{machine}/")
}

/// What every unit is found under.
pub fn units_prefix() -> String {
    format!("{PREFIX}units/")
}

/// What every machine that is alive is found under.
pub fn machines_prefix() -> String {
    format!("{PREFIX}machines/")
}

/// What the cordons of all machines are found under.
pub fn cordons_prefix() -> String {
    format!("{PREFIX}cordons/")
}

/// What the states of one unit are found under.
pub fn states_prefix(name: &UnitName) -> String {
    format!("{PREFIX}states/{name}/")
}

/// One key with its value, as the store returned it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key; anything that is not UTF-8 is garbage to this registry, convert
    /// it lossily.
    pub key: String,
    /// The value.
    pub value: Vec<u8>,
    /// Revision at which the key appeared.
    pub create_revision: Revision,
    /// Revision of the last write.
    pub mod_revision: Revision,
}

/// One change, as a watch reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The key has a new value.
    Put(Entry),
    /// The key is gone.
    Delete {
        /// The key.
        key: String,
    },
}
