//! Power cuts: every block write of a whole update is recorded, and at each moment
//! of it, with each write torn and with writes lost or reordered that were not yet
//! flushed, the boot code's own choice starts a slot whose every block is the one
//! that its hash tree has. Every partition table that comes about is shown to gdisk
//! and to cgpt.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

use proa_update_disk::{Disk, Slots};
use proa_update_model::{
    layout,
    payload::{self, Checkpoint, Expected, Manifest, manifest::Kind, wire},
    verity::{self, BLOCK_BYTES, Superblock, TreeBuilder, data_blocks_of_squashfs, salt_of_version},
};
use prost::Message as _;

use super::*;
use crate::{
    medium::DiskFile,
    pipeline::{Job, Pipeline, Work},
};
use judges::Judges;

#[path = "judges_test.rs"]
mod judges;

const SECTOR: usize = 512;
const KIB: u64 = 1 << 10;
const SLOT_KIB: u64 = 576;
const DATA_BLOCKS: u64 = 136;
const OPERATION_BYTES: usize = 24 * BLOCK_BYTES;

/// What happened to the disk.
#[derive(Clone)]
enum Happened {
    Written(u64, Vec<u8>),
    Read(u64, usize),
    Synced,
}

/// The real medium, and what it was told.
struct Recorder {
    disk: DiskFile,
    happened: Mutex<Vec<Happened>>,
}

/// What counts is the less of what may have happened: what was written is told when
/// the disk has it, and a flush when it begins, for what is written meanwhile.
impl Medium for Recorder {
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.happened.lock().unwrap().push(Happened::Read(offset, into.len()));
        self.disk.read(offset, into)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk.write(offset, bytes)?;
        self.happened.lock().unwrap().push(Happened::Written(offset, bytes.to_vec()));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.happened.lock().unwrap().push(Happened::Synced);
        self.disk.sync()
    }

    fn forget(&self, offset: u64, bytes: u64) {
        self.disk.forget(offset, bytes);
    }
}

fn data(seed: u8) -> Vec<u8> {
    let bytes = DATA_BLOCKS * BLOCK_BYTES as u64;
    let mut data: Vec<u8> = (0..bytes).map(|at| (at / 61 % 251) as u8 ^ seed).collect();
    data[..4].copy_from_slice(b"hsqs");
    data[28..30].copy_from_slice(&[4, 0]);
    data[40..48].copy_from_slice(&bytes.to_le_bytes());
    data
}

fn sealed(data: &[u8]) -> (Vec<u8>, Superblock) {
    let salt = salt_of_version("1.0.0");
    let mut tree = TreeBuilder::new(DATA_BLOCKS, &salt).unwrap();
    tree.push(data).unwrap();
    let tree = tree.finish().unwrap();
    let superblock = Superblock { data_blocks: DATA_BLOCKS, salt, root_hash: tree.root_hash };
    ([data, &superblock.render(), &tree.levels.concat()].concat(), superblock)
}

/// A disk on which A runs and B holds an older system that once was good.
fn disk(folder: &Path) -> PathBuf {
    let path = folder.join("disk");
    fs::File::create(&path).unwrap().set_len((SLOT_KIB * 2 + 2048) * KIB).unwrap();
    let script = format!(
        "label: gpt\nfirst-lba: 64\n\
         3: start=64, size={SLOT_KIB}KiB, type={slot}, name=SLOT-A, attrs=\"GUID:49,56\"\n\
         4: start=1216, size={SLOT_KIB}KiB, type={slot}, name=SLOT-B, attrs=\"GUID:48,56\"\n",
        slot = layout::SLOT_TYPE,
    );
    let mut sfdisk =
        Command::new("/usr/sbin/sfdisk").arg("--quiet").arg(&path).stdin(Stdio::piped()).spawn().unwrap();
    sfdisk.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(sfdisk.wait().unwrap().success());
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    let all = slots(&Disk::open(&path, SECTOR as u32).unwrap()).unwrap();
    file.write_all_at(&sealed(&data(1)).0, all[0].start).unwrap();
    file.write_all_at(&sealed(&data(2)).0, all[1].start).unwrap();
    path
}

