//! From the settings about certificates to what listeners and dialers use.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use proa_base::settings::Settings;
use proa_etcd_api::url;
use proa_etcd_client::tls::{ClientTls, TlsError, TlsFiles};

use super::BadConfig;
use crate::listener::Listen;
use crate::tls::{PeerTls, ServerRules, ServerTls, Versions, self_signed};

/// What the listeners of one kind are made with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerPlan {
    rules: ServerRules,
    /// A certificate to be made first.
    own: Option<Own>,
}

/// A certificate that the member signs itself.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Own {
    folder: PathBuf,
    hosts: Vec<String>,
    years: u32,
}

impl ServerPlan {
    /// Reads the files, after making those that are the member's to make.
    ///
    /// # Errors
    /// The file that cannot be used, and why.
    pub fn open(&self) -> Result<Arc<ServerTls>, TlsError> {
        let mut rules = self.rules.clone();
        if let Some(own) = &self.own {
            let files = self_signed(&own.folder, &own.hosts, own.years)?;
            (rules.certificate, rules.key) = (files.certificate, files.key);
        }
        ServerTls::new(rules).map(Arc::new)
    }
}

/// What members use among each other.
#[derive(Clone, Debug, Default)]
pub struct PeerPlan {
    server: Option<ServerPlan>,
    client: Option<TlsFiles>,
    /// The member's own certificate is also what it shows when it dials.
    shows_own: bool,
}

impl PeerPlan {
    /// As [`ServerPlan::open`], for both directions.
    ///
    /// # Errors
    /// As [`ServerPlan::open`].
    pub fn open(&self) -> Result<PeerTls, TlsError> {
        let server = self.server.as_ref().map(ServerPlan::open).transpose()?;
        let client = match &self.client {
            None => None,
            Some(files) => {
                let mut files = files.clone();
                if self.shows_own
                    && let Some(own) = self.server.as_ref().and_then(|plan| plan.own.as_ref())
                {
                    files.identity = Some((own.folder.join("cert.pem"), own.folder.join("key.pem")));
                }
                Some(ClientTls::new(files)?)
            }
        };
        Ok(PeerTls { server, client })
    }
}

/// Which settings are asked: those of the client port or those of peers.
struct Names {
    /// What the flags of this kind begin with.
    prefix: &'static str,
    client_cert_auth: &'static str,
    revoked: &'static str,
    auto: &'static str,
    allowed_host: &'static str,
    /// What the kind is called in warnings.
    kind: &'static str,
    folder: &'static str,
}

const CLIENTS: Names = Names {
    prefix: "",
    client_cert_auth: "client-cert-auth",
    revoked: "client-crl-file",
    auto: "auto-tls",
    allowed_host: "client-cert-allowed-hostname",
    kind: "client",
    folder: "fixtures/client",
};

const PEERS: Names = Names {
    prefix: "peer-",
    client_cert_auth: "peer-client-cert-auth",
    revoked: "peer-crl-file",
    auto: "peer-auto-tls",
    allowed_host: "peer-cert-allowed-hostname",
    kind: "peer",
    folder: "fixtures/peer",
};

/// The plan for the client port; `None` when no URL there is `https`.
///
/// # Errors
/// [`BadConfig`] when settings contradict each other.
pub(super) fn clients(
    settings: &Settings,
    data_dir: &Path,
    urls: &[String],
    warnings: &mut Vec<String>,
) -> Result<Option<ServerPlan>, BadConfig> {
    let plan = plan(settings, &CLIENTS, data_dir, urls, warnings)?;
    Ok(plan.map(|mut plan| {
        plan.rules.names_clients = settings.is_on("client-cert-auth");
        plan.rules.protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        plan
    }))
}

/// The plan for peers.
///
/// # Errors
/// As [`clients`].
pub(super) fn peers(
    settings: &Settings,
    data_dir: &Path,
    urls: &[String],
    warnings: &mut Vec<String>,
) -> Result<PeerPlan, BadConfig> {
    let names = &PEERS;
    let mut server = plan(settings, names, data_dir, urls, warnings)?;
    if let Some(server) = &mut server {
        server.rules.allowed_names = settings.list("peer-cert-allowed-cn");
    }
    let identity = pair(settings, "peer-client-cert-file", "peer-client-key-file")?.or(pair(
        settings,
        "peer-cert-file",
        "peer-key-file",
    )?);
    let trusted_ca = file(settings, "peer-trusted-ca-file");
    let is_own = identity.is_none() && settings.is_on(names.auto);
    // Without CAs of their own members must be the domain's. Source: etcd's
    // `PeerURLsMapAndToken`.
    let domain = settings.given("discovery-srv");
    let client = (is_own || identity.is_some() || trusted_ca.is_some()).then(|| TlsFiles {
        // Members that signed for themselves cannot know each other's CA.
        trusts_anybody: is_own && trusted_ca.is_none(),
        server_name: domain.filter(|_| trusted_ca.is_none()).map(str::to_owned),
        trusted_ca,
        identity,
        protocols: Vec::new(),
    });
    Ok(PeerPlan { server, client, shows_own: is_own })
}

fn file(settings: &Settings, name: &str) -> Option<PathBuf> {
    settings.given(name).map(PathBuf::from)
}

