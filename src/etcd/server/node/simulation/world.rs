//! The scheduler: virtual time, one queue of events, one thread.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::path::Path;

use proa_etcd_api::etcdserverpb::Member;
use proa_etcd_replica::eraftpb::{ConfState, Entry, Message};
use proa_etcd_replica::{Position, ids};
use proa_etcd_store::{Head, MemView};

use super::clients::Clients;
use super::history::Operation;
use super::network::{Link, Parcel};
use super::plan::{MS, Plan, SECOND};
use super::process::{Machine, USUAL_APPLY_US, USUAL_DISK_US, cut_power};
use super::queue::Scheduled;
use super::random::Random;
use super::{Counts, Planted};
use crate::node::applier::ToApplier;
use crate::node::housekeeping::SCRUB_BUDGET;
use crate::node::meta::Identity;
use crate::node::shared::{ToCore, lock};
use crate::peer::Incoming;
use crate::peer::frame::Frame;
use crate::peer::snapshot::Receiving;

/// What is going to happen; those about a process name the life they mean.
#[derive(Debug)]
pub(super) enum Event {
    Tick { at: usize, life: u64 },
    Dial { at: usize, life: u64 },
    Arrive { from: usize, to: usize, epoch: u64, parcel: Parcel },
    Unreachable { at: usize, life: u64, peer: u64 },
    Snapshot { from: usize, life: u64, message: Message, copy: Box<MemView> },
    Written { at: usize, life: u64 },
    Applied { at: usize, life: u64 },
    Flushed { at: usize, life: u64 },
    Restart { at: usize },
    Heal { from: usize, to: usize },
    Recover { at: usize },
    Doom { at: usize },
    Fault(usize),
    Client(usize),
    Impatient { client: usize, operation: usize },
    Watch(usize),
    Admin,
}

/// The same configuration, in the same words.
pub(super) fn sorted(members: &ConfState) -> ConfState {
    let mut members = members.clone();
    members.voters.sort_unstable();
    members.learners.sort_unstable();
    members
}

/// Everything.
pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) planted: Option<Planted>,
    pub(super) random: Random,
    pub(super) now: u64,
    queue: BinaryHeap<Reverse<Scheduled>>,
    scheduled: u64,
    pub(super) lives: u64,
    pub(super) machines: Vec<Machine>,
    pub(super) links: BTreeMap<(usize, usize), Link>,
    /// Which machine a member lives on.
    pub(super) owners: BTreeMap<u64, usize>,
    /// The committed entries, as members applied them.
    pub(super) chosen: BTreeMap<u64, Entry>,
    /// What the state was at an index, as the first member there had it.
    states: BTreeMap<u64, (Head, ConfState)>,
    leaders: BTreeMap<u64, u64>,
    pub(super) clients: Clients,
    pub(super) operations: Vec<Operation>,
    pub(super) counts: Counts,
    /// The last read request of each member, for [`Planted::ReadContextReused`].
    pub(super) contexts: BTreeMap<u64, bytes::Bytes>,
    pub(super) calm: bool,
    pub(super) trace: Option<Vec<String>>,
}

impl World {
    pub(super) fn new(plan: Plan, planted: Option<Planted>, traced: bool) -> Self {
        let machines = (0..plan.machines).map(|at| Machine::new(at, planted)).collect();
        let mut world = Self {
            random: Random::new(plan.seed ^ 0x5eed),
            clients: Clients::new(&plan),
            plan,
            planted,
            now: 0,
            queue: BinaryHeap::new(),
            scheduled: 0,
            lives: 0,
            machines,
            links: BTreeMap::new(),
            owners: BTreeMap::new(),
            chosen: BTreeMap::new(),
            states: BTreeMap::new(),
            leaders: BTreeMap::new(),
            operations: Vec::new(),
            counts: Counts::default(),
            contexts: BTreeMap::new(),
            calm: false,
            trace: traced.then(Vec::new),
        };
        world.found();
        world
    }

