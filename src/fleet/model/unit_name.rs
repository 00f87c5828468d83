//! Names of units: what is one, its type, its template and its instance.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longest unit name in bytes.
///
/// A name is also a file name, and Linux allows 255 bytes there (`NAME_MAX`);
/// fleet let 256 through, which no machine could ever have written.
pub const MAX_UNIT_NAME_BYTES: usize = 255;

/// The type of a unit: what stands after the last dot of its name.
///
/// Source: systemd.unit(5); `busname` and `snapshot` are of 2014 and still accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum UnitType {
    Automount,
    Busname,
    Device,
    Mount,
    Path,
    Scope,
    Service,
    Slice,
    Snapshot,
    Socket,
    Swap,
    Target,
    Timer,
}

impl UnitType {
    /// Every type, by name.
    pub const ALL: [Self; 13] = [
        Self::Automount,
        Self::Busname,
        Self::Device,
        Self::Mount,
        Self::Path,
        Self::Scope,
        Self::Service,
        Self::Slice,
        Self::Snapshot,
        Self::Socket,
        Self::Swap,
        Self::Target,
        Self::Timer,
    ];

    /// The suffix without its dot.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Automount => "automount",
            Self::Busname => "busname",
            Self::Device => "device",
            Self::Mount => "mount",
            Self::Path => "path",
            Self::Scope => "scope",
            Self::Service => "service",
            Self::Slice => "slice",
            Self::Snapshot => "snapshot",
            Self::Socket => "socket",
            Self::Swap => "swap",
            Self::Target => "target",
            Self::Timer => "timer",
        }
    }

    /// The type with this suffix, or `None`.
    pub fn from_suffix(suffix: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == suffix)
    }

    /// Whether a unit of this type may be a template or an instance of one.
    pub fn may_be_template(self) -> bool {
        match self {
            Self::Path | Self::Service | Self::Socket | Self::Target | Self::Timer => true,
            Self::Automount
            | Self::Busname
            | Self::Device
            | Self::Mount
            | Self::Scope
            | Self::Slice
            | Self::Snapshot
            | Self::Swap => false,
        }
    }
}

/// The name of a unit, with its suffix: `web@1.service`.
///
/// In `web@1.service` the stem (`%N`) is `web@1`, the prefix (`%p`) `web`, the
/// instance (`%i`) `1`, the template `web@.service`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UnitName(Arc<str>);

/// Why a text is not a unit name. The texts are those of fleet's API.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadUnitName {
    /// Nothing there.
    #[error("unit name cannot be empty")]
    Empty,
    /// More than [`MAX_UNIT_NAME_BYTES`].
    #[error("unit name exceeds maximum length ({MAX_UNIT_NAME_BYTES})")]
    TooLong,
    /// No type suffix.
    #[error("unit name must contain \".\"")]
    NoDot,
    /// A dot and nothing after it.
    #[error("unit name cannot end in \".\"")]
    EndsInDot,
    /// The suffix is no type that systemd has.
    #[error("invalid unit type: {0:?}")]
    Type(String),
    /// A character outside `[a-zA-Z0-9:-_.\@]`.
    #[error("invalid character {0:?} in unit name")]
    Character(char),
    /// An instance of nothing.
    #[error("unit name cannot start in \"@\"")]
    StartsInAt,
    /// A type that systemd does not make templates of.
    #[error(
        "a {0} unit cannot be a template or an instance; only path, service, socket, target and timer can"
    )]
    NotTemplatable(&'static str),
}

impl UnitName {
    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands after the last dot.
    pub fn unit_type(&self) -> UnitType {
        UnitType::from_suffix(self.split().1).expect("checked when the name was read")
    }

    /// The name without its suffix: systemd's `%N`.
    pub fn stem(&self) -> &str {
        self.split().0
    }

    /// The name up to its first `@`, or the stem: systemd's `%p`.
    pub fn prefix(&self) -> &str {
        let stem = self.stem();
        stem.split_once('@').map_or(stem, |(prefix, _)| prefix)
    }

    /// What stands between the first `@` and the suffix, when that is not empty:
    /// systemd's `%i`.
    pub fn instance(&self) -> Option<&str> {
        let (_, instance) = self.stem().split_once('@')?;
        (!instance.is_empty()).then_some(instance)
    }

    /// `web@.service` and the like: a pattern for units, not a unit to run.
    pub fn is_template(&self) -> bool {
        self.stem().contains('@') && self.instance().is_none()
    }

    /// The template this is an instance of, or `None` for any other unit.
    pub fn template(&self) -> Option<Self> {
        self.instance()?;
        let text = format!("{}@.{}", self.prefix(), self.split().1);
        Some(Self(text.into()))
    }

    /// Replaces `%n`, `%N`, `%p` and `%i` by the parts of this name.
    ///
    /// fleet does this inside `[X-Fleet]` only, and has no `%%`.
    pub fn expand(&self, text: &str) -> String {
        text.replace("%n", self.as_str())
            .replace("%N", self.stem())
            .replace("%p", self.prefix())
            .replace("%i", self.instance().unwrap_or(""))
    }

    fn split(&self) -> (&str, &str) {
        self.0.rsplit_once('.').expect("a unit name was checked to have a dot")
    }
}

