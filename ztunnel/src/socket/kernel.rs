//! TCP of the kernel.

use std::{
    fmt,
    future::Future,
    io::{self, IoSlice},
    net::{IpAddr, Shutdown, SocketAddr},
    os::fd::OwnedFd,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::{TcpListener, TcpStream},
};
use weft_model::{OriginalDst, PeerAddr};

use super::{Accepted, Listener, Stream};
use crate::{config::Tcp, descriptors::Descriptors};

/// A TCP connection.
pub struct TcpEnd {
    /// Shared only with `reset`, which is made when nothing is left to read.
    stream: Rc<TcpStream>,
    reset: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

impl TcpEnd {
    /// Its options are those of [`set_options`], or inherited from a listener that has them.
    pub fn new(stream: TcpStream) -> Self {
        Self { stream: Rc::new(stream), reset: None }
    }
}

impl fmt::Debug for TcpEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stream.fmt(f)
    }
}

/// Sets what every connection of ours has: no delay, keepalive, a bound on unacknowledged bytes. An accepted socket
/// inherits them from its listener, so that a new connection costs no `setsockopt`.
pub(super) fn set_options(socket: &SockRef<'_>, options: &Tcp) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(options.keepalive_time)
        .with_interval(options.keepalive_interval)
        .with_retries(options.keepalive_retries);
    socket.set_tcp_keepalive(&keepalive)?;
    if options.user_timeout.is_zero() {
        return Ok(());
    }
    socket.set_tcp_user_timeout(Some(options.user_timeout))
}

impl Stream for TcpEnd {
    fn reset_on_drop(&mut self) {
        // It fails only for a socket that is gone already, and that sends nothing anyway.
        if let Err(error) = self.stream.set_zero_linger() {
            tracing::debug!(%error, "could not arm a reset");
        }
    }

    fn poll_peer_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let reset = self.reset.get_or_insert_with(|| {
            let stream = self.stream.clone();
            // The runtime fails the wait only when it shuts down, and then this task ends too.
            Box::pin(async move { drop(stream.ready(Interest::ERROR).await) })
        });
        reset.as_mut().poll(cx)
    }
}

impl AsyncRead for TcpEnd {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Whoever reads again stops watching for a reset: the read itself will say.
        self.reset = None;
        match Rc::get_mut(&mut self.stream) {
            Some(stream) => Pin::new(stream).poll_read(cx, into),
            None => Poll::Ready(Err(io::ErrorKind::ResourceBusy.into())),
        }
    }
}

impl AsyncWrite for TcpEnd {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            match self.stream.try_write_vectored(slices) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match SockRef::from(&*self.stream).shutdown(Shutdown::Write) {
            // The peer has gone before us: there is nobody left to tell.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            done => Poll::Ready(done),
        }
    }
}

/// How a captured connection's original destination is learnt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Capture {
    /// The socket's own local address is where the caller meant to go (our redirect, and direct calls).
    LocalAddress,
    /// The kernel rewrote the destination and remembers it (`SO_ORIGINAL_DST`: iptables REDIRECT).
    Conntrack,
}

/// A listening socket of one worker. Several workers listen on duplicates of one socket.
#[derive(Debug)]
pub struct KernelListener {
    listener: TcpListener,
    capture: Capture,
    descriptors: Descriptors,
}

impl KernelListener {
    /// Takes over a listening socket: options for all connections to come are set here, once.
    /// Must be called on the runtime that will accept.
    pub fn adopt(
        socket: OwnedFd,
        capture: Capture,
        options: &Tcp,
        descriptors: Descriptors,
    ) -> io::Result<Self> {
        let listener = std::net::TcpListener::from(socket);
        listener.set_nonblocking(true)?;
        set_options(&SockRef::from(&listener), options)?;
        Ok(Self { listener: TcpListener::from_std(listener)?, capture, descriptors })
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Listener for KernelListener {
    type Stream = TcpEnd;

    async fn accept(&self) -> io::Result<Accepted<TcpEnd>> {
        let (stream, peer) = self.descriptors.accept(&self.listener).await?;
        let to = original_destination(&stream, self.capture)?;
        let (peer, to) = (PeerAddr::new(peer), OriginalDst::new(to));
        Ok(Accepted { stream: TcpEnd::new(stream), peer, to })
    }
}

fn original_destination(stream: &TcpStream, capture: Capture) -> io::Result<SocketAddr> {
    let local = stream.local_addr()?;
    if capture == Capture::LocalAddress {
        return Ok(local);
    }
    let socket = SockRef::from(stream);
    // A connection that was not rewritten (TPROXY, or a direct call) has no entry: its local address is true.
    let rewritten = match local.ip().to_canonical() {
        IpAddr::V4(_) => socket.original_dst_v4(),
        IpAddr::V6(_) => socket.original_dst_v6(),
    };
    Ok(rewritten.ok().and_then(|address| address.as_socket()).unwrap_or(local))
}
