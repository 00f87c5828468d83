//! The updater: it asks for releases, writes and verifies the passive slot, finds
//! out whether a boot is good, and coordinates reboots.

mod boot;
pub mod bus;
pub mod client;
pub mod daemon;
pub mod download;
pub mod error;
pub mod http;
pub mod install;
pub mod locksmith;
pub mod medium;
pub mod offer;
pub mod pipeline;
pub mod settings;
pub mod state;
mod steps;
pub mod store;
mod systemd;
mod telling;
mod wishes;

pub use daemon::run;
pub use error::Error;
