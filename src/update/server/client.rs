//! One request to the API: what omahactl sends.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use futures_util::stream;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::{
    body::{Bytes, Frame},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use proa_etcd_client::tls::{ClientTls, Stream, TlsError, TlsFiles};
use serde_json::Value;
use tokio::{io::AsyncReadExt, net::TcpStream};

use crate::http::Body;

/// The largest answer that is read: 10 000 machines of 600 bytes.
const ANSWER_BYTES_MAX: usize = 32 << 20;
/// How long one answer may take, uploads aside.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long an upload may take: 4 GiB at 1 MB/s.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(4096);
/// A file is sent in pieces of this size.
const PIECE_BYTES: usize = 64 << 10;

/// An omahad: `http://HOST:PORT` or `https://HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    address: String,
    is_tls: bool,
    trusted_ca: Option<PathBuf>,
}

impl Endpoint {
    /// The same, whose certificate has to be of the CAs in this file; of the system's
    /// when there is none.
    #[must_use]
    pub fn trusting(self, trusted_ca: Option<PathBuf>) -> Self {
        Self { trusted_ca, ..self }
    }

    async fn connect(&self) -> Result<Stream, Error> {
        let failed = |source| Error::Connect { endpoint: self.clone(), source };
        let stream = TcpStream::connect(&self.address).await.map_err(failed)?;
        if !self.is_tls {
            return Ok(Stream::Plain(stream));
        }
        let files = TlsFiles { trusted_ca: self.trusted_ca.clone(), ..TlsFiles::default() };
        ClientTls::new(files)?.connect(&self.address, stream).await.map_err(failed)
    }
}

impl FromStr for Endpoint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (is_tls, rest) = match text.strip_prefix("https://") {
            Some(rest) => (true, Some(rest)),
            None => (false, text.strip_prefix("http://")),
        };
        let rest = rest.map(|rest| rest.trim_end_matches('/'));
        let is_address = |rest: &&str| {
            let parts = rest.rsplit_once(':');
            parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        };
        let address = rest.filter(is_address).ok_or_else(|| Error::BadEndpoint(text.to_owned()))?;
        Ok(Self { address: address.to_owned(), is_tls, trusted_ca: None })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}://{}", if self.is_tls { "https" } else { "http" }, self.address)
    }
}

/// Why there is no good answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A text that is no endpoint.
    #[error("bad endpoint {0:?}: give http://HOST:PORT or https://HOST:PORT")]
    BadEndpoint(String),
    /// Nobody listens there.
    #[error("cannot reach omahad at {endpoint}: {source}")]
    Connect {
        /// Where it was tried.
        endpoint: Endpoint,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The CAs cannot be used.
    #[error("cannot speak TLS: {0}")]
    Tls(#[from] TlsError),
    /// The connection ended before the answer did.
    #[error("lost the connection to omahad at {endpoint}: {text}")]
    Lost {
        /// Where it was.
        endpoint: Endpoint,
        /// What happened.
        text: String,
    },
    /// No answer in time.
    #[error("omahad at {0} gave no answer in time")]
    Late(Endpoint),
    /// omahad said no.
    #[error("{0}")]
    Refused(String),
    /// Whoever answered is no omahad.
    #[error("the answer of {endpoint} cannot be understood: {text}")]
    Garbage {
        /// Who answered.
        endpoint: Endpoint,
        /// What is wrong with it.
        text: String,
    },
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    File {
        /// Which.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Sends JSON and returns the JSON of the answer.
///
/// # Errors
/// [`Error`].
///
/// # Panics
/// When `path` is no path of a URL: names come checked.
pub async fn call(
    endpoint: &Endpoint,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<Value, Error> {
    let body = body.map(Value::to_string).unwrap_or_default();
    let length = body.len() as u64;
    let body = Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed_unsync();
    exchange(endpoint, method, path, body, length, TIMEOUT).await
}

/// Sends a file as the body of a `PUT`.
///
/// # Errors
/// [`Error`].
pub async fn upload(endpoint: &Endpoint, path: &str, file: &Path) -> Result<Value, Error> {
    let failed = |source| Error::File { path: file.display().to_string(), source };
    let opened = tokio::fs::File::open(file).await.map_err(failed)?;
    let length = opened.metadata().await.map_err(failed)?.len();
    let next = |mut file: tokio::fs::File| async move {
        let mut piece = vec![0; PIECE_BYTES];
        match file.read(&mut piece).await {
            Ok(0) => None,
            Ok(count) => {
                piece.truncate(count);
                Some((Ok(Frame::data(Bytes::from(piece))), file))
            }
            Err(error) => Some((Err(error), file)),
        }
    };
    let body = StreamBody::new(stream::unfold(opened, next)).boxed_unsync();
    exchange(endpoint, Method::PUT, path, body, length, UPLOAD_TIMEOUT).await
}

async fn exchange(
    endpoint: &Endpoint,
    method: Method,
    path: &str,
    body: Body,
    length: u64,
    timeout: Duration,
) -> Result<Value, Error> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, &endpoint.address)
        .header(header::CONTENT_LENGTH, length)
        .body(body)
        .expect("the caller checked the names in the path");
    let (status, body) = tokio::time::timeout(timeout, send(endpoint, request))
        .await
        .map_err(|_| Error::Late(endpoint.clone()))??;
    let value = serde_json::from_slice::<Value>(&body);
    let garbage = |text: String| Error::Garbage { endpoint: endpoint.clone(), text };
    match value {
        Ok(value) if status.is_success() => Ok(value),
        Ok(value) => match value.pointer("/error/message").and_then(Value::as_str) {
            Some(message) => Err(Error::Refused(message.to_owned())),
            None => Err(garbage(format!("status {status}"))),
        },
        Err(_) => Err(garbage(format!("status {status} without JSON"))),
    }
}

async fn send(endpoint: &Endpoint, request: Request<Body>) -> Result<(http::StatusCode, Bytes), Error> {
    let lost = |text: String| Error::Lost { endpoint: endpoint.clone(), text };
    let stream = endpoint.connect().await?;
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| lost(error.to_string()))?;
    // Its end is seen by the answer's reader.
    tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(|error| lost(error.to_string()))?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
    Ok((status, body.map_err(|error| lost(error.to_string()))?.to_bytes()))
}
