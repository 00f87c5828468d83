//! `omahad`: the update server.

use std::process::ExitCode;

use proa_update_server::config::{Config, PROGRAM};

use crate::Applet;

/// This applet's row.
pub const APPLET: Applet = Applet { name: "omahad", link: "/usr/bin/omahad", main };

fn main(args: Vec<String>) -> ExitCode {
    match args.first().map(|word| word.trim_start_matches('-')) {
        Some("help" | "h") => {
            print!("{}", PROGRAM.help());
            return ExitCode::SUCCESS;
        }
        Some("version") => {
            println!("omahad version {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Some(_) | None => {}
    }
    let config = match Config::load(&args) {
        Ok(config) => config,
        Err(error) => return proa_base::cli::fail("omahad", &error),
    };
    proa_base::log::start(&config.log_level);
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return proa_base::cli::fail("omahad", &error),
    };
    match runtime.block_on(proa_update_server::run(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => proa_base::cli::fail("omahad", &error),
    }
}
