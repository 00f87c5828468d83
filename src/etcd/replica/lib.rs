//! One raft member without I/O: inputs are stepped in, output is polled out.
//!
//! [`Replica`] wraps raft-rs and closes its pitfalls; [`founding`] decides how
//! machines with one command line become one cluster.
//!
//! Caller's duties:
//! 1. Call [`Replica::poll`] after every batch of inputs and do all it returns.
//! 2. Send [`Output::send`] at once, in order; each is safe to lose.
//! 3. Perform [`Output::writes`] in order and give each number back to
//!    [`Replica::persisted`] only after an fsync that covers it. If the fsync
//!    fails, abort: there is no input for a write that did not happen.
//! 4. Apply [`Output::committed`] in order, exactly once, and report the last
//!    index to [`Replica::applied`] after it is readable.
//! 5. Call [`Replica::tick`] once per heartbeat interval.
//! 6. Report every snapshot that was asked for, sent or failed, to
//!    [`Replica::snapshot_sent`], else its follower stays behind for ever.

mod cache;
mod change;
mod config;
pub mod founding;
pub mod ids;
mod input;
mod output;
mod reads;
mod replica;

pub use cache::Position;
pub use change::{BadConfChange, decode_conf_change, encode_conf_change};
pub use config::{Config, Start, StartError};
pub use founding::Founded;
pub use input::{Broken, Dropped};
pub use output::{Output, ProposeError, Role, SnapshotWanted, Standing, Write};
pub use reads::ReadReady;
pub use replica::{Replica, snapshot_message};

/// The raft protocol's own records, as every part of the store uses them.
pub use raft::eraftpb;
