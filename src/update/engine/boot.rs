//! Showing that a boot is good, giving it up in time, and finding out afterwards
//! why one failed.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use proa_update_model::{
    boot_record::{Attempt, LOG_PREFIX, Stage},
    error_code::ErrorCode,
    failure::{Failure, Traces, explain},
    hash::Sha256,
    health::{Observation, Rules, Verdict, Watch, unit_reasons},
    kept::Installed,
    omaha::{self, EventResult, EventType},
};
use zbus::Connection;

use crate::{
    daemon::{Updater, now_unix_s},
    error::Error,
    install, state, systemd,
};

/// Between two looks at the machine's health.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// What an orderly reboot may take before the kernel is told directly.
const ORDERLY_REBOOT: Duration = Duration::from_secs(60);
/// Most bytes of an attempt's notes.
const ATTEMPT_BYTES_MAX: usize = 64 << 10;
/// Most bytes of a kernel's last words.
const LOG_BYTES_MAX: usize = 64 << 10;
/// How much of them `LastFailure` shows.
const LOG_TAIL_CHARACTERS: usize = 4000;
/// Clocks of two boots may differ by this much.
const CLOCK_SLACK: Duration = Duration::from_secs(120);

impl Updater {
    /// Watches until this boot is good, and marks it so; reboots the machine when
    /// its time is over.
    pub(crate) async fn prove(&mut self) -> Result<(), Error> {
        let rules = Rules { good_after: self.config.good_after, deadline: self.config.boot_deadline };
        let mut watch = Watch::default();
        let mut bus = None;
        let mut noted = String::new();
        loop {
            let missing = self.missing(&mut bus).await;
            match watch.see(rules, &Observation { at: since_boot(), missing: missing.clone() }) {
                Verdict::Good => {
                    install::mark_good(&*self.medium, &self.disk, self.record.slot)?;
                    tracing::info!("version {} is good", self.record.version);
                    // Nobody asks for the notes of a good boot.
                    let _ = fs::remove_file(self.attempt_path());
                    return Ok(());
                }
                Verdict::Wait(_) => {
                    let detail = missing.join("; ");
                    if detail != noted {
                        self.note(&detail);
                        noted = detail;
                    }
                }
                Verdict::Bad(why) => {
                    tracing::error!("version {} is given up: {why}", self.record.version);
                    self.note(&format!("given up after {} s: {why}", since_boot().as_secs()));
                    give_up(bus.as_ref()).await;
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// What is not well, asking everybody anew.
    async fn missing(&self, bus: &mut Option<Connection>) -> Vec<String> {
        let mut missing = match self.unit_states(bus).await {
            Ok(states) => unit_reasons(states.iter().map(|(unit, state)| (unit.as_str(), state.as_str()))),
            Err(error) => {
                *bus = None;
                vec![format!("systemd does not answer: {error}")]
            }
        };
        // Any key will do: the read is linearizable, so it needs a quorum.
        if let Err(error) = self.store.failure_of(&Sha256([0; 32])).await {
            missing.push(format!("the store does not answer: {error}"));
        }
        missing
    }

    async fn unit_states(&self, bus: &mut Option<Connection>) -> zbus::Result<Vec<(String, String)>> {
        let socket =
            self.config.bus.as_deref().ok_or(zbus::Error::Failure("no message bus is set".to_owned()))?;
        let connection = match bus {
            Some(connection) => connection,
            None => bus.insert(systemd::connect(socket).await?),
        };
        systemd::states(connection, &self.config.health_units).await
    }

    fn attempt_path(&self) -> std::path::PathBuf {
        self.config.boot_folder.join("attempt.json")
    }

    /// Writes down how far this boot came, for the one after it.
    fn note(&self, detail: &str) {
        let attempt = Attempt {
            version: self.record.version.clone(),
            root_hash: self.record.root_hash,
            slot: self.record.slot,
            stage: Stage::HealthCheck,
            detail: detail.to_owned(),
            unix_ms: now_unix_s() * 1000,
        };
        let bytes = serde_json::to_vec(&attempt).expect("text and numbers always have a JSON form");
        if let Err(error) = proa_base::file::replace(&self.attempt_path(), &bytes) {
            tracing::warn!("cannot write {}: {error}", self.attempt_path().display());
        }
    }

    /// The machine is back on the old release: says why, remembers it, and sees to
    /// it that store and server hear of it.
    pub(crate) fn fell_back(&mut self, installed: &Installed) -> Result<(), Error> {
        // Notes that cannot be read are none.
        let attempt = state::read(&self.attempt_path(), ATTEMPT_BYTES_MAX).unwrap_or_default();
        let attempt = attempt.and_then(|bytes| serde_json::from_slice::<Attempt>(&bytes).ok());
        let attempt = attempt.filter(|attempt| attempt.root_hash == installed.root_hash);
        let stage = attempt.as_ref().map(|attempt| match attempt.stage {
            Stage::Init => "init",
            Stage::Userspace => "userspace",
            Stage::HealthCheck => "health-check",
        });
        let notes = stage.zip(attempt.as_ref().map(|attempt| attempt.detail.as_str()));
        let kernel = self.last_words();
        let reason = explain(&Traces { attempt: notes, kernel: &kernel });
        tracing::warn!("version {} failed: {reason}", installed.version);
        self.kept.failures.remember(Failure {
            version: installed.version.clone(),
            root_hash: installed.root_hash,
            reason: reason.clone(),
            unix_s: now_unix_s(),
            is_to_store: true,
        });
        self.kept.report(&omaha::Event {
            kind: EventType::UPDATE_COMPLETE,
            result: EventResult::ERROR,
            error_code: Some(ErrorCode::Rollback.number()),
            previous_version: self.record.version.clone(),
            failed_version: installed.version.clone(),
            reason,
            ..omaha::Event::default()
        });
        // It is remembered before the slot that shows it is changed. That one does not
        // boot any more as it is.
        if self.keep_or_tell() {
            install::retire(&*self.medium, &self.disk, installed.slot)?;
            self.kept.installed = None;
            self.kept.transfer = None;
        }
        Ok(())
    }

    /// What the kernel said before the restart that led to this boot.
    fn last_words(&self) -> String {
        let entries = fs::read_dir(&self.config.boot_folder).into_iter().flatten().flatten();
        let booted = SystemTime::UNIX_EPOCH + Duration::from_millis(self.record.booted_unix_ms);
        let is_of_this_boot = |entry: &fs::DirEntry| {
            let written = entry.metadata().and_then(|metadata| metadata.modified());
            written.is_ok_and(|written| written + CLOCK_SLACK >= booted)
        };
        let names = entries.filter(is_of_this_boot).map(|entry| entry.file_name());
        let names = names.filter(|name| name.to_string_lossy().starts_with(LOG_PREFIX));
        let newest = names.max().map(|name| self.config.boot_folder.join(name));
        let bytes = newest.and_then(|path| state::read(&path, LOG_BYTES_MAX).ok().flatten());
        String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
    }

    /// A failure as `LastFailure` tells it.
    pub(crate) fn failure_json(&self, failure: &Failure) -> String {
        let kernel = self.last_words();
        let cut = kernel.chars().count().saturating_sub(LOG_TAIL_CHARACTERS);
        let kernel_log: String = kernel.chars().skip(cut).collect();
        serde_json::json!({
            "version": failure.version,
            "root_hash": failure.root_hash.to_string(),
            "reason": failure.reason,
            "unix_s": failure.unix_s,
            "kernel_log": kernel_log,
        })
        .to_string()
    }
}

/// Time since the kernel's start.
fn since_boot() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel fills the struct that is handed in.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Restarts the machine; does not return unless even the kernel refuses.
async fn give_up(bus: Option<&Connection>) {
    if let Some(bus) = bus
        && systemd::reboot(bus).await.is_ok()
    {
        tokio::time::sleep(ORDERLY_REBOOT).await;
    }
    // SAFETY: system calls without memory of ours. What is not written by now is
    // written by sync(2).
    unsafe {
        libc::sync();
        libc::reboot(libc::RB_AUTOBOOT);
    }
}
