//! A deadline for a client to say the first thing it wants.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// Time from the connection to the first request, or to the end of HTTP/2's
/// preface: a client of HTTP/2 may connect long before it asks for something.
const DEADLINE: Duration = Duration::from_secs(5);
/// Source: RFC 9113, section 3.4. The whole preface is 24 bytes long.
const PREFACE_START: u8 = b'P';
const PREFACE_BYTES: usize = 24;

/// Whether the first request was read; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Begun(Arc<AtomicBool>);

impl Begun {
    /// The first request is there.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// `S`, of which reading fails when the deadline passes before something began.
#[derive(Debug)]
pub struct Prompt<S> {
    stream: S,
    begun: Begun,
    /// None once something has begun.
    deadline: Option<Pin<Box<Sleep>>>,
    first: Option<u8>,
    read: usize,
}

impl<S> Prompt<S> {
    /// A connection of which nothing was read yet.
    pub fn new(stream: S, begun: Begun) -> Self {
        Self::with_deadline(stream, begun, DEADLINE)
    }

    fn with_deadline(stream: S, begun: Begun, deadline: Duration) -> Self {
        let deadline = Some(Box::pin(tokio::time::sleep(deadline)));
        Self { stream, begun, deadline, first: None, read: 0 }
    }

    fn note(&mut self, bytes: &[u8]) {
        self.first = self.first.or_else(|| bytes.first().copied());
        self.read += bytes.len();
        let has_preface = self.first == Some(PREFACE_START) && self.read >= PREFACE_BYTES;
        // `POST` and `PUT` begin with the same letter: they are cut off later,
        // by the deadline between two requests.
        if has_preface || self.begun.get() {
            self.deadline = None;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prompt<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.deadline.is_none() {
            return Pin::new(&mut this.stream).poll_read(context, buffer);
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(context, buffer);
        if polled.is_ready() {
            this.note(&buffer.filled()[before..]);
            return polled;
        }
        if this.begun.get() {
            this.deadline = None;
        } else if let Some(deadline) = &mut this.deadline
            && deadline.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "it asked for nothing in time")));
        }
        Poll::Pending
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prompt<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// Reads everything; whether the deadline ended it. Who may stay is not cut
    /// off in ten times the deadline.
    async fn is_cut(said: &[u8], has_begun: bool) -> bool {
        let (mut client, server) = tokio::io::duplex(100);
        let begun = Begun::default();
        let deadline = Duration::from_millis(20);
        let mut server = Prompt::with_deadline(server, begun.clone(), deadline);
        client.write_all(said).await.unwrap();
        if has_begun {
            begun.set();
        }
        let mut bytes = Vec::new();
        let read = tokio::time::timeout(deadline * 10, server.read_to_end(&mut bytes)).await;
        assert_eq!(bytes, said);
        read.is_ok_and(|read| read.is_err())
    }

    #[tokio::test]
    async fn only_those_who_begin_may_stay() {
        #[rustfmt::skip]
        let rows: [(&str, &[u8], bool, bool); 5] = [
            ("silence",           b"",                                   false, true),
            ("a dripped header",  b"GET / HTTP/1.1\r\nHost: a\r\nX: ",   false, true),
            ("a whole request",   b"GET / HTTP/1.1\r\n\r\n",             true,  false),
            ("a part of HTTP/2",  b"PRI * HTTP/2.0\r\n",                 false, true),
            ("idle HTTP/2",       b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",   false, false),
        ];
        for (name, said, has_begun, want) in rows {
            assert_eq!(is_cut(said, has_begun).await, want, "{name}");
        }
    }
}
