//! The command line of `etcdctl`: flags and arguments in any order, as cobra
//! reads them.

use std::collections::BTreeMap;

use super::failure::Failure;

/// A flag of one command.
#[derive(Clone, Copy)]
pub struct Flag {
    /// Its name without dashes.
    pub name: &'static str,
    /// Whether it stands alone, or takes a value.
    pub kind: Kind,
    /// One line for `--help`.
    pub help: &'static str,
}

/// How a flag is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `--prefix`, or `--prefix=false`.
    Switch,
    /// `--rev 3` or `--rev=3`.
    Value,
}

/// A flag without a value.
pub const fn switch(name: &'static str, help: &'static str) -> Flag {
    Flag { name, kind: Kind::Switch, help }
}

/// A flag with a value.
pub const fn value(name: &'static str, help: &'static str) -> Flag {
    Flag { name, kind: Kind::Value, help }
}

/// Flags that every command takes.
pub const GLOBAL: &[Flag] = &[
    value("endpoints", "where members are asked (default 127.0.0.1:2379)"),
    value("write-out", "simple, json, fields, table or protobuf (default simple)"),
    value("dial-timeout", "for the connection to one endpoint (default 2s)"),
    value("command-timeout", "for the answer to one request (default 5s)"),
    value("keepalive-time", "accepted, without effect: connections are pinged every 10s"),
    value("keepalive-timeout", "accepted, without effect: a ping may take 5s"),
    switch("hex", "print keys and values as hexadecimal bytes"),
    switch("debug", "accepted, without effect"),
    value("cacert", "members must have a certificate of these CAs (default: the system's)"),
    value("cert", "our own certificate, with its chain"),
    value("key", "the key of --cert"),
    switch("insecure-skip-tls-verify", "believe any certificate"),
    switch("insecure-transport", "no TLS to endpoints without a scheme (default true)"),
    value("discovery-srv", "ask the members that the SRV records of this domain name (-d)"),
    value("discovery-srv-name", "by _etcd-client[-ssl]-NAME._tcp instead of _etcd-client[-ssl]._tcp"),
    switch(
        "insecure-discovery",
        "records may name members without TLS or the domain's certificate (default true)",
    ),
    value("user", "NAME, or NAME:PASSWORD: who asks (prompts for a password that is not given)"),
    value("password", "the password of --user"),
    switch("help", "print this"),
];

/// The flags that a command line may have.
pub struct Tables<'a> {
    /// The command's.
    pub own: &'a [Flag],
    /// Those of every command.
    pub global: &'a [Flag],
    /// What single letters stand for.
    pub short: &'a [(&'static str, &'static str)],
    /// What is a flag behind the first argument.
    pub late: Late,
}

/// What is a flag behind the first argument of a command.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Late {
    /// Every word that begins with a dash.
    All,
    /// Only flags of the command: another word is an argument, as `set KEY -v` has it.
    Own,
}

/// A parsed command line.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Args {
    flags: BTreeMap<&'static str, String>,
    /// What is no flag, in order; after `--` everything.
    pub rest: Vec<String>,
    /// How many of `rest` stood before a bare `--`; all when there was none.
    pub before_dashes: usize,
    /// Whether there was a bare `--`.
    pub has_dashes: bool,
}

impl Args {
    /// Sorts `words` by the flags that the command and all commands have.
    ///
    /// # Errors
    /// An unknown flag, one without its value, one that cannot be honoured.
    pub fn parse(words: &[String], own: &[Flag]) -> Result<Self, Failure> {
        Self::parse_by(words, &Tables { own, global: GLOBAL, short: SHORT, late: Late::All })
    }

