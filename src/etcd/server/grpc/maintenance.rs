//! Looking after one member.

use std::time::{Duration, Instant};

use proa_etcd_api::command::command::Op;
use proa_etcd_api::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmResponse, AlarmType, DefragmentRequest, DefragmentResponse,
    HashKvRequest, HashKvResponse, HashRequest, HashResponse, MoveLeaderRequest, MoveLeaderResponse,
    SnapshotRequest, SnapshotResponse, StatusRequest, StatusResponse,
};
use proa_etcd_store::snapshot::Stamp;
use proa_etcd_store::snapshot::bolt::Stopped;
use proa_etcd_store::{Need, Reply};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use super::kv::blocking;
use super::pb::maintenance_server::Maintenance;
use super::{Front, refuse, unexpected};
use crate::PROTOCOL_VERSION;
use crate::metrics::METRICS;
use crate::node::Node;

#[tonic::async_trait]
impl Maintenance for Front {
    async fn alarm(&self, request: Request<AlarmRequest>) -> Result<Response<AlarmResponse>, Status> {
        let by = self.caller(&request).await?;
        match self.propose(&by, Op::Alarm(request.into_inner())).await? {
            Reply::Alarm(mut answer) => {
                self.complete(&mut answer.header);
                Ok(Response::new(answer))
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let by = self.caller(&request).await?;
        self.admit_now(&by, &[Need::User])?;
        let status = self.node.status().borrow().clone();
        let errors = status_errors(status.leader_id, &self.node.alarms());
        let size = self.space.size();
        let bytes = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        Ok(Response::new(StatusResponse {
            header: Some(self.header(self.node.view().head.revision)),
            version: PROTOCOL_VERSION.to_owned(),
            db_size: bytes(size.total_bytes),
            db_size_in_use: bytes(size.in_use_bytes.min(size.total_bytes)),
            leader: status.leader_id,
            raft_index: status.committed,
            raft_applied_index: status.applied,
            raft_term: status.term,
            is_learner: status.is_learner,
            errors,
        }))
    }

    /// Space of deleted data comes back without being asked for; there is
    /// nothing to stop the member for. Where room is short, the answer waits for
    /// what a compaction has just freed: who asks clears the alarm and writes next.
    async fn defragment(
        &self,
        request: Request<DefragmentRequest>,
    ) -> Result<Response<DefragmentResponse>, Status> {
        self.admit_root(&request).await?;
        let until = tokio::time::Instant::now() + DEFRAGMENT_PATIENCE;
        while self.space.is_low() && tokio::time::Instant::now() < until {
            tokio::time::sleep(DEFRAGMENT_POLL).await;
        }
        // Without a header, as etcd.
        Ok(Response::new(DefragmentResponse { header: None }))
    }

    /// The database's files differ between members that hold the same, so what
    /// is hashed is what it says: every key at the newest revision.
    async fn hash(&self, request: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        self.admit_root(&request).await?;
        let now = self.node.view();
        let head = now.head;
        let begun = Instant::now();
        let hash = blocking(move || proa_etcd_store::hash_kv(&now.view, now.head, 0)).await?;
        METRICS.hash.observe(begun.elapsed());
        Ok(Response::new(HashResponse {
            header: Some(self.header(head.revision)),
            hash: hash.map_err(refuse)?,
        }))
    }

    async fn hash_kv(&self, request: Request<HashKvRequest>) -> Result<Response<HashKvResponse>, Status> {
        self.admit_root(&request).await?;
        let wanted = request.into_inner().revision;
        let now = self.node.view();
        let head = now.head;
        let begun = Instant::now();
        let hash = blocking(move || proa_etcd_store::hash_kv(&now.view, now.head, wanted)).await?;
        METRICS.hash_by_revision.observe(begun.elapsed());
        Ok(Response::new(HashKvResponse {
            header: Some(self.header(head.revision)),
            hash: hash.map_err(refuse)?,
            compact_revision: head.compact_revision,
            hash_revision: if wanted > 0 { wanted } else { head.revision },
        }))
    }

    type SnapshotStream = BoxStream<SnapshotResponse>;

    async fn snapshot(
        &self,
        request: Request<SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        self.admit_root(&request).await?;
        let Ok(turn) = SNAPSHOTS.try_acquire() else {
            return Err(Status::resource_exhausted("etcdserver: too many snapshots are being sent"));
        };
        let (sender, pieces) = mpsc::channel(SNAPSHOT_PIECES);
        let node = self.node.clone();
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let begun = Instant::now();
            send_snapshot(&node, &sender);
            METRICS.snapshot.observe(begun.elapsed());
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(pieces))))
    }

    async fn move_leader(
        &self,
        request: Request<MoveLeaderRequest>,
    ) -> Result<Response<MoveLeaderResponse>, Status> {
        self.admit_root(&request).await?;
        self.node.move_leader(request.into_inner().target_id).await.map_err(refuse)?;
        // Without a header, as etcd.
        Ok(Response::new(MoveLeaderResponse { header: None }))
    }
}

/// How long a defragmentation waits for room; less than the 5 s that etcdctl waits
/// for the answer. What takes longer comes back by itself.
const DEFRAGMENT_PATIENCE: Duration = Duration::from_secs(3);
const DEFRAGMENT_POLL: Duration = Duration::from_millis(20);

/// Snapshots that are sent at a time. Each takes a thread and up to 32 MiB, and
/// keeps what was overwritten meanwhile on the disk.
static SNAPSHOTS: Semaphore = Semaphore::const_new(2);
/// Pieces of a snapshot, of 32 KiB, that wait for the connection.
const SNAPSHOT_PIECES: usize = 8;

fn send_snapshot(node: &Node, sender: &mpsc::Sender<Result<SnapshotResponse, Status>>) {
    let now = node.view();
    let term = node.status().borrow().term;
    let stamp = Stamp { applied_index: now.applied, term, cluster_version: crate::CLUSTER_VERSION };
    // A state that is replaced waits for its readers, and everybody with it.
    let goes_on = || !sender.is_closed() && !node.is_being_replaced();
    let sent = crate::snapshot::send(&now.view, &stamp, &goes_on, &mut |piece, remaining_bytes| {
        let answer = SnapshotResponse { header: None, remaining_bytes, blob: piece.into() };
        sender.blocking_send(Ok(answer)).map_err(|_| Stopped)
    });
    if let Err(error) = sent {
        // Whoever asked may be gone.
        let _ = sender.blocking_send(Err(Status::unavailable(format!("etcdserver: no snapshot: {error}"))));
    }
}

/// What is wrong with the cluster, in etcd's words: the text of `ErrNoLeader`,
/// and each alarm as the text form of its message.
fn status_errors(leader_id: u64, alarms: &[AlarmMember]) -> Vec<String> {
    let no_leader = (leader_id == 0).then(|| proa_etcd_api::EtcdError::NoLeader.text().to_owned());
    let alarm = |alarm: &AlarmMember| {
        let kind = AlarmType::try_from(alarm.alarm).map_or("NONE", |kind| kind.as_str_name());
        format!("memberID:{} alarm:{kind} ", alarm.member_id)
    };
    no_leader.into_iter().chain(alarms.iter().map(alarm)).collect()
}
