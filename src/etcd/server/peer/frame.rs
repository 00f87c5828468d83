//! What travels on a peer connection: a handshake, then frames.
//!
//! Handshake (dialer): magic, version, purpose, cluster, from, to, boot,
//! count; fixed width, big endian. Answer: one code, the answerer's cluster id.
//! Frame: length (4 bytes), kind (1 byte), body. A connection carries frames
//! one way only, from the dialer.

use bytes::Bytes;
use proa_etcd_replica::eraftpb::{Message, MessageType};

use super::wire::{self, Malformed, put_bytes, put_number, take_byte, take_bytes, take_number};

/// Peer URLs of one member.
const MAX_URLS: u64 = 16;
const MAGIC: [u8; 8] = *b"PROAPEER";
/// Grows when older members could not read what is sent.
const VERSION: u16 = 1;
/// Bytes of a handshake.
pub const HANDSHAKE_BYTES: usize = 8 + 2 + 1 + 5 * 8;
/// Bytes of the answer to a handshake.
pub const ANSWER_BYTES: usize = 1 + 8;
/// Largest frame: raft gathers 1 MiB, but one entry may be a batch of 4 MiB.
pub const MAX_FRAME_BYTES: usize = 16 << 20;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Frames, until it ends.
    Frames,
    /// One snapshot; apart, so that it delays nothing.
    Snapshot,
    /// One question of somebody who is no member yet.
    Question,
}

const PURPOSES: [Purpose; 3] = [Purpose::Frames, Purpose::Snapshot, Purpose::Question];

/// The dialer's first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// What the connection is for.
    pub purpose: Purpose,
    /// The dialer's cluster; 0 from somebody who asks for it.
    pub cluster_id: u64,
    /// The dialer.
    pub from: u64,
    /// Whom it believes to reach.
    pub to: u64,
    /// Drawn at each start of the dialer.
    pub boot: u64,
    /// Counts the dialer's connections since then: a later one replaces an
    /// earlier one, whose frames are dropped from then on.
    pub count: u64,
}

/// Why a connection is taken or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Welcome,
    /// The dialer is of another cluster.
    OtherCluster,
    /// Another member lives at this address.
    OtherMember,
    /// The dialer was removed from the cluster.
    Removed,
    /// A later connection is there already, or a snapshot is on its way.
    Busy,
}

const VERDICTS: [Verdict; 5] =
    [Verdict::Welcome, Verdict::OtherCluster, Verdict::OtherMember, Verdict::Removed, Verdict::Busy];

impl Verdict {
    /// The answer's bytes.
    pub fn encode(self, cluster_id: u64) -> [u8; ANSWER_BYTES] {
        let mut out = [0; ANSWER_BYTES];
        out[0] = VERDICTS.iter().position(|verdict| *verdict == self).expect("all are listed") as u8;
        out[1..].copy_from_slice(&cluster_id.to_be_bytes());
        out
    }

    /// The verdict and the answerer's cluster id.
    ///
    /// # Errors
    /// [`Malformed`] for a code of a later version.
    pub fn decode(bytes: &[u8; ANSWER_BYTES]) -> Result<(Self, u64), Malformed> {
        let verdict = VERDICTS.get(usize::from(bytes[0])).ok_or(Malformed("answer"))?;
        Ok((*verdict, word(&bytes[1..])))
    }
}

impl Handshake {
    /// Its bytes.
    pub fn encode(&self) -> [u8; HANDSHAKE_BYTES] {
        let mut out = [0; HANDSHAKE_BYTES];
        out[..8].copy_from_slice(&MAGIC);
        out[8..10].copy_from_slice(&VERSION.to_be_bytes());
        out[10] = PURPOSES.iter().position(|purpose| *purpose == self.purpose).expect("all are listed") as u8;
        let words = [self.cluster_id, self.from, self.to, self.boot, self.count];
        for (slot, word) in out[11..].chunks_exact_mut(8).zip(words) {
            slot.copy_from_slice(&word.to_be_bytes());
        }
        out
    }

    /// Reads a handshake.
    ///
    /// # Errors
    /// [`Malformed`] for what is no peer of this version.
    pub fn decode(bytes: &[u8; HANDSHAKE_BYTES]) -> Result<Self, Malformed> {
        if bytes[..8] != MAGIC {
            return Err(Malformed("magic"));
        }
        if bytes[8..10] != VERSION.to_be_bytes() {
            return Err(Malformed("version"));
        }
        let purpose = *PURPOSES.get(usize::from(bytes[10])).ok_or(Malformed("purpose"))?;
        let at = |index: usize| word(&bytes[11 + index * 8..][..8]);
        Ok(Self { purpose, cluster_id: at(0), from: at(1), to: at(2), boot: at(3), count: at(4) })
    }
}

fn word(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

/// One thing said to a peer.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// A raft message.
    Raft(Message),
    /// A proposal for the leader of `term`.
    Forward {
        /// The proposal's id.
        id: u64,
        /// The term in which the receiver led, as the sender saw it. The
        /// receiver refuses it in any other: that is what makes it safe for
        /// the sender to propose again once a later term has begun.
        term: u64,
        /// What to propose.
        body: Bytes,
    },
    /// A forwarded proposal was not taken; nothing was written.
    Refused {
        /// The proposal's id.
        id: u64,
        /// The term it was forwarded in. A refusal that comes late must not
        /// undo a later forward of the same proposal: it would be written twice.
        term: u64,
        /// The receiver has too much to do, rather than not being the leader.
        is_full: bool,
    },
    /// A question to the leader.
    Ask {
        /// The sender's number for it.
        id: u64,
        /// The question.
        body: Bytes,
    },
    /// Where the sender lives, for who does not know it yet and owes it answers.
    Here {
        /// Its peer URLs.
        urls: Vec<String>,
    },
    /// The answer to a question.
    Answer {
        /// The asker's number.
        id: u64,
        /// The answer, or the text of the refusal.
        body: Result<Bytes, Bytes>,
    },
}

