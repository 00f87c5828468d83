//! Two stores that are given the same operations, one after the other.

use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use proa_etcd_client::api::etcdserverpb::watch_request::RequestUnion;
use proa_etcd_client::api::etcdserverpb::{
    PutRequest, WatchCancelRequest, WatchCreateRequest, WatchProgressRequest,
};

use crate::answer::{Answer, ask};
use crate::etcd::PATIENCE;
use crate::op::{Known, Op, render};
use crate::peer::{Peer, Whose};
use crate::tally::Tally;
use crate::v2::{V2Answer, Waiting};
use crate::watcher::{STREAM, Said, Watcher};

/// After so many operations all that watchers have heard is compared.
const OPS_BETWEEN_LOOKS: usize = 500;
/// Reads that are under way at once: their answers do not depend on each other.
pub const READS_AT_ONCE: usize = 16;
/// Waits that are under way at once; the oldest are given up.
const MOST_WAITS: usize = 30;
/// A key that no drawn operation names, though ranges hold it.
const SENTINEL: &[u8] = b"zz-sentinel";
/// Ids of watchers for the sentinel: far from those that are drawn.
const SENTINEL_WATCH: i64 = 1 << 40;

/// Where the two stores differ for the first time.
#[derive(Clone, Debug)]
pub struct Difference {
    /// How many operations were sent before.
    pub at: usize,
    pub op: String,
    pub oracle: String,
    pub ours: String,
}

pub struct Pair {
    oracle: Peer,
    ours: Peer,
    streams: [Watcher; 2],
    known: Known,
    /// Every revision to which history was compacted.
    compactions: BTreeSet<i64>,
    /// Whether a watcher that starts in the past may still be behind.
    behind: bool,
    /// Whether the sentinel is watched on the streams that are open.
    has_sentinel: bool,
    next_sentinel: i64,
    /// Waits of the v2 API that are under way, with their requests.
    waits: VecDeque<(String, [Waiting; 2])>,
    sent: usize,
    pub tally: Tally,
    _folder: tempfile::TempDir,
}

impl Pair {
    pub async fn start(oracle: &Path, below: &Path) -> Self {
        let folder = tempfile::tempdir_in(below).unwrap();
        let (oracle, ours) = tokio::join!(
            Peer::start(Whose::Oracle, oracle, folder.path()),
            Peer::start(Whose::Ours, oracle, folder.path())
        );
        let streams = [Watcher::open(&oracle).await.unwrap(), Watcher::open(&ours).await.unwrap()];
        Self {
            oracle,
            ours,
            streams,
            known: Known { revision: 1, ..Known::default() },
            compactions: BTreeSet::new(),
            behind: false,
            has_sentinel: false,
            next_sentinel: SENTINEL_WATCH,
            waits: VecDeque::new(),
            sent: 0,
            tally: Tally::default(),
            _folder: folder,
        }
    }

    /// What the two processes said last.
    pub fn stderr(&self) -> String {
        format!("etcd:\n{}\nProa:\n{}", self.oracle.stderr(), self.ours.stderr())
    }

    /// Sends the operations; the first difference ends it.
    pub async fn run(&mut self, ops: &[Op]) -> Result<(), Box<Difference>> {
        let mut left = ops;
        while !left.is_empty() {
            let reads = left.iter().take(READS_AT_ONCE).take_while(|op| op.only_reads()).count();
            let (now, later) = left.split_at(reads.max(1));
            left = later;
            let looked_at = self.sent / OPS_BETWEEN_LOOKS;
            match &now[0] {
                Op::Watch(_) | Op::CancelWatch(_) | Op::WatchProgress | Op::NewWatchStream => {
                    self.watch(&now[0]).await?;
                }
                Op::V2(request) if request.waits => self.begin_wait(&now[0]).await?,
                _ => self.ask(now).await?,
            }
            self.sent += now.len();
            if self.sent / OPS_BETWEEN_LOOKS != looked_at {
                self.compare_watchers("what watchers heard").await?;
            }
        }
        Ok(())
    }

    /// At the end of a run: everything that is still on its way.
    pub async fn finish(&mut self) -> Result<(), Box<Difference>> {
        self.catch_up().await?;
        self.compare_watchers("what watchers heard until the end").await
    }

