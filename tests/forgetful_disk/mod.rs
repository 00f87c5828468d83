//! A disk with a volatile cache: what is written is on the medium after the next
//! flush, and a power cut leaves any part of what was not flushed.
//!
//! QEMU reaches it by NBD. Its own caches would show nothing: the host's page cache
//! outlives a QEMU that is killed, so nothing would ever be lost.
//!
//! Source: doc/proto.md of NetworkBlockDevice/nbd: the fixed newstyle handshake,
//! simple replies.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    ops::Range,
    os::unix::{
        fs::FileExt as _,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

/// What a disk writes as a whole or not at all.
const SECTOR: usize = 512;
/// A disk's cache has an end: then what came first is written.
const WAITING_BYTES_MAX: usize = 64 << 20;
/// Larger requests than QEMU sends.
const REQUEST_BYTES_MAX: usize = 64 << 20;

/// The disk; its file holds the medium.
pub struct ForgetfulDisk {
    socket: PathBuf,
    inside: Arc<Mutex<Inside>>,
    connections: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

/// What a power cut did to the writes that were not flushed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cut {
    pub kept: u32,
    pub torn: u32,
    pub lost: u32,
}

struct Inside {
    medium: File,
    bytes: u64,
    /// Not flushed yet, in the order in which it came.
    waiting: Vec<(u64, Vec<u8>)>,
    waiting_bytes: usize,
    /// Requests and bytes that were written into each of these.
    watched: Vec<(Range<u64>, u64, u64)>,
}

impl ForgetfulDisk {
    /// Serves the disk in the file `medium` on a socket beside it, and counts what is
    /// written into `watched`, in bytes from its start.
    pub fn serve(medium: &Path, watched: Vec<Range<u64>>) -> Self {
        let socket = medium.with_extension("nbd");
        let listener = UnixListener::bind(&socket).unwrap();
        let file = OpenOptions::new().read(true).write(true).open(medium).unwrap();
        let bytes = file.metadata().unwrap().len();
        let watched = watched.into_iter().map(|range| (range, 0, 0)).collect();
        let inside = Inside { medium: file, bytes, waiting: Vec::new(), waiting_bytes: 0, watched };
        let inside = Arc::new(Mutex::new(inside));
        let connections = Arc::new(Mutex::new(Vec::new()));
        let (shared, threads) = (Arc::clone(&inside), Arc::clone(&connections));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let shared = Arc::clone(&shared);
                // Its error is the end of the connection: a power cut.
                let connection = thread::spawn(move || drop(serve(stream.unwrap(), &shared)));
                threads.lock().unwrap().push(connection);
            }
        });
        Self { socket, inside, connections }
    }

    /// Where QEMU finds it.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Requests and bytes written so far into the watched range with this number.
    pub fn written(&self, number: usize) -> (u64, u64) {
        let inside = self.inside.lock().unwrap();
        let (_, requests, bytes) = &inside.watched[number];
        (*requests, *bytes)
    }

    /// What the power cut leaves of what was not flushed: of each write all, nothing,
    /// or some of its sectors. To be called when nobody uses the disk any more.
    pub fn cut(&self, mut random: impl FnMut() -> u64) -> Cut {
        for connection in std::mem::take(&mut *self.connections.lock().unwrap()) {
            connection.join().unwrap();
        }
        let mut inside = self.inside.lock().unwrap();
        let mut cut = Cut::default();
        for (offset, bytes) in inside.take_waiting() {
            match random() % 8 {
                0..4 => cut.lost += 1,
                4..7 => {
                    inside.medium.write_all_at(&bytes, offset).unwrap();
                    cut.kept += 1;
                }
                _ => {
                    for (number, sector) in bytes.chunks(SECTOR).enumerate() {
                        if random().is_multiple_of(2) {
                            inside.medium.write_all_at(sector, offset + (number * SECTOR) as u64).unwrap();
                        }
                    }
                    cut.torn += 1;
                }
            }
        }
        cut
    }
}

