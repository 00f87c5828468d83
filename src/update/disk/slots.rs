//! The slots of one disk: which may boot, spending a try before one does, and
//! changing their flags.

use crate::disk::{Disk, DiskError};
use proa_update_model::{
    gpt::{Fault, NoTable, Partition, Place, Table},
    guid::Guid,
    layout,
    slots::{Boot, SlotFlags, order},
};

/// Why a slot's flags could not be written.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The table cannot be changed where it is.
    #[error("the partition table cannot be changed: {0}")]
    Plan(#[from] Fault),
}

/// The slots of one disk.
#[derive(Debug)]
pub struct Slots {
    disk: Disk,
    table: Table,
    slots: Vec<Partition>,
}

impl Slots {
    /// The slots of `disk`; `None` when its table has none, or when it has no
    /// table at all.
    ///
    /// # Errors
    /// [`DiskError`] when there was a table once and it cannot be read.
    pub fn find(disk: Disk) -> Result<Option<Self>, DiskError> {
        let table = match disk.table() {
            Ok(table) => table,
            // A blank disk or one with another kind of table is no error.
            Err(DiskError::Table {
                source: NoTable { primary: Fault::NoHeader, backup: Fault::NoHeader },
                ..
            }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let slots = of_type(&table, layout::SLOT_TYPE);
        Ok((!slots.is_empty()).then_some(Self { disk, table, slots }))
    }

    /// The disk they are on.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// What may boot, best first.
    pub fn boots(&self) -> Vec<Boot> {
        let flags: Vec<SlotFlags> = self.slots.iter().map(|slot| SlotFlags(slot.attributes)).collect();
        order(&flags)
    }

    /// How many there are, whether they boot or not.
    pub fn count(&self) -> usize {
        self.slots.len()
    }

    /// The slot whose partition has this number.
    pub fn index_of_number(&self, number: u32) -> Option<usize> {
        self.slots.iter().position(|slot| slot.number == number)
    }

    /// The slot whose partition has this GUID.
    pub fn index_of_guid(&self, guid: Guid) -> Option<usize> {
        self.slots.iter().position(|slot| slot.guid == guid)
    }

    /// The partition of one slot.
    ///
    /// # Panics
    /// When `index` is not below [`Self::count`].
    pub fn partition(&self, index: usize) -> &Partition {
        &self.slots[index]
    }

    /// The partition that is mounted on `/var`.
    pub fn state(&self) -> Option<Partition> {
        of_type(&self.table, layout::STATE_TYPE).into_iter().next()
    }

    /// The copy of the table that is damaged, and what is wrong with it.
    pub fn damage(&self) -> Option<String> {
        let (place, fault) = self.table.damage()?;
        let place = match place {
            Place::Primary => "primary",
            Place::Backup => "backup",
        };
        Some(format!("{place} partition table of {}: {fault}", self.disk.path().display()))
    }

    /// Makes both copies of the table equal again.
    ///
    /// # Errors
    /// [`SlotError`] when that is not possible; the sound copy is untouched.
    pub fn mend(&mut self) -> Result<(), SlotError> {
        self.disk.perform(&self.table.repair()?)?;
        self.table = self.disk.table()?;
        Ok(())
    }

    /// Puts on disk what must be there before this slot starts.
    ///
    /// # Errors
    /// [`SlotError`]; then the slot must not be started, for it would never be
    /// given up.
    pub fn spend(&mut self, boot: &Boot) -> Result<(), SlotError> {
        match boot.write {
            None => Ok(()),
            Some(flags) => self.write_flags(&[(boot.index, flags)]),
        }
    }

    /// Gives slots new flags, all of them at once or none, in both copies of
    /// the table; a damaged copy is mended on the way.
    ///
    /// # Errors
    /// [`SlotError`]; after a power cut in the middle either the old flags or
    /// the new ones count.
    ///
    /// # Panics
    /// When an index is not below [`Self::count`].
    pub fn write_flags(&mut self, changes: &[(usize, SlotFlags)]) -> Result<(), SlotError> {
        let changes: Vec<_> =
            changes.iter().map(|(index, flags)| (self.slots[*index].number, flags.0)).collect();
        self.disk.perform(&self.table.change(&changes)?)?;
        // What counts is what the disk holds, not what was sent to it.
        self.table = self.disk.table()?;
        self.slots = of_type(&self.table, layout::SLOT_TYPE);
        Ok(())
    }

    /// A slot as people know it: `slot A (partition 3)`.
    pub fn name(&self, index: usize) -> String {
        format!("slot {} (partition {})", layout::slot_letter(index), self.slots[index].number)
    }

    /// A slot's flags in words.
    pub fn flags(&self, index: usize) -> SlotFlags {
        SlotFlags(self.slots[index].attributes)
    }

    /// Every slot, its flags, and why it does or does not boot.
    pub fn explain(&self) -> Vec<String> {
        let why = |flags: SlotFlags| match (flags.priority(), flags.bootable()) {
            (0, _) => "not bootable: priority 0",
            (_, false) => "not bootable: unproven and no tries left",
            (_, true) => "bootable by its flags, but it did not start",
        };
        let line = |index| format!("{}: {}; {}", self.name(index), self.flags(index), why(self.flags(index)));
        (0..self.slots.len()).map(line).collect()
    }
}

fn of_type(table: &Table, wanted: Guid) -> Vec<Partition> {
    table.partitions().into_iter().filter(|partition| partition.type_guid == wanted).collect()
}

#[cfg(test)]
#[path = "slots_test.rs"]
mod tests;
