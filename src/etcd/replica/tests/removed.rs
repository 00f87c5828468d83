//! A member that is removed while it leads or stands for election.
#![allow(clippy::unwrap_used)]

use proa_etcd_replica::eraftpb::{ConfChange, ConfChangeType, ConfState, EntryType, HardState, Message};
use proa_etcd_replica::{Config, Output, Position, Replica, Role, Start, decode_conf_change};

fn member(id: u64) -> Replica {
    let first = Position { index: 1, term: 1 };
    let start = Start {
        hard_state: HardState { term: 1, commit: 1, ..HardState::default() },
        conf_state: ConfState { voters: vec![1, 2], ..ConfState::default() },
        log_base: first,
        applied: first,
        ..Start::default()
    };
    Replica::new(Config { boot_nonce: id, ..Config::new(id) }, start).unwrap()
}

/// Does all a member wants done, at once; returns what it sends.
fn perform(replica: &mut Replica) -> Vec<Message> {
    let mut sent = Vec::new();
    loop {
        let Output { send, writes, committed, .. } = replica.poll();
        if send.is_empty() && writes.is_empty() && committed.is_empty() {
            return sent;
        }
        sent.extend(send);
        if let Some(last) = writes.last() {
            replica.persisted(last.number);
        }
        for entry in committed {
            if entry.entry_type == EntryType::EntryConfChange {
                replica.apply_conf_change(&decode_conf_change(&entry.data).unwrap()).unwrap();
            }
            replica.applied(entry.index);
        }
    }
}

fn exchange(members: &mut [Replica; 2]) {
    loop {
        let messages: Vec<Message> = members.iter_mut().flat_map(perform).collect();
        if messages.is_empty() {
            return;
        }
        for message in messages {
            members[message.to as usize - 1].step(message).unwrap();
        }
    }
}

#[test]
fn a_leader_that_is_removed_steps_down() {
    let mut members = [member(1), member(2)];
    members[0].campaign();
    exchange(&mut members);
    assert_eq!(members[0].standing().role, Role::Leader);
    let removal = ConfChange { node_id: 1, change_type: ConfChangeType::RemoveNode, ..ConfChange::default() };
    members[0].propose_conf_change(&removal).unwrap();
    // Acknowledged only after the removal took effect.
    members[0].propose(Vec::new(), b"later".to_vec()).unwrap();
    exchange(&mut members);
    assert_eq!(members[0].standing().role, Role::Follower);
    members[1].campaign();
    exchange(&mut members);
    assert_eq!(members[1].standing().role, Role::Leader);
}
