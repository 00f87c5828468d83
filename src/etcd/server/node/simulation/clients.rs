//! Clients with one question at a time, and watchers that move about.

use std::collections::BTreeSet;
use std::sync::Arc;

use proa_etcd_api::EtcdError;
use proa_etcd_api::command::{Command, command::Op};
use proa_etcd_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proa_etcd_api::etcdserverpb::{
    Compare, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
    request_op,
};
use proa_etcd_api::mvccpb::Event as Happened;
use proa_etcd_store::{events, range};
use tokio::sync::oneshot::error::TryRecvError;

use super::admin::Answer;
use super::history::{Asked, NEVER, Operation, Told};
use super::plan::{MS, Plan, SECOND};
use super::process::Waits;
use super::random::Random;
use super::watching::Watched;
use super::world::{Event, World};

/// What members announced in one run of theirs: where it began, and what.
pub(super) type AnnouncedRun = (i64, Vec<(i64, Arc<Vec<Happened>>)>);

/// Keys there are: few, so that clients meet.
const KEYS: u64 = 6;
/// Longest time a client waits for an answer. Longer than the server's own.
const PATIENCE_US: u64 = 8 * SECOND;
/// Changes that a watcher reads at a time.
const WATCH_LIMIT: usize = 7;

/// Everybody who uses the cluster.
pub(super) struct Clients {
    /// The operation each client waits for.
    busy: Vec<Option<usize>>,
    pub(super) watchers: Vec<Option<Watched>>,
    /// Leases that were granted.
    leases: BTreeSet<i64>,
    next_value: u64,
    /// Whether the log's files hold values that lie apart, several at a time.
    has_room: bool,
    pub(super) changes: Vec<Answer>,
    /// What each run of a member announced: where it began, and what.
    pub(super) announced: Vec<AnnouncedRun>,
}

impl Clients {
    pub(super) fn new(plan: &Plan) -> Self {
        Self {
            busy: vec![None; plan.clients],
            watchers: vec![None; plan.watchers],
            leases: BTreeSet::new(),
            next_value: 0,
            has_room: plan.scale.log.segment_bytes >= 64 << 10,
            changes: Vec::new(),
            announced: Vec::new(),
        }
    }

    pub(super) fn are_done(&self) -> bool {
        self.busy.iter().all(Option::is_none)
    }

    fn key(random: &mut Random) -> bytes::Bytes {
        format!("k{}", random.below(KEYS)).into()
    }

    fn put(&mut self, random: &mut Random) -> PutRequest {
        self.next_value += 1;
        // The longest lie apart from their versions.
        let padding = match random.below(1_000) {
            0..30 => 400,
            30..60 if self.has_room => 5_000,
            _ => 0,
        };
        let lease = match random.pick(&self.leases.iter().copied().collect::<Vec<_>>()) {
            Some(lease) if random.chance(150) => *lease,
            _ => 0,
        };
        PutRequest {
            key: Self::key(random),
            value: format!("{}{}", self.next_value, "x".repeat(padding)).into(),
            lease,
            prev_kv: random.chance(500),
            ..PutRequest::default()
        }
    }

    fn txn(&mut self, random: &mut Random) -> TxnRequest {
        let key = Self::key(random);
        let op = |request| RequestOp { request: Some(request) };
        let compare = Compare {
            result: CompareResult::Greater as i32,
            target: CompareTarget::Version as i32,
            key: key.clone(),
            target_union: Some(TargetUnion::Version(random.below(4) as i64)),
            ..Compare::default()
        };
        let get = RangeRequest { key: key.clone(), ..RangeRequest::default() };
        let delete = DeleteRangeRequest { key, prev_kv: true, ..DeleteRangeRequest::default() };
        TxnRequest {
            compare: vec![compare],
            success: vec![
                op(request_op::Request::RequestDeleteRange(delete)),
                op(request_op::Request::RequestPut(self.put(random))),
            ],
            failure: vec![
                op(request_op::Request::RequestPut(self.put(random))),
                op(request_op::Request::RequestRange(get)),
            ],
        }
    }

