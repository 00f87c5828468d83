//! Disks: reading their partition tables and performing plans on them.

use proa_update_model::gpt::{
    Fault, Geometry, Header, NoTable, PRIMARY_LBA, Partition, Step, Table, TableCopy,
};
use std::{
    fs::{self, File},
    io::{self, Seek, SeekFrom},
    os::{fd::AsRawFd, unix::fs::FileExt},
    path::{Path, PathBuf},
};

/// What went wrong with a disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The disk could not be opened or measured.
    #[error("cannot open disk {}", path.display())]
    Open {
        /// The disk.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Neither copy of the partition table is sound.
    #[error("disk {}: {source}", path.display())]
    Table {
        /// The disk.
        path: PathBuf,
        /// What is wrong with each copy.
        source: NoTable,
    },
    /// A step of a plan failed. What was on the disk before still counts.
    #[error("cannot write the partition table of {}", path.display())]
    Write {
        /// The disk.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A disk, or a file that holds one.
#[derive(Clone, Debug)]
pub struct Disk {
    path: PathBuf,
    geometry: Geometry,
}

impl Disk {
    /// Measures the disk at `path`, whose logical sectors have `sector_bytes`.
    ///
    /// # Errors
    /// [`DiskError::Open`].
    pub fn open(path: &Path, sector_bytes: u32) -> Result<Self, DiskError> {
        // The size of a device shows only by seeking: its metadata says 0.
        let bytes = File::open(path).and_then(|mut file| file.seek(SeekFrom::End(0)));
        let bytes = bytes.map_err(|source| DiskError::Open { path: path.to_owned(), source })?;
        let geometry = Geometry { sector_bytes, sectors: bytes / u64::from(sector_bytes) };
        Ok(Self { path: path.to_owned(), geometry })
    }

    /// Measures the disk at `path`, whose sectors are as long as `sys_block`, which
    /// is `/sys/class/block`, says; a file has none there, and 512 bytes.
    ///
    /// # Errors
    /// [`DiskError::Open`].
    pub fn open_known(path: &Path, sys_block: &Path) -> Result<Self, DiskError> {
        Self::open(path, sector_bytes(&sys_block.join(path.file_name().unwrap_or_default())))
    }

    /// Its device or file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of one sector, which its table counts in.
    pub fn sector_bytes(&self) -> u32 {
        self.geometry.sector_bytes
    }

    /// Reads its partition table.
    ///
    /// # Errors
    /// [`DiskError::Open`], and [`DiskError::Table`] when no copy is sound.
    pub fn table(&self) -> Result<Table, DiskError> {
        let file = File::open(&self.path);
        let file = file.map_err(|source| DiskError::Open { path: self.path.clone(), source })?;
        let primary = self.read_copy(&file, PRIMARY_LBA);
        let backup = self.read_copy(&file, Table::backup_lba(&primary, self.geometry));
        Table::choose(primary, backup).map_err(|source| DiskError::Table { path: self.path.clone(), source })
    }

    fn read_copy(&self, file: &File, lba: u64) -> Result<TableCopy, Fault> {
        let sector_bytes = self.geometry.sector_bytes as usize;
        let sector = read(file, lba * u64::from(self.geometry.sector_bytes), sector_bytes)?;
        let header = Header::parse(&sector, lba, self.geometry)?;
        let entries = read(file, header.entries_offset(), header.entries_bytes())?;
        header.with_entries(entries)
    }

    /// Performs a plan, step by step.
    ///
    /// # Errors
    /// [`DiskError::Write`] at the first step that fails.
    pub fn perform(&self, steps: &[Step]) -> Result<(), DiskError> {
        let run = || -> io::Result<()> {
            let file = fs::OpenOptions::new().write(true).open(&self.path)?;
            for step in steps {
                match step {
                    Step::Write { offset, bytes } => file.write_all_at(bytes, *offset)?,
                    Step::Sync => file.sync_all()?,
                }
            }
            Ok(())
        };
        run().map_err(|source| DiskError::Write { path: self.path.clone(), source })
    }

    /// The device of the partition with this number that starts at this
    /// sector, or `None` while the kernel does not know it.
    pub fn partition_device(&self, sys_block: &Path, number: u32, first_lba: u64) -> Option<PathBuf> {
        // sysfs counts in 512 bytes, whatever the disk's sectors are.
        let start = first_lba * u64::from(self.geometry.sector_bytes) / 512;
        let disk = sys_block.join(self.path.file_name()?);
        let mut names = fs::read_dir(&disk).ok()?.flatten().map(|entry| entry.file_name());
        let name = names.find(|name| {
            let told = |file: &str| read_number(&disk.join(name).join(file));
            told("partition") == Some(number.into()) && told("start") == Some(start)
        })?;
        Some(self.path.with_file_name(name))
    }

    /// Makes the kernel look at the table again, after it was mended.
    ///
    /// # Errors
    /// The kernel's: a partition that is in use keeps it from looking.
    pub fn reread(&self) -> io::Result<()> {
        /// Source: linux/fs.h, `BLKRRPART` = `_IO(0x12, 95)`.
        const BLKRRPART: libc::Ioctl = 0x125f;
        let file = File::open(&self.path)?;
        // SAFETY: this request takes no argument.
        match unsafe { libc::ioctl(file.as_raw_fd(), BLKRRPART) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Where a partition is on the disk, in bytes: its start and its length.
    pub fn extent(&self, partition: &Partition) -> (u64, u64) {
        let sector_bytes = u64::from(self.geometry.sector_bytes);
        let sectors = partition.last_lba + 1 - partition.first_lba;
        (partition.first_lba * sector_bytes, sectors * sector_bytes)
    }
}

fn read(file: &File, offset: u64, bytes: usize) -> Result<Vec<u8>, Fault> {
    let mut buffer = vec![0; bytes];
    file.read_exact_at(&mut buffer, offset).map_err(|error| Fault::Unreadable(error.to_string()))?;
    Ok(buffer)
}

fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The disks the kernel knows, in the order of their names.
///
/// `sys_block` is `/sys/class/block`; a disk is what has a size and is no
/// partition.
pub fn list(sys_block: &Path, dev: &Path) -> Vec<Result<Disk, DiskError>> {
    let entries = fs::read_dir(sys_block).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
    names.sort();
    let disk = |name: &std::ffi::OsString| {
        let told = |file: &str| read_number(&sys_block.join(name).join(file));
        told("size").unwrap_or(0) > 0 && told("partition").is_none()
    };
    let disks = names.iter().filter(|name| disk(name));
    disks.map(|name| Disk::open_known(&dev.join(name), sys_block)).collect()
}

/// Bytes of a logical sector of the disk with this folder in sysfs.
fn sector_bytes(sys_disk: &Path) -> u32 {
    let told = read_number(&sys_disk.join("queue/logical_block_size"));
    told.and_then(|bytes| u32::try_from(bytes).ok()).filter(|bytes| *bytes >= 512).unwrap_or(512)
}
