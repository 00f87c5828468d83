//! A watch that survives its connection.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use crate::call::Caller;
use crate::error::{Error, classify};
use crate::login::is_token_reason;
use crate::pb::WatchClient;
use proa_etcd_api::etcdserverpb::{
    ResponseHeader, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
    watch_request::RequestUnion,
};
use proa_etcd_api::mvccpb::Event;
use prost::bytes::Bytes;

/// Answers kept for a reader that is busy. When it is full the connection is
/// not read, and the member keeps the rest on its disk.
const QUEUE_ITEMS: usize = 64;
/// Between two attempts to reach a member, so that a lost store costs little.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// Questions for progress that wait for the connection; one answer serves them all.
const PROGRESS_QUESTIONS: usize = 1;
/// Tells the member to end the stream when it has lost the majority, instead
/// of staying silent. Source: etcd, `rpctypes.MetadataRequireLeaderKey`.
const HAS_LEADER: &str = "hasleader";

/// What to watch.
#[derive(Clone, Debug, Default)]
pub struct WatchOptions {
    /// First revision to deliver; 0 means what happens after the watch began.
    pub from_revision: i64,
    /// Deliver each key's former state too.
    pub prev_kv: bool,
    /// Have the member say now and then how far the watch has come.
    pub progress_notify: bool,
    /// Leave out puts, deletes or both. Source: `WatchCreateRequest.filters`.
    pub filters: Vec<i32>,
}

/// One delivery of a [`Watch`].
#[derive(Debug)]
pub enum WatchItem {
    /// The member has the watch: everything from this revision on will come.
    /// Said once more after each reconnection.
    Begun {
        /// The store's revision at that moment.
        revision: i64,
    },
    /// Changes in order of revision; all changes of one revision together.
    Events {
        /// Who sent them, and the store's revision then.
        header: ResponseHeader,
        /// At least one.
        events: Vec<Event>,
    },
    /// Nothing up to and including this revision is missing.
    Progress {
        /// Who says so, and the store's revision.
        header: ResponseHeader,
    },
    /// History before `revision` is gone, and some of it was not delivered.
    /// The last item: read the keys anew and watch from there.
    Compacted {
        /// Who says so.
        header: ResponseHeader,
        /// The oldest revision that can still be watched.
        revision: i64,
    },
    /// The store will not serve this watch. The last item.
    Refused(Error),
}

/// A stream of [`WatchItem`]s that reconnects by itself.
///
/// It goes on after the last delivered revision, at another endpoint when one
/// is lost, for as long as it takes. Dropping it ends the watch.
pub struct Watch {
    items: ReceiverStream<WatchItem>,
    progress: mpsc::Sender<()>,
    task: JoinHandle<()>,
}

impl Watch {
    pub(crate) fn start(caller: Arc<Caller>, key: Bytes, range_end: Bytes, options: WatchOptions) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE_ITEMS);
        let position = Position { next: options.from_revision, cluster_id: None };
        let (progress, questions) = mpsc::channel(PROGRESS_QUESTIONS);
        let worker =
            Worker { caller, key, range_end, options, sender, questions, position, may_log_in: true };
        let task = tokio::spawn(worker.run());
        Self { items: ReceiverStream::new(receiver), progress, task }
    }

    /// Asks the member how far this watch has come; a [`WatchItem::Progress`] answers.
    pub fn request_progress(&self) {
        // A full queue holds the same question already; a closed one ends the watch.
        let _ = self.progress.try_send(());
    }
}

