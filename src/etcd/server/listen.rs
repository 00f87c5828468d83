//! The client port: gRPC and plain HTTP over one listener.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, header};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tonic::body::Body;

use crate::authority::Filtered;
use crate::grpc::{Front, Services};

/// Connections at a time; each takes a descriptor and some 10 KiB.
const MAX_CONNECTIONS: usize = 8192;
/// Requests at a time on one connection. etcd sets no limit; a client that
/// keeps one connection for everything must not meet this one.
const MAX_STREAMS: u32 = 100_000;
/// How long a client may take to say what it wants.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// A silent client is asked whether it is there. Go's clients allow a ping at
/// most every ten seconds while idle.
const PING_INTERVAL: Duration = Duration::from_secs(60);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// When descriptors run out, accepting again at once would only burn time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Opens the listener.
///
/// # Errors
/// What bind(2) says.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Serves clients until the task is dropped.
pub async fn serve(listener: TcpListener, front: Arc<Front>) {
    let services = Services::new(&front);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((connection, _)) => {
                let (services, front) = (services.clone(), Arc::clone(&front));
                tokio::spawn(async move {
                    serve_connection(connection, services, front).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!("accepting clients: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_connection(connection: TcpStream, services: Services, front: Arc<Front>) {
    if connection.set_nodelay(true).is_err() {
        return;
    }
    let service = hyper::service::service_fn(move |request| {
        let (services, front) = (services.clone(), Arc::clone(&front));
        async move { Ok::<_, std::convert::Infallible>(answer(services, front, request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    let connection = TokioIo::new(Filtered::new(connection));
    // How a connection ends is the client's business.
    let _ = builder.serve_connection(connection, service).await;
}

async fn answer(mut services: Services, front: Arc<Front>, request: Request<Incoming>) -> Response<Body> {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    if content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc")) {
        return services.answer(request).await;
    }
    crate::http::answer(&front, request).await
}
