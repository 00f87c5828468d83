//! The database on real files.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use proa_etcd_store::{MemView, View, Writes};
use proptest::prelude::*;
use tempfile::tempdir;

use super::{Database, DatabaseError, DatabaseOptions, describe, received_file, start_receiving, verify};

const APPLIED: &[u8] = b"M/raft/applied";

fn opened(path: &Path) -> Database {
    Database::open(path, DatabaseOptions::default()).unwrap()
}

fn writes(puts: &[(&[u8], Option<&[u8]>)]) -> Writes {
    let puts = puts.iter().map(|(key, value)| (key.to_vec(), value.map(<[u8]>::to_vec)));
    Writes { puts: puts.collect() }
}

fn all(view: &dyn View) -> Vec<(Vec<u8>, Vec<u8>)> {
    view.scan(b"", b"\xFF\xFF").collect()
}

/// Copies what a crash would leave: the files as they are, while it is open.
fn crashed_copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for item in fs::read_dir(from).unwrap() {
        let path = item.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

#[test]
fn a_view_keeps_its_instant_and_outlives_its_handle_on_other_threads() {
    let dir = tempdir().unwrap();
    let database = opened(&dir.path().join("db"));
    database.write(&writes(&[(b"a", Some(b"1")), (b"b", Some(b"1"))]));
    let view = database.snapshot();
    database.write(&writes(&[(b"a", Some(b"2")), (b"b", None), (b"c", Some(b"2"))]));
    let later = database.snapshot();
    assert!(matches!(database.close(), Err(DatabaseError::InUse { .. })));
    let read = std::thread::spawn(move || all(&view)).join().unwrap();
    assert_eq!(read, [(b"a".to_vec(), b"1".to_vec()), (b"b".to_vec(), b"1".to_vec())]);
    assert_eq!(all(&later), [(b"a".to_vec(), b"2".to_vec()), (b"c".to_vec(), b"2".to_vec())]);
    assert_eq!((later.get(b"a"), later.get(b"b")), (Some(b"2".to_vec()), None));
}

#[test]
fn a_crash_goes_back_to_the_flushed_position_with_all_that_belongs_to_it() {
    let dir = tempdir().unwrap();
    let database = opened(&dir.path().join("db"));
    database.write(&writes(&[(APPLIED, Some(b"7")), (b"x", Some(b"seven"))]));
    assert_eq!(database.flush(APPLIED), Some(b"7".to_vec()));
    database.write(&writes(&[(APPLIED, Some(b"8")), (b"x", Some(b"eight")), (b"y", Some(b"eight"))]));

    let crashed = dir.path().join("crashed");
    crashed_copy(&dir.path().join("db"), &crashed);
    let found = opened(&crashed);
    assert_eq!(found.get(APPLIED), Some(b"7".to_vec()));
    assert_eq!((found.get(b"x"), found.get(b"y")), (Some(b"seven".to_vec()), None));

    // A close that is waited for loses nothing.
    database.close().unwrap();
    let found = opened(&dir.path().join("db"));
    assert_eq!((found.get(APPLIED), found.get(b"y")), (Some(b"8".to_vec()), Some(b"eight".to_vec())));
    assert!(found.size().total_bytes > 0);
}

#[test]
fn a_copy_replaces_another_database() {
    let dir = tempdir().unwrap();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    let sender = opened(&source);
    // Not flushed: the copy has it all the same.
    sender.write(&writes(&[(APPLIED, Some(b"9")), (b"k", Some(b"sent"))]));
    let copy = sender.checkpoint().unwrap();
    sender.write(&writes(&[(APPLIED, Some(b"10")), (b"k", Some(b"later"))]));
    let files = describe(&copy).unwrap();

    let receiver = opened(&target);
    receiver.write(&writes(&[(APPLIED, Some(b"2")), (b"old", Some(b"old"))]));
    let receive = |skip: Option<&str>| {
        let part = start_receiving(&target).unwrap();
        for file in files.iter().filter(|file| Some(file.name.as_str()) != skip) {
            fs::copy(copy.join(&file.name), received_file(&part, &file.name).unwrap()).unwrap();
        }
        part
    };
    let bad = |what: &str| match verify(&target, &files) {
        Err(DatabaseError::BadCopy { what: found, .. }) => assert!(found.contains(what), "{found}"),
        other => panic!("{what}: {other:?}"),
    };
    let sst = files.iter().find(|file| file.name.ends_with(".sst")).unwrap();
    receive(Some(&sst.name));
    bad("is missing");
    let part = receive(None);
    let mut bytes = fs::read(part.join(&sst.name)).unwrap();
    bytes[10] ^= 1;
    fs::write(part.join(&sst.name), &bytes).unwrap();
    bad("another checksum");
    fs::write(part.join(&sst.name), &bytes[1..]).unwrap();
    bad("bytes instead of");
    fs::write(receive(None).join("extra.sst"), b"x").unwrap();
    bad("was not announced");
    assert_eq!(receiver.get(b"old"), Some(b"old".to_vec()));

    receive(None);
    let staged = verify(&target, &files).unwrap();
    let receiver = receiver.replace(staged).unwrap();
    assert_eq!((receiver.get(APPLIED), receiver.get(b"k")), (Some(b"9".to_vec()), Some(b"sent".to_vec())));
    assert_eq!(receiver.get(b"old"), None);
    receiver.close().unwrap();
    let mut left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|item| item.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["source", "source.copy", "target"]);
}

