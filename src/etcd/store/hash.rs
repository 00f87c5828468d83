//! A checksum by which members find out that they disagree.

use crate::keys::{self, Kind};
use crate::range;
use crate::record::Head;
use crate::view::View;
use crate::walk::{self, NEWEST};
use proa_etcd_api::EtcdError;

/// CRC-32C over all that is readable from the compact revision to `revision`
/// (0 or less: the newest).
///
/// Only what can be read counts, not what waits for [`crate::scrub`]: members
/// that compacted to the same revision agree, however far they scrubbed. The
/// number is not etcd's, whose storage is hashed as etcd stores it. Walks
/// over everything.
///
/// # Errors
/// [`EtcdError::Compacted`], [`EtcdError::FutureRevision`].
///
/// # Panics
/// If the view holds an entry that this crate did not write.
pub fn hash_kv(view: &dyn View, head: Head, revision: i64) -> Result<u32, EtcdError> {
    let at = match range::readable(head, revision)? {
        NEWEST => head.revision,
        at => at,
    };
    let mut hash = 0;
    let mut settled = Vec::new();
    for (key, stored) in view.scan(b"K", keys::VERSIONS_END) {
        let (prefix, place, kind) = walk::split_version(&key);
        let below = place.main < head.compact_revision;
        if place.main > at || (below && prefix == settled) {
            continue;
        }
        // Changes of the compact revision itself are all kept; of those below
        // it only what was visible then.
        if place.main <= head.compact_revision {
            settled.clear();
            settled.extend_from_slice(prefix);
        }
        if below && kind == Kind::Tombstone {
            continue;
        }
        // Where a value lies is a member's own matter: as if all lay with their version.
        hash = crc32c::crc32c_append(hash, &key[..key.len() - 1]);
        hash = crc32c::crc32c_append(hash, &[u8::from(kind == Kind::Tombstone)]);
        hash = crc32c::crc32c_append(hash, &stored);
        if kind == Kind::PutApart {
            let value = view.get(&keys::apart(place)).expect(walk::READABLE);
            hash = crc32c::crc32c_append(hash, &value);
        }
    }
    Ok(hash)
}
