//! A connection over the network or to a unix socket.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use proa_etcd_api::url::Address;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A connection over the network or to a unix socket.
#[derive(Debug)]
pub enum Socket {
    /// Over the network.
    Tcp(TcpStream),
    /// Within the machine.
    Unix(UnixStream),
}

impl Socket {
    /// Dials.
    ///
    /// # Errors
    /// What the system says.
    pub async fn connect(address: &Address) -> io::Result<Self> {
        Ok(match address {
            Address::Tcp(there) => TcpStream::connect((there.host.as_str(), there.port)).await?.into(),
            Address::Unix(path) => Self::Unix(UnixStream::connect(path).await?),
        })
    }

    /// Who is at the other end; by a unix socket that is this machine, port 0.
    ///
    /// # Errors
    /// The connection has ended.
    pub fn peer(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.peer_addr(),
            Self::Unix(_) => Ok((Ipv4Addr::LOCALHOST, 0).into()),
        }
    }

    /// The first byte that comes, which stays to be read; `None` when none will.
    ///
    /// # Errors
    /// What the system says.
    pub async fn peek(&self) -> io::Result<Option<u8>> {
        let mut first = [MaybeUninit::new(0)];
        let read = match self {
            Self::Tcp(stream) => {
                stream.async_io(Interest::READABLE, || SockRef::from(stream).peek(&mut first)).await?
            }
            Self::Unix(stream) => {
                stream.async_io(Interest::READABLE, || SockRef::from(stream).peek(&mut first)).await?
            }
        };
        // SAFETY: it has held a byte from the beginning.
        Ok((read > 0).then(|| unsafe { first[0].assume_init() }))
    }

    /// The same connection for a thread that may block.
    ///
    /// # Errors
    /// What the system says about the descriptor.
    pub fn into_blocking(self) -> io::Result<socket2::Socket> {
        let socket: socket2::Socket = match self {
            Self::Tcp(stream) => stream.into_std()?.into(),
            Self::Unix(stream) => stream.into_std()?.into(),
        };
        socket.set_nonblocking(false)?;
        Ok(socket)
    }
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Self {
        // Small requests must not wait for more; failing only costs time.
        let _ = stream.set_nodelay(true);
        Self::Tcp(stream)
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Tcp(stream) => stream.as_raw_fd(),
            Self::Unix(stream) => stream.as_raw_fd(),
        }
    }
}

/// What both kinds do alike.
trait Bytes: AsyncRead + AsyncWrite + Unpin {}

impl Bytes for TcpStream {}
impl Bytes for UnixStream {}

impl Socket {
    fn bytes(self: Pin<&mut Self>) -> Pin<&mut dyn Bytes> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream),
            Self::Unix(stream) => Pin::new(stream),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.bytes().poll_read(context, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.bytes().poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.bytes().poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.bytes().poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.bytes().poll_write_vectored(context, slices)
    }

    /// Both take a whole list at once.
    fn is_write_vectored(&self) -> bool {
        true
    }
}
