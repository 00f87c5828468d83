//! What a manifest may not say, though it is signed.

use super::builder::{Package, Step, every_kind, image, key};
use crate::{
    error_code::ErrorCode,
    payload::{Fault, HEAD_BYTES_MAX, MAGIC, Reader, manifest::Kind, wire},
    verity,
};

/// Reads the head of `package` after `change` and signing it again.
fn refused(package: &Package, change: impl FnOnce(&mut Package)) -> String {
    let mut package = package.clone();
    change(&mut package);
    package.seal();
    let mut reader = package.reader().expect("within the limits");
    reader.push(&mut &package.bytes[..]).expect_err("refused").to_string()
}

type Change = fn(&mut wire::DeltaArchiveManifest);

#[test]
fn numbers_of_the_manifest() {
    let (_, _, package) = every_kind();
    #[rustfmt::skip]
    let cases: &[(&str, Change)] = &[
        ("bad manifest: it says nothing about the hash tree", |m| m.verity = None),
        ("bad manifest: it does not say what it makes", |m| m.new_partition_info = None),
        ("bad manifest: it is whole and the release says it is a difference", |m| m.old_partition_info = None),
        ("the block size is 512 instead of 4096", |m| m.block_size = 512),
        ("the size of the new data is 4096 instead of 36864", |m| m.new_partition_info.as_mut().unwrap().size = 4096),
        ("the size of the old data is 1 instead of 20480", |m| m.old_partition_info.as_mut().unwrap().size = 1),
        ("bad manifest: no SHA-256 of the new data", |m| m.new_partition_info.as_mut().unwrap().hash.clear()),
        ("bad manifest: no SHA-256 of the old data", |m| m.old_partition_info.as_mut().unwrap().hash.push(0)),
        ("bad manifest: a root hash has 32 bytes", |m| m.verity.as_mut().unwrap().root_hash.clear()),
        ("bad manifest: a salt has 32 bytes", |m| m.verity.as_mut().unwrap().salt.clear()),
        ("bad manifest: a system of 0 blocks", |m| m.verity.as_mut().unwrap().data_blocks = 0),
        ("bad manifest: a system of 18446744073709551615 blocks", |m| m.verity.as_mut().unwrap().data_blocks = u64::MAX),
        ("the size of the new data is 36864 instead of 40960", |m| m.verity.as_mut().unwrap().data_blocks = 10),
        ("bad manifest: signatures of 0 bytes", |m| m.signatures_size = 0),
        ("bad manifest: signatures of 4097 bytes", |m| m.signatures_size = 4097),
        ("the number of blocks that are written is 7 instead of 9", |m| { m.partition_operations.pop(); }),
        ("the number of blocks that are written is 10 instead of 9", |m| {
            let mut zero = m.partition_operations[1].clone();
            zero.dst_extents[0].start_block = 9;
            m.partition_operations.push(zero);
        }),
    ];
    for (want, change) in cases {
        assert_eq!(refused(&package, |package| change(&mut package.manifest)), *want);
    }
    let place = refused(&package, |package| package.manifest.signatures_offset += 1);
    assert!(place.starts_with("the place of the signatures is "), "{place}");
    let size = refused(&package, |package| package.manifest.signatures_size -= 1);
    assert!(size.starts_with("the size of the payload is "), "{size}");
    let slot = refused(&package, |package| package.expected.slot_bytes -= 4096);
    assert_eq!(slot, "the size of the slot is 45056 instead of 40960");
    let root = refused(&package, |package| package.expected.root_hash.0[0] ^= 1);
    assert!(root.starts_with("bad manifest: it makes "), "{root}");
    let whole = refused(&package, |package| package.expected.source_bytes = None);
    assert_eq!(whole, "bad manifest: it is a difference and the release says it is whole");
}

type ChangeOperation = fn(&mut wire::InstallOperation);

