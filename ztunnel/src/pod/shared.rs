//! What every connection of a worker uses.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::Arc,
};

use futures_util::future::LocalBoxFuture;
use rustls::ServerConfig;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout_at},
};
use weft_certs::Svid;
use weft_model::{Identity, View, WorkloadUid};
use ztunnel_core::{
    Arrival, Draw, Failure, Load, Peer, Permit, Refusal, Resolved, Retry, authorize, resolve,
};

use super::{
    streams::{Streams, Ticket},
    unproven::Unproven,
};
use crate::{
    causes::chain,
    config::Limits,
    identity::Identities,
    memory::Pressure,
    outcome::{Cut, Outcomes},
    tunnel::hbone::Settings,
};

/// The certificates of the workloads on this node.
pub trait Svids {
    /// The current one; waits for the first one, a bounded time.
    fn svid<'a>(&'a self, identity: &'a Identity)
    -> LocalBoxFuture<'a, Result<Arc<Svid>, Failure>>;
}

impl Svids for Identities {
    fn svid<'a>(
        &'a self,
        identity: &'a Identity,
    ) -> LocalBoxFuture<'a, Result<Arc<Svid>, Failure>> {
        Box::pin(async move {
            let svid = Self::svid(self, identity).await;
            svid.map_err(|error| Failure::Certificate {
                identity: identity.clone(),
                error: chain(&error),
            })
        })
    }
}

/// Streams of one source that a worker cuts at once when memory is over its limit.
const STREAMS_SHED: usize = 16;

/// See the module.
pub struct Shared {
    pub views: watch::Receiver<Arc<View>>,
    pub svids: Rc<dyn Svids>,
    pub outcomes: Rc<dyn Outcomes>,
    pub settings: Settings,
    pub limits: Limits,
    load: RefCell<Load>,
    draws: Cell<u64>,
    servers: RefCell<HashMap<Identity, ServerTls>>,
    /// Open connections of all pods.
    pub(crate) connections: Cell<usize>,
    /// A connection has left.
    pub(crate) left: Notify,
    pub(crate) unproven: Unproven,
    streams: Rc<Streams>,
    pub(crate) pressure: watch::Receiver<Pressure>,
}

/// Made of one certificate, and good until there is a newer one.
struct ServerTls {
    svid: Arc<Svid>,
    config: Arc<ServerConfig>,
}

impl Shared {
    /// `seed` begins the sequence of chances: a worker that is given the same one decides the same.
    pub fn new(
        views: watch::Receiver<Arc<View>>,
        svids: Rc<dyn Svids>,
        outcomes: Rc<dyn Outcomes>,
        settings: Settings,
        limits: Limits,
        seed: u64,
    ) -> Self {
        Self {
            views,
            svids,
            outcomes,
            settings,
            limits,
            load: RefCell::default(),
            draws: Cell::new(seed),
            servers: RefCell::default(),
            connections: Cell::new(0),
            left: Notify::new(),
            unproven: Unproven::default(),
            streams: Rc::default(),
            // Its sender is gone, so it stays normal.
            pressure: watch::channel(Pressure::Normal).1,
        }
    }

    /// With the process's memory watched over.
    #[must_use]
    pub fn under(self, pressure: watch::Receiver<Pressure>) -> Self {
        Self { pressure, ..self }
    }

