//! What members say about themselves: names and URLs.
//!
//! Who votes is raft's business; the server keeps that under
//! [`crate::RAFT_PREFIX`]. When it applies a change of the membership it
//! writes or forgets the record here in the same batch.

use crate::keys;
use crate::machine::{Corrupt, Machine, Reply};
use crate::view::{Overlay, View, Writes};
use proa_etcd_api::EtcdError;
use proa_etcd_api::etcdserverpb::Member;
use prost::Message;

/// Every recorded member, by id.
///
/// # Errors
/// [`Corrupt`] if a record is not as it was written.
pub fn members(view: &dyn View) -> Result<Vec<Member>, Corrupt> {
    view.scan(keys::MEMBER, &keys::after_slash(keys::MEMBER))
        .map(|(key, stored)| Member::decode(stored.as_slice()).map_err(|_| Corrupt { what: "member", key }))
        .collect()
}

/// Records a member as it is given: at the start of a cluster, and when one
/// is added, changed or promoted.
pub fn record_member(writes: &mut Writes, member: &Member) {
    writes.put(keys::member(member.id), member.encode_to_vec());
}

impl Machine {
    /// Forgets a member that was removed, and its alarms: nobody is left to
    /// clear them.
    pub fn forget_member(&mut self, writes: &mut Writes, id: u64) {
        writes.delete(keys::member(id));
        self.alarms.retain(|&(member, kind)| {
            if member == id {
                writes.delete(keys::alarm(member, kind));
            }
            member != id
        });
    }
}

/// A member says its name and client URLs. A member that was removed
/// meanwhile stays removed; the rest of the record is not its to change.
pub(crate) fn publish(view: &dyn View, writes: &mut Writes, said: &Member) -> Result<Reply, EtcdError> {
    let stored =
        Overlay { base: view, writes }.get(&keys::member(said.id)).ok_or(EtcdError::MemberNotFound)?;
    let mut member = Member::decode(stored.as_slice()).map_err(|_| EtcdError::Corrupt)?;
    member.name.clone_from(&said.name);
    member.client_urls.clone_from(&said.client_urls);
    record_member(writes, &member);
    Ok(Reply::Member)
}
