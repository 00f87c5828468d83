//! Passing connections on to members: for machines that are none, and for
//! `etcd gateway`. TLS goes through untouched, from the client to the member.

mod records;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use proa_base::settings::{Program, Settings, checks, setting, switch};
use proa_etcd_api::url::{self, is_on_network};
use proa_etcd_client::Socket;
use proa_etcd_client::tls::ClientTls;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use crate::listener::{Listen, Listener};
use crate::peer::question;
use crate::run::tell_systemd;
use crate::settings::{domain, label};
use records::Records;

/// Connections passed on at a time.
const MAX_CONNECTIONS: usize = 1_024;
/// Longest wait for one member to take a connection.
const DIAL: Duration = Duration::from_secs(1);
/// How long a member that took no connection is asked last. Source: etcd's
/// `--retry-delay`.
const RETRY_DELAY: Duration = Duration::from_secs(60);
/// When descriptors run out, accepting again at once would only burn time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who is passed on to first.
struct Rules {
    /// How long a member that takes no connection is asked last.
    retry_delay: Duration,
    /// By URL; all others come first.
    priorities: BTreeMap<String, u16>,
}

/// Which members took no connection, and when.
#[derive(Default)]
struct Lost(Mutex<BTreeMap<String, Instant>>);

impl Lost {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Instant>> {
        // A poisoned lock still holds a whole map.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `urls` from the `turn`th on, those of the lowest priority first and lost
    /// ones last: when nobody else is left they are tried all the same.
    fn order(&self, mut urls: Vec<String>, turn: usize, now: Instant, rules: &Rules) -> Vec<String> {
        let shift = turn % urls.len().max(1);
        urls.rotate_left(shift);
        let mut lost = self.lock();
        lost.retain(|url, at| urls.contains(url) && now.saturating_duration_since(*at) < rules.retry_delay);
        urls.sort_by_key(|url| (lost.contains_key(url), rules.priorities.get(url)));
        urls
    }
}

/// Passes every connection on to one of `urls`, in turn and by `rules`.
async fn run(listener: &Listener, urls: watch::Receiver<Vec<String>>, rules: &Rules) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let lost = Arc::new(Lost::default());
    let mut turn = 0_usize;
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let Ok(client) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        turn = turn.wrapping_add(1);
        let known = urls.borrow().clone();
        let order = lost.order(known, turn, Instant::now(), rules);
        let lost = Arc::clone(&lost);
        tokio::spawn(async move {
            pass_on(client, &order, &lost).await;
            drop(slot);
        });
    }
}

/// Passes every connection on to one of `urls`, in turn; a member that takes
/// none is left alone for a while.
pub async fn standby(listener: &Listener, urls: watch::Receiver<Vec<String>>) {
    run(listener, urls, &Rules { retry_delay: RETRY_DELAY, priorities: BTreeMap::new() }).await;
}

async fn pass_on(mut client: Socket, urls: &[String], lost: &Lost) {
    for url in urls {
        let Ok(there) = url::parse(url) else { continue };
        let Ok(Ok(mut member)) = timeout(DIAL, Socket::connect(&there.address)).await else {
            lost.lock().insert(url.clone(), Instant::now());
            continue;
        };
        lost.lock().remove(url);
        // Either end may vanish at any time; the other is closed then.
        let _ = tokio::io::copy_bidirectional(&mut client, &mut member).await;
        return;
    }
    tracing::warn!("no member of the cluster takes a connection ({} known)", urls.len());
}

