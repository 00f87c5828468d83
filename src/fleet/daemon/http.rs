//! HTTP/1.1 plumbing: listeners, limits, bodies. What is asked and answered is `api`'s business.

use std::{
    fs,
    future::Future,
    io::{self, ErrorKind},
    os::{
        fd::{FromRawFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::Path,
    sync::Arc,
    time::Duration,
};

use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited, combinators::UnsyncBoxBody};
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::Semaphore,
};

/// A body that is sent in one piece or as it comes.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// The largest request body. A unit file of this size could not be stored: the
/// store refuses requests over 1.5 MiB.
pub const MAX_BODY_BYTES: usize = 1 << 20;
/// A client that has not sent its header by then is let go of.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// A body of [`MAX_BODY_BYTES`] needs 30 s at 35 kB/s.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Open connections of one listener, `journal --follow` included. Each costs a
/// task and at most one body: 256 MiB if all send their largest at once.
const MAX_CONNECTIONS: usize = 256;
/// After a failed accept (no file descriptors left), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where requests come from.
#[derive(Debug)]
pub enum Listener {
    /// A socket in the file system.
    Unix(UnixListener),
    /// A TCP address.
    Tcp(TcpListener),
}

/// Why a listener could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {place}: {source}")]
pub struct CannotListen {
    /// The path or the address.
    pub place: String,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// Opens a socket at `path`, mode 0660, in place of one that nobody listens on any more.
///
/// # Errors
/// [`CannotListen`], also when another process listens there.
pub fn listen_unix(path: &Path) -> Result<Listener, CannotListen> {
    let failed = |source| CannotListen { place: path.display().to_string(), source };
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => return Err(failed(io::Error::new(ErrorKind::AddrInUse, "another process listens there"))),
        // Left behind by a process that was killed.
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed)?
        }
        Err(_) => {}
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660)).map_err(failed)?;
    Ok(Listener::Unix(listener))
}

/// Opens a TCP listener at `HOST:PORT`.
///
/// # Errors
/// [`CannotListen`].
pub async fn listen_tcp(address: &str) -> Result<Listener, CannotListen> {
    let failed = |source| CannotListen { place: address.to_owned(), source };
    Ok(Listener::Tcp(TcpListener::bind(address).await.map_err(failed)?))
}

/// Takes over the sockets that systemd opened for this process.
///
/// Source: sd_listen_fds(3): `LISTEN_PID` names the process, `LISTEN_FDS` counts descriptors from 3 on.
///
/// # Errors
/// When a descriptor is no listening stream socket.
///
/// # Panics
/// Never twice in one process: call it once, before anything else opens descriptors.
pub fn inherited() -> Result<Vec<Listener>, CannotListen> {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u32>().ok());
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Ok(Vec::new());
    }
    let count = number("LISTEN_FDS").unwrap_or(0);
    (3..3 + count).map(adopt).collect()
}

fn adopt(number: u32) -> Result<Listener, CannotListen> {
    let failed = |source| CannotListen { place: format!("inherited descriptor {number}"), source };
    let raw = i32::try_from(number).expect("LISTEN_FDS counts descriptors");
    // SAFETY: systemd passed this descriptor to this process and nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(raw) };
    let family = socket_family(raw).map_err(failed)?;
    if family == libc::AF_UNIX {
        let listener = std::os::unix::net::UnixListener::from(fd);
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Listener::Unix(UnixListener::from_std(listener).map_err(failed)?))
    } else {
        let listener = std::net::TcpListener::from(fd);
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Listener::Tcp(TcpListener::from_std(listener).map_err(failed)?))
    }
}

fn socket_family(fd: i32) -> io::Result<i32> {
    // SAFETY: all zero is a valid sockaddr_storage.
    let mut address: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: address and length describe one writable buffer.
    match unsafe { libc::getsockname(fd, (&raw mut address).cast(), &mut length) } {
        0 => Ok(i32::from(address.ss_family)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A connection of either kind.
enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Listener {
    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Unix(listener) => Ok(Stream::Unix(listener.accept().await?.0)),
            Self::Tcp(listener) => Ok(Stream::Tcp(listener.accept().await?.0)),
        }
    }
}

/// Answers requests until the task is dropped.
pub async fn serve<F, Fut>(listener: Listener, answer: F)
where
    F: Fn(Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Response<Body>> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
        let stream = match listener.accept().await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let answer = answer.clone();
        tokio::spawn(async move {
            match stream {
                Stream::Unix(stream) => connection(TokioIo::new(stream), answer).await,
                Stream::Tcp(stream) => connection(TokioIo::new(stream), answer).await,
            }
            drop(place);
        });
    }
}

async fn connection<I, F, Fut>(io: I, answer: F)
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    F: Fn(Request<Incoming>) -> Fut,
    Fut: Future<Output = Response<Body>>,
{
    let service = service_fn(|request| {
        let response = answer(request);
        async move { Ok::<_, std::convert::Infallible>(response.await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(io, service);
    if let Err(error) = served.await {
        // A client that goes away, or talks no HTTP: its own business.
        tracing::debug!("connection ended: {error}");
    }
}

/// Why a request's body could not be read.
#[derive(Debug, thiserror::Error)]
pub enum BadBody {
    /// More than [`MAX_BODY_BYTES`].
    #[error("the body is larger than {MAX_BODY_BYTES} bytes")]
    TooLarge,
    /// The client stopped in the middle of it.
    #[error("the body did not arrive")]
    Lost,
}

/// Reads a request's whole body.
///
/// # Errors
/// [`BadBody`].
pub async fn read_body(body: Incoming) -> Result<Bytes, BadBody> {
    let reading = Limited::new(body, MAX_BODY_BYTES).collect();
    match tokio::time::timeout(BODY_TIMEOUT, reading).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(BadBody::TooLarge),
        Ok(Err(_)) | Err(_) => Err(BadBody::Lost),
    }
}

/// A body in one piece.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// An answer without a body.
pub fn empty(status: StatusCode) -> Response<Body> {
    with_status(status, Response::new(full("")))
}

/// An answer in JSON.
pub fn json(status: StatusCode, value: &impl serde::Serialize) -> Response<Body> {
    let text = serde_json::to_vec(value).expect("our own types become JSON");
    let mut response = with_status(status, Response::new(full(text)));
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

fn with_status(status: StatusCode, mut response: Response<Body>) -> Response<Body> {
    *response.status_mut() = status;
    response
}
