//! One updater: finds out where it is, shows that its boot is good, and then asks
//! and installs, for ever.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use proa_update_disk::Disk;
use proa_update_model::{
    boot_record::BootRecord,
    engine::{self, Event, State, Target},
    kept::{Installed, KEPT_BYTES_MAX, Kept, Rollback},
    omaha::{self, EventResult, EventType},
    poll,
    slots::SlotFlags,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    time::Instant,
};

use crate::{
    bus::{self, Command, Status},
    error::{Error, file},
    http::Http,
    install::{self, Matched, Sealed, Slot},
    medium::DiskFile,
    offer::Offer,
    pipeline::Pipeline,
    settings::Config,
    state,
    store::Store,
};

/// Wishes that wait. One is enough for each kind.
const COMMANDS_MAX: usize = 4;
/// Before a transfer that was cut off goes on after a start.
const RESUME_AFTER: Duration = Duration::from_millis(200);
/// Between two tries to tell the store and the server what they do not know yet, and
/// two looks whether a release that waits has failed elsewhere.
const TELL_EVERY: Duration = Duration::from_secs(20);
/// Most bytes of a boot record.
const RECORD_BYTES_MAX: usize = 64 << 10;

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
    pub(crate) medium: Arc<DiskFile>,
    pub(crate) kept: Kept,
    pub(crate) store: Store,
    pub(crate) http: Http,
    pub(crate) status: watch::Sender<Status>,
    pub(crate) by_person: bool,
    pub(crate) poll_after: Option<Duration>,
    pub(crate) failures: u32,
    /// What has gone wrong in the present attempt.
    pub(crate) trouble: String,
    /// Attempts that came to an end, and why the last did not end well.
    pub(crate) attempts: u64,
    pub(crate) last_error: String,
    pub(crate) is_ready: bool,
    /// A difference did not fit what runs; the next one would not, either.
    pub(crate) whole_only: bool,
    /// What the effects hand on to each other.
    pub(crate) offer: Option<Offer>,
    pub(crate) pipeline: Option<Pipeline>,
    pub(crate) matched: Option<Matched>,
    pub(crate) sealed: Option<Sealed>,
}

