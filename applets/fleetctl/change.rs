//! Commands that change what is wanted of units, and wait until it is so.

use std::time::{Duration, Instant};

use proa_fleet_model::{
    api::Unit,
    registry::DesiredState,
    requirements::Requirements,
    unit_file::UnitFile,
    unit_name::UnitName,
    view::{Style, machine_legend},
};
use tokio::time::sleep;

use super::{Error, remote::Remote, units};

/// Between two looks at a unit that is waited for.
pub const LOOK: Duration = Duration::from_millis(250);
/// A reason why a unit has no machine is worth telling after this long: the
/// engine needs a moment to place it.
const PATIENCE: Duration = Duration::from_secs(3);
/// A program that cannot even be executed has failed by then.
const SETTLE: Duration = Duration::from_millis(700);

/// Whether and how long to wait.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    /// Whether to wait at all.
    pub blocks: bool,
    /// Looks before giving up; 0 means no limit.
    pub attempts: u64,
}

/// A unit to bring somewhere, and the file to give the cluster for it first.
struct Step {
    name: UnitName,
    file: Option<UnitFile>,
    is_new: bool,
    is_global: bool,
}

/// `submit`, `load` and `start`: all words are understood before anything is changed.
pub async fn bring(
    remote: &Remote,
    words: &[String],
    replace: bool,
    desired: DesiredState,
    waiting: Waiting,
) -> Result<(), Vec<Error>> {
    if words.is_empty() {
        return Err(vec![Error::NoUnits]);
    }
    let mut steps = Vec::new();
    let mut errors = Vec::new();
    for word in words {
        match understand(remote, word, replace, desired).await {
            Ok(found) => steps.extend(found),
            Err(error) => errors.push(error),
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    for step in &steps {
        if let Err(source) = submit(remote, step, desired).await {
            errors.push(Error::OfUnit { unit: step.name.to_string(), source });
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let verb = match desired {
        DesiredState::Launched => "start",
        DesiredState::Loaded => "load",
        DesiredState::Inactive => "submit",
    };
    for step in steps {
        if let Err(error) = settle(remote, &step.name, step.is_global, (verb, desired), waiting).await {
            errors.push(error);
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// What one word stands for, and which files it brings along.
async fn understand(
    remote: &Remote,
    word: &str,
    replace: bool,
    desired: DesiredState,
) -> Result<Vec<Step>, Error> {
    if units::is_pattern(word) {
        let existing = remote.units().await?;
        let names = units::matching(word, &existing)?;
        let templates = |name: &UnitName| desired == DesiredState::Inactive || !name.is_template();
        let steps: Vec<Step> = names
            .into_iter()
            .filter(templates)
            .map(|name| {
                let unit = existing.iter().find(|unit| unit.name == name.as_str());
                let is_global = unit.and_then(file_of).is_some_and(|file| is_global(&name, &file));
                Step { name, file: None, is_new: false, is_global }
            })
            .collect();
        return if steps.is_empty() { Err(Error::NoMatch(word.to_owned())) } else { Ok(steps) };
    }
    let name = units::name(word)?;
    let existing = remote.unit(name.as_str()).await?;
    let mut file = units::on_disk(word, &name)?;
    let is_new = existing.is_none();
    if file.is_none()
        && (is_new || replace)
        && let Some(template) = name.template()
    {
        file = remote.unit(template.as_str()).await?.as_ref().and_then(file_of);
    }
    let old = existing.as_ref().and_then(file_of);
    let current = file.as_ref().or(old.as_ref());
    let Some(current) = current else {
        return Err(Error::Unknown { unit: name.to_string(), hint: ", and there is no such file here" });
    };
    let is_global = is_global(&name, current);
    let differs = file.as_ref().is_some_and(|file| old.as_ref().is_none_or(|old| old.hash() != file.hash()));
    if differs && !is_new && !replace {
        eprintln!(
            "WARNING: Unit {name} in registry differs from local unit file {word}. Add --replace to override."
        );
    }
    let file = file.filter(|_| differs && (is_new || replace));
    Ok(vec![Step { name, file, is_new, is_global }])
}

fn file_of(unit: &Unit) -> Option<UnitFile> {
    UnitFile::from_options(&unit.options).ok()
}

fn is_global(name: &UnitName, file: &UnitFile) -> bool {
    Requirements::of(name, file).is_ok_and(|asks| asks.global)
}

async fn submit(remote: &Remote, step: &Step, desired: DesiredState) -> Result<(), super::remote::Error> {
    let name = step.name.as_str();
    // `submit` never changes what is wanted of a unit that exists.
    let wanted = (desired != DesiredState::Inactive || step.is_new).then_some(desired);
    match (&step.file, wanted) {
        (Some(file), wanted) => remote.put_file(name, file, wanted).await,
        (None, Some(desired)) => remote.put_state(name, desired).await,
        (None, None) => Ok(()),
    }
}

/// `stop` and `unload`.
pub async fn lower(
    remote: &Remote,
    words: &[String],
    desired: DesiredState,
    waiting: Waiting,
) -> Result<(), Vec<Error>> {
    let found = existing(remote, words).await.map_err(|error| vec![error])?;
    let mut errors: Vec<Error> = Vec::new();
    for name in &found.missing {
        errors.push(Error::Unknown { unit: name.to_string(), hint: "" });
    }
    let mut changed = Vec::new();
    for unit in found.units {
        let Ok(name) = unit.name.parse::<UnitName>() else { continue };
        // To stop is to go down to `loaded`: for a unit on no machine it would be up.
        if desired == DesiredState::Loaded && unit.desired_state == DesiredState::Inactive.as_str() {
            errors.push(Error::CannotStop { unit: unit.name });
            continue;
        }
        match remote.put_state(name.as_str(), desired).await {
            Ok(()) => changed.push((name, unit)),
            Err(source) => errors.push(Error::OfUnit { unit: name.to_string(), source }),
        }
    }
    let verb = if desired == DesiredState::Loaded { "stop" } else { "unload" };
    for (name, unit) in changed {
        let is_global = file_of(&unit).is_some_and(|file| is_global(&name, &file));
        if let Err(error) = settle(remote, &name, is_global, (verb, desired), waiting).await {
            errors.push(error);
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// `destroy`. A unit that is gone already is as good as destroyed.
pub async fn destroy(remote: &Remote, words: &[String], waiting: Waiting) -> Result<(), Vec<Error>> {
    let found = existing(remote, words).await.map_err(|error| vec![error])?;
    let mut errors = Vec::new();
    for name in found.missing {
        eprintln!("Unit {name} is not in the cluster");
    }
    let mut destroyed = Vec::new();
    for unit in found.units {
        match remote.delete(&unit.name).await {
            Ok(_) => destroyed.push(unit.name),
            Err(source) => errors.push(Error::OfUnit { unit: unit.name, source }),
        }
    }
    for name in destroyed {
        let gone = if waiting.blocks { is_off(remote, &name, "destroyed", waiting).await } else { Ok(()) };
        match gone {
            Ok(()) => println!("Destroyed {name}"),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// Units that the cluster has, and names that it does not have.
struct Found {
    units: Vec<Unit>,
    missing: Vec<UnitName>,
}

async fn existing(remote: &Remote, words: &[String]) -> Result<Found, Error> {
    if words.is_empty() {
        return Err(Error::NoUnits);
    }
    let mut found = Found { units: Vec::new(), missing: Vec::new() };
    for word in words {
        if units::is_pattern(word) {
            let all = remote.units().await?;
            let names = units::matching(word, &all)?;
            if names.is_empty() {
                return Err(Error::NoMatch(word.clone()));
            }
            let matches = |unit: &Unit| names.iter().any(|name| name.as_str() == unit.name);
            found.units.extend(all.into_iter().filter(matches));
        } else {
            let name = units::name(word)?;
            match remote.unit(name.as_str()).await? {
                Some(unit) => found.units.push(unit),
                None => found.missing.push(name),
            }
        }
    }
    Ok(found)
}

/// Waits until a unit is what was asked for, and says so.
async fn settle(
    remote: &Remote,
    name: &UnitName,
    is_global: bool,
    (verb, desired): (&str, DesiredState),
    waiting: Waiting,
) -> Result<(), Error> {
    if is_global && desired != DesiredState::Inactive {
        println!("Triggered global unit {name} {verb}");
        return Ok(());
    }
    if !waiting.blocks {
        println!("Triggered unit {name} {verb}");
        return Ok(());
    }
    if desired == DesiredState::Inactive {
        // What `submit` leaves alone may well run.
        let unit = remote.unit(name.as_str()).await?;
        if unit.is_some_and(|unit| unit.desired_state == desired.as_str()) {
            is_off(remote, name.as_str(), "inactive", waiting).await?;
            println!("Unit {name} inactive");
        }
        return Ok(());
    }
    let unit = is_at(remote, name, desired, waiting).await?;
    let machines = remote.machines().await?;
    let machine = machine_legend(&unit.machine_id, &machines, Style::default());
    println!("Unit {name} {desired} on {machine}");
    if desired == DesiredState::Launched { is_well(remote, name, &unit, machine).await } else { Ok(()) }
}

/// Waits until a unit has a state on a machine; tells once why it has no machine.
async fn is_at(
    remote: &Remote,
    name: &UnitName,
    desired: DesiredState,
    waiting: Waiting,
) -> Result<Unit, Error> {
    let started = Instant::now();
    let mut told = String::new();
    let mut attempts = 0;
    loop {
        let gone = || Error::Unknown { unit: name.to_string(), hint: " any more" };
        let unit = remote.unit(name.as_str()).await?.ok_or_else(gone)?;
        if unit.current_state == desired.as_str() && !unit.machine_id.is_empty() {
            return Ok(unit);
        }
        attempts += 1;
        if attempts == waiting.attempts {
            let no_reason = unit.reason.is_empty();
            let instead = if no_reason { format!("it is {}", unit.current_state) } else { unit.reason };
            return Err(Error::NotReached {
                unit: name.to_string(),
                wanted: desired.as_str(),
                attempts,
                instead,
            });
        }
        if !unit.reason.is_empty() && unit.reason != told && started.elapsed() > PATIENCE {
            eprintln!("Unit {name} is waiting: {}", unit.reason);
            told = unit.reason;
        }
        sleep(LOOK).await;
    }
}

/// Waits until no machine has the unit any more.
async fn is_off(remote: &Remote, name: &str, wanted: &'static str, waiting: Waiting) -> Result<(), Error> {
    let mut attempts = 0;
    loop {
        let states = remote.states_of(name).await?;
        let Some(state) = states.first() else { return Ok(()) };
        attempts += 1;
        if attempts == waiting.attempts {
            let instead = format!("it is {} on {}", state.systemd_active_state, state.machine_id);
            return Err(Error::NotReached { unit: name.to_owned(), wanted, attempts, instead });
        }
        sleep(LOOK).await;
    }
}

/// Whether a unit that was started is still well a moment later.
async fn is_well(remote: &Remote, name: &UnitName, unit: &Unit, machine: String) -> Result<(), Error> {
    sleep(SETTLE).await;
    let states = remote.states_of(name.as_str()).await?;
    let Some(state) = states.iter().find(|state| state.machine_id == unit.machine_id) else { return Ok(()) };
    let has_failed = state.systemd_active_state == "failed"
        || state.systemd_sub_state == "auto-restart"
        || !matches!(state.systemd_load_state.as_str(), "loaded" | "");
    if !has_failed {
        return Ok(());
    }
    let state =
        format!("is {} {} {}", state.systemd_load_state, state.systemd_active_state, state.systemd_sub_state);
    Err(Error::Failed { unit: name.to_string(), state, machine })
}
