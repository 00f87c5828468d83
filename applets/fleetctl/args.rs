//! fleetctl's command line.
//!
//! Flags are written as Go programs take them, global ones before or after the
//! command, and each global one is also `FLEETCTL_NAME` in the environment.

use argh::{EarlyExit, FromArgs};
use proa_base::flags;

/// Hand units to the cluster and see what became of them.
#[derive(FromArgs, Debug)]
pub struct Fleetctl {
    /// where fleetd is: unix:///PATH or http://HOST:PORT (default unix:///var/run/fleet.sock)
    #[argh(option)]
    pub endpoint: Option<String>,
    /// seconds to wait for one answer of fleetd (default 10)
    #[argh(option)]
    pub request_timeout: Option<f64>,
    /// print the version
    #[argh(switch)]
    pub version: bool,
    #[argh(subcommand)]
    pub command: Option<Command>,
}

/// What to do.
#[derive(FromArgs, Debug)]
#[argh(subcommand)]
pub enum Command {
    /// See [`Cat`].
    Cat(Cat),
    /// See [`Cordon`].
    Cordon(Cordon),
    /// See [`Destroy`].
    Destroy(Destroy),
    /// See [`Drain`].
    Drain(Drain),
    /// See [`Journal`].
    Journal(Journal),
    /// See [`ListMachines`].
    ListMachines(ListMachines),
    /// See [`ListUnitFiles`].
    ListUnitFiles(ListUnitFiles),
    /// See [`ListUnits`].
    ListUnits(ListUnits),
    /// See [`Load`].
    Load(Load),
    /// See [`Start`].
    Start(Start),
    /// See [`Status`].
    Status(Status),
    /// See [`Stop`].
    Stop(Stop),
    /// See [`Submit`].
    Submit(Submit),
    /// See [`Uncordon`].
    Uncordon(Uncordon),
    /// See [`Unload`].
    Unload(Unload),
    /// See [`Version`].
    Version(Version),
}

/// Print the unit file of a unit as the cluster has it.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "cat")]
pub struct Cat {
    /// unit to print
    #[argh(positional)]
    pub unit: String,
}

/// Give no more units to machines; what they have stays.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "cordon")]
pub struct Cordon {
    /// why, for whoever wonders
    #[argh(option, default = "String::new()")]
    pub reason: String,
    /// machines: ids, the beginning of an id, or self
    #[argh(positional)]
    pub machines: Vec<String>,
}

/// Stop units and forget them.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "destroy")]
pub struct Destroy {
    /// do not wait until they are gone
    #[argh(switch)]
    pub no_block: bool,
    /// looks before giving up waiting; 0 means no limit
    #[argh(option, default = "0")]
    pub block_attempts: u64,
    /// units, also as patterns of existing ones
    #[argh(positional)]
    pub units: Vec<String>,
}

/// Give no more units to machines, and move those that they have to others.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "drain")]
pub struct Drain {
    /// why, for whoever wonders
    #[argh(option, default = "String::new()")]
    pub reason: String,
    /// do not wait until they are empty
    #[argh(switch)]
    pub no_block: bool,
    /// looks before giving up waiting; 0 means no limit
    #[argh(option, default = "0")]
    pub block_attempts: u64,
    /// machines: ids, the beginning of an id, or self
    #[argh(positional)]
    pub machines: Vec<String>,
}

/// Print what a unit has logged, from the machine it runs on.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "journal")]
pub struct Journal {
    /// how many of the newest lines (default 10)
    #[argh(option, default = "10")]
    pub lines: u32,
    /// go on with what is logged from now on
    #[argh(switch, short = 'f')]
    pub follow: bool,
    /// how a line looks: short, short-iso, cat, json, verbose, ... (default short)
    #[argh(option, default = "String::from(\"short\")")]
    pub output: String,
    /// unit whose journal to print
    #[argh(positional)]
    pub unit: String,
}

/// List the machines of the cluster.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "list-machines")]
pub struct ListMachines {
    /// do not shorten ids and values
    #[argh(switch, short = 'l')]
    pub full: bool,
    /// no header line
    #[argh(switch)]
    pub no_legend: bool,
    /// columns, parted by commas: machine,ip,metadata,state
    #[argh(option)]
    pub fields: Option<String>,
}

