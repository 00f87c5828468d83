//! Certificates that a member signs itself, for `--auto-tls`.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use proa_etcd_client::tls::TlsError;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};

const DAY: Duration = Duration::from_secs(86_400);
/// One is made anew at a start this long before its end.
const RENEW_BEFORE: Duration = Duration::from_secs(30 * 86_400);

/// What a member signed itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelfSigned {
    /// The certificate's file.
    pub certificate: PathBuf,
    /// The key's file.
    pub key: PathBuf,
}

/// The certificate in `folder`, made there when there is none or it is about
/// to end. Source: etcd's `transport.SelfCert`, which keeps it as long.
///
/// # Errors
/// The file that cannot be written.
pub fn self_signed(folder: &Path, hosts: &[String], years: u32) -> Result<SelfSigned, TlsError> {
    let files = SelfSigned { certificate: folder.join("cert.pem"), key: folder.join("key.pem") };
    let validity = DAY * 365 * years;
    if is_good(&files, validity) {
        return Ok(files);
    }
    let (certificate, key) = sign(hosts, validity)?;
    let written = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .and_then(|()| write(&files.key, &key))
        // The certificate last: it says that both are there.
        .and_then(|()| write(&files.certificate, &certificate));
    match written {
        Ok(()) => Ok(files),
        Err(error) => Err(TlsError::Setting(format!(
            "cannot write a self-signed certificate to {}: {error}",
            folder.display()
        ))),
    }
}

/// Whether both files are there and the certificate has some time left. It is
/// valid from when it was written.
fn is_good(files: &SelfSigned, validity: Duration) -> bool {
    let written = fs::metadata(&files.certificate).and_then(|metadata| metadata.modified());
    let age = written.map(|at| SystemTime::now().duration_since(at).unwrap_or_default());
    files.key.exists() && age.is_ok_and(|age| age + RENEW_BEFORE < validity)
}

fn sign(hosts: &[String], validity: Duration) -> Result<(String, String), TlsError> {
    let bad =
        |error: rcgen::Error| TlsError::Setting(format!("cannot make a self-signed certificate: {error}"));
    let mut params = CertificateParams::new(hosts.to_vec()).map_err(bad)?;
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::OrganizationName, "etcd");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let now = SystemTime::now();
    // A peer whose clock is a little behind takes it too.
    params.not_before = (now - DAY).into();
    params.not_after = (now + validity).into();
    let key = KeyPair::generate().map_err(bad)?;
    let certificate = params.self_signed(&key).map_err(bad)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// Replaces a file in one step; only the owner may read it.
fn write(path: &Path, content: &str) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, path)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_certificate_is_made_once_and_renewed_before_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("fixtures/client");
        let hosts = ["127.0.0.1".to_owned(), "localhost".to_owned()];
        let files = self_signed(&folder, &hosts, 1).unwrap();
        let first = fs::read(&files.certificate).unwrap();
        let mode = fs::metadata(&files.key).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(self_signed(&folder, &hosts, 1).unwrap(), files);
        assert_eq!(fs::read(&files.certificate).unwrap(), first);
        // 340 of 365 days have passed.
        let then = SystemTime::now() - DAY * 340;
        fs::File::options().append(true).open(&files.certificate).unwrap().set_modified(then).unwrap();
        self_signed(&folder, &hosts, 1).unwrap();
        assert_ne!(fs::read(&files.certificate).unwrap(), first);
        let rules = super::super::ServerRules {
            certificate: files.certificate,
            key: files.key,
            ..super::super::ServerRules::default()
        };
        super::super::ServerTls::new(rules).unwrap();
    }
}
