//! Why the log could not do what was asked.

use std::path::PathBuf;

/// What went wrong in the log, by what the caller has to do about it.
///
/// * *End the process*: [`LogError::is_fatal`]. The bytes on disk are unknown
///   from here on. The kernel may drop a dirty page after one failed fsync and
///   report success for the next, so retrying would acknowledge lost data
///   ("Can Applications Recover from fsync Failures?", USENIX ATC 2020).
/// * *Take no more writes*: [`LogError::NoSpace`]. Nothing was written.
/// * *Do not start*: everything that [`super::Log::open`] returns.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Another process has the folder open.
    #[error("data directory {} is in use by another process", path.display())]
    InUse {
        /// The locked folder.
        path: PathBuf,
    },
    /// The folder holds no log; a new member calls [`super::Log::create`].
    #[error("no log in {}", path.display())]
    Absent {
        /// The folder that was looked into.
        path: PathBuf,
    },
    /// The folder holds a log already: creating one would forget it.
    #[error("there is a log in {} already", path.display())]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// A size that cannot work.
    #[error("bad log option: {what}")]
    BadOption {
        /// The option, what it was and what would be right.
        what: String,
    },
    /// Bytes that were acknowledged are damaged. Nothing was cut or changed.
    #[error(
        "log segment {} is damaged at byte {offset}: {what}; this member must not vote: \
         remove it from the cluster and add it again with an empty data directory",
        path.display()
    )]
    Corrupt {
        /// The damaged file.
        path: PathBuf,
        /// The first byte of the first record that does not validate.
        offset: u64,
        /// What is wrong there.
        what: &'static str,
    },
    /// The log ends before what this member knew to be committed.
    #[error(
        "the log in {} ends at index {last}, but index {commit} was committed: \
         acknowledged entries are missing; remove this member from the cluster and add it \
         again with an empty data directory",
        path.display()
    )]
    Shorter {
        /// The log's folder.
        path: PathBuf,
        /// The commit index of the last hard state.
        commit: u64,
        /// The last index that the log holds.
        last: u64,
    },
    /// The file system has no room for another segment. Nothing was written,
    /// the call may be repeated when there is room.
    #[error("no space left for a log segment of {segment_bytes} bytes in {}", path.display())]
    NoSpace {
        /// The log's folder.
        path: PathBuf,
        /// The size of the segment that did not fit.
        segment_bytes: u64,
    },
    /// An entry that no segment can hold. Nothing was written.
    #[error("entry {index} takes {size_bytes} bytes, a log segment holds {limit_bytes}")]
    TooLarge {
        /// The index of the entry.
        index: u64,
        /// The size of its record.
        size_bytes: u64,
        /// The largest record of this log.
        limit_bytes: u64,
    },
    /// Entries that do not continue the log: a defect of the caller. Nothing
    /// was written.
    #[error("entry {index} does not continue a log that holds {first}..={last}")]
    Gap {
        /// The index of the first entry that does not fit.
        index: u64,
        /// The first index that may be written.
        first: u64,
        /// The last index in the log.
        last: u64,
    },
    /// Writing or syncing failed: abort the process, nothing else is safe.
    #[error("cannot {action} {}: {source}", path.display())]
    SyncFailed {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: std::io::Error,
    },
    /// An earlier call failed with [`LogError::SyncFailed`] and the process
    /// still runs.
    #[error("the log in {} failed before and takes no more writes", path.display())]
    Poisoned {
        /// The log's folder.
        path: PathBuf,
    },
}

impl LogError {
    /// Whether the process must end at once: what is on disk is not known.
    pub fn is_fatal(&self) -> bool {
        match self {
            Self::SyncFailed { .. } | Self::Poisoned { .. } => true,
            Self::InUse { .. }
            | Self::Absent { .. }
            | Self::Exists { .. }
            | Self::BadOption { .. }
            | Self::Corrupt { .. }
            | Self::Shorter { .. }
            | Self::NoSpace { .. }
            | Self::TooLarge { .. }
            | Self::Gap { .. } => false,
        }
    }
}
