//! The manifest as it is used: checked against the signed release, so that what
//! follows it stays within the slots and writes every block exactly once.

use super::{
    Expected, Fault, HEADER_BYTES, MAGIC, OPERATION_BLOCKS_MAX, OPERATION_DATA_BYTES_MAX, OPERATIONS_MAX,
    SIGNATURES_BYTES_MAX, VERSION, wire,
};
use crate::{
    hash::Sha256,
    verity::{self, BLOCK_BYTES, SALT_BYTES},
};
use prost::Message as _;
use std::ops::Range;

/// How the bytes that an operation writes come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// They are its data.
    Replace = 0,
    /// They are copied from the old system: its source extents in order.
    SourceCopy = 4,
    /// They are zeros.
    Zero = 6,
    /// They are its data, which is one zstd frame.
    ReplaceZstd = 14,
    /// They are the old system's, changed as its data says
    /// ([`super::apply::render`] has the form). It names its sources in the data
    /// and has no source extents.
    SourceZstdDiff = 100,
}

impl Kind {
    /// Every kind there is.
    pub const ALL: [Self; 5] =
        [Self::Replace, Self::SourceCopy, Self::Zero, Self::ReplaceZstd, Self::SourceZstdDiff];

    /// The kind with this number.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u32 == number)
    }

    fn has_data(self) -> bool {
        matches!(self, Self::Replace | Self::ReplaceZstd | Self::SourceZstdDiff)
    }
}

/// One checked step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// What it does.
    pub kind: Kind,
    /// Bytes of its data; 0 for the kinds that have none.
    pub data_bytes: usize,
    /// SHA-256 of its data; there when it has some.
    pub(super) data_sha256: Option<Sha256>,
    /// Where it writes, in bytes from the start of the slot: whole blocks.
    pub target_offset: u64,
    /// How many bytes it writes: whole blocks, at most 1 MiB.
    pub target_bytes: usize,
    /// What it copies, in bytes from the start of the old slot, in order.
    pub source: Vec<Range<u64>>,
    /// Bytes of the old system; nothing behind them is read. 0 in a full payload.
    pub source_limit_bytes: u64,
}

impl Operation {
    /// Compares the hash of its data with what the manifest says.
    pub(super) fn check_data_hash(&self, index: usize, got: Sha256) -> Result<(), Fault> {
        let Some(want) = self.data_sha256 else { return Ok(()) };
        if got == want { Ok(()) } else { Err(Fault::OperationHash { index, got, want }) }
    }
}

/// What a payload does, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The steps: each writes right behind the one before, the first at 0.
    pub operations: Vec<Operation>,
    /// Blocks of the new system's data; the operations write exactly these.
    pub data_blocks: u64,
    /// The salt of its hash tree.
    pub salt: [u8; SALT_BYTES],
    /// Its root hash, equal to the signed release's.
    pub root_hash: Sha256,
    /// SHA-256 of its data.
    pub data_sha256: Sha256,
    /// SHA-256 of the old system's data; `None` in a full payload.
    pub old_sha256: Option<Sha256>,
    /// Bytes of the signatures at the end.
    pub(super) signatures_bytes: usize,
}

impl Manifest {
    /// Reads the head of a payload, whose hash was compared already.
    ///
    /// Rules beyond the form: block size 4096; the operations write all data
    /// blocks in order, each one extent of 1 to 256 blocks; their data lies in
    /// the same order without gaps; copies stay within the old system; sizes,
    /// root hash and the size of the sealed slot are those of the release.
    ///
    /// # Errors
    /// [`Fault`] when `head` is none, or breaks a rule.
    pub fn read(head: &[u8], expected: &Expected) -> Result<Self, Fault> {
        let (header, body) = head.split_first_chunk::<HEADER_BYTES>().ok_or(Fault::BadMagic)?;
        if header[..4] != *MAGIC || header[4..12] != VERSION.to_be_bytes() {
            return Err(Fault::BadMagic);
        }
        if header[12..] != (body.len() as u64).to_be_bytes() {
            return Err(bad("it has another size than the header says"));
        }
        let manifest = wire::DeltaArchiveManifest::decode(body).map_err(|error| bad(&error.to_string()))?;
        check(manifest, expected)
    }
}

