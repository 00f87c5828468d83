//! Signing what is said about a release, and handing over from one set of keys to
//! the next. Whatever is signed here is checked as a machine checks it before it
//! is written: what no machine would take is not published.

use crate::{
    error::{Error, content, file},
    keys::public,
    payload::head_bytes,
    seal::Slot,
};
use proa_update_model::{
    hash::Sha256,
    metadata::{Envelope, KeySet, Origin, Payload, Release, ReleaseKey},
    payload::wire,
    verity,
    version::Version,
};
use prost::Message;
use ring::signature::Ed25519KeyPair;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// What [`release`] is to say.
pub struct Wanted<'a> {
    /// The application, in braces.
    pub app: String,
    /// The version.
    pub version: Version,
    /// From when on it is not installed any more.
    pub expires_unix_s: u64,
    /// The oldest version that may install it.
    pub minimum: Version,
    /// Its slot.
    pub slot: &'a Path,
    /// Its payloads.
    pub payloads: Vec<PathBuf>,
    /// The signed metadata of the release that each difference among them starts from,
    /// in the same order.
    pub origins: Vec<PathBuf>,
}

/// The key set of the first epoch: this key alone.
pub fn first_key_set(key: &Ed25519KeyPair) -> Result<Vec<u8>, Error> {
    Ok(KeySet { epoch: 1, threshold: 1, keys: vec![release_key(key)?] }.render())
}

/// Reads a key set: the body that an image has, or one that `rotate` wrote.
///
/// # Errors
/// When there is none at `path`.
pub fn read_key_set(path: &Path) -> Result<KeySet, Error> {
    let bytes = fs::read(path).map_err(file("reading", path))?;
    let body = Envelope::parse(&bytes).map_or(bytes, |envelope| envelope.signed);
    KeySet::parse(&body).map_err(|refusal| content(path, refusal))
}

/// Reads signed JSON, such as a key set that `rotate` wrote.
///
/// # Errors
/// When there is none at `path`.
pub fn read_envelope(path: &Path) -> Result<Envelope, Error> {
    let bytes = fs::read(path).map_err(file("reading", path))?;
    Envelope::parse(&bytes).map_err(|refusal| content(path, refusal))
}

/// What is to be signed about a release, after a look at each of its files.
///
/// # Errors
/// When a file isn't what it should be, or doesn't belong to the slot.
pub fn release(wanted: Wanted) -> Result<Release, Error> {
    let slot = Slot::read(wanted.slot)?;
    if slot.superblock.salt != verity::salt_of_version(wanted.version.as_str()) {
        return Err(content(wanted.slot, format!("not sealed as version {}", wanted.version)));
    }
    let root_hash = slot.superblock.root_hash;
    let mut origins = wanted.origins.iter();
    let payloads: Result<_, _> =
        wanted.payloads.iter().map(|path| payload(path, &mut origins, &root_hash)).collect();
    let payloads = payloads?;
    if let Some(path) = origins.next() {
        return Err(content(path, "more of --from than payloads that are differences"));
    }
    Ok(Release {
        app: wanted.app,
        version: wanted.version,
        expires_unix_s: wanted.expires_unix_s,
        minimum: wanted.minimum,
        root_hash,
        slot_bytes: verity::sealed_bytes(slot.superblock.data_blocks),
        payloads,
    })
}

fn payload<'a>(
    path: &Path,
    origins: &mut impl Iterator<Item = &'a PathBuf>,
    root_hash: &Sha256,
) -> Result<Payload, Error> {
    let bytes = fs::read(path).map_err(file("reading", path))?;
    let head = head_bytes(&bytes).ok_or_else(|| content(path, "no payload"))?;
    let manifest = wire::DeltaArchiveManifest::decode(&bytes[proa_update_model::payload::HEADER_BYTES..head])
        .map_err(|error| content(path, format!("bad manifest: {error}")))?;
    if manifest.verity.as_ref().is_none_or(|verity| verity.root_hash != root_hash.0) {
        return Err(content(path, "makes another system than that of the slot"));
    }
    let from = match manifest.old_partition_info {
        None => None,
        Some(_) => {
            let missing =
                || content(path, "a difference; give --from, the release.json of what it starts from");
            Some(origin(origins.next().ok_or_else(missing)?)?)
        }
    };
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    Ok(Payload {
        name: name.to_owned(),
        size_bytes: bytes.len() as u64,
        sha256: Sha256::of(&bytes),
        manifest_bytes: head as u64,
        manifest_sha256: Sha256::of(&bytes[..head]),
        from,
    })
}

fn origin(path: &Path) -> Result<Origin, Error> {
    let envelope = read_envelope(path)?;
    let old = Release::parse(&envelope.signed).map_err(|refusal| content(path, refusal))?;
    Ok(Origin { version: old.version, root_hash: old.root_hash })
}

/// The signed metadata: `release` signed with `keys`, with the `chain` of key sets
/// that leads from the trusted ones to these keys.
///
/// # Errors
/// When a machine that trusts `trusted` would refuse it.
pub fn sign(
    release: &Release,
    keys: &[Ed25519KeyPair],
    chain: Vec<Envelope>,
    trusted: &KeySet,
) -> Result<String, Error> {
    let bytes = release.render().map_err(|refusal| Error::Argument(refusal.to_string()))?;
    let mut envelope = signed(bytes, keys)?;
    envelope.keys = chain;
    let checked = trusted.advance(&envelope.keys).and_then(|set| set.check(&envelope));
    checked.map_err(|refusal| Error::Argument(format!("machines would refuse the release: {refusal}")))?;
    envelope.render().map_err(|refusal| Error::Argument(refusal.to_string()))
}

/// The set that follows `trusted`, signed with keys of both.
///
/// # Errors
/// When a machine that trusts `trusted` would refuse it.
pub fn rotate(
    trusted: &KeySet,
    old: &[Ed25519KeyPair],
    new: &[Ed25519KeyPair],
    threshold: usize,
) -> Result<(KeySet, String), Error> {
    let keys: Result<Vec<_>, _> = new.iter().map(release_key).collect();
    let next = KeySet { epoch: trusted.epoch + 1, threshold, keys: keys? };
    // A key that stays signs once.
    let stays = |key: &&Ed25519KeyPair| new.iter().any(|new| public(new) == public(key));
    let mut envelope = signed(next.render(), new)?;
    for key in old.iter().filter(|key| !stays(key)) {
        add_signature(&mut envelope, key)?;
    }
    let checked = trusted.advance(std::slice::from_ref(&envelope));
    checked.map_err(|refusal| Error::Argument(format!("machines would refuse the key set: {refusal}")))?;
    let json = envelope.render().map_err(|refusal| Error::Argument(refusal.to_string()))?;
    Ok((next, json))
}

fn signed(bytes: Vec<u8>, keys: &[Ed25519KeyPair]) -> Result<Envelope, Error> {
    let mut envelope = Envelope::new(bytes);
    for key in keys {
        add_signature(&mut envelope, key)?;
    }
    Ok(envelope)
}

fn add_signature(envelope: &mut Envelope, key: &Ed25519KeyPair) -> Result<(), Error> {
    let signature = key.sign(&envelope.signed);
    envelope.add_signature(&release_key(key)?, signature.as_ref());
    Ok(())
}

fn release_key(key: &Ed25519KeyPair) -> Result<ReleaseKey, Error> {
    let bytes = public(key).try_into();
    bytes.map(ReleaseKey).map_err(|_| Error::Argument("a public key is not of 32 bytes".to_owned()))
}

#[cfg(test)]
#[path = "metadata_test.rs"]
mod tests;
