//! The laws of [`super`] on disks in memory, cut off at every sector.

use super::{Fault, Geometry, Header, PRIMARY_LBA, Place, Step, Table, TableCopy};
use crate::{crc::crc32, guid::Guid, layout};
use proptest::prelude::*;

const GEOMETRY: Geometry = Geometry { sector_bytes: 512, sectors: 512 };
const SECTOR: usize = 512;
const TABLE_SECTORS: u64 = 32;

/// A disk with slots 3 and 4 and the state partition 9, written from the
/// specification and not with the code under test.
fn disk() -> Vec<u8> {
    let mut entries = vec![0; 128 * 128];
    for (number, type_guid, first) in
        [(3, layout::SLOT_TYPE, 64u64), (4, layout::SLOT_TYPE, 128), (9, layout::STATE_TYPE, 192)]
    {
        let entry = &mut entries[(number - 1) * 128..number * 128];
        entry[..16].copy_from_slice(&type_guid.0);
        entry[16..32].fill(number as u8);
        entry[32..40].copy_from_slice(&first.to_le_bytes());
        entry[40..48].copy_from_slice(&(first + 63).to_le_bytes());
        entry[48..56].copy_from_slice(&(0x0100_0000_0000_0004 + number as u64).to_le_bytes());
        entry[56..60].copy_from_slice(b"S\0\xe9\0");
    }
    let mut disk = vec![0; GEOMETRY.sectors as usize * SECTOR];
    let last = GEOMETRY.last_lba();
    for (own, other, at) in [(1, last, 2), (last, 1, last - TABLE_SECTORS)] {
        let mut header = vec![0; 92];
        header[..8].copy_from_slice(b"EFI PART");
        header[8..12].copy_from_slice(&0x0001_0000u32.to_le_bytes());
        header[12..16].copy_from_slice(&92u32.to_le_bytes());
        for (place, value) in [(24, own), (32, other), (40, 34), (48, last - TABLE_SECTORS - 1), (72, at)] {
            header[place..place + 8].copy_from_slice(&value.to_le_bytes());
        }
        header[56..72].fill(0xaa);
        for (place, value) in [(80, 128u32), (84, 128), (88, crc32(&entries))] {
            header[place..place + 4].copy_from_slice(&value.to_le_bytes());
        }
        let checksum = crc32(&header);
        header[16..20].copy_from_slice(&checksum.to_le_bytes());
        put(&mut disk, own, &header);
        put(&mut disk, at, &entries);
    }
    disk
}

fn put(disk: &mut [u8], lba: u64, bytes: &[u8]) {
    let at = lba as usize * SECTOR;
    disk[at..at + bytes.len()].copy_from_slice(bytes);
}

fn read_copy(disk: &[u8], lba: u64) -> Result<TableCopy, Fault> {
    let at = lba as usize * SECTOR;
    let header = Header::parse(&disk[at..at + SECTOR], lba, GEOMETRY)?;
    let at = header.entries_offset() as usize;
    let entries = disk[at..at + header.entries_bytes()].to_vec();
    header.with_entries(entries)
}

fn read(disk: &[u8]) -> Table {
    let primary = read_copy(disk, PRIMARY_LBA);
    let backup = read_copy(disk, Table::backup_lba(&primary, GEOMETRY));
    Table::choose(primary, backup).expect("a sound table")
}

/// The steps as single sectors, each with the number of syncs before it.
fn sectors(steps: &[Step]) -> Vec<(usize, u64, Vec<u8>)> {
    let (mut syncs, mut out) = (0, Vec::new());
    for step in steps {
        match step {
            Step::Sync => syncs += 1,
            Step::Write { offset, bytes } => {
                assert_eq!((*offset as usize % SECTOR, bytes.len() % SECTOR), (0, 0), "whole sectors");
                let lbas = offset / SECTOR as u64..;
                let chunks = bytes.chunks(SECTOR).zip(lbas);
                out.extend(chunks.map(|(chunk, lba)| (syncs, lba, chunk.to_vec())));
            }
        }
    }
    out
}

fn perform(disk: &mut [u8], steps: &[Step]) {
    for (_, lba, bytes) in sectors(steps) {
        put(disk, lba, &bytes);
    }
}

fn attributes(table: &Table) -> Vec<(u32, u64)> {
    table.partitions().iter().map(|partition| (partition.number, partition.attributes)).collect()
}

/// What may be wrong with a disk before a change starts.
fn damaged_disks() -> Vec<(&'static str, Vec<u8>)> {
    let last = GEOMETRY.last_lba();
    let mut disks = vec![("sound", disk())];
    for (name, lba) in [
        ("primary header", 1),
        ("primary entries", 3),
        ("backup header", last),
        ("backup entries", last - TABLE_SECTORS),
    ] {
        let mut disk = disk();
        put(&mut disk, lba, &[0x55; 64]);
        disks.push((name, disk));
    }
    let mut half_changed = disk();
    let steps = read(&half_changed).change(&[(3, 7)]).expect("room");
    perform(&mut half_changed, &steps[..3]);
    disks.push(("backup differs", half_changed));
    disks
}

#[test]
fn partitions_keep_their_numbers() {
    let partitions = read(&disk()).partitions();
    let told: Vec<_> = partitions.iter().map(|p| (p.number, p.first_lba, p.last_lba, p.attributes)).collect();
    let high = 0x0100_0000_0000_0004;
    assert_eq!(told, [(3, 64, 127, high + 3), (4, 128, 191, high + 4), (9, 192, 255, high + 9)]);
    assert_eq!(partitions[2].type_guid, layout::STATE_TYPE);
    assert_eq!(partitions[2].guid, Guid([9; 16]));
    assert_eq!(partitions[0].name, "Sé");
}

