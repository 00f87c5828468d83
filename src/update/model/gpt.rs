//! Partition tables that survive a power cut: reading both copies, and the
//! ordered writes that change attributes or mend a damaged copy.
//!
//! A disk has the table twice: the primary behind its first sector and the
//! backup at its end. Each copy is a header of one sector, which holds a
//! checksum of itself and one of the entries, and the entries. A copy is used
//! only when both checksums are right, so writing one copy while the other is
//! intact can be interrupted anywhere.
//!
//! Own code because the crate `gpt` renumbers the partitions of a table with
//! holes and flushes once at the end, when both copies may be half written.
//!
//! Source: UEFI specification, "5.3 GUID Partition Table (GPT) Disk Layout".

use crate::{crc::crc32, guid::Guid};
use std::ops::RangeInclusive;

/// Where the primary header is.
pub const PRIMARY_LBA: u64 = 1;

/// Most bytes of entries that are read. Usual is 16 KiB: 128 entries of 128.
const ENTRIES_BYTES_MAX: u64 = 1 << 20;

const SIGNATURE: &[u8; 8] = b"EFI PART";
const HEADER_BYTES_MIN: usize = 92;
const ENTRY_BYTES_MIN: u32 = 128;
/// Where the attributes are in an entry.
const ATTRIBUTES_AT: usize = 48;

/// The size of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of one logical sector, 512 or 4096: what an LBA counts.
    pub sector_bytes: u32,
    /// How many sectors the disk has.
    pub sectors: u64,
}

impl Geometry {
    /// Where the backup header is looked for when the primary cannot say.
    pub fn last_lba(self) -> u64 {
        self.sectors.saturating_sub(1)
    }

    fn sectors_of(self, bytes: u64) -> u64 {
        bytes.div_ceil(u64::from(self.sector_bytes))
    }

    fn offset(self, lba: u64) -> u64 {
        lba * u64::from(self.sector_bytes)
    }
}

/// One of the two copies of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The one at the start of the disk.
    Primary,
    /// The one at its end.
    Backup,
}

/// Why a copy of the table cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The sector does not start as a header does.
    #[error("no header")]
    NoHeader,
    /// The sector could not be read whole.
    #[error("unreadable: {0}")]
    Unreadable(String),
    /// The header's checksum is wrong.
    #[error("bad header checksum")]
    HeaderChecksum,
    /// The entries' checksum is wrong.
    #[error("bad checksum of the entries")]
    EntriesChecksum,
    /// A number in a header whose checksum is right makes no sense here.
    #[error("{field} is {value}, which does not fit this disk")]
    DoesNotFit {
        /// The number's name.
        field: &'static str,
        /// What it is.
        value: u64,
    },
    /// Both copies are sound, and this one is older than the other.
    #[error("differs from the primary")]
    Stale,
}

/// A header whose checksum and numbers are right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    geometry: Geometry,
    /// The whole sector: what follows the header belongs to others.
    sector: Vec<u8>,
}

impl Header {
    /// Checks the `sector` that was read at `lba`.
    ///
    /// # Errors
    /// [`Fault`] when this is no header, or one for another place or disk.
    pub fn parse(sector: &[u8], lba: u64, geometry: Geometry) -> Result<Self, Fault> {
        if sector.len() != geometry.sector_bytes as usize || sector.len() < HEADER_BYTES_MIN {
            return Err(Fault::Unreadable(format!("{} bytes instead of a sector", sector.len())));
        }
        if &sector[..8] != SIGNATURE {
            return Err(Fault::NoHeader);
        }
        let header = Self { geometry, sector: sector.to_vec() };
        let bytes = header.header_bytes();
        if !(HEADER_BYTES_MIN..=sector.len()).contains(&bytes) {
            return Err(Fault::DoesNotFit { field: "header size", value: bytes as u64 });
        }
        if header.checksum() != header.u32_at(16) {
            return Err(Fault::HeaderChecksum);
        }
        header.check_numbers(lba)?;
        Ok(header)
    }

