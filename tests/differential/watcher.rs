//! One watch stream of one store, and the transcript of what it said.
//!
//! How events are spread over answers is a matter of time; what each watcher
//! hears, in its order, is not.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use proa_etcd_client::api::etcdserverpb::watch_request::RequestUnion;
use proa_etcd_client::api::etcdserverpb::{WatchRequest, WatchResponse};
use proa_etcd_client::api::mvccpb::Event;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Request, Status, Streaming};

use crate::peer::Peer;

/// The id of what is said about the whole stream.
pub const STREAM: i64 = -1;

/// One thing a watcher was told.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    Event(Event),
    Created { revision: i64 },
    Canceled { revision: Option<i64>, compact_revision: i64, reason: String },
    Progress { revision: i64 },
    Ended { code: i32, text: String },
}

/// What each watcher was told since the two stores were last seen to agree.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Transcript {
    pub said: BTreeMap<i64, Vec<Said>>,
}

impl Transcript {
    /// How often something like this was said, and to whom last.
    pub fn count(&self, of: impl Fn(&Said) -> bool) -> usize {
        self.said.values().flatten().filter(|said| of(said)).count()
    }

    pub fn to(&self, watch_id: i64) -> &[Said] {
        self.said.get(&watch_id).map_or(&[], Vec::as_slice)
    }
}

#[derive(Default)]
struct Heard {
    transcript: Mutex<Transcript>,
    more: Notify,
}

/// An open stream; ended when dropped.
pub struct Watcher {
    requests: mpsc::UnboundedSender<WatchRequest>,
    heard: Arc<Heard>,
    reader: tokio::task::JoinHandle<()>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Watcher {
    pub async fn open(peer: &Peer) -> Result<Self, Status> {
        let (requests, outgoing) = mpsc::unbounded_channel();
        let codec = tonic_prost::ProstCodec::<WatchRequest, WatchResponse>::default();
        let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
        let request = Request::new(UnboundedReceiverStream::new(outgoing));
        let mut grpc = peer.grpc().await?;
        let heard = Arc::new(Heard::default());
        let to_reader = Arc::clone(&heard);
        // The real etcd sends the head of its answers with the first of them.
        let reader = tokio::spawn(async move {
            let end = match grpc.streaming(request, path, codec).await {
                Ok(answers) => to_reader.listen(answers.into_inner()).await,
                Err(status) => status,
            };
            to_reader.add(STREAM, Said::Ended { code: end.code() as i32, text: end.message().to_owned() });
        });
        Ok(Self { requests, heard, reader })
    }

    pub fn send(&self, request: RequestUnion) {
        // A stream that has ended says so in its transcript.
        let _ = self.requests.send(WatchRequest { request_union: Some(request) });
    }

    pub fn transcript(&self) -> MutexGuard<'_, Transcript> {
        self.heard.transcript()
    }

    /// Until something more is heard.
    pub async fn more(&self) {
        self.heard.more.notified().await;
    }
}

impl Heard {
    fn transcript(&self) -> MutexGuard<'_, Transcript> {
        self.transcript.lock().expect("nobody panics with the lock held")
    }

    fn add(&self, watch_id: i64, said: Said) {
        self.transcript().said.entry(watch_id).or_default().push(said);
        self.more.notify_one();
    }

    async fn listen(&self, mut answers: Streaming<WatchResponse>) -> Status {
        loop {
            match answers.message().await {
                Ok(Some(answer)) => self.hear(answer),
                Ok(None) => return Status::ok("the stream has ended"),
                Err(status) => return status,
            }
        }
    }

    fn hear(&self, answer: WatchResponse) {
        let WatchResponse {
            header,
            watch_id,
            created,
            canceled,
            compact_revision,
            cancel_reason,
            events,
            ..
        } = answer;
        let revision = header.map_or(0, |header| header.revision);
        let is_progress = !created && !canceled && events.is_empty();
        for event in events {
            self.add(watch_id, Said::Event(event));
        }
        if created {
            self.add(watch_id, Said::Created { revision });
        }
        if canceled {
            // One that fell behind history is told when the store gets to it.
            let revision = (compact_revision == 0).then_some(revision);
            self.add(watch_id, Said::Canceled { revision, compact_revision, reason: cancel_reason });
        }
        if is_progress {
            self.add(watch_id, Said::Progress { revision });
        }
    }
}
