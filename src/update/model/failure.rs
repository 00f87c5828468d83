//! Releases that failed on this machine, and why, in words that fit into one line
//! of a table.

use crate::hash::Sha256;
use serde::{Deserialize, Serialize};

/// Longest reason, in characters: what an Omaha event carries.
pub const REASON_CHARACTERS_MAX: usize = crate::omaha::REASON_CHARACTERS_MAX;

/// Most failures that are remembered. The oldest go first: a release that old is
/// refused for its age.
pub const FAILURES_MAX: usize = 32;

/// One release that failed here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Its version.
    pub version: String,
    /// Its root hash: what it is known by.
    pub root_hash: Sha256,
    /// Why, for people.
    pub reason: String,
    /// When that was found, in seconds since 1970.
    pub unix_s: u64,
    /// Whether the store still has to be told.
    #[serde(default)]
    pub is_to_store: bool,
}

/// What failed on this machine, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Failures(Vec<Failure>);

impl Failures {
    /// Why the release with this root hash failed, if it did.
    pub fn of(&self, root_hash: &Sha256) -> Option<&Failure> {
        self.0.iter().find(|failure| failure.root_hash == *root_hash)
    }

    /// The newest.
    pub fn last(&self) -> Option<&Failure> {
        self.0.last()
    }

    /// All, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Failure> {
        self.0.iter()
    }

    /// Remembers `failure`, in the place of an earlier one of the same release.
    pub fn remember(&mut self, mut failure: Failure) {
        failure.reason = one_line(&failure.reason);
        self.0.retain(|known| known.root_hash != failure.root_hash);
        self.0.push(failure);
        let surplus = self.0.len().saturating_sub(FAILURES_MAX);
        self.0.drain(..surplus);
    }

    /// Notes that the store knows of this release.
    pub fn told_store(&mut self, root_hash: &Sha256) {
        let known = self.0.iter_mut().filter(|failure| failure.root_hash == *root_hash);
        known.for_each(|failure| failure.is_to_store = false);
    }

    /// Forgets what is known against the release with this root hash.
    pub fn forget(&mut self, root_hash: &Sha256) {
        self.0.retain(|known| known.root_hash != *root_hash);
    }
}

/// What the boot that failed has left behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traces<'a> {
    /// How far it came and what was then, from its own notes; `None` without any.
    pub attempt: Option<(&'a str, &'a str)>,
    /// The kernel's last words of that boot, oldest first; empty without any.
    pub kernel: &'a str,
}

/// Why the boot of a release failed.
///
/// A crash of the kernel says most; then what the boot itself noted; a boot that
/// left nothing was cut off before its `/init` could write anything.
pub fn explain(traces: &Traces<'_>) -> String {
    let crash = traces.kernel.lines().find_map(crash_of);
    let reason = match (crash, traces.attempt) {
        (Some(crash), Some((stage, _))) => format!("kernel crash in stage {stage}: {crash}"),
        (Some(crash), None) => format!("kernel crash: {crash}"),
        (None, Some((stage, ""))) => format!("the boot stopped in stage {stage}"),
        (None, Some((stage, detail))) => format!("the boot stopped in stage {stage}: {detail}"),
        (None, None) => "the boot ended before it could say anything".to_owned(),
    };
    one_line(&reason)
}

/// What a line of the kernel's log says about a crash, without its time.
///
/// Source: Linux, `kernel/panic.c`, `lib/bug.c`, `kernel/watchdog.c`.
fn crash_of(line: &str) -> Option<&str> {
    let marks = ["Kernel panic", "BUG:", "Oops:", "watchdog: BUG", "general protection fault"];
    let at = marks.iter().filter_map(|mark| line.find(mark)).min()?;
    Some(&line[at..])
}

/// `text` on one line, cut to what a reason may be.
fn one_line(text: &str) -> String {
    let words = text.split(|character: char| character.is_control());
    let line = words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    line.chars().take(REASON_CHARACTERS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(number: u8, reason: &str) -> Failure {
        let version = format!("1.0.{number}");
        let root_hash = Sha256([number; 32]);
        Failure { version, root_hash, reason: reason.to_owned(), unix_s: 7, is_to_store: true }
    }

    #[test]
    fn the_most_telling_trace_is_the_reason() {
        let panic = "<0>[  1.2] Kernel panic - not syncing: Attempted to kill init!\n<0>[ 1.3] CPU: 0\n";
        #[rustfmt::skip]
        let cases = [
            (Some(("init", "x")), panic, "kernel crash in stage init: Kernel panic - not syncing: Attempted to kill init!"),
            (None,                panic, "kernel crash: Kernel panic - not syncing: Attempted to kill init!"),
            (Some(("init", "")),  "",    "the boot stopped in stage init"),
            (Some(("userspace", "etcd.service is failed")), "a line\n", "the boot stopped in stage userspace: etcd.service is failed"),
            (None,                "",    "the boot ended before it could say anything"),
        ];
        for (attempt, kernel, want) in cases {
            assert_eq!(explain(&Traces { attempt, kernel }), want);
        }
    }

    #[test]
    fn a_reason_is_one_short_line() {
        let long = "a\n\tb".repeat(1000);
        let reason = explain(&Traces { attempt: Some(("init", &long)), kernel: "" });
        assert_eq!(reason.chars().count(), REASON_CHARACTERS_MAX);
        assert!(!reason.contains(char::is_control));
    }

    #[test]
    fn a_release_is_remembered_once_and_the_oldest_is_forgotten() {
        let mut failures = Failures::default();
        for number in 0..40 {
            failures.remember(failure(number, "a"));
        }
        failures.remember(failure(20, "b\nc"));
        assert_eq!(failures.iter().count(), FAILURES_MAX);
        assert_eq!(failures.of(&Sha256([7; 32])), None);
        assert_eq!(failures.last().map(|last| last.reason.as_str()), Some("b c"));
        failures.told_store(&Sha256([20; 32]));
        assert!(failures.of(&Sha256([20; 32])).is_some_and(|known| !known.is_to_store));
        assert!(failures.of(&Sha256([21; 32])).is_some_and(|known| known.is_to_store));
    }
}
