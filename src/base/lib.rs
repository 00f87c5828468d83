//! What every part of Proa shares: ids, durations, settings, flags, the kernel
//! command line, local addresses, logging.

pub mod cli;
pub mod cmdline;
pub mod dns;
pub mod duration;
pub mod file;
pub mod flags;
pub mod ids;
pub mod log;
pub mod machine;
pub mod net;
pub mod notify;
pub mod settings;
pub mod utc;
