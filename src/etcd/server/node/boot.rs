//! From a data dir to everything a member starts with.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use proa_etcd_api::etcdserverpb::Member;
use proa_etcd_replica::eraftpb::ConfState;
use proa_etcd_replica::{Founded, Position, Start, ids};
use proa_etcd_store::{Machine, View, Writes, record_member};

use super::alone;
use super::error::NodeError;
use super::meta::{self, Identity, Layout};
use super::types::{Bootstrap, NodeConfig};
use crate::database::{Database, DatabaseOptions, Storage};
use crate::log::disk::{Disk, Files};
use crate::log::{Log, LogOptions, Recovered};
use crate::peer::question;

/// Where the log of a new cluster starts: all first members hold this entry
/// already, it stands for the initial configuration.
pub(super) const FIRST: Position = Position { index: 1, term: 1 };

/// A member, ready to run.
pub(super) struct Booted<D: Disk = Files, S = Database> {
    pub(super) identity: Identity,
    pub(super) layout: Layout<D>,
    pub(super) log: Log<D>,
    pub(super) database: S,
    pub(super) machine: Machine,
    pub(super) start: Start,
    pub(super) members: BTreeMap<u64, Member>,
    pub(super) removed: Vec<u64>,
}

/// What a new data dir begins with.
pub(super) struct Initial {
    pub(super) identity: Identity,
    members: Vec<Member>,
    /// Where the log begins.
    position: Position,
    /// Who votes as of there.
    conf_state: ConfState,
}

impl Initial {
    /// What its database starts with.
    pub(super) fn state(&self) -> Writes {
        let mut writes = Writes::default();
        meta::put_position(&mut writes, self.position, &self.conf_state);
        self.members.iter().for_each(|member| record_member(&mut writes, member));
        writes
    }

    /// The first members of a new cluster, all of whom begin alike.
    pub(super) fn founding(identity: Identity, members: Vec<Member>) -> Self {
        let voters = members.iter().map(|member| member.id).collect();
        let conf_state = ConfState { voters, ..ConfState::default() };
        Self { identity, members, position: FIRST, conf_state }
    }
}

/// Opens the member in the data dir, or makes a new one there.
pub(super) fn boot(config: &NodeConfig) -> Result<Booted, NodeError> {
    let layout = Layout { disk: Files, root: config.data_dir.clone() };
    make_dir(&layout.root)?;
    let identity = match layout.read_identity()? {
        Some(identity) => identity,
        None => {
            let initial = initial(config)?;
            create(&layout, &initial, &mut |_| Ok(()))?;
            initial.identity
        }
    };
    let mut booted = open(layout, identity)?;
    if matches!(config.bootstrap, Bootstrap::Alone) {
        if let Some(why) = alone::refuse(&booted) {
            let dir = config.data_dir.display();
            return Err(NodeError::Config(format!("--force-new-cluster does not go on with {dir}: {why}")));
        }
        alone::go_on(&mut booted, &config.advertise_peer_urls);
    } else if meta::was_alone(&booted.database.snapshot()) {
        let mut writes = Writes::default();
        meta::put_alone(&mut writes, false);
        booted.database.write(&writes);
        booted.database.flush(meta::POSITION);
    }
    match booted.members.get(&identity.member_id) {
        Some(member) if member.peer_urls.is_empty() => Err(NodeError::Config(format!(
            "{} is a backup, whose member has no address; start it with --force-new-cluster",
            config.data_dir.display()
        ))),
        Some(_) | None => Ok(booted),
    }
}

fn make_dir(path: &Path) -> Result<(), NodeError> {
    let made = fs::create_dir_all(path);
    made.map_err(|source| NodeError::Io { action: "make", path: path.to_owned(), source })
}

fn initial(config: &NodeConfig) -> Result<Initial, NodeError> {
    match &config.bootstrap {
        Bootstrap::Alone => {
            let dir = config.data_dir.display();
            Err(NodeError::Config(format!(
                "{dir} holds no member; --force-new-cluster goes on with the data of one that is there"
            )))
        }
        Bootstrap::Existing => {
            let dir = config.data_dir.display();
            Err(NodeError::Config(format!("{dir} holds no member; give --initial-cluster to start one")))
        }
        Bootstrap::Join { others } => initial_of_join(config, others),
        Bootstrap::New { token, members } => {
            let initial = initial_of_flags(&config.name, &config.advertise_peer_urls, token, members)?;
            refuse_second_life(config, &initial)?;
            Ok(initial)
        }
        Bootstrap::Founded(founded) => {
            let initial = initial_of_founding(config, founded)?;
            refuse_second_life(config, &initial)?;
            Ok(initial)
        }
    }
}

