//! Replicas on a lossy network with disks that forget: raft's laws hold.
//!
//! Everything is drawn from one seed; a failure prints it, and
//! `PROA_SEED=<seed> cargo test -p proa-etcd-replica --test network` repeats it.
//!
//! Long because disks, network and checks are one world and read each other's state.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};

use proa_etcd_replica::eraftpb::{ConfState, Entry, HardState, Message, MessageType};
use proa_etcd_replica::{
    Config, Output, Position, Replica, Role, SnapshotWanted, Start, Write, snapshot_message,
};

/// splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % limit
    }

    fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1_000) < per_mille
    }
}

/// Time units between two ticks; messages and writes take from 1 upwards.
const TICK: u64 = 100;

/// The applied entries of one member; what a real one keeps in its database.
type Applied = Vec<(Position, Vec<u8>)>;

/// What survives a crash.
#[derive(Clone, Default)]
struct Disk {
    hard_state: HardState,
    base: Position,
    entries: Vec<Entry>,
    database: Applied,
}

impl Disk {
    fn write(&mut self, write: &Write, staged: &BTreeMap<Position, Applied>) {
        if let Some(position) = write.snapshot {
            self.base = position;
            self.entries.clear();
            self.database = staged[&position].clone();
        }
        if let Some(first) = write.entries.first() {
            self.entries.truncate((first.index - self.base.index - 1) as usize);
            self.entries.extend(write.entries.iter().cloned());
        }
        if let Some(hard_state) = &write.hard_state {
            self.hard_state = hard_state.clone();
        }
    }
}

struct Member {
    replica: Option<Replica>,
    boots: u64,
    disk: Disk,
    unsynced: VecDeque<Write>,
    staged: BTreeMap<Position, Applied>,
    database: Applied,
    reads: BTreeMap<u64, u64>,
    proposals: BTreeMap<u64, (u64, Vec<u8>)>,
}

enum Event {
    Tick(usize),
    Deliver(usize, Message),
    Snapshot { to: usize, from: usize, wanted: SnapshotWanted, boots: u64 },
    Synced { at: usize, boots: u64 },
    Applied { at: usize, boots: u64, index: u64 },
    Restart(usize),
}

/// How bad things are, per thousand.
#[derive(Clone, Copy)]
struct Faults {
    loss: u64,
    slow: u64,
    crash: u64,
    cut: u64,
}

struct World {
    random: Random,
    members: Vec<Member>,
    events: BTreeMap<(u64, u64), Event>,
    scheduled: u64,
    now: u64,
    faults: Faults,
    cut: Vec<bool>,
    leaders: BTreeMap<u64, u64>,
    chosen: BTreeMap<u64, (u64, Vec<u8>)>,
    acknowledged: u64,
    next_value: u64,
    answered_reads: u64,
    snapshots: u64,
    crashes: u64,
}

fn first_state(count: u64) -> (ConfState, Disk) {
    let conf = ConfState { voters: (1..=count).collect(), ..ConfState::default() };
    let base = Position { index: 1, term: 1 };
    let hard_state = HardState { term: 1, commit: 1, ..HardState::default() };
    (conf, Disk { hard_state, base, entries: vec![], database: vec![(base, vec![])] })
}

impl World {
    fn new(seed: u64, count: u64, faults: Faults) -> Self {
        let disk = first_state(count).1;
        let member = || Member {
            replica: None,
            boots: 0,
            disk: disk.clone(),
            unsynced: VecDeque::new(),
            staged: BTreeMap::new(),
            database: vec![],
            reads: BTreeMap::new(),
            proposals: BTreeMap::new(),
        };
        let mut world = Self {
            random: Random(seed),
            members: (0..count).map(|_| member()).collect(),
            events: BTreeMap::new(),
            scheduled: 0,
            now: 0,
            faults,
            cut: vec![false; count as usize],
            leaders: BTreeMap::new(),
            chosen: BTreeMap::new(),
            acknowledged: 1,
            next_value: 0,
            answered_reads: 0,
            snapshots: 0,
            crashes: 0,
        };
        for at in 0..count as usize {
            world.restart(at);
            world.at(1 + at as u64 * 7, Event::Tick(at));
        }
        world
    }

    fn at(&mut self, delay: u64, event: Event) {
        self.scheduled += 1;
        self.events.insert((self.now + delay, self.scheduled), event);
    }