/// The client URLs of the members that run at `peer_urls`, asked for again and
/// again for as long as somebody wants to know.
pub fn follow(
    peer_urls: Vec<String>,
    tls: Option<ClientTls>,
    refresh: Duration,
) -> watch::Receiver<Vec<String>> {
    let (urls, client_urls) = watch::channel(Vec::new());
    tokio::spawn(async move {
        let mut peer_urls = peer_urls;
        loop {
            let (ask, tls) = (peer_urls.clone(), tls.clone());
            let known = tokio::task::spawn_blocking(move || ask_any(&ask, tls.as_ref())).await;
            let pause = match known {
                Ok(Some((clients, peers))) => {
                    urls.send_replace(clients);
                    // Members come and go; who is one now can be asked next time.
                    peer_urls = peers;
                    refresh
                }
                Ok(None) | Err(_) => Duration::from_secs(1),
            };
            tokio::select! {
                () = urls.closed() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    });
    client_urls
}

/// Client URLs and peer URLs of all members, from the first that answers.
fn ask_any(peer_urls: &[String], tls: Option<&ClientTls>) -> Option<(Vec<String>, Vec<String>)> {
    for url in peer_urls {
        match question::ask_members(url, tls) {
            Ok(known) => {
                let clients = known.members.iter().flat_map(|member| member.client_urls.clone());
                // A socket that a member of another machine names is not on this one.
                let is_near = !is_on_network(url);
                let clients: Vec<String> = clients.filter(|url| is_near || is_on_network(url)).collect();
                let peers = known.members.iter().flat_map(|member| member.peer_urls.clone()).collect();
                if !clients.is_empty() {
                    return Some((clients, peers));
                }
            }
            Err(error) => tracing::warn!("proxy: {url} does not say who the members are: {error}"),
        }
    }
    None
}

/// The settings of `etcd gateway start`. Source: etcd's `gateway` command.
pub const GATEWAY: Program = Program {
    name: "etcd gateway start",
    cmdline: "etcd-gateway",
    env: "ETCD_GATEWAY",
    settings: &[
        setting(
            "endpoints",
            "127.0.0.1:2379",
            "members to pass connections on to: HOST:PORT,HOST:PORT",
            endpoints,
        ),
        setting("listen-addr", "127.0.0.1:23790", "where to listen: HOST:PORT", listen_address),
        setting(
            "retry-delay",
            "1m0s",
            "how long a member that takes no connection is left alone",
            checks::duration,
        ),
        setting(
            "discovery-srv",
            "",
            "pass on to the members that the SRV records _etcd-client[-ssl]._tcp of this domain name",
            domain,
        ),
        setting("discovery-srv-name", "", "by _etcd-client[-ssl]-NAME._tcp instead", label),
        setting(
            "trusted-ca-file",
            "",
            "members found by records must show a certificate of these CAs for the domain",
            checks::any,
        ),
        switch("insecure-discovery", "false", "or need not", checks::boolean),
    ],
};

/// An endpoint is a URL, or a host and a port.
fn endpoint(text: &str) -> Result<String, String> {
    let url = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    url::parse(&url).map_err(|_| format!("{text:?} is not HOST:PORT"))?;
    Ok(url)
}

fn endpoints(value: &str) -> Result<(), String> {
    value.split(',').try_for_each(|text| endpoint(text.trim()).map(drop))
}

fn listen_address(value: &str) -> Result<(), String> {
    match value.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}")) {
        Some(local) => local.parse::<SocketAddr>(),
        None => value.parse(),
    }
    .map(drop)
    .map_err(|_| "give an IP address and a port, such as 127.0.0.1:23790".to_owned())
}

/// `etcd gateway ...`: passes connections on until it is told to stop.
pub fn gateway(args: &[String]) -> ExitCode {
    // Flags may stand before the word, as cobra takes them.
    let start = args.iter().position(|word| word == "start");
    let rest = match (args.first().map(String::as_str), start) {
        (_, Some(place)) => [&args[..place], &args[place + 1..]].concat(),
        (Some("-h" | "--help" | "help"), None) => {
            print!("{}", GATEWAY.help());
            return ExitCode::SUCCESS;
        }
        (_, None) => {
            eprintln!("etcd: give etcd gateway start [flags]");
            return ExitCode::FAILURE;
        }
    };
    if rest.iter().any(|word| matches!(word.as_str(), "-h" | "--help")) {
        print!("{}", GATEWAY.help());
        return ExitCode::SUCCESS;
    }
    let settings = match GATEWAY.settle_here(&rest, &[]) {
        Ok(settings) => settings,
        Err(error) => return proa_base::cli::fail("etcd gateway", &error),
    };
    proa_base::log::start("info");
    match serve(&settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => proa_base::cli::fail("etcd gateway", &error),
    }
}