fn bad(wrong: &str) -> Fault {
    Fault::Manifest(wrong.to_owned())
}

fn same(what: &'static str, got: u64, want: u64) -> Result<(), Fault> {
    if got == want { Ok(()) } else { Err(Fault::Differs { what, got, want }) }
}

fn check(wire: wire::DeltaArchiveManifest, expected: &Expected) -> Result<Manifest, Fault> {
    let verity = wire.verity.as_ref().ok_or_else(|| bad("it says nothing about the hash tree"))?;
    let new = wire.new_partition_info.as_ref().ok_or_else(|| bad("it does not say what it makes"))?;
    let root_hash = Sha256::from_bytes(&verity.root_hash).ok_or_else(|| bad("a root hash has 32 bytes"))?;
    let salt = verity.salt.as_slice().try_into().map_err(|_| bad("a salt has 32 bytes"))?;
    let data_sha256 = Sha256::from_bytes(&new.hash).ok_or_else(|| bad("no SHA-256 of the new data"))?;
    if root_hash != expected.root_hash {
        return Err(bad(&format!("it makes {root_hash} instead of {}", expected.root_hash)));
    }
    same("the block size", wire.block_size.into(), BLOCK_BYTES as u64)?;
    if !(1..=verity::DATA_BLOCKS_MAX).contains(&verity.data_blocks) {
        return Err(bad(&format!("a system of {} blocks", verity.data_blocks)));
    }
    same("the size of the new data", new.size, verity.data_blocks * BLOCK_BYTES as u64)?;
    same("the size of the slot", verity::sealed_bytes(verity.data_blocks), expected.slot_bytes)?;

    let (old_sha256, source_bytes) = match (&wire.old_partition_info, expected.source_bytes) {
        (None, None) => (None, 0),
        (Some(old), Some(bytes)) => {
            same("the size of the old data", old.size, bytes)?;
            let hash = Sha256::from_bytes(&old.hash).ok_or_else(|| bad("no SHA-256 of the old data"))?;
            (Some(hash), bytes)
        }
        (Some(_), None) => return Err(bad("it is a difference and the release says it is whole")),
        (None, Some(_)) => return Err(bad("it is whole and the release says it is a difference")),
    };
    let (operations, data_bytes) =
        check_operations(&wire.partition_operations, source_bytes, verity.data_blocks)?;
    same("the place of the signatures", wire.signatures_offset, data_bytes)?;
    if !(1..=SIGNATURES_BYTES_MAX).contains(&wire.signatures_size) {
        return Err(bad(&format!("signatures of {} bytes", wire.signatures_size)));
    }
    same(
        "the size of the payload",
        expected.head_bytes + data_bytes + wire.signatures_size,
        expected.size_bytes,
    )?;
    Ok(Manifest {
        operations,
        data_blocks: verity.data_blocks,
        salt,
        root_hash,
        data_sha256,
        old_sha256,
        signatures_bytes: wire.signatures_size as usize,
    })
}

/// The operations, and how many bytes of data they have together.
fn check_operations(
    wire: &[wire::InstallOperation],
    source_bytes: u64,
    data_blocks: u64,
) -> Result<(Vec<Operation>, u64), Fault> {
    if wire.len() > OPERATIONS_MAX {
        return Err(bad(&format!("{} operations, of at most {OPERATIONS_MAX}", wire.len())));
    }
    let (mut data_at, mut block_at) = (0, 0);
    let mut operations = Vec::with_capacity(wire.len());
    for (index, operation) in wire.iter().enumerate() {
        let checked = check_operation(operation, source_bytes, data_at, block_at)
            .map_err(|wrong| Fault::Operation { index, wrong })?;
        // No more than OPERATIONS_MAX times the limits of one: no overflow.
        data_at += checked.data_bytes as u64;
        block_at += (checked.target_bytes / BLOCK_BYTES) as u64;
        operations.push(checked);
    }
    same("the number of blocks that are written", block_at, data_blocks)?;
    Ok((operations, data_at))
}

