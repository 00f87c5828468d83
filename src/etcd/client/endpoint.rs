//! The members a client may ask, and which of them it asks now.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use proa_etcd_api::url::{self, Address, Url};
use tonic::transport::{Channel, Endpoint};

use crate::dial::Dialer;
use crate::error::Error;
use crate::tls::{ClientTls, TlsFiles};

/// A dead connection is noticed after this plus [`PING_TIMEOUT`]. Servers of
/// the Go implementation close a connection pinged more often than every 5 s.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// Flow-control windows: one large range answer fits without a round trip.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// One member's client URL and the connection to it, opened at first use.
struct Member {
    endpoint: Endpoint,
    /// How it is dialed, when not plainly and over the network.
    dialer: Option<Dialer>,
    channel: Mutex<Option<Channel>>,
}

/// All endpoints of a client, with the one in use.
pub(crate) struct Members {
    members: Vec<Member>,
    current: AtomicUsize,
}

impl Members {
    pub(crate) fn new(
        endpoints: &[String],
        connect_timeout: Duration,
        tls: Option<&ClientTls>,
    ) -> Result<Self, Error> {
        let bad = |endpoint: &str, reason: &str| Error::BadEndpoint {
            endpoint: endpoint.to_owned(),
            reason: reason.to_owned(),
        };
        if endpoints.is_empty() {
            return Err(bad("", "give at least one, as http://127.0.0.1:2379"));
        }
        let mut members = Vec::new();
        for text in endpoints {
            let Url { encrypted, address } =
                normalise(text, tls.is_some()).map_err(|reason| bad(text, &reason))?;
            let scheme = if encrypted { "https" } else { "http" };
            let uri = match &address {
                Address::Tcp(there) => format!("{scheme}://{there}"),
                // A path is no authority, and nobody looks at this one.
                Address::Unix(_) => format!("{scheme}://localhost"),
            };
            let tls = match (encrypted, tls) {
                (false, _) => None,
                (true, Some(tls)) => Some(tls.clone()),
                // An https URL alone means: whom the system trusts.
                (true, None) => Some(ClientTls::new(grpc_files(TlsFiles::default()))?),
            };
            let is_plain = tls.is_none() && address.tcp().is_some();
            let dialer = (!is_plain).then_some(Dialer { address, tls });
            let endpoint = Endpoint::from_shared(uri)
                .map_err(|error| bad(text, &error.to_string()))?
                .connect_timeout(connect_timeout)
                .tcp_nodelay(true)
                .http2_keep_alive_interval(PING_INTERVAL)
                .keep_alive_timeout(PING_TIMEOUT)
                .initial_stream_window_size(STREAM_WINDOW_BYTES)
                .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
            members.push(Member { endpoint, dialer, channel: Mutex::new(None) });
        }
        Ok(Self { members, current: AtomicUsize::new(0) })
    }

    pub(crate) fn count(&self) -> usize {
        self.members.len()
    }

    /// The number and the channel of the endpoint in use.
    pub(crate) fn current(&self) -> (usize, Channel) {
        let number = self.current.load(Ordering::Relaxed) % self.members.len();
        let member = &self.members[number];
        // A poisoned lock still holds a whole `Option`.
        let mut channel = member.channel.lock().unwrap_or_else(PoisonError::into_inner);
        let open = channel.get_or_insert_with(|| match &member.dialer {
            None => member.endpoint.connect_lazy(),
            Some(dialer) => member.endpoint.connect_with_connector_lazy(dialer.clone()),
        });
        (number, open.clone())
    }

    /// Turns to the next endpoint, unless another caller already left `failed`.
    pub(crate) fn leave(&self, failed: usize) {
        let next = (failed + 1) % self.members.len();
        let ordering = Ordering::Relaxed;
        // A lost race means that somebody else has moved on: as good.
        let _ = self.current.compare_exchange(failed, next, ordering, ordering);
    }
}

/// `files` for connections that speak gRPC.
pub(crate) fn grpc_files(files: TlsFiles) -> TlsFiles {
    TlsFiles { protocols: vec![b"h2".to_vec()], ..files }
}

/// `host:port` and its URL name the same member. Without a scheme, and by `unix`, TLS is
/// spoken when there are settings for it. Source: etcd's `Client.processCreds`.
fn normalise(text: &str, has_tls: bool) -> Result<Url, String> {
    let Some((scheme, _)) = text.split_once("://") else {
        return Ok(Url { encrypted: has_tls, ..url::parse(&format!("http://{text}"))? });
    };
    let url = url::parse(text)?;
    Ok(Url { encrypted: url.encrypted || (scheme == "unix" && has_tls), ..url })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_urls_or_host_and_port() {
        let wrong = "give http://HOST:PORT or https://HOST:PORT";
        #[rustfmt::skip]
        let rows = [
            ("127.0.0.1:2379",        false, Ok((false, "127.0.0.1:2379"))),
            ("127.0.0.1:2379",        true,  Ok((true, "127.0.0.1:2379"))),
            ("http://node:2379/",     true,  Ok((false, "node:2379"))),
            ("http://[::1]:2379",     false, Ok((false, "[::1]:2379"))),
            ("https://node:2379",     false, Ok((true, "node:2379"))),
            ("unix:///run/x",         false, Ok((false, "/run/x"))),
            ("unix://localhost:1",    true,  Ok((true, "localhost:1"))),
            ("unixs://localhost:1",   false, Ok((true, "localhost:1"))),
            ("node",                  false, Err(wrong)),
            ("http://:2379",          false, Err(wrong)),
            ("node:99999",            false, Err(wrong)),
        ];
        for (text, has_tls, want) in rows {
            let found = normalise(text, has_tls).map(|url| (url.encrypted, url.address.to_string()));
            let want = want.map(|(encrypted, address)| (encrypted, address.to_owned()));
            assert_eq!(found, want.map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn leaving_moves_on_once_however_many_callers_failed() {
        let endpoints = ["a:1".to_owned(), "b:1".to_owned(), "c:1".to_owned()];
        let members = Members::new(&endpoints, Duration::from_secs(1), None).expect("good endpoints");
        members.leave(0);
        members.leave(0);
        assert_eq!(members.current.load(Ordering::Relaxed), 1);
        members.leave(1);
        members.leave(2);
        assert_eq!(members.current.load(Ordering::Relaxed), 0);
    }
}
