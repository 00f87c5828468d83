//! The check of every peer message before raft-rs sees it.
//!
//! raft-rs takes messages for its own and panics on impossible ones; a peer's
//! message is foreign data, so the impossible is refused here.

use raft::eraftpb::{Entry, Message, MessageType};

/// A message that was not stepped. Raft repeats what matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// Addressed to another member.
    NotForMe,
    /// Of a kind that never travels, or without what its kind needs.
    Malformed,
    /// Acknowledges entries this leader never wrote.
    Impossible,
    /// Too many entries wait to be applied.
    Behind,
    /// From nobody that this member has let in, who alone decides that: a member of
    /// the cluster that it has left.
    Stranger,
}

/// This member cannot go on with its data; it must stop and say why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The leader was told by this member that it holds more than it does.
    #[error(
        "this member's log ends at index {last}, but it has acknowledged index {commit} to the leader: its data was lost or is of another time; remove it from the cluster and add it again with an empty data dir"
    )]
    LogLost {
        /// Last index of this log.
        last: u64,
        /// Index the leader knows this member to hold.
        commit: u64,
    },
}

/// Where this member stands when a message arrives.
pub(crate) struct Here {
    pub(crate) id: u64,
    pub(crate) term: u64,
    pub(crate) last_index: u64,
    pub(crate) is_leader: bool,
    pub(crate) is_behind: bool,
    /// There is one voter, this one or another.
    pub(crate) is_of_one_voter: bool,
    /// The sender is a voter or a learner.
    pub(crate) knows_sender: bool,
}

/// What to do with a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Step,
    Drop(Dropped),
    Stop(Broken),
}

/// Judges `message` by its own fields and by `here`.
pub(crate) fn judge(message: &Message, here: &Here) -> Verdict {
    use MessageType as Kind;
    let kind = message.msg_type;
    if message.to != here.id || message.from == here.id || message.from == 0 {
        return Verdict::Drop(Dropped::NotForMe);
    }
    // raft-rs follows whoever leads a later term.
    if here.is_of_one_voter && !here.knows_sender {
        return Verdict::Drop(Dropped::Stranger);
    }
    if (message.term == 0) != (kind == Kind::MsgReadIndex) {
        return Verdict::Drop(Dropped::Malformed);
    }
    let well_formed = match kind {
        // Local messages, and proposals: raft-rs would forward them invisibly.
        Kind::MsgHup
        | Kind::MsgBeat
        | Kind::MsgUnreachable
        | Kind::MsgSnapStatus
        | Kind::MsgCheckQuorum
        | Kind::MsgPropose
        | Kind::MsgTransferLeader => false,
        Kind::MsgReadIndex | Kind::MsgReadIndexResp => message.entries.len() == 1,
        Kind::MsgAppend => in_order(message),
        Kind::MsgSnapshot => message.get_snapshot().get_metadata().index > 0,
        Kind::MsgAppendResponse
        | Kind::MsgRequestVote
        | Kind::MsgRequestVoteResponse
        | Kind::MsgHeartbeat
        | Kind::MsgHeartbeatResponse
        | Kind::MsgTimeoutNow
        | Kind::MsgRequestPreVote
        | Kind::MsgRequestPreVoteResponse => message.entries.is_empty(),
    };
    if !well_formed {
        return Verdict::Drop(Dropped::Malformed);
    }
    let current = message.term >= here.term;
    if kind == Kind::MsgHeartbeat && current && message.commit > here.last_index {
        return Verdict::Stop(Broken::LogLost { last: here.last_index, commit: message.commit });
    }
    if kind == Kind::MsgAppendResponse
        && here.is_leader
        && message.term == here.term
        && !message.reject
        && message.index > here.last_index
    {
        return Verdict::Drop(Dropped::Impossible);
    }
    if kind == Kind::MsgAppend && here.is_behind {
        return Verdict::Drop(Dropped::Behind);
    }
    Verdict::Step
}

