//! `ETCDCTL_API=2 etcdctl`: the commands of etcd's first API.
//!
//! What is printed, and the exit status, are those of etcdctl 3.4 in its v2 mode.

mod auth;
mod backup;
mod keys;
mod members;
mod node;
mod remote;
mod watch;

use std::future::Future;
use std::pin::Pin;
use std::process::ExitCode;

use super::args::{Args, Flag, Kind, Late, Tables, switch, value};
use super::emit;
use remote::Remote;

/// How a command ends that does not succeed: lines for stderr, and a status.
///
/// Source of the numbers: etcdctl 3.4's `ctlv2/command/error.go`.
#[derive(Debug)]
pub struct End {
    /// For stderr, as they are.
    pub text: String,
    /// The exit status.
    pub code: u8,
}

const BAD_ARGS: u8 = 1;
const BAD_CONNECTION: u8 = 2;
/// What the original gives for an unknown command.
const NO_SUCH_COMMAND: u8 = 3;
const SERVER_ERROR: u8 = 4;
const NOT_HEALTHY: u8 = 5;

impl End {
    /// Arguments that are missing or wrong.
    fn args(text: &str) -> Self {
        Self { text: format!("Error:  {text}"), code: BAD_ARGS }
    }

    /// A line of the command's own, with the common status.
    fn plain(text: impl Into<String>) -> Self {
        Self { text: text.into(), code: 1 }
    }
}

/// `--output`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// The value alone.
    Simple,
    /// Headers, an empty line, the value.
    Extended,
    /// What the server answered.
    Json,
}

/// What a command works with.
pub struct Context {
    remote: Remote,
    args: Args,
    output: Output,
}

impl Context {
    /// The first argument, that must be there.
    fn key(&self) -> Result<&str, End> {
        self.args.rest.first().map(String::as_str).ok_or_else(|| End::args("key required"))
    }

    fn number(&self, name: &str) -> Result<i64, End> {
        self.args.number(name, 0).map_err(|failure| End::plain(failure.text))
    }

    fn no_arguments(&self) -> Result<(), End> {
        if self.args.rest.is_empty() { Ok(()) } else { Err(End::plain("No arguments accepted")) }
    }
}

type Done<'a> = Pin<Box<dyn Future<Output = Result<(), End>> + 'a>>;

struct Command {
    words: &'static [&'static str],
    flags: &'static [Flag],
    arguments: &'static str,
    help: &'static str,
    /// Whether the member list is read before.
    sync: Sync,
    run: for<'a> fn(&'a Context) -> Done<'a>,
}

/// Whether a command works on the members' own client URLs or on the endpoints given.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sync {
    Yes,
    No,
}

macro_rules! commands {
    ($($words:expr, $flags:expr, $arguments:literal, $help:literal, $sync:expr, $run:path;)+) => {
        &[$(Command {
            words: &$words,
            flags: $flags,
            arguments: $arguments,
            help: $help,
            sync: $sync,
            run: |context| Box::pin($run(context)),
        },)+]
    };
}

