//! What the kernel command line asks of `/init` itself.

use proa_base::{cmdline::Word, machine::MACHINE};

/// The value of `proa.<name>`: the last one on the command line that is right,
/// else the default.
///
/// A machine boots with a bad word on its command line: the word was shown on
/// the console, and what it meant to change stays as it is.
pub fn value<'a>(words: &'a [Word], name: &str) -> &'a str {
    let setting = MACHINE.settings.iter().find(|setting| setting.name == name);
    let setting = setting.expect("only names of that table are asked for");
    let given = words.iter().rev().filter(|word| word.key.strip_prefix("proa.") == Some(name));
    let mut values = given.map(|word| word.value.as_deref().unwrap_or("true"));
    values.find(|value| (setting.check)(value).is_ok()).unwrap_or(setting.default)
}

/// After how many seconds without a sign of life the machine restarts; 0 never.
pub fn watchdog_seconds(words: &[Word]) -> u32 {
    let seconds: u64 = value(words, "watchdog").parse().expect("the setting's check accepts only numbers");
    u32::try_from(seconds).unwrap_or(u32::MAX)
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
    use proa_base::cmdline;

    #[test]
    fn a_bad_value_leaves_the_default() {
        #[rustfmt::skip]
        let cases = [
            ("nothing given",   "console=ttyS0",                        "network",   ""),
            ("given",           "proa.network=10.77.0.0/16",            "network",   "10.77.0.0/16"),
            ("last wins",       "proa.interface=a proa.interface=eth1", "interface", "eth1"),
            ("last is bad",     "proa.autologin proa.autologin=maybe",  "autologin", "true"),
            ("bad",             "proa.network=10.77",                   "network",   ""),
            ("bare switch",     "proa.autologin",                       "autologin", "true"),
            ("bare value",      "proa.network",                         "network",   ""),
        ];
        for (name, line, key, want) in cases {
            assert_eq!(value(&cmdline::parse(line), key), want, "{name}");
        }
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
