//! The API of omahactl: which request this is, and everything that only reads.
//!
//! Paths: `/api/v1/packages/NAME` and `/api/v1/APP/KIND[/NAME[/ACTION]]` with the
//! kinds releases, channels, groups, instances and failed. All bodies are JSON
//! but those of packages. What changes something is in `changes`.

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use proa_update_model::{
    omaha::bare_id,
    rollout::{Failed, Group, Instance, Rollout, machine_key},
    version::{Version, is_same},
};
use serde_json::{Value, json};

use crate::{
    error::Refused,
    http::{Body, json as json_answer, json_refusal, read_body},
    packages::{self, Packages},
    release::Stored,
    store::{Place, Store},
};

/// The largest body: an envelope of 32 KiB as a JSON string, with its packages.
const BODY_BYTES_MAX: usize = 128 << 10;

/// The part of omahad that omahactl talks to.
#[derive(Clone)]
pub struct Api {
    /// The records.
    pub store: Store,
    /// The payloads.
    pub packages: Packages,
}

impl Api {
    /// Answers one request.
    pub async fn answer(self, request: Request<Incoming>, now_unix_s: u64) -> Response<Body> {
        match self.route(request, now_unix_s).await {
            Ok(value) => json_answer(&value),
            Err(refused) => json_refusal(&refused),
        }
    }

    async fn route(&self, request: Request<Incoming>, now_unix_s: u64) -> Result<Value, Refused> {
        let path = request.uri().path().to_owned();
        let no_path = || Refused::absent(format!("no such path: {path}"));
        let rest = path.strip_prefix("/api/v1/").ok_or_else(no_path)?;
        let parts: Vec<&str> = rest.trim_end_matches('/').split('/').collect();
        let method = request.method().clone();
        let query = request.uri().query().unwrap_or_default().to_owned();
        if let ["packages", name] = parts.as_slice() {
            if method != Method::PUT {
                return Err(Refused::new(StatusCode::METHOD_NOT_ALLOWED, "packages are put here"));
            }
            let mut body = request.into_body();
            let taken = self.take_package(name, &query, &mut body).await;
            packages::read_to_end(&mut body).await;
            return taken;
        }
        let app =
            parts.first().map(|app| bare_id(app)).and_then(|app| machine_key(&app)).ok_or_else(no_path)?;
        let parts: Vec<String> = parts[1..].iter().map(|part| name(part)).collect::<Result<_, _>>()?;
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        if method == Method::GET {
            return self.show(&app, &parts, &query).await?.ok_or_else(no_path);
        }
        let body = read_body(request.into_body(), BODY_BYTES_MAX).await?;
        let body: Value = match body.as_ref() {
            [] => Value::Null,
            body => {
                serde_json::from_slice(body).map_err(|error| Refused::bad(format!("the body: {error}")))?
            }
        };
        self.change(&app, &method, &parts, body, now_unix_s).await?.ok_or_else(|| {
            Refused::new(StatusCode::METHOD_NOT_ALLOWED, format!("{method} is not possible on {path}"))
        })
    }

    async fn take_package(&self, name: &str, query: &str, body: &mut Incoming) -> Result<Value, Refused> {
        let value = |key: &str| {
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.filter(|(known, _)| *known == key).map(|(_, value)| value.to_owned()).next()
        };
        let size_bytes = value("size").and_then(|text| text.parse::<u64>().ok());
        let (Some(sha256), Some(size_bytes)) = (value("sha256"), size_bytes) else {
            return Err(Refused::bad("give sha256=HEX and size=BYTES of the package"));
        };
        // Machines may be fetching the other one.
        if self.packages.has_other(name, &sha256) {
            let text = format!("another package is here as {name}; give this one another name");
            return Err(Refused::conflict(text));
        }
        // The same again needs no second copy.
        let is_here =
            self.packages.has(name, size_bytes) && self.packages.sha256(name).as_ref() == Some(&sha256);
        if !is_here {
            self.packages.take(name, &sha256, size_bytes, body).await?;
            tracing::info!("took package {name} of {size_bytes} bytes");
        }
        Ok(json!({"name": name, "size": size_bytes, "sha256": sha256}))
    }

    /// `None` for a path that there is not.
    async fn show(&self, app: &str, parts: &[&str], query: &str) -> Result<Option<Value>, Refused> {
        Ok(Some(match parts {
            ["releases"] => self.releases(app).await?,
            ["channels"] => self.channels(app).await?,
            ["groups"] => self.groups(app).await?,
            ["groups", name] => self.group(app, name).await?,
            ["instances"] => self.instances(app, query.strip_prefix("group=")).await?,
            ["instances", machine] => {
                let found = self.store.get(&format!("instances/{app}/{machine}")).await?;
                let record = found.one().ok_or_else(|| no_instance(machine))?;
                as_json(&record.parse::<Instance>()?)
            }
            ["failed"] => {
                let mut all = Vec::new();
                let take = |record: &crate::store::Record| {
                    all.push(as_json(&record.parse::<Failed>()?));
                    Ok(())
                };
                self.store.each(&format!("failed/{app}/"), take).await?;
                Value::Array(all)
            }
            _ => return Ok(None),
        }))
    }

