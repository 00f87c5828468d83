//! `fleetd`: one machine of the cluster.

use std::process::ExitCode;

use proa_fleet_daemon::config::{Config, PROGRAM};

use crate::Applet;

/// This applet's row.
pub const APPLET: Applet = Applet { name: "fleetd", link: "/usr/bin/fleetd", main };

fn main(args: Vec<String>) -> ExitCode {
    match args.first().map(|word| word.trim_start_matches('-')) {
        Some("help" | "h") => {
            print!("{}", PROGRAM.help());
            println!("The file is /etc/fleet/fleet.conf, or the one of -config FILE; its keys have _ for -.");
            return ExitCode::SUCCESS;
        }
        Some("version") => {
            println!("fleetd version {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Some(_) | None => {}
    }
    let config = match Config::load(&args) {
        Ok(config) => config,
        Err(error) => return proa_base::cli::fail("fleetd", &error),
    };
    proa_base::log::start(config.log_level);
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return proa_base::cli::fail("fleetd", &error),
    };
    match runtime.block_on(proa_fleet_daemon::run(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => proa_base::cli::fail("fleetd", &error),
    }
}
