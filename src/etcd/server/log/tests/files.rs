//! The log on real files.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::DirEntryExt as _;
use std::path::Path;

use tempfile::tempdir;

use super::super::{Log, LogError, LogOptions, lock::FolderLock};
use super::{SMALL, entries, hard_state, made};

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let read = |item: std::io::Result<fs::DirEntry>| {
        let path = item.unwrap().path();
        (path.file_name().unwrap().to_str().unwrap().to_string(), fs::read(path).unwrap())
    };
    fs::read_dir(dir).unwrap().map(read).collect()
}

fn names(dir: &Path, extension: &str) -> Vec<String> {
    files(dir).into_keys().filter(|name| name.ends_with(extension)).collect()
}

fn put(dir: &Path, files: &BTreeMap<String, Vec<u8>>) {
    fs::create_dir_all(dir).unwrap();
    for (name, bytes) in files {
        fs::write(dir.join(name), bytes).unwrap();
    }
}

/// Six segments of entries 1..=30, all committed.
fn filled(dir: &Path) -> Log {
    let mut log = made(dir);
    for index in 1..=30 {
        let _ = log.append(&entries(index..=index, 1, 1500), Some(&hard_state(1, 2, index))).unwrap();
        log.reserve().unwrap();
    }
    assert!(names(dir, ".wal").len() > 5);
    log
}

#[test]
fn what_was_appended_is_there_after_opening_again() {
    let dir = tempdir().unwrap();
    let mut log = made(dir.path());
    let receipt = log.append(&entries(1..=3, 1, 40), Some(&hard_state(1, 9, 2))).unwrap();
    assert_eq!((receipt.last_index(), receipt.last_term(), receipt.batch()), (3, 1, 2));
    let _ = log.append(&entries(4..=4, 2, 0), None).unwrap();
    drop(log);
    let (log, found) = Log::open(dir.path(), SMALL).unwrap();
    assert_eq!(found.entries, [entries(1..=3, 1, 40), entries(4..=4, 2, 0)].concat());
    assert_eq!((found.hard_state, found.snapshot, found.cut_bytes), (hard_state(1, 9, 2), None, 0));
    assert_eq!((log.marker_index(), log.last_index()), (0, 4));
}

#[test]
fn a_later_entry_with_a_lower_index_replaces_the_tail() {
    let dir = tempdir().unwrap();
    let mut log = filled(dir.path());
    // Goes back over several segments.
    let _ = log.append(&entries(11..=12, 5, 10), Some(&hard_state(5, 1, 10))).unwrap();
    assert_eq!(log.last_index(), 12);
    drop(log);
    let (mut log, found) = Log::open(dir.path(), SMALL).unwrap();
    assert_eq!(found.entries, [entries(1..=10, 1, 1500), entries(11..=12, 5, 10)].concat());
    // Segments that held only what was replaced can go as soon as 12 can.
    log.compact(12).unwrap();
    assert_eq!(names(dir.path(), ".wal").len(), 1);
    drop(log);
    let (_log, found) = Log::open(dir.path(), SMALL).unwrap();
    assert_eq!((found.entries, found.snapshot), (vec![], Some((12, 5))));
}

#[test]
fn an_append_larger_than_a_segment_takes_several() {
    let dir = tempdir().unwrap();
    let mut log = made(dir.path());
    let _ = log.append(&entries(1..=40, 1, 1000), Some(&hard_state(1, 3, 40))).unwrap();
    drop(log);
    let (_log, found) = Log::open(dir.path(), SMALL).unwrap();
    assert_eq!(found.entries, entries(1..=40, 1, 1000));
    assert_eq!(found.hard_state, hard_state(1, 3, 40));
}

/// A file that is made anew has to be filled before it is of use.
#[test]
fn a_log_that_is_compacted_now_and_then_goes_round_in_the_same_files() {
    let dir = tempdir().unwrap();
    let options = LogOptions { spares: 1, kept_files: 6, ..SMALL };
    let mut log = Log::create(dir.path(), options, (0, 0)).unwrap();
    let mut write = |indices: std::ops::RangeInclusive<u64>| {
        for index in indices {
            let _ = log.append(&entries(index..=index, 1, 1500), None).unwrap();
            log.reserve().unwrap();
            // Three segments take some fifteen of these, and one is kept.
            if index.is_multiple_of(15) {
                log.compact(index - 3).unwrap();
            }
        }
        let inodes = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().ino());
        inodes.collect::<std::collections::BTreeSet<_>>()
    };
    let once = write(1..=60);
    assert_eq!(write(61..=600), once);
}

