//! How machines that boot with one and the same command line become one cluster.
//!
//! Every machine sends beacons. A machine that hears `size` candidates
//! announces a *view*: the `size` smallest machine ids. When all machines of a
//! view announce the same view it *commits* to it, and when all of them are
//! committed the cluster is *founded*: each of them starts from the same
//! initial members, whose ids are hashes, without another word.
//!
//! Why it is safe. Announcements carry a round that only grows, and a machine
//! commits at most once in a round. A commitment `(set, round)` is left only on
//! proof that nobody can ever found it: some member of the set is in a later
//! round, or is committed to another set in the same round, or runs in another
//! cluster. The first to move on was not committed itself and will never be in
//! that round, so the proof holds for all who come after. Hence two founded
//! sets share no machine. Sets that share none come about only between
//! machines that did not hear each other for [`SETTLE_MS`] at the start.
//!
//! Caller's duties:
//! 1. Make [`Step::promise`] durable before sending [`Step::beacon`], and give
//!    it back to [`Founding::new`] after a restart. A machine that forgets what
//!    it promised must come back under a new machine id.
//! 2. Call [`Founding::step`] every [`BEACON_MS`] and after every
//!    [`Founding::hear`].
//! 3. After `Found`, send [`Beacon::of_member`] as long as the member runs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use proa_base::ids::MachineId;

use crate::ids::{cluster_id, founded_member_id};

/// Time between two beacons in milliseconds.
pub const BEACON_MS: u64 = 250;
/// A machine not heard for this long counts as gone: 16 beacons, so that loss
/// alone does not make one disappear.
pub const ALIVE_MS: u64 = 4_000;
/// Time to listen before the first view, and for which the candidates must
/// stay the same: 8 beacons of every machine that is already up.
pub const SETTLE_MS: u64 = 2_000;
/// Most machines kept in mind: the network may hold more, or somebody forges.
pub const MAX_HEARD: usize = 1_024;
/// Largest cluster that is founded; etcd's advice is at most seven members.
pub const MAX_SIZE: usize = 9;

/// Some machines, by id.
pub type Machines = BTreeSet<MachineId>;

/// What one machine tells all others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beacon {
    /// Name of the cluster on the command line.
    pub token: String,
    /// Number of members to found with.
    pub size: usize,
    /// Who speaks.
    pub machine: MachineId,
    /// Where its member is, or will be, reached by other members.
    pub peer_url: String,
    /// Where its member is, or will be, reached by clients.
    pub client_urls: Vec<String>,
    /// See the module.
    pub round: u64,
    /// The set it would found with.
    pub view: Option<Machines>,
    /// The set it is committed to, in `round`.
    pub committed: Option<Machines>,
    /// The cluster in which its member runs.
    pub member: Option<Cluster>,
}

/// A cluster as its members announce it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Cluster id.
    pub id: u64,
    /// The machines that founded it.
    pub founders: Machines,
}

/// The initial members of a cluster, the same on each of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founded {
    /// Name of the cluster on the command line.
    pub token: String,
    /// Cluster id.
    pub cluster_id: u64,
    /// Members by machine.
    pub members: BTreeMap<MachineId, FoundedMember>,
}

/// One initial member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundedMember {
    /// Member id.
    pub id: u64,
    /// Last known peer URL; may differ between members and change later.
    pub peer_url: Option<String>,
}

/// What a machine must remember from one boot to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Promise {
    /// Never goes down.
    pub round: u64,
    /// Never taken back without proof.
    pub committed: Option<Machines>,
    /// A cluster of this name exists and this machine is not in it. Kept so
    /// that the machines left out of a cluster do not found a second one when
    /// the power comes back and they are up first.
    pub outside: Option<Cluster>,
}

