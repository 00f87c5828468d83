//! The disk as the updater writes it, with little memory: what is written is sent
//! on its way at once, and what is read back comes from the medium.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{fd::AsRawFd as _, unix::fs::FileExt as _},
    path::Path,
};

/// Where the updater writes: a disk, or in tests one that records.
pub trait Medium {
    /// Fills `into` with the bytes at `offset`.
    ///
    /// # Errors
    /// The system's.
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;

    /// Writes `bytes` at `offset`; durable after [`Self::sync`].
    ///
    /// # Errors
    /// The system's.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Returns when all that was written is on the medium.
    ///
    /// # Errors
    /// The system's; then nothing that was written since the last success counts.
    fn sync(&mut self) -> io::Result<()>;

    /// Makes later reads of this range come from the medium.
    fn forget(&mut self, offset: u64, bytes: u64);
}

/// A disk's device, or a file that holds one.
pub struct DiskFile {
    file: File,
    /// What was sent on its way last: waited for before the next is written.
    under_way: Option<(u64, u64)>,
}

impl DiskFile {
    /// Opens the disk at `path`.
    ///
    /// # Errors
    /// The system's.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Self { file, under_way: None })
    }

    fn send(&self, offset: u64, bytes: u64, flags: libc::c_uint) {
        // SAFETY: a system call about an open file; it changes no memory. It is
        // advice: what it does not do, the next sync does.
        unsafe { libc::sync_file_range(self.file.as_raw_fd(), offset as i64, bytes as i64, flags) };
    }
}

impl Medium for DiskFile {
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(into, offset)
    }

    /// At most two writes are dirty at a time: the kernel is told to write this
    /// one, and the one before is waited for.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)?;
        self.send(offset, bytes.len() as u64, libc::SYNC_FILE_RANGE_WRITE);
        if let Some((offset, bytes)) = self.under_way.replace((offset, bytes.len() as u64)) {
            self.send(offset, bytes, libc::SYNC_FILE_RANGE_WAIT_BEFORE);
            self.forget(offset, bytes);
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.under_way = None;
        self.file.sync_data()
    }

    fn forget(&mut self, offset: u64, bytes: u64) {
        // SAFETY: as in `send`.
        unsafe {
            libc::posix_fadvise(self.file.as_raw_fd(), offset as i64, bytes as i64, libc::POSIX_FADV_DONTNEED)
        };
    }
}
