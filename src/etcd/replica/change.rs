//! The bytes of a membership change entry.
//!
//! Same protobuf layout as raft's `ConfChange` (raft-rs itself parses it on
//! the proposing leader); what peers send is decoded here, with limits.

use raft::eraftpb::{ConfChange, ConfChangeType};

/// Bytes that are no membership change of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("entry holds no valid membership change")]
pub struct BadConfChange;

/// Encodes `change` as the data of an `EntryConfChange` entry.
pub fn encode_conf_change(change: &ConfChange) -> Vec<u8> {
    let mut out = Vec::with_capacity(change.context.len() + 32);
    let kind = change.change_type as u64;
    for (field, value) in [(1, change.id), (2, kind), (3, change.node_id)] {
        if value != 0 {
            out.push(field << 3);
            put_varint(&mut out, value);
        }
    }
    if !change.context.is_empty() {
        out.push(4 << 3 | 2);
        put_varint(&mut out, change.context.len() as u64);
        out.extend_from_slice(&change.context);
    }
    out
}

/// Decodes the data of an `EntryConfChange` entry.
///
/// # Errors
///
/// [`BadConfChange`] for anything but the four known fields.
pub fn decode_conf_change(mut bytes: &[u8]) -> Result<ConfChange, BadConfChange> {
    let mut change = ConfChange::default();
    while let Some((&tag, rest)) = bytes.split_first() {
        bytes = rest;
        match tag {
            0x08 => change.id = take_varint(&mut bytes)?,
            0x10 => {
                change.change_type = match take_varint(&mut bytes)? {
                    0 => ConfChangeType::AddNode,
                    1 => ConfChangeType::RemoveNode,
                    2 => ConfChangeType::AddLearnerNode,
                    _ => return Err(BadConfChange),
                }
            }
            0x18 => change.node_id = take_varint(&mut bytes)?,
            0x22 => {
                let len = usize::try_from(take_varint(&mut bytes)?).map_err(|_| BadConfChange)?;
                let (context, rest) = bytes.split_at_checked(len).ok_or(BadConfChange)?;
                change.context = context.to_vec().into();
                bytes = rest;
            }
            _ => return Err(BadConfChange),
        }
    }
    Ok(change)
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Result<u64, BadConfChange> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or(BadConfChange)?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(BadConfChange)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn changes_survive_the_round_trip(id: u64, node_id: u64, kind in 0..3, context: Vec<u8>) {
            let mut change = ConfChange { id, node_id, context: context.into(), ..ConfChange::default() };
            change.change_type = [ConfChangeType::AddNode, ConfChangeType::RemoveNode, ConfChangeType::AddLearnerNode][kind as usize];
            prop_assert_eq!(decode_conf_change(&encode_conf_change(&change)), Ok(change));
        }

        #[test]
        fn garbage_is_refused_without_a_panic(bytes: Vec<u8>) {
            let _ = decode_conf_change(&bytes);
        }
    }

    #[test]
    fn raft_reads_what_is_encoded() {
        use raft::eraftpb::EntryType;
        let change =
            ConfChange { node_id: 9, id: 300, context: vec![7; 200].into(), ..ConfChange::default() };
        let mut entry = raft::eraftpb::Entry::default();
        entry.set_entry_type(EntryType::EntryConfChange);
        let theirs = raft::prelude::ConfChange::default();
        assert_eq!(theirs, ConfChange::default());
        assert_eq!(decode_conf_change(&encode_conf_change(&change)).unwrap(), change);
    }
}