/// What a user typed, with `.service` added when it has no type: `web` and
/// `web.1` become `web.service` and `web.1.service`. Works on globs as well.
pub fn with_default_type(argument: &str) -> String {
    let has_type =
        argument.rsplit_once('.').is_some_and(|(_, suffix)| UnitType::from_suffix(suffix).is_some());
    if has_type { argument.to_owned() } else { format!("{argument}.service") }
}

impl FromStr for UnitName {
    type Err = BadUnitName;

    fn from_str(text: &str) -> Result<Self, BadUnitName> {
        if text.is_empty() {
            return Err(BadUnitName::Empty);
        }
        if text.len() > MAX_UNIT_NAME_BYTES {
            return Err(BadUnitName::TooLong);
        }
        let (stem, suffix) = text.rsplit_once('.').ok_or(BadUnitName::NoDot)?;
        if suffix.is_empty() {
            return Err(BadUnitName::EndsInDot);
        }
        let kind = UnitType::from_suffix(suffix).ok_or_else(|| BadUnitName::Type(suffix.to_owned()))?;
        let is_allowed = |c: &char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(*c);
        if let Some(odd) = stem.chars().find(|c| !is_allowed(c)) {
            return Err(BadUnitName::Character(odd));
        }
        // `.service` alone has an empty stem: systemd wants a name before the dot.
        if stem.is_empty() {
            return Err(BadUnitName::Empty);
        }
        if stem.starts_with('@') {
            return Err(BadUnitName::StartsInAt);
        }
        if stem.contains('@') && !kind.may_be_template() {
            return Err(BadUnitName::NotTemplatable(kind.as_str()));
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for UnitName {
    type Error = BadUnitName;

    fn try_from(text: String) -> Result<Self, BadUnitName> {
        text.parse()
    }
}

impl From<UnitName> for String {
    fn from(name: UnitName) -> Self {
        name.as_str().to_owned()
    }
}

impl fmt::Display for UnitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for UnitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_by_fleets_rules() {
        #[rustfmt::skip]
        let cases = [
            ("hello.service",        Ok(())),
            ("a:b-c_d.e\\x2d.timer", Ok(())),
            ("web@1.service",        Ok(())),
            ("web@.socket",          Ok(())),
            ("dev-sda.swap",         Ok(())),
            ("",                     Err("unit name cannot be empty")),
            (".service",             Err("unit name cannot be empty")),
            ("hello",                Err("unit name must contain \".\"")),
            ("hello.",               Err("unit name cannot end in \".\"")),
            ("hello.exe",            Err("invalid unit type: \"exe\"")),
            ("hel lo.service",       Err("invalid character ' ' in unit name")),
            ("../x.service",         Err("invalid character '/' in unit name")),
            ("@1.service",           Err("unit name cannot start in \"@\"")),
            ("a@b.mount",            Err("a mount unit cannot be a template or an instance; only path, service, socket, target and timer can")),
        ];
        for (text, want) in cases {
            let got = text.parse::<UnitName>().map(drop).map_err(|e| e.to_string());
            assert_eq!(got, want.map_err(str::to_owned), "{text}");
        }
        let longest = format!("{}.service", "a".repeat(MAX_UNIT_NAME_BYTES - 8));
        assert!(longest.parse::<UnitName>().is_ok());
        assert_eq!(format!("a{longest}").parse::<UnitName>(), Err(BadUnitName::TooLong));
    }

    #[test]
    fn names_fall_into_parts() {
        #[rustfmt::skip]
        let cases = [
            ("foo.service",         "foo",         "foo",   None,            None,                false),
            ("foo@.service",        "foo@",        "foo",   None,            None,                true),
            ("foo@bar.service",     "foo@bar",     "foo",   Some("bar"),     Some("foo@.service"), false),
            ("foo@bar@baz.service", "foo@bar@baz", "foo",   Some("bar@baz"), Some("foo@.service"), false),
            ("foo.1@2.service",     "foo.1@2",     "foo.1", Some("2"),       Some("foo.1@.service"), false),
        ];
        for (text, stem, prefix, instance, template, is_template) in cases {
            let name: UnitName = text.parse().unwrap();
            assert_eq!(name.stem(), stem, "{text}");
            assert_eq!(name.prefix(), prefix, "{text}");
            assert_eq!(name.instance(), instance, "{text}");
            assert_eq!(name.template().map(String::from).as_deref(), template, "{text}");
            assert_eq!(name.is_template(), is_template, "{text}");
        }
    }

    #[test]
    fn a_name_without_a_type_is_a_service() {
        #[rustfmt::skip]
        let cases = [
            ("foo",         "foo.service"),
            ("foo.service", "foo.service"),
            ("foo.socket",  "foo.socket"),
            ("foo.link",    "foo.link.service"),
            ("foo@1",       "foo@1.service"),
            ("foo*",        "foo*.service"),
        ];
        for (argument, want) in cases {
            assert_eq!(with_default_type(argument), want);
        }
    }

    #[test]
    fn specifiers_are_replaced() {
        let name: UnitName = "web@1.service".parse().unwrap();
        assert_eq!(name.expand("%n %N %p %i %x"), "web@1.service web@1 web 1 %x");
    }
}
