//! One machine's request: what becomes of the records, and what it is offered.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    UnixSeconds,
    group::{self, Group},
    record::{Failed, Grant, Halt, Happening, Instance, Rollout, Status, detail, field},
};
use crate::{
    error_code::ErrorCode,
    omaha::{AppRequest, Event},
    version::{Version, is_same},
};

/// Most machines of one group that update at one time, whatever its policy:
/// the rollout stays a record of 100 KB.
pub const IN_PROGRESS_MAX: usize = 1000;
/// A machine that runs what it was offered, and still does at a later request
/// that long after, has completed the update even if its word got lost: longer
/// than any boot may take to be found bad.
pub const SETTLED_S: u64 = 15 * 60;
/// The version of a machine that was never updated. Source: update_engine.
const NEVER_UPDATED: &str = "0.0.0.0";

/// What the store holds about one machine's application.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Records {
    /// The machine's group, by its own name.
    pub group_name: String,
    /// Its policy.
    pub group: Group,
    /// Its rollout.
    pub rollout: Rollout,
    /// The rollout of the group that the machine was in before, if that is another.
    pub left: Option<Rollout>,
    /// The machine, if it was here before.
    pub instance: Option<Instance>,
    /// What the group's channel names, when there is such a release.
    pub target: Option<Target>,
    /// Versions that failed.
    pub failed: BTreeMap<String, Failed>,
    /// All releases there are.
    pub releases: BTreeSet<String>,
}

/// The release that a channel names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// Its version.
    pub version: String,
    /// The oldest version that can be updated to it; nothing for any.
    pub minimum: String,
    /// Whether its payload cannot be fetched from anywhere.
    pub is_missing: bool,
}

/// A machine that asks or tells.
#[derive(Clone, Copy, Debug)]
pub struct Visit<'a> {
    /// What it sent.
    pub app: &'a AppRequest,
    /// Where it is.
    pub address: &'a str,
    /// When it came.
    pub now_unix_s: UnixSeconds,
}

/// What to write, and what to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The rollout.
    pub rollout: Rollout,
    /// That of the group that the machine has left, without it.
    pub left: Option<Rollout>,
    /// The machine.
    pub instance: Instance,
    /// Versions that have failed just now.
    pub failed: Vec<Failed>,
    /// The answer, when the machine asked for an update: whether it is offered
    /// the target.
    pub offer: Option<Result<(), Refusal>>,
}

/// Why a machine is offered nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is nothing in the channel.
    #[error("channel {0} has no release")]
    NoRelease(String),
    /// There is no payload.
    #[error("the payload of {0} is on no server")]
    Missing(String),
    /// A version that cannot be compared.
    #[error("version {0:?} cannot be compared")]
    BadVersion(String),
    /// It runs the target or something newer.
    #[error("up to date")]
    UpToDate,
    /// It wants versions of another kind.
    #[error("it asks for versions {0}*")]
    OtherPrefix(String),
    /// The version failed.
    #[error("version {version} failed on {machine}: {reason}")]
    Failed {
        /// Which.
        version: String,
        /// Where.
        machine: String,
        /// Why.
        reason: String,
    },
    /// The group is halted.
    #[error("the group is halted: {0}")]
    Halted(String),
    /// The group is paused.
    #[error("the group is paused")]
    Paused,
    /// The machine's version is too old for the target.
    #[error("version {0} or newer is needed first")]
    BelowMinimum(String),
    /// Outside of the office hours.
    #[error("outside of {0}")]
    OfficeHours(String),
    /// The machine is not among the share that is updated.
    #[error("not among the first {0} %")]
    Percentage(u32),
    /// Another machine has to run it first.
    #[error("{0} goes first")]
    FirstMachine(String),
    /// Enough machines are updating.
    #[error("{0} machines are updating")]
    Concurrent(usize),
    /// Enough updates have begun.
    #[error("{0} updates have begun")]
    Rate(String),
}

/// A machine's id as keys have it; `None` when it cannot be one.
pub fn machine_key(id: &str) -> Option<String> {
    group::name(id)
}

