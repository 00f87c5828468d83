//! One process at a time in a folder.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

use super::LogError;

/// Holds a folder for this process until it is dropped or the process ends.
///
/// An advisory flock(2) on the folder itself: no lock file can be left over,
/// and the kernel lets go of it however the process ends.
#[derive(Debug)]
pub struct FolderLock {
    _folder: File,
}

impl FolderLock {
    /// Locks `folder`, which must exist; does not wait.
    ///
    /// # Errors
    /// [`LogError::InUse`] when another open file description holds it;
    /// [`LogError::SyncFailed`] when the folder cannot be opened.
    pub fn acquire(folder: &Path) -> Result<Self, LogError> {
        let failed = |source| LogError::SyncFailed { action: "lock", path: folder.to_path_buf(), source };
        let file = File::open(folder).map_err(failed)?;
        // SAFETY: the descriptor is open for the whole call; flock touches no
        // memory. (`File::try_lock` would do, but is newer than the oldest
        // compiler this builds with.)
        let answer = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
        if answer == 0 {
            return Ok(Self { _folder: file });
        }
        let error = std::io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EWOULDBLOCK) => Err(LogError::InUse { path: folder.to_path_buf() }),
            _ => Err(failed(error)),
        }
    }
}
