//! One layer of settings: flag, environment, kernel command line, file, default.
//!
//! A setting has one name; each spelling is derived from it. `data-dir` of etcd is
//! `--data-dir`, `ETCD_DATA_DIR`, `etcd.data-dir=` and `data-dir` in a file.

pub mod checks;

use crate::{cmdline::Word, duration};
use std::{collections::BTreeMap, fmt, time::Duration};

/// One setting of a program.
#[derive(Clone, Copy)]
pub struct Setting {
    /// Its name, lower case with dashes: `data-dir`.
    pub name: &'static str,
    /// The value when nobody gives one.
    pub default: &'static str,
    /// One line for `--help`.
    pub help: &'static str,
    /// Whether `--name` alone means `true` and takes no next word.
    pub switch: bool,
    /// Says what would be right when a value is not.
    pub check: fn(&str) -> Result<(), String>,
}

/// A setting that has a value: one row of a program's table.
pub const fn setting(
    name: &'static str,
    default: &'static str,
    help: &'static str,
    check: fn(&str) -> Result<(), String>,
) -> Setting {
    Setting { name, default, help, switch: false, check }
}

/// A setting that needs no value to be on: `--name` alone means `true`.
pub const fn switch(
    name: &'static str,
    default: &'static str,
    help: &'static str,
    check: fn(&str) -> Result<(), String>,
) -> Setting {
    Setting { name, default, help, switch: true, check }
}

/// A program's settings and what their spellings start with.
#[derive(Clone, Copy)]
pub struct Program {
    /// The command, as in messages: `etcd`.
    pub name: &'static str,
    /// The namespace on the kernel command line: `etcd` for `etcd.data-dir=`.
    pub cmdline: &'static str,
    /// The prefix in the environment: `ETCD` for `ETCD_DATA_DIR`.
    pub env: &'static str,
    /// All there are.
    pub settings: &'static [Setting],
}

/// Where a value came from, the strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The program's own arguments.
    Flag,
    /// The environment.
    Environment,
    /// `/proc/cmdline`.
    KernelCommandLine,
    /// The configuration file.
    File,
    /// Nobody said anything.
    Default,
}

/// Why settings were refused. The text names the spelling the user wrote.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSetting {
    /// No such flag, file key or kernel command line key.
    #[error("unknown {place} {spelling}; {program} --help lists what there is")]
    Unknown {
        /// `flag`, `file key` or `kernel command line key`.
        place: &'static str,
        /// As the user wrote it.
        spelling: String,
        /// The program that was asked.
        program: &'static str,
    },
    /// A flag at the end of the line that needs a value.
    #[error("flag {spelling} needs a value")]
    NoValue {
        /// As the user wrote it.
        spelling: String,
    },
    /// A word that is no flag.
    #[error("unexpected argument {word:?}; {program} takes only flags")]
    Stray {
        /// The word.
        word: String,
        /// The program that was asked.
        program: &'static str,
    },
    /// A value that cannot be right.
    #[error("{spelling}: bad value {value:?}: {right}")]
    Value {
        /// The setting as the user wrote it.
        spelling: String,
        /// What was given.
        value: String,
        /// What would be right.
        right: String,
    },
}

/// The settings of one run, each with a value that its check accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    values: BTreeMap<&'static str, (String, Source)>,
}

impl Settings {
    /// The value of a setting.
    ///
    /// # Panics
    /// When the program has no such setting: a misspelt name in our own code.
    pub fn get(&self, name: &str) -> &str {
        &self.entry(name).0
    }

    /// Where the value of a setting came from.
    ///
    /// # Panics
    /// As [`Self::get`].
    pub fn source(&self, name: &str) -> Source {
        self.entry(name).1
    }

    /// The value as a type whose text the setting's check has accepted.
    ///
    /// # Panics
    /// As [`Self::get`], and when the check accepts what the type does not.
    pub fn parsed<T: std::str::FromStr>(&self, name: &str) -> T {
        match self.get(name).parse() {
            Ok(value) => value,
            Err(_) => panic!("the check of setting {name} accepted {:?}", self.get(name)),
        }
    }

