//! Passwords from a terminal, unseen.

use std::io::{BufRead as _, Write as _};

use super::failure::Failure;

/// A terminal that does not show what is typed, until this is dropped.
struct Silent(Option<libc::termios>);

impl Silent {
    fn begin() -> Self {
        // SAFETY: a termios of zeros is a valid value of that plain C struct.
        let mut before: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: the structure is ours to write. Fails where there is no terminal.
        if unsafe { libc::tcgetattr(libc::STDIN_FILENO, &mut before) } != 0 {
            return Self(None);
        }
        let silent = libc::termios { c_lflag: before.c_lflag & !libc::ECHO, ..before };
        // SAFETY: as above, and read only.
        unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSAFLUSH, &silent) };
        Self(Some(before))
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // SAFETY: what tcgetattr has given.
            unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSAFLUSH, before) };
            println!();
        }
    }
}

/// Asks once.
pub fn ask(prompt: &str) -> Result<String, Failure> {
    let failed = |error| Failure::args(format!("failed to ask password: {error}"));
    print!("{prompt}");
    std::io::stdout().flush().map_err(failed)?;
    let silent = Silent::begin();
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).map_err(failed)?;
    drop(silent);
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

/// Asks for the new password of a user, and once more: nobody saw it.
pub fn ask_twice(name: &str) -> Result<String, Failure> {
    let password = ask(&format!("Password of {name}: "))?;
    if password.is_empty() {
        return Err(Failure::args("empty password"));
    }
    let again = ask(&format!("Type password of {name} again for confirmation: "))?;
    if password == again { Ok(password) } else { Err(Failure::args("given passwords are different")) }
}
