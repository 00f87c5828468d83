//! Leases: who holds which keys. Time is the server's business.

use crate::check::MAX_LEASE_TTL_S;
use crate::keys;
use crate::machine::{Machine, Reply};
use crate::range;
use crate::record::LeaseRecord;
use crate::view::{Overlay, View, Writes};
use proa_etcd_api::EtcdError;
use proa_etcd_api::etcdserverpb::{
    LeaseCheckpointRequest, LeaseCheckpointResponse, LeaseGrantRequest, LeaseGrantResponse,
    LeaseRevokeResponse,
};
use proa_etcd_api::mvccpb::Event;

impl Machine {
    /// Every lease, by id.
    pub fn leases(&self) -> impl Iterator<Item = (i64, LeaseRecord)> + '_ {
        self.leases.iter().map(|(&id, &lease)| (id, lease))
    }

    /// One lease.
    pub fn lease(&self, id: i64) -> Option<LeaseRecord> {
        self.leases.get(&id).copied()
    }

    pub(crate) fn grant(
        &mut self,
        writes: &mut Writes,
        request: &LeaseGrantRequest,
    ) -> Result<Reply, EtcdError> {
        let LeaseGrantRequest { id, ttl } = *request;
        if id == 0 {
            return Err(EtcdError::LeaseNotFound);
        }
        if ttl > MAX_LEASE_TTL_S {
            return Err(EtcdError::LeaseTtlTooLarge);
        }
        if self.leases.contains_key(&id) {
            return Err(EtcdError::LeaseExists);
        }
        self.set_lease(writes, id, LeaseRecord { granted_ttl: ttl, remaining_ttl: 0 });
        let header = range::header(self.head.revision);
        Ok(Reply::LeaseGrant(LeaseGrantResponse { header, id, ttl, error: String::new() }))
    }

    /// Ends leases: each deletes its keys, ascending, in a revision of its own.
    pub(crate) fn revoke(
        &mut self,
        view: &dyn View,
        writes: &mut Writes,
        ids: &[i64],
        events: &mut Vec<Event>,
    ) -> Result<Reply, EtcdError> {
        let mut found = false;
        for &id in ids {
            if self.leases.remove(&id).is_none() {
                continue;
            }
            found = true;
            writes.delete(keys::lease(id));
            let attached = lease_keys(&Overlay { base: view, writes }, id);
            self.write(view, writes, events, |revision| {
                for key in attached {
                    // Deleting or detaching a key ends its attachment, so the entry exists.
                    if let Some(entry) = revision.latest(&key) {
                        revision.delete(entry);
                    }
                }
            });
        }
        let header = range::header(self.head.revision);
        if found {
            Ok(Reply::LeaseRevoke(LeaseRevokeResponse { header }))
        } else {
            Err(EtcdError::LeaseNotFound)
        }
    }

    /// Records remaining times; a lease that is gone by now is passed over.
    pub(crate) fn checkpoint(&mut self, writes: &mut Writes, request: &LeaseCheckpointRequest) -> Reply {
        for checkpoint in &request.checkpoints {
            if let Some(&lease) = self.leases.get(&checkpoint.id) {
                let remaining_ttl = checkpoint.remaining_ttl;
                self.set_lease(writes, checkpoint.id, LeaseRecord { remaining_ttl, ..lease });
            }
        }
        Reply::LeaseCheckpoint(LeaseCheckpointResponse { header: range::header(self.head.revision) })
    }

    fn set_lease(&mut self, writes: &mut Writes, id: i64, lease: LeaseRecord) {
        writes.put(keys::lease(id), lease.encode());
        self.leases.insert(id, lease);
    }
}

/// The keys attached to a lease, ascending.
pub fn lease_keys(view: &dyn View, id: i64) -> Vec<Vec<u8>> {
    let (from, end) = keys::attachments(id);
    view.keys(&from, &end).map(|mut stored| stored.split_off(from.len())).collect()
}
