//! One member's process: the three threads of production, run job by job.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::Receiver as StdReceiver;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use proa_etcd_api::EtcdError;
use proa_etcd_api::command::{Command, Proposal};
use proa_etcd_api::etcdserverpb::Member;
use proa_etcd_api::mvccpb::Event;
use proa_etcd_replica::eraftpb::ConfState;
use proa_etcd_replica::{Position, Write};
use proa_etcd_store::{MemView, Reply};
use prost::Message as _;
use tokio::sync::oneshot;

use super::database::{SimDatabase, verify};
use super::disk::SimDisk;
use super::network::SimOutbox;
use super::random::Random;
use super::{Planted, Scale};
use crate::log::Log;
use crate::node::NodeConfig;
use crate::node::applier::ToApplier;
use crate::node::assemble::{Threads, World, assemble, share};
use crate::node::boot::{first_state, match_up};
use crate::node::meta::{self, Identity, Layout};
use crate::node::shared::{Installed, Shared, ToCore, lock};
use crate::node::types::Bootstrap;
use crate::node::writer::ToWriter;

/// What a process announced to its watchers: revision and events.
type Announced = Arc<Mutex<Vec<(i64, Arc<Vec<Event>>)>>>;

/// Longest time that a write to the disk takes when all is well.
pub(super) const USUAL_DISK_US: u64 = 4_000;
/// Longest time that applying takes.
pub(super) const USUAL_APPLY_US: u64 = 200;

/// What a client waits for at a member.
pub(super) enum Waits {
    Write(oneshot::Receiver<Result<Reply, EtcdError>>),
    Read(oneshot::Receiver<Result<(), EtcdError>>),
}

/// A client's place in the history and what it waits for.
pub(super) struct Waiting {
    pub(super) operation: usize,
    pub(super) proposal: Option<u64>,
    pub(super) waits: Waits,
}

pub(super) struct Process {
    /// Tells this run of the machine from others.
    pub(super) life: u64,
    pub(super) threads: Threads<SimDisk, SimDatabase>,
    pub(super) shared: Arc<Shared>,
    pub(super) outbox: Arc<SimOutbox>,
    pub(super) database: SimDatabase,
    pub(super) writing: Option<ToWriter>,
    pub(super) installing: Option<(Write, StdReceiver<Installed>)>,
    pub(super) applying: Option<ToApplier>,
    pub(super) is_flushing: bool,
    /// Copies that were received, by their position.
    pub(super) received: BTreeMap<Position, MemView>,
    pub(super) receiving: Arc<AtomicBool>,
    pub(super) waiting: Vec<Waiting>,
    announced: Announced,
    /// The revision the announcements go on from.
    pub(super) began_at: i64,
}

/// One machine, on or off.
pub(super) struct Machine {
    pub(super) at: usize,
    /// Grows when its disk is emptied: it comes back at another address.
    pub(super) incarnation: u64,
    pub(super) identity: Option<Identity>,
    pub(super) disk: SimDisk,
    /// What the database's files hold while the machine is off.
    pub(super) durable: MemView,
    pub(super) process: Option<Process>,
    /// Length of its ticks, 1000 is right.
    pub(super) clock_permille: u64,
    pub(super) paused_until: u64,
    /// It crashes, for so long, as soon as it writes.
    pub(super) doomed: Option<u64>,
    pub(super) disk_us: u64,
    pub(super) apply_us: u64,
}

impl Machine {
    pub(super) fn new(at: usize, planted: Option<Planted>) -> Self {
        Self {
            at,
            incarnation: 0,
            identity: None,
            disk: SimDisk::new(planted),
            durable: MemView::default(),
            process: None,
            clock_permille: 1000,
            paused_until: 0,
            doomed: None,
            disk_us: USUAL_DISK_US,
            apply_us: USUAL_APPLY_US,
        }
    }

