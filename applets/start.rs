//! What commands have in common before and around what they do.

use argh::EarlyExit;
use std::{error::Error, future::Future, io, process::ExitCode};
use tokio::runtime::Runtime;

/// Ends a command whose line is a question about it, or is wrong: help goes to
/// standard output, what is wrong to standard error on one line.
pub fn early(name: &str, exit: &EarlyExit) -> ExitCode {
    if exit.status.is_ok() {
        println!("{}", exit.output.trim_end());
        return ExitCode::SUCCESS;
    }
    let output = exit.output.trim().replace("\n\n", "\n").replace('\n', "; ");
    eprintln!("{name}: {output}");
    ExitCode::FAILURE
}

/// Answers a daemon's `help` and `version`; `None` when it is to run.
pub fn about(name: &str, args: &[String], help: impl FnOnce() -> String) -> Option<ExitCode> {
    match args.first().map(|word| word.trim_start_matches('-')) {
        Some("help" | "h") => print!("{}", help()),
        Some("version") => println!("{name} version {}", env!("CARGO_PKG_VERSION")),
        Some(_) | None => return None,
    }
    Some(ExitCode::SUCCESS)
}

/// Runs a daemon until it ends.
pub fn daemon<E: Error>(
    name: &str,
    runtime: io::Result<Runtime>,
    work: impl Future<Output = Result<(), E>>,
) -> ExitCode {
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => return proa_base::cli::fail(name, &error),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => proa_base::cli::fail(name, &error),
    }
}