/// Why nothing is decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// Still listening for others.
    Settling,
    /// Too few machines are up.
    TooFew {
        /// Heard, this one included.
        heard: usize,
        /// Needed.
        size: usize,
    },
    /// Some machine of the view does not announce it yet.
    Disagreed {
        /// Who.
        with: MachineId,
    },
    /// Some machine of the view is not known to be committed.
    Uncommitted {
        /// Who.
        by: MachineId,
        /// Time since it was last heard, in milliseconds, if ever.
        silent_ms: Option<u64>,
    },
    /// Other machines are founding without this one.
    OthersFound,
    /// Another machine has this one's id, for example a copied disk.
    SameId {
        /// Its peer URL.
        peer_url: String,
    },
}

impl fmt::Display for Why {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Settling => write!(out, "listening for other machines"),
            Why::TooFew { heard, size } => write!(out, "{heard} of {size} machines are up"),
            Why::Disagreed { with } => {
                write!(out, "machine {with} does not see the same machines yet")
            }
            Why::Uncommitted { by, silent_ms: None } => {
                write!(out, "machine {by} agreed to found this cluster and was not heard since")
            }
            Why::Uncommitted { by, silent_ms: Some(ms) } => {
                write!(out, "machine {by} has not confirmed (last heard {ms} ms ago)")
            }
            Why::OthersFound => write!(out, "other machines are founding the cluster"),
            Why::SameId { peer_url } => write!(
                out,
                "the machine at {peer_url} has this machine's id; give one of them a new id (was the disk copied?)"
            ),
        }
    }
}

/// What follows from all that was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Go on listening.
    Wait(Why),
    /// Start as a member of this cluster.
    Found(Founded),
    /// The cluster exists, and has no member here that could go on.
    Standby(Cluster),
}

/// One turn's result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Make this durable first.
    pub promise: Promise,
    /// Send this then.
    pub beacon: Beacon,
    /// Act on this last.
    pub decision: Decision,
}

/// Who this machine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Myself {
    /// Name of the cluster on the command line.
    pub token: String,
    /// Number of members to found with, 1 to [`MAX_SIZE`].
    pub size: usize,
    /// This machine's id.
    pub machine: MachineId,
    /// Where others reach its member.
    pub peer_url: String,
    /// Where clients reach its member.
    pub client_urls: Vec<String>,
}

impl Beacon {
    /// The beacon of a machine whose member runs in `cluster`.
    pub fn of_member(myself: &Myself, cluster: Cluster) -> Self {
        Self { member: Some(cluster), ..Self::of(myself, 0) }
    }

    fn of(myself: &Myself, round: u64) -> Self {
        Self {
            token: myself.token.clone(),
            size: myself.size,
            machine: myself.machine,
            peer_url: myself.peer_url.clone(),
            client_urls: myself.client_urls.clone(),
            round,
            view: None,
            committed: None,
            member: None,
        }
    }
}

impl Founded {
    /// The cluster that the machines of `set` found.
    pub fn by(token: &str, set: &Machines, peer_url: impl Fn(&MachineId) -> Option<String>) -> Self {
        let member = |machine: &MachineId| {
            let id = founded_member_id(*machine, token);
            (*machine, FoundedMember { id, peer_url: peer_url(machine) })
        };
        let members: BTreeMap<_, _> = set.iter().map(member).collect();
        let cluster_id = cluster_id(members.values().map(|member| member.id));
        Self { token: token.to_owned(), cluster_id, members }
    }

    /// How its members announce it.
    pub fn cluster(&self) -> Cluster {
        Cluster { id: self.cluster_id, founders: self.members.keys().copied().collect() }
    }
}

/// The last beacon of another machine.
#[derive(Clone, Debug)]
struct Heard {
    beacon: Beacon,
    at_ms: u64,
}

/// The state of one machine that looks for its cluster.
#[derive(Clone, Debug)]
pub struct Founding {
    myself: Myself,
    promise: Promise,
    heard: BTreeMap<MachineId, Heard>,
    /// Who was ever heard to be committed as this machine is.
    confirmed: Machines,
    candidates: Machines,
    /// When `candidates` last changed.
    changed_ms: u64,
    same_id: Option<String>,
}

