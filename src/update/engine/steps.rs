//! The steps of an update: what the state machine's effects are.

use std::time::Duration;

use proa_update_model::{
    engine::{self, Effect, Event, State, Target},
    error_code::ErrorCode,
    kept::{Installed, Kept, Transfer},
    omaha::{self, EventType},
    payload::{Checkpoint, rsa::PublicKey},
    slots::SlotFlags,
};
use tokio::sync::watch;

use crate::{
    bus::Status,
    daemon::{Updater, keep, now_unix_s},
    download::{self, Progress},
    error::{Error, file},
    install::{self, Slot},
    offer::{Answer, Asker, Offer},
    settings::Config,
    state,
};

/// Most bytes of a payload key.
const KEY_BYTES_MAX: usize = 64 << 10;

impl Updater {
    pub(crate) async fn perform(&mut self, effect: &Effect, state: &State) -> Result<Event, Error> {
        match effect {
            Effect::AskServer => self.ask_server().await,
            Effect::Retire => self.retire(),
            Effect::Download => self.download().await,
            Effect::ReadBack => self.read_back().await,
            Effect::Seal => {
                let slot = self.passive()?;
                let matched = self.matched.take().expect("it was read back");
                self.sealed = Some(install::seal(&*self.medium, &slot, &matched)?);
                Ok(Event::Sealed)
            }
            Effect::Activate => self.activate(state).await,
            Effect::Withdraw => self.withdraw().map(|()| Event::Withdrawn),
            Effect::Reconsider => Ok(self.reconsider().await),
            Effect::Report(trouble) => {
                self.report_trouble(trouble).await;
                Ok(Event::Reported)
            }
        }
    }

