//! omahad's settings.

use std::{path::PathBuf, time::Duration};

use proa_base::settings::{BadSetting, Program, Settings, checks, setting};
use proa_etcd_client::tls::TlsFiles;

/// All that omahad can be told.
pub const PROGRAM: Program = Program {
    name: "omahad",
    cmdline: "omaha",
    env: "OMAHA",
    settings: &[
        setting("listen", "0.0.0.0:8000", "where machines ask, HOST:PORT", address),
        setting(
            "api-listen",
            "127.0.0.1:8001",
            "where omahactl asks, HOST:PORT; it asks for no password",
            address,
        ),
        setting(
            "cert-file",
            "",
            "certificate, with its chain, to speak TLS with; empty: plain HTTP",
            checks::any,
        ),
        setting("key-file", "", "the key of cert-file", checks::any),
        setting("packages", "/var/lib/omaha/packages", "folder of the payloads", checks::absolute),
        setting("public-url", "", "URL by which machines reach this server (default: as they ask)", url),
        setting("endpoints", "http://127.0.0.1:2379", "members of the store, parted by commas", some),
        setting("etcd-cafile", "", "members must have a certificate of these CAs", checks::any),
        setting("etcd-certfile", "", "our certificate for the store, with its chain", checks::any),
        setting("etcd-keyfile", "", "the key of etcd-certfile", checks::any),
        setting("prefix", "/proa/omaha/", "where the records live in the store", prefix),
        setting("request-timeout", "5s", "how long one request to the store may take", checks::duration),
        setting("log-level", "info", "debug, info, warn or error", level),
    ],
};

fn when(is_right: bool, right: &str) -> Result<(), String> {
    is_right.then_some(()).ok_or_else(|| right.to_owned())
}

fn address(value: &str) -> Result<(), String> {
    let parts = value.rsplit_once(':');
    let is_right = parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    when(is_right, "give HOST:PORT")
}

fn url(value: &str) -> Result<(), String> {
    let is_url = value.starts_with("http://") || value.starts_with("https://");
    when(value.is_empty() || is_url, "give http://HOST:PORT")
}

fn some(value: &str) -> Result<(), String> {
    when(value.split(',').any(|item| !item.trim().is_empty()), "give at least one URL")
}

fn prefix(value: &str) -> Result<(), String> {
    when(value.starts_with('/') && value.ends_with('/'), "give a prefix that begins and ends with /")
}

fn level(value: &str) -> Result<(), String> {
    when(matches!(value, "debug" | "info" | "warn" | "error"), "give debug, info, warn or error")
}

/// omahad's settings as values.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where machines ask.
    pub listen: String,
    /// Where omahactl asks.
    pub api_listen: String,
    /// The certificate, with its chain, and the key that TLS is spoken with.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The folder of the payloads.
    pub packages: PathBuf,
    /// How machines reach this server, without a slash at the end.
    pub public_url: Option<String>,
    /// Members of the store.
    pub endpoints: Vec<String>,
    /// Whom to trust and what to show where TLS is spoken with them.
    pub tls: Option<TlsFiles>,
    /// Prefix of every key.
    pub prefix: String,
    /// How long one request to the store may take.
    pub request_timeout: Duration,
    /// What is logged.
    pub log_level: String,
}

/// Why omahad cannot start with what it was told.
#[derive(Debug, thiserror::Error)]
pub enum BadConfig {
    /// A setting is wrong.
    #[error(transparent)]
    Setting(#[from] BadSetting),
    /// A certificate without its key, or the other way round.
    #[error("{0} and {1} need each other")]
    NoPair(&'static str, &'static str),
}

impl Config {
    /// Settles the settings from `args` and the surroundings.
    ///
    /// # Errors
    /// [`BadConfig`], with the spelling that the user wrote.
    pub fn load(args: &[String]) -> Result<Self, BadConfig> {
        let settings = PROGRAM.settle_here(args, &[])?;
        let public_url = settings.get("public-url").trim_end_matches('/').to_owned();
        Ok(Self {
            listen: settings.get("listen").to_owned(),
            api_listen: settings.get("api-listen").to_owned(),
            identity: identity(&settings, "cert-file", "key-file")?,
            packages: settings.get("packages").into(),
            public_url: Some(public_url).filter(|url| !url.is_empty()),
            endpoints: settings.list("endpoints"),
            tls: tls(&settings)?,
            prefix: settings.get("prefix").to_owned(),
            request_timeout: settings.duration("request-timeout"),
            log_level: settings.get("log-level").to_owned(),
        })
    }
}

fn identity(
    settings: &Settings,
    certificate: &'static str,
    key: &'static str,
) -> Result<Option<(PathBuf, PathBuf)>, BadConfig> {
    let path = |name: &str| settings.given(name).map(PathBuf::from);
    match (path(certificate), path(key)) {
        (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
        (None, None) => Ok(None),
        (Some(_), None) | (None, Some(_)) => Err(BadConfig::NoPair(certificate, key)),
    }
}

fn tls(settings: &Settings) -> Result<Option<TlsFiles>, BadConfig> {
    let trusted_ca = settings.given("etcd-cafile").map(PathBuf::from);
    let identity = identity(settings, "etcd-certfile", "etcd-keyfile")?;
    let is_wanted = identity.is_some() || trusted_ca.is_some();
    Ok(is_wanted.then(|| TlsFiles { trusted_ca, identity, ..TlsFiles::default() }))
}
