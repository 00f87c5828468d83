//! How a gRPC channel reaches a member with TLS.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;

use crate::tls::{ClientTls, Stream};

/// Dials a member and shakes hands with it.
#[derive(Clone)]
pub(crate) struct Dialer {
    pub(crate) tls: ClientTls,
}

impl Service<Uri> for Dialer {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let tls = self.tls.clone();
        Box::pin(async move {
            // An endpoint has a host and a port, or it was refused before.
            let authority = uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
            let stream = TcpStream::connect(authority).await?;
            stream.set_nodelay(true)?;
            tls.connect(authority, stream).await.map(TokioIo::new)
        })
    }
}
