//! The protocol in every small world: three machines that look and act in any
//! order, whose leases end and that die at any moment.
//!
//! A look and the act it leads to are two transitions. What happened to the
//! records in between is kept as one bit a record, which is all a guard can see.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use super::gate::{Drain, Limits, Sight, Step, next};
use super::lease::{Intent, Phase, Reap, Record, leaving_members};
use super::quorum::Voter;
use super::semaphore::Semaphore;
use super::window;

const MACHINES: usize = 3;
const IDS: [&str; MACHINES] = ["a", "b", "c"];
/// The first is empty: no allocation, in a text that is copied a million times.
const BOOTS: [&str; 2] = ["", "2"];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Up {
    Running,
    /// Rebooting by the gate's decision.
    Down,
    /// Rebooted, and never seen again.
    Lost,
    /// Died at another time.
    Dead,
}

/// What a machine is about to do, and which of the records it read have changed since.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Pending {
    step: Step,
    /// The second half of letting go: the lock is given back, the records remain.
    is_half_done: bool,
    lock: bool,
    turn: bool,
    intents: [bool; MACHINES],
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Machine {
    up: Up,
    wants: bool,
    runs_new: bool,
    boot: usize,
    record: Record,
    pending: Option<Pending>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    machines: [Machine; MACHINES],
    lock: Semaphore,
    is_suspect: bool,
}

/// Where the members of the store are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Members {
    /// On the three machines.
    Here,
    /// On others: only the lock keeps these machines from going down together.
    Elsewhere,
}

impl World {
    fn new(max: i64) -> Self {
        let machine = Machine {
            up: Up::Running,
            wants: true,
            runs_new: false,
            boot: 0,
            record: Record::default(),
            pending: None,
        };
        let lock = Semaphore::default().set_max(max).unwrap();
        Self { machines: [machine.clone(), machine.clone(), machine], lock, is_suspect: false }
    }

    fn look(&self, me: usize, members: Members) -> Step {
        let machine = &self.machines[me];
        let records: BTreeMap<String, Record> = (0..MACHINES)
            .filter(|n| self.machines[*n].record != Record::default())
            .map(|n| (IDS[n].to_owned(), self.machines[n].record.clone()))
            .collect();
        let leaving = leaving_members(IDS[me], &records);
        let voter = |n: usize| {
            let id = n as u64 + 1;
            let is_healthy = members == Members::Elsewhere || self.machines[n].up == Up::Running;
            Voter { id, is_healthy, is_leaving: members == Members::Here && leaving.contains(&id) }
        };
        let verdict = ("2".to_owned(), "suspect".to_owned());
        next(&Sight {
            me: IDS[me],
            by: "",
            boot: BOOTS[machine.boot],
            running: if machine.runs_new { "2" } else { "1" },
            pending: machine.wants.then_some("2"),
            good: Ok(()),
            window: window::State::Open,
            group: "",
            semaphore: &self.lock,
            records: &records,
            verdicts: &self.is_suspect.then_some(verdict).into_iter().collect(),
            foreign_s: &BTreeMap::new(),
            is_cordoned_by_us: false,
            drain: Drain::Done,
            draining_s: 0,
            voters: &[voter(0), voter(1), voter(2)],
            member: Ok((members == Members::Here).then_some(me as u64 + 1)),
            leader: None,
            now_unix_s: 0,
            limits: Limits { drain_s: 0, held_s: 0, foreign_s: 0 },
        })
    }

    fn pendings(&mut self) -> impl Iterator<Item = &mut Pending> {
        self.machines.iter_mut().filter_map(|machine| machine.pending.as_mut())
    }

    fn set_lock(&mut self, lock: Semaphore) {
        self.lock = lock;
        self.pendings().for_each(|pending| pending.lock = true);
    }

    fn set_intent(&mut self, of: usize, intent: Option<Intent>) {
        self.machines[of].record.intent = intent;
        self.pendings().for_each(|pending| pending.intents[of] = true);
    }

    fn take_turn(&mut self) {
        self.pendings().for_each(|pending| pending.turn = true);
    }

