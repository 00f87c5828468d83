//! The members as the v2 commands ask them: one after the other, until one answers.

use std::path::PathBuf;
use std::time::Duration;

use hyper::{Method, StatusCode};
use proa_etcd_client::tls::TlsFiles;
use serde::Deserialize;

use super::super::args::Args;
use super::super::discovery::{self, Trust};
use super::super::http::{self, Answer, Ask};
use super::{BAD_CONNECTION, End, SERVER_ERROR};

/// Source: etcdctl 3.4's v2 help.
const USUAL_ENDPOINTS: &str = "http://127.0.0.1:2379,http://127.0.0.1:4001";
const USUAL_TIMEOUT: Duration = Duration::from_secs(2);
const USUAL_TOTAL: Duration = Duration::from_secs(5);

/// The members and how they are asked.
pub struct Remote {
    endpoints: Vec<String>,
    user: Option<String>,
    timeout: Duration,
    total: Duration,
    debug: bool,
    tls: TlsFiles,
}

/// Why there is no answer to work with.
#[derive(Debug)]
pub enum Refusal {
    /// The store said no, in the words of the keys API.
    Keys(KeysError),
    /// The store said no, in other words.
    Other(String),
    /// Nobody answered; each endpoint's reason.
    Unavailable(Vec<String>),
}

/// Source: etcd v2 API, "Error codes".
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeysError {
    error_code: u32,
    message: String,
    #[serde(default)]
    cause: String,
    #[serde(default)]
    index: u64,
}

#[derive(Deserialize)]
struct Message {
    message: String,
}

impl Refusal {
    /// In one line.
    pub fn line(&self) -> String {
        match self {
            Self::Keys(error) => {
                let KeysError { error_code, message, cause, index } = error;
                format!("{error_code}: {message} ({cause}) [{index}]")
            }
            Self::Other(text) => text.clone(),
            Self::Unavailable(reasons) => {
                let numbered: Vec<String> =
                    reasons.iter().enumerate().map(|(n, reason)| format!("error #{n}: {reason}")).collect();
                format!("client: etcd cluster is unavailable or misconfigured; {}", numbered.join("; "))
            }
        }
    }

    /// As the commands on keys end.
    pub fn end(&self) -> End {
        End { text: format!("Error:  {}", self.line()), code: SERVER_ERROR }
    }

    /// As the other commands end.
    pub fn plain_end(&self) -> End {
        End::plain(self.line())
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn setting(args: &Args, flag: &str, name: &str) -> Option<String> {
    args.get(flag).map(str::to_owned).or_else(|| variable(name))
}

/// Source: etcdctl 3.4's `getTransport`.
fn tls(args: &Args) -> Result<TlsFiles, End> {
    let path = |flag: &str, name: &str| setting(args, flag, name).map(PathBuf::from);
    let identity = match (path("cert-file", "ETCDCTL_CERT_FILE"), path("key-file", "ETCDCTL_KEY_FILE")) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (_, _) => return Err(End::plain("--cert-file and --key-file: give both or neither")),
    };
    Ok(TlsFiles { trusted_ca: path("ca-file", "ETCDCTL_CA_FILE"), identity, ..TlsFiles::default() })
}

impl Remote {
    /// Reads flags and environment. Source: etcdctl 3.4's `getPeersFlagValue`.
    pub fn from_settings(args: &Args) -> Result<Self, End> {
        let setting = |flag: &str, name: &str| setting(args, flag, name);
        let endpoints = setting("endpoints", "ETCDCTL_ENDPOINTS")
            .or_else(|| setting("endpoint", "ETCDCTL_ENDPOINT"))
            .or_else(|| setting("peers", "ETCDCTL_PEERS"))
            .unwrap_or_else(|| USUAL_ENDPOINTS.to_owned());
        let with_scheme = |text: &str| {
            if text.contains("://") { text.to_owned() } else { format!("http://{text}") }
        };
        let endpoints = endpoints.split(',').map(|text| with_scheme(text.trim())).collect();
        let user = setting("username", "ETCDCTL_USERNAME");
        if user.as_ref().is_some_and(|user| !user.contains(':')) {
            return Err(End::plain("--username needs the password as well: USER:PASSWORD"));
        }
        let duration = |name: &str, usual| match args.get(name) {
            None => Ok(usual),
            Some(text) => proa_base::duration::parse(text)
                .map_err(|error| End::plain(format!("invalid value {text:?} for flag -{name}: {error}"))),
        };
        Ok(Self {
            endpoints,
            user,
            timeout: duration("timeout", USUAL_TIMEOUT)?,
            total: duration("total-timeout", USUAL_TOTAL)?,
            debug: args.is_on("debug"),
            tls: tls(args)?,
        })
    }

