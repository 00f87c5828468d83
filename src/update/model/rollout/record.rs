//! What the server remembers: a group's rollout, each machine, what failed.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::UnixSeconds;
use crate::omaha::{Event, EventResult, EventType};

/// Events that are remembered of a machine, the newest. An update makes four:
/// that is the story of a dozen updates in at most 40 KB.
pub const HISTORY_ENTRIES_MAX: usize = 50;
/// The same of a machine that was never offered anything: strangers make them up.
pub const STRANGER_ENTRIES_MAX: usize = 2;
/// Longest text of one field of a record, in bytes: a character may have four.
const FIELD_BYTES_MAX: usize = 128;
/// Longest text about an error: of its 512 characters the first say what it is.
const DETAIL_BYTES_MAX: usize = 200;

/// How the version of a group is spreading. It changes only by compare and
/// swap: here is what several servers must agree on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rollout {
    /// The version that was last offered.
    pub version: String,
    /// Whether a machine of the group runs that version well.
    pub proven: bool,
    /// The machines that were offered a version and have not said how it went.
    pub in_progress: BTreeMap<String, Grant>,
    /// When the last updates began, for the rate; none without a rate.
    pub began_unix_s: Vec<UnixSeconds>,
    /// Why nothing is offered until an operator says otherwise.
    pub halt: Option<Halt>,
}

/// One machine's leave to update.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// To which version.
    pub version: String,
    /// Since when.
    pub since_unix_s: UnixSeconds,
    /// When the machine first said that it runs the version, without saying
    /// that the update is complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running_since_unix_s: Option<UnixSeconds>,
}

/// Why a group is halted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Halt {
    /// In words.
    pub reason: String,
    /// The version that failed, or nothing when an operator halted the group.
    pub version: String,
    /// The machine that it failed on, or nothing.
    pub machine: String,
    /// When.
    pub unix_s: UnixSeconds,
}

/// A version that is offered to no machine of any group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// Which.
    pub version: String,
    /// Why, in words.
    pub reason: String,
    /// The protocol's number of the error.
    pub error_code: u32,
    /// The machine that it failed on first.
    pub machine: String,
    /// That machine's group.
    pub group: String,
    /// When.
    pub unix_s: UnixSeconds,
}

/// What a machine is doing, as far as the server was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Nothing is known.
    #[default]
    Unknown,
    /// Nothing newer is offered to it.
    Idle,
    /// It was offered a version.
    Granted,
    /// It fetches the payload.
    Downloading,
    /// It has the payload.
    Downloaded,
    /// The new version waits for a restart.
    Installed,
    /// The new version runs.
    Complete,
    /// An update failed.
    Failed,
    /// It put the update off.
    OnHold,
}

impl fmt::Display for Status {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Unknown => "unknown",
            Self::Idle => "idle",
            Self::Granted => "granted",
            Self::Downloading => "downloading",
            Self::Downloaded => "downloaded",
            Self::Installed => "installed",
            Self::Complete => "complete",
            Self::Failed => "failed",
            Self::OnHold => "on-hold",
        })
    }
}

impl Status {
    /// What an event says of a machine; `None` when nothing follows from it.
    pub fn told_by(event: &Event) -> Option<Self> {
        match (event.kind, event.result) {
            (EventType::DOWNLOAD_STARTED, EventResult::SUCCESS) => Some(Self::Downloading),
            (EventType::DOWNLOAD_FINISHED, EventResult::SUCCESS) => Some(Self::Downloaded),
            (EventType::INSTALLED | EventType::UPDATE_COMPLETE, EventResult::SUCCESS) => {
                Some(Self::Installed)
            }
            (EventType::UPDATE_COMPLETE, EventResult::SUCCESS_REBOOT) => Some(Self::Complete),
            (EventType::UPDATE_COMPLETE, EventResult::ERROR) => Some(Self::Failed),
            (EventType::UPDATE_COMPLETE, EventResult::DEFERRED) => Some(Self::OnHold),
            _ => None,
        }
    }
}

/// One machine, as the server knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Instance {
    /// Who.
    pub machine: String,
    /// The name that people gave it.
    pub alias: String,
    /// Where its last request came from.
    pub address: String,
    /// Its group.
    pub group: String,
    /// The version that it runs.
    pub version: String,
    /// The version that it was offered last.
    pub offered: String,
    /// Its kind: board and OEM.
    pub board: String,
    /// The OEM.
    pub oem: String,
    /// What it is doing.
    pub status: Status,
    /// Why nothing was offered to it when it last asked.
    pub refusal: String,
    /// When it was first seen.
    pub first_seen_unix_s: UnixSeconds,
    /// When it was last seen.
    pub last_seen_unix_s: UnixSeconds,
    /// What happened, the oldest first, at most [`HISTORY_ENTRIES_MAX`], and
    /// [`STRANGER_ENTRIES_MAX`] before it was offered anything.
    pub history: Vec<Happening>,
}

/// An entry of a machine's history.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Happening {
    /// When.
    pub unix_s: UnixSeconds,
    /// `granted`, a [`Status`], or `event TYPE/RESULT`.
    pub what: String,
    /// The version that it is about.
    pub version: String,
    /// Anything else: an error and its reason.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

impl Instance {
    /// Remembers what happened, and forgets the oldest.
    pub fn remember(&mut self, happening: Happening) {
        self.history.push(happening);
        let most = if self.offered.is_empty() { STRANGER_ENTRIES_MAX } else { HISTORY_ENTRIES_MAX };
        let surplus = self.history.len().saturating_sub(most);
        self.history.drain(..surplus);
    }
}

/// A client's text, cut to what a record holds.
pub(super) fn field(text: &str) -> String {
    cut(text, FIELD_BYTES_MAX)
}

/// A text about an error, cut to what a record holds.
pub(super) fn detail(text: &str) -> String {
    cut(text, DETAIL_BYTES_MAX)
}

fn cut(text: &str, bytes_max: usize) -> String {
    let ends = text.char_indices().map(|(at, character)| at + character.len_utf8());
    let end = ends.take_while(|end| *end <= bytes_max).last().unwrap_or(0);
    text[..end].to_owned()
}
