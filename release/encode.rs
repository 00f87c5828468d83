//! How the bytes of one span travel: compressed, as a difference, or as they are,
//! whichever is the smallest.

use crate::{
    error::Error,
    matches::{Old, Piece},
};
use proa_update_model::payload::{apply::PIECES_MAX, manifest::Kind};
use std::ops::RangeInclusive;
use zstd::{bulk::Compressor, zstd_safe::CParameter};

/// The level of what is published, the slowest that does without tricks of memory: an
/// image takes some twenty seconds, and is made once and fetched by every machine.
pub const LEVEL: i32 = 19;

/// The levels that can be asked for; beyond them zstd would silently take the nearest.
pub const LEVELS: RangeInclusive<i32> = 1..=LEVEL;

/// 2^20 bytes: what a machine sets aside to unpack, and what one operation writes.
const WINDOW_LOG: u32 = 20;

/// The data of one operation, and what it means.
#[derive(Debug, PartialEq, Eq)]
pub struct Encoded {
    /// `Replace`, `ReplaceZstd` or `SourceZstdDiff`.
    pub kind: Kind,
    /// The data.
    pub data: Vec<u8>,
}

/// One worker's compressor.
pub struct Encoder(Compressor<'static>);

impl Encoder {
    /// A compressor of one of [`LEVELS`] with our parameters.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn new(level: i32) -> Result<Self, Error> {
        let mut compressor = Compressor::new(level).map_err(Error::Compress)?;
        compressor.set_parameter(CParameter::WindowLog(WINDOW_LOG)).map_err(Error::Compress)?;
        Ok(Self(compressor))
    }

    /// The smallest form of `target`; `place` is where in the image it stands.
    ///
    /// # Errors
    /// When the compressor fails.
    pub fn encode(&mut self, target: &[u8], old: Option<&Old>, place: usize) -> Result<Encoded, Error> {
        let mut best = Encoded { kind: Kind::Replace, data: target.to_vec() };
        let mut offer = |kind, data: Vec<u8>| {
            if data.len() < best.data.len() {
                best = Encoded { kind, data };
            }
        };
        offer(Kind::ReplaceZstd, self.compress(target)?);
        if let Some(old) = old {
            let pieces = old.pieces(target, place);
            if pieces.len() <= PIECES_MAX {
                offer(Kind::SourceZstdDiff, self.compress(&difference(old.bytes(), target, &pieces))?);
            }
        }
        Ok(best)
    }

    fn compress(&mut self, bytes: &[u8]) -> Result<Vec<u8>, Error> {
        self.0.compress(bytes).map_err(Error::Compress)
    }
}

/// The stream that `SOURCE_ZSTDIFF` compresses: the number of pieces, the pieces, all
/// differences, all new bytes. Kept apart, each kind compresses best.
fn difference(old: &[u8], target: &[u8], pieces: &[Piece]) -> Vec<u8> {
    let word = |value: usize| u32::try_from(value).expect("no longer than an operation").to_le_bytes();
    let mut head = Vec::from(word(pieces.len()));
    let (mut differences, mut inserted) = (Vec::new(), Vec::new());
    let mut at = 0;
    for piece in pieces {
        head.extend_from_slice(&(piece.source as u64).to_le_bytes());
        head.extend_from_slice(&word(piece.add));
        head.extend_from_slice(&word(piece.insert));
        let (added, new) = target[at..at + piece.add + piece.insert].split_at(piece.add);
        let like = &old[piece.source..piece.source + piece.add];
        differences.extend(added.iter().zip(like).map(|(new, old)| new.wrapping_sub(*old)));
        inserted.extend_from_slice(new);
        at += piece.add + piece.insert;
    }
    [head, differences, inserted].concat()
}
