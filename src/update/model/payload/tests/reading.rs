//! Whatever the cut, the same; whatever the damage, refused.

use super::builder::{Package, Step, every_kind, image, key, signatures, write};
use crate::payload::{Checkpoint, Event, Fault, Reader, manifest::Kind, rsa::PublicKey};
use proptest::prelude::*;

/// Reads in pieces of the given sizes, then the rest.
fn read_in_pieces(package: &Package, old: &[u8], cuts: &[usize]) -> Result<Vec<u8>, Fault> {
    let mut reader = package.reader()?;
    let (mut left, mut new) = (&package.bytes[..], Vec::new());
    for cut in cuts.iter().copied().chain([usize::MAX]) {
        let (mut now, later) = left.split_at(cut.min(left.len()));
        while let Some(event) = reader.push(&mut now)? {
            write(&reader, event, old, &mut new);
        }
        assert!(now.is_empty(), "all of a piece is taken");
        left = later;
        assert_eq!(reader.offset(), (package.bytes.len() - left.len()) as u64);
    }
    reader.finish().map(|()| new)
}

#[test]
fn every_kind_makes_what_it_should() {
    let (new, old, package) = every_kind();
    assert_eq!(package.apply(&package.bytes, &old), Ok(new));
}

#[test]
fn byte_by_byte_is_the_same() {
    let (new, old, package) = every_kind();
    let cuts = vec![1; package.bytes.len()];
    assert_eq!(read_in_pieces(&package, &old, &cuts), Ok(new));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_cut_is_the_same(cuts in prop::collection::vec(0usize..3000, 0..12)) {
        let (new, old, package) = every_kind();
        prop_assert_eq!(read_in_pieces(&package, &old, &cuts), Ok(new));
    }

    /// A transfer that dies and goes on at its checkpoint, several times.
    #[test]
    fn any_interruption_is_the_same(lives in prop::collection::vec(0usize..6000, 0..6)) {
        let (new, old, package) = every_kind();
        let head = &package.bytes[..package.expected.head_bytes as usize];
        let mut written = Vec::new();
        let mut kept: Option<String> = None;
        for life in lives.into_iter().chain([usize::MAX]) {
            let mut reader = match &kept {
                None => package.reader().expect("within the limits"),
                Some(json) => {
                    let checkpoint: Checkpoint = serde_json::from_str(json).expect("just kept");
                    Reader::resume(package.expected.clone(), key(), head, &checkpoint).expect("fits")
                }
            };
            let start = reader.offset() as usize;
            let end = start.saturating_add(life).min(package.bytes.len());
            let mut input = &package.bytes[start..end];
            while let Some(event) = reader.push(&mut input).expect("good bytes") {
                write(&reader, event, &old, &mut written);
                if let Some(checkpoint) = reader.checkpoint() {
                    kept = Some(serde_json::to_string(&checkpoint).expect("JSON"));
                }
            }
            if end == package.bytes.len() {
                prop_assert_eq!(reader.finish(), Ok(()));
                break;
            }
        }
        prop_assert_eq!(written, new);
    }
}

#[test]
fn events_come_in_order_and_hold_the_data() {
    let (_, _, package) = every_kind();
    let mut reader = package.reader().expect("within the limits");
    assert_eq!(reader.checkpoint(), None, "nothing to go on from yet");
    let mut input = &package.bytes[..];
    assert_eq!(reader.push(&mut input), Ok(Some(Event::Manifest)));
    for index in 0..5 {
        assert_eq!(reader.checkpoint().expect("between operations").next_operation, index);
        let Ok(Some(Event::Operation { index: got, data })) = reader.push(&mut input) else {
            panic!("operation {index}")
        };
        assert_eq!(got, index);
        assert_eq!(data.len(), reader.manifest().expect("it came").operations[index].data_bytes);
    }
    assert_eq!(reader.push(&mut input), Ok(Some(Event::End)));
    assert_eq!(reader.push(&mut input), Ok(None));
    assert_eq!(reader.push(&mut &b"x"[..]), Err(Fault::TooLong { want: package.bytes.len() as u64 }));
    assert_eq!(reader.push(&mut &b""[..]), Err(Fault::Refused), "and stays refused");
}

/// Nothing of a damaged operation is given out, and what is given out before the
/// damage is what was signed.
#[test]
fn flipped_bit_anywhere_is_refused() {
    let (new, old, package) = every_kind();
    let blobs = package.expected.head_bytes as usize..package.bytes.len() - signatures(&[0; 256]).len();
    for byte in 0..package.bytes.len() {
        let mut bad = package.bytes.clone();
        bad[byte] ^= 1 << (byte % 8);
        let mut reader = package.reader().expect("within the limits");
        let (mut input, mut written) = (&bad[..], Vec::new());
        let fault = loop {
            match reader.push(&mut input) {
                Ok(Some(Event::End)) => panic!("byte {byte} does not count"),
                Ok(Some(event)) => write(&reader, event, &old, &mut written),
                Ok(None) => panic!("byte {byte}: the payload is whole"),
                Err(fault) => break fault,
            }
        };
        assert!(new.starts_with(&written), "byte {byte}");
        let expected = match fault {
            Fault::HeadHash { .. } => byte < blobs.start,
            Fault::OperationHash { .. } => blobs.contains(&byte),
            Fault::PayloadHash { .. } => byte >= blobs.end,
            _ => false,
        };
        assert!(expected, "byte {byte}: {fault}");
    }
}

