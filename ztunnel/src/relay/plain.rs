//! A byte stream as an end of a relay.

use std::{
    future::Future,
    io,
    mem::MaybeUninit,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, ReadBuf};

use super::{Broken, End, Queued};
use crate::socket::Stream;

/// Read on the stack, so that an idle connection holds no buffer and a small message one of its own size.
const SMALL: usize = 16 * 1024;
/// The buffer once a read has filled the small one; doubled while reads fill it, to `LARGEST`.
const LARGE: usize = 64 * 1024;
/// Larger ones have not paid anywhere (reference/performance.md).
const LARGEST: usize = 256 * 1024;

/// A TCP connection, or whatever else is a [`Stream`]. Dropped before it was told that all was sent, it resets the
/// connection: a FIN would pass a cut for an end.
#[derive(Debug)]
pub struct Plain<S: Stream> {
    stream: S,
    finished: bool,
    /// Writing met a reset, and took it from the kernel: reading would find an end where there is none.
    broken: bool,
    /// How much the next read asks for.
    read_size: usize,
}

impl<S: Stream> Plain<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, finished: false, broken: false, read_size: SMALL }
    }

    fn poll_small(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        let mut space = [MaybeUninit::<u8>::uninit(); SMALL];
        let mut buffer = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
        if buffer.remaining() == 0 {
            self.read_size = LARGE;
        }
        Poll::Ready(Ok(Bytes::copy_from_slice(buffer.filled())))
    }

    fn poll_large(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        // Made for this read only: allocating costs less than holding it while the connection is idle.
        let mut buffer = BytesMut::with_capacity(self.read_size);
        let read = ready!(pin!(self.stream.read_buf(&mut buffer)).poll(cx))?;
        self.read_size = match read {
            full if full >= self.read_size => (self.read_size * 2).min(LARGEST),
            few if few <= SMALL => SMALL,
            some if some <= self.read_size / 4 => self.read_size / 2,
            _ => self.read_size,
        };
        Poll::Ready(Ok(buffer.freeze()))
    }
}

impl<S: Stream> End for Plain<S> {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Broken>> {
        let chunk = match self.read_size {
            SMALL => ready!(self.poll_small(cx)),
            _ => ready!(self.poll_large(cx)),
        };
        match chunk {
            Ok(bytes) if !bytes.is_empty() => Poll::Ready(Ok(Some(bytes))),
            Ok(_) if self.broken => Poll::Ready(Err(Broken::Reset)),
            Ok(_) => Poll::Ready(Ok(None)),
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, chunk: &mut Bytes) -> Poll<Result<(), Broken>> {
        while !chunk.is_empty() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, chunk)) {
                Ok(0) => return Poll::Ready(Err(Broken::Lost(io::ErrorKind::WriteZero.into()))),
                Ok(written) => chunk.advance(written),
                Err(error) => {
                    // The kernel says EPIPE when the peer had finished before it reset: that end is a true one.
                    self.broken = error.kind() != io::ErrorKind::BrokenPipe;
                    return Poll::Ready(Err(error.into()));
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        self.finished = true;
        Poll::Ready(Ok(()))
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        self.stream.poll_peer_reset(cx).map(|()| Broken::Reset)
    }

    fn reset(&mut self, _: Queued) {
        self.stream.reset_on_drop();
    }
}

impl<S: Stream> Drop for Plain<S> {
    fn drop(&mut self) {
        if !self.finished {
            self.stream.reset_on_drop();
        }
    }
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // A write after the reset was seen gives EPIPE: it is the same event.
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionAborted => Self::Reset,
            _ => Self::Lost(error),
        }
    }
}
