//! A disk that keeps its promises and nothing more: what was not synced is
//! lost, kept, or torn at sectors when the machine crashes.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::Planted;
use super::random::Random;
use crate::log::LogError;
use crate::log::disk::Disk;
use crate::log::record::{self, HEADER_BYTES, Header, Record};

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

#[derive(Clone, Debug)]
enum Op {
    Write { file: u64, offset: usize, bytes: Vec<u8> },
    Sync { file: u64 },
    Create { path: PathBuf, file: u64 },
    Rename { from: PathBuf, to: PathBuf },
    Remove { path: PathBuf },
    SyncDir,
}

/// Names and contents, as the process sees them or as a crash leaves them.
#[derive(Clone, Debug, Default)]
struct Image {
    names: BTreeMap<PathBuf, u64>,
    files: BTreeMap<u64, Vec<u8>>,
}

#[derive(Debug, Default)]
struct State {
    seen: Image,
    durable: Image,
    folders: BTreeSet<PathBuf>,
    /// What happened since the durable image, in order: all of it may be lost.
    unsynced: Vec<Op>,
    /// What the running job has done.
    job: Vec<Op>,
    /// With [`Planted::AckBeforeFsync`]: syncs that were promised and not done.
    owed: Vec<Op>,
    next_file: u64,
    salts: u64,
    planted: Option<Planted>,
}

/// See the module; clones are the same disk.
#[derive(Clone, Debug, Default)]
pub(super) struct SimDisk(Rc<RefCell<State>>);

impl Image {
    fn write(&mut self, file: u64, offset: usize, bytes: &[u8]) {
        let content = self.files.entry(file).or_default();
        let end = offset + bytes.len();
        if content.len() < end {
            content.resize(end, 0);
        }
        content[offset..end].copy_from_slice(bytes);
    }

    fn name(&mut self, op: &Op) {
        match op {
            Op::Create { path, file } => drop(self.names.insert(path.clone(), *file)),
            Op::Rename { from, to } => {
                if let Some(file) = self.names.remove(from) {
                    self.names.insert(to.clone(), file);
                }
            }
            Op::Remove { path } => drop(self.names.remove(path)),
            Op::Write { .. } | Op::Sync { .. } | Op::SyncDir => {}
        }
    }
}

impl State {
    /// Moves what the job synced into the durable image; the rest stays open.
    fn settle(&mut self) {
        for op in std::mem::take(&mut self.job) {
            match op {
                Op::Sync { file } => {
                    let durable = &mut self.durable;
                    self.unsynced.retain(|op| match op {
                        Op::Write { file: of, offset, bytes } if *of == file => {
                            durable.write(file, *offset, bytes);
                            false
                        }
                        _ => true,
                    });
                }
                Op::SyncDir => {
                    let durable = &mut self.durable;
                    self.unsynced.retain(|op| match op {
                        Op::Write { .. } => true,
                        name => {
                            durable.name(name);
                            false
                        }
                    });
                }
                other => self.unsynced.push(other),
            }
        }
    }

    /// Any part of what was not synced stays.
    fn lose(&mut self, random: &mut Random) {
        let unsynced = std::mem::take(&mut self.unsynced);
        let names = unsynced.iter().filter(|op| !matches!(op, Op::Write { .. })).count() as u64;
        // A journalling file system keeps the order of names.
        let mut kept_names = random.below(names + 1);
        let kept_sectors = *random.pick(&[0, 500, 900, 1000]).expect("not empty");
        for op in unsynced {
            match op {
                Op::Write { file, offset, bytes } => {
                    let mut at = 0;
                    while at < bytes.len() {
                        let end = ((offset + at) / SECTOR + 1) * SECTOR - offset;
                        let end = end.min(bytes.len());
                        if random.chance(kept_sectors) {
                            self.durable.write(file, offset + at, &bytes[at..end]);
                        }
                        at = end;
                    }
                }
                name if kept_names > 0 => {
                    kept_names -= 1;
                    self.durable.name(&name);
                }
                _ => {}
            }
        }
        // A file whose name was made durable before its content is there, empty.
        for file in self.durable.names.values() {
            self.durable.files.entry(*file).or_default();
        }
        let Image { names, files } = &mut self.durable;
        files.retain(|file, _| names.values().any(|named| named == file));
        self.seen = self.durable.clone();
        self.owed.clear();
    }
}

impl SimDisk {
    pub(super) fn new(planted: Option<Planted>) -> Self {
        let state = State { planted, ..State::default() };
        Self(Rc::new(RefCell::new(state)))
    }

    /// A job of the log writer begins: the one before it is over.
    pub(super) fn begin(&self) {
        let mut state = self.0.borrow_mut();
        let mut owed = std::mem::take(&mut state.owed);
        state.job.append(&mut owed);
        state.settle();
    }

    /// The power fails. When it does so during the last job, any part of that
    /// job has happened. Says whether all of it has.
    pub(super) fn crash(&self, random: &mut Random, during_job: bool) -> bool {
        let mut state = self.0.borrow_mut();
        let mut whole = true;
        if during_job {
            let length = state.job.len() as u64;
            let done = random.below(length + 1);
            whole = done == length;
            state.job.truncate(done as usize);
        }
        state.settle();
        state.lose(random);
        whole
    }

