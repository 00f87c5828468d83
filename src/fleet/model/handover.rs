//! How a drained unit changes machines without a gap: the new machine is given
//! the unit first, and the old one lets go of it when it is up there.
//!
//! That a handover is under way is in the registry: the unit is scheduled on a
//! machine that is drained and on another one, both alive. Only since when is
//! remembered, and a new engine counts anew. A cordon that is lifted in between
//! leaves an ordinary duplicate, of which the older one stays.
//!
//! A unit moves at once, the old machine first, when nobody misses it meanwhile
//! (it is not launched, or does not run), and when it must never run twice: it
//! says so by conflicting with its own name. (`Conflicts=` keeps units off one
//! *machine*, so a pattern that also matches the unit itself, as the usual
//! `web@*.service` does, is about the other instances.)

use std::collections::BTreeMap;

use proa_base::ids::MachineId;

use crate::cluster::Cluster;
use crate::loss::Policy;
use crate::registry::{DesiredState, Millis, Revision, StateRecord};
use crate::unit_name::UnitName;

/// One unit on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Handover {
    pair: Pair,
    /// When it was first seen on both machines.
    since: Millis,
    /// When it was first seen to be up on the new one, if it still is.
    up_since: Option<Millis>,
    /// Whether the old machine may let go of it.
    pub(crate) is_done: bool,
}

/// The two machines of a handover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    /// Drained.
    pub(crate) from: MachineId,
    /// Where the unit is to stay.
    pub(crate) to: MachineId,
}

/// The units that are being handed over, by what the registry says.
pub(crate) fn pairs(cluster: &Cluster) -> BTreeMap<&UnitName, Pair> {
    let mut found = BTreeMap::new();
    let is_alive = |machine: &MachineId| cluster.machines().contains_key(machine);
    let drained = cluster.schedule().iter().filter(|(id, _)| cluster.is_draining(**id) && is_alive(id));
    for name in drained.flat_map(|(_, units)| units.keys()) {
        if found.contains_key(name) || !takes_part(cluster, name) {
            continue;
        }
        let came = |machine: &MachineId| came_at(cluster, name, *machine);
        let mut machines: Vec<MachineId> = cluster.machines_of(name).filter(is_alive).collect();
        machines.sort_by_key(|machine| (came(machine), *machine));
        let stays = machines.iter().find(|machine| !cluster.is_draining(**machine)).or(machines.last());
        let Some(&to) = stays else { continue };
        let leaves = machines.iter().find(|machine| **machine != to && cluster.is_draining(**machine));
        if let Some(&from) = leaves {
            found.insert(name, Pair { from, to });
        }
    }
    found
}

fn takes_part(cluster: &Cluster, name: &UnitName) -> bool {
    let Some(unit) = cluster.units().get(name) else { return false };
    let is_wanted = unit.known.is_some_and(|known| known.record.desired != DesiredState::Inactive);
    is_wanted && unit.requirements.as_ref().is_ok_and(|asks| !asks.global)
}

fn came_at(cluster: &Cluster, name: &UnitName, machine: MachineId) -> Option<Revision> {
    Some(cluster.schedule().get(&machine)?.get(name)?.create_revision)
}

/// Whether a unit stays on the machine it leaves until another one has it up.
pub(crate) fn keeps_running(cluster: &Cluster, name: &UnitName, from: MachineId) -> bool {
    let Some(unit) = cluster.units().get(name) else { return false };
    let is_launched = unit.known.is_some_and(|known| known.record.desired == DesiredState::Launched);
    let is_exclusive = unit
        .requirements
        .as_ref()
        .is_ok_and(|asks| asks.conflicts.iter().any(|conflict| conflict.is_exactly(name.as_str())));
    let is_alive = cluster.machines().contains_key(&from);
    is_launched && is_alive && !is_exclusive && may_run(state(cluster, name, from))
}

fn state<'a>(cluster: &'a Cluster, name: &UnitName, machine: MachineId) -> Option<&'a StateRecord> {
    cluster.states().get(name)?.get(&machine)
}

/// What has not been reported may well run.
fn may_run(state: Option<&StateRecord>) -> bool {
    state.is_none_or(|state| !matches!(state.active.as_str(), "inactive" | "failed"))
}

/// Takes note of how far every handover is, and asks to be woken for the next
/// moment at which one may end without any event.
pub(crate) fn look(
    cluster: &Cluster,
    before: &BTreeMap<UnitName, Handover>,
    policy: &Policy,
    now: Millis,
    wake: &mut dyn FnMut(u64),
) -> BTreeMap<UnitName, Handover> {
    let mut after = BTreeMap::new();
    for (name, pair) in pairs(cluster) {
        let old = before.get(name).filter(|old| old.pair == pair);
        let since = old.map_or(now, |old| old.since);
        let is_up = is_up(cluster, name, pair.to);
        let up_since = is_up.then(|| old.and_then(|old| old.up_since).unwrap_or(now));
        let limit = since.0.saturating_add(policy.handover_ms);
        let end = up_since.map_or(limit, |up| limit.min(up.0.saturating_add(policy.up_ms)));
        let is_done = end <= now.0 || !keeps_running(cluster, name, pair.from);
        if !is_done {
            wake(end);
        }
        after.insert(name.clone(), Handover { pair, since, up_since, is_done });
    }
    after
}

fn is_up(cluster: &Cluster, name: &UnitName, machine: MachineId) -> bool {
    let hash = cluster.known_unit(name).map(|known| known.record.hash);
    state(cluster, name, machine).is_some_and(|state| {
        Some(state.hash) == hash
            && state.reached == DesiredState::Launched
            && matches!(state.active.as_str(), "active" | "reloading")
    })
}
