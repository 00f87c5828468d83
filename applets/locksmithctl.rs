//! `locksmithctl`: the cluster's reboot lock, for people.
//!
//! Flags are written as Go programs take them, before or after the command, and
//! each is also `LOCKSMITHCTL_NAME` in the environment.

use std::{path::PathBuf, process::ExitCode};

use proa_base::flags;
use proa_etcd_client::tls::TlsFiles;
use proa_update_engine::locksmith::{Error, Store, command, config::Config};

use crate::Applet;

/// This applet's row.
pub const APPLET: Applet = Applet { name: "locksmithctl", link: "/usr/bin/locksmithctl", main };

/// Source: locksmith 0.6.2; the port before etcd 2.0 is tried as well.
const USUAL_ENDPOINTS: &str = "http://127.0.0.1:2379,http://127.0.0.1:4001";

const HELP: &str = "\
Usage: locksmithctl [flags] <command>

Commands:
  status        who holds the reboot lock, and why
  lock [ID]     take the lock for this machine or ID; it stays until it is unlocked
  unlock [ID]   give the lock of this machine or ID back
  set-max N     let N machines reboot at a time
  reboot        reboot this machine: lock, drain, hand over, go down
  clear VERSION let machines boot a release that failed or is suspect
  help          print this text

Flags:
  --endpoint URL       members of the store, parted by commas (default http://127.0.0.1:2379,http://127.0.0.1:4001)
  --group NAME         the lock of a group of machines
  --etcd-cafile FILE   CAs that members must have a certificate of
  --etcd-certfile FILE our own certificate
  --etcd-keyfile FILE  its key
  --version            print the version

Each flag is also LOCKSMITHCTL_NAME in the environment.
";

/// Flags with a value.
const FLAGS: [&str; 5] = ["endpoint", "group", "etcd-cafile", "etcd-certfile", "etcd-keyfile"];
/// Flags without one; the original's `debug` is taken and means nothing.
const SWITCHES: [&str; 3] = ["version", "debug", "help"];

/// A command line, understood.
#[derive(Debug, Default)]
struct Line {
    values: Vec<(String, String)>,
    words: Vec<String>,
    version: bool,
    help: bool,
}

impl Line {
    fn parse(args: &[String]) -> Result<Self, String> {
        let mut line = Self::default();
        let words = flags::normalise(args, &SWITCHES);
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match word.strip_prefix("--").or_else(|| word.strip_prefix('-')) {
                Some("version") => line.version = true,
                Some("help" | "h") => line.help = true,
                Some("debug") => {}
                Some(name) if FLAGS.contains(&name) => {
                    let value = words.next().ok_or_else(|| format!("flag {word} needs a value"))?;
                    line.values.push((name.to_owned(), value.clone()));
                }
                Some(_) => return Err(format!("unknown flag {word}; locksmithctl help lists what there is")),
                None => line.words.push(word.clone()),
            }
        }
        Ok(line)
    }

    /// A flag, all of its values parted by commas, else its variable.
    fn value(&self, name: &str) -> Option<String> {
        let given: Vec<&str> =
            self.values.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect();
        if !given.is_empty() {
            return Some(given.join(","));
        }
        let variable = format!("LOCKSMITHCTL_{}", name.replace('-', "_").to_uppercase());
        std::env::var(variable).ok().filter(|value| !value.is_empty())
    }

    fn endpoints(&self) -> Vec<String> {
        let text = self.value("endpoint").unwrap_or_else(|| USUAL_ENDPOINTS.to_owned());
        let texts = text.split(',').map(str::trim).filter(|text| !text.is_empty());
        let with_scheme =
            |text: &str| if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        texts.map(with_scheme).collect()
    }

    fn tls(&self) -> Result<TlsFiles, String> {
        let path = |name: &str| self.value(name).map(PathBuf::from);
        let identity = match (path("etcd-certfile"), path("etcd-keyfile")) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((certificate, key)),
            _ => return Err("--etcd-certfile and --etcd-keyfile need each other".to_owned()),
        };
        Ok(TlsFiles { trusted_ca: path("etcd-cafile"), identity, ..TlsFiles::default() })
    }
}

