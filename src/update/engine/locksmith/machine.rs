//! This machine: its boot, its release, whether an update waits, and going down.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use futures_util::StreamExt as _;
use proa_update_disk::{Disk, Slots};
use serde::Deserialize;
use tokio::{net::UnixStream, sync::Notify};
use zbus::{Connection, MatchRule, MessageStream, connection::Builder, message::Type};

use super::Error;

/// Both services are local: whoever is there answers at once.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// What update_engine says when only the reboot is missing.
/// Source: CoreOS update_engine, `update_status`.
const NEED_REBOOT: &str = "UPDATE_STATUS_UPDATED_NEED_REBOOT";
/// Who knows about updates. Source: CoreOS update_engine's D-Bus interface.
const SERVICE: &str = "com.coreos.update1";
const PATH: &str = "/com/coreos/update1";
const INTERFACE: &str = "com.coreos.update1.Manager";

/// What `GetStatus` answers and `StatusUpdate` carries: last check, progress,
/// operation, new version, its size.
type Status = (i64, f64, String, String, i64);
/// The longest `os-release` that is read; real ones have about 1 KiB.
const OS_RELEASE_MAX_BYTES: usize = 64 << 10;

/// What this boot started from, as far as it matters here. Source: `boot_record` of the model.
#[derive(Deserialize)]
struct BootRecord {
    disk: PathBuf,
    slot: u32,
    #[serde(default)]
    proven: bool,
}

/// The kernel's name for this boot.
pub fn boot_id() -> String {
    read_line("/proc/sys/kernel/random/boot_id")
}

/// This machine's id.
pub fn machine_id() -> String {
    read_line("/etc/machine-id")
}

fn read_line(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// The release that runs: `IMAGE_VERSION`.
pub fn running_version() -> String {
    for path in ["/usr/lib/os-release", "/etc/os-release"] {
        let text = fs::read_to_string(path).unwrap_or_default();
        if text.len() > OS_RELEASE_MAX_BYTES {
            continue;
        }
        let pairs = proa_base::settings::read_file(&text);
        if let Some((_, version)) = pairs.into_iter().find(|(key, _)| key == "IMAGE_VERSION") {
            return version;
        }
    }
    String::new()
}

/// Whether this boot was found good: its slot is marked successful. A machine
/// that our `/init` has not started has no slots, and nothing to wait for.
pub fn is_good(boot_record: &Path) -> Result<(), String> {
    let Ok(text) = fs::read(boot_record) else { return Ok(()) };
    let shown = boot_record.display();
    let record: BootRecord = serde_json::from_slice(&text).map_err(|error| format!("{shown}: {error}"))?;
    if record.proven {
        return Ok(());
    }
    let disk =
        Disk::open_known(&record.disk, Path::new("/sys/class/block")).map_err(|error| error.to_string())?;
    let slots = Slots::find(disk).map_err(|error| error.to_string())?;
    let slots = slots.ok_or_else(|| format!("{} has no slots any more", record.disk.display()))?;
    let index = slots.index_of_number(record.slot);
    let index = index.ok_or_else(|| format!("partition {} is no slot any more", record.slot))?;
    match slots.flags(index).successful() {
        true => Ok(()),
        false => Err(format!("{} is not marked successful", slots.name(index))),
    }
}

/// The message bus of this machine, connected when it is first needed.
pub struct Bus {
    socket: Option<PathBuf>,
    live: Option<Connection>,
    /// Told when update_engine says that only the reboot is missing.
    ready: Arc<Notify>,
}

impl Bus {
    /// The bus at this socket; `None` on a machine without one.
    pub fn new(socket: Option<PathBuf>) -> Self {
        Self { socket, live: None, ready: Arc::default() }
    }

    /// Waits until update_engine says that an update waits. It is a hint: whoever
    /// depends on it looks now and then without one.
    pub fn ready(&self) -> Arc<Notify> {
        Arc::clone(&self.ready)
    }

    async fn connection(&mut self) -> Result<Connection, Error> {
        if let Some(live) = &self.live {
            return Ok(live.clone());
        }
        let socket = self.socket.clone().ok_or_else(|| Error::Bus("there is no message bus".to_owned()))?;
        let connecting = async {
            let stream = UnixStream::connect(&socket).await.map_err(|error| Error::Bus(error.to_string()))?;
            let builder = Builder::unix_stream(stream).method_timeout(CALL_TIMEOUT);
            builder.build().await.map_err(|error| Error::Bus(error.to_string()))
        };
        let live = match tokio::time::timeout(CALL_TIMEOUT, connecting).await {
            Ok(live) => live?,
            Err(_) => return Err(Error::Bus("no answer".to_owned())),
        };
        tokio::spawn(listen(live.clone(), Arc::clone(&self.ready)));
        self.live = Some(live.clone());
        Ok(live)
    }

    /// The release that waits for a reboot, if one does.
    ///
    /// # Errors
    /// When update_engine does not answer.
    pub async fn pending(&mut self) -> Result<Option<String>, Error> {
        let connection = self.connection().await?;
        let asked = connection.call_method(Some(SERVICE), PATH, Some(INTERFACE), "GetStatus", &()).await;
        let answer = match asked {
            Ok(answer) => answer,
            Err(error) => {
                self.live = None;
                return Err(Error::Bus(error.to_string()));
            }
        };
        let (_, _, operation, version, _): Status =
            answer.body().deserialize().map_err(|error| Error::Bus(error.to_string()))?;
        Ok((operation == NEED_REBOOT).then_some(version))
    }

    /// Takes the machine down and up again, in order. Returns when that has begun.
    ///
    /// # Errors
    /// When systemd does not take the order.
    pub async fn reboot(&mut self) -> Result<(), Error> {
        let asked = match self.connection().await {
            Ok(connection) => connection
                .call_method(
                    Some("org.freedesktop.systemd1"),
                    "/org/freedesktop/systemd1",
                    Some("org.freedesktop.systemd1.Manager"),
                    "Reboot",
                    &(),
                )
                .await
                .map(drop)
                .map_err(|error| Error::Bus(error.to_string())),
            Err(error) => Err(error),
        };
        let Err(first) = asked else { return Ok(()) };
        // systemd has a socket of its own, and its own tool knows it.
        let mut command = tokio::process::Command::new("systemctl");
        command.args(["--no-block", "reboot"]).stdin(Stdio::null()).stdout(Stdio::null());
        match command.status().await {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(Error::Reboot(format!("{first}; systemctl reboot ended with {status}"))),
            Err(error) => Err(Error::Reboot(format!("{first}; cannot run systemctl: {error}"))),
        }
    }
}

/// Tells of signals that an update waits, until the connection ends.
async fn listen(connection: Connection, ready: Arc<Notify>) {
    let rule = MatchRule::builder().msg_type(Type::Signal).interface(INTERFACE);
    let Ok(rule) = rule.and_then(|rule| rule.member("StatusUpdate")) else { return };
    let Ok(mut signals) = MessageStream::for_match_rule(rule.build(), &connection, None).await else {
        return;
    };
    // The stream must not keep a connection alive that the bus has given up.
    drop(connection);
    while let Some(Ok(signal)) = signals.next().await {
        if signal.body().deserialize::<Status>().is_ok_and(|status| status.2 == NEED_REBOOT) {
            ready.notify_one();
        }
    }
}

#[cfg(test)]
#[path = "machine_test.rs"]
mod tests;