    async fn releases(&self, app: &str) -> Result<Value, Refused> {
        let places = [Place::Under(format!("channels/{app}/")), Place::KeysUnder(format!("failed/{app}/"))];
        let found = self.store.read(&places).await?;
        let [channels, failed] = found.as_slice() else { return Ok(Value::Null) };
        let mut all: Vec<(Version, Value)> = Vec::new();
        let mut named: Vec<(String, String)> = Vec::new();
        for channel in &channels.records {
            named.push((channel.parse()?, channel.name().to_owned()));
        }
        let take = |record: &crate::store::Record| {
            let stored: Stored = record.parse()?;
            let Ok(version) = stored.version.parse() else { return Ok(()) };
            let channels: Vec<&str> = named
                .iter()
                .filter(|(version, _)| *version == stored.version)
                .map(|(_, name)| name.as_str())
                .collect();
            let packages: Vec<Value> = stored
                .packages
                .iter()
                .map(|package| {
                    json!({
                        "name": package.name, "size": package.size_bytes, "from": package.from,
                        "sha256": package.sha256, "codebases": package.codebases,
                        "here": self.packages.has(&package.name, package.size_bytes),
                    })
                })
                .collect();
            let has_failed = failed.records.iter().any(|record| is_same(record.name(), &stored.version));
            let value = json!({
                "version": stored.version, "minimum": stored.minimum, "expires": stored.expires_unix_s,
                "added": stored.added_unix_s, "channels": channels, "failed": has_failed, "packages": packages,
            });
            all.push((version, value));
            Ok(())
        };
        self.store.each(&format!("releases/{app}/"), take).await?;
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(all.into_iter().map(|(_, value)| value).collect())
    }

    async fn channels(&self, app: &str) -> Result<Value, Refused> {
        let mut all = Vec::new();
        let take = |record: &crate::store::Record| {
            all.push(json!({"name": record.name(), "version": record.parse::<String>()?}));
            Ok(())
        };
        self.store.each(&format!("channels/{app}/"), take).await?;
        Ok(Value::Array(all))
    }

    async fn groups(&self, app: &str) -> Result<Value, Refused> {
        let found = self.store.read(&[Place::KeysUnder(format!("groups/{app}/"))]).await?;
        let mut all = Vec::new();
        for record in found.iter().flat_map(|found| &found.records) {
            all.push(self.group(app, record.name()).await?);
        }
        Ok(Value::Array(all))
    }

    async fn group(&self, app: &str, name: &str) -> Result<Value, Refused> {
        let places = [
            Place::Key(format!("groups/{app}/{name}")),
            Place::Key(format!("rollouts/{app}/{name}")),
            Place::Under(format!("channels/{app}/")),
        ];
        let found = self.store.read(&places).await?;
        let [group, rollout, channels] = found.as_slice() else { return Ok(Value::Null) };
        let group: Group = group.one().ok_or_else(|| no_group(name))?.parse()?;
        let rollout: Rollout = rollout.one().map(|record| record.parse()).transpose()?.unwrap_or_default();
        let channel = channels.records.iter().find(|record| record.name() == group.channel);
        let version: Option<String> = channel.map(|record| record.parse()).transpose()?;
        Ok(json!({
            "name": name, "version": version.unwrap_or_default(),
            "settings": as_json(&group), "rollout": as_json(&rollout),
        }))
    }

    async fn instances(&self, app: &str, group: Option<&str>) -> Result<Value, Refused> {
        let mut all = Vec::new();
        let take = |record: &crate::store::Record| {
            let mut instance: Instance = record.parse()?;
            if group.is_none_or(|group| group == instance.group) {
                instance.history.clear();
                all.push(as_json(&instance));
            }
            Ok(())
        };
        self.store.each(&format!("instances/{app}/"), take).await?;
        Ok(Value::Array(all))
    }
}

/// A record as the API shows it.
pub fn as_json(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).expect("our own types become JSON")
}

pub fn no_group(name: &str) -> Refused {
    Refused::absent(format!("there is no group {name}; omahactl group list shows those there are"))
}

pub fn no_instance(machine: &str) -> Refused {
    Refused::absent(format!("no machine {machine} has asked here"))
}

/// A part of a path: a name or a version, with `%2B` for the plus of a build.
fn name(part: &str) -> Result<String, Refused> {
    let plain = part.replace("%2B", "+").replace("%2b", "+");
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:+".contains(&byte);
    if plain.is_empty() || plain.len() > 64 || plain.starts_with('.') || !plain.bytes().all(is_good) {
        let right = "give up to 64 letters, digits, dots, dashes and underscores";
        return Err(Refused::bad(format!("bad name {part:?}: {right}")));
    }
    Ok(plain)
}
