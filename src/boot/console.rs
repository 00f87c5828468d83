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

/// Says what went wrong, and has the kernel remember it: its log is what outlives
/// a restart. The console then shows it twice, which is no harm for what matters.
pub fn say_for_the_log(text: impl Display) {
    say(&text);
    // Without a log there is still the console.
    let _ = std::fs::write("/dev/kmsg", format!("<3>init: {text}"));
}
