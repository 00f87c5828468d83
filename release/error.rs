//! What can keep a release from being made.

use std::{io, path::PathBuf};

/// Why a command gave up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("{doing} {}", path.display())]
    File {
        /// What was being done with it.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{}: {wrong}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what would be right.
        wrong: String,
    },
    /// Something would be lost that cannot be made again.
    #[error("{} is there already; keys are never overwritten: choose another folder or move it away", .0.display())]
    KeyExists(PathBuf),
    /// `openssl` is not there or did not do it.
    #[error("openssl {command}: {words}; `make setup` installs openssl")]
    OpenSsl {
        /// Its subcommand.
        command: &'static str,
        /// What it or the system said.
        words: String,
    },
    /// An argument that cannot be used.
    #[error("{0}")]
    Argument(String),
    /// The library refused to make or use a key.
    #[error("{what}: {words}")]
    Key {
        /// What was being done.
        what: &'static str,
        /// The library's own words.
        words: String,
    },
    /// What was made is wrong. Nothing was written.
    #[error("the payload does not make the new image: {0}; nothing was written, please report it")]
    Unsound(String),
    /// The compressor failed, which it does only without memory.
    #[error("compressing")]
    Compress(#[source] io::Error),
}

/// Makes an [`Error::File`] of an error of the system.
pub fn file(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
    let path = path.into();
    move |source| Error::File { doing, path, source }
}

/// An [`Error::Content`].
pub fn content(path: impl Into<PathBuf>, wrong: impl ToString) -> Error {
    Error::Content { path: path.into(), wrong: wrong.to_string() }
}
