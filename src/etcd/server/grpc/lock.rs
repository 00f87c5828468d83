//! Locks: whoever's key is the oldest holds it.

use proa_etcd_api::etcdserverpb::{DeleteRangeRequest, RangeRequest};
use proa_etcd_api::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};
use prost::bytes::Bytes;
use tonic::{Request, Response, Status};

use super::pb::kv_server::Kv as _;
use super::pb::v3lockpb::lock_server::Lock;
use super::queue::{Asker, Queues, header_of, prefix_of, without_code};

/// Source: etcd's `concurrency.ErrSessionExpired`.
const SESSION_EXPIRED: &str = "mutex: session is expired";

#[tonic::async_trait]
impl Lock for Queues {
    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        let (asker, LockRequest { name, lease }) = Asker::of(request);
        self.hold(&asker, &name, lease).await.map(Response::new).map_err(without_code)
    }

    async fn unlock(&self, request: Request<UnlockRequest>) -> Result<Response<UnlockResponse>, Status> {
        let key = request.get_ref().key.clone();
        let request = request.map(|_| DeleteRangeRequest { key, ..DeleteRangeRequest::default() });
        let answer = self.front.delete_range(request).await.map_err(without_code)?;
        Ok(Response::new(UnlockResponse { header: answer.into_inner().header }))
    }
}

impl Queues {
    async fn hold(&self, asker: &Asker, name: &[u8], lease: i64) -> Result<LockResponse, Status> {
        let lease = self.lease(asker, lease).await?;
        let prefix = prefix_of(name);
        let place = self.enter(asker, &prefix, lease, Bytes::new()).await?;
        let waiting = self.leave_when_dropped(asker, &place);
        self.wait_for_turn(asker, &prefix, place.revision).await?;
        // The lease may have ended meanwhile, and the turn with it.
        let own = RangeRequest { key: place.key.clone(), ..RangeRequest::default() };
        let own = self.range(asker, own).await?;
        let is_there = own.kvs.first().is_some_and(|kv| kv.create_revision == place.revision);
        if !is_there {
            return Err(Status::unknown(SESSION_EXPIRED));
        }
        waiting.stay();
        Ok(LockResponse { header: Some(header_of(own.header)?), key: place.key })
    }
}
