//! The members that a gateway passes connections on to, by SRV records.

use std::path::PathBuf;
use std::time::Duration;

use proa_etcd_api::url;
use proa_etcd_client::Socket;
use proa_etcd_client::srv::{Endpoint, clients};
use proa_etcd_client::tls::{ClientTls, TlsFiles};
use tokio::time::timeout;

/// Longest time for a member to show its certificate.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// Where to look, and what must be true of what is found.
pub(super) struct Records {
    /// `--discovery-srv`.
    pub domain: String,
    /// `--discovery-srv-name`.
    pub suffix: String,
    /// `--trusted-ca-file`.
    pub trusted_ca: Option<PathBuf>,
    /// `--insecure-discovery`: take members that show no certificate of the domain.
    pub takes_all: bool,
}

/// The members that may be passed on to, and why others may not be.
///
/// # Errors
/// Nothing was found, in etcd's words.
pub(super) async fn find(records: &Records) -> Result<(Vec<Endpoint>, Vec<String>), String> {
    let found = clients(&records.domain, &records.suffix).await?;
    if records.takes_all {
        return Ok((found, Vec::new()));
    }
    let tls = ClientTls::new(TlsFiles {
        trusted_ca: records.trusted_ca.clone(),
        server_name: Some(records.domain.clone()),
        ..TlsFiles::default()
    })
    .map_err(|error| error.to_string())?;
    let (mut good, mut rejected) = (Vec::new(), Vec::new());
    for endpoint in found {
        match check(&endpoint.url, &tls).await {
            Ok(()) => good.push(endpoint),
            Err(why) => rejected.push(why),
        }
    }
    Ok((good, rejected))
}

/// Source: etcd's `transport.ValidateSecureEndpoints`.
async fn check(url: &str, tls: &ClientTls) -> Result<(), String> {
    if !url.starts_with("https://") {
        return Err(format!("{url:?} is insecure"));
    }
    let address = url::parse(url)?.address;
    let shake = async {
        let stream = Socket::connect(&address).await?;
        tls.connect(&address.authority(), stream).await
    };
    match timeout(HANDSHAKE, shake).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(format!("{url:?}: {error}")),
        Err(_) => Err(format!("{url:?}: no answer in {} s", HANDSHAKE.as_secs())),
    }
}
