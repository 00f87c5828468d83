//! `etcdctl`: ask the store, print the answer.

mod args;
mod auth;
mod check;
mod completion;
mod discovery;
mod endpoints;
mod failure;
mod go;
mod http;
mod json;
mod kv;
mod lease;
mod members;
mod mirror;
mod print;
mod role;
mod session;
mod snapshot;
mod terminal;
mod tls;
mod txn;
mod user;
mod v2;
mod watch;

use std::collections::BTreeSet;
use std::future::Future;
use std::io::Write as _;
use std::pin::Pin;
use std::process::ExitCode;

use proa_etcd_client::tls::TlsFiles;
use proa_etcd_client::{Client, Timeouts};

use crate::Applet;
use args::{Args, Flag, GLOBAL, Kind};
use discovery::Trust;
use failure::Failure;
use print::{Format, Printer};

/// This applet's row.
pub const APPLET: Applet = Applet { name: "etcdctl", link: "/usr/bin/etcdctl", main };

/// The version of etcd's API that is spoken.
const API_VERSION: &str = "3.5";

/// As good as for ever, and no timer overflows.
const UNLIMITED: std::time::Duration = std::time::Duration::from_secs(86_400 * 365);

/// What a command works with.
struct Context {
    client: Client,
    endpoints: Vec<String>,
    timeouts: Timeouts,
    tls: Option<TlsFiles>,
    args: Args,
    printer: Printer,
    login: Option<Login>,
}

/// `--user` and `--password`.
struct Login {
    name: String,
    password: String,
}

impl Context {
    /// A client of other endpoints, with this run's settings.
    fn connect(&self, endpoints: &[String]) -> Result<Client, Failure> {
        connect(endpoints, self.timeouts, self.tls.clone(), self.login.as_ref())
    }

    /// A client of another cluster, by the flags that begin with `dest-`.
    fn connect_to_destination(&self, endpoint: &str) -> Result<Client, Failure> {
        let flag = |name: &str| self.args.get(&format!("dest-{name}")).map(str::to_owned);
        let login = login(&flag, "Destination Password: ")?;
        connect(&[endpoint.to_owned()], self.timeouts, tls::destination(&self.args)?, login.as_ref())
    }
}

fn connect(
    endpoints: &[String],
    timeouts: Timeouts,
    tls: Option<TlsFiles>,
    login: Option<&Login>,
) -> Result<Client, Failure> {
    let client = match tls {
        None => Client::with_timeouts(endpoints, timeouts)?,
        Some(files) => Client::with_tls(endpoints, timeouts, files)?,
    };
    Ok(match login {
        Some(Login { name, password }) => client.as_user(name, password),
        None => client,
    })
}

type Done<'a> = Pin<Box<dyn Future<Output = Result<(), Failure>> + 'a>>;

/// One command: its words, its own flags, its help, what it does.
struct Command {
    words: &'static [&'static str],
    flags: &'static [Flag],
    arguments: &'static str,
    help: &'static str,
    run: for<'a> fn(&'a Context) -> Done<'a>,
}

macro_rules! commands {
    ($($words:expr, $flags:expr, $arguments:literal, $help:literal, $run:path;)+) => {
        &[$(Command {
            words: &$words,
            flags: $flags,
            arguments: $arguments,
            help: $help,
            run: |context| Box::pin($run(context)),
        },)+]
    };
}

