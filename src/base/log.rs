//! Logging of the daemons: one line an event on stderr, which is the journal's.

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Starts logging at `level` (`debug`, `info`, `warn`, `error`), for Proa's own crates
/// and at `warn` for the libraries below them.
///
/// Under systemd lines carry no time, since the journal adds its own.
pub fn start(level: &str) {
    let level = level.parse().unwrap_or(LevelFilter::INFO);
    // A target is meant with all that begin like it: every crate of ours.
    let wanted = Targets::new().with_default(LevelFilter::WARN).with_target("proa", level);
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(false).with_target(false);
    let all = tracing_subscriber::registry().with(wanted);
    // A second start in one process (tests) keeps the first.
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        let _ = all.with(lines.without_time()).try_init();
    } else {
        let _ = all.with(lines).try_init();
    }
}
