//! The HTTP API: what a request reads from the registry and writes to it.
//!
//! Every answer is read from the store anew, linearizably: whoever changed a
//! unit sees the change in the next answer, from any machine.

use std::{sync::Arc, time::Duration};

use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use proa_base::ids::MachineId;
use proa_etcd_client::Error as StoreError;
use proa_fleet_model::{
    api::{self, ApiError, MachinePage, PageToken, Put, UnitPage, UnitStatePage, judge_put},
    cluster::Cluster,
    cordon,
    registry::{CordonRecord, Key, MetadataRecord, PREFIX, cordons_prefix, machines_prefix},
    txn::{self, KnownUnit, destroy_unit, set_metadata},
    unit_name::UnitName,
};
use serde::Deserialize;
use tokio::sync::Semaphore;

use crate::{
    client::{self, Endpoint},
    config::Config,
    http::{Body, empty, full, json, read_body},
    journal::{self, Scope},
    route::{Route, StateQuery, Which, route},
    store::{Place, Store},
};

/// Tells a machine that another one has passed a request on to it: not to pass it on again.
const FORWARDED: &str = "proa-forwarded";
/// The exit status of `systemctl status`, beside its output.
pub const EXIT_STATUS: &str = "proa-exit-status";
/// For another machine to begin its answer.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(20);
/// Journals and statuses that are read on this machine at a time.
const MAX_CHILDREN: usize = 32;
/// A change that meets another one is judged anew this often.
const MAX_ATTEMPTS: usize = 8;

/// What answers requests.
pub struct Api {
    store: Store,
    config: Arc<Config>,
    children: Arc<Semaphore>,
}

impl Api {
    /// The API of one machine.
    pub fn new(store: Store, config: Arc<Config>) -> Self {
        Self { store, config, children: Arc::new(Semaphore::new(MAX_CHILDREN)) }
    }

