//! One request to a fleet API: over its socket or over TCP.

use std::{fmt, io, path::PathBuf, str::FromStr, time::Duration};

use http::{Method, Request, Response, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};

/// The largest answer that is read into memory: 10 000 units of 4 KiB.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// Where a fleet API is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A socket in the file system.
    Unix(PathBuf),
    /// `HOST:PORT`.
    Tcp(String),
}

/// A text that is no [`Endpoint`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad endpoint {0:?}: give unix:///PATH or http://HOST:PORT")]
pub struct BadEndpoint(String);

impl FromStr for Endpoint {
    type Err = BadEndpoint;

    fn from_str(text: &str) -> Result<Self, BadEndpoint> {
        let bad = || BadEndpoint(text.to_owned());
        if let Some(path) = text.strip_prefix("unix://") {
            return path.starts_with('/').then(|| Self::Unix(path.into())).ok_or_else(bad);
        }
        let rest = text.strip_prefix("http://").ok_or_else(bad)?.trim_end_matches('/');
        let bare = rest.rsplit_once(':').filter(|(host, _)| !host.is_empty() && !host.ends_with(':'));
        match bare {
            Some((_, port)) if port.parse::<u16>().is_ok_and(|port| port != 0) => {
                Ok(Self::Tcp(rest.to_owned()))
            }
            Some(_) => Err(bad()),
            // Source: the original's clients take port 80 when none is given.
            None if !rest.is_empty() && !rest.contains(['/', ':']) => Ok(Self::Tcp(format!("{rest}:80"))),
            None => Err(bad()),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "http://{address}"),
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens there.
    #[error("cannot reach fleetd at {endpoint}: {source}")]
    Connect {
        /// Where it was tried.
        endpoint: Endpoint,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The connection ended before the answer did.
    #[error("lost the connection to fleetd at {endpoint}: {source}")]
    Lost {
        /// Where it was.
        endpoint: Endpoint,
        /// What happened.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer in time.
    #[error("fleetd at {endpoint} gave no answer in {} s", waited.as_secs_f64())]
    Late {
        /// Who was asked.
        endpoint: Endpoint,
        /// How long was waited.
        waited: Duration,
    },
}

/// Sends one request and returns its answer as soon as the header is there.
///
/// # Errors
/// [`Error`]; `timeout` covers the connection and the header, not the body.
///
/// # Panics
/// When `path` is no path and query of a URL: encode names with [`encode`].
pub async fn send(
    endpoint: &Endpoint,
    method: Method,
    path: &str,
    body: Option<Vec<u8>>,
    headers: &[(&'static str, &str)],
    timeout: Duration,
) -> Result<Response<Incoming>, Error> {
    let host = match endpoint {
        Endpoint::Unix(_) => "fleet",
        Endpoint::Tcp(address) => address,
    };
    let mut request = Request::builder().method(method).uri(path).header(header::HOST, host);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    if body.is_some() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    let request = request
        .body(Full::new(Bytes::from(body.unwrap_or_default())))
        .expect("the path was encoded by the caller");
    let exchange = async {
        match endpoint {
            Endpoint::Unix(path) => exchange(endpoint, UnixStream::connect(path).await, request).await,
            Endpoint::Tcp(address) => exchange(endpoint, TcpStream::connect(address).await, request).await,
        }
    };
    match tokio::time::timeout(timeout, exchange).await {
        Ok(answer) => answer,
        Err(_) => Err(Error::Late { endpoint: endpoint.clone(), waited: timeout }),
    }
}

async fn exchange<S>(
    endpoint: &Endpoint,
    connected: io::Result<S>,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, Error>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let stream = connected.map_err(|source| Error::Connect { endpoint: endpoint.clone(), source })?;
    let lost = |error: hyper::Error| Error::Lost { endpoint: endpoint.clone(), source: Box::new(error) };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
    // Its end is seen by the answer's reader.
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(lost)
}

/// Reads the whole body of an answer.
///
/// # Errors
/// [`Error::Lost`] when it ends early or is larger than any real one, [`Error::Late`].
pub async fn read(
    endpoint: &Endpoint,
    answer: Response<Incoming>,
    timeout: Duration,
) -> Result<Bytes, Error> {
    let reading = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect();
    match tokio::time::timeout(timeout, reading).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(source)) => Err(Error::Lost { endpoint: endpoint.clone(), source }),
        Err(_) => Err(Error::Late { endpoint: endpoint.clone(), waited: timeout }),
    }
}

/// Percent-encodes one segment of a path or one value of a query.
///
/// Source: RFC 3986, 2.3: unreserved characters stand for themselves.
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_sockets_or_http_addresses() {
        let tcp = |text: &str| Ok(Endpoint::Tcp(text.into()));
        #[rustfmt::skip]
        let cases = [
            ("unix:///run/fleet.sock", Ok(Endpoint::Unix("/run/fleet.sock".into()))),
            ("http://node:49153",      tcp("node:49153")),
            ("http://[::1]:49153/",    tcp("[::1]:49153")),
            ("http://node",            tcp("node:80")),
            ("unix://run/fleet.sock",  Err(())),
            ("https://node:49153",     Err(())),
            ("http://:49153",          Err(())),
            ("http://node:0",          Err(())),
            ("http://node:x",          Err(())),
            ("http://",                Err(())),
            ("http://node/x",          Err(())),
            ("node:49153",             Err(())),
        ];
        for (text, want) in cases {
            assert_eq!(text.parse::<Endpoint>().map_err(drop), want, "{text}");
        }
    }

    #[test]
    fn odd_names_are_encoded() {
        assert_eq!(encode("a@1.service"), "a%401.service");
        assert_eq!(encode("a\\x2d/é"), "a%5Cx2d%2F%C3%A9");
    }
}
