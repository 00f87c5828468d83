//! Answers machines: reads the records, lets the model decide, writes what it
//! decided, and only then answers.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Once},
};

use http::{HeaderMap, StatusCode, header};
use proa_update_model::{
    omaha::{AppRequest, AppResponse, CheckAnswer, OK, Request, Response, bare_id},
    rollout::{self, Group, Instance, Outcome, Records, Rollout, Target, Visit},
    version::is_same,
};

use crate::{
    config::Config,
    error::Refused,
    packages::Packages,
    release::Stored,
    store::{Change, Place, Record, Store},
};

/// Applications of one request; machines here send one.
const APPS_MAX: usize = 8;
/// How often a request is decided anew when others were faster. Each round one
/// of those who meet at a group wins, so 32 machines at once are served.
const ATTEMPTS: usize = 32;
/// Machines of one application. A stranger can make them up, so there is an
/// end; at 2 KB each before they are offered anything, they are 20 MB of the store.
const INSTANCES_MAX: i64 = 10_000;

const ERROR_INTERNAL: &str = "error-internal";

/// The part of omahad that machines talk to.
#[derive(Clone)]
pub struct Omaha {
    /// The records.
    pub store: Store,
    /// The payloads.
    pub packages: Packages,
    /// The settings.
    pub config: Arc<Config>,
}

/// Records with the revisions that they were read at.
struct Read {
    records: Records,
    instance_key: String,
    rollout_key: String,
    left_key: String,
    release: Option<Stored>,
    /// Who makes room for a new machine.
    forgotten: Option<Record>,
    guards: Vec<(String, i64)>,
}

/// Why an application is answered without asking the model; the words are
/// those of Nebraska, the server of CoreOS's heirs.
enum NoApp {
    Status(&'static str),
    Refused(Refused),
}

impl<E: Into<Refused>> From<E> for NoApp {
    fn from(error: E) -> Self {
        Self::Refused(error.into())
    }
}

impl Omaha {
    /// The document that answers a document.
    ///
    /// # Errors
    /// 400 for what is no request, 503 while the store does not answer.
    pub async fn answer(
        &self,
        document: &[u8],
        headers: &HeaderMap,
        peer: SocketAddr,
        now_unix_s: u64,
    ) -> Result<String, Refused> {
        let request = Request::parse(document).map_err(|error| Refused::bad(error.to_string()))?;
        if request.apps.len() > APPS_MAX {
            return Err(Refused::bad(format!("a request may have at most {APPS_MAX} applications")));
        }
        let base = self.base_url(headers)?;
        let address = peer.ip().to_string();
        let mut apps = Vec::new();
        for app in &request.apps {
            let visit = Visit { app, address: &address, now_unix_s };
            apps.push(self.answer_app(&visit, &base).await?);
        }
        let day_elapsed_s = (now_unix_s % 86_400) as u32;
        Ok(Response { server: "omahad".into(), day_elapsed_s, apps }.render())
    }

    /// How this machine reaches this server, with a slash at the end.
    fn base_url(&self, headers: &HeaderMap) -> Result<String, Refused> {
        if let Some(url) = &self.config.public_url {
            return Ok(format!("{url}/packages/"));
        }
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b".:-[]".contains(&byte);
        if host.is_empty() || host.len() > 255 || !host.bytes().all(is_good) {
            return Err(Refused::bad("the Host header is missing or is no host"));
        }
        let scheme = if self.config.identity.is_some() { "https" } else { "http" };
        Ok(format!("{scheme}://{host}/packages/"))
    }

    async fn answer_app(&self, visit: &Visit<'_>, base: &str) -> Result<AppResponse, Refused> {
        let app = visit.app;
        let mut response = AppResponse {
            app_id: app.app_id.clone(),
            status: OK.into(),
            ping: app.ping.is_some(),
            events: app.events.len(),
            update_check: None,
        };
        match self.decide(visit).await {
            Ok((outcome, read)) => {
                response.update_check = outcome.offer.map(|offer| self.check_answer(offer, &read, app, base));
            }
            Err(NoApp::Refused(refused)) => return Err(refused),
            Err(NoApp::Status(status)) => {
                response.status = status.into();
                response.update_check =
                    app.update_check.as_ref().map(|_| CheckAnswer::Error(ERROR_INTERNAL.into()));
            }
        }
        Ok(response)
    }

