//! What a member gives back: messages, writes, entries to apply, reasons.

use raft::eraftpb::{Entry, HardState, Message};

use crate::cache::Position;
use crate::reads::ReadReady;

/// What this member is at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Follows a leader, or waits for one.
    #[default]
    Follower,
    /// Stands for election.
    Candidate,
    /// Leads.
    Leader,
}

/// Who leads, as this member sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// This member's role.
    pub role: Role,
    /// The leader's id; 0 when unknown.
    pub leader_id: u64,
    /// The current term.
    pub term: u64,
}

/// What must be on the disk, in order of `number`.
#[derive(Debug)]
pub struct Write {
    /// Hand this to [`crate::Replica::persisted`] after the fsync.
    pub number: u64,
    /// Entries to append; the first may overwrite the log's tail.
    pub entries: Vec<Entry>,
    /// Term, vote and commit to keep, when they changed; always there with a
    /// snapshot.
    pub hard_state: Option<HardState>,
    /// A received snapshot to install first: the log starts again after it.
    pub snapshot: Option<Position>,
}

/// A follower needs the whole state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotWanted {
    /// The follower.
    pub to: u64,
    /// The state must include at least this index.
    pub at_least: u64,
    /// The term the request belongs to.
    pub term: u64,
}

/// Everything to do after a batch of inputs.
#[derive(Debug, Default)]
pub struct Output {
    /// Messages that may leave at once, in order.
    pub send: Vec<Message>,
    /// Followers to send a snapshot to.
    pub snapshots: Vec<SnapshotWanted>,
    /// Writes, in order.
    pub writes: Vec<Write>,
    /// Committed entries to apply, in order.
    pub committed: Vec<Entry>,
    /// Reads that may be answered once their index is applied.
    pub reads: Vec<ReadReady>,
    /// The new standing, when it changed.
    pub standing: Option<Standing>,
}

/// Why a proposal was not taken. Nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Another member leads, or none (0).
    #[error("not the leader (leader is {leader_id:x})")]
    NotLeader {
        /// The leader as known here; 0 when unknown.
        leader_id: u64,
    },
    /// Leadership is being handed over.
    #[error("leadership is being transferred")]
    Transferring,
    /// Too much is waiting for a commit.
    #[error("too many uncommitted entries")]
    Full,
    /// A membership change is not applied yet.
    #[error("a membership change is in progress")]
    ChangePending,
    /// The learner's log is too far behind for a vote.
    #[error("the learner has not caught up with the leader")]
    LearnerBehind,
}
