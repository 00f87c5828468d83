//! The cluster's decisions: unit files, registry layout, plans.
//!
//! Caller's duties:
//! 1. Time and randomness are arguments; the engine's clock never goes back.
//! 2. Plan only from what was read completely: never call [`agent::plan`] with a
//!    desired state that could not be fetched, never [`engine::plan`] with
//!    [`engine::View::Fresh`] when the store did not answer lately.
//! 3. Perform a plan in order. When an action fails, skip the rest of the actions
//!    of that unit, go on with the others, and plan again from what is observed.
//! 4. A transaction whose guard fails has not happened: read and plan again.

pub mod agent;
pub mod api;
pub mod cluster;
mod commit;
pub mod cordon;
pub mod engine;
pub mod glob;
mod handover;
mod loss;
pub mod registry;
pub mod requirements;
pub mod txn;
pub mod unit_file;
pub mod unit_name;
pub mod view;
mod world;
