//! Snapshot files of etcd: sent by a member, looked at, made into a data dir.
//!
//! The file is a bbolt database and behind it the SHA-256 of that.

mod file;
mod restore;
mod send;
mod whole;

pub use file::{Hash, Snapshot, SnapshotError};
pub use proa_etcd_store::snapshot::Past;
pub use restore::{Restore, restore};
pub use send::{GoesOn, send};
