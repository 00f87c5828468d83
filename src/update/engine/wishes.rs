//! What a person can ask of the updater beside an update: forgetting one, and going
//! back.

use proa_update_model::{
    engine::Target,
    error_code::ErrorCode,
    failure::Failure,
    slots::{SlotFlags, stage},
};

use crate::{
    daemon::{Updater, now_unix_s},
    error::{Error, file},
    install,
};

impl Updater {
    /// Makes what was staged unbootable again.
    pub(crate) fn withdraw(&mut self) -> Result<(), Error> {
        let (slots, running) = self.slots()?;
        let staged = self.kept.installed.as_ref().map(|installed| installed.slot);
        if let Some(slot) =
            slots.iter().find(|slot| Some(slot.number) == staged && slot.number != slots[running].number)
        {
            install::retire(&*self.medium, &self.disk, slot.number)?;
        }
        self.kept.installed = None;
        self.kept.transfer = None;
        self.keep()
    }

    /// Lets the other slot boot next, if it has shown once that it is good. What
    /// runs is not installed again by itself.
    pub(crate) fn roll_back(&mut self) -> Result<Target, Error> {
        let refuse = |text: &str| Error::Policy { code: ErrorCode::IgnoredPolicy, text: text.to_owned() };
        let (slots, running) = self.slots()?;
        let other =
            slots.iter().enumerate().find(|(index, slot)| *index != running && slot.flags.successful());
        let Some((other, slot)) = other.map(|(index, slot)| (index, *slot)) else {
            return Err(refuse("the other slot holds no system that was found good"));
        };
        let flags: Vec<SlotFlags> = slots.iter().map(|slot| slot.flags).collect();
        let mut staged = stage(&flags, other, 1);
        staged[other] = staged[other].mark_good();
        let changes: Vec<(u32, SlotFlags)> =
            slots.iter().zip(&staged).map(|(slot, flags)| (slot.number, *flags)).collect();
        let file = std::fs::File::open(self.disk.path()).map_err(file("open", self.disk.path()))?;
        let there = proa_update_disk::seal::superblock(&file, slot.start)
            .map_err(|error| refuse(&error.to_string()))?;
        install::write_flags(&*self.medium, &self.disk, &changes)?;
        self.remember_failure("a person rolled back from it", false);
        let version = self.kept.versions.get(&there.root_hash.to_string()).cloned().unwrap_or_default();
        self.kept.installed = None;
        self.keep()?;
        Ok(Target { version, root_hash: there.root_hash, size_bytes: 0 })
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