    /// Does what the machine had in mind, if its guards still hold.
    fn act(&mut self, me: usize, pending: Pending, members: Members) {
        let index = |holder: &str| IDS.iter().position(|id| *id == holder).unwrap();
        let is_lock_back = pending.is_half_done || !self.lock.is_held_by(IDS[me]);
        match pending.step.clone() {
            Step::Claim(intent) if !pending.intents[me] => {
                self.machines[me].record.is_alive = true;
                self.set_intent(me, Some(intent));
            }
            Step::TakeLock if !pending.lock => self.set_lock(self.lock.lock(IDS[me]).unwrap()),
            Step::Commit(intent) => {
                let is_alive = self.machines[me].record.is_alive;
                if is_alive && !pending.intents[me] && !pending.turn {
                    assert!(!self.is_suspect, "{} reboots into a suspect release: {self:?}", IDS[me]);
                    self.take_turn();
                    self.set_intent(me, Some(intent));
                }
            }
            Step::Reboot => self.go_down(me, members),
            Step::Reap(Reap::Fence { holder, intent, suspect }) => {
                let of = index(&holder);
                if !pending.intents[of] && !self.machines[of].record.is_alive {
                    self.is_suspect |= suspect.is_some();
                    self.take_turn();
                    self.set_intent(of, Some(intent));
                }
            }
            Step::Reap(Reap::Remove { holder }) if !pending.lock => {
                self.set_lock(self.lock.unlock(&holder).unwrap());
            }
            Step::Accuse(_) => self.is_suspect = true,
            Step::LetGo(_) if is_lock_back && !pending.intents[me] => {
                self.machines[me].record.is_alive = false;
                self.set_intent(me, None);
            }
            Step::LetGo(_) if !is_lock_back && !pending.lock => {
                self.set_lock(self.lock.unlock(IDS[me]).unwrap());
                self.machines[me].pending = Some(Pending { is_half_done: true, ..pending });
            }
            Step::Drain | Step::HandOver(_) => unreachable!("all is drained and nobody leads"),
            _guard_failed => {}
        }
    }

    fn go_down(&mut self, me: usize, members: Members) {
        let others = || (0..MACHINES).filter(|n| *n != me).map(|n| &self.machines[n]);
        let holds = |machine: &&Machine| {
            let is_held =
                machine.record.intent.as_ref().is_some_and(|intent| intent.phase == Phase::Rebooting);
            machine.up == Up::Down && is_held
        };
        let down = others().filter(holds).count() as i64;
        assert!(down < self.lock.max, "{} goes down as one too many: {self:?}", IDS[me]);
        let is_short = members == Members::Here && others().any(|one| matches!(one.up, Up::Down | Up::Lost));
        assert!(!is_short, "{} goes down and leaves the store without a majority: {self:?}", IDS[me]);
        self.machines[me].up = Up::Down;
    }

    /// Every world that can come next.
    fn successors(&self, members: Members) -> Vec<Self> {
        let mut found = Vec::new();
        let mut one = |change: &dyn Fn(&mut Self)| {
            let mut world = self.clone();
            change(&mut world);
            for (me, machine) in world.machines.iter_mut().enumerate() {
                if let Some(pending) = &mut machine.pending {
                    pending.forget_what_is_not_guarded(me);
                }
            }
            found.push(world);
        };
        let has_died = self.machines.iter().any(|machine| machine.up == Up::Dead);
        for (me, machine) in self.machines.iter().enumerate() {
            let intent = machine.record.intent.as_ref();
            let has_decided = intent.is_some_and(|intent| intent.phase == Phase::Rebooting);
            match machine.up {
                Up::Running => match &machine.pending {
                    Some(pending) => one(&|world| {
                        world.machines[me].pending = None;
                        world.act(me, pending.clone(), members);
                    }),
                    None => match self.look(me, members) {
                        Step::Rest(_) => {}
                        step => one(&|world| world.machines[me].pending = Some(pending(step.clone()))),
                    },
                },
                Up::Down => {
                    one(&|world| world.come_back(me, true));
                    one(&|world| world.come_back(me, false));
                    one(&|world| world.machines[me].up = Up::Lost);
                }
                Up::Lost | Up::Dead => {}
            }
            // A death is a lease that ends and a vote that is lost. Where no vote
            // can be, and with two slots, the leases alone make worlds enough.
            let may_die = members == Members::Here && self.lock.max == 1;
            if machine.up == Up::Running && !has_died && may_die {
                one(&|world| (world.machines[me].up, world.machines[me].pending) = (Up::Dead, None));
            }
            // A lease is renewed between the decision and the reboot: it does not
            // end in the seconds between them.
            if machine.record.is_alive && !(machine.up == Up::Running && has_decided) {
                one(&|world| world.machines[me].record.is_alive = false);
            }
        }
        found
    }

