//! What one machine has to do: from what it should run and what systemd reports
//! to a list of steps.
//!
//! Three rules keep healthy units running:
//! * A unit file is never taken from under a unit that still runs: a pass asks
//!   for the stop, a later one, when systemd says it has stopped, goes on.
//! * A unit is started once for each (hash, launch), which is recorded beside its
//!   file. A unit that failed, finished or was stopped by hand stays as it is,
//!   and `list-units` shows it; restarting is the business of `Restart=`.
//! * Units that were not started by us (socket activation, dependencies, hands)
//!   are stopped only when they leave this machine or get another file.
//!
//! An agent that was restarted finds file, record and running unit, and does
//! nothing. When the record is lost, a running unit is adopted, not started again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::registry::Millis;
use crate::registry::{DesiredState, Launch, ScheduleRecord, StateRecord};
use crate::unit_file::UnitHash;
use crate::unit_name::UnitName;

/// What this machine has to run: its part of the schedule.
pub type Desired = BTreeMap<UnitName, ScheduleRecord>;

/// What this machine has: a row for every unit that has a file in the units
/// directory, a launch record, or is known to systemd from that directory.
pub type Observed = BTreeMap<UnitName, Have>;

/// A start that was issued: recorded beside the unit files, on a file system
/// that a reboot empties, so that a rebooted machine starts its units again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Launched {
    /// Of this unit file.
    pub hash: UnitHash,
    /// For this request.
    pub launch: Launch,
}

/// One unit as it is on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Have {
    /// Hash of the unit file, `None` when it or its link is missing.
    pub hash: Option<UnitHash>,
    /// What systemd made of the file.
    pub load: LoadState,
    /// What the unit does.
    pub active: ActiveState,
    /// systemd's SubState, as it is.
    pub sub: String,
    /// systemd's view is older than the file: `NeedDaemonReload`, or a file that
    /// systemd does not know yet, or one that is gone and that it still knows.
    pub stale: bool,
    /// The last start that was issued.
    pub launched: Option<Launched>,
}

/// systemd's LoadState.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LoadState {
    /// `loaded`.
    Loaded,
    /// `not-found`: no file of that name.
    NotFound,
    /// `bad-setting`, `error` or `masked`: a start is refused until the file
    /// changes.
    Unusable,
    /// `stub`, `merged` and words of later versions.
    Other,
}

impl LoadState {
    /// Reads systemd's word.
    pub fn from_systemd(word: &str) -> Self {
        match word {
            "loaded" => Self::Loaded,
            "not-found" => Self::NotFound,
            "bad-setting" | "error" | "masked" => Self::Unusable,
            _ => Self::Other,
        }
    }
}

/// systemd's ActiveState.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ActiveState {
    /// `active`, `reloading` or `refreshing`.
    Active,
    /// `activating`: starting, or waiting for its next automatic restart.
    Activating,
    /// `deactivating`, `maintenance` and words of later versions: something is
    /// going on that has to end first.
    Busy,
    /// `inactive`.
    Inactive,
    /// `failed`.
    Failed,
}

impl ActiveState {
    /// Reads systemd's word.
    pub fn from_systemd(word: &str) -> Self {
        match word {
            "active" | "reloading" | "refreshing" => Self::Active,
            "activating" => Self::Activating,
            "inactive" => Self::Inactive,
            "failed" => Self::Failed,
            _ => Self::Busy,
        }
    }
}

/// One step. The order of the variants is the order of execution.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Ask systemd to stop the unit (mode `replace`); not awaited.
    Stop(UnitName),
    /// Make systemd forget that the unit failed, with its count of starts.
    ResetFailed(UnitName),
    /// Delete file, link and launch record of a unit that does not run.
    Remove(UnitName),
    /// Forget that the unit was launched.
    Forget(UnitName),
    /// Write the body with this hash as the unit's file, all at once (temporary
    /// file, rename), and link it.
    Write(UnitName, UnitHash),
    /// systemd's daemon-reload; once for all files.
    Reload,
    /// Ask systemd to start the unit (mode `replace`), not awaited, then record
    /// the launch. A crash in between starts twice rather than never.
    Start(UnitName, Launched),
    /// Record the launch of a unit that runs already.
    Adopt(UnitName, Launched),
}

