//! Watch streams: many watchers over one connection.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, stream};
use proa_etcd_api::EtcdError;
use proa_etcd_api::etcdserverpb::watch_request::RequestUnion;
use proa_etcd_api::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use super::pb::watch_server::Watch;
use super::rights::{Rights, reason_of};
use super::{Front, OVERHEAD_BYTES, while_led};
use crate::auth::Credentials;
use crate::metrics::METRICS;
use crate::node::Node;
use crate::watch::answer::Answer;
use crate::watch::groups::Interest;
use crate::watch::hub::{Delivery, Hub, Outlet, WatcherId};

/// Answers on their way to one client. A client that does not read holds this
/// many; what comes after them it is given from the disk later.
const QUEUE_ANSWERS: usize = 128;
/// How often a wanted progress report is tried while a watcher is behind.
const PROGRESS_RETRY: Duration = Duration::from_millis(20);
/// The id of answers that are about the whole stream.
/// Source: etcd's `clientv3.InvalidWatchID`.
const NO_WATCH_ID: i64 = -1;
/// Source: etcd's `mvcc.ErrEmptyWatcherRange`.
const EMPTY_RANGE: &str = "mvcc: watcher range is empty";
/// Watchers of one stream: a bound against a client gone wild.
const MAX_WATCHERS: usize = 100_000;

#[tonic::async_trait]
impl Watch for Front {
    type WatchStream = BoxStream<Answer>;

    async fn watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let needs_leader = super::needs_leader(request.metadata().as_ref());
        let (queue, deliveries) = mpsc::channel(QUEUE_ANSWERS);
        let rights = Arc::new(Rights::new(&self.node, &self.auth, &self.hub, Credentials::of(&request)));
        let stream = WatchStream {
            node: self.node.clone(),
            rights: Arc::clone(&rights),
            hub: Arc::clone(&self.hub),
            queue,
            fragment_bytes: self.limits.request_bytes + OVERHEAD_BYTES,
            watchers: BTreeMap::new(),
            next_id: 0,
            progress_every: self.limits.progress_every,
            owes_report: false,
        };
        METRICS.watch_streams.fetch_add(1, Relaxed);
        let reader = tokio::spawn(stream.run(request.into_inner()));
        let allowed = ReceiverStream::new(deliveries).filter_map(move |delivery| {
            let rights = Arc::clone(&rights);
            async move { rights.pass(delivery).await }
        });
        let answers = allowed.flat_map(|Delivery { answer, fragment_bytes, .. }| {
            let pieces = match fragment_bytes {
                Some(limit) => answer.fragments(limit),
                None => vec![answer],
            };
            stream::iter(pieces.into_iter().map(Ok))
        });
        let patience = Duration::from_millis(self.limits.election_ms);
        let answers: BoxStream<Answer> =
            if needs_leader { while_led(answers, self.node.clone(), patience) } else { Box::pin(answers) };
        Ok(Response::new(Box::pin(Guarded { answers, reader })))
    }
}

/// The answers of a stream; dropping them, because the client has gone, ends
/// the task that reads its requests, and with it the watchers.
struct Guarded {
    answers: BoxStream<Answer>,
    reader: tokio::task::JoinHandle<()>,
}

impl Stream for Guarded {
    type Item = Result<Answer, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.answers.as_mut().poll_next(context)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        METRICS.watch_streams.fetch_sub(1, Relaxed);
        self.reader.abort();
    }
}

struct Own {
    id: WatcherId,
    progress_notify: bool,
}

/// The requests of one stream and its watchers.
struct WatchStream {
    node: Node,
    rights: Arc<Rights>,
    hub: Arc<Hub>,
    queue: mpsc::Sender<Delivery>,
    fragment_bytes: usize,
    watchers: BTreeMap<i64, Own>,
    next_id: i64,
    /// How often a quiet watcher that wants to know is told how far it has come.
    progress_every: Duration,
    /// A progress report was asked for while a watcher was behind. However often
    /// it was asked for, one report answers: they would all say the same.
    owes_report: bool,
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        self.watchers.values().for_each(|own| self.hub.remove(own.id));
    }
}

impl WatchStream {
    async fn run(mut self, mut requests: Streaming<WatchRequest>) {
        let mut rights = self.node.auth();
        let mut progress = tokio::time::interval(self.progress_every);
        // The first tick of an interval comes at once.
        progress.tick().await;
        let mut retry = tokio::time::interval(PROGRESS_RETRY);
        retry.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut open = true;
        loop {
            tokio::select! {
                request = requests.message(), if open => match request {
                    Ok(Some(request)) => self.answer(request.request_union).await,
                    // No more requests; its watchers go on until the client
                    // drops the answers, which aborts this task.
                    Ok(None) => open = false,
                    Err(_) => return,
                },
                Ok(()) = rights.changed() => self.check_rights().await,
                _ = progress.tick() => self.report_quiet_watchers(),
                _ = retry.tick(), if self.owes_report => self.report_progress(),
                () = self.queue.closed() => return,
            }
        }
    }

