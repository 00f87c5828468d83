//! The members of the cluster.

use proa_etcd_api::etcdserverpb::{
    MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse, MemberPromoteRequest,
    MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse, MemberUpdateRequest,
    MemberUpdateResponse,
};
use proa_etcd_store::Need;
use tonic::{Request, Response, Status};

use super::pb::cluster_server::Cluster;
use super::{Front, refuse};
use crate::node::{MemberChange, MembersChanged};

#[tonic::async_trait]
impl Cluster for Front {
    async fn member_add(
        &self,
        request: Request<MemberAddRequest>,
    ) -> Result<Response<MemberAddResponse>, Status> {
        self.admit_root(&request).await?;
        let MemberAddRequest { peer_urls, is_learner } = request.into_inner();
        let changed = self.change(MemberChange::Add { peer_urls, learner: is_learner }).await?;
        Ok(Response::new(MemberAddResponse {
            header: Some(self.header(0)),
            member: Some(changed.member),
            members: changed.members,
        }))
    }

    async fn member_remove(
        &self,
        request: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        self.admit_root(&request).await?;
        let members = self.change(MemberChange::Remove { id: request.into_inner().id }).await?.members;
        Ok(Response::new(MemberRemoveResponse { header: Some(self.header(0)), members }))
    }

    async fn member_update(
        &self,
        request: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        self.admit_root(&request).await?;
        let MemberUpdateRequest { id, peer_urls } = request.into_inner();
        let members = self.change(MemberChange::Update { id, peer_urls }).await?.members;
        Ok(Response::new(MemberUpdateResponse { header: Some(self.header(0)), members }))
    }

    async fn member_list(
        &self,
        request: Request<MemberListRequest>,
    ) -> Result<Response<MemberListResponse>, Status> {
        let by = self.caller(&request).await?;
        if request.into_inner().linearizable {
            self.node.linearizable().await.map_err(refuse)?;
        }
        self.admit_now(&by, &[Need::User])?;
        let members = self.node.members();
        Ok(Response::new(MemberListResponse { header: Some(self.header(0)), members }))
    }

    async fn member_promote(
        &self,
        request: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        self.admit_root(&request).await?;
        let members = self.change(MemberChange::Promote { id: request.into_inner().id }).await?.members;
        Ok(Response::new(MemberPromoteResponse { header: Some(self.header(0)), members }))
    }
}

impl Front {
    /// For calls that only root may make and that do not go through the log
    /// as commands.
    pub(super) async fn admit_root<T: Sync>(&self, request: &Request<T>) -> Result<(), Status> {
        let by = self.caller(request).await?;
        self.admit_now(&by, &[Need::Root])
    }

    async fn change(&self, change: MemberChange) -> Result<MembersChanged, Status> {
        self.node.change_members(change).await.map_err(refuse)
    }
}