/// The manifest of a payload that holds `data` as it is, in operations of 8 blocks.
fn manifest(data: &[u8], superblock: &Superblock) -> Manifest {
    let operation = |(number, data): (usize, &[u8])| wire::InstallOperation {
        kind: Kind::Replace as u32,
        data_offset: (number * OPERATION_BYTES) as u64,
        data_length: data.len() as u64,
        dst_extents: vec![wire::Extent {
            start_block: (number * OPERATION_BYTES / BLOCK_BYTES) as u64,
            num_blocks: (data.len() / BLOCK_BYTES) as u64,
        }],
        data_sha256_hash: Sha256::of(data).0.into(),
        ..wire::InstallOperation::default()
    };
    let size = data.len() as u64;
    let message = wire::DeltaArchiveManifest {
        partition_operations: data.chunks(OPERATION_BYTES).enumerate().map(operation).collect(),
        block_size: BLOCK_BYTES as u32,
        signatures_offset: size,
        signatures_size: 1,
        new_partition_info: Some(wire::PartitionInfo { size, hash: Sha256::of(data).0.into() }),
        verity: Some(wire::VerityInfo {
            data_blocks: DATA_BLOCKS,
            salt: superblock.salt.into(),
            root_hash: superblock.root_hash.0.into(),
        }),
        ..wire::DeltaArchiveManifest::default()
    };
    let body = message.encode_to_vec();
    let head = [&payload::header(body.len() as u64)[..], &body].concat();
    let expected = Expected {
        size_bytes: head.len() as u64 + size + 1,
        sha256: Sha256::of(b""),
        head_bytes: head.len() as u64,
        head_sha256: Sha256::of(&head),
        root_hash: superblock.root_hash,
        slot_bytes: verity::sealed_bytes(DATA_BLOCKS),
        source_bytes: None,
    };
    Manifest::read(&head, &expected).unwrap()
}

/// The whole update, by the functions that the updater calls, in the order of the
/// state machine's effects.
fn install(path: &Path, medium: &Arc<impl Medium>) -> Result<(), Error> {
    let disk = Disk::open(path, SECTOR as u32)?;
    let all = slots(&disk)?;
    let (slot, new) = (all[1], data(3));
    let manifest = manifest(&new, &sealed(&new).1);
    retire(&**medium, &disk, slot.number)?;
    let pipeline = Pipeline::start(Arc::clone(medium), Job::new(slot, all[0], &manifest, 0));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let writing = async {
        for (index, data) in new.chunks(OPERATION_BYTES).enumerate() {
            let operation = manifest.operations[index].clone();
            let after = Checkpoint { next_operation: index + 1, offset: 0, sha256_state: String::new() };
            assert!(pipeline.write(Work { index, operation, data: data.to_vec(), after }).await);
        }
        pipeline.finish().await
    };
    let matched = runtime.block_on(writing)?;
    let sealed = seal(&**medium, &slot, &matched)?;
    activate(&**medium, &disk, &sealed)
}

fn update(path: &Path) -> Vec<Happened> {
    let medium = Arc::new(Recorder { disk: DiskFile::open(path).unwrap(), happened: Mutex::default() });
    install(path, &medium).unwrap();
    std::mem::take(&mut *medium.happened.lock().unwrap())
}

/// A state of the disk as sectors that differ from the image it started with.
type Sectors = BTreeMap<u64, Vec<u8>>;

fn sectors(offset: u64, bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    (offset / SECTOR as u64..).zip(bytes.chunks(SECTOR))
}

/// Looks at states of the disk: the file is changed in place, and back.
struct Witness {
    path: PathBuf,
    file: fs::File,
    before: Vec<u8>,
    there: Sectors,
    states: u64,
    booted: BTreeMap<char, u64>,
    /// What was read and found to be right, by slot and content.
    known: BTreeMap<(usize, Vec<u8>), bool>,
    judges: Judges,
}

impl Witness {
    fn put(&mut self, state: &Sectors) {
        for (sector, content) in &self.there {
            if state.get(sector) != Some(content) {
                let at = *sector as usize * SECTOR;
                self.file.write_all_at(&self.before[at..at + SECTOR], at as u64).unwrap();
            }
        }
        for (sector, content) in state {
            if self.there.get(sector) != Some(content) {
                self.file.write_all_at(content, sector * SECTOR as u64).unwrap();
            }
        }
        self.there.clone_from(state);
    }

