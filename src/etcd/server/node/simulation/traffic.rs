//! What the world does with the network: dials, posts, cuts, heals.

use bytes::Bytes;
use proa_etcd_replica::eraftpb::MessageType;

use super::Planted;
use super::network::Link;
use super::plan::MS;
use super::world::{Event, World};
use crate::node::shared::ToCore;
use crate::peer::Incoming;
use crate::peer::frame::Frame;

impl World {
    /// A machine dials the members it has no connection to.
    pub(super) fn dial(&mut self, at: usize) {
        let Some(process) = &self.machines[at].process else { return };
        let me = process.shared.status.borrow().member_id;
        let wanted: Vec<u64> = {
            let outgoing = process.outbox.lock();
            outgoing.members.difference(&outgoing.connected).copied().collect()
        };
        for member in wanted {
            let Some(&to) = self.owners.get(&member) else { continue };
            let is_cut = |pair| self.links.get(&pair).is_some_and(|link: &Link| link.is_cut);
            if is_cut((at, to)) || is_cut((to, at)) || self.pause(to).is_some() {
                continue;
            }
            let lives_there = self.machines[to].identity.is_some_and(|identity| identity.member_id == member);
            let Some(target) = self.machines[to].process.as_ref().filter(|_| lives_there) else { continue };
            if target.outbox.lock().removed.contains(&me) {
                self.tell(at, ToCore::Peer(Incoming::Removed));
                continue;
            }
            let link = self.links.entry((at, to)).or_default();
            link.drop_connection();
            link.is_up = true;
            let process = self.machines[at].process.as_ref().expect("it dials");
            process.outbox.lock().connected.insert(member);
        }
    }

    /// Puts on the way what a machine's threads have sent.
    pub(super) fn post(&mut self, at: usize) {
        let Some(process) = &self.machines[at].process else { return };
        let life = process.life;
        let (parcels, snapshots) = {
            let mut outgoing = process.outbox.lock();
            (std::mem::take(&mut outgoing.parcels), std::mem::take(&mut outgoing.snapshots))
        };
        for (member, parcel) in parcels {
            let Some(&to) = self.owners.get(&member) else { continue };
            let link = self.links.entry((at, to)).or_default();
            let took = 50 + self.random.below(link.delay_us.max(400));
            let (arrives, epoch) = (link.arrival(self.now, took, parcel.urgent), link.epoch);
            self.at(arrives, Event::Arrive { from: at, to, epoch, parcel });
        }
        for (message, folder) in snapshots {
            let copy = Box::new(self.copy_of(at, &folder));
            let took = self.random.between(5, 1_500) * MS;
            self.after(took, Event::Snapshot { from: at, life, message, copy });
        }
    }

    /// All connections of a machine are gone; who dialed it notices.
    pub(super) fn hang_up(&mut self, at: usize) {
        let pairs: Vec<(usize, usize)> =
            self.links.keys().filter(|(from, to)| *from == at || *to == at).copied().collect();
        for (from, to) in pairs {
            self.reset(from, to);
        }
    }

    /// A connection breaks, with all that is under way on it.
    pub(super) fn reset(&mut self, from: usize, to: usize) {
        let Some(link) = self.links.get_mut(&(from, to)) else { return };
        if !link.is_up {
            return;
        }
        // What was sent before the sender died may still arrive, for a while.
        if self.machines[from].process.is_some() || self.random.chance(500) {
            link.drop_connection();
        } else {
            link.is_up = false;
        }
        let member = self.machines[to].identity.map(|identity| identity.member_id);
        if let (Some(process), Some(peer)) = (&self.machines[from].process, member) {
            process.outbox.lock().connected.remove(&peer);
            let (at, life) = (from, process.life);
            let noticed = self.random.between(1, 200) * MS;
            self.after(noticed, Event::Unreachable { at, life, peer });
        }
    }

    /// Nothing gets through from one machine to another.
    pub(super) fn cut(&mut self, from: usize, to: usize, us: u64) {
        if from == to {
            return;
        }
        self.counts.cuts += 1;
        self.links.entry((from, to)).or_default().is_cut = true;
        // Some cuts outlast the patience of who waits behind them.
        if self.random.chance(400) {
            self.reset(from, to);
        }
        self.after(us, Event::Heal { from, to });
    }

    pub(super) fn heal(&mut self, from: usize, to: usize) {
        let link = self.links.entry((from, to)).or_default();
        link.is_cut = false;
        link.delay_us = 0;
        let epoch = link.epoch;
        for parcel in std::mem::take(&mut link.held) {
            let link = self.links.entry((from, to)).or_default();
            let took = 1 + self.random.below(5 * MS);
            let arrives = link.arrival(self.now, took, parcel.urgent);
            self.at(arrives, Event::Arrive { from, to, epoch, parcel });
        }
    }

    /// [`Planted::ReadContextReused`]: every attempt of a follower to read goes
    /// to the leader under one context, and any answer is taken for the latest.
    pub(super) fn rewrite(&mut self, sender: u64, to: usize, mut frame: Frame) -> Frame {
        if self.planted != Some(Planted::ReadContextReused) {
            return frame;
        }
        let receiver = self.machines[to].identity.map_or(0, |identity| identity.member_id);
        if let Frame::Raft(message) = &mut frame {
            match message.msg_type {
                MessageType::MsgReadIndex => {
                    let own = message.entries[0].data.clone();
                    self.contexts.insert(sender, own);
                    message.mut_entries()[0].data = Bytes::copy_from_slice(&sender.to_be_bytes());
                }
                MessageType::MsgReadIndexResp => {
                    if let Some(latest) = self.contexts.get(&receiver) {
                        message.mut_entries()[0].data = latest.clone();
                    }
                }
                _ => {}
            }
        }
        frame
    }
}
