//! From a view to the pieces that a client gets.

use proa_etcd_store::View;
use proa_etcd_store::snapshot::bolt::Stopped;
use proa_etcd_store::snapshot::{ExportError, Stamp, plan, write};
use sha2::{Digest, Sha256};

/// Bytes of a piece. Source: etcd's `snapshotSendBufferSize`.
const PIECE_BYTES: usize = 32 * 1024;

/// Whether a snapshot is still wanted.
pub type GoesOn<'a> = dyn Fn() -> bool + 'a;

/// Gives the snapshot of `view` to `take`, a piece at a time, each with the
/// number of bytes of the database behind it; last its checksum. Blocks.
///
/// # Errors
/// [`ExportError`]; `take` stops it, or `goes_on`.
pub fn send(
    view: &dyn View,
    stamp: &Stamp,
    goes_on: &GoesOn<'_>,
    take: &mut dyn FnMut(Vec<u8>, u64) -> Result<(), Stopped>,
) -> Result<(), ExportError> {
    let layout = plan(view, stamp, goes_on)?;
    let mut left = layout.size_bytes();
    let mut hash = Sha256::new();
    let mut piece = Vec::with_capacity(PIECE_BYTES);
    write(view, stamp, &layout, &mut |mut bytes| {
        if !goes_on() {
            return Err(Stopped);
        }
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(PIECE_BYTES - piece.len()));
            piece.extend_from_slice(now);
            bytes = later;
            if piece.len() == PIECE_BYTES {
                hash.update(&piece);
                left -= PIECE_BYTES as u64;
                take(std::mem::replace(&mut piece, Vec::with_capacity(PIECE_BYTES)), left)?;
            }
        }
        Ok(())
    })?;
    if !piece.is_empty() {
        hash.update(&piece);
        take(piece, 0)?;
    }
    Ok(take(hash.finalize().to_vec(), 0)?)
}
