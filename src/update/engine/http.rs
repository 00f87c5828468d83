//! HTTP as the updater speaks it: one request a connection, plainly or with TLS,
//! no redirects, and a limit on everything that the other side decides.

use std::{fmt, io, path::Path, time::Duration};

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::{Body as _, Bytes, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use proa_etcd_client::tls::{ClientTls, Stream, TlsError, TlsFiles};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};

/// For name, connection and TLS handshake together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// For the head of an answer. A server that has to ask its store first needs a
/// second or two.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// The slowest transfer that is waited for: a slot's worth of 60 MiB takes four
/// hours then, which nobody wants to have longer.
pub const SLOWEST_BYTES_PER_S: u64 = 4 << 10;
/// What hyper reads ahead: small, for memory.
const READ_BUFFER_BYTES: usize = 64 << 10;

/// A URL of what is spoken here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    text: String,
    is_tls: bool,
    authority: String,
    path: String,
}

/// A text that is no [`Url`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad URL {0:?}: give http://HOST[:PORT]/PATH or https://HOST[:PORT]/PATH")]
pub struct BadUrl(String);

impl Url {
    /// Reads a URL. User names and passwords in it are refused.
    ///
    /// # Errors
    /// [`BadUrl`].
    pub fn parse(text: &str) -> Result<Self, BadUrl> {
        let bad = || BadUrl(text.chars().take(200).collect());
        let uri: http::Uri = text.parse().map_err(|_| bad())?;
        let is_tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            Some(_) | None => return Err(bad()),
        };
        let authority = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
        if authority.contains('@') || uri.host().unwrap_or_default().is_empty() {
            return Err(bad());
        }
        let port = if is_tls { 443 } else { 80 };
        let dialed = if uri.port().is_some() { authority.to_owned() } else { format!("{authority}:{port}") };
        let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str).to_owned();
        Ok(Self { text: text.to_owned(), is_tls, authority: dialed, path })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

/// Why there is no answer, or none that can be used.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Nobody is reached there.
    #[error("cannot reach {url}")]
    Connect {
        /// Where.
        url: String,
        /// What the system or TLS said.
        source: io::Error,
    },
    /// The CAs cannot be used.
    #[error("cannot speak TLS")]
    Tls(#[from] TlsError),
    /// The connection ended before the answer did.
    #[error("lost the connection to {url}")]
    Lost {
        /// Where.
        url: String,
        /// What happened.
        source: hyper::Error,
    },
    /// It takes too long.
    #[error("{url} {what}")]
    Slow {
        /// Where.
        url: String,
        /// What took too long.
        what: &'static str,
    },
    /// The server sends elsewhere. What it names is not asked: who may say where
    /// updates come from is the machine's settings and the update server alone.
    #[error("{url} sends to {to:?} instead ({status}); redirects are refused")]
    Redirect {
        /// Where.
        url: String,
        /// The status.
        status: u16,
        /// Whereto.
        to: String,
    },
    /// The server says no.
    #[error("{url} answered {status}")]
    Status {
        /// Where.
        url: String,
        /// The status.
        status: u16,
    },
    /// The answer is longer than it may be.
    #[error("{url} sends more than {most} bytes")]
    TooLong {
        /// Where.
        url: String,
        /// What it may be.
        most: u64,
    },
    /// The server sends another part than was asked for.
    #[error("{url} sends {got} where {want} was asked for")]
    Range {
        /// Where.
        url: String,
        /// What it sends.
        got: String,
        /// What was asked for.
        want: String,
    },
}

/// Makes requests.
#[derive(Clone, Debug)]
pub struct Http {
    tls: Option<ClientTls>,
    ca_file: Option<std::path::PathBuf>,
    stall_after: Duration,
}

impl Http {
    /// For TLS whose certificates the CAs in `ca_file` vouch for, or the system's.
    pub fn new(ca_file: Option<&Path>, stall_after: Duration) -> Self {
        Self { tls: None, ca_file: ca_file.map(Path::to_owned), stall_after }
    }

