//! `proa-qemu`: boots the image on this host, one machine or a cluster.

mod prompt;
mod session;
mod signals;

use argh::FromArgs;
use proa_qemu::{Accel, Console, Image, Machine, Outside, Plan, command_line, hub::Hub};
use session::Wanted;
use std::{error, path::PathBuf, process::ExitCode, sync::Arc};

/// Boots the image in QEMU, without root rights.
#[derive(FromArgs)]
struct Arguments {
    #[argh(subcommand)]
    command: Command,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Command {
    Cluster(ClusterArguments),
    One(OneArguments),
}

/// Boots a cluster, runs a unit on it, and gives a prompt; Ctrl-C ends it all.
#[derive(FromArgs)]
#[argh(subcommand, name = "cluster")]
struct ClusterArguments {
    /// how many machines, 1 to 9 (3)
    #[argh(option, default = "3")]
    machines: u8,
    /// the unit file to start (buildroot/demo/hello.service)
    #[argh(option, default = "PathBuf::from(\"buildroot/demo/hello.service\")")]
    unit: PathBuf,
    /// the folder of the image (build)
    #[argh(option, default = "PathBuf::from(\"build\")")]
    image: PathBuf,
    /// the proa binary of this host (the one beside proa-qemu)
    #[argh(option)]
    proa: Option<PathBuf>,
    /// words to add to the kernel command line
    #[argh(option, default = "String::new()")]
    append: String,
    /// end when everything has been shown
    #[argh(switch)]
    once: bool,
}

/// Boots one machine with its console on this terminal; Ctrl-A X ends it.
#[derive(FromArgs)]
#[argh(subcommand, name = "one")]
struct OneArguments {
    /// the folder of the image (build)
    #[argh(option, default = "PathBuf::from(\"build\")")]
    image: PathBuf,
    /// words to add to the kernel command line
    #[argh(option, default = "String::new()")]
    append: String,
}

fn main() -> ExitCode {
    let result = match argh::from_env::<Arguments>().command {
        Command::Cluster(arguments) => cluster(arguments),
        Command::One(arguments) => one(&arguments),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("proa-qemu: {}", chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn cluster(arguments: ClusterArguments) -> Result<ExitCode, Box<dyn error::Error>> {
    if !(1..=9).contains(&arguments.machines) {
        return Err(format!("--machines {}: give 1 to 9", arguments.machines).into());
    }
    if !arguments.unit.is_file() {
        return Err(format!("no unit file at {}", arguments.unit.display()).into());
    }
    let proa = match arguments.proa {
        Some(path) => path,
        None => std::env::current_exe()?.with_file_name("proa"),
    };
    if !proa.is_file() {
        return Err(format!("no program at {}: `make build` makes it", proa.display()).into());
    }
    session::run(&Wanted {
        image: Image::open(&arguments.image)?,
        machines: arguments.machines,
        unit: arguments.unit,
        proa,
        append: arguments.append,
        once: arguments.once,
    })
}

fn one(arguments: &OneArguments) -> Result<ExitCode, Box<dyn error::Error>> {
    let image = Image::open(&arguments.image)?;
    let dir = tempfile::Builder::new().prefix("proa-").tempdir()?;
    let accel = Accel::find(&image, dir.path())?;
    let command_line = command_line(1, accel, &format!("proa.autologin {}", arguments.append));
    let plan = Plan {
        image,
        accel,
        command_line,
        dir: dir.path().to_owned(),
        number: 0,
        console: Console::Terminal,
        outside: Outside::Closed,
    };
    let mut machine = Machine::new(plan, Arc::new(Hub::default()))?;
    println!("{}: etcd {}, fleet {}", machine.name(), machine.etcd_endpoint(), machine.fleet_endpoint());
    println!("Ctrl-A X ends the machine.");
    machine.power_on()?;
    machine.wait();
    Ok(ExitCode::SUCCESS)
}

/// The error and its causes on one line.
fn chain(error: &dyn error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    line
}
