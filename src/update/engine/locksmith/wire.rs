//! One HTTP/1 request to a member of the store or to a socket of this machine.

use std::{io, path::PathBuf, time::Duration};

use http::{Method, Request, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use proa_etcd_client::tls::{ClientTls, Stream};
use tokio::net::{TcpStream, UnixStream};

/// The largest answer: a lock with 1024 holders, or a cordon with a thousand units.
const MAX_ANSWER_BYTES: usize = 1 << 20;
/// For connection, request and answer together: a leader election (about 1.3 s)
/// ends inside it.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Whom to ask.
#[derive(Clone, Debug)]
pub enum Place {
    /// `HOST:PORT`.
    Tcp(String),
    /// The same, with TLS.
    Tls(String, ClientTls),
    /// A socket in the file system.
    Unix(PathBuf),
}

/// What was answered.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// `X-Etcd-Index`-like headers are not needed: bodies say it all.
    pub body: Bytes,
}

/// Asks once. `content_type` is that of a body that is not empty.
///
/// # Errors
/// What the connection said; nobody knows then whether the request arrived.
pub async fn ask(
    place: &Place,
    method: Method,
    path: &str,
    content_type: &'static str,
    body: String,
) -> io::Result<Answer> {
    let asking = async {
        match place {
            Place::Tcp(authority) => {
                let stream = Stream::Plain(TcpStream::connect(authority).await?);
                exchange(stream, authority, method, path, content_type, body).await
            }
            Place::Tls(authority, tls) => {
                let stream = tls.connect(authority, TcpStream::connect(authority).await?).await?;
                exchange(stream, authority, method, path, content_type, body).await
            }
            Place::Unix(socket) => {
                let stream = UnixStream::connect(socket).await?;
                exchange(stream, "localhost", method, path, content_type, body).await
            }
        }
    };
    match tokio::time::timeout(TIMEOUT, asking).await {
        Ok(answer) => answer,
        Err(_) => {
            Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer in {} s", TIMEOUT.as_secs())))
        }
    }
}

async fn exchange<S>(
    stream: S,
    host: &str,
    method: Method,
    path: &str,
    content_type: &'static str,
    body: String,
) -> io::Result<Answer>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let mut request = Request::builder().method(method).uri(path).header(header::HOST, host);
    if !body.is_empty() {
        request = request.header(header::CONTENT_TYPE, content_type);
    }
    let request = request.body(Full::new(Bytes::from(body))).map_err(io::Error::other)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // Its end is seen by the reader of the answer.
    tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(io::Error::other)?;
    let status = answer.status().as_u16();
    let body = Limited::<Incoming>::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await;
    Ok(Answer { status, body: body.map_err(io::Error::other)?.to_bytes() })
}
