//! Choosing and spending on disk images that sfdisk makes and sgdisk checks.

#![allow(clippy::unwrap_used)]

use super::{SlotError, Slots};
use crate::disk::{Disk, DiskError};
use proa_update_model::{layout, slots::SlotFlags};
use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::FileExt,
    path::Path,
    process::{Command, Stdio},
};

const SECTORS: u64 = 16 * 2048;

/// A disk of 16 MiB with holes between its partitions' numbers.
fn image(a: SlotFlags, b: SlotFlags) -> tempfile::NamedTempFile {
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(SECTORS * 512).unwrap();
    let bits = |flags: SlotFlags| {
        let set = (48..64).filter(|bit| flags.0 >> bit & 1 == 1).map(|bit| bit.to_string());
        format!("GUID:{}", set.collect::<Vec<_>>().join(","))
    };
    let script = format!(
        "label: gpt\n\
         1: size=1MiB, type={}, name=EFI-SYSTEM\n\
         3: size=2MiB, type={slot}, name=SLOT-A, attrs=\"{}\"\n\
         4: size=2MiB, type={slot}, name=SLOT-B, attrs=\"{}\"\n\
         9: size=4MiB, type={}, name=STATE\n",
        layout::ESP_TYPE,
        bits(a),
        bits(b),
        layout::STATE_TYPE,
        slot = layout::SLOT_TYPE,
    );
    // sfdisk takes no empty list of attributes.
    let script = script.replace(", attrs=\"GUID:\"", "");
    let mut sfdisk = Command::new("/usr/sbin/sfdisk")
        .args(["--quiet"])
        .arg(image.path())
        .stdin(Stdio::piped())
        .spawn()
        .expect("/usr/sbin/sfdisk, of the package fdisk");
    sfdisk.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(sfdisk.wait().unwrap().success(), "sfdisk refused:\n{script}");
    image
}

/// What sgdisk finds wrong, which must be nothing.
fn assert_sound(path: &Path) {
    let output = Command::new("/usr/sbin/sgdisk").arg("-v").arg(path).output();
    let output = output.expect("/usr/sbin/sgdisk, of the package gdisk");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains("No problems found"), "sgdisk -v: {text}");
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The attributes of a partition as sfdisk reads them.
fn attributes(path: &Path, number: u32) -> String {
    let output =
        Command::new("/usr/sbin/sfdisk").arg("--part-attrs").arg(path).arg(number.to_string()).output();
    let output = output.expect("/usr/sbin/sfdisk, of the package fdisk");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn slots(path: &Path) -> Slots {
    Slots::find(Disk::open(path, 512).unwrap()).unwrap().expect("a disk with slots")
}

fn garble(path: &Path, sector: u64) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&[0x5a; 512], sector * 512).unwrap();
}

fn flags(priority: u8, tries: u8, successful: bool) -> SlotFlags {
    SlotFlags::new(priority, tries, successful)
}

/// Boots once, up to the start of the slot; the slot's letter.
fn boot(path: &Path) -> Option<char> {
    let mut slots = slots(path);
    if slots.damage().is_some() {
        slots.mend().unwrap();
    }
    let boot = slots.boots().first().copied()?;
    slots.spend(&boot).unwrap();
    Some(layout::slot_letter(boot.index))
}

#[test]
fn a_fresh_image_boots_a_and_stays_as_it_is() {
    let image = image(flags(1, 0, true), flags(0, 0, false));
    let before = fs::read(image.path()).unwrap();
    assert_eq!(boot(image.path()), Some('A'));
    assert!(fs::read(image.path()).unwrap() == before, "nothing is written for a proven slot");
    let slots = slots(image.path());
    assert_eq!(slots.partition(0).number, 3);
    assert_eq!(slots.state().map(|state| state.number), Some(9));
    assert_eq!(slots.name(1), "slot B (partition 4)");
}

#[test]
fn a_bad_update_always_falls_back() {
    let image = image(flags(1, 0, true), flags(2, 2, false));
    assert_eq!(attributes(image.path(), 4), "GUID:49,53");
    assert_eq!(boot(image.path()), Some('B'));
    assert_eq!(attributes(image.path(), 4), "GUID:49,52", "one try of two is left");
    assert_sound(image.path());
    assert_eq!(boot(image.path()), Some('B'));
    assert_eq!(attributes(image.path(), 4), "GUID:49", "none is left");
    assert_sound(image.path());
    assert_eq!(boot(image.path()), Some('A'));
    assert_eq!(attributes(image.path(), 3), "GUID:48,56");
}