    /// Answers one request.
    pub async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let mut response = match self.dispatch(request).await {
            Ok(response) => response,
            Err(error) => {
                let status = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                json(status, &error.body())
            }
        };
        let server = concat!("fleetd/", env!("CARGO_PKG_VERSION"));
        response.headers_mut().insert(header::SERVER, HeaderValue::from_static(server));
        response
    }

    async fn dispatch(&self, request: Request<Incoming>) -> Result<Response<Body>, ApiError> {
        let uri = request.uri();
        let is_forwarded = request.headers().contains_key(FORWARDED);
        match route(request.method(), uri.path(), uri.query())? {
            Route::Units(token) => self.units(token).await,
            Route::Unit(name) => self.unit(&name).await,
            Route::PutUnit(name) => self.put_unit(&name, request).await,
            Route::DeleteUnit(name) => self.delete_unit(&name).await,
            Route::States(query) => self.states(query).await,
            Route::State(name) => self.state(&name).await,
            Route::Machines(token) => self.machines(token).await,
            Route::PatchMachines => self.patch_machines(request).await,
            Route::Cordons => Ok(json(StatusCode::OK, &cordon::cordons(&self.cluster().await?))),
            Route::Cordon(which) => {
                let gone = || ApiError::new(404, "machine is not cordoned");
                let machine = self.machine(which);
                // Each machine asks for its own now and then, and mostly there is none.
                if self.store.get(&Key::Cordon(machine)).await.map_err(no_store)?.is_none() {
                    return Err(gone());
                }
                let cordon = cordon::cordon(&self.cluster().await?, machine).ok_or_else(gone)?;
                Ok(json(StatusCode::OK, &cordon))
            }
            Route::PutCordon(which) => self.put_cordon(which, request).await,
            Route::DeleteCordon(which) => {
                self.store.commit(&txn::uncordon(self.machine(which))).await.map_err(no_store)?;
                Ok(empty(StatusCode::NO_CONTENT))
            }
            Route::Journal(name, wanted) if self.is_here(&name) => {
                let place = self.child()?;
                let body = journal::journal(&name, self.scope(), wanted, place).map_err(broken)?;
                Ok(text(body))
            }
            Route::Status(name) if self.is_here(&name) => {
                let _place = self.child()?;
                let (code, output) = journal::status(&name, self.scope()).await.map_err(broken)?;
                let mut response = text(full(output));
                response.headers_mut().insert(EXIT_STATUS, HeaderValue::from(code));
                Ok(response)
            }
            Route::Journal(name, _) | Route::Status(name) => {
                let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
                self.forward(&name, &path, is_forwarded).await
            }
        }
    }

    async fn cluster(&self) -> Result<Cluster, ApiError> {
        let snapshot = self.store.read(PREFIX).await.map_err(no_store)?;
        Ok(Cluster::from_entries(snapshot.entries))
    }

    fn page(&self, token: Option<String>) -> Result<PageToken, ApiError> {
        let limit = self.config.token_limit;
        match token {
            Some(token) => PageToken::decode(&token, limit),
            None => Ok(PageToken::first(limit)),
        }
    }

    async fn units(&self, token: Option<String>) -> Result<Response<Body>, ApiError> {
        let page = self.page(token)?;
        let (units, next_page_token) = page.cut(api::units(&self.cluster().await?));
        Ok(json(StatusCode::OK, &UnitPage { units, next_page_token }))
    }

    async fn unit(&self, name: &str) -> Result<Response<Body>, ApiError> {
        let name = name.parse::<UnitName>().map_err(|_| ApiError::no_such_unit())?;
        // Clients that wait for a unit to vanish ask often.
        if self.store.get(&Key::Unit(name.clone())).await.map_err(no_store)?.is_none() {
            return Err(ApiError::no_such_unit());
        }
        let unit = api::unit(&self.cluster().await?, &name).ok_or_else(ApiError::no_such_unit)?;
        Ok(json(StatusCode::OK, &unit))
    }

    async fn put_unit(&self, name: &str, request: Request<Incoming>) -> Result<Response<Body>, ApiError> {
        is_json(&request)?;
        let body =
            read_body(request.into_body()).await.map_err(|error| ApiError::new(400, error.to_string()))?;
        let body: api::Unit = serde_json::from_slice(&body)
            .map_err(|error| ApiError::new(400, format!("unable to decode body: {error}")))?;
        for _ in 0..MAX_ATTEMPTS {
            let known = match name.parse::<UnitName>() {
                Ok(name) => self.known(&name).await?,
                // The judge says what is wrong with the name.
                Err(_) => None,
            };
            let (txn, status) = match judge_put(name, &body, known)? {
                Put::Created(txn) => (txn, StatusCode::CREATED),
                Put::Changed(txn) => (txn, StatusCode::NO_CONTENT),
                Put::Unchanged => return Ok(empty(StatusCode::NO_CONTENT)),
            };
            if self.store.commit(&txn).await.map_err(no_store)?.is_some() {
                return Ok(empty(status));
            }
        }
        Err(contended(name))
    }

    async fn delete_unit(&self, name: &str) -> Result<Response<Body>, ApiError> {
        let name = name.parse::<UnitName>().map_err(|_| ApiError::no_such_unit())?;
        for _ in 0..MAX_ATTEMPTS {
            let known = self.known(&name).await?.ok_or_else(ApiError::no_such_unit)?;
            if self.store.commit(&destroy_unit(&name, known)).await.map_err(no_store)?.is_some() {
                return Ok(empty(StatusCode::NO_CONTENT));
            }
        }
        Err(contended(name.as_str()))
    }

    async fn known(&self, name: &UnitName) -> Result<Option<KnownUnit>, ApiError> {
        let Some(entry) = self.store.get(&Key::Unit(name.clone())).await.map_err(no_store)? else {
            return Ok(None);
        };
        let garbage = || ApiError::new(500, format!("the record of {name} in the registry cannot be read"));
        Cluster::from_entries([entry]).known_unit(name).map(Some).ok_or_else(garbage)
    }

    async fn states(&self, query: StateQuery) -> Result<Response<Body>, ApiError> {
        let page = self.page(query.token)?;
        let snapshot = self.store.read(&states_prefix()).await.map_err(no_store)?;
        let mut states = api::unit_states(&Cluster::from_entries(snapshot.entries));
        let machine = query.machine.map(|machine| machine.to_string());
        states.retain(|state| machine.as_ref().is_none_or(|machine| state.machine_id == *machine));
        states.retain(|state| query.unit.as_ref().is_none_or(|unit| state.name == *unit));
        let (states, next_page_token) = page.cut(states);
        Ok(json(StatusCode::OK, &UnitStatePage { states, next_page_token }))
    }

    async fn state(&self, name: &str) -> Result<Response<Body>, ApiError> {
        let gone = || ApiError::new(404, "unit state does not exist");
        let snapshot = self.store.read(&states_prefix()).await.map_err(no_store)?;
        let states = api::unit_states(&Cluster::from_entries(snapshot.entries));
        let state = states.into_iter().find(|state| state.name == name).ok_or_else(gone)?;
        Ok(json(StatusCode::OK, &state))
    }

    async fn machines(&self, token: Option<String>) -> Result<Response<Body>, ApiError> {
        let page = self.page(token)?;
        let (machines, next_page_token) = page.cut(api::machines(&self.machine_records().await?));
        Ok(json(StatusCode::OK, &MachinePage { machines, next_page_token }))
    }

    async fn machine_records(&self) -> Result<Cluster, ApiError> {
        let places = [
            Place::Under(machines_prefix()),
            Place::Under(format!("{PREFIX}metadata/")),
            Place::Under(cordons_prefix()),
        ];
        Ok(Cluster::from_entries(self.store.read_together(&places).await.map_err(no_store)?))
    }

    async fn patch_machines(&self, request: Request<Incoming>) -> Result<Response<Body>, ApiError> {
        is_json(&request)?;
        let body =
            read_body(request.into_body()).await.map_err(|error| ApiError::new(400, error.to_string()))?;
        let patches: Vec<Patch> = serde_json::from_slice(&body)
            .map_err(|error| ApiError::new(400, format!("unable to decode body: {error}")))?;
        let patches = patches.iter().map(Patch::change).collect::<Result<Vec<_>, _>>()?;
        for (machine, key, value) in patches {
            self.set_metadata(machine, &key, &value).await?;
        }
        Ok(empty(StatusCode::NO_CONTENT))
    }

    fn machine(&self, which: Which) -> MachineId {
        match which {
            Which::This => self.config.machine_id,
            Which::Id(id) => id,
        }
    }

    async fn put_cordon(&self, which: Which, request: Request<Incoming>) -> Result<Response<Body>, ApiError> {
        is_json(&request)?;
        let bad = |text: String| ApiError::new(400, text);
        let body = read_body(request.into_body()).await.map_err(|error| bad(error.to_string()))?;
        let record: CordonRecord =
            serde_json::from_slice(&body).map_err(|error| bad(format!("unable to decode body: {error}")))?;
        cordon::check(&record).map_err(bad)?;
        self.store.commit(&txn::cordon(self.machine(which), &record)).await.map_err(no_store)?;
        Ok(empty(StatusCode::NO_CONTENT))
    }

    async fn set_metadata(
        &self,
        machine: MachineId,
        key: &str,
        value: &Option<String>,
    ) -> Result<(), ApiError> {
        for _ in 0..MAX_ATTEMPTS {
            let cluster = self.machine_records().await?;
            let (mut record, read_at) = match cluster.set_metadata(machine) {
                Some((record, revision)) => (record.clone(), Some(revision)),
                None => (MetadataRecord::new(), None),
            };
            record.insert(key.to_owned(), value.clone());
            let txn = set_metadata(machine, read_at, &record);
            if self.store.commit(&txn).await.map_err(no_store)?.is_some() {
                return Ok(());
            }
        }
        Err(contended(&machine.to_string()))
    }

    /// The file says so, with the store out of reach as well.
    fn is_here(&self, name: &UnitName) -> bool {
        self.config.units_directory.join(name.as_str()).is_file()
    }

    fn scope(&self) -> Scope {
        if self.config.systemd_user { Scope::User } else { Scope::System }
    }

    fn child(&self) -> Result<tokio::sync::OwnedSemaphorePermit, ApiError> {
        let busy = |_| {
            ApiError::new(503, format!("{MAX_CHILDREN} journals are being read already, try again later"))
        };
        Arc::clone(&self.children).try_acquire_owned().map_err(busy)
    }

    /// Passes a request on to the machine that has the unit.
    async fn forward(
        &self,
        name: &UnitName,
        path: &str,
        is_forwarded: bool,
    ) -> Result<Response<Body>, ApiError> {
        if is_forwarded {
            let text = format!("unit {name} is not on machine {}", self.config.machine_id);
            return Err(ApiError::new(404, text));
        }
        let cluster = self.cluster().await?;
        if !cluster.units().contains_key(name) {
            return Err(ApiError::no_such_unit());
        }
        let machine = holder(&cluster, name)?;
        let record = cluster.machines().get(&machine).cloned().flatten();
        let address = record.and_then(|record| record.api).ok_or_else(|| {
            let text = format!(
                "unit {name} is on machine {machine}, which offers no API; start its fleetd with --listen"
            );
            ApiError::new(502, text)
        })?;
        let endpoint = Endpoint::Tcp(address);
        let headers = [(FORWARDED, "1")];
        let answer = client::send(&endpoint, http::Method::GET, path, None, &headers, FORWARD_TIMEOUT).await;
        let answer = answer
            .map_err(|error| ApiError::new(502, format!("unit {name} is on machine {machine}: {error}")))?;
        let (parts, body) = answer.into_parts();
        let body = body.map_err(std::io::Error::other).boxed_unsync();
        let mut response = Response::new(body);
        *response.status_mut() = parts.status;
        for name in [header::CONTENT_TYPE.as_str(), EXIT_STATUS] {
            if let Some(value) = parts.headers.get(name) {
                let name = http::HeaderName::from_bytes(name.as_bytes()).expect("a header name");
                response.headers_mut().insert(name, value.clone());
            }
        }
        Ok(response)
    }
}