/// List the unit files of the cluster and what is wanted of them.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "list-unit-files")]
pub struct ListUnitFiles {
    /// do not shorten ids and values
    #[argh(switch, short = 'l')]
    pub full: bool,
    /// no header line
    #[argh(switch)]
    pub no_legend: bool,
    /// columns, parted by commas: unit,hash,dstate,state,target,tmachine,desc,global
    #[argh(option)]
    pub fields: Option<String>,
}

/// List the units on machines and what systemd says of them.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "list-units")]
pub struct ListUnits {
    /// do not shorten ids and values
    #[argh(switch, short = 'l')]
    pub full: bool,
    /// no header line
    #[argh(switch)]
    pub no_legend: bool,
    /// columns, parted by commas: unit,machine,active,sub,load,hash
    #[argh(option)]
    pub fields: Option<String>,
}

/// Put units on machines without starting them; unit files are submitted first.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "load")]
pub struct Load {
    /// do not wait until they are loaded
    #[argh(switch)]
    pub no_block: bool,
    /// looks before giving up waiting; 0 means no limit
    #[argh(option, default = "0")]
    pub block_attempts: u64,
    /// take the unit file given in place of the one the cluster has
    #[argh(switch)]
    pub replace: bool,
    /// units, unit files, or patterns of existing units
    #[argh(positional)]
    pub units: Vec<String>,
}

/// Start units on machines; unit files are submitted first.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "start")]
pub struct Start {
    /// do not wait until they are started
    #[argh(switch)]
    pub no_block: bool,
    /// looks before giving up waiting; 0 means no limit
    #[argh(option, default = "0")]
    pub block_attempts: u64,
    /// take the unit file given in place of the one the cluster has
    #[argh(switch)]
    pub replace: bool,
    /// units, unit files, or patterns of existing units
    #[argh(positional)]
    pub units: Vec<String>,
}

/// Print what systemd says of units, from the machines they run on.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "status")]
pub struct Status {
    /// units, also as patterns of existing ones
    #[argh(positional)]
    pub units: Vec<String>,
}

/// Stop units and leave them on their machines.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "stop")]
pub struct Stop {
    /// do not wait until they have stopped
    #[argh(switch)]
    pub no_block: bool,
    /// looks before giving up waiting; 0 means no limit
    #[argh(option, default = "0")]
    pub block_attempts: u64,
    /// units, also as patterns of existing ones
    #[argh(positional)]
    pub units: Vec<String>,
}

/// Give unit files to the cluster without putting them on a machine.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "submit")]
pub struct Submit {
    /// take the unit file given in place of the one the cluster has
    #[argh(switch)]
    pub replace: bool,
    /// unit files
    #[argh(positional)]
    pub units: Vec<String>,
}

/// Give units to machines again.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "uncordon")]
pub struct Uncordon {
    /// machines: ids, the beginning of an id, or self
    #[argh(positional)]
    pub machines: Vec<String>,
}

/// Stop units and take them off their machines.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "unload")]
pub struct Unload {
    /// do not wait until they are off
    #[argh(switch)]
    pub no_block: bool,
    /// looks before giving up waiting; 0 means no limit
    #[argh(option, default = "0")]
    pub block_attempts: u64,
    /// units, also as patterns of existing ones
    #[argh(positional)]
    pub units: Vec<String>,
}

/// Print the version.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "version")]
pub struct Version {}

/// Flags without a value, of all commands.
const SWITCHES: [&str; 9] =
    ["version", "full", "l", "no-legend", "no-block", "replace", "follow", "f", "help"];
/// Global flags with a value, and whether the command line is the only place for them.
const GLOBAL: [&str; 2] = ["endpoint", "request-timeout"];

