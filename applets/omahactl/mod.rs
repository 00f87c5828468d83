//! `omahactl`: say which machines get which release when.

mod args;
mod release;
mod show;

use std::{path::PathBuf, process::ExitCode};

use args::Command;
use http::Method;
use proa_update_model::omaha::bare_id;
use proa_update_server::client::{self, Endpoint};
use serde_json::{Value, json};

use crate::Applet;

/// This applet's row.
pub const APPLET: Applet = Applet { name: "omahactl", link: "/usr/bin/omahactl", main };

/// Where omahad is when nobody says otherwise.
const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:8001";

/// Why a command did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// omahad did not answer, or said no.
    #[error(transparent)]
    Remote(#[from] client::Error),
    /// A command that there is not, or not so.
    #[error("usage: omahactl {0}")]
    Usage(&'static str),
    /// A word that can be no name.
    #[error("bad name {0:?}: give up to 64 letters, digits, dots, dashes and underscores")]
    Name(String),
    /// A word that is no setting.
    #[error("bad setting {0:?}: give SETTING=VALUE")]
    Setting(String),
    /// A file that cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Metadata that makes no sense.
    #[error("{}: {text}", path.display())]
    Metadata {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        text: String,
    },
    /// A payload of the metadata that was not given.
    #[error("the metadata names the payload {0}; give that file too")]
    NoFile(String),
    /// A file that the metadata does not name.
    #[error("the metadata names no payload {0:?}")]
    Stranger(String),
    /// A payload that is not the one of the metadata.
    #[error("{} is not the payload that the metadata names: it has {have}, not {want}", path.display())]
    OtherFile {
        /// The file.
        path: PathBuf,
        /// Its hash and size.
        have: String,
        /// Those of the metadata.
        want: String,
    },
}

/// One omahad and one of its applications.
pub struct Remote {
    endpoint: Endpoint,
    app: String,
}

impl Remote {
    async fn call(&self, method: Method, rest: &str, body: Option<&Value>) -> Result<Value, Error> {
        let path = format!("/api/v1/{}/{rest}", self.app);
        Ok(client::call(&self.endpoint, method, &path, body).await?)
    }

    async fn get(&self, rest: &str) -> Result<Value, Error> {
        self.call(Method::GET, rest, None).await
    }

    async fn delete(&self, rest: &str) -> Result<Value, Error> {
        self.call(Method::DELETE, rest, None).await
    }
}

fn main(args: Vec<String>) -> ExitCode {
    proa_base::cli::end_with_reader();
    let parsed = match args::parse(&args, &|name| std::env::var(name).ok()) {
        Ok(parsed) => parsed,
        Err(exit) => return crate::start::early("omahactl", &exit),
    };
    let Some(command) = parsed.command.as_ref().filter(|_| !parsed.version) else {
        println!("omahactl version {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    };
    let endpoint = match parsed.endpoint.as_deref().unwrap_or(DEFAULT_ENDPOINT).parse::<Endpoint>() {
        Ok(endpoint) => endpoint.trusting(parsed.cacert.clone()),
        Err(error) => return proa_base::cli::fail("omahactl", &error),
    };
    let app = match name(&bare_id(parsed.app.as_deref().unwrap_or_default())) {
        Ok(app) => app,
        Err(error) => return proa_base::cli::fail("omahactl", &error),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return proa_base::cli::fail("omahactl", &error),
    };
    match runtime.block_on(run(&Remote { endpoint, app }, command)) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => proa_base::cli::fail("omahactl", &error),
    }
}

/// Does one command; what to print.
async fn run(remote: &Remote, command: &Command) -> Result<String, Error> {
    match command {
        Command::Release(args) => match words(&args.words).as_slice() {
            ["add", files @ ..] => release::add(remote, args, files).await,
            ["list"] => Ok(show::releases(&remote.get("releases").await?, args.no_legend)),
            ["remove", version] => {
                remote.delete(&format!("releases/{}", name(version)?)).await?;
                Ok(format!("removed release {version}\n"))
            }
            _ => Err(Error::Usage("release add FILE... --metadata FILE | list | remove VERSION")),
        },
        Command::Channel(args) => match words(&args.words).as_slice() {
            ["list"] => Ok(show::channels(&remote.get("channels").await?, args.no_legend)),
            ["set", channel, version] => set_channel(remote, channel, version).await,
            ["remove", channel] => {
                remote.delete(&format!("channels/{}", name(channel)?)).await?;
                Ok(format!("removed channel {channel}\n"))
            }
            _ => Err(Error::Usage("channel list | set NAME VERSION | remove NAME")),
        },
        Command::Group(args) => group(remote, args).await,
        Command::Instance(args) => match words(&args.words).as_slice() {
            ["list"] => Ok(show::instances(&remote.get("instances").await?, args.no_legend)),
            ["list", group] => {
                let found = remote.get(&format!("instances?group={}", name(group)?)).await?;
                Ok(show::instances(&found, args.no_legend))
            }
            ["show", machine] => {
                let found = remote.get(&format!("instances/{}", name(machine)?)).await?;
                Ok(show::instance(&found, args.no_legend))
            }
            ["forget", machine] => {
                remote.delete(&format!("instances/{}", name(machine)?)).await?;
                Ok(format!("forgot machine {machine}\n"))
            }
            _ => Err(Error::Usage("instance list [GROUP] | show MACHINE | forget MACHINE")),
        },
        Command::Failed(args) => match words(&args.words).as_slice() {
            ["list"] => Ok(show::failed(&remote.get("failed").await?, args.no_legend)),
            ["clear", version] => {
                remote.delete(&format!("failed/{}", name(version)?)).await?;
                Ok(format!("version {version} may be offered again\n"))
            }
            _ => Err(Error::Usage("failed list | clear VERSION")),
        },
    }
}

async fn set_channel(remote: &Remote, channel: &str, version: &str) -> Result<String, Error> {
    // The plus of a build is the only character of a version that a path must not have.
    name(version)?;
    let path = format!("channels/{}", name(channel)?);
    let done = remote.call(Method::PUT, &path, Some(&json!({"version": version}))).await?;
    let mut text = format!("channel {channel} is {version}\n");
    if done["new_group"] == true {
        text.push_str(&format!("group {channel} follows it: one machine first, then 10 at a time\n"));
    }
    Ok(text)
}

async fn group(remote: &Remote, args: &args::Group) -> Result<String, Error> {
    let words = words(&args.words);
    let path = |group: &str| Ok::<_, Error>(format!("groups/{}", name(group)?));
    match words.as_slice() {
        ["list"] => Ok(show::groups(&remote.get("groups").await?, args.no_legend)),
        ["show", group] => Ok(show::group(&remote.get(&path(group)?).await?)),
        [verb @ ("add" | "set"), group, settings @ ..] => {
            let pair = |word: &&str| match word.split_once('=') {
                Some((setting, value)) => Ok((setting.to_owned(), Value::from(value))),
                None => Err(Error::Setting((*word).to_owned())),
            };
            let settings: serde_json::Map<String, Value> =
                settings.iter().map(pair).collect::<Result<_, _>>()?;
            let body = json!({"new": *verb == "add", "settings": settings});
            remote.call(Method::PUT, &path(group)?, Some(&body)).await?;
            Ok(show::group(&remote.get(&path(group)?).await?))
        }
        [verb @ ("pause" | "resume" | "clear"), group] => {
            remote.call(Method::POST, &format!("{}/{verb}", path(group)?), None).await?;
            Ok(show::group(&remote.get(&path(group)?).await?))
        }
        ["halt", group, reason @ ..] => {
            let reason =
                if reason.is_empty() { "an operator halted it".to_owned() } else { reason.join(" ") };
            let body = json!({"reason": reason});
            remote.call(Method::POST, &format!("{}/halt", path(group)?), Some(&body)).await?;
            Ok(show::group(&remote.get(&path(group)?).await?))
        }
        ["remove", group] => {
            remote.delete(&path(group)?).await?;
            Ok(format!("removed group {group}\n"))
        }
        _ => Err(Error::Usage(
            "group list | show NAME | add NAME [SETTING=VALUE]... | set NAME SETTING=VALUE... | pause NAME | \
             resume NAME | halt NAME [REASON] | clear NAME | remove NAME",
        )),
    }
}

fn words(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

/// A word as a part of a path.
fn name(word: &str) -> Result<String, Error> {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:+".contains(&byte);
    if word.is_empty() || word.len() > 64 || word.starts_with('.') || !word.bytes().all(is_good) {
        return Err(Error::Name(word.to_owned()));
    }
    Ok(word.replace('+', "%2B"))
}
