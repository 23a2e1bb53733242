//! One CONNECT as an end of a relay.

use std::{
    fmt,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};

use crate::relay::{Broken, End};

/// A byte stream inside a tunnel. `L` is held as long as the stream is open, such as a place in a pool.
pub struct InTunnel<L> {
    send: SendStream<Bytes>,
    receive: RecvStream,
    /// Bytes handed out by `poll_chunk` whose room the peer gets back when the next chunk is asked for, which is
    /// when these have been written: so a slow reader slows its sender and nobody else.
    unread: usize,
    received_end: bool,
    _held: L,
}

impl<L> InTunnel<L> {
    pub(super) fn new(send: SendStream<Bytes>, receive: RecvStream, held: L) -> Self {
        Self { send, receive, unread: 0, received_end: false, _held: held }
    }

    fn release_read(&mut self) {
        let bytes = std::mem::take(&mut self.unread);
        if bytes > 0 {
            // It fails only for more than was received, and this is exactly what was.
            drop(self.receive.flow_control().release_capacity(bytes));
        }
    }
}

impl<L> InTunnel<L> {
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

impl<L> fmt::Debug for InTunnel<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("InTunnel").field(&self.receive.stream_id()).finish()
    }
}

impl<L> End for InTunnel<L> {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Broken>> {
        self.release_read();
        loop {
            match ready!(self.receive.poll_data(cx)) {
                // An empty frame carries nothing, and an empty chunk would read as the end.
                Some(Ok(chunk)) if chunk.is_empty() => {}
                Some(Ok(chunk)) => {
                    self.unread = chunk.len();
                    return Poll::Ready(Ok(Some(chunk)));
                }
                Some(Err(error)) => return Poll::Ready(Err(error.into())),
                None => {
                    self.received_end = true;
                    return Poll::Ready(Ok(None));
                }
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, chunk: &mut Bytes) -> Poll<Result<(), Broken>> {
        let written = ready!(self.poll_send(cx, chunk));
        Poll::Ready(written.map_err(|error| self.why(cx, error)))
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let sent = self.send.send_data(Bytes::new(), true);
        Poll::Ready(sent.map_err(|error| self.why(cx, error.into())))
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        match ready!(self.send.poll_reset(cx)) {
            Ok(reason) => Poll::Ready(reset_for(reason)),
            Err(error) => Poll::Ready(error.into()),
        }
    }

    fn reset(&mut self) {
        self.send.send_reset(Reason::CANCEL);
    }
}

impl<L> Drop for InTunnel<L> {
    fn drop(&mut self) {
        self.release_read();
    }
}

impl From<h2::Error> for Broken {
    fn from(error: h2::Error) -> Self {
        if error.is_reset() { Self::Reset } else { Self::Tunnel(error) }
    }
}
