//! What the updater has in the cluster's store: releases that failed on any
//! machine, and whether the store answers.

use std::time::Duration;

use proa_etcd_client::{
    Client, Error, Timeouts,
    api::etcdserverpb::{PutRequest, RangeRequest},
};
use proa_update_model::{failure::Failure, hash::Sha256};
use serde::{Deserialize, Serialize};

/// What keys of failed releases start with; the root hash follows.
pub const FAILED_PREFIX: &str = "/proa/update/failed/";

const TIMEOUTS: Timeouts = Timeouts { connect: Duration::from_secs(2), request: Duration::from_secs(3) };

/// The value under such a key.
#[derive(Serialize, Deserialize)]
struct Record {
    version: String,
    reason: String,
    machine: String,
    unix_s: u64,
}

/// The store; absent on a machine that was given none.
pub struct Store {
    client: Option<Client>,
    machine_id: String,
}

impl Store {
    /// Nothing is sent before the first call.
    ///
    /// # Errors
    /// An endpoint that is none.
    pub fn new(endpoints: &[String], machine_id: &str) -> Result<Self, Error> {
        let client = match endpoints {
            [] => None,
            some => Some(Client::with_timeouts(some, TIMEOUTS)?),
        };
        Ok(Self { client, machine_id: machine_id.to_owned() })
    }

    /// Why the release failed somewhere in this cluster, if it did; the read is
    /// linearizable, so it also shows that the store has a quorum.
    ///
    /// # Errors
    /// The store's.
    pub async fn failure_of(&self, root_hash: &Sha256) -> Result<Option<String>, Error> {
        let Some(client) = &self.client else { return Ok(None) };
        let key = format!("{FAILED_PREFIX}{root_hash}");
        let answer = client.range(RangeRequest { key: key.into(), ..RangeRequest::default() }).await?;
        let told = |value: &[u8]| match serde_json::from_slice::<Record>(value) {
            Ok(record) => format!("it failed on machine {}: {}", record.machine, record.reason),
            Err(_) => "the store says that it failed".to_owned(),
        };
        Ok(answer.kvs.first().map(|found| told(&found.value)))
    }

    /// Writes down that a release failed here.
    ///
    /// # Errors
    /// The store's.
    pub async fn tell(&self, failure: &Failure) -> Result<(), Error> {
        let Some(client) = &self.client else { return Ok(()) };
        let record = Record {
            version: failure.version.clone(),
            reason: failure.reason.clone(),
            machine: self.machine_id.clone(),
            unix_s: failure.unix_s,
        };
        let value = serde_json::to_vec(&record).expect("text and numbers always have a JSON form");
        let key = format!("{FAILED_PREFIX}{}", failure.root_hash);
        client
            .put(PutRequest { key: key.into(), value: value.into(), ..PutRequest::default() })
            .await
            .map(drop)
    }
}
