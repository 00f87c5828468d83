//! TLS as one who dials speaks it: whom it trusts and who it says it is.
//!
//! Files are read anew when they change, so that a certificate can be replaced
//! below a running process.

pub mod der;
mod error;
mod fresh;
mod roots;
mod stream;
mod trust;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, StreamOwned, SupportedProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

pub use error::{TlsError, in_words};
pub use fresh::Fresh;
pub use roots::{Purpose, Roots};
pub use stream::{BlockingStream, Stream};

/// Where Debian and most others keep the certificates that a system trusts.
const SYSTEM_CAS: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Names another file than [`SYSTEM_CAS`]; as OpenSSL and Go have it.
const SYSTEM_CAS_VARIABLE: &str = "SSL_CERT_FILE";

/// What a connection to a member is made with.
#[derive(Clone, Debug, Default)]
pub struct TlsFiles {
    /// The CAs whose certificates are trusted; the system's when there is none.
    pub trusted_ca: Option<PathBuf>,
    /// Our own certificate, with the chain to its CA, and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Whether anybody is believed: encrypted, not authenticated.
    pub trusts_anybody: bool,
    /// The name that certificates must have, when it is not the host dialed.
    pub server_name: Option<String>,
    /// What is spoken inside, for ALPN: empty when that is not negotiated.
    pub protocols: Vec<Vec<u8>>,
}

/// Makes TLS connections; clones share the files.
#[derive(Clone, Debug)]
pub struct ClientTls {
    config: Arc<Fresh<ClientConfig>>,
    server_name: Option<String>,
}

impl ClientTls {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// The file that cannot be used, and why.
    pub fn new(files: TlsFiles) -> Result<Self, TlsError> {
        let server_name = files.server_name.clone();
        let mut paths: Vec<PathBuf> = files.trusted_ca.iter().cloned().collect();
        if let Some((certificate, key)) = &files.identity {
            paths.extend([certificate.clone(), key.clone()]);
        }
        let config = Arc::new(Fresh::new(paths, move || client_config(&files))?);
        Ok(Self { config, server_name })
    }

    /// The configuration for a connection made now.
    pub fn config(&self) -> Arc<ClientConfig> {
        self.config.get()
    }

    /// The name to find in the certificate of whoever is at `authority` (`host:port`).
    ///
    /// # Errors
    /// A host that is neither a name nor an address.
    pub fn name_of(&self, authority: &str) -> Result<ServerName<'static>, TlsError> {
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let name = self.server_name.as_deref().unwrap_or(host).to_owned();
        ServerName::try_from(name.clone()).map_err(|_| TlsError::BadName { name })
    }

    /// Shakes hands with whoever is at `authority`, on a connection to it.
    ///
    /// # Errors
    /// What went wrong with the connection or was wrong with a certificate.
    pub async fn connect<S>(&self, authority: &str, stream: S) -> std::io::Result<Stream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = self.name_of(authority).map_err(std::io::Error::other)?;
        let stream = TlsConnector::from(self.config()).connect(name, stream).await?;
        Ok(Stream::Tls(Box::new(stream.into())))
    }

    /// As [`Self::connect`], for a thread that may block. The connection's own
    /// timeouts bound the handshake.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub fn connect_blocking(
        &self,
        authority: &str,
        mut stream: socket2::Socket,
    ) -> std::io::Result<BlockingStream> {
        let name = self.name_of(authority).map_err(std::io::Error::other)?;
        let mut connection = ClientConnection::new(self.config(), name).map_err(std::io::Error::other)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut stream)?;
        }
        Ok(BlockingStream::Client(Box::new(StreamOwned::new(connection, stream))))
    }
}

/// The cryptography everything here uses.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// TLS 1.3 and then 1.2; older ones are broken and not in the library.
pub const VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

fn client_config(files: &TlsFiles) -> Result<ClientConfig, TlsError> {
    let provider = provider();
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(VERSIONS)
        .map_err(TlsError::Library)?;
    let builder = builder.dangerous();
    let builder = if files.trusts_anybody {
        builder.with_custom_certificate_verifier(Arc::new(trust::Anybody { provider }))
    } else {
        let roots = match &files.trusted_ca {
            Some(path) => Roots::read(path)?,
            None => system_roots()?,
        };
        builder.with_custom_certificate_verifier(Arc::new(trust::Trusted::new(roots, provider)?))
    };
    let mut config = match &files.identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            builder.with_client_auth_cert(certificates(certificate)?, private_key(key)?).map_err(
                |source| TlsError::Pair { certificate: certificate.clone(), key: key.clone(), source },
            )?
        }
    };
    config.alpn_protocols.clone_from(&files.protocols);
    Ok(config)
}

/// The certificates of a PEM file, at least one.
///
/// # Errors
/// A file that cannot be read or holds none.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?)
        .map(|item| item.map(CertificateDer::into_owned))
        .collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) | Err(_) => Err(TlsError::Content { path: path.to_owned(), want: "a PEM certificate" }),
    }
}

/// The first private key of a PEM file: PKCS#8, PKCS#1 or SEC1, not encrypted.
///
/// # Errors
/// A file that cannot be read or holds none.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|_| TlsError::Content {
        path: path.to_owned(),
        want: "a PEM private key without a password",
    })
}

/// The CAs that the system trusts.
fn system_roots() -> Result<Roots, TlsError> {
    let path = std::env::var_os(SYSTEM_CAS_VARIABLE).filter(|path| !path.is_empty());
    let path = path.map_or_else(|| PathBuf::from(SYSTEM_CAS), PathBuf::from);
    Roots::read_usable(&path).map_err(|_| TlsError::NoRoots { path })
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_the_host_unless_another_is_given() {
        let files = TlsFiles { trusts_anybody: true, ..TlsFiles::default() };
        let other = TlsFiles { server_name: Some("etcd.local".to_owned()), ..files.clone() };
        #[rustfmt::skip]
        let rows = [
            (&files, "node:2379",      "node"),
            (&files, "127.0.0.1:2379", "127.0.0.1"),
            (&files, "[::1]:2379",     "::1"),
            (&other, "127.0.0.1:2379", "etcd.local"),
        ];
        for (files, authority, want) in rows {
            let name = ClientTls::new(files.clone()).unwrap().name_of(authority).unwrap();
            assert_eq!(name.to_str(), want, "{authority}");
        }
        assert!(ClientTls::new(files).unwrap().name_of("a b:1").is_err());
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let files = TlsFiles { trusted_ca: Some(path.clone()), ..TlsFiles::default() };
        let error = ClientTls::new(files.clone()).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot read {}", path.display()));
        std::fs::write(&path, "no certificate").unwrap();
        let error = ClientTls::new(files).unwrap_err();
        assert_eq!(error.to_string(), format!("{} does not hold a PEM certificate", path.display()));
    }
}
