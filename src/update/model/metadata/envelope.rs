//! Bytes and the signatures of exactly these bytes, as JSON.
//!
//! ```json
//! {"signed":"<base64>","signatures":[{"key":"<16 hex digits>","signature":"<base64>"}],"keys":[...]}
//! ```
//!
//! What is signed travels as base64 so that there is no question of what form of
//! the JSON in it the signatures are for.

use super::{CHAIN_MAX, ENVELOPE_BYTES_MAX, KEYS_MAX, KeyId, Refusal, ReleaseKey, at_most, bad};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

/// Signed bytes, and the chain of key sets that leads to who signed them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// What is signed.
    pub signed: Vec<u8>,
    /// The signatures of it.
    pub signatures: Vec<Signature>,
    /// Envelopes of [`super::KeySet`]s by rising epoch, none with a chain itself.
    pub keys: Vec<Envelope>,
}

/// One signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Whose it says it is.
    pub key: KeyId,
    /// Ed25519, 64 bytes.
    pub signature: Vec<u8>,
}

/// An envelope as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    signed: String,
    signatures: Vec<WrittenSignature>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    keys: Vec<Written>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenSignature {
    key: KeyId,
    signature: String,
}

impl Envelope {
    /// An envelope of `signed` that nobody signed yet.
    pub fn new(signed: Vec<u8>) -> Self {
        Self { signed, signatures: Vec::new(), keys: Vec::new() }
    }

    /// Adds what `key` signed [`Self::signed`] with.
    pub fn add_signature(&mut self, key: &ReleaseKey, signature: &[u8]) {
        self.signatures.push(Signature { key: key.id(), signature: signature.to_vec() });
    }

    /// Reads the JSON of an envelope.
    ///
    /// # Errors
    /// [`Refusal::TooLarge`] and [`Refusal::BadForm`]; nothing of it is believed
    /// yet when there is no error.
    pub fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        at_most("bytes of an envelope", bytes.len(), ENVELOPE_BYTES_MAX)?;
        let written: Written =
            serde_json::from_slice(bytes).map_err(|error| bad("envelope")(error.to_string()))?;
        at_most("key sets", written.keys.len(), CHAIN_MAX)?;
        Self::read(written)
    }

    fn read(written: Written) -> Result<Self, Refusal> {
        at_most("signatures", written.signatures.len(), KEYS_MAX)?;
        let base64 = |text: &str| STANDARD.decode(text).map_err(|error| bad("envelope")(error.to_string()));
        let mut envelope = Self::new(base64(&written.signed)?);
        for WrittenSignature { key, signature } in &written.signatures {
            envelope.signatures.push(Signature { key: *key, signature: base64(signature)? });
        }
        for link in written.keys {
            if !link.keys.is_empty() {
                return Err(bad("envelope")("a key set has key sets of its own".to_owned()));
            }
            envelope.keys.push(Self::read(link)?);
        }
        Ok(envelope)
    }

    /// The JSON of this envelope.
    ///
    /// # Errors
    /// When it is beyond the limits, so nobody would read it.
    pub fn render(&self) -> Result<String, Refusal> {
        let json =
            serde_json::to_string(&self.written()).map_err(|error| bad("envelope")(error.to_string()))?;
        match Self::parse(json.as_bytes()) {
            Ok(_) => Ok(json),
            Err(refusal) => Err(refusal),
        }
    }

    fn written(&self) -> Written {
        let signature = |Signature { key, signature }: &Signature| WrittenSignature {
            key: *key,
            signature: STANDARD.encode(signature),
        };
        Written {
            signed: STANDARD.encode(&self.signed),
            signatures: self.signatures.iter().map(signature).collect(),
            keys: self.keys.iter().map(Self::written).collect(),
        }
    }
}
