//! Releases and key sets, signed by keys that are made of one byte.

mod releases;
mod rotation;

use super::{Envelope, KeySet, Origin, Payload, Release, ReleaseKey};
use crate::hash::Sha256;
use ring::signature::{Ed25519KeyPair, KeyPair as _};

/// The key pair number `number`.
fn pair(number: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[number; 32]).expect("any 32 bytes are a seed")
}

fn public(number: u8) -> ReleaseKey {
    ReleaseKey(pair(number).public_key().as_ref().try_into().expect("32 bytes"))
}

fn set(epoch: u64, threshold: usize, keys: &[u8]) -> KeySet {
    KeySet { epoch, threshold, keys: keys.iter().map(|number| public(*number)).collect() }
}

/// `signed` with the signatures of these keys.
fn sign(signed: Vec<u8>, keys: &[u8]) -> Envelope {
    let mut envelope = Envelope::new(signed);
    for number in keys {
        let signature = pair(*number).sign(&envelope.signed);
        envelope.add_signature(&public(*number), signature.as_ref());
    }
    envelope
}

/// Version 0.2.0 for machines from 0.1.0 on, until second 2000.
fn release() -> Release {
    let payload = |name: &str, from| Payload {
        name: name.to_owned(),
        size_bytes: 5000,
        sha256: Sha256::of(name.as_bytes()),
        manifest_bytes: 300,
        manifest_sha256: Sha256::of(b"head"),
        from,
    };
    let old = Origin { version: "0.1.0".parse().expect("a version"), root_hash: Sha256::of(b"0.1.0") };
    Release {
        app: "{6b6d3a2e-0f5c-4c7e-9b1d-70726f610001}".to_owned(),
        version: "0.2.0".parse().expect("a version"),
        expires_unix_s: 2000,
        minimum: "0.1.0".parse().expect("a version"),
        root_hash: Sha256::of(b"0.2.0"),
        slot_bytes: 45056,
        payloads: vec![payload("proa-0.2.0.gz", None), payload("proa-0.1.0-0.2.0.delta", Some(old))],
    }
}
