//! From settled settings to what one member is started with.

mod start;
mod tls;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use proa_base::settings::{Settings, Source};
use proa_etcd_api::url::{self, Address};

use crate::auth::{AuthConfig, TokenKind};
use crate::listener::Listen;
use crate::metrics::Detail;
pub use start::{Cluster, Discovery, Fallback, Registration, SrvDomain, SrvRole, Start, V3Token};
pub use tls::{PeerPlan, ServerPlan};

/// Space for data when `--quota-backend-bytes` is 0. Source: etcd's `DefaultQuotaBytes`.
const DEFAULT_QUOTA_BYTES: u64 = 2 << 30;
/// Largest request: an entry must fit a segment of the log and a peer frame, 16 MiB both.
const MOST_REQUEST_BYTES: usize = 8 << 20;
/// Source: etcd's check of `--election-timeout`.
const MAX_ELECTION_MS: u64 = 50_000;

/// When history is given up without being asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCompaction {
    /// Never.
    Off,
    /// What takes room, but nothing that is young while there is room.
    Bounded,
    /// What is older than this.
    Periodic(Duration),
    /// All but this many revisions.
    Revisions(i64),
}

/// What one member is started with.
#[derive(Clone, Debug)]
pub struct Config {
    /// `--name`.
    pub name: String,
    /// `--data-dir`.
    pub data_dir: PathBuf,
    /// Where clients are served.
    pub listen_clients: Vec<Listen>,
    /// Where metrics and health are served besides.
    pub listen_metrics: Vec<Listen>,
    /// `--metrics`.
    pub metrics: Detail,
    /// How clients are served where TLS is spoken.
    pub client_tls: Option<ServerPlan>,
    /// Where peers are heard.
    pub listen_peers: Vec<Listen>,
    /// How members speak TLS with each other.
    pub peer_tls: PeerPlan,
    /// Client URLs to tell others.
    pub advertise_client_urls: Vec<String>,
    /// Peer URLs to tell others.
    pub advertise_peer_urls: Vec<String>,
    /// What to do with a new data dir.
    pub start: Start,
    /// `--force-new-cluster`: the member that is there goes on without the others.
    pub is_alone: bool,
    /// `--initial-cluster-token`.
    pub token: String,
    /// `--heartbeat-interval`, milliseconds.
    pub heartbeat_ms: u64,
    /// `--election-timeout`, milliseconds.
    pub election_ms: u64,
    /// `--snapshot-count`, log entries.
    pub snapshot_count: u64,
    /// `--strict-reconfig-check`.
    pub strict_reconfig: bool,
    /// `--quota-backend-bytes`, with its default filled in.
    pub quota_bytes: u64,
    /// `--max-request-bytes`.
    pub max_request_bytes: usize,
    /// `--max-txn-ops`.
    pub max_txn_ops: usize,
    /// `--max-concurrent-streams`.
    pub max_streams: u32,
    /// `--experimental-watch-progress-notify-interval`.
    pub watch_progress_every: Duration,
    /// `--bcrypt-cost`, `--auth-token`, `--auth-token-ttl`.
    pub auth: AuthConfig,
    /// `--auto-compaction-*`.
    pub auto_compaction: AutoCompaction,
    /// `--enable-v2`.
    pub serves_v2: bool,
    /// `--enable-grpc-gateway`.
    pub serves_json: bool,
    /// What is odd about the settings, and allowed.
    pub warnings: Vec<String>,
}

/// Settings that are good one by one and bad together. The text names them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadConfig(String);

impl BadConfig {
    fn new(text: String) -> Self {
        Self(text)
    }

    /// Discovery was asked for on a machine without an IPv4 address.
    pub fn no_network(address: IpAddr) -> Self {
        Self(format!(
            "--discovery: needs an IPv4 address on the cluster's network, this machine has {address}"
        ))
    }

    /// The data dir holds a member that the flags do not name.
    pub fn another_cluster(data_dir: &Path, member_id: u64, cluster_id: u64) -> Self {
        Self(format!(
            "--data-dir={}: holds member {member_id:x} of cluster {cluster_id:x}, which is not the one that \
             --initial-cluster and --initial-cluster-token name; give its own flags or another data dir",
            data_dir.display()
        ))
    }
}