    /// What the boot does with this state: the first slot in its order that holds a
    /// whole system.
    fn boots(&mut self, state: &Sectors, what: &str) {
        self.put(state);
        self.states += 1;
        let found = Slots::find(Disk::open(&self.path, SECTOR as u32).unwrap());
        let all = found.unwrap_or_else(|error| panic!("{what}: {error}")).expect("slots");
        let boots = all.boots();
        assert!(!boots.is_empty(), "{what}: nothing boots");
        let start = |index: usize| all.partition(index).first_lba * SECTOR as u64;
        // The first choice must be whole: falling through to the second is for
        // disks that rot, not for power cuts.
        let index = boots[0].index;
        assert!(self.is_whole(index, start(index)), "{what}: slot {index} is chosen and not whole");
        *self.booted.entry(layout::slot_letter(index)).or_default() += 1;
        self.judges.see(&self.file, &all, what);
    }

    /// Whether every block of the slot is the one in its tree, and the tree's root
    /// the one of its superblock.
    fn is_whole(&mut self, index: usize, start: u64) -> bool {
        let mut slot = vec![0; (SLOT_KIB * KIB) as usize];
        self.file.read_exact_at(&mut slot, start).unwrap();
        if let Some(known) = self.known.get(&(index, slot.clone())) {
            return *known;
        }
        let check = || {
            let data_blocks = data_blocks_of_squashfs(&slot).ok()?;
            let data_bytes = data_blocks as usize * BLOCK_BYTES;
            let superblock = Superblock::parse(slot.get(data_bytes..)?).ok()?;
            let mut tree = TreeBuilder::new(data_blocks, &superblock.salt).ok()?;
            tree.push(&slot[..data_bytes]).ok()?;
            let tree = tree.finish().ok()?;
            let there = &slot[data_bytes + BLOCK_BYTES..][..tree.levels.concat().len()];
            (tree.root_hash == superblock.root_hash && there == tree.levels.concat()).then_some(())
        };
        let is_whole = check().is_some();
        self.known.insert((index, slot), is_whole);
        is_whole
    }
}

/// All data and the tree are read back, and nothing of them before a flush that began
/// when it had been written.
#[test]
fn what_is_read_back_was_flushed_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = disk(folder.path());
    let mut unflushed: Vec<std::ops::Range<u64>> = Vec::new();
    let mut read = 0;
    for step in update(&path) {
        match step {
            Happened::Written(offset, bytes) => unflushed.push(offset..offset + bytes.len() as u64),
            Happened::Synced => unflushed.clear(),
            Happened::Read(offset, bytes) => {
                let end = offset + bytes as u64;
                let early = unflushed.iter().find(|range| range.start < end && offset < range.end);
                assert_eq!(early, None, "{offset}..{end} is read before it was flushed");
                read += bytes as u64;
            }
        }
    }
    assert_eq!(read, verity::sealed_bytes(DATA_BLOCKS));
}

/// A medium that keeps one bit of what is written wrongly.
struct Spoiler {
    disk: DiskFile,
    at: u64,
}

impl Medium for Spoiler {
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.disk.read(offset, into)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut bytes = bytes.to_vec();
        if let Some(byte) = self.at.checked_sub(offset).and_then(|at| bytes.get_mut(at as usize)) {
            *byte ^= 4;
        }
        self.disk.write(offset, &bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.sync()
    }

    fn forget(&self, offset: u64, bytes: u64) {
        self.disk.forget(offset, bytes);
    }
}

