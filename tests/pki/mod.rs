//! A certificate authority for tests, and certificates that are good or bad.

#![allow(dead_code, reason = "each test uses its part")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};

const DAY: Duration = Duration::from_secs(86_400);

/// A CA whose files lie in a folder.
pub struct Ca {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// The files of a certificate.
pub struct Files {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Files {
    /// As etcdctl takes them.
    pub fn flags(&self) -> [String; 2] {
        [format!("--cert={}", self.certificate.display()), format!("--key={}", self.key.display())]
    }
}

impl Ca {
    pub fn new(folder: &Path, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let folder = folder.join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("ca.pem"), certificate.pem()).unwrap();
        Self { folder, issuer: Issuer::new(params, key) }
    }

    /// A CA's certificate that is this machine's at once, as `openssl req -x509`
    /// makes it: for every purpose, and number 1 of its own.
    pub fn alone(folder: &Path, name: &str, more: impl FnOnce(&mut CertificateParams)) -> (Self, Files) {
        let hosts = ["127.0.0.1", "localhost"].map(str::to_owned).to_vec();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.serial_number = Some(SerialNumber::from(1u64));
        params.not_before = (SystemTime::now() - DAY).into();
        params.not_after = (SystemTime::now() + DAY).into();
        more(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let folder = folder.join(name);
        fs::create_dir_all(&folder).unwrap();
        let files = Files { certificate: folder.join("ca.pem"), key: folder.join("ca.key") };
        fs::write(&files.certificate, certificate.pem()).unwrap();
        fs::write(&files.key, key.serialize_pem()).unwrap();
        (Self { folder, issuer: Issuer::new(params, key) }, files)
    }

    pub fn path(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// A certificate for this machine and for `name`, good for some days.
    pub fn sign(&self, name: &str, serial: u64) -> Files {
        self.sign_until(name, serial, SystemTime::now() + DAY)
    }

    pub fn sign_until(&self, name: &str, serial: u64, end: SystemTime) -> Files {
        self.sign_for(&["127.0.0.1", "localhost"], name, serial, end)
    }

    /// A certificate for other hosts.
    pub fn sign_hosts(&self, hosts: &[&str], name: &str, serial: u64) -> Files {
        self.sign_for(hosts, name, serial, SystemTime::now() + DAY)
    }

    fn sign_for(&self, hosts: &[&str], name: &str, serial: u64, end: SystemTime) -> Files {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from(serial));
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = (SystemTime::now() - DAY * 3).into();
        params.not_after = end.into();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let files = Files {
            certificate: self.folder.join(format!("{name}.pem")),
            key: self.folder.join(format!("{name}.key")),
        };
        fs::write(&files.certificate, certificate.pem()).unwrap();
        fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }

    /// Writes the list of what was revoked, and says where.
    pub fn revoke(&self, serials: &[u64]) -> PathBuf {
        let now = SystemTime::now();
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: now.into(),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: (now - DAY).into(),
            next_update: (now + DAY).into(),
            crl_number: SerialNumber::from(serials.len() as u64 + 1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let path = self.folder.join("revoked.pem");
        fs::write(&path, params.signed_by(&self.issuer).unwrap().pem().unwrap()).unwrap();
        path
    }
}
