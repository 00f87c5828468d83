//! What a request can be refused with: etcd's texts and gRPC status codes.

/// gRPC status codes as the numbers on the wire.
///
/// Source: grpc/doc/statuscodes.md. Only those the store uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(i32)]
pub enum Code {
    /// The request can never succeed as it is.
    InvalidArgument = 3,
    /// What it names does not exist.
    NotFound = 5,
    /// The user may not.
    PermissionDenied = 7,
    /// A quota or a queue is full.
    ResourceExhausted = 8,
    /// The system is not in a state for it.
    FailedPrecondition = 9,
    /// A revision or a number outside of what there is.
    OutOfRange = 11,
    /// Try again, perhaps elsewhere.
    Unavailable = 14,
    /// Data cannot be trusted.
    DataLoss = 15,
    /// Nobody knows who asks.
    Unauthenticated = 16,
}

macro_rules! errors {
    ($($(#[$doc:meta])+ $name:ident = $code:ident $text:literal;)+) => {
        /// A refusal that a client of the v3 API can see.
        ///
        /// Source: texts and codes of etcd 3.5's `rpctypes`; clients compare
        /// both, so neither is ours to improve.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
        pub enum EtcdError {
            $($(#[$doc])+ #[error($text)] $name,)+
        }

        impl EtcdError {
            /// Every refusal there is.
            pub const ALL: &[EtcdError] = &[$(EtcdError::$name,)+];

            /// The gRPC status code.
            pub const fn code(self) -> Code {
                match self { $(EtcdError::$name => Code::$code,)+ }
            }

            /// The gRPC status message.
            pub const fn text(self) -> &'static str {
                match self { $(EtcdError::$name => $text,)+ }
            }
        }
    };
}

errors! {
    /// The key is empty.
    EmptyKey = InvalidArgument "etcdserver: key is not provided";
    /// `ignore_value` or `ignore_lease` on a key that does not exist.
    KeyNotFound = InvalidArgument "etcdserver: key not found";
    /// A value together with `ignore_value`.
    ValueProvided = InvalidArgument "etcdserver: value is provided";
    /// A lease together with `ignore_lease`.
    LeaseProvided = InvalidArgument "etcdserver: lease is provided";
    /// A transaction with more operations than the server allows.
    TooManyOps = InvalidArgument "etcdserver: too many operations in txn request";
    /// A transaction that puts a key twice, or puts and deletes it.
    DuplicateKey = InvalidArgument "etcdserver: duplicate key given in txn request";
    /// A sort order or sort target that does not exist.
    InvalidSortOption = InvalidArgument "etcdserver: invalid sort option";
    /// The revision is older than the history that is kept.
    Compacted = OutOfRange "etcdserver: mvcc: required revision has been compacted";
    /// The revision has not happened yet.
    FutureRevision = OutOfRange "etcdserver: mvcc: required revision is a future revision";
    /// The space quota is used up.
    NoSpace = ResourceExhausted "etcdserver: mvcc: database space exceeded";

    /// There is no such lease.
    LeaseNotFound = NotFound "etcdserver: requested lease not found";
    /// A lease with this id exists.
    LeaseExists = FailedPrecondition "etcdserver: lease already exists";
    /// The wanted time to live is beyond 9 000 000 000 s.
    LeaseTtlTooLarge = OutOfRange "etcdserver: too large lease TTL";

    /// A member with this id exists.
    MemberExists = FailedPrecondition "etcdserver: member ID already exist";
    /// Another member has one of these peer URLs.
    PeerUrlExists = FailedPrecondition "etcdserver: Peer URLs already exists";
    /// The change would leave too few started members.
    MemberNotEnoughStarted = FailedPrecondition "etcdserver: re-configuration failed due to not enough started members";
    /// The URLs cannot be used.
    MemberBadUrls = InvalidArgument "etcdserver: given member URLs are invalid";
    /// There is no such member.
    MemberNotFound = NotFound "etcdserver: member not found";
    /// The member to promote is no learner.
    MemberNotLearner = FailedPrecondition "etcdserver: can only promote a learner member";
    /// The learner to promote lags behind the leader.
    LearnerNotReady = FailedPrecondition "etcdserver: can only promote a learner member which is in sync with leader";
    /// The cluster has as many learners as it may.
    TooManyLearners = FailedPrecondition "etcdserver: too many learner members in cluster";

    /// The request has more bytes than the server allows.
    RequestTooLarge = InvalidArgument "etcdserver: request is too large";
    /// The server has more unfinished requests than it can hold.
    TooManyRequests = ResourceExhausted "etcdserver: too many requests";

    /// The cluster has no leader at the moment.
    NoLeader = Unavailable "etcdserver: no leader";
    /// Only the leader can do this.
    NotLeader = FailedPrecondition "etcdserver: not leader";
    /// The leader changed; whether the request was done is not known.
    LeaderChanged = Unavailable "etcdserver: leader changed";
    /// The server is stopping.
    Stopped = Unavailable "etcdserver: server stopped";
    /// No answer in time; whether the request was done is not known.
    Timeout = Unavailable "etcdserver: request timed out";
    /// No answer in time, and the leader was lost meanwhile.
    TimeoutLeaderFailed = Unavailable "etcdserver: request timed out, possibly due to previous leader failure";
    /// No answer in time, and the connection to the leader was lost meanwhile.
    TimeoutConnectionLost = Unavailable "etcdserver: request timed out, possibly due to connection lost";
    /// Too few members can be reached.
    Unhealthy = Unavailable "etcdserver: unhealthy cluster";
    /// Members disagree on the data.
    Corrupt = DataLoss "etcdserver: corrupt cluster";
    /// A learner does not serve this.
    NotSupportedForLearner = Unavailable "etcdserver: rpc not supported for learner";
    /// The member that is to lead is no voter.
    BadLeaderTransferee = FailedPrecondition "etcdserver: bad leader transferee";
    /// The member that is to lead did not take over in time.
    TimeoutLeaderTransfer = Unavailable "etcdserver: request timed out, leader transfer took too long";
    /// A watcher with this id exists on the stream.
    WatchIdExists = InvalidArgument "mvcc: duplicate watch ID provided on the WatchStream";

    /// Authentication cannot be turned on without the user root.
    RootUserNotExist = FailedPrecondition "etcdserver: root user does not exist";
    /// Nor without that user having the role root.
    RootRoleNotExist = FailedPrecondition "etcdserver: root user does not have root role";
    /// A user with this name exists.
    UserExists = FailedPrecondition "etcdserver: user name already exists";
    /// A user needs a name; and a request needs a user, when authentication is on.
    UserEmpty = InvalidArgument "etcdserver: user name is empty";
    /// There is no such user.
    UserNotFound = FailedPrecondition "etcdserver: user name not found";
    /// A role with this name exists.
    RoleExists = FailedPrecondition "etcdserver: role name already exists";
    /// There is no such role.
    RoleNotFound = FailedPrecondition "etcdserver: role name not found";
    /// A role needs a name.
    RoleEmpty = InvalidArgument "etcdserver: role name is empty";
    /// No such user, or another password.
    AuthFailed = InvalidArgument "etcdserver: authentication failed, invalid user ID or password";
    /// A grant without the permission that is to be granted.
    PermissionNotGiven = InvalidArgument "etcdserver: permission not given";
    /// The user may not do this.
    PermissionDenied = PermissionDenied "etcdserver: permission denied";
    /// The user does not have the role.
    RoleNotGranted = FailedPrecondition "etcdserver: role is not granted to the user";
    /// The role does not have the permission.
    PermissionNotGranted = FailedPrecondition "etcdserver: permission is not granted to the role";
    /// Nobody can log in while authentication is off.
    AuthNotEnabled = FailedPrecondition "etcdserver: authentication is not enabled";
    /// The token is unknown, void or too old.
    InvalidAuthToken = Unauthenticated "etcdserver: invalid auth token";
    /// A change that would lock everybody out, or a range that holds no key.
    InvalidAuthManagement = InvalidArgument "etcdserver: invalid auth management";
    /// Users, roles or permissions have changed since the request was let in.
    AuthOldRevision = InvalidArgument "etcdserver: revision of auth store is old";
}

impl EtcdError {
    /// The refusal that has this status message, if it is one of ours.
    pub fn from_text(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|error| error.text() == text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_names_one_error() {
        for error in EtcdError::ALL {
            assert_eq!(EtcdError::from_text(error.text()), Some(*error));
            assert_eq!(error.to_string(), error.text());
        }
        assert_eq!(EtcdError::from_text("etcdserver: "), None);
    }

    #[test]
    fn codes_are_the_numbers_on_the_wire() {
        let cases = [
            (EtcdError::EmptyKey, 3),
            (EtcdError::LeaseNotFound, 5),
            (EtcdError::PermissionDenied, 7),
            (EtcdError::NoSpace, 8),
            (EtcdError::LeaseExists, 9),
            (EtcdError::Compacted, 11),
            (EtcdError::NoLeader, 14),
            (EtcdError::Corrupt, 15),
            (EtcdError::InvalidAuthToken, 16),
        ];
        for (error, want) in cases {
            assert_eq!(error.code() as i32, want, "{error}");
        }
    }
}
