//! How a member with a new data dir finds its cluster.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use proa_base::settings::Settings;
use proa_etcd_api::url;
use proa_etcd_client::Timeouts;
use proa_etcd_client::tls::TlsFiles;

use super::BadConfig;

/// The value of `--initial-cluster`: peer URLs by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster(pub BTreeMap<String, Vec<String>>);

impl FromStr for Cluster {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut members: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for item in text.split(',').filter(|item| !item.is_empty()) {
            let Some((name, peer_url)) = item.split_once('=') else {
                return Err(format!("give NAME=URL,NAME=URL; {item:?} has no ="));
            };
            url::parse(peer_url).map_err(|right| format!("{peer_url:?}: {right}"))?;
            members.entry(name.to_owned()).or_default().push(peer_url.trim_end_matches('/').to_owned());
        }
        Ok(Self(members))
    }
}

/// The value of `--discovery`: find each other on the local network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovery {
    /// Keeps clusters on one network apart.
    pub cluster: String,
    /// How many machines found the cluster, 1 to 9.
    pub size: usize,
}

impl FromStr for Discovery {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "give lan://NAME?size=N with N from 1 to 9".to_owned();
        let rest = text.strip_prefix("lan://").ok_or_else(wrong)?;
        let (cluster, size) = rest.split_once("?size=").ok_or_else(wrong)?;
        let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if cluster.is_empty() || cluster.len() > 64 || !cluster.chars().all(is_word) {
            return Err("the NAME of lan://NAME?size=N is 1 to 64 letters, digits, - _ or .".to_owned());
        }
        match size.parse() {
            Ok(size @ 1..=9) => Ok(Self { cluster: cluster.to_owned(), size }),
            Ok(_) | Err(_) => Err(wrong()),
        }
    }
}

/// How a member with a new data dir finds its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// The first members are listed.
    New(Cluster),
    /// A running cluster has added this member.
    Join(Cluster),
    /// By beacons on the local network.
    Discover(Discovery),
    /// By a token that all first members were given.
    Register {
        /// Where.
        at: Registration,
        /// What to be when the cluster has enough members.
        fallback: Fallback,
    },
    /// By the SRV records of a domain.
    Srv {
        /// Which.
        at: SrvDomain,
        /// What to be then.
        role: SrvRole,
    },
    /// Not at all: clients are passed on to the members at these peer URLs.
    Proxy {
        /// Where members are asked who the members are.
        peer_urls: Vec<String>,
        /// Between two times.
        refresh: Duration,
    },
}

/// `--discovery-srv` and `--discovery-srv-name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SrvDomain {
    /// The domain below which the records are.
    pub domain: String,
    /// What keeps clusters of one domain apart; may be empty.
    pub suffix: String,
}

/// What a machine is to the members that it found by their records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SrvRole {
    /// One of the first.
    First,
    /// One that the running cluster has added.
    Joins,
    /// None of them: clients are passed on, and members asked again after this long.
    Proxy {
        /// Between two times.
        refresh: Duration,
    },
}

/// The store in which the first members register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Registration {
    /// `--discovery=https://HOST/PATH/TOKEN`: the v2 API.
    V2 {
        /// That URL.
        url: String,
        /// `--discovery-proxy`: who is asked to ask there.
        proxy: Option<String>,
    },
    /// `--discovery-token` at `--discovery-endpoints`: the v3 API.
    V3(Box<V3Token>),
}

/// A token at a cluster that serves v3.
#[derive(Clone, Debug)]
pub struct V3Token {
    /// The token.
    pub token: String,
    /// The cluster's client URLs.
    pub endpoints: Vec<String>,
    /// `--discovery-user` and `--discovery-password`.
    pub login: Option<(String, String)>,
    /// How it is reached, when TLS is spoken.
    pub tls: Option<TlsFiles>,
    /// How long it is waited for.
    pub timeouts: Timeouts,
}

impl PartialEq for V3Token {
    fn eq(&self, other: &Self) -> bool {
        self.token == other.token && self.endpoints == other.endpoints
    }
}

impl Eq for V3Token {}

/// `--discovery-fallback`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// End with an error.
    Exit,
    /// Pass clients on to the members.
    Proxy,
}

/// Source: etcd's `ErrConflictBootstrapFlags`.
const CONFLICT: &str = "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \
                        \"discovery\" or \"discovery-srv\"";

fn srv(settings: &Settings) -> Result<Option<SrvDomain>, BadConfig> {
    let at = SrvDomain {
        domain: settings.get("discovery-srv").to_owned(),
        suffix: settings.get("discovery-srv-name").to_owned(),
    };
    match (at.domain.is_empty(), at.suffix.is_empty()) {
        (true, true) => Ok(None),
        (true, false) => Err(BadConfig("--discovery-srv-name: needs --discovery-srv".to_owned())),
        (false, _) => Ok(Some(at)),
    }
}

/// The value of `--discovery` when it is about the local network.
pub(super) fn lan(settings: &Settings) -> Option<Discovery> {
    settings.get("discovery").parse().ok()
}

