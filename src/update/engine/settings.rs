//! What the updater and its kin can be told: every name, default and check, and
//! the `update.conf` files of machines that come from CoreOS or Flatcar.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use proa_base::{
    duration,
    settings::{BadSetting, Program, Settings, checks, read_file, setting},
};

/// Where an `update.conf` is looked for. Each key counts where it is found first.
///
/// Source: CoreOS update_engine, `omaha_request_params.cc`.
pub const CONF_FILES: [&str; 6] = [
    "/etc/proa/update.conf",
    "/etc/flatcar/update.conf",
    "/etc/coreos/update.conf",
    "/usr/share/proa/update.conf",
    "/usr/share/flatcar/update.conf",
    "/usr/share/coreos/update.conf",
];

/// Most bytes of an `update.conf`: it has some lines.
const CONF_BYTES_MAX: u64 = 64 << 10;

/// All that the updater can be told, and what `locksmithd` shares with it.
pub const PROGRAM: Program = Program {
    name: "update_engine",
    cmdline: "update",
    env: "UPDATE_ENGINE",
    settings: &[
        setting("server", "", "URL of the Omaha server; empty or \"disabled\": never ask", server),
        setting("group", "stable", "group or channel to follow", checks::any),
        setting("app-id", "{6b6d3a2e-0f5c-4c7e-9b1d-70726f610001}", "application to ask for", checks::any),
        setting("poll-interval", "45m", "mean time between two questions", interval),
        setting("machine-alias", "", "name of this machine, for people", checks::any),
        setting("machine-id", "", "this machine's id (default: /etc/machine-id)", checks::any),
        setting("ca-file", "", "CAs that the server must have a certificate of", checks::any),
        setting("stall-after", "30s", "give a transfer up that is this long below 4 KiB/s", interval),
        setting("reboot-strategy", "", "etcd-lock, reboot or off (default: off)", strategy),
        setting(
            "reboot-window-start",
            "",
            "when reboots may begin: \"Thu 23:00\", \"23:00\", UTC",
            checks::any,
        ),
        setting("reboot-window-length", "", "for how long: \"1h30m\"", checks::any),
        setting("lock-group", "", "group of the reboot lock", checks::any),
        setting("lock-lease", "15m", "how long a silent machine's reboot lock is respected", lease),
        setting(
            "lock-limit",
            "1h",
            "longest hold of the lock without a reboot; 0: no limit",
            checks::duration,
        ),
        setting("lock-interval", "30s", "time between two looks at the reboot lock", interval),
        setting(
            "foreign-lock-limit",
            "0s",
            "longest hold by others than locksmithd; 0: no limit",
            checks::duration,
        ),
        setting("drain-timeout", "10m", "how long units may take to leave; 0: no limit", checks::duration),
        setting("fleet", "/run/fleet.sock", "socket of fleetd on this machine; empty: it has none", socket),
        setting("fleetlock-listen", "", "HOST:PORT where FleetLock is served; empty: nowhere", checks::any),
        setting("health-units", "etcd.service,fleetd.service", "units a good boot has active", checks::any),
        setting("health-target", "multi-user.target", "target a good boot reaches", checks::any),
        setting("good-after", "45s", "how long all is well before a boot is good", checks::duration),
        setting("boot-deadline", "10m", "when a boot that is not well is given up", interval),
        setting("endpoints", "http://127.0.0.1:2379", "members of the store; empty: none", checks::any),
        setting("boot-record", "/run/proa/boot.json", "what this boot started from", checks::absolute),
        setting("boot-folder", "/var/lib/proa/boot", "what boots that failed left behind", checks::absolute),
        setting(
            "state-folder",
            "/var/lib/update_engine",
            "where the updater keeps its state",
            checks::absolute,
        ),
        setting("keys-file", "/usr/share/proa/keys.json", "keys that sign releases", checks::absolute),
        setting(
            "payload-key",
            "/usr/share/update_engine/update-payload-key.pub.pem",
            "key that signs payloads",
            checks::absolute,
        ),
        setting("bus", "/run/dbus/system_bus_socket", "socket of the message bus; empty: none", socket),
    ],
};

