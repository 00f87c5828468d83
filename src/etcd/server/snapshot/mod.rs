//! Snapshot files of etcd: sent by a member, looked at, made into a data dir; and
//! copies of data dirs.
//!
//! The file is a bbolt database and behind it the SHA-256 of that.

mod backup;
mod file;
mod restore;
mod send;
mod whole;

pub use backup::backup;
pub use file::{Hash, Snapshot, SnapshotError};
pub use proa_etcd_store::snapshot::{Carried, Past};
pub use restore::{Restore, restore};
pub use send::{GoesOn, send};