/// What to do with a new data dir.
///
/// # Errors
/// [`BadConfig`] when two settings contradict each other.
pub(super) fn choose(
    settings: &Settings,
    lan: Option<Discovery>,
    name: &str,
    peer_urls: &[String],
) -> Result<Start, BadConfig> {
    let given = settings.get("initial-cluster");
    let is_proxy = settings.get("proxy") == "on";
    let fallback = match settings.get("discovery-fallback") {
        "exit" => Fallback::Exit,
        _ => Fallback::Proxy,
    };
    let registration = registration(settings)?;
    let refresh = || Duration::from_millis(settings.parsed("proxy-refresh-interval"));
    if let Some(at) = srv(settings)? {
        let role = match settings.get("initial-cluster-state") {
            _ if is_proxy => SrvRole::Proxy { refresh: refresh() },
            "existing" => SrvRole::Joins,
            _ => SrvRole::First,
        };
        return match (lan, registration, given) {
            (None, None, "") => Ok(Start::Srv { at, role }),
            (_, _, _) => Err(BadConfig(CONFLICT.to_owned())),
        };
    }
    let both = |flag: &str| Err(BadConfig(format!("give {flag} or --initial-cluster, not both")));
    match (lan, registration) {
        (Some(_), Some(_)) => {
            return Err(BadConfig("give --discovery or --discovery-token, not both".to_owned()));
        }
        (Some(_), None) | (None, Some(Registration::V2 { .. })) if !given.is_empty() => {
            return both("--discovery");
        }
        (None, Some(Registration::V3(_))) if !given.is_empty() => return both("--discovery-token"),
        (Some(_), None) | (None, Some(_)) if is_proxy => {
            let text = "--proxy=on: give the members by --initial-cluster, not by discovery".to_owned();
            return Err(BadConfig(text));
        }
        (Some(discovery), None) => return Ok(Start::Discover(discovery)),
        (None, Some(at)) => return Ok(Start::Register { at, fallback }),
        (None, None) => {}
    }
    if is_proxy {
        let Cluster(members) = given.parse().unwrap_or_else(|_| Cluster(BTreeMap::new()));
        if members.is_empty() {
            return Err(BadConfig("--proxy=on: give the members by --initial-cluster".to_owned()));
        }
        let peer_urls = members.into_values().flatten().collect();
        return Ok(Start::Proxy { peer_urls, refresh: refresh() });
    }
    listed(settings, name, peer_urls)
}

fn listed(settings: &Settings, name: &str, peer_urls: &[String]) -> Result<Start, BadConfig> {
    let cluster = match settings.get("initial-cluster") {
        "" => Cluster([(name.to_owned(), peer_urls.to_vec())].into()),
        _ => settings.parsed("initial-cluster"),
    };
    let Some(listed) = cluster.0.get(name) else {
        let text = format!("--initial-cluster: no member is named {name:?}, which is --name; add {name}=URL");
        return Err(BadConfig(text));
    };
    let (mut listed, mut own) = (listed.clone(), peer_urls.to_vec());
    listed.sort();
    own.sort();
    if listed != own {
        return Err(BadConfig(format!(
            "--initial-cluster has {name}={} but --initial-advertise-peer-urls is {}; make them equal",
            listed.join(","),
            own.join(",")
        )));
    }
    Ok(match settings.get("initial-cluster-state") {
        "existing" => Start::Join(cluster),
        _ => Start::New(cluster),
    })
}

fn registration(settings: &Settings) -> Result<Option<Registration>, BadConfig> {
    let (url, token) = (settings.get("discovery"), settings.get("discovery-token"));
    let endpoints = settings.list("discovery-endpoints");
    if token.is_empty() != endpoints.is_empty() {
        let text = "--discovery-token and --discovery-endpoints: give both or neither".to_owned();
        return Err(BadConfig(text));
    }
    match (url, token) {
        ("", "") => Ok(None),
        (url, "") if url.starts_with("lan://") => Ok(None),
        (url, "") => Ok(Some(Registration::V2 {
            url: url.trim_end_matches('/').to_owned(),
            proxy: settings.given("discovery-proxy").map(str::to_owned),
        })),
        ("", token) => Ok(Some(Registration::V3(Box::new(V3Token {
            token: token.to_owned(),
            endpoints,
            login: v3_login(settings)?,
            tls: v3_tls(settings)?,
            timeouts: Timeouts {
                connect: settings.duration("discovery-dial-timeout"),
                request: settings.duration("discovery-request-timeout"),
            },
        })))),
        (_, _) => Err(BadConfig("give --discovery or --discovery-token, not both".to_owned())),
    }
}

/// `NAME` and a password, or `NAME:PASSWORD`. Nobody is there to be asked for one.
fn v3_login(settings: &Settings) -> Result<Option<(String, String)>, BadConfig> {
    let (user, password) = (settings.get("discovery-user"), settings.get("discovery-password"));
    let needs = |text: &str| Err(BadConfig(text.to_owned()));
    match (user, password, user.split_once(':')) {
        ("", "", _) => Ok(None),
        ("", _, _) => needs("--discovery-password: needs --discovery-user"),
        (_, "", None | Some((_, ""))) => needs("--discovery-user: needs --discovery-password"),
        (_, "", Some((name, password))) => Ok(Some((name.to_owned(), password.to_owned()))),
        (name, password, _) => Ok(Some((name.to_owned(), password.to_owned()))),
    }
}

fn v3_tls(settings: &Settings) -> Result<Option<TlsFiles>, BadConfig> {
    let path = |name: &str| settings.given(name).map(PathBuf::from);
    let files = TlsFiles {
        trusted_ca: path("discovery-cacert"),
        identity: match (path("discovery-cert"), path("discovery-key")) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (_, _) => {
                let text = "--discovery-cert and --discovery-key: give both or neither".to_owned();
                return Err(BadConfig(text));
            }
        },
        trusts_anybody: settings.is_on("discovery-insecure-skip-tls-verify"),
        ..TlsFiles::default()
    };
    let is_wanted = files.trusted_ca.is_some()
        || files.identity.is_some()
        || files.trusts_anybody
        || !settings.is_on("discovery-insecure-transport");
    Ok(is_wanted.then_some(files))
}
