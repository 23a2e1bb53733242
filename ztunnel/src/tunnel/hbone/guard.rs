//! Bounds what a peer can make an HTTP/2 connection do.
//!
//! Frames that cost us work but carry nothing (PING, SETTINGS, PRIORITY, `RST_STREAM`, `WINDOW_UPDATE`, empty DATA,
//! HEADERS) are weighed against the bytes that the peer has really sent; more than an allowance and the connection
//! is cut. What opens and ends a stream weighs least: a busy peer opens thousands in a second. The library below bounds memory; this bounds work, and it also bounds how long a header block may stay
//! unfinished.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

/// Allowed per second: 8,000 streams opened and ended, or 2,000 PINGs.
const WEIGHT_PER_SECOND: u32 = 16_000;
/// Allowed at once, after a quiet time.
const WEIGHT_BURST: u32 = 64_000;
/// Bytes of payload that pay for one more: a busy tunnel sends `WINDOW_UPDATE`s in proportion to its data.
const BYTES_PER_WEIGHT: u64 = 32;
/// What has been paid is good for a burst, not for ever.
const PAID_BYTES_MAX: u64 = WEIGHT_BURST as u64 * BYTES_PER_WEIGHT;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD: usize = 9;

/// The frame types that are told apart (RFC 9113 section 6).
mod kind {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const RST_STREAM: u8 = 3;
    pub(super) const CONTINUATION: u8 = 9;
}
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
    head: [u8; HEAD],
    head_len: usize,
    /// Of the current frame's payload (or of the preface), still to come.
    skip: u64,
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
            head: [0; HEAD],
            head_len: 0,
            skip: preface as u64,
            allowance: WEIGHT_BURST,
            paid_bytes: 0,
            refilled: now,
            headers_since: None,
            headers_within,
        }
    }

    fn pass(&mut self, mut bytes: &[u8], now: Instant) -> Result<(), Abuse> {
        self.refill(now);
        while !bytes.is_empty() {
            let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
            self.skip -= skipped as u64;
            bytes = bytes.get(skipped..).unwrap_or_default();
            while let Some((&byte, rest)) = bytes.split_first().filter(|_| self.skip == 0) {
                bytes = rest;
                if let Some(place) = self.head.get_mut(self.head_len) {
                    *place = byte;
                }
                self.head_len += 1;
                if self.head_len == HEAD {
                    self.head_len = 0;
                    self.frame(now)?;
                }
            }
        }
        match self.headers_since {
            Some(since) if now.duration_since(since) > self.headers_within => {
                Err(Abuse::SlowHeaders(self.headers_within))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn frame(&mut self, now: Instant) -> Result<(), Abuse> {
        let [a, b, c, kind, flags, ..] = self.head;
        let length = u32::from_be_bytes([0, a, b, c]);
        self.skip = length.into();
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

/// A connection whose peer is watched for abuse.
#[derive(Debug)]
pub(super) struct Guarded<IO> {
    io: IO,
    meter: Meter,
}

impl<IO> Guarded<IO> {
    /// Around a connection to a server.
    pub(super) fn new(io: IO, headers_within: Duration) -> Self {
        Self { io, meter: Meter::new(0, Instant::now(), headers_within) }
    }

    /// Around a connection from a client, which begins with the preface.
    pub(super) fn with_preface(io: IO, headers_within: Duration) -> Self {
        Self { io, meter: Meter::new(PREFACE.len(), Instant::now(), headers_within) }
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
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
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