impl Action {
    /// The unit it is about; `None` for the one action that is about all.
    pub fn unit(&self) -> Option<&UnitName> {
        match self {
            Self::Stop(name)
            | Self::ResetFailed(name)
            | Self::Remove(name)
            | Self::Forget(name)
            | Self::Write(name, _)
            | Self::Start(name, _)
            | Self::Adopt(name, _) => Some(name),
            Self::Reload => None,
        }
    }
}

/// Why a step is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// The unit is not scheduled here any more.
    Unscheduled,
    /// The unit is scheduled here and has no file.
    Missing,
    /// The unit has another file.
    Changed {
        /// The one that is there.
        from: UnitHash,
        /// The one that should be.
        to: UnitHash,
    },
    /// Files changed, or systemd has not seen a change yet.
    FilesTouched,
    /// A launch was asked for and not issued yet.
    LaunchAsked(Launch),
    /// The unit was launched and should only be loaded.
    StopAsked,
    /// It failed before, and systemd may refuse another start because of that.
    FailedBefore,
    /// It runs, and no record says who started it.
    RunsAlready,
    /// It was launched, should only be loaded, and has stopped.
    HasStopped,
}

/// The steps that take this machine from `observed` towards `desired`.
///
/// Total and deterministic: it never fails, does no I/O, reads no clock.
/// Performing a plan, observing and planning again ends in an empty plan after
/// at most three rounds once systemd has done what it was asked for; so does
/// performing any prefix of a plan (a crash in the middle) and going on from what
/// is then observed, to the same end.
pub fn plan(desired: &Desired, observed: &Observed) -> Vec<(Action, Why)> {
    let mut steps = Vec::new();
    for (name, have) in observed.iter().filter(|(name, _)| !desired.contains_key(*name)) {
        unload(name, have, &mut steps);
    }
    for (name, want) in desired {
        match observed.get(name) {
            Some(have) if have.hash == Some(want.hash) => retarget(name, have, want, &mut steps),
            Some(have) => rewrite(name, have, want, &mut steps),
            None => load(name, want, Why::Missing, &mut steps),
        }
    }
    let touched = |(action, _): &(Action, Why)| matches!(action, Action::Remove(_) | Action::Write(..));
    if steps.iter().any(touched) || observed.values().any(|have| have.stale) {
        steps.push((Action::Reload, Why::FilesTouched));
    }
    steps.sort();
    steps
}

/// Takes away a unit that is not wanted here.
fn unload(name: &UnitName, have: &Have, steps: &mut Vec<(Action, Why)>) {
    let has_traces = have.hash.is_some() || have.launched.is_some();
    match have.active {
        ActiveState::Active | ActiveState::Activating => {
            steps.push((Action::Stop(name.clone()), Why::Unscheduled));
            return;
        }
        ActiveState::Busy => return,
        // First the state, then the file: without a file the unit would no
        // longer be found here, and stay among systemd's failed units for ever.
        ActiveState::Failed => steps.push((Action::ResetFailed(name.clone()), Why::Unscheduled)),
        ActiveState::Inactive => {}
    }
    if has_traces {
        steps.push((Action::Remove(name.clone()), Why::Unscheduled));
    }
}

/// Writes the file, and starts the unit if it should run.
fn load(name: &UnitName, want: &ScheduleRecord, why: Why, steps: &mut Vec<(Action, Why)>) {
    steps.push((Action::Write(name.clone(), want.hash), why));
    if want.desired == DesiredState::Launched {
        steps.push((Action::Start(name.clone(), launched(want)), Why::LaunchAsked(want.launch)));
    }
}

