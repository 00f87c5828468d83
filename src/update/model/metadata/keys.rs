//! The keys that sign releases, and how one set of them hands over to the next.

use super::{Envelope, KEYS_MAX, Refusal, at_most, bad, parse_signed};
use crate::hash::{Sha256, hex, unhex};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::signature::{ED25519, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt};

/// What a key set says it is.
const TYPE: &str = "proa-keys";

/// An Ed25519 public key. Its text form is base64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ReleaseKey(pub [u8; 32]);

impl ReleaseKey {
    /// The short name that signatures give it.
    pub fn id(&self) -> KeyId {
        let mut id = [0; 8];
        id.copy_from_slice(&Sha256::of(&self.0).0[..8]);
        KeyId(id)
    }

    fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0).verify(message, signature).is_ok()
    }
}

impl TryFrom<String> for ReleaseKey {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let bytes = STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or("a key is 32 bytes in base64")
    }
}

impl From<ReleaseKey> for String {
    fn from(key: ReleaseKey) -> Self {
        STANDARD.encode(key.0)
    }
}

impl fmt::Debug for ReleaseKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "key {}", hex(&self.id().0))
    }
}

/// The first 8 bytes of the SHA-256 of a key: says which key to try, proves nothing.
/// Its text form is 16 lower-case hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyId(pub [u8; 8]);

impl TryFrom<String> for KeyId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let bytes = unhex(&text).and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or("the name of a key is 16 lower-case hex digits")
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> Self {
        hex(&id.0)
    }
}

/// The keys of one epoch, of which `threshold` have to agree.
///
/// A machine starts with the set in its image, which nothing signs but the image,
/// and keeps the newest that it accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "proa-keys")]
pub struct KeySet {
    /// Counts the sets; each is followed by the next number.
    pub epoch: u64,
    /// How many keys have to sign, 1..=the number of keys.
    pub threshold: usize,
    /// The keys, all different, 1..=[`KEYS_MAX`].
    pub keys: Vec<ReleaseKey>,
}

impl KeySet {
    /// Reads a set: the content of `/usr/share/proa/keys.json`, or what a link of
    /// the chain signs.
    ///
    /// # Errors
    /// [`Refusal::BadForm`] when it is none or could never be satisfied.
    pub fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        at_most("bytes of a key set", bytes.len(), super::ENVELOPE_BYTES_MAX)?;
        let set: Self = parse_signed(bytes, "key set", TYPE)?;
        at_most("keys", set.keys.len(), KEYS_MAX)?;
        let ids: BTreeSet<KeyId> = set.keys.iter().map(ReleaseKey::id).collect();
        if ids.len() != set.keys.len() {
            return Err(bad("key set")("two of its keys are the same".to_owned()));
        }
        if !(1..=ids.len()).contains(&set.threshold) {
            return Err(bad("key set")(format!("{} of {} keys have to sign", set.threshold, ids.len())));
        }
        Ok(set)
    }

    /// The bytes to sign, or to put into an image.
    pub fn render(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("text and numbers always have a JSON form")
    }

    /// Checks that enough different keys of this set signed `envelope`.
    ///
    /// Signatures by unknown keys do not count and do no harm: a set of the chain
    /// is signed by the keys of two sets.
    ///
    /// # Errors
    /// [`Refusal::WrongKey`], [`Refusal::NotEnoughSignatures`].
    pub fn check(&self, envelope: &Envelope) -> Result<(), Refusal> {
        let of_signature = |id| self.keys.iter().find(|key| key.id() == id);
        let (mut known, mut valid) = (false, BTreeSet::new());
        for signature in envelope.signatures.iter().take(KEYS_MAX) {
            let Some(key) = of_signature(signature.key) else { continue };
            known = true;
            if key.verifies(&envelope.signed, &signature.signature) {
                valid.insert(key);
            }
        }
        match (known, valid.len() >= self.threshold) {
            (_, true) => Ok(()),
            (false, false) => Err(Refusal::WrongKey),
            (true, false) => Err(Refusal::NotEnoughSignatures { valid: valid.len(), needed: self.threshold }),
        }
    }

    /// The set at the end of `chain`, which this one leads to.
    ///
    /// Links of this epoch and earlier ones are passed over: the chain is the same
    /// for all machines. Each further one must be of the next epoch, signed by
    /// enough keys of the set before it, and by enough of its own, which shows
    /// that those keys are there.
    ///
    /// # Errors
    /// [`Refusal`] of the first link that does not follow.
    pub fn advance(&self, chain: &[Envelope]) -> Result<Self, Refusal> {
        let mut trusted = self.clone();
        for envelope in chain {
            let next = Self::parse(&envelope.signed)?;
            if next.epoch <= trusted.epoch {
                continue;
            }
            if next.epoch != trusted.epoch + 1 {
                return Err(Refusal::KeyGap { epoch: next.epoch, trusted: trusted.epoch });
            }
            trusted.check(envelope)?;
            next.check(envelope)?;
            trusted = next;
        }
        Ok(trusted)
    }
}
