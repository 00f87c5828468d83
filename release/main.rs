//! `proa-release`: makes releases, on the machine that publishes them.

use argh::FromArgs;
use proa_release::{
    error::{Error, file},
    inspect, keys, metadata, payload, seal,
};
use proa_update_model::version::Version;
use ring::signature::Ed25519KeyPair;
use std::{
    error, fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::SystemTime,
};

/// Lower than any release.
const ANY_VERSION: &str = "0";

/// Makes releases of the system: slots, payloads, signed metadata.
#[derive(FromArgs)]
struct Arguments {
    #[argh(subcommand)]
    command: Command,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Command {
    Inspect(Inspect),
    Keygen(Keygen),
    Metadata(Metadata),
    Payload(Payload),
    Rotate(Rotate),
    Seal(Seal),
}

/// Makes a folder of new keys: what signs releases, and what goes into the image.
#[derive(FromArgs)]
#[argh(subcommand, name = "keygen")]
struct Keygen {
    /// the folder
    #[argh(positional)]
    path: PathBuf,
    /// make another release key alone, as this file, for rotate
    #[argh(switch)]
    release_key_only: bool,
}

/// Puts the hash tree behind a squashfs and prints the root hash.
#[derive(FromArgs)]
#[argh(subcommand, name = "seal")]
struct Seal {
    /// the squashfs; it becomes what a slot partition holds
    #[argh(positional)]
    slot: PathBuf,
    /// the version of the system in it
    #[argh(option)]
    version: Version,
}

/// Signs what is said about a release.
#[derive(FromArgs)]
#[argh(subcommand, name = "metadata")]
struct Metadata {
    /// the application's id, in braces
    #[argh(option)]
    app: String,
    /// the version
    #[argh(option)]
    version: Version,
    /// the sealed slot
    #[argh(option)]
    slot: PathBuf,
    /// a payload; each --from belongs to the --payload that is a difference, in order
    #[argh(option)]
    payload: Vec<PathBuf>,
    /// the release.json of the release that a difference starts from
    #[argh(option)]
    from: Vec<PathBuf>,
    /// the lowest version that may install it (0)
    #[argh(option, default = "ANY_VERSION.parse().expect(\"a version\")")]
    minimum: Version,
    /// days until it is not installed any more (365)
    #[argh(option, default = "365")]
    expires_days: u64,
    /// a private key that signs it; as often as the key set demands
    #[argh(option)]
    key: Vec<PathBuf>,
    /// the key set that machines have, for they must take the release (keys.json beside
    /// the first --key)
    #[argh(option)]
    trusted: Option<PathBuf>,
    /// a key set made by rotate, from the oldest on
    #[argh(option)]
    keys: Vec<PathBuf>,
    /// the file to write
    #[argh(option, short = 'o')]
    output: PathBuf,
}

/// Makes the payload that takes a machine to a slot: all of it, or the difference.
#[derive(FromArgs)]
#[argh(subcommand, name = "payload")]
struct Payload {
    /// the slot to get to
    #[argh(option)]
    new: PathBuf,
    /// the slot that the machine has; without it the payload is all of the new one
    #[argh(option)]
    old: Option<PathBuf>,
    /// the RSA key that signs it
    #[argh(option)]
    rsa_key: PathBuf,
    /// how hard to compress, 1 to 19 (19); 3 takes a tenth of the time, for tests
    #[argh(option, default = "payload::LEVEL")]
    level: i32,
    /// the file to write
    #[argh(option, short = 'o')]
    output: PathBuf,
}

/// Makes the key set that follows another, signed with keys of both.
#[derive(FromArgs)]
#[argh(subcommand, name = "rotate")]
struct Rotate {
    /// the key set that machines have
    #[argh(option)]
    trusted: PathBuf,
    /// a private key of that set; as often as it demands
    #[argh(option)]
    key: Vec<PathBuf>,
    /// a private key of the new set, one that stays as well
    #[argh(option)]
    new_key: Vec<PathBuf>,
    /// how many keys of the new set have to sign (1)
    #[argh(option, default = "1")]
    threshold: usize,
    /// where to write the new set for new images
    #[argh(option)]
    key_set: PathBuf,
    /// where to write the signed set, which releases bring along
    #[argh(option, short = 'o')]
    output: PathBuf,
}

/// Says what a slot, a payload, a release.json or a key set holds.
#[derive(FromArgs)]
#[argh(subcommand, name = "inspect")]
struct Inspect {
    /// the file
    #[argh(positional)]
    file: PathBuf,
}

fn main() -> ExitCode {
    match run(argh::from_env::<Arguments>().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut line = error.to_string();
            let mut cause = error::Error::source(&error);
            while let Some(error) = cause {
                line = format!("{line}: {error}");
                cause = error.source();
            }
            eprintln!("proa-release: {line}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), Error> {
    match command {
        Command::Inspect(arguments) => print!("{}", inspect::inspect(&arguments.file)?),
        Command::Keygen(arguments) if arguments.release_key_only => {
            keys::generate_release_key(&arguments.path)?;
        }
        Command::Keygen(arguments) => keys::generate(&arguments.path)?,
        Command::Metadata(arguments) => metadata(arguments)?,
        Command::Payload(arguments) => payload(&arguments)?,
        Command::Rotate(arguments) => rotate(&arguments)?,
        Command::Seal(arguments) => println!("{}", seal::seal(&arguments.slot, &arguments.version)?),
    }
    Ok(())
}

fn payload(arguments: &Payload) -> Result<(), Error> {
    if !payload::LEVELS.contains(&arguments.level) {
        return Err(Error::Argument(format!("--level {}: give 1 to {}", arguments.level, payload::LEVEL)));
    }
    let key = keys::PayloadKey::read(&arguments.rsa_key)?;
    let new = seal::Slot::read(&arguments.new)?;
    let old = arguments.old.as_deref().map(seal::Slot::read).transpose()?;
    write(&arguments.output, &payload::make(&new, old.as_ref(), &key, arguments.level)?)
}

fn metadata(arguments: Metadata) -> Result<(), Error> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now_unix_s = now.map_err(|_| Error::Argument("the clock is before 1970".to_owned()))?.as_secs();
    let wanted = metadata::Wanted {
        app: arguments.app,
        version: arguments.version,
        expires_unix_s: now_unix_s.saturating_add(arguments.expires_days.saturating_mul(86_400)),
        minimum: arguments.minimum,
        slot: &arguments.slot,
        payloads: arguments.payload,
        origins: arguments.from,
    };
    let beside = || arguments.key.first().map(|key| key.with_file_name(keys::KEY_SET));
    let trusted = arguments.trusted.clone().or_else(beside);
    let trusted = trusted.ok_or_else(|| Error::Argument("no --key to sign with".to_owned()))?;
    let trusted = metadata::read_key_set(&trusted)?;
    let chain: Result<_, _> = arguments.keys.iter().map(|path| metadata::read_envelope(path)).collect();
    let release = metadata::release(wanted)?;
    let json = metadata::sign(&release, &release_keys(&arguments.key)?, chain?, &trusted)?;
    write(&arguments.output, json.as_bytes())
}

fn rotate(arguments: &Rotate) -> Result<(), Error> {
    let trusted = metadata::read_key_set(&arguments.trusted)?;
    let (old, new) = (release_keys(&arguments.key)?, release_keys(&arguments.new_key)?);
    let (next, json) = metadata::rotate(&trusted, &old, &new, arguments.threshold)?;
    write(&arguments.output, json.as_bytes())?;
    write(&arguments.key_set, &next.render())
}

fn release_keys(paths: &[PathBuf]) -> Result<Vec<Ed25519KeyPair>, Error> {
    paths.iter().map(|path| keys::release_key(path)).collect()
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    fs::write(path, bytes).map_err(file("writing", path))
}