pub(super) fn initial_of_flags(
    name: &str,
    peer_urls: &[String],
    token: &str,
    named: &BTreeMap<String, Vec<String>>,
) -> Result<Initial, NodeError> {
    let mine = named.get(name).ok_or_else(|| {
        NodeError::Config(format!("couldn't find local name {name:?} in the initial cluster configuration"))
    })?;
    let sorted = |urls: &[String]| {
        let mut urls = urls.to_vec();
        urls.sort();
        urls
    };
    if sorted(mine) != sorted(peer_urls) {
        return Err(NodeError::Config(format!(
            "--initial-cluster has {name}={} but missing from --initial-advertise-peer-urls={}",
            mine.join(","),
            peer_urls.join(",")
        )));
    }
    let member = |(name, urls): (&String, &Vec<String>)| Member {
        id: ids::member_id(urls, token, None),
        name: name.clone(),
        peer_urls: urls.clone(),
        ..Member::default()
    };
    let members: Vec<Member> = named.iter().map(member).collect();
    let cluster_id = ids::cluster_id(members.iter().map(|member| member.id));
    let distinct: std::collections::BTreeSet<u64> = members.iter().map(|member| member.id).collect();
    if distinct.len() != members.len() {
        return Err(NodeError::Config("two members of --initial-cluster have the same peer URLs".to_owned()));
    }
    let identity = Identity { cluster_id, member_id: ids::member_id(mine, token, None) };
    Ok(Initial::founding(identity, members))
}

/// Refuses to begin anew where this member has lived before: it may have
/// promised what it does not know any more. Whoever of the others runs knows it;
/// at the birth of a cluster nobody does.
///
/// Source: etcd's `isMemberBootstrapped`.
fn refuse_second_life(config: &NodeConfig, initial: &Initial) -> Result<(), NodeError> {
    let Identity { cluster_id, member_id } = initial.identity;
    let others = initial.members.iter().filter(|member| member.id != member_id);
    let urls = others.flat_map(|member| &member.peer_urls);
    for (_, answer) in question::ask_members_at(urls, config.peer_tls.client.as_ref()) {
        let Ok(known) = answer else { continue };
        let is_gone = !known.members.iter().any(|member| member.id == member_id);
        if known.cluster_id == cluster_id && (is_gone || known.has_run(member_id)) {
            let name = &config.name;
            return Err(NodeError::Config(format!(
                "member {member_id:x} has already been bootstrapped, but {} is empty; replace it: etcdctl \
                 member remove {member_id:x}, etcdctl member add {name} --learner --peer-urls={}, then start \
                 it with --initial-cluster-state=existing",
                config.data_dir.display(),
                config.advertise_peer_urls.join(",")
            )));
        }
    }
    Ok(())
}

/// Learns from the running members which of them this is to be.
fn initial_of_join(config: &NodeConfig, others: &[String]) -> Result<Initial, NodeError> {
    let sorted = |urls: &[String]| {
        let mut urls = urls.to_vec();
        urls.sort();
        urls
    };
    let own = sorted(&config.advertise_peer_urls);
    let mut trouble = "--initial-cluster names nobody else".to_owned();
    // All are asked: one of them may have heard of this member what others have not.
    let mut answers = Vec::new();
    for (url, answer) in question::ask_members_at(others, config.peer_tls.client.as_ref()) {
        match answer {
            Ok(known) => answers.push(known),
            Err(error) => trouble = format!("{url}: {error}"),
        }
    }
    let cluster = answers.first().map(|known| known.cluster_id);
    let is_mine = |member: &&Member| sorted(&member.peer_urls) == own;
    let mine = answers.iter().find_map(|known| Some((known, known.members.iter().find(is_mine)?)));
    if let Some((known, mine)) = mine {
        let cluster_id = known.cluster_id;
        if answers.iter().any(|known| known.has_run(mine.id)) {
            return Err(NodeError::Config(format!(
                "member {:x} of cluster {cluster_id:x} has run before, but {} is empty; replace it: etcdctl \
                 member remove {:x}, then etcdctl member add {} --learner --peer-urls={}",
                mine.id,
                config.data_dir.display(),
                mine.id,
                config.name,
                own.join(",")
            )));
        }
        // Empty: the leader sends all there is, and who votes with it.
        return Ok(Initial {
            identity: Identity { cluster_id, member_id: mine.id },
            members: known.members.clone(),
            position: Position::default(),
            conf_state: ConfState::default(),
        });
    }
    let urls = own.join(",");
    Err(NodeError::Config(match cluster {
        Some(cluster_id) => format!(
            "cluster {cluster_id:x} has no member with the peer URLs {urls}; add it first: etcdctl member add \
             {} --learner --peer-urls={urls}",
            config.name
        ),
        None => format!(
            "cannot fetch cluster info from peer urls: could not retrieve cluster information from the given \
             URLs ({trouble})"
        ),
    }))
}