    fn command(&mut self, random: &mut Random) -> Op {
        match random.below(100) {
            0..55 => Op::Put(self.put(random)),
            55..75 => Op::Txn(self.txn(random)),
            75..88 => {
                let key = Self::key(random);
                let end = if random.chance(200) { "k9".into() } else { bytes::Bytes::new() };
                Op::DeleteRange(DeleteRangeRequest { key, range_end: end, prev_kv: true })
            }
            88..95 => {
                let id = 1 + random.below(20) as i64;
                self.leases.insert(id);
                Op::LeaseGrant(LeaseGrantRequest { id, ttl: 60 })
            }
            _ => {
                let ids = vec![1 + random.below(20) as i64];
                Op::LeaseRevoke(proa_etcd_api::command::LeaseRevoke { ids })
            }
        }
    }
}

impl World {
    /// A client asks its next question.
    pub(super) fn client(&mut self, client: usize) -> Result<(), String> {
        if self.now > self.plan.end_us || self.clients.busy[client].is_some() {
            return Ok(());
        }
        let running: Vec<usize> =
            (0..self.machines.len()).filter(|at| self.machines[*at].process.is_some()).collect();
        let Some(&at) = self.random.pick(&running) else {
            self.after(200 * MS, Event::Client(client));
            return Ok(());
        };
        let operation = if self.random.chance(450) {
            self.read(client, at)
        } else {
            let op = self.clients.command(&mut self.random);
            self.write(Some(client), at, op)
        };
        self.clients.busy[client] = Some(operation);
        self.after(PATIENCE_US, Event::Impatient { client, operation });
        self.turn(at)
    }

    /// Asks a member for a write; nobody waits for it without a client.
    pub(super) fn write(&mut self, client: Option<usize>, at: usize, op: Op) -> usize {
        let operation = self.operations.len();
        let process = self.machines[at].process.as_mut().expect("it was chosen because it runs");
        let id = process.propose(operation, Command { op: Some(op) });
        let client = client.unwrap_or(usize::MAX);
        let asked = Asked::Write { id };
        self.operations.push(Operation { client, began: self.now, ended: NEVER, asked, told: Told::Nothing });
        operation
    }

    fn read(&mut self, client: usize, at: usize) -> usize {
        let operation = self.operations.len();
        let key = Clients::key(&mut self.random);
        let range_end = if self.random.chance(300) { "k9".into() } else { bytes::Bytes::new() };
        let serializable = self.random.chance(150);
        let request = RangeRequest { key, range_end, serializable, ..RangeRequest::default() };
        let asked = Asked::Read { request, serializable };
        self.operations.push(Operation { client, began: self.now, ended: NEVER, asked, told: Told::Nothing });
        if serializable {
            self.finish_read(at, operation);
        } else {
            let process = self.machines[at].process.as_mut().expect("it was chosen because it runs");
            process.read(operation);
        }
        operation
    }

    /// Reads as the server does once it may.
    fn finish_read(&mut self, at: usize, operation: usize) {
        let process = self.machines[at].process.as_ref().expect("it answers");
        let now = process.shared.view.get();
        let Asked::Read { request, .. } = &self.operations[operation].asked else { return };
        match range(&now.view, now.head, request) {
            Ok(answer) => self.tell_client(operation, Told::Read(answer)),
            Err(_) => self.leave_unknown(operation),
        }
    }

    fn tell_client(&mut self, operation: usize, told: Told) {
        self.counts.answers += 1;
        let operation_ended = &mut self.operations[operation];
        operation_ended.told = told;
        operation_ended.ended = self.now;
        self.release(operation);
    }

    /// The client never learns what became of its operation.
    pub(super) fn leave_unknown(&mut self, operation: usize) {
        self.counts.unknown += 1;
        self.release(operation);
    }

    fn release(&mut self, operation: usize) {
        let client = self.operations[operation].client;
        if self.clients.busy.get(client).is_some_and(|busy| *busy == Some(operation)) {
            self.clients.busy[client] = None;
            let pause = self.random.below(200 * MS);
            self.after(pause, Event::Client(client));
        }
    }

