//! Bounds what a peer can make an HTTP/2 connection do.
//!
//! Frames that cost us work but carry nothing (PING, SETTINGS, PRIORITY, `RST_STREAM`, `WINDOW_UPDATE`, empty DATA,
//! HEADERS) are weighed against the bytes that the peer has really sent; more than an allowance and the connection
//! is cut. What opens and ends a stream weighs least: a busy peer opens thousands in a second. The library below
//! bounds memory; this bounds work, and it also bounds how long a header block may stay unfinished. What the library
//! refuses without telling us is counted here as it goes out.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::frames::{Frame, Frames, kind};

/// Allowed per second: 8,000 streams opened and ended, or 2,000 PINGs.
const WEIGHT_PER_SECOND: u32 = 16_000;
/// Allowed at once, after a quiet time.
const WEIGHT_BURST: u32 = 64_000;
/// Bytes of payload that pay for one more: a busy tunnel sends `WINDOW_UPDATE`s in proportion to its data.
const BYTES_PER_WEIGHT: u64 = 32;
/// What has been paid is good for a burst, not for ever.
const PAID_BYTES_MAX: u64 = WEIGHT_BURST as u64 * BYTES_PER_WEIGHT;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// What a frame costs us.
fn weight(kind: u8, flags: u8) -> u32 {
    match kind {
        kind::HEADERS if flags & END_HEADERS != 0 => 1,
        kind::DATA if flags & END_STREAM != 0 => 1,
        // It undoes what HEADERS began, and some peers end every stream so.
        kind::RST_STREAM => 4,
        _ => 8,
    }
}

/// Why a connection was cut.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Abuse {
    #[error("the peer floods the connection with HTTP/2 frames that carry nothing")]
    Flood,
    #[error("the peer has left a header block unfinished for {0:?}")]
    SlowHeaders(Duration),
}

/// Reads frame heads out of the bytes that go by. Knows no time but what it is told.
#[derive(Debug)]
pub(super) struct Meter {
    frames: Frames,
    allowance: u32,
    paid_bytes: u64,
    refilled: Instant,
    headers_since: Option<Instant>,
    headers_within: Duration,
}

impl Meter {
    /// `preface` is what comes before the first frame: 24 bytes from a client, none from a server.
    fn new(preface: usize, now: Instant, headers_within: Duration) -> Self {
        Self {
            frames: Frames::after(preface),
            allowance: WEIGHT_BURST,
            paid_bytes: 0,
            refilled: now,
            headers_since: None,
            headers_within,
        }
    }

