//! How a member is set up, and the check of what it finds on its disk.

use raft::eraftpb::{ConfState, Entry, HardState};

use crate::cache::Position;

/// Settings of one member.
#[derive(Clone, Debug)]
pub struct Config {
    /// This member's id; not 0.
    pub id: u64,
    /// Ticks without a leader before standing for election; at least 5. A tick
    /// is one heartbeat interval. The real value is drawn from this to twice
    /// this, anew for each term.
    pub election_ticks: usize,
    /// Makes the drawn election timeouts differ between members.
    pub seed: u64,
    /// Different at every start of this member: part of each read's context,
    /// so that an answer to an earlier life is never taken for one to this.
    pub boot_nonce: u64,
    /// Bytes of applied entries kept in memory for slow followers.
    pub cache_bytes: usize,
    /// Number of applied entries kept in memory for slow followers.
    pub cache_entries: usize,
    /// Bytes of entries that may wait to be applied before a follower stops
    /// taking more from its leader.
    pub unapplied_bytes: usize,
}

impl Config {
    /// Defaults for `id`: etcd's timing, 64 MiB or 10 000 entries of cache.
    pub fn new(id: u64) -> Self {
        Self {
            id,
            election_ticks: 10,
            seed: id,
            boot_nonce: 0,
            cache_bytes: 64 << 20,
            cache_entries: 10_000,
            unapplied_bytes: 256 << 20,
        }
    }

    pub(crate) fn raft(&self, applied: u64) -> raft::Config {
        raft::Config {
            id: self.id,
            election_tick: self.election_ticks,
            heartbeat_tick: 1,
            applied,
            // etcd's own limit; 0, the library's default, sends one entry at a time.
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 512,
            check_quorum: true,
            pre_vote: true,
            // raft-rs merges appends without a limit on their size; one message
            // must fit a peer frame.
            batch_append: false,
            max_uncommitted_size: 64 << 20,
            max_committed_size_per_ready: 16 << 20,
            ..raft::Config::default()
        }
    }
}

/// What a member knows from its disk when it starts.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// Term and vote of the log. Its commit index may be old.
    pub hard_state: HardState,
    /// Members as of `applied`, from the database.
    pub conf_state: ConfState,
    /// The entry before the log's first one.
    pub log_base: Position,
    /// All entries of the log, in order.
    pub entries: Vec<Entry>,
    /// What the database holds: it never runs ahead of the synced log.
    pub applied: Position,
}

/// Why a member must not start with what is on its disk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// The database holds entries that the log never reached.
    #[error(
        "the log ends at index {log} but the database holds index {applied}: acknowledged entries were lost; remove this member from the cluster and add it again with an empty data dir"
    )]
    LogLost {
        /// Last index of the log.
        log: u64,
        /// Index the database holds.
        applied: u64,
    },
    /// The log no longer has the entries the database needs next.
    #[error(
        "the log starts after index {log} but the database holds only index {applied}: the entries between are gone; remove this member from the cluster and add it again with an empty data dir"
    )]
    DatabaseLost {
        /// The entry before the log's first.
        log: u64,
        /// Index the database holds.
        applied: u64,
    },
    /// Log and database do not belong together.
    #[error(
        "index {index} has term {log_term} in the log and {applied_term} in the database: they are not of one member"
    )]
    Mixed {
        /// Applied index.
        index: u64,
        /// Its term in the log.
        log_term: u64,
        /// Its term in the database.
        applied_term: u64,
    },
    /// The log's entries have a gap or a term that goes down.
    #[error("the log has index {found} of term {term} after index {after}")]
    Disordered {
        /// Index before the fault.
        after: u64,
        /// Index found.
        found: u64,
        /// Term found.
        term: u64,
    },
    /// The log's term is older than its entries.
    #[error("the log holds an entry of term {entry_term} but knows only term {term}: its vote was lost")]
    VoteLost {
        /// Term of the last entry.
        entry_term: u64,
        /// Term of the hard state.
        term: u64,
    },
    /// raft refused the configuration.
    #[error("raft refused to start: {0}")]
    Refused(String),
}

