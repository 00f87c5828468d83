//! The files of a log. Straight code: what to do with them is decided elsewhere.
//!
//! `0000000000000007.wal` is the live segment 7, `*.spare` a file that is
//! ready to become one, `*.part` a spare that is still being written.

use std::io;
use std::path::{Path, PathBuf};

use super::LogError;
use super::disk::Disk;

/// How much a spare is filled with at a time.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// What is in a log's folder.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Sequence numbers of the segments in use, ascending.
    pub live: Vec<u64>,
    /// Files to make segments of.
    pub spares: Vec<PathBuf>,
    /// What a crash left half done.
    pub leftovers: Vec<PathBuf>,
}

/// The file name of a live segment.
pub(super) fn live_path(dir: &Path, sequence: u64) -> PathBuf {
    dir.join(format!("{sequence:016x}.wal"))
}

/// Where segment `sequence` waits for its next life.
pub(super) fn spare_path(dir: &Path, sequence: u64) -> PathBuf {
    dir.join(format!("{sequence:016x}.spare"))
}

/// Lists a log's folder. Spares of another size than `segment_bytes` count as
/// left over: the option was changed.
pub(super) fn list<D: Disk>(disk: &D, dir: &Path, segment_bytes: u64) -> Result<Listing, LogError> {
    let mut listing = Listing::default();
    for (path, size_bytes) in disk.list(dir).map_err(failed("list", dir))? {
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("wal") => listing.live.extend(u64::from_str_radix(stem, 16)),
            Some("spare") if size_bytes == segment_bytes => listing.spares.push(path),
            Some("spare" | "part") => listing.leftovers.push(path),
            _ => {}
        }
    }
    listing.live.sort_unstable();
    listing.spares.sort_unstable();
    Ok(listing)
}

/// Makes a file of `size_bytes` real zeros, durably, and returns its path.
///
/// Zeros are written, not promised (fallocate): an fdatasync over unwritten
/// extents has to commit the file system's journal, p99 4 ms where it is
/// 0.2 ms over written ones. `keep_free` bytes are left for others: the
/// database of the same disk must still be able to flush.
pub(super) fn make_spare<D: Disk>(
    disk: &D,
    dir: &Path,
    size_bytes: u64,
    keep_free: u64,
) -> Result<PathBuf, LogError> {
    let no_space = || LogError::NoSpace { path: dir.to_path_buf(), segment_bytes: size_bytes };
    if available_bytes(disk, dir)? < size_bytes.saturating_add(keep_free) {
        return Err(no_space());
    }
    let is_free = |path: &PathBuf| !disk.exists(path);
    let path = (0u64..).map(|n| dir.join(format!("new-{n}.spare"))).find(is_free);
    let path = path.expect("a folder has fewer than 2^64 files");
    let part = path.with_extension("part");
    let filled = fill(disk, &part, size_bytes).and_then(|()| disk.rename(&part, &path));
    match filled {
        Ok(()) => sync_dir(disk, dir).map(|()| path),
        Err(source) => {
            // Best effort: the next start removes it as well.
            let _ = disk.remove(&part);
            match source.raw_os_error() {
                Some(libc::ENOSPC | libc::EDQUOT) => Err(no_space()),
                _ => Err(failed("fill", &part)(source)),
            }
        }
    }
}

fn fill<D: Disk>(disk: &D, path: &Path, size_bytes: u64) -> io::Result<()> {
    let file = disk.create(path)?;
    zeros(disk, &file, 0, size_bytes)?;
    disk.sync_all(&file)
}

fn zeros<D: Disk>(disk: &D, file: &D::File, from: u64, to: u64) -> io::Result<()> {
    let mut at = from;
    while at < to {
        let piece = (to - at).min(ZEROS.len() as u64);
        disk.write(file, &ZEROS[..piece as usize], at)?;
        at += piece;
    }
    Ok(())
}

/// Makes a live segment of a spare: `head` is durable in it before it gets its
/// name, so whatever has the name of a segment has a whole header.
pub(super) fn start<D: Disk>(
    disk: &D,
    dir: &Path,
    spare: &Path,
    sequence: u64,
    head: &[u8],
) -> Result<D::File, LogError> {
    let live = live_path(dir, sequence);
    let file = open(disk, spare)?;
    write_and_sync(disk, &file, spare, head, 0)?;
    rename(disk, spare, &live)?;
    sync_dir(disk, dir)?;
    Ok(file)
}

/// Opens a segment to read and write it.
pub(super) fn open<D: Disk>(disk: &D, path: &Path) -> Result<D::File, LogError> {
    disk.open(path).map_err(failed("open", path))
}

/// Writes `bytes` at `offset` and waits until they are on the disk.
pub(super) fn write_and_sync<D: Disk>(
    disk: &D,
    file: &D::File,
    path: &Path,
    bytes: &[u8],
    offset: u64,
) -> Result<(), LogError> {
    disk.write(file, bytes, offset).map_err(failed("write", path))?;
    // The size never changes, so data is all there is to sync.
    disk.sync_data(file).map_err(failed("sync", path))
}

/// Overwrites everything from `offset` on with zeros, durably.
pub(super) fn zero_from<D: Disk>(
    disk: &D,
    file: &D::File,
    path: &Path,
    offset: u64,
    size_bytes: u64,
) -> Result<(), LogError> {
    zeros(disk, file, offset, size_bytes).map_err(failed("write", path))?;
    disk.sync_data(file).map_err(failed("sync", path))
}

/// Reads a whole segment.
pub(super) fn read<D: Disk>(disk: &D, path: &Path) -> Result<Vec<u8>, LogError> {
    disk.read(path).map_err(failed("read", path))
}

/// Renames a file; durable only after [`sync_dir`].
pub(super) fn rename<D: Disk>(disk: &D, from: &Path, to: &Path) -> Result<(), LogError> {
    disk.rename(from, to).map_err(failed("rename", from))
}

/// Removes a file; durable only after [`sync_dir`].
pub(super) fn remove<D: Disk>(disk: &D, path: &Path) -> Result<(), LogError> {
    disk.remove(path).map_err(failed("remove", path))
}

/// Makes the names in a folder durable.
pub(super) fn sync_dir<D: Disk>(disk: &D, dir: &Path) -> Result<(), LogError> {
    disk.sync_dir(dir).map_err(failed("sync", dir))
}

/// Makes a folder and those above it, and their names durable.
pub(super) fn make_dir<D: Disk>(disk: &D, dir: &Path) -> Result<(), LogError> {
    disk.make_dir(dir).map_err(failed("make", dir))?;
    match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_dir(disk, parent),
        _ => Ok(()),
    }
}

/// What an unprivileged process may still write to the file system of `dir`.
pub(super) fn available_bytes<D: Disk>(disk: &D, dir: &Path) -> Result<u64, LogError> {
    disk.available_bytes(dir).map_err(failed("measure", dir))
}

fn failed(action: &'static str, path: &Path) -> impl Fn(io::Error) -> LogError {
    move |source| LogError::SyncFailed { action, path: path.to_path_buf(), source }
}
