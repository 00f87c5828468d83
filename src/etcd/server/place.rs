//! What this machine is to its cluster: a member, or one who passes clients on.

use std::sync::Arc;
use std::time::Duration;

use proa_etcd_client::tls::ClientTls;
use tokio::sync::watch;

use crate::config::{Cluster, Config, Fallback, Registration, SrvDomain, SrvRole, Start};
use crate::discovery::{
    DiscoveryError, Full, Myself, Registry, V2Registry, V3Registry, discover, find_members, find_others,
};
use crate::lan::{self, Discovered, LanConfig};
use crate::listener::Listener;
use crate::node::{Bootstrap, is_member};
use crate::run::{RunError, tell_systemd};
use crate::tls::{PeerTls, ServerTls};
use crate::{enter, relay};

/// How often a machine that came too late asks who the members are. Source:
/// etcd's `--proxy-refresh-interval`.
const REFRESH: Duration = Duration::from_secs(30);

/// What this machine is to its cluster.
pub(crate) enum Place {
    Member(Bootstrap),
    /// Others are the members.
    Standby(Standby),
}

/// A cluster that runs without this machine.
pub(crate) struct Standby {
    client_urls: watch::Receiver<Vec<String>>,
    /// Where to ask to be let in; `None` for one who only passes clients on.
    entrance: Option<Entrance>,
}

struct Entrance {
    cluster_id: u64,
    peer_urls: watch::Receiver<Vec<String>>,
}

impl From<watch::Receiver<Vec<String>>> for Standby {
    fn from(client_urls: watch::Receiver<Vec<String>>) -> Self {
        Self { client_urls, entrance: None }
    }
}

/// Passes clients on to the members until this machine may be one of them, or
/// for ever.
pub(crate) async fn stand_by(
    standby: Standby,
    lan: Option<&LanConfig>,
    listeners: &[(Listener, Option<Arc<ServerTls>>)],
    tls: &PeerTls,
) -> Bootstrap {
    // Harnesses that start a proxy look for this line.
    eprintln!("proxy: listening for client requests");
    let relays = listeners.iter().map(|(listener, _)| relay::standby(listener, standby.client_urls.clone()));
    let entered = async {
        match (standby.entrance, lan) {
            (Some(Entrance { cluster_id, peer_urls }), Some(lan)) => {
                enter::seek(lan, cluster_id, tls, peer_urls).await
            }
            (_, _) => std::future::pending().await,
        }
    };
    tokio::select! {
        others = entered => Bootstrap::Join { others },
        _ = futures_util::future::join_all(relays) => unreachable!("a relay accepts for ever"),
    }
}

/// Finds it; that may take as long as the others are away.
pub(crate) async fn find(
    config: &Config,
    lan: Option<&LanConfig>,
    peer_tls: Option<ClientTls>,
) -> Result<Place, RunError> {
    if config.is_alone {
        return Ok(Place::Member(Bootstrap::Alone));
    }
    if let Some(lan) = lan {
        if is_member(&config.data_dir) {
            return Ok(Place::Member(Bootstrap::Existing));
        }
        // The others may take long to come: no reason to start this one anew.
        tell_systemd();
        return Ok(match lan::discover(lan).await? {
            Discovered::Founded(founded) => Place::Member(Bootstrap::Founded(founded)),
            Discovered::Standby { cluster_id, client_urls, peer_urls } => {
                Place::Standby(Standby { client_urls, entrance: Some(Entrance { cluster_id, peer_urls }) })
            }
        });
    }
    match &config.start {
        Start::Join(cluster) => Ok(join(config, cluster)),
        Start::New(cluster) => Ok(new(config, cluster)),
        Start::Discover(_) => Ok(Place::Member(Bootstrap::Existing)),
        Start::Proxy { peer_urls, refresh } => {
            tell_systemd();
            Ok(standby(peer_urls.clone(), peer_tls, *refresh))
        }
        Start::Srv { role: SrvRole::First | SrvRole::Joins, .. } | Start::Register { .. }
            if is_member(&config.data_dir) =>
        {
            Ok(Place::Member(Bootstrap::Existing))
        }
        Start::Srv { at, role } => by_records(config, at, *role, peer_tls).await,
        Start::Register { at, fallback } => {
            tell_systemd();
            register(config, at, *fallback, peer_tls).await
        }
    }
}

fn new(config: &Config, cluster: &Cluster) -> Place {
    Place::Member(Bootstrap::New { token: config.token.clone(), members: cluster.0.clone() })
}

fn join(config: &Config, cluster: &Cluster) -> Place {
    let others = cluster.0.iter().filter(|(name, _)| **name != config.name);
    Place::Member(Bootstrap::Join { others: others.flat_map(|(_, urls)| urls.clone()).collect() })
}

fn standby(peer_urls: Vec<String>, peer_tls: Option<ClientTls>, refresh: Duration) -> Place {
    Place::Standby(relay::follow(peer_urls, peer_tls, refresh).into())
}

async fn by_records(
    config: &Config,
    at: &SrvDomain,
    role: SrvRole,
    peer_tls: Option<ClientTls>,
) -> Result<Place, RunError> {
    let members = find_members(at, &config.name, &config.advertise_peer_urls);
    Ok(match role {
        SrvRole::First => new(config, &members.await?),
        SrvRole::Joins => join(config, &members.await?),
        SrvRole::Proxy { refresh } => {
            let Cluster(members) = find_others(at, &config.name).await?;
            tell_systemd();
            standby(members.into_values().flatten().collect(), peer_tls, refresh)
        }
    })
}

async fn register(
    config: &Config,
    at: &Registration,
    fallback: Fallback,
    peer_tls: Option<ClientTls>,
) -> Result<Place, RunError> {
    let (registry, token) = match at {
        Registration::V2 { url, proxy } => {
            (Registry::V2(V2Registry { url: url.clone(), proxy: proxy.clone() }), url.clone())
        }
        Registration::V3(v3) => {
            let registry = V3Registry::new(v3)?;
            (Registry::V3(registry), v3.token.clone())
        }
    };
    let urls = config.advertise_peer_urls.iter().map(|url| format!("{}={url}", config.name));
    let myself = Myself {
        id: proa_etcd_replica::ids::member_id(&config.advertise_peer_urls, &token, None),
        value: urls.collect::<Vec<_>>().join(","),
    };
    match discover(&registry, &myself).await {
        Ok(Cluster(members)) => Ok(Place::Member(Bootstrap::New { token, members })),
        Err(DiscoveryError::Full(Full(Cluster(members)))) if fallback == Fallback::Proxy => {
            tracing::info!("discovery: the cluster is full; passing clients on to it");
            Ok(standby(members.into_values().flatten().collect(), peer_tls, REFRESH))
        }
        Err(error) => Err(error.into()),
    }
}
