//! One HTTP request to somebody else's server, and its answer.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use proa_etcd_api::url::parse;
use proa_etcd_client::Socket;
use proa_etcd_client::tls::{ClientTls, Stream, TlsFiles};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

/// Longest time for a request and its answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Largest answer: a discovery service's list of nine members takes a few KiB.
const MAX_ANSWER_BYTES: usize = 1 << 20;
/// Longest answer of a proxy to CONNECT: a status and a few headers.
const MAX_HEAD_BYTES: usize = 8 << 10;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its body.
    pub body: Bytes,
}

/// Asks once, if there is a `proxy` (`http://HOST:PORT`) through it. An `https` URL
/// must have a certificate that the system trusts.
///
/// # Errors
/// A URL that is none, and whatever goes wrong on the way.
pub async fn fetch(
    method: Method,
    url: &str,
    form: Option<String>,
    proxy: Option<&str>,
) -> io::Result<Answer> {
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("no answer in {} s", PATIENCE.as_secs()));
    timeout(PATIENCE, ask(method, url, form, proxy)).await.map_err(late)?
}

async fn ask(method: Method, url: &str, form: Option<String>, proxy: Option<&str>) -> io::Result<Answer> {
    let bad = || io::Error::new(io::ErrorKind::InvalidInput, format!("{url:?} is no http or https URL"));
    let uri: Uri = url.parse().map_err(|_| bad())?;
    let host = uri.host().ok_or_else(bad)?.to_owned();
    let default_port = match uri.scheme_str() {
        Some("http") => 80,
        Some("https") => 443,
        Some(_) | None => return Err(bad()),
    };
    let authority = format!("{host}:{}", uri.port_u16().unwrap_or(default_port));
    let address = parse(&format!("http://{authority}")).map_err(|_| bad())?.address;
    let is_encrypted = default_port == 443;
    let stream = match proxy {
        None => Socket::connect(&address).await?,
        Some(proxy) => {
            let proxy = parse(proxy).map_err(io::Error::other)?;
            let stream = Socket::connect(&proxy.address).await?;
            if is_encrypted { tunnel(stream, &authority).await? } else { stream }
        }
    };
    let stream = if is_encrypted {
        let files = TlsFiles { protocols: vec![b"http/1.1".to_vec()], ..TlsFiles::default() };
        ClientTls::new(files).map_err(io::Error::other)?.connect(&authority, stream).await?
    } else {
        Stream::Plain(stream)
    };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // Ends with the answer, or with this future: the sender is dropped then.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!("a connection to a discovery service ended: {error}");
        }
    });
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    // A proxy must hear whom to ask, unless it only carries bytes.
    let target = if proxy.is_some() && !is_encrypted { url } else { path };
    let mut request = Request::builder().method(method).uri(target).header(header::HOST, &authority);
    if form.is_some() {
        request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    }
    let request = request.body(Full::<Bytes>::from(form.unwrap_or_default())).map_err(io::Error::other)?;
    let (head, body) = sender.send_request(request).await.map_err(io::Error::other)?.into_parts();
    let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await.map_err(io::Error::other)?;
    Ok(Answer { status: head.status, body: body.to_bytes() })
}

/// Has a proxy connect `stream` to `authority`. Source: RFC 9110, 9.3.6.
async fn tunnel(mut stream: Socket, authority: &str) -> io::Result<Socket> {
    let request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    // What comes behind the head belongs to the other end: byte by byte up to it.
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == MAX_HEAD_BYTES {
            return Err(io::Error::other("the proxy's answer does not end"));
        }
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head);
    let status = head.lines().next().unwrap_or_default();
    match status.split_whitespace().nth(1) {
        Some(code) if code.starts_with('2') => Ok(stream),
        Some(_) | None => Err(io::Error::other(format!("the proxy answers {status:?}"))),
    }
}

/// `text` as a value of a form or a query.
pub fn escape(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte.into()),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
