//! What the engine decided, as transactions.

use std::collections::BTreeSet;

use proa_base::ids::MachineId;

use crate::engine::{Decision, Why};
use crate::registry::{Key, Revision};
use crate::txn::{Guard, MAX_TXN_OPS, Op, Txn, delete, json, put};
use crate::unit_name::UnitName;

/// The transactions that carry decisions out, guarded by the term of the engine
/// that took them: `leader` is the create revision of its leader record, so an
/// engine that was replaced cannot change anything any more.
///
/// What was decided because a machine is lost is guarded by its absence too: the
/// store may take its time, and a machine that is back by then keeps its units.
pub fn commit(leader: Revision, decisions: &[(Decision, Why)]) -> Vec<Txn> {
    let term = Guard::CreateRevision(Key::Leader.to_string(), leader);
    let mut txns: Vec<Txn> = Vec::new();
    let mut batch: Vec<Op> = Vec::new();
    let mut lost: BTreeSet<MachineId> = BTreeSet::new();
    let close = |batch: &mut Vec<Op>, lost: &mut BTreeSet<MachineId>, txns: &mut Vec<Txn>| {
        if !batch.is_empty() {
            let missing =
                std::mem::take(lost).into_iter().map(|id| Guard::Missing(Key::Machine(id).to_string()));
            let guards = std::iter::once(term.clone()).chain(missing).collect();
            txns.push(Txn { guards, ops: std::mem::take(batch) });
        }
    };
    for (decision, why) in decisions {
        if let Decision::DropBody { hash, mod_revision } = decision {
            let key = Key::Body(*hash);
            let guard = Guard::ModRevision(key.to_string(), *mod_revision);
            // Alone: a unit that came to use it must not hold up the others.
            close(&mut batch, &mut lost, &mut txns);
            txns.push(Txn { guards: vec![term.clone(), guard], ops: vec![delete(&key)] });
            continue;
        }
        let ops = ops_of(decision);
        // One guard is the term's, and a decision adds at most one more.
        if batch.len() + ops.len() > MAX_TXN_OPS || lost.len() + 2 > MAX_TXN_OPS {
            close(&mut batch, &mut lost, &mut txns);
        }
        batch.extend(ops);
        lost.extend(lost_machine(decision, why));
    }
    close(&mut batch, &mut lost, &mut txns);
    txns
}

/// The machine whose loss is why a unit leaves it.
fn lost_machine(decision: &Decision, why: &Why) -> Option<MachineId> {
    match (decision, why) {
        (
            Decision::Move { from: machine, .. } | Decision::Unplace { machine, .. },
            Why::MachineLost { .. },
        ) => Some(*machine),
        _ => None,
    }
}

fn ops_of(decision: &Decision) -> Vec<Op> {
    let key = |machine: &MachineId, unit: &UnitName| Key::Schedule(*machine, unit.clone());
    match decision {
        Decision::Unplace { unit, machine } => vec![delete(&key(machine, unit))],
        Decision::Move { unit, from, to, record } => {
            vec![delete(&key(from, unit)), put(&key(to, unit), json(record), None)]
        }
        Decision::Place { unit, machine, record } | Decision::Update { unit, machine, record } => {
            vec![put(&key(machine, unit), json(record), None)]
        }
        Decision::DropBody { hash, .. } => vec![delete(&Key::Body(*hash))],
    }
}