/// Where a machine stands in the order in which a version is spread: 0 to
/// 9999, stable for this machine and version and unlike for another version,
/// so that the same machines are not always the first.
pub fn percentile(machine: &str, version: &str) -> u32 {
    let text = format!("{machine}\n{version}");
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    let first: [u8; 8] = digest.as_ref()[..8].try_into().expect("a SHA-256 is longer");
    (u64::from_be_bytes(first) % 10_000) as u32
}

/// Whose record makes room for a new machine's: the first of `longest_unseen`
/// that is not updating in any of the rollouts.
pub fn choose_forgotten<'a>(longest_unseen: &[&'a str], rollouts: &[Rollout]) -> Option<&'a str> {
    let is_updating =
        |machine: &str| rollouts.iter().any(|rollout| rollout.in_progress.contains_key(machine));
    longest_unseen.iter().copied().find(|machine| !is_updating(machine))
}

/// Decides on one machine's request.
///
/// Total and deterministic. First what the machine tells is taken in, so that
/// a failure it reports already counts for what it asks.
pub fn visit(records: &Records, visit: &Visit<'_>, machine: &str) -> Outcome {
    let app = visit.app;
    let now = visit.now_unix_s;
    let mut instance = records.instance.clone().unwrap_or_else(|| Instance {
        machine: machine.to_owned(),
        first_seen_unix_s: now,
        ..Instance::default()
    });
    instance.alias = field(&app.machine_alias);
    instance.address = field(visit.address);
    instance.group = records.group_name.clone();
    instance.version = field(&app.version);
    instance.board = field(&app.board);
    instance.oem = field(&app.oem);
    instance.last_seen_unix_s = now;
    let mut turn = Turn { records, now, rollout: records.rollout.clone(), instance, failed: Vec::new() };
    for event in &app.events {
        turn.take_in(event, &app.version);
    }
    let offer = app.update_check.as_ref().map(|check| {
        turn.settle(&app.version);
        turn.answer(&app.version, &check.target_version_prefix)
    });
    // Nobody else would end its grant there, and others would wait for ever.
    let left = records.left.clone().map(|mut left| {
        left.in_progress.remove(machine);
        left
    });
    Outcome { rollout: turn.rollout, left, instance: turn.instance, failed: turn.failed, offer }
}

/// The records while one request changes them.
struct Turn<'a> {
    records: &'a Records,
    now: UnixSeconds,
    rollout: Rollout,
    instance: Instance,
    failed: Vec<Failed>,
}

