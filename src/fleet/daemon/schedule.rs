//! What this machine has to run: its part of the schedule, with the unit files it names.
//!
//! Read at the start, after a lost watch and now and then; kept up by the watch
//! in between. While the store does not answer, the last answer stands.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use proa_base::ids::MachineId;
use proa_etcd_client::Error;
use proa_fleet_model::{
    agent::Desired,
    cluster::Cluster,
    registry::{Key, Revision, schedule_prefix},
    unit_file::{UnitFile, UnitHash},
    unit_name::UnitName,
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::store::{Change, Place, Store};

/// Between two full reads with a watch in place. 1000 machines make 17 small reads a second of it.
const RESYNC: Duration = Duration::from_secs(60);
/// Between two full reads without watches. Source: the original's agent looks every 5 s.
const POLL: Duration = Duration::from_secs(5);
/// Between two attempts to reach a store that did not answer.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// What this machine has to run.
#[derive(Clone, Debug, Default)]
pub struct Schedule {
    /// The units whose records and files are all there.
    pub units: Desired,
    /// Units that are to be left as they are: their record or their file cannot be read.
    pub unreadable: BTreeSet<UnitName>,
    /// The files of `units`.
    pub files: BTreeMap<UnitHash, Arc<UnitFile>>,
}

/// Follows the schedule until the task is dropped.
pub async fn run(
    store: Store,
    machine: MachineId,
    watches: bool,
    schedule: watch::Sender<Option<Arc<Schedule>>>,
) {
    let mut newest = Revision(0);
    let mut quiet = false;
    loop {
        let known = schedule.borrow().clone().unwrap_or_default();
        match follow(&store, machine, watches, known, &mut newest, &schedule).await {
            Ok(()) => quiet = false,
            Err(error) => {
                if !quiet {
                    tracing::warn!("cannot read the schedule, units stay as they are: {error}");
                }
                quiet = true;
                sleep(RETRY_PAUSE).await;
            }
        }
    }
}

/// Why a schedule was not taken over.
#[derive(Debug, thiserror::Error)]
enum Unread {
    #[error(transparent)]
    Store(#[from] Error),
    /// Restored from an old copy, or another cluster: nothing it says of this
    /// machine is newer than what runs here.
    #[error("the store went back from revision {from} to {to}; restart fleetd to take its word for it")]
    WentBack { from: i64, to: i64 },
}

/// One full read, and then the watch until it is time for the next read.
async fn follow(
    store: &Store,
    machine: MachineId,
    watches: bool,
    known: Arc<Schedule>,
    newest: &mut Revision,
    schedule: &watch::Sender<Option<Arc<Schedule>>>,
) -> Result<(), Unread> {
    let prefix = schedule_prefix(machine);
    let snapshot = store.read(&prefix).await?;
    if snapshot.revision < *newest {
        return Err(Unread::WentBack { from: newest.0, to: snapshot.revision.0 });
    }
    *newest = snapshot.revision;
    let mut cluster = Cluster::from_entries(snapshot.entries);
    let mut current = gather(store, machine, &cluster, known).await?;
    schedule.send_replace(Some(Arc::clone(&current)));
    if !watches {
        sleep(POLL).await;
        return Ok(());
    }
    let mut changes = store.watch(&prefix, snapshot.revision);
    let resync = tokio::time::Instant::now() + RESYNC;
    while let Ok(change) =
        timeout(resync.saturating_duration_since(tokio::time::Instant::now()), changes.next()).await
    {
        let Change::Events(revision, events) = change else { return Ok(()) };
        for event in events {
            cluster.apply(event);
        }
        *newest = revision.max(*newest);
        current = gather(store, machine, &cluster, current).await?;
        schedule.send_replace(Some(Arc::clone(&current)));
    }
    Ok(())
}

/// The schedule with its files: those that are known already, and the rest from the store.
async fn gather(
    store: &Store,
    machine: MachineId,
    cluster: &Cluster,
    known: Arc<Schedule>,
) -> Result<Arc<Schedule>, Error> {
    let placements = cluster.schedule().get(&machine).cloned().unwrap_or_default();
    let hashes: BTreeSet<UnitHash> =
        placements.values().filter_map(|placement| Some(placement.record?.hash)).collect();
    let mut files: BTreeMap<_, _> = known.files.clone();
    files.retain(|hash, _| hashes.contains(hash));
    let missing: Vec<Place> = hashes
        .iter()
        .filter(|hash| !files.contains_key(hash))
        .map(|hash| Place::Key(Key::Body(*hash)))
        .collect();
    let bodies = Cluster::from_entries(store.read_together(&missing).await?);
    for hash in &hashes {
        if let Some(file) = bodies.body(*hash) {
            files.insert(*hash, Arc::clone(file));
        }
    }
    let mut schedule = Schedule { files, ..Schedule::default() };
    for (name, placement) in placements {
        match placement.record.filter(|record| schedule.files.contains_key(&record.hash)) {
            Some(record) => drop(schedule.units.insert(name, record)),
            None => {
                if !known.unreadable.contains(&name) {
                    tracing::warn!(
                        "{name}: its schedule or its unit file cannot be read; it is left as it is"
                    );
                }
                schedule.unreadable.insert(name);
            }
        }
    }
    Ok(Arc::new(schedule))
}
