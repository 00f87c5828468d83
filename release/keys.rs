//! The keys of who publishes: what is in their folder, and signing with them.
//!
//! | file                        | holds                                              |
//! |-----------------------------|----------------------------------------------------|
//! | `release.pk8`               | Ed25519 private key: signs the release metadata    |
//! | `keys.json`                 | the public halves that machines trust, as a key set |
//! | `payload-key.pem`           | RSA-2048 private key: signs payloads               |
//! | `update-payload-key.pub.pem` | its public half, as update_engine has it           |
//!
//! The second and the fourth go into the image. The others leave their folder never.

use crate::error::{Error, content, file};
use base64::{Engine, engine::general_purpose::STANDARD};
use ring::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair},
};
use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    process::Command,
};

/// Private Ed25519 key, PKCS#8.
pub const RELEASE_KEY: &str = "release.pk8";
/// The key set that new images trust.
pub const KEY_SET: &str = "keys.json";
/// Private RSA key, PKCS#8 as PEM.
pub const PAYLOAD_KEY: &str = "payload-key.pem";
/// Public RSA key as PEM.
pub const PAYLOAD_PUBLIC_KEY: &str = "update-payload-key.pub.pem";

/// Bytes of a signature by the payload key: those of its modulus.
const PAYLOAD_SIGNATURE_BYTES: usize = 256;

/// Makes a folder of new keys; the key set in it has the release key alone.
///
/// # Errors
/// When a key is there already, and when a file or `openssl` fails.
pub fn generate(dir: &Path) -> Result<(), Error> {
    fs::create_dir_all(dir).map_err(file("making the folder", dir))?;
    let names = [RELEASE_KEY, KEY_SET, PAYLOAD_KEY, PAYLOAD_PUBLIC_KEY];
    if let Some(there) = names.iter().map(|name| dir.join(name)).find(|path| path.exists()) {
        return Err(Error::KeyExists(there));
    }
    // ring makes no RSA keys.
    let private = dir.join(PAYLOAD_KEY);
    openssl("genpkey", &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out"], &private, &[])?;
    let public = dir.join(PAYLOAD_PUBLIC_KEY);
    openssl("pkey", &["-pubout", "-in"], &private, &["-out".as_ref(), public.as_os_str()])?;
    let key = generate_release_key(&dir.join(RELEASE_KEY))?;
    // Written last: who finds the key set finds all of them.
    let path = dir.join(KEY_SET);
    fs::write(&path, crate::metadata::first_key_set(&key)?).map_err(file("writing", path))
}

/// Makes a new release key at `path`.
///
/// # Errors
/// When something is there already, or cannot be written.
pub fn generate_release_key(path: &Path) -> Result<Ed25519KeyPair, Error> {
    let bad = |words: &dyn ToString| Error::Key { what: "making an Ed25519 key", words: words.to_string() };
    let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|error| bad(&error))?;
    if path.exists() {
        return Err(Error::KeyExists(path.to_owned()));
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut out = options.open(path).map_err(file("making", path))?;
    out.write_all(key.as_ref()).map_err(file("writing", path))?;
    Ed25519KeyPair::from_pkcs8(key.as_ref()).map_err(|error| bad(&error))
}

/// Reads an Ed25519 private key.
///
/// # Errors
/// When there is none at `path`.
pub fn release_key(path: &Path) -> Result<Ed25519KeyPair, Error> {
    let bytes = fs::read(path).map_err(file("reading", path))?;
    Ed25519KeyPair::from_pkcs8(&bytes).map_err(|error| {
        content(path, format!("no Ed25519 key: {error}; `proa-release keygen` makes {RELEASE_KEY}"))
    })
}

/// The public half of a release key.
pub fn public(key: &Ed25519KeyPair) -> &[u8] {
    key.public_key().as_ref()
}

/// The key that signs payloads.
pub struct PayloadKey(RsaKeyPair);

impl PayloadKey {
    /// Reads a private RSA key of 2048 bits, PKCS#8 as PEM.
    ///
    /// # Errors
    /// When there is none at `path`.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = fs::read_to_string(path).map_err(file("reading", path))?;
        let wrong = "no RSA key of 2048 bits in PEM; `proa-release keygen` makes payload-key.pem";
        let body: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
        let der = STANDARD.decode(body).map_err(|_| content(path, wrong))?;
        let key =
            RsaKeyPair::from_pkcs8(&der).map_err(|error| content(path, format!("{wrong} ({error})")))?;
        match key.public().modulus_len() {
            PAYLOAD_SIGNATURE_BYTES => Ok(Self(key)),
            bytes => Err(content(path, format!("an RSA key of {} bits: give one of 2048", bytes * 8))),
        }
    }

    /// Bytes of each signature.
    pub fn signature_bytes(&self) -> usize {
        self.0.public().modulus_len()
    }

    /// Signs `message`: PKCS#1 v1.5 with SHA-256. The same message gives the same signature.
    ///
    /// # Errors
    /// When the library refuses.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let mut signature = vec![0; self.signature_bytes()];
        self.0
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature)
            .map_err(|error| Error::Key { what: "signing the payload", words: error.to_string() })?;
        Ok(signature)
    }
}

fn openssl(
    command: &'static str,
    options: &[&str],
    path: &Path,
    more: &[&std::ffi::OsStr],
) -> Result<(), Error> {
    let run = Command::new("openssl").arg(command).args(options).arg(path).args(more).output();
    let run = run.map_err(|error| Error::OpenSsl { command, words: error.to_string() })?;
    if run.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&run.stderr);
    let words = said.lines().last().unwrap_or("it failed and said nothing").to_owned();
    Err(Error::OpenSsl { command, words })
}
