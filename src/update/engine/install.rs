//! Writing the passive slot: each function is one step of an update, and leaves a
//! disk that boots wherever it is cut off.

use proa_update_disk::Disk;
use proa_update_model::{
    gpt::Step,
    hash::Sha256,
    layout,
    slots::{SlotFlags, stage},
    verity::{self, BLOCK_BYTES, SALT_BYTES, Superblock, Tree, TreeBuilder},
};

use crate::{
    error::{Error, file},
    medium::{Medium, Room},
};

/// How much of the hash tree is written and read at once: more than the superblock and
/// the tree above the leaves have together.
const PART_BYTES: usize = 128 << 10;
/// How often a new release may be started before it has shown that it is good.
/// Once: what fails at its first boot is not given a second machine-hour.
const TRIES: u8 = 1;

/// One slot as it lies on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its partition's number.
    pub number: u32,
    /// Where it starts, in bytes.
    pub start: u64,
    /// How long it is.
    pub bytes: u64,
    /// Its flags.
    pub flags: SlotFlags,
}

/// The slots of a disk, in the order of their numbers.
///
/// # Errors
/// [`Error::Disk`].
pub fn slots(disk: &Disk) -> Result<Vec<Slot>, Error> {
    let sector_bytes = u64::from(disk.sector_bytes());
    let partitions = disk.table()?.partitions().into_iter();
    let slots = partitions.filter(|partition| partition.type_guid == layout::SLOT_TYPE);
    let slot = |partition: proa_update_model::gpt::Partition| Slot {
        number: partition.number,
        start: partition.first_lba * sector_bytes,
        bytes: (partition.last_lba + 1 - partition.first_lba) * sector_bytes,
        flags: SlotFlags(partition.attributes),
    };
    Ok(slots.map(slot).collect())
}

/// Gives slots, by partition number, new flags on both copies of the table.
///
/// # Errors
/// [`Error::Flags`] when the disk holds others afterwards, and the disk's.
pub fn write_flags(medium: &impl Medium, disk: &Disk, changes: &[(u32, SlotFlags)]) -> Result<(), Error> {
    let bits: Vec<(u32, u64)> = changes.iter().map(|(number, flags)| (*number, flags.0)).collect();
    perform(medium, disk, &disk.table()?.change(&bits)?)?;
    let there = slots(disk)?;
    let is_there = |(number, flags): &(u32, SlotFlags)| {
        there.iter().any(|slot| slot.number == *number && slot.flags == *flags)
    };
    if disk.table()?.damage().is_none() && changes.iter().all(is_there) { Ok(()) } else { Err(Error::Flags) }
}

/// Makes both copies of the table equal again, where they are not.
///
/// # Errors
/// The disk's.
pub fn mend(medium: &impl Medium, disk: &Disk) -> Result<(), Error> {
    perform(medium, disk, &disk.table()?.repair()?)
}

/// Performs a plan. What is read of it afterwards comes from the medium.
fn perform(medium: &impl Medium, disk: &Disk, plan: &[Step]) -> Result<(), Error> {
    for step in plan {
        let done = match step {
            Step::Write { offset, bytes } => medium.write(*offset, bytes),
            Step::Sync => medium.sync(),
        };
        done.map_err(file("write the partition table of", disk.path()))?;
    }
    for step in plan {
        if let Step::Write { offset, bytes } = step {
            medium.forget(*offset, bytes.len() as u64);
        }
    }
    Ok(())
}

/// Makes the slot with this partition number unbootable.
///
/// # Errors
/// As [`write_flags`].
pub fn retire(medium: &impl Medium, disk: &Disk, number: u32) -> Result<(), Error> {
    let all = slots(disk)?;
    let slot = all.iter().find(|slot| slot.number == number).ok_or(Error::Flags)?;
    write_flags(medium, disk, &[(number, slot.flags.retire())])
}

/// Lets a slot whose data and tree were read back boot next, on probation.
///
/// # Errors
/// As [`write_flags`].
pub fn activate(medium: &impl Medium, disk: &Disk, sealed: &Sealed) -> Result<(), Error> {
    boot_next(medium, disk, sealed.slot, |flags| flags)
}

/// Lets the slot with this partition number boot next, on probation, although it has
/// been found good once.
///
/// # Errors
/// As [`write_flags`].
pub fn try_again(medium: &impl Medium, disk: &Disk, number: u32) -> Result<(), Error> {
    boot_next(medium, disk, number, |flags| flags)
}

/// Lets the slot with this partition number, which runs and was found good, boot next.
///
/// # Errors
/// As [`write_flags`].
pub fn return_to(medium: &impl Medium, disk: &Disk, number: u32) -> Result<(), Error> {
    boot_next(medium, disk, number, SlotFlags::mark_good)
}

