//! Who gets which release when: the update server's decisions.
//!
//! A group of machines follows a channel, which names a version. Whether a
//! machine of the group is offered that version is decided by [`visit`], from
//! what the store holds and from what the machine says; what happened to
//! machines changes the records in the same step. A release that failed on one
//! machine halts its group and is offered to no machine any more.
//!
//! Caller's duties:
//! 1. Read all [`Records`] as of one moment, and write an [`Outcome`] only if
//!    none of them has changed since; otherwise read and decide again. Then the
//!    limits hold however many servers serve one store.
//! 2. Send the answer only after the outcome is written.
//! 3. Take the time from a clock that the servers share within a minute.

mod group;
mod office_hours;
mod record;
#[cfg(test)]
mod simulation_test;
mod visit;
#[cfg(test)]
mod visit_test;

pub use group::{BadPolicy, Group, Rate, find_group};
pub use office_hours::{BadOfficeHours, OfficeHours};
pub use record::{
    Failed, Grant, HISTORY_ENTRIES_MAX, Halt, Happening, Instance, Rollout, STRANGER_ENTRIES_MAX, Status,
};
pub use visit::{
    IN_PROGRESS_MAX, Outcome, Records, Refusal, SETTLED_S, Target, Visit, choose_forgotten, machine_key,
    percentile, visit,
};

/// Seconds since 1970.
pub type UnixSeconds = u64;
