//! A prompt on the terminal whose commands reach the cluster.

use crate::signals;
use std::{
    io::{self, Write},
    process::Command,
};

/// What a line may hold; terminals cut at 4096 themselves.
const MOST_LINE_BYTES: usize = 4096;

/// Whether standard input is a terminal.
pub fn has_terminal() -> bool {
    io::IsTerminal::is_terminal(&io::stdin())
}

/// Reads lines and runs each in a shell with `environment` until the input ends, `exit`
/// is typed, or Ctrl-C is pressed at the prompt; in a command Ctrl-C ends the command.
pub fn run(environment: &[(&str, String)]) {
    loop {
        print!("\nproa> ");
        let _ = io::stdout().flush();
        let Some(line) = read_line() else { break };
        match line.trim() {
            "" => continue,
            "exit" | "quit" => break,
            line => {
                let mut shell = Command::new("sh");
                shell.args(["-c", line]).envs(environment.iter().map(|(key, value)| (*key, value)));
                if let Err(error) = shell.status() {
                    println!("sh: {error}");
                }
                signals::forget();
            }
        }
    }
    println!();
}

/// One line of standard input; `None` at its end and after a signal.
///
/// Read without std's buffer, which would go on reading after a signal.
fn read_line() -> Option<String> {
    let mut line = Vec::new();
    while line.len() < MOST_LINE_BYTES {
        let mut byte = 0_u8;
        // SAFETY: one byte is written to one byte.
        let count = unsafe { libc::read(0, std::ptr::from_mut(&mut byte).cast(), 1) };
        match (count, byte) {
            (1, b'\n') => break,
            (1, byte) => line.push(byte),
            _ if line.is_empty() || signals::ended() => return None,
            _ => break,
        }
    }
    Some(String::from_utf8_lossy(&line).into_owned())
}
