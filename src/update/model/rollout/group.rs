//! A group of machines and the policy by which it is updated.

use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

use proa_base::duration;
use serde::{Deserialize, Serialize};

use super::office_hours::OfficeHours;

/// Most other names of a group: CoreOS had two for each of its own.
const ALIASES_MAX: usize = 16;
/// Longest name of a group, channel or alias.
const NAME_CHARACTERS_MAX: usize = 64;
/// Updates of one period whose times are remembered.
const RATE_UPDATES_MAX: u32 = 1000;
/// The longest period of a rate.
const RATE_PERIOD_MAX_S: u64 = 30 * 86_400;
/// A machine that asks more often than that is a load, one that asks more
/// seldom than once a day is forgotten.
const POLL_INTERVAL_S: std::ops::RangeInclusive<u32> = 10..=86_400;

/// The groups that CoreOS's clients name by number, for both architectures.
///
/// Source: CoreOS and Flatcar update servers, their initial groups.
const WELL_KNOWN: [(&str, &str); 6] = [
    ("9a2deb70-37be-4026-853f-bfdd6b347bbe", "stable"),
    ("3fe10490-dd73-4b49-b72a-28ac19acfcdc", "beta"),
    ("5b810680-e36a-4879-b98a-4f989e80b899", "alpha"),
    ("11a585f6-9418-4df0-8863-78b2fd3240f8", "stable"),
    ("d112ec01-ba34-4a9e-9d4b-9814a685f266", "beta"),
    ("e641708d-fb48-4260-8bdf-ba2074a1147a", "alpha"),
];

/// The group that a client of old means by a number.
fn well_known_group(track: &str) -> Option<&'static str> {
    let bare = crate::omaha::bare_id(track);
    WELL_KNOWN.iter().find(|(id, _)| *id == bare).map(|(_, name)| *name)
}

/// The group that a machine means: by a group's name, by another name of it,
/// or by a number of old. What is written just so comes before what differs in case.
pub fn find_group<'a>(groups: &'a BTreeMap<String, Group>, track: &str) -> Option<&'a str> {
    let bare = track.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(track);
    let called = |wanted: &str, is: fn(&str, &str) -> bool| {
        let by_name = groups.iter().find(|(name, _)| is(name, wanted));
        by_name
            .or_else(|| groups.iter().find(|(_, group)| group.aliases.iter().any(|alias| is(alias, wanted))))
    };
    let find = |wanted: &str| {
        let exact = called(wanted, |a, b| a == b);
        exact.or_else(|| called(wanted, str::eq_ignore_ascii_case))
    };
    find(bare).or_else(|| well_known_group(track).and_then(find)).map(|(name, _)| name.as_str())
}

/// A group's policy.
///
/// A new group is careful: one machine first, then ten at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Group {
    /// The channel whose version it gets.
    pub channel: String,
    /// Other names that machines may call it by.
    pub aliases: Vec<String>,
    /// Whether nothing is offered for the time being.
    pub paused: bool,
    /// How many machines of a hundred are offered a version, 0 to 100.
    pub percentage: u32,
    /// How many machines may be updating at one time; 0 for no limit.
    pub max_concurrent: u32,
    /// How many updates may begin in a time.
    pub rate: Option<Rate>,
    /// Whether one machine has to run a version before a second one gets it.
    pub safe_mode: bool,
    /// When updates may begin.
    pub office_hours: Option<OfficeHours>,
    /// How often machines are asked to ask, in seconds.
    pub poll_interval_s: Option<u32>,
}

impl Default for Group {
    fn default() -> Self {
        Self {
            channel: String::new(),
            aliases: Vec::new(),
            paused: false,
            percentage: 100,
            max_concurrent: 10,
            rate: None,
            safe_mode: true,
            office_hours: None,
            poll_interval_s: None,
        }
    }
}

/// Updates in a period, as `5/1h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rate {
    /// How many may begin.
    pub updates: u32,
    /// In which time.
    pub period_s: u64,
}

/// A setting of a policy that cannot be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPolicy {
    /// No such setting.
    #[error("unknown setting {setting:?} of a group; there are {}", Group::SETTINGS.join(", "))]
    Unknown {
        /// What was given.
        setting: String,
    },
    /// A value that cannot be right.
    #[error("{setting}: bad value {value:?}: {right}")]
    Value {
        /// The setting.
        setting: String,
        /// What was given.
        value: String,
        /// What would be right.
        right: &'static str,
    },
}

