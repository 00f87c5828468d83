//! What operators change: releases, channels, groups; and what they forgive.
//!
//! Every change is made only if what it was decided from still holds, so that
//! two operators, or an operator and a machine, never undo each other.

use http::Method;
use proa_update_model::{
    rollout::{Failed, Group, Halt, Rollout},
    version::is_same,
};
use serde_json::{Value, json};

use crate::{
    api::{Api, as_json, no_group, no_instance},
    error::Refused,
    release::{NewRelease, Stored},
    store::{Change, Found, Place, Record},
};

/// Releases of one application: one a week for four years.
const RELEASES_MAX: i64 = 200;
/// Groups of one application; each request of a machine reads them all.
const GROUPS_MAX: i64 = 64;
/// How often a change is tried anew when somebody else was faster.
const ATTEMPTS: usize = 16;

impl Api {
    /// `None` for a method that there is not on this path.
    pub(crate) async fn change(
        &self,
        app: &str,
        method: &Method,
        parts: &[&str],
        body: Value,
        now_unix_s: u64,
    ) -> Result<Option<Value>, Refused> {
        let is = |wanted: Method| *method == wanted;
        let done = match parts {
            ["releases"] if is(Method::POST) => self.add_release(app, body, now_unix_s).await?,
            ["releases", version] if is(Method::DELETE) => self.remove_release(app, version).await?,
            ["channels", name] if is(Method::PUT) => self.set_channel(app, name, &body).await?,
            ["channels", name] if is(Method::DELETE) => self.remove_channel(app, name).await?,
            ["groups", name] if is(Method::PUT) => self.set_group(app, name, &body).await?,
            ["groups", name] if is(Method::DELETE) => self.remove_group(app, name).await?,
            ["groups", name, action] if is(Method::POST) => {
                self.act_on_group(app, name, action, &body, now_unix_s).await?
            }
            ["instances", machine] if is(Method::DELETE) => self.forget(app, machine).await?,
            ["failed", version] if is(Method::DELETE) => self.forgive(app, version).await?,
            _ => return Ok(None),
        };
        Ok(Some(done))
    }

    async fn add_release(&self, app: &str, body: Value, now_unix_s: u64) -> Result<Value, Refused> {
        let new: NewRelease =
            serde_json::from_value(body).map_err(|error| Refused::bad(format!("the body: {error}")))?;
        let new = Stored::new(app, new, now_unix_s)?;
        for package in &new.packages {
            let is_here = self.packages.has(&package.name, package.size_bytes)
                && self.packages.sha256(&package.name).as_ref() == Some(&package.sha256);
            if !is_here && package.codebases.is_empty() {
                let text = format!("package {} is not on this server and has no URL", package.name);
                return Err(Refused::bad(text));
            }
        }
        let key = format!("releases/{app}/{}", new.version);
        let places = [Place::Key(key.clone()), Place::CountUnder(format!("releases/{app}/"))];
        for _ in 0..ATTEMPTS {
            let found = self.store.read(&places).await?;
            let old: Option<Stored> = found[0].one().map(Record::parse).transpose()?;
            let release = match &old {
                Some(old) => new.clone().merged(old)?,
                None if found[1].count >= RELEASES_MAX => {
                    let text = format!("there are {RELEASES_MAX} releases; remove old ones first");
                    return Err(Refused::conflict(text));
                }
                None => new.clone(),
            };
            let mut change = Change::default();
            change.guard(&key, found[0].revision());
            change.put(&key, &release);
            if self.store.commit(change).await? {
                tracing::info!("release {} of {app}", release.version);
                return Ok(json!({"version": release.version, "is_new": old.is_none()}));
            }
        }
        Err(busy())
    }

    async fn remove_release(&self, app: &str, version: &str) -> Result<Value, Refused> {
        let key = format!("releases/{app}/{version}");
        let found =
            self.store.read(&[Place::Key(key.clone()), Place::Under(format!("channels/{app}/"))]).await?;
        let record = found[0].one().ok_or_else(|| no_release(version))?;
        let release: Stored = record.parse()?;
        let mut change = Change::default();
        for channel in &found[1].records {
            if channel.parse::<String>()? == version {
                let text = format!("channel {} names {version}; set it to another first", channel.name());
                return Err(Refused::conflict(text));
            }
            change.guard(&channel.key, channel.revision);
        }
        change.guard(&key, record.revision);
        change.delete(&key);
        if !self.store.commit(change).await? {
            return Err(busy());
        }
        let mut unused: Vec<String> = release.packages.into_iter().map(|package| package.name).collect();
        let keep = |record: &Record| {
            let other: Stored = record.parse()?;
            unused.retain(|name| other.packages.iter().all(|package| package.name != *name));
            Ok(())
        };
        // Releases of all applications: they share the folder.
        self.store.each("releases/", keep).await?;
        unused.iter().for_each(|name| self.packages.remove(name));
        Ok(json!({"version": version}))
    }

