use super::*;
use crate::{
    keys::{self, PAYLOAD_KEY, PAYLOAD_PUBLIC_KEY},
    seal::{Slot, seal},
};
use proa_update_model::payload::{Event, Reader, rsa::PublicKey};
use std::{collections::BTreeMap, fs, path::Path};

/// An image that starts as a squashfs does and goes on with `body`.
fn slot(dir: &Path, version: &str, body: &[u8]) -> Slot {
    let mut bytes = vec![0; 96];
    bytes[..4].copy_from_slice(b"hsqs");
    bytes[28] = 4;
    bytes[40..48].copy_from_slice(&((96 + body.len()) as u64).to_le_bytes());
    bytes.extend_from_slice(body);
    let path = dir.join(version);
    fs::write(&path, bytes).expect("a temporary file");
    seal(&path, &version.parse().expect("a version")).expect("a squashfs");
    Slot::read(&path).expect("sealed")
}

/// Words in no order, as compressible as a program.
fn text(seed: u32, len: usize) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bytes.extend_from_slice(format!("{:x} ", state >> 12).as_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// What a machine makes of the payload, and how often each kind of step is in it.
fn applied(payload: &[u8], new: &Slot, old: Option<&Slot>, keys: &Path) -> (Vec<u8>, BTreeMap<u32, usize>) {
    let public = fs::read_to_string(keys.join(PAYLOAD_PUBLIC_KEY)).expect("a key");
    let head = head_bytes(payload).expect("a payload");
    let expected = Expected {
        size_bytes: payload.len() as u64,
        sha256: Sha256::of(payload),
        head_bytes: head as u64,
        head_sha256: Sha256::of(&payload[..head]),
        root_hash: new.superblock.root_hash,
        slot_bytes: verity::sealed_bytes(new.superblock.data_blocks),
        source_bytes: old.map(|old| old.data.len() as u64),
    };
    let mut reader =
        Reader::new(expected, PublicKey::from_pem(&public).expect("RSA")).expect("within limits");
    let (mut made, mut kinds, mut ended) = (Vec::new(), BTreeMap::new(), false);
    let mut input = payload;
    while let Some(event) = reader.push(&mut input).expect("what the machine expects") {
        match event {
            Event::Manifest => {}
            Event::End => ended = true,
            Event::Operation { index, data } => {
                let operation = &reader.manifest().expect("came first").operations[index];
                *kinds.entry(operation.kind as u32).or_default() += 1;
                let mut source = |offset: u64, into: &mut [u8]| {
                    let old = &old.expect("a full payload reads nothing").data;
                    into.copy_from_slice(&old[offset as usize..offset as usize + into.len()]);
                    Ok(())
                };
                made.extend(render(operation, &data, &mut source).expect("good data"));
            }
        }
    }
    assert!(ended, "the payload has an end");
    (made, kinds)
}

#[test]
fn payloads_make_the_new_image() {
    let dir = tempfile::tempdir().expect("a folder");
    let keys = dir.path().join("keys");
    keys::generate(&keys).expect("openssl");
    let key = PayloadKey::read(&keys.join(PAYLOAD_KEY)).expect("just made");

    let (a, b) = (text(1, 1_700_000), text(2, 900_000));
    let noise: Vec<u8> = text(3, 200_000).chunks(64).flat_map(|part| Sha256::of(part).0).collect();
    let zeros = vec![0; 300_000];
    let old = slot(dir.path(), "1.0.0", &[&a[..], &zeros, &b].concat());
    let mut b_touched = b.clone();
    b_touched.iter_mut().step_by(97).for_each(|byte| *byte ^= 3);
    // The second part is put in, the last moves by an odd number of bytes.
    let new = slot(dir.path(), "1.1.0", &[&a[..], &noise, &zeros, &b_touched].concat());

    let full = make(&new, None, &key, LEVEL).expect("made");
    let (made, kinds) = applied(&full, &new, None, &keys);
    assert!(made == new.data, "the full payload makes another image");
    let used = [Kind::Zero, Kind::ReplaceZstd].map(|kind| kinds.contains_key(&(kind as u32)));
    assert_eq!(used, [true, true], "{kinds:?}");

    let delta = make(&new, Some(&old), &key, LEVEL).expect("made");
    let (made, kinds) = applied(&delta, &new, Some(&old), &keys);
    assert!(made == new.data, "the difference makes another image");
    let used = [Kind::SourceCopy, Kind::SourceZstdDiff].map(|kind| kinds.contains_key(&(kind as u32)));
    assert_eq!(used, [true, true], "{kinds:?}");
    assert!(delta.len() < full.len() / 4, "{} of {} bytes", delta.len(), full.len());

    assert!(make(&new, Some(&old), &key, LEVEL).expect("made") == delta, "the same again");
    let nothing = make(&new, Some(&new), &key, LEVEL).expect("made");
    assert!(applied(&nothing, &new, Some(&new), &keys).0 == new.data);
    assert!(nothing.len() < 2000, "{} bytes to change nothing", nothing.len());
}

#[test]
fn only_a_payload_has_a_head() {
    let mut bytes = payload::header(5).to_vec();
    bytes.extend_from_slice(b"12345 and more");
    assert_eq!(head_bytes(&bytes), Some(25));
    assert_eq!(head_bytes(&bytes[..24]), None);
    bytes[0] = b'c';
    assert_eq!(head_bytes(&bytes), None);
}

#[test]
fn a_payload_that_makes_another_image_is_found_out() {
    let dir = tempfile::tempdir().expect("a folder");
    keys::generate(dir.path()).expect("openssl");
    let key = PayloadKey::read(&dir.path().join(PAYLOAD_KEY)).expect("just made");
    let old = slot(dir.path(), "1.0.0", &text(1, 200_000));
    let mut other = slot(dir.path(), "1.0.1", &text(1, 200_000));
    let new = slot(dir.path(), "1.1.0", &text(1, 200_100));
    let delta = make(&new, Some(&old), &key, LEVEL).expect("made");
    other.data[90_000] ^= 1;
    let found = check(&delta, &new, Some(&other)).expect_err("another source");
    assert!(found.ends_with("makes other bytes"), "{found}");
    assert!(check(&delta, &new, None).is_err(), "no source");
    assert!(check(&delta, &old, Some(&old)).is_err(), "another target");
}
