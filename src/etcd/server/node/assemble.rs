//! The threads of a member, put together and not yet running.
//!
//! What they stand on is an argument: real files, RocksDB and TCP in
//! [`super::Node::start`], the simulation's own in its tests.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use proa_etcd_api::etcdserverpb::Member;
use proa_etcd_replica::{Config, Replica};
use tokio::sync::watch;

use super::applier::Applier;
use super::boot::Booted;
use super::core::{Core, Parts};
use super::error::NodeError;
use super::membership::Membership;
use super::outbox::Outbox;
use super::shared::{Shared, ToCore, ViewCell};
use super::types::{AuthStamp, NodeConfig, Status};
use super::writer::Writer;
use crate::database::{CopiedFile, DatabaseError, Staged, Storage};
use crate::log::disk::Disk;

/// What the threads need of the world.
pub(super) struct World {
    pub(super) peers: Arc<dyn Outbox>,
    /// Seconds since 1970.
    pub(super) clock: fn() -> u64,
    /// Makes sure of a received copy.
    pub(super) verify: fn(&Path, &[CopiedFile]) -> Result<Staged, DatabaseError>,
}

/// The three threads.
pub(super) struct Threads<D: Disk, S> {
    pub(super) core: Core,
    pub(super) writer: Writer<D>,
    pub(super) applier: Applier<S>,
}

/// What all threads of a booted member share, and the raft thread's inbox.
pub(super) fn share<D: Disk, S>(
    config: &NodeConfig,
    booted: &Booted<D, S>,
    nonce: u64,
) -> (Arc<Shared>, Receiver<ToCore>) {
    let (core, inbox) = channel();
    let status = Status {
        cluster_id: booted.identity.cluster_id,
        member_id: booted.identity.member_id,
        applied: booted.start.applied.index,
        ..Status::default()
    };
    let shared = Shared {
        core,
        waiters: Mutex::default(),
        asked: Mutex::default(),
        next_id: AtomicU64::new((nonce & 0xffff_ffff) << 32),
        view: ViewCell::default(),
        machine: Mutex::new(booted.machine.clone()),
        members: Mutex::new(booted.members.values().cloned().collect()),
        status: watch::channel(status).0,
        auth: watch::channel(AuthStamp::default()).0,
        sink: OnceLock::new(),
        v2_sink: OnceLock::new(),
        tokens: OnceLock::new(),
        answerer: OnceLock::new(),
        peers: OnceLock::new(),
        applied_bytes: watch::channel(0).0,
        is_disk_low: AtomicBool::new(false),
        is_ending: AtomicBool::new(false),
        threads: Mutex::default(),
        // etcd's own: 5 s for the disk and two elections.
        request_timeout_ms: 5_000 + 2 * config.election_ms,
    };
    (Arc::new(shared), inbox)
}

/// Puts the threads together.
///
/// # Errors
/// [`NodeError::Start`]: raft refuses what was on the disk.
pub(super) fn assemble<D: Disk, S: Storage>(
    config: &NodeConfig,
    booted: Booted<D, S>,
    nonce: u64,
    (shared, inbox): (Arc<Shared>, Receiver<ToCore>),
    world: World,
) -> Result<Threads<D, S>, NodeError> {
    let Booted { identity, layout, log, database, machine: _, start, members, removed } = booted;
    let applied = start.applied;
    let conf_state = start.conf_state.clone();
    let log_begins = start.log_base.index;
    let log_bytes = start.entries.iter().map(|entry| entry.data.len() as u64).sum();
    let replica_config = Config {
        election_ticks: usize::try_from(config.election_ms / config.heartbeat_ms).unwrap_or(10),
        seed: nonce,
        boot_nonce: nonce,
        // As many as stay in the log; who is further behind gets a snapshot.
        cache_entries: usize::try_from(config.snapshot_count).unwrap_or(usize::MAX),
        ..Config::new(identity.member_id)
    };
    let replica = Replica::new(replica_config, start)
        .map_err(|source| NodeError::Start { path: layout.root.clone(), source })?;
    let (to_writer, writer_inbox) = channel();
    let (to_applier, applier_inbox) = channel();
    let writer = Writer {
        log,
        layout,
        verify: world.verify,
        shared: shared.clone(),
        applier: to_applier.clone(),
        inbox: writer_inbox,
        backlog: VecDeque::new(),
        holding: None,
    };
    let applier = Applier {
        database: Some(database),
        applied,
        members: conf_state,
        shared: shared.clone(),
        peers: world.peers.clone(),
        writer: to_writer.clone(),
        inbox: applier_inbox,
        reads: Vec::new(),
        snapshot_count: config.snapshot_count.max(1),
        // What the log holds counts from where it begins, not from this start.
        compacted: log_begins,
        uncompacted_bytes: log_bytes,
        own_ids: nonce & 0xffff_ffff,
        flushing: None,
        scrubbed: 0,
        cleared: 0,
    };
    let core = Core::new(Parts {
        replica,
        shared,
        peers: world.peers,
        clock: world.clock,
        writer: to_writer,
        applier: to_applier,
        inbox,
        tick: Duration::from_millis(config.heartbeat_ms),
        membership: Membership { members, removed: removed.into_iter().collect() },
        myself: Member {
            id: identity.member_id,
            name: config.name.clone(),
            peer_urls: config.advertise_peer_urls.clone(),
            client_urls: config.advertise_client_urls.clone(),
            is_learner: false,
        },
        is_strict: config.strict_reconfig,
    });
    Ok(Threads { core, writer, applier })
}
