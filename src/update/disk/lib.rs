//! Disks: reading their partition tables, choosing among their slots, and
//! performing plans on them. `/init` and the updater see one disk through it.

pub mod disk;
pub mod seal;
pub mod slots;

pub use disk::{Disk, DiskError};
pub use seal::SealError;
pub use slots::{SlotError, Slots};
