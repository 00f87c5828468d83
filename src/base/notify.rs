//! The service manager's notification socket.

use std::{
    env,
    io::Result,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
};

/// Tells systemd `state`, such as `READY=1`; does nothing outside of it.
///
/// Source: sd_notify(3). An address that starts with `@` is abstract.
///
/// # Errors
/// What the socket says; a daemon may go on without being heard.
pub fn notify(state: &str) -> Result<()> {
    let Some(path) = env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let path = path.to_string_lossy();
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&*path)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.send_to_addr(state.as_bytes(), &address).map(drop)
}
