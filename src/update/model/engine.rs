//! The update as a state machine, and what a start makes of what is found.
//!
//! Order is safety here. The passive slot is retired before its first byte is
//! overwritten, its tree is written only for data that was read back, and it is
//! made bootable only after data and tree were read back and have the root hash
//! that was signed. Each step is one effect, and only its success leads on.
//!
//! Caller's duties:
//! 1. Perform effects in order; the first that fails is reported as
//!    [`Event::Failed`], and those behind it are dropped.
//! 2. Derive the state at every start ([`derive()`]); keep none of it.
//! 3. Write [`crate::kept::Kept`] durably before the effect it speaks of is relied on.

use crate::{
    error_code::ErrorCode,
    hash::Sha256,
    kept::{Installed, Kept, Rollback},
    slots::{SlotFlags, order},
};

/// A release on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its version.
    pub version: String,
    /// Its root hash.
    pub root_hash: Sha256,
    /// Bytes of the payload.
    pub size_bytes: u64,
}

/// Where an update is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing is going on.
    Idle,
    /// The server has been asked.
    Checking,
    /// A release was offered and its metadata are good; the slot is being retired.
    Available(Target),
    /// The payload is being fetched and written.
    Downloading(Target),
    /// All data is there; it is being read back.
    Verifying(Target),
    /// The data is right; tree and flags are being written.
    Finalizing(Target),
    /// The next boot starts the release.
    NeedReboot(Target),
    /// An attempt failed; the server is being told.
    Reporting(Trouble),
}

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// As Omaha calls it.
    pub code: ErrorCode,
    /// In words.
    pub reason: String,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It is time to ask, or a person wants to.
    CheckDue,
    /// The server has nothing.
    NoUpdate,
    /// The server has this, and it may be installed.
    Offered(Target),
    /// The passive slot cannot be booted any more, on both copies of the table.
    Retired,
    /// The payload came, its own hash and signature are right, and its operations are
    /// being written.
    Written,
    /// What was read back has the signed root hash.
    DataMatched,
    /// The tree was written, flushed, read back and compared.
    Sealed,
    /// The slot boots next.
    Activated,
    /// The payload is a difference, and it does not start from what runs here.
    Unfit,
    /// The effect could not be performed, or found something wrong.
    Failed(Trouble),
    /// The server was told, or will be later.
    Reported,
    /// What was staged does not boot next any more.
    Withdrawn,
    /// Nothing is known against what was staged.
    Sound,
    /// What was staged has failed on another machine since.
    Condemned,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Ask the server.
    AskServer,
    /// Make the passive slot unbootable.
    Retire,
    /// Fetch the payload and write its operations.
    Download,
    /// Wait until all data was written, flushed and read back.
    ReadBack,
    /// Write superblock and tree, flush, and read them.
    Seal,
    /// Let the slot boot next, with one try.
    Activate,
    /// Make what was staged unbootable again.
    Withdraw,
    /// Find out whether what was staged has failed on another machine.
    Reconsider,
    /// Tell the server of this trouble.
    Report(Trouble),
}

/// A pair of state and event that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("event {1:?} makes no sense in state {0:?}")]
pub struct Unexpected(pub Box<State>, pub Box<Event>);

