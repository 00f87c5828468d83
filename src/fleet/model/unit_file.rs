//! systemd unit files: reading, writing, hashing, and as options of the API.
//!
//! A unit file is a list of options in the order they were written. Comments,
//! empty lines and empty sections carry no meaning and are not kept. The text
//! written back groups options by section, which is what its hash is taken of.

use std::fmt;
use std::fmt::Write as _;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};

/// Largest unit file in bytes. The largest real ones have some 10 KiB; 256 KiB
/// is far from the 1.5 MiB that etcd takes in one request.
pub const MAX_UNIT_FILE_BYTES: usize = 256 * 1024;

/// Most options in one unit file: 4096, one for every 64 bytes of the largest
/// file.
pub const MAX_OPTIONS: usize = 4096;

/// One `name=value` line under a `[section]`; also an option of the HTTP API.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UnitOption {
    /// Section, without brackets.
    #[serde(default)]
    pub section: String,
    /// Name, left of the `=`.
    #[serde(default)]
    pub name: String,
    /// Value, on one line; may be empty (systemd resets a list with that).
    #[serde(default)]
    pub value: String,
}

/// A unit file that can be written back without loss.
///
/// Every section is non-empty and without `]`; names are non-empty, without
/// `=`; neither names nor values have white space around them, line breaks or a
/// backslash at the end of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitFile {
    options: Vec<UnitOption>,
}

/// Why a text or a list of options is not a unit file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {what}; {right}")]
pub struct UnitFileError {
    /// Where.
    pub place: Place,
    /// What is wrong there.
    pub what: String,
    /// What would be right.
    pub right: &'static str,
}

/// A place in a unit file or in a list of options, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The file as a whole.
    Whole,
    /// A line of the text.
    Line(usize),
    /// An option of the list.
    Option(usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => f.write_str("unit file"),
            Self::Line(line) => write!(f, "line {line}"),
            Self::Option(number) => write!(f, "option {number}"),
        }
    }
}

fn bad(place: Place, what: impl Into<String>, right: &'static str) -> UnitFileError {
    UnitFileError { place, what: what.into(), right }
}

impl UnitFile {
    /// Reads a unit file.
    ///
    /// A backslash at the end of a line joins it with the next one by a space;
    /// comment lines in between are skipped, as systemd does (systemd.syntax(7)).
    ///
    /// # Errors
    /// The first line that has no meaning: options outside of a section, lines
    /// without `=`, broken section headers; a file without any option; files
    /// over [`MAX_UNIT_FILE_BYTES`] or [`MAX_OPTIONS`].
    pub fn parse(text: &str) -> Result<Self, UnitFileError> {
        check_size(text.len())?;
        let mut options = Vec::new();
        let mut section: Option<&str> = None;
        // Editors on other systems leave a byte order mark at the start.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut lines = text.split('\n').map(without_cr).enumerate();
        while let Some((index, first)) = lines.next() {
            let place = Place::Line(index + 1);
            let line = first.trim();
            if line.is_empty() || is_comment(line) {
                continue;
            }
            if line.starts_with('[') {
                section = Some(section_name(line, place)?);
                continue;
            }
            let Some(section) = section else {
                let what = format!("{} stands outside of a section", quoted(line));
                return Err(bad(place, what, "start with a section such as [Service]"));
            };
            let whole = join_continued(first, &mut lines);
            let Some((name, value)) = whole.split_once('=') else {
                let what = format!("{} is no option", quoted(line));
                return Err(bad(place, what, "options are written Name=value"));
            };
            options.push(option(place, section, name, value)?);
        }
        Self::checked(options)
    }

    /// The unit file made of the options of an API request.
    ///
    /// # Errors
    /// The first option that could not be written to a file and read back.
    pub fn from_options(options: &[UnitOption]) -> Result<Self, UnitFileError> {
        let checked = options.iter().enumerate().map(|(index, raw)| {
            let place = Place::Option(index + 1);
            let section = raw.section.trim();
            if section.is_empty() || section.contains(['[', ']', '\n', '\r', '\0']) {
                let what = format!("{} is no section", quoted(section));
                return Err(bad(place, what, "a section is a word such as Service"));
            }
            option(place, section, &raw.name, &raw.value)
        });
        let file = Self::checked(checked.collect::<Result<_, _>>()?)?;
        check_size(file.render().len())?;
        Ok(file)
    }

    fn checked(options: Vec<UnitOption>) -> Result<Self, UnitFileError> {
        if options.is_empty() {
            let right = "a unit needs at least one section with one option";
            return Err(bad(Place::Whole, "no options", right));
        }
        if options.len() > MAX_OPTIONS {
            let what = format!("{} options are too many", options.len());
            return Err(bad(Place::Whole, what, "at most 4096 options are allowed"));
        }
        Ok(Self { options })
    }

    /// The options, in the order they were written.
    pub fn options(&self) -> &[UnitOption] {
        &self.options
    }

