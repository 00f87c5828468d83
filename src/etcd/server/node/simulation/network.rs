//! A network of ordered streams that stall, break and are dialed again.
//!
//! As TCP: within one connection nothing is lost or doubled, but what is under
//! way when it breaks is. As the peers' own queues: urgent frames may overtake
//! bulk. What a cut holds up arrives when it heals, if nobody hung up.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use proa_etcd_replica::eraftpb::Message;

use crate::node::outbox::Outbox;
use crate::peer::frame::Frame;

/// A frame on its way.
#[derive(Clone, Debug)]
pub(super) struct Parcel {
    pub(super) bytes: Bytes,
    pub(super) urgent: bool,
}

#[derive(Default)]
pub(super) struct Outgoing {
    pub(super) members: BTreeSet<u64>,
    pub(super) removed: BTreeSet<u64>,
    pub(super) connected: BTreeSet<u64>,
    pub(super) parcels: Vec<(u64, Parcel)>,
    pub(super) snapshots: Vec<(Message, PathBuf)>,
}

/// What a member's threads see of the network.
#[derive(Default)]
pub(super) struct SimOutbox(Mutex<Outgoing>);

impl SimOutbox {
    pub(super) fn lock(&self) -> MutexGuard<'_, Outgoing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outbox for SimOutbox {
    fn send(&self, to: u64, frame: &Frame) -> bool {
        let mut outgoing = self.lock();
        if !outgoing.connected.contains(&to) || !outgoing.members.contains(&to) {
            return false;
        }
        let mut bytes = Vec::with_capacity(64);
        frame.encode(&mut bytes);
        let parcel = Parcel { bytes: Bytes::from(bytes).split_off(4), urgent: frame.is_urgent() };
        outgoing.parcels.push((to, parcel));
        true
    }

    fn send_snapshot(&self, message: Message, folder: PathBuf) {
        self.lock().snapshots.push((message, folder));
    }

    fn set_members(&self, members: &BTreeMap<u64, Vec<String>>) {
        let mut outgoing = self.lock();
        outgoing.members = members.keys().copied().collect();
        let Outgoing { members, connected, .. } = &mut *outgoing;
        connected.retain(|id| members.contains(id));
    }

    fn set_removed(&self, removed: &[u64]) {
        self.lock().removed.extend(removed);
    }
}

/// The connection that one machine dialed to another.
#[derive(Debug, Default)]
pub(super) struct Link {
    pub(super) is_up: bool,
    /// Counts connections: what belongs to an earlier one is dropped.
    pub(super) epoch: u64,
    /// Nothing gets through for now.
    pub(super) is_cut: bool,
    /// Longest time a frame takes, in microseconds.
    pub(super) delay_us: u64,
    /// When the last frame arrives: bulk, urgent.
    last: [u64; 2],
    pub(super) held: VecDeque<Parcel>,
}

impl Link {
    /// When a frame that is sent now arrives.
    pub(super) fn arrival(&mut self, now: u64, took_us: u64, urgent: bool) -> u64 {
        let last = &mut self.last[usize::from(urgent)];
        *last = (now + took_us).max(*last + 1);
        *last
    }

    /// The connection is gone with all that is under way.
    pub(super) fn drop_connection(&mut self) {
        self.is_up = false;
        self.epoch += 1;
        self.last = [0; 2];
        self.held.clear();
    }
}
