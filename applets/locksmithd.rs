//! `locksmithd`: reboots this machine when the cluster can bear it.

use std::process::ExitCode;

use proa_update_engine::{locksmith, settings::PROGRAM};

use crate::Applet;

/// This applet's row.
pub const APPLET: Applet = Applet { name: "locksmithd", link: "/usr/bin/locksmithd", main };

fn main(args: Vec<String>) -> ExitCode {
    match args.first().map(|word| word.trim_start_matches('-')) {
        Some("help" | "h") => {
            print!("{}", PROGRAM.help().replacen("update_engine", "locksmithd", 1));
            println!(
                "The settings are the updater's; update.conf and the original's LOCKSMITHD_ names count, too."
            );
            return ExitCode::SUCCESS;
        }
        Some("version") => {
            println!("locksmithd version {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Some(_) | None => {}
    }
    let config = match locksmith::config::Config::load(&args) {
        Ok(config) => config,
        Err(error) => return proa_base::cli::fail("locksmithd", &error),
    };
    proa_base::log::start("info");
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return proa_base::cli::fail("locksmithd", &error),
    };
    match runtime.block_on(locksmith::run(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => proa_base::cli::fail("locksmithd", &error),
    }
}
