//! What somebody who is no member yet may ask on the peers' port: who the
//! members are, and to be let in. One question and one answer a connection.

use std::io::{self, Read as _, Write as _};
use std::net::IpAddr;
use std::sync::Weak;
use std::time::Duration;

use bytes::Bytes;
use proa_etcd_api::etcdserverpb::{Member, MemberListResponse};
use proa_etcd_client::Socket;
use proa_etcd_client::tls::{ClientTls, Stream};
use prost::Message as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::frame::{ANSWER_BYTES, Handshake, Purpose, Verdict};
use super::wire::{Malformed, put_bytes, put_number, take_byte, take_bytes, take_number};
use super::{Incoming, Shared, snapshot};

/// Largest question: a kind, a number and a URL.
const MAX_QUESTION_BYTES: u32 = 1 << 10;
/// Largest answer: a few hundred bytes for each of a few members.
const MAX_ANSWER_BYTES: u32 = 1 << 20;
/// Longest wait for the question, and for the answer: a membership change takes
/// a round through the log.
const PATIENCE: Duration = Duration::from_secs(8);

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Who the members are.
    Members,
    /// To become a member at this peer URL, where a cluster of `size` is wanted.
    Enter {
        /// Where the new member will be reached.
        peer_url: String,
        /// Number of members that the cluster is to have.
        size: usize,
    },
}

/// What becomes of a wish to enter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// The cluster expects a member at this URL: start it.
    Welcome,
    /// A step was taken: ask again.
    Again,
    /// The leader must be asked.
    NotLeader,
    /// There is no place, or it is not safe to make one: the reason, and what
    /// a person could do.
    Wait(String),
}

/// Takes the answer to a [`Question`].
pub type Reply = Box<dyn FnOnce(Bytes) + Send>;

impl Question {
    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Members => vec![0],
            Self::Enter { peer_url, size } => {
                let mut out = vec![1];
                put_number(&mut out, *size as u64);
                put_bytes(&mut out, peer_url.as_bytes());
                out
            }
        }
    }

    fn decode(mut input: Bytes) -> Result<Self, Malformed> {
        let input = &mut input;
        let question = match take_byte(input, "question")? {
            0 => Self::Members,
            1 => {
                let size = take_number(input, "size")?;
                let url = take_bytes(input, "peer URL")?;
                let peer_url = String::from_utf8(url.to_vec()).map_err(|_| Malformed("peer URL"))?;
                Self::Enter { peer_url, size: usize::try_from(size).map_err(|_| Malformed("size"))? }
            }
            _ => return Err(Malformed("question")),
        };
        if input.is_empty() { Ok(question) } else { Err(Malformed("question length")) }
    }
}

impl Entry {
    /// Its bytes.
    pub fn encode(&self) -> Bytes {
        let (code, text) = match self {
            Self::Welcome => (0, ""),
            Self::Again => (1, ""),
            Self::NotLeader => (2, ""),
            Self::Wait(why) => (3, why.as_str()),
        };
        let mut out = vec![code];
        out.extend_from_slice(text.as_bytes());
        out.into()
    }

    fn decode(mut input: Bytes) -> Result<Self, Malformed> {
        Ok(match take_byte(&mut input, "answer")? {
            0 => Self::Welcome,
            1 => Self::Again,
            2 => Self::NotLeader,
            3 => Self::Wait(String::from_utf8_lossy(&input).into_owned()),
            _ => return Err(Malformed("answer")),
        })
    }
}

/// The members as one of them knows them.
#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    /// Their cluster.
    pub cluster_id: u64,
    /// All of them.
    pub members: Vec<Member>,
    /// Those that the answerer has heard since it started.
    pub heard: Vec<u64>,
}

impl Known {
    /// Whether this member has taken part already: it was heard, or has told
    /// where it serves clients, as each does first of all.
    pub fn has_run(&self, id: u64) -> bool {
        let told = |member: &Member| member.id == id && !member.client_urls.is_empty();
        self.heard.contains(&id) || self.members.iter().any(told)
    }

    /// The answer to [`Question::Members`]; the cluster's id goes before it.
    pub fn encode(self) -> Bytes {
        let mut out = Vec::new();
        put_number(&mut out, self.heard.len() as u64);
        self.heard.iter().for_each(|id| put_number(&mut out, *id));
        let list = MemberListResponse { header: None, members: self.members };
        out.extend_from_slice(&list.encode_to_vec());
        out.into()
    }

    fn decode(cluster_id: u64, mut input: Bytes) -> io::Result<Self> {
        let mut heard = Vec::new();
        for _ in 0..take_number(&mut input, "count").map_err(io::Error::other)? {
            heard.push(take_number(&mut input, "member").map_err(io::Error::other)?);
        }
        let list = MemberListResponse::decode(input).map_err(io::Error::other)?;
        Ok(Self { cluster_id, members: list.members, heard })
    }
}

/// Asks at one peer URL who the members are. Blocks for some seconds at most.
///
/// # Errors
/// Nobody answers there, or not like a member.
pub fn ask_members(url: &str, tls: Option<&ClientTls>) -> io::Result<Known> {
    let (cluster_id, answer) = ask(url, tls, 0, &Question::Members)?;
    Known::decode(cluster_id, answer)
}