impl State {
    /// The next state, and what to do on the way to it.
    ///
    /// # Errors
    /// [`Unexpected`]; then nothing may be done.
    pub fn step(self, event: Event) -> Result<(Self, Vec<Effect>), Unexpected> {
        use {Effect as Do, Event as On, State as S};
        Ok(match (self, event) {
            (S::Idle, On::CheckDue) => (S::Checking, vec![Do::AskServer]),
            (S::Checking, On::NoUpdate) => (S::Idle, vec![]),
            // The slot is made unbootable before its first byte is overwritten: a
            // power cut while writing must never leave half an image bootable.
            (S::Checking, On::Offered(target)) => (S::Available(target), vec![Do::Retire]),
            (S::Available(target), On::Retired) => (S::Downloading(target), vec![Do::Download]),
            (S::Downloading(target), On::Written) => (S::Verifying(target), vec![Do::ReadBack]),
            (S::Verifying(target), On::DataMatched) => (S::Finalizing(target), vec![Do::Seal]),
            // Not before both were read back: what the disk holds is what counts.
            (S::Finalizing(target), On::Sealed) => (S::Finalizing(target), vec![Do::Activate]),
            (S::Finalizing(target), On::Activated) => (S::NeedReboot(target), vec![]),
            // The whole system is asked for instead. It is not told as a failure: that
            // would stop the release for all, and it is this machine that is unlike others.
            (S::Checking | S::Downloading(_) | S::Verifying(_), On::Unfit) => {
                (S::Checking, vec![Do::AskServer])
            }
            (
                S::Checking | S::Available(_) | S::Downloading(_) | S::Verifying(_) | S::Finalizing(_),
                On::Failed(trouble),
            ) => (S::Reporting(trouble.clone()), vec![Do::Report(trouble)]),
            (S::Reporting(_), On::Reported | On::Failed(_)) => (S::Idle, vec![]),
            (S::NeedReboot(_), On::Withdrawn) => (S::Idle, vec![]),
            // A release that waits is not replaced by a newer one: the slot would be
            // unbootable for the length of a download, and reboots are rare enough. But
            // one that fails elsewhere meanwhile would be booted by any restart that
            // nobody planned, and would keep the one that mends it away.
            (state @ S::NeedReboot(_), On::CheckDue) => (state, vec![Do::Reconsider]),
            (state @ S::NeedReboot(_), On::Condemned) => (state, vec![Do::Withdraw]),
            (state @ S::NeedReboot(_), On::Sound | On::Failed(_)) => (state, vec![]),
            (S::Idle, On::Withdrawn) => (S::Idle, vec![]),
            (state, event) => return Err(Unexpected(Box::new(state), Box::new(event))),
        })
    }

    /// The name of this state on D-Bus.
    ///
    /// Source: CoreOS update_engine, `update_status_utils.cc`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Idle => "UPDATE_STATUS_IDLE",
            Self::Checking => "UPDATE_STATUS_CHECKING_FOR_UPDATE",
            Self::Available(_) => "UPDATE_STATUS_UPDATE_AVAILABLE",
            Self::Downloading(_) => "UPDATE_STATUS_DOWNLOADING",
            Self::Verifying(_) => "UPDATE_STATUS_VERIFYING",
            Self::Finalizing(_) => "UPDATE_STATUS_FINALIZING",
            Self::NeedReboot(_) => "UPDATE_STATUS_UPDATED_NEED_REBOOT",
            Self::Reporting(_) => "UPDATE_STATUS_REPORTING_ERROR_EVENT",
        }
    }

    /// The release that it is about, if it is about one.
    pub fn target(&self) -> Option<&Target> {
        match self {
            Self::Available(target)
            | Self::Downloading(target)
            | Self::Verifying(target)
            | Self::Finalizing(target)
            | Self::NeedReboot(target) => Some(target),
            Self::Idle | Self::Checking | Self::Reporting(_) => None,
        }
    }
}

/// Why no slot may be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPassiveSlot {
    /// The disk has one slot.
    #[error("the disk has no second slot")]
    OnlyOne,
    /// What runs has not shown yet that it is good. Until then the other slot is
    /// what a failed boot falls back to.
    #[error("the running slot is not proven yet, so the other one is still needed")]
    Unproven,
}

/// The slot to write, given the flags of all and which one runs: the one that
/// boots last.
///
/// # Errors
/// [`NoPassiveSlot`].
pub fn passive(slots: &[SlotFlags], running: usize) -> Result<usize, NoPassiveSlot> {
    let proven = slots.get(running).is_some_and(|flags| flags.successful() && flags.priority() > 0);
    if !proven {
        return Err(NoPassiveSlot::Unproven);
    }
    let others = (0..slots.len()).filter(|index| *index != running);
    others.min_by_key(|index| (slots[*index].priority(), *index)).ok_or(NoPassiveSlot::OnlyOne)
}

