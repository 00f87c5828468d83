//! The bytes of a raft message between members.
//!
//! Own layout, field by field, because a peer's bytes never reach a parser
//! that recurses or allocates on their word. Numbers are LEB128, byte strings
//! carry their length, and every length is checked against what is there.

use bytes::{Buf, Bytes};
use proa_etcd_replica::eraftpb::{ConfState, Entry, EntryType, Message, MessageType, Snapshot};

/// Most members in one configuration; etcd's advice is seven.
const MAX_MEMBERS: u64 = 64;

/// Bytes that are no message of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed peer message: bad {0}")]
pub struct Malformed(pub &'static str);

const TYPES: [MessageType; 19] = [
    MessageType::MsgHup,
    MessageType::MsgBeat,
    MessageType::MsgPropose,
    MessageType::MsgAppend,
    MessageType::MsgAppendResponse,
    MessageType::MsgRequestVote,
    MessageType::MsgRequestVoteResponse,
    MessageType::MsgSnapshot,
    MessageType::MsgHeartbeat,
    MessageType::MsgHeartbeatResponse,
    MessageType::MsgUnreachable,
    MessageType::MsgSnapStatus,
    MessageType::MsgCheckQuorum,
    MessageType::MsgTransferLeader,
    MessageType::MsgTimeoutNow,
    MessageType::MsgReadIndex,
    MessageType::MsgReadIndexResp,
    MessageType::MsgRequestPreVote,
    MessageType::MsgRequestPreVoteResponse,
];

/// Appends `message` to `out`.
pub fn encode(message: &Message, out: &mut Vec<u8>) {
    out.push(message.msg_type as u8);
    let numbers = [
        message.to,
        message.from,
        message.term,
        message.log_term,
        message.index,
        message.commit,
        message.commit_term,
        message.request_snapshot,
        message.reject_hint,
        u64::from(message.reject),
        message.priority as u64,
    ];
    numbers.iter().for_each(|number| put_number(out, *number));
    put_bytes(out, &message.context);
    put_number(out, message.entries.len() as u64);
    for entry in message.entries.iter() {
        out.push(entry.entry_type as u8);
        put_number(out, entry.term);
        put_number(out, entry.index);
        put_bytes(out, &entry.data);
        put_bytes(out, &entry.context);
    }
    out.push(u8::from(message.has_snapshot()));
    if message.has_snapshot() {
        put_snapshot(out, message.get_snapshot());
    }
}

fn put_snapshot(out: &mut Vec<u8>, snapshot: &Snapshot) {
    let metadata = snapshot.get_metadata();
    put_number(out, metadata.index);
    put_number(out, metadata.term);
    put_conf_state(out, metadata.get_conf_state());
    put_bytes(out, &snapshot.data);
}

/// Appends a configuration; also how the database keeps it.
pub fn put_conf_state(out: &mut Vec<u8>, state: &ConfState) {
    for ids in [&state.voters, &state.learners, &state.voters_outgoing, &state.learners_next] {
        put_number(out, ids.len() as u64);
        ids.iter().for_each(|id| put_number(out, *id));
    }
    out.push(u8::from(state.auto_leave));
}

/// Appends a number.
pub fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Appends a byte string with its length.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Takes one message off the front of `input`.
///
/// # Errors
/// [`Malformed`], naming the field.
pub fn decode(input: &mut Bytes) -> Result<Message, Malformed> {
    let kind = take_byte(input, "type")?;
    let mut message = Message {
        msg_type: *TYPES.get(usize::from(kind)).ok_or(Malformed("type"))?,
        to: take_number(input, "to")?,
        from: take_number(input, "from")?,
        term: take_number(input, "term")?,
        log_term: take_number(input, "log term")?,
        index: take_number(input, "index")?,
        commit: take_number(input, "commit")?,
        commit_term: take_number(input, "commit term")?,
        request_snapshot: take_number(input, "request snapshot")?,
        reject_hint: take_number(input, "reject hint")?,
        reject: take_number(input, "reject")? != 0,
        priority: take_number(input, "priority")? as i64,
        context: take_bytes(input, "context")?,
        ..Message::default()
    };
    let count = take_number(input, "entry count")?;
    // An entry takes at least five bytes, so the count cannot make us allocate.
    if count > input.len() as u64 / 5 {
        return Err(Malformed("entry count"));
    }
    let mut entries = Vec::with_capacity(count as usize);
    for _ in 0..count {
        entries.push(take_entry(input)?);
    }
    message.set_entries(entries.into());
    match take_byte(input, "snapshot flag")? {
        0 => {}
        1 => message.set_snapshot(take_snapshot(input)?),
        _ => return Err(Malformed("snapshot flag")),
    }
    Ok(message)
}

fn take_entry(input: &mut Bytes) -> Result<Entry, Malformed> {
    let entry_type = match take_byte(input, "entry type")? {
        0 => EntryType::EntryNormal,
        1 => EntryType::EntryConfChange,
        2 => EntryType::EntryConfChangeV2,
        _ => return Err(Malformed("entry type")),
    };
    Ok(Entry {
        entry_type,
        term: take_number(input, "entry term")?,
        index: take_number(input, "entry index")?,
        data: take_bytes(input, "entry data")?,
        context: take_bytes(input, "entry context")?,
        ..Entry::default()
    })
}

fn take_snapshot(input: &mut Bytes) -> Result<Snapshot, Malformed> {
    let mut snapshot = Snapshot::default();
    snapshot.mut_metadata().index = take_number(input, "snapshot index")?;
    snapshot.mut_metadata().term = take_number(input, "snapshot term")?;
    snapshot.mut_metadata().set_conf_state(take_conf_state(input)?);
    snapshot.data = take_bytes(input, "snapshot data")?;
    Ok(snapshot)
}

/// Takes a configuration off the front of `input`.
///
/// # Errors
/// [`Malformed`].
pub fn take_conf_state(input: &mut Bytes) -> Result<ConfState, Malformed> {
    let mut lists: [Vec<u64>; 4] = Default::default();
    for list in &mut lists {
        let count = take_number(input, "member count")?;
        if count > MAX_MEMBERS {
            return Err(Malformed("member count"));
        }
        for _ in 0..count {
            list.push(take_number(input, "member id")?);
        }
    }
    let [voters, learners, voters_outgoing, learners_next] = lists;
    let auto_leave = take_byte(input, "auto leave")? != 0;
    Ok(ConfState { voters, learners, voters_outgoing, learners_next, auto_leave, ..ConfState::default() })
}

/// Takes one byte off the front of `input`.
///
/// # Errors
/// [`Malformed`] with `what` at the end of the input.
pub fn take_byte(input: &mut Bytes, what: &'static str) -> Result<u8, Malformed> {
    if input.is_empty() { Err(Malformed(what)) } else { Ok(input.get_u8()) }
}

/// Takes a number off the front of `input`.
///
/// # Errors
/// [`Malformed`] with `what` when it is cut or too long.
pub fn take_number(input: &mut Bytes, what: &'static str) -> Result<u64, Malformed> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = take_byte(input, what)?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(Malformed(what))
}

/// Takes a byte string off the front of `input`, without copying it.
///
/// # Errors
/// [`Malformed`] with `what` when it is longer than what is there.
pub fn take_bytes(input: &mut Bytes, what: &'static str) -> Result<Bytes, Malformed> {
    let length = take_number(input, what)?;
    if length > input.len() as u64 {
        return Err(Malformed(what));
    }
    Ok(input.split_to(length as usize))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn entry() -> impl Strategy<Value = Entry> {
        (0..3_u8, any::<u64>(), any::<u64>(), any::<Vec<u8>>(), any::<Vec<u8>>()).prop_map(
            |(kind, term, index, data, context)| Entry {
                entry_type: [
                    EntryType::EntryNormal,
                    EntryType::EntryConfChange,
                    EntryType::EntryConfChangeV2,
                ][usize::from(kind)],
                term,
                index,
                data: data.into(),
                context: context.into(),
                ..Entry::default()
            },
        )
    }

    fn message() -> impl Strategy<Value = Message> {
        let numbers = proptest::array::uniform10(any::<u64>());
        let ids = vec(vec(any::<u64>(), 0..5), 4);
        (0..19_usize, numbers, any::<(bool, Vec<u8>)>(), vec(entry(), 0..4), proptest::option::of(ids))
            .prop_map(|(kind, n, (reject, context), entries, snapshot)| {
                let mut message = Message {
                    msg_type: TYPES[kind],
                    to: n[0],
                    from: n[1],
                    term: n[2],
                    log_term: n[3],
                    index: n[4],
                    commit: n[5],
                    commit_term: n[6],
                    request_snapshot: n[7],
                    reject_hint: n[8],
                    priority: n[9] as i64,
                    reject,
                    context: context.into(),
                    ..Message::default()
                };
                message.set_entries(entries.into());
                if let Some(mut ids) = snapshot {
                    let metadata = message.mut_snapshot().mut_metadata();
                    metadata.index = n[0];
                    metadata.term = n[1];
                    let state = metadata.mut_conf_state();
                    state.auto_leave = reject;
                    state.learners_next = ids.pop().unwrap();
                    state.voters_outgoing = ids.pop().unwrap();
                    state.learners = ids.pop().unwrap();
                    state.voters = ids.pop().unwrap();
                }
                message
            })
    }

    proptest! {
        #[test]
        fn messages_survive_the_round_trip(first in message(), second in message()) {
            let mut bytes = Vec::new();
            encode(&first, &mut bytes);
            encode(&second, &mut bytes);
            let mut input = Bytes::from(bytes);
            prop_assert_eq!(decode(&mut input).unwrap(), first);
            prop_assert_eq!(decode(&mut input).unwrap(), second);
            prop_assert!(input.is_empty());
        }

        #[test]
        fn a_cut_message_is_refused(message in message(), cut in any::<prop::sample::Index>()) {
            let mut bytes = Vec::new();
            encode(&message, &mut bytes);
            bytes.truncate(cut.index(bytes.len()));
            prop_assert!(decode(&mut Bytes::from(bytes)).is_err());
        }

        #[test]
        fn garbage_never_panics(bytes in vec(any::<u8>(), 0..400)) {
            let _ = decode(&mut Bytes::from(bytes));
        }

        #[test]
        fn a_flipped_byte_never_panics(message in message(), at in any::<prop::sample::Index>(), with in 1_u8..) {
            let mut bytes = Vec::new();
            encode(&message, &mut bytes);
            let at = at.index(bytes.len());
            bytes[at] ^= with;
            let _ = decode(&mut Bytes::from(bytes));
        }
    }
}