    /// The values of one option, in order; a repeated option has several.
    pub fn values<'a>(&'a self, section: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.options
            .iter()
            .filter(move |option| option.section == section && option.name == name)
            .map(|option| option.value.as_str())
    }

    /// The first `Description=` of `[Unit]`.
    pub fn description(&self) -> Option<&str> {
        self.values("Unit", "Description").next()
    }

    /// Whether systemd can enable this unit: it has an `[Install]` section.
    pub fn has_install_section(&self) -> bool {
        self.options.iter().any(|option| option.section == "Install")
    }

    /// The text of the file: sections in the order they first appear, each with
    /// all its options, one empty line between them.
    ///
    /// ```text
    /// [Unit]
    /// Description=hello
    ///
    /// [Service]
    /// ExecStart=/bin/sleep 100
    /// ```
    pub fn render(&self) -> String {
        let mut sections: Vec<(&str, String)> = Vec::new();
        for UnitOption { section, name, value } in &self.options {
            let known = sections.iter().position(|(known, _)| known == section);
            let at = known.unwrap_or_else(|| {
                sections.push((section, format!("[{section}]\n")));
                sections.len() - 1
            });
            writeln!(sections[at].1, "{name}={value}").expect("a string takes all text");
        }
        let texts: Vec<String> = sections.into_iter().map(|(_, text)| text).collect();
        texts.join("\n")
    }

    /// The SHA-1 of [`UnitFile::render`]: what fleet calls the hash of a unit.
    pub fn hash(&self) -> UnitHash {
        UnitHash(Sha1::digest(self.render()).into())
    }
}

fn check_size(size_bytes: usize) -> Result<(), UnitFileError> {
    if size_bytes <= MAX_UNIT_FILE_BYTES {
        return Ok(());
    }
    let what = format!("{size_bytes} bytes are too many");
    Err(bad(Place::Whole, what, "at most 256 KiB are allowed"))
}

fn without_cr(line: &str) -> &str {
    line.strip_suffix('\r').unwrap_or(line)
}

fn is_comment(trimmed: &str) -> bool {
    trimmed.starts_with(['#', ';'])
}

/// A piece of the user's text, short enough for one line of a message.
fn quoted(text: &str) -> String {
    const SHOWN: usize = 60;
    let mut shown: String = text.chars().take(SHOWN).collect();
    if shown.len() < text.len() {
        shown.push_str("...");
    }
    format!("{shown:?}")
}

fn section_name(line: &str, place: Place) -> Result<&str, UnitFileError> {
    let right = "a section is a word in brackets on its own line, such as [Service]";
    let inner = line.strip_prefix('[').unwrap_or(line);
    let Some((name, rest)) = inner.split_once(']') else {
        return Err(bad(place, format!("{} is never closed", quoted(line)), right));
    };
    if !rest.is_empty() {
        let what = format!("{} stands after the section", quoted(rest));
        return Err(bad(place, what, right));
    }
    let name = name.trim();
    if name.is_empty() || name.contains(['[', '\0', '\r']) {
        return Err(bad(place, format!("{} is no section", quoted(line)), right));
    }
    Ok(name)
}

/// `first` and the lines it is continued on, as one.
fn join_continued<'a>(first: &'a str, lines: &mut impl Iterator<Item = (usize, &'a str)>) -> String {
    let mut whole = String::new();
    let mut line = first;
    while let Some(part) = line.strip_suffix('\\') {
        whole.push_str(part);
        whole.push(' ');
        // A comment inside of a continued line is no part of it.
        let mut rest = lines.by_ref().map(|(_, next)| next);
        match rest.find(|next| !is_comment(next.trim_start())) {
            Some(next) => line = next,
            None => return whole,
        }
    }
    whole.push_str(line);
    whole
}

fn option(place: Place, section: &str, name: &str, value: &str) -> Result<UnitOption, UnitFileError> {
    let (name, value) = (name.trim(), value.trim());
    if name.is_empty() || name.starts_with(['[', '#', ';']) || name.contains(['=', '\n', '\r', '\0']) {
        let what = format!("{} is no name of an option", quoted(name));
        return Err(bad(place, what, "options are written Name=value"));
    }
    if value.contains(['\n', '\r', '\0']) {
        let what = format!("the value of {name} holds a line break or a zero byte");
        return Err(bad(place, what, "write the value on one line"));
    }
    if value.ends_with('\\') {
        let what = format!("the value of {name} ends in a backslash");
        return Err(bad(place, what, "it would swallow the next line: write the value on one line"));
    }
    Ok(UnitOption { section: section.to_owned(), name: name.to_owned(), value: value.to_owned() })
}

/// The SHA-1 that names a unit file: 40 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UnitHash([u8; 20]);

/// A text that is no hash of a unit file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a unit hash is 40 lower-case hex digits")]
pub struct BadUnitHash;

impl UnitHash {
    /// The hash with these bytes.
    pub fn from_bytes(bytes: [u8; 20]) -> Self {
        Self(bytes)
    }

    /// The first seven hex digits: what tables show.
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(7);
        text
    }
}

impl FromStr for UnitHash {
    type Err = BadUnitHash;

    fn from_str(text: &str) -> Result<Self, BadUnitHash> {
        let is_digit = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 40 || !text.bytes().all(is_digit) {
            return Err(BadUnitHash);
        }
        let mut bytes = [0; 20];
        for (index, byte) in bytes.iter_mut().enumerate() {
            let pair = &text[2 * index..2 * index + 2];
            *byte = u8::from_str_radix(pair, 16).map_err(|_| BadUnitHash)?;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for UnitHash {
    type Error = BadUnitHash;

    fn try_from(text: String) -> Result<Self, BadUnitHash> {
        text.parse()
    }
}

impl From<UnitHash> for String {
    fn from(hash: UnitHash) -> Self {
        hash.to_string()
    }
}

impl fmt::Display for UnitHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for UnitHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}