/// What is found at a start.
#[derive(Clone, Debug)]
pub struct Found<'a> {
    /// The file.
    pub kept: &'a Kept,
    /// Partition number and flags of every slot.
    pub slots: &'a [(u32, SlotFlags)],
    /// Which of them runs, as an index.
    pub running: usize,
    /// The root hash of what runs; `None` when it was not checked.
    pub root_hash: Option<Sha256>,
    /// This boot.
    pub boot_id: &'a str,
}

/// What a start has to do first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// Nothing.
    Idle,
    /// A transfer was cut off: ask again soon.
    Resume,
    /// What runs has to show that it is good; it was installed as this, unless it
    /// came there another way.
    Prove(Option<Installed>),
    /// What runs is proven and was installed as this, and nobody has said so yet.
    CameUp(Installed),
    /// A release is staged and boots next.
    NeedReboot(Installed),
    /// A person wants to go back to the other slot, and it boots next.
    RollsBack(Rollback),
    /// The machine is back on the old release: this one failed.
    FellBack(Installed),
    /// This one was staged and somebody has decided for another slot since.
    SetAside(Installed),
}

/// What to do at a start, from the table, the file and the boot, and from nothing
/// that was remembered.
pub fn derive(found: &Found<'_>) -> Start {
    let runs_proven = found.slots.get(found.running).is_some_and(|(_, flags)| flags.successful());
    let Some(installed) = &found.kept.installed else {
        if let Some(rollback) = found.kept.rollback.as_ref().filter(|rollback| is_pending(found, rollback)) {
            return Start::RollsBack(rollback.clone());
        }
        return match (runs_proven, &found.kept.transfer) {
            (false, _) => Start::Prove(None),
            (true, Some(_)) => Start::Resume,
            (true, None) => Start::Idle,
        };
    };
    let installed = installed.clone();
    if found.root_hash == Some(installed.root_hash) {
        return if runs_proven { Start::CameUp(installed) } else { Start::Prove(Some(installed)) };
    }
    let is_other_boot = installed.boot_id != found.boot_id;
    let all: Vec<SlotFlags> = found.slots.iter().map(|(_, flags)| *flags).collect();
    let staged = found.slots.iter().position(|(number, _)| *number == installed.slot);
    let Some(staged) = staged.filter(|staged| *staged != found.running) else {
        return Start::SetAside(installed);
    };
    let flags = all[staged];
    match (flags.bootable(), flags.priority()) {
        // It boots next. In a later boot than the one that staged it, it already
        // should have: the boot passed it over, and would do so for ever.
        (true, _) if order(&all).first().is_some_and(|boot| boot.index == staged) => {
            if is_other_boot {
                Start::FellBack(installed)
            } else {
                Start::NeedReboot(installed)
            }
        }
        (true, _) => Start::SetAside(installed),
        // A try was spent, and the machine is here.
        (false, 1..) => Start::FellBack(installed),
        (false, 0) if installed.is_active => {
            if is_other_boot {
                Start::FellBack(installed)
            } else {
                Start::SetAside(installed)
            }
        }
        // The flags were never written: the update ends where it stood.
        (false, 0) => Start::Resume,
    }
}

/// Whether a decision to go back waits for the next boot. In a later one than that in
/// which it was made it counts no more: either it was carried out, or the boot passed
/// that slot over and would do so for ever.
fn is_pending(found: &Found<'_>, rollback: &Rollback) -> bool {
    let all: Vec<SlotFlags> = found.slots.iter().map(|(_, flags)| *flags).collect();
    let next = order(&all).first().map(|boot| boot.index).filter(|index| *index != found.running);
    rollback.boot_id == found.boot_id && next.is_some_and(|index| found.slots[index].0 == rollback.slot)
}

#[cfg(test)]
#[path = "engine_test.rs"]
mod tests;
