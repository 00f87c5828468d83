//! The hash tree behind a root file system: how it is made, where it lies, and
//! the block that describes it.
//!
//! A slot holds, from its start:
//!
//! ```text
//! [squashfs, padded to whole blocks] [superblock: 1 block] [hash tree]
//!  0 .. data_blocks                   data_blocks           data_blocks + 1 ..
//! ```
//!
//! Superblock and tree are those of dm-verity, so the kernel checks each block
//! when it is read and `veritysetup verify` accepts the slot. The superblock has
//! an extension of ours with the root hash, which dm-verity leaves to the caller:
//! it proves nothing by itself, whoever can write the slot can write it, too. It
//! is compared with the signed release before a slot is made bootable.
//!
//! Source: cryptsetup, "DMVerity" (on-disk format), hash type 1.

use crate::hash::{HASH_BYTES, Sha256, salted::Salted};
use std::fmt;

/// Bytes of a block of data and of a block of hashes.
pub const BLOCK_BYTES: usize = 4096;

/// The most data blocks of a system: 1 GiB, five times what a slot holds.
pub const DATA_BLOCKS_MAX: u64 = 1 << 18;

/// How many bytes of a squashfs [`data_blocks_of_squashfs`] looks at.
pub const SQUASHFS_SUPERBLOCK_BYTES: usize = 96;

/// Bytes of the salt: as many as a hash has.
pub const SALT_BYTES: usize = 32;

const HASHES_PER_BLOCK: u64 = (BLOCK_BYTES / HASH_BYTES) as u64;
const SIGNATURE: &[u8; 8] = b"verity\0\0";
const EXTENSION_MAGIC: &[u8; 8] = b"PROAROOT";
/// Where our extension starts: dm-verity's own part ends there.
const EXTENSION_AT: usize = 512;
const ROOT_HASH_AT: usize = EXTENSION_AT + EXTENSION_MAGIC.len();
/// What the extension's checksum covers.
const CHECKED_BYTES: usize = ROOT_HASH_AT + HASH_BYTES;

/// Why bytes are no superblock or no squashfs, or a number is out of range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The block does not start as a superblock does: the slot is not sealed.
    #[error("no hash tree behind the file system")]
    NotSealed,
    /// The superblock is damaged, or is one of another kind than ours.
    #[error("the description of the hash tree is damaged")]
    Damaged,
    /// The bytes do not start as a squashfs does.
    #[error("no squashfs")]
    NoSquashfs,
    /// So many blocks of data cannot be.
    #[error("{0} blocks of data, of 1 to {DATA_BLOCKS_MAX} that can be")]
    DataBlocks(u64),
    /// A tree got fewer or more blocks than it was told.
    #[error("{got} blocks of data instead of {want}")]
    Count {
        /// How many were to come.
        want: u64,
        /// How many came.
        got: u64,
    },
}

/// The salt of a release's tree: one image has one root hash, wherever and
/// whenever its tree is made.
pub fn salt_of_version(version: &str) -> [u8; SALT_BYTES] {
    Sha256::of(version.as_bytes()).0
}

/// How many blocks of data the squashfs has that starts with `start`.
///
/// Worked example: `bytes_used` 4097 is two blocks. What lies behind the file
/// system in its last block is padding, and is hashed as the rest.
///
/// Source: Linux, `fs/squashfs/squashfs_fs.h`: magic at 0, major version at 28,
/// `bytes_used` at 40, all little-endian.
///
/// # Errors
/// When `start` has fewer than [`SQUASHFS_SUPERBLOCK_BYTES`] bytes, is no
/// squashfs 4, or one that is too large.
pub fn data_blocks_of_squashfs(start: &[u8]) -> Result<u64, Fault> {
    if start.len() < SQUASHFS_SUPERBLOCK_BYTES || &start[..4] != b"hsqs" || start[28..30] != [4, 0] {
        return Err(Fault::NoSquashfs);
    }
    checked_count(u64_at(start, 40).div_ceil(BLOCK_BYTES as u64))
}

