//! What a person can ask of the updater beside an update: forgetting one, and going
//! back.

use proa_update_model::{
    engine::Target,
    error_code::ErrorCode,
    failure::Failure,
    kept::{Installed, Rollback},
};

use crate::{
    daemon::{Updater, now_unix_s},
    error::{Error, file},
    install::{self, Slot},
};

impl Updater {
    /// Makes what was staged unbootable again, or lets what runs boot next again.
    pub(crate) fn withdraw(&mut self) -> Result<(), Error> {
        let (slots, running) = self.slots()?;
        let running = slots[running].number;
        if let Some(rollback) = &self.kept.rollback {
            // The other slot has its proof back: it is what this one may fall back to.
            install::mark_good(&*self.medium, &self.disk, rollback.slot)?;
            install::return_to(&*self.medium, &self.disk, running)?;
            self.kept.failures.forget(&self.record.root_hash);
            self.kept.rollback = None;
        }
        let is_staged =
            |slot: &Slot, installed: &Installed| slot.number == installed.slot && slot.number != running;
        let before = self.kept.clone();
        if let Some(installed) = &mut self.kept.installed
            && let Some(slot) = slots.iter().find(|slot| is_staged(slot, installed))
        {
            // First that it is not to boot, then the flags: a start that finds them gone
            // would take the release for one that failed.
            installed.is_active = false;
            if let Err(error) = self.keep() {
                self.kept = before;
                return Err(error);
            }
            install::retire(&*self.medium, &self.disk, slot.number)?;
        }
        self.kept.installed = None;
        self.kept.transfer = None;
        // A clock that was once years ahead makes every release look expired; where it
        // is not ahead, what is kept stands against one that is set back.
        let now = i64::try_from(now_unix_s()).unwrap_or(0);
        for time in [&mut self.kept.latest_unix_s, &mut self.kept.last_checked_unix_s] {
            if *time > now {
                *time = 0;
            }
        }
        // What is to boot is decided by now, and told as it is.
        self.keep_or_tell();
        Ok(())
    }

    /// Lets the other slot boot next, if it has shown once that it is good. It has to
    /// show it again: meanwhile its blocks may have rotted. What runs is not
    /// installed again by itself.
    pub(crate) fn roll_back(&mut self) -> Result<Target, Error> {
        let refuse = |text: &str| Error::Policy { code: ErrorCode::IgnoredPolicy, text: text.to_owned() };
        let (slots, running) = self.slots()?;
        let running = slots[running].number;
        let is_other = |slot: &&Slot| slot.number != running;
        let other =
            slots.iter().filter(is_other).find(|slot| slot.flags.successful() && slot.flags.bootable());
        let Some(slot) = other else {
            return Err(refuse("the other slot holds no system that was found good"));
        };
        let file = std::fs::File::open(self.disk.path()).map_err(file("open", self.disk.path()))?;
        let there = proa_update_disk::seal::superblock(&file, slot.start)
            .map_err(|error| refuse(&error.to_string()))?;
        let version = self.kept.versions.get(&there.root_hash.to_string()).cloned().unwrap_or_default();
        let target = Target { version, root_hash: there.root_hash, size_bytes: 0 };
        let before = self.kept.clone();
        self.remember_failure("a person rolled back from it", false);
        self.kept.installed = None;
        self.kept.transfer = None;
        self.kept.rollback = Some(Rollback {
            version: target.version.clone(),
            root_hash: target.root_hash,
            slot: slot.number,
            boot_id: self.boot_id.clone(),
        });
        // It is remembered before the flags are changed: whatever cuts in between, a
        // machine that went back does not install again what it went back from.
        let done = self.keep().and_then(|()| install::try_again(&*self.medium, &self.disk, slot.number));
        if let Err(error) = done {
            self.kept = before;
            // The error that is told is the one that led here.
            let _ = self.keep();
            return Err(error);
        }
        tracing::info!("the other slot boots next, as a person decided");
        Ok(target)
    }

    fn remember_failure(&mut self, reason: &str, is_to_store: bool) {
        self.kept.failures.remember(Failure {
            version: self.record.version.clone(),
            root_hash: self.record.root_hash,
            reason: reason.to_owned(),
            unix_s: now_unix_s(),
            is_to_store,
        });
    }
}
