//! TLS as omahad speaks it: one certificate for machines and for omahactl.

use std::{io, path::PathBuf, sync::Arc};

use proa_etcd_client::tls::{Fresh, Stream, TlsError, VERSIONS, certificates, private_key, provider};
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

/// Shakes hands with clients. The files are read anew when they change.
#[derive(Clone, Debug)]
pub struct ServerTls(Arc<Fresh<ServerConfig>>);

impl ServerTls {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// The file that cannot be used, and why.
    pub fn new(certificate: PathBuf, key: PathBuf) -> Result<Self, TlsError> {
        let paths = vec![certificate.clone(), key.clone()];
        let make = move || {
            let pair = |source| TlsError::Pair { certificate: certificate.clone(), key: key.clone(), source };
            ServerConfig::builder_with_provider(provider())
                .with_protocol_versions(VERSIONS)
                .map_err(TlsError::Library)?
                .with_no_client_auth()
                .with_single_cert(certificates(&certificate)?, private_key(&key)?)
                .map_err(pair)
        };
        Fresh::new(paths, make).map(|config| Self(Arc::new(config)))
    }

    /// Shakes hands on a connection that was accepted.
    ///
    /// # Errors
    /// What the client did wrong.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<Stream> {
        let stream = TlsAcceptor::from(self.0.get()).accept(stream).await?;
        Ok(Stream::Tls(Box::new(stream.into())))
    }
}