/// The machine to ask about a unit: one that is alive.
fn holder(cluster: &Cluster, name: &UnitName) -> Result<MachineId, ApiError> {
    let mut machines = cluster.machines_of(name).filter(|machine| cluster.machines().contains_key(machine));
    machines.next().ok_or_else(|| ApiError::new(404, format!("unit {name} is on no machine")))
}

fn states_prefix() -> String {
    format!("{PREFIX}states/")
}

/// One step of a JSON Patch (RFC 6902), as far as the API takes it.
#[derive(Deserialize)]
struct Patch {
    op: String,
    path: String,
    #[serde(default)]
    value: Option<String>,
}

impl Patch {
    /// The machine, the key and its new value, `None` to take it away.
    fn change(&self) -> Result<(MachineId, String, Option<String>), ApiError> {
        let bad = |text: String| ApiError::new(400, text);
        let wrong_path = || bad(format!("bad path {:?}: give /MACHINE-ID/metadata/KEY", self.path));
        let parts: Vec<&str> = self.path.split('/').collect();
        let ["", machine, "metadata", key] = parts.as_slice() else { return Err(wrong_path()) };
        let machine = machine.parse().map_err(|_| wrong_path())?;
        if key.is_empty() {
            return Err(wrong_path());
        }
        let value = match (self.op.as_str(), &self.value) {
            ("add" | "replace", Some(value)) if !value.is_empty() => Some(value.clone()),
            ("add" | "replace", _) => return Err(bad(format!("op {:?} needs a value", self.op))),
            ("remove", _) => None,
            (other, _) => return Err(bad(format!("bad op {other:?}: give add, remove or replace"))),
        };
        // Source: RFC 6901, 4: `~1` is a slash, `~0` a tilde.
        Ok((machine, key.replace("~1", "/").replace("~0", "~"), value))
    }
}