    /// The next chance.
    pub fn draw(&self) -> Draw {
        // SplitMix64's increment: each draw seeds a sequence of its own (ztunnel-core, `Draw`).
        self.draws.set(self.draws.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        Draw(self.draws.get())
    }

    /// Random bits that name a connection in both proxies' logs.
    pub fn trace(&self) -> (u128, u64) {
        // SplitMix64's finish: the names only have to differ.
        let next = || {
            let mut z = self.draw().0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        (u128::from(next()) << 64 | u128::from(next()), next())
    }

    pub fn view(&self) -> Arc<View> {
        self.views.borrow().clone()
    }

    pub fn with_load<R>(&self, use_it: impl FnOnce(&Load) -> R) -> R {
        use_it(&self.load.borrow())
    }

    /// Counts an open connection to `endpoint` until the answer is dropped.
    pub fn counted(self: &Rc<Self>, endpoint: Option<&WorkloadUid>) -> Option<Counted> {
        let endpoint = endpoint?.clone();
        self.load.borrow_mut().opened(&endpoint);
        Some(Counted { shared: self.clone(), endpoint })
    }

    /// Resolves and authorizes on one view; where a newer one may answer differently, waits for it a bounded time.
    pub async fn permit(&self, arrival: &Arrival) -> (Arc<View>, Result<Permit, Refusal>) {
        let mut views = self.views.clone();
        let deadline = Instant::now() + self.settings.timeouts.workload_wait;
        loop {
            let view = views.borrow_and_update().clone();
            let answer = resolve(&view, arrival.clone()).and_then(|r| authorize(&view, &r));
            let worth_waiting = matches!(&answer, Err(r) if r.retry() == Retry::NewerView);
            if !worth_waiting || !matches!(timeout_at(deadline, views.changed()).await, Ok(Ok(())))
            {
                return (view, answer);
            }
        }
    }

    /// Completes when the connection may not go on. From the call on it counts among those of its source.
    /// Boxed, because only the destination's node enforces: only there is the permit kept, and may be revoked.
    pub fn cut(&self, permit: &Permit) -> LocalBoxFuture<'static, Cut> {
        match permit.resolved() {
            Resolved::Outbound(outbound) => {
                let ticket = self.streams.open(Some(outbound.source.identity()));
                Box::pin(async move {
                    ticket.cut().await;
                    Cut::Shed
                })
            }
            Resolved::Inbound(inbound) => {
                let ticket = self.streams.open(match &inbound.peer {
                    Peer::Proven(identity) => Some(identity.clone()),
                    Peer::Unauthenticated => None,
                });
                Box::pin(revoked_or_shed(permit.clone(), self.views.clone(), ticket))
            }
        }
    }

    /// Gives memory back: ends the newest streams of whoever has most.
    pub(crate) fn shed_streams(&self) {
        if let Some((source, count)) = self.streams.shed(STREAMS_SHED) {
            let source = source.map_or_else(|| "unknown".to_owned(), |id| id.to_string());
            tracing::warn!(
                source,
                count,
                "limits.memory is passed: the newest streams of the identity with most are cut"
            );
        }
    }

    /// Drops what was made of certificates; it is made again when needed.
    pub(crate) fn forget_servers(&self) {
        self.servers.borrow_mut().clear();
    }

    /// The TLS configuration with which a workload is reached.
    pub async fn server_config(&self, identity: &Identity) -> Result<Arc<ServerConfig>, Failure> {
        let svid = self.svids.svid(identity).await?;
        if let Some(known) = self.servers.borrow().get(identity)
            && Arc::ptr_eq(&known.svid, &svid)
        {
            return Ok(known.config.clone());
        }
        let config = weft_certs::server_config(&svid);
        let made = ServerTls { svid, config: config.clone() };
        self.servers.borrow_mut().insert(identity.clone(), made);
        Ok(config)
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("load", &self.load).finish_non_exhaustive()
    }
}

/// Completes when a newer view no longer permits the connection, or when its memory is needed.
#[expect(clippy::manual_async_fn, reason = "an async fn would hold what it is given twice")]
fn revoked_or_shed(
    permit: Permit,
    mut views: watch::Receiver<Arc<View>>,
    ticket: Ticket,
) -> impl Future<Output = Cut> {
    async move {
        let mut decided: Option<Arc<View>> = None;
        loop {
            let view = views.borrow_and_update().clone();
            // At once too: the view may have changed while the connection was being made. Later, pods come and go
            // all the time and policies seldom: most views say nothing new about this connection.
            if decided.is_none_or(|before| !before.agrees_on(&view, &permit.local().uid))
                && let Err(refusal) = permit.still_holds(&view)
            {
                return Cut::Revoked(refusal);
            }
            decided = Some(view);
            tokio::select! {
                // Biased: what is forbidden is said to be so, whatever else would end it.
                biased;
                Ok(()) = views.changed() => {}
                () = ticket.cut() => return Cut::Shed,
            }
        }
    }
}

/// One open connection in the worker's [`Load`].
#[derive(Debug)]
pub struct Counted {
    shared: Rc<Shared>,
    endpoint: WorkloadUid,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.shared.load.borrow_mut().closed(&self.endpoint);
    }
}