#[test]
fn damage_is_told_and_mended() {
    for (name, mut disk) in damaged_disks() {
        let table = read(&disk);
        let want = match name {
            "sound" => None,
            "primary header" => Some((Place::Primary, Fault::NoHeader)),
            "primary entries" => Some((Place::Primary, Fault::EntriesChecksum)),
            "backup header" => Some((Place::Backup, Fault::NoHeader)),
            "backup entries" => Some((Place::Backup, Fault::EntriesChecksum)),
            _ => Some((Place::Backup, Fault::Stale)),
        };
        assert_eq!(table.damage().map(|(place, fault)| (place, fault.clone())), want, "{name}");
        let steps = table.repair().expect("room");
        assert_eq!(steps.is_empty(), want.is_none(), "{name}");
        perform(&mut disk, &steps);
        assert_eq!(disk, self::disk(), "{name}: mended to the byte");
    }
}

#[test]
fn a_change_cut_off_at_any_sector_is_old_or_new() {
    let new = 0x0021_0000_0000_0007;
    for (name, disk) in damaged_disks() {
        let table = read(&disk);
        let old = attributes(&table);
        let mut wanted = old.clone();
        wanted[1].1 = new;
        let steps = table.change(&[(4, new)]).expect("room");
        let writes = sectors(&steps);
        for done in 0..=writes.len() {
            let mut cut = disk.clone();
            for (_, lba, bytes) in &writes[..done] {
                put(&mut cut, *lba, bytes);
            }
            let found = read(&cut);
            let got = attributes(&found);
            assert!(got == old || got == wanted, "{name}, {done} sectors: {got:x?}");
            perform(&mut cut, &found.repair().expect("room"));
            assert_eq!(attributes(&read(&cut)), got, "{name}, {done}: repair changes nothing else");
            assert_eq!(read(&cut).damage(), None, "{name}, {done}");
            if done == writes.len() {
                assert_eq!(got, wanted, "{name}");
                assert_eq!(found.damage(), None, "{name}: a change mends the other copy");
            }
        }
    }
}

proptest! {
    #[test]
    fn unsynced_sectors_may_land_in_any_order(
        damage in 0usize..6,
        bits in any::<[u64; 2]>(),
        window in 0usize..3,
        landed in proptest::collection::vec(any::<bool>(), 33),
    ) {
        let (name, disk) = damaged_disks().swap_remove(damage);
        let table = read(&disk);
        let old = attributes(&table);
        let mut wanted = old.clone();
        (wanted[0].1, wanted[1].1) = (bits[0], bits[1]);
        let steps = table.change(&[(3, bits[0]), (4, bits[1])]).expect("room");
        let mut cut = disk;
        let mut chances = landed.iter();
        for (syncs, lba, bytes) in sectors(&steps) {
            if syncs < window || syncs == window && *chances.next().expect("33 sectors a window") {
                put(&mut cut, lba, &bytes);
            }
        }
        let got = attributes(&read(&cut));
        prop_assert!(got == old || got == wanted, "{}: {:x?}", name, got);
    }

    #[test]
    fn garbage_is_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 92), at in 8usize..92) {
        let mut sector = disk()[SECTOR..2 * SECTOR].to_vec();
        sector[at..92].copy_from_slice(&bytes[at..]);
        let size = u32::from_le_bytes(sector[12..16].try_into().expect("four bytes")) as usize;
        // A right checksum lets the numbers themselves be looked at.
        sector[16..20].fill(0);
        let checksum = crc32(&sector[..size.clamp(20, SECTOR)]);
        sector[16..20].copy_from_slice(&checksum.to_le_bytes());
        if let Ok(header) = Header::parse(&sector, PRIMARY_LBA, GEOMETRY) {
            let end = header.entries_offset() + header.entries_bytes() as u64;
            prop_assert!(end <= GEOMETRY.sectors * SECTOR as u64);
        }
    }
}

#[test]
fn both_copies_damaged_is_an_error_that_names_both() {
    let mut disk = disk();
    put(&mut disk, 1, &[0; 64]);
    put(&mut disk, GEOMETRY.last_lba() - 1, &[1]);
    let primary = read_copy(&disk, PRIMARY_LBA);
    let backup = read_copy(&disk, Table::backup_lba(&primary, GEOMETRY));
    let error = Table::choose(primary, backup).expect_err("no table");
    assert_eq!(
        error.to_string(),
        "both partition tables are unusable; primary: no header; backup: bad checksum of the entries"
    );
}

#[test]
fn a_number_that_is_not_in_the_table_is_refused() {
    for number in [0, 129] {
        let want = Err(Fault::DoesNotFit { field: "partition number", value: number.into() });
        assert_eq!(read(&disk()).change(&[(number, 0)]), want);
    }
}

#[test]
fn a_disk_that_was_cut_short_is_refused() {
    let disk = disk();
    let short = Geometry { sectors: 400, ..GEOMETRY };
    let got = Header::parse(&disk[SECTOR..2 * SECTOR], PRIMARY_LBA, short);
    assert_eq!(got, Err(Fault::DoesNotFit { field: "sector of the other copy", value: 511 }));
}