impl Stream for Watch {
    type Item = WatchItem;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<WatchItem>> {
        Pin::new(&mut self.items).poll_next(context)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How far a watch has come.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Position {
    /// The next revision to deliver; 0 before the first answer of a watch
    /// that begins at the present.
    next: i64,
    /// The cluster that the revisions belong to.
    cluster_id: Option<u64>,
}

/// What one answer of a member means.
enum Step {
    Deliver(WatchItem),
    Last(WatchItem),
    Reconnect,
    /// The member does not know this client's token, and says so.
    LogIn(String),
}

impl Position {
    /// Takes one answer into account. Pure: all decisions of a watch are here.
    fn advance(&mut self, answer: WatchResponse) -> Step {
        let Some(header) = answer.header else {
            return Step::Last(WatchItem::Refused(Error::Protocol("answer without header".into())));
        };
        // Revisions of another cluster say nothing about this one's history.
        if *self.cluster_id.get_or_insert(header.cluster_id) != header.cluster_id {
            let text = "the endpoint now belongs to another cluster".to_owned();
            let refused = Error::Refused { code: Code::FailedPrecondition, text };
            return Step::Last(WatchItem::Refused(refused));
        }
        if answer.canceled {
            return cancelled(header, answer.compact_revision, &answer.cancel_reason);
        }
        let revision = header.revision;
        if answer.created {
            if self.next == 0 {
                self.next = revision + 1;
            }
            return Step::Deliver(WatchItem::Begun { revision });
        }
        match answer.events.last().and_then(|event| event.kv.as_ref()) {
            Some(last) => {
                self.next = last.mod_revision + 1;
                Step::Deliver(WatchItem::Events { header, events: answer.events })
            }
            None => {
                self.next = self.next.max(revision + 1);
                Step::Deliver(WatchItem::Progress { header })
            }
        }
    }
}

fn cancelled(header: ResponseHeader, compact_revision: i64, reason: &str) -> Step {
    if is_token_reason(reason) {
        return Step::LogIn(reason.to_owned());
    }
    if compact_revision > 0 {
        return Step::Last(WatchItem::Compacted { header, revision: compact_revision });
    }
    if reason.is_empty() || reason.contains("no leader") {
        return Step::Reconnect;
    }
    let text = reason.to_owned();
    Step::Last(WatchItem::Refused(Error::Refused { code: Code::FailedPrecondition, text }))
}

struct Worker {
    caller: Arc<Caller>,
    key: Bytes,
    range_end: Bytes,
    options: WatchOptions,
    sender: mpsc::Sender<WatchItem>,
    questions: mpsc::Receiver<()>,
    position: Position,
    /// Whether a refused token has not just been replaced by a new one.
    may_log_in: bool,
}

/// The reader has gone, or the last item was delivered.
struct Finished;

impl Worker {
    async fn run(mut self) {
        while self.connect_and_follow().await.is_ok() {
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// Serves the watch over one connection, until it breaks.
    async fn connect_and_follow(&mut self) -> Result<(), Finished> {
        let (number, channel) = self.caller.members.current();
        // The request side stays open for the life of the connection.
        let (requests, request_stream) = mpsc::channel(1);
        if requests.send(self.create_request()).await.is_err() {
            return Ok(());
        }
        let signed = self.caller.signed(&channel, ReceiverStream::new(request_stream)).await;
        let mut request = match signed {
            Ok(request) => request,
            Err(Error::Unavailable { .. }) => {
                self.caller.members.leave(number);
                return Ok(());
            }
            Err(error) => {
                self.deliver(WatchItem::Refused(error)).await?;
                return Err(Finished);
            }
        };
        let yes = tonic::metadata::MetadataValue::from_static("true");
        request.metadata_mut().insert(HAS_LEADER, yes);
        let mut client = WatchClient::new(channel).max_decoding_message_size(usize::MAX);
        match self.caller.ask_once(client.watch(request)).await {
            Ok(answers) => self.follow(answers, &requests).await?,
            Err(Error::Unavailable { .. }) => {}
            Err(error) => return self.refused(error).await,
        }
        self.caller.members.leave(number);
        Ok(())
    }

    async fn follow(
        &mut self,
        mut answers: Streaming<WatchResponse>,
        requests: &mpsc::Sender<WatchRequest>,
    ) -> Result<(), Finished> {
        loop {
            let answer = tokio::select! {
                answer = answers.message() => answer,
                Some(()) = self.questions.recv() => {
                    let union = RequestUnion::ProgressRequest(WatchProgressRequest {});
                    // One that finds no room is still being asked.
                    let _ = requests.try_send(WatchRequest { request_union: Some(union) });
                    continue;
                }
            };
            let answer = match answer {
                Ok(Some(answer)) => answer,
                Ok(None) => return Ok(()),
                Err(status) => match classify(status) {
                    Error::Unavailable { .. } => return Ok(()),
                    error => return self.refused(error).await,
                },
            };
            match self.position.advance(answer) {
                Step::Deliver(item) => {
                    self.may_log_in = true;
                    self.deliver(item).await?;
                }
                Step::Last(item) => {
                    self.deliver(item).await?;
                    return Err(Finished);
                }
                Step::Reconnect => return Ok(()),
                Step::LogIn(text) => {
                    return self.refused(Error::Refused { code: Code::Unauthenticated, text }).await;
                }
            }
        }
    }

    /// Tries once more with a new token, if it is for the token that the member
    /// refuses, and the last one was good for something.
    async fn refused(&mut self, error: Error) -> Result<(), Finished> {
        if self.caller.is_token_void(&error) && std::mem::take(&mut self.may_log_in) {
            return Ok(());
        }
        self.deliver(WatchItem::Refused(error)).await?;
        Err(Finished)
    }

    async fn deliver(&self, item: WatchItem) -> Result<(), Finished> {
        self.sender.send(item).await.map_err(|_| Finished)
    }

    fn create_request(&self) -> WatchRequest {
        WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(WatchCreateRequest {
                key: self.key.clone(),
                range_end: self.range_end.clone(),
                start_revision: self.position.next,
                progress_notify: self.options.progress_notify,
                filters: self.options.filters.clone(),
                prev_kv: self.options.prev_kv,
                ..WatchCreateRequest::default()
            })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proa_etcd_api::etcdserverpb::ResponseHeader;
    use proa_etcd_api::mvccpb::KeyValue;

    fn answer(revision: i64) -> WatchResponse {
        let header = ResponseHeader { cluster_id: 7, revision, ..ResponseHeader::default() };
        WatchResponse { header: Some(header), ..WatchResponse::default() }
    }

    fn event(mod_revision: i64) -> Event {
        let kv = KeyValue { mod_revision, ..KeyValue::default() };
        Event { kv: Some(kv), ..Event::default() }
    }

    #[test]
    fn position_follows_what_was_delivered() {
        let created = |revision| WatchResponse { created: true, ..answer(revision) };
        let events = |revision, of: &[i64]| WatchResponse {
            events: of.iter().copied().map(event).collect(),
            ..answer(revision)
        };
        #[rustfmt::skip]
        let rows = [
            ("a watch of the present begins after it",    0, created(9),         10),
            ("a watch of the past keeps its place",       4, created(9),          4),
            ("a watch of the future keeps its place",    20, created(9),         20),
            ("after events comes the next revision",      4, events(9, &[5, 7]),  8),
            ("progress closes the gap",                   8, events(9, &[]),     10),
            ("late progress takes nothing back",         12, events(9, &[]),     12),
        ];
        for (name, next, answer, want) in rows {
            let mut position = Position { next, cluster_id: Some(7) };
            let step = position.advance(answer);
            assert!(matches!(step, Step::Deliver(_)), "{name}");
            assert_eq!(position.next, want, "{name}");
        }
    }

    #[test]
    fn lost_history_and_another_cluster_end_the_watch_aloud() {
        let mut position = Position { next: 3, cluster_id: Some(7) };
        let compacted = WatchResponse { canceled: true, compact_revision: 6, ..answer(9) };
        let step = position.advance(compacted);
        assert!(matches!(step, Step::Last(WatchItem::Compacted { revision: 6, .. })));
        let mut stranger = answer(9);
        stranger.header = Some(ResponseHeader { cluster_id: 8, ..ResponseHeader::default() });
        let step = position.advance(stranger);
        assert!(matches!(step, Step::Last(WatchItem::Refused(Error::Refused { .. }))));
    }
}
