//! Walks a header block in its compressed form (HPACK, RFC 7541).
//!
//! Nothing is decompressed but the name and the value of an `:authority`:
//! representations are of known lengths, and only one of them is looked for.

use super::huffman;

/// `:authority` in the static table. Source: RFC 7541, appendix A.
const AUTHORITY_INDEX: usize = 1;
const AUTHORITY: &[u8] = b":authority";
/// The authority of whoever dials a unix socket, who says its path or `unix://` URL:
/// any will do, and this one is not longer than a path.
const OF_A_SOCKET: &[u8] = b"-";
/// Set in the first byte of a string that is Huffman-coded.
const HUFFMAN: u8 = 0x80;

/// The header block with each `:authority` that is a URL of scheme `http` or
/// `https` replaced by that URL's authority, sent as it is, and one with any other
/// `/` in it by [`OF_A_SOCKET`]; `None` when there is none, or the block is malformed.
///
/// For example `01 8f <http://[::1]:2379, Huffman-coded>` becomes
/// `01 0a [::1]:2379`.
pub fn with_bare_authority(block: &[u8]) -> Option<Vec<u8>> {
    let mut walk = Walk { rest: block };
    let mut made = Vec::new();
    // What of `block` is in `made`, in its new form.
    let mut done = 0;
    while let Some(&first) = walk.rest.first() {
        // Source: RFC 7541, sections 6.1 to 6.3.
        let index_bits = match first {
            // A field of the table as a whole.
            0x80.. => {
                walk.integer(7)?;
                continue;
            }
            // Another size of the table.
            0x20..0x40 => {
                walk.integer(5)?;
                continue;
            }
            // A literal that enters the table.
            0x40..0x80 => 6,
            // One that does not, or must not.
            0x00..0x20 => 4,
        };
        let is_authority = match walk.integer(index_bits)? {
            0 => walk.string()?.plain().is_some_and(|name| name == AUTHORITY),
            index => index == AUTHORITY_INDEX,
        };
        let before = block.len() - walk.rest.len();
        let value = walk.string()?;
        if !is_authority {
            continue;
        }
        let Some(value) = value.plain() else { continue };
        if let Some(bare) = authority(&value) {
            made.extend_from_slice(&block[done..before]);
            put_string(bare, &mut made);
            done = block.len() - walk.rest.len();
        }
    }
    made.extend_from_slice(&block[done..]);
    (done > 0).then_some(made)
}

/// `HOST:PORT` of `http://HOST:PORT/...`. Source: RFC 3986, section 3.2.
fn authority(url: &[u8]) -> Option<&[u8]> {
    let Some(rest) = url.strip_prefix(b"http://").or_else(|| url.strip_prefix(b"https://")) else {
        return url.contains(&b'/').then_some(OF_A_SOCKET);
    };
    let bare = rest.split(|byte| matches!(byte, b'/' | b'?' | b'#')).next()?;
    (!bare.is_empty()).then_some(bare)
}

/// Appends a string that is not Huffman-coded.
fn put_string(text: &[u8], block: &mut Vec<u8>) {
    const PREFIX: usize = 0x7f;
    if text.len() < PREFIX {
        block.push(text.len() as u8);
    } else {
        block.push(PREFIX as u8);
        let mut rest = text.len() - PREFIX;
        while rest >= 0x80 {
            block.push(rest as u8 & 0x7f | 0x80);
            rest >>= 7;
        }
        block.push(rest as u8);
    }
    block.extend_from_slice(text);
}

/// What is left of a block. Each step gives `None` when the block ends within
/// what it should read.
struct Walk<'a> {
    rest: &'a [u8],
}

/// A string as it stands in a block.
struct Text<'a> {
    is_huffman: bool,
    bytes: &'a [u8],
}

impl Text<'_> {
    fn plain(&self) -> Option<Vec<u8>> {
        if self.is_huffman { huffman::decode(self.bytes) } else { Some(self.bytes.to_vec()) }
    }
}

impl<'a> Walk<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(first)
    }

    /// An integer that begins in the low `bits` of a byte; `None` as well when
    /// it has over 28 bits more. Source: RFC 7541, section 5.1.
    fn integer(&mut self, bits: u32) -> Option<usize> {
        let most = (1 << bits) - 1;
        let mut value = usize::from(self.byte()?) & most;
        if value < most {
            return Some(value);
        }
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// Source: RFC 7541, section 5.2.
    fn string(&mut self) -> Option<Text<'a>> {
        let is_huffman = self.rest.first()? & HUFFMAN != 0;
        let length = self.integer(7)?;
        let (bytes, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(Text { is_huffman, bytes })
    }
}
