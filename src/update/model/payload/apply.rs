//! The bytes that an operation writes.

use super::{OPERATION_BYTES_MAX, Operation, manifest::Kind};
use std::{io, ops::Range};

/// Most pieces of one difference: with all the bytes they describe the unpacked
/// stream stays below 2 MiB.
pub const PIECES_MAX: usize = 65_535;

/// Bytes of one piece in the stream.
const PIECE_BYTES: usize = 16;

/// Most bytes of the stream of a difference.
const STREAM_BYTES_MAX: usize = 4 + PIECES_MAX * PIECE_BYTES + OPERATION_BYTES_MAX;

/// Reads the old system: fills the buffer with the bytes at this offset.
pub type Source<'a> = dyn FnMut(u64, &mut [u8]) -> io::Result<()> + 'a;

/// Why an operation has no result.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Its data is signed and makes no sense.
    #[error("bad data: {0}")]
    Data(&'static str),
    /// Its data does not unpack.
    #[error("the data does not unpack")]
    Zstd(#[source] io::Error),
    /// The old system could not be read.
    #[error("reading {} bytes at {} of the old system", range.end - range.start, range.start)]
    Source {
        /// What was to be read.
        range: Range<u64>,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// The bytes that `operation` writes, exactly [`Operation::target_bytes`] of them.
///
/// `data` is what the reader gave out for it. The data of a
/// [`Kind::SourceZstdDiff`] is one zstd frame of this stream, all numbers
/// little-endian:
///
/// ```text
/// u32 number of pieces
/// per piece: u64 place in the old system, u32 bytes to add, u32 bytes to insert
/// all bytes to add, piece by piece
/// all bytes to insert, piece by piece
/// ```
///
/// Each piece makes first as many bytes as it adds (the old system's byte plus
/// the byte to add, modulo 256) and then as many as it inserts.
///
/// Worked example: the old system is `abcdef`, the pieces are (1, 2, 1) and
/// (0, 1, 0), to add is `0 1 0`, to insert is `X`: that makes `bdXa`.
///
/// Memory: the result, at most 1 MiB, and for a difference at most 2 MiB more.
///
/// # Errors
/// [`Failure`] when the data makes more or fewer bytes than the operation
/// writes, reads beyond the old system, or `source` fails.
pub fn render(operation: &Operation, data: &[u8], source: &mut Source<'_>) -> Result<Vec<u8>, Failure> {
    let mut target = vec![0; operation.target_bytes];
    Renderer::default().render_into(&mut target, operation, data, source)?;
    Ok(target)
}

/// Makes the bytes of one operation after the other.
///
/// It keeps what it unpacks with and into: new memory for each operation has to be
/// made by the kernel, page by page.
#[derive(Default)]
pub struct Renderer {
    zstd: zstd::bulk::Decompressor<'static>,
    /// Room for the stream of a difference; empty until the first one.
    stream: Vec<u8>,
}

impl Renderer {
    /// Fills `target` as [`render`] makes it. After an error it holds anything.
    ///
    /// # Errors
    /// As [`render`].
    ///
    /// # Panics
    /// When `target` has not [`Operation::target_bytes`].
    pub fn render_into(
        &mut self,
        mut target: &mut [u8],
        operation: &Operation,
        data: &[u8],
        source: &mut Source<'_>,
    ) -> Result<(), Failure> {
        assert_eq!(target.len(), operation.target_bytes, "the room of another operation");
        match operation.kind {
            Kind::Zero => target.fill(0),
            Kind::Replace if data.len() == target.len() => target.copy_from_slice(data),
            Kind::Replace => return Err(Failure::Data("it has not the size of what is written")),
            Kind::ReplaceZstd => {
                if unpack(&mut self.zstd, data, target)? != target.len() {
                    return Err(Failure::Data("it unpacks to fewer bytes than are written"));
                }
            }
            Kind::SourceCopy => {
                for range in &operation.source {
                    let bytes = (range.end - range.start) as usize;
                    let Some((part, later)) = target.split_at_mut_checked(bytes) else {
                        return Err(Failure::Data("its sources are more than it writes"));
                    };
                    read(source, operation, range.start, part)?;
                    target = later;
                }
                if !target.is_empty() {
                    return Err(Failure::Data("its sources are less than it writes"));
                }
            }
            Kind::SourceZstdDiff => {
                let Self { zstd, stream } = self;
                if stream.is_empty() {
                    // Of what is not used the system makes no memory.
                    *stream = vec![0; STREAM_BYTES_MAX];
                }
                let bytes = unpack(zstd, data, stream)?;
                patch(operation, &stream[..bytes], target, source)?;
            }
        }
        Ok(())
    }
}

/// Unpacks the one frame that `data` is into `room`; gives the bytes it has.
///
/// In one go: `room` serves as the window, so a frame that claims a huge one
/// costs nothing, and one that holds more than `room` is refused. A skippable frame
/// unpacks to nothing, which is never as much as is needed.
fn unpack(
    zstd: &mut zstd::bulk::Decompressor<'static>,
    data: &[u8],
    room: &mut [u8],
) -> Result<usize, Failure> {
    match ::zstd::zstd_safe::find_frame_compressed_size(data) {
        Ok(bytes) if bytes == data.len() => {}
        Ok(_) | Err(_) => return Err(Failure::Data("it is not one whole zstd frame")),
    }
    zstd.decompress_to_buffer(data, room).map_err(Failure::Zstd)
}

fn read(source: &mut Source<'_>, operation: &Operation, offset: u64, into: &mut [u8]) -> Result<(), Failure> {
    if into.is_empty() {
        return Ok(());
    }
    let end = offset.checked_add(into.len() as u64).filter(|end| *end <= operation.source_limit_bytes);
    let Some(end) = end else { return Err(Failure::Data("it reads beyond the old system")) };
    source(offset, into).map_err(|source| Failure::Source { range: offset..end, source })
}

/// Makes `target` by the pieces of `stream`.
fn patch(
    operation: &Operation,
    stream: &[u8],
    target: &mut [u8],
    source: &mut Source<'_>,
) -> Result<(), Failure> {
    let too_short = Failure::Data("the difference ends early");
    let Some((count, rest)) = stream.split_first_chunk() else { return Err(too_short) };
    let pieces_bytes = (u32::from_le_bytes(*count) as usize).saturating_mul(PIECE_BYTES);
    let Some((pieces, bytes)) = rest.split_at_checked(pieces_bytes) else { return Err(too_short) };
    let pieces = pieces.as_chunks::<PIECE_BYTES>().0.iter().map(piece_of);
    let added = pieces.clone().map(|(_, add, _)| add).fold(0, usize::saturating_add);
    let Some((mut add_left, mut insert_left)) = bytes.split_at_checked(added) else { return Err(too_short) };

    let mut rest = target;
    for (offset, add, insert) in pieces {
        let parts = (add_left.split_at_checked(add), insert_left.split_at_checked(insert));
        let (Some((adds, add_later)), Some((inserts, insert_later))) = parts else { return Err(too_short) };
        let Some((now, later)) = rest.split_at_mut_checked(add.saturating_add(insert)) else {
            return Err(Failure::Data("the difference makes more than is written"));
        };
        let (old, new) = now.split_at_mut(add);
        read(source, operation, offset, old)?;
        for (byte, difference) in old.iter_mut().zip(adds) {
            *byte = byte.wrapping_add(*difference);
        }
        new.copy_from_slice(inserts);
        (rest, add_left, insert_left) = (later, add_later, insert_later);
    }
    if !rest.is_empty() || !insert_left.is_empty() {
        return Err(Failure::Data("the difference makes another number of bytes than is written"));
    }
    Ok(())
}

/// Place in the old system, bytes to add, bytes to insert.
fn piece_of(piece: &[u8; PIECE_BYTES]) -> (u64, usize, usize) {
    let word = |at: usize| u32::from_le_bytes([piece[at], piece[at + 1], piece[at + 2], piece[at + 3]]);
    let offset = u64::from(word(4)) << 32 | u64::from(word(0));
    (offset, word(8) as usize, word(12) as usize)
}
