//! The settings of `etcd`, by etcd's own names.
//!
//! Source: `etcd --help` of 3.4 and 3.5. A flag whose meaning is not there yet
//! takes only the value that asks for nothing: a setting that would be ignored
//! is worse than a refused one.

use std::io;
use std::path::{Path, PathBuf};

use proa_base::settings::{BadSetting, Program, Settings, checks, read_file, setting, switch};

mod file;
mod rules;

use crate::tls::{check_suites, check_version};
use rules::*;
pub(crate) use rules::{domain, label};

const UNUSED: &str = "accepted, without effect";
const REMOVED: &str = "removed in etcd 3: use --trusted-ca-file";

/// Every setting of `etcd`.
pub const PROGRAM: Program = Program {
    name: "etcd",
    cmdline: "etcd",
    env: "ETCD",
    settings: &[
        setting("name", "", "this member's name (default: default, or the host name with --discovery)", name),
        setting("data-dir", "", "where everything is kept (default: NAME.etcd)", checks::any),
        setting(
            "listen-client-urls",
            "http://localhost:2379",
            "where clients are served: http://IP:PORT, https://IP:PORT or unix://SOCKET",
            urls,
        ),
        setting("listen-metrics-urls", "", "where metrics and health are served besides", optional_urls),
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
        setting(
            "initial-cluster-token",
            "etcd-cluster",
            "keeps clusters of equal members apart",
            checks::any,
        ),
        setting(
            "discovery",
            "",
            "find the first members: lan://NAME?size=N on the local network, or by https://HOST/PATH/TOKEN",
            discovery,
        ),
        setting(
            "discovery-srv",
            "",
            "find the first members by the SRV records _etcd-server[-ssl]._tcp of this domain",
            domain,
        ),
        setting(
            "discovery-srv-name",
            "",
            "by _etcd-server[-ssl]-NAME._tcp instead, where a domain has several clusters",
            label,
        ),
        setting(
            "discovery-proxy",
            "",
            "http://HOST:PORT of an HTTP proxy that --discovery=https://HOST/PATH/TOKEN is asked through",
            http_proxy,
        ),
        setting("discovery-fallback", "proxy", "exit or proxy when the cluster is full", fallback),
        setting(
            "discovery-token",
            "",
            "find the first members by a token at --discovery-endpoints",
            checks::any,
        ),
        setting(
            "discovery-endpoints",
            "",
            "the cluster that knows the token, by its v3 API",
            client_endpoints,
        ),
        setting("discovery-dial-timeout", "2s", "for the connection to it", checks::duration),
        setting("discovery-request-timeout", "5s", "for its answer", checks::duration),
        setting("discovery-keepalive-time", "2s", UNUSED, checks::duration),
        setting("discovery-keepalive-timeout", "6s", UNUSED, checks::duration),
        switch(
            "discovery-insecure-transport",
            "true",
            "no TLS to endpoints without a scheme",
            checks::boolean,
        ),
        switch("discovery-insecure-skip-tls-verify", "false", "believe any certificate", checks::boolean),
        setting("discovery-cacert", "", "it must have a certificate of these CAs", checks::any),
        setting("discovery-cert", "", "our certificate for it", checks::any),
        setting("discovery-key", "", "the key of --discovery-cert", checks::any),
        setting("discovery-user", "", "who we are to it: NAME, or NAME:PASSWORD", checks::any),
        setting("discovery-password", "", "the password of --discovery-user", checks::any),
        setting("heartbeat-interval", "100", "milliseconds between heartbeats", checks::positive),
        setting(
            "election-timeout",
            "1000",
            "milliseconds without a leader before an election",
            checks::positive,
        ),
        setting("snapshot-count", "100000", "log entries between two snapshots", checks::positive),
        setting("quota-backend-bytes", "0", "space for data; 0 means 2 GiB", checks::number),
        setting("max-request-bytes", "1572864", "largest request, 8 MiB at most", checks::number),
        setting(
            "max-concurrent-streams",
            "4294967295",
            "most requests at a time on one connection, 100000 at most",
            checks::positive,
        ),
        setting("max-txn-ops", "128", "most operations in one transaction", checks::positive),
        setting("auto-compaction-mode", "periodic", "periodic or revision", compaction_mode),
        setting(
            "auto-compaction-retention",
            "",
            "history kept: hours or 30m, or revisions; 0 is all (default: 256 MiB of writes, 5 minutes while there is room)",
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
        setting("metrics", "basic", "basic, or extensive: how long each kind of call takes too", metrics),
        setting("proxy", "off", "on: pass clients on to the members of --initial-cluster; or off", proxy),
        setting(
            "proxy-refresh-interval",
            "30000",
            "milliseconds between two looks who they are",
            checks::positive,
        ),
        setting("proxy-failure-wait", "5000", UNUSED, checks::number),
        setting("proxy-dial-timeout", "1000", UNUSED, checks::number),
        setting("proxy-write-timeout", "5000", UNUSED, checks::number),
        setting("proxy-read-timeout", "0", UNUSED, checks::number),
        setting(
            "auth-token",
            "simple",
            "simple, or jwt,sign-method=METHOD,priv-key=FILE,pub-key=FILE,ttl=10m",
            auth_token,
        ),
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
        switch("enable-grpc-gateway", "true", "serve the v3 API in JSON as well", checks::boolean),
        switch("debug", "false", "only false: use --log-level=debug", only_false),
        switch(
            "enable-pprof",
            "false",
            "accepted, without effect: there is no Go to profile",
            checks::boolean,
        ),
        switch(
            "force-new-cluster",
            "false",
            "once: go on with this member's data and without the other members",
            checks::boolean,
        ),
        switch("unsafe-no-fsync", "false", "only false: what is acknowledged is on the disk", only_false),
        switch("socket-reuse-port", "false", "others may listen on the same ports", checks::boolean),
        switch("socket-reuse-address", "false", UNUSED, checks::boolean),
        switch("initial-election-tick-advance", "true", UNUSED, checks::boolean),
        setting("backend-bbolt-freelist-type", "map", UNUSED, checks::any),
        setting("experimental-backend-bbolt-freelist-type", "array", UNUSED, checks::any),
        setting("raft-read-timeout", "5s", UNUSED, checks::duration),
        setting("raft-write-timeout", "5s", UNUSED, checks::duration),
        setting("backend-batch-interval", "0s", UNUSED, checks::duration),
        setting("backend-batch-limit", "0", UNUSED, checks::number),
        setting("v2-deprecation", "not-yet", UNUSED, checks::any),
        setting("log-format", "json", UNUSED, checks::any),
        switch("enable-log-rotation", "false", "only false: the log is for the journal", only_false),
        setting("log-rotation-config-json", "", UNUSED, checks::any),
        switch("experimental-initial-corrupt-check", "false", UNUSED, checks::boolean),
        setting("experimental-corrupt-check-time", "0s", UNUSED, checks::duration),
        switch("experimental-compact-hash-check-enabled", "false", UNUSED, checks::boolean),
        setting("experimental-compact-hash-check-time", "1m", UNUSED, checks::duration),
        switch("experimental-enable-lease-checkpoint", "false", UNUSED, checks::boolean),
        switch("experimental-enable-lease-checkpoint-persist", "false", UNUSED, checks::boolean),
        setting("experimental-compaction-batch-limit", "1000", UNUSED, checks::number),
        setting("experimental-compaction-sleep-interval", "10ms", UNUSED, checks::duration),
        switch("experimental-peer-skip-client-san-verification", "false", UNUSED, checks::boolean),
        setting(
            "experimental-watch-progress-notify-interval",
            "10m",
            "between two reports to a watcher that hears nothing else",
            checks::duration,
        ),
        setting("experimental-warning-apply-duration", "100ms", UNUSED, checks::duration),
        setting("experimental-warning-unary-request-duration", "300ms", UNUSED, checks::duration),
        setting("experimental-downgrade-check-time", "5s", UNUSED, checks::duration),
        setting("experimental-bootstrap-defrag-threshold-megabytes", "0", UNUSED, checks::number),
        setting("experimental-snapshot-catchup-entries", "5000", UNUSED, checks::number),
        setting("experimental-wait-cluster-ready-timeout", "5s", UNUSED, checks::duration),
        switch("experimental-txn-mode-write-with-shared-buffer", "true", UNUSED, checks::boolean),
        switch("experimental-stop-grpc-service-on-defrag", "false", UNUSED, checks::boolean),
        switch("experimental-memory-mlock", "false", "only false", only_false),
        setting("experimental-max-learners", "1", "only 1", only_one),
        setting("experimental-enable-v2v3", "", "not supported: the v2 API has its own data", leave_out),
        switch("experimental-enable-distributed-tracing", "false", "only false", only_false),
        setting("experimental-distributed-tracing-address", "localhost:4317", UNUSED, checks::any),
        setting("experimental-distributed-tracing-service-name", "etcd", UNUSED, checks::any),
        setting("experimental-distributed-tracing-instance-id", "", UNUSED, checks::any),
        setting("experimental-distributed-tracing-sampling-rate", "0", UNUSED, checks::number),
        setting("cert-file", "", "this member's certificate for clients, with its chain", checks::any),
        setting("key-file", "", "the key of --cert-file", checks::any),
        setting("trusted-ca-file", "", "clients must have a certificate of these CAs", checks::any),
        switch("client-cert-auth", "false", "a client is who its certificate says", checks::boolean),
        setting("client-crl-file", "", "clients' certificates that were revoked", checks::any),
        setting("client-cert-allowed-hostname", "", "clients must have one of these host names", checks::any),
        switch("auto-tls", "false", "serve clients with a certificate made here", checks::boolean),
        setting("client-cert-file", "", UNUSED, checks::any),
        setting("client-key-file", "", UNUSED, checks::any),
        setting("peer-cert-file", "", "this member's certificate for members, with its chain", checks::any),
        setting("peer-key-file", "", "the key of --peer-cert-file", checks::any),
        setting(
            "peer-client-cert-file",
            "",
            "shown to other members instead of --peer-cert-file",
            checks::any,
        ),
        setting("peer-client-key-file", "", "the key of --peer-client-cert-file", checks::any),
        setting("peer-trusted-ca-file", "", "members must have a certificate of these CAs", checks::any),
        switch("peer-client-cert-auth", "false", "members must have a certificate", checks::boolean),
        setting("peer-crl-file", "", "members' certificates that were revoked", checks::any),
        setting("peer-cert-allowed-cn", "", "members must have one of these common names", checks::any),
        setting("peer-cert-allowed-hostname", "", "members must have one of these host names", checks::any),
        switch(
            "peer-auto-tls",
            "false",
            "encrypt between members with certificates made here",
            checks::boolean,
        ),
        setting("self-signed-cert-validity", "1", "years a certificate made here is good", years),
        setting("cipher-suites", "", "suites of TLS 1.2 by Go's names; all good ones if none", check_suites),
        setting("tls-min-version", "TLS1.2", "TLS1.2 or TLS1.3", check_version),
        setting("tls-max-version", "", "TLS1.2 or TLS1.3", check_version),
        setting("ca-file", "", REMOVED, leave_out),
        setting("peer-ca-file", "", REMOVED, leave_out),
        setting("listen-client-http-urls", "", "more URLs where clients are served", urls),
        setting("wal-dir", "", "not supported: the log lies in the data dir", leave_out),
        setting(
            "config-file",
            "",
            "settings as etcd's YAML has them; flags and the environment are stronger",
            checks::any,
        ),
        setting("log-package-levels", "", "not supported: use --log-level", leave_out),
    ],
};

/// Why the settings of a run could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A flag, a variable or a key.
    #[error(transparent)]
    Setting(#[from] BadSetting),
    /// A file that cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// The file of `--config-file` is not understood.
    #[error("{}, {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: file::BadFile,
    },
}

