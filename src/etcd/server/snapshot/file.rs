//! A snapshot in a file.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use proa_etcd_store::snapshot::bolt::{BadFile, Bolt, Bytes, Summary};
use sha2::{Digest, Sha256};

use crate::node::NodeError;

/// Why a snapshot cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A file operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's word.
        source: std::io::Error,
    },
    /// It is a copy of a database and not what `snapshot save` wrote.
    #[error("snapshot missing hash but --skip-hash-check=false")]
    NoHash,
    /// It was changed since it was saved.
    #[error("expected sha256 {expected}, got {found}")]
    OtherHash {
        /// The checksum that it carries.
        expected: String,
        /// That of its bytes.
        found: String,
    },
    /// Its content is not as etcd writes it.
    #[error("{}: {source}", path.display())]
    Bad {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: BadFile,
    },
    /// There is something where the data dir is to be.
    #[error("data-dir {:?} not empty or could not be read", path.display())]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// A backup must not change what it is made of.
    #[error("{} lies in {}, which is not to be changed; give a folder elsewhere", path.display(), data_dir.display())]
    Inside {
        /// Where the backup is to be.
        path: PathBuf,
        /// The data dir.
        data_dir: PathBuf,
    },
    /// Its member runs.
    #[error("the member in {} runs; stop it first", data_dir.display())]
    Runs {
        /// The data dir.
        data_dir: PathBuf,
    },
    /// The new member cannot be made.
    #[error(transparent)]
    Node(#[from] NodeError),
}

/// What is done about the checksum behind the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// It must be there and right.
    Checked,
    /// It is not looked at.
    Skipped,
}

/// Bytes of a checksum; a database without one is whole pages.
const HASH_BYTES: u64 = 32;
/// Smallest pages there are.
const SECTOR_BYTES: u64 = 512;

/// An open snapshot file.
pub struct Snapshot {
    file: File,
    path: PathBuf,
    length: u64,
}

impl Bytes for Snapshot {
    fn len(&self) -> u64 {
        self.length
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), String> {
        self.file.read_exact_at(out, offset).map_err(|error| format!("cannot read it: {error}"))
    }
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> SnapshotError + use<> {
    let path = path.to_owned();
    move |source| SnapshotError::Io { action, path, source }
}

impl Snapshot {
    /// Opens the file.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    pub fn open(path: &Path) -> Result<Self, SnapshotError> {
        let file = File::open(path).map_err(io("open", path))?;
        let length = file.metadata().map_err(io("read", path))?.len();
        Ok(Self { file, path: path.to_owned(), length })
    }

    /// Checks the checksum, if that is wanted.
    ///
    /// # Errors
    /// [`SnapshotError::NoHash`], [`SnapshotError::OtherHash`].
    pub fn check(&self, hash: Hash) -> Result<(), SnapshotError> {
        if hash == Hash::Skipped {
            return Ok(());
        }
        if self.length % SECTOR_BYTES != HASH_BYTES {
            return Err(SnapshotError::NoHash);
        }
        let mut sum = Sha256::new();
        let mut piece = vec![0; 64 << 10];
        let end = self.length - HASH_BYTES;
        let mut at = 0;
        while at < end {
            let count = (end - at).min(piece.len() as u64) as usize;
            self.file.read_exact_at(&mut piece[..count], at).map_err(io("read", &self.path))?;
            sum.update(&piece[..count]);
            at += count as u64;
        }
        let mut expected = [0; HASH_BYTES as usize];
        self.file.read_exact_at(&mut expected, end).map_err(io("read", &self.path))?;
        let found = sum.finalize();
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        match found[..] == expected {
            true => Ok(()),
            false => Err(SnapshotError::OtherHash { expected: hex(&expected), found: hex(&found) }),
        }
    }

    /// What `etcdctl snapshot status` says.
    ///
    /// # Errors
    /// [`SnapshotError::Bad`].
    pub fn summary(&self) -> Result<Summary, SnapshotError> {
        Bolt::open(self).and_then(|bolt| bolt.summary()).map_err(|error| self.bad(error))
    }

    pub(super) fn bad(&self, source: BadFile) -> SnapshotError {
        SnapshotError::Bad { path: self.path.clone(), source }
    }
}