    /// The value, unless it is empty.
    ///
    /// # Panics
    /// As [`Self::get`].
    pub fn given(&self, name: &str) -> Option<&str> {
        Some(self.get(name)).filter(|value| !value.is_empty())
    }

    /// The value as a Go duration, which the setting's check has accepted.
    ///
    /// # Panics
    /// As [`Self::parsed`].
    pub fn duration(&self, name: &str) -> Duration {
        match duration::parse(self.get(name)) {
            Ok(value) => value,
            Err(_) => panic!("the check of setting {name} accepted {:?}", self.get(name)),
        }
    }

    /// Whether the value is `true`, as [`checks::boolean`] spells it.
    ///
    /// # Panics
    /// As [`Self::get`].
    pub fn is_on(&self, name: &str) -> bool {
        checks::TRUE.contains(&self.get(name))
    }

    /// The value as a list parted by commas, without empty items.
    ///
    /// # Panics
    /// As [`Self::get`].
    pub fn list(&self, name: &str) -> Vec<String> {
        let items = self.get(name).split(',').map(str::trim);
        items.filter(|item| !item.is_empty()).map(str::to_owned).collect()
    }

    fn entry(&self, name: &str) -> &(String, Source) {
        self.values.get(name).unwrap_or_else(|| panic!("no setting is named {name}"))
    }
}

impl Program {
    /// Settles every setting: flag over environment over kernel command line over file
    /// over default.
    ///
    /// `file` holds key and value pairs as read; `_` and `-` are the same in its keys.
    /// An empty environment value counts as not set, as etcd has it.
    ///
    /// Unknown words in `cmdline` are not this function's business: see
    /// [`review`].
    ///
    /// # Errors
    /// The first [`BadSetting`] in the order flags, file, values.
    pub fn settle(
        &self,
        args: &[String],
        env: &dyn Fn(&str) -> Option<String>,
        cmdline: &[Word],
        file: &[(String, String)],
    ) -> Result<Settings, BadSetting> {
        let flags = self.flags(args)?;
        let file = self.file(file)?;
        let mut values = BTreeMap::new();
        for setting in self.settings {
            let spellings = self.spellings(setting.name);
            let kernel = crate::cmdline::last(cmdline, &spellings.cmdline);
            let from_env = || env(&spellings.env).filter(|value| !value.is_empty());
            let (value, source, spelling) = if let Some(value) = flags.get(setting.name) {
                (value.clone(), Source::Flag, spellings.flag)
            } else if let Some(value) = from_env() {
                (value, Source::Environment, spellings.env)
            } else if let Some(value) = kernel {
                (value.to_owned(), Source::KernelCommandLine, spellings.cmdline)
            } else if let Some((key, value)) = file.get(setting.name) {
                (value.clone(), Source::File, key.clone())
            } else {
                values.insert(setting.name, (setting.default.to_owned(), Source::Default));
                continue;
            };
            if let Err(right) = (setting.check)(&value) {
                return Err(BadSetting::Value { spelling, value, right });
            }
            values.insert(setting.name, (value, source));
        }
        Ok(Settings { values })
    }

    /// [`Self::settle`] with the process's environment and kernel command line.
    ///
    /// # Errors
    /// As [`Self::settle`].
    pub fn settle_here(&self, args: &[String], file: &[(String, String)]) -> Result<Settings, BadSetting> {
        // No /proc (a chroot): then there is no kernel command line to read.
        let line = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
        let env = |name: &str| std::env::var(name).ok();
        self.settle(args, &env, &crate::cmdline::parse(&line), file)
    }

