//! The client of the store that every other part uses.
//!
//! Every call has a deadline, and every call may end as [`Error::Unavailable`]:
//! that is an ordinary state of a cluster, not a reason to end a process.

mod call;
mod dial;
mod endpoint;
mod error;
mod keep_alive;
mod login;
mod pb;
mod queue;
mod route;
mod socket;
pub mod srv;
pub mod tls;
mod watch;

use std::sync::Arc;

pub use call::Timeouts;
use call::{Caller, Repeat};
pub use error::Error;
pub use keep_alive::KeepAlive;
use login::Login;
use pb::{AuthClient, ClusterClient, KvClient, LeaseClient, MaintenanceClient};
pub use proa_etcd_api as api;
use proa_etcd_api::etcdserverpb::{
    AlarmRequest, AlarmResponse, AuthDisableRequest, AuthDisableResponse, AuthEnableRequest,
    AuthEnableResponse, AuthRoleAddRequest, AuthRoleAddResponse, AuthRoleDeleteRequest,
    AuthRoleDeleteResponse, AuthRoleGetRequest, AuthRoleGetResponse, AuthRoleGrantPermissionRequest,
    AuthRoleGrantPermissionResponse, AuthRoleListRequest, AuthRoleListResponse,
    AuthRoleRevokePermissionRequest, AuthRoleRevokePermissionResponse, AuthStatusRequest, AuthStatusResponse,
    AuthUserAddRequest, AuthUserAddResponse, AuthUserChangePasswordRequest, AuthUserChangePasswordResponse,
    AuthUserDeleteRequest, AuthUserDeleteResponse, AuthUserGetRequest, AuthUserGetResponse,
    AuthUserGrantRoleRequest, AuthUserGrantRoleResponse, AuthUserListRequest, AuthUserListResponse,
    AuthUserRevokeRoleRequest, AuthUserRevokeRoleResponse, CompactionRequest, CompactionResponse,
    DefragmentRequest, DefragmentResponse, DeleteRangeRequest, DeleteRangeResponse, HashKvRequest,
    HashKvResponse, LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseLeasesRequest, LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
    MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse,
    MemberUpdateRequest, MemberUpdateResponse, MoveLeaderRequest, MoveLeaderResponse, PutRequest,
    PutResponse, RangeRequest, RangeResponse, SnapshotRequest, SnapshotResponse, StatusRequest,
    StatusResponse, TxnRequest, TxnResponse,
};
use prost::bytes::Bytes;
pub use queue::{Place, key_of};
pub use socket::Socket;
pub use tonic::Code;
use tonic::transport::Channel;
pub use watch::{Watch, WatchItem, WatchOptions};

/// The key and the range end that together name every key with `prefix`.
///
/// Source: etcd's API, `RangeRequest.range_end`: the prefix with its last byte
/// plus one; `"\0"` stands for "no end" and, as key, for the first key.
pub fn prefix_range(prefix: &[u8]) -> (Bytes, Bytes) {
    let all = Bytes::from_static(&[0]);
    if prefix.is_empty() {
        return (all.clone(), all);
    }
    let mut end = prefix.to_vec();
    // A trailing 0xff has no successor: the byte before it counts.
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return (Bytes::copy_from_slice(prefix), end.into());
        }
    }
    (Bytes::copy_from_slice(prefix), all)
}

/// A client of the store: cheap to clone, connects at first use, and moves to
/// the next endpoint when one does not answer.
///
/// A call must be made inside a tokio runtime. Requests that change something
/// are sent a second time only when the first certainly reached no member; see
/// [`Error::Unavailable`].
#[derive(Clone)]
pub struct Client {
    caller: Arc<Caller>,
}

/// A snapshot that is being received.
pub struct Snapshot {
    pieces: tonic::Streaming<SnapshotResponse>,
}

impl Snapshot {
    /// The next piece; `None` behind the last.
    ///
    /// # Errors
    /// What has come so far is no snapshot.
    pub async fn next(&mut self) -> Result<Option<SnapshotResponse>, Error> {
        self.pieces.message().await.map_err(error::classify)
    }
}

fn kv(channel: Channel) -> KvClient<Channel> {
    KvClient::new(channel).max_decoding_message_size(usize::MAX)
}

fn lease(channel: Channel) -> LeaseClient<Channel> {
    LeaseClient::new(channel).max_decoding_message_size(usize::MAX)
}

fn auth(channel: Channel) -> AuthClient<Channel> {
    AuthClient::new(channel)
}

fn cluster(channel: Channel) -> ClusterClient<Channel> {
    ClusterClient::new(channel)
}

fn maintenance(channel: Channel) -> MaintenanceClient<Channel> {
    MaintenanceClient::new(channel)
}