    /// Turns to the members of `--discovery-srv`, if it is given and finds some.
    /// Source: etcdctl 3.4's `getDiscoveryDomain`: the environment can only make
    /// plain members welcome.
    pub async fn discover(&mut self, args: &Args) -> Result<(), End> {
        let text = |flag: &str, name: &str| setting(args, flag, name).unwrap_or_default();
        let domain = text("discovery-srv", "ETCDCTL_DISCOVERY_SRV");
        if domain.is_empty() {
            return Ok(());
        }
        let suffix = text("discovery-srv-name", "ETCDCTL_DISCOVERY_SRV_NAME");
        let takes_all = args.is_on("insecure-discovery") || variable("ETCDCTL_INSECURE_DISCOVERY").is_some();
        let trust = if takes_all { Trust::Everybody } else { Trust::Encrypted };
        let found = discovery::endpoints(&domain, &suffix, trust).await.map_err(End::plain)?;
        if !found.is_empty() {
            self.endpoints = found;
        }
        self.tls.server_name = Some(domain).filter(|_| !takes_all);
        Ok(())
    }

    /// What `https` is spoken with.
    pub fn tls(&self) -> &TlsFiles {
        &self.tls
    }

    /// How long one request waits.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Turns to the members' own client URLs.
    pub async fn sync(&mut self) -> Result<(), End> {
        let members = match self.ask(Method::GET, "/v2/members", None).await {
            Ok(answer) => super::members::parse(&answer),
            Err(refusal @ Refusal::Unavailable(_)) => {
                return Err(End { code: BAD_CONNECTION, ..refusal.end() });
            }
            // Somebody answers: the command itself will say what is wrong.
            Err(_) => return Ok(()),
        };
        let urls: Vec<String> =
            members.unwrap_or_default().into_iter().flat_map(|member| member.client_urls).collect();
        if urls.is_empty() {
            let text = "etcd cluster has no published client endpoints.\nTry '--no-sync' if you want to access non-published client endpoints.";
            return Err(End { text: text.to_owned(), code: SERVER_ERROR });
        }
        // Endpoints that were given come first: they are known to be reachable.
        let mut order: Vec<String> =
            self.endpoints.iter().filter(|url| urls.contains(url)).cloned().collect();
        order.extend(urls.into_iter().filter(|url| !self.endpoints.contains(url)));
        self.endpoints = order;
        Ok(())
    }

    /// Asks the members in turn. A change is asked of the next one only when
    /// the one before certainly has not seen it.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<(&'static str, String)>,
    ) -> Result<Answer, Refusal> {
        let whole = self.try_each(method, path, body);
        match tokio::time::timeout(self.total, whole).await {
            Ok(answer) => answer,
            Err(_) => Err(Refusal::Unavailable(vec!["context deadline exceeded".to_owned()])),
        }
    }

    async fn try_each(
        &self,
        method: Method,
        path: &str,
        body: Option<(&'static str, String)>,
    ) -> Result<Answer, Refusal> {
        let mut reasons = Vec::new();
        for base in &self.endpoints {
            let ask = self.request(base, method.clone(), path, body.clone());
            match http::ask(&ask, self.timeout).await {
                Ok(answer) => match accept(base, answer) {
                    Err(Refusal::Unavailable(why)) if method == Method::GET => reasons.extend(why),
                    outcome => return outcome,
                },
                Err(error) => {
                    let may_repeat = method == Method::GET || error.is_unsent();
                    reasons.push(error.to_string());
                    if !may_repeat {
                        break;
                    }
                }
            }
        }
        Err(Refusal::Unavailable(reasons))
    }

    /// Waits for one long answer, at the first endpoint that is there.
    pub async fn wait(&self, path: &str) -> Result<Answer, Refusal> {
        let mut reasons = Vec::new();
        for base in &self.endpoints {
            let ask = self.request(base, Method::GET, path, None);
            match http::ask_patiently(&ask).await {
                Ok(answer) => match accept(base, answer) {
                    Err(Refusal::Unavailable(why)) => reasons.extend(why),
                    outcome => return outcome,
                },
                Err(error) => reasons.push(error.to_string()),
            }
        }
        Err(Refusal::Unavailable(reasons))
    }

    fn request(&self, base: &str, method: Method, path: &str, body: Option<(&'static str, String)>) -> Ask {
        if self.debug {
            let data = body.as_ref().map_or(String::new(), |(_, body)| format!(" -d \"{body}\""));
            eprintln!("cURL Command: curl -X {method} {}{path}{data}", base.trim_end_matches('/'));
        }
        let user = self.user.clone();
        Ask { base: base.to_owned(), path: path.to_owned(), method, body, user, tls: self.tls.clone() }
    }
}

/// Sorts answers: what to work with, what the store refuses, what another
/// member may do better.
fn accept(base: &str, answer: Answer) -> Result<Answer, Refusal> {
    if answer.status.is_success() {
        return Ok(answer);
    }
    if let Ok(error) = serde_json::from_slice::<KeysError>(&answer.body) {
        return Err(Refusal::Keys(error));
    }
    let text = match serde_json::from_slice::<Message>(&answer.body) {
        Ok(message) => message.message,
        Err(_) => String::from_utf8_lossy(&answer.body).trim().to_owned(),
    };
    if answer.status == StatusCode::INTERNAL_SERVER_ERROR || answer.status == StatusCode::SERVICE_UNAVAILABLE
    {
        return Err(Refusal::Unavailable(vec![format!("client: etcd member {base} has no leader: {text}")]));
    }
    let text = if text.is_empty() { format!("{base} answered {}", answer.status) } else { text };
    Err(Refusal::Other(text))
}