    fn check_numbers(&self, lba: u64) -> Result<(), Fault> {
        let refuse = |field, value| Err(Fault::DoesNotFit { field, value });
        let last = self.geometry.last_lba();
        let entry_bytes = self.entry_bytes();
        if self.own_lba() != lba {
            return refuse("own sector", self.own_lba());
        }
        if self.alternate_lba() > last || self.alternate_lba() == lba {
            return refuse("sector of the other copy", self.alternate_lba());
        }
        if self.usable().is_empty() || *self.usable().end() > last {
            return refuse("last usable sector", *self.usable().end());
        }
        if entry_bytes < ENTRY_BYTES_MIN || !entry_bytes.is_multiple_of(8) {
            return refuse("entry size", entry_bytes.into());
        }
        if self.table_bytes() == 0 || self.table_bytes() > ENTRIES_BYTES_MAX {
            return refuse("number of entries", self.entry_count().into());
        }
        if !self.has_room_at(self.entries_lba(), lba) {
            return refuse("first sector of the entries", self.entries_lba());
        }
        Ok(())
    }

    /// Whether entries at `entries_lba` touch neither partitions, nor the
    /// header at `header_lba`, nor the end of the disk.
    fn has_room_at(&self, entries_lba: u64, header_lba: u64) -> bool {
        let Some(last) = entries_lba.checked_add(self.table_sectors() - 1) else { return false };
        let apart = |other: RangeInclusive<u64>| last < *other.start() || entries_lba > *other.end();
        entries_lba > 0
            && last <= self.geometry.last_lba()
            && apart(self.usable())
            && apart(header_lba..=header_lba)
    }

    /// Where this copy's entries are, in bytes from the start of the disk.
    pub fn entries_offset(&self) -> u64 {
        self.geometry.offset(self.entries_lba())
    }

    /// How many bytes to read there: whole sectors.
    pub fn entries_bytes(&self) -> usize {
        (self.table_sectors() * u64::from(self.geometry.sector_bytes)) as usize
    }

    /// The sector of the other copy's header.
    pub fn alternate_lba(&self) -> u64 {
        self.u64_at(32)
    }

    /// Checks the entries that were read where [`Self::entries_offset`] says.
    ///
    /// # Errors
    /// [`Fault::EntriesChecksum`], or [`Fault::Unreadable`] when `bytes` is not
    /// as long as [`Self::entries_bytes`].
    pub fn with_entries(self, bytes: Vec<u8>) -> Result<TableCopy, Fault> {
        if bytes.len() != self.entries_bytes() {
            return Err(Fault::Unreadable(format!("{} bytes of entries", bytes.len())));
        }
        if crc32(&bytes[..self.table_bytes() as usize]) != self.u32_at(88) {
            return Err(Fault::EntriesChecksum);
        }
        Ok(TableCopy { header: self, entries: bytes })
    }

    fn own_lba(&self) -> u64 {
        self.u64_at(24)
    }

    fn usable(&self) -> RangeInclusive<u64> {
        self.u64_at(40)..=self.u64_at(48)
    }

    fn entries_lba(&self) -> u64 {
        self.u64_at(72)
    }

    fn entry_count(&self) -> u32 {
        self.u32_at(80)
    }

    fn entry_bytes(&self) -> u32 {
        self.u32_at(84)
    }

    fn header_bytes(&self) -> usize {
        self.u32_at(12) as usize
    }

    fn table_bytes(&self) -> u64 {
        u64::from(self.entry_count()) * u64::from(self.entry_bytes())
    }

    fn table_sectors(&self) -> u64 {
        self.geometry.sectors_of(self.table_bytes())
    }

    fn checksum(&self) -> u32 {
        let mut header = self.sector[..self.header_bytes()].to_vec();
        header[16..20].fill(0);
        crc32(&header)
    }

    fn u32_at(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.sector[at..at + 4].try_into().expect("four bytes"))
    }

    fn u64_at(&self, at: usize) -> u64 {
        read_u64(&self.sector, at)
    }

    /// The header that goes to `own` while the other copy is at `other`.
    fn moved(&self, own: u64, other: u64, entries_lba: u64, entries: &[u8]) -> Self {
        let mut moved = self.clone();
        moved.sector[24..32].copy_from_slice(&own.to_le_bytes());
        moved.sector[32..40].copy_from_slice(&other.to_le_bytes());
        moved.sector[72..80].copy_from_slice(&entries_lba.to_le_bytes());
        let entries = &entries[..self.table_bytes() as usize];
        moved.sector[88..92].copy_from_slice(&crc32(entries).to_le_bytes());
        let checksum = moved.checksum();
        moved.sector[16..20].copy_from_slice(&checksum.to_le_bytes());
        moved
    }
}

