//! The disk of a Proa machine: what the image build writes and `/init` finds.
//!
//! | number | label        | holds                                       |
//! |--------|--------------|---------------------------------------------|
//! | 1      | `EFI-SYSTEM` | the boot loader's FAT                       |
//! | 3      | `SLOT-A`     | a root file system (squashfs)               |
//! | 4      | `SLOT-B`     | the other one, or nothing yet               |
//! | 9      | `STATE`      | ext4, mounted on `/var`                     |
//!
//! Partitions are found by type, never by number or label: numbers and labels
//! are for people. The numbers are those CoreOS used for the same things.

use crate::guid::Guid;

/// Type of a partition that holds one root file system with boot attributes.
///
/// Source: cgpt, `CoreOS rootfs`.
pub const SLOT_TYPE: Guid = Guid::from_text("5dfbf5f4-2848-4bac-aa5e-0d9a20b745a6");

/// Type of the partition that is mounted on `/var`.
///
/// Source: Discoverable Partitions Specification, "Variable Data Partition".
/// systemd's own generator mounts such a partition only when its GUID is made
/// from the machine id, so it does not get in the way of `/init`.
pub const STATE_TYPE: Guid = Guid::from_text("4d21b016-b534-45c2-a9fb-5c16e091fd2d");

/// Type of the EFI system partition.
///
/// Source: UEFI specification, "5.3.3 GPT Partition Entry Array".
pub const ESP_TYPE: Guid = Guid::from_text("c12a7328-f81f-11d2-ba4b-00a0c93ec93b");

/// File system of a slot.
pub const SLOT_FILE_SYSTEM: &str = "squashfs";

/// File system of the state partition.
pub const STATE_FILE_SYSTEM: &str = "ext4";

/// Label of the slot that stands at `index` among the slots of a disk.
///
/// `0` is `A`; from the 27th on it is `?`.
pub fn slot_letter(index: usize) -> char {
    let letter = u8::try_from(index).ok().filter(|index| *index < 26);
    letter.map_or('?', |index| char::from(b'A' + index))
}