    pub(super) fn url(&self) -> String {
        format!("http://m{}.{}:2380", self.at, self.incarnation)
    }

    fn layout(&self) -> Layout<SimDisk> {
        Layout { disk: self.disk.clone(), root: PathBuf::from("data") }
    }

    /// Makes a member: one of the first, or one that joins.
    pub(super) fn create(&mut self, identity: Identity, members: &[Member], founds: bool, scale: &Scale) {
        let layout = self.layout();
        let mut writes = first_state(members);
        let mut start = (1, 1);
        if !founds {
            start = (0, 0);
            meta::put_position(&mut writes, Position::default(), &ConfState::default());
        }
        Log::create_on(self.disk.clone(), &layout.log(), scale.log.clone(), start).expect("an empty disk");
        layout.write_identity(identity).expect("a disk that writes");
        self.disk.begin();
        self.durable = MemView::default();
        self.durable.apply(&writes);
        self.identity = Some(identity);
    }

    /// Empties the machine's disk.
    pub(super) fn wipe(&mut self, planted: Option<Planted>) {
        self.incarnation += 1;
        self.identity = None;
        self.disk = SimDisk::new(planted);
        self.durable = MemView::default();
    }

    /// Starts the member that lives on the disk.
    ///
    /// # Errors
    /// It refuses to start: after a mere crash that is a failure.
    pub(super) fn start(
        &mut self,
        life: u64,
        random: &mut Random,
        scale: &Scale,
        planted: Option<Planted>,
    ) -> Result<(), String> {
        let config = NodeConfig {
            data_dir: PathBuf::from("data"),
            name: format!("m{}", self.at),
            listen_peers: Vec::new(),
            peer_tls: crate::tls::PeerTls::default(),
            advertise_peer_urls: vec![self.url()],
            advertise_client_urls: vec![format!("http://c{}:2379", self.at)],
            bootstrap: Bootstrap::Existing,
            heartbeat_ms: 100,
            election_ms: 1000,
            snapshot_count: scale.snapshot_count,
            strict_reconfig: true,
        };
        let layout = self.layout();
        let refused = |error: String| format!("member m{} refuses to start: {error}", self.at);
        let identity = layout.read_identity().map_err(|error| refused(error.to_string()))?;
        let identity = identity.ok_or_else(|| refused("its identity is gone".into()))?;
        let opened = Log::open_on(self.disk.clone(), &layout.log(), scale.log.clone());
        let opened = opened.map_err(|error| refused(error.to_string()))?;
        let database = SimDatabase::new(std::mem::take(&mut self.durable), planted);
        let booted = match_up(layout, identity, opened, database.clone());
        let booted = booted.map_err(|error| refused(error.to_string()))?;
        self.disk.begin();
        let nonce = random.word();
        let (shared, inbox) = share(&config, &booted, nonce);
        let announced = Announced::default();
        let sink = announced.clone();
        let keep = move |revision, events| {
            sink.lock().unwrap_or_else(PoisonError::into_inner).push((revision, events));
        };
        // Nobody set it before.
        let _ = shared.sink.set(Box::new(keep));
        let outbox = Arc::<SimOutbox>::default();
        let world = World { peers: outbox.clone(), clock: || 0, verify };
        let assembled = assemble(&config, booted, nonce, (shared.clone(), inbox), world);
        let mut threads = assembled.map_err(|error| refused(error.to_string()))?;
        threads.applier.publish();
        threads.core.begin();
        let began_at = shared.view.get().head.revision;
        self.process = Some(Process {
            life,
            threads,
            shared,
            outbox,
            database,
            writing: None,
            installing: None,
            applying: None,
            is_flushing: false,
            received: BTreeMap::new(),
            receiving: Arc::default(),
            waiting: Vec::new(),
            announced,
            began_at,
        });
        Ok(())
    }
}

