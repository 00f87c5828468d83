//! What every command does at its edges: pipes, and the one line of an error.

use std::{error::Error, process::ExitCode};

/// Lets a closed pipe end the process quietly, as it does for C programs.
///
/// Rust ignores SIGPIPE, and `println!` would panic in `fleetctl list-units | head`.
/// Only for commands that print: a server must survive a closed connection.
pub fn restore_sigpipe() {
    // SAFETY: called first in main, before other threads exist.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}

/// Prints `program: error: cause: cause` on one line of stderr and gives the failing status.
pub fn fail(program: &str, error: &dyn Error) -> ExitCode {
    eprintln!("{program}: {}", chain(error));
    ExitCode::FAILURE
}

/// The error and its causes, joined by `: `; a cause that its parent already prints is not repeated.
pub fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        source = cause.source();
    }
    line.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn a_chain_is_one_line() {
        let error = Outer(std::io::Error::other("inner\nline"));
        assert_eq!(chain(&error), "outer: inner line");
    }
}
