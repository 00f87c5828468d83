//! What is said about a release.

use super::{PAYLOADS_MAX, Refusal, at_most, bad, parse_signed};
use crate::{
    hash::Sha256,
    payload::{Expected, Fault},
    version::Version,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What a release says it is.
const TYPE: &str = "proa-release";

/// Most characters of a payload's name.
const NAME_CHARACTERS_MAX: usize = 128;

/// A release: one system, and the payloads that make it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "proa-release")]
pub struct Release {
    /// The application that it is a version of.
    pub app: String,
    /// Its version.
    #[serde(with = "text")]
    pub version: Version,
    /// From this second since 1970 on it is not installed any more.
    #[serde(rename = "expires")]
    pub expires_unix_s: u64,
    /// The oldest version that may install it.
    #[serde(with = "text")]
    pub minimum: Version,
    /// The root hash of the system: its identity.
    pub root_hash: Sha256,
    /// Bytes of the system in its slot: data, superblock, hash tree.
    pub slot_bytes: u64,
    /// What makes it, 1..=[`PAYLOADS_MAX`], with different names.
    pub payloads: Vec<Payload>,
}

/// One way to a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload {
    /// The name of the file: letters, digits and `._+-`, no dot first.
    pub name: String,
    /// Its bytes.
    #[serde(rename = "size")]
    pub size_bytes: u64,
    /// Its SHA-256.
    pub sha256: Sha256,
    /// Bytes of its head: header and manifest.
    pub manifest_bytes: u64,
    /// SHA-256 of its head.
    pub manifest_sha256: Sha256,
    /// The system that it is the difference to; `None` when it is whole.
    pub from: Option<Origin>,
}

/// A system that a payload starts from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Its version.
    #[serde(with = "text")]
    pub version: Version,
    /// Its root hash.
    pub root_hash: Sha256,
}

impl Release {
    /// Reads what is signed.
    ///
    /// # Errors
    /// [`Refusal::BadForm`] and [`Refusal::TooLarge`], also when a number is
    /// beyond the limits of payloads and slots.
    pub fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        let release: Self = parse_signed(bytes, "release", TYPE)?;
        at_most("payloads", release.payloads.len(), PAYLOADS_MAX)?;
        let mut names = BTreeSet::new();
        for payload in &release.payloads {
            let wrong = |wrong: &str| bad("release")(format!("payload {:?}: {wrong}", payload.name));
            if !is_name(&payload.name) {
                return Err(wrong("its name is not one of letters, digits and ._+-"));
            }
            if !names.insert(&payload.name) {
                return Err(wrong("its name stands there twice"));
            }
            let expected = release.expected(payload, 0);
            expected.check().map_err(|fault: Fault| wrong(&fault.to_string()))?;
        }
        if names.is_empty() {
            return Err(bad("release")("it has no payload".to_owned()));
        }
        Ok(release)
    }

    /// The bytes to sign.
    ///
    /// # Errors
    /// When [`Self::parse`] would refuse them.
    pub fn render(&self) -> Result<Vec<u8>, Refusal> {
        let bytes = serde_json::to_vec(self).map_err(|error| bad("release")(error.to_string()))?;
        Self::parse(&bytes).map(|_| bytes)
    }

    /// The payload with this name.
    pub fn payload(&self, name: &str) -> Option<&Payload> {
        self.payloads.iter().find(|payload| payload.name == name)
    }

    /// The difference to the system with the root hash `running`, if there is one.
    pub fn difference_from(&self, running: &Sha256) -> Option<&Payload> {
        let is_from =
            |payload: &&Payload| payload.from.as_ref().is_some_and(|from| from.root_hash == *running);
        self.payloads.iter().find(is_from)
    }

    /// The payload that needs no other system, if there is one.
    pub fn whole(&self) -> Option<&Payload> {
        self.payloads.iter().find(|payload| payload.from.is_none())
    }

    /// What a reader of `payload` has to expect. `source_bytes` are the bytes of
    /// the running system's data; they count only for a difference.
    pub fn expected(&self, payload: &Payload, source_bytes: u64) -> Expected {
        Expected {
            size_bytes: payload.size_bytes,
            sha256: payload.sha256,
            head_bytes: payload.manifest_bytes,
            head_sha256: payload.manifest_sha256,
            root_hash: self.root_hash,
            slot_bytes: self.slot_bytes,
            source_bytes: payload.from.as_ref().map(|_| source_bytes),
        }
    }
}

/// Names become parts of URLs and of paths.
fn is_name(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._+-".contains(&byte);
    (1..=NAME_CHARACTERS_MAX).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(good)
}

/// A version as JSON text.
mod text {
    use crate::version::Version;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub fn serialize<S: Serializer>(version: &Version, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(version.as_str())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Version, D::Error> {
        String::deserialize(input)?.parse().map_err(D::Error::custom)
    }
}