fn check_operation(
    wire: &wire::InstallOperation,
    source_bytes: u64,
    data_at: u64,
    block_at: u64,
) -> Result<Operation, String> {
    let kind = Kind::from_number(wire.kind).ok_or_else(|| format!("its kind {} is not known", wire.kind))?;
    let [target] = wire.dst_extents[..] else {
        return Err(format!("it writes {} extents instead of one", wire.dst_extents.len()));
    };
    if target.start_block != block_at {
        return Err(format!("it writes from block {} on instead of {block_at}", target.start_block));
    }
    if !(1..=OPERATION_BLOCKS_MAX).contains(&target.num_blocks) {
        return Err(format!("it writes {} blocks, of 1 to {OPERATION_BLOCKS_MAX}", target.num_blocks));
    }
    let target_bytes = target.num_blocks * BLOCK_BYTES as u64;
    let data_sha256 = check_data(kind, wire, data_at, target_bytes)?;
    if source_bytes == 0 && matches!(kind, Kind::SourceCopy | Kind::SourceZstdDiff) {
        return Err("it needs an old system and the payload is whole".to_owned());
    }
    Ok(Operation {
        kind,
        data_bytes: wire.data_length as usize,
        data_sha256,
        target_offset: block_at * BLOCK_BYTES as u64,
        target_bytes: target_bytes as usize,
        source: check_source(kind, &wire.src_extents, source_bytes, target.num_blocks)?,
        source_limit_bytes: source_bytes,
    })
}

fn check_data(
    kind: Kind,
    wire: &wire::InstallOperation,
    data_at: u64,
    target_bytes: u64,
) -> Result<Option<Sha256>, String> {
    let length = wire.data_length;
    if !kind.has_data() {
        let none = length == 0 && wire.data_sha256_hash.is_empty();
        return if none { Ok(None) } else { Err("it has data and its kind needs none".to_owned()) };
    }
    if wire.data_offset != data_at {
        return Err(format!("its data is at {} instead of {data_at}", wire.data_offset));
    }
    if !(1..=OPERATION_DATA_BYTES_MAX).contains(&length) {
        return Err(format!("its data has {length} bytes, of 1 to {OPERATION_DATA_BYTES_MAX}"));
    }
    if kind == Kind::Replace && length != target_bytes {
        return Err(format!("its data has {length} bytes and it writes {target_bytes}"));
    }
    let hash = Sha256::from_bytes(&wire.data_sha256_hash).ok_or("its data has no SHA-256")?;
    Ok(Some(hash))
}

fn check_source(
    kind: Kind,
    extents: &[wire::Extent],
    source_bytes: u64,
    target_blocks: u64,
) -> Result<Vec<Range<u64>>, String> {
    if kind != Kind::SourceCopy {
        return if extents.is_empty() { Ok(Vec::new()) } else { Err("it has source extents".to_owned()) };
    }
    let mut missing = target_blocks;
    let mut source = Vec::with_capacity(extents.len().min(OPERATION_BLOCKS_MAX as usize));
    for extent in extents {
        let end = extent.start_block.checked_add(extent.num_blocks);
        let within = end.is_some_and(|end| end <= source_bytes / BLOCK_BYTES as u64);
        if !within || !(1..=missing).contains(&extent.num_blocks) {
            return Err(format!("it copies {} blocks from {} on", extent.num_blocks, extent.start_block));
        }
        missing -= extent.num_blocks;
        let start = extent.start_block * BLOCK_BYTES as u64;
        source.push(start..start + extent.num_blocks * BLOCK_BYTES as u64);
    }
    if missing == 0 { Ok(source) } else { Err(format!("its sources are {missing} blocks too few")) }
}
