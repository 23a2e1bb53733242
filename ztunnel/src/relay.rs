//! Carries bytes both ways between two ends until both have finished, one is reset, or it may not go on.
//!
//! What one side does reaches the other as if they were connected directly: the end of one direction is passed on
//! while the other goes on, and a reset is passed on as a reset. A peer that has finished and takes no more has
//! closed, not broken: what it said is delivered before anything else happens.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use tokio::{task::yield_now, time::timeout};

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

    /// Breaks the connection so that the peer sees it broken, not finished; at the latest when this end is dropped.
    fn reset(&mut self, queued: Queued);
}

/// What becomes of what an end has taken and not sent yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Queued {
    Drop,
    Send,
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
    let carrying = poll_fn(|cx| {
        // First, so that a revoked permit wins over bytes that are also ready.
        if let Poll::Ready(reason) = Pin::new(&mut cut).poll(cx) {
            return Poll::Ready(Err(reason));
        }
        poll_both(cx, client, server, &mut up, &mut down).map(Ok)
    });
    let (by, error, heard) = match carrying.await {
        Ok(Over::Finished) => return Ending::Finished,
        Ok(Over::Broken { by, error, heard }) => (by, error, heard),
        Err(reason) => {
            client.reset(Queued::Drop);
            server.reset(Queued::Drop);
            return Ending::Cut(reason);
        }
    };
    // Boxed: else every connection had room for a clock, for the few that end so.
    let last_words = match (heard, by) {
        (Heard::Whole, _) => LastWords::Taken,
        (Heard::InPart, Side::Client) => {
            Box::pin(hear_out(&mut up, client, server, &mut cut)).await
        }
        (Heard::InPart, Side::Server) => {
            Box::pin(hear_out(&mut down, server, client, &mut cut)).await
        }
    };
    let (queued, ending) = match last_words {
        LastWords::Taken => (Queued::Send, Ending::Broken { by, error }),
        // Whoever does not listen must not keep memory that belongs to nobody any more.
        LastWords::Refused => (Queued::Drop, Ending::Broken { by, error }),
        LastWords::Cut(reason) => (Queued::Drop, Ending::Cut(reason)),
    };
    if queued == Queued::Send {
        // The reset of a stream that was told the end takes back what the tunnel has not written yet. The tunnel's
        // task was woken by that, so it is ahead of this one in the queue.
        yield_now().await;
    }
    client.reset(queued);
    server.reset(queued);
    ending
}

/// What became of what an end said before it broke.
enum LastWords<R> {
    /// The other end has them, or has gone.
    Taken,
    /// The other end did not take them in time.
    Refused,
    /// They may not be passed on any more.
    Cut(R),
}

/// Passes on what `source` said before it broke, a bounded time and as long as the connection may go on.
async fn hear_out<R>(
    flow: &mut Flow<'_>,
    source: &mut impl End,
    sink: &mut impl End,
    cut: &mut (impl Future<Output = R> + Unpin),
) -> LastWords<R> {
    let heard = poll_fn(|cx| match Pin::new(&mut *cut).poll(cx) {
        Poll::Ready(reason) => Poll::Ready(LastWords::Cut(reason)),
        Poll::Pending => flow.poll_rest(cx, source, sink).map(|()| LastWords::Taken),
    });
    timeout(REST_WITHIN, heard).await.unwrap_or(LastWords::Refused)
}

/// Why both directions stopped.
enum Over {
    Finished,
    Broken { by: Side, error: Broken, heard: Heard },
}

/// Whether all that a broken end had said was read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Heard {
    Whole,
    InPart,
}

fn poll_both<C: End, S: End>(
    cx: &mut Context<'_>,
    client: &mut C,
    server: &mut S,
    up: &mut Flow<'_>,
    down: &mut Flow<'_>,
) -> Poll<Over> {
    if let Poll::Ready(Err(fault)) = up.poll(cx, client, server) {
        return Poll::Ready(fault.between(Side::Client, Side::Server));
    }
    if let Poll::Ready(Err(fault)) = down.poll(cx, server, client) {
        return Poll::Ready(fault.between(Side::Server, Side::Client));
    }
    if up.step == Step::Finished && down.step == Step::Finished {
        return Poll::Ready(Over::Finished);
    }
    Poll::Pending
}

/// Chunks moved in one turn before the other tasks of the worker get theirs.
const CHUNKS_PER_TURN: usize = 32;

/// What a source may send to a sink that takes no more before it is told by a reset. Not at once: a client that is
/// still uploading would lose the answer that is on its way to it (RFC 9112 section 9.6 describes the same).
const DISCARDED_BYTES_MAX: usize = 1 << 20;

/// How long the last words of an end that broke may take to reach the other: it may not be listening.
const REST_WITHIN: Duration = Duration::from_secs(5);

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

impl Fault {
    fn between(self, source: Side, sink: Side) -> Over {
        match self {
            Self::Source(error) => Over::Broken { by: source, error, heard: Heard::Whole },
            // What it said before may still wait to be read: an answer to an upload that it refused.
            Self::Sink(error) => Over::Broken { by: sink, error, heard: Heard::InPart },
        }
    }
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

    /// Ready when the source, which is broken, has nothing more to say, or nobody hears it.
    fn poll_rest(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut impl End,
        sink: &mut impl End,
    ) -> Poll<()> {
        let polled = self.poll(cx, source, sink);
        match self.step {
            Step::Copying | Step::Finishing => polled.map(drop),
            Step::Discarding { .. } | Step::Finished => Poll::Ready(()),
        }
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

#[cfg(test)]
mod tests;