impl Updater {
    fn open(config: Config, status: watch::Sender<Status>) -> Result<Self, Error> {
        let record = read_record(&config)?;
        let path = PathBuf::from(&record.disk);
        let disk = Disk::open_known(&path, std::path::Path::new("/sys/class/block"))?;
        let medium = Arc::new(DiskFile::open(&path).map_err(file("open", &path))?);
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
            trouble: String::new(),
            attempts: 0,
            last_error: String::new(),
            is_ready: false,
            whole_only: false,
            offer: None,
            pipeline: None,
            matched: None,
            sealed: None,
        })
    }

    /// Keeps what has to be kept.
    pub(crate) fn keep(&self) -> Result<(), Error> {
        keep(&self.config, &self.kept)
    }

    /// Keeps what is good to keep, and says whether that went well. A full /var is no
    /// reason not to run: what is not kept is found out again at the next start, and
    /// nothing is installed before it can be kept.
    pub(crate) fn keep_or_tell(&self) -> bool {
        let kept = self.keep();
        if let Err(error) = &kept {
            tracing::warn!("{}", proa_base::cli::chain(error));
        }
        kept.is_ok()
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
        self.is_ready = true;
        let Config { server, group, poll_interval, .. } = &self.config;
        match server {
            Some(server) => tracing::info!("asks {server} for group {group} every {poll_interval:?}"),
            None => tracing::info!("asks nobody: no update server is set"),
        }
        let polls = server.is_some();
        self.show(&state);
        let mut tell = Instant::now() + TELL_EVERY;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(due), if polls => {
                    state = self.attempt(state).await;
                    due = Instant::now() + self.next_wait();
                }
                () = tokio::time::sleep_until(tell) => {
                    self.tell_what_is_unknown().await;
                    // What others tell of a release that waits here is worth as much.
                    if matches!(state, State::NeedReboot(_)) {
                        state = self.drive(state).await;
                    }
                    tell = Instant::now() + TELL_EVERY;
                }
                Some(command) = commands.recv() => match command {
                    Command::Attempt => {
                        self.by_person = true;
                        state = self.attempt(state).await;
                        due = Instant::now() + self.next_wait();
                    }
                    // Who asked was told that it takes too long: then it is not done, either.
                    Command::Reset(answer) | Command::Rollback(answer) if answer.is_closed() => {}
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
        // An end within the writing of flags leaves one copy of the table behind the other.
        if let Err(error) = install::mend(&*self.medium, &self.disk) {
            tracing::warn!("{}", proa_base::cli::chain(&error));
        }
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
        if !matches!(start, engine::Start::RollsBack(_))
            && let Some(rollback) = self.kept.rollback.take()
            && rollback.slot != self.record.slot
        {
            tracing::warn!(
                "version {} was to run again, as a person decided, and does not",
                rollback.version
            );
        }
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
                // The last start may have ended between the flags and this word of them.
                self.kept.installed = Some(Installed { is_active: true, ..installed });
                self.kept.transfer = None;
            }
            engine::Start::RollsBack(rollback) => {
                let Rollback { version, root_hash, .. } = rollback;
                state = State::NeedReboot(Target { version, root_hash, size_bytes: 0 });
            }
            engine::Start::FellBack(installed) => self.fell_back(&installed)?,
            engine::Start::SetAside(_) => self.kept.installed = None,
        }
        self.keep_or_tell();
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

    /// One check, and what came of it.
    async fn attempt(&mut self, state: State) -> State {
        self.trouble.clear();
        // Before the next answer overwrites it by a clock that may have been set back.
        self.kept.latest_unix_s = self.kept.latest_unix_s.max(self.kept.last_checked_unix_s);
        let state = self.drive(state).await;
        // Not before the end: what is told of the last attempt is of a whole one.
        self.last_error = std::mem::take(&mut self.trouble);
        self.attempts += 1;
        state
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
                Err(error) if self.gives_differences_up(&error) => Event::Unfit,
                Err(error) => Event::Failed(error.trouble()),
            };
            if let Event::Failed(trouble) = &event {
                tracing::warn!("{}", trouble.reason);
                self.trouble.clone_from(&trouble.reason);
                self.failures = self.failures.saturating_add(1);
            }
        }
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
                attempts: self.attempts,
                last_error: self.last_error.clone(),
                is_ready: self.is_ready,
            };
            let differs = *status != new;
            *status = new;
            differs
        });
    }
}

fn word(start: &engine::Start) -> &'static str {
    match start {
        engine::Start::Idle => "nothing to do",
        engine::Start::Resume => "a transfer was cut off",
        engine::Start::Prove(_) => "it has to show that it is good",
        engine::Start::CameUp(_) => "an update came up",
        engine::Start::NeedReboot(_) => "an update waits for the next boot",
        engine::Start::RollsBack(_) => "the other slot boots next, as a person decided",
        engine::Start::FellBack(_) => "an update failed to boot",
        engine::Start::SetAside(_) => "an update was set aside",
    }
}

fn target_of(installed: &Installed) -> Target {
    Target { version: installed.version.clone(), root_hash: installed.root_hash, size_bytes: 0 }
}

pub(crate) fn keep(config: &Config, kept: &Kept) -> Result<(), Error> {
    let path = config.state_folder.join("state.json");
    proa_base::file::replace(&path, &kept.render()).map_err(file("write", path))
}

pub(crate) fn read_kept(config: &Config) -> Result<Kept, Error> {
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

pub(crate) fn now_unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    // Without randomness machines ask at the same time, which they survive.
    let _ = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes);
    u64::from_le_bytes(bytes)
}
