//! The machine-wide settings, `proa.*` on the kernel command line.

use proa_base::{
    cmdline::Word,
    net::Network,
    settings::{Program, Setting},
};

/// The machine's own settings. They concern the machine before any program
/// runs, so the kernel command line is the only place that gives them.
pub const PROGRAM: Program = Program {
    name: "init",
    cmdline: "proa",
    env: "PROA",
    settings: &[
        Setting {
            name: "network",
            default: "",
            help: "private network of the cluster, such as 10.77.0.0/16",
            switch: false,
            check: check_network,
        },
        Setting {
            name: "interface",
            default: "eth0",
            help: "interface that gets an address inside proa.network",
            switch: false,
            check: check_interface,
        },
        Setting {
            name: "autologin",
            default: "false",
            help: "a root shell on the console, without a password",
            switch: true,
            check: check_switch,
        },
    ],
};

fn check_network(text: &str) -> Result<(), String> {
    match text {
        "" => Ok(()),
        text => text.parse::<Network>().map(drop).map_err(|error| error.to_string()),
    }
}

/// Source: netdevice(7), `IFNAMSIZ` of 16 with the final zero.
fn check_interface(text: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_graphic() && c != '/' && c != ':';
    if (1..16).contains(&text.len()) && text.chars().all(allowed) && !text.starts_with('.') {
        return Ok(());
    }
    Err("give the name of an interface, such as eth0".to_owned())
}

fn check_switch(text: &str) -> Result<(), String> {
    match text {
        "true" | "false" => Ok(()),
        _ => Err("give true or false, or the key alone".to_owned()),
    }
}

/// The value of `proa.<name>`: the last one on the command line that is right,
/// else the default.
///
/// A machine boots with a bad word on its command line: the word was shown on
/// the console, and what it meant to change stays as it is.
pub fn value<'a>(words: &'a [Word], name: &str) -> &'a str {
    let setting = PROGRAM.settings.iter().find(|setting| setting.name == name);
    let setting = setting.expect("only names of the table above are asked for");
    let given = words.iter().rev().filter(|word| word.key.strip_prefix("proa.") == Some(name));
    let mut values = given.map(|word| word.value.as_deref().unwrap_or("true"));
    values.find(|value| (setting.check)(value).is_ok()).unwrap_or(setting.default)
}

/// How long a failed machine shows its message before it restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterFailure {
    /// Restart after so many seconds.
    Restart {
        /// How long the message stands.
        after_seconds: u32,
    },
    /// Stay for somebody to read it.
    Wait,
}

/// What `panic=` asks for; a failed `/init` is a panic to the machine.
///
/// Source: the kernel's admin-guide, `panic=`: above 0 seconds, 0 for ever,
/// below 0 at once. Without it the answer is 10 seconds, as in our kernel.
pub fn after_failure(words: &[Word]) -> AfterFailure {
    let seconds = proa_base::cmdline::last(words, "panic").and_then(|text| text.parse::<i64>().ok());
    match seconds {
        Some(0) => AfterFailure::Wait,
        Some(below) if below < 0 => AfterFailure::Restart { after_seconds: 0 },
        Some(above) => AfterFailure::Restart { after_seconds: u32::try_from(above).unwrap_or(u32::MAX) },
        None => AfterFailure::Restart { after_seconds: 10 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proa_base::{cmdline, settings};

    #[test]
    fn a_bad_value_leaves_the_default() {
        #[rustfmt::skip]
        let cases = [
            ("nothing given",   "console=ttyS0",                        "network",   ""),
            ("given",           "proa.network=10.77.0.0/16",            "network",   "10.77.0.0/16"),
            ("last wins",       "proa.interface=a proa.interface=eth1", "interface", "eth1"),
            ("last is bad",     "proa.interface=a proa.interface=a/b",  "interface", "a"),
            ("bad",             "proa.network=10.77",                   "network",   ""),
            ("bare switch",     "proa.autologin",                       "autologin", "true"),
            ("bare value",      "proa.network",                         "network",   ""),
        ];
        for (name, line, key, want) in cases {
            assert_eq!(value(&cmdline::parse(line), key), want, "{name}");
        }
    }

    #[test]
    fn review_names_key_value_and_what_is_right() {
        let words = cmdline::parse("proa.netwrok=x proa.network=10.77.0.0 proa.interface= proa.autologin=on");
        assert_eq!(
            settings::review(&[&PROGRAM], &words),
            [
                "unknown key proa.netwrok on the kernel command line is ignored",
                "proa.network: bad value \"10.77.0.0\" on the kernel command line: a network is an IPv4 \
                 address and a prefix length of 8 to 30, such as 10.77.0.0/16",
                "proa.interface: bad value \"\" on the kernel command line: give the name of an interface, \
                 such as eth0",
                "proa.autologin: bad value \"on\" on the kernel command line: give true or false, or the key \
                 alone",
            ]
        );
    }

    #[test]
    fn panic_says_what_follows_a_failure() {
        let restart = |after_seconds| AfterFailure::Restart { after_seconds };
        #[rustfmt::skip]
        let cases = [
            ("",           restart(10)),
            ("panic=3",    restart(3)),
            ("panic=-1",   restart(0)),
            ("panic=0",    AfterFailure::Wait),
            ("panic=soon", restart(10)),
        ];
        for (line, want) in cases {
            assert_eq!(after_failure(&cmdline::parse(line)), want, "{line}");
        }
    }
}