fn checked_count(data_blocks: u64) -> Result<u64, Fault> {
    match data_blocks {
        1..=DATA_BLOCKS_MAX => Ok(data_blocks),
        other => Err(Fault::DataBlocks(other)),
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

/// How many blocks of hashes belong to so many blocks of data: 0 for one block,
/// whose hash is the root, then 1 for up to 128, 3 for 129, and so on.
pub fn tree_blocks(data_blocks: u64) -> u64 {
    levels(data_blocks).iter().sum()
}

/// Bytes of a slot's data, superblock and tree: a slot must hold as many.
pub fn sealed_bytes(data_blocks: u64) -> u64 {
    (data_blocks + 1 + tree_blocks(data_blocks)) * BLOCK_BYTES as u64
}

/// Where the leaves lie in their slot, in bytes: the last level is the last that lies
/// there.
pub fn leaves_offset(data_blocks: u64) -> u64 {
    let leaf_blocks = levels(data_blocks).first().copied().unwrap_or(0);
    sealed_bytes(data_blocks) - leaf_blocks * BLOCK_BYTES as u64
}

/// Blocks of each level of hashes, leaves first.
fn levels(data_blocks: u64) -> Vec<u64> {
    let mut levels = Vec::new();
    let mut below = data_blocks;
    while below > 1 {
        below = below.div_ceil(HASHES_PER_BLOCK);
        levels.push(below);
    }
    levels
}

/// What the block between data and tree says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Blocks of data, 1..=[`DATA_BLOCKS_MAX`].
    pub data_blocks: u64,
    /// What is hashed before each block.
    pub salt: [u8; SALT_BYTES],
    /// The hash at the root of the tree: the identity of a system.
    pub root_hash: Sha256,
}

impl Superblock {
    /// Reads the block behind the data, at block `data_blocks` of the slot.
    ///
    /// There is one block for each value and no other is accepted, so what is
    /// compared here needs no checks elsewhere.
    ///
    /// # Errors
    /// [`Fault::NotSealed`] when it does not start as a superblock does, and
    /// [`Fault::Damaged`] when it is not exactly what [`Self::render`] makes.
    pub fn parse(block: &[u8]) -> Result<Self, Fault> {
        if block.len() < BLOCK_BYTES || block[..8] != *SIGNATURE {
            return Err(Fault::NotSealed);
        }
        let (mut salt, mut root_hash) = ([0; SALT_BYTES], [0; HASH_BYTES]);
        salt.copy_from_slice(&block[88..88 + SALT_BYTES]);
        root_hash.copy_from_slice(&block[ROOT_HASH_AT..CHECKED_BYTES]);
        let data_blocks = checked_count(u64_at(block, 72)).map_err(|_| Fault::Damaged)?;
        let read = Self { data_blocks, salt, root_hash: Sha256(root_hash) };
        match read.render()[..] == block[..BLOCK_BYTES] {
            true => Ok(read),
            false => Err(Fault::Damaged),
        }
    }

    /// The block as it lies in the slot.
    ///
    /// | at  | bytes | holds                                              |
    /// |-----|-------|----------------------------------------------------|
    /// | 0   | 8     | `verity\0\0`                                       |
    /// | 8   | 8     | version 1, hash type 1                             |
    /// | 16  | 16    | UUID: the first half of the root hash              |
    /// | 32  | 32    | `sha256`                                           |
    /// | 64  | 8     | bytes of a block of data, and of one of hashes     |
    /// | 72  | 8     | blocks of data                                     |
    /// | 80  | 2     | bytes of the salt; 6 of padding follow             |
    /// | 88  | 256   | the salt; 168 of padding follow                    |
    /// | 512 | 8     | `PROAROOT`                                         |
    /// | 520 | 32    | the root hash                                      |
    /// | 552 | 32    | SHA-256 of bytes 0..552                            |
    pub fn render(&self) -> [u8; BLOCK_BYTES] {
        let mut block = [0; BLOCK_BYTES];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, SIGNATURE);
        put(8, &1u32.to_le_bytes());
        put(12, &1u32.to_le_bytes());
        put(16, &self.root_hash.0[..16]);
        put(32, b"sha256");
        put(64, &(BLOCK_BYTES as u32).to_le_bytes());
        put(68, &(BLOCK_BYTES as u32).to_le_bytes());
        put(72, &self.data_blocks.to_le_bytes());
        put(80, &(SALT_BYTES as u16).to_le_bytes());
        put(88, &self.salt);
        put(EXTENSION_AT, EXTENSION_MAGIC);
        put(ROOT_HASH_AT, &self.root_hash.0);
        let checksum = Sha256::of(&block[..CHECKED_BYTES]);
        block[CHECKED_BYTES..CHECKED_BYTES + HASH_BYTES].copy_from_slice(&checksum.0);
        block
    }

    /// Where this block lies in its slot, in bytes.
    pub fn offset(&self) -> u64 {
        self.data_blocks * BLOCK_BYTES as u64
    }

    /// Where the tree lies in its slot, in bytes.
    pub fn tree_offset(&self) -> u64 {
        (self.data_blocks + 1) * BLOCK_BYTES as u64
    }

    /// The line that makes the device-mapper check `device`, which is a path or
    /// `major:minor` and holds data, superblock and tree.
    ///
    /// `options` are dm-verity's, such as `restart_on_corruption`; without any, a
    /// wrong block is an input/output error.
    ///
    /// Source: Linux, `Documentation/admin-guide/device-mapper/verity.rst`.
    pub fn dm_table(&self, device: &str, options: &[&str]) -> DmTable {
        let salt = Sha256(self.salt);
        let (data_blocks, first, root) = (self.data_blocks, self.data_blocks + 1, self.root_hash);
        let block = BLOCK_BYTES;
        let mut parameters =
            format!("1 {device} {device} {block} {block} {data_blocks} {first} sha256 {root} {salt}");
        if !options.is_empty() {
            parameters += &format!(" {} {}", options.len(), options.join(" "));
        }
        DmTable { sectors: data_blocks * (BLOCK_BYTES / 512) as u64, parameters }
    }
}

