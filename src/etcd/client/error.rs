//! Why a request to the store did not succeed.

use std::error::Error as _;

use tonic::{Code, ConnectError, Status};

/// The outcome of a request that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An endpoint that this client cannot use; nothing was asked.
    #[error("bad endpoint {endpoint:?}: {reason}")]
    BadEndpoint {
        /// The endpoint as it was given.
        endpoint: String,
        /// What would be right.
        reason: String,
    },
    /// TLS settings that cannot be used; nothing was asked.
    #[error(transparent)]
    Tls(#[from] crate::tls::TlsError),
    /// No endpoint gave an answer in time. Trying again later is reasonable.
    #[error("store unavailable: {text}")]
    Unavailable {
        /// The last endpoint's reason.
        text: String,
        /// Whether a member may have carried the request out all the same:
        /// a write with `sent` is neither known to be done nor to be undone.
        sent: bool,
    },
    /// The store answered, and the answer is no. Repeating changes nothing.
    #[error("{text}")]
    Refused {
        /// The gRPC code.
        code: Code,
        /// The store's own words, as `etcdserver: ...`.
        text: String,
    },
    /// The store answered with something that the protocol does not allow.
    #[error("the store broke the protocol: {0}")]
    Protocol(String),
}

impl Error {
    /// Whether the request is known to have had no effect.
    pub fn is_without_effect(&self) -> bool {
        !matches!(self, Self::Unavailable { sent: true, .. } | Self::Protocol(_))
    }

    /// This error of what had to be asked first, as one of the request that was
    /// to follow: that was never sent.
    pub(crate) fn before_the_request(self) -> Self {
        match self {
            Self::Unavailable { text, .. } => Self::Unavailable { text, sent: false },
            other => other,
        }
    }

    /// The refusal with this gRPC code?
    pub fn is_refused(&self, wanted: Code) -> bool {
        matches!(self, Self::Refused { code, .. } if *code == wanted)
    }
}

/// Sorts a gRPC status into the kinds above.
///
/// A status that has a source was made on this side, by the transport; one
/// without came from the member.
pub(crate) fn classify(status: Status) -> Error {
    if caused_by_connect(&status) {
        return Error::Unavailable { text: chain(&status), sent: false };
    }
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => {
            Error::Unavailable { text: chain(&status), sent: true }
        }
        _ if status.source().is_some() => Error::Unavailable { text: chain(&status), sent: true },
        code => Error::Refused { code, text: status.message().to_owned() },
    }
}

fn caused_by_connect(status: &Status) -> bool {
    let mut next = status.source();
    while let Some(error) = next {
        if error.is::<ConnectError>() {
            return true;
        }
        next = error.source();
    }
    false
}

/// The message with its causes, each said once.
fn chain(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut next = status.source();
    while let Some(error) = next {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        next = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn from_transport(code: Code, cause: ConnectError) -> Status {
        let mut status = Status::new(code, "transport error");
        status.set_source(std::sync::Arc::new(cause));
        status
    }

    #[test]
    fn only_a_failed_connect_is_known_to_be_unsent() {
        let refused = ConnectError("connection refused".into());
        let rows = [
            ("connect", from_transport(Code::Unavailable, refused), "unavailable unsent"),
            ("no leader", Status::unavailable("etcdserver: no leader"), "unavailable sent"),
            ("deadline", Status::deadline_exceeded("late"), "unavailable sent"),
            ("compacted", Status::out_of_range("etcdserver: mvcc: ..."), "refused"),
            ("no space", Status::resource_exhausted("etcdserver: ..."), "refused"),
        ];
        for (name, status, want) in rows {
            let got = match classify(status) {
                Error::Unavailable { sent: false, .. } => "unavailable unsent",
                Error::Unavailable { sent: true, .. } => "unavailable sent",
                Error::Refused { .. } => "refused",
                Error::BadEndpoint { .. } | Error::Tls(_) | Error::Protocol(_) => "other",
            };
            assert_eq!(got, want, "{name}");
        }
    }
}