#[test]
fn a_copy_waits_for_the_next_start_while_the_database_is_read() {
    let dir = tempdir().unwrap();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    let sender = opened(&source);
    sender.write(&writes(&[(b"k", Some(b"new"))]));
    let copy = sender.checkpoint().unwrap();
    let receiver = opened(&target);
    receiver.write(&writes(&[(b"k", Some(b"old"))]));
    let view = receiver.snapshot();
    let part = start_receiving(&target).unwrap();
    crashed_copy(&copy, &part);
    let staged = verify(&target, &describe(&copy).unwrap()).unwrap();
    assert!(matches!(receiver.replace(staged), Err(DatabaseError::InUse { .. })));
    assert_eq!(view.get(b"k"), Some(b"old".to_vec()));
    drop(view);
    assert_eq!(opened(&target).get(b"k"), Some(b"new".to_vec()));
}

#[test]
fn a_database_that_cannot_be_opened_is_an_error() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("db");
    let first = opened(&path);
    let refused = Database::open(&path, DatabaseOptions::default()).unwrap_err();
    assert!(matches!(&refused, DatabaseError::Open { .. }), "{refused}");
    drop(first);
    fs::write(path.join("CURRENT"), "MANIFEST-999999\n").unwrap();
    assert!(Database::open(&path, DatabaseOptions::default()).is_err());
}

#[test]
fn a_damaged_block_ends_the_process_with_one_line() {
    // The process that ends is this test once more, told what to read.
    if let Some(path) = std::env::var_os("PROA_TEST_DAMAGED_DATABASE") {
        all(&opened(Path::new(&path)).snapshot());
        return;
    }
    let dir = tempdir().unwrap();
    let path = dir.path().join("db");
    let database = opened(&path);
    let value = vec![b'v'; 1000];
    database.write(&writes(&[(b"k1", Some(&value)), (b"k2", Some(&value))]));
    database.flush(APPLIED);
    database.close().unwrap();
    let sst = fs::read_dir(&path).unwrap().map(|item| item.unwrap().path());
    let sst = sst.into_iter().find(|path| path.extension().is_some_and(|it| it == "sst")).unwrap();
    let mut bytes = fs::read(&sst).unwrap();
    bytes[700] ^= 1;
    fs::write(&sst, bytes).unwrap();

    let ended = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "database::tests::a_damaged_block_ends_the_process_with_one_line", "--nocapture"])
        .env("PROA_TEST_DAMAGED_DATABASE", &path)
        .output()
        .unwrap();
    assert_eq!(ended.status.signal(), Some(6), "{ended:?}");
    let said = String::from_utf8(ended.stderr).unwrap();
    let lines: Vec<&str> =
        said.lines().filter(|line| line.starts_with("etcd: cannot read the database")).collect();
    assert_eq!(lines.len(), 1, "{said}");
    assert!(lines[0].contains("Corruption"), "{said}");
}

/// Keys of few shapes, so that ranges meet them: versions of escaped user
/// keys as the store writes them, and others.
fn key() -> impl Strategy<Value = Vec<u8>> {
    let user =
        proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(2), Just(b'a'), Just(0xFF)], 0..3);
    let escaped = user.prop_map(|key| {
        let mut out = vec![b'K'];
        for byte in key {
            out.push(byte);
            if byte == 0 {
                out.push(0xFF);
            }
        }
        out
    });
    let ended = (escaped, 0u8..3, 0..3usize).prop_map(|(mut key, end, version)| {
        key.extend([0, end]);
        key.extend(vec![0xF0 + end; version * 6]);
        key
    });
    prop_oneof![6 => ended, 1 => proptest::collection::vec(b'J'..b'M', 0..3)]
}

type Puts = std::collections::BTreeMap<Vec<u8>, Option<Vec<u8>>>;

fn puts() -> impl Strategy<Value = Puts> {
    let value = proptest::option::weighted(0.8, proptest::collection::vec(any::<u8>(), 0..20));
    proptest::collection::btree_map(key(), value, 0..20)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_view_reads_like_an_ordered_map(
        batches in proptest::collection::vec((puts(), any::<bool>()), 1..6),
        ranges in proptest::collection::vec((key(), key()), 1..40),
    ) {
        let dir = tempdir().unwrap();
        let database = opened(&dir.path().join("db"));
        let mut model = MemView::default();
        for (puts, flush) in batches {
            let writes = Writes { puts };
            database.write(&writes);
            model.apply(&writes);
            if flush {
                database.flush(APPLIED);
            }
        }
        let view = database.snapshot();
        for (from, end) in &ranges {
            // Also all versions of one key, which is read through the filters.
            let mut after = from.clone();
            if let Some(last) = after.last_mut() {
                *last = last.wrapping_add(1);
            }
            for end in [end, &after] {
                prop_assert!(view.scan(from, end).eq(model.scan(from, end)), "{from:?}..{end:?}");
                prop_assert!(view.keys(from, end).eq(model.keys(from, end)), "{from:?}..{end:?}");
                prop_assert_eq!(view.first(from, end), model.first(from, end), "{:?}..{:?}", from, end);
            }
            prop_assert_eq!(view.get(from), model.get(from));
        }
    }
}
