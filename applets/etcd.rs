//! `etcd`: one member of the store.

use std::{path::Path, process::ExitCode};

use proa_etcd_server::settings::{PROGRAM, settle_here};

use crate::Applet;

/// This applet's row.
pub const APPLET: Applet = Applet { name: "etcd", link: "/usr/bin/etcd", main };

/// The image's own settings. In a file, since the kernel command line is stronger
/// than a file and weaker than the environment of a unit.
const FILE: &str = "/etc/proa/etcd.conf";

fn main(args: Vec<String>) -> ExitCode {
    match args.first().map(|word| word.trim_start_matches('-')) {
        Some("gateway") => return proa_etcd_server::relay::gateway(&args[1..]),
        Some("help" | "h") => {
            print!("{}", PROGRAM.help());
            println!("The file is {FILE}, if there is one.");
            return ExitCode::SUCCESS;
        }
        // Scripts look for this line.
        Some("version") => {
            println!("etcd Version: {}", proa_etcd_server::PROTOCOL_VERSION);
            println!("Proa: {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Some(_) | None => {}
    }
    match settle_here(&args, Path::new(FILE)) {
        Ok(settings) => proa_etcd_server::run(&settings),
        Err(error) => proa_base::cli::fail("etcd", &error),
    }
}
