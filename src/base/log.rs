//! Logging of the daemons: one line an event on stderr, which is the journal's.

use tracing_subscriber::{EnvFilter, fmt};

/// Starts logging at `level` (`debug`, `info`, `warn`, `error`), for Proa's own crates
/// and at `warn` for the libraries below them.
///
/// Under systemd lines carry no time, since the journal adds its own.
pub fn start(level: &str) {
    let filter = EnvFilter::new(format!("warn,proa={level},{}", own_crates(level)));
    let lines =
        fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).with_target(false);
    // A second start in one process (tests) keeps the first.
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        let _ = lines.without_time().try_init();
    } else {
        let _ = lines.try_init();
    }
}

fn own_crates(level: &str) -> String {
    let crates =
        ["applets", "base", "boot", "etcd_api", "etcd_client", "etcd_replica", "etcd_server", "fleet_daemon"];
    crates.map(|name| format!("proa_{name}={level}")).join(",")
}
