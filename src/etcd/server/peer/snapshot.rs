//! A snapshot on its own connection: raft's message, the list of files with
//! their checksums, the files, and one byte back when all of it is there.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::ToSocketAddrs as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use proa_etcd_api::url::{self, Address, Url};
use proa_etcd_client::tls::{BlockingStream, ClientTls};
use proa_etcd_replica::eraftpb::{Message, MessageType};
use sha2::{Digest, Sha256};
use socket2::{SockAddr, Socket, Type};

use super::frame::{ANSWER_BYTES, Handshake, Verdict};
use super::wire::{self, put_bytes, put_number, take_bytes, take_number};
use super::{Inbox, Incoming, dialing};
use crate::database::{CopiedFile, describe, received_file, start_receiving};

/// Largest header: some 60 bytes for each of at most 10 000 files.
const MAX_HEADER_BYTES: u32 = 1 << 20;
/// Largest snapshot that is received; etcd's largest advised quota is 8 GiB.
const MAX_SNAPSHOT_BYTES: u64 = 64 << 30;
/// Longest silence on the connection.
const SILENCE: Duration = Duration::from_secs(30);
/// What the receiver says in the end.
const DONE: u8 = 0x06;

/// The right to receive; one snapshot at a time.
pub struct Receiving {
    flag: Arc<AtomicBool>,
}

impl Receiving {
    /// Takes the right, if nobody has it.
    pub(crate) fn begin(flag: &Arc<AtomicBool>) -> Option<Self> {
        let was_taken = flag.swap(true, Ordering::AcqRel);
        (!was_taken).then(|| Self { flag: flag.clone() })
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.flag.store(false, Ordering::Release);
    }
}

/// Sends the copy in `folder`; returns when the receiver has all of it.
///
/// # Errors
/// The first I/O error, or the receiver's refusal.
pub(super) fn send(
    urls: &[String],
    tls: Option<&ClientTls>,
    handshake: Handshake,
    message: &Message,
    folder: &Path,
) -> io::Result<()> {
    let files = describe(folder).map_err(io::Error::other)?;
    let mut stream = dial(urls, tls, SILENCE)?;
    stream.write_all(&handshake.encode())?;
    let mut answer = [0; ANSWER_BYTES];
    stream.read_exact(&mut answer)?;
    match Verdict::decode(&answer).map_err(io::Error::other)? {
        (Verdict::Welcome, _) => {}
        (verdict, _) => return Err(io::Error::other(format!("refused: {verdict:?}"))),
    }
    let header = encode_header(message, &files);
    stream.write_all(&(header.len() as u32).to_be_bytes())?;
    stream.write_all(&header)?;
    for file in &files {
        let mut reader = File::open(folder.join(&file.name))?.take(file.size_bytes);
        let sent = io::copy(&mut reader, &mut stream)?;
        if sent != file.size_bytes {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{} shrank", file.name)));
        }
    }
    stream.flush()?;
    let mut done = [0];
    stream.read_exact(&mut done)?;
    if done[0] == DONE { Ok(()) } else { Err(io::Error::other("the receiver did not confirm")) }
}

/// Connects to the first of `urls` that takes a connection, which from then on may be
/// silent for so long.
///
/// # Errors
/// Why the last one did not.
pub(super) fn dial(
    urls: &[String],
    tls: Option<&ClientTls>,
    silence: Duration,
) -> io::Result<BlockingStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "its peer URL is not known");
    for url in urls {
        let Url { encrypted, address } = url::parse(url).map_err(io::Error::other)?;
        for place in places(&address)? {
            let stream = Socket::new(place.domain(), Type::STREAM, None)?;
            match stream.connect_timeout(&place, Duration::from_secs(2)) {
                Ok(()) => {
                    stream.set_read_timeout(Some(silence))?;
                    stream.set_write_timeout(Some(silence))?;
                    return match encrypted {
                        false => Ok(BlockingStream::Plain(stream)),
                        true => dialing(tls)?.connect_blocking(&address.authority(), stream),
                    };
                }
                Err(error) => last = error,
            }
        }
    }
    Err(last)
}

/// All that may be dialed for `address`.
fn places(address: &Address) -> io::Result<Vec<SockAddr>> {
    match address {
        Address::Tcp(there) => {
            let found = (there.host.as_str(), there.port).to_socket_addrs()?;
            Ok(found.map(SockAddr::from).collect())
        }
        Address::Unix(path) => Ok(vec![SockAddr::unix(path)?]),
    }
}