    /// TLS is set up when it is first needed: the system's CAs cost a megabyte.
    fn tls(&mut self) -> Result<&ClientTls, TlsError> {
        if self.tls.is_none() {
            let files = TlsFiles { trusted_ca: self.ca_file.clone(), ..TlsFiles::default() };
            self.tls = Some(ClientTls::new(files)?);
        }
        Ok(self.tls.as_ref().expect("just made"))
    }

    async fn connect(&mut self, url: &Url) -> Result<Stream, HttpError> {
        let failed = |source| HttpError::Connect { url: url.to_string(), source };
        let tls = if url.is_tls { Some(self.tls()?.clone()) } else { None };
        let connecting = async {
            let stream = TcpStream::connect(&url.authority).await?;
            stream.set_nodelay(true)?;
            match tls {
                Some(tls) => tls.connect(&url.authority, stream).await,
                None => Ok(Stream::Plain(stream)),
            }
        };
        match timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(connected) => connected.map_err(failed),
            Err(_) => Err(failed(io::ErrorKind::TimedOut.into())),
        }
    }

    /// Sends one request; the answer with its body still to come.
    async fn send(
        &mut self,
        url: &Url,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, HttpError> {
        let stream = self.connect(url).await?;
        let lost = |source| HttpError::Lost { url: url.to_string(), source };
        let exchange = async {
            let mut builder = http1::Builder::new();
            builder.max_buf_size(READ_BUFFER_BYTES);
            let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
            // Its end is seen by the reader of the answer.
            tokio::spawn(connection);
            sender.send_request(request).await
        };
        let answer = match timeout(HEAD_TIMEOUT, exchange).await {
            Ok(answer) => answer.map_err(lost)?,
            Err(_) => return Err(HttpError::Slow { url: url.to_string(), what: "does not answer" }),
        };
        let status = answer.status();
        if status.is_redirection() {
            let to = answer.headers().get(header::LOCATION);
            let to = to.map(|to| String::from_utf8_lossy(to.as_bytes()).chars().take(200).collect());
            let (url, to) = (url.to_string(), to.unwrap_or_default());
            return Err(HttpError::Redirect { url, status: status.as_u16(), to });
        }
        if !status.is_success() {
            return Err(HttpError::Status { url: url.to_string(), status: status.as_u16() });
        }
        Ok(answer)
    }

    /// Sends `body` and reads an answer of at most `most` bytes.
    ///
    /// # Errors
    /// [`HttpError`].
    pub async fn post(&mut self, url: &Url, body: String, most: usize) -> Result<Vec<u8>, HttpError> {
        let request = request(Method::POST, url)
            .header(header::CONTENT_TYPE, "text/xml")
            .body(Full::new(body.into()))
            .expect("a URL that was parsed makes a request");
        let answer = self.send(url, request).await?;
        let mut body = Download::new(url, answer.into_body(), most as u64, self.stall_after)?;
        let mut bytes = Vec::new();
        while let Some(part) = body.next().await? {
            bytes.extend_from_slice(&part);
        }
        Ok(bytes)
    }

    /// Asks for the bytes of `url`, which has `size` of them, from `from` up to `end` (not
    /// included). A server that does not know ranges also sends what is behind them.
    ///
    /// # Errors
    /// [`HttpError`].
    pub async fn get(&mut self, url: &Url, from: u64, end: u64, size: u64) -> Result<Download, HttpError> {
        let want = format!("bytes={from}-{}", end.saturating_sub(1));
        let request = request(Method::GET, url)
            .header(header::RANGE, &want)
            .body(Full::default())
            .expect("a URL that was parsed makes a request");
        let answer = self.send(url, request).await?;
        let wrong = |got: String| HttpError::Range { url: url.to_string(), got, want: want.clone() };
        let (skip, most) = match answer.status() {
            StatusCode::PARTIAL_CONTENT => {
                let range = answer.headers().get(header::CONTENT_RANGE);
                let range = range.and_then(|range| range.to_str().ok()).unwrap_or_default();
                if !range.starts_with(&format!("bytes {from}-")) {
                    return Err(wrong(range.chars().take(100).collect()));
                }
                (0, end - from)
            }
            StatusCode::OK => (from, size),
            other => return Err(wrong(other.to_string())),
        };
        let mut download = Download::new(url, answer.into_body(), most, self.stall_after)?;
        download.skip = skip;
        Ok(download)
    }
}

