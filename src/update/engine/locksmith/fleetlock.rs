//! FleetLock over HTTP: machines of Fedora CoreOS use our lock.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http::{Request, Response, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use proa_update_model::reboot::fleetlock::{
    Client, MAX_BODY_BYTES, Operation, Refusal, apply, client, operation,
};
use tokio::{net::TcpListener, sync::Semaphore};

use super::{Error, Store};

/// Open connections: a machine asks once in five minutes and closes.
const MAX_CONNECTIONS: usize = 64;
/// A client that has not sent its whole request by then is let go of.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// After a failed accept (no file descriptors left), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Opens the port.
///
/// # Errors
/// What the system says.
pub async fn listen(address: &str) -> Result<TcpListener, Error> {
    let failed = |source| Error::Listen { address: address.to_owned(), source };
    TcpListener::bind(address).await.map_err(failed)
}

/// Answers requests until the task is dropped.
pub async fn serve(listener: TcpListener, store: Arc<Store>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let service = service_fn(|request| answer(request, &store));
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(REQUEST_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = served.await {
                tracing::debug!("FleetLock connection ended: {error}");
            }
            drop(place);
        });
    }
}

async fn answer(request: Request<Incoming>, store: &Store) -> Result<Response<Full<Bytes>>, Infallible> {
    let done = serve_one(request, store).await;
    let (status, body) = match done {
        Ok(()) => (200, String::new()),
        Err(refusal) => (refusal.status, refusal.json()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() =
        http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    Ok(response)
}

async fn serve_one(request: Request<Incoming>, store: &Store) -> Result<(), Refusal> {
    let protocol = request.headers().get("fleet-lock-protocol").and_then(|value| value.to_str().ok());
    let operation = operation(request.method().as_str(), request.uri().path(), protocol)?;
    let reading = Limited::new(request.into_body(), MAX_BODY_BYTES).collect();
    let body = match tokio::time::timeout(REQUEST_TIMEOUT, reading).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) => {
            return Err(Refusal::new(400, "bad_request", format!("the body cannot be read: {error}")));
        }
        Err(_) => return Err(Refusal::new(408, "bad_request", "the body did not arrive")),
    };
    let Client { id, group } = client(&body)?;
    let changed = store.change(&group, |lock| apply(operation, lock, &id)).await;
    let failed = match operation {
        Operation::PreReboot => "failed_lock",
        Operation::SteadyState => "failed_unlock",
    };
    let (before, after) =
        changed.map_err(|error| Refusal::new(503, failed, proa_base::cli::chain(&error)))??;
    if before != after {
        let verb = if operation == Operation::PreReboot { "took" } else { "gave back" };
        tracing::info!("FleetLock: {id} {verb} the reboot lock");
    }
    Ok(())
}
