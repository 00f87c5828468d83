//! Tells the registry what changed on this machine, under the machine's lease.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use proa_base::ids::MachineId;
use proa_fleet_model::{
    registry::{LeaseId, StateRecord},
    txn::report_states,
    unit_name::UnitName,
};
use tokio::{sync::watch, time::sleep};

use crate::store::Store;

/// What changes within this time travels in one transaction: a start passes
/// through some three states in it.
const GATHER: Duration = Duration::from_millis(200);
/// Between two attempts to reach a store that did not answer.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// The states of this machine's units, as last observed.
pub type States = BTreeMap<UnitName, StateRecord>;

/// Publishes `states` until the other side of a channel is gone.
///
/// `states` holds `None` until systemd was first asked: then nothing is known,
/// and nothing is taken back.
pub async fn run(
    store: Store,
    machine: MachineId,
    mut lease: watch::Receiver<Option<LeaseId>>,
    mut states: watch::Receiver<Option<Arc<States>>>,
) {
    let mut published = States::new();
    let mut under = None;
    loop {
        let changed = tokio::select! {
            changed = states.changed() => changed,
            changed = lease.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
        sleep(GATHER).await;
        loop {
            let current = *lease.borrow_and_update();
            let Some(now) = states.borrow_and_update().clone() else { break };
            let Some(id) = current else { break };
            if under != current {
                // What lived under the old lease is gone or will be.
                published.clear();
                under = current;
            }
            if publish(&store, machine, id, &now, &mut published).await {
                break;
            }
            sleep(RETRY_PAUSE).await;
        }
    }
}

/// Whether everything is published.
async fn publish(
    store: &Store,
    machine: MachineId,
    lease: LeaseId,
    now: &States,
    published: &mut States,
) -> bool {
    let changes = difference(now, published);
    for txn in report_states(machine, lease, changes.iter().map(|(name, state)| (name, state.as_ref()))) {
        // The same puts and deletes again are harmless when the outcome is not known.
        if let Err(error) = store.commit(&txn).await {
            tracing::debug!("cannot publish states: {error}");
            return false;
        }
    }
    published.clone_from(now);
    true
}

/// What is new, and `None` for what is no more.
fn difference(now: &States, published: &States) -> BTreeMap<UnitName, Option<StateRecord>> {
    let gone = published.keys().filter(|name| !now.contains_key(*name)).map(|name| (name.clone(), None));
    let new = now.iter().filter(|(name, state)| published.get(*name) != Some(*state));
    gone.chain(new.map(|(name, state)| (name.clone(), Some(state.clone())))).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn states(text: &str) -> States {
        let state = |word: &str| {
            let (name, active) = word.split_once('=').unwrap();
            let json = format!(
                r#"{{"load":"loaded","active":"{active}","sub":"x","hash":"{}","reached":"loaded","since":1}}"#,
                "0".repeat(40)
            );
            (format!("{name}.service").parse().unwrap(), serde_json::from_str(&json).unwrap())
        };
        text.split_whitespace().map(state).collect()
    }

    #[test]
    fn only_what_changed_is_told() {
        #[rustfmt::skip]
        let cases = [
            ("nothing new",  "a=active",          "a=active",   ""),
            ("first",        "a=active b=failed", "",           "a=active b=failed"),
            ("one changed",  "a=active b=failed", "a=active b=active", "b=failed"),
            ("one is gone",  "a=active",          "a=active b=active", "b"),
        ];
        for (name, now, published, want) in cases {
            let got: Vec<String> = difference(&states(now), &states(published))
                .iter()
                .map(|(unit, state)| match state {
                    Some(state) => format!("{}={}", unit.stem(), state.active),
                    None => unit.stem().to_owned(),
                })
                .collect();
            assert_eq!(got.join(" "), want, "{name}");
        }
    }
}
