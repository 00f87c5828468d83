//! The members of the store: which is this machine's, who leads, who is well.

use std::{net::IpAddr, time::Duration};

use proa_base::net;
use proa_etcd_api::etcdserverpb::{Member, MemberListRequest, MoveLeaderRequest, StatusRequest};
use proa_etcd_client::Timeouts;
use proa_update_model::reboot::quorum::Voter;

use super::{Error, store::Store};

/// For one member to say that it is well: it answers from memory.
const TIMEOUTS: Timeouts = Timeouts { connect: Duration::from_secs(1), request: Duration::from_secs(2) };
/// More members than any store has; more are not asked.
const MAX_MEMBERS: usize = 64;

/// What the members are at one moment.
#[derive(Clone, Debug, Default)]
pub struct Members {
    /// Those with a vote.
    pub voters: Vec<Voter>,
    /// This machine's own, if it has one with a vote.
    pub own: Option<u64>,
    /// Who leads, if anybody does.
    pub leader: Option<u64>,
}

/// Asks every member. One that does not answer, or knows no leader, is not healthy.
///
/// # Errors
/// When no member at all answers, or the cluster has no leader.
pub async fn ask(store: &Store) -> Result<Members, Error> {
    let list = store.client.member_list(MemberListRequest { linearizable: true }).await?;
    let voters: Vec<Member> =
        list.members.into_iter().filter(|member| !member.is_learner).take(MAX_MEMBERS).collect();
    let leaders =
        futures_util::future::join_all(voters.iter().map(|member| leader_seen_by(store, member))).await;
    let mut members = Members::default();
    for (member, leader) in voters.iter().zip(&leaders) {
        members.voters.push(Voter { id: member.id, is_healthy: leader.is_some(), is_leaving: false });
    }
    members.leader = leaders.into_iter().flatten().next();
    // Behind the first endpoint may be the member of another machine: one that has
    // no member of its own passes requests on.
    let status = store.own.status(StatusRequest {}).await.ok();
    let asked = status.and_then(|status| status.header).map(|header| header.member_id);
    let is_own = |member: &&Member| Some(member.id) == asked && is_here(member);
    members.own = voters.iter().find(is_own).map(|member| member.id);
    Ok(members)
}

/// The leader that a member knows; `None` when it does not answer or knows none.
async fn leader_seen_by(store: &Store, member: &Member) -> Option<u64> {
    for url in &member.client_urls {
        let Ok(client) = store.member(url, TIMEOUTS) else { continue };
        if let Ok(status) = client.status(StatusRequest {}).await
            && status.leader != 0
            && status.header.is_some_and(|header| header.member_id == member.id)
        {
            return Some(status.leader);
        }
    }
    None
}

/// Whether a member listens at an address of this machine.
fn is_here(member: &Member) -> bool {
    let locals = net::locals().unwrap_or_default();
    let host = |url: &String| {
        let rest = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
        let host = rest.trim_end_matches('/').rsplit_once(':').map_or(rest, |(host, _)| host);
        host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok()
    };
    member
        .peer_urls
        .iter()
        .filter_map(host)
        .any(|address| address.is_loopback() || locals.iter().any(|local| local.address == address))
}

/// Makes another member the leader; it is this machine's own that is asked.
///
/// # Errors
/// When it refuses or does not answer.
pub async fn hand_over(store: &Store, to: u64) -> Result<(), Error> {
    store.own.move_leader(MoveLeaderRequest { target_id: to }).await?;
    Ok(())
}
