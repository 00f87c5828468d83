//! A member that goes on without the others of its cluster: `--force-new-cluster`.

use proa_etcd_api::etcdserverpb::Member;
use proa_etcd_replica::Position;
use proa_etcd_replica::eraftpb::{ConfState, Entry};
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

/// Makes a member, before it runs, the only one of its cluster, at `peer_urls`. One
/// write of the database: a crash leaves the cluster as it was, or this member alone.
pub(super) fn go_on(booted: &mut Booted, peer_urls: &[String]) {
    let Booted { identity, database, machine, start, members, removed, .. } = booted;
    let view = database.snapshot();
    let (mut writes, last) = replay(machine, &view, &start.entries, start.applied);
    let id = identity.member_id;
    let known = members.get(&id).cloned().unwrap_or_default();
    let myself = Member { id, peer_urls: peer_urls.to_vec(), is_learner: false, ..known };
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
    drop(view);
    database.write(&writes);
    database.flush(meta::POSITION);
    tracing::warn!("member {id:x} goes on alone, from index {}", last.index);
}