/// Whether the entries continue the position the message names.
fn in_order(message: &Message) -> bool {
    let mut last = (message.index, message.log_term);
    let follows = |entry: &Entry| {
        let ok = last.0.checked_add(1) == Some(entry.index) && entry.term >= last.1;
        last = (entry.index, entry.term);
        ok && entry.term <= message.term
    };
    message.entries.iter().all(follows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: MessageType, term: u64) -> Message {
        Message { msg_type: kind, to: 1, from: 2, term, ..Message::default() }
    }

    fn append(index: u64, log_term: u64, entries: &[(u64, u64)]) -> Message {
        let entries: Vec<_> =
            entries.iter().map(|&(index, term)| Entry { index, term, ..Entry::default() }).collect();
        Message { index, log_term, entries: entries.into(), ..message(MessageType::MsgAppend, 5) }
    }

    #[test]
    #[rustfmt::skip]
    fn impossible_messages_never_reach_raft() {
        use MessageType as Kind;
        let (is_of_one_voter, knows_sender) = (false, true);
        let here = |is_leader, is_behind| Here { id: 1, term: 5, last_index: 9, is_leader, is_behind, is_of_one_voter, knows_sender };
        let lost = Broken::LogLost { last: 9, commit: 10 };
        let cases = [
            ("heartbeat",            message(Kind::MsgHeartbeat, 5),                                 Verdict::Step),
            ("of an old leader",     Message { commit: 10, ..message(Kind::MsgHeartbeat, 4) },       Verdict::Step),
            ("commit out of range",  Message { commit: 10, ..message(Kind::MsgHeartbeat, 5) },       Verdict::Stop(lost)),
            ("for another",          Message { to: 3, ..message(Kind::MsgHeartbeat, 5) },            Verdict::Drop(Dropped::NotForMe)),
            ("from myself",          Message { from: 1, ..message(Kind::MsgHeartbeat, 5) },          Verdict::Drop(Dropped::NotForMe)),
            ("without a term",       message(Kind::MsgHeartbeat, 0),                                 Verdict::Drop(Dropped::Malformed)),
            ("local",                message(Kind::MsgHup, 5),                                       Verdict::Drop(Dropped::Malformed)),
            ("proposal",             message(Kind::MsgPropose, 5),                                   Verdict::Drop(Dropped::Malformed)),
            ("read without context", message(Kind::MsgReadIndex, 0),                                 Verdict::Drop(Dropped::Malformed)),
            ("empty snapshot",       message(Kind::MsgSnapshot, 5),                                  Verdict::Drop(Dropped::Malformed)),
            ("append",               append(3, 1, &[(4, 1), (5, 5)]),                                Verdict::Step),
            ("append with a gap",    append(3, 1, &[(4, 1), (6, 5)]),                                Verdict::Drop(Dropped::Malformed)),
            ("append of the future", append(3, 1, &[(4, 6)]),                                        Verdict::Drop(Dropped::Malformed)),
            ("terms going down",     append(3, 3, &[(4, 2)]),                                        Verdict::Drop(Dropped::Malformed)),
            ("index overflow",       append(u64::MAX, 3, &[(0, 3)]),                                 Verdict::Drop(Dropped::Malformed)),
        ];
        for (name, message, want) in cases {
            assert_eq!(judge(&message, &here(false, false)), want, "{name}");
        }
        let ack = Message { index: 10, ..message(Kind::MsgAppendResponse, 5) };
        assert_eq!(judge(&ack, &here(true, false)), Verdict::Drop(Dropped::Impossible));
        assert_eq!(judge(&append(3, 1, &[(4, 1)]), &here(false, true)), Verdict::Drop(Dropped::Behind));

        // Among several a leader may be known to all but the one who is behind.
        for (is_of_one_voter, knows_sender) in [(false, false), (false, true), (true, true), (true, false)] {
            let here = Here { is_of_one_voter, knows_sender, ..here(false, false) };
            let is_stranger = is_of_one_voter && !knows_sender;
            let want = if is_stranger { Verdict::Drop(Dropped::Stranger) } else { Verdict::Step };
            assert_eq!(judge(&message(Kind::MsgRequestVote, 9), &here), want);
        }
    }
}
