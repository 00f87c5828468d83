//! What the updater keeps on disk: one small file, replaced as a whole.
//!
//! Nothing here decides what boots; that is in the partition table. The file says
//! what cannot be seen there: which release the passive slot was written with, how
//! far a transfer is, what failed, and what the server has not been told yet.

use crate::{
    failure::Failures,
    hash::Sha256,
    metadata::KeySet,
    omaha::{Event, EventResult, EventType, REASON_CHARACTERS_MAX},
    payload::Checkpoint,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Most bytes of the file: 32 failures of 512 characters are 20 KiB.
pub const KEPT_BYTES_MAX: usize = 256 << 10;
/// Most reports that wait for the server. Older ones tell least.
pub const REPORTS_MAX: usize = 16;
/// Most releases whose version is remembered.
const VERSIONS_MAX: usize = 8;

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Kept {
    /// When the server was asked last with success, in seconds since 1970.
    pub last_checked_unix_s: i64,
    /// The latest time that the server was asked at, in seconds since 1970: what time it
    /// is at least, whatever the clock says.
    pub latest_unix_s: i64,
    /// The version that was installed first.
    pub aleph_version: String,
    /// The newest key set that was accepted; `None` while it is that of the image.
    pub keys: Option<KeySet>,
    /// What is being written to the passive slot.
    pub transfer: Option<Transfer>,
    /// What the passive slot was made bootable with.
    pub installed: Option<Installed>,
    /// Where a person wants to go back to.
    pub rollback: Option<Rollback>,
    /// What failed on this machine.
    pub failures: Failures,
    /// What the server has to be told.
    pub reports: Vec<Report>,
    /// Versions of root hashes that were seen, for people.
    pub versions: BTreeMap<String, String>,
}

/// A payload on its way into the passive slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfer {
    /// The release's version.
    pub version: String,
    /// What it makes.
    pub root_hash: Sha256,
    /// SHA-256 of the payload: what tells whether a later offer is the same.
    pub payload_sha256: Sha256,
    /// Partition number of the slot.
    pub slot: u32,
    /// Where it stands; `None` before the manifest is there.
    pub checkpoint: Option<Checkpoint>,
}

/// A release that the passive slot holds, or is about to be made bootable with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    /// Its version.
    pub version: String,
    /// Its root hash.
    pub root_hash: Sha256,
    /// Partition number of its slot.
    pub slot: u32,
    /// What ran when it was installed.
    pub from_version: String,
    /// The boot in which that was.
    pub boot_id: String,
    /// Whether the flags that make it bootable were written.
    pub is_active: bool,
}

/// A person's decision that the other slot boots next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollback {
    /// The version in that slot; empty when it is not known.
    pub version: String,
    /// Its root hash.
    pub root_hash: Sha256,
    /// Partition number of the slot.
    pub slot: u32,
    /// The boot in which it was decided.
    pub boot_id: String,
}

/// What the server is to be told, as [`Event`] has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    kind: u32,
    result: u32,
    error_code: Option<u32>,
    previous_version: String,
    next_version: String,
    failed_version: String,
    reason: String,
}

impl From<&Event> for Report {
    fn from(event: &Event) -> Self {
        Self {
            kind: event.kind.0,
            result: event.result.0,
            error_code: event.error_code,
            previous_version: event.previous_version.clone(),
            next_version: event.next_version.clone(),
            failed_version: event.failed_version.clone(),
            // It may hold words of a server, of any length.
            reason: event.reason.chars().take(REASON_CHARACTERS_MAX).collect(),
        }
    }
}

impl From<&Report> for Event {
    fn from(report: &Report) -> Self {
        Self {
            kind: EventType(report.kind),
            result: EventResult(report.result),
            error_code: report.error_code,
            previous_version: report.previous_version.clone(),
            next_version: report.next_version.clone(),
            failed_version: report.failed_version.clone(),
            reason: report.reason.clone(),
        }
    }
}

/// The file is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the updater's state makes no sense: {0}")]
pub struct BadKept(String);

impl Kept {
    /// Reads the file's content.
    ///
    /// # Errors
    /// [`BadKept`]; then the updater begins anew, for which nothing of it is needed.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadKept> {
        if bytes.len() > KEPT_BYTES_MAX {
            return Err(BadKept(format!("it has {} bytes, of at most {KEPT_BYTES_MAX}", bytes.len())));
        }
        serde_json::from_slice(bytes).map_err(|error| BadKept(error.to_string()))
    }

    /// The file's content.
    pub fn render(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("text and numbers always have a JSON form")
    }

    /// Notes that the server is to be told.
    pub fn report(&mut self, event: &Event) {
        self.reports.push(event.into());
        let surplus = self.reports.len().saturating_sub(REPORTS_MAX);
        self.reports.drain(..surplus);
    }

    /// Remembers which version a root hash is.
    pub fn name(&mut self, root_hash: &Sha256, version: &str) {
        self.versions.insert(root_hash.to_string(), version.to_owned());
        while self.versions.len() > VERSIONS_MAX {
            let other = self.versions.keys().find(|key| **key != root_hash.to_string()).cloned();
            other.map(|key| self.versions.remove(&key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_back_and_the_rest_is_bounded() {
        let mut kept = Kept::default();
        for number in 0..40u32 {
            kept.report(&Event {
                error_code: Some(number),
                reason: "\u{1}".repeat(60_000),
                ..Event::default()
            });
            kept.name(&Sha256::of(&number.to_le_bytes()), "1.0.0");
        }
        assert_eq!((kept.reports.len(), kept.versions.len()), (REPORTS_MAX, VERSIONS_MAX));
        assert_eq!(Event::from(&kept.reports[15]).error_code, Some(39));
        let bytes = kept.render();
        assert!(bytes.len() < KEPT_BYTES_MAX);
        assert_eq!(Kept::parse(&bytes), Ok(kept));
        assert_eq!(Kept::parse(b"{}"), Ok(Kept::default()));
        for cut in [0, 1, bytes.len() - 1] {
            assert!(Kept::parse(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }
}
