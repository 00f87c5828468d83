//! `etcd`: one member of the store.

use std::process::ExitCode;

use proa_etcd_server::settings::PROGRAM;

use crate::Applet;

/// This applet's row.
pub const APPLET: Applet = Applet { name: "etcd", link: "/usr/bin/etcd", main };

fn main(args: Vec<String>) -> ExitCode {
    match args.first().map(|word| word.trim_start_matches('-')) {
        Some("help" | "h") => {
            print!("{}", PROGRAM.help());
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
    match PROGRAM.settle_here(&args, &[]) {
        Ok(settings) => proa_etcd_server::run(&settings),
        Err(error) => proa_base::cli::fail("etcd", &error),
    }
}
