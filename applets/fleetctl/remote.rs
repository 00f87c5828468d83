//! fleetd's API as calls.

use std::{path::Path, time::Duration};

use http::{Method, Response, StatusCode};
use hyper::body::{Bytes, Incoming};
use proa_fleet_daemon::client::{self, Endpoint, encode};
use proa_fleet_model::{
    api::{ErrorBody, Machine, MachinePage, Unit, UnitPage, UnitState, UnitStatePage},
    cordon::Cordon,
    registry::{CordonRecord, DesiredState},
    unit_file::UnitFile,
};
use serde::de::DeserializeOwned;

/// How long one answer may take when nobody says otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// Pages of one list: 65535 pages of 100 units are more than a cluster can have.
const MAX_PAGES: usize = 1 << 16;

/// Why a call did not succeed; one line for the user.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No answer.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// fleetd said no.
    #[error("{message}")]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// fleetd's words.
        message: String,
    },
    /// Whoever answered is no fleetd.
    #[error("the answer of {endpoint} cannot be understood: {text}")]
    Garbage {
        /// Who answered.
        endpoint: Endpoint,
        /// What is wrong with it.
        text: String,
    },
}

/// One fleetd.
pub struct Remote {
    endpoint: Endpoint,
    timeout: Duration,
}

impl Remote {
    /// The fleetd at `endpoint`, or the one on this machine.
    pub fn new(endpoint: Option<Endpoint>, timeout: Option<Duration>) -> Self {
        Self { endpoint: endpoint.unwrap_or_else(local), timeout: timeout.unwrap_or(DEFAULT_TIMEOUT) }
    }

    /// All units.
    pub async fn units(&self) -> Result<Vec<Unit>, Error> {
        let part = |page: UnitPage| (page.units, page.next_page_token);
        self.pages("/fleet/v1/units", part).await
    }

    /// All states.
    pub async fn states(&self) -> Result<Vec<UnitState>, Error> {
        let part = |page: UnitStatePage| (page.states, page.next_page_token);
        self.pages("/fleet/v1/state", part).await
    }

    /// The states of one unit.
    pub async fn states_of(&self, unit: &str) -> Result<Vec<UnitState>, Error> {
        let path = format!("/fleet/v1/state?unitName={}", encode(unit));
        let page: UnitStatePage = self.get(&path).await?;
        Ok(page.states)
    }

    /// All machines.
    pub async fn machines(&self) -> Result<Vec<Machine>, Error> {
        let part = |page: MachinePage| (page.machines, page.next_page_token);
        self.pages("/fleet/v1/machines", part).await
    }

    /// All cordons.
    pub async fn cordons(&self) -> Result<Vec<Cordon>, Error> {
        self.get("/fleet/v1/cordons").await
    }