    async fn set_channel(&self, app: &str, name: &str, body: &Value) -> Result<Value, Refused> {
        let version = text(body, "version")?;
        let (channel_key, group_key) = (format!("channels/{app}/{name}"), format!("groups/{app}/{name}"));
        let (release_key, failed_key) =
            (format!("releases/{app}/{version}"), format!("failed/{app}/{version}"));
        let places = [
            Place::Key(channel_key.clone()),
            Place::Under(format!("groups/{app}/")),
            Place::Key(release_key.clone()),
            Place::Under(format!("failed/{app}/")),
        ];
        for _ in 0..ATTEMPTS {
            let found = self.store.read(&places).await?;
            if found[2].records.is_empty() {
                return Err(no_release(version));
            }
            if let Some(failed) = found[3].records.iter().find(|failed| is_same(failed.name(), version)) {
                let failed: Failed = failed.parse()?;
                return Err(Refused::conflict(format!(
                    "version {0} failed on {1}: {2}; omahactl failed clear {0} allows it again",
                    failed.version, failed.machine, failed.reason
                )));
            }
            let mut change = Change::default();
            change.guard(&channel_key, found[0].revision());
            change.guard(&release_key, found[2].revision());
            change.guard(&failed_key, 0);
            change.put(&channel_key, &version);
            // A channel without machines serves nobody: its first group has its name.
            let has_group = found[1].records.iter().any(|record| record.key == group_key);
            let makes_group = found[0].records.is_empty() && !has_group;
            if makes_group {
                let group = Group::following(name);
                check_group(name, &group, &found[1])?;
                change.guard_under(format!("groups/{app}/"), found[1].as_of);
                change.put(&group_key, &group);
            }
            if self.store.commit(change).await? {
                return Ok(json!({"name": name, "version": version, "new_group": makes_group}));
            }
        }
        Err(busy())
    }

    async fn remove_channel(&self, app: &str, name: &str) -> Result<Value, Refused> {
        let key = format!("channels/{app}/{name}");
        let found = self.store.get(&key).await?;
        if found.records.is_empty() {
            return Err(Refused::absent(format!("there is no channel {name}")));
        }
        let mut change = Change::default();
        change.delete(&key);
        self.store.commit(change).await?;
        Ok(json!({"name": name}))
    }

    async fn set_group(&self, app: &str, name: &str, body: &Value) -> Result<Value, Refused> {
        let is_new = body.get("new").and_then(Value::as_bool).unwrap_or(false);
        let settings = body.get("settings").and_then(Value::as_object);
        let settings = settings.ok_or_else(|| Refused::bad("give {\"settings\":{NAME:VALUE}}"))?;
        let prefix = format!("groups/{app}/");
        let key = format!("{prefix}{name}");
        for _ in 0..ATTEMPTS {
            let found = self.store.read(&[Place::Under(prefix.clone())]).await?;
            let old = found[0].records.iter().find(|record| record.key == key);
            let mut group = match (old, is_new) {
                (Some(_), true) => return Err(Refused::conflict(format!("group {name} is there already"))),
                (None, false) => return Err(no_group(name)),
                (None, true) => Group::following(name),
                (Some(record), false) => record.parse()?,
            };
            for (setting, value) in settings {
                let value = value.as_str().ok_or_else(|| Refused::bad(format!("{setting}: give a text")))?;
                group.set(setting, value).map_err(|error| Refused::bad(error.to_string()))?;
            }
            // What is there from of old can be changed, whatever it is called.
            if is_new || settings.contains_key("aliases") {
                check_group(name, &group, &found[0])?;
            }
            let mut change = Change::default();
            change.guard(&key, old.map_or(0, |record| record.revision));
            // Another group may be given the same name meanwhile.
            change.guard_under(&prefix, found[0].as_of);
            change.put(&key, &group);
            if self.store.commit(change).await? {
                return Ok(json!({"name": name, "settings": as_json(&group)}));
            }
        }
        Err(busy())
    }

