//! Who may come in: the CA's signature, what was revoked, and which names.

use std::path::Path;
use std::sync::Arc;

use proa_etcd_client::tls::{Purpose, Roots, TlsError};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::{ServerRules, name};

/// The verifier of clients' certificates under `rules`.
pub(super) fn clients(
    rules: &ServerRules,
    trusted_ca: &Path,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let roots = Roots::read(trusted_ca)?;
    let mut builder = WebPkiClientVerifier::builder_with_provider(roots.anchors(), provider);
    let mut lists = Vec::new();
    if let Some(path) = &rules.revoked {
        lists = revocations(path)?;
        // A CA without a list in the file has revoked nothing, as in etcd; the
        // lists that are there count for every certificate of the chain.
        builder = builder.with_crls(lists.clone()).allow_unknown_revocation_status();
    }
    let bad = |error: rustls::server::VerifierBuilderError| TlsError::Setting(format!("tls: {error}"));
    let inner = builder.build().map_err(bad)?;
    let hosts: Result<Vec<_>, _> = rules.allowed_hosts.iter().map(|host| host_name(host)).collect();
    Ok(Arc::new(Clients { inner, roots, lists, names: rules.allowed_names.clone(), hosts: hosts? }))
}

fn host_name(host: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(host.to_owned()).map_err(|_| TlsError::BadName { name: host.to_owned() })
}

/// The lists of a file, in PEM or a single one in DER.
fn revocations(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let bytes = std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })?;
    let bad =
        || TlsError::Content { path: path.to_owned(), want: "a certificate revocation list (X.509 v2)" };
    let found: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&bytes).collect();
    let mut found = found.map_err(|_| bad())?;
    if found.is_empty() {
        found.push(bytes.into());
    }
    for list in &found {
        webpki::BorrowedCertRevocationList::from_der(list).map_err(|_| bad())?;
    }
    Ok(found)
}

/// The library's verifier, and etcd's rules on top.
#[derive(Debug)]
struct Clients {
    inner: Arc<dyn ClientCertVerifier>,
    roots: Roots,
    lists: Vec<CertificateRevocationListDer<'static>>,
    names: Vec<String>,
    hosts: Vec<ServerName<'static>>,
}

impl Clients {
    /// What the library thinks of a certificate, and what it does not think of:
    /// a trusted one that is shown itself.
    fn verify(
        &self,
        shown: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let refusal = match self.inner.verify_client_cert(shown, chain, now) {
            Ok(verified) => return Ok(verified),
            Err(refusal) => refusal,
        };
        self.roots.reconsider(refusal, shown, Purpose::Client, now)?;
        if self.is_revoked(shown)? {
            return Err(CertificateError::Revoked.into());
        }
        Ok(ClientCertVerified::assertion())
    }

    /// Whether a list names a trusted certificate. A CA takes itself back, if
    /// anybody does, and what stands in the member's own file is believed
    /// unsigned: all that a wrong list could do is to keep somebody out.
    fn is_revoked(&self, certificate: &CertificateDer<'_>) -> Result<bool, Error> {
        let bad = |_| CertificateError::BadEncoding;
        let certificate = webpki::EndEntityCert::try_from(certificate).map_err(bad)?;
        for list in &self.lists {
            let list = webpki::BorrowedCertRevocationList::from_der(list).map_err(bad)?;
            let list = webpki::CertRevocationList::from(list);
            let named = list.find_serial(certificate.serial()).map_err(bad)?;
            if list.issuer() == certificate.issuer() && named.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Source: etcd's `TLSInfo.baseConfig`, `AllowedCN` and `AllowedHostname`.
    fn lets_in(&self, certificate: &CertificateDer<'_>) -> bool {
        let has_name = || name::common_name(certificate).is_some_and(|name| self.names.contains(&name));
        let has_host = || {
            let certificate = webpki::EndEntityCert::try_from(certificate);
            certificate.is_ok_and(|certificate| {
                self.hosts.iter().any(|host| certificate.verify_is_valid_for_subject_name(host).is_ok())
            })
        };
        (self.names.is_empty() || has_name()) && (self.hosts.is_empty() || has_host())
    }
}

impl ClientCertVerifier for Clients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.verify(certificate, chain, now)?;
        if self.lets_in(certificate) {
            return Ok(verified);
        }
        // The alert that etcd sends then: a bad certificate.
        Err(CertificateError::NotValidForName.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