#[rustfmt::skip]
const COMMANDS: &[Command] = commands! {
    ["get"], kv::GET, "KEY [RANGE_END]", "Gets the key or a range of keys", kv::get;
    ["put"], kv::PUT, "KEY [VALUE]", "Puts the given key into the store", kv::put;
    ["del"], kv::DEL, "KEY [RANGE_END]", "Removes the specified key or range of keys", kv::del;
    ["txn"], txn::TXN, "", "Processes a transaction from standard input", txn::txn;
    ["watch"], watch::WATCH, "KEY [RANGE_END] [-- COMMAND ARG...]", "Watches events on keys or prefixes", watch::watch;
    ["compaction"], kv::COMPACTION, "REVISION", "Compacts the event history", kv::compaction;
    ["lease", "grant"], &[], "TTL", "Creates leases", lease::grant;
    ["lease", "revoke"], &[], "ID", "Revokes leases", lease::revoke;
    ["lease", "timetolive"], lease::TIME_TO_LIVE, "ID", "Get lease information", lease::time_to_live;
    ["lease", "list"], &[], "", "List all active leases", lease::list;
    ["lease", "keep-alive"], lease::KEEP_ALIVE, "ID", "Keeps leases alive (renew)", lease::keep_alive;
    ["member", "list"], &[], "", "Lists all members in the cluster", members::member_list;
    ["member", "add"], members::MEMBER_ADD, "NAME", "Adds a member into the cluster", members::member_add;
    ["member", "remove"], &[], "ID", "Removes a member from the cluster", members::member_remove;
    ["member", "update"], members::MEMBER_UPDATE, "ID", "Updates a member in the cluster", members::member_update;
    ["member", "promote"], &[], "ID", "Promotes a non-voting member in the cluster", members::member_promote;
    ["move-leader"], &[], "ID", "Transfers leadership to another member", members::move_leader;
    ["endpoint", "status"], endpoints::ENDPOINT, "", "Prints out the status of endpoints", endpoints::endpoint_status;
    ["endpoint", "health"], endpoints::ENDPOINT, "", "Checks the healthiness of endpoints", endpoints::endpoint_health;
    ["endpoint", "hashkv"], endpoints::HASH_KV, "", "Prints the KV history hash for each endpoint", endpoints::endpoint_hashkv;
    ["alarm", "list"], &[], "", "Lists all alarms", endpoints::alarm_list;
    ["alarm", "disarm"], &[], "", "Disarms all alarms", endpoints::alarm_disarm;
    ["defrag"], endpoints::DEFRAG, "", "Gives space of deleted data back", endpoints::defrag;
    ["snapshot", "save"], &[], "FILE", "Stores a snapshot of one member's database in a file", snapshot::save;
    ["snapshot", "status"], &[], "FILE", "Says what is in a snapshot", snapshot::status;
    ["snapshot", "restore"], snapshot::RESTORE, "FILE", "Makes a member's data dir from a snapshot", snapshot::restore;
    ["lock"], session::LOCK, "NAME [COMMAND ARG...]", "Acquires a named lock", session::lock;
    ["elect"], session::ELECT, "NAME [PROPOSAL]", "Observes and participates in leader election", session::elect;
    ["make-mirror"], mirror::MAKE_MIRROR, "DESTINATION", "Makes a mirror at the destination cluster", mirror::make_mirror;
    ["check", "perf"], check::PERF, "", "Checks the performance of the cluster, for a minute", check::perf;
    ["check", "datascale"], check::DATASCALE, "", "Checks the memory of a member that holds much data", check::datascale;
    ["completion"], completion::COMPLETION, "bash|zsh|fish", "Prints a script that completes commands in a shell", completion::completion;
    ["auth", "enable"], &[], "", "Enables authentication", auth::enable;
    ["auth", "disable"], &[], "", "Disables authentication", auth::disable;
    ["auth", "status"], &[], "", "Returns authentication status", auth::status;
    ["user", "add"], user::ADD, "NAME[:PASSWORD]", "Adds a new user", user::add;
    ["user", "delete"], &[], "NAME", "Deletes a user", user::delete;
    ["user", "get"], user::GET, "NAME", "Gets detailed information of a user", user::get;
    ["user", "list"], &[], "", "Lists all users", user::list;
    ["user", "passwd"], user::PASSWD, "NAME", "Changes password of user", user::passwd;
    ["user", "grant-role"], &[], "USER ROLE", "Grants a role to a user", user::grant_role;
    ["user", "revoke-role"], &[], "USER ROLE", "Revokes a role from a user", user::revoke_role;
    ["role", "add"], &[], "NAME", "Adds a new role", role::add;
    ["role", "delete"], &[], "NAME", "Deletes a role", role::delete;
    ["role", "get"], &[], "NAME", "Gets detailed information of a role", role::get;
    ["role", "list"], &[], "", "Lists all roles", role::list;
    ["role", "grant-permission"], role::RANGE, "ROLE read|write|readwrite KEY [ENDKEY]", "Grants a key to a role", role::grant_permission;
    ["role", "revoke-permission"], role::RANGE, "ROLE KEY [ENDKEY]", "Revokes a key from a role", role::revoke_permission;
};

