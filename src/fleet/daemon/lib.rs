//! The cluster init: systemd over D-Bus, agent, engine, HTTP API.
//!
//! Tasks and what they tell each other:
//!
//! ```text
//! store -> schedule --(what to run)--> agent --(states)--> reporter -> store
//!                       systemd <------ agent                 ^
//! store <- membership --(lease)-------------------------------'
//! store <-> engine (on one machine)        store <- api <- clients
//! ```
//!
//! Each goes on by itself when the store or systemd does not answer; none ever
//! stops a unit because of that. Ending the process leaves units running: the
//! next one finds them in the units directory and adopts them. (The original
//! stops every unit when its daemon is asked to end; that turned a restart of
//! the daemon into an outage.)

mod agent;
mod api;
pub mod client;
pub mod config;
mod engine;
mod http;
pub mod journal;
mod membership;
mod private;
mod reporter;
mod route;
mod schedule;
mod serve;
mod store;
mod systemd;
mod units_dir;

pub use api::EXIT_STATUS;
pub use serve::{Failed, run};