fn boot_next(
    medium: &impl Medium,
    disk: &Disk,
    number: u32,
    proof: impl Fn(SlotFlags) -> SlotFlags,
) -> Result<(), Error> {
    let all = slots(disk)?;
    let target = all.iter().position(|slot| slot.number == number).ok_or(Error::Flags)?;
    let flags: Vec<SlotFlags> = all.iter().map(|slot| slot.flags).collect();
    let mut staged = stage(&flags, target, TRIES);
    staged[target] = proof(staged[target]);
    let changes = all.iter().zip(staged).filter(|(slot, flags)| slot.flags != *flags);
    let changes: Vec<(u32, SlotFlags)> = changes.map(|(slot, flags)| (slot.number, flags)).collect();
    write_flags(medium, disk, &changes)
}

/// Marks the slot with this partition number as good.
///
/// # Errors
/// As [`write_flags`].
pub fn mark_good(medium: &impl Medium, disk: &Disk, number: u32) -> Result<(), Error> {
    let all = slots(disk)?;
    let slot = all.iter().find(|slot| slot.number == number).ok_or(Error::Flags)?;
    write_flags(medium, disk, &[(number, slot.flags.mark_good())])
}

/// The data of a slot was read back and is the release's; what that gave. The leaves
/// of the tree are those that are not written yet.
pub struct Matched {
    superblock: Superblock,
    levels: Vec<Vec<u8>>,
}

/// Data, superblock and tree of a slot were read back.
pub struct Sealed {
    /// Its partition's number.
    slot: u32,
}

impl Sealed {
    /// The slot's partition number.
    pub fn slot(&self) -> u32 {
        self.slot
    }
}

impl Matched {
    /// Compares the tree of what was read back with the signed root hash.
    ///
    /// # Errors
    /// [`Error::ReadBack`] when it is another one.
    pub fn new(tree: Tree, data_blocks: u64, salt: [u8; SALT_BYTES], want: Sha256) -> Result<Self, Error> {
        let Tree { root_hash, levels } = tree;
        if root_hash != want {
            return Err(Error::ReadBack { got: root_hash.to_string(), want: want.to_string() });
        }
        Ok(Self { superblock: Superblock { data_blocks, salt, root_hash }, levels })
    }
}

/// Writes superblock and what is missing of the tree behind the data, and reads both
/// back whole.
///
/// # Errors
/// [`Error::TreeReadBack`], and the disk's.
pub fn seal(medium: &impl Medium, slot: &Slot, matched: &Matched) -> Result<Sealed, Error> {
    let Matched { superblock, levels } = matched;
    let (data_blocks, block) = (superblock.data_blocks, superblock.render());
    let empty = Vec::new();
    let (leaves, above) = levels.split_last().unwrap_or((&empty, &[]));
    // One after the other: the superblock, and the tree down to its leaves.
    let head = [&block, &above.concat()[..]].concat();
    let head_at = slot.start + superblock.offset();
    let leaves_at = slot.start + verity::leaves_offset(data_blocks);
    let end = slot.start + verity::sealed_bytes(data_blocks);

    let mut room = Room::of_small_pages(PART_BYTES);
    let writing = || file("write", "the hash tree");
    room.write(medium, head_at, &head).map_err(writing())?;
    room.write(medium, end - leaves.len() as u64, leaves).map_err(writing())?;
    medium.sync().map_err(writing())?;

    medium.forget(head_at, end - head_at);
    if read(medium, &mut room, head_at, head.len())? != head {
        return Err(Error::TreeReadBack);
    }
    if leaves_at < end {
        // A tree of the leaves alone has the same root.
        let mut tree = TreeBuilder::new((end - leaves_at) / BLOCK_BYTES as u64, &superblock.salt)?;
        for at in (leaves_at..end).step_by(PART_BYTES) {
            let bytes = (end - at).min(PART_BYTES as u64) as usize;
            tree.push(read(medium, &mut room, at, bytes)?)?;
        }
        if tree.finish()?.root_hash != superblock.root_hash {
            return Err(Error::TreeReadBack);
        }
    }
    Ok(Sealed { slot: slot.number })
}

/// What lies on the medium, in a room that holds nothing else before.
fn read<'room>(
    medium: &impl Medium,
    room: &'room mut Room,
    at: u64,
    bytes: usize,
) -> Result<&'room [u8], Error> {
    let part = &mut room.all()[..bytes];
    part.fill(0);
    medium.read(at, part).map_err(file("read back", "the hash tree"))?;
    Ok(part)
}

#[cfg(test)]
#[path = "power_cut_test.rs"]
mod power_cut_test;
