//! Every command of the binary, a row each.
//!
//! An applet parses, calls and prints; what is worth testing lives in the crates
//! below it.

mod etcd;
mod etcdctl;
mod fleetctl;
mod fleetd;
mod init;
mod locksmithctl;
mod locksmithd;
mod omahactl;
mod omahad;
mod slotctl;
mod start;
mod update_engine;
mod update_engine_client;

use std::process::ExitCode;

/// One command of the binary.
pub struct Applet {
    /// The name that argv\[0\] or the first argument must be, exactly.
    pub name: &'static str,
    /// Where the image has its link; `symlinks.txt` lists the same path.
    pub link: &'static str,
    /// Runs it with the arguments after its name.
    pub main: fn(Vec<String>) -> ExitCode,
}

/// All commands, by name.
pub const APPLETS: &[&Applet] = &[
    &etcd::APPLET,
    &etcdctl::APPLET,
    &fleetctl::APPLET,
    &fleetd::APPLET,
    &init::APPLET,
    &locksmithctl::APPLET,
    &locksmithd::APPLET,
    &omahactl::APPLET,
    &omahad::APPLET,
    &slotctl::APPLET,
    &update_engine::APPLET,
    &update_engine_client::APPLET,
];

/// The command of this name.
pub fn find(name: &str) -> Option<&'static Applet> {
    APPLETS.iter().copied().find(|applet| applet.name == name)
}
