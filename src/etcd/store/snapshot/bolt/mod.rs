//! The file format of bbolt, version 2: as much of it as a snapshot needs.
//!
//! A file is an array of pages. Page 0 and 1 are meta pages, of which the one
//! with the higher transaction id counts; it names the root bucket. A bucket is
//! a B+tree of pages: leaf pages hold its entries by ascending key, branch
//! pages the first key and the id of each page below. An entry of the root
//! bucket is a bucket: its value names the root page, or, when that is 0, holds
//! a small leaf page itself. A page that is too small for what it holds goes on
//! in the pages behind it. Numbers are little-endian.
//!
//! Source: bbolt's `page.go`, `db.go` (`meta`) and `bucket.go`.

mod read;
mod write;

pub use read::{BadFile, Bolt, Bytes, Summary, Take};
pub use write::{BucketWriter, Layout, Stopped, Writer};

/// Size of the pages that are written: that of the machines etcd is built for.
pub const PAGE_BYTES: usize = 4096;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const META: u16 = 0x04;
const FREELIST: u16 = 0x10;
/// The flag of a leaf entry that is a bucket.
const IS_BUCKET: u32 = 1;
/// Page id, flags, count, overflow.
const HEADER_BYTES: usize = 16;
/// Of a leaf: flags, place, key and value length. Of a branch: place, key
/// length, page id.
const ELEMENT_BYTES: usize = 16;
/// Root page and sequence number of a bucket.
const BUCKET_BYTES: usize = 16;
/// What the checksum of a meta page covers.
const META_BYTES: usize = 56;

/// FNV-1a with 64 bits.
fn checksum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}