    /// The text of `--help`.
    pub fn help(&self) -> String {
        let mut text = format!("Usage: {} [flags]\n\n", self.name);
        for setting in self.settings {
            let default = match setting.default {
                "" => String::new(),
                default => format!(" (default {default})"),
            };
            text.push_str(&format!("  --{:<30} {}{default}\n", setting.name, setting.help));
        }
        text.push_str(&format!(
            "\nEach flag is also {}_NAME in the environment and {}.name= on the kernel command line.\n",
            self.env, self.cmdline
        ));
        text
    }

    fn find(&self, name: &str) -> Option<&Setting> {
        self.settings.iter().find(|setting| setting.name == name)
    }

    fn spellings(&self, name: &str) -> Spellings {
        Spellings {
            flag: format!("--{name}"),
            env: format!("{}_{}", self.env, name.replace('-', "_").to_uppercase()),
            cmdline: format!("{}.{name}", self.cmdline),
        }
    }

    fn flags(&self, args: &[String]) -> Result<BTreeMap<&'static str, String>, BadSetting> {
        let mut flags = BTreeMap::new();
        let mut rest = args.iter();
        while let Some(word) = rest.next() {
            let name = word.strip_prefix("--").or_else(|| word.strip_prefix('-'));
            let Some(name) = name.filter(|name| !name.is_empty()) else {
                return Err(BadSetting::Stray { word: word.clone(), program: self.name });
            };
            let (name, value) = match name.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (name, None),
            };
            let spelling = || word.split('=').next().unwrap_or(word).to_owned();
            let Some(setting) = self.find(name) else {
                return Err(BadSetting::Unknown { place: "flag", spelling: spelling(), program: self.name });
            };
            let value = match value {
                Some(value) => value,
                None if setting.switch => "true".to_owned(),
                None => rest.next().cloned().ok_or_else(|| BadSetting::NoValue { spelling: spelling() })?,
            };
            flags.insert(setting.name, value);
        }
        Ok(flags)
    }

    fn file(
        &self,
        pairs: &[(String, String)],
    ) -> Result<BTreeMap<&'static str, (String, String)>, BadSetting> {
        let mut out = BTreeMap::new();
        for (key, value) in pairs {
            let Some(setting) = self.find(&key.replace('_', "-")) else {
                return Err(BadSetting::Unknown {
                    place: "file key",
                    spelling: key.clone(),
                    program: self.name,
                });
            };
            out.insert(setting.name, (key.clone(), value.clone()));
        }
        Ok(out)
    }
}

struct Spellings {
    flag: String,
    env: String,
    cmdline: String,
}

/// What is wrong on a kernel command line in the namespaces of `programs`: a line for
/// each key that no program knows and for each value that its check refuses.
///
/// Programs may share a namespace; a key is unknown when none of them has it.
pub fn review(programs: &[&Program], cmdline: &[Word]) -> Vec<String> {
    let mut lines = Vec::new();
    for word in cmdline {
        let Some((namespace, name)) = word.key.split_once('.') else { continue };
        let mut owners = programs.iter().filter(|program| program.cmdline == namespace).peekable();
        if owners.peek().is_none() {
            continue;
        }
        match owners.find_map(|program| program.find(name)) {
            None => lines.push(format!("unknown key {} on the kernel command line is ignored", word.key)),
            Some(setting) => {
                let value = word.value.as_deref().unwrap_or("true");
                if let Err(right) = (setting.check)(value) {
                    lines.push(format!(
                        "{}: bad value {value:?} on the kernel command line: {right}",
                        word.key
                    ));
                }
            }
        }
    }
    lines
}

