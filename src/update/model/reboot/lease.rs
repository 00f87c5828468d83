//! Who holds the reboot lock and whether it still lives: the records beside the
//! lock, and what becomes of a holder that is not heard of any more.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::semaphore::Semaphore;

/// What every key of these records starts with.
pub const PREFIX: &str = "/proa/reboot/";

/// How far a holder has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// It has the lock, or is about to take it.
    Held,
    /// It has decided to reboot; it may be down from now on.
    Rebooting,
    /// It was not heard of for too long: others take the lock from it.
    GivenUp,
}

/// What a machine has in mind with the lock. It outlives the machine's lease, so
/// that those who stay can tell what it was about when it vanished.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Intent {
    /// How far it is.
    pub phase: Phase,
    /// The release it reboots into; empty for a reboot that a person asked for.
    #[serde(default)]
    pub version: String,
    /// Which lock it is about; empty for that of the whole cluster.
    #[serde(default)]
    pub group: String,
    /// Its member of the store, 0 for a machine that has none.
    #[serde(default)]
    pub member: u64,
    /// The boot in which this was written (`/proc/sys/kernel/random/boot_id`).
    #[serde(default)]
    pub boot: String,
    /// Who wrote it: `locksmithd` or `locksmithctl`.
    #[serde(default)]
    pub by: String,
    /// When it took the lock, in seconds since 1970.
    #[serde(default)]
    pub since_unix_s: u64,
}

/// A release that nobody reboots into until a person clears it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Suspect {
    /// The release.
    pub version: String,
    /// Who rebooted into it.
    pub machine: String,
    /// What is held against it.
    pub reason: String,
    /// Since when, in seconds since 1970.
    #[serde(default)]
    pub unix_s: u64,
}

/// What the store has about one machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Record {
    /// Whether its key under a lease exists.
    pub is_alive: bool,
    /// Its intent, if it has one.
    pub intent: Option<Intent>,
}

/// How a holder of the lock is to be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It lives.
    Alive,
    /// Its lease ended and it was not given up yet.
    Lost(Intent),
    /// It was given up, and the lock is still to be taken from it.
    GivenUp,
    /// It has never written an intent: a client of the original, a FleetLock
    /// client, or a person. Nothing tells whether it lives.
    Foreign,
}

/// How the holder with this record stands.
pub fn standing(record: Option<&Record>) -> Standing {
    match record {
        Some(Record { intent: Some(intent), .. }) if intent.phase == Phase::GivenUp => Standing::GivenUp,
        Some(Record { is_alive: true, .. }) => Standing::Alive,
        Some(Record { is_alive: false, intent: Some(intent) }) => Standing::Lost(intent.clone()),
        Some(Record { is_alive: false, intent: None }) | None => Standing::Foreign,
    }
}

/// A step that frees the lock of a holder which does not free it itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reap {
    /// Give it up, guarded by the absence of its key and by its intent as it was
    /// read; `turn` is written too, so that who decides meanwhile looks again.
    Fence {
        /// Whom.
        holder: String,
        /// What is written in place of its intent.
        intent: Intent,
        /// What is written against the release it was rebooting into.
        suspect: Option<Suspect>,
    },
    /// Take the lock from it, guarded by the lock as it was read.
    Remove {
        /// Whom.
        holder: String,
    },
}

/// The first step to free the lock of dead holders other than `me`.
///
/// A foreign holder is respected for as long as `foreign_limit_s` says, 0 for
/// ever: it may be a person who keeps machines from rebooting. `foreign_s` is for
/// how long each has been seen.
pub fn reap(
    me: &str,
    semaphore: &Semaphore,
    records: &BTreeMap<String, Record>,
    foreign_s: &BTreeMap<String, u64>,
    foreign_limit_s: u64,
    now_unix_s: u64,
) -> Option<Reap> {
    let others = semaphore.holders().iter().filter(|holder| *holder != me);
    others.cloned().find_map(|holder| match standing(records.get(&holder)) {
        Standing::Alive => None,
        Standing::GivenUp => Some(Reap::Remove { holder }),
        Standing::Lost(intent) => {
            let is_suspect = intent.phase == Phase::Rebooting && !intent.version.is_empty();
            let suspect = is_suspect.then(|| Suspect {
                version: intent.version.clone(),
                machine: holder.clone(),
                reason: format!("machine {holder} rebooted into it and was not heard of any more"),
                unix_s: now_unix_s,
            });
            let intent = Intent { phase: Phase::GivenUp, ..intent };
            Some(Reap::Fence { holder, intent, suspect })
        }
        Standing::Foreign => {
            let held_s = foreign_s.get(&holder).copied().unwrap_or(0);
            (foreign_limit_s > 0 && held_s >= foreign_limit_s).then_some(Reap::Remove { holder })
        }
    })
}

/// Members of machines that have decided to reboot, `me` left out.
pub fn leaving_members(me: &str, records: &BTreeMap<String, Record>) -> Vec<u64> {
    let others = records.iter().filter(|(machine, _)| *machine != me);
    let intents = others.filter_map(|(_, record)| record.intent.as_ref());
    let leaving = intents.filter(|intent| intent.phase == Phase::Rebooting);
    leaving.map(|intent| intent.member).filter(|member| *member != 0).collect()
}

/// The key of a machine's lease.
pub fn holder_key(machine: &str) -> String {
    format!("{PREFIX}holders/{machine}")
}

/// The key of a machine's intent.
pub fn intent_key(machine: &str) -> String {
    format!("{PREFIX}intents/{machine}")
}

/// The key of a suspect release. A version has no slash.
pub fn suspect_key(version: &str) -> String {
    format!("{PREFIX}suspects/{version}")
}

/// The key that every decision to reboot writes.
pub fn turn_key() -> String {
    format!("{PREFIX}turn")
}
