//! From a view to what a new cluster takes over of it, as it is stored.

use crate::keys;
use crate::v2;
use crate::view::{Entry, View};

/// How much of a state goes into another cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carried {
    /// The v2 tree with its history, users and roles.
    V2,
    /// Everything but members, alarms and raft's position: those of a new
    /// cluster are its own.
    All,
}

/// The entries of `view` that a new store is filled with, ascending.
pub fn carried(view: &dyn View, what: Carried) -> impl Iterator<Item = Entry> {
    let ranges: &[(&[u8], &[u8])] = match what {
        Carried::V2 => &[(v2::ALL, v2::ALL_END)],
        Carried::All => &[(b"", b"M"), (keys::STORE, keys::STORE_END), (b"N", &[0xFF])],
    };
    ranges.iter().flat_map(move |(from, end)| view.scan(from, end))
}