#[rustfmt::skip]
const COMMANDS: &[Command] = commands! {
    ["backup"], backup::BACKUP, "", "copy the data dir of a member", Sync::No, backup::backup;
    ["cluster-health"], members::HEALTH, "", "check the health of the cluster", Sync::No, members::cluster_health;
    ["mk"], keys::MK, "KEY VALUE", "make a new key with a given value", Sync::Yes, keys::mk;
    ["mkdir"], keys::TTL, "KEY", "make a new directory", Sync::Yes, keys::mkdir;
    ["rm"], keys::RM, "KEY", "remove a key or a directory", Sync::Yes, keys::rm;
    ["rmdir"], &[], "KEY", "remove a key or an empty directory", Sync::Yes, keys::rmdir;
    ["get"], keys::GET, "KEY", "retrieve the value of a key", Sync::Yes, keys::get;
    ["ls"], keys::LS, "[KEY]", "retrieve a directory", Sync::Yes, keys::ls;
    ["set"], keys::SET, "KEY VALUE", "set the value of a key", Sync::Yes, keys::set;
    ["setdir"], keys::TTL, "KEY", "create a new directory", Sync::Yes, keys::setdir;
    ["update"], keys::TTL, "KEY VALUE", "update an existing key with a given value", Sync::Yes, keys::update;
    ["updatedir"], keys::TTL, "KEY", "update an existing directory", Sync::Yes, keys::updatedir;
    ["watch"], watch::WATCH, "KEY", "watch a key for changes", Sync::Yes, watch::watch;
    ["exec-watch"], watch::EXEC_WATCH, "KEY -- COMMAND [ARG...]", "run a command at each change of a key", Sync::Yes, watch::exec_watch;
    ["member", "list"], &[], "", "list the members", Sync::Yes, members::list;
    ["member", "add"], &[], "NAME PEER-URL", "add a member", Sync::Yes, members::add;
    ["member", "remove"], &[], "ID", "remove a member", Sync::Yes, members::remove;
    ["member", "update"], &[], "ID PEER-URLS", "change the peer URLs of a member", Sync::Yes, members::update;
    ["user", "add"], &[], "NAME:PASSWORD", "add a user", Sync::Yes, auth::user_add;
    ["user", "get"], &[], "NAME", "show a user", Sync::Yes, auth::user_get;
    ["user", "list"], &[], "", "list users", Sync::Yes, auth::user_list;
    ["user", "remove"], &[], "NAME", "remove a user", Sync::Yes, auth::user_remove;
    ["user", "grant"], auth::ROLES, "NAME", "grant roles to a user", Sync::Yes, auth::user_grant;
    ["user", "revoke"], auth::ROLES, "NAME", "revoke roles of a user", Sync::Yes, auth::user_revoke;
    ["user", "passwd"], &[], "NAME", "change the password of a user, read from standard input", Sync::Yes, auth::user_passwd;
    ["role", "add"], &[], "NAME", "add a role", Sync::Yes, auth::role_add;
    ["role", "get"], &[], "NAME", "show a role", Sync::Yes, auth::role_get;
    ["role", "list"], &[], "", "list roles", Sync::Yes, auth::role_list;
    ["role", "remove"], &[], "NAME", "remove a role", Sync::Yes, auth::role_remove;
    ["role", "grant"], auth::PERMISSION, "NAME", "grant a path to a role", Sync::Yes, auth::role_grant;
    ["role", "revoke"], auth::PERMISSION, "NAME", "revoke a path of a role", Sync::Yes, auth::role_revoke;
    ["auth", "enable"], &[], "", "enable access control", Sync::Yes, auth::enable;
    ["auth", "disable"], &[], "", "disable access control", Sync::Yes, auth::disable;
};

const GLOBAL: &[Flag] = &[
    value("endpoints", "where members are asked (default http://127.0.0.1:2379,http://127.0.0.1:4001)"),
    value("endpoint", "as --endpoints"),
    value("peers", "as --endpoints (-C)"),
    value("discovery-srv", "ask the members that the SRV records of this domain name (-D)"),
    value("discovery-srv-name", "by _etcd-client[-ssl]-NAME._tcp instead of _etcd-client[-ssl]._tcp"),
    switch("insecure-discovery", "records may name members without TLS"),
    switch("no-sync", "ask the endpoints given, not those of the member list"),
    value("output", "simple, extended or json (-o, default simple)"),
    value("cert-file", "our own certificate, with its chain"),
    value("key-file", "the key of --cert-file"),
    value("ca-file", "members must have a certificate of these CAs (default: the system's)"),
    value("username", "USER:PASSWORD (-u)"),
    value("timeout", "for the answer to one request (default 2s)"),
    value("total-timeout", "for a command but watch (default 5s)"),
    switch("debug", "say on stderr what is asked"),
    switch("version", "print the version (-v)"),
    switch("help", "print this (-h)"),
];

/// Letters and second names. Source: etcdctl 3.4's v2 help.
const SHORT: &[(&str, &str)] = &[
    ("o", "output"),
    ("C", "peers"),
    ("u", "username"),
    ("D", "discovery-srv"),
    ("v", "version"),
    ("h", "help"),
    ("r", "recursive"),
    ("f", "forever"),
    ("q", "quorum"),
    ("rw", "readwrite"),
];

