//! One updater: finds out where it is, shows that its boot is good, and then asks
//! and installs, for ever.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use proa_update_disk::Disk;
use proa_update_model::{
    boot_record::BootRecord,
    engine::{self, Effect, Event, State, Target, Trouble},
    error_code::ErrorCode,
    kept::{Installed, KEPT_BYTES_MAX, Kept, Transfer},
    omaha::{self, EventResult, EventType},
    payload::{Checkpoint, Reader, rsa::PublicKey},
    poll,
    slots::{NIBBLE_MAX, SlotFlags, order},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    time::Instant,
};

use crate::{
    bus::{self, Command, Status},
    download::{self, Progress},
    error::{Error, file},
    http::Http,
    install::{self, Matched, Sealed, Slot},
    medium::DiskFile,
    offer::{Answer, Asker, Offer},
    settings::Config,
    state,
    store::Store,
};

/// Wishes that wait. One is enough for each kind.
const COMMANDS_MAX: usize = 4;
/// Before a transfer that was cut off goes on after a start.
const RESUME_AFTER: Duration = Duration::from_millis(200);
/// Between two tries to tell the store and the server what they do not know yet.
const TELL_EVERY: Duration = Duration::from_secs(20);
/// Most bytes of a boot record.
const RECORD_BYTES_MAX: usize = 64 << 10;
/// Most bytes of a payload key.
const KEY_BYTES_MAX: usize = 64 << 10;

