//! What the member's threads need of the connections to its peers.

use std::collections::BTreeMap;
use std::path::PathBuf;

use proa_etcd_replica::eraftpb::Message;

use crate::peer::Peers;
use crate::peer::frame::Frame;

/// The way to the other members. Behind a trait so that the simulation can put
/// its own network there; a call through it is nothing beside the lock inside.
pub(super) trait Outbox: Send + Sync {
    /// See [`Peers::send`].
    fn send(&self, to: u64, frame: &Frame) -> bool;

    /// See [`Peers::send_snapshot`].
    fn send_snapshot(&self, message: Message, folder: PathBuf);

    /// See [`Peers::set_members`].
    fn set_members(&self, members: &BTreeMap<u64, Vec<String>>);

    /// See [`Peers::set_removed`].
    fn set_removed(&self, removed: &[u64]);
}

impl Outbox for Peers {
    fn send(&self, to: u64, frame: &Frame) -> bool {
        Peers::send(self, to, frame)
    }

    fn send_snapshot(&self, message: Message, folder: PathBuf) {
        Peers::send_snapshot(self, message, folder);
    }

    fn set_members(&self, members: &BTreeMap<u64, Vec<String>>) {
        Peers::set_members(self, members);
    }

    fn set_removed(&self, removed: &[u64]) {
        Peers::set_removed(self, removed.iter().copied());
    }
}
