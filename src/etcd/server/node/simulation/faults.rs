//! Faults as they strike, and the peace after them.

use std::collections::BTreeSet;

use super::plan::{Fault, MS, SECOND};
use super::world::{Event, World, sorted};
use crate::node::shared::lock;
use proa_etcd_store::hash_kv;

/// How long members have, once all is well, to agree.
const PEACE_US: u64 = 60 * SECOND;
/// How long a crash waits for a write to hit.
const DOOM_US: u64 = 500 * MS;

impl World {
    pub(super) fn strike(&mut self, number: usize) -> Result<(), String> {
        let (_, fault) = self.plan.faults[number].clone();
        self.note(|| format!("{fault:?}"));
        match fault {
            Fault::Crash { machines, down_us } => {
                for at in machines {
                    let at = self.aim(at);
                    // A crash is worst in the middle of a write.
                    if self.random.chance(600) && self.machines[at].process.is_some() {
                        self.machines[at].doomed = Some(down_us);
                        self.after(DOOM_US, Event::Doom { at });
                    } else {
                        self.crash_for(at, down_us);
                    }
                }
            }
            Fault::Cut { from, to, both, us } => {
                let from = self.aim(from);
                let to = self.aim_at_other(from, to);
                self.cut(from, to, us);
                if both {
                    self.cut(to, from, us);
                }
            }
            Fault::Isolate { machine, us } => {
                let machine = self.aim(machine);
                for other in 0..self.machines.len() {
                    self.cut(machine, other, us);
                    self.cut(other, machine, us);
                }
            }
            Fault::Reset { from, to } => self.reset(from, to),
            Fault::Delay { from, to, delay_us, us } => {
                self.links.entry((from, to)).or_default().delay_us = delay_us;
                self.after(us, Event::Heal { from, to });
            }
            Fault::SlowDisk { machine, disk_us, us } => {
                self.machines[machine].disk_us = disk_us;
                self.after(us, Event::Recover { at: machine });
            }
            Fault::SlowApply { machine, apply_us, us } => {
                self.machines[machine].apply_us = apply_us;
                self.after(us, Event::Recover { at: machine });
            }
            Fault::Pause { machine, us } => {
                let machine = self.aim(machine);
                self.machines[machine].paused_until = self.now + us;
            }
            Fault::Transfer => return self.transfer(),
            Fault::Member => return self.change_members(),
            Fault::Compact => return self.compact(),
        }
        Ok(())
    }

    /// Whom a fault hits: more often than by chance, who leads.
    fn aim(&mut self, machine: usize) -> usize {
        if self.random.chance(300) { self.leader().unwrap_or(machine) } else { machine }
    }

    /// Mostly a machine that runs, rather than a spare.
    fn aim_at_other(&mut self, from: usize, to: usize) -> usize {
        let runs = |at: &usize| *at != from && self.machines[*at].process.is_some();
        let running: Vec<usize> = (0..self.machines.len()).filter(runs).collect();
        if self.random.chance(700) { self.random.pick(&running).copied().unwrap_or(to) } else { to }
    }

    /// A machine crashes, and its power is back after about so long.
    pub(super) fn crash_for(&mut self, at: usize, down_us: u64) {
        self.machines[at].doomed = None;
        self.crash(at);
        let down = down_us / 2 + self.random.below(down_us);
        self.after(down, Event::Restart { at });
    }

    /// Ends all faults, lets everybody come back and agree.
    ///
    /// # Errors
    /// They do not.
    pub(super) fn make_peace(&mut self) -> Result<(), String> {
        self.calm = true;
        self.note(|| "peace".to_owned());
        let links: Vec<(usize, usize)> = self.links.keys().copied().collect();
        for (from, to) in links {
            self.heal(from, to);
        }
        for at in 0..self.machines.len() {
            self.machines[at].paused_until = 0;
            self.at(self.now, Event::Recover { at });
            self.at(self.now, Event::Restart { at });
        }
        let deadline = self.now + PEACE_US;
        // Clients finish what they have begun.
        self.run_until(self.now + 10 * SECOND)?;
        while !self.is_at_peace() {
            if self.now > deadline {
                return Err(format!("no agreement after a minute of peace: {}", self.describe()));
            }
            self.run_until(self.now + 500 * MS)?;
        }
        self.check_agreement()
    }

    /// The machines of the current members.
    fn current(&self) -> Option<Vec<usize>> {
        let leader = self.leader()?;
        let process = self.machines[leader].process.as_ref()?;
        let members = lock(&process.shared.members).clone();
        members.iter().map(|member| self.owners.get(&member.id).copied()).collect()
    }

    fn is_at_peace(&self) -> bool {
        let Some(current) = self.current() else { return false };
        let applied: BTreeSet<Option<u64>> = current
            .iter()
            .map(|at| self.machines[*at].process.as_ref().map(|it| it.threads.applier.applied.index))
            .collect();
        let last = self.chosen.keys().next_back().copied();
        applied.len() == 1 && applied.first() == Some(&last) && self.clients.are_done()
    }

    fn check_agreement(&self) -> Result<(), String> {
        let mut states = BTreeSet::new();
        for at in self.current().unwrap_or_default() {
            let process = self.machines[at].process.as_ref().ok_or_else(|| format!("m{at} is not there"))?;
            let now = process.shared.view.get();
            let hash = hash_kv(&now.view, now.head, 0).map_err(|error| error.to_string())?;
            let members = proa_etcd_store::members(&now.view).map_err(|error| error.to_string())?;
            let removed = crate::node::meta::removed(&now.view).map_err(|error| error.0.to_owned())?;
            let voters = sorted(&process.threads.applier.members);
            let names: Vec<_> = members.iter().map(|member| (member.id, member.is_learner)).collect();
            states.insert(format!("{hash:08x} {:?} {names:x?} {removed:x?} {voters:?}", now.head));
        }
        if states.len() == 1 { Ok(()) } else { Err(format!("members disagree in peace: {states:#?}")) }
    }

    pub(super) fn describe(&self) -> String {
        let one = |machine: &super::process::Machine| match &machine.process {
            Some(process) => {
                let status = process.shared.status.borrow().clone();
                format!(
                    "m{} {:x} term {} leader {:x} applied {} committed {} last {}{}",
                    machine.at,
                    status.member_id,
                    status.term,
                    status.leader_id,
                    status.applied,
                    status.committed,
                    process.threads.core.replica.last().index,
                    if status.is_learner { " learner" } else { "" }
                )
            }
            None => format!("m{} off", machine.at),
        };
        self.machines.iter().map(one).collect::<Vec<_>>().join("; ")
    }
}
