//! The settings of `etcd`, by etcd's own names.
//!
//! Source: `etcd --help` of 3.4 and 3.5. A flag whose meaning is not there yet
//! takes only the value that asks for nothing: a setting that would be ignored
//! is worse than a refused one.

use proa_base::settings::{Program, Setting, checks};

use crate::config::{Cluster, Discovery, url};

const fn setting(
    name: &'static str,
    default: &'static str,
    help: &'static str,
    check: fn(&str) -> Result<(), String>,
) -> Setting {
    Setting { name, default, help, switch: false, check }
}

const fn switch(
    name: &'static str,
    default: &'static str,
    help: &'static str,
    check: fn(&str) -> Result<(), String>,
) -> Setting {
    Setting { name, default, help, switch: true, check }
}

const NO_TLS: &str = "TLS: not served yet, leave it out";
const UNUSED: &str = "accepted, without effect";

/// Every setting of `etcd`.
pub const PROGRAM: Program = Program {
    name: "etcd",
    cmdline: "etcd",
    env: "ETCD",
    settings: &[
        setting("name", "", "this member's name (default: default, or the host name with --discovery)", name),
        setting("data-dir", "", "where everything is kept (default: NAME.etcd)", checks::any),
        setting("listen-client-urls", "http://localhost:2379", "where clients are served", urls),
        setting(
            "advertise-client-urls",
            "",
            "where clients reach this member (default: as it listens)",
            urls,
        ),
        setting("listen-peer-urls", "http://localhost:2380", "where members are heard", urls),
        setting(
            "initial-advertise-peer-urls",
            "",
            "where members reach this one (default: as it listens)",
            urls,
        ),
        setting("initial-cluster", "", "the first members: NAME=URL,NAME=URL", initial_cluster),
        setting("initial-cluster-state", "new", "new, or existing to join a running cluster", cluster_state),
        setting("initial-cluster-token", "etcd-cluster", "keeps clusters of equal members apart", token),
        setting("discovery", "", "find members on the local network: lan://NAME?size=N", discovery),
        setting("heartbeat-interval", "100", "milliseconds between heartbeats", checks::positive),
        setting(
            "election-timeout",
            "1000",
            "milliseconds without a leader before an election",
            checks::positive,
        ),
        setting("snapshot-count", "100000", "log entries between two snapshots", checks::positive),
        setting("quota-backend-bytes", "0", "space for data; 0 means 2 GiB", checks::number),
        setting("max-request-bytes", "1572864", "largest request", request_bytes),
        setting("max-txn-ops", "128", "most operations in one transaction", checks::positive),
        setting("auto-compaction-mode", "periodic", "periodic or revision", compaction_mode),
        setting(
            "auto-compaction-retention",
            "0",
            "history kept: hours or 30m, or revisions; 0 is all",
            retention,
        ),
        setting("log-level", "info", "debug, info, warn, error", log_level),
        setting("logger", "zap", UNUSED, checks::any),
        setting("log-outputs", "default", UNUSED, checks::any),
        setting("log-output", "default", UNUSED, checks::any),
        setting("max-snapshots", "5", UNUSED, checks::number),
        setting("max-wals", "5", UNUSED, checks::number),
        setting(
            "bcrypt-cost",
            "10",
            "work of hashing a password: 4 to 31, each step doubles it",
            bcrypt_cost,
        ),
        setting("auth-token-ttl", "300", "seconds that a simple token lives unused", checks::positive),
        setting("grpc-keepalive-min-time", "5s", UNUSED, checks::duration),
        setting("grpc-keepalive-interval", "2h", UNUSED, checks::duration),
        setting("grpc-keepalive-timeout", "20s", UNUSED, checks::duration),
        setting("metrics", "basic", UNUSED, checks::any),
        setting("proxy", "off", "only off", only_off),
        setting("auth-token", "simple", "only simple", only_simple),
        setting("host-whitelist", "*", "only *", only_star),
        setting("cors", "*", "only *", only_star),
        switch(
            "strict-reconfig-check",
            "true",
            "refuse changes of the membership that endanger the quorum",
            checks::boolean,
        ),
        switch("pre-vote", "true", UNUSED, checks::boolean),
        switch("enable-v2", "true", "serve the v2 API as well", checks::boolean),
        switch("debug", "false", "only false: use --log-level=debug", only_false),
        switch("enable-pprof", "false", "only false", only_false),
        switch("force-new-cluster", "false", "only false", only_false),
        switch("unsafe-no-fsync", "false", "only false: what is acknowledged is on the disk", only_false),
        switch("socket-reuse-port", "false", "only false", only_false),
        switch("client-cert-auth", "false", NO_TLS, no_tls_switch),
        switch("peer-client-cert-auth", "false", NO_TLS, no_tls_switch),
        switch("auto-tls", "false", NO_TLS, no_tls_switch),
        switch("peer-auto-tls", "false", NO_TLS, no_tls_switch),
        setting("cert-file", "", NO_TLS, no_tls),
        setting("key-file", "", NO_TLS, no_tls),
        setting("trusted-ca-file", "", NO_TLS, no_tls),
        setting("client-crl-file", "", NO_TLS, no_tls),
        setting("client-cert-allowed-hostname", "", NO_TLS, no_tls),
        setting("peer-cert-file", "", NO_TLS, no_tls),
        setting("peer-key-file", "", NO_TLS, no_tls),
        setting("peer-trusted-ca-file", "", NO_TLS, no_tls),
        setting("peer-crl-file", "", NO_TLS, no_tls),
        setting("peer-cert-allowed-cn", "", NO_TLS, no_tls),
        setting("peer-cert-allowed-hostname", "", NO_TLS, no_tls),
        setting("cipher-suites", "", NO_TLS, no_tls),
        setting("wal-dir", "", "not supported: the log lies in the data dir", leave_out),
        setting("listen-metrics-urls", "", "not supported yet", leave_out),
        setting("discovery-srv", "", "not supported: use --discovery=lan://NAME?size=N", leave_out),
        setting("discovery-srv-name", "", "not supported", leave_out),
        setting("discovery-fallback", "", "not supported", leave_out),
        setting("discovery-proxy", "", "not supported", leave_out),
        setting("config-file", "", "not supported: use flags or ETCD_ variables", leave_out),
        setting("log-package-levels", "", "not supported: use --log-level", leave_out),
    ],
};

