//! The end of a member, as those hear of it who serve its clients.
//!
//! What was taken in is answered. Clients are told to ask elsewhere from now on
//! (GOAWAY of HTTP/2, the end of keep-alive), and what would go on for ever ends
//! with a status by which they go on at another member.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::Frame;
use proa_etcd_api::EtcdError;
use tokio::sync::watch;
use tonic::Status;
use tonic::body::Body;

use crate::grpc::refuse;

/// Whether the member ends; clones hear of the same end.
#[derive(Clone, Debug)]
pub struct Ending(watch::Receiver<bool>);

/// Begins the end when it is told to, or dropped.
#[derive(Debug)]
pub struct End(watch::Sender<bool>);

impl End {
    /// The member ends from now on.
    pub fn begin(&self) {
        self.0.send_replace(true);
    }
}

impl Ending {
    /// The end of one member.
    pub fn new() -> (End, Self) {
        let (sender, receiver) = watch::channel(false);
        (End(sender), Self(receiver))
    }

    /// Waits for the end to begin.
    pub fn begun(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut ends = self.0.clone();
        async move {
            // Without anybody left who could tell it has ended too.
            let _ = ends.wait_for(|ends| *ends).await;
        }
    }

    /// The answers of a stream until then; `UNAVAILABLE` after them.
    ///
    /// Source: etcd's clients, which open a watch or a stream of renewals anew at
    /// another member after this code, and give it up after most others.
    pub fn cut(&self, answers: Body) -> Body {
        Body::new(Cut { answers: Some(answers), end: Box::pin(self.begun()) })
    }
}

/// What ends with the member is answered with when it ends before.
pub fn stopped() -> Status {
    refuse(EtcdError::Stopped)
}

struct Cut {
    /// Nothing after the end.
    answers: Option<Body>,
    end: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl hyper::body::Body for Cut {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let Some(answers) = &mut this.answers else { return Poll::Ready(None) };
        if this.end.as_mut().poll(context).is_pending() {
            return Pin::new(answers).poll_frame(context);
        }
        this.answers = None;
        let mut trailers = HeaderMap::new();
        let told = stopped().add_header(&mut trailers);
        Poll::Ready(Some(told.map(|()| Frame::trailers(trailers))))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;
    use http_body_util::{BodyExt as _, StreamBody};

    #[tokio::test]
    async fn a_stream_ends_with_a_status_when_its_member_does() {
        let (end, ending) = Ending::new();
        let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, Status>>(4);
        let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let mut body = ending.cut(Body::new(StreamBody::new(stream)));
        sender.send(Ok(Frame::data(Bytes::from_static(b"one")))).await.unwrap();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "one");
        end.begin();
        let trailers = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
        assert_eq!(trailers.get("grpc-status").unwrap(), "14");
        assert_eq!(trailers.get("grpc-message").unwrap(), "etcdserver:%20server%20stopped");
        assert!(body.frame().await.is_none());
        assert!(sender.is_closed());
    }
}
