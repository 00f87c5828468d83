//! What a store answers, brought into a form in which two can be compared:
//! without ids of clusters and members, without times, and without an order
//! that etcd itself leaves to chance.

use proa_etcd_client::api::etcdserverpb::range_request::{SortOrder, SortTarget};
use proa_etcd_client::api::etcdserverpb::request_op::Request;
use proa_etcd_client::api::etcdserverpb::response_op::Response;
use proa_etcd_client::api::etcdserverpb::{
    AlarmResponse, CompactionResponse, DeleteRangeResponse, LeaseGrantRequest, LeaseGrantResponse,
    LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest, LeaseLeasesResponse,
    LeaseRevokeRequest, LeaseRevokeResponse, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, PutResponse,
    RangeRequest, RangeResponse, RequestOp, ResponseHeader, TxnRequest, TxnResponse,
};
use proa_etcd_client::api::mvccpb::KeyValue;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Request as Call, Status};

use crate::op::Op;
use crate::peer::Peer;
use crate::v2::{self, V2Answer};

/// Stands for a number that only one of the two stores could have chosen.
const SOME: i64 = -1000;

/// Below it, the order of equal entries in Go's `sort.Sort` is that of the
/// input: it sorts so few by insertion. Source: Go's `sort/zsortinterface.go`.
const GO_SORTS_STABLY: i64 = 12;

#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Range(RangeResponse),
    Put(PutResponse),
    DeleteRange(DeleteRangeResponse),
    Txn(TxnResponse),
    Compact(CompactionResponse),
    Grant(LeaseGrantResponse),
    Revoke(LeaseRevokeResponse),
    KeepAlive(LeaseKeepAliveResponse),
    TimeToLive(LeaseTimeToLiveResponse),
    Leases(LeaseLeasesResponse),
    Alarm(AlarmResponse),
    V2(V2Answer),
    Refused { code: i32, text: String },
}

impl Answer {
    pub fn refused(status: &Status) -> Self {
        Self::Refused { code: status.code() as i32, text: status.message().to_owned() }
    }

    fn header(&mut self) -> Option<&mut ResponseHeader> {
        match self {
            Self::Range(answer) => answer.header.as_mut(),
            Self::Put(answer) => answer.header.as_mut(),
            Self::DeleteRange(answer) => answer.header.as_mut(),
            Self::Txn(answer) => answer.header.as_mut(),
            Self::Compact(answer) => answer.header.as_mut(),
            Self::Grant(answer) => answer.header.as_mut(),
            Self::Revoke(answer) => answer.header.as_mut(),
            Self::KeepAlive(answer) => answer.header.as_mut(),
            Self::TimeToLive(answer) => answer.header.as_mut(),
            Self::Leases(answer) => answer.header.as_mut(),
            Self::Alarm(answer) => answer.header.as_mut(),
            Self::V2(_) | Self::Refused { .. } => None,
        }
    }

    /// The store's revision at the time of the answer, if it says.
    pub fn revision(&self) -> Option<i64> {
        self.clone().header().map(|header| header.revision)
    }
}

/// A header with what both stores must agree on.
pub fn plain(header: &mut ResponseHeader) {
    *header = ResponseHeader { revision: header.revision, ..ResponseHeader::default() };
}

/// Asks one store; the answer is ready to be compared.
pub async fn ask(peer: &Peer, op: &Op) -> Answer {
    let mut answer = match send(peer, op).await {
        Ok(answer) => answer,
        Err(status) => Answer::refused(&status),
    };
    if let Some(header) = answer.header() {
        plain(header);
    }
    match (&mut answer, op) {
        (Answer::Range(answer), Op::Range(request)) => settle_ties(answer, request),
        (Answer::Txn(answer), Op::Txn(request)) => settle_ties_in_txn(answer, request),
        (Answer::TimeToLive(answer), _) => {
            answer.ttl = if answer.ttl > 0 { SOME } else { answer.ttl };
            // From a Go map: in no order.
            answer.keys.sort();
        }
        // Absent in 3.4, there in 3.5.
        (Answer::Alarm(answer), _) => answer.header = None,
        // By the time that is left.
        (Answer::Leases(answer), _) => answer.leases.sort_by_key(|lease| lease.id),
        (Answer::Grant(answer), Op::Grant(LeaseGrantRequest { id: 0, .. })) => answer.id = SOME,
        _ => {}
    }
    answer
}

