//! One HTTP/1 request, for what etcd does not offer by gRPC.

use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::{HeaderMap, Method, Request, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use proa_etcd_client::Socket;
use proa_etcd_client::api::url::{self, Address, Url};
use proa_etcd_client::tls::{ClientTls, Stream, TlsFiles};

/// More than a whole v2 tree in one answer: a guard against a peer that never ends.
const MAX_BODY_BYTES: usize = 1 << 30;

/// What is asked.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The URL of a member; one of `http` and `https` may have no port.
    pub base: String,
    /// Path and query.
    pub path: String,
    /// GET, PUT, POST or DELETE.
    pub method: Method,
    /// The body and its type; none for GET and DELETE.
    pub body: Option<(&'static str, String)>,
    /// `USER:PASSWORD`.
    pub user: Option<String>,
    /// What `https` is spoken with.
    pub tls: TlsFiles,
}

impl Ask {
    /// A plain read.
    pub fn get(base: &str, path: &str) -> Self {
        let (base, path) = (base.to_owned(), path.to_owned());
        Self { base, path, method: Method::GET, body: None, user: None, tls: TlsFiles::default() }
    }
}

/// What was answered.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body, whole.
    pub body: Bytes,
}

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No URL of a member, and what would be one.
    #[error("bad endpoint {0:?}: {1}")]
    BadUrl(String, String),
    /// Nobody listens: nothing was asked.
    #[error("dial {} {at}: connect: {why}", at.network())]
    Connect {
        /// Who was dialed.
        at: Address,
        /// The system's word.
        why: String,
    },
    /// Whoever is there is not to be asked, or does not speak TLS.
    #[error("{0}")]
    Handshake(String),
    /// The answer did not come in time.
    #[error("client: endpoint {0} exceeded header timeout")]
    Late(String),
    /// The conversation broke off.
    #[error("{0}")]
    Broken(String),
}

impl Error {
    /// Whether the request is known to have had no effect.
    pub fn is_unsent(&self) -> bool {
        matches!(self, Self::BadUrl(..) | Self::Connect { .. } | Self::Handshake(_))
    }
}

/// Asks and waits at most `timeout`.
pub async fn ask(ask: &Ask, timeout: Duration) -> Result<Answer, Error> {
    match tokio::time::timeout(timeout, ask_patiently(ask)).await {
        Ok(answer) => answer,
        Err(_) => Err(Error::Late(ask.base.clone())),
    }
}

/// Asks and waits for as long as it takes, as one who watches does.
pub async fn ask_patiently(ask: &Ask) -> Result<Answer, Error> {
    let Url { encrypted, address } =
        parse(ask.base.trim_end_matches('/')).map_err(|right| Error::BadUrl(ask.base.clone(), right))?;
    let broken = |error: &dyn std::fmt::Display| Error::Broken(error.to_string());
    let stream = Socket::connect(&address)
        .await
        .map_err(|error| Error::Connect { at: address.clone(), why: reason(&error) })?;
    let stream = match encrypted {
        true => shake_hands(ask, &address, stream).await?,
        false => Stream::Plain(stream),
    };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
    // Ends with the sender; what breaks it is said where the answer is awaited.
    tokio::spawn(async move { drop(connection.await) });
    let answer = sender.send_request(request(ask, &address)?).await.map_err(|error| broken(&error))?;
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, MAX_BODY_BYTES).collect().await.map_err(|error| broken(&error))?;
    Ok(Answer { status: head.status, headers: head.headers, body: body.to_bytes() })
}

/// The URL of a member, with the port of its scheme when it has none.
fn parse(base: &str) -> Result<Url, String> {
    let uri: Option<Uri> = base.parse().ok();
    let portless = uri.filter(|uri| uri.authority().is_some_and(|authority| authority.port().is_none()));
    let whole = match portless.as_ref().and_then(Uri::scheme_str) {
        Some("http") => format!("{base}:80"),
        Some("https") => format!("{base}:443"),
        Some(_) | None => base.to_owned(),
    };
    url::parse(&whole)
}

async fn shake_hands(ask: &Ask, at: &Address, stream: Socket) -> Result<Stream<Socket>, Error> {
    let files = TlsFiles { protocols: vec![b"http/1.1".to_vec()], ..ask.tls.clone() };
    let tls = ClientTls::new(files).map_err(|error| {
        let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
        Error::Handshake(format!("{error}{}", source.unwrap_or_default()))
    })?;
    tls.connect(&at.authority(), stream).await.map_err(|error| Error::Handshake(error.to_string()))
}

fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        _ => error.to_string(),
    }
}

fn request(ask: &Ask, at: &Address) -> Result<Request<Full<Bytes>>, Error> {
    let mut request =
        Request::builder().method(ask.method.clone()).uri(&ask.path).header(header::HOST, at.authority());
    if let Some(user) = &ask.user {
        let token = super::json::base64(user.as_bytes());
        request =
            request.header(header::AUTHORIZATION, format!("Basic {}", token.as_str().unwrap_or_default()));
    }
    let body = match &ask.body {
        None => Bytes::new(),
        Some((kind, body)) => {
            request = request.header(header::CONTENT_TYPE, *kind);
            Bytes::from(body.clone())
        }
    };
    request.body(Full::new(body)).map_err(|error| Error::Broken(error.to_string()))
}

/// A path or a value of a form with everything escaped but what is plain in both.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                out.push(char::from(byte))
            }
            _ => out += &format!("%{byte:02X}"),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_letters_stay_as_they_are() {
        assert_eq!(escape("/a b/é?&=+%"), "/a%20b/%C3%A9%3F%26%3D%2B%25");
    }
}