    fn run(&mut self, duration: u64) {
        let end = self.now + duration;
        while let Some(((due, _), event)) = self.events.pop_first() {
            self.now = due;
            self.handle(event);
            if self.now >= end {
                break;
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Tick(at) => {
                self.at(TICK, Event::Tick(at));
                self.trouble(at);
                if let Some(replica) = &mut self.members[at].replica {
                    replica.tick();
                    self.ask(at);
                    self.poll(at);
                }
            }
            Event::Deliver(at, message) => {
                if let Some(replica) = &mut self.members[at].replica {
                    replica.step(message).unwrap();
                    self.poll(at);
                }
            }
            Event::Snapshot { to, from, wanted, boots } => self.deliver_snapshot(to, from, wanted, boots),
            Event::Synced { at, boots } => self.synced(at, boots),
            Event::Applied { at, boots, index } => {
                if self.members[at].boots == boots
                    && let Some(replica) = &mut self.members[at].replica
                {
                    replica.applied(index);
                    self.poll(at);
                }
            }
            Event::Restart(at) => {
                if self.members[at].replica.is_none() {
                    self.restart(at);
                }
            }
        }
    }

    /// Crashes, cuts and compactions.
    fn trouble(&mut self, at: usize) {
        if self.members[at].replica.is_none() {
            return;
        }
        if self.random.chance(self.faults.cut) {
            self.cut[at] = !self.cut[at];
        }
        if self.random.chance(self.faults.crash) {
            self.crash(at);
        } else if self.random.chance(100) {
            self.compact(at);
        }
    }

    /// Some of what was not synced may be on the disk all the same.
    fn crash(&mut self, at: usize) {
        self.crashes += 1;
        let member = &mut self.members[at];
        let kept = self.random.below(member.unsynced.len() as u64 + 1) as usize;
        for write in member.unsynced.drain(..).take(kept) {
            member.disk.write(&write, &member.staged);
        }
        member.unsynced.clear();
        member.staged.clear();
        member.reads.clear();
        member.proposals.clear();
        member.replica = None;
        let delay = 1 + self.random.below(30 * TICK);
        self.at(delay, Event::Restart(at));
    }

    fn restart(&mut self, at: usize) {
        let count = self.members.len() as u64;
        let member = &mut self.members[at];
        member.boots += 1;
        let id = at as u64 + 1;
        let config = Config {
            seed: self.random.0 ^ id,
            boot_nonce: member.boots,
            // Small, so that followers fall behind what is in memory.
            cache_entries: 8,
            ..Config::new(id)
        };
        let disk = member.disk.clone();
        member.database = disk.database.clone();
        let start = Start {
            hard_state: disk.hard_state,
            conf_state: first_state(count).0,
            log_base: disk.base,
            entries: disk.entries,
            applied: disk.database.last().unwrap().0,
        };
        member.replica = Some(Replica::new(config, start).unwrap());
    }

    /// Flushes the database and cuts the log behind it.
    fn compact(&mut self, at: usize) {
        let member = &mut self.members[at];
        let applied = member.replica.as_ref().unwrap().applied_index();
        let flushed: Applied =
            member.database.iter().filter(|(position, _)| position.index <= applied).cloned().collect();
        if flushed.len() < member.disk.database.len() {
            return;
        }
        member.disk.database = flushed;
        let keep_from = applied.saturating_sub(5);
        let disk = &mut member.disk;
        while disk.base.index < keep_from && !disk.entries.is_empty() {
            disk.base = Position::of(&disk.entries.remove(0));
        }
    }

    /// Proposes on whoever leads and reads on anyone.
    fn ask(&mut self, at: usize) {
        let acknowledged = self.acknowledged;
        let member = &mut self.members[at];
        let replica = member.replica.as_mut().unwrap();
        if self.random.chance(700) {
            member.reads.insert(replica.read_index(), acknowledged);
        }
        for _ in 0..self.random.below(4) {
            self.next_value += 1;
            let value = self.next_value.to_be_bytes().to_vec();
            if let Ok(position) = replica.propose(vec![], value.clone()) {
                member.proposals.insert(position.index, (position.term, value));
            }
        }
    }

    fn poll(&mut self, at: usize) {
        let Output { send, snapshots, writes, committed, reads, standing } =
            self.members[at].replica.as_mut().unwrap().poll();
        if let Some(standing) = standing.filter(|standing| standing.role == Role::Leader) {
            let first = *self.leaders.entry(standing.term).or_insert(at as u64);
            assert_eq!(first, at as u64, "two leaders in term {}", standing.term);
        }
        for message in send {
            self.send(at, message);
        }
        for wanted in snapshots {
            let delay = self.delay() + 50;
            let boots = self.members[at].boots;
            self.at(delay, Event::Snapshot { to: wanted.to as usize - 1, from: at, wanted, boots });
        }
        for write in writes {
            self.members[at].unsynced.push_back(write);
            let delay = self.delay();
            let boots = self.members[at].boots;
            self.at(delay, Event::Synced { at, boots });
        }
        for ready in reads {
            let member = &mut self.members[at];
            let later = member.reads.split_off(&(ready.up_to + 1));
            for (ticket, acknowledged) in std::mem::replace(&mut member.reads, later) {
                assert!(ready.index >= acknowledged, "read {ticket} sees {} < {acknowledged}", ready.index);
                self.answered_reads += 1;
            }
        }
        self.apply(at, committed);
    }

    fn apply(&mut self, at: usize, committed: Vec<Entry>) {
        let Some(last) = committed.last().map(|entry| entry.index) else { return };
        for entry in committed {
            let position = Position::of(&entry);
            let data = entry.data.to_vec();
            let first = self.chosen.entry(position.index).or_insert((position.term, data.clone()));
            assert_eq!(*first, (position.term, data.clone()), "index {} was chosen twice", position.index);
            let member = &mut self.members[at];
            assert_eq!(position.index, member.database.last().unwrap().0.index + 1, "applied out of order");
            member.database.push((position, data.clone()));
            if member.proposals.remove(&position.index) == Some((position.term, data)) {
                self.acknowledged = self.acknowledged.max(position.index);
            }
        }
        let delay = self.delay();
        let boots = self.members[at].boots;
        self.at(delay, Event::Applied { at, boots, index: last });
    }

    fn delay(&mut self) -> u64 {
        let slow = self.random.chance(self.faults.slow);
        1 + self.random.below(if slow { 8 * TICK } else { 10 })
    }

    fn send(&mut self, from: usize, message: Message) {
        let to = message.to as usize - 1;
        assert!(self.is_covered(from, &message), "{:?} left before its promise was synced", message.msg_type);
        if self.cut[from] || self.cut[to] || self.random.chance(self.faults.loss) {
            if self.random.chance(500)
                && let Some(replica) = &mut self.members[from].replica
            {
                replica.unreachable(message.to);
            }
            return;
        }
        let delay = self.delay();
        self.at(delay, Event::Deliver(to, message));
    }

    /// Votes and acknowledgements speak only of what is on the disk.
    fn is_covered(&self, from: usize, message: &Message) -> bool {
        let disk = &self.members[from].disk;
        let last = disk.entries.last().map_or(disk.base.index, |entry| entry.index);
        // One sync may cover a later term as well; then nobody heeds this message.
        if message.term != 0 && disk.hard_state.term > message.term {
            return true;
        }
        match message.msg_type {
            MessageType::MsgAppendResponse if !message.reject => message.index <= last,
            MessageType::MsgRequestVote => {
                (disk.hard_state.term, disk.hard_state.vote) == (message.term, message.from)
            }
            MessageType::MsgRequestVoteResponse if !message.reject => {
                (disk.hard_state.term, disk.hard_state.vote) == (message.term, message.to)
            }
            MessageType::MsgHeartbeatResponse => disk.hard_state.term >= message.term,
            _ => true,
        }
    }

    fn synced(&mut self, at: usize, boots: u64) {
        let member = &mut self.members[at];
        if member.boots != boots || member.replica.is_none() {
            return;
        }
        // One fsync covers what has gathered, sometimes.
        let count = 1 + self.random.below(member.unsynced.len() as u64 + 1) as usize;
        let mut last = None;
        for write in member.unsynced.drain(..count.min(member.unsynced.len())) {
            member.disk.write(&write, &member.staged);
            if let Some(position) = write.snapshot {
                member.database = member.staged[&position].clone();
                last = Some((write.number, Some(position)));
            } else {
                last = Some((write.number, last.and_then(|(_, position)| position)));
            }
        }
        let Some((number, installed)) = last else { return };
        let replica = member.replica.as_mut().unwrap();
        replica.persisted(number);
        if let Some(position) = installed {
            replica.applied(position.index);
        }
        self.poll(at);
    }

    fn deliver_snapshot(&mut self, to: usize, from: usize, wanted: SnapshotWanted, boots: u64) {
        if self.members[from].boots != boots || self.members[from].replica.is_none() {
            return;
        }
        let lost = self.cut[from] || self.cut[to] || self.random.chance(self.faults.loss);
        if !lost && self.members[to].replica.is_some() {
            self.snapshots += 1;
            // Newer than what was asked for, as a real one is.
            let state = self.members[from].database.clone();
            let position = state.last().unwrap().0;
            assert!(position.index >= wanted.at_least);
            let conf = first_state(self.members.len() as u64).0;
            let message = snapshot_message(from as u64 + 1, wanted, position, conf);
            self.members[to].staged.insert(position, state);
            self.handle(Event::Deliver(to, message));
        }
        if let Some(replica) = &mut self.members[from].replica {
            replica.snapshot_sent(wanted.to, !lost);
            self.poll(from);
        }
    }

    /// Same index and term: same entry, and the same before it.
    fn check_logs(&self) {
        let disks = || self.members.iter().map(|member| &member.disk);
        let positions = |disk: &Disk| -> BTreeMap<u64, (u64, Vec<u8>)> {
            disk.entries.iter().map(|entry| (entry.index, (entry.term, entry.data.to_vec()))).collect()
        };
        for one in disks() {
            for other in disks() {
                let (one, other) = (positions(one), positions(other));
                let shared: Vec<_> =
                    one.iter().filter_map(|(index, mine)| Some((index, mine, other.get(index)?))).collect();
                let Some(top) = shared.iter().rposition(|(_, mine, theirs)| mine.0 == theirs.0) else {
                    continue;
                };
                for (index, mine, theirs) in &shared[..=top] {
                    assert_eq!(mine, theirs, "logs differ at {index} below a shared position");
                }
            }
        }
    }
}

fn live(seed: u64, count: u64) -> (u64, u64, u64) {
    let mut random = Random(seed ^ 0x5eed);
    let faults = Faults {
        loss: random.below(200),
        slow: random.below(150),
        crash: random.below(12),
        cut: random.below(15),
    };
    let mut world = World::new(seed, count, faults);
    for _ in 0..3 {
        world.run(60 * TICK);
        world.check_logs();
    }
    // Peace: everyone comes back, catches up and agrees.
    world.faults = Faults { loss: 0, slow: 0, crash: 0, cut: 0 };
    world.cut.iter_mut().for_each(|cut| *cut = false);
    let (before, reads) = (world.acknowledged, world.answered_reads);
    world.run(150 * TICK);
    world.check_logs();
    assert!(world.acknowledged > before, "no progress in peace");
    assert!(world.answered_reads > reads, "no reads in peace");
    let behind = |member: &Member| {
        let applied = member.database.last().unwrap().0.index;
        world.acknowledged.saturating_sub(applied)
    };
    for (at, member) in world.members.iter().enumerate() {
        assert!(behind(member) < 20, "member {} is {} behind in peace", at + 1, behind(member));
    }
    (world.answered_reads, world.snapshots, world.crashes)
}

fn run_seeds(count: u64, seeds: std::ops::Range<u64>) {
    let seeds = match std::env::var("PROA_SEED").map(|seed| seed.parse::<u64>()) {
        Ok(Ok(seed)) => seed..seed + 1,
        _ => seeds,
    };
    let whole = seeds.end - seeds.start > 1;
    let mut sums = (0, 0, 0);
    for seed in seeds {
        match catch_unwind(AssertUnwindSafe(|| live(seed, count))) {
            Ok((reads, snapshots, crashes)) => {
                sums = (sums.0 + reads, sums.1 + snapshots, sums.2 + crashes);
            }
            Err(panic) => {
                eprintln!("failed with {count} members, PROA_SEED={seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    eprintln!("{count} members: {} reads, {} snapshots, {} crashes", sums.0, sums.1, sums.2);
    // The run means something only when the faults really happened.
    assert!(!whole || (sums.0 > 1_000 && sums.1 > 50 && sums.2 > 100), "{sums:?}");
}

#[test]
fn three_members_keep_the_laws() {
    run_seeds(3, 0..200);
}

#[test]
fn five_members_keep_the_laws() {
    run_seeds(5, 1_000..1_100);
}

#[test]
fn one_member_leads_itself() {
    live(42, 1);
}