impl Group {
    /// A name of this group, `name` or an alias, that another one has already:
    /// case does not count, so that a machine never means two groups by one name.
    pub fn name_taken_by<'a>(&'a self, name: &'a str, other_name: &str, other: &Self) -> Option<&'a str> {
        let is_taken = |own: &&str| {
            let mut taken = std::iter::once(other_name).chain(other.aliases.iter().map(String::as_str));
            taken.any(|known| known.eq_ignore_ascii_case(own))
        };
        std::iter::once(name).chain(self.aliases.iter().map(String::as_str)).find(is_taken)
    }

    /// The settings, by name.
    pub const SETTINGS: [&str; 9] = [
        "channel",
        "aliases",
        "paused",
        "percentage",
        "max-concurrent",
        "rate",
        "safe-mode",
        "office-hours",
        "poll-interval",
    ];

    /// A careful policy that follows `channel`.
    pub fn following(channel: &str) -> Self {
        Self { channel: channel.to_owned(), ..Self::default() }
    }

    /// Changes one setting, given as text; an empty text takes a limit away.
    ///
    /// # Errors
    /// [`BadPolicy`]; nothing is changed then.
    pub fn set(&mut self, setting: &str, value: &str) -> Result<(), BadPolicy> {
        let bad = |right| BadPolicy::Value { setting: setting.to_owned(), value: value.to_owned(), right };
        let switch = || value.parse::<bool>().map_err(|_| bad("give true or false"));
        match setting {
            "channel" => {
                self.channel = name(value).ok_or_else(|| bad(NAME_RIGHT))?;
            }
            "aliases" => {
                let words = value.split(',').map(str::trim).filter(|word| !word.is_empty());
                let aliases: Option<Vec<String>> = words.map(name).collect();
                let aliases = aliases.filter(|aliases| aliases.len() <= ALIASES_MAX);
                self.aliases = aliases.ok_or_else(|| bad("give up to 16 names parted by commas"))?;
            }
            "paused" => self.paused = switch()?,
            "safe-mode" => self.safe_mode = switch()?,
            "percentage" => {
                let number = value.parse().ok().filter(|number| *number <= 100);
                self.percentage = number.ok_or_else(|| bad("give a whole number from 0 to 100"))?;
            }
            "max-concurrent" => {
                let number = if value.is_empty() { Some(0) } else { value.parse().ok() };
                self.max_concurrent = number.ok_or_else(|| bad("give a whole number, 0 for no limit"))?;
            }
            "rate" => self.rate = optional(value).map_err(|()| bad(RATE_RIGHT))?,
            "office-hours" => self.office_hours = optional(value).map_err(|()| bad(HOURS_RIGHT))?,
            "poll-interval" => {
                let seconds = |value: &str| {
                    let seconds = duration::parse(value).ok().and_then(|time| time.as_secs().try_into().ok());
                    seconds.filter(|seconds| POLL_INTERVAL_S.contains(seconds))
                };
                let parsed = if value.is_empty() { Some(None) } else { seconds(value).map(Some) };
                self.poll_interval_s = parsed.ok_or_else(|| bad("give a duration from 10s to 24h"))?;
            }
            _ => return Err(BadPolicy::Unknown { setting: setting.to_owned() }),
        }
        Ok(())
    }
}

const NAME_RIGHT: &str = "give a name of up to 64 letters, digits, dots, dashes and underscores";
const RATE_RIGHT: &str = "give updates and a period, such as 5/1h: up to 1000 in up to 720h";
const HOURS_RIGHT: &str = "give days, hours and a UTC offset, such as \"Mon-Fri 09:00-17:00 +01:00\"";

fn optional<T: FromStr>(value: &str) -> Result<Option<T>, ()> {
    if value.is_empty() { Ok(None) } else { value.parse().map(Some).map_err(drop) }
}

/// The text when it can be a name: a part of a key and of a path.
pub(super) fn name(text: &str) -> Option<String> {
    let bare = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(text);
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':');
    let is_name = !bare.is_empty()
        && bare.len() <= NAME_CHARACTERS_MAX
        && bare.bytes().all(is_good)
        && !bare.starts_with('.');
    is_name.then(|| bare.to_owned())
}

impl FromStr for Rate {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (updates, period) = text.split_once('/').ok_or(RATE_RIGHT)?;
        let updates: u32 = updates.parse().map_err(|_| RATE_RIGHT)?;
        let period_s = duration::parse(period).map_err(|_| RATE_RIGHT)?.as_secs();
        if !(1..=RATE_UPDATES_MAX).contains(&updates) || !(1..=RATE_PERIOD_MAX_S).contains(&period_s) {
            return Err(RATE_RIGHT);
        }
        Ok(Self { updates, period_s })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let period = Duration::from_secs(self.period_s);
        let (amount, unit) = match period.as_secs() {
            seconds if seconds % 3600 == 0 => (seconds / 3600, "h"),
            seconds if seconds % 60 == 0 => (seconds / 60, "m"),
            seconds => (seconds, "s"),
        };
        write!(out, "{}/{amount}{unit}", self.updates)
    }
}

