//! The disk as the updater writes it: past the page cache, which would cost more than
//! all the hashing and unpacking, and what is read back comes from the medium.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::AsRawFd as _,
        unix::fs::{FileExt as _, OpenOptionsExt as _},
    },
    path::Path,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};

/// Where the updater writes, from several threads: a disk, or in tests one that records.
pub trait Medium: Send + Sync + 'static {
    /// Fills `into` with the bytes at `offset`.
    ///
    /// # Errors
    /// The system's.
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;

    /// Writes `bytes` at `offset`; durable after [`Self::sync`].
    ///
    /// # Errors
    /// The system's.
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Returns when all that was written before the call is on the medium.
    ///
    /// # Errors
    /// The system's; then nothing that was written since the last success counts.
    fn sync(&self) -> io::Result<()>;

    /// Makes later reads of this range come from the medium.
    fn forget(&self, offset: u64, bytes: u64);
}

/// What the place and the length of a transfer past the page cache, and its memory,
/// have to be multiples of: the largest sector that disks have.
const ALIGNMENT: usize = 4096;

/// Bytes of a page of the kernel's cache.
const PAGE_BYTES: u64 = 4096;

/// Bytes of a large page on `x86_64`.
const LARGE_PAGE_BYTES: usize = 2 << 20;

/// Memory from and to which a disk transfers past the page cache.
pub struct Room {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl Room {
    /// Room of one large page of the processor's, where the kernel has one to give. Of
    /// small ones a disk has to be told each by its place, which costs as much as the
    /// transfer. But to find a large one may take the kernel some milliseconds.
    pub fn of_large_page() -> Self {
        let mut room = Self::aligned(LARGE_PAGE_BYTES, LARGE_PAGE_BYTES);
        let memory = room.all();
        // SAFETY: whole pages of our own, whose content this does not change. It is
        // advice: small pages do as well.
        unsafe { libc::madvise(memory.as_mut_ptr().cast(), memory.len(), libc::MADV_HUGEPAGE) };
        room
    }

    /// Room for so many bytes.
    pub fn of_small_pages(bytes: usize) -> Self {
        Self::aligned(bytes, ALIGNMENT)
    }

    fn aligned(length: usize, alignment: usize) -> Self {
        // Of what lies before and behind the kernel makes no memory: it is not touched.
        let bytes = vec![0; length + alignment];
        let start = bytes.as_ptr().align_offset(alignment);
        Self { bytes, start, length }
    }

    /// Writes `bytes` through this memory.
    ///
    /// # Errors
    /// The system's.
    pub fn write(&mut self, medium: &impl Medium, mut offset: u64, bytes: &[u8]) -> io::Result<()> {
        for part in bytes.chunks(self.length) {
            let copy = &mut self.all()[..part.len()];
            copy.copy_from_slice(part);
            medium.write(offset, copy)?;
            offset += part.len() as u64;
        }
        Ok(())
    }

    /// The memory, with what was there before.
    pub fn all(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..][..self.length]
    }
}

/// A disk's device, or a file that holds one.
pub struct DiskFile {
    file: File,
    /// The same past the page cache; `None` on a file system that cannot.
    direct: Option<File>,
    /// What was sent on its way last: waited for before the next is written.
    under_way: Mutex<Option<(u64, u64)>>,
    /// Somebody was told of an error of the medium, and the next sync is to be.
    has_failed: AtomicBool,
}

impl DiskFile {
    /// Opens the disk at `path`.
    ///
    /// # Errors
    /// The system's.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).open(path)?;
        let direct = options.custom_flags(libc::O_DIRECT).open(path).ok();
        Ok(Self { file, direct, under_way: Mutex::default(), has_failed: AtomicBool::new(false) })
    }

    /// Where a transfer can go past the page cache.
    fn direct(&self, offset: u64, bytes: &[u8]) -> Option<&File> {
        let fits = |number: usize| number.is_multiple_of(ALIGNMENT);
        let is_aligned = fits(offset as usize) && fits(bytes.len()) && fits(bytes.as_ptr().addr());
        self.direct.as_ref().filter(|_| is_aligned)
    }

    fn under_way(&self) -> MutexGuard<'_, Option<(u64, u64)>> {
        self.under_way.lock().expect("nothing that holds it panics")
    }

    /// Sends what was written on its way, or waits for it. The system tells an error of
    /// the medium once; whoever syncs next has to know as well.
    fn send(&self, offset: u64, bytes: u64, flags: libc::c_uint) -> io::Result<()> {
        // SAFETY: a system call about an open file; it changes no memory.
        match unsafe { libc::sync_file_range(self.file.as_raw_fd(), offset as i64, bytes as i64, flags) } {
            0 => Ok(()),
            _ => {
                let error = io::Error::last_os_error();
                self.has_failed.store(true, Ordering::Relaxed);
                Err(error)
            }
        }
    }
}

impl Medium for DiskFile {
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.direct(offset, into).unwrap_or(&self.file).read_exact_at(into, offset)
    }

    /// Of what goes through the page cache at most two writes are dirty at a time: the
    /// kernel is told to write this one, and the one before is waited for.
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if let Some(direct) = self.direct(offset, bytes) {
            return direct.write_all_at(bytes, offset);
        }
        self.file.write_all_at(bytes, offset)?;
        self.send(offset, bytes.len() as u64, libc::SYNC_FILE_RANGE_WRITE)?;
        let before = self.under_way().replace((offset, bytes.len() as u64));
        if let Some((offset, bytes)) = before {
            self.send(offset, bytes, libc::SYNC_FILE_RANGE_WAIT_BEFORE)?;
            self.forget(offset, bytes);
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        *self.under_way() = None;
        self.file.sync_data()?;
        match self.has_failed.swap(false, Ordering::Relaxed) {
            true => Err(io::Error::other("what was written before is lost")),
            false => Ok(()),
        }
    }

    fn forget(&self, offset: u64, bytes: u64) {
        // A page that is only partly meant would be kept. None is lost that waits to be written.
        let start = offset - offset % PAGE_BYTES;
        let length = (offset + bytes).next_multiple_of(PAGE_BYTES) - start;
        // SAFETY: a system call about an open file; it changes no memory. It is advice:
        // what else holds a page keeps it.
        unsafe {
            libc::posix_fadvise(self.file.as_raw_fd(), start as i64, length as i64, libc::POSIX_FADV_DONTNEED)
        };
    }
}
