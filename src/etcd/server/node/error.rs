//! Why a member could not start.

use std::path::PathBuf;

use proa_etcd_replica::StartError;

use crate::database::DatabaseError;
use crate::log::LogError;

/// Why a member could not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A setting contradicts another, or the data dir.
    #[error("{0}")]
    Config(String),
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
    /// A file of the data dir is not as it was written.
    #[error("{} is damaged: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
    /// The log cannot be used.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The database cannot be used.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The database's content cannot be read.
    #[error(transparent)]
    Corrupt(#[from] proa_etcd_store::Corrupt),
    /// Acknowledged data is missing.
    #[error("{}: {source}", path.display())]
    Start {
        /// The data dir.
        path: PathBuf,
        /// What is missing.
        source: StartError,
    },
    /// The peers' connections cannot be served.
    #[error(transparent)]
    Peers(std::io::Error),
    /// A thread cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}
