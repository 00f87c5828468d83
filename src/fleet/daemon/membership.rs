//! This machine's place in the cluster: a lease, and the record that lives under it.
//!
//! A beat is a keep-alive, which the store's leader keeps in memory: a healthy
//! cluster costs no writes. Losing the lease touches no unit; the machine is
//! announced anew, and the states are published again under the new lease.

use std::{sync::Arc, time::Duration};

use proa_etcd_client::Error;
use proa_fleet_model::{
    registry::{LeaseId, MachineRecord},
    txn::announce_machine,
};
use tokio::{sync::watch, time::sleep};

use crate::{config::Config, store::Store};

/// Between two attempts to reach a store that did not answer.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Beats in one time to live: two of three may be lost.
const BEATS: u32 = 3;

/// Keeps this machine in the cluster until the task is dropped; `lease` says
/// under which lease, or `None` while the store says that there is none.
pub async fn run(store: Store, config: Arc<Config>, lease: watch::Sender<Option<LeaseId>>) {
    let mut quiet = false;
    loop {
        match register(&store, &config).await {
            Ok(id) => {
                tracing::info!("machine {} is in the cluster", config.machine_id);
                quiet = false;
                lease.send_replace(Some(id));
                keep(&store, id, config.agent_ttl).await;
                lease.send_replace(None);
                tracing::warn!("the store has let go of this machine's lease; units stay as they are");
            }
            Err(error) if !quiet => {
                tracing::warn!("cannot join the cluster, units stay as they are, trying again: {error}");
                quiet = true;
            }
            Err(_) => {}
        }
        sleep(RETRY_PAUSE).await;
    }
}

async fn register(store: &Store, config: &Config) -> Result<LeaseId, Error> {
    let ttl_s = i64::try_from(config.agent_ttl.as_secs()).expect("a time to live is at most an hour");
    let lease = store.grant(ttl_s).await?;
    let record = MachineRecord {
        primary_ip: Some(config.public_ip),
        metadata: config.metadata.clone(),
        api: config.advertise.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    store.commit(&announce_machine(config.machine_id, &record, lease)).await?;
    Ok(lease)
}

/// Returns when the store says that the lease is no more; its silence is no such word.
pub(crate) async fn keep(store: &Store, lease: LeaseId, ttl: Duration) {
    let beat = ttl / BEATS;
    let mut answered = true;
    loop {
        sleep(if answered { beat } else { RETRY_PAUSE.min(beat) }).await;
        match store.keep_alive(lease).await {
            Ok(true) => {
                if !answered {
                    tracing::info!("the store answers again");
                }
                answered = true;
            }
            Ok(false) => return,
            Err(error) => {
                if answered {
                    tracing::warn!("the store does not answer, units stay as they are: {error}");
                }
                answered = false;
            }
        }
    }
}