impl Turn<'_> {
    fn take_in(&mut self, event: &Event, running: &str) {
        let status = Status::told_by(event);
        let about = self.about(event, status, running);
        let what = match status {
            Some(status) => status.to_string(),
            None => format!("event {}/{}", event.kind.0, event.result.0),
        };
        let about_error = match (event.error(), event.reason.is_empty()) {
            (Some(error), true) => format!("{} ({error})", error.number()),
            (Some(error), false) => format!("{} ({error}): {}", error.number(), event.reason),
            (None, _) => event.reason.clone(),
        };
        let unix_s = self.now;
        let detail = detail(&about_error);
        self.instance.remember(Happening { unix_s, what, version: field(&about), detail });
        match status {
            // The first boot of a machine that was installed with its version.
            Some(Status::Complete) if self.was_never_updated(event, running) => return,
            Some(Status::Complete) => self.complete(running),
            Some(Status::Failed) => self.fail(event, &about),
            // A machine that puts its update off keeps its grant: the version
            // may be installed already and wait for a restart.
            Some(_) | None => {}
        }
        self.instance.status = status.unwrap_or(self.instance.status);
    }

    /// The version that an event is about.
    fn about(&self, event: &Event, status: Option<Status>, running: &str) -> String {
        let granted = self.rollout.in_progress.get(&self.instance.machine).map(|grant| &grant.version);
        let told = [&event.failed_version, &event.next_version].into_iter().find(|text| !text.is_empty());
        let offered = Some(&self.instance.offered).filter(|version| !version.is_empty());
        match status {
            Some(Status::Complete) => running.to_owned(),
            // Some clients send their own version here, which did not fail.
            Some(Status::Failed) => {
                let told = told.filter(|version| *version != running);
                told.or(granted).or(offered).cloned().unwrap_or_default()
            }
            Some(_) | None => told.or(granted).or(offered).cloned().unwrap_or_default(),
        }
    }

    fn was_never_updated(&self, event: &Event, running: &str) -> bool {
        let grant = self.rollout.in_progress.get(&self.instance.machine);
        matches!(&*event.previous_version, "" | NEVER_UPDATED)
            && grant.is_none_or(|grant| !is_same(&grant.version, running))
    }

    fn complete(&mut self, running: &str) {
        let machine = &self.instance.machine;
        if self.rollout.in_progress.get(machine).is_some_and(|grant| is_same(&grant.version, running)) {
            self.rollout.in_progress.remove(machine);
        }
        if is_same(&self.rollout.version, running) {
            self.rollout.proven = true;
        }
    }

    fn fail(&mut self, event: &Event, about: &str) {
        let machine = self.instance.machine.clone();
        let granted = self.rollout.in_progress.remove(&machine);
        let error = match event.error() {
            None | Some(ErrorCode::Success) => ErrorCode::Generic,
            Some(error) => error,
        };
        // Reports of a version that the group has left behind do not stop the
        // one that it gets today.
        let is_ours = is_same(&self.rollout.version, about)
            || granted.is_some_and(|grant| is_same(&grant.version, about));
        let releases = &self.records.releases;
        let equal = || releases.iter().find(|release| is_same(release, about));
        let release = releases.get(about).or_else(equal);
        if !blames_release(error) || !is_ours && release.is_none() {
            return;
        }
        let version = release.map_or(about, String::as_str).to_owned();
        let reason = match event.reason.as_str() {
            "" => error.to_string(),
            reason => reason.to_owned(),
        };
        if is_ours {
            self.rollout.proven = false;
            self.rollout.halt.get_or_insert_with(|| Halt {
                reason: format!("version {version} failed: {reason}"),
                version: version.clone(),
                machine: machine.clone(),
                unix_s: self.now,
            });
        }
        let is_new = self.failed.iter().all(|failed| failed.version != version);
        if is_new && !self.records.failed.contains_key(&version) {
            let (group, unix_s) = (self.records.group_name.clone(), self.now);
            self.failed.push(Failed { version, reason, error_code: error.number(), machine, group, unix_s });
        }
    }

    /// Ends a grant whose machine runs what it was granted, for good.
    fn settle(&mut self, running: &str) {
        let Some(grant) = self.rollout.in_progress.get_mut(&self.instance.machine) else { return };
        if !is_same(&grant.version, running) {
            grant.running_since_unix_s = None;
            return;
        }
        let since = self.now.min(grant.running_since_unix_s.unwrap_or(self.now));
        grant.running_since_unix_s = Some(since);
        if self.now.saturating_sub(since) >= SETTLED_S {
            self.complete(running);
            self.instance.status = Status::Complete;
        }
    }

    fn answer(&mut self, running: &str, prefix: &str) -> Result<(), Refusal> {
        let answer = self.decide(running, prefix);
        match &answer {
            Ok(is_new) => {
                let target = self.records.target.as_ref().expect("only a target is offered");
                self.instance.refusal = String::new();
                if *is_new {
                    self.instance.offered = target.version.clone();
                    self.instance.status = Status::Granted;
                    let (unix_s, version) = (self.now, target.version.clone());
                    let what = Status::Granted.to_string();
                    self.instance.remember(Happening { unix_s, what, version, detail: String::new() });
                }
            }
            Err(refusal) => {
                self.instance.refusal = detail(&refusal.to_string());
                if *refusal == Refusal::UpToDate && self.instance.status == Status::Unknown {
                    self.instance.status = Status::Idle;
                }
            }
        }
        answer.map(drop)
    }

    /// Whether the machine is offered the target: `true` when that is a new
    /// grant, `false` when it has it already.
    fn decide(&mut self, running: &str, prefix: &str) -> Result<bool, Refusal> {
        let group = &self.records.group;
        let target = self.records.target.as_ref();
        let target = target.ok_or_else(|| Refusal::NoRelease(group.channel.clone()))?;
        self.check_versions(target, running, prefix)?;
        self.check_health(target)?;
        if group.paused {
            return Err(Refusal::Paused);
        }
        let machine = self.instance.machine.clone();
        let grant = self.rollout.in_progress.get(&machine);
        // Asked again after a restart, or because an answer got lost.
        if grant.is_some_and(|grant| grant.version == target.version) {
            return Ok(false);
        }
        if self.rollout.version != target.version {
            self.rollout.version = target.version.clone();
            self.rollout.proven = false;
        }
        self.check_turn(target, &machine)?;
        let grant =
            Grant { version: target.version.clone(), since_unix_s: self.now, running_since_unix_s: None };
        self.rollout.in_progress.insert(machine, grant);
        if group.rate.is_some() {
            self.rollout.began_unix_s.push(self.now);
        }
        Ok(true)
    }

    fn check_versions(&self, target: &Target, running: &str, prefix: &str) -> Result<(), Refusal> {
        let version = |text: &str| text.parse::<Version>().map_err(|_| Refusal::BadVersion(field(text)));
        let (has, wanted) = (version(running)?, version(&target.version)?);
        if wanted <= has {
            return Err(Refusal::UpToDate);
        }
        if !target.version.starts_with(prefix) {
            return Err(Refusal::OtherPrefix(field(prefix)));
        }
        if !target.minimum.is_empty() && has < version(&target.minimum)? {
            return Err(Refusal::BelowMinimum(target.minimum.clone()));
        }
        if target.is_missing {
            return Err(Refusal::Missing(target.version.clone()));
        }
        Ok(())
    }

    fn check_health(&self, target: &Target) -> Result<(), Refusal> {
        // By its order, not its text: machines need not tell equal versions
        // apart, so the failure may be recorded under another one's name.
        let mut all = self.records.failed.values().chain(&self.failed);
        if let Some(failed) = all.find(|failed| is_same(&failed.version, &target.version)) {
            return Err(Refusal::Failed {
                version: failed.version.clone(),
                machine: failed.machine.clone(),
                reason: failed.reason.clone(),
            });
        }
        match &self.rollout.halt {
            Some(halt) => Err(Refusal::Halted(halt.reason.clone())),
            None => Ok(()),
        }
    }

    /// Whether it is this machine's turn, by the group's policy.
    fn check_turn(&mut self, target: &Target, machine: &str) -> Result<(), Refusal> {
        let group = &self.records.group;
        if let Some(hours) = group.office_hours.filter(|hours| !hours.contain(self.now)) {
            return Err(Refusal::OfficeHours(hours.to_string()));
        }
        if percentile(machine, &target.version) >= group.percentage * 100 {
            return Err(Refusal::Percentage(group.percentage));
        }
        let others = self.rollout.in_progress.iter().filter(|(other, _)| *other != machine);
        let first = others.clone().find(|(_, grant)| grant.version == target.version);
        if let Some((first, _)) = first.filter(|_| group.safe_mode && !self.rollout.proven) {
            return Err(Refusal::FirstMachine(first.clone()));
        }
        let limit = match group.max_concurrent as usize {
            0 => IN_PROGRESS_MAX,
            limit => limit.min(IN_PROGRESS_MAX),
        };
        let busy = others.count();
        if busy >= limit {
            return Err(Refusal::Concurrent(busy));
        }
        if let Some(rate) = group.rate {
            let begin = self.now.saturating_sub(rate.period_s);
            // What a clock that was ahead has written counts as of now: it goes
            // with its period, and nobody gets more than the rate.
            self.rollout.began_unix_s.iter_mut().for_each(|at| *at = self.now.min(*at));
            self.rollout.began_unix_s.retain(|at| *at > begin);
            if self.rollout.began_unix_s.len() >= rate.updates as usize {
                return Err(Refusal::Rate(rate.to_string()));
            }
        } else {
            self.rollout.began_unix_s.clear();
        }
        Ok(())
    }
}

/// Whether an error speaks against the release, and not against the network,
/// the disk or the policy of one machine. In doubt it does.
fn blames_release(error: ErrorCode) -> bool {
    use ErrorCode as E;
    !matches!(
        error,
        E::Request
            | E::DownloadTransfer
            | E::InstallDeviceOpen
            | E::KernelDeviceOpen
            | E::Write
            | E::StateInitialisation
            | E::EmptyResponse
            | E::XmlParse
            | E::IgnoredPolicy
            | E::DeferredPolicy
            | E::Http
            | E::DeferredBackOff
            | E::HttpStatus(_)
    )
}