fn request(method: Method, url: &Url) -> http::request::Builder {
    Request::builder()
        .method(method)
        .uri(&url.path)
        .header(header::HOST, &url.authority)
        .header(header::USER_AGENT, concat!("update_engine/", env!("CARGO_PKG_VERSION")))
}

/// The body of an answer, which has to keep to a size and a speed.
pub struct Download {
    url: String,
    body: Incoming,
    most: u64,
    left: u64,
    skip: u64,
    stall_after: Duration,
    window_began: Instant,
    window_bytes: u64,
}

impl Download {
    fn new(url: &Url, body: Incoming, most: u64, stall_after: Duration) -> Result<Self, HttpError> {
        let url = url.to_string();
        // An announced length that is too large is refused before a byte is read.
        if body.size_hint().exact().is_some_and(|announced| announced > most) {
            return Err(HttpError::TooLong { url, most });
        }
        let window_began = Instant::now();
        Ok(Self { url, body, most, left: most, skip: 0, stall_after, window_began, window_bytes: 0 })
    }

    /// The next bytes; `None` at the end of the body.
    ///
    /// # Errors
    /// [`HttpError`]: also when less than [`SLOWEST_BYTES_PER_S`] come over a
    /// whole window, or more than was allowed.
    pub async fn next(&mut self) -> Result<Option<Bytes>, HttpError> {
        loop {
            let slow = |url: &String| HttpError::Slow { url: url.clone(), what: "sends too slowly" };
            let window_ends = self.window_began + self.stall_after;
            let frame = match tokio::time::timeout_at(window_ends, self.body.frame()).await {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(source))) => return Err(HttpError::Lost { url: self.url.clone(), source }),
                Err(_) => {
                    let least = SLOWEST_BYTES_PER_S * self.stall_after.as_millis() as u64 / 1000;
                    if self.window_bytes < least {
                        return Err(slow(&self.url));
                    }
                    (self.window_began, self.window_bytes) = (Instant::now(), 0);
                    continue;
                }
            };
            let Ok(mut bytes) = frame.into_data() else { continue };
            let count = bytes.len() as u64;
            self.left = self
                .left
                .checked_sub(count)
                .ok_or_else(|| HttpError::TooLong { url: self.url.clone(), most: self.most })?;
            self.window_bytes += count;
            let skipped = self.skip.min(count);
            self.skip -= skipped;
            drop(bytes.split_to(skipped as usize));
            if !bytes.is_empty() {
                return Ok(Some(bytes));
            }
        }
    }

    /// The time that the receiver takes does not count against the sender.
    pub fn resume_clock(&mut self) {
        (self.window_began, self.window_bytes) = (Instant::now(), 0);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::Url;

    #[test]
    fn urls_have_a_host_and_a_known_scheme() {
        #[rustfmt::skip]
        let rows = [
            ("http://update.example/v1/update/", "update.example:80",   "/v1/update/"),
            ("https://update.example",           "update.example:443",  "/"),
            ("http://127.0.0.1:8000/a?b=c",      "127.0.0.1:8000",      "/a?b=c"),
            ("http://[::1]:8000/",               "[::1]:8000",          "/"),
        ];
        for (text, authority, path) in rows {
            let url = Url::parse(text).unwrap();
            assert_eq!((url.authority.as_str(), url.path.as_str()), (authority, path), "{text}");
        }
        for bad in
            ["", "update.example", "ftp://x/", "http://", "http://user:pw@x/", "http:///x", "http://x /"]
        {
            assert!(Url::parse(bad).is_err(), "{bad:?}");
        }
    }
}