#[test]
fn compaction_recycles_whole_segments_and_keeps_the_rest() {
    let dir = tempdir().unwrap();
    let mut log = filled(dir.path());
    log.compact(20).unwrap();
    let kept = names(dir.path(), ".wal").len();
    assert!(kept < 5, "{kept} segments are left");
    assert_eq!(names(dir.path(), ".spare").len(), SMALL.spares);
    log.compact(20).unwrap();
    drop(log);
    let (mut log, found) = Log::open(dir.path(), SMALL).unwrap();
    assert_eq!((found.entries, found.snapshot), (entries(21..=30, 1, 1500), Some((20, 1))));
    assert_eq!(found.hard_state, hard_state(1, 2, 30));
    assert!(matches!(log.compact(31), Err(LogError::Gap { .. })));

    // Recycled files hold the records of their last life where the next goes.
    for index in 31..=60 {
        let _ = log.append(&entries(index..=index, 1, 1500), Some(&hard_state(1, 2, index))).unwrap();
        log.compact(index - 3).unwrap();
    }
    drop(log);
    let (_log, found) = Log::open(dir.path(), SMALL).unwrap();
    let (index, term) = found.snapshot.unwrap();
    assert!((50..=57).contains(&index) && term == 1, "compacted to {index}");
    assert_eq!(found.entries, entries(index + 1..=60, 1, 1500));
    assert!(files(dir.path()).len() <= 2 + SMALL.spares + 1, "{:?}", files(dir.path()).keys());
}

#[test]
fn a_crash_between_recycled_segments_loses_nothing() {
    let dir = tempdir().unwrap();
    let mut log = filled(dir.path());
    let before = files(dir.path());
    log.compact(24).unwrap();
    let after = files(dir.path());
    drop(log);
    let gone: Vec<&String> =
        before.keys().filter(|name| name.ends_with(".wal") && !after.contains_key(*name)).collect();
    assert!(gone.len() >= 3);
    for done in 0..=gone.len() {
        let crashed = tempdir().unwrap();
        put(crashed.path(), &after);
        put(
            crashed.path(),
            &gone[done..].iter().map(|name| ((*name).clone(), before[*name].clone())).collect(),
        );
        let (_log, found) = Log::open(crashed.path(), SMALL).unwrap();
        assert_eq!(
            (found.entries, found.snapshot),
            (entries(25..=30, 1, 1500), Some((24, 1))),
            "{done} gone"
        );
    }
    // Nobody gives up a segment before an older one: that is a lost file.
    let holed = tempdir().unwrap();
    put(holed.path(), &before);
    fs::remove_file(holed.path().join(gone[1])).unwrap();
    assert!(matches!(Log::open(holed.path(), SMALL), Err(LogError::Corrupt { .. })));
}

#[test]
fn a_received_snapshot_empties_the_log() {
    let dir = tempdir().unwrap();
    let mut log = filled(dir.path());
    let receipt = log.install_snapshot(100, 7, &hard_state(8, 1, 999)).unwrap();
    assert_eq!((receipt.last_index(), receipt.last_term()), (100, 7));
    assert_eq!(names(dir.path(), ".wal").len(), 1);
    assert!(matches!(log.append(&entries(100..=100, 8, 1), None), Err(LogError::Gap { .. })));
    let _ = log.append(&entries(101..=102, 8, 1), Some(&hard_state(8, 1, 101))).unwrap();
    drop(log);
    let (_log, found) = Log::open(dir.path(), SMALL).unwrap();
    assert_eq!((found.entries, found.snapshot), (entries(101..=102, 8, 1), Some((100, 7))));
    assert_eq!(found.hard_state, hard_state(8, 1, 101));
}

#[test]
fn a_log_can_start_after_a_snapshot() {
    let dir = tempdir().unwrap();
    drop(Log::create(dir.path(), SMALL, (10, 3)).unwrap());
    let (_log, found) = Log::open(dir.path(), SMALL).unwrap();
    assert_eq!(
        (found.entries, found.snapshot, found.hard_state),
        (vec![], Some((10, 3)), hard_state(3, 0, 10))
    );
}

