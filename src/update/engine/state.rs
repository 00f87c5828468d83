//! The updater's files, read with a limit.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

/// Reads at most `most` bytes of `path`; `None` when it is not there.
///
/// # Errors
/// The system's.
pub fn read(path: &Path, most: usize) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(most as u64 + 1).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}
