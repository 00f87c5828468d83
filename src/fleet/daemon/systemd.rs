//! systemd's manager over D-Bus: what it says of units, and the few calls that change them.
//!
//! The far end is asked, never remembered: signals only say that looking again
//! is worth while ([`Systemd::changed`]), and every answer comes from a call.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use futures_util::StreamExt;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::UnixStream, sync::Notify, task::JoinHandle};
use zbus::{Connection, MatchRule, MessageStream, connection::Builder, message::Type, zvariant};

use crate::private;

const SERVICE: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";

/// No call of the manager takes this long on a machine that still works; a
/// daemon-reload with hundreds of units under emulation takes about 3 s.
const CALL_TIMEOUT: Duration = Duration::from_secs(25);
/// Both sockets are local: whoever listens answers at once.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the manager is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bus {
    /// A message bus, by the path of its socket.
    Shared(PathBuf),
    /// The manager's own socket: no bus in between.
    Private(PathBuf),
}

impl Bus {
    /// The bus to use at this moment: the system bus when its socket exists,
    /// else systemd's private socket.
    pub fn of_system() -> Self {
        let shared = PathBuf::from("/run/dbus/system_bus_socket");
        if shared.exists() { Self::Shared(shared) } else { Self::Private("/run/systemd/private".into()) }
    }

    /// The private socket of the user's manager, below `$XDG_RUNTIME_DIR`.
    pub fn of_user() -> Self {
        let dir =
            std::env::var_os("XDG_RUNTIME_DIR").map_or_else(|| PathBuf::from("/run/user/0"), PathBuf::from);
        Self::Private(dir.join("systemd/private"))
    }
}

impl fmt::Display for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shared(path) | Self::Private(path) => write!(f, "{}", path.display()),
        }
    }
}

/// What systemd says of one unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitStatus {
    /// `hello.service`.
    pub name: String,
    /// `loaded`, `not-found`, `error`, `masked`, ...
    pub load: String,
    /// `active`, `inactive`, `failed`, `activating`, ...
    pub active: String,
    /// `running`, `dead`, `exited`, ...
    pub sub: String,
    /// The type of the job that is queued for it; empty when there is none.
    pub job: String,
}

/// Why a call to systemd did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is nobody to ask. It will be tried again.
    #[error("systemd does not answer at {bus}: {source}")]
    Unavailable {
        /// The socket that was tried.
        bus: Bus,
        /// What the socket or the D-Bus connection said.
        #[source]
        source: Box<zbus::Error>,
    },
    /// systemd answered, and the answer is no.
    #[error("systemd refuses {call} {subject}: {text}")]
    Refused {
        /// The method.
        call: &'static str,
        /// The unit or the file it was about.
        subject: String,
        /// systemd's own words.
        text: String,
    },
}

/// One row of `ListUnitsByNames`.
///
/// Source: org.freedesktop.systemd1(5): name, description, load, active, sub,
/// followed unit, object path, job id, job type, job path.
type Row = (
    String,
    String,
    String,
    String,
    String,
    String,
    zvariant::OwnedObjectPath,
    u32,
    String,
    zvariant::OwnedObjectPath,
);

/// The manager, connected at the first call and again after a loss.
pub struct Systemd {
    choose: Box<dyn Fn() -> Bus + Send + Sync>,
    live: Option<Live>,
    changed: Arc<Notify>,
}

/// One connection and the task that hears its signals.
struct Live {
    bus: Bus,
    connection: Connection,
    listener: JoinHandle<()>,
}

impl Drop for Live {
    fn drop(&mut self) {
        // The listener holds the connection open as well.
        self.listener.abort();
    }
}

impl Systemd {
    /// The manager at the bus that `choose` names; it is asked again for each connection.
    pub fn new(choose: impl Fn() -> Bus + Send + Sync + 'static) -> Self {
        Self { choose: Box::new(choose), live: None, changed: Arc::new(Notify::new()) }
    }

    /// Notified when a signal said that some unit changed, and when the connection was lost.
    pub fn changed(&self) -> Arc<Notify> {
        Arc::clone(&self.changed)
    }

    /// What systemd says of `names`, in any order. A unit that it does not know
    /// is reported with the load state `not-found`. No names still ask whether it is there.
    ///
    /// # Errors
    /// As any call: see [`Error`].
    pub async fn list(&mut self, names: &[&str]) -> Result<Vec<UnitStatus>, Error> {
        let rows: Vec<Row> = self.call("ListUnitsByNames", "", &(names,)).await?;
        let status =
            |row: Row| UnitStatus { name: row.0, load: row.2, active: row.3, sub: row.4, job: row.8 };
        Ok(rows.into_iter().map(status).collect())
    }

