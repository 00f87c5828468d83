//! Questions to the leader, over the peers' connections.
//!
//! The first byte says whose question it is: the node's own (a membership
//! change) or its user's.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use proa_etcd_api::EtcdError;
use proa_etcd_api::etcdserverpb::{Member, MemberListResponse};
use prost::Message as _;

use super::shared::{Shared, ToCore, lock};
use super::types::{MemberChange, MembersChanged};
use crate::peer::frame::Frame;
use crate::peer::wire::{put_bytes, put_number, take_byte, take_bytes, take_number};

const USER: u8 = 0;
const CHANGE: u8 = 1;
/// Peer URLs of one member; etcd has no limit, a person has ten fingers.
const MAX_URLS: u64 = 16;

impl Shared {
    /// An id that no other member and no other boot uses.
    pub(super) fn own_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }
}

/// The user's question as it travels.
pub(super) fn of_user(question: &[u8]) -> Bytes {
    [&[USER], question].concat().into()
}

/// A membership change as it travels.
pub(super) fn of_change(change: &MemberChange) -> Bytes {
    let (kind, id, urls): (u8, u64, &[String]) = match change {
        MemberChange::Add { peer_urls, learner } => (u8::from(*learner), 0, peer_urls),
        MemberChange::Remove { id } => (2, *id, &[]),
        MemberChange::Update { id, peer_urls } => (3, *id, peer_urls),
        MemberChange::Promote { id } => (4, *id, &[]),
    };
    let mut out = vec![CHANGE, kind];
    put_number(&mut out, id);
    put_number(&mut out, urls.len() as u64);
    urls.iter().for_each(|url| put_bytes(&mut out, url.as_bytes()));
    out.into()
}

fn decode_change(mut input: Bytes) -> Option<MemberChange> {
    let input = &mut input;
    let kind = take_byte(input, "change").ok()?;
    let id = take_number(input, "member").ok()?;
    let count = take_number(input, "URLs").ok().filter(|count| *count <= MAX_URLS)?;
    let mut peer_urls = Vec::new();
    for _ in 0..count {
        peer_urls.push(String::from_utf8(take_bytes(input, "URL").ok()?.to_vec()).ok()?);
    }
    Some(match kind {
        0 | 1 => MemberChange::Add { peer_urls, learner: kind == 1 },
        2 => MemberChange::Remove { id },
        3 => MemberChange::Update { id, peer_urls },
        4 => MemberChange::Promote { id },
        _ => return None,
    })
}

fn encode_changed(changed: MembersChanged) -> Bytes {
    // The member itself comes first, then all of them.
    let members = std::iter::once(changed.member).chain(changed.members).collect();
    MemberListResponse { header: None, members }.encode_to_vec().into()
}

/// Reads the answer to [`of_change`].
pub(super) fn decode_changed(answer: Bytes) -> Result<MembersChanged, EtcdError> {
    let MemberListResponse { members, .. } =
        MemberListResponse::decode(answer).map_err(|_| EtcdError::Corrupt)?;
    let mut members: Vec<Member> = members;
    if members.is_empty() {
        return Err(EtcdError::Corrupt);
    }
    let member = members.remove(0);
    Ok(MembersChanged { member, members })
}

/// A question of `from` to this member.
pub(super) fn on_question(shared: &Arc<Shared>, from: u64, id: u64, body: Bytes) {
    let reply = {
        let shared = shared.clone();
        move |answer: Result<Bytes, EtcdError>| {
            let body = answer.map_err(|error| Bytes::from_static(error.text().as_bytes()));
            if let Some(peers) = shared.peers.get() {
                peers.send(from, &Frame::Answer { id, body });
            }
        }
    };
    answer_here(shared, body, reply);
}

/// Answers a question on this member, if it leads.
pub(super) fn answer_here(
    shared: &Arc<Shared>,
    mut body: Bytes,
    reply: impl FnOnce(Result<Bytes, EtcdError>) + Send + 'static,
) {
    if !shared.status.borrow().is_leader {
        return reply(Err(EtcdError::NotLeader));
    }
    match (take_byte(&mut body, "kind"), shared.answerer.get()) {
        (Ok(USER), Some(answerer)) => reply(answerer(body)),
        (Ok(CHANGE), _) => match decode_change(body) {
            Some(change) => {
                let done = Box::new(move |changed: Result<_, _>| reply(changed.map(encode_changed)));
                // When the member ends, whoever asked gives up in time.
                let _ = shared.core.send(ToCore::Change(change, done));
            }
            None => reply(Err(EtcdError::MemberBadUrls)),
        },
        (Ok(_), _) | (Err(_), _) => reply(Err(EtcdError::NotLeader)),
    }
}

/// The leader's answer to a question of this member.
pub(super) fn on_answer(shared: &Shared, id: u64, body: Result<Bytes, Bytes>) {
    if let Some(waiter) = lock(&shared.asked).remove(&id) {
        let refusal = |text: Bytes| {
            std::str::from_utf8(&text).ok().and_then(EtcdError::from_text).unwrap_or(EtcdError::Unhealthy)
        };
        let _ = waiter.send(body.map_err(refusal));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn changes_survive_the_round_trip() {
        let urls = vec!["http://a:1".to_owned(), "http://b:2".to_owned()];
        for change in [
            MemberChange::Add { peer_urls: urls.clone(), learner: true },
            MemberChange::Add { peer_urls: urls.clone(), learner: false },
            MemberChange::Remove { id: 7 },
            MemberChange::Update { id: 8, peer_urls: urls },
            MemberChange::Promote { id: 9 },
        ] {
            let mut bytes = of_change(&change);
            assert_eq!(take_byte(&mut bytes, "kind").unwrap(), CHANGE);
            assert_eq!(decode_change(bytes), Some(change));
        }
    }
}
