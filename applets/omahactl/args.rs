//! omahactl's command line.

use std::path::PathBuf;

use argh::{EarlyExit, FromArgs};
use proa_base::flags;
use proa_update_model::omaha::PROA_APP;

/// Say which machines get which release when.
#[derive(FromArgs, Debug)]
pub struct Omahactl {
    /// where omahad is: http[s]://HOST:PORT (default http://127.0.0.1:8001; OMAHACTL_ENDPOINT)
    #[argh(option)]
    pub endpoint: Option<String>,
    /// file of the CAs that an https endpoint must have a certificate of (default: the system's; OMAHACTL_CACERT)
    #[argh(option)]
    pub cacert: Option<PathBuf>,
    /// application id (default Proa's; OMAHACTL_APP)
    #[argh(option)]
    pub app: Option<String>,
    /// print the version
    #[argh(switch)]
    pub version: bool,
    #[argh(subcommand)]
    pub command: Option<Command>,
}

/// What to do about what.
#[derive(FromArgs, Debug)]
#[argh(subcommand)]
pub enum Command {
    /// See [`Release`].
    Release(Release),
    /// See [`Channel`].
    Channel(Channel),
    /// See [`Group`].
    Group(Group),
    /// See [`Instance`].
    Instance(Instance),
    /// See [`FailedVersions`].
    Failed(FailedVersions),
}

/// Releases: what can be installed. `add FILE... --metadata release.json`, `list`, `remove VERSION`
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "release")]
pub struct Release {
    /// signed release metadata; its payloads are the FILEs
    #[argh(option)]
    pub metadata: Option<PathBuf>,
    /// URL of a folder that has the payloads; they are not sent to omahad then
    #[argh(option)]
    pub codebase: Option<String>,
    /// no header line
    #[argh(switch)]
    pub no_legend: bool,
    /// what to do, and with what
    #[argh(positional)]
    pub words: Vec<String>,
}

/// Channels: names of versions. `set NAME VERSION`, `list`, `remove NAME`
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "channel")]
pub struct Channel {
    /// no header line
    #[argh(switch)]
    pub no_legend: bool,
    /// what to do, and with what
    #[argh(positional)]
    pub words: Vec<String>,
}

/// Groups of machines: `add NAME [SETTING=VALUE]...`, `set NAME SETTING=VALUE...`, `list`, `show NAME`,
/// `pause NAME`, `resume NAME`, `halt NAME [REASON]`, `clear NAME`, `remove NAME`. Settings: channel,
/// aliases, percentage, max-concurrent, rate (5/1h), safe-mode, office-hours
/// ("Mon-Fri 09:00-17:00 +01:00"), poll-interval, paused
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "group")]
pub struct Group {
    /// no header line
    #[argh(switch)]
    pub no_legend: bool,
    /// what to do, and with what
    #[argh(positional)]
    pub words: Vec<String>,
}

/// Machines that asked: `list [GROUP]`, `show MACHINE`, `forget MACHINE`
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "instance")]
pub struct Instance {
    /// no header line
    #[argh(switch)]
    pub no_legend: bool,
    /// what to do, and with what
    #[argh(positional)]
    pub words: Vec<String>,
}

/// Versions that failed and are offered to nobody: `list`, `clear VERSION`
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "failed")]
pub struct FailedVersions {
    /// no header line
    #[argh(switch)]
    pub no_legend: bool,
    /// what to do, and with what
    #[argh(positional)]
    pub words: Vec<String>,
}

/// Flags without a value, of all commands.
const SWITCHES: [&str; 3] = ["version", "no-legend", "help"];

/// Reads a command line.
///
/// # Errors
/// What to print in place of doing anything, and whether that is a failure.
pub fn parse(args: &[String], env: &dyn Fn(&str) -> Option<String>) -> Result<Omahactl, EarlyExit> {
    let words = flags::normalise(args, &SWITCHES);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let words = match words.as_slice() {
        ["help", command] => vec![*command, "--help"],
        ["help"] | ["-h" | "--h"] | [] => vec!["--help"],
        words => words.to_vec(),
    };
    let mut parsed = Omahactl::from_args(&["omahactl"], &words)?;
    let from_env = |name: &str| env(name).filter(|value| !value.is_empty());
    parsed.endpoint = parsed.endpoint.or_else(|| from_env("OMAHACTL_ENDPOINT"));
    parsed.cacert = parsed.cacert.or_else(|| from_env("OMAHACTL_CACERT").map(PathBuf::from));
    parsed.app = parsed.app.or_else(|| from_env("OMAHACTL_APP")).or_else(|| Some(PROA_APP.to_owned()));
    Ok(parsed)
}
