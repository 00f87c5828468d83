//! Changes of users, roles and permissions.
//!
//! Source of each rule and its order: etcd 3.5's `authStore`.

use proa_etcd_api::EtcdError;
use proa_etcd_api::authpb::Role;
use proa_etcd_api::command::auth_change::Change;
use proa_etcd_api::command::{AuthHead, AuthUser, TokenGrant};
use proa_etcd_api::etcdserverpb::{
    AuthRoleGrantPermissionRequest, AuthRoleRevokePermissionRequest, AuthUserAddRequest,
    AuthUserChangePasswordRequest,
};
use prost::Message;

use super::ranges::KeyRange;
use super::{AuthState, ROOT};
use crate::keys;
use crate::view::Writes;

impl AuthState {
    /// Does one change. A refused one changes nothing.
    pub(crate) fn change(&mut self, writes: &mut Writes, change: &Change) -> Result<(), EtcdError> {
        match change {
            Change::Enable(_) => self.enable(writes),
            Change::Disable(_) => {
                self.disable(writes);
                Ok(())
            }
            Change::UserAdd(request) => self.add_user(writes, request),
            Change::UserDelete(request) => self.delete_user(writes, &request.name),
            Change::UserChangePassword(request) => self.change_password(writes, request),
            Change::UserGrantRole(request) => self.grant_role(writes, &request.user, &request.role),
            Change::UserRevokeRole(request) => self.revoke_role(writes, &request.name, &request.role),
            Change::RoleAdd(request) => self.add_role(writes, &request.name),
            Change::RoleDelete(request) => self.delete_role(writes, &request.role),
            Change::RoleGrantPermission(request) => self.grant_permission(writes, request),
            Change::RoleRevokePermission(request) => self.revoke_permission(writes, request),
            Change::TokenGrant(grant) => self.grant_token(grant),
        }
    }

    fn enable(&mut self, writes: &mut Writes) -> Result<(), EtcdError> {
        if self.head.enabled {
            return Ok(());
        }
        let root = self.users.get(ROOT).ok_or(EtcdError::RootUserNotExist)?;
        if !root.is_root {
            return Err(EtcdError::RootRoleNotExist);
        }
        self.set_head(writes, AuthHead { enabled: true, ..self.head });
        Ok(())
    }

    fn disable(&mut self, writes: &mut Writes) {
        if self.head.enabled {
            let revision = self.head.revision + 1;
            self.set_head(writes, AuthHead { enabled: false, revision, disabled_revision: revision });
        }
    }

    fn add_user(&mut self, writes: &mut Writes, request: &AuthUserAddRequest) -> Result<(), EtcdError> {
        if request.name.is_empty() {
            return Err(EtcdError::UserEmpty);
        }
        if self.users.contains_key(&request.name) {
            return Err(EtcdError::UserExists);
        }
        let no_password = request.options.is_some_and(|options| options.no_password);
        let password_hash = if no_password { String::new() } else { request.hashed_password.clone() };
        self.bump(writes);
        let secret_revision = self.head.revision;
        let user = AuthUser { password_hash, no_password, secret_revision, ..AuthUser::default() };
        self.set_user(writes, &request.name, user);
        Ok(())
    }

    fn delete_user(&mut self, writes: &mut Writes, name: &str) -> Result<(), EtcdError> {
        if self.head.enabled && name == ROOT {
            return Err(EtcdError::InvalidAuthManagement);
        }
        self.users.remove(name).ok_or(EtcdError::UserNotFound)?;
        writes.delete([keys::AUTH_USER, name.as_bytes()].concat());
        self.bump(writes);
        Ok(())
    }

    fn change_password(
        &mut self,
        writes: &mut Writes,
        request: &AuthUserChangePasswordRequest,
    ) -> Result<(), EtcdError> {
        let mut user = self.stored_user(&request.name)?;
        self.bump(writes);
        if !user.no_password {
            user.password_hash.clone_from(&request.hashed_password);
        }
        user.secret_revision = self.head.revision;
        self.set_user(writes, &request.name, user);
        Ok(())
    }

    fn grant_role(&mut self, writes: &mut Writes, name: &str, role: &str) -> Result<(), EtcdError> {
        let mut user = self.stored_user(name)?;
        // The role root need not have been added.
        if role != ROOT && !self.roles.contains_key(role) {
            return Err(EtcdError::RoleNotFound);
        }
        if let Err(place) = user.roles.binary_search_by(|known| known.as_str().cmp(role)) {
            user.roles.insert(place, role.to_owned());
            self.bump(writes);
            self.set_user(writes, name, user);
        }
        Ok(())
    }

