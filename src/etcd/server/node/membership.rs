//! What a membership change may do, decided alike on every member.

use std::collections::{BTreeMap, BTreeSet};

use proa_etcd_api::EtcdError;
use proa_etcd_api::etcdserverpb::Member;
use proa_etcd_replica::eraftpb::{ConfChange, ConfChangeType};
use prost::Message as _;

use super::types::MemberChange;

/// Learners at a time. Source: etcd's `--max-learners` default.
const MAX_LEARNERS: usize = 1;

/// Who is a member, and who was; all that a change is judged by.
#[derive(Clone, Debug, Default)]
pub(super) struct Membership {
    pub(super) members: BTreeMap<u64, Member>,
    pub(super) removed: BTreeSet<u64>,
}

impl Membership {
    /// The raft change for `change`, with the member's record as its context.
    pub(super) fn plan(
        &self,
        change: &MemberChange,
        token: u64,
        now_unix_s: u64,
    ) -> Result<ConfChange, EtcdError> {
        let (kind, member) = match change {
            MemberChange::Add { peer_urls, learner } => {
                let id = proa_etcd_replica::ids::member_id(peer_urls, "", Some(now_unix_s));
                let member =
                    Member { id, peer_urls: peer_urls.clone(), is_learner: *learner, ..Member::default() };
                (ConfChangeType::AddNode, member)
            }
            MemberChange::Remove { id } => (ConfChangeType::RemoveNode, self.known(*id)?.clone()),
            MemberChange::Update { id, peer_urls } => {
                let member = Member { peer_urls: peer_urls.clone(), ..self.known(*id)?.clone() };
                (ConfChangeType::AddNode, member)
            }
            MemberChange::Promote { id } => {
                let member = self.known(*id)?.clone();
                if !member.is_learner {
                    return Err(EtcdError::MemberNotLearner);
                }
                (ConfChangeType::AddNode, Member { is_learner: false, ..member })
            }
        };
        let kind = if member.is_learner && kind == ConfChangeType::AddNode {
            ConfChangeType::AddLearnerNode
        } else {
            kind
        };
        let planned = ConfChange {
            id: token,
            change_type: kind,
            node_id: member.id,
            context: member.encode_to_vec().into(),
            ..ConfChange::default()
        };
        self.judge(&planned)?;
        Ok(planned)
    }

    fn known(&self, id: u64) -> Result<&Member, EtcdError> {
        self.members.get(&id).ok_or(EtcdError::MemberNotFound)
    }

    /// The member a change is about, or why it must not happen. Judged once
    /// before it is proposed and, because others may come first, again when it
    /// is applied.
    pub(super) fn judge(&self, change: &ConfChange) -> Result<Member, EtcdError> {
        let member = Member::decode(&change.context[..]).map_err(|_| EtcdError::MemberNotFound)?;
        if member.id != change.node_id || self.removed.contains(&member.id) {
            return Err(EtcdError::MemberNotFound);
        }
        let others = || self.members.values().filter(|other| other.id != member.id);
        match change.change_type {
            ConfChangeType::RemoveNode => {
                self.known(member.id)?;
                if others().all(|other| other.is_learner) {
                    return Err(EtcdError::MemberNotEnoughStarted);
                }
            }
            ConfChangeType::AddNode | ConfChangeType::AddLearnerNode => {
                if member.peer_urls.is_empty()
                    || member.peer_urls.iter().any(|url| crate::peer::authority(url).is_err())
                {
                    return Err(EtcdError::MemberBadUrls);
                }
                if others().any(|other| other.peer_urls.iter().any(|url| member.peer_urls.contains(url))) {
                    return Err(EtcdError::PeerUrlExists);
                }
                let learners = others().filter(|other| other.is_learner).count();
                if member.is_learner && learners >= MAX_LEARNERS {
                    return Err(EtcdError::TooManyLearners);
                }
                let demotes = self.members.get(&member.id).is_some_and(|now| !now.is_learner);
                if member.is_learner && demotes {
                    return Err(EtcdError::MemberExists);
                }
            }
        }
        Ok(member)
    }

    /// Does what was judged to be right.
    pub(super) fn apply(&mut self, change: &ConfChange, member: Member) {
        if change.change_type == ConfChangeType::RemoveNode {
            self.members.remove(&member.id);
            self.removed.insert(member.id);
        } else {
            self.members.insert(member.id, member);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn three() -> Membership {
        let member = |id: u64| Member { id, peer_urls: vec![format!("http://h{id}:1")], ..Member::default() };
        Membership { members: (1..=3).map(|id| (id, member(id))).collect(), removed: BTreeSet::from([9]) }
    }

    #[test]
    #[rustfmt::skip]
    fn changes_are_judged_as_etcd_does() {
        let add = |url: &str, learner| MemberChange::Add { peer_urls: vec![url.into()], learner };
        let update = |id, url: &str| MemberChange::Update { id, peer_urls: vec![url.into()] };
        let cases = [
            ("add",                   add("http://h4:1", false),        None),
            ("add a learner",         add("http://h4:1", true),         None),
            ("add a known URL",       add("http://h2:1", false),        Some(EtcdError::PeerUrlExists)),
            ("add a bad URL",         add("h4", false),                 Some(EtcdError::MemberBadUrls)),
            ("remove",                MemberChange::Remove { id: 2 },   None),
            ("remove a stranger",     MemberChange::Remove { id: 7 },   Some(EtcdError::MemberNotFound)),
            ("update",                update(2, "http://h5:1"),         None),
            ("update to a known URL", update(2, "http://h3:1"),         Some(EtcdError::PeerUrlExists)),
            ("update a removed one",  update(9, "http://h5:1"),         Some(EtcdError::MemberNotFound)),
            ("promote a voter",       MemberChange::Promote { id: 1 },  Some(EtcdError::MemberNotLearner)),
        ];
        for (name, change, want) in cases {
            assert_eq!(three().plan(&change, 1, 1_000).err(), want, "{name}");
        }
    }

    #[test]
    fn the_last_voter_stays() {
        let mut membership = three();
        for id in [1, 2] {
            let change = membership.plan(&MemberChange::Remove { id }, 1, 0).unwrap();
            let member = membership.judge(&change).unwrap();
            membership.apply(&change, member);
        }
        let last = membership.plan(&MemberChange::Remove { id: 3 }, 1, 0);
        assert_eq!(last.err(), Some(EtcdError::MemberNotEnoughStarted));
    }
}