async fn send(peer: &Peer, op: &Op) -> Result<Answer, Status> {
    Ok(match op.clone() {
        Op::Range(request) => Answer::Range(peer.call("/etcdserverpb.KV/Range", request).await?),
        Op::Put(request) => Answer::Put(peer.call("/etcdserverpb.KV/Put", request).await?),
        Op::DeleteRange(request) => {
            Answer::DeleteRange(peer.call("/etcdserverpb.KV/DeleteRange", request).await?)
        }
        Op::Txn(request) => Answer::Txn(peer.call("/etcdserverpb.KV/Txn", request).await?),
        Op::Compact(request) => Answer::Compact(peer.call("/etcdserverpb.KV/Compact", request).await?),
        Op::Grant(request) => {
            let granted = grant(peer, request).await?;
            if request.id == 0 {
                // Each store chose an id of its own: both are forgotten again.
                revoke(peer, granted.id).await?;
            }
            Answer::Grant(granted)
        }
        Op::GrantBriefly(request) => {
            let granted = grant(peer, request).await?;
            revoke(peer, granted.id).await?;
            Answer::Grant(granted)
        }
        Op::Revoke(id) => Answer::Revoke(revoke(peer, id).await?),
        Op::KeepAlive(id) => Answer::KeepAlive(keep_alive(peer, id).await?),
        Op::TimeToLive(id, keys) => {
            let request = LeaseTimeToLiveRequest { id, keys };
            let answer: LeaseTimeToLiveResponse =
                peer.call("/etcdserverpb.Lease/LeaseTimeToLive", request).await?;
            Answer::TimeToLive(answer)
        }
        Op::Leases => {
            let answer: LeaseLeasesResponse =
                peer.call("/etcdserverpb.Lease/LeaseLeases", LeaseLeasesRequest {}).await?;
            Answer::Leases(answer)
        }
        Op::Alarm(request) => Answer::Alarm(peer.call("/etcdserverpb.Maintenance/Alarm", request).await?),
        Op::V2(request) => {
            let answer = async {
                let response = v2::send(&peer.http, &peer.url, &request).await?;
                v2::receive(&request, response).await
            };
            Answer::V2(answer.await.map_err(Status::unavailable)?)
        }
        Op::Watch(_) | Op::CancelWatch(_) | Op::WatchProgress | Op::NewWatchStream => {
            unreachable!("watches have a stream of their own")
        }
    })
}

async fn grant(peer: &Peer, request: LeaseGrantRequest) -> Result<LeaseGrantResponse, Status> {
    peer.call("/etcdserverpb.Lease/LeaseGrant", request).await
}

async fn revoke(peer: &Peer, id: i64) -> Result<LeaseRevokeResponse, Status> {
    peer.call("/etcdserverpb.Lease/LeaseRevoke", LeaseRevokeRequest { id }).await
}

async fn keep_alive(peer: &Peer, id: i64) -> Result<LeaseKeepAliveResponse, Status> {
    let codec = tonic_prost::ProstCodec::<LeaseKeepAliveRequest, LeaseKeepAliveResponse>::default();
    let path = PathAndQuery::from_static("/etcdserverpb.Lease/LeaseKeepAlive");
    let one = tokio_stream::once(LeaseKeepAliveRequest { id });
    let mut answers = peer.grpc().await?.streaming(Call::new(one), path, codec).await?.into_inner();
    answers.message().await?.ok_or_else(|| Status::internal("no answer to a keep-alive"))
}

/// Entries that are equal by the sort target come in any order from etcd once
/// they are many; which of them a limit cuts off is open as well.
fn settle_ties(answer: &mut RangeResponse, request: &RangeRequest) {
    let by_key = request.sort_target == SortTarget::Key as i32;
    if by_key || answer.count <= GO_SORTS_STABLY {
        return;
    }
    let cut = answer.more.then(|| answer.kvs.last().map(|last| rank(last, request))).flatten();
    for kv in answer.kvs.iter_mut().filter(|kv| Some(rank(kv, request)) == cut) {
        *kv = KeyValue::default();
    }
    // An order that does not exist is none at all for etcd: it leaves them by key.
    let ascending =
        matches!(SortOrder::try_from(request.sort_order), Ok(SortOrder::None | SortOrder::Ascend));
    // The stores' own order stays, but between equals.
    let ranks: Vec<_> = answer.kvs.iter().map(|kv| rank(kv, request)).collect();
    debug_assert!(ranks.is_sorted() || !ascending || cut.is_some());
    let mut begin = 0;
    while begin < ranks.len() {
        let end = begin + ranks[begin..].iter().take_while(|&one| *one == ranks[begin]).count();
        answer.kvs[begin..end].sort_by(|a, b| a.key.cmp(&b.key));
        begin = end;
    }
}

/// What the sort target compares. Values that were left out are all equal.
fn rank(kv: &KeyValue, request: &RangeRequest) -> (i64, prost::bytes::Bytes) {
    match SortTarget::try_from(request.sort_target) {
        Ok(SortTarget::Version) => (kv.version, Default::default()),
        Ok(SortTarget::Create) => (kv.create_revision, Default::default()),
        Ok(SortTarget::Mod) => (kv.mod_revision, Default::default()),
        Ok(SortTarget::Value) => (0, kv.value.clone()),
        Ok(SortTarget::Key) | Err(_) => (0, kv.key.clone()),
    }
}

fn settle_ties_in_txn(answer: &mut TxnResponse, request: &TxnRequest) {
    let ops = if answer.succeeded { &request.success } else { &request.failure };
    for (one, RequestOp { request }) in answer.responses.iter_mut().zip(ops) {
        match (&mut one.response, request) {
            (Some(Response::ResponseRange(answer)), Some(Request::RequestRange(request))) => {
                settle_ties(answer, request);
            }
            (Some(Response::ResponseTxn(answer)), Some(Request::RequestTxn(request))) => {
                settle_ties_in_txn(answer, request);
            }
            _ => {}
        }
    }
}
