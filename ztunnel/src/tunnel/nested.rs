//! A stream in one tunnel, as the byte stream that another tunnel runs over.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::relay::{Broken, End};

/// Copied at once into the outer tunnel: a TLS record.
const PIECE: usize = 16 * 1024;

/// Reads and writes an end of a relay as bytes.
#[derive(Debug)]
pub struct Nested<E> {
    outer: E,
    /// Received, not yet read.
    received: Bytes,
    /// Accepted for writing, not yet taken by the outer tunnel.
    pending: Bytes,
    finished: bool,
}

impl<E: End> Nested<E> {
    pub fn new(outer: E) -> Self {
        Self { outer, received: Bytes::new(), pending: Bytes::new(), finished: false }
    }

    fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.pending.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.outer.poll_write(cx, &mut self.pending).map_err(broken)
    }
}

fn broken(error: Broken) -> io::Error {
    match error {
        Broken::Reset => io::ErrorKind::ConnectionReset.into(),
        Broken::Stopped => io::ErrorKind::BrokenPipe.into(),
        Broken::Lost(error) => error,
        Broken::Tunnel(error) => io::Error::other(error),
    }
}

impl<E: End + Unpin> AsyncRead for Nested<E> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.received.is_empty() && !self.finished {
            match ready!(self.outer.poll_chunk(cx)).map_err(broken)? {
                Some(chunk) => self.received = chunk,
                None => self.finished = true,
            }
        }
        let count = self.received.len().min(into.remaining());
        into.put_slice(self.received.get(..count).unwrap_or_default());
        self.received.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<E: End + Unpin> AsyncWrite for Nested<E> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_pending(cx))?;
        let count = bytes.len().min(PIECE);
        self.pending = Bytes::copy_from_slice(bytes.get(..count).unwrap_or_default());
        // What is not taken now is taken before the next write, or by the flush.
        match self.poll_pending(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(count)),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_pending(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_pending(cx))?;
        self.outer.poll_finish(cx).map_err(broken)
    }
}
