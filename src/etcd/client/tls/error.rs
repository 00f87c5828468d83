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

/// What went wrong with a connection, in the words that those of etcd's members have
/// for it: what the other end complains of is a remote error.
///
/// Source: Go's `crypto/tls`, `alertText`.
pub fn in_words(error: &io::Error) -> String {
    let alert = match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::AlertReceived(alert)) => format!("{alert:?}"),
        Some(_) | None if error.kind() == io::ErrorKind::UnexpectedEof => {
            return "it ended the connection".to_owned();
        }
        Some(_) | None => return error.to_string(),
    };
    let mut words = String::new();
    for letter in alert.replace("UnknownCA", "UnknownCertificateAuthority").chars() {
        if letter.is_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.extend(letter.to_lowercase());
    }
    format!("remote error: tls: {words}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::{AlertDescription, Error};

    #[test]
    fn alerts_are_worded_as_in_go() {
        let of = |error: Error| in_words(&io::Error::new(io::ErrorKind::InvalidData, error));
        #[rustfmt::skip]
        let cases = [
            (AlertDescription::BadCertificate,     "remote error: tls: bad certificate"),
            (AlertDescription::UnknownCA,          "remote error: tls: unknown certificate authority"),
            (AlertDescription::HandshakeFailure,   "remote error: tls: handshake failure"),
        ];
        for (alert, want) in cases {
            assert_eq!(of(Error::AlertReceived(alert)), want);
        }
        assert_eq!(of(Error::DecryptError), Error::DecryptError.to_string());
        assert_eq!(in_words(&io::Error::other("no way")), "no way");
    }
}
