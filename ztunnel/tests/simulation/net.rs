//! A network of pipes: connections take a moment, the wire between pods is watched, streams can be cut.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex},
    sync::Notify,
    time::sleep,
};
use weft_model::{OriginalDst, PeerAddr};
use ztunnel::socket::{Accepted, Listener, SocketError, Sockets, Stream};
use ztunnel_core::Bind;

/// What every application sends first, and what must never be seen between enrolled pods.
pub(super) const MARKER: &[u8] = b"CLEARTEXT";

/// A listen backlog. It outlives the proxy that accepts from it, as the agent's sockets do.
#[derive(Default)]
pub(super) struct Backlog {
    waiting: RefCell<VecDeque<Accepted<Pipe>>>,
    more: Notify,
}

impl Backlog {
    pub(super) fn push(&self, accepted: Accepted<Pipe>) {
        self.waiting.borrow_mut().push_back(accepted);
        self.more.notify_one();
    }

    pub(super) async fn pop(&self) -> Accepted<Pipe> {
        loop {
            let more = self.more.notified();
            let waiting = self.waiting.borrow_mut().pop_front();
            match waiting {
                Some(accepted) => return accepted,
                None => more.await,
            }
        }
    }
}

/// One of a pod's listeners, as a proxy holds it.
#[derive(Clone)]
pub(super) struct Door {
    pub(super) backlog: Rc<Backlog>,
    /// How many connections were taken, by any proxy.
    pub(super) taken: Rc<Cell<usize>>,
}

impl Listener for Door {
    type Stream = Pipe;

    async fn accept(&self) -> io::Result<Accepted<Pipe>> {
        let accepted = self.backlog.pop().await;
        self.taken.set(self.taken.get() + 1);
        Ok(accepted)
    }
}

/// What answers at one address.
#[derive(Clone)]
pub(super) struct Owner {
    pub(super) hbone: Rc<Backlog>,
    pub(super) plaintext: Rc<Backlog>,
}

/// The wire between pods.
#[derive(Default)]
pub(super) struct Wire {
    owners: RefCell<HashMap<IpAddr, Owner>>,
    lines: RefCell<Vec<std::rc::Weak<Line>>>,
    /// Marked bytes seen between pods.
    pub(super) clear_text: Cell<usize>,
}

impl Wire {
    pub(super) fn own(&self, ip: IpAddr, owner: Owner) {
        self.owners.borrow_mut().insert(ip, owner);
    }

    pub(super) fn disown(&self, ip: IpAddr) {
        self.owners.borrow_mut().remove(&ip);
    }

    /// Cuts one connection between pods, the `n`th of those that are open.
    pub(super) fn cut(&self, n: usize) {
        let mut lines = self.lines.borrow_mut();
        lines.retain(|line| line.strong_count() > 0);
        let count = lines.len();
        if let Some(line) = lines.get(n % count.max(1)).and_then(std::rc::Weak::upgrade) {
            line.reset(Side::Near);
            line.reset(Side::Far);
        }
    }
}

/// The sockets of one pod.
pub(super) struct PodSockets {
    pub(super) ip: IpAddr,
    pub(super) wire: Rc<Wire>,
    pub(super) application: Rc<Backlog>,
    pub(super) alive: Rc<Cell<bool>>,
}

/// Long enough that other things happen meanwhile.
const LATENCY: Duration = Duration::from_millis(2);

fn refused() -> SocketError {
    SocketError::Connect(io::ErrorKind::ConnectionRefused.into())
}

impl Sockets for PodSockets {
    type Stream = Pipe;
    type Listener = Door;

    async fn connect(&self, to: SocketAddr) -> Result<Pipe, SocketError> {
        sleep(LATENCY).await;
        let owner = self.wire.owners.borrow().get(&to.ip()).cloned().ok_or_else(refused)?;
        let (near, far) = pipe(Some(&self.wire));
        let from = PeerAddr::new(SocketAddr::new(self.ip, 40_000));
        let accepted = Accepted { stream: far, peer: from, to: OriginalDst::new(to) };
        let backlog = if to.port() == 15008 { owner.hbone } else { owner.plaintext };
        backlog.push(accepted);
        Ok(near)
    }

    async fn deliver(&self, _: Bind, to: SocketAddr) -> Result<Pipe, SocketError> {
        sleep(LATENCY).await;
        if !self.alive.get() {
            return Err(refused());
        }
        let (near, far) = pipe(None);
        let from = PeerAddr::new(SocketAddr::new(self.ip, 50_000));
        self.application.push(Accepted { stream: far, peer: from, to: OriginalDst::new(to) });
        Ok(near)
    }
}

/// Both ends of a new connection; `wire` where it passes between pods.
pub(super) fn pipe(wire: Option<&Rc<Wire>>) -> (Pipe, Pipe) {
    let (near, far) = duplex(64 * 1024);
    let line = Rc::new(Line::default());
    if let Some(wire) = wire {
        wire.lines.borrow_mut().push(Rc::downgrade(&line));
    }
    let end = |bytes, side| Pipe {
        bytes,
        side,
        line: line.clone(),
        wire: wire.cloned(),
        on_drop: Cell::new(OnDrop::Finish),
    };
    (end(near, Side::Near), end(far, Side::Far))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Near,
    Far,
}

/// What both ends share: who has reset, and who waits to learn it.
#[derive(Default)]
struct Line {
    reset: [Cell<bool>; 2],
    wakers: [RefCell<Vec<Waker>>; 2],
}

impl Line {
    /// `side` sees a reset from now on.
    fn reset(&self, side: Side) {
        self.reset[side as usize].set(true);
        self.wakers[side as usize].take().into_iter().for_each(Waker::wake);
    }

    fn poll_reset(&self, side: Side, cx: &Context<'_>) -> Poll<()> {
        if self.reset[side as usize].get() {
            return Poll::Ready(());
        }
        let mut wakers = self.wakers[side as usize].borrow_mut();
        if !wakers.iter().any(|w| w.will_wake(cx.waker())) {
            wakers.push(cx.waker().clone());
        }
        Poll::Pending
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum OnDrop {
    Finish,
    Reset,
}

/// One end of a connection.
pub(super) struct Pipe {
    bytes: DuplexStream,
    side: Side,
    line: Rc<Line>,
    wire: Option<Rc<Wire>>,
    on_drop: Cell<OnDrop>,
}

impl Stream for Pipe {
    fn reset_on_drop(&mut self) {
        self.on_drop.set(OnDrop::Reset);
    }

    fn poll_peer_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.line.poll_reset(self.side, cx)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        if self.on_drop.get() == OnDrop::Reset {
            self.line.reset(if self.side == Side::Near { Side::Far } else { Side::Near });
        }
    }
}

impl Pipe {
    fn check(&self, cx: &Context<'_>) -> io::Result<()> {
        match self.line.poll_reset(self.side, cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionReset.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.bytes).poll_read(cx, buf)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        if let Some(wire) = &self.wire
            && buf.windows(MARKER.len()).any(|w| w == MARKER)
        {
            wire.clear_text.set(wire.clear_text.get() + 1);
        }
        Pin::new(&mut self.bytes).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_shutdown(cx)
    }
}
