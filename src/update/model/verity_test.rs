//! The laws of [`super`], and that `veritysetup` makes the same trees.

use super::{
    BLOCK_BYTES, DATA_BLOCKS_MAX, Fault, Superblock, Tree, TreeBuilder, data_blocks_of_squashfs,
    leaves_offset, salt_of_version, sealed_bytes, tree_blocks,
};
use crate::hash::Sha256;

/// Block `n` starts with its number and is filled with a byte of its own.
fn data(blocks: u32) -> Vec<u8> {
    let block = |number: u32| {
        let mut block = vec![((number * 7 + 3) % 251) as u8; BLOCK_BYTES];
        block[..4].copy_from_slice(&number.to_le_bytes());
        block
    };
    (0..blocks).flat_map(block).collect()
}

fn tree(data: &[u8], step: usize) -> Tree {
    let mut builder =
        TreeBuilder::new((data.len() / BLOCK_BYTES) as u64, &salt_of_version("0.1.0")).expect("in range");
    for blocks in data.chunks(step * BLOCK_BYTES) {
        builder.push(blocks).expect("no more than announced");
    }
    builder.finish().expect("all blocks came")
}

fn superblock() -> Superblock {
    Superblock { data_blocks: 300, salt: salt_of_version("0.1.0"), root_hash: Sha256::of(b"root") }
}

/// `veritysetup format DATA TREE --salt=$(printf 0.1.0 | sha256sum | cut -c1-64)`
/// of cryptsetup 2.6.1 with the bytes of [`data`]: its root hash and the SHA-256 of
/// what it wrote behind its superblock.
#[rustfmt::skip]
const FORMATTED: [(u32, u64, &str, &str); 6] = [
    (1, 0, "e572109e71989b0ee01f9c8407fea3db56eca0153d68628a8be3c0d9c263a3ff",
           "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    (2, 1, "707c87a7a28f14c812c295a4bcbe768aef99dc1786ec2252bae75ebb88f59cf8",
           "646f68d2c9768fb8a6de004f554d448c2a674191414c74bb329a7e14343d1b68"),
    (128, 1, "fe019d5e4b16beb67821032a1dba92242735e147d4a3eefa6c8e2c2b7f50ac16",
             "f82dae07235340b7ac816a40c6874326e3227d97a045d569cf299042815ff8b2"),
    (129, 3, "ae1a3c821a5cbcf35a29637062fa4a59ae4467c1fcc5099478057a53ca96d9f2",
             "949acbfdf06c0ab1f49ddb32868f36cb8fef4e3fb8b9bf12ec63db304a535346"),
    (300, 4, "e56540125db74f0c0655e782f776a5e23031c321dea24148d34a29a2065ee853",
             "627d47ad8cbe032037da6de0c7833c169fa2c7d01f191356d059a22287d88bcf"),
    (16385, 132, "e29b0536a2d09c7899c1aa224950abc18b65f3b41d358a8c0f55b5f2f38d71c3",
                 "8dbf2a9ccee28723a0f7b66f2c7b1c4f2fbf7d4b70eba1e2017dc940f4333f42"),
];

#[test]
fn trees_are_those_of_veritysetup() {
    for (blocks, of_hashes, root_hash, tree_hash) in FORMATTED {
        let tree = tree(&data(blocks), 256);
        assert_eq!(tree.root_hash.to_string(), root_hash, "{blocks} blocks");
        assert_eq!(Sha256::of(&tree.levels.concat()).to_string(), tree_hash, "{blocks} blocks");
        assert_eq!(tree.levels.concat().len() / BLOCK_BYTES, of_hashes as usize, "{blocks} blocks");
        assert_eq!(tree_blocks(blocks.into()), of_hashes, "{blocks} blocks");
        assert_eq!(sealed_bytes(blocks.into()), (u64::from(blocks) + 1 + of_hashes) * 4096);
    }
}

#[test]
fn steps_make_no_difference() {
    let data = data(300);
    let whole = tree(&data, 300);
    for step in [1, 2, 7, 128, 299] {
        assert_eq!(tree(&data, step), whole, "{step} blocks at a time");
    }
}

/// Leaves that are taken while the tree grows are those of the whole tree, and lie
/// where [`leaves_offset`] says. Of them alone a tree can be made: it has the same root.
#[test]
fn leaves_may_be_taken() {
    for blocks in [1, 2, 127, 128, 129, 256, 300, 16_385] {
        let data = data(blocks);
        let whole = tree(&data, 256);
        for (step, at_least) in [(1, 0), (100, 4096), (256, 8192), (300, 16 << 20)] {
            let mut builder = TreeBuilder::new(blocks.into(), &salt_of_version("0.1.0")).expect("in range");
            let mut leaves = Vec::new();
            for blocks in data.chunks(step * BLOCK_BYTES) {
                builder.push(blocks).expect("no more than announced");
                leaves.extend(builder.take_leaves(at_least).into_iter().flatten());
            }
            let mut grown = builder.finish().expect("all blocks came");
            if let Some(last) = grown.levels.last_mut() {
                last.splice(..0, leaves);
            }
            assert_eq!(grown, whole, "{blocks} blocks, {step} at a time");
        }
        let Some(leaves) = whole.levels.last() else { continue };
        assert_eq!(leaves_offset(blocks.into()), sealed_bytes(blocks.into()) - leaves.len() as u64);
        let of_leaves = tree(leaves, 7);
        assert_eq!(of_leaves.root_hash, whole.root_hash);
        assert_eq!(of_leaves.levels[..], whole.levels[..whole.levels.len() - 1]);
    }
}