    pub(super) fn give_up(&mut self, client: usize, operation: usize) {
        if self.clients.busy[client] == Some(operation) {
            for machine in &mut self.machines {
                if let Some(process) = &mut machine.process {
                    process.forget(operation);
                }
            }
            self.leave_unknown(operation);
        }
    }

    /// Brings clients the answers that a member has for them.
    pub(super) fn answer(&mut self, at: usize) {
        let Some(process) = &mut self.machines[at].process else { return };
        let mut answers = Vec::new();
        process.waiting.retain_mut(|waiting| {
            let answer = match &mut waiting.waits {
                Waits::Write(done) => match done.try_recv() {
                    Ok(reply) => Some(written(reply)),
                    Err(TryRecvError::Empty) => None,
                    Err(TryRecvError::Closed) => Some(Told::Nothing),
                },
                Waits::Read(done) => match done.try_recv() {
                    // What is read is read below, in the same instant.
                    Ok(Ok(())) => Some(Told::NotDone(EtcdError::NoLeader)),
                    Err(TryRecvError::Empty) => None,
                    Ok(Err(_)) | Err(TryRecvError::Closed) => Some(Told::Nothing),
                },
            };
            let Some(told) = answer else { return true };
            let is_read = matches!(waiting.waits, Waits::Read(_));
            answers.push((waiting.operation, is_read, told));
            false
        });
        for (operation, is_read, told) in answers {
            match told {
                Told::Nothing => self.leave_unknown(operation),
                _ if is_read => self.finish_read(at, operation),
                told => self.tell_client(operation, told),
            }
        }
    }

    /// A watcher looks for news at some member.
    pub(super) fn watch(&mut self, watcher: usize) -> Result<(), String> {
        let pause = self.random.between(5, 300) * MS;
        self.after(pause, Event::Watch(watcher));
        let running: Vec<usize> =
            (0..self.machines.len()).filter(|at| self.machines[*at].process.is_some()).collect();
        if let Some(&at) = self.random.pick(&running) {
            self.look(watcher, at)?;
        }
        Ok(())
    }

    pub(super) fn look(&mut self, watcher: usize, at: usize) -> Result<(), String> {
        let now = self.machines[at].process.as_ref().expect("it runs").shared.view.get();
        let prefix = if watcher == 0 { b"k".to_vec() } else { format!("k{watcher}").into_bytes() };
        let watched = self.clients.watchers[watcher].get_or_insert_with(|| Watched {
            prefix,
            from: now.head.revision + 1,
            next: now.head.revision + 1,
            ..Watched::default()
        });
        if watched.next > now.head.revision {
            return Ok(());
        }
        let wants = |key: &[u8]| key.starts_with(&watched.prefix);
        match events(&now.view, now.head, watched.next, now.head.revision, WATCH_LIMIT, &wants) {
            Ok(history) => {
                self.counts.watched += history.revisions.len() as u64;
                watched.got.extend(history.revisions);
                watched.next = history.next;
            }
            Err(EtcdError::Compacted) => {
                watched.gaps.push((watched.next, now.head.compact_revision));
                watched.next = now.head.compact_revision;
            }
            Err(error) => return Err(format!("a watcher of m{at} is told: {error}")),
        }
        Ok(())
    }

    /// Keeps what a process announced, for it is about to end.
    pub(super) fn keep_announced(&mut self, at: usize) {
        if let Some(process) = &self.machines[at].process {
            self.clients.announced.push((process.began_at, process.announced()));
        }
    }
}

/// What an answer to a proposal says about it.
fn written(reply: Result<proa_etcd_store::Reply, EtcdError>) -> Told {
    match reply {
        Err(EtcdError::Timeout | EtcdError::Stopped) => Told::Nothing,
        Err(error @ (EtcdError::TooManyRequests | EtcdError::NoSpace)) => Told::NotDone(error),
        reply => Told::Written(reply),
    }
}
