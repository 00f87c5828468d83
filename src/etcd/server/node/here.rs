//! Who leads, or wants to, says where it lives.
//!
//! A member that was off while others joined does not know them; without a way
//! to answer their appends and their requests for a vote it would never catch
//! up, nor count for a quorum. So who asks for answers says where they go.
//! Source: etcd's peers send their URLs along for the same reason
//! (`X-PeerURLs`, `AddRemote`).

use proa_etcd_api::url;
use proa_etcd_replica::Role;

use super::core::Core;
use crate::peer::frame::Frame;

/// Ticks between two times that a leader says so; a candidate does at each.
const HERE_TICKS: u64 = 10;
/// Ticks for which a member that is not known yet is answered after it was
/// heard: three times it says so.
const GUEST_TICKS: u64 = 3 * HERE_TICKS;
/// Members that may join while this one is off, and then some.
const MAX_GUESTS: usize = 16;

impl Core {
    /// Tells the others, when they have to answer.
    pub(super) fn say_where(&self) {
        let is_due = match self.replica.standing().role {
            Role::Leader => self.state.ticks.is_multiple_of(HERE_TICKS),
            Role::Candidate => true,
            Role::Follower => false,
        };
        let Some(myself) = self.membership.members.get(&self.member_id).filter(|_| is_due) else { return };
        let frame = Frame::Here { urls: myself.peer_urls.clone() };
        for id in self.membership.members.keys().filter(|id| **id != self.member_id) {
            self.peers.send(*id, &frame);
        }
    }

    /// Makes a way to a member that is not known here yet.
    pub(super) fn on_here(&mut self, from: u64, urls: Vec<String>) {
        let is_known = self.membership.members.contains_key(&from) || from == self.member_id;
        let is_sound = urls.iter().all(|url| url::parse(url).is_ok());
        let is_full = self.state.guests.len() >= MAX_GUESTS && !self.state.guests.contains_key(&from);
        if is_known || self.membership.removed.contains(&from) || !is_sound || is_full {
            return;
        }
        let until = self.state.ticks + GUEST_TICKS;
        let before = self.state.guests.insert(from, (until, urls.clone()));
        if before.is_none_or(|(_, known)| known != urls) {
            self.set_peers();
        }
    }
}