    /// Asks both the same, at the same time.
    async fn ask(&mut self, ops: &[Op]) -> Result<(), Box<Difference>> {
        if matches!(ops[0], Op::Compact(_)) {
            // Who is behind would hear of its end, or not, as time will have it.
            self.catch_up().await?;
        }
        let ops: Vec<Op> = ops.iter().map(|op| op.settled(self.known)).collect();
        let (oracle, ours) = tokio::join!(
            join_all(ops.iter().map(|op| ask(&self.oracle, op))),
            join_all(ops.iter().map(|op| ask(&self.ours, op)))
        );
        for ((op, oracle), ours) in ops.iter().zip(oracle).zip(ours) {
            self.tally.count(op, &oracle);
            if oracle != ours && !crate::explained::is_explained(op, &oracle, &ours) {
                return Err(self.difference(render(op), render(&oracle), render(&ours)));
            }
            self.known.revision = oracle.revision().unwrap_or(self.known.revision).max(self.known.revision);
            if let Answer::V2(V2Answer { index: Some(index), .. }) = &oracle {
                self.known.v2_index = self.known.v2_index.max(*index);
            }
            if let (Op::Compact(request), Answer::Compact(_)) = (op, &oracle) {
                self.known.compacted = request.revision;
                self.compactions.insert(request.revision);
            }
        }
        Ok(())
    }

    /// Begins a v2 wait in both; what it ends with is compared later.
    async fn begin_wait(&mut self, op: &Op) -> Result<(), Box<Difference>> {
        self.tally.watch(op);
        let name = render(op);
        let Op::V2(request) = op.settled(self.known) else { return Ok(()) };
        let (oracle, ours) = (&self.oracle, &self.ours);
        let begun = tokio::join!(
            Waiting::begin(&oracle.http, &oracle.url, &request),
            Waiting::begin(&ours.http, &ours.url, &request)
        );
        match begun {
            (Ok(oracle), Ok(ours)) => self.waits.push_back((name, [oracle, ours])),
            (oracle, ours) => {
                return Err(self.difference(name, render(&oracle.err()), render(&ours.err())));
            }
        }
        if self.waits.len() > MOST_WAITS {
            self.waits.pop_front();
        }
        Ok(())
    }

    /// A wait that has ended in one store must end in the other, alike.
    async fn compare_waits(&mut self) -> Result<(), Box<Difference>> {
        let (ended, open) = self
            .waits
            .drain(..)
            .partition(|(_, both): &(_, [Waiting; 2])| both.iter().any(Waiting::has_ended));
        self.waits = open;
        let ended: VecDeque<(String, [Waiting; 2])> = ended;
        for (name, [mut oracle, mut ours]) in ended {
            let (oracle, ours) = tokio::join!(oracle.end(), ours.end());
            if oracle != ours {
                return Err(self.difference(name, format!("{oracle:?}"), format!("{ours:?}")));
            }
        }
        Ok(())
    }

    fn difference(&self, op: String, oracle: String, ours: String) -> Box<Difference> {
        Box::new(Difference { at: self.sent, op, oracle, ours })
    }

    async fn watch(&mut self, op: &Op) -> Result<(), Box<Difference>> {
        self.tally.watch(op);
        let name = render(op);
        match op.settled(self.known) {
            Op::Watch(create) => {
                self.behind |= create.start_revision != 0;
                let created = |said: &Said| matches!(said, Said::Created { .. });
                self.say(&name, RequestUnion::CreateRequest(create), created).await
            }
            Op::CancelWatch(watch_id) => {
                self.catch_up().await?;
                self.compare_watchers(&name).await?;
                self.send(RequestUnion::CancelRequest(WatchCancelRequest { watch_id }));
                // One that is not known gets no answer: the next one is waited for.
                self.progress(&name).await
            }
            Op::WatchProgress => {
                self.catch_up().await?;
                self.progress(&name).await
            }
            _ => {
                self.catch_up().await?;
                self.compare_watchers(&name).await?;
                self.streams = [self.open(&self.oracle).await?, self.open(&self.ours).await?];
                (self.behind, self.has_sentinel) = (false, false);
                Ok(())
            }
        }
    }

    async fn open(&self, peer: &Peer) -> Result<Watcher, Box<Difference>> {
        let whose = peer.whose;
        Watcher::open(peer).await.map_err(|status| {
            self.difference("a watch stream".into(), format!("{whose:?}"), status.to_string())
        })
    }

    fn send(&self, request: RequestUnion) {
        self.streams.iter().for_each(|stream| stream.send(request.clone()));
    }

