//! Makes small payloads from a list of steps.

use crate::{
    hash::Sha256,
    payload::{Event, Expected, Fault, Reader, apply, header, manifest::Kind, rsa::PublicKey, wire},
    verity::{self, BLOCK_BYTES},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use prost::Message as _;
use ring::{rand::SystemRandom, signature};
use std::sync::LazyLock;

/// An RSA-2048 key that signs nothing but the payloads of these tests.
static KEY: LazyLock<signature::RsaKeyPair> = LazyLock::new(|| {
    let text: String = include_str!("rsa_key.b64").split_ascii_whitespace().collect();
    signature::RsaKeyPair::from_pkcs8(&STANDARD.decode(text).expect("base64")).expect("a key")
});

/// The public half of what payloads are signed with here.
pub fn key() -> PublicKey {
    // X.509 is what the key holds, behind the names of its algorithm.
    let body = [&[0][..], KEY.public().as_ref()].concat();
    let algorithm = [0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0];
    let body = [&[3, 0x82, (body.len() >> 8) as u8, body.len() as u8][..], &body].concat();
    let length = algorithm.len() + body.len();
    let head = [0x30, 0x82, (length >> 8) as u8, length as u8];
    PublicKey::from_der(&[&head[..], &algorithm, &body].concat()).expect("a key")
}

/// One step: what it is, what it carries, where it copies from, how many blocks it writes.
#[derive(Clone, Debug)]
pub struct Step {
    pub kind: Kind,
    pub data: Vec<u8>,
    pub source: Vec<(u64, u64)>,
    pub blocks: u64,
}

impl Step {
    pub fn new(kind: Kind, data: Vec<u8>, blocks: u64) -> Self {
        Self { kind, data, source: Vec::new(), blocks }
    }
}

/// A payload with all that is known about it.
#[derive(Clone)]
pub struct Package {
    pub bytes: Vec<u8>,
    pub expected: Expected,
    pub manifest: wire::DeltaArchiveManifest,
    blobs: Vec<u8>,
}

/// Blocks that are hard to confuse.
pub fn image(blocks: u8, seed: u8) -> Vec<u8> {
    let block = |number: u8| {
        let byte = |at: usize| (at / 16) as u8 ^ number.wrapping_mul(31) ^ seed;
        (0..BLOCK_BYTES).map(byte).collect::<Vec<u8>>()
    };
    (0..blocks).flat_map(block).collect()
}

pub fn compressed(bytes: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(bytes, 3).expect("room")
}

/// The stream of a difference: pieces of place, bytes to add, bytes to insert.
pub fn difference(pieces: &[(u64, Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut stream = (pieces.len() as u32).to_le_bytes().to_vec();
    for (offset, add, insert) in pieces {
        stream.extend_from_slice(&offset.to_le_bytes());
        stream.extend_from_slice(&(add.len() as u32).to_le_bytes());
        stream.extend_from_slice(&(insert.len() as u32).to_le_bytes());
    }
    pieces.iter().for_each(|(_, add, _)| stream.extend_from_slice(add));
    pieces.iter().for_each(|(_, _, insert)| stream.extend_from_slice(insert));
    stream
}

impl Package {
    /// The payload that makes `new` by `steps`, out of `old` or nothing.
    pub fn new(new: &[u8], old: Option<&[u8]>, steps: &[Step]) -> Self {
        let data_blocks = (new.len() / BLOCK_BYTES) as u64;
        let salt = verity::salt_of_version("1.0.0");
        let mut tree = verity::TreeBuilder::new(data_blocks, &salt).expect("in range");
        tree.push(new).expect("as many blocks");
        let root_hash = tree.finish().expect("all blocks").root_hash;
        let info = |bytes: &[u8]| wire::PartitionInfo {
            size: bytes.len() as u64,
            hash: Sha256::of(bytes).0.to_vec(),
        };
        let (mut blobs, mut at, mut operations) = (Vec::new(), 0, Vec::new());
        for step in steps {
            let has_data = !step.data.is_empty();
            let extent = |(start_block, num_blocks)| wire::Extent { start_block, num_blocks };
            operations.push(wire::InstallOperation {
                kind: step.kind as u32,
                data_offset: if has_data { blobs.len() as u64 } else { 0 },
                data_length: step.data.len() as u64,
                src_extents: step.source.iter().copied().map(extent).collect(),
                dst_extents: vec![extent((at, step.blocks))],
                data_sha256_hash: if has_data { Sha256::of(&step.data).0.to_vec() } else { Vec::new() },
            });
            blobs.extend_from_slice(&step.data);
            at += step.blocks;
        }
        let manifest = wire::DeltaArchiveManifest {
            partition_operations: operations,
            block_size: BLOCK_BYTES as u32,
            signatures_offset: blobs.len() as u64,
            signatures_size: signatures(&[0; 256]).len() as u64,
            old_partition_info: old.map(info),
            new_partition_info: Some(info(new)),
            verity: Some(wire::VerityInfo {
                data_blocks,
                salt: salt.to_vec(),
                root_hash: root_hash.0.to_vec(),
            }),
        };
        let expected = Expected {
            size_bytes: 0,
            sha256: Sha256([0; 32]),
            head_bytes: 0,
            head_sha256: Sha256([0; 32]),
            root_hash,
            slot_bytes: verity::sealed_bytes(data_blocks),
            source_bytes: old.map(|old| old.len() as u64),
        };
        let mut package = Self { bytes: Vec::new(), expected, manifest, blobs };
        package.seal();
        package
    }

    /// Writes the bytes anew, signed, and expects exactly them.
    pub fn seal(&mut self) {
        let manifest = self.manifest.encode_to_vec();
        self.expected.head_bytes = (20 + manifest.len()) as u64;
        self.bytes = [&header(manifest.len() as u64)[..], &manifest, &self.blobs].concat();
        self.expected.head_sha256 = Sha256::of(&self.bytes[..self.expected.head_bytes as usize]);
        let mut signature = vec![0; KEY.public().modulus_len()];
        KEY.sign(&signature::RSA_PKCS1_SHA256, &SystemRandom::new(), &self.bytes, &mut signature)
            .expect("a signature");
        self.bytes.extend_from_slice(&signatures(&signature));
        self.expect_bytes();
    }

    /// Expects the bytes as they are: the release was signed for them.
    pub fn expect_bytes(&mut self) {
        self.expected.size_bytes = self.bytes.len() as u64;
        self.expected.sha256 = Sha256::of(&self.bytes);
        let head = &self.bytes[..(self.expected.head_bytes as usize).min(self.bytes.len())];
        self.expected.head_sha256 = Sha256::of(head);
    }

    pub fn reader(&self) -> Result<Reader, Fault> {
        Reader::new(self.expected.clone(), key())
    }

    /// Reads all of `bytes` at once; what the operations write, one after the other.
    pub fn apply(&self, bytes: &[u8], old: &[u8]) -> Result<Vec<u8>, Fault> {
        let mut reader = self.reader()?;
        let (mut input, mut new) = (bytes, Vec::new());
        while let Some(event) = reader.push(&mut input)? {
            write(&reader, event, old, &mut new);
        }
        reader.finish().map(|()| new)
    }
}

pub fn signatures(signature: &[u8]) -> Vec<u8> {
    let signature = wire::Signature { version: 2, data: signature.to_vec() };
    wire::Signatures { signatures: vec![signature] }.encode_to_vec()
}

/// Does what `event` asks for to `new`.
pub fn write(reader: &Reader, event: Event, old: &[u8], new: &mut Vec<u8>) {
    let Event::Operation { index, data } = event else { return };
    let operation = &reader.manifest().expect("it came first").operations[index];
    assert_eq!(operation.target_offset, new.len() as u64, "in order");
    let mut source = |offset: u64, into: &mut [u8]| {
        let offset = offset as usize;
        into.copy_from_slice(&old[offset..offset + into.len()]);
        Ok(())
    };
    new.extend(apply::render(operation, &data, &mut source).expect("good data"));
}

/// A small system with every kind of step, the old one, and the payload.
pub fn every_kind() -> (Vec<u8>, Vec<u8>, Package) {
    let old = image(5, 1);
    let plain = image(1, 2);
    let packed = image(2, 3);
    let pieces = vec![
        (4096 + 7, vec![3; 5000], b"inserted".to_vec()),
        (1, vec![0; 3000], Vec::new()),
        (0, Vec::new(), vec![9; 8192 - 8008]),
    ];
    let mut changed: Vec<u8> = old[4096 + 7..][..5000].iter().map(|byte| byte.wrapping_add(3)).collect();
    changed.extend_from_slice(b"inserted");
    changed.extend_from_slice(&old[1..3001]);
    changed.extend(vec![9; 8192 - 8008]);
    let new = [&plain[..], &[0; 4096], &packed, &old[3 * 4096..], &old[..4096], &changed].concat();
    let copy = Step { source: vec![(3, 2), (0, 1)], ..Step::new(Kind::SourceCopy, Vec::new(), 3) };
    let steps = [
        Step::new(Kind::Replace, plain, 1),
        Step::new(Kind::Zero, Vec::new(), 1),
        Step::new(Kind::ReplaceZstd, compressed(&packed), 2),
        copy,
        Step::new(Kind::SourceZstdDiff, compressed(&difference(&pieces)), 2),
    ];
    let package = Package::new(&new, Some(&old), &steps);
    (new, old, package)
}