/// A certificate and its key: both or neither.
fn pair(settings: &Settings, certificate: &str, key: &str) -> Result<Option<(PathBuf, PathBuf)>, BadConfig> {
    match (file(settings, certificate), file(settings, key)) {
        (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
        (None, None) => Ok(None),
        (Some(_), None) => Err(BadConfig::new(format!("--{certificate}: needs --{key} too"))),
        (None, Some(_)) => Err(BadConfig::new(format!("--{key}: needs --{certificate} too"))),
    }
}

fn plan(
    settings: &Settings,
    names: &Names,
    data_dir: &Path,
    urls: &[String],
    warnings: &mut Vec<String>,
) -> Result<Option<ServerPlan>, BadConfig> {
    let Names { prefix, kind, .. } = names;
    let shown = pair(settings, &format!("{prefix}cert-file"), &format!("{prefix}key-file"))?;
    let trusted_ca = file(settings, &format!("{prefix}trusted-ca-file"));
    if settings.is_on(names.client_cert_auth) && trusted_ca.is_none() {
        return Err(BadConfig::new(format!(
            "--{}: needs --{prefix}trusted-ca-file, whose certificates clients must have",
            names.client_cert_auth
        )));
    }
    let parsed = || urls.iter().filter_map(|text| url::parse(text).ok());
    let has_settings = shown.is_some() || trusted_ca.is_some() || settings.is_on(names.auto);
    let is_plain = |text: &&String| text.starts_with("http://") || text.starts_with("unix://");
    for text in urls.iter().filter(|text| is_plain(text) && has_settings) {
        warnings.push(format!(
            "the scheme of {kind} url {text} is HTTP while TLS is set up; it is served without"
        ));
    }
    let Some(first) = parsed().find(|url| url.encrypted) else { return Ok(None) };
    let own = match (&shown, settings.is_on(names.auto)) {
        (None, true) => Some(Own {
            folder: data_dir.join(names.folder),
            hosts: hosts(parsed().filter(|url| url.encrypted).map(|url| url.address.host().to_owned())),
            years: settings.parsed("self-signed-cert-validity"),
        }),
        (Some(_), true) => {
            warnings.push(format!("--{} is ignored: --{prefix}cert-file is given", names.auto));
            None
        }
        (Some(_), false) => None,
        (None, false) => {
            return Err(BadConfig::new(format!(
                "cannot listen on TLS for {}: KeyFile and CertFile are not presented; give \
                 --{prefix}cert-file and --{prefix}key-file, or --{}",
                first.address, names.auto
            )));
        }
    };
    let (certificate, key) = shown.unwrap_or_default();
    let rules = ServerRules {
        certificate,
        key,
        trusted_ca,
        revoked: file(settings, names.revoked),
        allowed_hosts: settings.list(names.allowed_host),
        cipher_suites: settings.list("cipher-suites"),
        versions: versions(settings)?,
        ..ServerRules::default()
    };
    if rules.trusted_ca.is_none() {
        refuse_without_ca(settings, names)?;
    }
    Ok(Some(ServerPlan { rules, own }))
}

/// Rules about clients' certificates that would not be looked at.
fn refuse_without_ca(settings: &Settings, names: &Names) -> Result<(), BadConfig> {
    let names_of_peers = ["peer-cert-allowed-cn"];
    let mut rules = vec![names.revoked, names.allowed_host];
    rules.extend(names_of_peers.iter().filter(|_| names.kind == "peer"));
    match rules.into_iter().find(|rule| !settings.get(rule).is_empty()) {
        None => Ok(()),
        Some(rule) => Err(BadConfig::new(format!(
            "--{rule}: needs --{}trusted-ca-file, or no certificate is asked for",
            names.prefix
        ))),
    }
}

fn versions(settings: &Settings) -> Result<Versions, BadConfig> {
    let (min, max) = (settings.get("tls-min-version"), settings.get("tls-max-version"));
    let versions = Versions::between(min, max).map_err(|error| BadConfig::new(error.to_string()))?;
    // Source: etcd's check of the same.
    if versions == Versions::Only13 && !settings.get("cipher-suites").is_empty() {
        return Err(BadConfig::new(
            "--cipher-suites: cipher suites cannot be configured when only TLS1.3 is enabled".to_owned(),
        ));
    }
    Ok(versions)
}

/// The hosts a certificate of our own is for: those listened on, and the local ones.
fn hosts(listened: impl Iterator<Item = String>) -> Vec<String> {
    let mut hosts: Vec<String> = listened.collect();
    hosts.extend(["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()]);
    hosts.sort();
    hosts.dedup();
    hosts
}

/// Where to listen by these URLs.
///
/// # Errors
/// [`BadConfig`], naming the flag and the URL.
pub(super) fn listens(name: &str, urls: &[String], reuse_port: bool) -> Result<Vec<Listen>, BadConfig> {
    let one = |text: &String| match text.parse::<Listen>() {
        Ok(listen) => Ok(Listen { reuse_port, ..listen }),
        Err(right) => Err(BadConfig::new(format!("--{name}: bad value {text:?}: {right}"))),
    };
    let mut all: Vec<Listen> = Vec::new();
    for text in urls {
        let listen = one(text)?;
        let is_any_port = listen.address.tcp().is_some_and(|address| address.port() == 0);
        match all.iter_mut().find(|known| known.address == listen.address && !is_any_port) {
            Some(known) => {
                known.also_plain |= known.encrypted != listen.encrypted;
                known.encrypted |= listen.encrypted;
            }
            None => all.push(listen),
        }
    }
    Ok(all)
}
