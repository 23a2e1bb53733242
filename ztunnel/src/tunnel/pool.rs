//! The tunnels of one pod on one worker, shared by its connections.
//!
//! A tunnel is never shared between pods or identities: what a key does not tell apart, one caller could confuse
//! with another. A tunnel leaves the pool when it has ended, when its certificate was replaced, when its endpoint
//! is gone, or when it was idle too long; its streams then finish on it, and the last one closes it.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    fmt,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use futures_util::future::{FutureExt, Shared, WeakShared};
use tokio::time::Instant;
use weft_certs::Svid;
use weft_model::{Identity, WorkloadUid};
use ztunnel_core::Failure;

use super::hbone::{Flow, Held, client::Client};

/// A tunnel with so many streams that wait gets no new ones: they would wait too.
const BLOCKED_MAX: usize = 4;
/// Tunnels to one peer that are opened because others are busy; beyond, only because they are full.
const TUNNELS_MAX: usize = 8;

/// What must be equal for two connections of a pod to share a tunnel.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct PoolKey {
    /// As whom the pod calls.
    pub source: Identity,
    /// Not only where: an address can be given to another workload.
    pub endpoint: Option<WorkloadUid>,
    pub to: SocketAddr,
    /// Any of which the peer must prove.
    pub expect: Vec<Identity>,
}

type Dial = Pin<Box<dyn Future<Output = Result<Rc<Tunnel>, Failure>>>>;

/// See the module.
#[derive(Default)]
pub struct Pool {
    peers: RefCell<HashMap<PoolKey, Rc<Peer>>>,
    idle_timeout: Duration,
    streams_max: usize,
}

#[derive(Default)]
struct Peer {
    tunnels: RefCell<Vec<Rc<Tunnel>>>,
    /// Weak: when all who wait for it have gone, the dial is dropped with them.
    dial: RefCell<Option<WeakShared<Dial>>>,
}

struct Tunnel {
    client: RefCell<Client>,
    /// As whom it was opened.
    svid: Arc<Svid>,
    streams: Cell<usize>,
    /// Of these, the ones that wait for a slow reader or for room to send.
    blocked: Cell<usize>,
    idle_since: Cell<Instant>,
}

/// A place for one stream in a tunnel, given back when dropped.
pub struct Place {
    tunnel: Rc<Tunnel>,
    pub reused: Reused,
}

/// Whether a tunnel has carried streams before, and may therefore have died unnoticed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reused {
    Yes,
    No,
}

impl Pool {
    pub fn new(idle_timeout: Duration, streams_max: u32) -> Self {
        Self { peers: RefCell::default(), idle_timeout, streams_max: streams_max as usize }
    }

    /// A place in a tunnel for `key`, made by `dial` if there is none with room. However many ask at once, one
    /// dials and the others wait for it. Cancel safe: the dial goes on for those who still wait.
    pub async fn place(
        &self,
        key: &PoolKey,
        svid: &Arc<Svid>,
        dial: impl Fn() -> Pin<Box<dyn Future<Output = Result<Client, Failure>>>>,
    ) -> Result<Place, Failure> {
        let peer = self.peer(key);
        let mut reused = Reused::Yes;
        loop {
            if let Some(tunnel) = peer.with_room(svid, self.streams_max) {
                return Ok(Place::take(tunnel, reused));
            }
            let dialling = peer.dialling(svid, &dial);
            let tunnel = dialling.await?;
            // Else a peer that closes every tunnel at once would have us dial it forever.
            if !tunnel.client.borrow_mut().is_open() {
                let error = "the tunnel ended as soon as it was made".to_owned();
                return Err(Failure::H2 { to: key.to, error });
            }
            peer.admit(&tunnel);
            reused = Reused::No;
        }
    }

    fn peer(&self, key: &PoolKey) -> Rc<Peer> {
        if let Some(peer) = self.peers.borrow().get(key) {
            return peer.clone();
        }
        self.peers.borrow_mut().entry(key.clone()).or_default().clone()
    }

    /// Retires one tunnel, which was found to have ended.
    pub fn forget(&self, key: &PoolKey, client: &Client) {
        if let Some(peer) = self.peers.borrow().get(key) {
            peer.tunnels.borrow_mut().retain(|tunnel| !tunnel.client.borrow().is_same(client));
        }
    }

