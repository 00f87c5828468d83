//! The gate in front of a reboot: window and lock and drained and quorum and no
//! failed release, and the way back after it. One pure step after the other.
//!
//! Caller's duties:
//! 1. Build a [`Sight`] from one round of linearizable reads: first the lock,
//!    then the records and verdicts, then health.
//! 2. Perform the one [`Step`], guarded by what was read as the step says, and
//!    look again. A guard that fails is no error: look again.
//! 3. Between [`Step::Commit`] and [`Step::Reboot`] renew the lease, so that its
//!    whole time is left when the machine goes down.

use std::collections::BTreeMap;

use super::lease::{self, Intent, Phase, Reap, Record, Suspect};
use super::quorum::{self, Short, Voter};
use super::semaphore::Semaphore;
use super::window;

/// How far this machine's units have left it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Drain {
    /// This machine is set up without a cluster init.
    Absent,
    /// Nobody asked them to leave.
    NotAsked,
    /// None is left but global ones.
    Done,
    /// These are still there; the text says on their way or why they stay.
    Remaining(String),
    /// The cluster init does not answer.
    Unknown(String),
}

/// How long things may take, in seconds; 0 means for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For units to leave, from when they were asked to. After it the machine
    /// reboots with what nobody takes.
    pub drain_s: u64,
    /// For holding the lock without coming to the reboot. After it others have a turn.
    pub held_s: u64,
    /// For which a holder without any record is respected.
    pub foreign_s: u64,
}

/// Everything the decision needs.
#[derive(Clone, Debug)]
pub struct Sight<'a> {
    /// This machine's id.
    pub me: &'a str,
    /// Which program asks: `locksmithd` or `locksmithctl`.
    pub by: &'a str,
    /// This boot.
    pub boot: &'a str,
    /// The release that runs.
    pub running: &'a str,
    /// The release that waits for a reboot; `Some("")` when a person asked for one.
    pub pending: Option<&'a str>,
    /// Whether this boot was found good, or what is missing.
    pub good: Result<(), String>,
    /// The maintenance window.
    pub window: window::State,
    /// Which lock this machine uses.
    pub group: &'a str,
    /// The lock.
    pub semaphore: &'a Semaphore,
    /// What the store has about machines, by id.
    pub records: &'a BTreeMap<String, Record>,
    /// Releases that failed or are suspect, and why.
    pub verdicts: &'a BTreeMap<String, String>,
    /// For how long holders without a record have been seen, in seconds.
    pub foreign_s: &'a BTreeMap<String, u64>,
    /// Whether this machine is cordoned by us.
    pub is_cordoned_by_us: bool,
    /// This machine's units.
    pub drain: Drain,
    /// For how long they have been watched on their way without a break, in seconds.
    pub draining_s: u64,
    /// The members of the store.
    pub voters: &'a [Voter],
    /// This machine's member, `None` when it has none; or why that is not known.
    pub member: Result<Option<u64>, String>,
    /// The member that leads.
    pub leader: Option<u64>,
    /// Seconds since 1970.
    pub now_unix_s: u64,
    /// How long things may take.
    pub limits: Limits,
}

/// What to do now. The fields are what their types say.
#[allow(missing_docs)]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Nothing; look again later.
    Rest(Why),
    /// Free the lock of somebody who does not do it.
    Reap(Reap),
    /// Write key and intent, before the lock is taken; guarded by our intent as it was read.
    Claim(Intent),
    /// Take the lock, guarded by the lock as it was read.
    TakeLock,
    /// Ask the units to leave.
    Drain,
    /// Make another member the leader of the store.
    HandOver(u64),
    /// Decide to reboot, guarded by our key, our intent and `turn` as they were read.
    Commit(Intent),
    /// Go down. Nothing is between this and a commit but the renewal of the lease.
    Reboot,
    /// Write down what is held against a release, before the lock is given back.
    Accuse(Suspect),
    /// Give the lock back, remove key and intent, and take units again, in this order:
    /// others wait for the lock, and a cordon of ours is found again.
    LetGo(Why),
}

/// Why nothing happens, or why the lock is given back. The texts are for people.
#[allow(missing_docs)]
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Why {
    #[error("no update waits for a reboot")]
    NothingPending,
    #[error("the reboot window opens in {0} s")]
    Window(u64),
    #[error("release {version} is not to be booted: {reason}")]
    Failed { version: String, reason: String },
    #[error("{0}")]
    Quorum(String),
    #[error("the lock is held by {0}")]
    Locked(String),
    #[error("the maximum of holders is 0")]
    NoSlots,
    #[error("the lock of this machine was taken by hand; locksmithctl unlock gives it back")]
    ByHand,
    #[error("locksmithctl reboots this machine")]
    OtherProgram,
    #[error("units are leaving: {0}")]
    Draining(String),
    #[error("cannot tell whether units have left: {0}")]
    NoFleet(String),
    #[error("no healthy member can lead the store in place of this one")]
    NoSuccessor,
    #[error("this boot is not found good yet: {0}")]
    NotGood(String),
    #[error("this machine is back and well")]
    Back,
    #[error("this machine was given up")]
    GivenUp,
    #[error("the lock was held for too long: {0}")]
    TooLong(String),
}

