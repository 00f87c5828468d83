//! How `etcdctl` ends when it does not succeed.

use proa_etcd_client::Error;

/// A line for stderr and an exit status.
///
/// Source of the numbers: etcdctl's `error.go`.
#[derive(Debug)]
pub struct Failure {
    /// After `Error: `; nothing is printed when it is empty.
    pub text: String,
    /// The exit status.
    pub code: u8,
}

const ERROR: u8 = 1;
const BAD_CONNECTION: u8 = 2;
const INVALID_INPUT: u8 = 3;
const BAD_FEATURE: u8 = 4;
const INTERRUPTED: u8 = 5;
const BAD_ARGS: u8 = 128;

impl Failure {
    /// The store said no, or did not answer.
    pub fn error(text: impl Into<String>) -> Self {
        Self { text: text.into(), code: ERROR }
    }

    /// A flag that is unknown or misspelt.
    pub fn flag(text: impl Into<String>) -> Self {
        Self::error(text)
    }

    /// Arguments that are missing, too many or wrong.
    pub fn args(text: impl Into<String>) -> Self {
        Self { text: text.into(), code: BAD_ARGS }
    }

    /// A value of a flag that names no feature.
    pub fn feature(text: impl Into<String>) -> Self {
        Self { text: text.into(), code: BAD_FEATURE }
    }

    /// Standard input, or what is in the store, that cannot be worked with.
    pub fn input(text: impl Into<String>) -> Self {
        Self { text: text.into(), code: INVALID_INPUT }
    }

    /// A stream that ended before it was told to.
    pub fn interrupted(text: impl Into<String>) -> Self {
        Self { text: text.into(), code: INTERRUPTED }
    }

    /// A connection that gave an unusable answer.
    pub fn connection(text: impl Into<String>) -> Self {
        Self { text: text.into(), code: BAD_CONNECTION }
    }

    /// All has been said already.
    pub fn said() -> Self {
        Self { text: String::new(), code: ERROR }
    }

    /// Whether it is the common one.
    pub fn is_error(&self) -> bool {
        self.code == ERROR
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::BadEndpoint { .. } | Error::Tls(_) => Self::args(error.to_string()),
            Error::Unavailable { .. } | Error::Refused { .. } | Error::Protocol(_) => {
                Self::error(error.to_string())
            }
        }
    }
}