/// Reads `key=value` and `key: value` lines; `#` and `;` start a comment, `[sections]`
/// are skipped, quotes around a value are taken off.
pub fn read_file(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().map(str::trim);
    let meaningful = lines.filter(|line| !line.is_empty() && !line.starts_with(['#', ';', '[']));
    let pair = |line: &str| {
        let at = line.find(['=', ':']).unwrap_or(line.len());
        let (key, value) = line.split_at(at);
        let value = value.get(1..).unwrap_or("").trim();
        let bare = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
        (key.trim().to_owned(), bare.unwrap_or(value).to_owned())
    };
    meaningful.map(pair).collect()
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flag => "flag",
            Self::Environment => "environment",
            Self::KernelCommandLine => "kernel command line",
            Self::File => "file",
            Self::Default => "default",
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::cmdline;

    const PROGRAM: Program = Program {
        name: "etcd",
        cmdline: "etcd",
        env: "ETCD",
        settings: &[
            Setting { name: "data-dir", default: "d", help: "where", switch: false, check: checks::any },
            Setting {
                name: "ticks",
                default: "10",
                help: "how many",
                switch: false,
                check: checks::positive,
            },
            Setting { name: "debug", default: "false", help: "more", switch: true, check: checks::boolean },
        ],
    };

    fn settle(args: &str, env: &str, line: &str, file: &str) -> Result<Settings, BadSetting> {
        let args: Vec<String> = args.split_whitespace().map(str::to_owned).collect();
        let env = read_file(env);
        let env = |name: &str| env.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        PROGRAM.settle(&args, &env, &cmdline::parse(line), &read_file(file))
    }

    #[test]
    fn the_stronger_layer_wins() {
        #[rustfmt::skip]
        let cases = [
            ("--data-dir=f", "ETCD_DATA_DIR=e", "etcd.data-dir=k", "data_dir: x", "f", Source::Flag),
            ("-data-dir f",  "",                "",                "",            "f", Source::Flag),
            ("",             "ETCD_DATA_DIR=e", "etcd.data-dir=k", "data_dir: x", "e", Source::Environment),
            ("",             "ETCD_DATA_DIR=",  "etcd.data_dir=k", "data_dir: x", "k", Source::KernelCommandLine),
            ("",             "",                "",                "data-dir=x",  "x", Source::File),
            ("",             "",                "fleet.data-dir=k", "",           "d", Source::Default),
        ];
        for (args, env, line, file, want, source) in cases {
            let settings = settle(args, env, line, file).unwrap();
            assert_eq!(settings.get("data-dir"), want, "{args} | {env} | {line} | {file}");
            assert_eq!(settings.source("data-dir"), source, "{args} | {env} | {line} | {file}");
        }
    }

    #[test]
    fn switches_take_no_next_word() {
        let settings = settle("--debug --ticks 3", "", "", "").unwrap();
        assert!(settings.is_on("debug"));
        assert_eq!(settings.parsed::<u32>("ticks"), 3);
        assert!(!settle("--debug=false", "", "etcd.debug", "").unwrap().is_on("debug"));
    }

    #[test]
    fn a_bad_word_is_named_as_the_user_wrote_it() {
        #[rustfmt::skip]
        let cases = [
            ("--dta-dir=x", "",             "",             "unknown flag --dta-dir; etcd --help lists what there is"),
            ("--data-dir",  "",             "",             "flag --data-dir needs a value"),
            ("start",       "",             "",             "unexpected argument \"start\"; etcd takes only flags"),
            ("--ticks 0",   "",             "",             "--ticks: bad value \"0\": give a whole number from 1 up"),
            ("",            "ETCD_TICKS=x", "",             "ETCD_TICKS: bad value \"x\": give a whole number from 1 up"),
            ("",            "",             "etcd.ticks=x", "etcd.ticks: bad value \"x\": give a whole number from 1 up"),
        ];
        for (args, env, line, want) in cases {
            assert_eq!(settle(args, env, line, "").unwrap_err().to_string(), want);
        }
    }

    #[test]
    fn review_names_unknown_keys_and_bad_values() {
        let line = cmdline::parse("quiet etcd.tikcs=1 other.x=1 etcd.ticks=no etcd.debug ip=dhcp");
        assert_eq!(
            review(&[&PROGRAM], &line),
            [
                "unknown key etcd.tikcs on the kernel command line is ignored",
                "etcd.ticks: bad value \"no\" on the kernel command line: give a whole number from 1 up",
            ]
        );
    }
}
