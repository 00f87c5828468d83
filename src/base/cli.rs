//! What every command does at its edges: pipes, and the one line of an error.

use std::{error::Error, process::ExitCode};

/// Lets a command whose reader has gone end quietly, as C programs do.
///
/// Rust ignores SIGPIPE, and `println!` would panic in `fleetctl list-units | head`.
/// The same signal comes from a server that closes its connection in the middle of
/// a request; then the write fails as usual, and there is an error to tell.
///
/// Only for commands that print.
pub fn end_with_reader() {
    let handler = on_sigpipe as extern "C" fn(libc::c_int);
    // SAFETY: called first in main, before other threads exist; the handler makes
    // only calls that signal-safety(7) lists.
    unsafe {
        libc::signal(libc::SIGPIPE, handler as libc::sighandler_t);
    }
}

extern "C" fn on_sigpipe(_: libc::c_int) {
    let mut output = libc::pollfd { fd: libc::STDOUT_FILENO, events: 0, revents: 0 };
    // SAFETY: one pollfd, as the count says; the thread's errno is put back for the
    // write that was interrupted.
    unsafe {
        let errno = *libc::__errno_location();
        let told = libc::poll(&raw mut output, 1, 0);
        // poll(2): of a pipe's writing end, POLLERR says that nobody has the other one.
        if told == 1 && output.revents & (libc::POLLERR | libc::POLLHUP) != 0 {
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
            libc::raise(libc::SIGPIPE);
        }
        *libc::__errno_location() = errno;
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
