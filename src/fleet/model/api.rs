//! The HTTP API v1 as data: its JSON, its pages, and what a request may do.
//!
//! Source: fleet's API document, "fleet/v1".

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cluster::Cluster;
use crate::engine::{Obstacle, explain};
use crate::registry::DesiredState;
use crate::requirements::Requirements;
use crate::txn::{KnownUnit, Txn, create_unit, replace_unit, set_desired};
use crate::unit_file::{UnitFile, UnitOption};
use crate::unit_name::UnitName;

/// Items on one page when the server was not told otherwise (`token_limit`).
pub const DEFAULT_PAGE_LIMIT: u16 = 100;

/// A unit. Fields that are empty are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Unit {
    /// Its name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its unit file.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub options: Vec<UnitOption>,
    /// What it should be: `inactive`, `loaded` or `launched`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub desired_state: String,
    /// What it is, in the same words.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub current_state: String,
    /// The machine it is scheduled to.
    #[serde(rename = "machineID", skip_serializing_if = "String::is_empty")]
    pub machine_id: String,
    /// Why it is on no machine although it should be. Not in fleet's API, whose
    /// clients pass over it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// What systemd says about a unit on one machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UnitState {
    /// Its name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Hash of the file that is loaded there.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hash: String,
    /// The machine.
    #[serde(rename = "machineID", skip_serializing_if = "String::is_empty")]
    pub machine_id: String,
    /// systemd's LoadState.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub systemd_load_state: String,
    /// systemd's ActiveState.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub systemd_active_state: String,
    /// systemd's SubState.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub systemd_sub_state: String,
}

/// A machine that is alive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Machine {
    /// Its 32 digits.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// Address it is known by.
    #[serde(rename = "primaryIP", skip_serializing_if = "String::is_empty")]
    pub primary_ip: String,
    /// What units can ask for.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// `cordoned` or `draining`; empty when it takes units. Not in fleet's API,
    /// whose clients pass over it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub state: String,
}

/// Answer to `GET /units`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UnitPage {
    /// The items of this page.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub units: Vec<Unit>,
    /// Asks for the next page; empty on the last one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub next_page_token: String,
}

/// Answer to `GET /state`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UnitStatePage {
    /// The items of this page.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<UnitState>,
    /// Asks for the next page; empty on the last one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub next_page_token: String,
}

/// Answer to `GET /machines`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MachinePage {
    /// The items of this page.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub machines: Vec<Machine>,
    /// Asks for the next page; empty on the last one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub next_page_token: String,
}

/// The body of every refusal: `{"error":{"code":404,"message":"..."}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The refusal.
    pub error: ApiError,
}

/// A refused request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message} ({code})")]
pub struct ApiError {
    /// The HTTP status.
    pub code: u16,
    /// One line for the user.
    #[serde(default)]
    pub message: String,
}

impl ApiError {
    /// A refusal with this status and text.
    pub fn new(code: u16, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// 404, with fleet's text.
    pub fn no_such_unit() -> Self {
        Self::new(404, "unit does not exist")
    }

    /// What is sent.
    pub fn body(self) -> ErrorBody {
        ErrorBody { error: self }
    }
}

fn null_is_empty<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<UnitOption>, D::Error> {
    // Go's encoder writes a missing list as `null`.
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// Which page of a list, and how long it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageToken {
    /// Items on a page.
    pub limit: u16,
    /// The page, counted from 1.
    pub page: u16,
}

impl PageToken {
    /// The first page.
    pub fn first(limit: u16) -> Self {
        Self { limit, page: 1 }
    }

    /// Reads a `nextPageToken`.
    ///
    /// # Errors
    /// 400 for a token that this server has not made.
    pub fn decode(text: &str, limit: u16) -> Result<Self, ApiError> {
        let bytes = base64_decode(text).ok_or_else(|| ApiError::new(400, "invalid page token"))?;
        let token = Self {
            limit: u16::from_le_bytes([bytes[0], bytes[1]]),
            page: u16::from_le_bytes([bytes[2], bytes[3]]),
        };
        if token.limit != limit {
            return Err(ApiError::new(400, format!("token limit must be {limit}")));
        }
        if token.page == 0 {
            return Err(ApiError::new(400, "token page must be greater than zero"));
        }
        Ok(token)
    }

