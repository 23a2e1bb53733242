//! Reads far ahead while bytes come fast.
//!
//! TLS asks for a record at a time, 16 KiB at most, and each costs a system call. While those reads come back full,
//! this reads many records at once and hands them on from memory: one copy more, and an eighth of the calls. A
//! connection that is idle or slow holds no buffer.

use std::{
    io::{self, IoSlice},
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// Eight TLS records of the largest size, and their heads.
const AHEAD: usize = 8 * (16 * 1024 + 256);
/// A read that brings less says that no more is waiting.
const FEW: usize = 16 * 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct ReadAhead<IO> {
    io: IO,
    /// Read, not yet asked for.
    ahead: Bytes,
    pace: Pace,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pace {
    /// Reads go through.
    Slow,
    /// The last read filled what it was given.
    Fast,
}

impl<IO> ReadAhead<IO> {
    pub(super) fn new(io: IO) -> Self {
        Self { io, ahead: Bytes::new(), pace: Pace::Slow }
    }
}

impl<IO: AsyncRead + Unpin> ReadAhead<IO> {
    fn poll_through(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_read(cx, into))?;
        if into.remaining() == 0 {
            self.pace = Pace::Fast;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Made for this read: allocating costs less than holding it while nothing comes.
        let mut buffer = BytesMut::with_capacity(AHEAD);
        let read = ready!(pin!(self.io.read_buf(&mut buffer)).poll(cx))?;
        if read < FEW {
            self.pace = Pace::Slow;
        }
        self.ahead = buffer.freeze();
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for ReadAhead<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            match self.pace {
                Pace::Slow => return self.poll_through(cx, into),
                Pace::Fast => ready!(self.poll_ahead(cx))?,
            }
        }
        let count = self.ahead.len().min(into.remaining());
        into.put_slice(self.ahead.get(..count).unwrap_or_default());
        self.ahead.advance(count);
        if self.ahead.is_empty() {
            // Frees the buffer, which an empty slice of it would hold.
            self.ahead = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for ReadAhead<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