#[test]
fn truncated_anywhere_is_refused() {
    let (_, old, package) = every_kind();
    let want = package.bytes.len() as u64;
    for length in 0..package.bytes.len() {
        let fault = package.apply(&package.bytes[..length], &old).expect_err("refused");
        assert_eq!(fault, Fault::Truncated { got: length as u64, want });
    }
}

#[test]
fn longer_is_refused() {
    let (_, old, package) = every_kind();
    let longer = [&package.bytes[..], &[0]].concat();
    let want = package.bytes.len() as u64;
    assert_eq!(package.apply(&longer, &old), Err(Fault::TooLong { want }));
}

#[test]
fn signature_must_be_by_the_payload_key() {
    let (_, old, package) = every_kind();
    let covered = package.bytes.len() - signatures(&[0; 256]).len();
    let other = {
        let mut signed = package.clone();
        signed.bytes[covered + 100] ^= 1;
        signed.expect_bytes();
        signed
    };
    assert_eq!(other.apply(&other.bytes, &old), Err(Fault::Signature), "the release alone is not enough");

    let garbage = {
        let mut signed = package.clone();
        signed.bytes[covered..].fill(0xff);
        signed.expect_bytes();
        signed
    };
    assert_eq!(garbage.apply(&garbage.bytes, &old), Err(Fault::Signature));

    let stranger = PublicKey::from_pem(include_str!("stranger.pub.pem")).expect("a key");
    let mut reader = Reader::new(package.expected.clone(), stranger).expect("within the limits");
    let mut input = &package.bytes[..];
    let fault = loop {
        match reader.push(&mut input) {
            Ok(Some(event)) => assert_ne!(event, Event::End),
            Ok(None) => panic!("the payload is whole"),
            Err(fault) => break fault,
        }
    };
    assert_eq!(fault, Fault::Signature);
}

#[test]
fn another_manifest_is_not_even_decoded() {
    let (_, _, package) = every_kind();
    let new = image(2, 9);
    let other = Package::new(&new, None, &[Step::new(Kind::Replace, new.clone(), 2)]);
    let mut reader = package.reader().expect("within the limits");
    let fault = reader.push(&mut &other.bytes[..]).expect_err("refused");
    assert!(matches!(fault, Fault::HeadHash { .. }), "{fault}");
    assert_eq!(reader.manifest(), None);
}

#[test]
fn checkpoints_of_other_transfers_are_refused() {
    let (_, _, package) = every_kind();
    let head = &package.bytes[..package.expected.head_bytes as usize];
    let mut reader = package.reader().expect("within the limits");
    let mut input = &package.bytes[..];
    for _ in 0..3 {
        reader.push(&mut input).expect("good bytes");
    }
    let good = reader.checkpoint().expect("between operations");
    let resume = |head: &[u8], checkpoint: &Checkpoint| {
        Reader::resume(package.expected.clone(), key(), head, checkpoint).map(|_| ())
    };
    assert_eq!(resume(head, &good), Ok(()));
    #[rustfmt::skip]
    let cases = [
        ("another operation", Checkpoint { next_operation: 3, ..good.clone() }),
        ("beyond the last",   Checkpoint { next_operation: usize::MAX, ..good.clone() }),
        ("another offset",    Checkpoint { offset: good.offset + 64, ..good.clone() }),
        ("no hash",           Checkpoint { sha256_state: String::new(), ..good.clone() }),
    ];
    for (name, bad) in cases {
        assert_eq!(resume(head, &bad), Err(Fault::Checkpoint), "{name}");
    }
    assert!(matches!(resume(&head[1..], &good), Err(Fault::Truncated { .. })));
    assert!(matches!(resume(&package.bytes, &good), Err(Fault::Truncated { .. })));
    let mut bad_head = head.to_vec();
    bad_head[30] ^= 1;
    assert!(matches!(resume(&bad_head, &good), Err(Fault::HeadHash { .. })));
}

/// A state that was tampered with cannot make anything wrong pass.
#[test]
fn wrong_state_of_the_hash_is_found_at_the_end() {
    let (_, _, package) = every_kind();
    let head = &package.bytes[..package.expected.head_bytes as usize];
    let mut reader = package.reader().expect("within the limits");
    let mut input = &package.bytes[..];
    for _ in 0..2 {
        reader.push(&mut input).expect("good bytes");
    }
    let mut checkpoint = reader.checkpoint().expect("between operations");
    checkpoint.sha256_state.replace_range(0..8, "00000000");
    let mut reader = Reader::resume(package.expected.clone(), key(), head, &checkpoint).expect("it fits");
    let mut input = &package.bytes[checkpoint.offset as usize..];
    let fault = loop {
        match reader.push(&mut input) {
            Ok(Some(event)) => assert_ne!(event, Event::End),
            Ok(None) => panic!("the payload is whole"),
            Err(fault) => break fault,
        }
    };
    assert!(matches!(fault, Fault::PayloadHash { .. }), "{fault}");
}
