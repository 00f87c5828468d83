//! The agent: brings what systemd runs to what the schedule says, again and again.
//!
//! It looks every second, and at once when systemd or the store hints at a
//! change. Without a schedule it only looks: a store that does not answer, or a
//! fleetd that was just started, stops nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use proa_fleet_model::{
    agent::{self, Action, ActiveState, Desired, Have, LoadState, Observed, Why},
    registry::Millis,
    unit_name::UnitName,
};
use tokio::{sync::watch, time::sleep};

use crate::{
    reporter::States,
    schedule::Schedule,
    systemd::{self, Systemd, UnitStatus},
    units_dir::{self, OnDisk, UnitsDir},
};

/// Signals are hints: this is how late the truth can be seen without one.
const LOOK: Duration = Duration::from_secs(1);
/// Between two looks however many hints there are: at most 10 a second.
const PAUSE: Duration = Duration::from_millis(100);
/// A unit whose step failed is tried again after this, then after twice as long, and so on.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest pause between two attempts on one unit.
const LAST_RETRY: Duration = Duration::from_secs(30);

/// Why a pass ended early.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Systemd(#[from] systemd::Error),
    #[error(transparent)]
    Files(#[from] units_dir::Error),
}

/// One machine's agent.
pub struct Agent {
    systemd: Systemd,
    dir: UnitsDir,
    schedule: watch::Receiver<Option<Arc<Schedule>>>,
    states: watch::Sender<Option<Arc<States>>>,
    /// Whether systemd may not have read all files.
    reload_due: bool,
    failures: BTreeMap<UnitName, Failure>,
    seen: BTreeMap<UnitName, ([String; 3], Millis)>,
}

/// A unit whose last step did not succeed.
#[derive(Clone, Debug)]
struct Failure {
    again_at: Instant,
    pause: Duration,
    text: String,
}

impl Agent {
    /// An agent that has not looked yet.
    pub fn new(
        systemd: Systemd,
        dir: UnitsDir,
        schedule: watch::Receiver<Option<Arc<Schedule>>>,
        states: watch::Sender<Option<Arc<States>>>,
    ) -> Self {
        let (failures, seen) = (BTreeMap::new(), BTreeMap::new());
        // A former fleetd may have died between a file and the reload.
        Self { systemd, dir, schedule, states, reload_due: true, failures, seen }
    }

    /// Works until the task is dropped.
    pub async fn run(mut self) {
        let changed = self.systemd.changed();
        let mut trouble: Option<String> = None;
        loop {
            let again_soon = match self.pass().await {
                Ok(acted) => {
                    if trouble.take().is_some() {
                        tracing::info!("systemd and the units directory are usable again");
                    }
                    acted
                }
                Err(error) => {
                    let text = proa_base::cli::chain(&error);
                    if trouble.as_ref() != Some(&text) {
                        tracing::warn!("{text}; units stay as they are, trying again");
                        trouble = Some(text);
                    }
                    false
                }
            };
            sleep(PAUSE).await;
            if again_soon {
                continue;
            }
            tokio::select! {
                () = sleep(LOOK) => {}
                () = changed.notified() => {}
                Ok(()) = self.schedule.changed() => {}
            }
        }
    }

    /// Looks, plans and acts once; says whether anything was done.
    async fn pass(&mut self) -> Result<bool, Error> {
        let on_disk = self.dir.read()?;
        self.reload_due &= !on_disk.is_empty();
        let names: Vec<&str> = on_disk.keys().map(UnitName::as_str).collect();
        let rows = self.systemd.list(&names).await?;
        let schedule = self.schedule.borrow_and_update().clone();
        let desired = schedule.as_ref().map(|schedule| &schedule.units);
        let (mut observed, words) = observe(&on_disk, rows, desired, self.reload_due);
        self.publish(&observed, &words);
        let Some(schedule) = schedule else { return Ok(false) };
        observed.retain(|name, _| !schedule.unreadable.contains(name));
        let plan = agent::plan(&schedule.units, &observed);
        self.perform(plan, &schedule, &on_disk).await
    }