    fn check_answer(
        &self,
        offer: Result<(), rollout::Refusal>,
        read: &Read,
        app: &AppRequest,
        base: &str,
    ) -> CheckAnswer {
        let poll_interval_s = read.records.group.poll_interval_s;
        let no_update = |reason: String| CheckAnswer::NoUpdate { poll_interval_s, reason };
        if let Err(refusal) = offer {
            return no_update(refusal.to_string());
        }
        let release = read.release.as_ref();
        let chosen =
            release.and_then(|release| Some((release, self.choose(release, &app.version, app.delta_okay)?)));
        match chosen {
            Some((release, package)) => {
                let is_here = self.packages.has(&package.name, package.size_bytes);
                let here = is_here.then(|| base.to_owned());
                CheckAnswer::Update(Box::new(release.offer(package, here, poll_interval_s)))
            }
            // It was there a moment ago.
            None => no_update("the payload is gone".into()),
        }
    }

    fn choose<'a>(
        &self,
        release: &'a Stored,
        version: &str,
        delta_okay: bool,
    ) -> Option<&'a crate::release::Package> {
        release.choose(version, delta_okay, |package| {
            !package.codebases.is_empty() || self.packages.has(&package.name, package.size_bytes)
        })
    }

    /// Decides and writes, until nobody has written in between.
    async fn decide(&self, visit: &Visit<'_>) -> Result<(Outcome, Read), NoApp> {
        let machine = rollout::machine_key(&visit.app.machine_id)
            .ok_or(NoApp::Status("error-instanceRegistrationFailed"))?;
        for _ in 0..ATTEMPTS {
            let read = self.read(visit.app, &machine).await?;
            let outcome = rollout::visit(&read.records, visit, &machine);
            if self.store.commit(change(&read, &outcome, &bare_id(&visit.app.app_id))).await? {
                for failed in &outcome.failed {
                    tracing::warn!(
                        "version {} failed on {} of group {}: {}; it is offered to nobody any more",
                        failed.version,
                        failed.machine,
                        failed.group,
                        failed.reason
                    );
                }
                return Ok((outcome, read));
            }
        }
        let text = "too many machines are asking at once; ask again";
        Err(NoApp::Refused(Refused::new(StatusCode::SERVICE_UNAVAILABLE, text)))
    }

    async fn read(&self, app: &AppRequest, machine: &str) -> Result<Read, NoApp> {
        let id = rollout::machine_key(&bare_id(&app.app_id)).ok_or(NoApp::Status("error-invalidAppId"))?;
        let instance_key = format!("instances/{id}/{machine}");
        let found = self
            .store
            .read(&[
                Place::Under(format!("groups/{id}/")),
                Place::Under(format!("channels/{id}/")),
                Place::Under(format!("failed/{id}/")),
                Place::KeysUnder(format!("releases/{id}/")),
                Place::Key(instance_key.clone()),
                Place::CountUnder(format!("instances/{id}/")),
            ])
            .await?;
        let [groups, channels, failed, releases, instance, instances] = found.as_slice() else {
            return Err(NoApp::Status(ERROR_INTERNAL));
        };
        if groups.records.is_empty() {
            return Err(NoApp::Status("error-unknownApplication"));
        }
        let mut by_name: BTreeMap<String, Group> = BTreeMap::new();
        for record in &groups.records {
            by_name.insert(record.name().to_owned(), record.parse()?);
        }
        let group_name = rollout::find_group(&by_name, &app.track).map(str::to_owned);
        let group_name = group_name.ok_or(NoApp::Status("error-unknownApplicationOrGroup"))?;
        let is_full = instance.records.is_empty() && instances.count >= INSTANCES_MAX;
        let forgotten = if is_full { Some(self.make_room(&id).await?) } else { None };
        let group = by_name.remove(&group_name).unwrap_or_default();
        let group_key = format!("groups/{id}/{group_name}");
        let group_record = groups.records.iter().find(|record| record.key == group_key);
        let mut guards = vec![
            (group_key.clone(), group_record.map_or(0, |record| record.revision)),
            (instance_key.clone(), instance.revision()),
        ];
        guards.extend(forgotten.iter().map(|old| (old.key.clone(), old.revision)));

        let channel_key = format!("channels/{id}/{}", group.channel);
        let channel = channels.records.iter().find(|record| record.key == channel_key);
        guards.push((channel_key, channel.map_or(0, |record| record.revision)));
        let named: Option<String> = channel.map(Record::parse).transpose()?;
        let rollout_key = format!("rollouts/{id}/{group_name}");
        let release_key = format!("releases/{id}/{}", named.as_deref().unwrap_or("-"));
        let instance: Option<Instance> = instance.one().map(Record::parse).transpose()?;
        let old_group = instance.as_ref().map_or(&group_name, |instance| &instance.group);
        let left_key = format!("rollouts/{id}/{old_group}");
        let second = [&rollout_key, &release_key, &left_key].map(|key| Place::Key(key.clone()));
        let second = self.store.read(&second).await?;
        let [rollout, release, left] = second.as_slice() else { return Err(NoApp::Status(ERROR_INTERNAL)) };
        guards.push((rollout_key.clone(), rollout.revision()));
        let left = left.one().filter(|_| left_key != rollout_key);
        if let Some(left) = left {
            guards.push((left_key.clone(), left.revision));
        }
        guards.push((release_key, release.revision()));
        let release: Option<Stored> = release.one().map(Record::parse).transpose()?;
        let target = release.as_ref().map(|release| Target {
            version: release.version.clone(),
            minimum: release.minimum.clone(),
            is_missing: self.choose(release, &app.version, app.delta_okay).is_none(),
        });
        let mut known = BTreeMap::new();
        for record in &failed.records {
            known.insert(record.name().to_owned(), record.parse()?);
        }
        // A failure that is reported elsewhere meanwhile counts already,
        // under whichever name of the version.
        for release in &releases.records {
            if target.as_ref().is_some_and(|target| is_same(release.name(), &target.version)) {
                let name = release.name();
                let at = failed.records.iter().find(|record| record.name() == name);
                guards.push((format!("failed/{id}/{name}"), at.map_or(0, |record| record.revision)));
            }
        }
        let records = Records {
            group_name,
            group,
            rollout: rollout.one().map(Record::parse).transpose()?.unwrap_or_else(Rollout::default),
            left: left.map(Record::parse).transpose()?,
            instance,
            target,
            failed: known,
            releases: releases.records.iter().map(|record| record.name().to_owned()).collect(),
        };
        Ok(Read { records, instance_key, rollout_key, left_key, release, forgotten, guards })
    }

    /// The record that a new machine's takes the place of.
    async fn make_room(&self, id: &str) -> Result<Record, NoApp> {
        static TOLD: Once = Once::new();
        TOLD.call_once(|| {
            tracing::warn!(
                "{INSTANCES_MAX} machines of {id} are known: each new one takes the place of the one unseen for longest"
            );
        });
        let mut rollouts = Vec::new();
        let take = |record: &Record| {
            rollouts.push(record.parse()?);
            Ok(())
        };
        self.store.each(&format!("rollouts/{id}/"), take).await?;
        let found = self.store.read(&[Place::OldestUnder(format!("instances/{id}/"))]).await?;
        let mut oldest = found.into_iter().flat_map(|found| found.records).collect::<Vec<_>>();
        let names: Vec<&str> = oldest.iter().map(Record::name).collect();
        let chosen = rollout::choose_forgotten(&names, &rollouts);
        let at = chosen.and_then(|chosen| names.iter().position(|name| *name == chosen));
        Ok(oldest.swap_remove(at.ok_or(NoApp::Status("error-instanceRegistrationFailed"))?))
    }
}

fn change(read: &Read, outcome: &Outcome, app: &str) -> Change {
    let mut change = Change::default();
    for (key, revision) in &read.guards {
        change.guard(key.clone(), *revision);
    }
    if let Some(old) = &read.forgotten {
        change.delete(&old.key);
    }
    change.put(read.instance_key.clone(), &outcome.instance);
    if outcome.rollout != read.records.rollout {
        change.put(read.rollout_key.clone(), &outcome.rollout);
    }
    if let Some(left) = outcome.left.as_ref().filter(|_| outcome.left != read.records.left) {
        change.put(read.left_key.clone(), left);
    }
    for failed in &outcome.failed {
        change.put(format!("failed/{app}/{}", failed.version), failed);
    }
    change
}
