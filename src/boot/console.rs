//! What `/init` tells: short lines on the console.

use std::{fmt::Display, io::Write};

/// Writes one line that starts with `init: `.
///
/// A console that cannot be written to is no reason not to boot.
pub fn say(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "init: {line}");
}

/// An error and its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    text
}
