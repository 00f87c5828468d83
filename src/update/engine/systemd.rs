//! What systemd says about the units that a good boot has, and asking it to reboot.

use std::{path::Path, time::Duration};

use tokio::net::UnixStream;
use zbus::{Connection, connection::Builder, zvariant::OwnedObjectPath};

const SERVICE: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// One row of `ListUnitsByNames`. Source: org.freedesktop.systemd1(5).
type Row = (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

/// A connection to the message bus at `socket`.
///
/// # Errors
/// D-Bus's.
pub async fn connect(socket: &Path) -> zbus::Result<Connection> {
    let connecting = async {
        let stream = UnixStream::connect(socket).await?;
        Builder::unix_stream(stream).method_timeout(CALL_TIMEOUT).build().await
    };
    match tokio::time::timeout(CALL_TIMEOUT, connecting).await {
        Ok(connected) => connected,
        Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
    }
}

/// Name and state (`active`, `failed`, `not-found`, ...) of these units.
///
/// # Errors
/// D-Bus's.
pub async fn states(bus: &Connection, units: &[String]) -> zbus::Result<Vec<(String, String)>> {
    let reply = bus.call_method(Some(SERVICE), PATH, Some(MANAGER), "ListUnitsByNames", &(units,)).await?;
    let rows: Vec<Row> = reply.body().deserialize()?;
    let state = |row: Row| if row.2 == "not-found" { (row.0, row.2) } else { (row.0, row.3) };
    Ok(rows.into_iter().map(state).collect())
}

/// Has systemd stop everything in order and restart the machine.
///
/// # Errors
/// D-Bus's.
pub async fn reboot(bus: &Connection) -> zbus::Result<()> {
    bus.call_method(Some(SERVICE), PATH, Some(MANAGER), "Reboot", &()).await.map(drop)
}