/// One copy of the table that is sound in itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableCopy {
    header: Header,
    entries: Vec<u8>,
}

impl TableCopy {
    /// Whether both copies describe the same partitions.
    fn agrees_with(&self, other: &Self) -> bool {
        let told = |copy: &Self| (copy.header.usable(), copy.header.sector[56..72].to_vec());
        self.entries == other.entries
            && told(self) == told(other)
            && self.header.alternate_lba() == other.header.own_lba()
            && other.header.alternate_lba() == self.header.own_lba()
    }
}

/// One used entry of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its number as in `/dev/vda3`, from 1; numbers may have holes.
    pub number: u32,
    /// What kind of partition it is.
    pub type_guid: Guid,
    /// Its own identity, the kernel's `PARTUUID`.
    pub guid: Guid,
    /// Its first sector.
    pub first_lba: u64,
    /// Its last sector.
    pub last_lba: u64,
    /// The 64 attribute bits.
    pub attributes: u64,
    /// Its label; what is not UTF-16 shows as U+FFFD.
    pub name: String,
}

/// No copy of the table can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("both partition tables are unusable; primary: {primary}; backup: {backup}")]
pub struct NoTable {
    /// What is wrong with the one at the start.
    pub primary: Fault,
    /// What is wrong with the one at the end.
    pub backup: Fault,
}

/// One step of a plan; steps are done in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write whole sectors.
    Write {
        /// Bytes from the start of the disk.
        offset: u64,
        /// What to write.
        bytes: Vec<u8>,
    },
    /// Everything written so far must be on the medium before the next step.
    Sync,
}

/// A disk's partition table: the copy that counts, and the state of the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    relied: TableCopy,
    relied_place: Place,
    other: Result<TableCopy, Fault>,
}

impl Table {
    /// The sector of the backup header, given what was found as the primary.
    pub fn backup_lba(primary: &Result<TableCopy, Fault>, geometry: Geometry) -> u64 {
        match primary {
            Ok(copy) => copy.header.alternate_lba(),
            Err(_) => geometry.last_lba(),
        }
    }

    /// Picks the copy that counts: the primary when it is sound.
    ///
    /// When both are sound and differ, a change was interrupted after its
    /// first half. The primary is what everybody else reads, so it decides
    /// whether that change happened.
    ///
    /// # Errors
    /// [`NoTable`] when neither copy is sound.
    pub fn choose(
        primary: Result<TableCopy, Fault>,
        backup: Result<TableCopy, Fault>,
    ) -> Result<Self, NoTable> {
        let (relied, relied_place, other) = match (primary, backup) {
            (Ok(primary), Ok(backup)) if !primary.agrees_with(&backup) => {
                (primary, Place::Primary, Err(Fault::Stale))
            }
            (Ok(primary), backup) => (primary, Place::Primary, backup),
            (Err(fault), Ok(backup)) => (backup, Place::Backup, Err(fault)),
            (Err(primary), Err(backup)) => return Err(NoTable { primary, backup }),
        };
        Ok(Self { relied, relied_place, other })
    }

    /// The used entries in the order of their numbers.
    pub fn partitions(&self) -> Vec<Partition> {
        let header = &self.relied.header;
        let entries = self.relied.entries[..header.table_bytes() as usize]
            .chunks_exact(header.entry_bytes() as usize)
            .zip(1..);
        entries.filter_map(|(entry, number)| partition(number, entry)).collect()
    }

    /// Which copy needs mending, and why.
    pub fn damage(&self) -> Option<(Place, &Fault)> {
        let place = match self.relied_place {
            Place::Primary => Place::Backup,
            Place::Backup => Place::Primary,
        };
        self.other.as_ref().err().map(|fault| (place, fault))
    }

    /// The steps after which both copies are sound and equal; none when they
    /// are already. The copy that counts is not touched.
    ///
    /// # Errors
    /// [`Fault::DoesNotFit`] when the other copy has no room on this disk.
    pub fn repair(&self) -> Result<Vec<Step>, Fault> {
        match self.damage() {
            None => Ok(Vec::new()),
            Some((place, _)) => {
                let [entries, header] = self.write_copy(place, &self.relied.entries)?;
                Ok(vec![entries, header, Step::Sync])
            }
        }
    }

