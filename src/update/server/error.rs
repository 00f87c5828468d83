//! Why a request is refused: an HTTP status and one line.

use http::StatusCode;

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refused {
    /// The status of the answer.
    pub status: StatusCode,
    /// What, where, and what would be right.
    pub text: String,
}

impl Refused {
    pub fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }

    pub fn bad(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    pub fn absent(text: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, text)
    }

    pub fn conflict(text: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, text)
    }
}

impl From<proa_etcd_client::Error> for Refused {
    fn from(error: proa_etcd_client::Error) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, format!("the store: {error}"))
    }
}
