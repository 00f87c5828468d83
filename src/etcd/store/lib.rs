//! The replicated state machine: MVCC, transactions, leases, watch history.
//!
//! Everything here is a pure function of the commands in the log. Data lies
//! in an ordered key space behind [`View`]; [`Machine::apply`] reads it and
//! puts what is to change into [`Writes`]. Answers, errors and revisions are
//! those of etcd 3.4 and 3.5 for the same requests.
//!
//! Caller's duties
//! 1. Propose only what [`check`] lets through, apply every committed command
//!    once, in the log's order.
//! 2. Store the `Writes` of a batch in one atomic write, together with the
//!    applied index (under [`RAFT_PREFIX`]); after a restart [`Machine::load`]
//!    the view and go on with the next entry.
//! 3. Hand a `View` and a [`Head`] of the same instant to [`range`],
//!    [`read_txn`], [`events`] and [`hash_kv`].
//! 4. Call [`scrub`] after compactions until it is done, and store its writes
//!    as they are; they are this member's own and not part of the log.
//! 5. Before reading, refuse while [`Machine::alarmed`] by corruption.
//! 6. Let nothing in that [`authorise`] does not, and apply what clients want
//!    by [`Machine::apply_proposal`].

mod alarms;
pub mod auth;
mod check;
mod hash;
mod history;
mod keys;
mod leases;
mod machine;
mod members;
mod range;
mod record;
mod revision;
mod scrub;
pub mod snapshot;
mod txn;
pub mod v2;
mod view;
mod walk;

pub use auth::{AuthState, Need, authorise};
pub use check::{
    MAX_LEASE_TTL_S, check, check_delete_range, check_put, check_range, check_txn, is_read_only, takes_space,
};
pub use hash::hash_kv;
pub use history::{History, Wants, events};
pub use keys::{RAFT_PREFIX, VERSION_SUFFIX_BYTES};
pub use leases::lease_keys;
pub use machine::{Corrupt, Machine, Outcome, Reply};
pub use members::{members, record_member};
pub use range::range;
pub use record::{Head, LeaseRecord};
pub use scrub::{Scrub, scrub};
pub use txn::read_txn;
pub use view::{Entry, MemView, Overlay, View, Writes};
