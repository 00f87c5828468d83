//! Versions of releases, and which of two is the newer.

use std::{cmp::Ordering, fmt, str::FromStr};

/// Most characters of a version. It becomes a part of keys, file names and
/// XML attributes; the longest of the original's is some 40.
const CHARACTERS_MAX: usize = 64;

/// A release's version: `2605.12.0`, `0.2.0`, `1.0.0-rc.1`, `0.2.0+build.7`.
///
/// Numbers parted by dots; then, optionally, `-` and the words of a version
/// that comes before the plain one; then, optionally, `+` and a build that
/// does not count in the order. `1.0` and `1.0.0` are equal. The text stays as
/// it was written.
///
/// Source: Semantic Versioning 2.0.0, items 9 to 11, for any count of numbers:
/// CoreOS had three, its clients call an absent version `0.0.0.0`.
#[derive(Clone, Debug)]
pub struct Version {
    // Boxed: two versions fit an error that is cheap to return.
    text: Box<str>,
    numbers: Box<[u64]>,
    pre: Box<[Word]>,
}

/// One word of a pre-release. Variant order is the order of versions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Word {
    Number(u64),
    Text(String),
}

/// A text that is no [`Version`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad version {0:?}: give numbers parted by dots, such as 1.2.0 or 1.2.0-rc.1")]
pub struct BadVersion(
    /// Its beginning.
    String,
);

impl Version {
    /// The text as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// Whether two texts are one version, `1.0` and `1.0.0+build` alike.
///
/// Texts that are no versions are the same when they are equal and not empty.
pub fn is_same(a: &str, b: &str) -> bool {
    match (a.parse::<Version>(), b.parse::<Version>()) {
        (Ok(a), Ok(b)) => a == b,
        _ => !a.is_empty() && a == b,
    }
}

impl FromStr for Version {
    type Err = BadVersion;

    fn from_str(text: &str) -> Result<Self, BadVersion> {
        let bad = || BadVersion(text.chars().take(CHARACTERS_MAX).collect());
        if text.len() > CHARACTERS_MAX {
            return Err(bad());
        }
        let (rest, build) = cut(text, '+');
        let (numbers, pre) = cut(rest, '-');
        let numbers: Option<Box<[u64]>> = numbers.split('.').map(number).collect();
        let pre: Option<Box<[Word]>> =
            pre.map_or(Some(Box::default()), |pre| pre.split('.').map(word).collect());
        let has_good_build = build.is_none_or(|build| build.split('.').all(is_word));
        match (numbers, pre) {
            (Some(numbers), Some(pre)) if has_good_build => Ok(Self { text: text.into(), numbers, pre }),
            _ => Err(bad()),
        }
    }
}

fn cut(text: &str, mark: char) -> (&str, Option<&str>) {
    match text.split_once(mark) {
        Some((before, after)) => (before, Some(after)),
        None => (text, None),
    }
}

fn number(text: &str) -> Option<u64> {
    // `parse` alone would also take a sign.
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn word(text: &str) -> Option<Word> {
    match number(text) {
        Some(number) => Some(Word::Number(number)),
        None => is_word(text).then(|| Word::Text(text.to_owned())),
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        let count = self.numbers.len().max(other.numbers.len());
        let at = |version: &Self, place: usize| version.numbers.get(place).copied().unwrap_or(0);
        let numbers = (0..count).map(|place| at(self, place).cmp(&at(other, place)));
        let by_numbers = numbers.fold(Ordering::Equal, Ordering::then);
        let by_pre = match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => self.pre.cmp(&other.pre),
        };
        by_numbers.then(by_pre)
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Version {}

impl fmt::Display for Version {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_semver_orders_them() {
        let rising = [
            "0.0.0.0",
            "0.1.0-1",
            "0.1.0-2",
            "0.1.0-11",
            "0.1.0-alpha",
            "0.1.0-alpha.1",
            "0.1.0-rc.1",
            "0.1.0",
            "0.1.1",
            "0.2",
            "0.10.0",
            "1",
            "2605.12.0",
            "2605.12.0.1",
        ];
        for (older, text) in rising.iter().enumerate() {
            for (newer, other) in rising.iter().enumerate() {
                let (a, b): (Version, Version) = (text.parse().unwrap(), other.parse().unwrap());
                assert_eq!(a.cmp(&b), older.cmp(&newer), "{text} and {other}");
                assert_eq!(a.to_string(), *text);
            }
        }
    }

    #[test]
    fn what_does_not_count_is_equal() {
        for (a, b) in [("1", "1.0.0"), ("1.0+a", "1.0+b.7"), ("1.0-rc", "1-rc"), ("0.0.0.0", "0")] {
            assert_eq!(a.parse::<Version>().unwrap(), b.parse::<Version>().unwrap(), "{a} and {b}");
        }
    }

    #[test]
    fn what_is_no_version_is_refused() {
        let long = format!("1.{}", "0".repeat(CHARACTERS_MAX));
        #[rustfmt::skip]
        let bad = [
            "", ".", "1.", ".1", "1..2", "a", "+1", "1.-2", "-1", "1-", "1+", "1.0-a..b", "1.0-a/b", "1 ",
            "v1", "1.0+a+b", "99999999999999999999999", "1/2", "../1", &long,
        ];
        for text in bad {
            assert!(text.parse::<Version>().is_err(), "{text}");
        }
    }
}