/// Reads a command line.
///
/// # Errors
/// What to print in place of doing anything, and whether that is a failure.
pub fn parse(args: &[String], env: &dyn Fn(&str) -> Option<String>) -> Result<Fleetctl, EarlyExit> {
    let words = with_globals_first(&flags::normalise(args, &SWITCHES));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let words = match words.as_slice() {
        ["help", command] => vec![*command, "--help"],
        ["help"] | ["-h" | "--h"] | [] => vec!["--help"],
        words => {
            words.iter().map(|word| if matches!(*word, "-h" | "--h") { "--help" } else { word }).collect()
        }
    };
    let mut parsed = Fleetctl::from_args(&["fleetctl"], &words)?;
    let from_env = |name: &str| env(name).filter(|value| !value.is_empty());
    if parsed.endpoint.is_none() {
        parsed.endpoint = from_env("FLEETCTL_ENDPOINT");
    }
    if parsed.request_timeout.is_none()
        && let Some(text) = from_env("FLEETCTL_REQUEST_TIMEOUT")
    {
        let seconds = text.parse().map_err(|_| refuse("FLEETCTL_REQUEST_TIMEOUT", &text))?;
        parsed.request_timeout = Some(seconds);
    }
    match parsed.request_timeout {
        Some(seconds) if !(0.1..=3600.0).contains(&seconds) => {
            Err(refuse("--request-timeout", &seconds.to_string()))
        }
        Some(_) | None => Ok(parsed),
    }
}

fn refuse(spelling: &str, value: &str) -> EarlyExit {
    EarlyExit {
        output: format!("{spelling}: bad value {value:?}: give seconds from 0.1 to 3600"),
        status: Err(()),
    }
}

/// The original takes global flags on either side of the command; argh wants them before it.
fn with_globals_first(words: &[String]) -> Vec<String> {
    let mut first = Vec::new();
    let mut rest = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.strip_prefix("--") {
            Some("") => {
                rest.push(word.clone());
                rest.extend(words.by_ref().cloned());
            }
            Some(name) if GLOBAL.contains(&name) => {
                first.push(word.clone());
                first.extend(words.next().cloned());
            }
            Some(_) | None => rest.push(word.clone()),
        }
    }
    first.extend(rest);
    first
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parse_line(line: &str, env: &[(&str, &str)]) -> Result<Fleetctl, EarlyExit> {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let env = |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        parse(&args, &env)
    }

    #[test]
    fn global_flags_stand_anywhere() {
        #[rustfmt::skip]
        let cases = [
            ("--endpoint=http://a:1 list-units -l",             Some("http://a:1")),
            ("-endpoint http://a:1 list-units --full=true",     Some("http://a:1")),
            ("list-units --full --endpoint http://a:1",         Some("http://a:1")),
            ("list-units -full -request-timeout=3",             Some("http://env:1")),
        ];
        for (line, endpoint) in cases {
            let parsed = parse_line(line, &[("FLEETCTL_ENDPOINT", "http://env:1")]).unwrap();
            assert_eq!(parsed.endpoint.as_deref(), endpoint, "{line}");
            assert!(
                matches!(parsed.command, Some(Command::ListUnits(ListUnits { full: true, .. }))),
                "{line}"
            );
        }
    }

    #[test]
    fn flags_and_units_mix() {
        let parsed = parse_line("start a.service --no-block b -block-attempts=3", &[]).unwrap();
        let Some(Command::Start(start)) = parsed.command else { panic!("{parsed:?}") };
        assert_eq!((start.no_block, start.block_attempts), (true, 3));
        assert_eq!(start.units, ["a.service", "b"]);
    }

    #[test]
    fn help_is_help_in_every_spelling() {
        for line in ["", "help", "--help", "-help", "-h", "--h"] {
            let exit = parse_line(line, &[]).unwrap_err();
            assert_eq!(exit.status, Ok(()), "{line}");
            assert!(exit.output.contains("list-machines"), "{line}: {}", exit.output);
        }
        for line in ["help start", "start --help", "start -h"] {
            let exit = parse_line(line, &[]).unwrap_err();
            assert!(exit.output.contains("--block-attempts"), "{line}: {}", exit.output);
        }
    }

    #[test]
    fn bad_flags_are_named() {
        for (line, want) in [
            ("list-units --fulll", "--fulll"),
            ("strat x", "strat"),
            ("list-units --request-timeout=0", "give seconds"),
            ("start --block-attempts=x a", "x"),
        ] {
            let exit = parse_line(line, &[]).unwrap_err();
            assert_eq!(exit.status, Err(()), "{line}");
            assert!(exit.output.contains(want), "{line}: {}", exit.output);
        }
    }
}
