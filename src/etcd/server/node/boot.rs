//! From a data dir to everything a member starts with.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use proa_etcd_api::etcdserverpb::Member;
use proa_etcd_replica::eraftpb::ConfState;
use proa_etcd_replica::{Founded, Position, Start, ids};
use proa_etcd_store::{Machine, Writes, record_member};

use super::error::NodeError;
use super::meta::{self, Identity, Layout};
use super::types::{Bootstrap, NodeConfig};
use crate::database::{Database, DatabaseOptions, Storage};
use crate::log::disk::{Disk, Files};
use crate::log::{Log, LogOptions, Recovered};

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

/// The first members of a new cluster.
struct Initial {
    identity: Identity,
    members: Vec<Member>,
}

/// Opens the member in the data dir, or makes a new one there.
pub(super) fn boot(config: &NodeConfig) -> Result<Booted, NodeError> {
    let layout = Layout { disk: Files, root: config.data_dir.clone() };
    make_dir(&layout.root)?;
    let identity = match layout.read_identity()? {
        Some(identity) => identity,
        None => {
            let initial = initial(config)?;
            create(&layout, &initial)?;
            initial.identity
        }
    };
    open(layout, identity)
}

fn make_dir(path: &Path) -> Result<(), NodeError> {
    let made = fs::create_dir_all(path);
    made.map_err(|source| NodeError::Io { action: "make", path: path.to_owned(), source })
}

fn initial(config: &NodeConfig) -> Result<Initial, NodeError> {
    match &config.bootstrap {
        Bootstrap::Existing => {
            let dir = config.data_dir.display();
            Err(NodeError::Config(format!("{dir} holds no member; give --initial-cluster to start one")))
        }
        Bootstrap::Join { .. } => Err(NodeError::Config(
            "--initial-cluster-state=existing: joining a running cluster is not supported".to_owned(),
        )),
        Bootstrap::New { token, members } => initial_of_flags(config, token, members),
        Bootstrap::Founded(founded) => initial_of_founding(config, founded),
    }
}

fn initial_of_flags(
    config: &NodeConfig,
    token: &str,
    named: &BTreeMap<String, Vec<String>>,
) -> Result<Initial, NodeError> {
    let mine = named.get(&config.name).ok_or_else(|| {
        NodeError::Config(format!(
            "couldn't find local name {:?} in the initial cluster configuration",
            config.name
        ))
    })?;
    let sorted = |urls: &[String]| {
        let mut urls = urls.to_vec();
        urls.sort();
        urls
    };
    if sorted(mine) != sorted(&config.advertise_peer_urls) {
        return Err(NodeError::Config(format!(
            "--initial-cluster has {}={} but missing from --initial-advertise-peer-urls={}",
            config.name,
            mine.join(","),
            config.advertise_peer_urls.join(",")
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
    Ok(Initial { identity: Identity { cluster_id, member_id: ids::member_id(mine, token, None) }, members })
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
    Ok(Initial { identity: Identity { cluster_id: founded.cluster_id, member_id: mine.id }, members })
}

/// Makes log and database of a first member. The identity is written last: a
/// crash before it leaves a data dir in which nobody has lived yet.
fn create(layout: &Layout, initial: &Initial) -> Result<(), NodeError> {
    for path in [layout.log(), layout.database()] {
        match fs::remove_dir_all(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(NodeError::Io { action: "empty", path, source }),
        }
    }
    drop(Log::create(&layout.log(), LogOptions::default(), (FIRST.index, FIRST.term))?);
    let database = Database::open(&layout.database(), DatabaseOptions::default())?;
    database.write(&first_state(&initial.members));
    database.flush(meta::POSITION);
    database.close()?;
    layout.write_identity(initial.identity)
}

/// What the database of each first member starts with.
pub(super) fn first_state(members: &[Member]) -> Writes {
    let mut writes = Writes::default();
    let voters = members.iter().map(|member| member.id).collect();
    meta::put_position(&mut writes, FIRST, &ConfState { voters, ..ConfState::default() });
    members.iter().for_each(|member| record_member(&mut writes, member));
    writes
}

fn open(layout: Layout, identity: Identity) -> Result<Booted, NodeError> {
    let opened = Log::open(&layout.log(), LogOptions::default())?;
    let database = Database::open(&layout.database(), DatabaseOptions::default())?;
    match_up(layout, identity, opened, database)
}

/// Makes sure that log and database belong together, whatever a crash left.
pub(super) fn match_up<D: Disk, S: Storage>(
    layout: Layout<D>,
    identity: Identity,
    (mut log, recovered): (Log<D>, Recovered),
    database: S,
) -> Result<Booted<D, S>, NodeError> {
    let damaged = |what| NodeError::Damaged { path: layout.database(), what };
    let stored = database.get(meta::POSITION).ok_or_else(|| damaged("it has no raft position"))?;
    let (applied, conf_state) = meta::decode_position(stored).map_err(|error| damaged(error.0))?;
    let base = recovered.snapshot.unwrap_or_default();
    let mut start = Start {
        hard_state: recovered.hard_state,
        conf_state,
        log_base: Position { index: base.0, term: base.1 },
        entries: recovered.entries,
        applied,
    };
    if recovered.cut_bytes > 0 {
        tracing::info!("the log's last write was cut by a crash: {} bytes dropped", recovered.cut_bytes);
    }
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
    let view = database.snapshot();
    let machine = Machine::load(&view)?;
    let members = proa_etcd_store::members(&view)?.into_iter().map(|member| (member.id, member)).collect();
    let removed = meta::removed(&view).map_err(|error| damaged(error.0))?;
    drop(view);
    Ok(Booted { identity, layout, log, database, machine, start, members, removed })
}
