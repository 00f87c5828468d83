//! HTTP/1.1 plumbing: listeners, limits, bodies.

use std::{convert::Infallible, future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited, combinators::UnsyncBoxBody};
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use proa_etcd_client::tls::Stream;
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_io_timeout::TimeoutStream;

use crate::{error::Refused, tls::ServerTls};

/// A body that is sent in one piece or as it comes.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A client that has not sent its header by then is let go of.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// A body of 64 KiB needs 15 s at 4 kB/s.
const BODY_TIMEOUT: Duration = Duration::from_secs(15);
/// Open connections of one listener. Each costs a task and at most two pieces
/// of a package: 64 MiB if all read as slowly as they can.
const CONNECTIONS_MAX: usize = 512;
/// The longest that one connection may last: 60 MiB at 5 kB/s. Who reads more
/// slowly begins where it was cut off.
const CONNECTION_MAX: Duration = Duration::from_secs(4 * 3600);
/// Who takes nothing of an answer for so long is let go of: a place is worth more.
const WRITE_TIMEOUT: Duration = if cfg!(test) { Duration::from_millis(300) } else { Duration::from_secs(30) };
/// After a failed accept (no file descriptors left), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A client that has not shaken hands by then is let go of.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Answers requests, by TLS if there is any, until the task is dropped.
pub async fn serve<F, Fut>(listener: TcpListener, tls: Option<ServerTls>, answer: F)
where
    F: Fn(Request<Incoming>, SocketAddr) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Response<Body>> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (answer, tls) = (answer.clone(), tls.clone());
        tokio::spawn(async move {
            let shaken = match tls {
                Some(tls) => tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await,
                None => Ok(Ok(Stream::Plain(stream))),
            };
            let Ok(Ok(stream)) = shaken else {
                tracing::debug!("{peer} has not shaken hands by TLS");
                drop(place);
                return;
            };
            let service = service_fn(|request| {
                let response = answer(request, peer);
                async move { Ok::<_, Infallible>(response.await) }
            });
            let mut stream = TimeoutStream::new(stream);
            stream.set_write_timeout(Some(WRITE_TIMEOUT));
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(Box::pin(stream)), service);
            match tokio::time::timeout(CONNECTION_MAX, served).await {
                Ok(Ok(())) => {}
                // A client that goes away, or talks no HTTP: its own business.
                Ok(Err(error)) => tracing::debug!("connection of {peer} ended: {error}"),
                Err(_) => tracing::debug!("connection of {peer} lasted too long"),
            }
            drop(place);
        });
    }
}

/// Reads a request's whole body of at most `bytes_max`.
///
/// # Errors
/// 413 for more, 408 when it does not arrive in time.
pub async fn read_body(body: Incoming, bytes_max: usize) -> Result<Bytes, Refused> {
    let reading = Limited::new(body, bytes_max).collect();
    match tokio::time::timeout(BODY_TIMEOUT, reading).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let text = format!("the body is larger than {bytes_max} bytes");
            Err(Refused::new(StatusCode::PAYLOAD_TOO_LARGE, text))
        }
        Ok(Err(_)) | Err(_) => Err(Refused::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive")),
    }
}

/// A body in one piece.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// An answer in one piece.
pub fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// An answer in JSON.
pub fn json(value: &serde_json::Value) -> Response<Body> {
    answer(StatusCode::OK, "application/json", value.to_string())
}

/// A refusal in JSON.
pub fn json_refusal(refused: &Refused) -> Response<Body> {
    let body = serde_json::json!({"error": {"code": refused.status.as_u16(), "message": refused.text}});
    answer(refused.status, "application/json", body.to_string())
}

/// A refusal in text.
pub fn text_refusal(refused: &Refused) -> Response<Body> {
    answer(refused.status, "text/plain; charset=utf-8", format!("{}\n", refused.text))
}

#[cfg(test)]
#[path = "http_test.rs"]
mod tests;
