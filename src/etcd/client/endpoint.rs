//! The members a client may ask, and which of them it asks now.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

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
    /// How it is dialed; plainly when this is none.
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
            let (url, encryption) = normalise(text, tls.is_some()).map_err(|reason| bad(text, reason))?;
            let dialer = match (encryption, tls) {
                (Encryption::Off, _) => None,
                (Encryption::On, Some(tls)) => Some(Dialer { tls: tls.clone() }),
                // An https URL alone means: whom the system trusts.
                (Encryption::On, None) => {
                    Some(Dialer { tls: ClientTls::new(grpc_files(TlsFiles::default()))? })
                }
            };
            let endpoint = Endpoint::from_shared(url)
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

/// Whether a member is dialed with TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encryption {
    Off,
    On,
}

/// `files` for connections that speak gRPC.
pub(crate) fn grpc_files(files: TlsFiles) -> TlsFiles {
    TlsFiles { protocols: vec![b"h2".to_vec()], ..files }
}

/// `host:port` and its URL name the same member; without a scheme TLS is
/// spoken when there are settings for it, as etcd's own clients do.
fn normalise(text: &str, has_tls: bool) -> Result<(String, Encryption), &'static str> {
    let (encryption, rest) = match text.split_once("://") {
        None if has_tls => (Encryption::On, text),
        None => (Encryption::Off, text),
        Some(("http", rest)) => (Encryption::Off, rest),
        Some(("https", rest)) => (Encryption::On, rest),
        Some(_) => return Err("the scheme must be http or https"),
    };
    let scheme = if encryption == Encryption::On { "https" } else { "http" };
    let host_and_port = rest.trim_end_matches('/');
    match host_and_port.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
            Ok((format!("{scheme}://{host_and_port}"), encryption))
        }
        _ => Err("want http://HOST:PORT or https://HOST:PORT"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_host_and_port_with_or_without_a_scheme() {
        use Encryption::{Off, On};
        #[rustfmt::skip]
        let rows = [
            ("127.0.0.1:2379",        false, Ok(("http://127.0.0.1:2379", Off))),
            ("127.0.0.1:2379",        true,  Ok(("https://127.0.0.1:2379", On))),
            ("http://node:2379/",     true,  Ok(("http://node:2379", Off))),
            ("http://[::1]:2379",     false, Ok(("http://[::1]:2379", Off))),
            ("https://node:2379",     false, Ok(("https://node:2379", On))),
            ("unix:///run/x",         false, Err("the scheme must be http or https")),
            ("node",                  false, Err("want http://HOST:PORT or https://HOST:PORT")),
            ("http://:2379",          false, Err("want http://HOST:PORT or https://HOST:PORT")),
            ("node:99999",            false, Err("want http://HOST:PORT or https://HOST:PORT")),
        ];
        for (text, has_tls, want) in rows {
            let want = want.map(|(url, encryption)| (url.to_owned(), encryption));
            assert_eq!(normalise(text, has_tls), want, "{text}");
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
