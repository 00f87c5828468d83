//! How a gRPC channel reaches a member with TLS or by a unix socket.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use proa_etcd_api::url::Address;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;

use crate::socket::Socket;
use crate::tls::{ClientTls, Stream};

/// Dials a member and, with TLS, shakes hands with it.
#[derive(Clone)]
pub(crate) struct Dialer {
    pub(crate) address: Address,
    pub(crate) tls: Option<ClientTls>,
}

impl Service<Uri> for Dialer {
    type Response = TokioIo<Stream<Socket>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { address, tls } = self.clone();
        Box::pin(async move {
            let socket = Socket::connect(&address).await?;
            let stream = match tls {
                None => Stream::Plain(socket),
                Some(tls) => tls.connect(&address.authority(), socket).await?,
            };
            Ok(TokioIo::new(stream))
        })
    }
}
