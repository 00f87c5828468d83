//! A client's connection with the filter in its way in.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Filter;

/// Read at a time while the filter is at work. Requests of the clients that
/// need it are small.
const CHUNK_BYTES: usize = 8 << 10;

/// `S`, whose incoming bytes go through a [`Filter`] until that is open.
#[derive(Debug)]
pub struct Filtered<S> {
    stream: S,
    filter: Filter,
    /// What has passed the filter and was not asked for yet.
    passed: BytesMut,
}

impl<S> Filtered<S> {
    /// A connection of which nothing was read yet.
    pub fn new(stream: S) -> Self {
        Self { stream, filter: Filter::default(), passed: BytesMut::new() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Filtered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.passed.is_empty() && !this.filter.is_open() {
            let mut chunk = [0; CHUNK_BYTES];
            let mut chunk = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut this.stream).poll_read(context, &mut chunk))?;
            match chunk.filled() {
                [] => this.filter.finish(&mut this.passed),
                read => this.filter.feed(read, &mut this.passed),
            }
        }
        if this.passed.is_empty() {
            return Pin::new(&mut this.stream).poll_read(context, buffer);
        }
        let size = this.passed.len().min(buffer.remaining());
        buffer.put_slice(&this.passed[..size]);
        this.passed.advance(size);
        if this.passed.is_empty() && this.filter.is_open() {
            // The memory is never needed again.
            this.passed = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Filtered<S> {
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
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::Filtered;
    use crate::authority::PREFACE;

    /// HEADERS with END_HEADERS: an `:authority` as it is.
    fn request(authority: &str) -> Vec<u8> {
        let size = authority.len() as u8;
        let start = [0, 0, size + 2, 1, 4, 0, 0, 0, 1, 0x41, size];
        [&start[..], authority.as_bytes()].concat()
    }

    /// What is read, in pieces of `size` bytes, when a client says this and ends.
    async fn read(input: Vec<u8>, size: usize) -> Vec<u8> {
        let (mut client, server) = tokio::io::duplex(7);
        let said = tokio::spawn(async move { client.write_all(&input).await });
        let mut server = Filtered::new(server);
        let mut output = Vec::new();
        let mut piece = vec![0; size];
        loop {
            match server.read(&mut piece).await.unwrap() {
                0 => break,
                length => output.extend_from_slice(&piece[..length]),
            }
        }
        said.await.unwrap().unwrap();
        // The end stays the end.
        assert_eq!(server.read(&mut piece).await.unwrap(), 0);
        output
    }

    #[tokio::test]
    async fn readers_get_all_in_pieces_of_any_size() {
        let (url, bare) = (request("http://etcd:2379"), request("etcd:2379"));
        let body = [0, 0, 3, 0, 0, 0, 0, 0, 1, 7, 8, 9].as_slice();
        #[rustfmt::skip]
        let rows = [
            ("nothing",           vec![],                               vec![]),
            ("plain HTTP",        b"GET / HTTP/1.1\r\n\r\n".to_vec(),   b"GET / HTTP/1.1\r\n\r\n".to_vec()),
            ("a request",         [PREFACE, &url, body].concat(),       [PREFACE, &bare, body].concat()),
            ("two requests",      [PREFACE, &url, &url].concat(),       [PREFACE, &bare, &bare].concat()),
            ("nothing to do",     [PREFACE, &bare, &url].concat(),      [PREFACE, &bare, &url].concat()),
            ("a request cut off", [PREFACE, &url[..20]].concat(),       [PREFACE, &url[..20]].concat()),
            ("a header cut off",  [PREFACE, &url, &url[..5]].concat(),  [PREFACE, &bare, &url[..5]].concat()),
        ];
        for (name, input, want) in rows {
            for size in [1, 3, 10, 1000] {
                assert_eq!(read(input.clone(), size).await, want, "{name}, {size} bytes at a time");
            }
        }
    }
}
