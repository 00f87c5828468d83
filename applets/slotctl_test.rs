//! What `slotctl` prints and refuses, on a disk image that sfdisk makes.

#![allow(clippy::unwrap_used)]

use super::{Subject, aligned, parse, run};
use proa_update_disk::{Disk, Slots};
use proa_update_model::{boot_record::BootRecord, hash::Sha256, layout};
use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

/// A disk with slot A, proven, and slot B, never written.
fn image() -> tempfile::NamedTempFile {
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(16 << 20).unwrap();
    let slot = layout::SLOT_TYPE;
    let script =
        format!("label: gpt\n3: size=2MiB, type={slot}, attrs=\"GUID:48,56\"\n4: size=2MiB, type={slot}\n");
    let mut sfdisk = Command::new("/usr/sbin/sfdisk")
        .arg("--quiet")
        .arg(image.path())
        .stdin(Stdio::piped())
        .spawn()
        .expect("/usr/sbin/sfdisk, of the package fdisk");
    sfdisk.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(sfdisk.wait().unwrap().success());
    image
}

/// What a command line prints, or its one line of error.
fn say(disk: &Path, line: &str) -> String {
    let mut words = vec!["--disk".to_owned(), disk.display().to_string()];
    words.extend(line.split_whitespace().map(str::to_owned));
    match parse(&words) {
        Ok(asked) => run(&asked).unwrap_or_else(|error| proa_base::cli::chain(&error)),
        Err(exit) => exit.output,
    }
}

#[test]
fn slots_are_shown_and_changed() {
    let image = image();
    let head = "SLOT  PARTITION  PRIORITY  TRIES  SUCCESSFUL  STATE  VERSION  SYSTEM\n";
    #[rustfmt::skip]
    let cases = [
        ("show",                        "A     3          1         0      yes         next   -        -\n\
                                         B     4          0         0      no          -      -        -\n"),
        ("set b --priority 2 --tries 3","A     3          1         0      yes         -      -        -\n\
                                         B     4          2         3      no          next   -        -\n"),
        ("set 3 --successful=no",       "A     3          1         0      no          -      -        -\n\
                                         B     4          2         3      no          next   -        -\n"),
        ("good B",                      "A     3          1         0      no          -      -        -\n\
                                         B     4          2         0      yes         next   -        -\n"),
        ("set B --priority 0 --force",  "A     3          1         0      no          -      -        -\n\
                                         B     4          0         0      yes         -      -        -\n"),
    ];
    for (line, want) in cases {
        assert_eq!(say(image.path(), line), format!("{head}{want}"), "{line}");
    }
}

#[test]
fn bad_input_gets_one_clear_line_and_changes_nothing() {
    let image = image();
    let before = say(image.path(), "show");
    let disk = image.path().display().to_string();
    #[rustfmt::skip]
    let cases = [
        ("set A",                  "nothing to set; give --priority, --tries or --successful"),
        ("set C --tries 1",        &format!("\"C\" is no slot of {disk}; there are slot A (partition 3), slot B (partition 4)")),
        ("set A --priority 0",     "no slot would boot then; --force sets it all the same"),
        ("set A --successful no",  "no slot would boot then; --force sets it all the same"),
        ("set A --priority 16",    "give a number from 0 to 15"),
        ("set A --tries -1",       "give a number from 0 to 15"),
        ("set A --successful ja",  "give yes or no"),
        ("good",                   &format!("no slot of {disk} runs; name the one that is good")),
        ("set",                    "slot"),
        ("boot A",                 "boot"),
    ];
    for (line, want) in cases {
        let said = say(image.path(), line);
        assert!(said.contains(want), "{line}: {said}");
        assert_eq!(say(image.path(), "show"), before, "{line}");
    }
    let missing = say(Path::new("/dev/none"), "show");
    assert!(missing.starts_with("cannot open disk /dev/none: No such file"), "{missing}");
    let empty = tempfile::NamedTempFile::new().unwrap();
    empty.as_file().set_len(1 << 20).unwrap();
    assert!(say(empty.path(), "show").contains("has no slots"));
}

#[test]
fn the_slot_that_runs_is_marked() {
    let image = image();
    let record = BootRecord {
        disk: image.path().display().to_string(),
        slot: 4,
        letter: 'B',
        version: "1.2.3".to_owned(),
        root_hash: Sha256::of(b"root"),
        proven: false,
        kernel: String::new(),
        booted_unix_ms: 0,
    };
    let slots = Slots::find(Disk::open(image.path(), 512).unwrap()).unwrap().unwrap();
    let table = Subject { slots, running: Some(record) }.table();
    assert!(table.lines().nth(2).unwrap().contains("running  1.2.3"), "{table}");
}

#[test]
fn columns_are_as_wide_as_they_must_be() {
    let rows = [["A", "WORD"], ["long", "x"]].map(|row| row.map(str::to_owned));
    assert_eq!(aligned(&rows), "A     WORD\nlong  x\n");
}