fn main(words: Vec<String>) -> ExitCode {
    proa_base::cli::end_with_reader();
    let version = std::env::var_os("ETCDCTL_API").unwrap_or_default();
    match version.to_str() {
        Some("" | "3") => {}
        Some("2") => return v2::main(&words),
        _ => {
            eprintln!(
                "Error: unsupported API version ETCDCTL_API={}: give 2 or 3",
                version.to_string_lossy()
            );
            return ExitCode::FAILURE;
        }
    }
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.text.is_empty() {
                eprintln!("Error: {}", failure.text);
            }
            ExitCode::from(failure.code)
        }
    }
}

fn run(words: &[String]) -> Result<(), Failure> {
    let Some((command, rest)) = choose(words)? else { return Ok(()) };
    let args = Args::parse(&rest, command.flags)?;
    if args.is_on("help") {
        emit(&help_of(command));
        return Ok(());
    }
    let format = Format::parse(&setting(&args, "write-out").unwrap_or_else(|| "simple".to_owned()))?;
    let is_on = |name| setting(&args, name).is_some_and(|value| args::is_true(&value));
    let tls = tls::files(&args)?;
    let printer = Printer { format, hex: is_on("hex"), value_only: args.is_on("print-value-only") };
    let usual = Timeouts::default();
    let timeouts = Timeouts {
        connect: dial_timeout(&args)?.unwrap_or(usual.connect),
        request: duration(&args, "command-timeout")?.unwrap_or(usual.request),
    };
    let login = login(&|name| setting(&args, name), "Password: ")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::error(format!("starting: {error}")))?;
    let found = match command.words {
        // They work with files alone.
        ["completion"] | ["snapshot", "status" | "restore"] => Vec::new(),
        _ => runtime.block_on(discovered(&args))?,
    };
    let endpoints = if found.is_empty() { given_endpoints(&args) } else { found };
    let client = connect(&endpoints, timeouts, tls.clone(), login.as_ref())?;
    let context = Context { client, endpoints, timeouts, tls, args, printer, login };
    runtime.block_on((command.run)(&context))
}

fn given_endpoints(args: &Args) -> Vec<String> {
    let endpoints = setting(args, "endpoints").unwrap_or_else(|| "127.0.0.1:2379".to_owned());
    endpoints.split(',').map(|endpoint| endpoint.trim().to_owned()).collect()
}

/// The members of `--discovery-srv`. They count more than `--endpoints`, as with etcdctl.
async fn discovered(args: &Args) -> Result<Vec<String>, Failure> {
    let Some(domain) = setting(args, "discovery-srv").filter(|domain| !domain.is_empty()) else {
        return Ok(Vec::new());
    };
    let suffix = setting(args, "discovery-srv-name").unwrap_or_default();
    let trust = if tls::checks_domain(args) { Trust::Encrypted } else { Trust::Everybody };
    discovery::endpoints(&domain, &suffix, trust).await.map_err(Failure::error)
}

/// Who asks. As with etcdctl, an empty password is none: nobody logs in.
fn login(setting: &dyn Fn(&str) -> Option<String>, prompt: &str) -> Result<Option<Login>, Failure> {
    let Some(user) = setting("user").filter(|user| !user.is_empty()) else { return Ok(None) };
    let (name, password) = match (setting("password"), user.split_once(':')) {
        (Some(password), _) => (user.clone(), password),
        (None, Some((name, password))) => (name.to_owned(), password.to_owned()),
        (None, None) => (user.clone(), terminal::ask(prompt)?),
    };
    Ok((!name.is_empty() && !password.is_empty()).then_some(Login { name, password }))
}

