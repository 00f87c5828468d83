//! Where connections are accepted: a port, or a unix socket.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use proa_etcd_api::url::{self, Address, HostPort, Url};
use proa_etcd_client::Socket;
use socket2::{Domain, SockAddr, Type};
use tokio::net::{TcpListener, UnixListener};

/// Connections that wait to be accepted. Source: Go, which takes the system's
/// `somaxconn`; 4096 since Linux 5.4.
const BACKLOG: i32 = 4096;
/// How long a folder that another process has locked is waited for.
const LOCK_TRIES: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The address.
    pub address: Address<SocketAddr>,
    /// Whether TLS is spoken there.
    pub encrypted: bool,
    /// Whether a client may also do without: one address was given by both schemes.
    pub also_plain: bool,
    /// `--socket-reuse-port`: whether others may listen on the same port.
    pub reuse_port: bool,
}

/// Where to listen by a URL; only `localhost` is a name. The error says what would be right.
impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Url { encrypted, address } = url::parse(text)?;
        let address = match address {
            Address::Tcp(HostPort { host, port }) => {
                let ip = match host.as_str() {
                    "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
                    host => host.parse().map_err(|_| "give an IP address to listen on".to_owned())?,
                };
                Address::Tcp(SocketAddr::new(ip, port))
            }
            Address::Unix(path) => Address::Unix(path),
        };
        Ok(Self { address, encrypted, also_plain: false, reuse_port: false })
    }
}

impl From<SocketAddr> for Listen {
    /// Without TLS.
    fn from(address: SocketAddr) -> Self {
        Self { address: Address::Tcp(address), encrypted: false, also_plain: false, reuse_port: false }
    }
}

impl Listen {
    /// Opens the listener, for the runtime that this is called in. The file of a unix
    /// socket whose listener has died is replaced, any other is left alone.
    ///
    /// # Errors
    /// What the system says.
    ///
    /// # Panics
    /// When called outside of a runtime.
    pub fn bind(&self) -> io::Result<Listener> {
        match &self.address {
            Address::Tcp(address) => {
                let socket = socket(Domain::for_address(*address))?;
                // A member that starts again must not wait for connections of the last one.
                socket.set_reuse_address(true)?;
                if self.reuse_port {
                    socket.set_reuse_port(true)?;
                }
                socket.bind(&(*address).into())?;
                socket.listen(BACKLOG)?;
                TcpListener::from_std(socket.into()).map(Listener::Tcp)
            }
            Address::Unix(path) => {
                // Whoever finds a file deserted must not remove what another has made in
                // its place: one at a time in a folder.
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
                let _locked = lock(folder.unwrap_or(Path::new(".")))?;
                if is_deserted(path)? {
                    fs::remove_file(path)?;
                }
                let socket = socket(Domain::UNIX)?;
                socket.bind(&SockAddr::unix(path)?)?;
                let file = SocketFile::of(path)?;
                socket.listen(BACKLOG)?;
                Ok(Listener::Unix { _file: file, listener: UnixListener::from_std(socket.into())? })
            }
        }
    }
}

/// Locks a folder, if it may be read; others do so for the moment of a bind.
fn lock(folder: &Path) -> io::Result<Option<File>> {
    let Ok(file) = File::open(folder) else { return Ok(None) };
    for _ in 0..LOCK_TRIES {
        if file.try_lock().is_ok() {
            return Ok(Some(file));
        }
        std::thread::sleep(LOCK_PAUSE);
    }
    Err(io::Error::other(format!("another process has {} locked", folder.display())))
}

fn socket(domain: Domain) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(domain, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Whether `path` is a socket that nobody listens on, as a killed process leaves it.
/// A busy listener does not refuse, nor does one that may not be asked.
fn is_deserted(path: &Path) -> io::Result<bool> {
    if !fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket()) {
        return Ok(false);
    }
    let dialed = socket(Domain::UNIX)?.connect(&SockAddr::unix(path)?);
    Ok(dialed.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused))
}

/// Accepts connections until it is dropped.
#[derive(Debug)]
pub enum Listener {
    /// On a port.
    Tcp(TcpListener),
    /// On a unix socket.
    Unix {
        /// Removed first: while somebody still listens, no other replaces the file.
        _file: SocketFile,
        /// The listener.
        listener: UnixListener,
    },
}

impl Listener {
    /// The next connection.
    ///
    /// # Errors
    /// What the system says, as when descriptors run out.
    pub async fn accept(&self) -> io::Result<Socket> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(stream, _)| stream.into()),
            Self::Unix { listener, .. } => listener.accept().await.map(|(stream, _)| Socket::Unix(stream)),
        }
    }
}

/// The file of a unix socket, removed when dropped.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode: what others put in its place is theirs.
    identity: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), identity: identity(path)? })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            // One that stays is found deserted at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_deserted_socket_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("etcd.sock");
        let listen: Listen = format!("unix://{}", path.display()).parse().unwrap();
        let taken = io::ErrorKind::AddrInUse;

        let first = listen.bind().unwrap();
        assert_eq!(listen.bind().unwrap_err().kind(), taken, "somebody listens there");
        drop(first);
        assert!(!path.exists(), "a listener that ends leaves nothing");

        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let second = listen.bind().unwrap();
        fs::remove_file(&path).unwrap();
        let third = listen.bind().unwrap();
        drop(second);
        assert_eq!(listen.bind().unwrap_err().kind(), taken, "the file of another was removed");
        drop(third);

        fs::write(&path, "not a socket").unwrap();
        assert_eq!(listen.bind().unwrap_err().kind(), taken);
        assert_eq!(fs::read_to_string(&path).unwrap(), "not a socket");
    }
}
