//! Elections: whoever's key is the oldest leads, and its value is what it says.

use std::sync::Arc;

use proa_etcd_api::etcdserverpb::request_op::Request as Ask;
use proa_etcd_api::etcdserverpb::{PutRequest, RangeRequest, ResponseHeader, TxnRequest};
use proa_etcd_api::mvccpb::KeyValue;
use proa_etcd_api::mvccpb::event::EventType;
use proa_etcd_api::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest,
    ProclaimResponse, ResignRequest, ResignResponse,
};
use prost::bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use super::pb::v3electionpb::election_server::Election;
use super::queue::{
    Asker, Changes, Queues, created_at, end_of, first, header_of, op, prefix_of, without_code,
};

/// Source: etcd's `v3election.ErrMissingLeaderKey`.
const NO_LEADER_KEY: &str = "\"leader\" field must be provided";
/// Source: etcd's `concurrency.ErrElectionNotLeader`.
const NOT_LEADER: &str = "election: not leader";
/// Source: etcd's `concurrency.ErrElectionNoLeader`.
const NO_LEADER: &str = "election: no leader";
/// Answers on their way to one observer.
const QUEUE_ANSWERS: usize = 16;

#[tonic::async_trait]
impl Election for Queues {
    async fn campaign(
        &self,
        request: Request<CampaignRequest>,
    ) -> Result<Response<CampaignResponse>, Status> {
        let (asker, request) = Asker::of(request);
        self.lead(&asker, request).await.map(Response::new).map_err(without_code)
    }

    async fn proclaim(
        &self,
        request: Request<ProclaimRequest>,
    ) -> Result<Response<ProclaimResponse>, Status> {
        let (asker, ProclaimRequest { leader, value }) = Asker::of(request);
        let leader = leader.ok_or_else(|| Status::unknown(NO_LEADER_KEY))?;
        let header = self.say(&asker, leader, value).await.map_err(without_code)?;
        Ok(Response::new(ProclaimResponse { header: Some(header) }))
    }

    async fn leader(&self, request: Request<LeaderRequest>) -> Result<Response<LeaderResponse>, Status> {
        let (asker, LeaderRequest { name }) = Asker::of(request);
        let answer = self.range(&asker, first(&prefix_of(&name))).await.map_err(without_code)?;
        match answer.kvs.into_iter().next() {
            Some(kv) => Ok(Response::new(LeaderResponse { header: answer.header, kv: Some(kv) })),
            None => Err(Status::unknown(NO_LEADER)),
        }
    }

    type ObserveStream = BoxStream<LeaderResponse>;

    async fn observe(
        &self,
        request: Request<LeaderRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        let (asker, LeaderRequest { name }) = Asker::of(request);
        let (answers, stream) = mpsc::channel(QUEUE_ANSWERS);
        let observer = Observer {
            queues: Self { front: Arc::clone(&self.front) },
            asker,
            prefix: prefix_of(&name),
            answers,
        };
        tokio::spawn(observer.run());
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn resign(&self, request: Request<ResignRequest>) -> Result<Response<ResignResponse>, Status> {
        let (asker, ResignRequest { leader }) = Asker::of(request);
        let leader = leader.ok_or_else(|| Status::unknown(NO_LEADER_KEY))?;
        let header = self.leave(&asker, leader.key, leader.rev).await.map_err(without_code)?;
        Ok(Response::new(ResignResponse { header: Some(header) }))
    }
}

impl Queues {
    async fn lead(&self, asker: &Asker, request: CampaignRequest) -> Result<CampaignResponse, Status> {
        let CampaignRequest { name, lease, value } = request;
        let lease = self.lease(asker, lease).await?;
        let prefix = prefix_of(&name);
        let place = self.enter(asker, &prefix, lease, value.clone()).await?;
        let leader = LeaderKey { name, key: place.key.clone(), rev: place.revision, lease };
        let waiting = self.leave_when_dropped(asker, &place);
        if place.found.as_ref().is_some_and(|found| *found != value) {
            self.say(asker, leader.clone(), value).await?;
        }
        self.wait_for_turn(asker, &prefix, place.revision).await?;
        waiting.stay();
        Ok(CampaignResponse { header: Some(place.header), leader: Some(leader) })
    }

    async fn say(&self, asker: &Asker, leader: LeaderKey, value: Bytes) -> Result<ResponseHeader, Status> {
        let lease = self.lease(asker, leader.lease).await?;
        let put = PutRequest { key: leader.key.clone(), value, lease, ..PutRequest::default() };
        let request = TxnRequest {
            compare: vec![created_at(leader.key, leader.rev)],
            success: vec![op(Ask::RequestPut(put))],
            failure: Vec::new(),
        };
        let answer = self.txn(asker, request).await?;
        if answer.succeeded { header_of(answer.header) } else { Err(Status::unknown(NOT_LEADER)) }
    }
}

/// One stream of an election's leaders.
struct Observer {
    queues: Queues,
    asker: Asker,
    prefix: Bytes,
    answers: mpsc::Sender<Result<LeaderResponse, Status>>,
}

/// The observer has gone.
struct Gone;

impl Observer {
    async fn run(self) {
        let answers = self.answers.clone();
        tokio::select! {
            Err(status) = self.follow() => {
                // It may have gone just now.
                let _ = answers.send(Err(without_code(status))).await;
            }
            () = answers.closed() => {}
        }
    }

    /// Tells of one leader after another; ends with a refusal or when nobody listens.
    async fn follow(&self) -> Result<(), Status> {
        loop {
            let answer = self.queues.range(&self.asker, first(&self.prefix)).await?;
            let header = header_of(answer.header)?;
            let (kv, from) = match answer.kvs.into_iter().next() {
                Some(kv) => {
                    if self.tell(header, kv.clone()).await.is_err() {
                        return Ok(());
                    }
                    (kv, header.revision + 1)
                }
                None => {
                    self.wait_for_candidate(header.revision + 1).await;
                    continue;
                }
            };
            let mut changes = Changes::new(&self.queues.front.hub, kv.key, Bytes::new(), from);
            'reign: while let Some(answer) = changes.next().await {
                let header = header_of(answer.header)?;
                for event in answer.events {
                    let (EventType::Put, Some(kv)) = (event.r#type(), event.kv) else { break 'reign };
                    self.check_rights(&kv.key).await?;
                    if self.tell(header, kv).await.is_err() {
                        return Ok(());
                    }
                }
            }
        }
    }

    async fn tell(&self, header: ResponseHeader, kv: KeyValue) -> Result<(), Gone> {
        self.answers.send(Ok(LeaderResponse { header: Some(header), kv: Some(kv) })).await.map_err(|_| Gone)
    }

    async fn wait_for_candidate(&self, from: i64) {
        let hub = &self.queues.front.hub;
        let mut changes = Changes::new(hub, self.prefix.clone(), end_of(&self.prefix), from);
        while let Some(answer) = changes.next().await {
            if answer.events.iter().any(|event| event.r#type() == EventType::Put) {
                return;
            }
        }
    }

    /// What was allowed when the observer came may be forbidden since.
    async fn check_rights(&self, key: &Bytes) -> Result<(), Status> {
        let look = RangeRequest {
            key: key.clone(),
            serializable: true,
            count_only: true,
            ..RangeRequest::default()
        };
        self.queues.range(&self.asker, look).await.map(drop)
    }
}