    /// The token as it is sent.
    pub fn encode(self) -> String {
        let [a, b] = self.limit.to_le_bytes();
        let [c, d] = self.page.to_le_bytes();
        base64_encode([a, b, c, d])
    }

    /// The items of this page, and the token of the next one (empty at the end).
    pub fn cut<T>(self, all: Vec<T>) -> (Vec<T>, String) {
        let limit = usize::from(self.limit);
        let start = usize::from(self.page - 1) * limit;
        let more = all.len() > start + limit && self.page < u16::MAX;
        let next = Self { limit: self.limit, page: self.page.saturating_add(1) };
        let items = all.into_iter().skip(start).take(limit).collect();
        (items, if more { next.encode() } else { String::new() })
    }
}

const BASE64URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Four bytes as base64url with padding: always six digits and `==`.
fn base64_encode(bytes: [u8; 4]) -> String {
    let bits = u64::from(u32::from_be_bytes(bytes)) << 4;
    let digit = |index: u32| char::from(BASE64URL[(bits >> (30 - 6 * index) & 63) as usize]);
    (0..6).map(digit).chain("==".chars()).collect()
}

fn base64_decode(text: &str) -> Option<[u8; 4]> {
    let digits = text.strip_suffix("==").filter(|digits| digits.len() == 6)?;
    let mut bits: u64 = 0;
    for byte in digits.bytes() {
        let value = BASE64URL.iter().position(|digit| *digit == byte)?;
        bits = bits << 6 | value as u64;
    }
    u32::try_from(bits >> 4).ok().map(u32::to_be_bytes)
}

/// All units, by name.
pub fn units(cluster: &Cluster) -> Vec<Unit> {
    let reasons = explain(cluster);
    let names = cluster.units().keys();
    names.filter_map(|name| describe(cluster, name, reasons.get(name))).collect()
}

/// One unit; `None` when there is none or its record is garbage.
pub fn unit(cluster: &Cluster, name: &UnitName) -> Option<Unit> {
    describe(cluster, name, explain(cluster).get(name))
}

fn describe(cluster: &Cluster, name: &UnitName, reason: Option<&Obstacle>) -> Option<Unit> {
    let known = cluster.known_unit(name)?;
    let asks = cluster.units().get(name)?.requirements.as_ref().ok();
    let is_global = asks.is_some_and(|asks| asks.global);
    // A global unit is on many machines; fleet names none.
    // One that is handed over is where it is to stay.
    let staying = cluster.machines_of(name).find(|machine| !cluster.is_draining(*machine));
    let machine = staying.or_else(|| cluster.machines_of(name).next()).filter(|_| !is_global);
    let state = machine.and_then(|machine| cluster.states().get(name)?.get(&machine));
    let current = match (machine, state) {
        (Some(_), Some(state)) if state.hash == known.record.hash => Some(state.reached),
        (_, _) if is_global => None,
        (_, _) => Some(DesiredState::Inactive),
    };
    let problem = || state.and_then(|state| state.problem.clone());
    let file = cluster.unit_file(name);
    Some(Unit {
        name: name.to_string(),
        options: file.map(|file| file.options().to_vec()).unwrap_or_default(),
        desired_state: known.record.desired.to_string(),
        current_state: current.map(|state| state.to_string()).unwrap_or_default(),
        machine_id: machine.map(|machine| machine.to_string()).unwrap_or_default(),
        reason: reason.map(Obstacle::to_string).or_else(problem).unwrap_or_default(),
    })
}

/// All states, by unit and machine.
pub fn unit_states(cluster: &Cluster) -> Vec<UnitState> {
    let by_unit = cluster.states().iter();
    let each = by_unit.flat_map(|(name, on)| on.iter().map(move |(machine, state)| (name, machine, state)));
    each.map(|(name, machine, state)| UnitState {
        name: name.to_string(),
        hash: state.hash.to_string(),
        machine_id: machine.to_string(),
        systemd_load_state: state.load.clone(),
        systemd_active_state: state.active.clone(),
        systemd_sub_state: state.sub.clone(),
    })
    .collect()
}

/// All machines that are alive, by id.
pub fn machines(cluster: &Cluster) -> Vec<Machine> {
    let ids = cluster.machines().keys();
    ids.map(|&id| Machine {
        id: id.to_string(),
        primary_ip: cluster.machine_ip(id).map(|ip| ip.to_string()).unwrap_or_default(),
        metadata: cluster.machine_metadata(id).unwrap_or_default(),
        state: match cluster.cordons().get(&id) {
            None => String::new(),
            Some(cordon) if cordon.drain => "draining".to_owned(),
            Some(_) => "cordoned".to_owned(),
        },
    })
    .collect()
}

/// What a `PUT /units/NAME` does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Put {
    /// A new unit, or a new version of one: answer 201.
    Created(Txn),
    /// Another desired state: answer 204.
    Changed(Txn),
    /// All is as asked for: answer 204.
    Unchanged,
}

