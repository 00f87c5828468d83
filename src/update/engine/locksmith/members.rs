//! The members of the store: which is this machine's, who leads, who is well.

use std::{net::IpAddr, time::Duration};

use futures_util::future::join_all;
use proa_base::net;
use proa_etcd_api::{
    etcdserverpb::{Member, MemberListRequest, MoveLeaderRequest, StatusRequest},
    url::{self, Address},
};
use proa_etcd_client::Timeouts;
use proa_update_model::reboot::quorum::{Own, Place, Voter, own};
use tokio::{net::lookup_host, time::timeout};

use super::{Error, store::Store};

/// For one member to say that it is well: it answers from memory.
const TIMEOUTS: Timeouts = Timeouts { connect: Duration::from_secs(1), request: Duration::from_secs(2) };
/// For the system to find the addresses of a host.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// More members than any store has; more are not asked.
const MAX_MEMBERS: usize = 64;

/// What the members are at one moment.
#[derive(Clone, Debug)]
pub struct Members {
    /// Those with a vote.
    pub voters: Vec<Voter>,
    /// This machine's own, if it has one with a vote; or why that is not known.
    pub own: Result<Option<u64>, String>,
    /// Who leads, if anybody does.
    pub leader: Option<u64>,
    /// Where the leader is asked.
    leader_urls: Vec<String>,
}

impl Members {
    /// Where nothing depends on them.
    pub fn none() -> Self {
        Self { voters: Vec::new(), own: Ok(None), leader: None, leader_urls: Vec::new() }
    }
}

/// Asks every member. One that does not answer, or knows no leader, is not healthy.
///
/// # Errors
/// When no member at all answers, or the cluster has no leader.
pub async fn ask(store: &Store) -> Result<Members, Error> {
    let list = store.client.member_list(MemberListRequest { linearizable: true }).await?;
    let voters: Vec<Member> =
        list.members.into_iter().filter(|member| !member.is_learner).take(MAX_MEMBERS).collect();
    let leaders = join_all(voters.iter().map(|member| leader_seen_by(store, member))).await;
    let own = own_member(store, &voters).await;
    let voter = |(member, leader): (&Member, &Option<u64>)| Voter {
        id: member.id,
        is_healthy: leader.is_some(),
        is_leaving: false,
    };
    let leader = leaders.iter().copied().flatten().next();
    let leads = |member: &&Member| Some(member.id) == leader;
    let leader_urls = voters.iter().find(leads).map_or_else(Vec::new, |member| member.client_urls.clone());
    Ok(Members { voters: voters.iter().zip(&leaders).map(voter).collect(), own, leader, leader_urls })
}

/// This machine's own member. That a request fails never means that it has none: its
/// own vote would be counted among those that stay.
async fn own_member(store: &Store, voters: &[Member]) -> Result<Option<u64>, String> {
    let locals = net::locals().map_err(|error| format!("cannot list this machine's addresses: {error}"))?;
    let locals: Vec<IpAddr> = locals.into_iter().map(|local| local.address).collect();
    let places = join_all(voters.iter().map(|member| place(member, &locals))).await;
    let ids = voters.iter().map(|member| member.id);
    let candidates = match own(&ids.zip(places).collect::<Vec<_>>()) {
        Own::Known(own) => return Ok(own),
        Own::Unknown(why) => return Err(why),
        Own::OneOf(candidates) => candidates,
    };
    let status = store.own.status(StatusRequest {}).await;
    let status = status.map_err(|error| {
        let why = proa_base::cli::chain(&error);
        format!("cannot tell which member is this machine's: the first endpoint does not answer: {why}")
    })?;
    let asked = status.header.map_or(0, |header| header.member_id);
    match candidates.contains(&asked) {
        true => Ok(Some(asked)),
        false => {
            Err("cannot tell which member is this machine's: the first endpoint is none of those here; \
                      put this machine's own first"
                .to_owned())
        }
    }
}

/// Whether a member runs here, by its peer URLs: one machine's client URLs may lead to another.
async fn place(member: &Member, locals: &[IpAddr]) -> Place {
    let tell = |why: &str| format!("cannot tell whether member {:x} is this machine's: {why}", member.id);
    let mut place = match member.peer_urls.as_slice() {
        [] => Place::Unknown(tell("it has no peer URL")),
        [..] => Place::Elsewhere,
    };
    for url in &member.peer_urls {
        match is_here(url, locals).await {
            Ok(true) => return Place::Here,
            Ok(false) => {}
            Err(why) => place = Place::Unknown(tell(&format!("{url}: {why}"))),
        }
    }
    place
}

/// Whether a URL leads to this machine; the system finds the addresses of names.
async fn is_here(url: &str, locals: &[IpAddr]) -> Result<bool, String> {
    let host = match url::parse(url)?.address {
        Address::Tcp(there) => there.host,
        Address::Unix(_) => return Ok(true),
    };
    let found = match timeout(LOOKUP_TIMEOUT, lookup_host((host.as_str(), 0))).await {
        Ok(found) => found.map_err(|error| error.to_string())?,
        Err(_) => return Err("the name service does not answer".to_owned()),
    };
    let addresses: Vec<IpAddr> = found.map(|address| address.ip().to_canonical()).collect();
    match addresses.is_empty() {
        true => Err("the host has no address".to_owned()),
        false => Ok(addresses.iter().any(|address| address.is_loopback() || locals.contains(address))),
    }
}

/// The leader that a member knows; `None` when it does not answer or knows none.
async fn leader_seen_by(store: &Store, member: &Member) -> Option<u64> {
    for url in &member.client_urls {
        let Ok(client) = store.member(std::slice::from_ref(url), TIMEOUTS) else { continue };
        if let Ok(status) = client.status(StatusRequest {}).await
            && status.leader != 0
            && status.header.is_some_and(|header| header.member_id == member.id)
        {
            return Some(status.leader);
        }
    }
    None
}

/// Makes another member the leader; it is the one that leads now that is asked, as
/// only it can do it.
///
/// # Errors
/// When it refuses or does not answer.
pub async fn hand_over(store: &Store, members: &Members, to: u64) -> Result<(), Error> {
    let leader = store.member(&members.leader_urls, Timeouts::default())?;
    leader.move_leader(MoveLeaderRequest { target_id: to }).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn find(urls: &[&str]) -> Place {
        let peer_urls = urls.iter().map(|url| (*url).to_owned()).collect();
        let member = Member { id: 0xa, peer_urls, ..Member::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(place(&member, &["192.0.2.1".parse().unwrap()]))
    }

    #[test]
    fn a_member_is_found_by_address_and_by_name_and_is_unknown_otherwise() {
        for here in ["http://192.0.2.1:2380", "https://127.0.0.1:2380", "http://[::ffff:192.0.2.1]:1"] {
            assert_eq!(find(&["http://192.0.2.9:2380", here]), Place::Here, "{here}");
        }
        assert_eq!(find(&["http://localhost:2380"]), Place::Here);
        assert_eq!(find(&["http://192.0.2.9:2380", "http://[2001:db8::1]:2380"]), Place::Elsewhere);
        for unknown in [&["http://no-such-host.invalid:2380"][..], &[], &["192.0.2.1"]] {
            let Place::Unknown(why) = find(unknown) else { panic!("{unknown:?}") };
            assert!(why.starts_with("cannot tell whether member a is this machine's: "), "{why}");
        }
    }
}
