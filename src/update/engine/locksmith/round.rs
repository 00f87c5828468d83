//! One round: look at everything, ask the gate, do the one step it says.

use std::{
    collections::BTreeMap,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use proa_etcd_client::KeepAlive;
use proa_update_model::reboot::{
    gate::{Drain, Sight, Step, Why, next},
    lease::{self, Intent, Phase, Reap, Standing, holder_key, intent_key, turn_key},
    window,
};

use super::{
    Error,
    config::{Config, Strategy},
    fleet,
    machine::{self, Bus},
    members::{self, Members},
    store::{Lock, Records, Store, exists, forget, missing, put, put_intent, put_suspect, put_turn},
};

/// Who wants the reboot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// update_engine, through the daemon.
    ByUpdate,
    /// A person, with `locksmithctl reboot`.
    ByPerson,
}

/// What came of a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing to do.
    Rested(Why),
    /// One step was done, or another machine was faster: look again soon.
    Acted,
    /// The lock was given back.
    LetGo(Why),
    /// The machine goes down.
    GoesDown,
}

/// The rounds of one program on one machine.
pub struct Rounds {
    config: Config,
    store: Store,
    bus: Bus,
    asked: Asked,
    boot: String,
    running: String,
    /// The lease that is being renewed.
    lease: Option<(i64, KeepAlive)>,
    /// Since when holders without records are seen.
    foreign: BTreeMap<String, Instant>,
    /// Since when units are seen on their way, round after round, with the lock held.
    draining: Option<Instant>,
}

impl Rounds {
    /// The rounds on this machine.
    pub fn new(config: Config, store: Store, asked: Asked) -> Self {
        Self {
            bus: Bus::new(config.bus.clone()),
            store,
            asked,
            boot: machine::boot_id(),
            running: machine::running_version(),
            lease: None,
            foreign: BTreeMap::new(),
            draining: None,
            config,
        }
    }

    /// Told when an update waits.
    pub fn ready(&self) -> std::sync::Arc<tokio::sync::Notify> {
        self.bus.ready()
    }

    /// One round.
    ///
    /// # Errors
    /// When something could not be looked at or done; nothing is left half done
    /// that the next round does not finish.
    pub async fn once(&mut self) -> Result<Outcome, Error> {
        // Put back below: while a round fails, nobody may be there to take units.
        let draining = self.draining.take();
        // In this order: the gate's guards are as old as what they guard.
        let lock = self.store.lock(&self.config.group).await?;
        let mut records = self.store.records().await?;
        let mine = records.machines.get(&self.config.machine).and_then(|record| record.intent.clone());
        let pending = self.pending(mine.as_ref()).await?;
        let members = match pending.is_some() || mine.is_some() {
            true => self.members(&records).await?,
            false => Members::none(),
        };
        let (drain, is_cordoned_by_us) = fleet::look(self.config.fleet.as_deref()).await;
        if lock.semaphore.is_held_by(&self.config.machine) && matches!(drain, Drain::Remaining(_)) {
            self.draining = draining.or_else(|| Some(Instant::now()));
        }
        self.adopt(&records);
        let foreign_s = self.foreign(&lock, &records);
        let verdicts = std::mem::take(&mut records.verdicts);
        let step = next(&Sight {
            me: &self.config.machine,
            by: self.by(),
            boot: &self.boot,
            running: &self.running,
            pending: pending.as_deref(),
            good: self.good(mine.as_ref(), &members),
            window: self.window(),
            group: &self.config.group,
            semaphore: &lock.semaphore,
            records: &records.machines,
            verdicts: &verdicts,
            foreign_s: &foreign_s,
            is_cordoned_by_us,
            drain,
            draining_s: self.draining.map_or(0, |since| since.elapsed().as_secs()),
            voters: &members.voters,
            member: members.own.clone(),
            leader: members.leader,
            now_unix_s: now_unix_s(),
            limits: self.config.limits,
        });
        self.perform(step, &lock, &records, &members).await
    }

