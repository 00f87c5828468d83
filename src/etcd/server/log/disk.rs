//! What the log asks of a disk.
//!
//! [`Files`] is the answer in production; it costs nothing, because the log is
//! compiled for it. The simulation has a disk of its own that loses and tears
//! what was not synced, so that the same code meets every crash.

use std::ffi::CString;
use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::LogError;
use super::lock::FolderLock;
use crate::metrics::METRICS;

/// Files and folders, with what makes them durable as operations of their own.
///
/// What was written is durable after [`Disk::sync_data`] of its file, a name
/// after [`Disk::sync_dir`] of its folder; a crash before may keep any part of it.
/// Errors are the system's.
pub trait Disk: Clone + Debug {
    /// A file, open to read and write.
    type File: Debug;
    /// Keeps other processes out of a folder while it lives.
    type Lock: Debug;

    /// Locks a folder, without waiting.
    ///
    /// # Errors
    /// [`LogError::InUse`] when somebody has it, or the folder cannot be opened.
    fn lock(&self, folder: &Path) -> Result<Self::Lock, LogError>;

    /// Makes a folder and those above it.
    fn make_dir(&self, dir: &Path) -> io::Result<()>;

    /// The files of a folder with their sizes, in any order.
    fn list(&self, dir: &Path) -> io::Result<Vec<(PathBuf, u64)>>;

    /// Whether something has this name.
    fn exists(&self, path: &Path) -> bool;

    /// The size of a file; 0 when there is none.
    fn size_bytes(&self, path: &Path) -> u64;

    /// The bytes of a file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// Makes an empty file, also in place of one that is there.
    fn create(&self, path: &Path) -> io::Result<Self::File>;

    /// Opens a file that is there.
    fn open(&self, path: &Path) -> io::Result<Self::File>;

    /// Writes all of `bytes` at `offset`.
    fn write(&self, file: &Self::File, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes what was written to a file durable whose size did not change.
    fn sync_data(&self, file: &Self::File) -> io::Result<()>;

    /// Makes what was written to a file durable, its size included.
    fn sync_all(&self, file: &Self::File) -> io::Result<()>;

    /// Makes the names in a folder durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Renames a file over whatever has the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// What an unprivileged process may still write to the file system of `dir`.
    fn available_bytes(&self, dir: &Path) -> io::Result<u64>;

    /// A number that no earlier life of a file had.
    fn salt(&self) -> u64;
}

/// The machine's own files.
#[derive(Clone, Copy, Debug, Default)]
pub struct Files;

impl Disk for Files {
    type File = File;
    type Lock = FolderLock;

    fn lock(&self, folder: &Path) -> Result<FolderLock, LogError> {
        FolderLock::acquire(folder)
    }

    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
        let sized = |item: io::Result<fs::DirEntry>| {
            let item = item?;
            Ok((item.path(), item.metadata()?.len()))
        };
        fs::read_dir(dir)?.map(sized).collect()
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }

    fn size_bytes(&self, path: &Path) -> u64 {
        fs::metadata(path).map_or(0, |metadata| metadata.len())
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        File::create(path)
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(path)
    }

    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        METRICS.log_bytes.fetch_add(bytes.len() as u64, Relaxed);
        file.write_all_at(bytes, offset)
    }

    fn sync_data(&self, file: &File) -> io::Result<()> {
        let begun = Instant::now();
        let synced = file.sync_data();
        METRICS.log_sync.observe(begun.elapsed());
        synced
    }

    fn sync_all(&self, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn available_bytes(&self, dir: &Path) -> io::Result<u64> {
        let path = CString::new(dir.as_os_str().as_bytes())?;
        // SAFETY: all of statvfs is plain numbers, for which zeros are valid; the
        // path ends with a NUL and both pointers live through the call.
        let (answer, stat) = unsafe {
            let mut stat: libc::statvfs = std::mem::zeroed();
            (libc::statvfs(path.as_ptr(), &mut stat), stat)
        };
        if answer != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Two 32-byte random keys of the standard library's hasher, which come
    /// from the kernel.
    fn salt(&self) -> u64 {
        RandomState::new().build_hasher().finish()
    }
}
