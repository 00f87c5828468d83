//! What a slot partition holds, as a file: a squashfs and the hash tree behind it.

use crate::error::{Error, content, file};
use proa_update_model::{
    hash::Sha256,
    verity::{self, BLOCK_BYTES, Superblock, TreeBuilder},
    version::Version,
};
use std::{fs, path::Path};

/// A slot that was checked: its data have the root hash that it names.
pub struct Slot {
    /// The squashfs, in whole blocks.
    pub data: Vec<u8>,
    /// What stands behind it.
    pub superblock: Superblock,
}

impl Slot {
    /// Reads the slot in the file at `path`.
    ///
    /// # Errors
    /// When it isn't sealed, or anything in it isn't as the seal says.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let mut bytes = fs::read(path).map_err(file("reading", path))?;
        let data_blocks = verity::data_blocks_of_squashfs(&bytes).map_err(|fault| content(path, fault))?;
        let data_bytes = data_blocks as usize * BLOCK_BYTES;
        let not_sealed = || content(path, "not sealed; `proa-release seal` does that");
        let block = bytes.get(data_bytes..data_bytes + BLOCK_BYTES).ok_or_else(not_sealed)?;
        let superblock = Superblock::parse(block).map_err(|fault| content(path, fault))?;
        let sealed =
            sealed(bytes[..data_bytes].to_vec(), superblock.salt).map_err(|fault| content(path, fault))?;
        if sealed != bytes {
            return Err(content(path, "its data are not those it was sealed with; make it again"));
        }
        bytes.truncate(data_bytes);
        Ok(Self { data: bytes, superblock })
    }
}

/// Puts the hash tree of `version` behind the squashfs in the file at `path`, in place
/// of one that is there, and returns the root hash.
///
/// # Errors
/// When the file is no squashfs, or can't be written.
pub fn seal(path: &Path, version: &Version) -> Result<Sha256, Error> {
    let mut bytes = fs::read(path).map_err(file("reading", path))?;
    let data_blocks = verity::data_blocks_of_squashfs(&bytes).map_err(|fault| content(path, fault))?;
    bytes.resize(data_blocks as usize * BLOCK_BYTES, 0);
    let salt = verity::salt_of_version(version.as_str());
    let sealed = sealed(bytes, salt).map_err(|fault| content(path, fault))?;
    fs::write(path, &sealed).map_err(file("writing", path))?;
    let at = data_blocks as usize * BLOCK_BYTES;
    let superblock = Superblock::parse(&sealed[at..]).map_err(|fault| content(path, fault))?;
    Ok(superblock.root_hash)
}

/// `data`, superblock and tree.
fn sealed(data: Vec<u8>, salt: [u8; verity::SALT_BYTES]) -> Result<Vec<u8>, verity::Fault> {
    let data_blocks = (data.len() / BLOCK_BYTES) as u64;
    let mut builder = TreeBuilder::new(data_blocks, &salt)?;
    builder.push(&data)?;
    let tree = builder.finish()?;
    let superblock = Superblock { data_blocks, salt, root_hash: tree.root_hash };
    let mut sealed = data;
    sealed.extend_from_slice(&superblock.render());
    tree.levels.iter().for_each(|level| sealed.extend_from_slice(level));
    Ok(sealed)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;

    /// The start of a squashfs of so many bytes, and noise behind it.
    pub(crate) fn squashfs(bytes_used: usize) -> Vec<u8> {
        let mut bytes = vec![0; bytes_used];
        bytes[..4].copy_from_slice(b"hsqs");
        bytes[28] = 4;
        bytes[40..48].copy_from_slice(&(bytes_used as u64).to_le_bytes());
        for (at, byte) in bytes.iter_mut().enumerate().skip(96) {
            *byte = (at / 251 + at % 251) as u8;
        }
        bytes
    }

    #[test]
    fn what_is_sealed_is_read_and_what_is_touched_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("slot");
        fs::write(&path, squashfs(300 * BLOCK_BYTES - 100)).unwrap();
        let unsealed = Slot::read(&path).err().unwrap().to_string();
        assert!(unsealed.ends_with("not sealed; `proa-release seal` does that"), "{unsealed}");

        let root_hash = seal(&path, &"1.0.0".parse().unwrap()).unwrap();
        let slot = Slot::read(&path).unwrap();
        assert_eq!(slot.superblock.root_hash, root_hash);
        assert_eq!((slot.data.len(), slot.superblock.data_blocks), (300 * BLOCK_BYTES, 300));
        assert_eq!(fs::metadata(&path).unwrap().len(), verity::sealed_bytes(300));
        // Sealed again it is the same; as another version it is another.
        assert_eq!(seal(&path, &"1.0.0".parse().unwrap()).unwrap(), root_hash);
        assert_ne!(seal(&path, &"1.0.1".parse().unwrap()).unwrap(), root_hash);

        let sealed = fs::read(&path).unwrap();
        for at in [5000, 299 * BLOCK_BYTES, 301 * BLOCK_BYTES + 9, sealed.len() - 1] {
            let mut touched = sealed.clone();
            touched[at] ^= 1;
            fs::write(&path, touched).unwrap();
            assert!(Slot::read(&path).is_err(), "byte {at}");
        }
        fs::write(&path, b"MZ and so on").unwrap();
        let refused = seal(&path, &"1.0.0".parse().unwrap()).unwrap_err().to_string();
        assert!(refused.ends_with("no squashfs"), "{refused}");
    }
}