/// The command that the words name, and the words that are left; `None` when
/// the question is answered already.
fn choose(words: &[String]) -> Result<Option<(&'static Command, Vec<String>)>, Failure> {
    // Global flags may stand before the command.
    let places = argument_places(words);
    let at = |number: usize| places.get(number).map(|place| words[*place].as_str());
    let first = COMMANDS.iter().map(|command| command.words[0]).chain(["help", "version"]);
    match at(0).map(|word| whole(word, first).unwrap_or(word)) {
        None | Some("help") => {
            emit(&help());
            return Ok(None);
        }
        Some("version") => {
            emit(&versions(API_VERSION));
            return Ok(None);
        }
        Some(_) => {}
    }
    let Some(command) = named(at) else {
        let word = at(0).unwrap_or_default();
        let text =
            unknown(whole(word, COMMANDS.iter().map(|command| command.words[0])).unwrap_or(word), at(1));
        return Err(Failure::error(text));
    };
    let taken = &places[..command.words.len()];
    let rest = words.iter().enumerate().filter(|(place, _)| !taken.contains(place));
    Ok(Some((command, rest.map(|(_, word)| word.clone()).collect())))
}

/// The version of etcd whose command set this is, as `etcd --version` has the
/// server's: scripts compare it.
fn versions(api: &str) -> String {
    let (etcd, proa) = (proa_etcd_server::PROTOCOL_VERSION, env!("CARGO_PKG_VERSION"));
    format!("etcdctl version: {etcd}\nAPI version: {api}\nProa: {proa}\n")
}

/// The name that is meant by `word`: itself, or the only one that begins with it.
///
/// Source: cobra's `EnablePrefixMatching`, which etcdctl turns on; `compact` is what people type.
fn whole(word: &str, names: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    let meant: BTreeSet<&str> = names.filter(|name| name.starts_with(word)).collect();
    match meant.get(word) {
        Some(name) => Some(name),
        None if meant.len() == 1 => meant.first().copied(),
        None => None,
    }
}

/// The command that these words begin with.
fn named<'a>(at: impl Fn(usize) -> Option<&'a str>) -> Option<&'static Command> {
    let root = COMMANDS.iter().map(|command| command.words[0]).chain(["help", "version"]);
    let first = whole(at(0)?, root)?;
    let mut group = COMMANDS.iter().filter(|command| command.words[0] == first);
    match group.clone().next()?.words.len() {
        1 => group.next(),
        _ => {
            let second = whole(at(1)?, group.clone().map(|command| command.words[1]))?;
            group.find(|command| command.words[1] == second)
        }
    }
}

fn unknown(word: &str, next: Option<&str>) -> String {
    let choices: Vec<&str> = COMMANDS
        .iter()
        .filter(|command| command.words[0] == word)
        .filter_map(|command| command.words.get(1).copied())
        .collect();
    if choices.is_empty() {
        return format!("unknown command {word:?} for \"etcdctl\"; run 'etcdctl --help' for usage");
    }
    format!(
        "unknown command \"{word} {}\" for \"etcdctl\"; give {word} {}",
        next.unwrap_or_default(),
        choices.join(", ")
    )
}

