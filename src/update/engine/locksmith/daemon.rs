//! The daemon: round after round, until it is told to end.

use std::{sync::Arc, time::Duration};

use proa_base::notify::notify;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::sleep,
};

use super::{
    Error, Store,
    config::{Config, Strategy},
    fleetlock,
    round::{Asked, Outcome, Rounds, is_under_way},
};

/// Between two steps on the way to a reboot.
const STEP_PAUSE: Duration = Duration::from_millis(500);
/// Between two looks while something is waited for.
const WAIT_PAUSE: Duration = Duration::from_secs(3);
/// After the lock was given back without a reboot: others have a turn.
const TURN_PAUSE: Duration = Duration::from_secs(60);
/// After an error; the original's first back-off.
const ERROR_PAUSE: Duration = Duration::from_secs(5);
/// For the machine to go down once systemd has taken the order; then it is asked again.
const DOWN_PAUSE: Duration = Duration::from_secs(60);

/// Runs until SIGTERM or SIGINT. A lock that is held stays held: the next
/// process goes on with it.
///
/// # Errors
/// What is wrong before anything was done.
pub async fn run(config: Config) -> Result<(), Error> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    if let Some(address) = &config.fleetlock {
        let store = Arc::new(Store::new(&config.endpoints, &config.tls)?);
        let listener = fleetlock::listen(address).await?;
        tracing::info!("serves FleetLock on {address}");
        tokio::spawn(fleetlock::serve(listener, store));
    }
    // Whoever started this may not listen; that changes nothing.
    let _ = notify("READY=1");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        result = watch(&config) => return result,
    }
    Ok(())
}

async fn watch(config: &Config) -> Result<(), Error> {
    if config.endpoints.is_empty() && config.strategy == Strategy::Off {
        tracing::info!("reboots are for people here (update.reboot-strategy=off)");
        return std::future::pending().await;
    }
    let endpoints = match config.endpoints.as_slice() {
        // Never asked for more than verdicts, and none is as good.
        [] => &["http://127.0.0.1:2379".to_owned()],
        endpoints => endpoints,
    };
    let store = Store::new(endpoints, &config.tls)?;
    let mut rounds = Rounds::new(config.clone(), store, Asked::ByUpdate);
    let ready = rounds.ready();
    let mut told = String::new();
    loop {
        let done = match config.strategy {
            Strategy::Reboot => {
                // What a reboot by hand has left is given back, where there is a store for it.
                if !config.endpoints.is_empty()
                    && let Err(error) = rounds.once().await
                {
                    tracing::debug!("cannot look at the reboot lock: {}", proa_base::cli::chain(&error));
                }
                rounds.without_lock().await
            }
            Strategy::EtcdLock | Strategy::Off => rounds.once().await,
        };
        let (pause, line) = match &done {
            Ok(outcome) => (pause(config, outcome), outcome_line(outcome)),
            Err(error) => (ERROR_PAUSE, format!("cannot go on: {}", proa_base::cli::chain(error))),
        };
        if line != told && !line.is_empty() {
            tracing::info!("{line}");
            told = line;
        }
        tokio::select! {
            () = sleep(pause) => {}
            () = ready.notified() => {}
        }
    }
}

fn pause(config: &Config, outcome: &Outcome) -> Duration {
    match outcome {
        Outcome::Acted => STEP_PAUSE,
        Outcome::GoesDown => DOWN_PAUSE,
        Outcome::LetGo(_) => TURN_PAUSE.min(config.interval),
        outcome if is_under_way(outcome) => WAIT_PAUSE.min(config.interval),
        Outcome::Rested(_) => config.interval,
    }
}

fn outcome_line(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Rested(why) => format!("waits: {}", without_numbers(&why.to_string())),
        Outcome::LetGo(why) => format!("gave up the reboot lock: {why}"),
        Outcome::Acted | Outcome::GoesDown => String::new(),
    }
}

/// A line that differs only in a count of seconds is told once.
fn without_numbers(line: &str) -> String {
    match line.strip_suffix(" s").and_then(|rest| rest.rsplit_once(" in ")) {
        Some((rest, _)) => format!("{rest} later"),
        None => line.to_owned(),
    }
}