fn tables(own: &'static [Flag]) -> Tables<'static> {
    Tables { own, global: GLOBAL, short: SHORT, late: Late::Own }
}

/// Runs one command line.
pub fn main(words: &[String]) -> ExitCode {
    match run(words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(end) => {
            if !end.text.is_empty() {
                eprintln!("{}", end.text);
            }
            ExitCode::from(end.code)
        }
    }
}

fn run(words: &[String]) -> Result<(), End> {
    let places = argument_places(words);
    let at = |number: usize| places.get(number).map(|place| words[*place].as_str());
    let named =
        |command: &&Command| command.words.iter().enumerate().all(|(number, word)| at(number) == Some(*word));
    let Some(command) = COMMANDS.iter().find(named) else { return without_command(words, at(0), at(1)) };
    let taken = &places[..command.words.len()];
    let rest: Vec<String> = words
        .iter()
        .enumerate()
        .filter(|(place, _)| !taken.contains(place))
        .map(|(_, word)| word.clone())
        .collect();
    let args = Args::parse_by(&rest, &tables(command.flags)).map_err(|failure| End::plain(failure.text))?;
    if args.is_on("help") {
        emit(&help_of(command));
        return Ok(());
    }
    let output = match args.get("output") {
        None | Some("simple") => Output::Simple,
        Some("extended") => Output::Extended,
        Some("json") => Output::Json,
        Some(other) => {
            let text = format!("Unsupported output format: {other}; give simple, extended or json");
            return Err(End::plain(text));
        }
    };
    let mut remote = Remote::from_settings(&args)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| End::plain(format!("starting: {error}")))?;
    runtime.block_on(async {
        remote.discover(&args).await?;
        if command.sync == Sync::Yes && !args.is_on("no-sync") {
            remote.sync().await?;
        }
        (command.run)(&Context { remote, args, output }).await
    })
}

/// Help, the version, or an unknown command.
fn without_command(words: &[String], first: Option<&str>, second: Option<&str>) -> Result<(), End> {
    let args = Args::parse_by(words, &tables(&[])).map_err(|failure| End::plain(failure.text))?;
    let in_group = |word: &str| COMMANDS.iter().filter(move |command| command.words[0] == word).collect();
    let group: Vec<&Command> = first.map_or(Vec::new(), in_group);
    match (first, second) {
        (None, _) if args.is_on("version") => {
            emit(&super::versions("2"));
        }
        (None | Some("help" | "h"), _) => emit(&help(&COMMANDS.iter().collect::<Vec<_>>())),
        (Some(_), None) if !group.is_empty() => emit(&help(&group)),
        (Some(word), second) => {
            let unknown = if group.is_empty() { word } else { second.unwrap_or(word) };
            return Err(End { text: format!("No help topic for '{unknown}'"), code: NO_SUCH_COMMAND });
        }
    }
    Ok(())
}

/// Where the words are that are neither flags nor their values.
fn argument_places(words: &[String]) -> Vec<usize> {
    let takes_value = |word: &str| {
        let name = word.trim_start_matches('-');
        let name = SHORT.iter().find(|(letter, _)| *letter == name).map_or(name, |(_, long)| *long);
        GLOBAL.iter().any(|flag| flag.name == name && flag.kind == Kind::Value)
    };
    let mut places = Vec::new();
    let mut is_value = false;
    for (place, word) in words.iter().enumerate() {
        let is_flag = word.starts_with('-') && word.len() > 1;
        if !is_value && !is_flag {
            places.push(place);
        }
        is_value = !is_value && is_flag && takes_value(word);
    }
    places
}

fn help(commands: &[&Command]) -> String {
    let mut text =
        "etcdctl asks the store by the API version 2.\n\nUsage: etcdctl [flags] COMMAND\n\nCommands:\n"
            .to_owned();
    for command in commands {
        text += &format!("  {:<16} {}\n", command.words.join(" "), command.help);
    }
    text + "\nFlags of all commands:\n" + &flags(GLOBAL)
}

fn help_of(command: &Command) -> String {
    let usage = format!("{} {}", command.words.join(" "), command.arguments);
    format!(
        "{}\n\nUsage: etcdctl {} [flags]\n\n{}\nFlags of all commands:\n{}",
        command.help,
        usage.trim_end(),
        flags(command.flags),
        flags(GLOBAL)
    )
}

fn flags(flags: &[Flag]) -> String {
    flags.iter().map(|flag| format!("  --{:<22} {}\n", flag.name, flag.help)).collect()
}
