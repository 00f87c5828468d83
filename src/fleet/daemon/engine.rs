//! The engine: decides for the cluster which machine runs what, on one machine at a time.
//!
//! Whoever makes the leader key under its own lease is the engine. It holds the
//! whole registry in memory, plans after each change, and writes under the guard
//! of its term: an engine that was replaced cannot change anything any more.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use proa_etcd_client::Error;
use proa_fleet_model::{
    cluster::Cluster,
    engine::{self, Decision, Memory, Policy, View, Why},
    registry::{Key, LeaderRecord, LeaseId, Millis, PREFIX, Revision, machines_prefix},
    txn::campaign,
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::{
    config::Config,
    membership,
    store::{Change, Changes, Store},
};

/// Terms of office in reconcile intervals. Source: the original's engine, 5.
const INTERVALS_PER_TERM: u32 = 5;
/// The shortest term: beats of a third of it must survive a leader election of the store.
const SHORTEST_TERM: Duration = Duration::from_secs(6);
/// Between two attempts to reach a store that did not answer.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Between two looks at who leads, with a watch in place.
const FOLLOW: Duration = Duration::from_secs(30);
/// Between two full reads of the registry, with a watch in place.
const RESYNC: Duration = Duration::from_secs(60);
/// Changes within this time are planned together.
const GATHER: Duration = Duration::from_millis(20);
/// How long the watch may take to show the engine its own writes.
const ECHO: Duration = Duration::from_secs(5);

/// Stands for election, and decides while elected, until the task is dropped.
///
/// `lease` holds the lease of the term, for whoever ends the process.
pub async fn run(store: Store, config: Arc<Config>, lease: watch::Sender<Option<LeaseId>>) {
    let ttl = (config.reconcile_interval * INTERVALS_PER_TERM).max(SHORTEST_TERM);
    loop {
        match elect(&store, &config, ttl, &lease).await {
            Ok(Some((id, term))) => {
                tracing::info!("this machine decides for the cluster, term {}", term.0);
                tokio::select! {
                    () = membership::keep(&store, id, ttl) => {}
                    () = decide(&store, &config, term) => {}
                }
                lease.send_replace(None);
                tracing::info!("this machine no longer decides for the cluster");
            }
            Ok(None) => {}
            Err(error) => {
                tracing::debug!("engine: {error}");
                sleep(RETRY_PAUSE).await;
            }
        }
    }
}

/// Waits until nobody leads, and tries to; `None` when another one was faster.
async fn elect(
    store: &Store,
    config: &Config,
    ttl: Duration,
    lease: &watch::Sender<Option<LeaseId>>,
) -> Result<Option<(LeaseId, Revision)>, Error> {
    let prefix = Key::Leader.to_string();
    let snapshot = store.read(&prefix).await?;
    if !snapshot.entries.is_empty() {
        // A change, or nothing for a while: both mean to look again.
        let mut changes = store.watch(&prefix, snapshot.revision);
        let pause = if config.watches { FOLLOW } else { config.reconcile_interval };
        let _ = timeout(pause, changes.next()).await;
        return Ok(None);
    }
    let id = store.grant(i64::try_from(ttl.as_secs()).expect("a term is short")).await?;
    let record = LeaderRecord { machine: config.machine_id, version: env!("CARGO_PKG_VERSION").to_owned() };
    lease.send_replace(Some(id));
    match store.commit(&campaign(&record, id)).await {
        Ok(Some(term)) => Ok(Some((id, term))),
        Ok(None) => {
            lease.send_replace(None);
            store.revoke(id).await?;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Why a stretch of planning ended.
enum Ended {
    /// Read the registry anew and go on.
    Resync,
    /// Another engine is in office.
    Replaced,
}

/// Plans and writes until another engine is in office.
async fn decide(store: &Store, config: &Config, term: Revision) {
    let started = Instant::now();
    let mut memory = Memory::default();
    loop {
        let reign = Reign { store, config, term, started };
        match reign.stretch(&mut memory).await {
            Ok(Ended::Resync) => {}
            Ok(Ended::Replaced) => return,
            Err(error) => {
                // Suspicion starts over: while the store was silent nobody could be heard.
                memory = Memory::default();
                tracing::warn!("engine: {error}; nothing is decided until the store answers");
                sleep(RETRY_PAUSE).await;
            }
        }
    }
}

/// One term of office.
struct Reign<'a> {
    store: &'a Store,
    config: &'a Config,
    term: Revision,
    started: Instant,
}

/// The registry as far as the watch has come.
struct Picture {
    cluster: Cluster,
    seen: Revision,
    changes: Changes,
}

impl Reign<'_> {
    /// One full read, and planning on what the watch adds to it.
    async fn stretch(&self, memory: &mut Memory) -> Result<Ended, Error> {
        let snapshot = self.store.read(PREFIX).await?;
        let changes = self.store.watch(PREFIX, snapshot.revision);
        let cluster = Cluster::from_entries(snapshot.entries);
        for (key, problem) in cluster.garbage() {
            tracing::warn!("engine: {key} in the registry cannot be read: {problem}");
        }
        let mut picture = Picture { cluster, seen: snapshot.revision, changes };
        let until =
            Instant::now() + if self.config.watches { RESYNC } else { self.config.reconcile_interval };
        while Instant::now() < until {
            let view = self.view(&picture.cluster).await?;
            let now = Millis(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX));
            let plan = engine::plan(&picture.cluster, memory, &Policy::default(), view, now);
            *memory = plan.memory;
            if let Some(ended) = self.carry_out(&plan.decisions, &mut picture).await? {
                return Ok(ended);
            }
            let wake = plan.wake_at.map(|at| Duration::from_millis(at.0.saturating_sub(now.0)));
            let pause =
                wake.map_or(self.config.reconcile_interval, |wake| wake.min(self.config.reconcile_interval));
            if !picture.wait(pause).await {
                return Ok(Ended::Resync);
            }
        }
        Ok(Ended::Resync)
    }

    /// Whether the machines in the picture are those that the store has at this moment.
    async fn view(&self, cluster: &Cluster) -> Result<View, Error> {
        let snapshot = self.store.read(&machines_prefix()).await?;
        let alive = Cluster::from_entries(snapshot.entries);
        // A machine that the store has and the picture lacks only came later
        // than the watch; it must not be taken for lost.
        let is_current = alive.machines().keys().eq(cluster.machines().keys());
        Ok(if is_current { View::Fresh } else { View::Stale })
    }

    /// Writes decisions, and waits until the watch shows them.
    async fn carry_out(
        &self,
        decisions: &[(Decision, Why)],
        picture: &mut Picture,
    ) -> Result<Option<Ended>, Error> {
        for (decision, why) in decisions {
            tracing::info!("engine: {decision:?} because {why:?}");
        }
        let mut newest = picture.seen;
        for txn in engine::commit(self.term, decisions) {
            match self.store.commit(&txn).await? {
                Some(revision) => newest = newest.max(revision),
                None if self.is_replaced().await? => return Ok(Some(Ended::Replaced)),
                None => return Ok(Some(Ended::Resync)),
            }
        }
        // A plan made from a picture without them would place units twice.
        Ok((!picture.reach(newest).await).then_some(Ended::Resync))
    }

    async fn is_replaced(&self) -> Result<bool, Error> {
        let leader = self.store.get(&Key::Leader).await?;
        Ok(leader.is_none_or(|entry| entry.create_revision != self.term))
    }
}

impl Picture {
    /// Takes in what happens within `pause`, and returns soon after the first of it; `false` when
    /// the watch was lost.
    async fn wait(&mut self, pause: Duration) -> bool {
        let mut until = Instant::now() + pause;
        let mut is_first = true;
        while let Ok(change) =
            timeout(until.saturating_duration_since(Instant::now()), self.changes.next()).await
        {
            if !self.take(change) {
                return false;
            }
            if std::mem::take(&mut is_first) {
                until = Instant::now() + GATHER;
            }
        }
        true
    }

    /// Takes in everything up to a revision; `false` when that did not come.
    async fn reach(&mut self, revision: Revision) -> bool {
        let until = Instant::now() + ECHO;
        while self.seen < revision {
            let patience = until.saturating_duration_since(Instant::now());
            let Ok(change) = timeout(patience, self.changes.next()).await else { return false };
            if !self.take(change) {
                return false;
            }
        }
        true
    }

    fn take(&mut self, change: Change) -> bool {
        match change {
            Change::Events(revision, events) => {
                for event in events {
                    self.cluster.apply(event);
                }
                self.seen = revision.max(self.seen);
                true
            }
            Change::Lost => false,
        }
    }
}