/// Receives a copy beside `database` and hands it on.
///
/// # Errors
/// The first I/O error, or what was wrong with the data; then nothing is handed on.
pub(super) fn receive(
    mut stream: BlockingStream,
    handshake: &Handshake,
    database: &Path,
    hold: Receiving,
    inbox: &Inbox,
) -> io::Result<()> {
    stream.socket().set_read_timeout(Some(SILENCE))?;
    stream.socket().set_write_timeout(Some(SILENCE))?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    if length > MAX_HEADER_BYTES {
        return Err(io::Error::other("the list of files is too long"));
    }
    let mut header = vec![0; length as usize];
    stream.read_exact(&mut header)?;
    let (message, files) = decode_header(Bytes::from(header)).map_err(io::Error::other)?;
    check_message(&message, handshake)?;
    let total = files.iter().fold(0_u64, |sum, file| sum.saturating_add(file.size_bytes));
    if total > MAX_SNAPSHOT_BYTES {
        return Err(io::Error::other(format!("a snapshot of {total} bytes")));
    }
    tracing::info!("receiving a snapshot of {total} bytes from member {:x}", message.from);
    let folder = start_receiving(database).map_err(io::Error::other)?;
    for file in &files {
        let path = received_file(&folder, &file.name).map_err(io::Error::other)?;
        receive_file(&mut stream, &path, file)?;
    }
    inbox(Incoming::Snapshot { message, files, hold });
    stream.write_all(&[DONE])?;
    stream.flush()
}

/// Raft's message must be about a snapshot, from whom the connection is and to
/// this member: nothing else may come this way.
fn check_message(message: &Message, handshake: &Handshake) -> io::Result<()> {
    if message.msg_type != MessageType::MsgSnapshot || !message.has_snapshot() {
        return Err(io::Error::other(format!("{:?} came in place of a snapshot", message.msg_type)));
    }
    if (message.from, message.to) != (handshake.from, handshake.to) {
        let (from, to) = (message.from, message.to);
        return Err(io::Error::other(format!("the snapshot is from member {from:x} to member {to:x}")));
    }
    Ok(())
}

fn receive_file(stream: &mut BlockingStream, path: &Path, file: &CopiedFile) -> io::Result<()> {
    let mut out = File::create(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    let mut left = file.size_bytes;
    while left > 0 {
        let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let got = stream.read(&mut buffer[..want])?;
        if got == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{} was cut", file.name)));
        }
        hash.update(&buffer[..got]);
        out.write_all(&buffer[..got])?;
        left -= got as u64;
    }
    if hash.finalize().as_slice() != file.sha256 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{} has a wrong checksum", file.name),
        ));
    }
    Ok(())
}

fn encode_header(message: &Message, files: &[CopiedFile]) -> Vec<u8> {
    let mut out = Vec::new();
    wire::encode(message, &mut out);
    put_number(&mut out, files.len() as u64);
    for file in files {
        put_bytes(&mut out, file.name.as_bytes());
        put_number(&mut out, file.size_bytes);
        put_bytes(&mut out, &file.sha256);
    }
    out
}

fn decode_header(mut input: Bytes) -> Result<(Message, Vec<CopiedFile>), wire::Malformed> {
    let message = wire::decode(&mut input)?;
    let count = take_number(&mut input, "file count")?;
    let mut files = Vec::new();
    for _ in 0..count {
        let name = take_bytes(&mut input, "file name")?;
        let size_bytes = take_number(&mut input, "file size")?;
        let sum = take_bytes(&mut input, "checksum")?;
        files.push(CopiedFile {
            name: String::from_utf8(name.to_vec()).map_err(|_| wire::Malformed("file name"))?,
            size_bytes,
            sha256: sum[..].try_into().map_err(|_| wire::Malformed("checksum"))?,
        });
    }
    if input.is_empty() { Ok((message, files)) } else { Err(wire::Malformed("header length")) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn headers_survive_the_round_trip(list: Vec<([u8; 32], u64)>) {
            let file = |(at, (sha256, size_bytes)): (usize, &([u8; 32], u64))| CopiedFile {
                name: format!("{at:06}.sst"), size_bytes: *size_bytes, sha256: *sha256,
            };
            let files: Vec<_> = list.iter().enumerate().map(file).collect();
            let header = encode_header(&Message::default(), &files);
            let (message, back) = decode_header(Bytes::from(header)).unwrap();
            prop_assert_eq!(message, Message::default());
            prop_assert_eq!(back, files);
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode_header(Bytes::from(bytes));
        }
    }

    #[test]
    fn only_a_snapshot_of_its_member_comes_this_way() {
        let purpose = super::super::frame::Purpose::Snapshot;
        let handshake = Handshake { purpose, cluster_id: 1, from: 2, to: 3, boot: 4, count: 5 };
        let mut good = Message { from: 2, to: 3, msg_type: MessageType::MsgSnapshot, ..Message::default() };
        good.mut_snapshot().mut_metadata().index = 7;
        assert!(check_message(&good, &handshake).is_ok());
        let mut bare = good.clone();
        bare.take_snapshot();
        bare.clear_snapshot();
        let others = [
            Message { from: 9, ..good.clone() },
            Message { to: 9, ..good.clone() },
            Message { msg_type: MessageType::MsgAppend, ..good },
            bare,
        ];
        assert!(others.iter().all(|message| check_message(message, &handshake).is_err()));
    }

    #[test]
    fn one_snapshot_is_received_at_a_time() {
        let flag = Arc::default();
        let first = Receiving::begin(&flag);
        assert!(first.is_some() && Receiving::begin(&flag).is_none());
        drop(first);
        assert!(Receiving::begin(&flag).is_some());
    }
}
