//! A network of in-memory pipes, for tests in which time stands still until nothing else can happen.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    io,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{Mutex, mpsc},
};
use weft_model::{OriginalDst, PeerAddr};
use ztunnel::socket::{Accepted, Listener, SocketError, Sockets, Stream};
use ztunnel_core::Bind;

/// As much as a kernel would buffer, roughly.
const CAPACITY: usize = 64 * 1024;

/// One direction of a pipe.
#[derive(Default)]
struct Flow {
    bytes: VecDeque<u8>,
    finished: bool,
    reset: bool,
    /// The reader has left.
    unread: bool,
    wakers: Vec<Waker>,
}

impl Flow {
    fn wait(&mut self, cx: &Context<'_>) {
        self.wakers.push(cx.waker().clone());
    }

    fn wake(&mut self) {
        self.wakers.drain(..).for_each(Waker::wake);
    }
}

type Shared = Rc<RefCell<Flow>>;

/// One end of a connection.
pub(crate) struct Pipe {
    receive: Shared,
    send: Shared,
    resets: bool,
}

impl Pipe {
    pub(crate) fn pair() -> (Self, Self) {
        let (a, b) = (Shared::default(), Shared::default());
        let end = |receive: &Shared, send: &Shared| Self {
            receive: receive.clone(),
            send: send.clone(),
            resets: false,
        };
        (end(&a, &b), end(&b, &a))
    }
}

fn reset() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

impl AsyncRead for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut flow = self.receive.borrow_mut();
        let count = flow.bytes.len().min(into.remaining());
        if count > 0 {
            let bytes: Vec<u8> = flow.bytes.drain(..count).collect();
            into.put_slice(&bytes);
            flow.wake();
            return Poll::Ready(Ok(()));
        }
        if flow.reset {
            return Poll::Ready(Err(reset()));
        }
        if flow.finished {
            return Poll::Ready(Ok(()));
        }
        flow.wait(cx);
        Poll::Pending
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut flow = self.send.borrow_mut();
        if flow.reset || flow.unread {
            return Poll::Ready(Err(reset()));
        }
        let count = bytes.len().min(CAPACITY - flow.bytes.len());
        if count == 0 {
            flow.wait(cx);
            return Poll::Pending;
        }
        flow.bytes.extend(bytes.get(..count).unwrap_or_default());
        flow.wake();
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut flow = self.send.borrow_mut();
        flow.finished = true;
        flow.wake();
        Poll::Ready(Ok(()))
    }
}

impl Stream for Pipe {
    fn reset_on_drop(&mut self) {
        self.resets = true;
    }

    fn poll_peer_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut flow = self.receive.borrow_mut();
        if flow.reset {
            return Poll::Ready(());
        }
        flow.wait(cx);
        Poll::Pending
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // Like a kernel: whoever leaves with bytes unread has lost them, and the peer is told.
        let resets = self.resets || !self.receive.borrow().bytes.is_empty();
        self.receive.borrow_mut().unread = true;
        for flow in [&self.send, &self.receive] {
            let mut flow = flow.borrow_mut();
            flow.reset |= resets;
            flow.finished = true;
            flow.wake();
        }
    }
}

type Arrivals = mpsc::UnboundedSender<Accepted<Pipe>>;

/// Who listens where.
#[derive(Clone, Default)]
pub(crate) struct Memory {
    listeners: Rc<RefCell<HashMap<SocketAddr, Arrivals>>>,
    /// Accepts that fail before the next one succeeds: there is no descriptor for them.
    pub(crate) exhausted: Rc<Cell<usize>>,
}

impl Memory {
    pub(crate) fn listen(&self, at: SocketAddr) -> MemoryListener {
        let (arrivals, arrived) = mpsc::unbounded_channel();
        self.listeners.borrow_mut().insert(at, arrivals);
        MemoryListener {
            arrived: Mutex::new(arrived),
            exhausted: self.exhausted.clone(),
            waiting: RefCell::default(),
        }
    }

    pub(crate) fn dial(&self, from: SocketAddr, to: SocketAddr) -> io::Result<Pipe> {
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let (near, far) = Pipe::pair();
        let arrivals = self.listeners.borrow().get(&to).cloned().ok_or_else(refused)?;
        let arrival = Accepted { stream: far, peer: PeerAddr::new(from), to: OriginalDst::new(to) };
        arrivals.send(arrival).map_err(|_| refused())?;
        Ok(near)
    }
}

pub(crate) struct MemoryListener {
    arrived: Mutex<mpsc::UnboundedReceiver<Accepted<Pipe>>>,
    exhausted: Rc<Cell<usize>>,
    /// Left in the backlog by an accept that failed.
    waiting: RefCell<VecDeque<Accepted<Pipe>>>,
}

impl Listener for MemoryListener {
    type Stream = Pipe;

    async fn accept(&self) -> io::Result<Accepted<Pipe>> {
        let mut arrived = self.arrived.lock().await;
        let waiting = self.waiting.borrow_mut().pop_front();
        let accepted = match waiting {
            Some(accepted) => accepted,
            None => arrived.recv().await.ok_or(io::ErrorKind::NotConnected)?,
        };
        if let left @ 1.. = self.exhausted.get() {
            self.exhausted.set(left - 1);
            self.waiting.borrow_mut().push_front(accepted);
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error()));
        }
        Ok(accepted)
    }
}

/// The sockets of a pod at one address.
pub(crate) struct MemorySockets {
    pub(crate) network: Memory,
    pub(crate) address: SocketAddr,
}

impl Sockets for MemorySockets {
    type Stream = Pipe;
    type Listener = MemoryListener;

    async fn connect(&self, to: SocketAddr) -> Result<Pipe, SocketError> {
        self.network.dial(self.address, to).map_err(SocketError::Connect)
    }

    async fn deliver(&self, _: Bind, to: SocketAddr) -> Result<Pipe, SocketError> {
        self.network.dial(self.address, to).map_err(SocketError::Connect)
    }
}
