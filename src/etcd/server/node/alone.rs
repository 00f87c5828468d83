//! A member that goes on without the others of its cluster: `--force-new-cluster`.

use proa_etcd_api::etcdserverpb::Member;
use proa_etcd_replica::eraftpb::{ConfState, Entry, EntryType};
use proa_etcd_replica::{Position, Start};
use proa_etcd_store::{Machine, View, Writes, record_member};

use super::applier::proposals;
use super::boot::Booted;
use super::meta;

/// What the entries after `applied` come to, and how far they go: all that the log
/// has, as if its member had been elected by nobody but itself. Which of them were agreed
/// on its disk does not say, and some were answered for. Who the members are
/// does not change: that is for those who go on to say.
pub(super) fn replay(
    machine: &mut Machine,
    view: &dyn View,
    entries: &[Entry],
    applied: Position,
) -> (Writes, Position) {
    let mut writes = Writes::default();
    let mut last = applied;
    for entry in entries.iter().filter(|entry| entry.index > applied.index) {
        for proposal in proposals(entry) {
            machine.apply_proposal(view, &mut writes, &proposal);
        }
        last = Position::of(entry);
    }
    (writes, last)
}

/// Why a member does not go on without the others.
pub(super) fn refuse(booted: &Booted) -> Option<&'static str> {
    let Start { applied, entries, .. } = &booted.start;
    if applied.index == 0 {
        return Some("it has not received any data yet");
    }
    // A flag that was left on would drop those who have joined since, and what they agreed on.
    let is_change = |entry: &Entry| entry.index > applied.index && entry.entry_type != EntryType::EntryNormal;
    let have_joined = booted.members.len() > 1 || entries.iter().any(is_change);
    let is_done = meta::was_alone(&booted.database.snapshot()) && have_joined;
    is_done.then_some("that was done, and others have joined since; leave the flag out")
}

/// Makes a member, before it runs, the only one of its cluster, at `peer_urls` if it has
/// no address yet. One write of the database: a crash leaves the cluster as it
/// was, or this member alone.
pub(super) fn go_on(booted: &mut Booted, peer_urls: &[String]) {
    let Booted { identity, database, machine, start, members, removed, .. } = booted;
    let view = database.snapshot();
    let (mut writes, last) = replay(machine, &view, &start.entries, start.applied);
    let id = identity.member_id;
    let known = members.get(&id).cloned().unwrap_or_default();
    let mut myself = Member { id, is_learner: false, ..known };
    if myself.peer_urls.is_empty() {
        myself.peer_urls = peer_urls.to_vec();
    }
    for other in members.keys().filter(|other| **other != id) {
        machine.forget_member(&mut writes, *other);
        removed.push(*other);
    }
    removed.retain(|gone| *gone != id);
    record_member(&mut writes, &myself);
    *members = [(id, myself)].into();
    meta::put_removed(&mut writes, removed.iter().copied());
    start.conf_state = ConfState { voters: vec![id], ..ConfState::default() };
    start.applied = last;
    meta::put_position(&mut writes, last, &start.conf_state);
    meta::put_alone(&mut writes, true);
    drop(view);
    database.write(&writes);
    database.flush(meta::POSITION);
    tracing::warn!("member {id:x} goes on alone, from index {}", last.index);
}