#[test]
fn partitions_keep_their_numbers_and_foreign_attributes() {
    let image = image(flags(1, 0, true), SlotFlags(flags(2, 1, false).0 | 1 << 60));
    assert_eq!(boot(image.path()), Some('B'));
    assert_eq!(attributes(image.path(), 4), "GUID:49,60");
    let table = Disk::open(image.path(), 512).unwrap().table().unwrap();
    let told: Vec<_> = table.partitions().into_iter().map(|p| (p.number, p.name)).collect();
    let want = [(1, "EFI-SYSTEM"), (3, "SLOT-A"), (4, "SLOT-B"), (9, "STATE")];
    assert_eq!(told, want.map(|(number, name)| (number, name.to_owned())));
    assert_sound(image.path());
}

#[test]
fn one_damaged_copy_is_mended_and_the_slot_boots() {
    #[rustfmt::skip]
    let cases = [
        ("primary header",  1,            "primary partition table"),
        ("primary entries", 2,            "primary partition table"),
        ("backup header",   SECTORS - 1,  "backup partition table"),
        ("backup entries",  SECTORS - 33, "backup partition table"),
    ];
    for (name, sector, want) in cases {
        for (b, letter) in [(flags(0, 0, false), 'A'), (flags(2, 1, false), 'B')] {
            let image = image(flags(1, 0, true), b);
            garble(image.path(), sector);
            let damage = slots(image.path()).damage().unwrap();
            assert!(damage.starts_with(want), "{name}: {damage}");
            assert_eq!(boot(image.path()), Some(letter), "{name}");
            assert_sound(image.path());
        }
    }
}

#[test]
fn a_try_is_spent_even_before_mending() {
    for sector in [1, SECTORS - 1] {
        let image = image(flags(1, 0, true), flags(2, 2, false));
        garble(image.path(), sector);
        let mut slots = slots(image.path());
        let boot = slots.boots()[0];
        slots.spend(&boot).unwrap();
        assert_eq!(slots.flags(1), flags(2, 1, false));
        assert_sound(image.path());
    }
}

#[test]
fn two_damaged_copies_are_an_error_that_names_both() {
    let image = image(flags(1, 0, true), flags(0, 0, false));
    garble(image.path(), 2);
    garble(image.path(), SECTORS - 1);
    let error = Slots::find(Disk::open(image.path(), 512).unwrap()).unwrap_err();
    let text = format!("{error}: {}", std::error::Error::source(&error).unwrap());
    let want = "both partition tables are unusable; primary: bad checksum of the entries; backup: no header";
    assert!(text.contains(want), "{text}");
    assert!(text.contains(&image.path().display().to_string()), "{text}");
}

#[test]
fn a_disk_without_a_table_has_no_slots() {
    let image = tempfile::NamedTempFile::new().unwrap();
    for bytes in [0, 512, 1 << 20] {
        image.as_file().set_len(bytes).unwrap();
        let found = Slots::find(Disk::open(image.path(), 512).unwrap());
        // An empty drive cannot even be read; that is told, not fatal.
        match bytes {
            1048576 => assert!(found.unwrap().is_none()),
            _ => assert!(matches!(found.unwrap_err(), DiskError::Table { .. })),
        }
    }
}

#[test]
fn a_try_that_cannot_be_written_is_an_error() {
    let image = image(flags(1, 0, true), flags(2, 1, false));
    let mut slots = slots(image.path());
    let boot = slots.boots()[0];
    let path = image.path().to_owned();
    image.close().unwrap();
    let error = slots.spend(&boot).unwrap_err();
    assert!(matches!(error, SlotError::Disk(DiskError::Write { .. })), "{error}");
    assert!(error.to_string().contains(&path.display().to_string()), "{error}");
}

#[test]
fn slots_that_cannot_boot_are_explained() {
    let image = image(flags(0, 3, true), flags(5, 0, false));
    let slots = slots(image.path());
    assert!(slots.boots().is_empty());
    assert_eq!(
        slots.explain(),
        [
            "slot A (partition 3): priority 0, tries 3, successful; not bootable: priority 0",
            "slot B (partition 4): priority 5, tries 0, unproven; not bootable: unproven and no tries left",
        ]
    );
}

#[test]
fn the_kernels_name_of_a_partition_is_found_by_number_and_start() {
    let image = image(flags(1, 0, true), flags(0, 0, false));
    let sys_block = tempfile::tempdir().unwrap();
    let disk = Disk::open(image.path(), 512).unwrap();
    let folder = sys_block.path().join(image.path().file_name().unwrap());
    for (name, number, start) in [("p3", 3, 4096), ("p4", 4, 8192)] {
        fs::create_dir_all(folder.join(name)).unwrap();
        fs::write(folder.join(name).join("partition"), format!("{number}\n")).unwrap();
        fs::write(folder.join(name).join("start"), format!("{start}\n")).unwrap();
    }
    let device = |number, first| disk.partition_device(sys_block.path(), number, first);
    assert_eq!(device(4, 8192), Some(image.path().with_file_name("p4")));
    assert_eq!(device(4, 4096), None, "a stale table of the kernel's is not believed");
    assert_eq!(device(9, 8192), None);
}
