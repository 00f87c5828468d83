//! `init`: the first process of the initramfs.
//!
//! Thin by rule: what it does is in `proa-boot`, and this row tells it which
//! programs own words of the kernel command line.

use crate::Applet;
use std::process::ExitCode;

/// This applet's row; `applets/lib.rs` lists it.
pub const APPLET: Applet = Applet { name: "init", link: "/init", main };

fn main(arguments: Vec<String>) -> ExitCode {
    proa_boot::run(
        &arguments,
        &[
            &proa_base::machine::MACHINE,
            &proa_etcd_server::settings::PROGRAM,
            &proa_fleet_daemon::config::PROGRAM,
            &proa_update_engine::settings::PROGRAM,
            &proa_update_server::config::PROGRAM,
        ],
    )
}