#[test]
fn damage_is_named_and_nothing_is_changed() {
    let dir = tempdir().unwrap();
    drop(filled(dir.path()));
    let segment = dir.path().join("0000000000000002.wal");
    let mut bytes = fs::read(&segment).unwrap();
    bytes[300] ^= 4;
    fs::write(&segment, &bytes).unwrap();
    let before = files(dir.path());
    let refused = Log::open(dir.path(), SMALL).unwrap_err();
    assert!(
        matches!(&refused, LogError::Corrupt { path, offset: 0..=300, .. } if *path == segment),
        "{refused}"
    );
    assert!(refused.to_string().contains("0000000000000002.wal is damaged at byte"), "{refused}");
    assert_eq!(files(dir.path()), before);

    fs::write(&segment, &bytes[..5000]).unwrap();
    assert!(matches!(Log::open(dir.path(), SMALL), Err(LogError::Corrupt { offset: 5000, .. })), "cut file");
}

#[test]
fn the_last_batch_before_a_restart_is_protected_after_it() {
    let dir = tempdir().unwrap();
    let mut log = made(dir.path());
    let _ = log.append(&entries(1..=1, 1, 100), None).unwrap();
    drop(log);
    drop(Log::open(dir.path(), SMALL).unwrap());
    let segment = dir.path().join("0000000000000001.wal");
    let mut bytes = fs::read(&segment).unwrap();
    let at = bytes.windows(100).position(|window| window == &entries(1..=1, 1, 100)[0].data[..]).unwrap();
    bytes[at] ^= 1;
    fs::write(&segment, &bytes).unwrap();
    assert!(matches!(Log::open(dir.path(), SMALL), Err(LogError::Corrupt { .. })));
}

#[test]
fn a_torn_tail_is_cut_and_the_log_goes_on() {
    let dir = tempdir().unwrap();
    let mut log = made(dir.path());
    let _ = log.append(&entries(1..=2, 1, 100), None).unwrap();
    let end = log.live.end.offset;
    let _ = log.append(&entries(3..=5, 1, 700), None).unwrap();
    drop(log);
    let segment = dir.path().join("0000000000000001.wal");
    let full = fs::read(&segment).unwrap();
    for lost in [end..end + 512, end + 600..end + 601, end + 2000..full.len()] {
        let mut torn = full.clone();
        torn[lost.clone()].fill(0);
        fs::write(&segment, &torn).unwrap();
        let (mut log, found) = Log::open(dir.path(), SMALL).unwrap();
        assert_eq!(found.entries, entries(1..=2, 1, 100), "{lost:?}");
        let left = &fs::read(&segment).unwrap()[log.live.end.offset..];
        assert!(left.iter().all(|byte| *byte == 0), "{lost:?}: remains of the torn write are left");
        let _ = log.append(&entries(3..=3, 2, 5), None).unwrap();
        drop(log);
        let (_log, found) = Log::open(dir.path(), SMALL).unwrap();
        assert_eq!(found.entries, [entries(1..=2, 1, 100), entries(3..=3, 2, 5)].concat(), "{lost:?}");
    }
}

#[test]
fn only_one_process_opens_a_log() {
    let dir = tempdir().unwrap();
    let log = made(dir.path());
    let refused = Log::open(dir.path(), SMALL).unwrap_err().to_string();
    assert_eq!(refused, format!("data directory {} is in use by another process", dir.path().display()));
    assert!(FolderLock::acquire(dir.path()).is_err());
    drop(log);
    assert!(FolderLock::acquire(dir.path()).is_ok());
}

#[test]
fn a_log_is_neither_made_twice_nor_opened_unmade() {
    let dir = tempdir().unwrap();
    assert!(matches!(Log::open(dir.path(), SMALL), Err(LogError::Absent { .. })));
    assert!(matches!(Log::open(&dir.path().join("none"), SMALL), Err(LogError::Absent { .. })));
    drop(made(dir.path()));
    assert!(matches!(Log::create(dir.path(), SMALL, (0, 0)), Err(LogError::Exists { .. })));
    let odd = LogOptions { segment_bytes: 10_000, ..SMALL };
    assert!(matches!(Log::open(dir.path(), odd), Err(LogError::BadOption { .. })));
}