/// Defines one call a row: documentation, name, whether it may be repeated,
/// request and answer, service and method.
macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident $repeat:ident $request:ty => $answer:ty, $service:ident;)+) => {$(
        $(#[$doc])*
        ///
        /// # Errors
        /// [`Error::Refused`] with the store's words, or [`Error::Unavailable`].
        pub async fn $name(&self, request: $request) -> Result<$answer, Error> {
            self.caller
                .call(Repeat::$repeat, request, |channel, request| async move {
                    $service(channel).$name(request).await
                })
                .await
        }
    )+};
}

impl Client {
    /// A client of the members at `endpoints` (`http://HOST:PORT`, or `https` to
    /// members that the system's CAs vouch for), with the usual deadlines.
    /// Nothing is sent before the first call.
    ///
    /// # Errors
    /// [`Error::BadEndpoint`] when there is none or one is not such a URL.
    pub fn connect(endpoints: &[String]) -> Result<Self, Error> {
        Self::with_timeouts(endpoints, Timeouts::default())
    }

    /// As [`Client::connect`], with other deadlines.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn with_timeouts(endpoints: &[String], timeouts: Timeouts) -> Result<Self, Error> {
        Ok(Self { caller: Caller::new(endpoints, timeouts, None)? })
    }

    /// As [`Client::with_timeouts`], with TLS to endpoints that are `https://`
    /// or have no scheme.
    ///
    /// # Errors
    /// As [`Client::connect`], and [`Error::Tls`] for files that cannot be used.
    pub fn with_tls(endpoints: &[String], timeouts: Timeouts, files: tls::TlsFiles) -> Result<Self, Error> {
        let tls = tls::ClientTls::new(endpoint::grpc_files(files))?;
        Ok(Self { caller: Caller::new(endpoints, timeouts, Some(&tls))? })
    }

    /// The same connections, in the name of a user. The client logs in before
    /// its first request, and again when the store refuses its token.
    #[must_use]
    pub fn as_user(&self, name: &str, password: &str) -> Self {
        let Caller { members, timeouts, .. } = &*self.caller;
        let login = Some(Login::new(name, password));
        Self { caller: Arc::new(Caller { members: Arc::clone(members), timeouts: *timeouts, login }) }
    }

    /// Lets this client, and all its clones, ask the other members of the
    /// cluster while none of its endpoints answers. It reads their client URLs
    /// from the member list, and goes back to its endpoints when one of them
    /// serves again.
    #[must_use]
    pub fn falling_back(self) -> Self {
        self.caller.members.allow_away();
        self
    }

    /// The other members that [`Client::falling_back`] has found.
    pub fn fallback_endpoints(&self) -> Vec<String> {
        self.caller.members.learned()
    }

    calls! {
        /// Reads keys.
        range Safe RangeRequest => RangeResponse, kv;
        /// Writes one key.
        put IfUnsent PutRequest => PutResponse, kv;
        /// Deletes keys.
        delete_range IfUnsent DeleteRangeRequest => DeleteRangeResponse, kv;
        /// Compares and then does one of two lists of operations, as one step.
        txn IfUnsent TxnRequest => TxnResponse, kv;
        /// Forgets history before a revision.
        compact IfUnsent CompactionRequest => CompactionResponse, kv;
        /// Makes a lease.
        lease_grant IfUnsent LeaseGrantRequest => LeaseGrantResponse, lease;
        /// Ends a lease and deletes its keys.
        lease_revoke IfUnsent LeaseRevokeRequest => LeaseRevokeResponse, lease;
        /// How long a lease has to live, and optionally its keys.
        lease_time_to_live Safe LeaseTimeToLiveRequest => LeaseTimeToLiveResponse, lease;
        /// All leases.
        lease_leases Safe LeaseLeasesRequest => LeaseLeasesResponse, lease;
        /// The members of the cluster.
        member_list Safe MemberListRequest => MemberListResponse, cluster;
        /// Adds a member, that may be started after this.
        member_add IfUnsent MemberAddRequest => MemberAddResponse, cluster;
        /// Removes a member.
        member_remove IfUnsent MemberRemoveRequest => MemberRemoveResponse, cluster;
        /// Changes the peer URLs of a member.
        member_update IfUnsent MemberUpdateRequest => MemberUpdateResponse, cluster;
        /// Makes a learner a voter.
        member_promote IfUnsent MemberPromoteRequest => MemberPromoteResponse, cluster;
        /// How the asked member is: give the client one endpoint to choose it.
        status Safe StatusRequest => StatusResponse, maintenance;
        /// Raised alarms, or raising and clearing one.
        alarm IfUnsent AlarmRequest => AlarmResponse, maintenance;
        /// Gives space of deleted data back.
        defragment IfUnsent DefragmentRequest => DefragmentResponse, maintenance;
        /// A checksum over the keys of the asked member at one revision.
        hash_kv Safe HashKvRequest => HashKvResponse, maintenance;
        /// Makes another member the leader.
        move_leader IfUnsent MoveLeaderRequest => MoveLeaderResponse, maintenance;
        /// Turns authentication on.
        auth_enable IfUnsent AuthEnableRequest => AuthEnableResponse, auth;
        /// Turns authentication off.
        auth_disable IfUnsent AuthDisableRequest => AuthDisableResponse, auth;
        /// Whether authentication is on.
        auth_status Safe AuthStatusRequest => AuthStatusResponse, auth;
        /// Adds a user.
        user_add IfUnsent AuthUserAddRequest => AuthUserAddResponse, auth;
        /// A user's roles.
        user_get Safe AuthUserGetRequest => AuthUserGetResponse, auth;
        /// All users.
        user_list Safe AuthUserListRequest => AuthUserListResponse, auth;
        /// Deletes a user.
        user_delete IfUnsent AuthUserDeleteRequest => AuthUserDeleteResponse, auth;
        /// Changes a password.
        user_change_password IfUnsent AuthUserChangePasswordRequest => AuthUserChangePasswordResponse, auth;
        /// Gives a role to a user.
        user_grant_role IfUnsent AuthUserGrantRoleRequest => AuthUserGrantRoleResponse, auth;
        /// Takes a role from a user.
        user_revoke_role IfUnsent AuthUserRevokeRoleRequest => AuthUserRevokeRoleResponse, auth;
        /// Adds a role.
        role_add IfUnsent AuthRoleAddRequest => AuthRoleAddResponse, auth;
        /// A role's permissions.
        role_get Safe AuthRoleGetRequest => AuthRoleGetResponse, auth;
        /// All roles.
        role_list Safe AuthRoleListRequest => AuthRoleListResponse, auth;
        /// Deletes a role.
        role_delete IfUnsent AuthRoleDeleteRequest => AuthRoleDeleteResponse, auth;
        /// Gives a permission to a role, or changes it.
        role_grant_permission IfUnsent AuthRoleGrantPermissionRequest => AuthRoleGrantPermissionResponse, auth;
        /// Takes a permission from a role.
        role_revoke_permission IfUnsent AuthRoleRevokePermissionRequest => AuthRoleRevokePermissionResponse, auth;
    }

    /// Begins a snapshot of the asked member's database, in pieces; the last is
    /// the SHA-256 of all before it. Read it with [`Snapshot::next`].
    ///
    /// # Errors
    /// As every call.
    pub async fn snapshot(&self) -> Result<Snapshot, Error> {
        let send = |channel, request| async move { maintenance(channel).snapshot(request).await };
        Ok(Snapshot { pieces: self.caller.call(Repeat::Safe, SnapshotRequest {}, send).await? })
    }

    /// Gives a lease its whole time to live again, once. The answer's `ttl` is
    /// in seconds; it is 0 when there is no such lease (any more).
    ///
    /// # Errors
    /// [`Error::Unavailable`] when no member answered.
    pub async fn lease_keep_alive_once(&self, id: i64) -> Result<LeaseKeepAliveResponse, Error> {
        keep_alive_once(&self.caller, id).await
    }

    /// Renews a lease again and again, for as long as the answer is held.
    pub fn keep_alive(&self, id: i64) -> KeepAlive {
        KeepAlive::start(Arc::clone(&self.caller), id)
    }

    /// Watches `key`, or `key..range_end` when `range_end` is not empty, from
    /// `from_revision` on; 0 means from now on.
    pub fn watch(&self, key: impl Into<Bytes>, range_end: impl Into<Bytes>, from_revision: i64) -> Watch {
        let options = WatchOptions { from_revision, ..WatchOptions::default() };
        self.watch_with(key, range_end, options)
    }

    /// As [`Client::watch`], with every choice that the store offers.
    pub fn watch_with(
        &self,
        key: impl Into<Bytes>,
        range_end: impl Into<Bytes>,
        options: WatchOptions,
    ) -> Watch {
        Watch::start(Arc::clone(&self.caller), key.into(), range_end.into(), options)
    }
}

async fn keep_alive_once(caller: &Caller, id: i64) -> Result<LeaseKeepAliveResponse, Error> {
    let answers = caller
        .call(Repeat::Safe, id, |channel, request| async move {
            let one = request.map(|id| tokio_stream::once(LeaseKeepAliveRequest { id }));
            let mut answers = lease(channel).lease_keep_alive(one).await?.into_inner();
            Ok(tonic::Response::new(answers.message().await?))
        })
        .await?;
    answers.ok_or_else(|| Error::Protocol("a keep-alive got no answer".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_range_covers_exactly_the_prefix() {
        #[rustfmt::skip]
        let rows: [(&[u8], &[u8], &[u8]); 5] = [
            (b"a",        b"a",        b"b"),
            (b"/fleet/",  b"/fleet/",  b"/fleet0"),
            (b"a\xff",    b"a\xff",    b"b"),
            (b"\xff\xff", b"\xff\xff", b"\0"),
            (b"",         b"\0",       b"\0"),
        ];
        for (prefix, key, end) in rows {
            assert_eq!(prefix_range(prefix), (key.into(), end.into()), "{prefix:?}");
        }
    }
}