fn server(value: &str) -> Result<(), String> {
    if matches!(value, "" | "disabled") {
        return Ok(());
    }
    crate::http::Url::parse(value).map(drop).map_err(|error| error.to_string())
}

fn strategy(value: &str) -> Result<(), String> {
    match value {
        "" | "etcd-lock" | "reboot" | "off" => Ok(()),
        _ => Err("give etcd-lock, reboot or off".into()),
    }
}

fn interval(value: &str) -> Result<(), String> {
    match duration::parse(value) {
        Ok(time) if time >= Duration::from_millis(100) => Ok(()),
        Ok(_) => Err("give 100ms or more".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// A reboot with firmware and memory check takes minutes; a lease that ends in
/// the middle of it would call the release suspect.
fn lease(value: &str) -> Result<(), String> {
    match duration::parse(value) {
        Ok(time) if time >= Duration::from_secs(10) => Ok(()),
        Ok(_) => Err("give 10s or more".into()),
        Err(error) => Err(error.to_string()),
    }
}

fn socket(value: &str) -> Result<(), String> {
    if value.is_empty() { Ok(()) } else { checks::absolute(value) }
}

/// The settings as values.
#[derive(Clone, Debug)]
pub struct Config {
    /// The Omaha server; `None` when it is never asked.
    pub server: Option<crate::http::Url>,
    /// The group or channel.
    pub group: String,
    /// The application's id, as it was written.
    pub app_id: String,
    /// Mean time between two questions.
    pub poll_interval: Duration,
    /// A name for people.
    pub machine_alias: String,
    /// 32 hex digits, or nothing on a machine without identity.
    pub machine_id: String,
    /// CAs for TLS; the system's when there are none.
    pub ca_file: Option<PathBuf>,
    /// How long a transfer may be too slow.
    pub stall_after: Duration,
    /// Units that a good boot has active, the target first.
    pub health_units: Vec<String>,
    /// How long all is well before a boot is good.
    pub good_after: Duration,
    /// When a boot that is not well is given up, from the kernel's start.
    pub boot_deadline: Duration,
    /// Members of the store; empty on a machine without one.
    pub endpoints: Vec<String>,
    /// What this boot started from.
    pub boot_record: PathBuf,
    /// What boots that failed left behind.
    pub boot_folder: PathBuf,
    /// The updater's own folder.
    pub state_folder: PathBuf,
    /// The key set in the image.
    pub keys_file: PathBuf,
    /// The payload key in the image.
    pub payload_key: PathBuf,
    /// The message bus, if there is to be one.
    pub bus: Option<PathBuf>,
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadConfig {
    /// A setting is wrong.
    #[error(transparent)]
    Setting(#[from] BadSetting),
    /// A setting of a file is wrong.
    #[error("{}: {source}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        source: BadSetting,
    },
    /// A file is there and cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
}

impl Config {
    /// Settles the settings from `args`, the surroundings and [`CONF_FILES`].
    ///
    /// # Errors
    /// [`BadConfig`], with the spelling that the user wrote.
    pub fn load(args: &[String]) -> Result<Self, BadConfig> {
        let files = CONF_FILES.map(PathBuf::from);
        let pairs = conf_pairs(&files)?;
        Ok(Self::from_settings(&PROGRAM.settle_here(args, &pairs)?))
    }

    fn from_settings(settings: &Settings) -> Self {
        let text = |name: &str| settings.get(name).to_owned();
        let path = |name: &str| PathBuf::from(settings.get(name));
        let some_path = |name: &str| settings.given(name).map(PathBuf::from);
        let server = Some(settings.get("server")).filter(|server| !matches!(*server, "" | "disabled"));
        let machine_id = match settings.get("machine-id") {
            "" => fs::read_to_string("/etc/machine-id").unwrap_or_default().trim().to_owned(),
            given => given.to_owned(),
        };
        let mut health_units = vec![text("health-target")];
        health_units.extend(settings.list("health-units"));
        Self {
            server: server.map(|server| crate::http::Url::parse(server).expect("checked by server")),
            group: text("group"),
            app_id: text("app-id"),
            poll_interval: settings.duration("poll-interval"),
            machine_alias: text("machine-alias"),
            machine_id,
            ca_file: some_path("ca-file"),
            stall_after: settings.duration("stall-after"),
            health_units,
            good_after: settings.duration("good-after"),
            boot_deadline: settings.duration("boot-deadline"),
            endpoints: settings.list("endpoints"),
            boot_record: path("boot-record"),
            boot_folder: path("boot-folder"),
            state_folder: path("state-folder"),
            keys_file: path("keys-file"),
            payload_key: path("payload-key"),
            bus: some_path("bus"),
        }
    }
}

/// The settings that `update.conf` files give, as pairs for the table.
///
/// # Errors
/// [`BadConfig`] for a file that cannot be read and for values that cannot be
/// right. Keys that mean nothing here, as some of the original's, are passed over,
/// and told on the log.
pub fn conf_pairs(files: &[PathBuf]) -> Result<Vec<(String, String)>, BadConfig> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    for path in files {
        let Some(text) = read_conf(path)? else { continue };
        let named = |(key, value): (String, String)| {
            let known = known(&key, value);
            if known.is_none() {
                tracing::warn!("{}: {key} is no setting, and is passed over", path.display());
            }
            known
        };
        let found: Vec<_> = read_file(&text).into_iter().filter_map(named).collect();
        PROGRAM
            .settle(&[], &|_| None, &[], &found)
            .map_err(|source| BadConfig::InFile { path: path.clone(), source })?;
        for (name, value) in found {
            if pairs.iter().all(|(there, _)| *there != name) {
                pairs.push((name, value));
            }
        }
    }
    Ok(pairs)
}

fn read_conf(path: &Path) -> Result<Option<String>, BadConfig> {
    use io::Read as _;
    let read = || {
        let mut text = String::new();
        fs::File::open(path)?.take(CONF_BYTES_MAX).read_to_string(&mut text)?;
        Ok::<_, io::Error>(text)
    };
    match read() {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(BadConfig::Read { path: path.to_owned(), source }),
    }
}

/// The setting that a key of an `update.conf` is: the original's names, or our
/// own in capital letters with `_`.
fn known(key: &str, value: String) -> Option<(String, String)> {
    let own = key.to_ascii_lowercase().replace('_', "-");
    let name = own.strip_prefix("locksmithd-").unwrap_or(&own);
    PROGRAM.settings.iter().any(|setting| setting.name == name).then(|| (name.to_owned(), value))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn pairs(files: &[&str]) -> Result<Vec<(String, String)>, BadConfig> {
        let folder = tempfile::tempdir().unwrap();
        let path = |number: usize| folder.path().join(number.to_string());
        let mut paths: Vec<PathBuf> = (0..files.len()).map(path).collect();
        paths.iter().zip(files).for_each(|(path, text)| fs::write(path, text).unwrap());
        paths.push(path(files.len()));
        conf_pairs(&paths)
    }

    #[test]
    fn the_first_file_that_has_a_key_counts() {
        let files = [
            "GROUP=beta\nPCR_POLICY_SERVER=x\n",
            "GROUP=alpha\nSERVER=https://update.example/v1/update/\nREBOOT_STRATEGY=etcd-lock\n",
            "LOCKSMITHD_REBOOT_WINDOW_START=\"Thu 23:00\"\nLOCKSMITHD_REBOOT_WINDOW_LENGTH=1h30m\n",
        ];
        let settings = PROGRAM.settle(&[], &|_| None, &[], &pairs(&files).unwrap()).unwrap();
        let config = Config::from_settings(&settings);
        assert_eq!(config.group, "beta");
        assert_eq!(config.server.unwrap().to_string(), "https://update.example/v1/update/");
        assert_eq!(settings.get("reboot-strategy"), "etcd-lock");
        assert_eq!(settings.get("reboot-window-start"), "Thu 23:00");
        assert_eq!(config.health_units, ["multi-user.target", "etcd.service", "fleetd.service"]);
    }

    #[test]
    fn bad_values_are_told_with_their_file() {
        for bad in
            ["SERVER=ftp://x/", "SERVER=update.example", "REBOOT_STRATEGY=best-effort-ish", "POLL_INTERVAL=0"]
        {
            let error = pairs(&["", bad]).unwrap_err().to_string();
            assert!(error.contains("/1: "), "{error}");
        }
        assert!(pairs(&["SERVER=disabled\n"]).is_ok());
    }
}
