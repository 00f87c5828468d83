//! Making payloads: the new image, whole or as the difference to an old one.
//!
//! The same slots and the same key give the same bytes, however many threads there are.

use crate::{
    encode::{Encoded, Encoder},
    error::Error,
    keys::PayloadKey,
    matches::Old,
    seal::Slot,
    spans::{Origin, Span, spans},
};
use proa_update_model::{
    hash::Sha256,
    payload::{self, Expected, HEADER_BYTES, Manifest, apply::render, manifest::Kind, wire},
    verity::{self, BLOCK_BYTES},
};
use prost::Message;
use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

/// Two spans at a time: what the smallest machine that builds has cores for. Each
/// takes some 100 MB for its compressor.
const WORKERS: usize = 2;

pub use crate::encode::{LEVEL, LEVELS};

/// The payload that makes `new`, out of nothing or out of `old`, signed with `key`.
/// `level` is one of [`LEVELS`].
///
/// # Errors
/// When there is no memory for a compressor, the key cannot sign, or the payload
/// would not do what it is for.
pub fn make(new: &Slot, old: Option<&Slot>, key: &PayloadKey, level: i32) -> Result<Vec<u8>, Error> {
    let old_data = old.map_or(&[][..], |old| &old.data);
    let spans = spans(&new.data, old_data);
    // Sorting takes seconds, and images that differ in no block have nothing to look for.
    let sent = spans.iter().any(|span| span.origin == Origin::Payload);
    let index = (old.is_some() && sent).then(|| Old::new(old_data));
    let encoded = encode(&spans, &new.data, index.as_ref(), level)?;

    let mut operations = Vec::with_capacity(spans.len());
    let mut data = Vec::new();
    for (span, encoded) in spans.iter().zip(encoded) {
        operations.push(operation(span, encoded.as_ref(), data.len()));
        data.extend(encoded.into_iter().flat_map(|encoded| encoded.data));
    }
    let manifest = wire::DeltaArchiveManifest {
        partition_operations: operations,
        block_size: BLOCK_BYTES as u32,
        signatures_offset: data.len() as u64,
        signatures_size: signatures(vec![0; key.signature_bytes()]).len() as u64,
        old_partition_info: old.map(|old| partition(&old.data)),
        new_partition_info: Some(partition(&new.data)),
        verity: Some(wire::VerityInfo {
            data_blocks: new.superblock.data_blocks,
            salt: new.superblock.salt.to_vec(),
            root_hash: new.superblock.root_hash.0.to_vec(),
        }),
    };
    let manifest = manifest.encode_to_vec();
    let mut bytes = payload::header(manifest.len() as u64).to_vec();
    bytes.extend_from_slice(&manifest);
    bytes.append(&mut data);
    let signature = key.sign(&bytes)?;
    bytes.extend(signatures(signature));
    check(&bytes, new, old).map_err(Error::Unsound)?;
    Ok(bytes)
}

/// Takes the steps that a machine will take and looks at what comes out: a payload
/// that nobody can use must not be found out by those who downloaded it.
fn check(payload: &[u8], new: &Slot, old: Option<&Slot>) -> Result<(), String> {
    let head = head_bytes(payload).ok_or("it has no head")?;
    let (head, mut data) = payload.split_at(head);
    let expected = Expected {
        size_bytes: payload.len() as u64,
        sha256: Sha256::of(payload),
        head_bytes: head.len() as u64,
        head_sha256: Sha256::of(head),
        root_hash: new.superblock.root_hash,
        slot_bytes: verity::sealed_bytes(new.superblock.data_blocks),
        source_bytes: old.map(|old| old.superblock.offset()),
    };
    let manifest = Manifest::read(head, &expected).map_err(|fault| fault.to_string())?;
    let old = old.map_or(&[][..], |old| &old.data);
    let mut source = |offset: u64, into: &mut [u8]| {
        into.copy_from_slice(&old[offset as usize..][..into.len()]);
        Ok(())
    };
    for (index, operation) in manifest.operations.iter().enumerate() {
        let (now, later) = data.split_at(operation.data_bytes);
        data = later;
        let made =
            render(operation, now, &mut source).map_err(|failure| format!("step {index}: {failure}"))?;
        if made != new.data[operation.target_offset as usize..][..operation.target_bytes] {
            return Err(format!("step {index} makes other bytes"));
        }
    }
    Ok(())
}

/// How many bytes of a payload its header and manifest are; `None` when it has none.
pub fn head_bytes(payload: &[u8]) -> Option<usize> {
    let header = payload.first_chunk::<HEADER_BYTES>()?;
    let manifest_bytes = u64::from_be_bytes(*header.last_chunk()?);
    let head_bytes = usize::try_from(manifest_bytes).ok()?.checked_add(HEADER_BYTES)?;
    let is_ours = *header == payload::header(manifest_bytes) && head_bytes <= payload.len();
    is_ours.then_some(head_bytes)
}

/// The data of each span, in their order; `None` for those that need none.
fn encode(spans: &[Span], new: &[u8], old: Option<&Old>, level: i32) -> Result<Vec<Option<Encoded>>, Error> {
    let results: Vec<Mutex<Option<Encoded>>> = spans.iter().map(|_| Mutex::new(None)).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut encoder = Encoder::new(level)?;
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(span) = spans.get(index) else { return Ok(()) };
            if span.origin == Origin::Payload {
                let bytes = span.bytes();
                let encoded = encoder.encode(&new[bytes.clone()], old, bytes.start)?;
                *results[index].lock().expect("no worker panics with it") = Some(encoded);
            }
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("a worker does not panic"))
    })?;
    Ok(results.into_iter().map(|result| result.into_inner().expect("no worker panicked")).collect())
}

fn operation(span: &Span, encoded: Option<&Encoded>, data_offset: usize) -> wire::InstallOperation {
    let extent =
        |start: usize| wire::Extent { start_block: start as u64, num_blocks: span.blocks.len() as u64 };
    let (kind, source) = match (span.origin, encoded) {
        (Origin::Payload, Some(encoded)) => (encoded.kind, None),
        (Origin::Payload, None) => unreachable!("every span that is sent was encoded"),
        (Origin::Zero, _) => (Kind::Zero, None),
        (Origin::Old(start), _) => (Kind::SourceCopy, Some(extent(start))),
    };
    wire::InstallOperation {
        kind: kind as u32,
        data_offset: encoded.map_or(0, |_| data_offset as u64),
        data_length: encoded.map_or(0, |encoded| encoded.data.len() as u64),
        src_extents: source.into_iter().collect(),
        dst_extents: vec![extent(span.blocks.start)],
        data_sha256_hash: encoded.map_or(Vec::new(), |encoded| Sha256::of(&encoded.data).0.to_vec()),
    }
}

fn partition(data: &[u8]) -> wire::PartitionInfo {
    wire::PartitionInfo { size: data.len() as u64, hash: Sha256::of(data).0.to_vec() }
}

fn signatures(signature: Vec<u8>) -> Vec<u8> {
    // update_engine numbers its keys; ours is the only one.
    let signatures = vec![wire::Signature { version: 1, data: signature }];
    wire::Signatures { signatures }.encode_to_vec()
}

#[cfg(test)]
#[path = "payload_test.rs"]
mod tests;