impl Start {
    /// The last position of the log.
    pub fn log_end(&self) -> Position {
        self.entries.last().map_or(self.log_base, Position::of)
    }

    /// Whether the log has an entry at this position, or begins after it.
    pub fn log_holds(&self, position: Position) -> bool {
        self.log_base == position || self.entries.iter().any(|entry| Position::of(entry) == position)
    }

    /// Refuses a start that would forget what this member has acknowledged.
    ///
    /// raft-rs would panic later, or worse, vote again.
    ///
    /// # Errors
    ///
    /// The first broken rule.
    pub fn check(&self) -> Result<(), StartError> {
        let mut last = self.log_base;
        for entry in &self.entries {
            if entry.index != last.index + 1 || entry.term < last.term {
                let (after, found, term) = (last.index, entry.index, entry.term);
                return Err(StartError::Disordered { after, found, term });
            }
            last = Position::of(entry);
        }
        let applied = self.applied.index;
        if applied > last.index {
            return Err(StartError::LogLost { log: last.index, applied });
        }
        // A commit index is synced with or after the entries it covers.
        if self.hard_state.commit > last.index {
            return Err(StartError::LogLost { log: last.index, applied: self.hard_state.commit });
        }
        if applied < self.log_base.index {
            return Err(StartError::DatabaseLost { log: self.log_base.index, applied });
        }
        let log_term = match applied.checked_sub(self.log_base.index + 1) {
            None => self.log_base.term,
            Some(at) => self.entries[at as usize].term,
        };
        if log_term != self.applied.term {
            return Err(StartError::Mixed { index: applied, log_term, applied_term: self.applied.term });
        }
        if self.hard_state.term < last.term {
            return Err(StartError::VoteLost { entry_term: last.term, term: self.hard_state.term });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(base: (u64, u64), terms: &[u64], applied: (u64, u64), term: u64) -> Result<(), StartError> {
        let at = |(index, term)| Position { index, term };
        let entries = (base.0 + 1..)
            .zip(terms)
            .map(|(index, &term)| Entry { index, term, ..Entry::default() })
            .collect();
        let hard_state = HardState { term, ..HardState::default() };
        let start =
            Start { hard_state, log_base: at(base), entries, applied: at(applied), ..Start::default() };
        start.check()
    }

    #[test]
    #[rustfmt::skip]
    fn a_member_with_a_hole_in_its_memory_is_refused() {
        let cases = [
            ("fresh",              (1, 1), &[][..],     (1, 1), 1, Ok(())),
            ("usual",              (1, 1), &[1, 2, 2],  (3, 2), 5, Ok(())),
            ("log emptied",        (1, 1), &[],         (9, 2), 5, Err(StartError::LogLost { log: 1, applied: 9 })),
            ("log cut",            (1, 1), &[1, 2],     (4, 2), 5, Err(StartError::LogLost { log: 3, applied: 4 })),
            ("database emptied",   (5, 2), &[2],        (1, 1), 5, Err(StartError::DatabaseLost { log: 5, applied: 1 })),
            ("log of another",     (1, 1), &[1, 3],     (3, 2), 5, Err(StartError::Mixed { index: 3, log_term: 3, applied_term: 2 })),
            ("vote lost",          (1, 1), &[1, 3],     (3, 3), 2, Err(StartError::VoteLost { entry_term: 3, term: 2 })),
            ("terms go down",      (1, 1), &[3, 2],     (1, 1), 5, Err(StartError::Disordered { after: 2, found: 3, term: 2 })),
        ];
        for (name, base, terms, applied, term, want) in cases {
            assert_eq!(start(base, terms, applied, term), want, "{name}");
        }
    }
}