impl Founding {
    /// Starts listening at `now_ms`, bound by what was promised before.
    ///
    /// # Panics
    ///
    /// When `myself.size` is not in 1 to [`MAX_SIZE`].
    pub fn new(myself: Myself, promise: Promise, now_ms: u64) -> Self {
        assert!((1..=MAX_SIZE).contains(&myself.size), "size {} is checked by the caller", myself.size);
        let candidates = Machines::from([myself.machine]);
        Self {
            myself,
            promise,
            heard: BTreeMap::new(),
            confirmed: Machines::new(),
            candidates,
            changed_ms: now_ms,
            same_id: None,
        }
    }

    /// Takes a beacon heard at `now_ms`; those of other clusters are ignored.
    pub fn hear(&mut self, beacon: Beacon, now_ms: u64) {
        if beacon.token != self.myself.token {
            return;
        }
        if beacon.machine == self.myself.machine {
            if beacon.peer_url != self.myself.peer_url {
                self.same_id = Some(beacon.peer_url);
            }
            return;
        }
        if self.heard.len() >= MAX_HEARD && !self.heard.contains_key(&beacon.machine) {
            return;
        }
        self.heard.insert(beacon.machine, Heard { beacon, at_ms: now_ms });
    }

    /// The last beacons of all machines heard of, by machine.
    pub fn beacons(&self) -> impl Iterator<Item = &Beacon> {
        self.heard.values().map(|heard| &heard.beacon)
    }

    /// Takes stock at `now_ms`.
    pub fn step(&mut self, now_ms: u64) -> Step {
        self.note_candidates(now_ms);
        self.drop_dead_commitment();
        self.follow_round(now_ms);
        let view = self.view(now_ms);
        if self.promise.committed.is_none()
            && let Ok(set) = &view
            && self.disagreement(set, now_ms).is_none()
        {
            self.promise.committed = Some(set.clone());
            self.confirmed.clear();
        }
        let decision = self.decide(&view, now_ms);
        if let Decision::Standby(cluster) = &decision {
            self.promise.outside = Some(cluster.clone());
        }
        let mut beacon = Beacon::of(&self.myself, self.promise.round);
        beacon.view = view.ok();
        beacon.committed = self.promise.committed.clone();
        Step { promise: self.promise.clone(), beacon, decision }
    }

    fn alive(&self, now_ms: u64) -> impl Iterator<Item = &Beacon> {
        let fresh = move |heard: &&Heard| now_ms.saturating_sub(heard.at_ms) < ALIVE_MS;
        self.heard.values().filter(fresh).map(|heard| &heard.beacon)
    }

    fn note_candidates(&mut self, now_ms: u64) {
        let others = self.alive(now_ms).filter(|beacon| beacon.member.is_none()).map(|beacon| beacon.machine);
        let candidates: Machines = others.chain([self.myself.machine]).collect();
        if candidates != self.candidates {
            self.candidates = candidates;
            self.changed_ms = now_ms;
        }
    }

    /// Leaves a commitment that can never be founded; see the module for why.
    fn drop_dead_commitment(&mut self) {
        let Some(set) = &self.promise.committed else { return };
        let round = self.promise.round;
        let is_proof = |beacon: &Beacon| match (&beacon.member, &beacon.committed) {
            (Some(cluster), _) => cluster.founders != *set,
            (None, _) if beacon.round > round => true,
            (None, Some(other)) => beacon.round == round && other != set,
            (None, None) => false,
        };
        let dead =
            set.iter().filter_map(|machine| self.heard.get(machine)).any(|heard| is_proof(&heard.beacon));
        if dead {
            self.promise.committed = None;
            self.promise.round += 1;
            self.confirmed.clear();
        }
    }

    /// Without a commitment, moves on to the latest round in use.
    fn follow_round(&mut self, now_ms: u64) {
        if self.promise.committed.is_none() {
            let latest = self.alive(now_ms).map(|beacon| beacon.round).max().unwrap_or(0);
            self.promise.round = self.promise.round.max(latest);
        }
    }

