//! What can keep a machine from running.

use std::{io, path::PathBuf};

/// Why a machine could not be made or started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the image is not there.
    #[error("no image in {}: {missing} is missing; `make image` makes it", dir.display())]
    NoImage {
        /// Where it was looked for.
        dir: PathBuf,
        /// The first file that is not there.
        missing: &'static str,
    },
    /// QEMU itself is not installed.
    #[error("cannot start {}; `make setup` installs it", crate::spawn::QEMU)]
    NoQemu(#[source] io::Error),
    /// QEMU ended at once; its own words.
    #[error("machine {machine} did not start: {words}")]
    Refused {
        /// The machine's name.
        machine: String,
        /// The last line of QEMU's error output.
        words: String,
    },
    /// `PROA_ACCEL` holds something else than `kvm` or `tcg`.
    #[error("PROA_ACCEL: bad value {0:?}: give kvm or tcg")]
    BadAccel(String),
    /// A file or a socket of the run.
    #[error("{what}")]
    Io {
        /// What was being done, with the path.
        what: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Adds what was being done to an error of the system.
pub(crate) fn doing(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let what = what.into();
    move |source| Error::Io { what, source }
}
