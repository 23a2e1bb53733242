//! Sockets that the node agent makes in a pod's namespace and passes, so that the proxy needs no capability.

use std::{
    collections::HashMap,
    fmt, io,
    os::fd::OwnedFd,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::io::Errno;
use socket2::SockRef;
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, timeout_at},
};
use weft_xds::zds::SocketKind;

use super::{SocketError, kernel::set_options};
use crate::{
    config::Tcp,
    descriptors::{Descriptors, Promise},
    uid::PodUid,
};

/// What the first request of a kind asks for; each further one asks for twice as many.
const BATCH_FIRST: u32 = 4;
/// A packet takes 253 descriptors; a burst of connections needs fewer, since a batch comes within 100 us.
const BATCH_LARGEST: u32 = 64;
/// How long a connection waits for the agent. It makes a batch in microseconds, unless it is being restarted.
const WITHIN: Duration = Duration::from_secs(5);

/// A request to the node agent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Need {
    pub pod: PodUid,
    pub kind: SocketKind,
    pub count: u32,
}

/// One pod's sockets that were passed and not yet used, for all workers.
///
/// The lock is held for a push or a pop; a connection takes it once, before its first byte.
pub struct AgentSockets {
    pod: PodUid,
    needs: mpsc::UnboundedSender<Need>,
    stock: Mutex<HashMap<SocketKind, Stock>>,
    arrived: Notify,
    options: Tcp,
    descriptors: Descriptors,
}

#[derive(Default)]
struct Stock {
    sockets: Vec<OwnedFd>,
    batch: u32,
    request: Request,
    /// Answers without a socket, so that those who wait learn of it.
    failures: u64,
}

#[derive(Default)]
enum Request {
    #[default]
    None,
    UnderWay(Promise),
}

impl AgentSockets {
    pub fn new(
        pod: PodUid,
        needs: mpsc::UnboundedSender<Need>,
        options: Tcp,
        descriptors: Descriptors,
    ) -> Self {
        Self { pod, needs, stock: Mutex::default(), arrived: Notify::new(), options, descriptors }
    }

    /// One socket; waits a bounded time for the agent when none is in stock. Errors: also when none is in stock and
    /// no descriptor is left for one.
    pub(super) async fn take(&self, kind: SocketKind) -> Result<OwnedFd, SocketError> {
        let deadline = Instant::now() + WITHIN;
        let failures = self.stock().entry(kind).or_default().failures;
        loop {
            let arrived = self.arrived.notified();
            tokio::pin!(arrived);
            // Before the look, so that a batch that comes in between is not missed.
            arrived.as_mut().enable();
            if let Some(socket) = self.pop(kind)? {
                return Ok(socket);
            }
            if self.stock().entry(kind).or_default().failures != failures {
                let text =
                    format!("the node agent could not make one of kind {}", kind.as_str_name());
                return Err(SocketError::NoSocket(io::Error::other(text)));
            }
            if timeout_at(deadline, arrived).await.is_err() {
                let text = format!("the node agent passed none within {WITHIN:?}");
                return Err(SocketError::NoSocket(io::Error::new(io::ErrorKind::TimedOut, text)));
            }
        }
    }

    /// Asks the agent for more where that is due; `None` when they are still to come.
    fn pop(&self, kind: SocketKind) -> Result<Option<OwnedFd>, SocketError> {
        let mut all = self.stock();
        let stock = all.entry(kind).or_default();
        let socket = stock.sockets.pop();
        // Half a batch early, so that a steady flow never waits.
        let low = stock.sockets.len() <= stock.batch as usize / 2;
        if low && matches!(stock.request, Request::None) {
            let count = (stock.batch * 2).clamp(BATCH_FIRST, BATCH_LARGEST);
            let Some(promise) = self.descriptors.promise(count) else {
                let none = || SocketError::NoSocket(Errno::MFILE.into());
                return socket.map(Some).ok_or_else(none);
            };
            stock.batch = promise.count();
            stock.request = Request::UnderWay(promise);
            let need = Need { pod: self.pod.clone(), kind, count: stock.batch };
            // Without a receiver the proxy is stopping; who waits gives up by the deadline.
            drop(self.needs.send(need));
        }
        Ok(socket)
    }

    /// Takes what the agent passed; none means that it could not make any.
    pub fn put(&self, kind: SocketKind, sockets: Vec<OwnedFd>) {
        let usable = sockets.into_iter().filter(|socket| self.prepare(kind, socket));
        let usable: Vec<_> = usable.collect();
        let mut all = self.stock();
        let stock = all.entry(kind).or_default();
        stock.request = Request::None;
        if usable.is_empty() {
            stock.failures += 1;
            stock.batch = 0;
        }
        stock.sockets.extend(usable);
        drop(all);
        self.arrived.notify_waiters();
    }

    /// What was asked for is asked for again: the agent that was asked has gone.
    pub fn ask_again(&self) {
        for (kind, stock) in &mut *self.stock() {
            if let Request::UnderWay(promise) = &stock.request {
                let need = Need { pod: self.pod.clone(), kind: *kind, count: promise.count() };
                drop(self.needs.send(need));
            }
        }
    }

    /// Sets the options here, off the path of the connection that will use it.
    fn prepare(&self, kind: SocketKind, socket: &OwnedFd) -> bool {
        self.descriptors.taken(socket);
        let tcp = matches!(
            kind,
            SocketKind::ConnectV4
                | SocketKind::ConnectV6
                | SocketKind::DeliverV4
                | SocketKind::DeliverV6
        );
        let socket = SockRef::from(socket);
        let set = socket
            .set_nonblocking(true)
            .and_then(|()| if tcp { set_options(&socket, &self.options) } else { Ok(()) });
        if let Err(error) = &set {
            tracing::warn!(pod = %self.pod, kind = kind.as_str_name(), %error, "unusable socket from the agent");
        }
        set.is_ok()
    }

    fn stock(&self) -> MutexGuard<'_, HashMap<SocketKind, Stock>> {
        // A push or a pop is complete when its call returns, so a panic elsewhere leaves the map whole.
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for AgentSockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentSockets").field("pod", &self.pod).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
