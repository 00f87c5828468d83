//! What a slot holds, by the description of its hash tree.

use proa_update_model::verity::{self, Superblock};
use std::{fs::File, io, os::unix::fs::FileExt};

/// Why a slot's contents cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The slot could not be read.
    #[error("cannot read the slot")]
    Read(#[from] io::Error),
    /// What is there is no sealed system.
    #[error(transparent)]
    Form(#[from] verity::Fault),
}

/// Reads what lies behind the file system of the slot that begins at byte `start`
/// of `file`.
///
/// It says what the slot claims to hold. Whether the blocks are those is seen
/// when the kernel reads them through the hash tree.
///
/// # Errors
/// [`SealError`]; a slot that was never written has [`verity::Fault::NoSquashfs`].
pub fn superblock(file: &File, start: u64) -> Result<Superblock, SealError> {
    let mut first = [0; verity::SQUASHFS_SUPERBLOCK_BYTES];
    file.read_exact_at(&mut first, start)?;
    let data_blocks = verity::data_blocks_of_squashfs(&first)?;
    let mut block = vec![0; verity::BLOCK_BYTES];
    file.read_exact_at(&mut block, start + data_blocks * verity::BLOCK_BYTES as u64)?;
    let superblock = Superblock::parse(&block)?;
    // One that describes other data than it stands behind was left there by
    // another system.
    match superblock.data_blocks == data_blocks {
        true => Ok(superblock),
        false => Err(verity::Fault::Damaged.into()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proa_update_model::hash::Sha256;

    /// A slot at byte 512 whose file system says it has 2 blocks.
    fn slot(block: &[u8]) -> File {
        let file = tempfile::tempfile().unwrap();
        let mut start = [0; 96];
        start[..4].copy_from_slice(b"hsqs");
        start[28] = 4;
        start[40..48].copy_from_slice(&4097u64.to_le_bytes());
        file.write_all_at(&start, 512).unwrap();
        file.write_all_at(block, 512 + 2 * 4096).unwrap();
        file
    }

    #[test]
    fn only_a_sealed_slot_has_a_superblock() {
        let of = |data_blocks| Superblock { data_blocks, salt: [7; 32], root_hash: Sha256::of(b"root") };
        assert_eq!(superblock(&slot(&of(2).render()), 512).unwrap(), of(2));
        let mut damaged = of(2).render();
        damaged[600] ^= 1;
        #[rustfmt::skip]
        let cases = [
            ("no tree",           slot(&[0; 4096]),       512, "no hash tree behind the file system"),
            ("another's tree",    slot(&of(3).render()),  512, "the description of the hash tree is damaged"),
            ("damaged",           slot(&damaged),         512, "the description of the hash tree is damaged"),
            ("never written",     slot(&[0; 4096]),       0,   "no squashfs"),
            ("ends too early",    slot(&[0; 64]),         512, "cannot read the slot"),
        ];
        for (name, file, start, want) in cases {
            assert_eq!(superblock(&file, start).unwrap_err().to_string(), want, "{name}");
        }
    }
}
