//! One client that waits: first for what has happened, then for what will.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http::{Response, StatusCode};
use http_body_util::StreamBody;
use hyper::body::Frame;
use proa_etcd_api::v2::{V2Code, V2Error, json};
use proa_etcd_store::v2::{self as store, Past, Watch};
use tonic::body::Body;

use super::hub::{Next, Place};
use super::{V2, reply};
use crate::grpc::Front;

/// Events of the history that are looked at in one turn: some milliseconds.
const LOOKED_AT: usize = 2_000;
/// Events that are kept for one client until it has taken them.
const WANTED: usize = 16;

/// What a client waits for.
pub struct Wanted {
    /// Where.
    pub watch: Watch,
    /// Go on after the first event.
    pub stream: bool,
    /// The first index that counts; 0 is the next.
    pub since: u64,
}

/// Answers at once with the headers, and with events as they come.
pub async fn answer(front: &Arc<Front>, v2: &Arc<V2>, wanted: Wanted) -> Result<Response<Body>, V2Error> {
    let place = v2.hub.join(&wanted.watch).ok_or_else(|| {
        V2Error::of_request(V2Code::RaftInternal, "too many clients wait for changes on this member")
    })?;
    // After joining: what this state does not have will be offered.
    let asked = store::head(&front.node.view().view).map_or(0, |head| head.index);
    let mut waiting = Waiting {
        front: Arc::clone(front),
        place,
        next: if wanted.since == 0 { asked + 1 } else { wanted.since },
        asked,
        is_behind: wanted.since != 0 && wanted.since <= asked,
        ready: VecDeque::new(),
        wanted,
    };
    if waiting.is_behind {
        // Here a refusal is still the status of the answer.
        waiting.catch_up().await?;
    }
    let events = stream::unfold(Some(waiting), |waiting| async move {
        let mut waiting = waiting?;
        let event = waiting.next().await?;
        let goes_on = waiting.wanted.stream;
        Some((Ok::<_, Infallible>(Frame::data(event)), goes_on.then_some(waiting)))
    });
    let mut response = reply::json(StatusCode::OK, Vec::new());
    *response.body_mut() = Body::new(StreamBody::new(events));
    reply::tell_indexes(response.headers_mut(), front, asked);
    Ok(response)
}

struct Waiting {
    front: Arc<Front>,
    place: Place,
    wanted: Wanted,
    /// The first index that was not looked at.
    next: u64,
    /// The index of the tree when the question was asked.
    asked: u64,
    /// The history has to be read before anything that is offered.
    is_behind: bool,
    ready: VecDeque<Bytes>,
}

impl Waiting {
    /// The next event as text; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.is_behind {
                // The history is gone: the answer ends, and who asks again
                // from the last index is told so.
                self.catch_up().await.ok()?;
                continue;
            }
            let next = tokio::select! {
                next = self.place.next() => next,
                () = self.front.ending.begun() => Next::End,
            };
            match next {
                Next::Event(event) => {
                    let index = event.node.as_ref().map_or(0, |node| node.modified_index);
                    if index >= self.next {
                        self.next = index + 1;
                        self.ready.push_back(json::keys_event(&event, false).into());
                    }
                }
                Next::Missed(from) => {
                    self.next = self.next.max(from);
                    self.is_behind = true;
                }
                Next::End => return None,
            }
        }
    }

    /// Reads a piece of the history.
    async fn catch_up(&mut self) -> Result<(), V2Error> {
        let now = self.front.node.view();
        let (watch, next, asked) = (self.wanted.watch.clone(), self.next, self.asked);
        let wanted = if self.wanted.stream { WANTED } else { 1 };
        let read = move || {
            let newest = store::head(&now.view).map_or(0, |head| head.index);
            (store::past(&now.view, &watch, next, asked, LOOKED_AT, wanted), newest)
        };
        let read = tokio::task::spawn_blocking(read).await;
        let (past, newest) =
            read.map_err(|error| V2Error::of_request(V2Code::RaftInternal, error.to_string()))?;
        let Past { events, next } = past?;
        self.ready.extend(events.iter().map(|event| Bytes::from(json::keys_event(event, false))));
        self.next = next;
        self.is_behind = next <= newest;
        Ok(())
    }
}
