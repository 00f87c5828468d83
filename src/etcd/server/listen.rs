//! The client port: gRPC and plain HTTP over one listener.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, header};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use proa_etcd_client::Socket;
use proa_etcd_client::tls::Stream;
use tokio::sync::Semaphore;
use tonic::body::Body;

use crate::authority::Filtered;
use crate::grpc::{Front, Services};
use crate::listener::Listener;
use crate::prompt::{Begun, Prompt};
use crate::tls::{ClientName, ServerTls};

/// Connections at a time; each takes a descriptor and some 10 KiB.
const MAX_CONNECTIONS: u32 = 8192;
/// The same for a port of metrics: a handful of programs ask there.
const MAX_METRICS_CONNECTIONS: usize = 64;
/// Requests at a time on one connection, whatever `--max-concurrent-streams` says.
/// etcd's default is no limit; a client that keeps one connection for everything
/// must not meet this one.
const MAX_STREAMS: u32 = 100_000;
/// How long a client may take from one HTTP/1 request to the next, its header
/// included; the first has the deadline of [`Prompt`].
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);
/// A silent client is asked whether it is there. Go's clients allow a ping at
/// most every ten seconds while idle.
const PING_INTERVAL: Duration = Duration::from_secs(60);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// When descriptors run out, accepting again at once would only burn time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves clients, with TLS if it is given, until the member ends; then until
/// the last connection has ended.
pub async fn serve(listener: Listener, tls: Option<Arc<ServerTls>>, front: Arc<Front>) {
    let services = Services::new(&front);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS as usize));
    let mut ends = pin!(front.ending.begun());
    loop {
        let accept = async { (Arc::clone(&places).acquire_owned().await, listener.accept().await) };
        let (place, accepted) = tokio::select! {
            biased;
            () = &mut ends => break,
            accepted = accept => accepted,
        };
        match accepted {
            Ok(connection) => {
                let (services, front, tls) = (services.clone(), Arc::clone(&front), tls.clone());
                tokio::spawn(async move {
                    if let Err(error) = serve_connection(connection, tls, services, front).await {
                        tracing::debug!("a client's connection ended: {error}");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!("accepting clients: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // Who comes now is refused at once, and goes to another member.
    drop(listener);
    let _ = places.acquire_many(MAX_CONNECTIONS).await;
}

/// Serves metrics and health alone, until the task is dropped: for a port that
/// others may reach than those who may be clients.
pub async fn serve_metrics(listener: Listener, tls: Option<Arc<ServerTls>>, front: Arc<Front>) {
    let places = Arc::new(Semaphore::new(MAX_METRICS_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok(connection) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (front, tls) = (Arc::clone(&front), tls.clone());
        tokio::spawn(async move {
            if let Err(error) = serve_metrics_connection(connection, tls, front).await {
                tracing::debug!("a connection for metrics ended: {error}");
            }
            drop(place);
        });
    }
}

async fn serve_metrics_connection(
    connection: Socket,
    tls: Option<Arc<ServerTls>>,
    front: Arc<Front>,
) -> io::Result<()> {
    let connection = match tls {
        None => Stream::Plain(connection),
        Some(tls) => tls.accept(connection).await?.0,
    };
    let begun = Begun::default();
    let connection = TokioIo::new(Prompt::new(connection, begun.clone()));
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        begun.set();
        let front = Arc::clone(&front);
        async move { Ok::<_, std::convert::Infallible>(crate::http::answer_metrics_port(&front, request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder.serve_connection(connection, service).await.map_err(io::Error::other)
}

async fn serve_connection(
    connection: Socket,
    tls: Option<Arc<ServerTls>>,
    services: Services,
    front: Arc<Front>,
) -> io::Result<()> {
    let (connection, name) = match tls {
        None => (Stream::Plain(connection), None),
        Some(tls) => tls.accept(connection).await?,
    };
    let ends = front.ending.begun();
    let max_streams = front.limits.streams.min(MAX_STREAMS);
    let begun = Begun::default();
    let connection = TokioIo::new(Filtered::new(Prompt::new(connection, begun.clone())));
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        begun.set();
        let (services, front, name) = (services.clone(), Arc::clone(&front), name.clone());
        async move { Ok::<_, std::convert::Infallible>(answer(services, front, name, request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(max_streams)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    let mut served = pin!(builder.serve_connection(connection, service));
    tokio::select! {
        outcome = &mut served => return outcome.map_err(io::Error::other),
        () = ends => served.as_mut().graceful_shutdown(),
    }
    served.await.map_err(io::Error::other)
}

async fn answer(
    mut services: Services,
    front: Arc<Front>,
    name: Option<ClientName>,
    mut request: Request<Incoming>,
) -> Response<Body> {
    if let Some(name) = name {
        request.extensions_mut().insert(name);
    }
    let content_type = request.headers().get(header::CONTENT_TYPE);
    if content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc")) {
        return services.answer(request).await;
    }
    crate::http::answer(&front, request).await
}
