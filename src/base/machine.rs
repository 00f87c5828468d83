//! The machine-wide settings: `proa.*` on the kernel command line.

use crate::{
    net::{self, Network},
    settings::{Program, checks, setting, switch},
};
use std::{io, net::IpAddr};

/// The keys that belong to the machine and not to one daemon; read by `/init` and,
/// for the address to tell others, by the daemons.
pub const MACHINE: Program = Program {
    name: "init",
    cmdline: "proa",
    env: "PROA",
    settings: &[
        setting(
            "network",
            "",
            "the cluster's network: each machine gives itself an address in it",
            checks::network,
        ),
        setting("interface", "eth0", "the interface on the cluster's network", checks::any),
        switch("autologin", "false", "a root shell on the console without a password", checks::boolean),
        setting(
            "watchdog",
            "60",
            "seconds without a sign of life after which the machine restarts; 0 never",
            checks::number,
        ),
        setting("slot", "", "the slot that a kernel was started for; set by /init alone", checks::any),
    ],
};

/// The cluster's network, when the machine was given one.
///
/// A bad value counts as none: `/init` has named it on the console.
pub fn network() -> Option<Network> {
    let settings = MACHINE.settle_here(&[], &[]).ok()?;
    settings.get("network").parse().ok()
}

/// The address to tell others: [`net::choose`] of what this machine has.
///
/// # Errors
/// What getifaddrs(3) says.
pub fn advertised_address() -> io::Result<IpAddr> {
    Ok(net::choose(&net::locals()?, network()))
}