/// A device-mapper table of one line: from sector 0 on, target `verity`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DmTable {
    /// Size of the checked device in sectors of 512 bytes.
    pub sectors: u64,
    /// What the target is told.
    pub parameters: String,
}

impl DmTable {
    /// The device-mapper's name of what checks hashes.
    pub const TARGET: &'static str = "verity";
}

impl fmt::Display for DmTable {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "0 {} {} {}", self.sectors, Self::TARGET, self.parameters)
    }
}

/// A finished tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// The hash of its top block, or of the only block of data.
    pub root_hash: Sha256,
    /// The blocks that follow the superblock, level by level, the top one first. The
    /// last level, the leaves, is what [`TreeBuilder::take_leaves`] has left of it.
    pub levels: Vec<Vec<u8>>,
}

/// Makes a tree of blocks of data that come in order.
///
/// It keeps a hash of each block, a 128th of the data, which may be taken while it
/// grows; of what was taken it keeps a 128th. The hash of a block is that of the
/// salt and the block; a block of hashes holds 128 of them, the last of a level is
/// filled up with zeros.
pub struct TreeBuilder {
    salted: Salted,
    data_blocks: u64,
    /// How many blocks of data came.
    got: u64,
    /// Hashes of blocks of data, without those that were taken.
    leaves: Vec<u8>,
    /// Hashes of the blocks of leaves that were taken.
    above: Vec<u8>,
}

impl TreeBuilder {
    /// A tree of `data_blocks` blocks, of which none came yet.
    ///
    /// # Errors
    /// [`Fault::DataBlocks`] when it is none or more than [`DATA_BLOCKS_MAX`].
    pub fn new(data_blocks: u64, salt: &[u8; SALT_BYTES]) -> Result<Self, Fault> {
        let data_blocks = checked_count(data_blocks)?;
        let (leaves, above) = (Vec::new(), Vec::new());
        Ok(Self { salted: Salted::new(salt), data_blocks, got: 0, leaves, above })
    }

    /// Takes the next blocks.
    ///
    /// # Errors
    /// [`Fault::Count`] when there are more than were announced.
    ///
    /// # Panics
    /// When `blocks` is not a whole number of blocks: the caller knows the size
    /// of what it read.
    pub fn push(&mut self, blocks: &[u8]) -> Result<(), Fault> {
        let (blocks, rest) = blocks.as_chunks::<BLOCK_BYTES>();
        assert!(rest.is_empty(), "{} bytes are not whole blocks", rest.len());
        let got = self.got + blocks.len() as u64;
        if got > self.data_blocks {
            return Err(Fault::Count { want: self.data_blocks, got });
        }
        self.got = got;
        self.salted.hash_each(blocks, &mut self.leaves);
        Ok(())
    }

    /// Gives out the leaves that are whole blocks, in order, each once: `at_least` so
    /// many bytes, or none.
    pub fn take_leaves(&mut self, at_least: usize) -> Option<Vec<u8>> {
        let whole = self.leaves.len() - self.leaves.len() % BLOCK_BYTES;
        if whole < at_least.max(BLOCK_BYTES) {
            return None;
        }
        let rest = self.leaves.split_off(whole);
        let taken = std::mem::replace(&mut self.leaves, rest);
        self.salted.hash_each(taken.as_chunks::<BLOCK_BYTES>().0, &mut self.above);
        Some(taken)
    }

    /// The tree, once all blocks came.
    ///
    /// # Errors
    /// [`Fault::Count`] when some are missing.
    pub fn finish(self) -> Result<Tree, Fault> {
        let Self { salted, data_blocks, got, leaves, mut above } = self;
        if got != data_blocks {
            return Err(Fault::Count { want: data_blocks, got });
        }
        let mut level = leaves;
        let mut levels = Vec::new();
        while !above.is_empty() || level.len() > HASH_BYTES {
            level.resize(level.len().next_multiple_of(BLOCK_BYTES), 0);
            salted.hash_each(level.as_chunks::<BLOCK_BYTES>().0, &mut above);
            levels.push(level);
            level = std::mem::take(&mut above);
        }
        levels.reverse();
        let mut root_hash = [0; HASH_BYTES];
        root_hash.copy_from_slice(&level);
        Ok(Tree { root_hash: Sha256(root_hash), levels })
    }
}

#[cfg(test)]
#[path = "verity_test.rs"]
mod tests;
