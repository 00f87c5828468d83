//! Commands about machines: which of them are given units.

use std::collections::{BTreeMap, BTreeSet};

use proa_fleet_model::{
    cordon::Remaining,
    registry::CordonRecord,
    view::{Style, machine_legend},
};
use tokio::time::sleep;

use super::{
    Error,
    change::{LOOK, Waiting},
    remote::Remote,
};

/// A machine that a word stands for: as fleetd takes it, and as it is shown.
struct Named {
    id: String,
    legend: String,
}

/// `cordon`.
pub async fn cordon(remote: &Remote, words: &[String], reason: &str) -> Result<(), Vec<Error>> {
    for machine in named(remote, words).await? {
        put(remote, &machine, reason, false).await.map_err(|error| vec![error])?;
        println!("Cordoned {}", machine.legend);
    }
    Ok(())
}

/// `uncordon`.
pub async fn uncordon(remote: &Remote, words: &[String]) -> Result<(), Vec<Error>> {
    for machine in named(remote, words).await? {
        let done = remote.delete_cordon(&machine.id).await;
        done.map_err(|source| vec![Error::OfMachine { machine: machine.legend.clone(), source }])?;
        println!("Uncordoned {}", machine.legend);
    }
    Ok(())
}

/// `drain`: all machines are cordoned before the first of them is waited for, so
/// that no unit moves from one to the other.
pub async fn drain(
    remote: &Remote,
    words: &[String],
    reason: &str,
    waiting: Waiting,
) -> Result<(), Vec<Error>> {
    let machines = named(remote, words).await?;
    for machine in &machines {
        put(remote, machine, reason, true).await.map_err(|error| vec![error])?;
    }
    let mut errors = Vec::new();
    for machine in machines {
        if !waiting.blocks {
            println!("Triggered machine {} drain", machine.legend);
            continue;
        }
        match is_empty(remote, &machine, waiting).await {
            Ok(()) => println!("Drained {}", machine.legend),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

async fn put(remote: &Remote, machine: &Named, reason: &str, drain: bool) -> Result<(), Error> {
    let record = CordonRecord { drain, reason: reason.to_owned(), ..CordonRecord::default() };
    let done = remote.put_cordon(&machine.id, &record).await;
    done.map_err(|source| Error::OfMachine { machine: machine.legend.clone(), source })
}

/// Waits until no unit is left but global ones; tells once why one stays.
async fn is_empty(remote: &Remote, machine: &Named, waiting: Waiting) -> Result<(), Error> {
    let of_machine = |source| Error::OfMachine { machine: machine.legend.clone(), source };
    let mut told: BTreeMap<String, String> = BTreeMap::new();
    let mut attempts = 0;
    loop {
        let cordon = remote.cordon(&machine.id).await.map_err(of_machine)?;
        let gone = || Error::NotEmpty {
            machine: machine.legend.clone(),
            attempts,
            instead: "its cordon was lifted meanwhile".to_owned(),
        };
        let remaining = cordon.ok_or_else(gone)?.remaining;
        if remaining.is_empty() {
            return Ok(());
        }
        attempts += 1;
        if attempts == waiting.attempts {
            let instead = remaining.iter().map(tell).collect::<Vec<_>>().join("; ");
            return Err(Error::NotEmpty { machine: machine.legend.clone(), attempts, instead });
        }
        for unit in remaining.iter().filter(|unit| !unit.reason.is_empty()) {
            if told.get(&unit.name) != Some(&unit.reason) {
                eprintln!("Unit {} stays: {}", unit.name, unit.reason);
                told.insert(unit.name.clone(), unit.reason.clone());
            }
        }
        sleep(LOOK).await;
    }
}

fn tell(unit: &Remaining) -> String {
    let reason = if unit.reason.is_empty() { "on its way" } else { &unit.reason };
    format!("{}: {reason}", unit.name)
}

/// The machines that words stand for: `self` is that of the fleetd which is asked. A
/// cordoned machine need not be alive.
async fn named(remote: &Remote, words: &[String]) -> Result<Vec<Named>, Vec<Error>> {
    if words.is_empty() {
        return Err(vec![Error::NoMachines]);
    }
    let alone = |error: super::remote::Error| vec![Error::Remote(error)];
    let alive = remote.machines().await.map_err(alone)?;
    let cordoned = remote.cordons().await.map_err(alone)?;
    let mut ids: BTreeSet<&str> = alive.iter().map(|machine| machine.id.as_str()).collect();
    ids.extend(cordoned.iter().map(|cordon| cordon.machine_id.as_str()));
    let mut found = Vec::new();
    let mut errors = Vec::new();
    for word in words {
        if word == "self" {
            found.push(Named { id: word.clone(), legend: "this machine".to_owned() });
            continue;
        }
        // As list-machines shows it when it is not asked for all digits.
        let prefix = word.trim_end_matches("...");
        let matching: Vec<&&str> =
            ids.iter().filter(|id| !prefix.is_empty() && id.starts_with(prefix)).collect();
        match matching.as_slice() {
            [id] => found
                .push(Named { id: (**id).to_owned(), legend: machine_legend(id, &alive, Style::default()) }),
            [] => errors.push(Error::UnknownMachine(word.clone())),
            several => errors.push(Error::ManyMachines { word: word.clone(), count: several.len() }),
        }
    }
    if errors.is_empty() { Ok(found) } else { Err(errors) }
}
