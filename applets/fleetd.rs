//! `fleetd`: one machine of the cluster.

use std::process::ExitCode;

use proa_fleet_daemon::config::{Config, PROGRAM};

use crate::{Applet, start};

/// This applet's row.
pub const APPLET: Applet = Applet { name: "fleetd", link: "/usr/bin/fleetd", main };

fn main(args: Vec<String>) -> ExitCode {
    if let Some(code) = start::about("fleetd", &args, || {
        PROGRAM.help()
            + "The file is /etc/fleet/fleet.conf, or the one of -config FILE; its keys have _ for -.\n"
    }) {
        return code;
    }
    let config = match Config::load(&args) {
        Ok(config) => config,
        Err(error) => return proa_base::cli::fail("fleetd", &error),
    };
    proa_base::log::start(config.log_level);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    start::daemon("fleetd", runtime, proa_fleet_daemon::run(config))
}
