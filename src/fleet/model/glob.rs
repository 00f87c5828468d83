//! Glob patterns over unit names, as `Conflicts=` and command lines use them.
//!
//! The language is that of Go's `path.Match`, which fleet's documentation
//! refers to: `*`, `?`, `[a-z]`, `[^a-z]` and `\` before a literal character.

use std::fmt;

/// Longest pattern in bytes. A unit name has at most 255; four times that leaves
/// room for character classes and bounds the cost of one match (length of the
/// pattern times length of the name).
pub const MAX_GLOB_BYTES: usize = 1024;

/// One pattern, checked when it was read.
///
/// `web@*.service` matches `web@1.service` and not `web.service`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Glob {
    text: String,
    tokens: Vec<Token>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Token {
    /// `*`: any run of characters without a slash, also an empty one.
    Run,
    /// `?`: one character that is not a slash.
    One,
    Literal(char),
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

/// Why a text is not a pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadGlob {
    /// A `[` that is never closed, is empty, or holds half a range.
    #[error("bad character class in pattern {0:?}; right would be [a-z] or [^0-9]")]
    Class(String),
    /// The pattern ends in a lone backslash.
    #[error("pattern {0:?} ends in a backslash; put the character to match after it")]
    Escape(String),
    /// More than [`MAX_GLOB_BYTES`].
    #[error("pattern of {0} bytes is too long; at most {MAX_GLOB_BYTES} are allowed")]
    TooLong(usize),
}

impl Glob {
    /// Whether the pattern is this one name, without anything that stands for others.
    pub fn is_exactly(&self, name: &str) -> bool {
        self.text == name && self.tokens.iter().all(|token| matches!(token, Token::Literal(_)))
    }

    /// Reads a pattern.
    ///
    /// # Errors
    /// [`BadGlob`] where Go's `path.Match` answers `ErrBadPattern`, and for
    /// patterns over [`MAX_GLOB_BYTES`].
    pub fn new(text: &str) -> Result<Self, BadGlob> {
        if text.len() > MAX_GLOB_BYTES {
            return Err(BadGlob::TooLong(text.len()));
        }
        let mut tokens = Vec::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            let token = match c {
                '*' if tokens.last() == Some(&Token::Run) => continue,
                '*' => Token::Run,
                '?' => Token::One,
                '[' => class(&mut chars).ok_or_else(|| BadGlob::Class(text.to_owned()))?,
                '\\' => match chars.next() {
                    Some(escaped) => Token::Literal(escaped),
                    None => return Err(BadGlob::Escape(text.to_owned())),
                },
                literal => Token::Literal(literal),
            };
            tokens.push(token);
        }
        Ok(Self { text: text.to_owned(), tokens })
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the whole of `name` matches.
    pub fn matches(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
        let (mut at, mut token) = (0, 0);
        // Where to go on when a later token fails: the last `*` swallows one
        // character more. Earlier ones never need to be revisited.
        let mut retry: Option<(usize, usize)> = None;
        loop {
            match self.tokens.get(token) {
                Some(Token::Run) => {
                    retry = Some((at, token));
                    token += 1;
                    continue;
                }
                Some(one) if name.get(at).is_some_and(|&c| one.takes(c)) => {
                    at += 1;
                    token += 1;
                    continue;
                }
                None if at == name.len() => return true,
                Some(_) | None => {}
            }
            match retry {
                Some((from, star)) if name.get(from).is_some_and(|&c| c != '/') => {
                    retry = Some((from + 1, star));
                    at = from + 1;
                    token = star + 1;
                }
                Some(_) | None => return false,
            }
        }
    }
}

impl Token {
    fn takes(&self, c: char) -> bool {
        match self {
            Self::Run => false,
            Self::One => c != '/',
            Self::Literal(literal) => *literal == c,
            Self::Class { negated, ranges } => {
                ranges.iter().any(|&(low, high)| low <= c && c <= high) != *negated
            }
        }
    }
}

/// Reads a class after its `[`; `None` when it is malformed.
fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Token> {
    let negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && chars.next_if_eq(&']').is_some() {
            return Some(Token::Class { negated, ranges });
        }
        let low = class_member(chars)?;
        let high = match chars.next_if_eq(&'-') {
            Some(_) => class_member(chars)?,
            None => low,
        };
        ranges.push((low, high));
    }
}

fn class_member(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<char> {
    match chars.next()? {
        '-' | ']' => None,
        '\\' => chars.next(),
        c => Some(c),
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_path_match_does() {
        #[rustfmt::skip]
        let cases = [
            ("abc",      "abc",        true),
            ("*",        "abc",        true),
            ("*",        "",           true),
            ("*c",       "abc",        true),
            ("a*",       "a",          true),
            ("a*",       "ab/c",       false),
            ("a*/b",     "abc/b",      true),
            ("a*/b",     "a/c/b",      false),
            ("a*b*c*d*e*", "axbxcxdxe", true),
            ("a*b*c*d*e*", "axbxcxdxexxx", true),
            ("a*b?c*x",  "abxbbxdbxebxczzx", true),
            ("a*b?c*x",  "abxbbxdbxebxczzy", false),
            ("ab[c]",    "abc",        true),
            ("ab[b-d]",  "abc",        true),
            ("ab[e-g]",  "abc",        false),
            ("ab[^c]",   "abc",        false),
            ("ab[^e-g]", "abc",        true),
            ("a\\*b",    "a*b",        true),
            ("a\\*b",    "ab",         false),
            ("a?b",      "a☺b",        true),
            ("a[^a]b",   "a☺b",        true),
            ("a???b",    "a☺b",        false),
            ("[a-ζ]*",   "α",          true),
            ("*[a-ζ]",   "A",          false),
            ("a?b",      "a/b",        false),
            ("[\\]a]",   "]",          true),
            ("[\\-]",    "-",          true),
            ("[x\\-]",   "z",          false),
            ("*x",       "xxx",        true),
            ("web@*.service", "web@1.service", true),
            ("web@*.service", "web.service",   false),
            ("[--z]",    "",           false),
        ];
        for (pattern, name, want) in cases {
            match Glob::new(pattern) {
                Ok(glob) => assert_eq!(glob.matches(name), want, "{pattern} {name}"),
                Err(_) => assert!(!want, "{pattern} must be a pattern"),
            }
        }
    }

    #[test]
    fn malformed_patterns_are_refused() {
        for pattern in ["[]a]", "[-]", "[x-]", "[-x]", "[", "[^", "[^bc", "a[", "[a-b-c]", "a\\", "[\\"] {
            assert!(Glob::new(pattern).is_err(), "{pattern}");
        }
        assert!(matches!(Glob::new(&"a".repeat(1025)), Err(BadGlob::TooLong(1025))));
    }

    #[test]
    fn many_stars_cost_no_more_than_length_times_length() {
        let pattern = "*a".repeat(500) + "b";
        assert!(!Glob::new(&pattern).unwrap().matches(&"a".repeat(255)));
    }
}