    fn come_back(&mut self, me: usize, runs_new: bool) {
        let machine = &mut self.machines[me];
        *machine =
            Machine { up: Up::Running, wants: false, runs_new, boot: 1, pending: None, ..machine.clone() };
    }

    /// When nothing bad happens any more: does everybody get what they can get?
    fn settles(mut self, members: Members) {
        let start = self.clone();
        for _ in 0..64 {
            let before = self.clone();
            for me in 0..MACHINES {
                match self.machines[me].up {
                    Up::Running => {
                        let fresh = match self.look(me, members) {
                            Step::Rest(_) => None,
                            step => Some(pending(step)),
                        };
                        if let Some(pending) = self.machines[me].pending.take().or(fresh) {
                            self.act(me, pending, members);
                        }
                    }
                    Up::Down => self.come_back(me, true),
                    Up::Lost | Up::Dead => self.machines[me].record.is_alive = false,
                }
            }
            if self == before {
                break;
            }
        }
        let is_whole =
            members == Members::Elsewhere || self.machines.iter().all(|machine| machine.up == Up::Running);
        for (me, machine) in self.machines.iter().enumerate() {
            // One that lives may wait with the lock for the store to be whole; in
            // a longer run it gives the lock back after a while.
            let may_hold = machine.up == Up::Running && !is_whole;
            assert!(may_hold || !self.lock.is_held_by(IDS[me]), "never free, from {start:?} to {self:?}");
        }
        for machine in self.machines.iter().filter(|machine| machine.up == Up::Running) {
            let is_blocked = self.is_suspect || !is_whole;
            assert!(!machine.wants || is_blocked, "somebody waits for nothing, from {start:?} to {self:?}");
        }
    }
}

impl Pending {
    /// Worlds that differ in nothing a guard looks at are one.
    fn forget_what_is_not_guarded(&mut self, me: usize) {
        let (lock, turn, of) = match &self.step {
            Step::Claim(_) => (false, false, Some(me)),
            Step::TakeLock | Step::Reap(Reap::Remove { .. }) => (true, false, None),
            Step::Commit(_) => (false, true, Some(me)),
            Step::Reap(Reap::Fence { holder, .. }) => (false, false, IDS.iter().position(|id| id == holder)),
            Step::LetGo(_) => (!self.is_half_done, false, Some(me)),
            Step::Rest(_) | Step::Drain | Step::HandOver(_) | Step::Reboot | Step::Accuse(_) => {
                (false, false, None)
            }
        };
        self.lock &= lock;
        self.turn &= turn;
        for (n, is_stale) in self.intents.iter_mut().enumerate() {
            *is_stale &= Some(n) == of;
        }
    }
}

fn pending(step: Step) -> Pending {
    Pending { step, is_half_done: false, lock: false, turn: false, intents: [false; MACHINES] }
}

fn explore(start: World, members: Members) -> usize {
    let mut seen = HashSet::from([fingerprint(&start)]);
    let mut open = vec![start];
    let mut looked_at = 0_usize;
    while let Some(world) = open.pop() {
        looked_at += 1;
        for next in world.successors(members) {
            if seen.insert(fingerprint(&next)) {
                open.push(next);
            }
        }
        if looked_at.is_multiple_of(SETTLE_EVERY) {
            world.settles(members);
        }
    }
    seen.len()
}

/// 128 bits stand for a world: two of a million are alike in one of 10^26 runs.
fn fingerprint(world: &World) -> (u64, u64) {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        salt.hash(&mut hasher);
        world.hash(&mut hasher);
        hasher.finish()
    };
    (half(0), half(1))
}

/// The walk to the end of a world costs as much as finding some hundred others.
const SETTLE_EVERY: usize = 64;

#[test]
fn one_slot_and_the_store_on_the_machines() {
    assert!(explore(World::new(1), Members::Here) > 1000);
}

#[test]
fn two_slots_and_the_store_on_the_machines() {
    assert!(explore(World::new(2), Members::Here) > 1000);
}

#[test]
fn one_slot_and_the_store_elsewhere_with_two_machines() {
    let mut world = World::new(1);
    world.machines[2].up = Up::Dead;
    assert!(explore(world, Members::Elsewhere) > 1000);
}