/// What a member cannot know from its settings.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The address that others reach this machine by.
    pub address: IpAddr,
    /// The host name.
    pub host_name: String,
}

impl Config {
    /// Puts the settings together.
    ///
    /// # Errors
    /// [`BadConfig`] when two settings contradict each other.
    pub fn new(settings: &Settings, machine: &Machine) -> Result<Self, BadConfig> {
        let discovery = start::lan(settings);
        let name = match (settings.get("name"), &discovery) {
            ("", Some(_)) => machine.host_name.clone(),
            ("", None) => "default".to_owned(),
            (name, _) => name.to_owned(),
        };
        // Machines that must find each other cannot listen on loopback.
        let peer_default = discovery.is_some() && settings.source("listen-peer-urls") == Source::Default;
        let listen_peer_urls = match peer_default {
            true => vec!["http://0.0.0.0:2380".to_owned()],
            false => settings.list("listen-peer-urls"),
        };
        let listen_client_urls = settings.list("listen-client-urls");
        let advertise_peer_urls =
            advertise(settings, "initial-advertise-peer-urls", &listen_peer_urls, machine);
        if discovery.is_some() {
            refuse_sockets(&advertise_peer_urls)?;
        }
        let (heartbeat_ms, election_ms) = timing(settings)?;
        let start = start::choose(settings, discovery, &name, &advertise_peer_urls)?;
        let data_dir = match settings.get("data-dir") {
            "" => PathBuf::from(format!("{name}.etcd")),
            path => PathBuf::from(path),
        };
        let reuse_port = settings.is_on("socket-reuse-port");
        let mut served = listen_client_urls.clone();
        served.extend(settings.list("listen-client-http-urls"));
        let metrics_urls = settings.list("listen-metrics-urls");
        let both = [served.as_slice(), &metrics_urls].concat();
        let mut warnings = Vec::new();
        Ok(Self {
            listen_metrics: tls::listens("listen-metrics-urls", &metrics_urls, reuse_port)?,
            metrics: match settings.get("metrics") {
                "extensive" => Detail::Extensive,
                _ => Detail::Basic,
            },
            listen_clients: tls::listens("listen-client-urls", &served, reuse_port)?,
            client_tls: tls::clients(settings, &data_dir, &both, &mut warnings)?,
            listen_peers: tls::listens("listen-peer-urls", &listen_peer_urls, reuse_port)?,
            peer_tls: tls::peers(settings, &data_dir, &listen_peer_urls, &mut warnings)?,
            data_dir,
            advertise_client_urls: advertise(settings, "advertise-client-urls", &listen_client_urls, machine),
            advertise_peer_urls,
            start,
            is_alone: settings.is_on("force-new-cluster"),
            name,
            token: settings.get("initial-cluster-token").to_owned(),
            heartbeat_ms,
            election_ms,
            snapshot_count: settings.parsed("snapshot-count"),
            strict_reconfig: settings.is_on("strict-reconfig-check"),
            quota_bytes: match settings.parsed("quota-backend-bytes") {
                0 => DEFAULT_QUOTA_BYTES,
                bytes => bytes,
            },
            max_request_bytes: request_bytes(settings, &mut warnings),
            max_txn_ops: settings.parsed("max-txn-ops"),
            max_streams: settings.parsed("max-concurrent-streams"),
            watch_progress_every: progress_every(settings),
            auth: AuthConfig {
                bcrypt_cost: settings.parsed("bcrypt-cost"),
                token_ttl: Duration::from_secs(settings.parsed("auth-token-ttl")),
                tokens: TokenKind::parse(settings.get("auth-token"))
                    .map_err(|right| BadConfig::new(format!("--auth-token: {right}")))?,
            },
            auto_compaction: auto_compaction(settings)?,
            serves_v2: settings.is_on("enable-v2"),
            serves_json: settings.is_on("enable-grpc-gateway"),
            warnings,
        })
    }
}

/// etcd takes any number here, and so do unit files that were written for it.
fn request_bytes(settings: &Settings, warnings: &mut Vec<String>) -> usize {
    let wanted: usize = settings.parsed("max-request-bytes");
    if wanted > MOST_REQUEST_BYTES {
        warnings.push(format!(
            "--max-request-bytes={wanted}: requests of more than {MOST_REQUEST_BYTES} bytes are refused all the same"
        ));
    }
    wanted.min(MOST_REQUEST_BYTES)
}