    /// The cordon of one machine, or `None` when it takes units.
    pub async fn cordon(&self, machine: &str) -> Result<Option<Cordon>, Error> {
        match self.get(&cordon_path(machine)).await {
            Ok(cordon) => Ok(Some(cordon)),
            Err(Error::Refused { status: StatusCode::NOT_FOUND, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Keeps units away from a machine.
    pub async fn put_cordon(&self, machine: &str, record: &CordonRecord) -> Result<(), Error> {
        let body = serde_json::to_vec(record).expect("a cordon becomes JSON");
        let answer = self.send(Method::PUT, &cordon_path(machine), Some(body)).await?;
        self.accept(answer).await.map(drop)
    }

    /// Gives units to a machine again.
    pub async fn delete_cordon(&self, machine: &str) -> Result<(), Error> {
        let answer = self.send(Method::DELETE, &cordon_path(machine), None).await?;
        self.accept(answer).await.map(drop)
    }

    /// One unit, or `None` when there is none.
    pub async fn unit(&self, name: &str) -> Result<Option<Unit>, Error> {
        match self.get(&unit_path(name)).await {
            Ok(unit) => Ok(Some(unit)),
            Err(Error::Refused { status: StatusCode::NOT_FOUND, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gives the cluster a unit file, with a desired state when the unit is new or that is to change.
    pub async fn put_file(
        &self,
        name: &str,
        file: &UnitFile,
        desired: Option<DesiredState>,
    ) -> Result<(), Error> {
        let desired_state = desired.map(|desired| desired.to_string()).unwrap_or_default();
        let unit = Unit {
            name: name.to_owned(),
            options: file.options().to_vec(),
            desired_state,
            ..Unit::default()
        };
        self.put(name, &unit).await
    }

    /// Asks for another state of a unit.
    pub async fn put_state(&self, name: &str, desired: DesiredState) -> Result<(), Error> {
        let unit = Unit { name: name.to_owned(), desired_state: desired.to_string(), ..Unit::default() };
        self.put(name, &unit).await
    }

    /// Forgets a unit; `false` when there was none.
    pub async fn delete(&self, name: &str) -> Result<bool, Error> {
        let answer = self.send(Method::DELETE, &unit_path(name), None).await?;
        match self.accept(answer).await {
            Ok(_) => Ok(true),
            Err(Error::Refused { status: StatusCode::NOT_FOUND, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The journal or the status of a unit: an answer whose body is text.
    pub async fn text(&self, name: &str, rest: &str) -> Result<Response<Incoming>, Error> {
        let answer = self.send(Method::GET, &format!("{}/{rest}", unit_path(name)), None).await?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        match self.accept(answer).await {
            Err(error) => Err(error),
            Ok(_) => unreachable!("accept returns an error for a status that is no success"),
        }
    }

    async fn put(&self, name: &str, unit: &Unit) -> Result<(), Error> {
        let body = serde_json::to_vec(unit).expect("a unit becomes JSON");
        let answer = self.send(Method::PUT, &unit_path(name), Some(body)).await?;
        self.accept(answer).await.map(drop)
    }

    async fn pages<P: DeserializeOwned, T>(
        &self,
        path: &str,
        part: fn(P) -> (Vec<T>, String),
    ) -> Result<Vec<T>, Error> {
        let mut all = Vec::new();
        let mut next = path.to_owned();
        for _ in 0..MAX_PAGES {
            let (items, token) = part(self.get(&next).await?);
            all.extend(items);
            if token.is_empty() {
                return Ok(all);
            }
            next = format!("{path}?nextPageToken={}", encode(&token));
        }
        Err(self.garbage("the list does not end".to_owned()))
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        let answer = self.send(Method::GET, path, None).await?;
        let body = self.accept(answer).await?;
        serde_json::from_slice(&body).map_err(|error| self.garbage(error.to_string()))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<Response<Incoming>, Error> {
        Ok(client::send(&self.endpoint, method, path, body, &[], self.timeout).await?)
    }

    async fn accept(&self, answer: Response<Incoming>) -> Result<Bytes, Error> {
        let status = answer.status();
        let body = client::read(&self.endpoint, answer, self.timeout).await?;
        if status.is_success() {
            return Ok(body);
        }
        match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(refusal) => Err(Error::Refused { status, message: refusal.error.message }),
            Err(_) => Err(self.garbage(format!("status {status}"))),
        }
    }

    fn garbage(&self, text: String) -> Error {
        Error::Garbage { endpoint: self.endpoint.clone(), text }
    }
}

/// The socket of the fleetd on this machine, at its name of 2014 or at today's.
fn local() -> Endpoint {
    let old = Path::new("/var/run/fleet.sock");
    Endpoint::Unix(if old.exists() { old.into() } else { "/run/fleet.sock".into() })
}

fn cordon_path(machine: &str) -> String {
    format!("/fleet/v1/cordons/{}", encode(machine))
}

fn unit_path(name: &str) -> String {
    format!("/fleet/v1/units/{}", encode(name))
}
