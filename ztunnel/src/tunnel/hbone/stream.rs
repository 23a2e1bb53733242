//! One CONNECT as an end of a relay.

use std::{
    fmt,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};

use super::window::Open;
use crate::relay::{Broken, End, Queued};

/// Whether a stream moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    Free,
    /// Bytes wait for the peer to take them, or for our side to.
    Blocked,
}

/// What is held as long as a stream is open, such as a place in a pool.
pub trait Held {
    /// Told of each change. A stream begins free, and ends so.
    fn flows(&self, now: Flow);
}

impl Held for () {
    fn flows(&self, _: Flow) {}
}

/// A byte stream inside a tunnel.
pub struct InTunnel<L: Held> {
    send: SendStream<Bytes>,
    receive: RecvStream,
    /// Bytes handed out by `poll_chunk` whose room the peer gets back when the next chunk is asked for, which is
    /// when these have been written: so a slow reader slows its sender and nobody else.
    unread: usize,
    unsent: bool,
    finished: bool,
    told: Flow,
    held: L,
    _open: Open,
}

impl<L: Held> InTunnel<L> {
    pub(super) fn new(send: SendStream<Bytes>, receive: RecvStream, held: L, open: Open) -> Self {
        let (unsent, finished, told) = (false, false, Flow::Free);
        Self { send, receive, unread: 0, unsent, finished, told, held, _open: open }
    }

    /// A chunk that is still out when anybody else looks is one that its reader does not take.
    fn tell(&mut self) {
        let now = if self.unread > 0 || self.unsent { Flow::Blocked } else { Flow::Free };
        if std::mem::replace(&mut self.told, now) != now {
            self.held.flows(now);
        }
    }

    fn release_read(&mut self) {
        let bytes = std::mem::take(&mut self.unread);
        if bytes > 0 {
            // It fails only for more than was received, and this is exactly what was.
            drop(self.receive.flow_control().release_capacity(bytes));
        }
    }
}

impl<L: Held> InTunnel<L> {
    fn poll_send(&mut self, cx: &mut Context<'_>, chunk: &mut Bytes) -> Poll<Result<(), Broken>> {
        while !chunk.is_empty() {
            self.send.reserve_capacity(chunk.len());
            let granted = match self.send.capacity() {
                0 => match ready!(self.send.poll_capacity(cx)) {
                    Some(granted) => granted?,
                    None => return Poll::Ready(Err(Broken::Reset)),
                },
                granted => granted,
            };
            let part = chunk.split_to(granted.min(chunk.len()));
            if !part.is_empty() {
                self.send.send_data(part, false)?;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Why nothing could be sent: the peer's reason, if it gave one.
    fn why(&mut self, cx: &mut Context<'_>, error: Broken) -> Broken {
        match self.send.poll_reset(cx) {
            Poll::Ready(Ok(reason)) => reset_for(reason),
            Poll::Ready(Err(_)) | Poll::Pending => error,
        }
    }
}

// Spec: RFC 9113 section 8.1: after a complete response, a server may ask by RST_STREAM(NO_ERROR) that nothing more
// be sent. Envoy ends every CONNECT stream so whose application has finished first. That the response was complete
// is seen by its reader: without END_STREAM it is told of the reset.
fn reset_for(reason: Reason) -> Broken {
    if reason == Reason::NO_ERROR { Broken::Stopped } else { Broken::Reset }
}

impl<L: Held> fmt::Debug for InTunnel<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("InTunnel").field(&self.receive.stream_id()).finish()
    }
}

impl<L: Held> End for InTunnel<L> {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Broken>> {
        self.release_read();
        self.tell();
        loop {
            match ready!(self.receive.poll_data(cx)) {
                // An empty frame carries nothing, and an empty chunk would read as the end.
                Some(Ok(chunk)) if chunk.is_empty() => {}
                Some(Ok(chunk)) => {
                    self.unread = chunk.len();
                    self.tell();
                    return Poll::Ready(Ok(Some(chunk)));
                }
                Some(Err(error)) => return Poll::Ready(Err(error.into())),
                None => return Poll::Ready(Ok(None)),
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, chunk: &mut Bytes) -> Poll<Result<(), Broken>> {
        let sent = self.poll_send(cx, chunk);
        self.unsent = sent.is_pending();
        self.tell();
        let written = ready!(sent);
        Poll::Ready(written.map_err(|error| self.why(cx, error)))
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.finished = true;
        let sent = self.send.send_data(Bytes::new(), true);
        Poll::Ready(sent.map_err(|error| self.why(cx, error.into())))
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        match ready!(self.send.poll_reset(cx)) {
            Ok(reason) => Poll::Ready(reset_for(reason)),
            Err(error) => Poll::Ready(error.into()),
        }
    }

    fn reset(&mut self, queued: Queued) {
        // An unfinished stream that is dropped is reset behind what is queued. A finished one would only be stopped.
        if self.finished || queued == Queued::Drop {
            self.send.send_reset(Reason::CANCEL);
        }
    }
}

impl<L: Held> Drop for InTunnel<L> {
    fn drop(&mut self) {
        self.release_read();
        self.unsent = false;
        self.tell();
    }
}

impl From<h2::Error> for Broken {
    fn from(error: h2::Error) -> Self {
        if error.is_reset() { Self::Reset } else { Self::Tunnel(error) }
    }
}
