//! What the stored values look like inside.

use crate::keys::{self, Kind, Place};
use crate::view::Entry;
use bytes::Bytes;
use prost::encoding::{decode_varint, encode_varint};

/// A value of so many bytes or more lies apart from its version. Who walks over keys then
/// passes over some tens of bytes for each: a database reads a whole block for what
/// does not fit in one. It costs a second look-up to read such a value.
pub(crate) const APART_BYTES: usize = 4 << 10;

/// How the entries of a store are laid out. Each change says so in the head that it
/// stores, so a version that does not know the layout refuses the store at its start
/// instead of coming upon an entry that it cannot read.
///
/// | format | new in it |
/// |---|---|
/// | 1 | heads without a number |
/// | 2 | values that lie apart: [`APART_BYTES`] |
const FORMAT: u8 = 2;

/// What a version of a key says, next to the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Revision of the put that created the key.
    pub create_revision: i64,
    /// Number of puts since.
    pub version: i64,
    /// The attached lease, 0 for none.
    pub lease: i64,
    /// The value; empty if it lies apart.
    pub value: Bytes,
}

impl Record {
    /// The entries that this is stored as, the one under `R` among them, if it says
    /// at `place` what `key` is.
    pub fn entries(mut self, key: &[u8], place: Place) -> impl Iterator<Item = Entry> {
        let (kind, apart) = if self.value.len() < APART_BYTES {
            (Kind::Put, None)
        } else {
            (Kind::PutApart, Some((keys::apart(place), std::mem::take(&mut self.value).to_vec())))
        };
        let version = (keys::version(key, place, kind), self.encode());
        let change = (keys::change(place), keys::change_value(kind, key));
        [version, change].into_iter().chain(apart)
    }

    /// The bytes to store.
    pub fn encode(&self) -> Vec<u8> {
        // Three varints of usually 1 to 5 bytes; leases take 9.
        let mut out = Vec::with_capacity(20 + self.value.len());
        encode_varint(self.create_revision as u64, &mut out);
        encode_varint(self.version as u64, &mut out);
        encode_varint(self.lease as u64, &mut out);
        out.extend_from_slice(&self.value);
        out
    }

    /// Reads stored bytes; `None` if they are not a record.
    pub fn decode(stored: Vec<u8>) -> Option<Self> {
        let mut rest = Bytes::from(stored);
        Some(Self {
            create_revision: decode_varint(&mut rest).ok()? as i64,
            version: decode_varint(&mut rest).ok()? as i64,
            lease: decode_varint(&mut rest).ok()? as i64,
            value: rest,
        })
    }
}

/// The entries that the deletion of `key` at `place` is stored as.
pub(crate) fn tombstone(key: &[u8], place: Place) -> [Entry; 2] {
    let version = (keys::version(key, place, Kind::Tombstone), Vec::new());
    [version, (keys::change(place), keys::change_value(Kind::Tombstone, key))]
}

/// What is stored of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseRecord {
    /// Seconds it was granted for.
    pub granted_ttl: i64,
    /// Seconds it had left at its last checkpoint; 0 means none was taken
    /// and it has the granted time.
    pub remaining_ttl: i64,
}

impl LeaseRecord {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(10);
        encode_varint(self.granted_ttl as u64, &mut out);
        encode_varint(self.remaining_ttl as u64, &mut out);
        out
    }

    pub(crate) fn decode(mut stored: &[u8]) -> Option<Self> {
        let granted_ttl = decode_varint(&mut stored).ok()? as i64;
        let remaining_ttl = decode_varint(&mut stored).ok()? as i64;
        stored.is_empty().then_some(Self { granted_ttl, remaining_ttl })
    }
}

/// How far the store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The newest revision; 1 in an empty store.
    pub revision: i64,
    /// The oldest revision that can be read; -1 until the first compaction.
    pub compact_revision: i64,
}

impl Head {
    /// The head of an empty store.
    pub const EMPTY: Head = Head { revision: 1, compact_revision: -1 };

    pub(crate) fn encode(self) -> Vec<u8> {
        let numbers = [self.revision, self.compact_revision].map(i64::to_be_bytes);
        [numbers.as_flattened(), &[FORMAT]].concat()
    }

    /// Reads a stored head.
    ///
    /// # Errors
    /// What it is instead of a head of this format or an earlier one.
    pub(crate) fn decode(stored: &[u8]) -> Result<Self, &'static str> {
        match stored.as_chunks() {
            (&[revision, compact_revision], [] | [..=FORMAT]) => Ok(Self {
                revision: i64::from_be_bytes(revision),
                compact_revision: i64::from_be_bytes(compact_revision),
            }),
            ([_, _, ..], _) => Err("head (a later version wrote it)"),
            _ => Err("head"),
        }
    }
}
