//! The files of a log. Straight code: what to do with them is decided elsewhere.
//!
//! `0000000000000007.wal` is the live segment 7, `*.spare` a file that is
//! ready to become one, `*.part` a spare that is still being written.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::LogError;

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
pub(super) fn list(dir: &Path, segment_bytes: u64) -> Result<Listing, LogError> {
    let failed = |source| LogError::SyncFailed { action: "list", path: dir.to_path_buf(), source };
    let mut listing = Listing::default();
    for item in fs::read_dir(dir).map_err(failed)? {
        let item = item.map_err(failed)?;
        let path = item.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("wal") => listing.live.extend(u64::from_str_radix(stem, 16)),
            Some("spare") if item.metadata().map_err(failed)?.len() == segment_bytes => {
                listing.spares.push(path);
            }
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
pub(super) fn make_spare(dir: &Path, size_bytes: u64, keep_free: u64) -> Result<PathBuf, LogError> {
    let no_space = || LogError::NoSpace { path: dir.to_path_buf(), segment_bytes: size_bytes };
    if available_bytes(dir)? < size_bytes.saturating_add(keep_free) {
        return Err(no_space());
    }
    let is_free = |path: &PathBuf| !path.exists();
    let path = (0u64..).map(|n| dir.join(format!("new-{n}.spare"))).find(is_free);
    let path = path.expect("a folder has fewer than 2^64 files");
    let part = path.with_extension("part");
    let filled = fill(&part, size_bytes).and_then(|()| fs::rename(&part, &path));
    match filled {
        Ok(()) => sync_dir(dir).map(|()| path),
        Err(source) => {
            // Best effort: the next start removes it as well.
            let _ = fs::remove_file(&part);
            match source.raw_os_error() {
                Some(libc::ENOSPC | libc::EDQUOT) => Err(no_space()),
                _ => Err(LogError::SyncFailed { action: "fill", path: part, source }),
            }
        }
    }
}

fn fill(path: &Path, size_bytes: u64) -> io::Result<()> {
    let mut file = File::create(path)?;
    let mut left = size_bytes;
    while left > 0 {
        let piece = left.min(ZEROS.len() as u64) as usize;
        file.write_all(&ZEROS[..piece])?;
        left -= piece as u64;
    }
    file.sync_all()
}

/// Makes a live segment of a spare: `head` is durable in it before it gets its
/// name, so whatever has the name of a segment has a whole header.
pub(super) fn start(dir: &Path, spare: &Path, sequence: u64, head: &[u8]) -> Result<File, LogError> {
    let live = live_path(dir, sequence);
    let file = open(spare)?;
    write_and_sync(&file, spare, head, 0)?;
    rename(spare, &live)?;
    sync_dir(dir)?;
    Ok(file)
}

/// Opens a segment to read and write it.
pub(super) fn open(path: &Path) -> Result<File, LogError> {
    let opened = OpenOptions::new().read(true).write(true).open(path);
    opened.map_err(|source| LogError::SyncFailed { action: "open", path: path.to_path_buf(), source })
}

/// Writes `bytes` at `offset` and waits until they are on the disk.
pub(super) fn write_and_sync(file: &File, path: &Path, bytes: &[u8], offset: u64) -> Result<(), LogError> {
    let failed = |action| move |source| LogError::SyncFailed { action, path: path.to_path_buf(), source };
    file.write_all_at(bytes, offset).map_err(failed("write"))?;
    // The size never changes, so data is all there is to sync.
    file.sync_data().map_err(failed("sync"))
}

/// Overwrites everything from `offset` on with zeros, durably.
pub(super) fn zero_from(file: &File, path: &Path, offset: u64, size_bytes: u64) -> Result<(), LogError> {
    let mut at = offset;
    while at < size_bytes {
        let piece = (size_bytes - at).min(ZEROS.len() as u64);
        let written = file.write_all_at(&ZEROS[..piece as usize], at);
        written.map_err(|source| LogError::SyncFailed {
            action: "write",
            path: path.to_path_buf(),
            source,
        })?;
        at += piece;
    }
    write_and_sync(file, path, &[], size_bytes)
}

/// Reads a whole segment.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, LogError> {
    fs::read(path).map_err(|source| LogError::SyncFailed { action: "read", path: path.to_path_buf(), source })
}

/// Renames a file; durable only after [`sync_dir`].
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), LogError> {
    fs::rename(from, to).map_err(|source| LogError::SyncFailed {
        action: "rename",
        path: from.to_path_buf(),
        source,
    })
}

/// Removes a file; durable only after [`sync_dir`].
pub(super) fn remove(path: &Path) -> Result<(), LogError> {
    fs::remove_file(path).map_err(|source| LogError::SyncFailed {
        action: "remove",
        path: path.to_path_buf(),
        source,
    })
}

/// Makes the names in a folder durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), LogError> {
    let synced = File::open(dir).and_then(|folder| folder.sync_all());
    synced.map_err(|source| LogError::SyncFailed { action: "sync", path: dir.to_path_buf(), source })
}

/// Makes a folder and those above it, and their names durable.
pub(super) fn make_dir(dir: &Path) -> Result<(), LogError> {
    let made = fs::create_dir_all(dir);
    made.map_err(|source| LogError::SyncFailed { action: "make", path: dir.to_path_buf(), source })?;
    match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_dir(parent),
        _ => Ok(()),
    }
}

/// What an unprivileged process may still write to the file system of `dir`.
pub(super) fn available_bytes(dir: &Path) -> Result<u64, LogError> {
    let failed = |source| LogError::SyncFailed { action: "measure", path: dir.to_path_buf(), source };
    let path = CString::new(dir.as_os_str().as_bytes()).map_err(|error| failed(error.into()))?;
    // SAFETY: all of statvfs is plain numbers, for which zeros are valid; the
    // path ends with a NUL and both pointers live through the call.
    let (answer, stat) = unsafe {
        let mut stat: libc::statvfs = std::mem::zeroed();
        (libc::statvfs(path.as_ptr(), &mut stat), stat)
    };
    if answer != 0 {
        return Err(failed(io::Error::last_os_error()));
    }
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}
