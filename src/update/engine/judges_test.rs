//! What others say of a disk's partition table: gdisk, whether it is sound, and cgpt,
//! whose flags these are, what the flags of each slot say.
//!
//! No power cut may leave more than one copy of the table in need of mending. gdisk
//! is held to that copy: of a sound table it has to find no problem at all, of one
//! that was cut off in the middle only that the checksum of the entries is wrong,
//! which says the table is to be taken from the other copy. What our own mending
//! leaves must be sound again, with the same flags.

use std::{
    collections::BTreeSet,
    fs::File,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use proa_update_disk::{Disk, Slots};
use proa_update_model::{
    gpt::Place,
    slots::{SlotFlags, order},
};

const SECTOR: u64 = 512;
/// The first partition starts behind them.
const FIRST_SECTORS: u64 = 64;
/// Backup entries and backup header.
const LAST_SECTORS: u64 = 33;

/// gdisk's words for entries whose checksum is not the one in the main header.
const MAIN_TABLE: &str = "Problem: The CRC for the main partition table is invalid.";
const BACKUP_TABLE: &str = "Caution: The CRC for the backup partition table is invalid.";

/// The two, and the tables that they have seen.
pub struct Judges {
    path: PathBuf,
    sectors: u64,
    /// Both copies as they lay on the disk.
    seen: BTreeSet<Vec<u8>>,
    damaged: usize,
}

impl Judges {
    pub fn new(path: &Path, bytes: usize) -> Self {
        let (path, sectors) = (path.to_owned(), bytes as u64 / SECTOR);
        Self { path, sectors, seen: BTreeSet::new(), damaged: 0 }
    }

    /// How many tables they saw, and how many of them had a damaged copy.
    pub fn seen(&self) -> (usize, usize) {
        (self.seen.len(), self.damaged)
    }

    /// Shows them the table, once for each that there is: states that differ in the
    /// slots alone have the same. `slots` is what our boot code found there.
    pub fn see(&mut self, file: &File, slots: &Slots, what: &str) {
        let areas = [(0, FIRST_SECTORS), (self.sectors - LAST_SECTORS, LAST_SECTORS)];
        let read = |(first, count)| {
            let mut bytes = vec![0; (count * SECTOR) as usize];
            file.read_exact_at(&mut bytes, first * SECTOR).unwrap();
            bytes
        };
        let before = areas.map(read);
        if !self.seen.insert(before.concat()) {
            return;
        }
        let damage = self.damage();
        self.gdisk(damage, what);
        self.cgpt(slots, what);
        if damage.is_none() {
            return;
        }
        self.damaged += 1;
        let what = format!("{what}, mended");
        self.slots().mend().unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(self.damage(), None, "{what}");
        self.gdisk(None, &what);
        self.cgpt(slots, &what);
        for ((first, _), bytes) in areas.iter().zip(&before) {
            file.write_all_at(bytes, first * SECTOR).unwrap();
        }
    }

    fn disk(&self) -> Disk {
        Disk::open(&self.path, SECTOR as u32).unwrap()
    }

    fn slots(&self) -> Slots {
        Slots::find(self.disk()).unwrap().unwrap()
    }

    fn damage(&self) -> Option<Place> {
        self.disk().table().unwrap().damage().map(|(place, _)| place)
    }

    /// A copy that is being written is allowed to have entries that are not those of
    /// its header. gdisk takes the place of a lost header from the other copy, says so,
    /// and counts that as no problem.
    fn gdisk(&self, damage: Option<Place>, what: &str) {
        let (output, errors) = run(Command::new("/usr/sbin/sgdisk").arg("-v").arg(&self.path), "gdisk");
        let said = format!("{what}: {output}{errors}");
        let count = |line: &str| line.strip_prefix("Identified ")?.strip_suffix(" problems!")?.parse().ok();
        let found = match output.contains("No problems found.") {
            true => 0,
            false => output.lines().find_map(count).unwrap_or_else(|| panic!("{said}")),
        };
        let excused: &[&str] = match damage {
            None => &[],
            Some(Place::Backup) => &[BACKUP_TABLE],
            Some(Place::Primary) => &[MAIN_TABLE],
        };
        // As many as are excused, so there is none beside them. gdisk would have more to
        // say if it had to go on with entries that are not those of the main header,
        // which is why that is written as `Table::change` says.
        assert_eq!(found, excused.iter().filter(|words| output.contains(*words)).count(), "{said}");
        let sound: &[&str] = match damage {
            None => &["Main header:", "Main partition table:", "Backup header:", "Backup partition table:"],
            Some(Place::Backup) => &["Main header:", "Main partition table:"],
            Some(Place::Primary) => &["Backup header:", "Backup partition table:"],
        };
        assert!(!sound.iter().any(|part| errors.contains(&format!("{part} ERROR"))), "{said}");
        assert!(damage.is_some() || errors.is_empty(), "{said}");
    }

    /// cgpt reads the same flags, and by these the same slot boots first.
    fn cgpt(&self, slots: &Slots, what: &str) {
        let read = |index: usize| {
            let number = slots.partition(index).number;
            let show = |flag: &str| -> u8 {
                let mut cgpt = Command::new("/usr/bin/cgpt");
                cgpt.args(["show", "-i", &number.to_string(), flag]).arg(&self.path);
                let (output, errors) = run(&mut cgpt, "cgpt");
                output.trim().parse().unwrap_or_else(|_| panic!("{what}: {output}{errors}"))
            };
            SlotFlags::new(show("-P"), show("-T"), show("-S") == 1)
        };
        let theirs: Vec<SlotFlags> = (0..slots.count()).map(read).collect();
        let ours: Vec<SlotFlags> = (0..slots.count()).map(|index| slots.flags(index)).collect();
        assert_eq!(theirs, ours, "{what}");
        assert_eq!(order(&theirs), slots.boots(), "{what}");
    }
}

/// What a program of this Debian package printed.
fn run(command: &mut Command, package: &str) -> (String, String) {
    let output = command.output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}, of the package {package}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, errors) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}: {out}{errors}", output.status);
    (out, errors)
}
