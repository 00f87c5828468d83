//! Why the database could not be opened, copied or replaced.

use std::path::{Path, PathBuf};

/// What went wrong outside of reading and writing, which do not return when
/// they fail ([`super::Database`]).
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// RocksDB cannot open the folder.
    #[error("cannot open the database {}: {message}", path.display())]
    Open {
        /// The database's folder.
        path: PathBuf,
        /// RocksDB's word.
        message: String,
    },
    /// RocksDB cannot write a copy.
    #[error("cannot copy the database to {}: {message}", path.display())]
    Checkpoint {
        /// The folder of the copy.
        path: PathBuf,
        /// RocksDB's word.
        message: String,
    },
    /// Somebody still holds the database or a view of it.
    #[error("the database {} is still read", path.display())]
    InUse {
        /// The database's folder.
        path: PathBuf,
    },
    /// What was received is not what was sent; nothing was replaced.
    #[error("bad copy of the database in {}: {what}", path.display())]
    BadCopy {
        /// The folder of the copy.
        path: PathBuf,
        /// What is wrong with which file.
        what: String,
    },
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
}

impl DatabaseError {
    /// Adds what was tried, and on what, to an error of the system.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_path_buf(), source }
    }
}