impl Process {
    /// Proposes as [`crate::node::Node::propose`] does.
    pub(super) fn propose(&mut self, operation: usize, command: Command) -> u64 {
        let id = self.shared.own_id();
        let body: Bytes =
            Proposal { id, command: Some(command), ..Proposal::default() }.encode_to_vec().into();
        let (waiter, done) = oneshot::channel();
        lock(&self.shared.waiters).insert(id, waiter);
        self.tell(ToCore::Propose { id, body });
        self.waiting.push(Waiting { operation, proposal: Some(id), waits: Waits::Write(done) });
        id
    }

    /// Reads as [`crate::node::Node::linearizable`] does.
    pub(super) fn read(&mut self, operation: usize) {
        let (waiter, done) = oneshot::channel();
        self.tell(ToCore::Read(waiter));
        self.waiting.push(Waiting { operation, proposal: None, waits: Waits::Read(done) });
    }

    /// The client has gone.
    pub(super) fn forget(&mut self, operation: usize) {
        for gone in self.waiting.extract_if(.., |waiting| waiting.operation == operation) {
            if let Some(id) = gone.proposal {
                lock(&self.shared.waiters).remove(&id);
            }
        }
    }

    pub(super) fn tell(&self, input: ToCore) {
        self.shared.core.send(input).expect("the core holds its inbox");
    }

    pub(super) fn announced(&self) -> Vec<(i64, Arc<Vec<Event>>)> {
        self.announced.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Begins what waits for the disk; whether there is something.
    pub(super) fn next_write(&mut self) -> bool {
        if self.writing.is_none() && self.installing.is_none() {
            let writer = &mut self.threads.writer;
            self.writing = writer.backlog.pop_front().or_else(|| writer.inbox.try_recv().ok());
            return self.writing.is_some();
        }
        false
    }

    pub(super) fn next_apply(&mut self) -> bool {
        if self.applying.is_none() {
            self.applying = self.threads.applier.inbox.try_recv().ok();
            return self.applying.is_some();
        }
        false
    }

    /// Does the log writer's job; `false` if it has ended.
    pub(super) fn write(&mut self) -> bool {
        let writer = &mut self.threads.writer;
        writer.layout.disk.begin();
        match self.writing.take() {
            Some(ToWriter::Write(write)) => match writer.write(write) {
                Some(next) => self.writing = next,
                None => return false,
            },
            Some(ToWriter::Install { write, files, hold }) => {
                let position = write.snapshot.expect("an installation has a snapshot");
                let copy = self.received.remove(&position).expect("it was received");
                self.received.clear();
                self.database.stage(copy);
                match writer.stage(&write, &files, hold) {
                    Some(done) => self.installing = Some((write, done)),
                    None => return false,
                }
            }
            Some(ToWriter::Compact { index }) => writer.compact(index),
            Some(ToWriter::Stop) => return false,
            None => {}
        }
        true
    }

    /// Goes on with an installation once the applier has the new state.
    pub(super) fn conclude(&mut self) -> bool {
        let Some((write, done)) = self.installing.take() else { return false };
        match done.try_recv() {
            Ok(installed) => {
                self.threads.writer.layout.disk.begin();
                self.threads.writer.conclude(&write, installed);
                true
            }
            Err(_) => {
                self.installing = Some((write, done));
                false
            }
        }
    }
}

/// What the power leaves of a process: the machine is off afterwards.
pub(super) fn cut_power(machine: &mut Machine, random: &mut Random) {
    let Some(mut process) = machine.process.take() else { return };
    let is_writing = process.writing.is_some() || process.installing.is_some();
    let was_writing = is_writing && random.chance(700);
    let was_staging = matches!(process.writing, Some(ToWriter::Install { .. }));
    if was_writing && !process.conclude() {
        process.write();
    }
    let whole = machine.disk.crash(random, was_writing);
    if was_writing && was_staging && (!whole || random.chance(500)) {
        process.database.unstage();
    }
    machine.durable = process.database.crash(random);
}
