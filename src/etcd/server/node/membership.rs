//! What a membership change may do, decided alike on every member.

use std::collections::{BTreeMap, BTreeSet};

use proa_etcd_api::EtcdError;
use proa_etcd_api::etcdserverpb::Member;
use proa_etcd_api::url;
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
    /// Refuses what would leave the cluster without a quorum of members that
    /// run. `is_heard` says which do, as the leader `us` sees it.
    ///
    /// Source: etcd's `mayAddMember`, `mayRemoveMember`, `mayPromoteMember`
    /// under `--strict-reconfig-check`. A member counts as started once it has
    /// said its name.
    pub(super) fn permit(
        &self,
        change: &MemberChange,
        us: u64,
        is_heard: &dyn Fn(u64) -> bool,
    ) -> Result<(), EtcdError> {
        let voters = || self.members.values().filter(|member| !member.is_learner);
        let started = |id: u64| voters().filter(|other| other.id != id && !other.name.is_empty()).count();
        let count = voters().count();
        match change {
            MemberChange::Add { peer_urls, learner } => {
                check_urls(peer_urls)?;
                // One member must be able to become two: that is how a lost
                // cluster grows again from what one of its members has.
                let begins = started(0) == 1 && count == 1;
                if !learner && !begins && started(0) < quorum(count + 1) {
                    return Err(EtcdError::MemberNotEnoughStarted);
                }
                if voters().all(|voter| is_heard(voter.id)) { Ok(()) } else { Err(EtcdError::Unhealthy) }
            }
            MemberChange::Remove { id } => {
                if self.members.get(id).is_some_and(|member| member.is_learner) {
                    return Ok(());
                }
                let left = voters().filter(|voter| voter.id != *id).count();
                if started(*id) < quorum(left) {
                    return Err(EtcdError::MemberNotEnoughStarted);
                }
                // Who is down is no part of the quorum that runs.
                if *id != us && !is_heard(*id) {
                    return Ok(());
                }
                let active = voters().filter(|voter| voter.id != *id && is_heard(voter.id)).count();
                if active < quorum(left) { Err(EtcdError::Unhealthy) } else { Ok(()) }
            }
            MemberChange::Promote { .. } => {
                // The learner has caught up, so it has started.
                if started(0) + 1 < quorum(count + 1) {
                    return Err(EtcdError::MemberNotEnoughStarted);
                }
                Ok(())
            }
            MemberChange::Update { peer_urls, .. } => check_urls(peer_urls),
        }
    }

    /// The raft change for `change`, with the member's record as its context.
    pub(super) fn plan(
        &self,
        change: &MemberChange,
        token: u64,
        now_unix_s: u64,
    ) -> Result<ConfChange, EtcdError> {
        let (kind, member) = match change {
            MemberChange::Add { peer_urls, learner } => {
                let id = self.new_id(peer_urls, now_unix_s);
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

    /// An id that no member has or had: the same URLs may be added, removed and
    /// added again within a second.
    fn new_id(&self, peer_urls: &[String], now_unix_s: u64) -> u64 {
        let id = |at| proa_etcd_replica::ids::member_id(peer_urls, "", Some(at));
        let is_new = |id: &u64| !self.members.contains_key(id) && !self.removed.contains(id);
        (now_unix_s..).map(id).find(is_new).expect("ids are hashes: one of the next seconds has a new one")
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
                check_urls(&member.peer_urls)?;
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

fn check_urls(urls: &[String]) -> Result<(), EtcdError> {
    if urls.is_empty() || urls.iter().any(|url| url::parse(url).is_err()) {
        return Err(EtcdError::MemberBadUrls);
    }
    Ok(())
}

/// Members of `count` that must agree.
fn quorum(count: usize) -> usize {
    count / 2 + 1
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Members by a letter each: `s` started voter, `n` new voter, `l` learner.
    fn members(kinds: &str) -> Membership {
        let member = |(id, kind): (u64, char)| Member {
            id,
            name: if kind == 's' { format!("m{id}") } else { String::new() },
            peer_urls: vec![format!("http://h{id}:1")],
            is_learner: kind == 'l',
            ..Member::default()
        };
        let members = (1..).zip(kinds.chars()).map(member);
        Membership { members: members.map(|member| (member.id, member)).collect(), removed: BTreeSet::new() }
    }

    #[test]
    #[rustfmt::skip]
    fn a_step_that_endangers_the_quorum_is_refused() {
        let add = || MemberChange::Add { peer_urls: vec!["http://new:1".into()], learner: false };
        let learn = || MemberChange::Add { peer_urls: vec!["http://new:1".into()], learner: true };
        let remove = |id| MemberChange::Remove { id };
        let promote = |id| MemberChange::Promote { id };
        let (few, ill) = (Some(EtcdError::MemberNotEnoughStarted), Some(EtcdError::Unhealthy));
        // The leader is 1; `down` are not heard.
        type Case<'a> = (&'a str, &'a str, &'a [u64], MemberChange, Option<EtcdError>);
        let cases: [Case<'_>; 19] = [
            ("one becomes two",                "s",     &[],     add(),      None),
            ("two become three",               "ss",    &[],     add(),      None),
            ("a second before the first runs", "sn",    &[2],    add(),      few),
            ("three become four",              "sss",   &[],     add(),      None),
            ("four of which one is new",       "sssn",  &[4],    add(),      ill),
            ("one of three is down",           "sss",   &[3],    add(),      ill),
            ("a learner all the same",         "sss",   &[3],    learn(),    ill),
            ("a learner beside a new one",     "ssl",   &[3],    learn(),    None),
            ("remove one of three",            "sss",   &[],     remove(2),  None),
            ("remove the leader",              "sss",   &[],     remove(1),  None),
            ("remove the last",                "s",     &[],     remove(1),  few),
            ("remove the one that is down",    "sss",   &[2],    remove(2),  None),
            ("remove while one is down",       "sss",   &[3],    remove(2),  ill),
            ("remove the leader then",         "sss",   &[3],    remove(1),  ill),
            ("remove one of five, one down",   "sssss", &[3],    remove(2),  None),
            ("remove one of two new",          "snn",   &[2, 3], remove(2),  few),
            ("remove a learner",               "snl",   &[2, 3], remove(3),  None),
            ("promote",                        "sssl",  &[3],    promote(4), None),
            ("promote among new ones",         "snnl",  &[2, 3], promote(4), few),
        ];
        for (name, kinds, down, change, want) in cases {
            let permitted = members(kinds).permit(&change, 1, &|id| !down.contains(&id));
            assert_eq!(permitted.err(), want, "{name}");
        }
    }

    #[test]
    fn an_id_never_comes_back() {
        let mut membership = members("s");
        let mut ids = BTreeSet::new();
        for _ in 0..3 {
            let add = MemberChange::Add { peer_urls: vec!["http://new:1".into()], learner: true };
            let change = membership.plan(&add, 1, 1_000).unwrap();
            let member = membership.judge(&change).unwrap();
            membership.apply(&change, member);
            assert!(ids.insert(change.node_id));
            let change = membership.plan(&MemberChange::Remove { id: change.node_id }, 2, 1_000).unwrap();
            let member = membership.judge(&change).unwrap();
            membership.apply(&change, member);
        }
    }

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
