//! Changes to the registry, as transactions of plain data.
//!
//! The caller translates [`Guard`]s to compares and [`Op`]s to puts and deletes,
//! and does nothing when a guard fails: it reads again and plans again.

use proa_base::ids::MachineId;
use serde::Serialize;

use crate::registry::{
    CordonRecord, DesiredState, Key, Launch, LeaderRecord, LeaseId, MachineRecord, MetadataRecord, Revision,
    StateRecord, UnitRecord,
};
use crate::unit_file::UnitFile;
use crate::unit_name::UnitName;

/// Most operations in one transaction: etcd's default for `--max-txn-ops`.
pub const MAX_TXN_OPS: usize = 128;

/// What must hold for a transaction to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guard {
    /// The key does not exist.
    Missing(String),
    /// The key is still the one that appeared at this revision.
    CreateRevision(String, Revision),
    /// The key was last written at this revision.
    ModRevision(String, Revision),
}

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Set a key.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: Vec<u8>,
        /// The lease it lives under.
        lease: Option<LeaseId>,
    },
    /// Remove a key, if it is there.
    Delete {
        /// The key.
        key: String,
    },
}

/// Writes that happen all together or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// All must hold.
    pub guards: Vec<Guard>,
    /// At most [`MAX_TXN_OPS`], each on another key.
    pub ops: Vec<Op>,
}

/// A unit as it was read, for changes that must not overwrite another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownUnit {
    /// The record.
    pub record: UnitRecord,
    /// Revision of its last write.
    pub mod_revision: Revision,
}

pub(crate) fn json(record: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(record).expect("records have string keys and no failing serialiser")
}

pub(crate) fn put(key: &Key, value: Vec<u8>, lease: Option<LeaseId>) -> Op {
    let key = key.to_string();
    Op::Put { key, value, lease }
}

pub(crate) fn delete(key: &Key) -> Op {
    Op::Delete { key: key.to_string() }
}

/// Adds a unit that does not exist yet.
pub fn create_unit(name: &UnitName, file: &UnitFile, desired: DesiredState) -> Txn {
    let record = UnitRecord {
        hash: file.hash(),
        desired,
        launch: Launch(u64::from(desired == DesiredState::Launched)),
    };
    let key = Key::Unit(name.clone());
    Txn {
        guards: vec![Guard::Missing(key.to_string())],
        // The body is written even when it exists: its new revision keeps the
        // engine from collecting it in the moment before the unit refers to it.
        ops: vec![body(file), put(&key, json(&record), None)],
    }
}

/// Gives a unit another unit file, and a desired state.
pub fn replace_unit(name: &UnitName, known: KnownUnit, file: &UnitFile, desired: DesiredState) -> Txn {
    let record = UnitRecord { hash: file.hash(), ..with_desired(known.record, desired) };
    let mut txn = update_unit(name, known, record);
    txn.ops.insert(0, body(file));
    txn
}

/// Gives a unit another desired state; `None` when it has it already.
pub fn set_desired(name: &UnitName, known: KnownUnit, desired: DesiredState) -> Option<Txn> {
    let record = with_desired(known.record, desired);
    (record != known.record).then(|| update_unit(name, known, record))
}

/// Removes a unit. The engine takes it off its machines.
pub fn destroy_unit(name: &UnitName, known: KnownUnit) -> Txn {
    let key = Key::Unit(name.clone());
    Txn { guards: vec![Guard::ModRevision(key.to_string(), known.mod_revision)], ops: vec![delete(&key)] }
}

fn body(file: &UnitFile) -> Op {
    put(&Key::Body(file.hash()), file.render().into_bytes(), None)
}

fn with_desired(record: UnitRecord, desired: DesiredState) -> UnitRecord {
    let is_new_launch = desired == DesiredState::Launched && record.desired != DesiredState::Launched;
    UnitRecord { desired, launch: Launch(record.launch.0 + u64::from(is_new_launch)), ..record }
}

fn update_unit(name: &UnitName, known: KnownUnit, record: UnitRecord) -> Txn {
    let key = Key::Unit(name.clone());
    Txn {
        guards: vec![Guard::ModRevision(key.to_string(), known.mod_revision)],
        ops: vec![put(&key, json(&record), None)],
    }
}

/// Says that this machine is alive, as long as its lease lives.
pub fn announce_machine(id: MachineId, record: &MachineRecord, lease: LeaseId) -> Txn {
    Txn { guards: Vec::new(), ops: vec![put(&Key::Machine(id), json(record), Some(lease))] }
}

/// Replaces the metadata set through the API; `None` for the revision when
/// there was none.
pub fn set_metadata(id: MachineId, read_at: Option<Revision>, record: &MetadataRecord) -> Txn {
    let key = Key::Metadata(id);
    let guard = match read_at {
        Some(revision) => Guard::ModRevision(key.to_string(), revision),
        None => Guard::Missing(key.to_string()),
    };
    Txn { guards: vec![guard], ops: vec![put(&key, json(record), None)] }
}

/// Keeps units away from a machine, or changes how.
pub fn cordon(id: MachineId, record: &CordonRecord) -> Txn {
    Txn { guards: Vec::new(), ops: vec![put(&Key::Cordon(id), json(record), None)] }
}

/// Gives units to a machine again.
pub fn uncordon(id: MachineId) -> Txn {
    Txn { guards: Vec::new(), ops: vec![delete(&Key::Cordon(id))] }
}

/// Publishes what changed on this machine: a state, or `None` for a unit that
/// is no longer here.
pub fn report_states<'a>(
    id: MachineId,
    lease: LeaseId,
    changes: impl IntoIterator<Item = (&'a UnitName, Option<&'a StateRecord>)>,
) -> Vec<Txn> {
    let ops: Vec<Op> = changes
        .into_iter()
        .map(|(name, state)| {
            let key = Key::State(name.clone(), id);
            match state {
                Some(state) => put(&key, json(state), Some(lease)),
                None => delete(&key),
            }
        })
        .collect();
    let batch = |ops: &[Op]| Txn { guards: Vec::new(), ops: ops.to_vec() };
    ops.chunks(MAX_TXN_OPS).map(batch).collect()
}

/// Tries to become the engine. It succeeds when no other one is, and lasts as
/// long as the lease.
pub fn campaign(record: &LeaderRecord, lease: LeaseId) -> Txn {
    let key = Key::Leader;
    Txn { guards: vec![Guard::Missing(key.to_string())], ops: vec![put(&key, json(record), Some(lease))] }
}