/// [`ask_members`] at each of `urls`, all at the same time: one that is silent holds up
/// nobody but itself. The answers in the order of the URLs.
pub fn ask_members_at<'a>(
    urls: impl IntoIterator<Item = &'a String>,
    tls: Option<&ClientTls>,
) -> Vec<(&'a String, io::Result<Known>)> {
    std::thread::scope(|scope| {
        let ask = |url: &'a String| (url, scope.spawn(move || ask_members(url, tls)));
        let asked: Vec<_> = urls.into_iter().map(ask).collect();
        let panicked = |_| Err(io::Error::other("the thread that asked it panicked"));
        asked.into_iter().map(|(url, thread)| (url, thread.join().unwrap_or_else(panicked))).collect()
    })
}

/// Asks at one peer URL of `cluster_id` to be let in. Blocks for some seconds at most.
///
/// # Errors
/// As [`ask_members`].
pub fn ask_entry(
    url: &str,
    tls: Option<&ClientTls>,
    cluster_id: u64,
    peer_url: &str,
    size: usize,
) -> io::Result<Entry> {
    let question = Question::Enter { peer_url: peer_url.to_owned(), size };
    let (_, answer) = ask(url, tls, cluster_id, &question)?;
    Entry::decode(answer).map_err(io::Error::other)
}

fn ask(url: &str, tls: Option<&ClientTls>, cluster_id: u64, question: &Question) -> io::Result<(u64, Bytes)> {
    let mut stream = snapshot::dial(&[url.to_owned()], tls, PATIENCE)?;
    let handshake = Handshake { purpose: Purpose::Question, cluster_id, from: 0, to: 0, boot: 0, count: 0 };
    stream.write_all(&handshake.encode())?;
    let mut verdict = [0; ANSWER_BYTES];
    stream.read_exact(&mut verdict)?;
    let cluster_id = match Verdict::decode(&verdict).map_err(io::Error::other)? {
        (Verdict::Welcome, cluster_id) => cluster_id,
        (Verdict::OtherCluster, other) => {
            return Err(io::Error::other(format!("it is of cluster {other:x}, not {cluster_id:x}")));
        }
        (verdict, _) => return Err(io::Error::other(format!("refused: {verdict:?}"))),
    };
    let body = question.encode();
    stream.write_all(&(body.len() as u32).to_be_bytes())?;
    stream.write_all(&body)?;
    stream.flush()?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    if length > MAX_ANSWER_BYTES {
        return Err(io::Error::other(format!("an answer of {length} bytes")));
    }
    let mut answer = vec![0; length as usize];
    stream.read_exact(&mut answer)?;
    Ok((cluster_id, answer.into()))
}

/// Takes one question from `stream` and sends back its answer.
pub(super) async fn answer(
    mut stream: Stream<Socket>,
    source: IpAddr,
    weak: &Weak<Shared>,
) -> io::Result<()> {
    let length = timeout(PATIENCE, stream.read_u32()).await??;
    if length > MAX_QUESTION_BYTES {
        return Err(io::Error::other(format!("a question of {length} bytes")));
    }
    let mut body = vec![0; length as usize];
    timeout(PATIENCE, stream.read_exact(&mut body)).await??;
    let question = Question::decode(Bytes::from(body)).map_err(io::Error::other)?;
    let Some(shared) = weak.upgrade() else { return Ok(()) };
    let (sender, answered) = oneshot::channel();
    let reply: Reply = Box::new(move |answer| {
        // Whoever asked may have gone.
        let _ = sender.send(answer);
    });
    (shared.inbox)(Incoming::Question { question, source, reply });
    drop(shared);
    let answer = timeout(PATIENCE, answered).await?.map_err(io::Error::other)?;
    stream.write_u32(answer.len() as u32).await?;
    stream.write_all(&answer).await?;
    stream.flush().await
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn questions_and_answers_survive_the_round_trip(peer_url: String, size: u32, why: String) {
            for question in [Question::Members, Question::Enter { peer_url, size: size as usize }] {
                prop_assert_eq!(Question::decode(question.encode().into()), Ok(question));
            }
            for entry in [Entry::Welcome, Entry::Again, Entry::NotLeader, Entry::Wait(why)] {
                prop_assert_eq!(Entry::decode(entry.encode()), Ok(entry));
            }
        }

        #[test]
        fn members_survive_the_round_trip(cluster_id: u64, heard: Vec<u64>, id: u64) {
            let members = vec![Member { id, ..Member::default() }];
            let known = Known { cluster_id, members, heard };
            prop_assert_eq!(Known::decode(cluster_id, known.clone().encode()).unwrap(), known);
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Question::decode(Bytes::from(bytes.clone()));
            let _ = Known::decode(1, Bytes::from(bytes.clone()));
            let _ = Entry::decode(Bytes::from(bytes));
        }
    }

    /// Nobody is answered before all were asked.
    #[test]
    fn a_silent_member_holds_up_no_other_question() {
        let all = std::sync::Barrier::new(3);
        let listen = |_| std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let listeners: Vec<_> = (0..3).map(listen).collect();
        let url = |at: usize| format!("http://{}", listeners[at].local_addr().expect("bound"));
        let urls: Vec<String> = (0..3).map(url).collect();
        let begun = std::time::Instant::now();
        std::thread::scope(|scope| {
            for listener in &listeners {
                let all = &all;
                scope.spawn(move || {
                    let accepted = listener.accept();
                    all.wait();
                    drop(accepted);
                });
            }
            let answers = ask_members_at(&urls, None);
            assert!(answers.iter().map(|(url, _)| *url).eq(&urls));
            assert!(answers.iter().all(|(_, answer)| answer.is_err()));
        });
        assert!(begun.elapsed() < PATIENCE, "they were asked one after the other");
    }
}
