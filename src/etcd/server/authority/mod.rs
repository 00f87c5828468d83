//! Makes the `:authority` of clients that send a whole URL there acceptable.
//!
//! The Go client of etcd 3.4 sends an endpoint as it was given, `http://` and
//! all, or the path of a unix socket, as the HTTP/2 pseudo header `:authority`.
//! That is no authority (RFC 3986, section 3.2), and the HTTP/2 library refuses
//! it with PROTOCOL_ERROR before the server sees the request; etcd itself never
//! looked at it. So the bytes of a client are corrected on their way in:
//! [`Filter`] decides how, [`Filtered`] is the connection that does.

mod hpack;
mod huffman;
mod stream;
#[cfg(test)]
mod tests;

use bytes::{BufMut as _, BytesMut};

pub use stream::Filtered;

/// What an HTTP/2 client says first. Source: RFC 9113, section 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Length (24 bits), type, flags, stream. Source: RFC 9113, section 4.1.
const FRAME_HEADER_BYTES: usize = 9;
/// A longer HEADERS frame is passed on as it is. Without a setting that allows
/// more, and ours does not, a frame has at most 16 KiB.
const MAX_HEADERS_BYTES: usize = 64 << 10;

/// Type and flags of a HEADERS frame. Source: RFC 9113, section 6.2.
const HEADERS: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// Exclusive bit and stream depended on (32 bits), weight.
const PRIORITY_BYTES: usize = 5;

/// The way in of one connection: takes a client's bytes in pieces of any size
/// and gives them on, with every `:authority` of the form
/// `http://HOST:PORT...` or `https://HOST:PORT...` as the bare `HOST:PORT`, and
/// that of a unix socket as one that is valid.
///
/// All else is given on as it came: what is not HTTP/2, frames other than
/// HEADERS, header blocks that go on in CONTINUATION frames, malformed ones and
/// those over 64 KiB, which is also the most that is ever held back. The first
/// complete HEADERS frame decides: without such an `:authority` in it nothing
/// is looked at any more ([`Filter::is_open`]); with one, all HEADERS frames
/// are, for a client sends a value again once its table has lost it.
///
/// The compression state (RFC 7541, section 2.3.2) needs no attention. A client
/// refers to entries of the dynamic table by their distance from the newest, a
/// rewritten literal makes an entry exactly where the original would have, and
/// entries fall out only at the old end, when the sum of their sizes is too
/// large. Ours are never larger than the client's, so that our table holds all
/// entries of the client's, at the same places, and maybe some older ones. An
/// `:authority` whose *name* refers to the dynamic table goes unseen; clients
/// have no reason to do that, for the static table holds that name at 1.
#[derive(Debug)]
pub struct Filter {
    state: State,
    /// The beginning of a frame that is not given on yet.
    held: Vec<u8>,
    /// Whether an authority was rewritten before.
    has_rewritten: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// So many bytes were those of the preface.
    Preface(usize),
    /// The header of a frame is being held.
    FrameHeader,
    /// A HEADERS frame of so many bytes, header and all, is being held.
    Headers(usize),
    /// So many bytes of a frame are of no interest.
    Payload(usize),
    /// Nothing is of interest.
    Open,
}

impl Default for Filter {
    fn default() -> Self {
        Self { state: State::Preface(0), held: Vec::new(), has_rewritten: false }
    }
}

impl Filter {
    /// Whether everything passes unchanged from here on: nothing is held back,
    /// and there is no need to call [`Filter::feed`] again.
    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Takes the next bytes and appends to `output` what may go on.
    pub fn feed(&mut self, mut input: &[u8], output: &mut BytesMut) {
        while !input.is_empty() {
            let taken = match self.state {
                State::Preface(seen) => self.preface(seen, input, output),
                State::FrameHeader => self.frame_header(input, output),
                State::Headers(size) => self.headers(size, input, output),
                State::Payload(left) => self.payload(left, input, output),
                State::Open => {
                    output.put_slice(input);
                    input.len()
                }
            };
            input = &input[taken..];
        }
    }

    /// Gives on what is held back: the client will say no more.
    pub fn finish(&mut self, output: &mut BytesMut) {
        output.put_slice(&self.held);
        self.open();
    }

    /// As the other steps below: does its part of `input`, and says how many
    /// bytes that was. It is none only when the state changed.
    fn preface(&mut self, seen: usize, input: &[u8], output: &mut BytesMut) -> usize {
        let wanted = &PREFACE[seen..];
        let same = input.iter().zip(wanted).take_while(|(is, want)| is == want).count();
        output.put_slice(&input[..same]);
        self.state = if same == wanted.len() {
            State::FrameHeader
        } else if same < input.len() {
            State::Open
        } else {
            State::Preface(seen + same)
        };
        same
    }

    fn frame_header(&mut self, input: &[u8], output: &mut BytesMut) -> usize {
        let taken = self.hold(FRAME_HEADER_BYTES, input);
        let &[a, b, c, kind, flags, ..] = &self.held[..] else { return taken };
        if self.held.len() < FRAME_HEADER_BYTES {
            return taken;
        }
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        let is_whole = kind == HEADERS && flags & END_HEADERS != 0;
        if is_whole && (1..=MAX_HEADERS_BYTES - FRAME_HEADER_BYTES).contains(&length) {
            self.state = State::Headers(FRAME_HEADER_BYTES + length);
        } else {
            output.put_slice(&self.held);
            self.held.clear();
            self.state = State::Payload(length);
        }
        taken
    }

    fn headers(&mut self, size: usize, input: &[u8], output: &mut BytesMut) -> usize {
        let taken = self.hold(size, input);
        if self.held.len() < size {
            return taken;
        }
        let rewritten = rewrite(&self.held);
        output.put_slice(rewritten.as_ref().unwrap_or(&self.held));
        self.has_rewritten |= rewritten.is_some();
        if self.has_rewritten {
            self.held.clear();
            self.state = State::FrameHeader;
        } else {
            self.open();
        }
        taken
    }

    fn payload(&mut self, left: usize, input: &[u8], output: &mut BytesMut) -> usize {
        let taken = left.min(input.len());
        output.put_slice(&input[..taken]);
        self.state = if taken == left { State::FrameHeader } else { State::Payload(left - taken) };
        taken
    }

    /// Holds back what is missing to `size` bytes; how many of `input` that is.
    fn hold(&mut self, size: usize, input: &[u8]) -> usize {
        let taken = input.len().min(size - self.held.len());
        self.held.extend_from_slice(&input[..taken]);
        taken
    }

    fn open(&mut self) {
        self.state = State::Open;
        // Not only emptied: the memory is never needed again.
        self.held = Vec::new();
    }
}

/// A HEADERS frame with bare authorities; `None` when it may stay as it is.
fn rewrite(frame: &[u8]) -> Option<Vec<u8>> {
    let (header, payload) = frame.split_at_checked(FRAME_HEADER_BYTES)?;
    let flags = header[4];
    let (mut start, mut padding) = (0, 0);
    if flags & PADDED != 0 {
        padding = usize::from(*payload.first()?);
        start += 1;
    }
    if flags & PRIORITY != 0 {
        start += PRIORITY_BYTES;
    }
    let end = payload.len().checked_sub(padding)?;
    let block = hpack::with_bare_authority(payload.get(start..end)?)?;
    let length = start + block.len() + padding;
    // A string grows by at most 8/5 when its compression is undone, so that
    // this cannot fail below 64 KiB.
    let [0, length @ ..] = u32::try_from(length).ok()?.to_be_bytes() else { return None };
    Some([&length, &header[3..], &payload[..start], &block, &payload[end..]].concat())
}
