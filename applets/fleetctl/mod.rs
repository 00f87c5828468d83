//! `fleetctl`: hand units to the cluster and see what became of them.

mod args;
mod change;
mod machines;
mod remote;
mod show;
mod units;

use std::{process::ExitCode, time::Duration};

use args::Command;
use change::Waiting;
use proa_fleet_daemon::client::Endpoint;
use proa_fleet_model::registry::DesiredState;
use remote::Remote;

use crate::Applet;

/// This applet's row.
pub const APPLET: Applet = Applet { name: "fleetctl", link: "/usr/bin/fleetctl", main };

/// Why a command did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// fleetd did not answer, or said no.
    #[error(transparent)]
    Remote(#[from] remote::Error),
    /// About one unit.
    #[error("Unit {unit}: {source}")]
    OfUnit {
        /// The unit.
        unit: String,
        /// What fleetd said.
        #[source]
        source: remote::Error,
    },
    /// A word that stands for nothing.
    #[error(transparent)]
    Units(#[from] units::Error),
    /// A unit that nobody has.
    #[error("Unit {unit} is not in the cluster{hint}")]
    Unknown {
        /// The unit.
        unit: String,
        /// Where else it was looked for.
        hint: &'static str,
    },
    /// A unit that is on no machine.
    #[error("Unable to stop unit {unit} in state inactive")]
    CannotStop {
        /// The unit.
        unit: String,
    },
    /// A pattern without a match.
    #[error("no unit in the cluster matches {0:?}")]
    NoMatch(String),
    /// A word that stands for no machine.
    #[error("no machine has an id that begins with {0:?}; fleetctl list-machines --full shows them")]
    UnknownMachine(String),
    /// A word that stands for several.
    #[error("{word:?} is the beginning of {count} ids; give more of its digits")]
    ManyMachines {
        /// The word.
        word: String,
        /// How many machines it stands for.
        count: usize,
    },
    /// A command without its machines.
    #[error("name at least one machine")]
    NoMachines,
    /// About one machine.
    #[error("Machine {machine}: {source}")]
    OfMachine {
        /// The machine.
        machine: String,
        /// What fleetd said.
        #[source]
        source: remote::Error,
    },
    /// A machine that still has units after the attempts given.
    #[error("Machine {machine} is not empty after {attempts} looks: {instead}")]
    NotEmpty {
        /// The machine.
        machine: String,
        /// How often it was looked at.
        attempts: u64,
        /// What is still there.
        instead: String,
    },
    /// A command without its units.
    #[error("name at least one unit")]
    NoUnits,
    /// A unit that did not get where it should within the attempts given.
    #[error("Unit {unit} is not {wanted} after {attempts} looks: {instead}")]
    NotReached {
        /// The unit.
        unit: String,
        /// The state waited for.
        wanted: &'static str,
        /// How often it was looked at.
        attempts: u64,
        /// What it is, or why.
        instead: String,
    },
    /// A unit that was started and is no more.
    #[error("Unit {unit} {state} on {machine}; fleetctl status {unit} and fleetctl journal {unit} say why")]
    Failed {
        /// The unit.
        unit: String,
        /// systemd's words.
        state: String,
        /// Where.
        machine: String,
    },
    /// A column that a table does not have.
    #[error(transparent)]
    Fields(#[from] proa_fleet_model::view::BadFields),
    /// Nobody reads what is printed, or the answer broke off.
    #[error("{0}")]
    Output(String),
}

fn main(args: Vec<String>) -> ExitCode {
    proa_base::cli::end_with_reader();
    let parsed = match args::parse(&args, &|name| std::env::var(name).ok()) {
        Ok(parsed) => parsed,
        Err(exit) => return crate::start::early("fleetctl", &exit),
    };
    let asked =
        parsed.command.as_ref().filter(|command| !parsed.version && !matches!(command, Command::Version(_)));
    let Some(command) = asked else {
        println!("fleetctl version {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    };
    let endpoint = match parsed.endpoint.as_deref().map(str::parse::<Endpoint>).transpose() {
        Ok(endpoint) => endpoint,
        Err(error) => return proa_base::cli::fail("fleetctl", &error),
    };
    let remote = Remote::new(endpoint, parsed.request_timeout.map(Duration::from_secs_f64));
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return proa_base::cli::fail("fleetctl", &error),
    };
    match runtime.block_on(run(&remote, command)) {
        Ok(code) => ExitCode::from(code),
        Err(errors) => {
            for error in errors {
                eprintln!("{}", proa_base::cli::chain(&error));
            }
            ExitCode::FAILURE
        }
    }
}

/// Does one command; the exit status, or everything that went wrong.
async fn run(remote: &Remote, command: &Command) -> Result<u8, Vec<Error>> {
    let done = |()| 0;
    let alone = |error| vec![error];
    let waiting = |no_block: bool, attempts| Waiting { blocks: !no_block, attempts };
    match command {
        Command::Version(_) => Ok(0),
        Command::ListMachines(args) => show::machines(remote, args).await.map(done).map_err(alone),
        Command::ListUnits(args) => show::units(remote, args).await.map(done).map_err(alone),
        Command::ListUnitFiles(args) => show::unit_files(remote, args).await.map(done).map_err(alone),
        Command::Cat(args) => show::cat(remote, args).await.map(done).map_err(alone),
        Command::Cordon(args) => machines::cordon(remote, &args.machines, &args.reason).await.map(done),
        Command::Uncordon(args) => machines::uncordon(remote, &args.machines).await.map(done),
        Command::Drain(args) => {
            let waiting = waiting(args.no_block, args.block_attempts);
            machines::drain(remote, &args.machines, &args.reason, waiting).await.map(done)
        }
        Command::Journal(args) => show::journal(remote, args).await.map(done).map_err(alone),
        Command::Status(args) => show::status(remote, args).await.map_err(alone),
        Command::Submit(args) => {
            let waiting = waiting(false, 0);
            change::bring(remote, &args.units, args.replace, DesiredState::Inactive, waiting).await.map(done)
        }
        Command::Load(args) => {
            let waiting = waiting(args.no_block, args.block_attempts);
            change::bring(remote, &args.units, args.replace, DesiredState::Loaded, waiting).await.map(done)
        }
        Command::Start(args) => {
            let waiting = waiting(args.no_block, args.block_attempts);
            change::bring(remote, &args.units, args.replace, DesiredState::Launched, waiting).await.map(done)
        }
        Command::Stop(args) => {
            let waiting = waiting(args.no_block, args.block_attempts);
            change::lower(remote, &args.units, DesiredState::Loaded, waiting).await.map(done)
        }
        Command::Unload(args) => {
            let waiting = waiting(args.no_block, args.block_attempts);
            change::lower(remote, &args.units, DesiredState::Inactive, waiting).await.map(done)
        }
        Command::Destroy(args) => {
            change::destroy(remote, &args.units, waiting(args.no_block, args.block_attempts)).await.map(done)
        }
    }
}
