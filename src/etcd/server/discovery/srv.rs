//! The first members by the SRV records of a domain.

use std::net::SocketAddr;

use proa_base::dns::Srv;
use proa_etcd_api::url::{self, Address, Url};
use proa_etcd_client::srv::{lookup, services};

use super::DiscoveryError;
use super::records::{Addresses, Kind, Own, cluster, cluster_with};
use crate::config::{Cluster, SrvDomain};

/// Looks for the members of which this is one: `name` at `peer_urls`.
///
/// # Errors
/// [`DiscoveryError::Srv`].
pub async fn find_members(
    srv: &SrvDomain,
    name: &str,
    peer_urls: &[String],
) -> Result<Cluster, DiscoveryError> {
    let mut urls = Vec::new();
    for text in peer_urls {
        let addresses = match url::parse(text) {
            Ok(Url { address: Address::Tcp(there), .. }) => addresses(&there.host, there.port).await,
            Ok(_) => Err(format!("{text:?} is not on the network")),
            Err(right) => Err(format!("{text:?}: {right}")),
        };
        urls.push((text.clone(), addresses.map_err(DiscoveryError::Srv)?));
    }
    let found = cluster_with(&Own { name, urls }, look(srv).await);
    tell(found.map_err(DiscoveryError::Srv)?)
}

/// As [`find_members`], for one who only passes clients on to them.
///
/// # Errors
/// As [`find_members`].
pub async fn find_others(srv: &SrvDomain, name: &str) -> Result<Cluster, DiscoveryError> {
    let found = cluster(&Own { name, urls: Vec::new() }, look(srv).await);
    tell(found.map_err(DiscoveryError::Srv)?)
}

fn tell(found: Cluster) -> Result<Cluster, DiscoveryError> {
    for (name, urls) in &found.0 {
        tracing::info!("got bootstrap from DNS for etcd-server: {name}={}", urls.join(","));
    }
    Ok(found)
}

async fn look(srv: &SrvDomain) -> [Kind; 2] {
    let [encrypted, plain] = services("etcd-server", &srv.suffix);
    let (encrypted, plain) = tokio::join!(kind(encrypted, srv), kind(plain, srv));
    [encrypted, plain]
}

async fn kind((scheme, service): (&'static str, String), srv: &SrvDomain) -> Kind {
    let found = match lookup(&service, &srv.domain).await {
        Err(error) => Err(error.to_string()),
        Ok(records) => {
            let mut found: Vec<(Srv, Addresses)> = Vec::new();
            for record in records {
                let addresses = addresses(&record.target, record.port).await;
                found.push((record, addresses));
            }
            Ok(found)
        }
    };
    Kind { scheme, service, found }
}

async fn addresses(host: &str, port: u16) -> Addresses {
    let found = tokio::net::lookup_host((host, port)).await;
    let found: Vec<SocketAddr> = found.map_err(|_| format!("lookup {host}: no such host"))?.collect();
    if found.is_empty() { Err(format!("lookup {host}: no such host")) } else { Ok(found) }
}