/// Judges a `PUT /units/NAME`: `name` from the URL, `existing` as it was read.
///
/// # Errors
/// 400 for a bad name, body, unit file or state; 409 for a request that makes no
/// sense for what exists. Texts are fleet's where fleet had one.
pub fn judge_put(name: &str, body: &Unit, existing: Option<KnownUnit>) -> Result<Put, ApiError> {
    let bad_request = |error: &dyn std::fmt::Display| ApiError::new(400, error.to_string());
    if !body.name.is_empty() && body.name != name {
        let inner = &body.name;
        let text = format!("name in URL {name:?} differs from unit name in request body {inner:?}");
        return Err(ApiError::new(400, text));
    }
    let name: UnitName = name.parse().map_err(|error| bad_request(&error))?;
    let desired = match body.desired_state.as_str() {
        "" => None,
        word => Some(word.parse::<DesiredState>().map_err(|error| bad_request(&error))?),
    };
    let is_active = desired.is_some_and(|desired| desired != DesiredState::Inactive);
    if name.is_template() && is_active {
        let text = format!("cannot activate template {:?}", name.as_str());
        return Err(ApiError::new(400, text));
    }
    let file = match body.options.as_slice() {
        [] => None,
        options => Some(read_options(&name, options)?),
    };
    match (existing, file) {
        (None, None) => Err(ApiError::new(409, "unit does not exist and options field empty")),
        (None, Some(file)) => Ok(Put::Created(create_unit(&name, &file, desired.unwrap_or_default()))),
        (Some(known), Some(file)) if file.hash() != known.record.hash => {
            let desired = desired.unwrap_or(known.record.desired);
            Ok(Put::Created(replace_unit(&name, known, &file, desired)))
        }
        (Some(known), _) => {
            let text = "must provide DesiredState to update existing unit";
            let desired = desired.ok_or_else(|| ApiError::new(409, text))?;
            Ok(match set_desired(&name, known, desired) {
                Some(txn) => Put::Changed(txn),
                None => Put::Unchanged,
            })
        }
    }
}

/// The unit file in a request, checked to be one that can be scheduled.
///
/// # Errors
/// 400 with the first thing that is wrong.
pub fn read_options(name: &UnitName, options: &[UnitOption]) -> Result<UnitFile, ApiError> {
    let file = UnitFile::from_options(options);
    let file = file.map_err(|error| ApiError::new(400, error.to_string()))?;
    check_file(name, &file)?;
    Ok(file)
}

/// Whether a unit file can be scheduled: what `fleetctl submit` checks first.
///
/// # Errors
/// 400 with the first thing that is wrong in `[X-Fleet]`.
pub fn check_file(name: &UnitName, file: &UnitFile) -> Result<(), ApiError> {
    let asks = Requirements::of(name, file);
    asks.map(drop).map_err(|error| ApiError::new(400, error.to_string()))
}
