//! Finding the first members by a token that all of them were given, or by the
//! SRV records of a domain.
//!
//! With a token everybody registers below it at a store that all can reach, the
//! first so many are the members, and each waits until they are there. Any
//! cluster can be that store: by its v2 API as in etcd 2 and 3, or by v3 as in
//! 3.6. Records are read once, as etcd does: who is missing there is told.

mod records;
mod rules;
mod srv;
mod v2;
mod v3;

use std::time::Duration;

use crate::config::Cluster;
pub use rules::{Full, Registered, Registry};
use rules::{Outcome, decide};
pub use srv::{find_members, find_others};
pub use v2::V2Registry;
pub use v3::V3Registry;

/// Between two looks at the registry.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Who registers.
#[derive(Clone, Debug)]
pub struct Myself {
    /// The member's id, by which it is told apart.
    pub id: u64,
    /// `NAME=URL,NAME=URL`.
    pub value: String,
}

/// Why the members were not found. Trouble on the way is waited out instead.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// As many as are wanted were there before; these are they.
    #[error("discovery: cluster is full")]
    Full(Full),
    /// Nobody has said how many members there are to be.
    #[error("discovery: size key not found; set it at {at}")]
    NoSize {
        /// Where.
        at: String,
    },
    /// What is registered cannot be used.
    #[error("discovery: {0}")]
    Bad(String),
    /// The SRV records name no members, or not this one.
    #[error("error setting up initial cluster: {0}")]
    Srv(String),
    /// The store of a v3 token cannot be asked at all.
    #[error("discovery: {0}")]
    Client(#[from] proa_etcd_client::Error),
}

/// What one look brought.
pub(crate) enum Trouble {
    /// Worth another try.
    Later(String),
    /// Not.
    Final(DiscoveryError),
}

impl From<DiscoveryError> for Trouble {
    fn from(error: DiscoveryError) -> Self {
        Self::Final(error)
    }
}

/// Registers and waits for the others; the first members in the end.
///
/// # Errors
/// See [`DiscoveryError`].
pub async fn discover(registry: &Registry, myself: &Myself) -> Result<Cluster, DiscoveryError> {
    let mut told = String::new();
    loop {
        let news = match look(registry, myself).await {
            Ok(Outcome::Found(cluster)) => return Ok(cluster),
            Ok(Outcome::Register) => continue,
            Ok(Outcome::Wait { here, size }) => {
                format!("found {here} of {size} members, waiting for the others")
            }
            Err(Trouble::Final(error)) => return Err(error),
            Err(Trouble::Later(why)) => format!("cannot ask {}: {why}", registry.name()),
        };
        if news != told {
            tracing::info!("discovery: {news}");
            told = news;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

async fn look(registry: &Registry, myself: &Myself) -> Result<Outcome, Trouble> {
    let size = registry.size().await?;
    let outcome = decide(size, registry.members().await?, myself)?;
    if matches!(outcome, Outcome::Register) {
        registry.register(myself).await?;
    }
    Ok(outcome)
}