impl Frame {
    /// Whether the frame may overtake bulk: all but appends and proposals.
    /// Their own order among themselves is kept.
    pub fn is_urgent(&self) -> bool {
        match self {
            Frame::Raft(message) => message.msg_type != MessageType::MsgAppend,
            Frame::Forward { .. } => false,
            Frame::Refused { .. } | Frame::Ask { .. } | Frame::Answer { .. } | Frame::Here { .. } => true,
        }
    }

    /// Appends the frame with its length.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        match self {
            Frame::Raft(message) => {
                out.push(1);
                wire::encode(message, out);
            }
            Frame::Forward { id, term, body } => {
                out.push(2);
                put_number(out, *id);
                put_number(out, *term);
                put_bytes(out, body);
            }
            Frame::Refused { id, term, is_full } => {
                out.push(3);
                put_number(out, *id);
                put_number(out, *term);
                out.push(u8::from(*is_full));
            }
            Frame::Here { urls } => {
                out.push(6);
                put_number(out, urls.len() as u64);
                urls.iter().for_each(|url| put_bytes(out, url.as_bytes()));
            }
            Frame::Ask { id, body } => {
                out.push(4);
                put_number(out, *id);
                put_bytes(out, body);
            }
            Frame::Answer { id, body } => {
                out.push(5);
                put_number(out, *id);
                out.push(u8::from(body.is_ok()));
                match body {
                    Ok(body) | Err(body) => put_bytes(out, body),
                }
            }
        }
        let length = (out.len() - start - 4) as u32;
        out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }

    /// Reads what follows a length.
    ///
    /// # Errors
    /// [`Malformed`], also for bytes left over.
    pub fn decode(mut input: Bytes) -> Result<Self, Malformed> {
        let input = &mut input;
        let frame = match take_byte(input, "frame kind")? {
            1 => Frame::Raft(wire::decode(input)?),
            2 => Frame::Forward {
                id: take_number(input, "id")?,
                term: take_number(input, "term")?,
                body: take_bytes(input, "body")?,
            },
            3 => Frame::Refused {
                id: take_number(input, "id")?,
                term: take_number(input, "term")?,
                is_full: take_byte(input, "reason")? != 0,
            },
            4 => Frame::Ask { id: take_number(input, "id")?, body: take_bytes(input, "body")? },
            5 => {
                let id = take_number(input, "id")?;
                let is_ok = take_byte(input, "outcome")? != 0;
                let body = take_bytes(input, "body")?;
                Frame::Answer { id, body: if is_ok { Ok(body) } else { Err(body) } }
            }
            6 => {
                let count = take_number(input, "URLs")?;
                if count > MAX_URLS {
                    return Err(Malformed("URLs"));
                }
                let read = |_| take_url(input);
                Frame::Here { urls: (0..count).map(read).collect::<Result<_, _>>()? }
            }
            _ => return Err(Malformed("frame kind")),
        };
        if input.is_empty() { Ok(frame) } else { Err(Malformed("frame length")) }
    }
}

fn take_url(input: &mut Bytes) -> Result<String, Malformed> {
    String::from_utf8(take_bytes(input, "URL")?.to_vec()).map_err(|_| Malformed("URL"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame() -> impl Strategy<Value = Frame> {
        let body = || any::<Vec<u8>>().prop_map(Bytes::from);
        prop_oneof![
            (any::<u64>(), any::<u64>(), body()).prop_map(|(id, term, body)| Frame::Forward {
                id,
                term,
                body
            }),
            (any::<u64>(), any::<u64>(), any::<bool>()).prop_map(|(id, term, is_full)| Frame::Refused {
                id,
                term,
                is_full
            }),
            (any::<u64>(), body()).prop_map(|(id, body)| Frame::Ask { id, body }),
            (any::<u64>(), body(), any::<bool>()).prop_map(|(id, body, is_ok)| Frame::Answer {
                id,
                body: if is_ok { Ok(body) } else { Err(body) }
            }),
            proptest::collection::vec(any::<String>(), 0..3).prop_map(|urls| Frame::Here { urls }),
            any::<u64>().prop_map(|term| Frame::Raft(Message { term, ..Message::default() })),
        ]
    }

    proptest! {
        #[test]
        fn frames_survive_the_round_trip(frame in frame()) {
            let mut bytes = Vec::new();
            frame.encode(&mut bytes);
            let body = Bytes::from(bytes).split_off(4);
            prop_assert_eq!(Frame::decode(body).unwrap(), frame);
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Frame::decode(Bytes::from(bytes));
        }

        #[test]
        fn handshakes_survive_the_round_trip(words: [u64; 5], purpose in 0..PURPOSES.len()) {
            let [cluster_id, from, to, boot, count] = words;
            let purpose = PURPOSES[purpose];
            let handshake = Handshake { purpose, cluster_id, from, to, boot, count };
            prop_assert_eq!(Handshake::decode(&handshake.encode()).unwrap(), handshake);
        }
    }

    #[test]
    fn strangers_are_told_apart() {
        let mut http = [b' '; HANDSHAKE_BYTES];
        http[..14].copy_from_slice(b"GET / HTTP/1.1");
        assert_eq!(Handshake::decode(&http), Err(Malformed("magic")));
        for verdict in VERDICTS {
            assert_eq!(Verdict::decode(&verdict.encode(77)), Ok((verdict, 77)));
        }
    }
}