/// Where the words are that are neither flags nor their values.
fn argument_places(words: &[String]) -> Vec<usize> {
    let takes_value = |word: &str| {
        let name = word.trim_start_matches('-');
        let name = if name == "w" { "write-out" } else { name };
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

/// A global flag, or its `ETCDCTL_NAME` in the environment.
fn setting(args: &Args, name: &str) -> Option<String> {
    let from_env = || {
        let variable = format!("ETCDCTL_{}", name.replace('-', "_").to_uppercase());
        std::env::var(variable).ok().filter(|value| !value.is_empty())
    };
    args.get(name).map(str::to_owned).or_else(from_env)
}

/// `--dial-timeout`; 0 waits for as long as it takes, as with etcdctl.
fn dial_timeout(args: &Args) -> Result<Option<std::time::Duration>, Failure> {
    let given = setting(args, "dial-timeout").and_then(|text| proa_base::duration::parse(&text).ok());
    if given.is_some_and(|timeout| timeout.is_zero()) {
        return Ok(Some(UNLIMITED));
    }
    duration(args, "dial-timeout")
}

fn duration(args: &Args, name: &str) -> Result<Option<std::time::Duration>, Failure> {
    let Some(text) = setting(args, name) else { return Ok(None) };
    match proa_base::duration::parse(&text) {
        Ok(duration) if !duration.is_zero() => Ok(Some(duration)),
        Ok(_) | Err(_) => Err(Failure::flag(format!(
            "invalid argument {text:?} for \"--{name}\" flag: give a duration such as 5s"
        ))),
    }
}

fn help() -> String {
    let mut text = "etcdctl asks the store.\n\nUsage: etcdctl [flags] COMMAND\n\nCommands:\n".to_owned();
    for command in COMMANDS {
        text += &format!("  {:<22} {}\n", command.words.join(" "), command.help);
    }
    text += "  version                Prints the version of etcdctl\n\nFlags of all commands, also as ETCDCTL_NAME in the environment:\n";
    text + &flags(GLOBAL)
}

fn help_of(command: &Command) -> String {
    let usage = format!("{} {}", command.words.join(" "), command.arguments);
    format!(
        "{}.\n\nUsage: etcdctl {} [flags]\n\n{}\nFlags of all commands:\n{}",
        command.help,
        usage.trim_end(),
        flags(command.flags),
        flags(GLOBAL)
    )
}

fn flags(flags: &[Flag]) -> String {
    flags.iter().map(|flag| format!("  --{:<22} {}\n", flag.name, flag.help)).collect()
}

/// Prints at once: somebody may be reading line by line.
fn emit(text: &str) {
    emit_bytes(text.as_bytes());
}

/// As [`emit`], for what need not be text.
fn emit_bytes(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    // A reader that has gone ends the process by SIGPIPE.
    let _ = out.write_all(bytes).and_then(|()| out.flush());
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn a_command_is_found_behind_global_flags() {
        let (command, rest) = choose(&words("-w json --endpoints=a:1 lease grant 60")).unwrap().unwrap();
        assert_eq!(command.words, ["lease", "grant"]);
        assert_eq!(rest, ["-w", "json", "--endpoints=a:1", "60"]);
        let (command, rest) = choose(&words("get get")).unwrap().unwrap();
        assert_eq!((command.words, rest), (&["get"][..], vec!["get".to_owned()]));
    }

    #[test]
    fn a_word_is_written_as_far_as_it_must_be() {
        #[rustfmt::skip]
        let rows: [(&str, Option<&[&str]>); 8] = [
            ("compact 3",      Some(&["compaction"])),
            ("mem li",         Some(&["member", "list"])),
            ("end status",     Some(&["endpoint", "status"])),
            ("role grant x",   Some(&["role", "grant-permission"])),
            ("user g",         None),
            ("comp",           None),
            ("lea g x",        Some(&["lease", "grant"])),
            ("user get x",     Some(&["user", "get"])),
        ];
        for (line, want) in rows {
            let found = choose(&words(line)).ok().flatten().map(|(command, _)| command.words);
            assert_eq!(found, want, "{line}");
        }
    }

    #[test]
    fn an_unknown_command_is_one_line() {
        let failure = choose(&words("foo")).err().unwrap();
        assert_eq!(failure.text, "unknown command \"foo\" for \"etcdctl\"; run 'etcdctl --help' for usage");
        let failure = choose(&words("lease foo")).err().unwrap();
        assert!(failure.text.starts_with("unknown command \"lease foo\""), "{}", failure.text);
    }
}