    /// The steps that give partitions (by number) new attributes, all of them
    /// at once or none, and mend a damaged copy on the way.
    ///
    /// The copy that counts is written last and only once the other is sound
    /// on the medium: the backup first, then the primary, unless the primary
    /// is the damaged one.
    ///
    /// gdisk holds the entries of both copies against the primary header, as long as
    /// that is sound, and goes on with garbage when neither fits. So the primary
    /// header is on the medium as long as the sound copy's entries are its own: it
    /// goes before its entries when the backup is new already, and behind them when
    /// the backup is still the old one. That costs one flush more.
    ///
    /// # Errors
    /// [`Fault::DoesNotFit`] when a number is not in the table or the other
    /// copy has no room on this disk.
    pub fn change(&self, attributes: &[(u32, u64)]) -> Result<Vec<Step>, Fault> {
        let mut entries = self.relied.entries.clone();
        let header = &self.relied.header;
        for (number, bits) in attributes {
            if *number == 0 || *number > header.entry_count() {
                return Err(Fault::DoesNotFit { field: "partition number", value: (*number).into() });
            }
            let at = (number - 1) as usize * header.entry_bytes() as usize + ATTRIBUTES_AT;
            entries[at..at + 8].copy_from_slice(&bits.to_le_bytes());
        }
        let [backup_entries, backup_header] = self.write_copy(Place::Backup, &entries)?;
        let [primary_entries, primary_header] = self.write_copy(Place::Primary, &entries)?;
        let (backup, sync) = ([backup_entries, backup_header, Step::Sync], Step::Sync);
        Ok(match self.relied_place {
            Place::Primary => {
                backup.into_iter().chain([primary_header, sync.clone(), primary_entries, sync]).collect()
            }
            Place::Backup => {
                [primary_entries, sync.clone(), primary_header, sync].into_iter().chain(backup).collect()
            }
        })
    }

    /// The writes of one copy: its entries and its header.
    fn write_copy(&self, place: Place, entries: &[u8]) -> Result<[Step; 2], Fault> {
        let relied = &self.relied.header;
        let backup_lba = match self.relied_place {
            Place::Primary => relied.alternate_lba(),
            Place::Backup => relied.own_lba(),
        };
        let (own, alternate, usual) = match place {
            Place::Primary => (PRIMARY_LBA, backup_lba, PRIMARY_LBA + 1),
            Place::Backup => (backup_lba, PRIMARY_LBA, backup_lba.saturating_sub(relied.table_sectors())),
        };
        // Entries stay where they are; a header that is lost had them where
        // the specification puts them.
        let entries_lba = if place == self.relied_place {
            relied.entries_lba()
        } else {
            self.other.as_ref().map_or(usual, |copy| copy.header.entries_lba())
        };
        if !relied.has_room_at(entries_lba, own) {
            return Err(Fault::DoesNotFit { field: "first sector of the entries", value: entries_lba });
        }
        let header = relied.moved(own, alternate, entries_lba, entries);
        let offset = |lba| relied.geometry.offset(lba);
        Ok([
            Step::Write { offset: offset(entries_lba), bytes: entries.to_vec() },
            Step::Write { offset: offset(own), bytes: header.sector },
        ])
    }
}

fn partition(number: u32, entry: &[u8]) -> Option<Partition> {
    let guid_at = |at: usize| Guid(entry[at..at + 16].try_into().expect("sixteen bytes"));
    let type_guid = guid_at(0);
    if type_guid == Guid::ZERO {
        return None;
    }
    let units = entry[56..128].chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    let units: Vec<u16> = units.take_while(|unit| *unit != 0).collect();
    Some(Partition {
        number,
        type_guid,
        guid: guid_at(16),
        first_lba: read_u64(entry, 32),
        last_lba: read_u64(entry, 40),
        attributes: read_u64(entry, ATTRIBUTES_AT),
        name: String::from_utf16_lossy(&units),
    })
}

fn read_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
#[path = "gpt_test.rs"]
mod tests;
