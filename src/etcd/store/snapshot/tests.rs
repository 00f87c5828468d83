#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeMap;

use proa_etcd_api::command::{Command, command::Op};
use proa_etcd_api::etcdserverpb::{CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, PutRequest};
use proptest::prelude::*;

use super::bolt::{Bolt, BucketWriter, Bytes, Stopped, Writer};
use super::*;
use crate::keys;
use crate::machine::Machine;
use crate::view::{MemView, View, Writes};

type Buckets = BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>>;

fn fill(mut out: Writer<'_>, buckets: &Buckets) -> Result<bolt::Layout, Stopped> {
    for (name, entries) in buckets {
        let mut bucket = BucketWriter::default();
        for (key, value) in entries {
            bucket.put(&mut out, key, value)?;
        }
        out.end_bucket(name, bucket)?;
    }
    out.finish()
}

fn file_of(buckets: &Buckets) -> Vec<u8> {
    let layout = fill(Writer::measure(&mut |_| Ok(())), buckets).unwrap();
    let mut file = Vec::new();
    let mut sink = |bytes: &[u8]| {
        file.extend_from_slice(bytes);
        Ok(())
    };
    let written = fill(Writer::write(&layout, &mut sink).unwrap(), buckets).unwrap();
    assert_eq!(written, layout);
    assert_eq!(file.len() as u64, layout.size_bytes());
    file
}

fn read(file: &[u8], bucket: &str) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, bolt::BadFile> {
    let mut found = BTreeMap::new();
    let bytes = file.to_vec();
    let bytes: &dyn Bytes = &Slice(&bytes);
    Bolt::open(bytes)?.each(bucket, &mut |key, value| {
        found.insert(key.to_vec(), value.to_vec());
        Ok(())
    })?;
    Ok(found)
}

struct Slice<'a>(&'a [u8]);

impl Bytes for Slice<'_> {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), String> {
        Bytes::read(self.0, offset, out)
    }
}

fn entries() -> impl Strategy<Value = BTreeMap<Vec<u8>, Vec<u8>>> {
    let key = proptest::collection::vec(any::<u8>(), 1..40);
    let size = prop_oneof![20 => 0usize..60, 2 => 3000usize..9000];
    let value = (size, any::<u8>()).prop_map(|(size, byte)| vec![byte; size]);
    proptest::collection::btree_map(key, value, 0..400)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(small in entries(), large in entries()) {
        let buckets = Buckets::from([("a".to_owned(), small.clone()), ("b".to_owned(), large.clone())]);
        let file = file_of(&buckets);
        prop_assert_eq!(read(&file, "a").unwrap(), small);
        prop_assert_eq!(read(&file, "b").unwrap(), large);
        prop_assert!(read(&file, "c").unwrap().is_empty());
    }

    #[test]
    fn damage_is_an_error_or_another_value_and_never_a_panic(
        entries in entries(), at: prop::sample::Index, byte: u8, cut: prop::sample::Index,
    ) {
        let mut file = file_of(&Buckets::from([("key".to_owned(), entries)]));
        let at = at.index(file.len());
        file[at] = byte;
        let _ = read(&file, "key").is_ok();
        file.truncate(cut.index(file.len() + 1));
        let _ = read(&file, "key").is_ok();
    }

    #[test]
    fn garbage_is_refused(file in proptest::collection::vec(any::<u8>(), 0..9000)) {
        prop_assert!(read(&file, "key").is_err());
    }
}

#[test]
fn many_entries_make_several_levels() {
    let entry = |number: u32| (number.to_be_bytes().to_vec(), vec![7; 300]);
    let entries: BTreeMap<_, _> = (0..30_000).map(entry).collect();
    let file = file_of(&Buckets::from([("key".to_owned(), entries.clone())]));
    assert!(read(&file, "key").unwrap() == entries);
}

fn apply(machine: &mut Machine, view: &mut MemView, op: Op) {
    let mut writes = Writes::default();
    machine.apply(view, &mut writes, &Command { op: Some(op) }).reply.unwrap();
    view.apply(&writes);
}

/// A store with some past: 300 puts on 60 keys, deletions, a lease, perhaps a compaction.
fn lived_in(compact: Option<i64>) -> MemView {
    let mut view = MemView::default();
    let mut machine = Machine::load(&view).unwrap();
    apply(&mut machine, &mut view, Op::LeaseGrant(LeaseGrantRequest { id: 77, ttl: 600 }));
    for number in 0..300u32 {
        let key = format!("key{}", number * 7 % 60);
        let lease = if number % 5 == 0 { 77 } else { 0 };
        let put = PutRequest {
            key: key.clone().into(),
            value: number.to_string().repeat(if number % 17 == 0 { 3_000 } else { 1 }).into(),
            lease,
            ..Default::default()
        };
        apply(&mut machine, &mut view, Op::Put(put));
        if number % 11 == 0 {
            let delete = DeleteRangeRequest { key: key.into(), ..Default::default() };
            apply(&mut machine, &mut view, Op::DeleteRange(delete));
        }
    }
    if let Some(revision) = compact {
        let compaction = CompactionRequest { revision, physical: false };
        apply(&mut machine, &mut view, Op::Compaction(compaction));
    }
    view
}

fn exported(view: &MemView, sort_bytes: usize) -> Vec<u8> {
    let stamp = Stamp { applied_index: 9, term: 2, cluster_version: "3.5.0" };
    let layout = export::run(view, &stamp, sort_bytes, Writer::measure(&mut |_| Ok(()))).unwrap();
    let mut file = Vec::new();
    let mut sink = |bytes: &[u8]| {
        file.extend_from_slice(bytes);
        Ok(())
    };
    let out = Writer::write(&layout, &mut sink).unwrap();
    assert_eq!(export::run(view, &stamp, sort_bytes, out).unwrap(), layout);
    file
}

