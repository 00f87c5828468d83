//! Users, roles and logging in.

use proa_etcd_api::EtcdError;
use proa_etcd_api::command::auth_change::Change;
use proa_etcd_api::command::{AuthChange, command::Op};
use proa_etcd_api::etcdserverpb::*;
use proa_etcd_store::{AuthState, Need, Reply};
use tonic::{Request, Response, Status};

use super::pb::auth_server::Auth;
use super::{Front, refuse, unexpected};

/// The service: first the calls that change something and answer with a header
/// only, one a row; then the others.
macro_rules! service {
    (
        changes { $($name:ident $request:ident => $response:ident, $change:ident;)+ }
        others { $($others:tt)+ }
    ) => {
        #[tonic::async_trait]
        impl Auth for Front {
            $(async fn $name(&self, request: Request<$request>) -> Result<Response<$response>, Status> {
                let by = self.caller(&request).await?;
                let header = self.change_auth(&by, Change::$change(request.into_inner())).await?;
                Ok(Response::new($response { header }))
            })+

            $($others)+
        }
    };
}

service! {
    changes {
        auth_enable AuthEnableRequest => AuthEnableResponse, Enable;
        auth_disable AuthDisableRequest => AuthDisableResponse, Disable;
        user_delete AuthUserDeleteRequest => AuthUserDeleteResponse, UserDelete;
        user_grant_role AuthUserGrantRoleRequest => AuthUserGrantRoleResponse, UserGrantRole;
        user_revoke_role AuthUserRevokeRoleRequest => AuthUserRevokeRoleResponse, UserRevokeRole;
        role_add AuthRoleAddRequest => AuthRoleAddResponse, RoleAdd;
        role_delete AuthRoleDeleteRequest => AuthRoleDeleteResponse, RoleDelete;
        role_grant_permission AuthRoleGrantPermissionRequest => AuthRoleGrantPermissionResponse, RoleGrantPermission;
        role_revoke_permission AuthRoleRevokePermissionRequest => AuthRoleRevokePermissionResponse, RoleRevokePermission;
    }
    others {
        async fn user_add(
            &self,
            request: Request<AuthUserAddRequest>,
        ) -> Result<Response<AuthUserAddResponse>, Status> {
            let by = self.caller(&request).await?;
            self.admit_now(&by, &[Need::Root])?;
            let mut request = request.into_inner();
            let password = std::mem::take(&mut request.password);
            request.hashed_password = match request.options.is_some_and(|options| options.no_password) {
                true => String::new(),
                false => self.hash(&password).await?,
            };
            let header = self.change_auth(&by, Change::UserAdd(request)).await?;
            Ok(Response::new(AuthUserAddResponse { header }))
        }

        async fn user_change_password(
            &self,
            request: Request<AuthUserChangePasswordRequest>,
        ) -> Result<Response<AuthUserChangePasswordResponse>, Status> {
            let by = self.caller(&request).await?;
            self.admit_now(&by, &[Need::Root])?;
            let mut request = request.into_inner();
            let password = std::mem::take(&mut request.password);
            // As in etcd, without a password none is right from now on.
            request.hashed_password = match password.is_empty() {
                true => String::new(),
                false => self.hash(&password).await?,
            };
            let header = self.change_auth(&by, Change::UserChangePassword(request)).await?;
            Ok(Response::new(AuthUserChangePasswordResponse { header }))
        }

        async fn auth_status(
            &self,
            request: Request<AuthStatusRequest>,
        ) -> Result<Response<AuthStatusResponse>, Status> {
            let found = self.look(&request, &[Need::Root], |auth| Ok((auth.is_enabled(), auth.revision())));
            let (header, (enabled, auth_revision)) = found.await?;
            Ok(Response::new(AuthStatusResponse { header, enabled, auth_revision }))
        }

        async fn authenticate(
            &self,
            request: Request<AuthenticateRequest>,
        ) -> Result<Response<AuthenticateResponse>, Status> {
            let AuthenticateRequest { name, password } = request.into_inner();
            let token = self.auth.authenticate(&name, &password).await.map_err(refuse)?;
            let header = Some(self.header(self.node.view().head.revision));
            Ok(Response::new(AuthenticateResponse { header, token }))
        }

        async fn user_get(
            &self,
            request: Request<AuthUserGetRequest>,
        ) -> Result<Response<AuthUserGetResponse>, Status> {
            let name = &request.get_ref().name;
            let roles = |auth: &AuthState| auth.roles_of(name).map(<[String]>::to_vec);
            let needs = [Need::OwnUser(name)];
            let found = self.look(&request, &needs, |auth| roles(auth).ok_or(EtcdError::UserNotFound));
            let (header, roles) = found.await?;
            Ok(Response::new(AuthUserGetResponse { header, roles }))
        }

        async fn user_list(
            &self,
            request: Request<AuthUserListRequest>,
        ) -> Result<Response<AuthUserListResponse>, Status> {
            let users = |auth: &AuthState| Ok(auth.users().map(str::to_owned).collect());
            let (header, users) = self.look(&request, &[Need::Root], users).await?;
            Ok(Response::new(AuthUserListResponse { header, users }))
        }

        async fn role_get(
            &self,
            request: Request<AuthRoleGetRequest>,
        ) -> Result<Response<AuthRoleGetResponse>, Status> {
            let role = &request.get_ref().role;
            let needs = [Need::OwnRole(role)];
            let permissions = |auth: &AuthState| auth.permissions(role).ok_or(EtcdError::RoleNotFound);
            let (header, perm) = self.look(&request, &needs, permissions).await?;
            Ok(Response::new(AuthRoleGetResponse { header, perm }))
        }

        async fn role_list(
            &self,
            request: Request<AuthRoleListRequest>,
        ) -> Result<Response<AuthRoleListResponse>, Status> {
            let roles = |auth: &AuthState| Ok(auth.roles().map(str::to_owned).collect());
            let (header, roles) = self.look(&request, &[Need::Root], roles).await?;
            Ok(Response::new(AuthRoleListResponse { header, roles }))
        }
    }
}

impl Front {
    async fn change_auth(
        &self,
        by: &proa_etcd_api::command::Requester,
        change: Change,
    ) -> Result<Option<ResponseHeader>, Status> {
        match self.propose(by, Op::Auth(AuthChange { change: Some(change) })).await? {
            Reply::Auth => Ok(Some(self.header(self.node.view().head.revision))),
            other => Err(unexpected(&other)),
        }
    }

    /// Reads the newest users and roles.
    async fn look<Q: Sync, T>(
        &self,
        request: &Request<Q>,
        needs: &[Need<'_>],
        look: impl FnOnce(&AuthState) -> Result<T, EtcdError>,
    ) -> Result<(Option<ResponseHeader>, T), Status> {
        let by = self.caller(request).await?;
        self.node.linearizable().await.map_err(refuse)?;
        let now = self.node.view();
        self.auth.admit(&by, needs, &now).map_err(refuse)?;
        let found = look(&now.auth).map_err(refuse)?;
        Ok((Some(self.header(now.head.revision)), found))
    }

    async fn hash(&self, password: &str) -> Result<String, Status> {
        let hash = self.auth.hash(password).await.map_err(refuse)?;
        hash.map_err(|too_long| Status::invalid_argument(too_long.to_string()))
    }
}