    pub(crate) fn asker(&self) -> Asker<'_> {
        let Self { config, record, boot_id, kept, whole_only, .. } = self;
        Asker { config, record, boot_id, aleph_version: &kept.aleph_version, whole_only: *whole_only }
    }

    /// Whether the whole system may do where this error says that a difference does
    /// not: it is to another system, or what it made of the running slot is not what
    /// was signed. From then on no difference is asked for, so this is said once.
    pub(crate) fn gives_differences_up(&mut self, error: &Error) -> bool {
        let is_of_a_difference = match error {
            Error::OtherSystem => true,
            Error::Apply { .. } | Error::ReadBack { .. } => {
                self.offer.as_ref().is_some_and(|offer| offer.is_difference)
            }
            _ => false,
        };
        if !is_of_a_difference || self.whole_only {
            return false;
        }
        let why = proa_base::cli::chain(error);
        tracing::warn!("the difference does not fit what runs here; asks for the whole system: {why}");
        self.whole_only = true;
        true
    }

    pub(crate) fn passive(&self) -> Result<Slot, Error> {
        let (slots, running) = self.slots()?;
        let flags: Vec<SlotFlags> = slots.iter().map(|slot| slot.flags).collect();
        Ok(slots[engine::passive(&flags, running)?])
    }

    async fn ask_server(&mut self) -> Result<Event, Error> {
        let passive = self.passive()?;
        let reports: Vec<omaha::Event> = self.kept.reports.iter().map(Into::into).collect();
        let by_person = std::mem::take(&mut self.by_person);
        let mut http = self.http.clone();
        let answer = self.asker().ask(&mut http, reports, by_person).await;
        self.http = http;
        let answer = answer?;
        self.kept.reports.clear();
        self.kept.last_checked_unix_s = now_unix_s() as i64;
        let update = match answer {
            Answer::Nothing { poll_after } => {
                (self.failures, self.poll_after) = (0, poll_after);
                self.keep()?;
                return Ok(Event::NoUpdate);
            }
            Answer::Something(update) => update,
        };
        self.poll_after = update.poll_interval_s.map(|seconds| Duration::from_secs(seconds.into()));
        let mut kept = self.kept.clone();
        let source_bytes = self.running_data_bytes();
        let checked = self.asker().check(&update, &mut kept, source_bytes);
        self.kept = kept;
        // What was a key once must not count again, whatever becomes of the offer.
        self.keep()?;
        let offer = checked?;
        self.refuse_failed(&offer).await?;
        if offer.expected.slot_bytes > passive.bytes {
            let text = format!(
                "the release needs {} bytes and the slot has {}",
                offer.expected.slot_bytes, passive.bytes
            );
            return Err(Error::Policy { code: ErrorCode::IgnoredPolicy, text });
        }
        let target = target_of_offer(&offer);
        tracing::info!("version {} is offered, {} bytes", offer.version, offer.expected.size_bytes);
        self.offer = Some(offer);
        Ok(Event::Offered(target))
    }

    /// Bytes of the running system's data area, which differences are to.
    fn running_data_bytes(&self) -> u64 {
        let start = self.slots().map(|(slots, running)| slots[running].start);
        let open = || std::fs::File::open(self.disk.path());
        match (start, open()) {
            (Ok(start), Ok(file)) => {
                proa_update_disk::seal::superblock(&file, start).map_or(0, |superblock| superblock.offset())
            }
            _ => 0,
        }
    }

    async fn refuse_failed(&self, offer: &Offer) -> Result<(), Error> {
        let root_hash = &offer.expected.root_hash;
        let here =
            self.kept.failures.of(root_hash).map(|failure| format!("it failed here: {}", failure.reason));
        let known = match here {
            Some(here) => Some(here),
            // A store that does not answer stops no download: it is asked again
            // before the reboot.
            None => self.store.failure_of(root_hash).await.unwrap_or_default(),
        };
        let refuse = |why: String| Error::Policy {
            code: ErrorCode::IgnoredPolicy,
            text: format!("version {} is not installed again: {why}", offer.version),
        };
        known.map_or(Ok(()), |why| Err(refuse(why)))
    }

    /// Whether what was staged has failed on another machine since.
    async fn reconsider(&self) -> Event {
        // To go back is a person's decision; nothing was installed for it.
        let Some(installed) = &self.kept.installed else { return Event::Sound };
        // A store that does not answer condemns nothing. It is asked again, and before
        // the reboot by locksmithd.
        match self.store.failure_of(&installed.root_hash).await.unwrap_or_default() {
            None => Event::Sound,
            Some(why) => {
                tracing::warn!("version {} does not boot next any more: {why}", installed.version);
                Event::Condemned
            }
        }
    }

    fn retire(&mut self) -> Result<Event, Error> {
        let slot = self.passive()?;
        let offer = self.offer.as_ref().expect("it was offered");
        let checkpoint = download::checkpoint(&self.kept, offer, slot.number);
        install::retire(&*self.medium, &self.disk, slot.number)?;
        self.kept.installed = None;
        self.kept.transfer = Some(Transfer {
            version: offer.version.clone(),
            root_hash: offer.expected.root_hash,
            payload_sha256: offer.expected.sha256,
            slot: slot.number,
            checkpoint,
        });
        self.keep()?;
        Ok(Event::Retired)
    }

    async fn download(&mut self) -> Result<Event, Error> {
        let key = read_key(&self.config)?;
        let (slots, running) = self.slots()?;
        let slot = self.passive()?;
        let offer = self.offer.clone().expect("it was offered");
        let checkpoint = self.kept.transfer.as_ref().and_then(|transfer| transfer.checkpoint.clone());
        self.say(EventType::DOWNLOAD_STARTED, &offer).await;
        let mut keeper =
            Keeper { config: &self.config, kept: &mut self.kept, status: &self.status, offer: &offer };
        let mut transfer = download::Transfer {
            offer: &offer,
            medium: &self.medium,
            slot,
            running: slots[running],
            http: &mut self.http,
        };
        let done = transfer.run(key, checkpoint, &mut keeper).await;
        if done.as_ref().is_err_and(|error| !error.is_of_the_transfer()) {
            // What is wrong with it will be so again.
            self.kept.transfer = None;
            self.keep()?;
        }
        self.pipeline = Some(done?);
        self.say(EventType::DOWNLOAD_FINISHED, &offer).await;
        Ok(Event::Written)
    }

    async fn read_back(&mut self) -> Result<Event, Error> {
        let pipeline = self.pipeline.take().expect("it was handed everything");
        match pipeline.finish().await {
            Ok(matched) => {
                self.matched = Some(matched);
                Ok(Event::DataMatched)
            }
            Err(error) => {
                // Neither the data nor the checkpoint is worth anything.
                self.kept.transfer = None;
                self.keep()?;
                Err(error)
            }
        }
    }

    async fn activate(&mut self, state: &State) -> Result<Event, Error> {
        let target = state.target().expect("something is being installed");
        let sealed = self.sealed.take().expect("it was sealed");
        let mut installed = Installed {
            version: target.version.clone(),
            root_hash: target.root_hash,
            slot: sealed.slot(),
            from_version: self.record.version.clone(),
            boot_id: self.boot_id.clone(),
            is_active: false,
        };
        // First who it is, then the flags: a boot must never meet an unknown slot.
        self.kept.installed = Some(installed.clone());
        self.kept.name(&target.root_hash, &target.version);
        self.keep()?;
        install::activate(&*self.medium, &self.disk, &sealed)?;
        installed.is_active = true;
        self.kept.installed = Some(installed);
        self.kept.transfer = None;
        self.failures = 0;
        self.keep()?;
        tracing::info!("version {} boots next", target.version);
        if let Some(offer) = self.offer.take() {
            self.say(EventType::UPDATE_COMPLETE, &offer).await;
        }
        Ok(Event::Activated)
    }
}

/// Keeps a transfer's place while the updater's parts are lent to it.
struct Keeper<'a> {
    config: &'a Config,
    kept: &'a mut Kept,
    status: &'a watch::Sender<Status>,
    offer: &'a Offer,
}

impl Progress for Keeper<'_> {
    fn at(&mut self, offset: u64) {
        let progress = offset as f64 / self.offer.expected.size_bytes.max(1) as f64;
        self.status.send_if_modified(|status| {
            // A person sees no smaller steps.
            let differs = progress - status.progress >= 0.01 || progress < status.progress;
            if differs {
                status.progress = progress;
            }
            differs
        });
    }

    fn keep(&mut self, checkpoint: Checkpoint) -> Result<(), Error> {
        if let Some(transfer) = &mut self.kept.transfer {
            transfer.checkpoint = Some(checkpoint);
        }
        keep(self.config, self.kept)
    }
}

fn target_of_offer(offer: &Offer) -> Target {
    let Offer { version, expected, .. } = offer;
    Target { version: version.clone(), root_hash: expected.root_hash, size_bytes: expected.size_bytes }
}

fn read_key(config: &Config) -> Result<PublicKey, Error> {
    let path = &config.payload_key;
    let content = |wrong: String| Error::Content { path: path.clone(), wrong };
    let bytes = state::read(path, KEY_BYTES_MAX).map_err(file("read", path))?;
    let bytes = bytes.ok_or_else(|| content("there is no payload key".to_owned()))?;
    PublicKey::from_pem(&String::from_utf8_lossy(&bytes)).map_err(|error| content(error.to_string()))
}
