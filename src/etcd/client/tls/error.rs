//! Why TLS cannot be spoken as it was asked for.

use std::io;
use std::path::PathBuf;

/// Why TLS cannot be spoken as it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// A file that holds something else.
    #[error("{} does not hold {want}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        want: &'static str,
    },
    /// A certificate and a key that do not make a pair.
    #[error("{} and {} cannot be used together", certificate.display(), key.display())]
    Pair {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// The library's word.
        source: rustls::Error,
    },
    /// Nobody to trust: no CA was named and the system has none.
    #[error("no CA to trust: none was named, and the system has none in {}", path.display())]
    NoRoots {
        /// Where they were looked for.
        path: PathBuf,
    },
    /// A host that no certificate can be for.
    #[error("{name:?} is neither a host name nor an IP address")]
    BadName {
        /// The host.
        name: String,
    },
    /// The library refused what the files hold.
    #[error("tls: {0}")]
    Library(#[source] rustls::Error),
    /// Settings or files that cannot be honoured together.
    #[error("{0}")]
    Setting(String),
}