    fn publish(&mut self, observed: &Observed, words: &BTreeMap<UnitName, [String; 3]>) {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = Millis(u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX));
        self.seen.retain(|name, _| words.contains_key(name));
        let mut states = States::new();
        for (name, have) in observed {
            let Some(words) = words.get(name) else { continue };
            let seen = self.seen.entry(name.clone()).or_insert_with(|| (words.clone(), now));
            if seen.0 != *words {
                *seen = (words.clone(), now);
            }
            let refusal = self.failures.get(name).map(|failure| failure.text.clone());
            let report = agent::report(have, &words[0], &words[1], seen.1, refusal);
            states.extend(report.map(|state| (name.clone(), state)));
        }
        self.states.send_if_modified(|published| {
            let is_new = published.as_deref() != Some(&states);
            if is_new {
                *published = Some(Arc::new(states));
            }
            is_new
        });
    }

    /// Does a plan in order; a unit whose step failed is left alone for the rest of it.
    async fn perform(
        &mut self,
        plan: Vec<(Action, Why)>,
        schedule: &Schedule,
        on_disk: &BTreeMap<UnitName, OnDisk>,
    ) -> Result<bool, Error> {
        let now = Instant::now();
        let waiting = |failure: &&Failure| failure.again_at > now;
        let mut skipped: BTreeSet<UnitName> = self
            .failures
            .iter()
            .filter(|(_, failure)| waiting(failure))
            .map(|(name, _)| name.clone())
            .collect();
        let in_plan: BTreeSet<UnitName> =
            plan.iter().filter_map(|(action, _)| action.unit().cloned()).collect();
        self.failures.retain(|name, _| in_plan.contains(name));
        let mut acted = false;
        for (action, why) in plan {
            // Planned for a file whose writing was put off: there is nothing new to read.
            if matches!(action, Action::Reload) && !self.reload_due {
                continue;
            }
            let unit = action.unit().cloned();
            if unit.as_ref().is_some_and(|unit| skipped.contains(unit)) {
                continue;
            }
            match self.act(&action, schedule, on_disk).await {
                Ok(()) => tracing::info!("{action:?} because {why:?}"),
                Err(error @ Error::Systemd(systemd::Error::Unavailable { .. })) => return Err(error),
                Err(error) => {
                    tracing::warn!("{action:?} because {why:?} failed: {error}");
                    let Some(unit) = unit else { return Err(error) };
                    self.note_failure(&unit, &error);
                    skipped.insert(unit);
                }
            }
            acted = true;
        }
        Ok(acted)
    }

    fn note_failure(&mut self, unit: &UnitName, error: &Error) {
        let before = self.failures.get(unit).map(|failure| failure.pause);
        let pause = before.map_or(FIRST_RETRY, |pause| (pause * 2).min(LAST_RETRY));
        let text = proa_base::cli::chain(error);
        self.failures.insert(unit.clone(), Failure { again_at: Instant::now() + pause, pause, text });
    }

    async fn act(
        &mut self,
        action: &Action,
        schedule: &Schedule,
        on_disk: &BTreeMap<UnitName, OnDisk>,
    ) -> Result<(), Error> {
        match action {
            Action::Stop(name) => self.systemd.stop(name.as_str()).await?,
            Action::ResetFailed(name) => self.systemd.reset_failed(name.as_str()).await?,
            Action::Remove(name) => {
                self.unlink(name).await?;
                self.dir.remove_file(name)?;
                // Last: as long as it is there the removal is found unfinished.
                self.dir.remove_record(name)?;
                self.reload_due = true;
            }
            Action::Forget(name) => self.dir.remove_record(name)?,
            Action::Write(name, hash) => {
                if on_disk.get(name).is_some_and(|on_disk| on_disk.has_file) {
                    self.unlink(name).await?;
                }
                let file = schedule.files.get(hash).expect("a schedule holds the files of its units");
                self.dir.write(name, file.render().as_bytes())?;
                self.reload_due = true;
                let path = self.dir.file(name).display().to_string();
                self.systemd.link(&path).await?;
                if file.has_install_section() {
                    self.systemd.enable(&path).await?;
                }
            }
            Action::Reload => {
                self.systemd.reload().await?;
                self.reload_due = false;
            }
            Action::Start(name, launched) => {
                self.systemd.start(name.as_str()).await?;
                self.dir.write_record(name, launched)?;
            }
            Action::Adopt(name, launched) => self.dir.write_record(name, launched)?,
        }
        Ok(())
    }

    /// Takes the links to a unit away; there may be none.
    async fn unlink(&mut self, name: &UnitName) -> Result<(), Error> {
        match self.systemd.disable(name.as_str()).await {
            Err(systemd::Error::Refused { text, .. }) => {
                tracing::debug!("{name} had no links: {text}");
                Ok(())
            }
            other => Ok(other?),
        }
    }
}

/// Puts together what the directory and systemd say; also systemd's own words (load, active, sub).
fn observe(
    on_disk: &BTreeMap<UnitName, OnDisk>,
    rows: Vec<UnitStatus>,
    desired: Option<&Desired>,
    reload_due: bool,
) -> (Observed, BTreeMap<UnitName, [String; 3]>) {
    let mut rows: BTreeMap<String, UnitStatus> =
        rows.into_iter().map(|row| (row.name.clone(), row)).collect();
    let mut observed = Observed::new();
    let mut words = BTreeMap::new();
    for (name, on_disk) in on_disk {
        let (load, active, sub) = match rows.remove(name.as_str()) {
            Some(row) => (row.load, row.active, row.sub),
            None => ("not-found".to_owned(), "inactive".to_owned(), "dead".to_owned()),
        };
        // A file that systemd does not find after it has read all files has
        // lost its link. For a unit that is to go that makes no difference.
        let is_wanted = desired.is_some_and(|desired| desired.contains_key(name));
        let is_unlinked = load == "not-found" && !reload_due && is_wanted;
        let have = Have {
            hash: on_disk.hash.filter(|_| !is_unlinked),
            load: LoadState::from_systemd(&load),
            active: ActiveState::from_systemd(&active),
            sub: sub.clone(),
            stale: reload_due,
            launched: on_disk.launched,
        };
        observed.insert(name.clone(), have);
        words.insert(name.clone(), [load, active, sub]);
    }
    (observed, words)
}
