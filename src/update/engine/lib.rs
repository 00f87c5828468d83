//! The updater: it asks for releases, writes and verifies the passive slot, finds
//! out whether a boot is good, and coordinates reboots.

pub mod http;
pub mod locksmith;
pub mod settings;
