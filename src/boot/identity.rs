//! Who this machine is: an id made at random once, and the name made from it.

use proa_base::{
    file,
    ids::{BadMachineId, MachineId},
};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Why a machine has no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file could not be read or written.
    #[error("cannot keep the machine id in {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file holds something else. It is not replaced: with a new id the
    /// machine would return to its cluster as somebody without a memory.
    #[error("{} holds {text:?}: {source}; set it right, or empty the disk for a new machine", path.display())]
    Bad {
        /// The file.
        path: PathBuf,
        /// What it holds.
        text: String,
        /// What would be right.
        source: BadMachineId,
    },
}

/// A machine's id, and whether it was made at this boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// Kept from an earlier boot.
    Kept(MachineId),
    /// Made and written down just now.
    New(MachineId),
}

impl Identity {
    /// The id.
    pub fn id(self) -> MachineId {
        match self {
            Self::Kept(id) | Self::New(id) => id,
        }
    }
}

/// Reads the id in `folder`, or makes one of `random` and writes it down.
///
/// # Errors
/// [`IdentityError`]; a bad file is left as it is.
pub fn read_or_make(
    folder: &Path,
    random: impl FnOnce() -> io::Result<[u8; 16]>,
) -> Result<Identity, IdentityError> {
    let path = path(folder);
    match fs::read_to_string(&path) {
        Ok(text) => match text.trim_end().parse() {
            Ok(id) => Ok(Identity::Kept(id)),
            Err(source) => Err(IdentityError::Bad { path, text, source }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let make = || {
                let id = MachineId::from_random(random()?);
                file::replace(&path, format!("{id}\n").as_bytes()).map(|()| Identity::New(id))
            };
            make().map_err(|source| IdentityError::File { path: path.clone(), source })
        }
        Err(source) => Err(IdentityError::File { path, source }),
    }
}

/// The file that keeps the id.
pub fn path(folder: &Path) -> PathBuf {
    folder.join("machine-id")
}

/// The host name of a machine: `proa-0123abcd`.
pub fn hostname(id: MachineId) -> String {
    format!("proa-{}", id.short())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn no_random() -> io::Result<[u8; 16]> {
        panic!("a kept id needs no random numbers")
    }

    #[test]
    fn an_id_is_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let made = read_or_make(folder.path(), || Ok([7; 16])).unwrap();
        assert!(matches!(made, Identity::New(_)));
        let kept = read_or_make(folder.path(), no_random).unwrap();
        assert_eq!(kept, Identity::Kept(made.id()));
        assert_eq!(hostname(kept.id()), "proa-07070707");
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["machine-id"], "nothing is left beside it");
    }

    #[test]
    fn a_half_written_part_is_no_id() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("machine-id.new"), "0707").unwrap();
        assert!(matches!(read_or_make(folder.path(), || Ok([1; 16])).unwrap(), Identity::New(_)));
    }

    #[test]
    fn a_bad_file_is_named_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        for text in ["", "uninitialized\n", "0123", "ABCDEF0123456789ABCDEF0123456789\n"] {
            fs::write(path(folder.path()), text).unwrap();
            let error = read_or_make(folder.path(), no_random).unwrap_err().to_string();
            assert!(error.contains(&format!("holds {text:?}: a machine id is 32")), "{error}");
            assert_eq!(fs::read_to_string(path(folder.path())).unwrap(), text);
        }
    }
}
