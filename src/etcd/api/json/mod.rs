//! Messages as JSON: what a client without gRPC sends and gets.
//!
//! The form is that of etcd's gateway: bytes in base64, 64-bit numbers as
//! strings, enums by name, fields by the names of etcd's `.proto` files, and
//! what has its default value left out. Text becomes the bytes of the wire
//! and these become text, by the tables of [`crate::descriptor`]: no message
//! needs code of its own.
//!
//! Source: the protobuf language guide, "ProtoJSON Format"; grpc-gateway 1.16,
//! `runtime.JSONPb` with `OrigName`.

mod objects;
mod read;
#[cfg(test)]
mod tests;
mod write;

pub use objects::Objects;
pub use read::{parse, to_wire};
pub use write::to_json;

/// Why a request cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadJson {
    /// The text is not JSON.
    #[error("{0}")]
    Syntax(String),
    /// A message is wanted and something else is there.
    #[error("a JSON object is wanted for {message}, not {found}")]
    NotAnObject {
        /// The kind of message.
        message: &'static str,
        /// What is there, as JSON.
        found: String,
    },
    /// A field holds what it cannot hold.
    #[error("invalid value for {kind} field {field}: {found}")]
    Value {
        /// What the field holds.
        kind: &'static str,
        /// The field.
        field: &'static str,
        /// What is there, as JSON.
        found: String,
    },
    /// Two fields are set of which only one can be.
    #[error("{field}: another field of the same choice in {message} is already set")]
    SecondChoice {
        /// The kind of message.
        message: &'static str,
        /// The later field.
        field: &'static str,
    },
    /// A request is longer than is taken.
    #[error("the request is larger than {limit} bytes")]
    TooLong {
        /// How much would be taken.
        limit: usize,
    },
}

/// Bytes that are no message of the kind they should be: server and tables are
/// not of one version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an answer is no {message}: field {number} is malformed, unknown or out of order")]
pub struct BadWire {
    /// The kind of message.
    pub message: &'static str,
    /// The field; 0 when not even that could be read.
    pub number: u32,
}
