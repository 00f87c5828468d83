//! Cordons as the HTTP API shows them, with what is still on the machine.

use proa_base::ids::MachineId;
use serde::{Deserialize, Serialize};

use crate::cluster::Cluster;
use crate::engine::explain;
use crate::registry::CordonRecord;

/// The longest reason that is taken: a line for people, not a document.
pub const MAX_REASON_BYTES: usize = 512;

/// A machine that is given no more units.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Cordon {
    /// Its 32 digits.
    #[serde(rename = "machineID", skip_serializing_if = "String::is_empty")]
    pub machine_id: String,
    /// What was asked for.
    #[serde(flatten)]
    pub record: CordonRecord,
    /// The units that are still there, global ones left out: they stay.
    pub remaining: Vec<Remaining>,
}

/// A unit on a machine that is to be emptied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Remaining {
    /// Its name.
    pub name: String,
    /// Why no other machine takes it; empty while it is on its way.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// One machine's cordon; `None` when it has none.
pub fn cordon(cluster: &Cluster, machine: MachineId) -> Option<Cordon> {
    let record = cluster.cordons().get(&machine)?.clone();
    let stuck = if record.drain { explain(cluster) } else { Default::default() };
    let units = cluster.schedule().get(&machine).into_iter().flatten();
    let is_global = |name| {
        let asks = cluster.units().get(name).and_then(|unit| unit.requirements.as_ref().ok());
        asks.is_some_and(|asks| asks.global)
    };
    let remaining = units.filter(|(name, _)| !is_global(*name)).map(|(name, _)| Remaining {
        name: name.to_string(),
        reason: stuck.get(name).map(ToString::to_string).unwrap_or_default(),
    });
    Some(Cordon { machine_id: machine.to_string(), record, remaining: remaining.collect() })
}

/// All cordons, by machine.
pub fn cordons(cluster: &Cluster) -> Vec<Cordon> {
    cluster.cordons().keys().filter_map(|machine| cordon(cluster, *machine)).collect()
}

/// What is wrong with a cordon that somebody asks for.
pub fn check(record: &CordonRecord) -> Result<(), String> {
    let is_line = |text: &str| text.len() <= MAX_REASON_BYTES && !text.chars().any(char::is_control);
    match is_line(&record.reason) && is_line(&record.by) {
        true => Ok(()),
        false => Err(format!("the reason must be one line of at most {MAX_REASON_BYTES} bytes")),
    }
}