/// Runs the updater until SIGTERM or SIGINT. It may end anywhere.
///
/// # Errors
/// [`Error`] when there is nothing to work on.
pub async fn run(config: Config) -> Result<(), Error> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (status_sent, status) = watch::channel(Status::default());
    let (sender, commands) = mpsc::channel(COMMANDS_MAX);
    let socket = config.bus.clone();
    let mut updater = Updater::open(config, status_sent)?;
    if let Some(socket) = socket {
        tokio::spawn(bus::serve(socket, status, sender.clone()));
    }
    // Whoever started this may not listen; that changes nothing.
    let _ = proa_base::notify::notify("READY=1");
    tokio::select! {
        ended = updater.work(commands) => ended,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

/// Everything an update needs.
pub struct Updater {
    pub(crate) config: Config,
    pub(crate) record: BootRecord,
    pub(crate) boot_id: String,
    pub(crate) disk: Disk,
    pub(crate) medium: DiskFile,
    pub(crate) kept: Kept,
    pub(crate) store: Store,
    http: Http,
    pub(crate) status: watch::Sender<Status>,
    by_person: bool,
    poll_after: Option<Duration>,
    failures: u32,
    /// What the effects hand on to each other.
    offer: Option<Offer>,
    reader: Option<Reader>,
    matched: Option<Matched>,
    sealed: Option<Sealed>,
}

impl Updater {
    fn open(config: Config, status: watch::Sender<Status>) -> Result<Self, Error> {
        let record = read_record(&config)?;
        let path = PathBuf::from(&record.disk);
        let disk = Disk::open_known(&path, std::path::Path::new("/sys/class/block"))?;
        let medium = DiskFile::open(&path).map_err(file("open", &path))?;
        let store = Store::new(&config.endpoints, &config.machine_id)
            .map_err(|error| Error::Content { path: "update.endpoints".into(), wrong: error.to_string() })?;
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let kept = read_kept(&config)?;
        let http = Http::new(config.ca_file.as_deref(), config.stall_after);
        Ok(Self {
            config,
            record,
            boot_id: boot_id.trim().to_owned(),
            disk,
            medium,
            kept,
            store,
            http,
            status,
            by_person: false,
            poll_after: None,
            failures: 0,
            offer: None,
            reader: None,
            matched: None,
            sealed: None,
        })
    }

    /// Keeps what has to be kept.
    pub(crate) fn keep(&self) -> Result<(), Error> {
        keep(&self.config, &self.kept)
    }

    /// The slots, and which of them runs.
    pub(crate) fn slots(&self) -> Result<(Vec<Slot>, usize), Error> {
        let slots = install::slots(&self.disk)?;
        let running = slots.iter().position(|slot| slot.number == self.record.slot);
        let running = running.ok_or_else(|| Error::Content {
            path: self.config.boot_record.clone(),
            wrong: format!("{} has no slot with the number {}", self.record.disk, self.record.slot),
        })?;
        Ok((slots, running))
    }

    async fn work(&mut self, mut commands: mpsc::Receiver<Command>) -> Result<(), Error> {
        if self.kept.aleph_version.is_empty() {
            self.kept.aleph_version.clone_from(&self.record.version);
        }
        self.kept.name(&self.record.root_hash, &self.record.version);
        self.show(&State::Idle);
        let (mut state, mut due) = self.start().await?;
        self.show(&state);
        let mut tell = Instant::now() + TELL_EVERY;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(due) => {
                    state = self.drive(state).await;
                    due = Instant::now() + self.next_wait();
                }
                () = tokio::time::sleep_until(tell) => {
                    self.tell_what_is_unknown().await;
                    tell = Instant::now() + TELL_EVERY;
                }
                Some(command) = commands.recv() => match command {
                    Command::Attempt => {
                        self.by_person = true;
                        state = self.drive(state).await;
                        due = Instant::now() + self.next_wait();
                    }
                    Command::Reset(answer) => {
                        let done = self.withdraw().map_err(|error| proa_base::cli::chain(&error));
                        if done.is_ok() {
                            state = State::Idle;
                        }
                        // Who asked may have gone.
                        let _ = answer.send(done);
                    }
                    Command::Rollback(answer) => {
                        let done = self.roll_back();
                        let done = done.map(|target| state = State::NeedReboot(target));
                        let _ = answer.send(done.map_err(|error| proa_base::cli::chain(&error)));
                    }
                },
            }
            self.show(&state);
        }
    }

    /// When the server is asked first, and what the boot was before.
    async fn start(&mut self) -> Result<(State, Instant), Error> {
        let (slots, running) = self.slots()?;
        let flags: Vec<(u32, SlotFlags)> = slots.iter().map(|slot| (slot.number, slot.flags)).collect();
        let found = engine::Found {
            kept: &self.kept,
            slots: &flags,
            running,
            root_hash: Some(self.record.root_hash),
            boot_id: &self.boot_id,
        };
        let start = engine::derive(&found);
        tracing::info!(
            "version {} runs in slot {}: {}",
            self.record.version,
            self.record.letter,
            word(&start)
        );
        let mut wait = poll::first(self.config.poll_interval, random());
        let mut state = State::Idle;
        match start {
            engine::Start::Idle => {}
            engine::Start::Resume => {
                self.kept.installed = None;
                wait = RESUME_AFTER;
            }
            engine::Start::Prove(installed) => {
                self.prove().await?;
                self.came_up(installed);
            }
            engine::Start::CameUp(installed) => self.came_up(Some(installed)),
            engine::Start::NeedReboot(installed) => {
                state = State::NeedReboot(target_of(&installed));
            }
            engine::Start::FellBack(installed) => self.fell_back(&installed)?,
            engine::Start::SetAside(_) => self.kept.installed = None,
        }
        self.keep()?;
        self.tell_what_is_unknown().await;
        Ok((state, Instant::now() + wait))
    }

    /// What was installed runs and is good.
    fn came_up(&mut self, installed: Option<Installed>) {
        self.kept.transfer = None;
        self.kept.installed = None;
        let Some(installed) = installed else { return };
        self.kept.report(&omaha::Event {
            kind: EventType::UPDATE_COMPLETE,
            result: EventResult::SUCCESS_REBOOT,
            previous_version: installed.from_version,
            ..omaha::Event::default()
        });
    }

    fn next_wait(&mut self) -> Duration {
        let interval = self.config.poll_interval;
        match self.failures {
            0 => poll::next(interval, self.poll_after.take(), random()),
            failures => poll::after_failure(interval, failures, random()),
        }
    }

    /// Takes the state machine from `state` through one check to rest.
    async fn drive(&mut self, state: State) -> State {
        let mut state = state;
        let mut event = Event::CheckDue;
        loop {
            let (next, effects) = match state.step(event) {
                Ok(step) => step,
                Err(error) => panic!("{error}: a mistake of ours; a start begins anew"),
            };
            state = next;
            self.show(&state);
            let Some(effect) = effects.into_iter().next() else { return state };
            event = match self.perform(&effect, &state).await {
                Ok(event) => event,
                Err(error) => Event::Failed(error.trouble()),
            };
            if let Event::Failed(trouble) = &event {
                tracing::warn!("{}", trouble.reason);
                self.failures = self.failures.saturating_add(1);
            }
        }
    }

    async fn perform(&mut self, effect: &Effect, state: &State) -> Result<Event, Error> {
        match effect {
            Effect::AskServer => self.ask_server().await,
            Effect::Retire => self.retire(),
            Effect::Download => self.download().await,
            Effect::ReadBack => self.read_back().await,
            Effect::Seal => {
                let slot = self.passive()?;
                let matched = self.matched.take().expect("it was read back");
                self.sealed = Some(install::seal(&mut self.medium, &slot, &matched)?);
                Ok(Event::Sealed)
            }
            Effect::Activate => self.activate(state).await,
            Effect::Withdraw => self.withdraw().map(|()| Event::Withdrawn),
            Effect::Report(trouble) => {
                self.report_trouble(trouble).await;
                Ok(Event::Reported)
            }
        }
    }

    fn asker(&self) -> Asker<'_> {
        let Self { config, record, boot_id, kept, .. } = self;
        Asker { config, record, boot_id, aleph_version: &kept.aleph_version }
    }

    fn passive(&self) -> Result<Slot, Error> {
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

    fn retire(&mut self) -> Result<Event, Error> {
        let slot = self.passive()?;
        let offer = self.offer.as_ref().expect("it was offered");
        let checkpoint = download::checkpoint(&self.kept, offer, slot.number);
        install::retire(&mut self.medium, &self.disk, slot.number)?;
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
            medium: &mut self.medium,
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
        self.reader = Some(done?);
        self.say(EventType::DOWNLOAD_FINISHED, &offer).await;
        Ok(Event::Written)
    }

    async fn read_back(&mut self) -> Result<Event, Error> {
        let slot = self.passive()?;
        let reader = self.reader.take().expect("it was written");
        let manifest = reader.manifest().expect("a whole payload has a manifest");
        let (blocks, salt, want) = (manifest.data_blocks, manifest.salt, manifest.root_hash);
        drop(reader);
        match install::read_back(&mut self.medium, &slot, blocks, &salt, want).await {
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
        let slot = self.passive()?;
        let target = state.target().expect("something is being installed");
        let sealed = self.sealed.take().expect("it was sealed");
        let mut installed = Installed {
            version: target.version.clone(),
            root_hash: target.root_hash,
            slot: slot.number,
            from_version: self.record.version.clone(),
            boot_id: self.boot_id.clone(),
            is_active: false,
        };
        // First who it is, then the flags: a boot must never meet an unknown slot.
        self.kept.installed = Some(installed.clone());
        self.kept.name(&target.root_hash, &target.version);
        self.keep()?;
        install::activate(&mut self.medium, &self.disk, slot.number, &sealed)?;
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

    /// Makes what was staged unbootable again.
    fn withdraw(&mut self) -> Result<(), Error> {
        let (slots, running) = self.slots()?;
        let staged = self.kept.installed.as_ref().map(|installed| installed.slot);
        if let Some(slot) =
            slots.iter().find(|slot| Some(slot.number) == staged && slot.number != slots[running].number)
        {
            install::retire(&mut self.medium, &self.disk, slot.number)?;
        }
        self.kept.installed = None;
        self.kept.transfer = None;
        self.keep()
    }

    /// Lets the other slot boot next, if it has shown once that it is good. What
    /// runs is not installed again by itself.
    fn roll_back(&mut self) -> Result<Target, Error> {
        let refuse = |text: &str| Error::Policy { code: ErrorCode::IgnoredPolicy, text: text.to_owned() };
        let (slots, running) = self.slots()?;
        let other =
            slots.iter().enumerate().find(|(index, slot)| *index != running && slot.flags.successful());
        let Some((other, slot)) = other.map(|(index, slot)| (index, *slot)) else {
            return Err(refuse("the other slot holds no system that was found good"));
        };
        let flags: Vec<SlotFlags> = slots.iter().map(|slot| slot.flags).collect();
        let mut staged = proa_update_model::slots::stage(&flags, other, 1);
        staged[other] = staged[other].mark_good();
        debug_assert!(staged[other].priority() <= NIBBLE_MAX && order(&staged)[0].index == other);
        let changes: Vec<(u32, SlotFlags)> =
            slots.iter().zip(&staged).map(|(slot, flags)| (slot.number, *flags)).collect();
        let file = std::fs::File::open(self.disk.path()).map_err(file("open", self.disk.path()))?;
        let there = proa_update_disk::seal::superblock(&file, slot.start)
            .map_err(|error| refuse(&error.to_string()))?;
        install::write_flags(&mut self.medium, &self.disk, &changes)?;
        self.remember_failure("a person rolled back from it", false);
        let version = self.kept.versions.get(&there.root_hash.to_string()).cloned().unwrap_or_default();
        self.kept.installed = None;
        self.keep()?;
        Ok(Target { version, root_hash: there.root_hash, size_bytes: 0 })
    }

    fn remember_failure(&mut self, reason: &str, is_to_store: bool) {
        self.kept.failures.remember(proa_update_model::failure::Failure {
            version: self.record.version.clone(),
            root_hash: self.record.root_hash,
            reason: reason.to_owned(),
            unix_s: now_unix_s(),
            is_to_store,
        });
    }

    /// Tells the server of a step; one that is not heard of is no reason to stop.
    async fn say(&mut self, kind: EventType, offer: &Offer) {
        self.kept.report(&omaha::Event {
            kind,
            result: EventResult::SUCCESS,
            next_version: offer.version.clone(),
            ..omaha::Event::default()
        });
        self.tell_server().await;
    }

    async fn report_trouble(&mut self, trouble: &Trouble) {
        let is_of_the_server = matches!(trouble.code, ErrorCode::Http | ErrorCode::HttpStatus(_));
        let version = self.offer.take().map(|offer| offer.version).unwrap_or_default();
        if !is_of_the_server || !version.is_empty() {
            self.kept.report(&omaha::Event {
                kind: EventType::UPDATE_COMPLETE,
                result: EventResult::ERROR,
                error_code: Some(trouble.code.number()),
                next_version: version,
                reason: trouble.reason.clone(),
                ..omaha::Event::default()
            });
            self.tell_server().await;
        }
    }

    async fn tell_server(&mut self) {
        if self.config.server.is_none() || self.kept.reports.is_empty() {
            return;
        }
        let reports: Vec<omaha::Event> = self.kept.reports.iter().map(Into::into).collect();
        let mut http = self.http.clone();
        match self.asker().tell(&mut http, reports).await {
            Ok(()) => self.kept.reports.clear(),
            Err(error) => tracing::debug!("{}", proa_base::cli::chain(&error)),
        }
        self.http = http;
        if let Err(error) = self.keep() {
            tracing::warn!("{}", proa_base::cli::chain(&error));
        }
    }

    /// Tells store and server what they do not know yet.
    async fn tell_what_is_unknown(&mut self) {
        let unknown: Vec<_> =
            self.kept.failures.iter().filter(|failure| failure.is_to_store).cloned().collect();
        for failure in unknown {
            match self.store.tell(&failure).await {
                Ok(()) => self.kept.failures.told_store(&failure.root_hash),
                Err(error) => tracing::debug!("the store is not told yet: {error}"),
            }
        }
        self.tell_server().await;
    }

    pub(crate) fn show(&self, state: &State) {
        let target = state.target();
        let last_failure =
            self.kept.failures.last().map(|failure| self.failure_json(failure)).unwrap_or_default();
        self.status.send_if_modified(|status| {
            let new = Status {
                last_checked_unix_s: self.kept.last_checked_unix_s,
                progress: match state {
                    State::Downloading(_) => status.progress,
                    State::Verifying(_) | State::Finalizing(_) | State::NeedReboot(_) => 1.0,
                    _ => 0.0,
                },
                operation: state.name().to_owned(),
                version: target.map(|target| target.version.clone()).unwrap_or_default(),
                size_bytes: target.map_or(0, |target| target.size_bytes as i64),
                last_failure,
            };
            let differs = *status != new;
            *status = new;
            differs
        });
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

fn word(start: &engine::Start) -> &'static str {
    match start {
        engine::Start::Idle => "nothing to do",
        engine::Start::Resume => "a transfer was cut off",
        engine::Start::Prove(_) => "it has to show that it is good",
        engine::Start::CameUp(_) => "an update came up",
        engine::Start::NeedReboot(_) => "an update waits for the next boot",
        engine::Start::FellBack(_) => "an update failed to boot",
        engine::Start::SetAside(_) => "an update was set aside",
    }
}

fn target_of(installed: &Installed) -> Target {
    Target { version: installed.version.clone(), root_hash: installed.root_hash, size_bytes: 0 }
}

fn target_of_offer(offer: &Offer) -> Target {
    let Offer { version, expected, .. } = offer;
    Target { version: version.clone(), root_hash: expected.root_hash, size_bytes: expected.size_bytes }
}

fn keep(config: &Config, kept: &Kept) -> Result<(), Error> {
    let path = config.state_folder.join("state.json");
    state::replace(&path, &kept.render()).map_err(file("write", path))
}

fn read_kept(config: &Config) -> Result<Kept, Error> {
    let path = config.state_folder.join("state.json");
    let bytes = state::read(&path, KEPT_BYTES_MAX).map_err(file("read", &path))?;
    Ok(bytes.map_or_else(Kept::default, |bytes| {
        Kept::parse(&bytes).unwrap_or_else(|error| {
            tracing::warn!("{}: {error}; begins anew", path.display());
            Kept::default()
        })
    }))
}

fn read_record(config: &Config) -> Result<BootRecord, Error> {
    let path = &config.boot_record;
    let content = |wrong: String| Error::Content { path: path.clone(), wrong };
    let bytes = state::read(path, RECORD_BYTES_MAX).map_err(file("read", path))?;
    let bytes = bytes.ok_or_else(|| content("this system was not started from a slot".to_owned()))?;
    serde_json::from_slice(&bytes).map_err(|error| content(error.to_string()))
}

fn read_key(config: &Config) -> Result<PublicKey, Error> {
    let path = &config.payload_key;
    let content = |wrong: String| Error::Content { path: path.clone(), wrong };
    let bytes = state::read(path, KEY_BYTES_MAX).map_err(file("read", path))?;
    let bytes = bytes.ok_or_else(|| content("there is no payload key".to_owned()))?;
    PublicKey::from_pem(&String::from_utf8_lossy(&bytes)).map_err(|error| content(error.to_string()))
}

pub(crate) fn now_unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    // Without randomness machines ask at the same time, which they survive.
    let _ = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes);
    u64::from_le_bytes(bytes)
}
