//! What `locksmithctl` does, as text to print.

use std::{fmt::Write as _, time::Duration};

use proa_update_model::reboot::{
    lease::{Record, Standing, standing},
    semaphore::Semaphore,
};

use super::{
    Error, Store,
    config::Config,
    round::{Asked, Outcome, Rounds, now_unix_s, tell},
    store::forget,
};

/// Between two rounds of a reboot that a person waits for.
const PAUSE: Duration = Duration::from_secs(1);
/// Rounds of a person's reboot that may fail in a row: an election takes two.
const MAX_ERRORS: usize = 10;

/// `status`: the original's lines, and then what is known of each holder.
///
/// # Errors
/// When the store does not answer.
pub async fn status(store: &Store, group: &str) -> Result<String, Error> {
    let lock = store.lock(group).await?.semaphore;
    let records = store.records().await?;
    let mut text = format!("Available: {}\nMax: {}\n", lock.semaphore, lock.max);
    if !lock.holders().is_empty() {
        text.push_str("\nMACHINE ID\n");
        for holder in lock.holders() {
            text.push_str(holder);
            text.push('\n');
        }
        text.push_str("\nHOLDER\tWHY\n");
        for holder in lock.holders() {
            let line = explain(holder, records.machines.get(holder));
            writeln!(text, "{holder}\t{line}").expect("a string takes all text");
        }
    }
    if !records.suspects.is_empty() {
        text.push_str("\nSUSPECT RELEASE\tWHY\n");
        for suspect in &records.suspects {
            writeln!(
                text,
                "{}\t{}; locksmithctl clear {0} lets machines boot it",
                suspect.version, suspect.reason
            )
            .expect("a string takes all text");
        }
    }
    Ok(text)
}

fn explain(holder: &str, record: Option<&Record>) -> String {
    let told = record.and_then(|record| Some(tell(record.intent.as_ref()?, record.is_alive, now_unix_s())));
    match standing(record) {
        Standing::Foreign => format!(
            "locked by hand, by FleetLock or by another program; stays until locksmithctl unlock {holder}"
        ),
        Standing::Alive | Standing::Lost(_) | Standing::GivenUp => told.unwrap_or_default(),
    }
}

/// `lock`.
///
/// # Errors
/// When no slot is free, the holder has one, or the store does not answer.
pub async fn lock(store: &Store, group: &str, holder: &str) -> Result<(), Error> {
    store.change(group, |lock| lock.lock(holder).map(Some)).await??;
    Ok(())
}

/// `unlock`: also what the holder wrote about itself goes.
///
/// # Errors
/// When the holder has no slot, or the store does not answer.
pub async fn unlock(store: &Store, group: &str, holder: &str) -> Result<(), Error> {
    store.change(group, |lock| lock.unlock(holder).map(Some)).await??;
    store.commit(Vec::new(), forget(holder)).await?;
    Ok(())
}

/// `set-max`.
///
/// # Errors
/// When the number makes no sense, or the store does not answer.
pub async fn set_max(store: &Store, group: &str, max: i64) -> Result<String, Error> {
    let (before, after): (Semaphore, Semaphore) =
        store.change(group, |lock| lock.set_max(max).map(Some)).await??;
    Ok(format!("Old-Max: {}\nMax: {}\n", before.max, after.max))
}

/// `reboot`: goes through the gate, and tells what it waits for. A round that
/// fails is tried again: in the middle of it there is nothing better to do.
///
/// # Errors
/// When a few rounds fail one after the other; what was begun is ended
/// by locksmithd or by the lease.
pub async fn reboot(config: Config, store: Store, tell: impl Fn(&str)) -> Result<(), Error> {
    let mut rounds = Rounds::new(config, store, Asked::ByPerson);
    let mut told = String::new();
    let mut errors = 0;
    loop {
        let line = match rounds.once().await {
            Ok(Outcome::GoesDown) => return Ok(()),
            Ok(Outcome::Acted) => {
                errors = 0;
                continue;
            }
            Ok(Outcome::Rested(why) | Outcome::LetGo(why)) => {
                errors = 0;
                why.to_string()
            }
            Err(error) => {
                errors += 1;
                if errors >= MAX_ERRORS {
                    return Err(error);
                }
                proa_base::cli::chain(&error)
            }
        };
        if line != told {
            tell(&line);
            told = line;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
