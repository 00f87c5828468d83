//! What locksmithd is told: the updater's own settings, by their names of today
//! and by those of the original.

use std::path::PathBuf;
use std::time::Duration;

use proa_base::settings::{BadSetting, Settings};
use proa_etcd_client::tls::TlsFiles;
use proa_update_model::reboot::{
    gate::Limits,
    window::{BadWindow, Window},
};

use super::machine;
use crate::settings::{BadConfig, CONF_FILES, PROGRAM, conf_pairs};

/// Environment of the original, and the setting that each is.
/// Source: locksmith 0.6.2, `locksmithctl/daemon.go`.
const OLD_NAMES: [(&str, &str); 8] = [
    ("LOCKSMITHD_ENDPOINT", "endpoints"),
    ("LOCKSMITHD_GROUP", "lock-group"),
    ("LOCKSMITHD_REBOOT_WINDOW_START", "reboot-window-start"),
    ("LOCKSMITHD_REBOOT_WINDOW_LENGTH", "reboot-window-length"),
    ("REBOOT_WINDOW_START", "reboot-window-start"),
    ("REBOOT_WINDOW_LENGTH", "reboot-window-length"),
    ("REBOOT_STRATEGY", "reboot-strategy"),
    ("LOCKSMITHD_REBOOT_STRATEGY", "reboot-strategy"),
];

/// When a staged update is booted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Through the whole gate.
    EtcdLock,
    /// In the window, without regard for others.
    Reboot,
    /// When a person does it.
    Off,
}

/// The settings as values.
#[derive(Clone, Debug)]
pub struct Config {
    /// When a staged update is booted.
    pub strategy: Strategy,
    /// When reboots may begin; `None` is always.
    pub window: Option<Window>,
    /// Which lock is used; empty for that of the whole cluster.
    pub group: String,
    /// Members of the store, this machine's own first; empty without a store.
    pub endpoints: Vec<String>,
    /// For members that speak TLS.
    pub tls: TlsFiles,
    /// This machine.
    pub machine: String,
    /// The message bus, if there is to be one.
    pub bus: Option<PathBuf>,
    /// What this boot started from.
    pub boot_record: PathBuf,
    /// The API of the cluster init, if there is to be one.
    pub fleet: Option<PathBuf>,
    /// How long the lock of a machine that is not heard is respected.
    pub lease: Duration,
    /// How long things may take.
    pub limits: Limits,
    /// Between two looks while nothing is to be done.
    pub interval: Duration,
    /// `HOST:PORT` for FleetLock, if it is to be served.
    pub fleetlock: Option<String>,
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadLocksmith {
    /// One of them is wrong.
    #[error(transparent)]
    Config(#[from] BadConfig),
    /// The same, by another name.
    #[error(transparent)]
    Setting(#[from] BadSetting),
    /// The window is none.
    #[error(transparent)]
    Window(#[from] BadWindow),
    /// The strategy needs what is not there.
    #[error("update.reboot-strategy=etcd-lock needs a store: set update.endpoints")]
    NoStore,
    /// A machine without identity.
    #[error("cannot read /etc/machine-id, and update.machine-id is not set")]
    NoMachineId,
}

impl Config {
    /// Settles the settings from `args`, the environment, the kernel command line
    /// and `update.conf`.
    ///
    /// # Errors
    /// [`BadLocksmith`], with the spelling that the user wrote.
    pub fn load(args: &[String]) -> Result<Self, BadLocksmith> {
        let old = OLD_NAMES.iter().filter_map(|(variable, setting)| {
            let value = std::env::var(variable).ok().filter(|value| !value.is_empty())?;
            Some(((*setting).to_owned(), value))
        });
        // The last of two pairs counts: those of the environment are stronger.
        let mut pairs = conf_pairs(&CONF_FILES.map(PathBuf::from))?;
        pairs.extend(old);
        let settings = PROGRAM.settle_here(args, &pairs)?;
        Self::from_settings(&settings)
    }

    fn from_settings(settings: &Settings) -> Result<Self, BadLocksmith> {
        let path = |name: &str| settings.given(name).map(PathBuf::from);
        let endpoints = settings.list("endpoints");
        let has_server = !matches!(settings.get("server"), "" | "disabled");
        let strategy = match settings.get("reboot-strategy") {
            "etcd-lock" => Strategy::EtcdLock,
            "reboot" => Strategy::Reboot,
            // Whoever follows a server wants its updates booted, one machine at a time.
            "" if has_server && !endpoints.is_empty() => Strategy::EtcdLock,
            _ => Strategy::Off,
        };
        if strategy == Strategy::EtcdLock && endpoints.is_empty() {
            return Err(BadLocksmith::NoStore);
        }
        let machine = match settings.get("machine-id") {
            "" => machine::machine_id(),
            given => given.to_owned(),
        };
        if machine.is_empty() {
            return Err(BadLocksmith::NoMachineId);
        }
        Ok(Self {
            strategy,
            window: Window::parse(settings.get("reboot-window-start"), settings.get("reboot-window-length"))?,
            group: settings.get("lock-group").to_owned(),
            endpoints,
            tls: TlsFiles::default(),
            machine,
            bus: path("bus"),
            boot_record: path("boot-record").unwrap_or_default(),
            fleet: path("fleet"),
            lease: settings.duration("lock-lease"),
            limits: Limits {
                drain_s: settings.duration("drain-timeout").as_secs(),
                held_s: settings.duration("lock-limit").as_secs(),
                foreign_s: settings.duration("foreign-lock-limit").as_secs(),
            },
            interval: settings.duration("lock-interval"),
            fleetlock: settings.given("fleetlock-listen").map(str::to_owned),
        })
    }
}
