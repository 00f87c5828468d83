//! Proposals on their way to the leader: gathered here, forwarded elsewhere,
//! proposed again when the log proves that they were lost.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use proa_etcd_api::EtcdError;
use proa_etcd_api::command::Proposal;
use proa_etcd_replica::{Role, Standing};
use prost::Message as _;

use super::core::Core;
use super::shared::lock;
use crate::peer::frame::Frame;

/// Proposals in one entry, and their bytes.
const MAX_BATCH: usize = 8_192;
const MAX_BATCH_BYTES: usize = 4 << 20;
/// Writes in flight above which proposals gather: the batch is what came in
/// while the disk was busy. Two, so that the disk is never idle between them.
const MAX_WRITES_IN_FLIGHT: usize = 2;
/// Proposals that wait here before more are refused.
pub(super) const MAX_PENDING: usize = 50_000;
/// Entries that may be committed and not applied before more are refused.
/// Source: etcd's `maxGapBetweenApplyAndCommitIndex`.
const MAX_UNAPPLIED: u64 = 5_000;

/// A proposal on its way.
pub(super) struct Pending {
    pub(super) id: u64,
    pub(super) body: Bytes,
    /// Where it came from, when its client waits at another member.
    pub(super) origin: Option<Origin>,
}

/// The member that forwarded a proposal, and the term it did so in.
///
/// The proposal may enter the log in that term only: once a later one has
/// begun the member takes it for lost and proposes it again.
#[derive(Clone, Copy)]
pub(super) struct Origin {
    pub(super) member: u64,
    pub(super) term: u64,
}

impl Core {
    pub(super) fn on_propose(&mut self, id: u64, body: Bytes) {
        let lag = self.replica.committed().saturating_sub(self.replica.applied_index());
        let refusal = if self.is_leader() && self.lacks_room(&body) {
            Some(EtcdError::NoSpace)
        } else if self.state.pending.len() >= MAX_PENDING || lag > MAX_UNAPPLIED {
            Some(EtcdError::TooManyRequests)
        } else {
            None
        };
        match refusal {
            Some(error) => self.answer(id, error),
            None => self.hold(Pending { id, body, origin: None }),
        }
    }

    /// Whether room is so short that this must not be proposed. What gives space
    /// back goes on: the log keeps segments ready for just that.
    pub(super) fn lacks_room(&self, body: &Bytes) -> bool {
        if !self.shared.is_disk_low.load(Ordering::Relaxed) {
            return false;
        }
        let proposal = Proposal::decode(body.clone()).unwrap_or_default();
        let op = proposal.command.and_then(|command| command.op);
        op.is_some_and(|op| proa_etcd_store::takes_space(&op))
    }

    pub(super) fn answer(&self, id: u64, error: EtcdError) {
        if let Some(waiter) = lock(&self.shared.waiters).remove(&id) {
            let _ = waiter.send(Err(error));
        }
    }

    pub(super) fn hold(&mut self, pending: Pending) {
        self.state.pending_bytes += pending.body.len();
        self.state.pending.push_back(pending);
    }

    pub(super) fn is_leader(&self) -> bool {
        self.replica.standing().role == Role::Leader
    }

    /// Brings what is pending to the leader, wherever it is.
    pub(super) fn submit(&mut self) {
        let standing = self.replica.standing();
        if standing.role == Role::Leader {
            self.propose(standing.term);
        } else if standing.leader_id != 0 {
            self.forward(standing);
        }
    }

    fn propose(&mut self, term: u64) {
        while !self.state.pending.is_empty() {
            let is_busy = self.replica.writes_in_flight() >= MAX_WRITES_IN_FLIGHT;
            if is_busy && self.state.pending_bytes < MAX_BATCH_BYTES {
                return;
            }
            let batch = self.next_batch(term);
            if batch.is_empty() {
                continue;
            }
            match self.replica.propose(Vec::new(), encode_batch(&batch)) {
                Ok(_) => {
                    for Pending { id, body, origin } in batch {
                        if origin.is_none() {
                            self.state.outstanding.insert(id, (term, body));
                        }
                    }
                }
                // Full, or handing over: they wait where they were.
                Err(_) => {
                    for pending in batch.into_iter().rev() {
                        self.state.pending_bytes += pending.body.len();
                        self.state.pending.push_front(pending);
                    }
                    return;
                }
            }
            // Let the write begin before more is gathered.
            self.perform();
        }
    }

    /// Takes what goes into one entry of `term`; what was forwarded to this member
    /// as the leader of another one is given back on the way.
    fn next_batch(&mut self, term: u64) -> Vec<Pending> {
        let mut batch = Vec::new();
        let mut size_bytes = 0;
        while let Some(next) = self.state.pending.front() {
            let is_full = batch.len() >= MAX_BATCH || size_bytes + next.body.len() > MAX_BATCH_BYTES;
            if is_full && !batch.is_empty() {
                break;
            }
            let pending = self.state.pending.pop_front().expect("just seen");
            self.state.pending_bytes -= pending.body.len();
            match pending.origin {
                Some(origin) if origin.term != term => self.refuse(pending.id, origin),
                Some(_) | None => {
                    size_bytes += pending.body.len();
                    batch.push(pending);
                }
            }
        }
        batch
    }

    fn refuse(&self, id: u64, Origin { member, term }: Origin) {
        self.peers.send(member, &Frame::Refused { id, term, is_full: false });
    }

    fn forward(&mut self, standing: Standing) {
        let mut kept = VecDeque::new();
        for pending in std::mem::take(&mut self.state.pending) {
            let Pending { id, body, origin } = pending;
            if let Some(origin) = origin {
                // It came here for a leader that is none any more.
                self.refuse(id, origin);
                continue;
            }
            let frame = Frame::Forward { id, term: standing.term, body: body.clone() };
            if self.peers.send(standing.leader_id, &frame) {
                self.state.outstanding.insert(id, (standing.term, body));
            } else {
                kept.push_back(Pending { id, body, origin: None });
            }
        }
        self.state.pending_bytes = kept.iter().map(|pending| pending.body.len()).sum();
        self.state.pending = kept;
    }
}

/// The bytes of a `Batch`; each body is a `Proposal` already.
fn encode_batch(batch: &[Pending]) -> Vec<u8> {
    let total: usize = batch.iter().map(|pending| pending.body.len() + 6).sum();
    let mut out = Vec::with_capacity(total);
    for pending in batch {
        prost::encoding::bytes::encode(1, &pending.body, &mut out);
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proa_etcd_api::command::{Batch, Command, command::Op};
    use proa_etcd_api::etcdserverpb::Member;

    #[test]
    fn a_batch_is_its_proposals_one_after_another() {
        let proposals: Vec<Proposal> = (1..=3)
            .map(|id| {
                let command = Some(Command { op: Some(Op::Member(Member::default())) });
                Proposal { id, command, requester: None }
            })
            .collect();
        let pending: Vec<Pending> = proposals
            .iter()
            .map(|proposal| Pending { id: proposal.id, body: proposal.encode_to_vec().into(), origin: None })
            .collect();
        let batch = Batch::decode(&encode_batch(&pending)[..]).unwrap();
        assert_eq!(batch, Batch { proposals });
    }
}
