//! Membership changes on their way: one at a time in the log, those behind it
//! wait here, and whoever asked hears what became of each.

use std::collections::{BTreeMap, VecDeque};

use proa_etcd_api::EtcdError;
use proa_etcd_replica::{ProposeError, Role};

use super::core::Core;
use super::membership::Membership;
use super::shared::lock;
use super::types::{MemberChange, MembersChanged};
use crate::metrics::{METRICS, add};

/// Changes that wait for the one before them; each takes one round through the
/// log, so this many take a few seconds.
const MAX_QUEUED: usize = 32;

/// Takes what became of a change; called on the member's own threads.
pub(super) type ChangeDone = Box<dyn FnOnce(Result<MembersChanged, EtcdError>) + Send>;

/// Who waits for which change.
#[derive(Default)]
pub(super) struct Changes {
    /// Numbers changes apart from those of earlier boots and other members.
    pub(super) next_token: u64,
    queued: VecDeque<(MemberChange, ChangeDone)>,
    /// Proposed, by token, with the term of their entry.
    proposed: BTreeMap<u64, (u64, ChangeDone)>,
}

impl Changes {
    /// Who waits for the change with this token.
    pub(super) fn take(&mut self, token: u64) -> Option<ChangeDone> {
        self.proposed.remove(&token).map(|(_, done)| done)
    }

    /// The log has come to an entry of `term`: changes of earlier terms that
    /// were not in it before never will be.
    pub(super) fn lose_before(&mut self, term: u64) {
        let is_lost = |(_, (proposed, _)): &(&u64, &(u64, ChangeDone))| *proposed < term;
        let lost: Vec<u64> = self.proposed.iter().filter(is_lost).map(|(token, _)| *token).collect();
        for done in lost.into_iter().filter_map(|token| self.take(token)) {
            done(Err(EtcdError::LeaderChanged));
        }
    }

    /// Lets everybody go.
    pub(super) fn end(&mut self, error: EtcdError) {
        let proposed = std::mem::take(&mut self.proposed).into_values().map(|(_, done)| done);
        let queued = std::mem::take(&mut self.queued).into_iter().map(|(_, done)| done);
        proposed.chain(queued).for_each(|done| done(Err(error)));
    }
}

/// `done`, which counts a learner that has got its vote.
fn counted(change: &MemberChange, done: ChangeDone) -> ChangeDone {
    if !matches!(change, MemberChange::Promote { .. }) {
        return done;
    }
    Box::new(move |outcome| {
        if outcome.is_ok() {
            add(&METRICS.learners_promoted);
        }
        done(outcome);
    })
}

impl Core {
    pub(super) fn on_change(&mut self, change: MemberChange, done: ChangeDone) {
        if !self.is_leader() {
            done(Err(EtcdError::NotLeader));
        } else if self.state.changes.queued.len() >= MAX_QUEUED {
            done(Err(EtcdError::TooManyRequests));
        } else {
            self.state.changes.queued.push_back((change, done));
        }
    }

    /// Proposes the next change once the one before it is applied: raft takes
    /// only one at a time.
    pub(super) fn start_changes(&mut self) {
        while !self.state.changes.queued.is_empty() {
            if self.is_leader() && self.replica.has_pending_change() {
                return;
            }
            let Some((change, done)) = self.state.changes.queued.pop_front() else { return };
            self.state.changes.next_token = self.state.changes.next_token.wrapping_add(1);
            let token = self.state.changes.next_token;
            match self.propose_change(&change, token) {
                Ok(term) => {
                    let done = counted(&change, done);
                    self.state.changes.proposed.insert(token, (term, done));
                }
                Err(error) => done(Err(error)),
            }
        }
    }

    fn propose_change(&mut self, change: &MemberChange, token: u64) -> Result<u64, EtcdError> {
        if !self.is_leader() {
            return Err(EtcdError::NotLeader);
        }
        if let MemberChange::Promote { id } = change
            && !self.replica.is_caught_up(*id)
        {
            return Err(EtcdError::LearnerNotReady);
        }
        if self.is_strict {
            self.told_membership().permit(change, self.member_id, &|id| self.is_heard(id))?;
        }
        // Who removes itself would leave the others without a leader for an
        // election: another one leads first, and is asked again.
        if *change == (MemberChange::Remove { id: self.member_id })
            && let Some(successor) = self.replica.successor()
        {
            self.replica.transfer_leader(successor);
            return Err(EtcdError::NotLeader);
        }
        let planned = self.membership.plan(change, token, (self.clock)())?;
        let proposed = self.replica.propose_conf_change(&planned).map_err(|error| match error {
            ProposeError::NotLeader { .. } | ProposeError::Transferring => EtcdError::NotLeader,
            ProposeError::Full => EtcdError::TooManyRequests,
            // etcd's word for «one change at a time».
            ProposeError::ChangePending => EtcdError::Unhealthy,
            ProposeError::LearnerBehind => EtcdError::LearnerNotReady,
        })?;
        Ok(proposed.term)
    }

    /// The membership with what members have said about themselves, which only
    /// the applied state knows.
    pub(super) fn told_membership(&self) -> Membership {
        let mut told = self.membership.clone();
        for said in lock(&self.shared.members).iter() {
            if let Some(member) = told.members.get_mut(&said.id) {
                member.name.clone_from(&said.name);
                member.client_urls.clone_from(&said.client_urls);
            }
        }
        told
    }

    /// Whether a member was heard within an election timeout: what counts for
    /// the quorum that is left while members change.
    pub(super) fn is_heard(&self, id: u64) -> bool {
        id == self.member_id || self.silent_ticks(id) <= self.replica.election_ticks() as u64
    }

    /// Ticks since a member was last heard, or since this one started.
    pub(super) fn silent_ticks(&self, id: u64) -> u64 {
        self.state.ticks - self.state.heard.get(&id).copied().unwrap_or(0)
    }

    /// Hands leadership over; whoever asked watches who leads.
    pub(super) fn on_transfer(&mut self, to: u64) {
        if self.replica.standing().role == Role::Leader {
            self.replica.transfer_leader(to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn a_change_whose_entry_was_lost_is_answered() {
        let (sender, answers) = channel();
        let mut changes = Changes::default();
        for (token, term) in [(1, 3), (2, 4)] {
            let sender = sender.clone();
            let done: ChangeDone = Box::new(move |answer| {
                let _ = sender.send((token, answer.err()));
            });
            changes.proposed.insert(token, (term, done));
        }
        changes.lose_before(4);
        assert_eq!(answers.try_recv(), Ok((1, Some(EtcdError::LeaderChanged))));
        assert!(answers.try_recv().is_err(), "the other may still come");
        assert!(changes.take(2).is_some());
    }
}
