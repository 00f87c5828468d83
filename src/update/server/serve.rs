//! One omahad: opens what can fail, serves, and ends on a signal.

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use proa_etcd_client::tls::TlsError;
use proa_update_model::omaha::DOCUMENT_BYTES_MAX;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};

use crate::{
    api::Api,
    config::Config,
    error::Refused,
    http::{self as wire, Body, answer, text_refusal},
    omaha::Omaha,
    packages::Packages,
    store::Store,
    tls::ServerTls,
};

/// Why omahad cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// There is no place to listen at.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where it was tried.
        address: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The folder of the payloads is not usable.
    #[error("cannot use {}: {source}", path.display())]
    Packages {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The store's address is none.
    #[error(transparent)]
    Store(#[from] proa_etcd_client::Error),
    /// The certificate cannot be used.
    #[error("cannot speak TLS: {0}")]
    Tls(#[from] TlsError),
    /// No signals.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
    /// A task ended, which none does: a mistake of ours.
    #[error("a part of omahad has ended: {0}")]
    Part(String),
}

/// Runs omahad until SIGTERM or SIGINT.
///
/// # Errors
/// [`Failed`].
pub async fn run(config: Config) -> Result<(), Failed> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let store = Store::new(&config)?;
    let folder = config.packages.clone();
    let packages = Packages::open(&folder).map_err(|source| Failed::Packages { path: folder, source })?;
    let tls = match config.identity.clone() {
        Some((certificate, key)) => Some(ServerTls::new(certificate, key)?),
        None => None,
    };
    let public = listen(&config.listen).await?;
    let private = listen(&config.api_listen).await?;
    let how = if tls.is_some() { "https" } else { "http" };
    tracing::info!(
        "serves machines on {how}://{} and omahactl on {how}://{}",
        config.listen,
        config.api_listen
    );
    let omaha = Omaha { store: store.clone(), packages: packages.clone(), config: Arc::new(config) };
    let api = Api { store, packages };

    let mut tasks = JoinSet::new();
    tasks.spawn(wire::serve(public, tls.clone(), move |request, peer| machine(omaha.clone(), request, peer)));
    tasks.spawn(wire::serve(private, tls, move |request, _| api.clone().answer(request, now_unix_s())));
    // Whoever started this may not listen; that changes nothing.
    let _ = proa_base::notify::notify("READY=1");
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        Some(ended) = tasks.join_next() => {
            Err(Failed::Part(ended.err().map_or_else(|| "it returned".to_owned(), |error| error.to_string())))
        }
    }
}

async fn listen(address: &str) -> Result<TcpListener, Failed> {
    let failed = |source| Failed::Listen { address: address.to_owned(), source };
    TcpListener::bind(address).await.map_err(failed)
}

fn now_unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Answers what machines ask.
async fn machine(omaha: Omaha, request: Request<Incoming>, peer: SocketAddr) -> Response<Body> {
    let path = request.uri().path().to_owned();
    match (request.method(), path.as_str()) {
        (&Method::POST, "/v1/update" | "/v1/update/") => {
            let headers = request.headers().clone();
            let document = match wire::read_body(request.into_body(), DOCUMENT_BYTES_MAX).await {
                Ok(document) => document,
                Err(refused) => return text_refusal(&refused),
            };
            match omaha.answer(&document, &headers, peer, now_unix_s()).await {
                Ok(document) => answer(StatusCode::OK, "text/xml; charset=utf-8", document),
                Err(refused) => {
                    tracing::debug!("request of {peer}: {refused}");
                    text_refusal(&refused)
                }
            }
        }
        (&Method::GET | &Method::HEAD, path) if path.starts_with("/packages/") => {
            let name = &path["/packages/".len()..];
            omaha.packages.serve(request.method(), name, request.headers()).await
        }
        (&Method::GET, "/health") => answer(StatusCode::OK, "text/plain", "ok\n"),
        (_, "/v1/update" | "/v1/update/") => {
            let text = "machines ask by POST";
            text_refusal(&Refused::new(StatusCode::METHOD_NOT_ALLOWED, text))
        }
        _ => text_refusal(&Refused::absent("no such path; machines ask /v1/update")),
    }
}