    /// Retires the tunnels whose key is not kept.
    pub fn retain(&self, keep: impl Fn(&PoolKey) -> bool) {
        self.peers.borrow_mut().retain(|key, _| keep(key));
    }

    /// Retires tunnels that have ended or were idle too long. Call it now and then.
    pub fn sweep(&self, now: Instant) {
        self.peers.borrow_mut().retain(|_, peer| {
            peer.tunnels.borrow_mut().retain(|tunnel| {
                let idle = tunnel.streams.get() == 0
                    && now.duration_since(tunnel.idle_since.get()) >= self.idle_timeout;
                !idle && tunnel.client.borrow_mut().is_open()
            });
            let dialling = peer.dial.borrow().as_ref().is_some_and(|d| d.upgrade().is_some());
            dialling || !peer.tunnels.borrow().is_empty() || Rc::strong_count(peer) > 1
        });
    }

    /// Tunnels in the pool, for tests and the connection dump.
    pub fn tunnels(&self) -> usize {
        self.peers.borrow().values().map(|peer| peer.tunnels.borrow().len()).sum()
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("tunnels", &self.tunnels()).finish_non_exhaustive()
    }
}

impl Peer {
    /// The emptiest open tunnel, if one has room; drops those that have ended or that an older certificate opened.
    fn with_room(&self, svid: &Arc<Svid>, streams_max: usize) -> Option<Rc<Tunnel>> {
        let mut tunnels = self.tunnels.borrow_mut();
        let busy = |t: &Tunnel| t.blocked.get() >= BLOCKED_MAX;
        tunnels.retain(|t| Arc::ptr_eq(&t.svid, svid) && t.client.borrow_mut().is_open());
        let room = |t: &&Rc<Tunnel>| {
            t.streams.get() < streams_max.min(t.client.borrow().streams_max()).max(1)
        };
        let best = tunnels.iter().filter(room).min_by_key(|t| (busy(t), t.streams.get()))?;
        let another = busy(best) && tunnels.len() < TUNNELS_MAX;
        (!another).then(|| best.clone())
    }

    /// The dial under way, or a new one.
    fn dialling(
        &self,
        svid: &Arc<Svid>,
        dial: impl Fn() -> Pin<Box<dyn Future<Output = Result<Client, Failure>>>>,
    ) -> Shared<Dial> {
        let mut slot = self.dial.borrow_mut();
        // A finished dial is not joined: whoever comes after it found its tunnel full, or its error old.
        if let Some(dialling) = slot.as_ref().and_then(WeakShared::upgrade)
            && dialling.peek().is_none()
        {
            return dialling;
        }
        let (client, svid) = (dial(), svid.clone());
        let dial: Dial = Box::pin(async move {
            let client = RefCell::new(client.await?);
            let idle_since = Cell::new(Instant::now());
            Ok(Rc::new(Tunnel {
                client,
                svid,
                streams: Cell::default(),
                blocked: Cell::default(),
                idle_since,
            }))
        });
        let dialling = dial.shared();
        *slot = dialling.downgrade();
        dialling
    }

    /// Puts a tunnel into the pool, once, though everyone who waited for it calls this.
    fn admit(&self, tunnel: &Rc<Tunnel>) {
        let mut tunnels = self.tunnels.borrow_mut();
        if !tunnels.iter().any(|t| Rc::ptr_eq(t, tunnel)) {
            tunnels.push(tunnel.clone());
        }
    }
}

impl Place {
    fn take(tunnel: Rc<Tunnel>, reused: Reused) -> Self {
        tunnel.streams.set(tunnel.streams.get() + 1);
        Self { tunnel, reused }
    }

    pub fn client(&self) -> Client {
        self.tunnel.client.borrow().clone()
    }
}

impl Held for Place {
    fn flows(&self, now: Flow) {
        let blocked = self.tunnel.blocked.get();
        self.tunnel.blocked.set(match now {
            Flow::Blocked => blocked + 1,
            Flow::Free => blocked - 1,
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.tunnel.streams.set(self.tunnel.streams.get() - 1);
        self.tunnel.idle_since.set(Instant::now());
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place")
            .field("streams", &self.tunnel.streams.get())
            .field("reused", &self.reused)
            .finish()
    }
}