/// The next step of this machine.
///
/// Total and deterministic.
pub fn next(sight: &Sight) -> Step {
    let dead = lease::reap(
        sight.me,
        sight.semaphore,
        sight.records,
        sight.foreign_s,
        sight.limits.foreign_s,
        sight.now_unix_s,
    );
    if let Some(dead) = dead {
        return Step::Reap(dead);
    }
    let mine = sight.records.get(sight.me).and_then(|record| record.intent.as_ref());
    match mine {
        Some(intent) if intent.phase == Phase::GivenUp => Step::LetGo(Why::GivenUp),
        Some(intent) if intent.boot != sight.boot => after_boot(sight, intent),
        Some(intent) if intent.by != sight.by && is_alive(sight) => Step::Rest(Why::OtherProgram),
        // Decided in this boot: nothing can be taken back, the machine may be
        // going down at this moment.
        Some(intent) if intent.phase == Phase::Rebooting && is_alive(sight) => Step::Reboot,
        // It has not gone down for as long as its lease was: others may be on their way.
        Some(intent) if intent.phase == Phase::Rebooting => Step::LetGo(Why::GivenUp),
        mine => before_reboot(sight, mine),
    }
}

fn is_alive(sight: &Sight) -> bool {
    sight.records.get(sight.me).is_some_and(|record| record.is_alive)
}

/// The machine came back with what it wrote before: it accounts for its reboot.
fn after_boot(sight: &Sight, intent: &Intent) -> Step {
    if let Err(missing) = &sight.good {
        return Step::Rest(Why::NotGood(missing.clone()));
    }
    let went_back = intent.phase == Phase::Rebooting
        && !intent.version.is_empty()
        && intent.version != sight.running
        && !sight.verdicts.contains_key(&intent.version);
    if went_back {
        return Step::Accuse(Suspect {
            version: intent.version.clone(),
            machine: sight.me.to_owned(),
            reason: format!(
                "machine {} rebooted into it and came back with release {}",
                sight.me, sight.running
            ),
            unix_s: sight.now_unix_s,
        });
    }
    Step::LetGo(Why::Back)
}

fn before_reboot(sight: &Sight, mine: Option<&Intent>) -> Step {
    let has_something = mine.is_some() || sight.is_cordoned_by_us;
    let give_up = |why| if has_something { Step::LetGo(why) } else { Step::Rest(why) };
    let Some(version) = sight.pending else { return give_up(Why::NothingPending) };
    if let window::State::OpensIn(seconds) = sight.window {
        return give_up(Why::Window(seconds));
    }
    if let Some(reason) = sight.verdicts.get(version) {
        return give_up(Why::Failed { version: version.to_owned(), reason: reason.clone() });
    }
    let held_s = mine.map_or(0, |mine| sight.now_unix_s.saturating_sub(mine.since_unix_s));
    let is_too_long = sight.limits.held_s > 0 && held_s >= sight.limits.held_s;
    let wait = |why: Why| match mine {
        Some(_) if is_too_long => Step::LetGo(Why::TooLong(why.to_string())),
        Some(_) => Step::Rest(why),
        // A cordon that could not be lifted with the lock.
        None => give_up(why),
    };
    let member = match (&sight.member, mine.map_or(0, |mine| mine.member)) {
        (Ok(member), _) => *member,
        (Err(unknown), 0) => return wait(Why::Quorum(unknown.clone())),
        // It was known in this boot, when the lock was claimed.
        (Err(_), known) => Some(known),
    };
    if let Err(short) = quorum::without(sight.voters, member) {
        return wait(quorum_text(&short));
    }
    let holds = sight.semaphore.is_held_by(sight.me);
    let claimed = mine.filter(|mine| is_alive(sight) && mine.version == version && mine.group == sight.group);
    match (claimed, holds) {
        // An intent with another target, or whose lease ended, is written anew.
        (None, _) if mine.is_none() && holds => give_up(Why::ByHand),
        (None, true) => Step::Claim(intent(sight, member, version, held_s)),
        // Another was faster. The claim goes, so that its time is that of the lock.
        (_, false) if sight.semaphore.semaphore <= 0 => give_up(locked(sight)),
        (None, false) => Step::Claim(intent(sight, member, version, 0)),
        (Some(_), false) => Step::TakeLock,
        (Some(mine), true) => with_lock(sight, mine, member, wait),
    }
}

fn quorum_text(short: &Short) -> Why {
    Why::Quorum(short.to_string())
}

fn locked(sight: &Sight) -> Why {
    match sight.semaphore.holders() {
        [] => Why::NoSlots,
        holders => Why::Locked(holders.join(", ")),
    }
}

fn intent(sight: &Sight, member: Option<u64>, version: &str, held_s: u64) -> Intent {
    Intent {
        phase: Phase::Held,
        version: version.to_owned(),
        group: sight.group.to_owned(),
        member: member.unwrap_or(0),
        boot: sight.boot.to_owned(),
        by: sight.by.to_owned(),
        since_unix_s: sight.now_unix_s - held_s.min(sight.now_unix_s),
    }
}

fn with_lock(sight: &Sight, mine: &Intent, member: Option<u64>, wait: impl Fn(Why) -> Step) -> Step {
    let may_stay = sight.limits.drain_s > 0 && sight.draining_s >= sight.limits.drain_s;
    match &sight.drain {
        Drain::Absent | Drain::Done => {}
        Drain::NotAsked => return Step::Drain,
        // What no other machine takes cannot be moved: then it is as down as
        // after any reboot.
        Drain::Remaining(_) if may_stay => {}
        Drain::Remaining(text) => return wait(Why::Draining(text.clone())),
        // No time makes this known.
        Drain::Unknown(text) => return wait(Why::NoFleet(text.clone())),
    }
    if let Some(me) = member
        && sight.leader == Some(me)
        && sight.voters.len() > 1
    {
        return match quorum::successor(sight.voters, me) {
            Some(successor) => Step::HandOver(successor),
            None => wait(Why::NoSuccessor),
        };
    }
    Step::Commit(Intent { phase: Phase::Rebooting, ..mine.clone() })
}
