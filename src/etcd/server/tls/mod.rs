//! TLS as a member speaks it to clients and to other members.
//!
//! Certificates, keys, CAs and revocations are read anew when their files
//! change. No handshake is resumed: each one looks at the revocations as they
//! are.

mod auto;
mod gate;
mod name;
mod refused;
mod suites;
mod verify;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proa_etcd_client::Socket;
use proa_etcd_client::tls::{ClientTls, Fresh, Stream, TlsError, certificates, private_key};
use rustls::server::NoServerSessionStorage;
use rustls::{CommonState, ServerConfig};
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

pub use auto::{SelfSigned, self_signed};
pub use gate::Gate;
use refused::Refusals;
pub use suites::{Versions, check_suites, check_version};

/// The common name in the certificate that a client has proved to have.
///
/// In the extensions of its requests when `--client-cert-auth` is on; the JSON
/// gateway must not pass it on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientName(pub String);

/// TLS among members.
#[derive(Clone, Debug, Default)]
pub struct PeerTls {
    /// For those that dial this member.
    pub server: Option<Arc<ServerTls>>,
    /// For dialing others.
    pub client: Option<ClientTls>,
}

/// Longest time of a handshake. A Raspberry Pi at full load needs one second.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The first byte of every TLS connection: a handshake record. Source: RFC
/// 8446, section 5.1.
const HANDSHAKE_RECORD: u8 = 22;
/// What somebody hears who speaks HTTP where TLS is wanted. Source: Go's `net/http`.
const PLAIN_ANSWER: &[u8] =
    b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";

/// What a listener shows and whom it lets in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerRules {
    /// The member's certificate, with the chain to its CA.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The CAs that clients' certificates must come from; without one nobody
    /// is asked for a certificate.
    pub trusted_ca: Option<PathBuf>,
    /// Certificates that were revoked.
    pub revoked: Option<PathBuf>,
    /// The common names that are let in; all when empty.
    pub allowed_names: Vec<String>,
    /// The host names of which a certificate must be valid for one; empty for none.
    pub allowed_hosts: Vec<String>,
    /// Cipher suites of TLS 1.2 by name; all good ones when empty.
    pub cipher_suites: Vec<String>,
    /// Which versions are spoken.
    pub versions: Versions,
    /// Whether requests carry a [`ClientName`].
    pub names_clients: bool,
    /// What is spoken inside, for ALPN: empty when that is not negotiated.
    pub protocols: Vec<Vec<u8>>,
}

/// Shakes hands with those who dial.
#[derive(Clone, Debug)]
pub struct ServerTls {
    config: Arc<Fresh<ServerConfig>>,
    names_clients: bool,
    takes_plain: bool,
    gate: Arc<Gate>,
    refusals: Arc<Refusals>,
}

impl ServerTls {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// The file that cannot be used, and why.
    pub fn new(rules: ServerRules) -> Result<Self, TlsError> {
        let mut files = vec![rules.certificate.clone(), rules.key.clone()];
        files.extend(rules.trusted_ca.iter().chain(&rules.revoked).cloned());
        let names_clients = rules.names_clients;
        let config = Arc::new(Fresh::new(files, move || server_config(&rules))?);
        Ok(Self { config, names_clients, takes_plain: false, gate: Arc::default(), refusals: Arc::default() })
    }

    /// The same for a listener that serves those without TLS, too.
    pub fn taking_plain(&self) -> Self {
        Self { takes_plain: true, ..self.clone() }
    }

    /// Shakes hands, within the deadline; the longest one under way is given up
    /// when there are too many.
    ///
    /// # Errors
    /// What the connection or the client's certificate lacks.
    pub async fn accept(&self, stream: Socket) -> io::Result<(Stream<Socket>, Option<ClientName>)> {
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "tls: the handshake took too long");
        let from = stream.peer();
        let shake = async { timeout(HANDSHAKE_TIMEOUT, self.shake(stream)).await.map_err(late)? };
        let shaken = self.gate.pass(shake).await;
        if let (Err(error), Ok(from)) = (&shaken, from) {
            self.refusals.tell(from, error);
        }
        shaken
    }

    async fn shake(&self, mut stream: Socket) -> io::Result<(Stream<Socket>, Option<ClientName>)> {
        let first = stream.peek().await?;
        if first != Some(HANDSHAKE_RECORD) {
            if self.takes_plain {
                return Ok((Stream::Plain(stream), None));
            }
            if first.is_some_and(|first| first.is_ascii_uppercase()) {
                stream.write_all(PLAIN_ANSWER).await?;
            }
            return Err(io::Error::new(io::ErrorKind::InvalidData, "tls: it does not speak TLS"));
        }
        let stream = TlsAcceptor::from(self.config.get()).accept(stream).await?;
        let name = self.names_clients.then(|| client_name(stream.get_ref().1)).flatten();
        Ok((Stream::Tls(Box::new(stream.into())), name))
    }
}

fn client_name(connection: &CommonState) -> Option<ClientName> {
    let certificate = connection.peer_certificates()?.first()?;
    name::common_name(certificate).map(ClientName)
}

fn server_config(rules: &ServerRules) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(suites::provider(&rules.cipher_suites)?);
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(rules.versions.list())
        .map_err(TlsError::Library)?;
    let builder = match &rules.trusted_ca {
        None => builder.with_no_client_auth(),
        Some(ca) => builder.with_client_cert_verifier(verify::clients(rules, ca, provider)?),
    };
    let mut config = builder
        .with_single_cert(certificates(&rules.certificate)?, private_key(&rules.key)?)
        .map_err(|source| TlsError::Pair {
            certificate: rules.certificate.clone(),
            key: rules.key.clone(),
            source,
        })?;
    config.alpn_protocols.clone_from(&rules.protocols);
    // A resumed handshake would let in whose certificate was revoked since.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}
