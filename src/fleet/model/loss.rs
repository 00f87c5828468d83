//! When a machine counts as lost: its record has to stay away for a while, and
//! few machines are given up at a time.

use std::collections::{BTreeMap, BTreeSet};

use proa_base::ids::MachineId;

use crate::cluster::Cluster;
use crate::handover::{self, Handover};
use crate::registry::Millis;
use crate::unit_name::UnitName;

/// How fast machines are given up. A machine's record vanishes when it has not
/// been heard of for `agent_ttl` (30 s by default).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How long a record must stay away, while the store is seen to work, before
    /// the machine counts as lost, in milliseconds.
    pub confirm_ms: u64,
    /// The window of the next limit, in milliseconds.
    pub wave_ms: u64,
    /// At most this part of all machines is given up within one window, and at
    /// least one: when more vanish at once, the network is to blame rather than
    /// the machines, and their units run on.
    pub lost_percent: u8,
    /// How long a drained unit must be up on its new machine before the old one
    /// lets go of it, in milliseconds.
    pub up_ms: u64,
    /// How long it may take to come up there; then the old one lets go of it
    /// all the same, in milliseconds.
    pub handover_ms: u64,
}

impl Default for Policy {
    fn default() -> Self {
        // A program that cannot live has died or is being started again within three
        // seconds; pulling an image of some 100 MB takes a minute.
        Self { confirm_ms: 5_000, wave_ms: 60_000, lost_percent: 50, up_ms: 3_000, handover_ms: 120_000 }
    }
}

/// What the engine remembers from one plan to the next. A new engine starts with
/// nothing, and so confirms every loss again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Machines with units and without a record, and since when.
    suspected: BTreeMap<MachineId, Millis>,
    /// Machines that were given up, and when.
    given_up: BTreeMap<MachineId, Millis>,
    /// Units that two machines run until the new one has them up.
    handovers: BTreeMap<UnitName, Handover>,
}

impl Memory {
    /// Takes note of who is missing, and gives up those missed long enough.
    pub(crate) fn look(&self, cluster: &Cluster, policy: &Policy, now: Millis) -> (Self, Option<Millis>) {
        let is_missing = |machine: &&MachineId| !cluster.machines().contains_key(*machine);
        let missing = cluster.schedule().keys().filter(is_missing);
        let suspected: BTreeMap<MachineId, Millis> =
            missing.map(|id| (*id, self.suspected.get(id).copied().unwrap_or(now))).collect();
        let within_wave = |at: Millis| now.0.saturating_sub(at.0) < policy.wave_ms;
        let mut given_up = self.given_up.clone();
        given_up.retain(|id, at| within_wave(*at) || suspected.contains_key(id));

        let mut known: BTreeSet<MachineId> = cluster.machines().keys().copied().collect();
        known.extend(suspected.keys().chain(given_up.keys()));
        let limit = (known.len() * usize::from(policy.lost_percent) / 100).max(1);
        let spent = given_up.values().filter(|at| within_wave(**at)).count();
        let mut overdue: Vec<(Millis, MachineId)> = Vec::new();
        let mut wake_at: Option<Millis> = None;
        let mut wake = |at: u64| wake_at = Some(wake_at.map_or(Millis(at), |old| old.min(Millis(at))));
        for (&id, &since) in &suspected {
            let confirmed_at = since.0.saturating_add(policy.confirm_ms);
            if given_up.get(&id).is_some_and(|at| *at >= since) {
                continue;
            }
            match confirmed_at <= now.0 {
                true => overdue.push((since, id)),
                false => wake(confirmed_at),
            }
        }
        overdue.sort();
        for (index, (_, id)) in overdue.into_iter().enumerate() {
            if index < limit.saturating_sub(spent) {
                given_up.insert(id, now);
            } else {
                // The end of the window is when the oldest loss in it is forgotten.
                let oldest = given_up.values().filter(|at| within_wave(**at)).min();
                wake(oldest.map_or(now.0, |at| at.0).saturating_add(policy.wave_ms));
            }
        }
        let handovers = handover::look(cluster, &self.handovers, policy, now, &mut wake);
        (Self { suspected, given_up, handovers }, wake_at)
    }

    /// Since when a machine is missed, if it has been given up.
    pub(crate) fn lost_since(&self, machine: MachineId) -> Option<Millis> {
        let since = *self.suspected.get(&machine)?;
        self.given_up.get(&machine).is_some_and(|at| *at >= since).then_some(since)
    }

    /// Whether the old machine of a drained unit may let go of it.
    pub(crate) fn is_handed_over(&self, name: &UnitName) -> bool {
        self.handovers.get(name).is_some_and(|handover| handover.is_done)
    }

    /// Machines that have units and no record, and since when.
    pub fn suspected(&self) -> &BTreeMap<MachineId, Millis> {
        &self.suspected
    }
}