fn is_json(request: &Request<Incoming>) -> Result<(), ApiError> {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let is_json = kind.is_some_and(|kind| kind.split(';').next().unwrap_or("").trim() == "application/json");
    is_json
        .then_some(())
        .ok_or_else(|| ApiError::new(415, "application/json is the only Content-Type supported"))
}

fn no_store(error: StoreError) -> ApiError {
    match error {
        StoreError::Unavailable { .. } => ApiError::new(503, error.to_string()),
        other => ApiError::new(500, format!("the store refused: {other}")),
    }
}

fn broken(error: std::io::Error) -> ApiError {
    ApiError::new(500, error.to_string())
}

fn contended(name: &str) -> ApiError {
    ApiError::new(503, format!("{name} is being changed by others, try again"))
}

fn text(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn patches_name_a_machine_and_a_key() {
        let id = "0123456789abcdef0123456789abcdef";
        let path = format!("/{id}/metadata/a~1b");
        let patch = |op: &str, path: &str, value: Option<&str>| {
            let patch = Patch { op: op.into(), path: path.into(), value: value.map(str::to_owned) };
            patch.change().map_err(|error| error.code)
        };
        let id: MachineId = id.parse().unwrap();
        assert_eq!(patch("add", &path, Some("x")), Ok((id, "a/b".into(), Some("x".into()))));
        assert_eq!(patch("remove", &path, None), Ok((id, "a/b".into(), None)));
        for (op, path, value) in [
            ("add", path.as_str(), None),
            ("move", path.as_str(), Some("x")),
            ("add", "/x/metadata/a", Some("x")),
            ("add", "/metadata/a", Some("x")),
            ("add", &format!("/{id}/metadata/"), Some("x")),
        ] {
            assert_eq!(patch(op, path, value), Err(400), "{op} {path}");
        }
    }
}
