//! A machine that is no member asks to become one: what the leader does about
//! it, one step at a time. Each step is a membership change like any other, and
//! whoever asked asks again; so a crash between two loses nothing.

use std::net::IpAddr;
use std::time::Duration;

use proa_etcd_api::etcdserverpb::Member;
use proa_etcd_api::url;

use super::core::Core;
use super::membership::Membership;
use super::types::MemberChange;
use crate::peer::question::{Entry, Known, Question, Reply};

/// Silence after which a member whose address has been taken over by another
/// machine counts as gone: ten elections, so that a moment's trouble of the
/// network does not cost a member.
const GONE_AFTER: Duration = Duration::from_secs(10);

/// The next step towards a member at the asker's URL.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// It is expected already.
    Welcome,
    /// Make this change first.
    Change(MemberChange),
    /// There is no place: why, and what a person could do.
    Wait(String),
}

/// Decides what the wish to enter at `peer_url` a cluster that is to have `size`
/// members leads to. `silent` is how long a member was not heard.
///
/// Safe because: a member is removed here only when the asker lives at its
/// address, so that it cannot come back there, and its data is gone or it has
/// been silent for long; the quorum is guarded as in any removal; the new one
/// has no vote until it has the data.
fn admit(membership: &Membership, peer_url: &str, size: usize, silent: &dyn Fn(u64) -> Duration) -> Step {
    let members = || membership.members.values();
    let has_url = |member: &&Member| member.peer_urls.iter().any(|url| url == peer_url);
    match members().find(has_url) {
        // It has not run yet: each tells where it serves clients. Should it have
        // run all the same, it had no vote to forget.
        Some(member) if member.is_learner && member.client_urls.is_empty() => Step::Welcome,
        Some(member) if silent(member.id) < GONE_AFTER => Step::Wait(format!(
            "member {:x} at {peer_url} was heard {} s ago",
            member.id,
            silent(member.id).as_secs()
        )),
        Some(member) => Step::Change(MemberChange::Remove { id: member.id }),
        None if members().count() < size => {
            Step::Change(MemberChange::Add { peer_urls: vec![peer_url.to_owned()], learner: true })
        }
        None => Step::Wait(match members().max_by_key(|member| silent(member.id)) {
            Some(gone) if silent(gone.id) >= GONE_AFTER => format!(
                "the cluster has its {size} members; {:x} ({}) was not heard for {} s: if it will not come \
                 back, let this machine take its place by: etcdctl member remove {:x}",
                gone.id,
                gone.peer_urls.join(","),
                silent(gone.id).as_secs(),
                gone.id
            ),
            Some(_) | None => format!("the cluster has its {size} members"),
        }),
    }
}

/// Whether `peer_url` names the address that was asked from: nobody may speak
/// for another machine.
fn is_own_url(peer_url: &str, source: IpAddr) -> bool {
    let Ok(url) = url::parse(peer_url) else { return false };
    let host = url.address.tcp().and_then(|there| there.host.parse::<IpAddr>().ok());
    host.is_some_and(|host| host == source.to_canonical())
}

impl Core {
    pub(super) fn on_stranger(&mut self, question: Question, source: IpAddr, reply: Reply) {
        match question {
            Question::Members => {
                let members = self.told_membership().members.into_values().collect();
                let heard = self.state.heard.keys().copied().collect();
                // The cluster's id travels with the handshake.
                reply(Known { cluster_id: 0, members, heard }.encode());
            }
            Question::Enter { peer_url, size } => self.on_entry(&peer_url, size, source, reply),
        }
    }

    fn on_entry(&mut self, peer_url: &str, size: usize, source: IpAddr, reply: Reply) {
        if !self.is_leader() {
            return reply(Entry::NotLeader.encode());
        }
        if !is_own_url(peer_url, source) {
            let why = format!("{peer_url} is not the address {source} that asks to enter there");
            return reply(Entry::Wait(why).encode());
        }
        let silent = |id| match id == self.member_id {
            true => Duration::ZERO,
            false => self.tick.saturating_mul(u32::try_from(self.silent_ticks(id)).unwrap_or(u32::MAX)),
        };
        match admit(&self.told_membership(), peer_url, size, &silent) {
            Step::Welcome => reply(Entry::Welcome.encode()),
            Step::Wait(why) => reply(Entry::Wait(why).encode()),
            Step::Change(change) => {
                tracing::info!("the machine at {peer_url} asks to become a member: {change:?}");
                let done = move |done: Result<_, proa_etcd_api::EtcdError>| {
                    let entry = match done {
                        Ok(_) => Entry::Again,
                        Err(error) => Entry::Wait(error.to_string()),
                    };
                    reply(entry.encode());
                };
                self.on_change(change, Box::new(done));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Three members at h1 to h3; `new` have never run.
    fn three(new: &[u64]) -> Membership {
        let member = |id: u64| Member {
            id,
            is_learner: new.contains(&id),
            client_urls: if new.contains(&id) { vec![] } else { vec![format!("http://h{id}:2")] },
            peer_urls: vec![format!("http://h{id}:1")],
            ..Member::default()
        };
        Membership { members: (1..=3).map(|id| (id, member(id))).collect(), removed: BTreeSet::new() }
    }

    #[test]
    fn a_place_is_taken_over_only_from_who_cannot_come_back() {
        let add = |url: &str| Step::Change(MemberChange::Add { peer_urls: vec![url.into()], learner: true });
        let remove = |id| Step::Change(MemberChange::Remove { id });
        let wait = |why: &str| Step::Wait(why.to_owned());
        let full = "the cluster has its 3 members";
        let gone = format!(
            "{full}; 3 (http://h3:1) was not heard for 60 s: if it will not come back, let this machine \
             take its place by: etcdctl member remove 3"
        );
        let heard = "member 3 at http://h3:1 was heard 9 s ago";
        #[rustfmt::skip]
        let cases = [
            ("all are there",              three(&[]),  "http://h4:1", 3, 0,  wait(full)),
            ("one is gone, elsewhere",     three(&[]),  "http://h4:1", 3, 60, wait(&gone)),
            ("its address is ours",        three(&[]),  "http://h3:1", 3, 60, remove(3)),
            ("but it was heard just now",  three(&[]),  "http://h3:1", 3, 9,  wait(heard)),
            ("it is expected",             three(&[3]), "http://h3:1", 3, 60, Step::Welcome),
            ("there is a free place",      three(&[]),  "http://h4:1", 4, 0,  add("http://h4:1")),
        ];
        for (name, membership, url, size, silent_s, want) in cases {
            let silent = |id| Duration::from_secs(if id == 3 { silent_s } else { 0 });
            assert_eq!(admit(&membership, url, size, &silent), want, "{name}");
        }
    }

    #[test]
    fn nobody_speaks_for_another_machine() {
        let v4: IpAddr = [10, 0, 0, 1].into();
        for (url, want) in [
            ("http://10.0.0.1:2380", true),
            ("http://10.0.0.2:2380", false),
            ("http://[::ffff:10.0.0.1]:2380", false),
            ("http://name:2380", false),
            ("10.0.0.1", false),
        ] {
            assert_eq!(is_own_url(url, v4), want, "{url}");
        }
        assert!(is_own_url("http://[fd00::1]:2380", "fd00::1".parse().expect("an address")));
    }
}