fn initial_of_founding(config: &NodeConfig, founded: &Founded) -> Result<Initial, NodeError> {
    let is_mine =
        |url: &Option<String>| url.as_ref().is_some_and(|url| config.advertise_peer_urls.contains(url));
    let mine = founded.members.values().find(|member| is_mine(&member.peer_url));
    let mine = mine.ok_or_else(|| {
        let urls = config.advertise_peer_urls.join(",");
        NodeError::Config(format!("no founding machine has --initial-advertise-peer-urls={urls}"))
    })?;
    let member = |member: &proa_etcd_replica::founding::FoundedMember| Member {
        id: member.id,
        peer_urls: member.peer_url.iter().cloned().collect(),
        ..Member::default()
    };
    let members = founded.members.values().map(member).collect();
    Ok(Initial::founding(Identity { cluster_id: founded.cluster_id, member_id: mine.id }, members))
}

/// What the database of each first member starts with.
#[cfg(test)]
pub(super) fn first_state(members: &[Member]) -> Writes {
    Initial::founding(Identity { cluster_id: 0, member_id: 0 }, members.to_vec()).state()
}

/// What a new member's database is filled with beside its first state.
pub(super) type Fill<'a> = dyn FnMut(&Database) -> Result<(), NodeError> + 'a;

/// Makes log and database of a new member. The identity is written last: a
/// crash before it leaves a data dir in which nobody has lived yet.
pub(super) fn create(layout: &Layout, initial: &Initial, fill: &mut Fill<'_>) -> Result<(), NodeError> {
    for path in [layout.log(), layout.database()] {
        match fs::remove_dir_all(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(NodeError::Io { action: "empty", path, source }),
        }
    }
    let Position { index, term } = initial.position;
    drop(Log::create(&layout.log(), LogOptions::default(), (index, term))?);
    let database = Database::open(&layout.database(), DatabaseOptions::default())?;
    fill(&database)?;
    database.write(&initial.state());
    database.flush(meta::POSITION);
    database.close()?;
    layout.write_identity(initial.identity)
}

fn open(layout: Layout, identity: Identity) -> Result<Booted, NodeError> {
    let opened = Log::open(&layout.log(), LogOptions::default())?;
    let database = Database::open(&layout.database(), DatabaseOptions::default())?;
    match_up(layout, identity, opened, database)
}

/// What log and database say, whether or not they belong together.
pub(super) fn start_of<D: Disk>(
    layout: &Layout<D>,
    log: Recovered,
    view: &dyn View,
) -> Result<Start, NodeError> {
    let stored = view.get(meta::POSITION).ok_or_else(|| layout.damaged("it has no raft position"))?;
    let (applied, conf_state) = meta::decode_position(stored).map_err(|error| layout.damaged(error.0))?;
    let (index, term) = log.snapshot.unwrap_or_default();
    let (hard_state, entries) = (log.hard_state, log.entries);
    Ok(Start { hard_state, conf_state, log_base: Position { index, term }, entries, applied })
}

/// Makes sure that log and database belong together, whatever a crash left.
pub(super) fn match_up<D: Disk, S: Storage>(
    layout: Layout<D>,
    identity: Identity,
    (mut log, recovered): (Log<D>, Recovered),
    database: S,
) -> Result<Booted<D, S>, NodeError> {
    if recovered.cut_bytes > 0 {
        tracing::info!("the log's last write was cut by a crash: {} bytes dropped", recovered.cut_bytes);
    }
    let view = database.snapshot();
    let mut start = start_of(&layout, recovered, &view)?;
    let applied = start.applied;
    // A crash after the database was replaced and before the log followed:
    // the snapshot holds only what is committed, so the log may follow now.
    if layout.installing_index() == Some(applied.index) && !start.log_holds(applied) {
        let mut hard_state = start.hard_state.clone();
        hard_state.term = hard_state.term.max(applied.term);
        hard_state.commit = applied.index;
        let _receipt = log.install_snapshot(applied.index, applied.term, &hard_state)?;
        start = Start { hard_state, log_base: applied, entries: Vec::new(), ..start };
    }
    layout.end_installing()?;
    start.check().map_err(|source| NodeError::Start { path: layout.root.clone(), source })?;
    let machine = Machine::load(&view)?;
    let members = proa_etcd_store::members(&view)?.into_iter().map(|member| (member.id, member)).collect();
    let removed = meta::removed(&view).map_err(|error| layout.damaged(error.0))?;
    drop(view);
    Ok(Booted { identity, layout, log, database, machine, start, members, removed })
}
