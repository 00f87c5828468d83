//! Who operates the cluster: adds, promotes and removes members, moves
//! leadership, compacts.

use std::sync::mpsc::{Receiver, channel};

use proa_etcd_api::EtcdError;
use proa_etcd_api::command::command::Op;
use proa_etcd_api::etcdserverpb::{CompactionRequest, Member};

use super::plan::MS;
use super::world::{Event, World};
use crate::node::meta::Identity;
use crate::node::shared::{ToCore, lock};
use crate::node::types::{MemberChange, MembersChanged};

/// A change that was asked for.
pub(super) type Answer = Receiver<Result<MembersChanged, EtcdError>>;

impl World {
    /// The machine of whoever leads in the highest term.
    pub(super) fn leader(&self) -> Option<usize> {
        let leads = |at: &usize| {
            let status = self.machines[*at].process.as_ref()?.shared.status.borrow().clone();
            status.is_leader.then_some((status.term, *at))
        };
        (0..self.machines.len()).filter_map(|at| leads(&at)).max().map(|(_, at)| at)
    }

    /// Looks after machines that were added and do not run yet.
    pub(super) fn admin(&mut self) -> Result<(), String> {
        let pause = self.random.between(50, 400) * MS;
        self.after(pause, Event::Admin);
        let Some(leader) = self.leader() else { return Ok(()) };
        let process = self.machines[leader].process.as_ref().expect("it leads");
        let members = lock(&process.shared.members).clone();
        for member in &members {
            let lives_at = |at: &usize| member.peer_urls.contains(&self.machines[*at].url());
            let Some(at) = (0..self.machines.len()).find(lives_at) else { continue };
            if self.machines[at].identity.is_none() {
                let identity = Identity { cluster_id: 1, member_id: member.id };
                self.owners.insert(member.id, at);
                let scale = self.plan.scale.clone();
                self.machines[at].create(identity, &members, false, &scale);
                self.note(|| format!("m{at} joins as {:x}", member.id));
                self.restart(at)?;
            }
        }
        // A member that was removed while it was off never hears of it.
        for at in 0..self.machines.len() {
            let machine = &self.machines[at];
            let is_gone = machine.process.is_none()
                && machine.identity.is_some_and(|it| process_removed(self, leader, it.member_id));
            if is_gone && self.random.chance(100) {
                self.machines[at].wipe(self.planted);
            }
        }
        Ok(())
    }

    /// Asks the leader for a change that makes sense, mostly.
    pub(super) fn change_members(&mut self) -> Result<(), String> {
        let Some(leader) = self.leader() else { return Ok(()) };
        let process = self.machines[leader].process.as_ref().expect("it leads");
        let members: Vec<Member> = lock(&process.shared.members).clone();
        let learner = members.iter().find(|member| member.is_learner);
        let free = (0..self.machines.len()).find(|at| self.machines[*at].identity.is_none());
        let voters = members.iter().filter(|member| !member.is_learner).count();
        let any = self.random.pick(&members).map_or(0, |member| member.id);
        let change = match (learner, free) {
            (Some(learner), _) if self.random.chance(800) => MemberChange::Promote { id: learner.id },
            (None, Some(at)) if self.random.chance(600) => {
                let learner = self.random.chance(700);
                MemberChange::Add { peer_urls: vec![self.machines[at].url()], learner }
            }
            // Of two voters both are needed to learn that one was removed, and
            // it leaves: power that fails just then leaves no quorum.
            _ if voters < 3 => return Ok(()),
            _ => MemberChange::Remove { id: any },
        };
        self.ask(leader, change);
        self.turn(leader)
    }

    /// Asks a member for a change of the membership.
    pub(super) fn ask(&mut self, at: usize, change: MemberChange) {
        self.note(|| format!("asks m{at} for {change:x?}"));
        self.counts.changes += 1;
        let (answer, told) = channel();
        self.tell(at, ToCore::Change(change, Box::new(move |done| drop(answer.send(done)))));
        self.clients.changes.push(told);
    }

    pub(super) fn transfer(&mut self) -> Result<(), String> {
        let Some(leader) = self.leader() else { return Ok(()) };
        let process = self.machines[leader].process.as_ref().expect("it leads");
        let members = lock(&process.shared.members).clone();
        let to = self.random.pick(&members).map_or(0, |member| member.id);
        process.tell(ToCore::Transfer { to });
        self.turn(leader)
    }

    pub(super) fn compact(&mut self) -> Result<(), String> {
        let Some(leader) = self.leader() else { return Ok(()) };
        let process = self.machines[leader].process.as_ref().expect("it leads");
        let head = lock(&process.shared.machine).head();
        let revision = head.revision - self.random.below(60) as i64;
        if revision > head.compact_revision.max(0) {
            let op = Op::Compaction(CompactionRequest { revision, physical: false });
            self.write(None, leader, op);
            return self.turn(leader);
        }
        Ok(())
    }
}

fn process_removed(world: &World, leader: usize, member: u64) -> bool {
    let process = world.machines[leader].process.as_ref();
    process.is_some_and(|process| process.outbox.lock().removed.contains(&member))
}
