//! `update_engine_client`: asks this machine's updater, and tells it what to do.

use std::{
    io::{IsTerminal as _, Write as _},
    path::Path,
    process::ExitCode,
};

use proa_update_engine::{bus::Wire, client::Updater, settings::PROGRAM};

use crate::Applet;

/// This applet's row.
pub const APPLET: Applet =
    Applet { name: "update_engine_client", link: "/usr/bin/update_engine_client", main };

const HELP: &str = "\
Usage: update_engine_client FLAG

  -check_for_update   ask the server now
  -update             ask the server now and show how the update goes on
  -status             print where the updater is
  -watch_for_updates  print every change, until it is interrupted
  -reset_status       forget about an update that waits for the reboot
  -rollback           boot the other system next, if it was found good once
  -last_failure       print why a release failed here, as JSON

Flags have one dash or two.
";

/// Cells of the progress bar.
const BAR: usize = 40;

fn main(args: Vec<String>) -> ExitCode {
    proa_base::cli::end_with_reader();
    let [flag] = &args[..] else {
        eprintln!("update_engine_client: give one flag; -help lists what there is");
        return ExitCode::FAILURE;
    };
    let name = flag.strip_prefix("--").or_else(|| flag.strip_prefix('-')).unwrap_or_default();
    let name = name.strip_suffix("=true").unwrap_or(name);
    if name == "help" || name == "h" {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    let known = [
        "check_for_update",
        "update",
        "status",
        "watch_for_updates",
        "reset_status",
        "rollback",
        "last_failure",
    ];
    if !known.contains(&name) {
        eprintln!("update_engine_client: unknown flag {flag}; -help lists what there is");
        return ExitCode::FAILURE;
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return proa_base::cli::fail("update_engine_client", &error),
    };
    match runtime.block_on(run(name)) {
        Ok(code) => code,
        Err(error) => proa_base::cli::fail("update_engine_client", &*error),
    }
}

async fn run(name: &str) -> Result<ExitCode, Box<dyn std::error::Error>> {
    // As the updater itself: by UPDATE_ENGINE_BUS, update.bus= or where it always is.
    let settings = PROGRAM.settle_here(&[], &[])?;
    let updater = Updater::connect(Path::new(settings.get("bus"))).await?;
    match name {
        "check_for_update" => updater.tell("AttemptUpdate").await?,
        "reset_status" => updater.tell("ResetStatus").await?,
        "rollback" => {
            updater.tell("Rollback").await?;
            println!("the other system boots next");
        }
        "status" => {
            print(&updater.status().await?);
            let (_, error) = updater.last_attempt().await?;
            if !error.is_empty() {
                println!("LAST_ERROR={error}");
            }
        }
        "last_failure" => match updater.last_failure().await?.as_str() {
            "" => println!("no release has failed on this machine"),
            failure => println!("{failure}"),
        },
        "watch_for_updates" => updater.watch(print).await?,
        _ => return update(&updater).await,
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows an update from the question to its end.
async fn update(updater: &Updater) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let is_terminal = std::io::stdout().is_terminal();
    let show = |status: &Wire| {
        if is_terminal {
            print!("\r{}\x1b[K", bar(status));
            // A terminal that is gone ends this by itself.
            let _ = std::io::stdout().flush();
        } else {
            print(status);
        }
    };
    let ended = updater.update(show).await;
    if is_terminal {
        println!();
    }
    match ended?.as_str() {
        "" => Ok(ExitCode::SUCCESS),
        error => {
            eprintln!("update_engine_client: {error}");
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Source: CoreOS update_engine, `update_engine_client.cc`.
fn print((checked, progress, operation, version, size): &Wire) {
    println!("LAST_CHECKED_TIME={checked}");
    println!("PROGRESS={progress:.6}");
    println!("CURRENT_OP={operation}");
    println!("NEW_VERSION={}", if version.is_empty() { "0.0.0" } else { version });
    println!("NEW_SIZE={size}");
}

fn bar((_, progress, operation, version, _): &Wire) -> String {
    let operation = operation.strip_prefix("UPDATE_STATUS_").unwrap_or(operation);
    let words = operation.to_lowercase().replace('_', " ");
    let full = (progress.clamp(0.0, 1.0) * BAR as f64) as usize;
    let bar = format!("{}{}", "#".repeat(full), ".".repeat(BAR - full));
    format!("[{bar}] {:3.0} % {words} {version}", progress * 100.0)
}
