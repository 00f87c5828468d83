//! The one answer to «may they?».

use proa_etcd_api::EtcdError;
use proa_etcd_api::command::Requester;

use super::needs::Need;
use super::ranges::{End, Ranges};
use super::{AuthState, User};
use crate::keys;
use crate::view::View;

/// Lets a request in, or says why not.
///
/// `needs` is all that the request touches, see [`super::needs`]; `view` is
/// the state it will work on. Everything that is not allowed is refused: an
/// empty list of needs still takes a user.
///
/// # Errors
/// [`EtcdError::UserEmpty`] without a user, [`EtcdError::AuthOldRevision`] if
/// what is known of the user is out of date, [`EtcdError::UserNotFound`] or
/// [`EtcdError::PermissionDenied`].
pub fn authorise(
    auth: &AuthState,
    requester: &Requester,
    needs: &[Need<'_>],
    view: &dyn View,
) -> Result<(), EtcdError> {
    let is_open = !needs.is_empty() && needs.iter().all(|need| *need == Need::Anyone);
    if !auth.is_enabled() || requester.is_member || is_open {
        return Ok(());
    }
    if requester.user.is_empty() || requester.auth_revision == 0 {
        return Err(EtcdError::UserEmpty);
    }
    let Some(user) = auth.users.get(&requester.user) else {
        // etcd tells two stories of a user that was deleted a moment ago.
        let about_keys = |need: &Need<'_>| !matches!(need, Need::Root | Need::OwnUser(_) | Need::OwnRole(_));
        let known = needs.iter().all(about_keys);
        return Err(if known { EtcdError::PermissionDenied } else { EtcdError::UserNotFound });
    };
    if requester.auth_revision < user.stored.secret_revision {
        return Err(EtcdError::AuthOldRevision);
    }
    needs.iter().try_for_each(|need| {
        let is_fresh = requester.auth_revision >= auth.revision();
        match need.is_about_keys() {
            // As etcd: the head of a house may go on while he changes the locks.
            true if !is_fresh => Err(EtcdError::AuthOldRevision),
            true | false if allows(user, &requester.user, need, view) => Ok(()),
            true | false => Err(EtcdError::PermissionDenied),
        }
    })
}

fn allows(user: &User, name: &str, need: &Need<'_>, view: &dyn View) -> bool {
    user.is_root
        || match *need {
            Need::Anyone | Need::User => true,
            Need::Root => false,
            Need::OwnUser(wanted) => name == wanted,
            Need::OwnRole(wanted) => user.stored.roles.iter().any(|role| role == wanted),
            Need::Read(range) => user.reads.cover(range),
            Need::Write(range) => user.writes.cover(range),
            Need::ReadLease(id) => !strays(view, id, &user.reads),
            Need::WriteLease(id) => !strays(view, id, &user.writes),
        }
}

/// Whether a key of the lease lies outside of `allowed`.
///
/// One look for each gap between the allowed ranges: a lease may have a
/// hundred thousand keys, a user has a handful of permissions.
fn strays(view: &dyn View, lease: i64, allowed: &Ranges) -> bool {
    let (prefix, after) = keys::attachments(lease);
    allowed.gaps().into_iter().any(|(from, end)| {
        let end = match end {
            End::Before(end) => [&prefix[..], &end].concat(),
            End::Never => after.clone(),
        };
        view.first(&[&prefix[..], &from].concat(), &end).is_some()
    })
}