    async fn answer(&mut self, request: Option<RequestUnion>) {
        match request {
            Some(RequestUnion::CreateRequest(request)) => self.create(request).await,
            Some(RequestUnion::CancelRequest(request)) => self.cancel(request.watch_id).await,
            Some(RequestUnion::ProgressRequest(_)) => self.report_progress(),
            None => {}
        }
    }

    async fn create(&mut self, request: WatchCreateRequest) {
        let granted = match self.rights.admit(request.clone()).await {
            Ok(granted) => granted,
            Err(error) => return self.refuse(&reason_of(error)).await,
        };
        let Ok(interest) = Interest::new(&request) else {
            return self.refuse(EMPTY_RANGE).await;
        };
        let watch_id = match self.choose_id(request.watch_id) {
            Ok(watch_id) => watch_id,
            Err(error) => return self.refuse(&error.to_string()).await,
        };
        let fragment_bytes = request.fragment.then_some(self.fragment_bytes);
        let outlet = Outlet { queue: self.queue.clone(), watch_id, fragment_bytes };
        let id = self.hub.add(interest, request.start_revision, outlet);
        self.rights.remember(id, watch_id, granted);
        self.watchers.insert(watch_id, Own { id, progress_notify: request.progress_notify });
        // First "created", then the first event.
        self.say(WatchResponse { watch_id, created: true, ..WatchResponse::default() }).await;
        self.hub.release(id);
    }

    /// Users or permissions have changed: ends the watches that their owners
    /// may not have any more.
    async fn check_rights(&mut self) {
        let all: Vec<(i64, WatcherId)> =
            self.watchers.iter().map(|(watch_id, own)| (*watch_id, own.id)).collect();
        for (watch_id, id) in all {
            let end = self.rights.check(id).await;
            // Its end may have been said in the place of an event.
            if !self.rights.is_remembered(id) {
                self.watchers.remove(&watch_id);
            }
            if let Some(end) = end {
                self.say(end).await;
            }
        }
    }

    /// Source: etcd's `watchStream.Watch`: 0 asks for the next free number.
    fn choose_id(&mut self, wanted: i64) -> Result<i64, EtcdError> {
        if self.watchers.len() >= MAX_WATCHERS {
            return Err(EtcdError::TooManyRequests);
        }
        if wanted != 0 {
            let taken = self.watchers.contains_key(&wanted);
            return if taken { Err(EtcdError::WatchIdExists) } else { Ok(wanted) };
        }
        while self.watchers.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        Ok(self.next_id - 1)
    }

    async fn refuse(&self, reason: &str) {
        self.say(WatchResponse {
            watch_id: NO_WATCH_ID,
            created: true,
            canceled: true,
            cancel_reason: reason.to_owned(),
            ..WatchResponse::default()
        })
        .await;
    }

    async fn cancel(&mut self, watch_id: i64) {
        if let Some(own) = self.watchers.remove(&watch_id) {
            self.hub.remove(own.id);
            self.rights.forget(own.id);
            self.say(WatchResponse { watch_id, canceled: true, ..WatchResponse::default() }).await;
        }
    }

    /// Answers at once or, when a watcher is behind, as soon as none is.
    fn report_progress(&mut self) {
        let ids: Vec<WatcherId> = self.watchers.values().map(|own| own.id).collect();
        self.owes_report = !self.hub.report_progress(&ids, &self.outlet(NO_WATCH_ID));
    }

    fn report_quiet_watchers(&self) {
        for (watch_id, own) in self.watchers.iter().filter(|(_, own)| own.progress_notify) {
            // One that is behind is about to hear more than this.
            self.hub.report_progress(&[own.id], &self.outlet(*watch_id));
        }
    }

    fn outlet(&self, watch_id: i64) -> Outlet {
        Outlet { queue: self.queue.clone(), watch_id, fragment_bytes: None }
    }

    async fn say(&self, answer: WatchResponse) {
        let header = Some(self.hub.header(self.hub.revision()));
        let answer = Answer::new(WatchResponse { header, ..answer });
        // A client that has gone is noticed by the reader.
        let _ = self.queue.send(Delivery { answer, fragment_bytes: None, watcher: None }).await;
    }
}