    /// A cluster of this name that runs, or ran before this boot.
    fn running(&self) -> Option<&Cluster> {
        let heard = self.heard.values().find_map(|heard| heard.beacon.member.as_ref());
        heard.or(self.promise.outside.as_ref())
    }

    /// The set to announce.
    fn view(&self, now_ms: u64) -> Result<Machines, Why> {
        let size = self.myself.size;
        if let Some(set) = &self.promise.committed {
            return Ok(set.clone());
        }
        if self.running().is_some() {
            return Err(Why::OthersFound);
        }
        if self.candidates.len() < size {
            return Err(Why::TooFew { heard: self.candidates.len(), size });
        }
        let bound =
            || self.alive(now_ms).filter_map(|beacon| Some((beacon.round, beacon.committed.as_ref()?)));
        // Somebody is bound already: with it, or not at all.
        if bound().any(|(_, set)| !set.contains(&self.myself.machine)) {
            return Err(Why::OthersFound);
        }
        if let Some(set) = bound().filter(|(round, _)| *round == self.promise.round).map(|(_, set)| set).min()
        {
            return Ok(set.clone());
        }
        if now_ms.saturating_sub(self.changed_ms) < SETTLE_MS {
            return Err(Why::Settling);
        }
        let smallest: Machines = self.candidates.iter().take(size).copied().collect();
        if smallest.contains(&self.myself.machine) { Ok(smallest) } else { Err(Why::OthersFound) }
    }

    /// The first machine of `set` that does not announce it now.
    fn disagreement(&self, set: &Machines, now_ms: u64) -> Option<MachineId> {
        let agrees = |machine: &&MachineId| {
            let mut alive = self.alive(now_ms);
            **machine == self.myself.machine
                || alive.any(|beacon| {
                    beacon.machine == **machine
                        && beacon.round == self.promise.round
                        && beacon.view.as_ref() == Some(set)
                })
        };
        set.iter().find(|machine| !agrees(machine)).copied()
    }

    fn decide(&mut self, view: &Result<Machines, Why>, now_ms: u64) -> Decision {
        if let Some(peer_url) = &self.same_id {
            return Decision::Wait(Why::SameId { peer_url: peer_url.clone() });
        }
        if let Some(set) = self.promise.committed.clone() {
            self.note_confirmed(&set);
            return match set.iter().find(|machine| !self.confirmed.contains(machine)) {
                None => Decision::Found(self.founded(&set)),
                Some(by) => {
                    let heard = self.heard.get(by);
                    let silent_ms = heard.map(|heard| now_ms.saturating_sub(heard.at_ms));
                    Decision::Wait(Why::Uncommitted { by: *by, silent_ms })
                }
            };
        }
        if let Some(cluster) = self.running() {
            // Also with this machine among the founders: its data is gone, so
            // its member is, and another has to take that place.
            return Decision::Standby(cluster.clone());
        }
        Decision::Wait(match view {
            Err(why) => why.clone(),
            Ok(set) => {
                let with = self.disagreement(set, now_ms).expect("an agreed view is committed above");
                Why::Disagreed { with }
            }
        })
    }

    /// A commitment heard once counts for good: when all of a set are
    /// committed there is no proof on which one of them could leave.
    fn note_confirmed(&mut self, set: &Machines) {
        self.confirmed.insert(self.myself.machine);
        for machine in set {
            let Some(Heard { beacon, .. }) = self.heard.get(machine) else { continue };
            let founded = beacon.member.as_ref().is_some_and(|cluster| cluster.founders == *set);
            let bound = beacon.round == self.promise.round && beacon.committed.as_ref() == Some(set);
            if founded || bound {
                self.confirmed.insert(*machine);
            }
        }
    }

    fn founded(&self, set: &Machines) -> Founded {
        let peer_url = |machine: &MachineId| match self.heard.get(machine) {
            Some(heard) => Some(heard.beacon.peer_url.clone()),
            None => (*machine == self.myself.machine).then(|| self.myself.peer_url.clone()),
        };
        Founded::by(&self.myself.token, set, peer_url)
    }
}