    /// Makes the unit file at `path` known under its name until the next boot.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn link(&mut self, path: &str) -> Result<(), Error> {
        let _: Changes = self.call("LinkUnitFiles", path, &([path].as_slice(), true, true)).await?;
        Ok(())
    }

    /// Makes what the unit's `[Install]` section asks for, until the next boot.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn enable(&mut self, path: &str) -> Result<(), Error> {
        let _: (bool, Changes) = self.call("EnableUnitFiles", path, &([path].as_slice(), true, true)).await?;
        Ok(())
    }

    /// Takes back what [`Self::link`] and [`Self::enable`] made.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn disable(&mut self, name: &str) -> Result<(), Error> {
        let _: Changes = self.call("DisableUnitFiles", name, &([name].as_slice(), true)).await?;
        Ok(())
    }

    /// Has systemd read all unit files anew.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn reload(&mut self) -> Result<(), Error> {
        self.call("Reload", "", &()).await
    }

    /// Queues a start. Whether it succeeds is read back with [`Self::list`].
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn start(&mut self, name: &str) -> Result<(), Error> {
        let _: zvariant::OwnedObjectPath = self.call("StartUnit", name, &(name, "replace")).await?;
        Ok(())
    }

    /// Queues a stop. Whether the unit has stopped is read back with [`Self::list`].
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn stop(&mut self, name: &str) -> Result<(), Error> {
        let _: zvariant::OwnedObjectPath = self.call("StopUnit", name, &(name, "replace")).await?;
        Ok(())
    }

    /// Forgets that a unit failed, so that systemd can let go of it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn reset_failed(&mut self, name: &str) -> Result<(), Error> {
        self.call("ResetFailedUnit", name, &(name,)).await
    }

    async fn call<A, B>(&mut self, method: &'static str, subject: &str, body: &B) -> Result<A, Error>
    where
        A: DeserializeOwned + zvariant::Type,
        B: Serialize + zvariant::DynamicType + Sync,
    {
        let (bus, connection) = self.connected().await?;
        let sent = connection.call_method(destination(&bus), MANAGER_PATH, Some(MANAGER), method, body).await;
        let lost = |source: zbus::Error| Error::Unavailable { bus: bus.clone(), source: Box::new(source) };
        match sent {
            Ok(reply) => reply.body().deserialize().map_err(lost),
            Err(zbus::Error::MethodError(name, text, _)) if !is_bus_trouble(name.as_str()) => {
                let text = text.unwrap_or_else(|| name.to_string());
                Err(Error::Refused { call: method, subject: subject.to_owned(), text })
            }
            Err(error) => {
                self.live = None;
                Err(lost(error))
            }
        }
    }

    async fn connected(&mut self) -> Result<(Bus, Connection), Error> {
        if let Some(live) = &self.live {
            return Ok((live.bus.clone(), live.connection.clone()));
        }
        let bus = (self.choose)();
        let connecting = connect(bus.clone(), Arc::clone(&self.changed));
        let connected = match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(timed_out()),
        };
        let live = connected.map_err(|source| Error::Unavailable { bus, source: Box::new(source) })?;
        let answer = (live.bus.clone(), live.connection.clone());
        self.live = Some(live);
        Ok(answer)
    }
}

/// What `LinkUnitFiles` and its kin report: kind, link, target of each change.
type Changes = Vec<(String, String, String)>;

fn timed_out() -> zbus::Error {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}

/// An error of the bus itself means that the manager is away, not that it refuses.
fn is_bus_trouble(name: &str) -> bool {
    let trouble = ["NoReply", "Disconnected", "ServiceUnknown", "NameHasNoOwner", "TimedOut", "Timeout"];
    name.strip_prefix("org.freedesktop.DBus.Error.").is_some_and(|rest| trouble.contains(&rest))
}

/// A private connection has one far end and no names.
fn destination(bus: &Bus) -> Option<&'static str> {
    match bus {
        Bus::Shared(_) => Some(SERVICE),
        Bus::Private(_) => None,
    }
}

async fn connect(bus: Bus, changed: Arc<Notify>) -> zbus::Result<Live> {
    let builder = match &bus {
        Bus::Shared(path) => Builder::unix_stream(UnixStream::connect(path).await?),
        Bus::Private(path) => private::connect(path).await?,
    };
    let connection = builder.method_timeout(CALL_TIMEOUT).build().await?;
    let rule = MatchRule::builder().msg_type(Type::Signal).path_namespace(MANAGER_PATH)?.build();
    let mut signals = MessageStream::for_match_rule(rule, &connection, None).await?;
    let listener = tokio::spawn(async move {
        while let Some(Ok(signal)) = signals.next().await {
            // Asking for an idle unit makes systemd load it and drop it again:
            // these two are echoes of our own question.
            let header = signal.header();
            let member = header.member().map(|member| member.as_str());
            if !matches!(member, Some("UnitNew" | "UnitRemoved")) {
                changed.notify_one();
            }
        }
        // Lost: looking again is what finds out and connects anew.
        changed.notify_one();
    });
    // From here on the listener ends with the connection, whoever gives up.
    let live = Live { bus, connection, listener };
    // Without it the manager sends no signals. Signals are hints, so nothing
    // depends on the answer.
    let to = destination(&live.bus);
    let _ = live.connection.call_method(to, MANAGER_PATH, Some(MANAGER), "Subscribe", &()).await;
    Ok(live)
}

#[cfg(test)]
#[path = "systemd_test.rs"]
mod tests;