    fn revoke_role(&mut self, writes: &mut Writes, name: &str, role: &str) -> Result<(), EtcdError> {
        if self.head.enabled && name == ROOT && role == ROOT {
            return Err(EtcdError::InvalidAuthManagement);
        }
        let mut user = self.stored_user(name)?;
        let place = user.roles.iter().position(|known| known == role).ok_or(EtcdError::RoleNotGranted)?;
        user.roles.remove(place);
        self.bump(writes);
        self.set_user(writes, name, user);
        Ok(())
    }

    fn add_role(&mut self, writes: &mut Writes, name: &str) -> Result<(), EtcdError> {
        if name.is_empty() {
            return Err(EtcdError::RoleEmpty);
        }
        if self.roles.contains_key(name) {
            return Err(EtcdError::RoleExists);
        }
        self.roles.insert(name.to_owned(), Vec::new());
        self.role_changed(writes, name);
        Ok(())
    }

    fn delete_role(&mut self, writes: &mut Writes, name: &str) -> Result<(), EtcdError> {
        if self.head.enabled && name == ROOT {
            return Err(EtcdError::InvalidAuthManagement);
        }
        self.roles.remove(name).ok_or(EtcdError::RoleNotFound)?;
        writes.delete([keys::AUTH_ROLE, name.as_bytes()].concat());
        for user in self.users_with(name) {
            let mut stored = self.stored_user(&user)?;
            stored.roles.retain(|role| role != name);
            self.set_user(writes, &user, stored);
        }
        self.bump(writes);
        Ok(())
    }

    fn grant_permission(
        &mut self,
        writes: &mut Writes,
        request: &AuthRoleGrantPermissionRequest,
    ) -> Result<(), EtcdError> {
        let given = request.perm.as_ref().ok_or(EtcdError::PermissionNotGiven)?;
        if !KeyRange::new(&given.key, &given.range_end).is_sound() {
            return Err(EtcdError::InvalidAuthManagement);
        }
        let permissions = self.roles.get_mut(&request.name).ok_or(EtcdError::RoleNotFound)?;
        let place = permissions
            .binary_search_by(|known| (&known.key, &known.range_end).cmp(&(&given.key, &given.range_end)));
        match place {
            Ok(place) => permissions[place].perm_type = given.perm_type,
            Err(place) => permissions.insert(place, given.clone()),
        }
        self.role_changed(writes, &request.name);
        Ok(())
    }

    fn revoke_permission(
        &mut self,
        writes: &mut Writes,
        request: &AuthRoleRevokePermissionRequest,
    ) -> Result<(), EtcdError> {
        let permissions = self.roles.get_mut(&request.role).ok_or(EtcdError::RoleNotFound)?;
        let place = permissions
            .iter()
            .position(|known| (&known.key, &known.range_end) == (&request.key, &request.range_end))
            .ok_or(EtcdError::PermissionNotGranted)?;
        permissions.remove(place);
        self.role_changed(writes, &request.role);
        Ok(())
    }

    /// Changes nothing here; what it says is for the members' memories. Refused
    /// if the password that was looked at is not the user's any more.
    fn grant_token(&self, grant: &TokenGrant) -> Result<(), EtcdError> {
        if !self.head.enabled {
            return Err(EtcdError::AuthNotEnabled);
        }
        if !self.users.contains_key(&grant.user) {
            return Err(EtcdError::AuthFailed);
        }
        match self.accepts(&grant.user, grant.checked_revision) {
            true => Ok(()),
            false => Err(EtcdError::AuthOldRevision),
        }
    }

    fn stored_user(&self, name: &str) -> Result<AuthUser, EtcdError> {
        self.users.get(name).map(|user| user.stored.clone()).ok_or(EtcdError::UserNotFound)
    }

    fn users_with(&self, role: &str) -> Vec<String> {
        let has = |roles: &[String]| roles.iter().any(|known| known == role);
        let with = self.users.iter().filter(|(_, user)| has(&user.stored.roles));
        with.map(|(name, _)| name.clone()).collect()
    }

    fn set_user(&mut self, writes: &mut Writes, name: &str, user: AuthUser) {
        writes.put([keys::AUTH_USER, name.as_bytes()].concat(), user.encode_to_vec());
        let user = self.with_rights(user);
        self.users.insert(name.to_owned(), user);
    }

    /// Stores a role as it is known, and works out anew what its users may do.
    fn role_changed(&mut self, writes: &mut Writes, name: &str) {
        let key_permission = self.roles.get(name).cloned().unwrap_or_default();
        let role = Role { name: name.as_bytes().to_vec().into(), key_permission };
        writes.put([keys::AUTH_ROLE, name.as_bytes()].concat(), role.encode_to_vec());
        for user in self.users_with(name) {
            if let Some(known) = self.users.remove(&user) {
                let known = self.with_rights(known.stored);
                self.users.insert(user, known);
            }
        }
        self.bump(writes);
    }
}
