//! Bodies of gRPC requests and answers, and of JSON streams.
//!
//! A gRPC message is preceded by a byte that says whether it is compressed (it
//! is not) and its length in four. Source: gRPC over HTTP2, "Length-Prefixed-Message".

use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::{Stream, stream};
use http::{HeaderMap, Response};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use proa_etcd_api::descriptor::Message;
use proa_etcd_api::json::{self, BadJson, Objects};
use tokio::sync::OwnedSemaphorePermit;
use tonic::body::Body;
use tonic::{Code, Status};

use super::error;

const PREFIX_BYTES: usize = 5;

/// A message as gRPC sends it.
pub(super) fn frame(message: &[u8]) -> Bytes {
    // Requests are limited far below 4 GiB.
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0], &length.to_be_bytes()[..], message].concat().into()
}

/// Why the requests of a stream cannot be read any further, for those who answer.
#[derive(Clone, Default)]
pub(super) struct Failure(Arc<Mutex<Option<Status>>>);

impl Failure {
    pub(super) fn take(&self) -> Option<Status> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Undoes [`Failure::take`]: it is not this one's turn yet.
    pub(super) fn put_back(&self, taken: Option<Status>) {
        if let Some(status) = taken {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
        }
    }
}

/// What is left of a stream of requests.
struct Requests {
    message: &'static Message,
    incoming: Incoming,
    objects: Objects,
    failure: Failure,
}

/// A stream of JSON objects as a stream of messages of gRPC.
pub(super) fn requests(
    message: &'static Message,
    incoming: Incoming,
    limit: usize,
    failure: Failure,
) -> Body {
    let requests = Requests { message, incoming, objects: Objects::new(limit), failure };
    let frames = stream::unfold(Some(requests), |requests| async move {
        let mut requests = requests?;
        match requests.next().await {
            Ok(Some(message)) => Some((Ok(Frame::data(frame(&message))), Some(requests))),
            Ok(None) => None,
            Err(status) => {
                requests.failure.put_back(Some(status.clone()));
                Some((Err(status), None))
            }
        }
    });
    Body::new(StreamBody::new(frames))
}

impl Requests {
    /// The next message; `None` when the client has no more to say.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, Status> {
        let refuse = |error: BadJson| super::refuse(&error);
        loop {
            if let Some(object) = self.objects.take().map_err(refuse)? {
                let value = json::parse(&object).map_err(refuse)?;
                return json::to_wire(self.message, &value).map(Some).map_err(refuse);
            }
            match self.incoming.frame().await {
                Some(Ok(frame)) => {
                    if let Some(piece) = frame.data_ref() {
                        self.objects.push(piece);
                    }
                }
                // The client has gone: nobody reads why this ends.
                Some(Err(error)) => return Err(Status::cancelled(error.to_string())),
                None if self.objects.is_cut() => {
                    return Err(Status::invalid_argument("the request ends in the middle of an object"));
                }
                None => return Ok(None),
            }
        }
    }
}

/// The messages of a gRPC answer.
pub(super) struct Messages {
    headers: HeaderMap,
    body: Body,
    held: BytesMut,
    /// Counts as a call under way until all of it was read.
    _place: OwnedSemaphorePermit,
}

/// What comes next in an answer.
pub(super) enum Step {
    /// A message.
    Message(Bytes),
    /// The end, and all went well.
    End,
}

impl Messages {
    pub(super) fn new(response: Response<Body>, place: OwnedSemaphorePermit) -> Self {
        let (parts, body) = response.into_parts();
        Self { headers: parts.headers, body, held: BytesMut::new(), _place: place }
    }

    /// The next message, or the status that the answer ends with.
    pub(super) async fn next(&mut self) -> Result<Step, Status> {
        // A refusal at once comes without a body.
        check(&self.headers)?;
        loop {
            if let Some(message) = self.split() {
                return Ok(Step::Message(message));
            }
            match self.body.frame().await {
                None => return Ok(Step::End),
                Some(Err(status)) => return Err(status),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(piece) => self.held.extend_from_slice(&piece),
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            check(&trailers)?;
                        }
                    }
                },
            }
        }
    }

    fn split(&mut self) -> Option<Bytes> {
        let (_, length) = self.held.split_first_chunk::<PREFIX_BYTES>().map(|(prefix, _)| {
            let [flag, a, b, c, d] = *prefix;
            (flag, u32::from_be_bytes([a, b, c, d]) as usize)
        })?;
        if self.held.len() < PREFIX_BYTES + length {
            return None;
        }
        self.held.advance(PREFIX_BYTES);
        Some(self.held.split_to(length).freeze())
    }
}

fn check(headers: &HeaderMap) -> Result<(), Status> {
    match Status::from_header_map(headers) {
        Some(status) if status.code() != Code::Ok => Err(status),
        Some(_) | None => Ok(()),
    }
}

/// What is left of a stream of answers.
struct Answers {
    message: &'static Message,
    messages: Messages,
    first: Option<Step>,
    failure: Failure,
}

/// The messages of a gRPC answer as lines of JSON.
pub(super) fn answers(
    message: &'static Message,
    messages: Messages,
    first: Step,
    failure: Failure,
) -> StreamBody<impl Stream<Item = Result<Frame<Bytes>, Status>> + Send> {
    let answers = Answers { message, messages, first: Some(first), failure };
    StreamBody::new(stream::unfold(Some(answers), |answers| async move {
        let mut answers = answers?;
        match answers.next_line().await {
            Ok(Some(line)) => Some((Ok(Frame::data(line.into())), Some(answers))),
            Ok(None) => None,
            Err(status) => Some((Ok(Frame::data(error::in_stream(&status).into())), None)),
        }
    }))
}

impl Answers {
    async fn next_line(&mut self) -> Result<Option<String>, Status> {
        let step = match self.first.take() {
            Some(step) => Ok(step),
            None => self.messages.next().await,
        };
        // The service only saw that there is no more to read; here is why.
        match (step, self.failure.take()) {
            (Ok(Step::Message(message)), later) => {
                self.failure.put_back(later);
                let text = json::to_json(self.message, &message)
                    .map_err(|error| Status::internal(error.to_string()))?;
                Ok(Some(format!("{{\"result\":{text}}}\n")))
            }
            (_, Some(failure)) => Err(failure),
            (Ok(Step::End), None) => Ok(None),
            (Err(status), None) => Err(status),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_cut_apart_however_they_arrive() {
        let wire = [frame(b"one"), frame(b""), frame(b"three")].concat();
        for size in 1..=wire.len() {
            let place = Arc::new(tokio::sync::Semaphore::new(1)).try_acquire_owned().expect("a place");
            let mut messages = Messages::new(Response::new(Body::empty()), place);
            let mut got = Vec::new();
            for piece in wire.chunks(size) {
                messages.held.extend_from_slice(piece);
                while let Some(message) = messages.split() {
                    got.push(message);
                }
            }
            assert_eq!(got, ["one".as_bytes(), b"", b"three"], "in pieces of {size}");
        }
    }
}