/// Operations of [`every_kind`]: 0 plain, 1 zero, 2 packed, 3 copy, 4 difference.
#[test]
fn numbers_of_an_operation() {
    let (_, _, package) = every_kind();
    #[rustfmt::skip]
    let cases: &[(usize, &str, ChangeOperation)] = &[
        (0, "its kind 1 is not known", |o| o.kind = 1),
        (0, "it writes 0 extents instead of one", |o| o.dst_extents.clear()),
        (0, "it writes 2 extents instead of one", |o| o.dst_extents.push(o.dst_extents[0])),
        (1, "it writes from block 0 on instead of 1", |o| o.dst_extents[0].start_block = 0),
        (1, "it writes from block 2 on instead of 1", |o| o.dst_extents[0].start_block = 2),
        (1, "it writes 0 blocks, of 1 to 256", |o| o.dst_extents[0].num_blocks = 0),
        (1, "it writes 257 blocks, of 1 to 256", |o| o.dst_extents[0].num_blocks = 257),
        (1, "it writes 18446744073709551615 blocks, of 1 to 256", |o| o.dst_extents[0].num_blocks = u64::MAX),
        (1, "it has data and its kind needs none", |o| o.data_length = 1),
        (3, "it has data and its kind needs none", |o| o.data_sha256_hash = vec![0; 32]),
        (2, "its data is at 0 instead of 4096", |o| o.data_offset = 0),
        (2, "its data has 0 bytes, of 1 to 1114112", |o| o.data_length = 0),
        (2, "its data has 1114113 bytes, of 1 to 1114112", |o| o.data_length = (1 << 20) + (1 << 16) + 1),
        (0, "its data has 4095 bytes and it writes 4096", |o| o.data_length = 4095),
        (4, "its data has no SHA-256", |o| o.data_sha256_hash.clear()),
        (0, "its data has no SHA-256", |o| o.data_sha256_hash.push(0)),
        (0, "it has source extents", |o| o.src_extents = vec![wire::Extent { start_block: 0, num_blocks: 1 }]),
        (4, "it has source extents", |o| o.src_extents = vec![wire::Extent { start_block: 0, num_blocks: 2 }]),
        (3, "it copies 2 blocks from 4 on", |o| o.src_extents[0].start_block = 4),
        (3, "it copies 2 blocks from 18446744073709551615 on", |o| o.src_extents[0].start_block = u64::MAX),
        (3, "it copies 0 blocks from 0 on", |o| o.src_extents[1].num_blocks = 0),
        (3, "it copies 2 blocks from 0 on", |o| o.src_extents[1].num_blocks = 2),
        (3, "its sources are 1 blocks too few", |o| { o.src_extents.pop(); }),
    ];
    for (index, wrong, change) in cases {
        let got = refused(&package, |package| change(&mut package.manifest.partition_operations[*index]));
        assert_eq!(got, format!("bad manifest: operation {index}: {wrong}"));
    }
}

#[test]
fn whole_payload_needs_no_old_system() {
    let new = image(2, 4);
    let package = Package::new(&new, None, &[Step::new(Kind::Replace, new.clone(), 2)]);
    assert_eq!(package.apply(&package.bytes, &[]), Ok(new));
    let copy = refused(&package, |package| {
        let operation = &mut package.manifest.partition_operations[0];
        operation.kind = Kind::SourceZstdDiff as u32;
    });
    assert_eq!(copy, "bad manifest: operation 0: it needs an old system and the payload is whole");
}

#[test]
fn header_is_checked_though_it_is_signed() {
    let (_, _, package) = every_kind();
    let head = |change: fn(&mut [u8])| {
        let mut package = package.clone();
        change(&mut package.bytes);
        package.expect_bytes();
        let mut reader = package.reader().expect("within the limits");
        reader.push(&mut &package.bytes[..]).expect_err("refused")
    };
    assert_eq!(head(|bytes| bytes[0] = b'c'), Fault::BadMagic);
    assert_eq!(head(|bytes| bytes[11] = 2), Fault::BadMagic);
    assert_eq!(
        head(|bytes| bytes[19] ^= 1),
        Fault::Manifest("it has another size than the header says".into())
    );
    assert!(matches!(head(|bytes| bytes[20..40].fill(0xff)), Fault::Manifest(_)));
    assert_eq!(&package.bytes[..4], MAGIC);
}

#[test]
fn limits_are_checked_before_anything_is_read() {
    let (_, _, package) = every_kind();
    let refused = |change: fn(&mut crate::payload::Expected)| {
        let mut expected = package.expected.clone();
        change(&mut expected);
        Reader::new(expected, key()).err().expect("refused")
    };
    let slot_most = verity::sealed_bytes(verity::DATA_BLOCKS_MAX);
    let slot = refused(|expected| expected.slot_bytes = u64::MAX);
    assert_eq!(slot, Fault::Limit { what: "the size of the slot", value: u64::MAX, most: slot_most });
    let size = refused(|expected| expected.size_bytes = 1 << 40);
    assert!(matches!(size, Fault::Limit { what: "the size of the payload", .. }), "{size}");
    let head = refused(|expected| {
        expected.head_bytes = HEAD_BYTES_MAX + 1;
        expected.size_bytes = HEAD_BYTES_MAX + 2;
    });
    assert!(matches!(head, Fault::Limit { what: "the size of the manifest", .. }), "{head}");
    let beyond = refused(|expected| expected.head_bytes = expected.size_bytes + 1);
    assert!(matches!(beyond, Fault::Limit { what: "the size of the manifest", .. }), "{beyond}");
    assert_eq!(refused(|expected| expected.head_bytes = 19), Fault::BadMagic);
}

#[test]
fn omaha_has_a_number_for_each() {
    let hash = crate::hash::Sha256([0; 32]);
    #[rustfmt::skip]
    let cases = [
        (Fault::BadMagic,                                    21),
        (Fault::Manifest(String::new()),                     23),
        (Fault::HeadHash { got: hash, want: hash },          26),
        (Fault::OperationHash { index: 0, got: hash, want: hash }, 29),
        (Fault::PayloadHash { got: hash, want: hash },       10),
        (Fault::Signature,                                   12),
        (Fault::Truncated { got: 0, want: 1 },               11),
        (Fault::TooLong { want: 1 },                         11),
    ];
    for (fault, number) in cases {
        assert_eq!(fault.error_code(), ErrorCode::from_number(number), "{fault}");
    }
}
