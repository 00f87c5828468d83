//! This machine's cordon, asked of and set through the cluster init's API.

use std::path::Path;

use http::Method;
use proa_update_model::reboot::gate::Drain;
use serde::{Deserialize, Serialize};

use super::{
    Error,
    wire::{Answer, Place, ask},
};

/// This machine's cordon.
const PATH: &str = "/fleet/v1/cordons/self";
/// What our cordons are signed with.
const BY: &str = "locksmithd";
/// Units that are named in a reason; the others are counted.
const MAX_NAMED: usize = 4;

/// A cordon in the API. Source: `src/fleet/model/cordon.rs`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Cordon {
    #[serde(default)]
    drain: bool,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    by: String,
    #[serde(default)]
    keep: bool,
    #[serde(default, skip_serializing)]
    remaining: Vec<Remaining>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Remaining {
    name: String,
    #[serde(default)]
    reason: String,
}

/// How far this machine's units are, and whether its cordon is ours. Only who says
/// that there is no cluster init has none: one that restarts has no socket either,
/// and its units run on.
pub async fn look(socket: Option<&Path>) -> (Drain, bool) {
    let Some(socket) = socket else { return (Drain::Absent, false) };
    if !socket.exists() {
        let shown = socket.display();
        let text = format!("{shown} does not exist (a machine without fleetd has an empty update.fleet=)");
        return (Drain::Unknown(text), false);
    }
    match get(socket).await {
        Err(error) => (Drain::Unknown(error.to_string()), false),
        Ok(None) => (Drain::NotAsked, false),
        Ok(Some(cordon)) => {
            let drain = match cordon.remaining.as_slice() {
                _ if !cordon.drain => Drain::NotAsked,
                [] => Drain::Done,
                remaining => Drain::Remaining(tell(remaining)),
            };
            (drain, cordon.by == BY)
        }
    }
}

fn tell(remaining: &[Remaining]) -> String {
    let one = |unit: &Remaining| match unit.reason.as_str() {
        "" => format!("{} is on its way", unit.name),
        reason => format!("{} stays: {reason}", unit.name),
    };
    let mut text = remaining.iter().take(MAX_NAMED).map(one).collect::<Vec<_>>().join("; ");
    if remaining.len() > MAX_NAMED {
        text.push_str(&format!("; {} more", remaining.len() - MAX_NAMED));
    }
    text
}

/// Asks the units to leave. A person's cordon that does not is kept for later.
///
/// # Errors
/// When the cluster init does not do it.
pub async fn drain(socket: &Path, reason: &str) -> Result<(), Error> {
    let before = get(socket).await?;
    let cordon = match before {
        Some(persons) if persons.by.is_empty() => {
            Cordon { drain: true, by: BY.to_owned(), keep: true, ..persons }
        }
        Some(Cordon { keep, reason: old, .. }) if keep => {
            Cordon { drain: true, reason: old, by: BY.to_owned(), keep, remaining: Vec::new() }
        }
        Some(_) | None => Cordon {
            drain: true,
            reason: reason.to_owned(),
            by: BY.to_owned(),
            keep: false,
            remaining: Vec::new(),
        },
    };
    put(socket, &cordon).await
}

/// Takes our cordon away, and puts back what a person had there.
///
/// # Errors
/// When the cluster init does not do it.
pub async fn lift(socket: &Path) -> Result<(), Error> {
    if !socket.exists() {
        return Ok(());
    }
    match get(socket).await? {
        Some(cordon) if cordon.by == BY && cordon.keep => {
            let persons = Cordon { drain: false, by: String::new(), keep: false, ..cordon };
            put(socket, &persons).await
        }
        Some(cordon) if cordon.by == BY => {
            let answer = send(socket, Method::DELETE, String::new()).await?;
            accept(&answer).map(drop)
        }
        Some(_) | None => Ok(()),
    }
}

async fn get(socket: &Path) -> Result<Option<Cordon>, Error> {
    let answer = send(socket, Method::GET, String::new()).await?;
    if answer.status == 404 {
        return Ok(None);
    }
    let body = accept(&answer)?;
    serde_json::from_slice(body).map(Some).map_err(|error| Error::Fleet(error.to_string()))
}

async fn put(socket: &Path, cordon: &Cordon) -> Result<(), Error> {
    let body = serde_json::to_string(cordon).expect("a cordon becomes JSON");
    let answer = send(socket, Method::PUT, body).await?;
    accept(&answer).map(drop)
}

async fn send(socket: &Path, method: Method, body: String) -> Result<Answer, Error> {
    let place = Place::Unix(socket.to_owned());
    ask(&place, method, PATH, "application/json", body).await.map_err(|error| Error::Fleet(error.to_string()))
}

fn accept(answer: &Answer) -> Result<&[u8], Error> {
    match answer.status {
        200..=299 => Ok(&answer.body),
        status => {
            let text = String::from_utf8_lossy(&answer.body);
            Err(Error::Fleet(format!(
                "it answered {status}: {}",
                text.trim().chars().take(200).collect::<String>()
            )))
        }
    }
}