fn main(args: Vec<String>) -> ExitCode {
    proa_base::cli::end_with_reader();
    let line = match Line::parse(&args) {
        Ok(line) => line,
        Err(text) => return fail(&text),
    };
    if line.version {
        println!("locksmithctl version {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    let words: Vec<&str> = line.words.iter().map(String::as_str).collect();
    if line.help || matches!(words.as_slice(), [] | ["help", ..]) {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return proa_base::cli::fail("locksmithctl", &error),
    };
    match runtime.block_on(run(&line, &words)) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(text) => fail(&text),
    }
}

fn fail(text: &str) -> ExitCode {
    eprintln!("{text}");
    ExitCode::FAILURE
}

/// Does one command; what to print, or what went wrong in the original's words
/// where it had some.
async fn run(line: &Line, words: &[&str]) -> Result<String, String> {
    let group = line.value("group").unwrap_or_default();
    let told = |what: &str, error: &Error| format!("Error {what}: {}", proa_base::cli::chain(error));
    let store = || {
        let store = Store::new(&line.endpoints(), &line.tls()?);
        store.map_err(|error| told("initializing etcd client", &error))
    };
    match words {
        ["status"] => command::status(&store()?, &group).await.map_err(|error| told("getting value", &error)),
        ["lock"] | ["lock", _] => {
            let holder = holder(words.get(1))?;
            let done = command::lock(&store()?, &group, &holder).await;
            done.map(|()| String::new()).map_err(|error| told("locking", &error))
        }
        ["unlock"] | ["unlock", _] => {
            let holder = holder(words.get(1))?;
            let done = command::unlock(&store()?, &group, &holder).await;
            done.map(|()| String::new()).map_err(|error| told("unlocking", &error))
        }
        ["set-max"] => Err("New maximum value must be set.".to_owned()),
        ["set-max", number] => {
            let max = number.parse().map_err(|_| format!("Invalid maximum value: {number}"))?;
            let done = command::set_max(&store()?, &group, max).await;
            done.map_err(|error| told("setting value", &error))
        }
        ["clear", version] => {
            let count = store()?.clear(version).await.map_err(|error| told("clearing", &error))?;
            match count {
                0 => Err(format!("nothing is held against release {version}")),
                _ => Ok(format!("Cleared release {version}\n")),
            }
        }
        ["clear"] => Err("name the release to clear; locksmithctl status lists the suspect ones".to_owned()),
        ["reboot"] => reboot(line, group, store()?).await,
        [] | [_, ..] => {
            let command = words.join(" ");
            Err(format!("cannot understand {command:?}; locksmithctl help lists commands"))
        }
    }
}

fn holder(word: Option<&&str>) -> Result<String, String> {
    match word {
        Some(word) => Ok((*word).to_owned()),
        None => {
            let id = std::fs::read_to_string("/etc/machine-id").unwrap_or_default().trim().to_owned();
            if id.is_empty() { Err("Cannot read machine-id".to_owned()) } else { Ok(id) }
        }
    }
}

async fn reboot(line: &Line, group: String, store: Store) -> Result<String, String> {
    // The daemon's own settings say where bus and cluster init are, and how long to wait.
    let config = Config::load(&[]).map_err(|error| error.to_string())?;
    let config = Config { group, endpoints: line.endpoints(), tls: line.tls()?, ..config };
    let tell = |text: &str| eprintln!("{text}");
    let done = command::reboot(config, store, tell).await;
    done.map(|()| String::new())
        .map_err(|error| format!("Error rebooting: {}", proa_base::cli::chain(&error)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Line, String> {
        Line::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn flags_stand_anywhere_and_may_be_repeated() {
        for text in [
            "-endpoint=http://a:1 -endpoint http://b:2 unlock x",
            "unlock --endpoint http://a:1,b:2 x --debug",
            "-debug unlock x -endpoint a:1,b:2",
        ] {
            let line = parse(text).unwrap();
            assert_eq!(line.words, ["unlock", "x"], "{text}");
            assert_eq!(line.endpoints(), ["http://a:1", "http://b:2"], "{text}");
        }
        assert_eq!(parse("status --group g").unwrap().value("group").as_deref(), Some("g"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, want) in [("status --grup g", "--grup"), ("status --group", "--group needs a value")] {
            assert!(parse(text).unwrap_err().contains(want), "{text}");
        }
        assert!(parse("--etcd-keyfile k status").unwrap().tls().is_err());
    }
}
