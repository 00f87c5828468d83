//! What a boot leaves for the updater: which slot runs, and how far a slot came
//! that had yet to prove itself.
//!
//! One release's `/init` may write what another one's updater reads, so fields
//! are only ever added, with a default.

use crate::hash::Sha256;
use serde::{Deserialize, Serialize};

/// Where [`BootRecord`] is on a running machine. It ends with the boot.
pub const RECORD_PATH: &str = "/run/proa/boot.json";

/// Where [`Attempt`] is. It outlives the boot, for the one after it to read.
pub const ATTEMPT_PATH: &str = "/var/lib/proa/boot/attempt.json";

/// The folder with what the console said before earlier restarts.
pub const LOGS_PATH: &str = "/var/lib/proa/boot";

/// How the names of these files begin. The time of the boot that found them follows,
/// so the last of the sorted names is the newest.
pub const LOG_PREFIX: &str = "pstore-";

/// The system that runs, as `/init` started it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootRecord {
    /// The disk with the slots, `/dev/vda`.
    pub disk: String,
    /// The number of the slot's partition.
    pub slot: u32,
    /// The slot as people know it, `A`.
    pub letter: char,
    /// The version in the slot's os-release; empty when it has none.
    #[serde(default)]
    pub version: String,
    /// The root of the hash tree that the kernel checks the slot with.
    pub root_hash: Sha256,
    /// Whether the slot had proven itself before this boot.
    pub proven: bool,
    /// The running kernel's release.
    #[serde(default)]
    pub kernel: String,
    /// When, in milliseconds since 1970 by the machine's clock.
    #[serde(default)]
    pub booted_unix_ms: u64,
}

/// How far a boot has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// The release's `/init` has mounted the state partition.
    Init,
    /// The updater runs, so systemd does.
    Userspace,
    /// The updater has looked at the machine's health.
    HealthCheck,
}

/// The start of a slot that has yet to prove itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// The version in the slot.
    pub version: String,
    /// Which system it is, whatever it calls itself.
    pub root_hash: Sha256,
    /// The number of the slot's partition.
    pub slot: u32,
    /// How far it came.
    pub stage: Stage,
    /// What was found last, in words.
    #[serde(default)]
    pub detail: String,
    /// When, in milliseconds since 1970 by the machine's clock.
    #[serde(default)]
    pub unix_ms: u64,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_older_record_is_read() {
        let hash = Sha256::of(b"").to_string();
        let record =
            format!(r#"{{"disk":"/dev/vda","slot":3,"letter":"A","root_hash":"{hash}","proven":true}}"#);
        let record: BootRecord = serde_json::from_str(&record).unwrap();
        assert_eq!((record.slot, record.letter, record.version.as_str()), (3, 'A', ""));
        let attempt = format!(r#"{{"version":"1","root_hash":"{hash}","slot":4,"stage":"health-check"}}"#);
        let attempt: Attempt = serde_json::from_str(&attempt).unwrap();
        assert_eq!(attempt.stage, Stage::HealthCheck);
    }
}