impl Inside {
    fn take_waiting(&mut self) -> Vec<(u64, Vec<u8>)> {
        self.waiting_bytes = 0;
        std::mem::take(&mut self.waiting)
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.medium.read_exact_at(into, offset)?;
        let end = offset + into.len() as u64;
        for (start, bytes) in &self.waiting {
            let (from, to) = (offset.max(*start), end.min(start + bytes.len() as u64));
            if from < to {
                let bytes = &bytes[(from - start) as usize..(to - start) as usize];
                into[(from - offset) as usize..(to - offset) as usize].copy_from_slice(bytes);
            }
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, bytes: Vec<u8>) -> io::Result<()> {
        for (range, requests, count) in &mut self.watched {
            if range.contains(&offset) {
                *requests += 1;
                *count += bytes.len() as u64;
            }
        }
        self.waiting_bytes += bytes.len();
        self.waiting.push((offset, bytes));
        if self.waiting_bytes > WAITING_BYTES_MAX {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let waiting = self.take_waiting();
        waiting.iter().try_for_each(|(offset, bytes)| self.medium.write_all_at(bytes, *offset))
    }
}

const INIT: &[u8; 8] = b"NBDMAGIC";
const OPTION: &[u8; 8] = b"IHAVEOPT";
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const REQUEST: u32 = 0x2560_9513;
const REPLY: u32 = 0x6744_6698;
/// NBD_FLAG_FIXED_NEWSTYLE, NBD_FLAG_NO_ZEROES.
const HANDSHAKE_FLAGS: u16 = 1 | 2;
/// NBD_FLAG_HAS_FLAGS, NBD_FLAG_SEND_FLUSH.
const EXPORT_FLAGS: u16 = 1 | 4;
const OPTION_GO: u32 = 7;
const ANSWER_ACK: u32 = 1;
const ANSWER_INFO: u32 = 3;
const ANSWER_UNSUPPORTED: u32 = 1 << 31 | 1;
const EINVAL: u32 = 22;

fn serve(mut stream: UnixStream, inside: &Mutex<Inside>) -> io::Result<()> {
    let bytes = inside.lock().unwrap().bytes;
    agree(&mut stream, bytes)?;
    loop {
        let head: [u8; 28] = take(&mut stream)?;
        let number = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
        let (kind, length) = (number(4) & 0xffff, number(24) as usize);
        let offset = u64::from_be_bytes(head[16..24].try_into().unwrap());
        if number(0) != REQUEST || length > REQUEST_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut data = Vec::new();
        let error = match kind {
            0 => {
                data.resize(length, 0);
                inside.lock().unwrap().read(offset, &mut data)?;
                0
            }
            1 => {
                let mut bytes = vec![0; length];
                stream.read_exact(&mut bytes)?;
                inside.lock().unwrap().write(offset, bytes)?;
                0
            }
            2 => return Ok(()),
            3 => {
                inside.lock().unwrap().flush()?;
                0
            }
            _ => EINVAL,
        };
        let mut reply = Vec::with_capacity(16 + data.len());
        reply.extend_from_slice(&REPLY.to_be_bytes());
        reply.extend_from_slice(&error.to_be_bytes());
        reply.extend_from_slice(&head[8..16]);
        reply.extend_from_slice(&data);
        stream.write_all(&reply)?;
    }
}

/// The handshake: whatever the client wants beside the one disk is not known here.
fn agree(stream: &mut UnixStream, bytes: u64) -> io::Result<()> {
    stream.write_all(&[&INIT[..], OPTION, &HANDSHAKE_FLAGS.to_be_bytes()].concat())?;
    let _client_flags: [u8; 4] = take(stream)?;
    loop {
        let head: [u8; 16] = take(stream)?;
        let option = u32::from_be_bytes(head[8..12].try_into().unwrap());
        let mut data = vec![0; u32::from_be_bytes(head[12..].try_into().unwrap()) as usize % (1 << 16)];
        stream.read_exact(&mut data)?;
        let mut answer = |answer: u32, data: &[u8]| {
            let length = (data.len() as u32).to_be_bytes();
            let head =
                [&OPTION_REPLY.to_be_bytes()[..], &option.to_be_bytes(), &answer.to_be_bytes(), &length];
            stream.write_all(&[&head.concat(), data].concat())
        };
        if option != OPTION_GO {
            answer(ANSWER_UNSUPPORTED, &[])?;
            continue;
        }
        // NBD_INFO_EXPORT: 0, the size, the flags.
        answer(ANSWER_INFO, &[&[0, 0][..], &bytes.to_be_bytes(), &EXPORT_FLAGS.to_be_bytes()].concat())?;
        return answer(ANSWER_ACK, &[]);
    }
}

fn take<const COUNT: usize>(stream: &mut UnixStream) -> io::Result<[u8; COUNT]> {
    let mut bytes = [0; COUNT];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}
