//! A machine's own copy of the image's disk.

use crate::error::{Error, doing};
use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::fd::AsRawFd,
    path::Path,
};

/// Copies `from` to `to` without filling its holes: a disk of a gigabyte with thirty
/// megabytes in it takes thirty.
///
/// # Errors
/// [`Error::Io`] with both paths.
pub fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    let what = format!("copying {} to {}", from.display(), to.display());
    copy_data(from, to).map_err(doing(what))
}

fn copy_data(from: &Path, to: &Path) -> io::Result<()> {
    let mut source = File::open(from)?;
    let mut target = OpenOptions::new().write(true).create_new(true).open(to)?;
    let size = source.metadata()?.len();
    target.set_len(size)?;
    let mut at = 0;
    while let Some(start) = seek(&source, at, libc::SEEK_DATA)? {
        // There is always a hole at the end, so this is found.
        let end = seek(&source, start, libc::SEEK_HOLE)?.unwrap_or(size);
        source.seek(SeekFrom::Start(start))?;
        target.seek(SeekFrom::Start(start))?;
        io::copy(&mut Read::by_ref(&mut source).take(end - start), &mut target)?;
        at = end;
    }
    target.flush()
}

/// The next data or hole from `at` on; `None` behind the last.
///
/// Source: lseek(2); a file system without holes reports one piece of data.
fn seek(file: &File, at: u64, whence: libc::c_int) -> io::Result<Option<u64>> {
    let at = i64::try_from(at).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open for as long as `file` lives.
    let found = unsafe { libc::lseek(file.as_raw_fd(), at, whence) };
    match u64::try_from(found) {
        Ok(found) => Ok(Some(found)),
        Err(_) => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
            error => Err(error),
        },
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::MetadataExt};

    #[test]
    fn holes_stay_holes_and_data_is_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a"), dir.path().join("b"));
        let mut file = File::create(&from).unwrap();
        file.set_len(64 << 20).unwrap();
        for at in [0, 20 << 20, (64 << 20) - 5] {
            file.seek(SeekFrom::Start(at)).unwrap();
            file.write_all(b"hello").unwrap();
        }
        copy(&from, &to).unwrap();
        assert!(fs::read(&from).unwrap() == fs::read(&to).unwrap(), "the copy differs");
        assert!(fs::metadata(&to).unwrap().blocks() * 512 < 1 << 20, "the holes were filled");
    }

    #[test]
    fn an_existing_disk_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&from, "new").unwrap();
        fs::write(&to, "old").unwrap();
        assert!(copy(&from, &to).is_err());
        assert_eq!(fs::read(&to).unwrap(), b"old");
    }
}
