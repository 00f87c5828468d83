//! Snapshots in etcd's own file format, so that users can come from etcd and
//! go back.
//!
//! The file is a bbolt database with the buckets of etcd 3.5; who stores it
//! appends the SHA-256 of all of it. [`bolt`] knows the pages, `export` writes
//! a view into buckets, `import` reads buckets into a new store. The v2 tree
//! has no place in etcd's database (etcd keeps it in the `.snap` files beside),
//! so it travels in a bucket of our own, [`V2_BUCKET`], which etcd carries
//! along without looking at it.

pub mod bolt;
mod carry;
mod export;
mod import;
mod messages;
#[cfg(test)]
mod tests;

pub use carry::{Carried, carried};
pub use export::{ExportError, Stamp, plan, write};
pub use import::{Imported, Past, attach_leases, import};

/// The bucket with the v2 tree: our stored keys and values as they are.
pub const V2_BUCKET: &str = "proa_v2";

/// Where in the `key` bucket a change lies: `main _ sub`, and a `t` behind for
/// a deletion.
///
/// Source: etcd's `revToBytes`.
fn revision_key(place: crate::keys::Place, kind: crate::keys::Kind) -> Vec<u8> {
    let mut out = Vec::with_capacity(18);
    out.extend_from_slice(&place.main.to_be_bytes());
    out.push(b'_');
    out.extend_from_slice(&u64::from(place.sub).to_be_bytes());
    if kind == crate::keys::Kind::Tombstone {
        out.push(b't');
    }
    out
}

/// The place and kind of such a key.
fn split_revision_key(key: &[u8]) -> Option<(crate::keys::Place, crate::keys::Kind)> {
    use crate::keys::{Kind, Place};
    let (place, kind) = match key.len() {
        17 => (key, Kind::Put),
        18 => (key.strip_suffix(b"t")?, Kind::Tombstone),
        _ => return None,
    };
    let (main, sub) = place.split_at_checked(8)?;
    let sub = u64::from_be_bytes(sub.strip_prefix(b"_")?.try_into().ok()?);
    let main = i64::from_be_bytes(main.try_into().ok()?);
    (main > 0).then_some(())?;
    Some((Place { main, sub: u32::try_from(sub).ok()? }, kind))
}
