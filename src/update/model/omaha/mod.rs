//! The Omaha protocol, version 3.0, as CoreOS's update_engine speaks it: what a
//! client asks and tells, what a server answers, and both as XML.
//!
//! What is unknown is ignored, so that clients and servers of other times and
//! hands are understood; limits are kept always.
//!
//! Caller's duties:
//! 1. Read no more than [`DOCUMENT_BYTES_MAX`] bytes of a body from the network.
//! 2. Believe nothing that is read here: only signed release metadata says what
//!    may be installed.

mod request;
#[cfg(test)]
mod request_test;
mod response;
#[cfg(test)]
mod response_test;
mod xml;
#[cfg(test)]
mod xml_test;

pub use request::{
    AppRequest, Event, EventResult, EventType, Os, REASON_CHARACTERS_MAX, Request, UpdateCheck,
};
pub use response::{AppResponse, CheckAnswer, OK, Package, PostInstall, Response, Update};
pub use xml::{DOCUMENT_BYTES_MAX, XmlError};

/// The protocol's version, in requests and responses.
pub const PROTOCOL: &str = "3.0";
/// The application that is CoreOS and its heirs.
pub const COREOS_APP: &str = "e96281a6-d1af-4bde-9a0a-97b76e56dc57";
/// The application that is Proa.
pub const PROA_APP: &str = "6b6d3a2e-0f5c-4c7e-9b1d-70726f610001";

/// Why a document is no request or no response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadMessage {
    /// It is no XML within the limits.
    #[error(transparent)]
    Xml(#[from] XmlError),
    /// It is another kind of document.
    #[error("the document is <{found}>, not <{wanted}>")]
    OtherRoot {
        /// What its outermost element is.
        found: String,
        /// What it should be.
        wanted: &'static str,
    },
    /// It is of a protocol that is not spoken here.
    #[error("protocol {0:?} is not spoken here; give \"3.0\"")]
    OtherProtocol(String),
    /// An element that has to be there is not.
    #[error("<{0}> is missing")]
    NoElement(&'static str),
    /// An attribute that has to be there is not, or makes no sense.
    #[error("attribute {attribute} of <{element}>: {problem}")]
    Attribute {
        /// Where.
        element: &'static str,
        /// Which.
        attribute: &'static str,
        /// What is wrong and what would be right.
        problem: &'static str,
    },
}

/// An application's id as keys have it: without braces, in lower case.
pub fn bare_id(id: &str) -> String {
    let bare = id.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(id);
    bare.to_ascii_lowercase()
}