fn imported(file: &[u8], past: Past) -> (MemView, Imported) {
    let mut view = MemView::default();
    let bytes = Slice(file);
    let bolt = Bolt::open(&bytes).unwrap();
    let mut store = |writes: Writes| {
        view.apply(&writes);
        Ok(())
    };
    let found = import(&bolt, past, &mut store).unwrap();
    let before = view.clone();
    attach_leases(&before, &mut |writes| {
        view.apply(&writes);
        Ok(())
    })
    .unwrap();
    (view, found)
}

fn hash(view: &MemView) -> u32 {
    crate::hash_kv(view, Machine::load(view).unwrap().head(), 0).unwrap()
}

#[test]
fn a_store_comes_back_as_it_was() {
    for compact in [None, Some(100), Some(250)] {
        let view = lived_in(compact);
        let file = exported(&view, 1 << 20);
        let (back, found) = imported(&file, Past::Kept);
        let machine = Machine::load(&view).unwrap();
        assert_eq!(found.head, machine.head(), "{compact:?}");
        assert_eq!(hash(&back), hash(&view), "{compact:?}");
        assert_eq!(crate::lease_keys(&back, 77), crate::lease_keys(&view, 77), "{compact:?}");
        assert_eq!(Machine::load(&back).unwrap().lease(77), machine.lease(77), "{compact:?}");
        assert_eq!(exported(&back, 1 << 20).len(), file.len(), "{compact:?}");
    }
}

#[test]
fn little_memory_gives_the_same_file() {
    let view = lived_in(Some(100));
    assert!(exported(&view, 1 << 20) == exported(&view, 2000));
}

#[test]
fn a_bumped_store_gives_no_revision_twice() {
    let view = lived_in(None);
    let file = exported(&view, 1 << 20);
    let head = Machine::load(&view).unwrap().head();
    let (back, found) = imported(&file, Past::GivenUp(1000));
    assert_eq!(found.head.revision, head.revision + 1000);
    assert_eq!(found.head.compact_revision, head.revision + 1000);
    let mut machine = Machine::load(&back).unwrap();
    let mut back = back;
    let put = PutRequest { key: "new".into(), ..Default::default() };
    apply(&mut machine, &mut back, Op::Put(put));
    assert_eq!(machine.head().revision, head.revision + 1001);
    let (_, found) = imported(&file, Past::Bumped(1000));
    assert_eq!((found.head.revision, found.head.compact_revision), (head.revision + 1000, -1));
}

#[test]
fn an_empty_store_has_a_snapshot_too() {
    let file = exported(&MemView::default(), 1 << 20);
    let (back, found) = imported(&file, Past::Kept);
    assert_eq!((found.head, found.versions), (crate::Head::EMPTY, 0));
    assert!(back.first(b"K", b"L").is_none());
    let bytes = Slice(&file);
    let summary = Bolt::open(&bytes).unwrap().summary().unwrap();
    assert_eq!((summary.revision, summary.total_bytes), (0, file.len() as u64));
}

#[test]
fn a_key_that_is_no_revision_is_named() {
    let entries = BTreeMap::from([(b"x".to_vec(), Vec::new())]);
    let file = file_of(&Buckets::from([("key".to_owned(), entries)]));
    let bytes = Slice(&file);
    let bolt = Bolt::open(&bytes).unwrap();
    let error = import(&bolt, Past::Kept, &mut |_| Ok(())).unwrap_err();
    assert_eq!(error.to_string(), "the entry x of the bucket key cannot be read: it is no revision");
}

#[test]
fn a_version_that_cannot_be_read_is_an_error() {
    let damaged = |change: &dyn Fn(&mut Writes, &[u8])| {
        let mut view = lived_in(None);
        let mut writes = Writes::default();
        let (version, _) =
            view.entries().find(|(key, _)| key.starts_with(b"K") && key.ends_with(&[2])).unwrap();
        change(&mut writes, version);
        view.apply(&writes);
        let stamp = Stamp { applied_index: 9, term: 2, cluster_version: "3.5.0" };
        export::run(&view, &stamp, 1 << 20, Writer::measure(&mut |_| Ok(())))
    };
    let whole = damaged(&|_, _| {});
    assert!(whole.is_ok());
    // The record, and then the value that lies apart from it.
    let record = damaged(&|writes, version| writes.put(version.to_vec(), vec![0xFF]));
    assert!(matches!(record, Err(ExportError::Corrupt(_))), "{record:?}");
    let value = damaged(&|writes, version| {
        let place: Vec<u8> =
            version[version.len() - 13..version.len() - 1].iter().map(|byte| !byte).collect();
        writes.delete([b"B", &place[..]].concat());
    });
    assert!(matches!(value, Err(ExportError::Corrupt(_))), "{value:?}");
}

#[test]
fn a_new_cluster_takes_over_what_is_not_the_members() {
    let mut view = lived_in(None);
    let mut writes = Writes::default();
    let own = [keys::alarm(7, 1), keys::member(7), [crate::RAFT_PREFIX, b"position"].concat()];
    own.iter().for_each(|key| writes.put(key.clone(), vec![1]));
    let tree = b"Vn\0\x01/a".to_vec();
    writes.put(tree.clone(), vec![2]);
    view.apply(&writes);
    let names = |what| carried(&view, what).map(|(key, _)| key).collect::<Vec<_>>();
    let all = view.entries().map(|(key, _)| key.to_vec());
    assert_eq!(names(Carried::All), all.filter(|key| !own.contains(key)).collect::<Vec<_>>());
    assert_eq!(names(Carried::V2), [tree]);
}
