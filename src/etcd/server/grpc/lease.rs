//! Leases.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use proa_etcd_api::EtcdError;
use proa_etcd_api::command::{LeaseRevoke, command::Op};
use proa_etcd_api::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest,
    LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseStatus, LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse,
};
use proa_etcd_store::{Need, Reply, lease_keys};
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use super::kv::blocking;
use super::pb::lease_server::Lease;
use super::{Front, header, refuse, unexpected, while_led};
use crate::auth::Credentials;
use crate::lease::least_ttl_s;

/// How often an id is chosen at random before giving up: of 2^63 ids, taken
/// twice in a row is a broken source of randomness.
const ID_TRIES: usize = 4;

#[tonic::async_trait]
impl Lease for Front {
    async fn lease_grant(
        &self,
        request: Request<LeaseGrantRequest>,
    ) -> Result<Response<LeaseGrantResponse>, Status> {
        let by = self.caller(&request).await?;
        let mut request = request.into_inner();
        let chosen_by_client = request.id != 0;
        request.ttl = request.ttl.max(least_ttl_s(self.limits.election_ms));
        let mut tries_left = ID_TRIES;
        loop {
            if !chosen_by_client {
                request.id = random_id();
            }
            tries_left -= 1;
            match self.propose(&by, Op::LeaseGrant(request)).await {
                Ok(Reply::LeaseGrant(mut answer)) => {
                    self.lessor.begin(answer.id, answer.ttl);
                    self.complete(&mut answer.header);
                    return Ok(Response::new(answer));
                }
                Ok(other) => return Err(unexpected(&other)),
                Err(status) => {
                    let taken = status.message() == EtcdError::LeaseExists.text();
                    if chosen_by_client || !taken || tries_left == 0 {
                        return Err(status);
                    }
                }
            }
        }
    }

    async fn lease_revoke(
        &self,
        request: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        let by = self.caller(&request).await?;
        let ids = vec![request.into_inner().id];
        match self.propose(&by, Op::LeaseRevoke(LeaseRevoke { ids })).await? {
            Reply::LeaseRevoke(mut answer) => {
                self.complete(&mut answer.header);
                Ok(Response::new(answer))
            }
            other => Err(unexpected(&other)),
        }
    }

    type LeaseKeepAliveStream = BoxStream<LeaseKeepAliveResponse>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let credentials = Credentials::of(&request);
        let needs_leader = super::needs_leader(request.metadata().as_ref());
        let (lessor, node, auth) = (Arc::clone(&self.lessor), self.node.clone(), Arc::clone(&self.auth));
        let answers = request.into_inner().then(move |request| {
            let (lessor, node, auth) = (Arc::clone(&lessor), node.clone(), Arc::clone(&auth));
            let credentials = credentials.clone();
            async move {
                let id = request?.id;
                if node.is_auth_enabled() {
                    let by = auth.identify(&credentials).await.map_err(refuse)?;
                    auth.admit(&by, &[Need::User, Need::WriteLease(id)], &node.view()).map_err(refuse)?;
                }
                // etcd answers an unknown lease with a TTL of 0, not an error.
                let ttl = match lessor.renew(id).await {
                    Ok(ttl) => ttl,
                    Err(EtcdError::LeaseNotFound) => 0,
                    Err(error) => return Err(refuse(error)),
                };
                let revision = node.view().head.revision;
                Ok(LeaseKeepAliveResponse { header: Some(header(&node, revision)), id, ttl })
            }
        });
        if !needs_leader {
            return Ok(Response::new(Box::pin(answers)));
        }
        let patience = Duration::from_millis(self.limits.election_ms);
        Ok(Response::new(while_led(answers, self.node.clone(), patience)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        let by = self.caller(&request).await?;
        let LeaseTimeToLiveRequest { id, keys } = request.into_inner();
        self.node.linearizable().await.map_err(refuse)?;
        // Before the view is taken: one that is held while the leader is asked
        // would hold up the installation of a snapshot.
        let left = self.lessor.time_to_live(id).await;
        let now = self.node.view();
        let needs: &[Need<'_>] = if keys { &[Need::User, Need::ReadLease(id)] } else { &[Need::User] };
        self.auth.admit(&by, needs, &now).map_err(refuse)?;
        let header = Some(self.header(now.head.revision));
        let left = match left {
            Ok(left) => left,
            Err(EtcdError::LeaseNotFound) => {
                return Ok(Response::new(LeaseTimeToLiveResponse {
                    header,
                    id,
                    ttl: -1,
                    ..LeaseTimeToLiveResponse::default()
                }));
            }
            Err(error) => return Err(refuse(error)),
        };
        let keys = match keys {
            true => blocking(move || lease_keys(&now.view, id)).await?,
            false => Vec::new(),
        };
        Ok(Response::new(LeaseTimeToLiveResponse {
            header,
            id,
            ttl: left.left_s,
            granted_ttl: left.granted_s,
            keys: keys.into_iter().map(Into::into).collect(),
        }))
    }

    async fn lease_leases(
        &self,
        request: Request<LeaseLeasesRequest>,
    ) -> Result<Response<LeaseLeasesResponse>, Status> {
        let by = self.caller(&request).await?;
        self.node.linearizable().await.map_err(refuse)?;
        let mut leases: Vec<i64> = self.node.leases().into_iter().map(|(id, _)| id).collect();
        self.lessor.sort_by_end(&mut leases);
        let now = self.node.view();
        if now.auth.is_enabled() {
            let keys = leases.iter().map(|id| Need::ReadLease(*id));
            let needs: Vec<Need<'_>> = std::iter::once(Need::User).chain(keys).collect();
            self.auth.admit(&by, &needs, &now).map_err(refuse)?;
        }
        let header = Some(self.header(now.head.revision));
        let leases = leases.into_iter().map(|id| LeaseStatus { id }).collect();
        Ok(Response::new(LeaseLeasesResponse { header, leases }))
    }
}

/// A positive number that nobody guesses or repeats: the hasher's keys come
/// from the system's random source.
fn random_id() -> i64 {
    let bits = RandomState::new().build_hasher().finish() >> 1;
    i64::try_from(bits).unwrap_or(i64::MAX).max(1)
}
