//! What may go wrong with an update, and how Omaha calls it.

use std::{io, path::PathBuf};

use proa_update_disk::DiskError;
use proa_update_model::{
    engine::{NoPassiveSlot, Trouble},
    error_code::ErrorCode,
    gpt, metadata,
    omaha::BadMessage,
    payload::{self, apply},
    verity,
};

use crate::http::HttpError;

/// Why an update does not go on, or the updater does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server or the network.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The server's answer is none.
    #[error("the update server's answer: {0}")]
    Message(#[from] BadMessage),
    /// The server cannot say.
    #[error("the update server says {0}")]
    Server(String),
    /// The release may not be installed.
    #[error(transparent)]
    Refused(#[from] metadata::Refusal),
    /// This machine does not want it.
    #[error("{text}")]
    Policy {
        /// How Omaha calls it.
        code: ErrorCode,
        /// Why not.
        text: String,
    },
    /// The payload is the difference to another system, perhaps another build of the
    /// same version.
    #[error("the offered payload is for another running system")]
    OtherSystem,
    /// The payload is not the one that was signed.
    #[error(transparent)]
    Payload(#[from] payload::Fault),
    /// An operation of it could not be carried out.
    #[error("operation {index} of the payload")]
    Apply {
        /// Which one.
        index: usize,
        /// Why not.
        source: apply::Failure,
    },
    /// The transfer ended before its time.
    #[error("{url} ended after {got} of {want} bytes")]
    Cut {
        /// Where from.
        url: String,
        /// What has come.
        got: u64,
        /// What was to come.
        want: u64,
    },
    /// What was read back is another system.
    #[error("what was read back has the root hash {got} instead of {want}")]
    ReadBack {
        /// What it is.
        got: String,
        /// What was signed.
        want: String,
    },
    /// The tree that was read back is not the one that was written.
    #[error("the hash tree that was read back is not the one that was written")]
    TreeReadBack,
    /// A tree cannot be made of that.
    #[error(transparent)]
    Tree(#[from] verity::Fault),
    /// The partition table.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The partition table cannot be changed.
    #[error("the partition table cannot be changed: {0}")]
    Table(#[from] gpt::Fault),
    /// The flags that were read back are not those that were written.
    #[error("the partition table holds other flags than were written")]
    Flags,
    /// No slot may be written.
    #[error(transparent)]
    NoPassiveSlot(#[from] NoPassiveSlot),
    /// A device or a file.
    #[error("cannot {doing} {}", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// A file that holds something else.
    #[error("{}: {wrong}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        wrong: String,
    },
    /// No signals, no runtime.
    #[error("cannot start")]
    System(#[from] io::Error),
}

impl Error {
    /// How Omaha calls it.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Http(HttpError::Status { status, .. } | HttpError::Redirect { status, .. }) => {
                ErrorCode::HttpStatus(*status)
            }
            Self::Http(_) => ErrorCode::Http,
            Self::Message(BadMessage::Xml(_)) => ErrorCode::XmlParse,
            Self::Message(_) | Self::Server(_) | Self::OtherSystem => ErrorCode::ResponseInvalid,
            Self::Refused(refusal) => refusal.error_code(),
            Self::Policy { code, .. } => *code,
            Self::Payload(fault) => fault.error_code(),
            // This machine's disk: no word against the release.
            Self::Apply { source: apply::Failure::Source { .. }, .. }
            | Self::TreeReadBack
            | Self::Disk(_)
            | Self::Table(_)
            | Self::Flags
            | Self::File { .. } => ErrorCode::Write,
            Self::Apply { .. } => ErrorCode::OperationExecution,
            Self::Cut { .. } => ErrorCode::DownloadTransfer,
            Self::ReadBack { .. } | Self::Tree(_) => ErrorCode::NewRootVerification,
            Self::NoPassiveSlot(_) => ErrorCode::InstallDeviceOpen,
            Self::Content { .. } => ErrorCode::StateInitialisation,
            Self::System(_) => ErrorCode::Generic,
        }
    }

    /// Whether the same may succeed when it is tried again in a moment.
    pub fn is_of_the_transfer(&self) -> bool {
        matches!(self, Self::Http(error) if !matches!(error, HttpError::Redirect { .. } | HttpError::TooLong { .. }))
            || matches!(self, Self::Cut { .. })
    }

    /// Whether another place that has the payload may send a better one.
    pub fn is_of_the_place(&self) -> bool {
        matches!(self, Self::Http(_) | Self::Payload(_))
    }

    /// As the state machine has it.
    pub fn trouble(&self) -> Trouble {
        Trouble { code: self.code(), reason: proa_base::cli::chain(self) }
    }
}

/// Adds what was tried to an error of the system.
pub fn file(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
    let path = path.into();
    move |source| Error::File { doing, path, source }
}