fn serve(settings: &Settings) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (urls, rules) = targets(settings).await.map_err(std::io::Error::other)?;
        let address = settings.get("listen-addr").replacen("localhost", "127.0.0.1", 1);
        let address: SocketAddr = address.parse().map_err(std::io::Error::other)?;
        let named = |error: std::io::Error| {
            std::io::Error::new(error.kind(), format!("listen tcp {address}: {error}"))
        };
        let listener = Listen::from(address).bind().map_err(named)?;
        // The words of etcd's gateway: there are programs that wait for them.
        tracing::info!("gateway: ready to proxy client requests at {address} to {}", urls.join(","));
        tell_systemd();
        let (_keep, urls) = watch::channel(urls);
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            () = run(&listener, urls, &rules) => Ok(()),
            _ = terminate.recv() => Ok(()),
            interrupted = tokio::signal::ctrl_c() => interrupted,
        }
    })
}

/// Who is passed on to. Source: etcd's `startGateway`, which turns to
/// `--endpoints` when no member that was found is good.
async fn targets(settings: &Settings) -> Result<(Vec<String>, Rules), String> {
    let records = Records {
        domain: settings.get("discovery-srv").to_owned(),
        suffix: settings.get("discovery-srv-name").to_owned(),
        trusted_ca: settings.given("trusted-ca-file").map(Into::into),
        takes_all: settings.is_on("insecure-discovery"),
    };
    let (found, rejected) = match records.domain.as_str() {
        "" => (Vec::new(), Vec::new()),
        _ => records::find(&records).await?,
    };
    for why in &rejected {
        tracing::warn!("gateway: not passing connections on to a discovered endpoint: {why}");
    }
    let mut urls: Vec<String> = found.iter().map(|endpoint| endpoint.url.clone()).collect();
    if urls.is_empty() {
        urls = settings.list("endpoints").iter().filter_map(|text| endpoint(text).ok()).collect();
    }
    let retry_delay = settings.duration("retry-delay");
    let priorities = found.into_iter().map(|endpoint| (endpoint.url, endpoint.priority)).collect();
    Ok((urls, Rules { retry_delay, priorities }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    #[test]
    fn lost_members_are_asked_last_for_a_while() {
        let lost = Lost::default();
        let urls: Vec<String> = ["a", "b", "c"].map(str::to_owned).to_vec();
        let now = Instant::now();
        let delay = Duration::from_secs(60);
        let mut rules = Rules { retry_delay: delay, priorities: BTreeMap::new() };
        let order = |turn, now| lost.order(urls.clone(), turn, now, &rules).concat();
        assert_eq!((order(0, now), order(1, now), order(5, now)), ("abc".into(), "bca".into(), "cab".into()));
        lost.lock().insert("a".to_owned(), now);
        assert_eq!((order(0, now), order(2, now)), ("bca".into(), "cba".into()));
        assert_eq!(order(0, now + delay), "abc");
        assert!(lost.order(Vec::new(), 3, now, &rules).is_empty());
        rules.priorities = [("a".to_owned(), 1), ("b".to_owned(), 2), ("c".to_owned(), 1)].into();
        let order = |turn| lost.order(urls.clone(), turn, now + delay, &rules).concat();
        assert_eq!((order(0), order(1)), ("acb".to_owned(), "cab".to_owned()));
    }

    #[tokio::test]
    async fn the_gateway_goes_on_to_the_next_member() {
        let member = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = |address: SocketAddr| format!("http://{address}");
        let dead = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let urls = vec![url(dead.local_addr().unwrap()), url(member.local_addr().unwrap())];
        drop(dead);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = member.accept().await.unwrap();
                let mut word = [0; 4];
                stream.read_exact(&mut word).await.unwrap();
                stream.write_all(&[b"re: ", &word[..]].concat()).await.unwrap();
            }
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let listener = Listener::Tcp(listener);
        let (_sender, receiver) = watch::channel(urls);
        tokio::spawn(async move { standby(&listener, receiver).await });
        for _ in 0..4 {
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(b"ping").await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            assert_eq!(answer, "re: ping");
        }
    }

    #[test]
    fn settings_of_the_gateway_are_checked() {
        for setting in GATEWAY.settings.iter().filter(|setting| !setting.default.is_empty()) {
            assert_eq!((setting.check)(setting.default), Ok(()), "{}", setting.name);
        }
        let refusal =
            |arg: &str| GATEWAY.settle(&[arg.to_owned()], &|_| None, &[], &[]).unwrap_err().to_string();
        assert_eq!(refusal("--endpoints=a"), "--endpoints: bad value \"a\": \"a\" is not HOST:PORT");
        assert!(refusal("--listen-addr=x:1").contains("give an IP address and a port"));
    }
}