#[test]
fn every_bit_counts() {
    let mut data = data(130);
    let whole = tree(&data, 130);
    for at in [0, 4095, 4096, 128 * 4096, 130 * 4096 - 1] {
        data[at] ^= 1;
        assert_ne!(tree(&data, 130).root_hash, whole.root_hash, "byte {at}");
        data[at] ^= 1;
    }
    let blocks = 130;
    let other = TreeBuilder::new(blocks, &salt_of_version("0.1.1")).and_then(|mut builder| {
        builder.push(&data)?;
        builder.finish()
    });
    assert_ne!(other.expect("a tree").root_hash, whole.root_hash, "the salt counts, too");
}

#[test]
fn wrong_counts_are_refused() {
    let salt = salt_of_version("");
    assert!(TreeBuilder::new(DATA_BLOCKS_MAX, &salt).is_ok());
    for blocks in [0, DATA_BLOCKS_MAX + 1, u64::MAX] {
        assert_eq!(TreeBuilder::new(blocks, &salt).err(), Some(Fault::DataBlocks(blocks)));
    }
    let mut builder = TreeBuilder::new(2, &salt).expect("in range");
    assert_eq!(builder.push(&data(3)), Err(Fault::Count { want: 2, got: 3 }));
    builder.push(&data(1)).expect("room for it");
    assert_eq!(builder.finish(), Err(Fault::Count { want: 2, got: 1 }));
}

#[test]
fn superblock_comes_back_and_nothing_else_is_one() {
    let block = superblock().render();
    assert_eq!(Superblock::parse(&block), Ok(superblock()));
    assert_eq!(Superblock::parse(&block[..4095]), Err(Fault::NotSealed));
    for byte in 0..BLOCK_BYTES {
        for bit in 0..8 {
            let mut bad = block;
            bad[byte] ^= 1 << bit;
            let want = if byte < 8 { Fault::NotSealed } else { Fault::Damaged };
            assert_eq!(Superblock::parse(&bad), Err(want), "bit {bit} of byte {byte}");
        }
    }
}

/// The first 512 bytes are what `veritysetup format` writes with
/// `--uuid=$(the first half of the root hash)`.
#[test]
fn superblock_begins_as_that_of_veritysetup() {
    let block = superblock().render();
    let mut want = vec![0; 512];
    want[..8].copy_from_slice(b"verity\0\0");
    want[8..16].copy_from_slice(&[1, 0, 0, 0, 1, 0, 0, 0]);
    want[16..32].copy_from_slice(&Sha256::of(b"root").0[..16]);
    want[32..38].copy_from_slice(b"sha256");
    want[64..82].copy_from_slice(&[0, 16, 0, 0, 0, 16, 0, 0, 0x2c, 1, 0, 0, 0, 0, 0, 0, 32, 0]);
    want[88..120].copy_from_slice(&Sha256::of(b"0.1.0").0);
    assert_eq!(block[..512], want);
}

#[test]
fn table_line_by_example() {
    let (root, salt) = (Sha256::of(b"root"), Sha256::of(b"0.1.0"));
    let line = |options| superblock().dm_table("/dev/vda3", options).to_string();
    let plain = format!("0 2400 verity 1 /dev/vda3 /dev/vda3 4096 4096 300 301 sha256 {root} {salt}");
    assert_eq!(line(&[]), plain);
    assert_eq!(line(&["restart_on_corruption"]), format!("{plain} 1 restart_on_corruption"));
    assert_eq!((superblock().offset(), superblock().tree_offset()), (300 * 4096, 301 * 4096));
}

#[test]
fn size_of_a_squashfs() {
    let squashfs = |bytes: u64| {
        let mut start = [0; 96];
        start[..4].copy_from_slice(b"hsqs");
        start[28] = 4;
        start[40..48].copy_from_slice(&bytes.to_le_bytes());
        start
    };
    for (bytes, want) in [(1, 1), (4096, 1), (4097, 2), (DATA_BLOCKS_MAX * 4096, DATA_BLOCKS_MAX)] {
        assert_eq!(data_blocks_of_squashfs(&squashfs(bytes)), Ok(want), "{bytes}");
    }
    let refused = |start: &[u8]| data_blocks_of_squashfs(start).expect_err("refused");
    assert_eq!(refused(&squashfs(0)), Fault::DataBlocks(0));
    assert_eq!(refused(&squashfs(u64::MAX)), Fault::DataBlocks(1 << 52));
    assert_eq!(refused(&squashfs(4096)[..95]), Fault::NoSquashfs);
    assert_eq!(refused(&[0; 96]), Fault::NoSquashfs);
}