    fn found(&mut self) {
        let count = self.plan.members;
        let member = |machine: &Machine| {
            let url = machine.url();
            let id = ids::member_id(std::slice::from_ref(&url), "simulation", None);
            Member { id, peer_urls: vec![url], ..Member::default() }
        };
        let members: Vec<Member> = self.machines[..count].iter().map(member).collect();
        for (at, member) in members.iter().enumerate() {
            let identity = Identity { cluster_id: 1, member_id: member.id };
            self.machines[at].create(identity, &members, true, &self.plan.scale);
            self.owners.insert(member.id, at);
            self.at(0, Event::Restart { at });
        }
        for number in 0..self.plan.faults.len() {
            self.at(self.plan.faults[number].0, Event::Fault(number));
        }
        for client in 0..self.plan.clients {
            self.at(SECOND, Event::Client(client));
        }
        for watcher in 0..self.plan.watchers {
            self.at(SECOND, Event::Watch(watcher));
        }
        self.at(SECOND, Event::Admin);
    }

    /// Schedules an event at a time.
    pub(super) fn at(&mut self, time: u64, event: Event) {
        self.scheduled += 1;
        self.queue.push(Reverse(Scheduled { time: time.max(self.now), number: self.scheduled, event }));
    }

    /// Schedules an event after a delay.
    pub(super) fn after(&mut self, us: u64, event: Event) {
        self.at(self.now + us, event);
    }

