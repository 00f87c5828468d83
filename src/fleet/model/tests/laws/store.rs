//! A store in memory: enough of etcd to carry transactions out.

use std::collections::BTreeMap;

use proa_base::ids::MachineId;
use proa_fleet_model::cluster::Cluster;
use proa_fleet_model::registry::{
    CordonRecord, DesiredState, Entry, Event, Key, LeaderRecord, LeaseId, MachineRecord, Millis, Revision,
    StateRecord,
};
use proa_fleet_model::txn::{self, Guard, MAX_TXN_OPS, Op, Txn};
use proa_fleet_model::unit_file::UnitFile;
use proa_fleet_model::unit_name::UnitName;

/// All keys, and the cluster kept up by their events.
#[derive(Clone, Default)]
pub struct Store {
    revision: i64,
    entries: BTreeMap<String, Entry>,
    pub cluster: Cluster,
}

impl Store {
    /// Carries a transaction out; whether its guards held.
    pub fn commit(&mut self, txn: &Txn) -> bool {
        assert!(txn.ops.len() <= MAX_TXN_OPS, "{} operations", txn.ops.len());
        let holds = |guard: &Guard| match guard {
            Guard::Missing(key) => !self.entries.contains_key(key),
            Guard::CreateRevision(key, revision) => {
                self.entries.get(key).is_some_and(|entry| entry.create_revision == *revision)
            }
            Guard::ModRevision(key, revision) => {
                self.entries.get(key).is_some_and(|entry| entry.mod_revision == *revision)
            }
        };
        if !txn.guards.iter().all(holds) {
            return false;
        }
        self.revision += 1;
        for op in &txn.ops {
            match op {
                Op::Put { key, value, .. } => self.put(key, value),
                Op::Delete { key } => self.delete(key),
            }
        }
        true
    }

    pub fn put(&mut self, key: &str, value: &[u8]) {
        let mod_revision = Revision(self.revision);
        let old = self.entries.get(key);
        let entry = Entry {
            key: key.to_owned(),
            value: value.to_vec(),
            create_revision: old.map_or(mod_revision, |old| old.create_revision),
            mod_revision,
        };
        self.entries.insert(key.to_owned(), entry.clone());
        self.cluster.apply(Event::Put(entry));
    }

    pub fn delete(&mut self, key: &str) {
        self.entries.remove(key);
        self.cluster.apply(Event::Delete { key: key.to_owned() });
    }

    /// What a full read gives.
    pub fn read(&self) -> Cluster {
        Cluster::from_entries(self.entries.values().cloned())
    }

    pub fn add_machine(&mut self, number: u128, metadata: &[(&str, &str)]) {
        let pair = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let record = MachineRecord {
            primary_ip: Some([10, 0, 0, number as u8].into()),
            metadata: metadata.iter().map(pair).collect(),
            api: None,
            version: "1".to_owned(),
        };
        assert!(self.commit(&txn::announce_machine(machine(number), &record, LeaseId(1))));
    }

    /// Adds a unit with these lines in its `[X-Fleet]` section.
    pub fn add_unit(&mut self, unit: &str, x_fleet: &str, desired: DesiredState) {
        let file = unit_file(x_fleet);
        let txn = match self.cluster.known_unit(&name(unit)) {
            None => txn::create_unit(&name(unit), &file, desired),
            Some(known) => txn::replace_unit(&name(unit), known, &file, desired),
        };
        assert!(self.commit(&txn));
    }

    pub fn cordon(&mut self, number: u128, drain: bool) {
        let record = CordonRecord { drain, reason: "update".to_owned(), ..CordonRecord::default() };
        assert!(self.commit(&txn::cordon(machine(number), &record)));
    }

    pub fn uncordon(&mut self, number: u128) {
        assert!(self.commit(&txn::uncordon(machine(number))));
    }

    /// What the agent of a machine says of a unit, launched from its current file.
    pub fn report(&mut self, unit: &str, number: u128, active: &str) {
        let Some(known) = self.cluster.known_unit(&name(unit)) else { return };
        let state = StateRecord {
            load: "loaded".to_owned(),
            active: active.to_owned(),
            sub: active.to_owned(),
            hash: known.record.hash,
            reached: DesiredState::Launched,
            since: Millis(0),
            problem: None,
        };
        let key = Key::State(name(unit), machine(number)).to_string();
        self.revision += 1;
        self.put(&key, &serde_json::to_vec(&state).unwrap());
    }

    pub fn elect(&mut self) -> Revision {
        let record = LeaderRecord { machine: machine(1), version: "1".to_owned() };
        assert!(self.commit(&txn::campaign(&record, LeaseId(1))));
        self.cluster.leader().unwrap().create_revision
    }

    /// `web@2 db@1`: what is where.
    pub fn places(&self) -> String {
        let schedule = self.cluster.schedule().iter();
        let mut places: Vec<String> = schedule
            .flat_map(|(machine, units)| {
                units.keys().map(move |unit| format!("{}@{}", unit.stem(), machine.get()))
            })
            .collect();
        places.sort();
        places.join(" ")
    }
}

pub fn machine(number: u128) -> MachineId {
    format!("{number:032x}").parse().unwrap()
}

pub fn machine_key(number: u128) -> String {
    format!("/proa/fleet/machines/{}", machine(number))
}

pub fn name(unit: &str) -> UnitName {
    format!("{unit}.service").parse().unwrap()
}

pub fn unit_file(x_fleet: &str) -> UnitFile {
    UnitFile::parse(&format!("[Service]\nExecStart=/bin/true\n[X-Fleet]\n{x_fleet}\n")).unwrap()
}
