//! What callers of the node give and get: configuration, status, changes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use proa_etcd_api::command::{V2Event, v2_write};
use proa_etcd_api::etcdserverpb::Member;
use proa_etcd_api::mvccpb::Event;
use proa_etcd_store::{AuthState, Head};

use crate::database::StoredView;
use crate::listener::Listen;
use crate::tls::PeerTls;

/// What one member is started with.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Everything the member keeps lies below this folder (`--data-dir`).
    pub data_dir: PathBuf,
    /// This member's human name (`--name`); published to the others.
    pub name: String,
    /// Addresses to accept peers on (host and port of `--listen-peer-urls`).
    pub listen_peers: Vec<Listen>,
    /// How connections among members are encrypted.
    pub peer_tls: PeerTls,
    /// Peer URLs the others reach this member at
    /// (`--initial-advertise-peer-urls`); used when the data dir is new.
    pub advertise_peer_urls: Vec<String>,
    /// Client URLs published to the others (`--advertise-client-urls`).
    pub advertise_client_urls: Vec<String>,
    /// How the cluster comes to be when the data dir is new.
    pub bootstrap: Bootstrap,
    /// Time between two raft ticks in milliseconds (`--heartbeat-interval`).
    pub heartbeat_ms: u64,
    /// Time without a leader after which a member stands for election, in
    /// milliseconds (`--election-timeout`); at least five heartbeats.
    pub election_ms: u64,
    /// Entries behind which the log is compacted (`--snapshot-count`).
    pub snapshot_count: u64,
    /// Changes of the membership that endanger the quorum are refused
    /// (`--strict-reconfig-check`).
    pub strict_reconfig: bool,
}

/// How a member with a new data dir finds its cluster.
#[derive(Clone, Debug)]
pub enum Bootstrap {
    /// The data dir must hold a member already.
    Existing,
    /// The data dir must hold a member already, which goes on without the others:
    /// `--force-new-cluster`.
    Alone,
    /// All first members are known: `--initial-cluster` with state `new`.
    New {
        /// `--initial-cluster-token`.
        token: String,
        /// `--initial-cluster`: name to peer URLs, this member included.
        members: BTreeMap<String, Vec<String>>,
    },
    /// The members found each other on the network.
    Founded(proa_etcd_replica::Founded),
    /// The cluster runs and has added this member: `--initial-cluster` with
    /// state `existing`.
    Join {
        /// Peer URLs of others, of which at least one must answer.
        others: Vec<String>,
    },
}

/// One consistent state to read from: data, counters and raft position agree.
pub struct ReadView {
    /// The database as of `applied`.
    pub view: Arc<dyn StoredView>,
    /// Revisions and other counters as of `applied`.
    pub head: Head,
    /// Who may do what as of `applied`.
    pub auth: Arc<AuthState>,
    /// Raft index of the last entry in this state.
    pub applied: u64,
}

/// How far users and permissions are: a new value for every change of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuthStamp {
    /// Whether requests need a user.
    pub is_enabled: bool,
    /// The auth revision.
    pub revision: u64,
}

/// Where this member stands; a new value for every change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Cluster id, as in every response header.
    pub cluster_id: u64,
    /// This member's id.
    pub member_id: u64,
    /// The leader's id; 0 while there is none.
    pub leader_id: u64,
    /// Raft term.
    pub term: u64,
    /// Last raft index known to be committed.
    pub committed: u64,
    /// Last raft index in the database.
    pub applied: u64,
    /// Whether this member is the leader.
    pub is_leader: bool,
    /// Whether this member has no vote.
    pub is_learner: bool,
    /// Why this member stopped for good; the process must end.
    pub stopped: Option<Arc<str>>,
}

/// A change of the cluster's membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// Adds a member that will start at these peer URLs.
    Add {
        /// Peer URLs of the new member.
        peer_urls: Vec<String>,
        /// Whether it starts without a vote.
        learner: bool,
    },
    /// Removes a member for good; its id never comes back.
    Remove {
        /// The member to remove.
        id: u64,
    },
    /// Replaces a member's peer URLs.
    Update {
        /// The member to change.
        id: u64,
        /// Its new peer URLs.
        peer_urls: Vec<String>,
    },
    /// Gives a learner its vote.
    Promote {
        /// The learner.
        id: u64,
    },
}

/// The membership after a change.
#[derive(Clone, Debug, PartialEq)]
pub struct MembersChanged {
    /// The member added, removed, updated or promoted.
    pub member: Member,
    /// All members after the change, by id.
    pub members: Vec<Member>,
}

/// Gets every revision's events, on the applying thread, in revision order.
pub trait EventSink: Send + Sync {
    /// Whether somebody wants to know what was there before each event. Asked
    /// before a run of entries is applied.
    fn wants_previous(&self) -> bool;

    /// Takes the events of a revision, and whether they tell what was there before.
    ///
    /// No events with a revision: a snapshot has replaced the state, and what
    /// happened up to that revision can be read from its history alone.
    fn take(&self, revision: i64, events: Arc<Vec<Event>>, with_previous: bool);
}

/// One that is no more than a function, and is told everything.
impl<F: Fn(i64, Arc<Vec<Event>>) + Send + Sync> EventSink for F {
    fn wants_previous(&self) -> bool {
        true
    }

    fn take(&self, revision: i64, events: Arc<Vec<Event>>, _: bool) {
        self(revision, events);
    }
}

/// A user who was given a token; every member is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenGranted {
    /// The user.
    pub user: String,
    /// SHA-256 of the token.
    pub digest: bytes::Bytes,
    /// The auth revision at which it was granted.
    pub revision: u64,
}

/// Takes the tokens that are granted, on the applying thread, before the
/// client that waits for one has it; must be quick.
pub type TokenSink = Box<dyn Fn(TokenGranted) + Send + Sync>;

/// Something that may have changed the v2 tree.
#[derive(Clone, Debug)]
pub enum V2Applied {
    /// A write, and whether it was let through.
    Write(v2_write::Kind, bool),
    /// This happened; the state can be read already.
    Event(Arc<V2Event>),
    /// A snapshot has replaced the tree.
    Replaced,
}

/// Gets everything about v2, on the applying thread, in order.
pub type V2Sink = Box<dyn Fn(V2Applied) + Send + Sync>;

/// Answers a question another member asked this one because it is the leader;
/// called on a network thread and must not block.
pub type Answerer = Box<dyn Fn(bytes::Bytes) -> Result<bytes::Bytes, proa_etcd_api::EtcdError> + Send + Sync>;