    pub(super) fn note(&mut self, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>9.3} s  {}", self.now as f64 / SECOND as f64, what()));
        }
    }

    /// Runs until a time.
    ///
    /// # Errors
    /// A law was broken.
    pub(super) fn run_until(&mut self, time: u64) -> Result<(), String> {
        while let Some(Reverse(next)) = self.queue.peek() {
            if next.time > time {
                break;
            }
            let Some(Reverse(Scheduled { time, event, .. })) = self.queue.pop() else { break };
            self.now = time;
            self.counts.steps += 1;
            self.happen(event)?;
        }
        self.now = time;
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Tick { at, life } => {
                if self.is_alive(at, life) {
                    if let Some(later) = self.pause(at) {
                        self.at(later, Event::Tick { at, life });
                        return Ok(());
                    }
                    self.after(100 * self.machines[at].clock_permille, Event::Tick { at, life });
                    return self.tick(at);
                }
            }
            Event::Dial { at, life } => {
                if self.is_alive(at, life) {
                    self.dial(at);
                    let pause = self.random.between(50, 250) * MS;
                    self.after(pause, Event::Dial { at, life });
                    return self.turn(at);
                }
            }
            Event::Arrive { from, to, epoch, parcel } => return self.arrive(from, to, epoch, parcel),
            Event::Unreachable { at, life, peer } => {
                if self.is_alive(at, life) {
                    self.tell(at, ToCore::Peer(Incoming::Unreachable(peer)));
                    return self.turn(at);
                }
            }
            Event::Snapshot { from, life, message, copy } => {
                return self.deliver_snapshot(from, life, message, *copy);
            }
            Event::Written { at, life } => {
                if self.is_alive(at, life) {
                    if let Some(later) = self.pause(at) {
                        self.at(later, Event::Written { at, life });
                        return Ok(());
                    }
                    let process = self.machines[at].process.as_mut().expect("alive");
                    if !process.conclude() && !process.write() {
                        return self.stop(at);
                    }
                    if process.writing.is_some() {
                        let took = 1 + self.random.below(self.machines[at].disk_us);
                        self.after(took, Event::Written { at, life });
                    }
                    return self.turn(at);
                }
            }
            Event::Applied { at, life } => {
                if self.is_alive(at, life) {
                    if let Some(later) = self.pause(at) {
                        self.at(later, Event::Applied { at, life });
                        return Ok(());
                    }
                    self.apply(at)?;
                    return self.turn(at);
                }
            }
            Event::Flushed { at, life } => {
                if self.is_alive(at, life) {
                    let process = self.machines[at].process.as_mut().expect("alive");
                    process.is_flushing = false;
                    process.database.finish_flush();
                    return self.turn(at);
                }
            }
            Event::Restart { at } => return self.restart(at),
            Event::Heal { from, to } => self.heal(from, to),
            Event::Recover { at } => {
                let machine = &mut self.machines[at];
                (machine.disk_us, machine.apply_us) = (USUAL_DISK_US, USUAL_APPLY_US);
            }
            Event::Doom { at } => {
                if let Some(down_us) = self.machines[at].doomed {
                    self.crash_for(at, down_us);
                }
            }
            Event::Fault(number) => return self.strike(number),
            Event::Client(client) => return self.client(client),
            Event::Impatient { client, operation } => self.give_up(client, operation),
            Event::Watch(watcher) => self.watch(watcher)?,
            Event::Admin => return self.admin(),
        }
        Ok(())
    }

    pub(super) fn is_alive(&self, at: usize, life: u64) -> bool {
        self.machines[at].process.as_ref().is_some_and(|process| process.life == life)
    }

    /// When the machine goes on, if it stands still.
    pub(super) fn pause(&self, at: usize) -> Option<u64> {
        let until = self.machines[at].paused_until;
        (until > self.now).then_some(until)
    }

    pub(super) fn tell(&self, at: usize, input: ToCore) {
        if let Some(process) = &self.machines[at].process {
            process.tell(input);
        }
    }

    pub(super) fn restart(&mut self, at: usize) -> Result<(), String> {
        if self.machines[at].process.is_some() || self.machines[at].identity.is_none() {
            return Ok(());
        }
        self.lives += 1;
        let life = self.lives;
        let (scale, planted) = (self.plan.scale.clone(), self.planted);
        let mut nonce = Random::new(self.random.word());
        self.machines[at].clock_permille = self.random.between(850, 1200);
        self.machines[at].start(life, &mut nonce, &scale, planted)?;
        self.note(|| format!("m{at} starts"));
        let first = self.random.below(100 * MS);
        self.after(first, Event::Tick { at, life });
        self.after(first / 10, Event::Dial { at, life });
        self.turn(at)
    }

    /// The power of a machine fails.
    pub(super) fn crash(&mut self, at: usize) {
        if self.machines[at].process.is_none() {
            return;
        }
        self.counts.crashes += 1;
        self.end_process(at);
    }

    fn end_process(&mut self, at: usize) {
        self.keep_announced(at);
        let waiting = self.machines[at].process.as_mut().map(|process| std::mem::take(&mut process.waiting));
        cut_power(&mut self.machines[at], &mut self.random);
        for lost in waiting.into_iter().flatten() {
            self.leave_unknown(lost.operation);
        }
        self.hang_up(at);
    }

    /// The member ended by itself: it was removed.
    fn stop(&mut self, at: usize) -> Result<(), String> {
        let process = self.machines[at].process.as_ref().expect("it just ran");
        let why = process.shared.status.borrow().stopped.clone();
        match why {
            Some(why) if why.contains("was removed") => {
                self.note(|| format!("m{at} ends: {why}"));
                self.end_process(at);
                self.machines[at].wipe(self.planted);
                Ok(())
            }
            why => Err(format!("m{at} ended: {why:?}")),
        }
    }

    fn tick(&mut self, at: usize) -> Result<(), String> {
        let process = self.machines[at].process.as_mut().expect("alive");
        if !process.threads.core.on_tick() {
            return self.stop(at);
        }
        if process.applying.is_none() && process.installing.is_none() {
            process.threads.applier.scrub_step(SCRUB_BUDGET);
        }
        process.threads.core.turn();
        self.turn(at)
    }

    /// Lets the raft thread take what is there, and passes on what it says.
    pub(super) fn turn(&mut self, at: usize) -> Result<(), String> {
        loop {
            let Some(process) = self.machines[at].process.as_mut() else { return Ok(()) };
            let mut took = false;
            while let Ok(input) = process.threads.core.inbox.try_recv() {
                took = true;
                if !process.threads.core.take(input) {
                    return self.stop(at);
                }
            }
            if !took {
                break;
            }
            process.threads.core.turn();
        }
        self.check_leader(at)?;
        self.post(at);
        self.answer(at);
        let process = self.machines[at].process.as_mut().expect("it just ran");
        let life = process.life;
        let (writes, applies) = (process.next_write(), process.next_apply());
        let flushes = process.database.is_flushing() && !process.is_flushing;
        process.is_flushing |= flushes;
        if writes {
            let took = 1 + self.random.below(self.machines[at].disk_us);
            self.after(took, Event::Written { at, life });
        }
        if writes && let Some(down_us) = self.machines[at].doomed {
            self.crash_for(at, down_us);
            return Ok(());
        }
        if applies {
            let took = 1 + self.random.below(self.machines[at].apply_us);
            self.after(took, Event::Applied { at, life });
        }
        if flushes {
            let took = self.random.between(1, 500) * MS;
            self.after(took, Event::Flushed { at, life });
        }
        Ok(())
    }

    fn check_leader(&mut self, at: usize) -> Result<(), String> {
        let process = self.machines[at].process.as_ref().expect("it just ran");
        let status = process.shared.status.borrow();
        if status.is_leader {
            let first = *self.leaders.entry(status.term).or_insert(status.member_id);
            if first != status.member_id {
                return Err(format!("two leaders in term {}: {first:x} and m{at}", status.term));
            }
        }
        Ok(())
    }

    /// Runs the applier's job and holds what it applies against what others did.
    fn apply(&mut self, at: usize) -> Result<(), String> {
        let process = self.machines[at].process.as_mut().expect("alive");
        let Some(job) = process.applying.take() else { return Ok(()) };
        if let ToApplier::Entries(decided) = &job {
            for entry in decided.iter().map(|decided| &decided.entry) {
                let first = self.chosen.entry(entry.index).or_insert_with(|| entry.clone());
                if (first.term, &first.data) != (entry.term, &entry.data) {
                    return Err(format!("m{at} applies another entry {} than others did", entry.index));
                }
            }
        }
        let life = process.life;
        let installs = matches!(job, ToApplier::Install { .. });
        process.threads.applier.take(job);
        let index = process.threads.applier.applied.index;
        let here = (lock(&process.shared.machine).head(), sorted(&process.threads.applier.members));
        let first = self.states.entry(index).or_insert_with(|| here.clone());
        if *first != here {
            return Err(format!("m{at} is at {here:?} after entry {index}, another member was at {first:?}"));
        }
        if installs {
            self.counts.snapshots += 1;
            self.after(1, Event::Written { at, life });
        }
        Ok(())
    }

    /// A copy of the state reaches its follower, or not.
    fn deliver_snapshot(
        &mut self,
        from: usize,
        life: u64,
        message: Message,
        copy: MemView,
    ) -> Result<(), String> {
        let to = self.owners.get(&message.to).copied();
        let is_cut = to.is_none_or(|to| {
            let blocked = |pair| self.links.get(&pair).is_some_and(|link: &Link| link.is_cut);
            blocked((from, to)) || blocked((to, from)) || self.pause(to).is_some()
        });
        let lost = is_cut || self.random.chance(50);
        let (target, member) = (message.to, message.from);
        let mut delivered = false;
        if let Some(to) = to.filter(|_| !lost)
            && let Some(process) = self.machines[to].process.as_mut()
            && process.shared.status.borrow().member_id == target
            && !process.outbox.lock().removed.contains(&member)
            && let Some(hold) = Receiving::begin(&process.receiving)
        {
            let metadata = message.get_snapshot().get_metadata();
            let position = Position { index: metadata.index, term: metadata.term };
            process.received.insert(position, copy);
            process.tell(ToCore::Peer(Incoming::Snapshot { message, files: Vec::new(), hold }));
            delivered = true;
            self.turn(to)?;
        }
        if self.is_alive(from, life) {
            self.tell(from, ToCore::Peer(Incoming::SnapshotSent { to: target, delivered }));
            return self.turn(from);
        }
        Ok(())
    }

    fn arrive(&mut self, from: usize, to: usize, epoch: u64, parcel: Parcel) -> Result<(), String> {
        let link = self.links.entry((from, to)).or_default();
        if link.epoch != epoch {
            return Ok(());
        }
        if link.is_cut {
            link.held.push_back(parcel);
            return Ok(());
        }
        if let Some(later) = self.pause(to) {
            self.at(later, Event::Arrive { from, to, epoch, parcel });
            return Ok(());
        }
        let frame = Frame::decode(parcel.bytes.clone());
        let frame = frame.map_err(|error| format!("m{to} cannot read a frame of m{from}: {error}"))?;
        let Some(sender) = self.machines[from].identity else { return Ok(()) };
        self.counts.messages += 1;
        let frame = self.rewrite(sender.member_id, to, frame);
        self.tell(to, ToCore::Peer(Incoming::Frame { from: sender.member_id, frame }));
        self.turn(to)
    }

    pub(super) fn copy_of(&self, at: usize, folder: &Path) -> MemView {
        self.machines[at].process.as_ref().expect("it sends").database.copy(folder)
    }
}