/// Whatever part of a slot it is in: data, superblock, the top of the tree, its leaves.
#[test]
fn a_bit_that_the_medium_keeps_wrongly_is_found() {
    let superblock = DATA_BLOCKS * BLOCK_BYTES as u64;
    let leaves = verity::leaves_offset(DATA_BLOCKS);
    let end = verity::sealed_bytes(DATA_BLOCKS);
    assert!(
        leaves > superblock + BLOCK_BYTES as u64 && end > leaves + BLOCK_BYTES as u64,
        "a tree of levels"
    );
    let top = superblock + BLOCK_BYTES as u64;
    for at in [0, superblock - 1, superblock, top - 1, top, leaves - 1, leaves, end - 1] {
        let folder = tempfile::tempdir().unwrap();
        let path = disk(folder.path());
        let slot = slots(&Disk::open(&path, SECTOR as u32).unwrap()).unwrap()[1];
        let medium = Spoiler { disk: DiskFile::open(&path).unwrap(), at: slot.start + at };
        match install(&path, &Arc::new(medium)) {
            Err(Error::ReadBack { .. }) => assert!(at < superblock, "{at}"),
            Err(Error::TreeReadBack) => assert!(at >= superblock, "{at}"),
            other => panic!("{at}: {other:?}"),
        }
        let flags = slots(&Disk::open(&path, SECTOR as u32).unwrap()).unwrap()[1].flags;
        assert_eq!(flags, slot.flags.retire(), "it does not boot");
    }
}

#[test]
fn every_power_cut_leaves_a_disk_that_boots_a_verified_slot() {
    let folder = tempfile::tempdir().unwrap();
    let path = disk(folder.path());
    let before = fs::read(&path).unwrap();
    let happened = update(&path);
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    file.write_all_at(&before, 0).unwrap();
    let mut witness = Witness {
        judges: Judges::new(&path, before.len()),
        path,
        file,
        before,
        there: Sectors::new(),
        states: 0,
        booted: BTreeMap::new(),
        known: BTreeMap::new(),
    };
    let mut synced = Sectors::new();
    let mut since: Vec<(u64, Vec<u8>)> = Vec::new();
    let mut random = 1u64;
    for (number, step) in happened.iter().enumerate() {
        match step {
            Happened::Read(..) => {}
            Happened::Synced => {
                synced.extend(since.drain(..));
                witness.boots(&synced, &format!("sync {number}"));
            }
            Happened::Written(offset, bytes) => {
                for (sector, content) in sectors(*offset, bytes) {
                    prefix_and_tears(&mut witness, &synced, &since, sector, content);
                    since.push((sector, content.to_vec()));
                    lost_and_reordered(&mut witness, &synced, &since, &mut random);
                }
            }
        }
    }
    let (tables, damaged) = witness.judges.seen();
    println!("{} states, booted {:?}", witness.states, witness.booted);
    println!("{tables} partition tables, {damaged} with one damaged copy, judged by sgdisk and cgpt");
    assert!(damaged >= 100 && damaged < tables, "{damaged} of {tables}");
    assert!(witness.states >= 10_000, "{}", witness.states);
    assert!(witness.booted.contains_key(&'A') && witness.booted.contains_key(&'B'));
}

/// All sectors before this one are there, and this one is: not at all, or its first
/// or last part, or noise, as disks leave what was cut off in the middle.
fn prefix_and_tears(
    witness: &mut Witness,
    synced: &Sectors,
    since: &[(u64, Vec<u8>)],
    sector: u64,
    content: &[u8],
) {
    let mut state = synced.clone();
    state.extend(since.iter().cloned());
    witness.boots(&state, &format!("before sector {sector}"));
    let at = sector as usize * SECTOR;
    let old = state.get(&sector).cloned().unwrap_or_else(|| witness.before[at..at + SECTOR].to_vec());
    for cut in [1, 16, 56, 88, 92, 128, 256, 511] {
        state.insert(sector, [&content[..cut], &old[cut..]].concat());
        witness.boots(&state, &format!("sector {sector} torn at {cut}"));
        state.insert(sector, [&old[..cut], &content[cut..]].concat());
        witness.boots(&state, &format!("sector {sector} torn before {cut}"));
    }
    state.insert(sector, vec![0xa5; SECTOR]);
    witness.boots(&state, &format!("sector {sector} garbled"));
}

/// Of what was not flushed, any part may be there: some random ones.
fn lost_and_reordered(witness: &mut Witness, synced: &Sectors, since: &[(u64, Vec<u8>)], random: &mut u64) {
    for _ in 0..2 {
        let mut state = synced.clone();
        for (sector, content) in since {
            *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            if *random >> 63 == 1 {
                state.insert(*sector, content.clone());
            }
        }
        witness.boots(&state, "a part of what was not flushed");
    }
}
