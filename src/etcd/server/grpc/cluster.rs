//! The members of the cluster.

use proa_etcd_api::etcdserverpb::{
    MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse, MemberPromoteRequest,
    MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse, MemberUpdateRequest,
    MemberUpdateResponse,
};
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
        let members = self.change(MemberChange::Remove { id: request.into_inner().id }).await?.members;
        Ok(Response::new(MemberRemoveResponse { header: Some(self.header(0)), members }))
    }

    async fn member_update(
        &self,
        request: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        let MemberUpdateRequest { id, peer_urls } = request.into_inner();
        let members = self.change(MemberChange::Update { id, peer_urls }).await?.members;
        Ok(Response::new(MemberUpdateResponse { header: Some(self.header(0)), members }))
    }

    async fn member_list(
        &self,
        request: Request<MemberListRequest>,
    ) -> Result<Response<MemberListResponse>, Status> {
        if request.into_inner().linearizable {
            self.node.linearizable().await.map_err(refuse)?;
        }
        let members = self.node.members();
        Ok(Response::new(MemberListResponse { header: Some(self.header(0)), members }))
    }

    async fn member_promote(
        &self,
        request: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        let members = self.change(MemberChange::Promote { id: request.into_inner().id }).await?.members;
        Ok(Response::new(MemberPromoteResponse { header: Some(self.header(0)), members }))
    }
}

impl Front {
    async fn change(&self, change: MemberChange) -> Result<MembersChanged, Status> {
        self.node.change_members(change).await.map_err(refuse)
    }
}
