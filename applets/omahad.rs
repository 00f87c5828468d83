//! `omahad`: the update server.

use std::process::ExitCode;

use proa_update_server::config::{Config, PROGRAM};

use crate::{Applet, start};

/// This applet's row.
pub const APPLET: Applet = Applet { name: "omahad", link: "/usr/bin/omahad", main };

fn main(args: Vec<String>) -> ExitCode {
    if let Some(code) = start::about("omahad", &args, || PROGRAM.help()) {
        return code;
    }
    let config = match Config::load(&args) {
        Ok(config) => config,
        Err(error) => return proa_base::cli::fail("omahad", &error),
    };
    proa_base::log::start(&config.log_level);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    start::daemon("omahad", runtime, proa_update_server::run(config))
}