    fn file(&self, path: &Path) -> io::Result<u64> {
        let state = self.0.borrow();
        state.seen.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for SimDisk {
    type File = u64;
    type Lock = ();

    fn lock(&self, _folder: &Path) -> Result<(), LogError> {
        Ok(())
    }

    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.borrow_mut().folders.insert(dir.to_path_buf());
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
        let state = self.0.borrow();
        let inside = state.seen.names.iter().filter(|(path, _)| path.parent() == Some(dir));
        Ok(inside.map(|(path, file)| (path.clone(), state.seen.files[file].len() as u64)).collect())
    }

    fn exists(&self, path: &Path) -> bool {
        let state = self.0.borrow();
        state.seen.names.contains_key(path) || state.folders.contains(path)
    }

    fn size_bytes(&self, path: &Path) -> u64 {
        self.file(path).map_or(0, |file| self.0.borrow().seen.files[&file].len() as u64)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.file(path)?;
        let state = self.0.borrow();
        let mut bytes = state.seen.files[&file].clone();
        let newest = state.seen.names.keys().rfind(|name| name.extension() == path.extension());
        if state.planted == Some(Planted::TornTailCutTooFar) && newest.is_some_and(|it| it == path) {
            cut_too_far(&mut bytes);
        }
        Ok(bytes)
    }

    fn create(&self, path: &Path) -> io::Result<u64> {
        let mut state = self.0.borrow_mut();
        state.next_file += 1;
        let file = state.next_file;
        state.seen.names.insert(path.to_path_buf(), file);
        state.seen.files.insert(file, Vec::new());
        state.job.push(Op::Create { path: path.to_path_buf(), file });
        Ok(file)
    }

    fn open(&self, path: &Path) -> io::Result<u64> {
        self.file(path)
    }

    fn write(&self, file: &u64, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        let offset = offset as usize;
        state.seen.write(*file, offset, bytes);
        state.job.push(Op::Write { file: *file, offset, bytes: bytes.to_vec() });
        Ok(())
    }

    fn sync_data(&self, file: &u64) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        let sync = Op::Sync { file: *file };
        if state.planted == Some(Planted::AckBeforeFsync) {
            state.owed.push(sync);
        } else {
            state.job.push(sync);
        }
        Ok(())
    }

    fn sync_all(&self, file: &u64) -> io::Result<()> {
        self.0.borrow_mut().job.push(Op::Sync { file: *file });
        Ok(())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        self.0.borrow_mut().job.push(Op::SyncDir);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.file(from)?;
        let mut state = self.0.borrow_mut();
        let op = Op::Rename { from: from.to_path_buf(), to: to.to_path_buf() };
        state.seen.name(&op);
        state.job.push(op);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.file(path)?;
        let mut state = self.0.borrow_mut();
        let op = Op::Remove { path: path.to_path_buf() };
        state.seen.name(&op);
        state.job.push(op);
        Ok(())
    }

    fn available_bytes(&self, _dir: &Path) -> io::Result<u64> {
        Ok(1 << 40)
    }

    fn salt(&self) -> u64 {
        let mut state = self.0.borrow_mut();
        state.salts += 1;
        Random::new(state.salts).word()
    }
}

/// What a recovery does that drops a whole batch along with a torn one.
fn cut_too_far(segment: &mut [u8]) {
    let Ok(header) = Header::decode(segment) else { return };
    let (mut at, mut chain) = (HEADER_BYTES, header.chain());
    let (mut last, mut end) = (HEADER_BYTES, HEADER_BYTES);
    while let Some((record, next, chained)) = record::read(segment, at, header.salt, chain) {
        if matches!(record, Record::Commit(_)) {
            (last, end) = (end, next);
        }
        (at, chain) = (next, chained);
    }
    let is_commit = |at: &usize| record::commit_at(segment, *at, header.salt).is_some();
    let is_torn = at > end || (end..segment.len()).step_by(record::ALIGNMENT).any(|at| is_commit(&at));
    if last > HEADER_BYTES && is_torn {
        segment[last..end].fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(disk: &SimDisk, path: &str) -> Option<Vec<u8>> {
        disk.read(Path::new(path)).ok()
    }

    #[test]
    fn what_was_synced_is_there_and_the_rest_may_be_torn() {
        let (mut torn, mut lost, mut kept) = (0, 0, 0);
        for seed in 0..200 {
            let disk = SimDisk::new(None);
            let file = disk.create(Path::new("d/a")).expect("made");
            disk.write(&file, &[1; 2048], 0).expect("written");
            disk.sync_all(&file).expect("synced");
            disk.sync_dir(Path::new("d")).expect("synced");
            disk.begin();
            disk.write(&file, &[2; 1024], 512).expect("written");
            disk.rename(Path::new("d/a"), Path::new("d/b")).expect("renamed");
            disk.crash(&mut Random::new(seed), false);
            let bytes = content(&disk, "d/a").or_else(|| content(&disk, "d/b")).expect("one name is there");
            assert_eq!((&bytes[..512], &bytes[1536..]), (&[1; 512][..], &[1; 512][..]));
            match (bytes[512], bytes[1024]) {
                (1, 1) => lost += 1,
                (2, 2) => kept += 1,
                _ => torn += 1,
            }
        }
        assert!(torn > 10 && lost > 10 && kept > 10, "{torn} torn, {lost} lost, {kept} kept");
    }

    #[test]
    fn a_name_needs_the_sync_of_its_folder() {
        let mut gone = 0;
        for seed in 0..50 {
            let disk = SimDisk::new(None);
            let file = disk.create(Path::new("d/a")).expect("made");
            disk.sync_all(&file).expect("synced");
            disk.crash(&mut Random::new(seed), false);
            gone += u32::from(content(&disk, "d/a").is_none());
        }
        assert!((5..45).contains(&gone), "gone {gone} times of 50");
    }
}