    async fn remove_group(&self, app: &str, name: &str) -> Result<Value, Refused> {
        let (key, rollout_key) = (format!("groups/{app}/{name}"), format!("rollouts/{app}/{name}"));
        if self.store.get(&key).await?.records.is_empty() {
            return Err(no_group(name));
        }
        let mut change = Change::default();
        change.delete(&key);
        change.delete(&rollout_key);
        self.store.commit(change).await?;
        Ok(json!({"name": name}))
    }

    async fn act_on_group(
        &self,
        app: &str,
        name: &str,
        action: &str,
        body: &Value,
        now_unix_s: u64,
    ) -> Result<Value, Refused> {
        let (key, rollout_key) = (format!("groups/{app}/{name}"), format!("rollouts/{app}/{name}"));
        for _ in 0..ATTEMPTS {
            let found = self.store.read(&[Place::Key(key.clone()), Place::Key(rollout_key.clone())]).await?;
            let mut group: Group = found[0].one().ok_or_else(|| no_group(name))?.parse()?;
            let mut rollout: Rollout = found[1].one().map(Record::parse).transpose()?.unwrap_or_default();
            match action {
                "pause" => group.paused = true,
                "resume" => group.paused = false,
                "halt" => {
                    let reason = text(body, "reason")?.chars().take(256).collect();
                    let (version, machine) = (String::new(), String::new());
                    rollout.halt = Some(Halt { reason, version, machine, unix_s: now_unix_s });
                }
                "clear" => rollout.halt = None,
                _ => return Err(Refused::absent(format!("{action} is not pause, resume, halt or clear"))),
            }
            let mut change = Change::default();
            change.guard(&key, found[0].revision());
            change.guard(&rollout_key, found[1].revision());
            change.put(&key, &group);
            change.put(&rollout_key, &rollout);
            if self.store.commit(change).await? {
                return Ok(json!({"name": name}));
            }
        }
        Err(busy())
    }

    /// Forgets a machine, and lets others update in its place.
    async fn forget(&self, app: &str, machine: &str) -> Result<Value, Refused> {
        let key = format!("instances/{app}/{machine}");
        for _ in 0..ATTEMPTS {
            let found = self.store.get(&key).await?;
            let record = found.one().ok_or_else(|| no_instance(machine))?;
            let mut change = Change::default();
            change.guard(&key, record.revision);
            change.delete(&key);
            // Of all groups: it may have been in others before. A visit writes the
            // machine's record, so no grant comes unseen between these reads.
            let free = |record: &Record| {
                let mut rollout: Rollout = record.parse()?;
                if rollout.in_progress.remove(machine).is_some() {
                    change.guard(&record.key, record.revision);
                    change.put(&record.key, &rollout);
                }
                Ok(())
            };
            self.store.each(&format!("rollouts/{app}/"), free).await?;
            if self.store.commit(change).await? {
                return Ok(json!({"machine": machine}));
            }
        }
        Err(busy())
    }

    async fn forgive(&self, app: &str, version: &str) -> Result<Value, Refused> {
        let key = format!("failed/{app}/{version}");
        let found = self.store.get(&key).await?;
        let record =
            found.one().ok_or_else(|| Refused::absent(format!("version {version} has not failed")))?;
        let mut change = Change::default();
        change.guard(&key, record.revision);
        change.delete(&key);
        if self.store.commit(change).await? { Ok(json!({"version": version})) } else { Err(busy()) }
    }
}

/// A machine must never mean two groups by one name, and there is an end to groups.
fn check_group(name: &str, group: &Group, groups: &Found) -> Result<(), Refused> {
    let others = || groups.records.iter().filter(|record| record.name() != name);
    let is_new = others().count() == groups.records.len();
    if is_new && groups.count >= GROUPS_MAX {
        return Err(Refused::conflict(format!("there are {GROUPS_MAX} groups; remove one first")));
    }
    for record in others() {
        if let Some(taken) = group.name_taken_by(name, record.name(), &record.parse()?) {
            return Err(Refused::conflict(format!("{taken} is a name of group {}", record.name())));
        }
    }
    Ok(())
}

fn text<'a>(body: &'a Value, name: &str) -> Result<&'a str, Refused> {
    let text = body.get(name).and_then(Value::as_str);
    text.ok_or_else(|| Refused::bad(format!("the body has no {name}")))
}

fn no_release(version: &str) -> Refused {
    Refused::absent(format!("there is no release {version}; omahactl release list shows those there are"))
}

fn busy() -> Refused {
    Refused::conflict("somebody else is changing the same; try again")
}