#[test]
fn a_half_made_spare_is_removed_and_another_size_is_taken_up() {
    let dir = tempdir().unwrap();
    drop(filled(dir.path()));
    fs::write(dir.path().join("new-7.part"), [1; 100]).unwrap();
    let larger = LogOptions { segment_bytes: 16 << 10, ..SMALL };
    let (mut log, found) = Log::open(dir.path(), larger).unwrap();
    assert_eq!(found.entries.len(), 30);
    let _ = log.append(&entries(31..=31, 1, 12_000), Some(&hard_state(1, 2, 31))).unwrap();
    log.compact(31).unwrap();
    drop(log);
    for (name, bytes) in files(dir.path()) {
        assert!(!name.ends_with(".part"), "{name}");
        assert!(name.ends_with(".wal") || bytes.len() == 16 << 10, "{name}");
    }
    assert_eq!(Log::open(dir.path(), SMALL).unwrap().1.entries.len(), 0);
}

#[test]
fn a_full_disk_refuses_before_anything_is_written_and_compaction_frees_it() {
    let dir = tempdir().unwrap();
    // As if the file system were full for all but what is reserved.
    let full = LogOptions { keep_free_bytes: u64::MAX / 2, ..SMALL };
    let refused = Log::create(&dir.path().join("new"), full.clone(), (0, 0)).unwrap_err();
    assert!(matches!(refused, LogError::NoSpace { segment_bytes: 8192, .. }) && !refused.is_fatal());

    let mut log = made(dir.path());
    assert!(!log.room().unwrap().low);
    log.options = full.clone();
    let mut last = 0;
    let refused = loop {
        match log.append(&entries(last + 1..=last + 1, 1, 1500), Some(&hard_state(1, 2, last + 1))) {
            Ok(_) => last += 1,
            Err(refused) => break refused,
        }
        let _ = log.reserve();
        assert!(log.room().unwrap().low);
    };
    assert!(matches!(refused, LogError::NoSpace { .. }), "{refused}");
    assert!(last >= 3 * 4, "the reserved segments were used: {last}");
    assert_eq!(log.last_index(), last);

    // The same after a restart; what is there can be read, and given back.
    drop(log);
    let (mut log, found) = Log::open(dir.path(), full).unwrap();
    assert_eq!(found.entries, entries(1..=last, 1, 1500));
    assert!(log.append(&entries(last + 1..=last + 1, 1, 1500), None).is_err());
    log.compact(last).unwrap();
    let _ = log.append(&entries(last + 1..=last + 1, 1, 1500), None).unwrap();
}

#[test]
fn what_cannot_be_written_leaves_the_log_as_it_was() {
    let dir = tempdir().unwrap();
    let mut log = made(dir.path());
    let _ = log.append(&entries(1..=2, 1, 10), None).unwrap();
    assert!(matches!(log.append(&entries(3..=3, 1, 8000), None), Err(LogError::TooLarge { index: 3, .. })));
    assert!(matches!(
        log.append(&entries(4..=4, 1, 1), None),
        Err(LogError::Gap { index: 4, first: 1, last: 2 })
    ));
    let holed = [entries(3..=3, 1, 1), entries(5..=5, 1, 1)].concat();
    assert!(matches!(log.append(&holed, None), Err(LogError::Gap { index: 5, .. })));
    let _ = log.append(&entries(3..=3, 1, 10), None).unwrap();
    drop(log);
    assert_eq!(Log::open(dir.path(), SMALL).unwrap().1.entries, entries(1..=3, 1, 10));
}

#[test]
fn after_a_failed_write_nothing_is_written() {
    let dir = tempdir().unwrap();
    let mut log = made(dir.path());
    // A descriptor that cannot write stands for a disk that cannot.
    log.live.file = File::open(&log.live.path).unwrap();
    let failed = log.append(&entries(1..=1, 1, 10), None).unwrap_err();
    assert!(matches!(failed, LogError::SyncFailed { action: "write", .. }) && failed.is_fatal(), "{failed}");
    let refused = log.append(&[], None).unwrap_err();
    assert!(matches!(refused, LogError::Poisoned { .. }) && refused.is_fatal());
}