/// Source: etcd, which takes 0 for its default.
fn progress_every(settings: &Settings) -> Duration {
    let given = settings.duration("experimental-watch-progress-notify-interval");
    if given.is_zero() { Duration::from_secs(600) } else { given }
}

/// The URLs to tell others: as set, else as listened on, with the machine's
/// address in place of "any".
fn advertise(settings: &Settings, name: &str, listen: &[String], machine: &Machine) -> Vec<String> {
    let set = settings.list(name);
    if !set.is_empty() {
        return set.iter().map(|text| text.trim_end_matches('/').to_owned()).collect();
    }
    let reachable = |text: &String| match text.parse() {
        Ok(Listen { address: Address::Tcp(address), encrypted, .. }) if address.ip().is_unspecified() => {
            let scheme = if encrypted { "https" } else { "http" };
            format!("{scheme}://{}", SocketAddr::new(machine.address, address.port()))
        }
        Ok(_) | Err(_) => text.trim_end_matches('/').to_owned(),
    };
    listen.iter().map(reachable).collect()
}

/// Machines that look for each other would wait for one that no other can dial.
fn refuse_sockets(advertise_peer_urls: &[String]) -> Result<(), BadConfig> {
    let is_socket =
        |text: &&String| url::parse(text).is_ok_and(|url| matches!(url.address, Address::Unix(_)));
    match advertise_peer_urls.iter().find(is_socket) {
        None => Ok(()),
        Some(text) => Err(BadConfig(format!(
            "--initial-advertise-peer-urls: other machines cannot dial {text}; with --discovery=lan://... give \
             http://HOST:PORT or https://HOST:PORT"
        ))),
    }
}

fn timing(settings: &Settings) -> Result<(u64, u64), BadConfig> {
    let (heartbeat_ms, election_ms) =
        (settings.parsed::<u64>("heartbeat-interval"), settings.parsed::<u64>("election-timeout"));
    if election_ms < 5 * heartbeat_ms {
        let text = format!(
            "--election-timeout[{election_ms}ms] should be at least as 5 times as --heartbeat-interval[{heartbeat_ms}ms]"
        );
        return Err(BadConfig(text));
    }
    if election_ms > MAX_ELECTION_MS {
        let text = format!(
            "--election-timeout[{election_ms}ms] is too long, and should be set less than {MAX_ELECTION_MS}ms"
        );
        return Err(BadConfig(text));
    }
    Ok((heartbeat_ms, election_ms))
}