    /// Sends a request on both streams and waits for what answers it.
    async fn say(
        &self,
        op: &str,
        request: RequestUnion,
        answers: impl Fn(&Said) -> bool,
    ) -> Result<(), Box<Difference>> {
        let before = self.streams.each_ref().map(|stream| stream.transcript().count(&answers));
        self.send(request);
        for (stream, before) in self.streams.iter().zip(before) {
            self.wait(op, stream, |transcript| transcript.count(&answers) > before).await?;
        }
        Ok(())
    }

    async fn progress(&self, op: &str) -> Result<(), Box<Difference>> {
        let request = RequestUnion::ProgressRequest(WatchProgressRequest {});
        self.say(op, request, |said| matches!(said, Said::Progress { .. })).await
    }

    /// Waits until a stream has said something.
    async fn wait(
        &self,
        op: &str,
        stream: &Watcher,
        has: impl Fn(&crate::watcher::Transcript) -> bool,
    ) -> Result<(), Box<Difference>> {
        let until = tokio::time::Instant::now() + PATIENCE;
        while !has(&stream.transcript()) {
            if tokio::time::timeout_at(until, stream.more()).await.is_err() {
                let [oracle, ours] = self.streams.each_ref().map(|one| format!("{:?}", one.transcript()));
                return Err(self.difference(format!("{op}: no answer on a watch stream"), oracle, ours));
            }
        }
        Ok(())
    }

    /// Writes the sentinel and waits until the watchers have heard of all that
    /// was before: events of one stream come in the order of revisions, and
    /// watchers that start in the past are served in turn.
    async fn catch_up(&mut self) -> Result<(), Box<Difference>> {
        let op = "waiting for the sentinel";
        if !self.has_sentinel {
            self.watch_sentinel(op, SENTINEL_WATCH, 0).await?;
            self.has_sentinel = true;
        }
        let put = Op::Put(PutRequest { key: SENTINEL.into(), ..PutRequest::default() });
        let before = self.known.revision;
        Box::pin(self.ask(&[put])).await?;
        let revision = self.known.revision;
        if revision == before {
            // There is an alarm; a stream that was cut down may end with it.
            return Ok(());
        }
        let heard_it = |said: &Said| matches!(said, Said::Event(event) if event.kv.as_ref().is_some_and(|kv| kv.key == SENTINEL && kv.mod_revision == revision));
        for stream in &self.streams {
            self.wait(op, stream, |transcript| transcript.to(SENTINEL_WATCH).iter().any(heard_it)).await?;
        }
        if self.behind {
            self.next_sentinel += 1;
            let watch_id = self.next_sentinel;
            self.watch_sentinel(op, watch_id, revision).await?;
            for stream in &self.streams {
                self.wait(op, stream, |transcript| transcript.to(watch_id).iter().any(heard_it)).await?;
            }
            // Ours says how far it is only when no watcher is behind.
            self.progress(op).await?;
            self.send(RequestUnion::CancelRequest(WatchCancelRequest { watch_id }));
            self.progress(op).await?;
            self.behind = false;
        }
        Ok(())
    }

    async fn watch_sentinel(&self, op: &str, watch_id: i64, from: i64) -> Result<(), Box<Difference>> {
        let create = WatchCreateRequest {
            key: SENTINEL.into(),
            watch_id,
            start_revision: from,
            ..WatchCreateRequest::default()
        };
        let created = |said: &Said| matches!(said, Said::Created { .. });
        self.say(op, RequestUnion::CreateRequest(create), created).await
    }

    /// Both transcripts must come to the same; then they are forgotten.
    async fn compare_watchers(&mut self, op: &str) -> Result<(), Box<Difference>> {
        self.compare_waits().await?;
        let [oracle, ours] = &self.streams;
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            let unequal = {
                let (mut oracle, mut ours) = (oracle.transcript(), ours.transcript());
                let unequal = crate::explained::first_unequal(&oracle, &ours, &self.compactions);
                if unequal.is_none() {
                    oracle.said.clear();
                    ours.said.clear();
                    return Ok(());
                }
                unequal
            };
            // What is only late on one side still comes; what is wrong stays.
            let (watch_id, oracle_said, ours_said, final_) = unequal.expect("looked at above");
            let late = tokio::time::timeout_at(until, async {
                tokio::select! {
                    () = oracle.more() => {}
                    () = ours.more() => {}
                    () = tokio::time::sleep(Duration::from_millis(50)) => {}
                }
            });
            if final_ || late.await.is_err() {
                let op = format!(
                    "{op}: watcher {watch_id}{}",
                    if watch_id == STREAM { " (the stream)" } else { "" }
                );
                return Err(self.difference(op, oracle_said, ours_said));
            }
        }
    }
}
