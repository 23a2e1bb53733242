//! Carries bytes both ways between two ends until both have finished, one is reset, or it may not go on.
//!
//! What one side does reaches the other as if they were connected directly: the end of one direction is passed on
//! while the other goes on, and a reset is passed on as a reset. A peer that has finished and takes no more has
//! closed, not broken: what it said is delivered before anything else happens.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::task::yield_now;

use crate::telemetry::{Bytecount, Carried};

mod plain;

pub use plain::Plain;

/// One end of a relayed connection: reads and writes chunks, never copies between its own and ours.
pub trait End {
    /// The next chunk; `None` when the peer has finished its direction. Not called again after that.
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Broken>>;

    /// Takes from the front of `chunk` until it is empty.
    fn poll_write(&mut self, cx: &mut Context<'_>, chunk: &mut Bytes) -> Poll<Result<(), Broken>>;

    /// Tells the peer that this direction has finished; the other one goes on.
    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>>;

    /// Ready when the peer has broken the connection, also while neither reading nor writing.
    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Broken>;

    /// Breaks the connection so that the peer sees it broken, not finished.
    fn reset(&mut self);
}

/// An end that will carry nothing more.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    #[error("the peer reset the connection")]
    Reset,
    /// What it says is whole; only writing is over.
    #[error("the peer takes no more")]
    Stopped,
    #[error("the connection was lost")]
    Lost(#[source] std::io::Error),
    #[error("the tunnel was lost")]
    Tunnel(#[source] h2::Error),
}

/// Which of the two ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    Client,
    Server,
}

/// How carrying ended; `R` is the reason of a cut.
#[derive(Debug)]
pub enum Ending<R> {
    /// Both directions finished.
    Finished,
    Broken {
        by: Side,
        error: Broken,
    },
    Cut(R),
}

/// Carries until the end. `cut` completes when the connection may not go on; both ends are then reset.
/// Cancel safe: dropping it loses what is in flight, and `carried` has what was not. `cut` is pinned outside: by value
/// it would be in the future twice.
pub async fn relay<C: End, S: End, R>(
    client: &mut C,
    server: &mut S,
    carried: &Carried,
    mut cut: impl Future<Output = R> + Unpin,
) -> Ending<R> {
    let (mut up, mut down) = (Flow::new(&carried.to_server), Flow::new(&carried.to_client));
    let ending = poll_fn(|cx| {
        // First, so that a revoked permit wins over bytes that are also ready.
        if let Poll::Ready(reason) = Pin::new(&mut cut).poll(cx) {
            return Poll::Ready(Ending::Cut(reason));
        }
        poll_both(cx, client, server, &mut up, &mut down)
    })
    .await;
    match ending {
        Ending::Finished => return ending,
        // A reset takes back what a tunnel has not written yet: an answer that came just before it would be lost.
        // The tunnel's task was woken by that answer, so it is ahead of this one in the queue.
        Ending::Broken { .. } => yield_now().await,
        Ending::Cut(_) => {}
    }
    client.reset();
    server.reset();
    ending
}

fn poll_both<C: End, S: End, R>(
    cx: &mut Context<'_>,
    client: &mut C,
    server: &mut S,
    up: &mut Flow<'_>,
    down: &mut Flow<'_>,
) -> Poll<Ending<R>> {
    let broken = |by, error| Poll::Ready(Ending::Broken { by, error });
    match up.poll(cx, client, server) {
        Poll::Ready(Err(Fault::Source(error))) => return broken(Side::Client, error),
        Poll::Ready(Err(Fault::Sink(error))) => return broken(Side::Server, error),
        Poll::Ready(Ok(())) | Poll::Pending => {}
    }
    match down.poll(cx, server, client) {
        Poll::Ready(Err(Fault::Source(error))) => return broken(Side::Server, error),
        Poll::Ready(Err(Fault::Sink(error))) => return broken(Side::Client, error),
        Poll::Ready(Ok(())) | Poll::Pending => {}
    }
    if up.step == Step::Finished && down.step == Step::Finished {
        return Poll::Ready(Ending::Finished);
    }
    Poll::Pending
}

/// Chunks moved in one turn before the other tasks of the worker get theirs.
const CHUNKS_PER_TURN: usize = 32;

/// What a source may send to a sink that takes no more before it is told by a reset. Not at once: a client that is
/// still uploading would lose the answer that is on its way to it (RFC 9112 section 9.6 describes the same).
const DISCARDED_BYTES_MAX: usize = 1 << 20;

/// One direction.
struct Flow<'a> {
    chunk: Bytes,
    step: Step,
    carried: &'a Bytecount,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Copying,
    /// The source has finished; the sink is to be told.
    Finishing,
    /// The sink takes no more, so what the source still sends is dropped.
    Discarding {
        bytes_left: usize,
    },
    Finished,
}

enum Fault {
    Source(Broken),
    Sink(Broken),
}

impl<'a> Flow<'a> {
    fn new(carried: &'a Bytecount) -> Self {
        Self { chunk: Bytes::new(), step: Step::Copying, carried }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut impl End,
        sink: &mut impl End,
    ) -> Poll<Result<(), Fault>> {
        for _ in 0..CHUNKS_PER_TURN {
            ready!(self.poll_chunk_out(cx, sink))?;
            match self.step {
                Step::Copying => match ready!(source.poll_chunk(cx)).map_err(Fault::Source)? {
                    Some(chunk) => self.chunk = chunk,
                    None => self.step = Step::Finishing,
                },
                Step::Finishing => match ready!(sink.poll_finish(cx)) {
                    Ok(()) | Err(Broken::Stopped) => self.step = Step::Finished,
                    Err(error) => return Poll::Ready(Err(Fault::Sink(error))),
                },
                Step::Discarding { bytes_left } => {
                    self.step = match ready!(source.poll_chunk(cx)).map_err(Fault::Source)? {
                        Some(chunk) => {
                            let bytes_left = bytes_left.checked_sub(chunk.len());
                            let bytes_left = bytes_left.ok_or(Fault::Sink(Broken::Reset))?;
                            Step::Discarding { bytes_left }
                        }
                        None => Step::Finished,
                    }
                }
                // Nothing is read any more, so a reset has to be looked for: the other direction may be idle.
                Step::Finished => match ready!(source.poll_broken(cx)) {
                    // The other direction learns it when it writes.
                    Broken::Stopped => return Poll::Pending,
                    error => return Poll::Ready(Err(Fault::Source(error))),
                },
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Ready when the sink has taken the chunk, or takes no more.
    fn poll_chunk_out(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut impl End,
    ) -> Poll<Result<(), Fault>> {
        if self.chunk.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let before = self.chunk.len();
        let written = sink.poll_write(cx, &mut self.chunk);
        self.carried.add((before - self.chunk.len()) as u64);
        match ready!(written) {
            Ok(()) => {
                debug_assert!(self.chunk.is_empty(), "poll_write is ready only when it took all");
            }
            Err(Broken::Stopped) => {
                self.chunk = Bytes::new();
                self.step = Step::Discarding { bytes_left: DISCARDED_BYTES_MAX };
            }
            Err(error) => return Poll::Ready(Err(Fault::Sink(error))),
        }
        Poll::Ready(Ok(()))
    }
}