/// Source: etcd's `parseCompactionRetention`: a bare number is hours, or
/// revisions in mode `revision`.
fn auto_compaction(settings: &Settings) -> Result<AutoCompaction, BadConfig> {
    let text = settings.get("auto-compaction-retention");
    if text.is_empty() {
        return Ok(AutoCompaction::Bounded);
    }
    let number = text.parse::<u64>().ok();
    if number == Some(0) {
        return Ok(AutoCompaction::Off);
    }
    if settings.get("auto-compaction-mode") == "revision" {
        return match text.parse::<i64>() {
            Ok(count) => Ok(AutoCompaction::Revisions(count)),
            Err(_) => Err(BadConfig(format!(
                "--auto-compaction-retention: bad value {text:?}: give a number of revisions in mode revision"
            ))),
        };
    }
    let period = match number {
        Some(hours) => Duration::from_secs(hours.saturating_mul(3600)),
        None => proa_base::duration::parse(text).unwrap_or_default(),
    };
    Ok(if period.is_zero() { AutoCompaction::Off } else { AutoCompaction::Periodic(period) })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;
    use crate::settings::PROGRAM;

    fn config(args: &str) -> Result<Config, BadConfig> {
        let args: Vec<String> = args.split_whitespace().map(str::to_owned).collect();
        let settings = PROGRAM.settle(&args, &|_| None, &[], &[]).unwrap();
        let machine = Machine { address: "10.77.0.9".parse().unwrap(), host_name: "proa-1".to_owned() };
        Config::new(&settings, &machine)
    }

    #[test]
    fn nothing_set_is_one_member_on_loopback() {
        let config = config("").unwrap();
        assert_eq!(config.name, "default");
        assert_eq!(config.data_dir, PathBuf::from("default.etcd"));
        assert_eq!(config.advertise_client_urls, ["http://localhost:2379"]);
        let members = [("default".to_owned(), vec!["http://localhost:2380".to_owned()])];
        assert_eq!(config.start, Start::New(Cluster(members.into())));
        assert_eq!(config.quota_bytes, 2 << 30);
    }

    #[test]
    fn discovery_tells_the_machines_address() {
        let config =
            config("--discovery=lan://demo?size=3 --listen-client-urls=http://0.0.0.0:2379").unwrap();
        assert_eq!(config.name, "proa-1");
        assert_eq!(config.advertise_client_urls, ["http://10.77.0.9:2379"]);
        assert_eq!(config.advertise_peer_urls, ["http://10.77.0.9:2380"]);
        assert_eq!(config.start, Start::Discover(Discovery { cluster: "demo".to_owned(), size: 3 }));
    }

    #[test]
    fn contradictions_are_named() {
        #[rustfmt::skip]
        let rows = [
            ("--election-timeout=300", "--election-timeout[300ms] should be at least as 5 times as --heartbeat-interval[100ms]"),
            ("--name=x --initial-cluster=a=http://127.0.0.1:1", "--initial-cluster: no member is named \"x\", which is --name; add x=URL"),
            ("--name=a --initial-cluster=a=http://127.0.0.1:1", "--initial-cluster has a=http://127.0.0.1:1 but --initial-advertise-peer-urls is http://localhost:2380; make them equal"),
            ("--client-cert-auth", "--client-cert-auth: needs --trusted-ca-file, whose certificates clients must have"),
            ("--cert-file=a", "--cert-file: needs --key-file too"),
            ("--listen-client-urls=https://127.0.0.1:1", "cannot listen on TLS for 127.0.0.1:1: KeyFile and CertFile are not presented; give --cert-file and --key-file, or --auto-tls"),
            ("--cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 --tls-min-version=TLS1.3 --listen-client-urls=https://127.0.0.1:1 --auto-tls", "--cipher-suites: cipher suites cannot be configured when only TLS1.3 is enabled"),
            ("--peer-crl-file=x --listen-peer-urls=https://127.0.0.1:1 --initial-advertise-peer-urls=https://127.0.0.1:1 --peer-auto-tls", "--peer-crl-file: needs --peer-trusted-ca-file, or no certificate is asked for"),
            ("--discovery=lan://demo?size=3 --listen-peer-urls=unix:///run/peer", "--initial-advertise-peer-urls: other machines cannot dial unix:///run/peer; with --discovery=lan://... give http://HOST:PORT or https://HOST:PORT"),
            ("--listen-client-urls=http://node:1", "--listen-client-urls: bad value \"http://node:1\": give an IP address to listen on"),
            ("--auto-compaction-mode=revision --auto-compaction-retention=1h", "--auto-compaction-retention: bad value \"1h\": give a number of revisions in mode revision"),
        ];
        for (args, want) in rows {
            assert_eq!(config(args).unwrap_err().to_string(), want, "{args}");
        }
    }

    #[test]
    fn any_size_of_requests_is_taken_and_too_large_a_one_is_said() {
        #[rustfmt::skip]
        let rows = [
            ("",                                1_572_864, false),
            ("--max-request-bytes=100",         100,       false),
            ("--max-request-bytes=8388608",     8 << 20,   false),
            ("--max-request-bytes=33554432",    8 << 20,   true),
        ];
        for (args, want, is_said) in rows {
            let config = config(args).unwrap();
            assert_eq!((config.max_request_bytes, config.warnings.len() == 1), (want, is_said), "{args}");
        }
    }

    #[test]
    fn retention_is_hours_or_a_duration_or_revisions() {
        #[rustfmt::skip]
        let rows = [
            ("--auto-compaction-retention=1",   AutoCompaction::Periodic(Duration::from_secs(3600))),
            ("--auto-compaction-retention=30m", AutoCompaction::Periodic(Duration::from_secs(1800))),
            ("--auto-compaction-retention=0",   AutoCompaction::Off),
            ("",                                AutoCompaction::Bounded),
            ("--auto-compaction-mode=revision --auto-compaction-retention=1000", AutoCompaction::Revisions(1000)),
        ];
        for (args, want) in rows {
            assert_eq!(config(args).unwrap().auto_compaction, want, "{args}");
        }
    }
}