    fn pass(&mut self, mut bytes: &[u8], now: Instant) -> Result<(), Abuse> {
        self.refill(now);
        while let Some(frame) = self.frames.next(&mut bytes) {
            self.frame(frame, now)?;
        }
        match self.headers_since {
            Some(since) if now.duration_since(since) > self.headers_within => {
                Err(Abuse::SlowHeaders(self.headers_within))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn frame(&mut self, frame: Frame, now: Instant) -> Result<(), Abuse> {
        let Frame { kind, flags, length, .. } = frame;
        let ends_headers = flags & END_HEADERS != 0;
        match kind {
            kind::DATA if length > 0 => {
                self.paid_bytes = (self.paid_bytes + u64::from(length)).min(PAID_BYTES_MAX);
                return Ok(());
            }
            kind::HEADERS | kind::CONTINUATION => {
                self.headers_since =
                    if ends_headers { None } else { self.headers_since.or(Some(now)) };
            }
            _ => {}
        }
        self.spend(weight(kind, flags))
    }

    fn spend(&mut self, weight: u32) -> Result<(), Abuse> {
        let affordable = u32::try_from(self.paid_bytes / BYTES_PER_WEIGHT).unwrap_or(u32::MAX);
        let paid = affordable.min(weight);
        self.paid_bytes -= u64::from(paid) * BYTES_PER_WEIGHT;
        self.allowance = self.allowance.checked_sub(weight - paid).ok_or(Abuse::Flood)?;
        Ok(())
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.duration_since(self.refilled);
        let earned = elapsed.as_millis().min(10_000) * u128::from(WEIGHT_PER_SECOND) / 1_000;
        if let Ok(earned @ 1..) = u32::try_from(earned) {
            self.allowance = self.allowance.saturating_add(earned).min(WEIGHT_BURST);
            self.refilled = now;
        }
    }
}

/// How many requests the library has refused without handing them on.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Unread {
    /// Their heads were too large, or made no sense.
    pub heads: u64,
    /// The tunnel had too many streams.
    pub streams: u64,
}

/// Finds them among what is sent: the library tells the peer, and us not at all.
#[derive(Clone, Debug, Default)]
pub(super) struct Refused {
    unread: Rc<Cell<Unread>>,
    /// Heads that ended their stream at once and are still to be sent: refusals of ours.
    ours: Rc<Cell<u64>>,
}

/// RFC 9113 section 7.
const PROTOCOL_ERROR: u32 = 1;
const REFUSED_STREAM: u32 = 7;

impl Refused {
    pub(super) fn unread(&self) -> Unread {
        self.unread.get()
    }

    /// We are about to refuse one that we have read.
    pub(super) fn ours(&self) {
        self.ours.set(self.ours.get() + 1);
    }

    fn sent(&self, frame: Frame) {
        let mut unread = self.unread.get();
        match (frame.kind, frame.reason) {
            (_, Some(PROTOCOL_ERROR)) => unread.heads += 1,
            (_, Some(REFUSED_STREAM)) => unread.streams += 1,
            // The library's 431 to a request that has no more to say, so that nothing is left to be reset.
            (kind::HEADERS, _) if frame.flags & END_STREAM != 0 => {
                match self.ours.get().checked_sub(1) {
                    Some(left) => self.ours.set(left),
                    None => unread.heads += 1,
                }
            }
            _ => {}
        }
        self.unread.set(unread);
    }
}

/// A connection whose peer is watched for abuse.
#[derive(Debug)]
pub(super) struct Guarded<IO> {
    io: IO,
    meter: Meter,
    sent: Frames,
    refused: Refused,
}

impl<IO> Guarded<IO> {
    /// Around a connection to a server.
    pub(super) fn new(io: IO, headers_within: Duration) -> Self {
        // What we send as a client begins with the preface.
        Self::between(io, 0, PREFACE.len(), headers_within)
    }

    /// Around a connection from a client, which begins with the preface.
    pub(super) fn with_preface(io: IO, headers_within: Duration) -> Self {
        Self::between(io, PREFACE.len(), 0, headers_within)
    }

    fn between(io: IO, received: usize, sent: usize, headers_within: Duration) -> Self {
        let meter = Meter::new(received, Instant::now(), headers_within);
        Self { io, meter, sent: Frames::after(sent), refused: Refused::default() }
    }

    /// Goes on counting when the connection belongs to the library.
    pub(super) fn refused(&self) -> Refused {
        self.refused.clone()
    }

    fn has_sent(&mut self, mut bytes: &[u8]) {
        while let Some(frame) = self.sent.next(&mut bytes) {
            self.refused.sent(frame);
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Guarded<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, into))?;
        let new = into.filled().get(before..).unwrap_or_default();
        // A coarse clock would do, but this one is 20 ns against the 5 us of the read above.
        let passed = self.meter.pass(new, Instant::now());
        Poll::Ready(passed.map_err(|abuse| io::Error::new(io::ErrorKind::InvalidData, abuse)))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Guarded<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
        self.has_sent(bytes.get(..written).unwrap_or_default());
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, slices))?;
        let mut left = written;
        for slice in slices {
            let sent = slice.get(..left.min(slice.len())).unwrap_or_default();
            self.has_sent(sent);
            left -= sent.len();
        }
        Poll::Ready(Ok(written))
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