    /// As [`Args::parse`], by other tables.
    ///
    /// # Errors
    /// As [`Args::parse`].
    pub fn parse_by(words: &[String], tables: &Tables<'_>) -> Result<Self, Failure> {
        let mut args = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            if word == "--" {
                args.before_dashes = args.rest.len();
                args.has_dashes = true;
                args.rest.extend(words.cloned());
                return Ok(args);
            }
            let name = flag_name(word, tables.short).filter(|name| {
                let is_late = tables.late == Late::Own && !args.rest.is_empty();
                !is_late || tables.own.iter().any(|flag| flag.name == name.split('=').next().unwrap_or(name))
            });
            let Some(name) = name else {
                args.rest.push(word.clone());
                continue;
            };
            let (name, given) = match name.split_once('=') {
                Some((name, given)) => (name, Some(given.to_owned())),
                None => (name, None),
            };
            let Some(flag) = tables.own.iter().chain(tables.global).find(|flag| flag.name == name) else {
                return Err(Failure::flag(format!(
                    "unknown flag: {}",
                    word.split('=').next().unwrap_or(word)
                )));
            };
            let given = match (given, flag.kind) {
                (Some(given), Kind::Switch) if !is_bool(&given) => {
                    return Err(Failure::flag(format!(
                        "invalid argument {given:?} for \"--{name}\" flag: give true or false"
                    )));
                }
                (Some(given), _) => given,
                (None, Kind::Switch) => "true".to_owned(),
                (None, Kind::Value) => {
                    let missing = || Failure::flag(format!("flag needs an argument: --{name}"));
                    words.next().cloned().ok_or_else(missing)?
                }
            };
            let list = args.flags.get(flag.name).filter(|_| flag.name == "endpoints");
            let given = list.map_or(given.clone(), |before| format!("{before},{given}"));
            args.flags.insert(flag.name, given);
        }
        args.before_dashes = args.rest.len();
        Ok(args)
    }

    /// The value of a flag that was given.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.flags.get(name).map(String::as_str)
    }

    /// Whether a switch is on.
    pub fn is_on(&self, name: &str) -> bool {
        self.get(name).is_some_and(is_true)
    }

    /// The number that a flag was given, or `otherwise`.
    ///
    /// # Errors
    /// Names the flag and what it was given.
    pub fn number(&self, name: &str, otherwise: i64) -> Result<i64, Failure> {
        match self.get(name) {
            None => Ok(otherwise),
            Some(text) => text.parse().map_err(|_| {
                Failure::flag(format!("invalid argument {text:?} for \"--{name}\" flag: give a whole number"))
            }),
        }
    }
}

fn is_bool(text: &str) -> bool {
    is_true(text) || matches!(text, "0" | "f" | "F" | "false" | "FALSE" | "False")
}

/// What Go's `strconv.ParseBool` takes for yes.
pub fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

/// Single letters of etcdctl's flags.
const SHORT: &[(&str, &str)] =
    &[("w", "write-out"), ("i", "interactive"), ("l", "listen"), ("d", "discovery-srv"), ("h", "help")];

/// `--name`, `-name` and the short forms; negative numbers and a single dash
/// are arguments.
fn flag_name<'a>(word: &'a str, short: &[(&str, &'static str)]) -> Option<&'a str> {
    let name = match word.strip_prefix("--") {
        Some(name) => name,
        None => word.strip_prefix('-')?,
    };
    if let Some((_, long)) = short.iter().find(|(letter, _)| *letter == name) {
        return Some(long);
    }
    name.starts_with(|c: char| c.is_ascii_alphabetic()).then_some(name)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, Failure> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        Args::parse(&words, &[switch("prefix", ""), value("rev", ""), switch("interactive", "")])
    }

    #[test]
    fn flags_stand_anywhere() {
        for line in ["a --prefix --rev 3 b", "--rev=3 a b --prefix", "-rev=3 --prefix=true a b"] {
            let args = parse(line).unwrap();
            assert_eq!((args.rest, args.flags.len()), (vec!["a".to_owned(), "b".to_owned()], 2), "{line}");
        }
        assert_eq!(parse("-w json").unwrap().get("write-out"), Some("json"));
        assert_eq!(parse("lease -1 -").unwrap().rest, ["lease", "-1", "-"]);
        let split = parse("k --prefix -- echo --prefix x").unwrap();
        assert_eq!((split.before_dashes, split.has_dashes, split.rest.len()), (1, true, 4));
        let twice = parse("--endpoints a:1 --endpoints=b:1,c:1 k").unwrap();
        assert_eq!(twice.get("endpoints"), Some("a:1,b:1,c:1"));
    }

    #[test]
    fn what_cannot_be_understood_is_named() {
        #[rustfmt::skip]
        let rows = [
            ("--foo=1",    "unknown flag: --foo"),
            ("a --rev",    "flag needs an argument: --rev"),
            ("--prefix=x", "invalid argument \"x\" for \"--prefix\" flag: give true or false"),
        ];
        for (line, want) in rows {
            assert_eq!(parse(line).unwrap_err().text, want, "{line}");
        }
    }
}
