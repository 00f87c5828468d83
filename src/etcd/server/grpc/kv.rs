//! Keys and values.

use proa_etcd_api::EtcdError;
use proa_etcd_api::command::{Requester, command::Op};
use proa_etcd_api::etcdserverpb::request_op::Request as Inner;
use proa_etcd_api::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse,
    RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse,
};
use proa_etcd_store::Reply;
use proa_etcd_store::auth::needs;
use tonic::{Request, Response, Status};

use super::pb::kv_server::Kv;
use super::{Front, refuse, unexpected};
use crate::metrics::{METRICS, add};

#[tonic::async_trait]
impl Kv for Front {
    async fn range(&self, request: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        let by = self.caller(&request).await?;
        let request = request.into_inner();
        proa_etcd_store::check_range(&request).map_err(refuse)?;
        if !request.serializable {
            if self.node.status().borrow().is_learner {
                return Err(refuse(EtcdError::NotSupportedForLearner));
            }
            self.node.linearizable().await.map_err(refuse)?;
        }
        // What may be read is decided by the state that is read.
        let now = self.node.view();
        if now.auth.is_enabled() {
            self.auth.admit(&by, &needs::range(&request), &now).map_err(refuse)?;
        }
        let mut answer = if request.range_end.is_empty() {
            proa_etcd_store::range(&now.view, now.head, &request)
        } else {
            // May walk over many keys: not on a thread that serves others.
            blocking(move || proa_etcd_store::range(&now.view, now.head, &request)).await?
        }
        .map_err(refuse)?;
        add(&METRICS.ranges);
        self.complete(&mut answer.header);
        Ok(Response::new(answer))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let by = self.caller(&request).await?;
        match self.propose(&by, Op::Put(request.into_inner())).await? {
            Reply::Put(mut answer) => {
                self.complete(&mut answer.header);
                Ok(Response::new(answer))
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        let by = self.caller(&request).await?;
        match self.propose(&by, Op::DeleteRange(request.into_inner())).await? {
            Reply::DeleteRange(mut answer) => {
                self.complete(&mut answer.header);
                Ok(Response::new(answer))
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        let by = self.caller(&request).await?;
        let request = request.into_inner();
        let mut answer = if proa_etcd_store::is_read_only(&request) {
            self.read(&by, request).await?
        } else {
            match self.propose(&by, Op::Txn(request)).await? {
                Reply::Txn(answer) => answer,
                other => return Err(unexpected(&other)),
            }
        };
        self.complete(&mut answer.header);
        Ok(Response::new(answer))
    }

    async fn compact(
        &self,
        request: Request<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        let by = self.caller(&request).await?;
        match self.propose(&by, Op::Compaction(request.into_inner())).await? {
            Reply::Compaction(mut answer) => {
                self.complete(&mut answer.header);
                Ok(Response::new(answer))
            }
            other => Err(unexpected(&other)),
        }
    }
}

impl Front {
    /// A transaction without writes needs no place in the log.
    async fn read(&self, by: &Requester, request: TxnRequest) -> Result<TxnResponse, Status> {
        proa_etcd_store::check_txn(&request, self.limits.txn_ops).map_err(refuse)?;
        if !is_serializable(&request) {
            self.node.linearizable().await.map_err(refuse)?;
        }
        let now = self.node.view();
        if now.auth.is_enabled() {
            self.auth.admit(by, &needs::txn(&request), &now).map_err(refuse)?;
        }
        blocking(move || proa_etcd_store::read_txn(&now.view, now.head, &request)).await?.map_err(refuse)
    }
}

/// Runs what reads the disk for long on a thread of its own.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Status::internal(error.to_string()))
}

fn ops(request: &TxnRequest) -> impl Iterator<Item = &RequestOp> {
    request.success.iter().chain(&request.failure)
}

/// Source: etcd's `isTxnSerializable`.
fn is_serializable(request: &TxnRequest) -> bool {
    ops(request).all(|op| match &op.request {
        Some(Inner::RequestRange(range)) => range.serializable,
        Some(Inner::RequestTxn(inner)) => is_serializable(inner),
        Some(Inner::RequestPut(_) | Inner::RequestDeleteRange(_)) | None => false,
    })
}