fn name(value: &str) -> Result<(), String> {
    match value {
        value if value.contains(['=', ',']) => Err("a name has no = and no comma".to_owned()),
        _ => Ok(()),
    }
}

fn urls(value: &str) -> Result<(), String> {
    value.split(',').try_for_each(|item| url::parse(item).map(drop))
}

fn initial_cluster(value: &str) -> Result<(), String> {
    value.parse::<Cluster>().map(drop)
}

fn cluster_state(value: &str) -> Result<(), String> {
    one_of(value, &["new", "existing"])
}

fn token(value: &str) -> Result<(), String> {
    if value.is_empty() { Err("give a word".to_owned()) } else { Ok(()) }
}

fn discovery(value: &str) -> Result<(), String> {
    match value {
        "" => Ok(()),
        value => value.parse::<Discovery>().map(drop),
    }
}

fn request_bytes(value: &str) -> Result<(), String> {
    // An entry must fit a segment of the log and a peer frame, 16 MiB both.
    match value.parse::<usize>() {
        Ok(1024..=8_388_608) => Ok(()),
        Ok(_) | Err(_) => Err("give a number from 1024 to 8388608 (8 MiB)".to_owned()),
    }
}

fn compaction_mode(value: &str) -> Result<(), String> {
    one_of(value, &["periodic", "revision"])
}

fn retention(value: &str) -> Result<(), String> {
    let is_number = value.parse::<u64>().is_ok();
    if is_number || proa_base::duration::parse(value).is_ok() {
        return Ok(());
    }
    Err("give hours or revisions as a number, or a duration such as 30m".to_owned())
}

fn log_level(value: &str) -> Result<(), String> {
    one_of(value, &["debug", "info", "warn", "error"])
}

fn bcrypt_cost(value: &str) -> Result<(), String> {
    match value.parse::<u32>() {
        Ok(4..=31) => Ok(()),
        Ok(_) | Err(_) => Err("give a number from 4 to 31".to_owned()),
    }
}

fn only_off(value: &str) -> Result<(), String> {
    one_of(value, &["off"])
}

fn only_simple(value: &str) -> Result<(), String> {
    one_of(value, &["simple"])
}

fn only_star(value: &str) -> Result<(), String> {
    one_of(value, &["*"])
}

fn only_false(value: &str) -> Result<(), String> {
    if value == "false" { Ok(()) } else { Err("not supported, leave it out".to_owned()) }
}

fn no_tls(value: &str) -> Result<(), String> {
    if value.is_empty() { Ok(()) } else { Err("TLS is not served yet, leave it out".to_owned()) }
}

fn no_tls_switch(value: &str) -> Result<(), String> {
    if value == "false" { Ok(()) } else { no_tls(value) }
}

fn leave_out(value: &str) -> Result<(), String> {
    if value.is_empty() { Ok(()) } else { Err("not supported, leave it out".to_owned()) }
}

fn one_of(value: &str, choices: &[&str]) -> Result<(), String> {
    if choices.contains(&value) { Ok(()) } else { Err(format!("give {}", choices.join(" or "))) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn every_default_passes_its_own_check() {
        for setting in PROGRAM.settings.iter().filter(|setting| !setting.default.is_empty()) {
            assert_eq!((setting.check)(setting.default), Ok(()), "{}", setting.name);
        }
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_name() {
        #[rustfmt::skip]
        let rows = [
            ("--cert-file=x",              "--cert-file: bad value \"x\": TLS is not served yet, leave it out"),
            ("--enable-v2=2",              "--enable-v2: bad value \"2\": give true or false"),
            ("--listen-client-urls=https://127.0.0.1:1", "--listen-client-urls: bad value \"https://127.0.0.1:1\": https is not served yet, use http://"),
            ("--experimental-x=1",         "unknown flag --experimental-x; etcd --help lists what there is"),
            ("--discovery=https://x",      "--discovery: bad value \"https://x\": give lan://NAME?size=N with N from 1 to 9"),
            ("--initial-cluster=a",        "--initial-cluster: bad value \"a\": give NAME=URL,NAME=URL; \"a\" has no ="),
        ];
        for (args, want) in rows {
            let args = [args.to_owned()];
            let error = PROGRAM.settle(&args, &|_| None, &[], &[]).unwrap_err();
            assert_eq!(error.to_string(), want);
        }
    }

    #[test]
    fn harmless_flags_of_etcd_are_accepted() {
        let args = [
            "--logger=zap",
            "--log-outputs=stderr",
            "--enable-v2=false",
            "--strict-reconfig-check",
            "--pre-vote",
        ];
        let args = args.map(str::to_owned);
        assert!(PROGRAM.settle(&args, &|_| None, &[], &[]).is_ok());
    }
}
