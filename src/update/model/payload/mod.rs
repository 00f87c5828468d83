//! The payload: how a new system travels, whole or as the difference to the one
//! that runs.
//!
//! ```text
//! "CrAU" | u64be version 1 | u64be manifest size | manifest | data of the operations | signatures
//! |<------------------ head ------------------------------->|
//! |<------------------ what the signatures cover --------------------------->|
//! ```
//!
//! It holds the data area of a slot alone. The hash tree and its description are
//! made on the machine, of what it read back ([`crate::verity`]).
//!
//! Trust comes from the signed release ([`crate::metadata`]), which names the
//! size and hash of the payload and of its head:
//! 1. The head is compared with its signed hash before it is decoded, so no
//!    manifest is looked at that was not signed.
//! 2. Each operation's data is compared with the hash the manifest gives, so
//!    nothing is unpacked and nothing is written that was not signed.
//! 3. At the end the hash of the whole is compared with the signed one, and the
//!    payload's own RSA signature is checked, as update_engine does.
//! 4. What makes a slot bootable is none of these but the root hash of what was
//!    read back.
//!
//! A transfer goes on after any cut: [`Checkpoint`] holds the state of the hash,
//! so the third check covers every byte however often the transfer began anew.
//!
//! Caller's duties:
//! 1. Ask for a payload's bytes from where the [`Reader`] stands, and push them
//!    in order.
//! 2. Write what [`apply::render`] gives at [`Operation::target_offset`], and
//!    keep a [`Checkpoint`] only after what it counts as done was flushed.
//! 3. Never write to the slot that `source` reads.
//!
//! Source: CoreOS update_engine, `update_metadata.proto` and
//! `delta_diff_generator.cc`; the kinds from 14 on are Chrome OS's number for
//! zstd and one of our own.

pub mod apply;
pub mod manifest;
mod reader;
pub mod rsa;
pub mod wire;

pub use manifest::{Manifest, Operation};
pub use reader::{Checkpoint, Event, Expected, Reader};

use crate::{
    error_code::ErrorCode,
    hash::Sha256,
    verity::{self, BLOCK_BYTES},
};

/// Bytes before the manifest: magic, version, size.
pub const HEADER_BYTES: usize = 20;

/// What a payload starts with.
pub const MAGIC: &[u8; 4] = b"CrAU";

/// The version of the format.
pub const VERSION: u64 = 1;

/// Most bytes of header and manifest. A slot of 192 MiB needs some 20 KiB: 192
/// operations of about 100 bytes; copies of single blocks can make it 64 times as
/// much.
pub const HEAD_BYTES_MAX: u64 = 4 << 20;

/// Most blocks that one operation writes: 1 MiB.
pub const OPERATION_BLOCKS_MAX: u64 = 256;

/// Most bytes that one operation writes.
pub const OPERATION_BYTES_MAX: usize = OPERATION_BLOCKS_MAX as usize * BLOCK_BYTES;

/// Most bytes of one operation's data. Data that does not compress travels as it
/// is, so the room above is never needed; it forgives a compressor that always
/// compresses.
pub const OPERATION_DATA_BYTES_MAX: u64 = OPERATION_BYTES_MAX as u64 + (64 << 10);

/// Most operations: as many as there can be blocks.
pub const OPERATIONS_MAX: usize = verity::DATA_BLOCKS_MAX as usize;

/// Most bytes of the signatures: seven by RSA-4096 keys.
pub const SIGNATURES_BYTES_MAX: u64 = 4096;

/// The header of a payload whose manifest is of `manifest_bytes` bytes.
pub fn header(manifest_bytes: u64) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(MAGIC);
    header[4..12].copy_from_slice(&VERSION.to_be_bytes());
    header[12..].copy_from_slice(&manifest_bytes.to_be_bytes());
    header
}

/// Why a payload is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The signed release is about something that cannot be.
    #[error("the release gives {what} as {value}, of at most {most}")]
    Limit {
        /// Which number.
        what: &'static str,
        /// What it is.
        value: u64,
        /// What it may be.
        most: u64,
    },
    /// A number of the payload is not the signed one.
    #[error("{what} is {got} instead of {want}")]
    Differs {
        /// Which number.
        what: &'static str,
        /// What the payload says.
        got: u64,
        /// What is signed, or follows from it.
        want: u64,
    },
    /// The first bytes are not those of a payload.
    #[error("no payload of version {VERSION}")]
    BadMagic,
    /// Header and manifest have another hash than is signed.
    #[error("the manifest has the hash {got} instead of {want}")]
    HeadHash {
        /// What came.
        got: Sha256,
        /// What is signed.
        want: Sha256,
    },
    /// The manifest is signed and makes no sense.
    #[error("bad manifest: {0}")]
    Manifest(String),
    /// An operation of the manifest makes no sense.
    #[error("bad manifest: operation {index}: {wrong}")]
    Operation {
        /// Its number, from 0.
        index: usize,
        /// What is wrong with it.
        wrong: String,
    },
    /// An operation's data has another hash than the manifest says.
    #[error("the data of operation {index} has the hash {got} instead of {want}")]
    OperationHash {
        /// Its number, from 0.
        index: usize,
        /// What came.
        got: Sha256,
        /// What the manifest says.
        want: Sha256,
    },
    /// The payload as a whole has another hash than is signed.
    #[error("the payload has the hash {got} instead of {want}")]
    PayloadHash {
        /// What came.
        got: Sha256,
        /// What is signed.
        want: Sha256,
    },
    /// No signature at the end is by the payload key.
    #[error("no signature of the payload is by this system's payload key")]
    Signature,
    /// The payload key is no RSA key.
    #[error("bad payload key: {0}")]
    Key(#[from] rsa::BadKey),
    /// There are bytes behind the end.
    #[error("more than the {want} bytes of the payload")]
    TooLong {
        /// How many are signed.
        want: u64,
    },
    /// The bytes ended before the payload did.
    #[error("the payload ends after {got} of {want} bytes")]
    Truncated {
        /// How many came.
        got: u64,
        /// How many are signed.
        want: u64,
    },
    /// What was kept of an earlier transfer does not belong to this payload.
    #[error("what is kept of the earlier transfer does not fit this payload")]
    Checkpoint,
    /// Bytes were pushed after an earlier push was refused.
    #[error("the payload was refused before")]
    Refused,
}

impl Fault {
    /// How Omaha calls it.
    pub fn error_code(&self) -> ErrorCode {
        match self {
            Self::Limit { .. } | Self::Differs { .. } => ErrorCode::MetadataSize,
            Self::BadMagic => ErrorCode::BadMagic,
            Self::HeadHash { .. } => ErrorCode::MetadataSignatureMismatch,
            Self::Manifest(_) | Self::Operation { .. } => ErrorCode::ManifestParse,
            Self::OperationHash { .. } => ErrorCode::OperationHashMismatch,
            Self::PayloadHash { .. } => ErrorCode::PayloadHash,
            Self::Signature => ErrorCode::PayloadVerification,
            Self::Key(_) => ErrorCode::PublicKeyVerification,
            Self::TooLong { .. } | Self::Truncated { .. } => ErrorCode::PayloadSize,
            Self::Checkpoint => ErrorCode::StateInitialisation,
            Self::Refused => ErrorCode::Generic,
        }
    }
}

#[cfg(test)]
mod tests;