    fn by(&self) -> &'static str {
        match self.asked {
            Asked::ByUpdate => "locksmithd",
            Asked::ByPerson => "locksmithctl",
        }
    }

    /// The release that waits for a reboot.
    async fn pending(&mut self, mine: Option<&Intent>) -> Result<Option<String>, Error> {
        match (self.asked, self.config.strategy) {
            (Asked::ByPerson, _) => return Ok(Some(String::new())),
            (Asked::ByUpdate, Strategy::EtcdLock) => {}
            (Asked::ByUpdate, Strategy::Reboot | Strategy::Off) => return Ok(None),
        }
        match self.bus.pending().await {
            Ok(pending) => Ok(pending),
            // In the middle of it, not to know is no reason to turn back.
            Err(error) if mine.is_some_and(|mine| mine.boot == self.boot) => Err(error),
            Err(error) => {
                tracing::debug!("update_engine: {error}");
                Ok(None)
            }
        }
    }

    async fn members(&self, records: &Records) -> Result<Members, Error> {
        let mut members = members::ask(&self.store).await?;
        let leaving = lease::leaving_members(&self.config.machine, &records.machines);
        for voter in &mut members.voters {
            voter.is_leaving = leaving.contains(&voter.id);
        }
        Ok(members)
    }

    /// Whether this boot is good and the member that went down is back.
    fn good(&self, mine: Option<&Intent>, members: &Members) -> Result<(), String> {
        machine::is_good(&self.config.boot_record)?;
        let member = mine.map_or(0, |mine| mine.member);
        let is_back = |member| {
            members.own == Ok(Some(member))
                && members.voters.iter().any(|voter| voter.id == member && voter.is_healthy)
        };
        match member {
            0 => Ok(()),
            member if is_back(member) => Ok(()),
            member => Err(format!("its member {member:x} of the store is not back yet")),
        }
    }

    fn window(&self) -> window::State {
        match (&self.config.window, self.asked) {
            (Some(window), Asked::ByUpdate) => window.state(now_unix_s()),
            (_, Asked::ByPerson) | (None, _) => window::State::Open,
        }
    }

    /// Renews the lease of our key, also one that the program before us made.
    fn adopt(&mut self, records: &Records) {
        let here = records.leases.get(&self.config.machine).copied().filter(|lease| *lease != 0);
        let is_ours = records.machines.get(&self.config.machine).is_some_and(|record| {
            record.intent.as_ref().is_some_and(|mine| mine.boot == self.boot && mine.by == self.by())
        });
        match here.filter(|_| is_ours) {
            Some(lease) if self.lease.as_ref().map(|(kept, _)| *kept) != Some(lease) => {
                self.lease = Some((lease, self.store.keep(lease)));
            }
            Some(_) => {}
            None => self.lease = None,
        }
    }

    /// For how long each holder without records has been seen.
    fn foreign(&mut self, lock: &Lock, records: &Records) -> BTreeMap<String, u64> {
        let is_foreign =
            |holder: &&String| lease::standing(records.machines.get(*holder)) == Standing::Foreign;
        let seen: Vec<&String> = lock.semaphore.holders().iter().filter(is_foreign).collect();
        self.foreign.retain(|holder, _| seen.contains(&holder));
        for holder in seen {
            self.foreign.entry(holder.clone()).or_insert_with(Instant::now);
        }
        self.foreign.iter().map(|(holder, since)| (holder.clone(), since.elapsed().as_secs())).collect()
    }

    async fn perform(
        &mut self,
        step: Step,
        lock: &Lock,
        records: &Records,
        members: &Members,
    ) -> Result<Outcome, Error> {
        let me = self.config.machine.clone();
        match step {
            Step::Rest(why) => return Ok(Outcome::Rested(why)),
            Step::Reap(reap) => self.reap(reap, lock, records).await?,
            Step::Claim(intent) => self.claim(&intent, records).await?,
            Step::TakeLock => {
                let new = lock.semaphore.lock(&me)?;
                if self.store.swap(&self.config.group, lock, &new).await? {
                    tracing::info!("took the reboot lock");
                }
            }
            Step::Drain => {
                tracing::info!("asks the units of this machine to leave");
                if let Some(socket) = &self.config.fleet {
                    fleet::drain(socket, "it is about to reboot").await?;
                }
            }
            Step::HandOver(to) => {
                tracing::info!("makes member {to:x} the leader of the store");
                members::hand_over(&self.store, members, to).await?;
            }
            Step::Commit(intent) => self.decide(&intent, records).await?,
            Step::Reboot => {
                if !self.renew().await? {
                    return Ok(Outcome::Acted);
                }
                tracing::info!("reboots");
                self.bus.reboot().await?;
                return Ok(Outcome::GoesDown);
            }
            Step::Accuse(suspect) => {
                tracing::warn!("release {} is suspect: {}", suspect.version, suspect.reason);
                self.store.commit(Vec::new(), vec![put_suspect(&suspect), put_turn(&me)]).await?;
            }
            Step::LetGo(why) => return self.let_go(why, lock, records).await,
        }
        Ok(Outcome::Acted)
    }

    async fn reap(&self, reap: Reap, lock: &Lock, records: &Records) -> Result<(), Error> {
        match reap {
            Reap::Fence { holder, intent, suspect } => {
                let guards = vec![missing(&holder_key(&holder)), records.unchanged(&intent_key(&holder))];
                let mut ops = vec![put_intent(&holder, &intent), put_turn(&self.config.machine)];
                ops.extend(suspect.as_ref().map(put_suspect));
                if self.store.commit(guards, ops).await? {
                    tracing::warn!(
                        "machine {holder} is given up: its lease ended while it held the reboot lock"
                    );
                    if let Some(suspect) = suspect {
                        tracing::warn!("release {} is suspect: {}", suspect.version, suspect.reason);
                    }
                }
            }
            Reap::Remove { holder } => {
                let new = lock.semaphore.unlock(&holder)?;
                if self.store.swap(&self.config.group, lock, &new).await? {
                    tracing::warn!("took the reboot lock from {holder}, which is gone");
                }
            }
        }
        Ok(())
    }

    async fn claim(&mut self, intent: &Intent, records: &Records) -> Result<(), Error> {
        let me = &self.config.machine;
        let ttl_s = i64::try_from(self.config.lease.as_secs()).unwrap_or(i64::MAX);
        let lease = self.store.grant(ttl_s).await?;
        let guards = vec![records.unchanged(&intent_key(me))];
        let ops = vec![put(&holder_key(me), me.as_bytes().to_vec(), lease), put_intent(me, intent)];
        match self.store.commit(guards, ops).await? {
            true => self.lease = Some((lease, self.store.keep(lease))),
            false => self.store.revoke(lease).await,
        }
        Ok(())
    }

    /// The last write before the machine goes down.
    async fn decide(&mut self, intent: &Intent, records: &Records) -> Result<(), Error> {
        if !self.renew().await? {
            return Ok(());
        }
        let me = &self.config.machine;
        let guards =
            vec![exists(&holder_key(me)), records.unchanged(&intent_key(me)), records.unchanged(&turn_key())];
        let ops = vec![put_intent(me, intent), put_turn(me)];
        if self.store.commit(guards, ops).await? {
            tracing::info!("decided to reboot{}", into(&intent.version));
        }
        Ok(())
    }

    /// Our lease gets its whole time, so that it covers the reboot; `false` when it is over.
    async fn renew(&mut self) -> Result<bool, Error> {
        match &self.lease {
            Some((lease, _)) => self.store.renew(*lease).await,
            None => Ok(false),
        }
    }

    async fn let_go(&mut self, why: Why, lock: &Lock, records: &Records) -> Result<Outcome, Error> {
        let me = self.config.machine.clone();
        let intent = records.machines.get(&me).and_then(|record| record.intent.as_ref());
        // The intent may be about the lock of another group, from before a change of settings.
        let group = intent.map_or(self.config.group.clone(), |intent| intent.group.clone());
        let read = if group == self.config.group { lock.clone() } else { self.store.lock(&group).await? };
        if intent.is_some() && read.semaphore.is_held_by(&me) {
            let new = read.semaphore.unlock(&me)?;
            if !self.store.swap(&group, &read, &new).await? {
                return Ok(Outcome::Acted);
            }
            tracing::info!("gave the reboot lock back: {why}");
        }
        self.store.commit(vec![records.unchanged(&intent_key(&me))], forget(&me)).await?;
        if let Some((lease, _)) = self.lease.take() {
            self.store.revoke(lease).await;
        }
        // Last: others wait for the lock, and a cordon that stays is seen in the next round.
        if let Some(socket) = &self.config.fleet {
            fleet::lift(socket).await?;
        }
        Ok(Outcome::LetGo(why))
    }

    /// The strategy without a lock: in the window, unless the release is known to be bad.
    pub async fn without_lock(&mut self) -> Result<Outcome, Error> {
        let Some(version) = self.bus.pending().await? else {
            return Ok(Outcome::Rested(Why::NothingPending));
        };
        if let window::State::OpensIn(seconds) = self.window() {
            return Ok(Outcome::Rested(Why::Window(seconds)));
        }
        // A store that does not answer, or that there is not, has no say here.
        let verdicts = self.store.records().await.map(|records| records.verdicts).unwrap_or_default();
        if let Some(reason) = verdicts.get(&version) {
            return Ok(Outcome::Rested(Why::Failed { version, reason: reason.clone() }));
        }
        tracing::info!("reboots{}", into(&version));
        self.bus.reboot().await?;
        Ok(Outcome::GoesDown)
    }
}

/// How a phase is told to people.
pub fn tell(intent: &Intent, is_alive: bool, now_unix_s: u64) -> String {
    let doing = match intent.phase {
        Phase::Held => "prepares to reboot",
        Phase::Rebooting => "reboots",
        Phase::GivenUp => "was given up while it wanted to reboot",
    };
    let held_s = now_unix_s.saturating_sub(intent.since_unix_s);
    let life = if is_alive { "is alive" } else { "is not heard" };
    format!("{doing}{}, for {held_s} s, {life} ({})", into(&intent.version), intent.by)
}

fn into(version: &str) -> String {
    if version.is_empty() { String::new() } else { format!(" into release {version}") }
}

/// Seconds since 1970.
pub fn now_unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Whether it is worth looking again soon.
pub fn is_under_way(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Acted | Outcome::GoesDown => true,
        Outcome::Rested(why) => !matches!(why, Why::NothingPending | Why::Window(_) | Why::ByHand),
        Outcome::LetGo(_) => false,
    }
}