/// The unit is here with another file, or without one.
fn rewrite(name: &UnitName, have: &Have, want: &ScheduleRecord, steps: &mut Vec<(Action, Why)>) {
    let Some(from) = have.hash else {
        // Somebody deleted the file. What runs may well be what is wanted: then
        // only the file comes back.
        let is_ours = have.launched.is_some_and(|launched| launched.hash == want.hash);
        match have.active {
            ActiveState::Active | ActiveState::Activating if is_ours => {
                steps.push((Action::Write(name.clone(), want.hash), Why::Missing));
            }
            ActiveState::Active | ActiveState::Activating => {
                steps.push((Action::Stop(name.clone()), Why::Missing));
            }
            ActiveState::Busy => {}
            ActiveState::Inactive | ActiveState::Failed => {
                rewrite_stopped(name, have, want, Why::Missing, steps);
            }
        }
        return;
    };
    let why = Why::Changed { from, to: want.hash };
    match have.active {
        ActiveState::Active | ActiveState::Activating => {
            steps.push((Action::Stop(name.clone()), why));
        }
        ActiveState::Busy => {}
        ActiveState::Inactive | ActiveState::Failed => {
            rewrite_stopped(name, have, want, why, steps);
        }
    }
}

/// The file is wrong or missing and nothing runs: write it, and start the unit
/// unless this very launch was issued before.
fn rewrite_stopped(
    name: &UnitName,
    have: &Have,
    want: &ScheduleRecord,
    why: Why,
    steps: &mut Vec<(Action, Why)>,
) {
    if have.launched == Some(launched(want)) {
        steps.push((Action::Write(name.clone(), want.hash), why));
        return;
    }
    if have.active == ActiveState::Failed && want.desired == DesiredState::Launched {
        steps.push((Action::ResetFailed(name.clone()), Why::FailedBefore));
    }
    load(name, want, why, steps);
}

/// The right file is here: start, adopt or stop the unit.
fn retarget(name: &UnitName, have: &Have, want: &ScheduleRecord, steps: &mut Vec<(Action, Why)>) {
    let asked = launched(want);
    match want.desired {
        DesiredState::Launched if have.launched == Some(asked) => {}
        DesiredState::Launched => match have.active {
            ActiveState::Active | ActiveState::Activating => {
                steps.push((Action::Adopt(name.clone(), asked), Why::RunsAlready));
            }
            ActiveState::Busy => {}
            // systemd would refuse; the reason is in LoadState, where users see it.
            ActiveState::Inactive | ActiveState::Failed
                if have.load == LoadState::Unusable && !have.stale => {}
            ActiveState::Inactive | ActiveState::Failed => {
                if have.active == ActiveState::Failed {
                    steps.push((Action::ResetFailed(name.clone()), Why::FailedBefore));
                }
                steps.push((Action::Start(name.clone(), asked), Why::LaunchAsked(want.launch)));
            }
        },
        // `inactive` is never scheduled; an agent that finds it does the careful
        // thing and treats it as loaded.
        DesiredState::Loaded | DesiredState::Inactive => match (have.launched, have.active) {
            (None, _) | (Some(_), ActiveState::Busy) => {}
            (Some(_), ActiveState::Active | ActiveState::Activating) => {
                steps.push((Action::Stop(name.clone()), Why::StopAsked));
            }
            (Some(_), ActiveState::Inactive | ActiveState::Failed) => {
                steps.push((Action::Forget(name.clone()), Why::HasStopped));
            }
        },
    }
}

fn launched(want: &ScheduleRecord) -> Launched {
    Launched { hash: want.hash, launch: want.launch }
}

/// What the registry is told about a unit on this machine, or `None` for one
/// without a file.
///
/// `load` and `active` are systemd's own words, which [`Have`] only sorts;
/// `since` is when they became what they are; `refusal` is what systemd said to
/// the last step on this unit, if it refused.
pub fn report(
    have: &Have,
    load: &str,
    active: &str,
    since: Millis,
    refusal: Option<String>,
) -> Option<StateRecord> {
    let hash = have.hash?;
    let is_launched = have.launched.is_some_and(|launched| launched.hash == hash);
    let is_unusable = have.load == LoadState::Unusable;
    let problem = refusal.or_else(|| is_unusable.then(|| format!("systemd calls its file {load}")));
    // What runs without a launch record is about to be adopted or is not ours.
    Some(StateRecord {
        load: load.to_owned(),
        active: active.to_owned(),
        sub: have.sub.clone(),
        hash,
        reached: if is_launched { DesiredState::Launched } else { DesiredState::Loaded },
        since,
        problem,
    })
}