impl TryFrom<String> for Rate {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Rate> for String {
    fn from(rate: Rate) -> Self {
        rate.to_string()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_set_or_refused_with_what_is_right() {
        #[rustfmt::skip]
        let rows = [
            ("channel",        "stable",             true),
            ("channel",        "",                   false),
            ("channel",        "a/b",                false),
            ("aliases",        "a, {B-1},c",         true),
            ("aliases",        "",                   true),
            ("aliases",        "a b",                false),
            ("paused",         "true",               true),
            ("paused",         "maybe",              false),
            ("percentage",     "0",                  true),
            ("percentage",     "101",                false),
            ("percentage",     "",                   false),
            ("max-concurrent", "3",                  true),
            ("max-concurrent", "",                   true),
            ("max-concurrent", "-1",                 false),
            ("rate",           "5/1h",               true),
            ("rate",           "",                   true),
            ("rate",           "0/1h",               false),
            ("rate",           "1001/1h",            false),
            ("rate",           "5/721h",             false),
            ("rate",           "5",                  false),
            ("safe-mode",      "false",              true),
            ("office-hours",   "Mon-Fri 09:00-17:00", true),
            ("office-hours",   "",                   true),
            ("office-hours",   "nine to five",       false),
            ("poll-interval",  "45m",                true),
            ("poll-interval",  "",                   true),
            ("poll-interval",  "1s",                 false),
            ("colour",         "red",                false),
        ];
        for (setting, value, want) in rows {
            let mut group = Group::following("stable");
            let before = group.clone();
            let got = group.set(setting, value);
            assert_eq!(got.is_ok(), want, "{setting}={value}: {got:?}");
            assert!(want || group == before, "{setting}={value} changed something");
        }
    }

    #[test]
    fn a_group_comes_back_from_json() {
        let mut group = Group::following("stable");
        group.set("rate", "5/90s").unwrap();
        group.set("office-hours", "Mon-Fri 09:00-17:00 +01:00").unwrap();
        group.set("aliases", "{9a2deb70-37be-4026-853f-bfdd6b347bbe}").unwrap();
        let text = serde_json::to_string(&group).unwrap();
        assert!(text.contains(r#""rate":"5/90s""#), "{text}");
        assert_eq!(serde_json::from_str::<Group>(&text).unwrap(), group);
        assert_eq!(serde_json::from_str::<Group>("{}").unwrap(), Group::default());
        assert!(serde_json::from_str::<Group>(r#"{"rate":"x"}"#).is_err());
    }

    #[test]
    fn a_machine_means_one_group_by_a_name() {
        let mut groups = BTreeMap::new();
        // Such as can be there from before names were compared without case.
        for (name, aliases) in [("Stable", ""), ("beta", "old,Nightly"), ("nightly", ""), ("stable", "")] {
            let mut group = Group::following("stable");
            group.set("aliases", aliases).unwrap();
            groups.insert(name.to_owned(), group);
        }
        #[rustfmt::skip]
        let rows = [
            ("stable",   Some("stable")),
            ("Stable",   Some("Stable")),
            ("STABLE",   Some("Stable")),
            ("{OLD}",    Some("beta")),
            ("nightly",  Some("nightly")),
            ("Nightly",  Some("beta")),
            ("NIGHTLY",  Some("nightly")),
            ("{9A2DEB70-37be-4026-853f-bfdd6b347bbe}", Some("stable")),
            ("none",     None),
        ];
        for (track, want) in rows {
            assert_eq!(find_group(&groups, track), want, "{track}");
        }
    }

    #[test]
    fn names_are_taken_whatever_their_case() {
        #[rustfmt::skip]
        let rows = [
            ("Stable", "",         Some("Stable")),
            ("OLD",    "",         Some("OLD")),
            ("new",    "STABLE",   Some("STABLE")),
            ("new",    "x,oLd",    Some("oLd")),
            ("new",    "x",        None),
        ];
        let mut other = Group::following("stable");
        other.set("aliases", "old").unwrap();
        for (name, aliases, want) in rows {
            let mut group = Group::following("stable");
            group.set("aliases", aliases).unwrap();
            assert_eq!(group.name_taken_by(name, "stable", &other), want, "{name} {aliases}");
        }
    }

    #[test]
    fn numbers_of_old_name_their_groups() {
        assert_eq!(well_known_group("{9A2DEB70-37be-4026-853f-bfdd6b347bbe}"), Some("stable"));
        assert_eq!(well_known_group("e641708d-fb48-4260-8bdf-ba2074a1147a"), Some("alpha"));
        assert_eq!(well_known_group("stable"), None);
    }
}
