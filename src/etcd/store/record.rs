//! What the stored values look like inside.

use crate::keys::{self, Kind, Place};
use crate::view::Entry;
use bytes::Bytes;
use prost::encoding::{decode_varint, encode_varint};

/// A value of so many bytes or more lies apart from its version. Who walks over keys then
/// passes over some tens of bytes for each: a database reads a whole block for what
/// does not fit in one. It costs a second look-up to read such a value.
pub(crate) const APART_BYTES: usize = 4 << 10;

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
        [self.revision.to_be_bytes(), self.compact_revision.to_be_bytes()].concat()
    }

    pub(crate) fn decode(stored: &[u8]) -> Option<Self> {
        let (revision, compact_revision) = stored.split_at_checked(8)?;
        Some(Self {
            revision: i64::from_be_bytes(revision.try_into().ok()?),
            compact_revision: i64::from_be_bytes(compact_revision.try_into().ok()?),
        })
    }
}