/// The settings of this run: flags over environment over kernel command line over
/// the file of `--config-file` over the image's own file.
///
/// # Errors
/// The first thing that is wrong, named.
pub fn settle_here(args: &[String], image_file: &Path) -> Result<Settings, SettingsError> {
    let read = |path: &Path| std::fs::read_to_string(path);
    let mut pairs = match read(image_file) {
        Ok(text) => read_file(&text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(source) => return Err(SettingsError::Read { path: image_file.to_owned(), source }),
    };
    let settings = PROGRAM.settle_here(args, &pairs)?;
    let path = PathBuf::from(settings.get("config-file"));
    if path.as_os_str().is_empty() {
        return Ok(settings);
    }
    let text = read(&path).map_err(|source| SettingsError::Read { path: path.clone(), source })?;
    // Of two equal keys the later counts.
    pairs.extend(file::parse(&text).map_err(|source| SettingsError::File { path, source })?);
    Ok(PROGRAM.settle_here(args, &pairs)?)
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
            ("--ca-file=x",                "--ca-file: bad value \"x\": not supported, leave it out"),
            ("--enable-v2=2",              "--enable-v2: bad value \"2\": give true or false"),
            ("--listen-client-urls=x://127.0.0.1:1", "--listen-client-urls: bad value \"x://127.0.0.1:1\": give http://HOST:PORT, https://HOST:PORT or unix://SOCKET"),
            ("--tls-min-version=TLS1.1",   "--tls-min-version: bad value \"TLS1.1\": give TLS1.2 or TLS1.3"),
            ("--experimental-memory-mlock", "--experimental-memory-mlock: bad value \"true\": not supported, leave it out"),
            ("--experimental-x=1",         "unknown flag --experimental-x; etcd --help lists what there is"),
            ("--discovery=ftp://x",        "--discovery: bad value \"ftp://x\": give lan://NAME?size=N with N from 1 to 9"),
            ("--proxy=readonly",           "--proxy: bad value \"readonly\": give on or off"),
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
