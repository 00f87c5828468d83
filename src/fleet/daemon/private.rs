//! systemd's private socket: a D-Bus connection without a bus in between.
//!
//! systemd signs what it sends there as `org.freedesktop.systemd1`, a well-known
//! name where the D-Bus specification has a unique one, and zbus takes such a
//! message for broken. So the reading half puts a unique name of the same length
//! in its place. For that it has to see whole messages, which the shared
//! handshake code does not let it, hence the few lines of SASL.

use std::{future::Future, io, os::fd::BorrowedFd, path::Path, pin::Pin};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
};
use zbus::connection::{
    Builder,
    socket::{ReadHalf, Split, WriteHalf},
};

/// What systemd calls itself, and the unique name that stands in for it.
const WELL_KNOWN: &[u8; 24] = b"org.freedesktop.systemd1";
const UNIQUE: &[u8; 24] = b":1.systemd00000000000000";
/// How the header field begins that holds the sender: field 7, a variant of a
/// string. Source: D-Bus specification, "Header Fields".
const SENDER_FIELD: &[u8; 4] = &[7, 1, b's', 0];
/// Between that and the text: its length, 32 bits.
const LENGTH_BYTES: usize = 4;
/// The longest line of a handshake: `OK` and 32 digits.
const MAX_LINE_BYTES: usize = 256;

/// What a read gives: the number of bytes, and no descriptors.
type Received = io::Result<(usize, Vec<std::os::fd::OwnedFd>)>;
type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Connects and authenticates as the user that this process belongs to.
pub async fn connect(path: &Path) -> zbus::Result<Builder<'static>> {
    let mut stream = UnixStream::connect(path).await?;
    let guid = authenticate(&mut stream).await?;
    let (read, write) = stream.into_split();
    let split: Split<Box<dyn ReadHalf>, Box<dyn WriteHalf>> =
        Split::new(Box::new(Reader(read)), Box::new(Writer(write)));
    Ok(Builder::authenticated_socket(split, guid)?.p2p())
}

/// The client's side of the EXTERNAL mechanism; gives the server's id.
///
/// All of it goes out in one piece, as systemd's own clients have it. A `BEGIN`
/// that travels together with the first message would make systemd read that
/// message as well, and then not look at it before more arrives.
///
/// Source: D-Bus specification, "Authentication Protocol".
async fn authenticate(stream: &mut UnixStream) -> io::Result<zbus::OwnedGuid> {
    // SAFETY: geteuid(2) has no conditions.
    let user = unsafe { libc::geteuid() }.to_string();
    let hex: String = user.bytes().map(|byte| format!("{byte:02x}")).collect();
    stream.write_all(format!("\0AUTH EXTERNAL {hex}\r\nBEGIN\r\n").as_bytes()).await?;
    let line = read_line(stream).await?;
    let refused = || io::Error::new(io::ErrorKind::PermissionDenied, format!("refused this user: {line:?}"));
    let guid =
        line.strip_prefix("OK ").and_then(|guid| zbus::Guid::try_from(guid).ok()).ok_or_else(refused)?;
    Ok(guid.to_owned().into())
}

/// One line without its end, and not a byte of what follows it.
async fn read_line(stream: &mut UnixStream) -> io::Result<String> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        if line.len() > MAX_LINE_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "an endless line in the handshake"));
        }
        line.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}

#[derive(Debug)]
struct Reader(OwnedReadHalf);

#[derive(Debug)]
struct Writer(OwnedWriteHalf);

impl ReadHalf for Reader {
    /// Fills the whole buffer: first the fixed part of a message, then all the rest of it.
    fn recvmsg<'a, 'b, 'c>(&'a mut self, buffer: &'b mut [u8]) -> Boxed<'c, Received>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        Box::pin(async move {
            self.0.read_exact(buffer).await?;
            name_sender(buffer);
            Ok((buffer.len(), Vec::new()))
        })
    }
}

impl WriteHalf for Writer {
    fn sendmsg<'a, 'b, 'c, 'd, 'e>(
        &'a mut self,
        buffer: &'b [u8],
        _fds: &'c [BorrowedFd<'d>],
    ) -> Boxed<'e, io::Result<usize>>
    where
        'a: 'e,
        'b: 'e,
        'c: 'e,
        'd: 'e,
        Self: 'e,
    {
        Box::pin(self.0.write(buffer))
    }

    fn close<'a, 'b>(&'a mut self) -> Boxed<'b, io::Result<()>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(self.0.shutdown())
    }
}

/// Puts the unique name in the place of the well-known one in the field of the sender.
fn name_sender(message: &mut [u8]) {
    let whole = SENDER_FIELD.len() + LENGTH_BYTES + WELL_KNOWN.len();
    let is_sender = |bytes: &[u8]| bytes.starts_with(SENDER_FIELD) && bytes.ends_with(WELL_KNOWN);
    // The header comes first, so the first one found is the header's.
    if let Some(at) = message.windows(whole).position(is_sender) {
        message[at + whole - UNIQUE.len()..at + whole].copy_from_slice(UNIQUE);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_the_sender_is_renamed() {
        let field = |code: u8, name: &[u8]| [&[code, 1, b's', 0, 24, 0, 0, 0], name, &[0]].concat();
        let mut message = [field(6, WELL_KNOWN), field(7, WELL_KNOWN), field(7, WELL_KNOWN)].concat();
        name_sender(&mut message);
        assert_eq!(message, [field(6, WELL_KNOWN), field(7, UNIQUE), field(7, WELL_KNOWN)].concat());
        let mut short = vec![7, 1, b's'];
        name_sender(&mut short);
        assert_eq!(short, [7, 1, b's']);
        zbus::names::UniqueName::try_from(std::str::from_utf8(UNIQUE).unwrap()).unwrap();
    }
}
