//! `locksmithd`: reboots this machine when the cluster can bear it.

use std::process::ExitCode;

use proa_update_engine::{locksmith, settings::PROGRAM};

use crate::{Applet, start};

/// This applet's row.
pub const APPLET: Applet = Applet { name: "locksmithd", link: "/usr/bin/locksmithd", main };

fn main(args: Vec<String>) -> ExitCode {
    if let Some(code) = start::about("locksmithd", &args, || {
        PROGRAM.help().replacen("update_engine", "locksmithd", 1)
            + "The settings are the updater's; update.conf and the original's LOCKSMITHD_ names count, too.\n"
    }) {
        return code;
    }
    proa_base::log::start("info");
    let config = match locksmith::config::Config::load(&args) {
        Ok(config) => config,
        Err(error) => return proa_base::cli::fail("locksmithd", &error),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    start::daemon("locksmithd", runtime, locksmith::run(config))
}
