//! A whole cluster on one thread, in virtual time, from one seed.
//!
//! What runs is production: the raft thread's turns, the log writer with its
//! log, the applier, the store, the peers' frames. What is simulated is what
//! they stand on: a disk that loses and tears what was not synced, a database
//! that loses what was not flushed, a network that stalls and breaks, clocks
//! that differ, machines that crash, members that come and go. While clients
//! and watchers use the cluster, laws are held at every step: one leader a
//! term, one entry an index, one state an index. At the end all members agree,
//! and what clients and watchers saw must be what one store could have shown
//! ([`history`], [`watching`]).
//!
//! A run is a pure function of its [`plan::Plan`], which is drawn from a seed.
//! A failure prints its seed, and what is left of the plan when everything is
//! left out that the failure does not need:
//!
//! ```text
//! PROA_SEED=4711 cargo test -p proa-etcd-server --lib simulation::one_seed -- --nocapture
//! ```
#![allow(clippy::expect_used, reason = "a test that cannot go on says so")]

mod admin;
mod clients;
mod database;
mod disk;
mod faults;
mod history;
mod network;
mod plan;
mod process;
mod queue;
mod random;
mod runs;
mod traffic;
mod watching;
mod world;

use plan::Scale;

/// A bug that is put in to see that it is found. None of them exists outside
/// of this module: each is a lie of what production code stands on, and has
/// the effect that the bug in production code would have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Planted {
    /// The log says that a write is on the disk before it is.
    AckBeforeFsync,
    /// The applied index is not in the batch of the data it belongs to.
    IndexApartFromData,
    /// All attempts of a follower to read have one context.
    ReadContextReused,
    /// A recovery that cuts a torn batch cuts the whole one before it as well.
    TornTailCutTooFar,
    /// A membership change is applied again after a crash.
    ConfChangeTwice,
}

/// What a run came to.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    steps: u64,
    messages: u64,
    crashes: u64,
    cuts: u64,
    snapshots: u64,
    changes: u64,
    answers: u64,
    unknown: u64,
    watched: u64,
    virtual_us: u64,
}

impl Counts {
    fn add(&mut self, other: &Self) {
        let pairs = [
            (&mut self.steps, other.steps),
            (&mut self.messages, other.messages),
            (&mut self.crashes, other.crashes),
            (&mut self.cuts, other.cuts),
            (&mut self.snapshots, other.snapshots),
            (&mut self.changes, other.changes),
            (&mut self.answers, other.answers),
            (&mut self.unknown, other.unknown),
            (&mut self.watched, other.watched),
            (&mut self.virtual_us, other.virtual_us),
        ];
        pairs.into_iter().for_each(|(sum, more)| *sum += more);
    }
}
