//! A pod of this node, as one worker sees it.

use std::{cell::Cell, fmt, net::SocketAddr, rc::Rc, sync::Arc};

use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use weft_certs::Svid;
use weft_model::{Identity, Workload};
use ztunnel_core::{Bind, Failure, Refusal};

mod shared;
mod streams;
mod tasks;
mod unproven;

pub use shared::{Counted, Shared, Svids};
use tasks::Tasks;
pub(crate) use unproven::Proof;

use crate::{
    causes::chain,
    memory::Pressure,
    socket::{SocketError, Sockets},
    telemetry::TunnelSide,
    tunnel::{
        Place, Pool, PoolKey,
        hbone::client::{self, Client},
    },
    uid::PodUid,
};

/// Whether the proxy takes new connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    Serving,
    /// No new connections or streams; those that are open may finish.
    Draining,
}

/// Callers cut at once when memory runs short.
const SHED: usize = 16;

/// Which set of a pod's listeners.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Generation(pub(crate) u64);

/// See the module.
pub struct Pod<S> {
    pub uid: PodUid,
    pub name: ztunnel_core::Pod,
    pub shared: Rc<Shared>,
    pub sockets: S,
    pub(crate) pool: Pool,
    pub(crate) tasks: Tasks,
    pub(crate) connections: Cell<usize>,
    pub(crate) phase: watch::Sender<Phase>,
    /// The newest set of listeners; older ones are to close.
    pub(crate) listeners: watch::Sender<Generation>,
    node: watch::Receiver<Phase>,
}

impl<S: Sockets> Pod<S> {
    pub(crate) fn new(
        uid: PodUid,
        name: ztunnel_core::Pod,
        sockets: S,
        shared: Rc<Shared>,
        node: watch::Receiver<Phase>,
    ) -> Self {
        let idle = shared.settings.timeouts.tunnel_idle;
        let pool = Pool::new(idle, shared.settings.h2.client_streams);
        Self {
            uid,
            name,
            shared,
            sockets,
            pool,
            tasks: Tasks::default(),
            connections: Cell::new(0),
            phase: watch::Sender::new(Phase::Serving),
            listeners: watch::Sender::new(Generation(0)),
            node,
        }
    }

    /// Connects to another node or an address outside of the mesh, within the deadline.
    pub async fn connect(&self, to: SocketAddr) -> Result<S::Stream, Failure> {
        self.within(to, self.sockets.connect(to)).await
    }

    /// Connects to the application, within the deadline.
    pub async fn deliver(&self, bind: Bind, to: SocketAddr) -> Result<S::Stream, Failure> {
        self.within(to, self.sockets.deliver(bind, to)).await
    }

    async fn within(
        &self,
        to: SocketAddr,
        connecting: impl Future<Output = Result<S::Stream, SocketError>>,
    ) -> Result<S::Stream, Failure> {
        let after = self.shared.settings.timeouts.connect;
        match timeout(after, connecting).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(SocketError::NoSocket(error))) => Err(Failure::Socket { error: chain(&error) }),
            Ok(Err(SocketError::Connect(error))) => {
                Err(Failure::Connect { to, error: chain(&error) })
            }
            Err(_) => Err(Failure::ConnectTimeout {
                to,
                after_ms: u64::try_from(after.as_millis()).unwrap_or(u64::MAX),
            }),
        }
    }

    /// A place in a tunnel.
    pub async fn place(self: &Rc<Self>, key: &PoolKey, svid: &Arc<Svid>) -> Result<Place, Failure> {
        let dial = || {
            let (pod, svid, key) = (self.clone(), svid.clone(), key.clone());
            Box::pin(async move { pod.dial(&svid, key.to, &key.expect).await })
                as std::pin::Pin<Box<dyn Future<Output = _>>>
        };
        self.pool.place(key, svid, dial).await
    }

    async fn dial(
        &self,
        svid: &Svid,
        to: SocketAddr,
        expect: &[Identity],
    ) -> Result<Client, Failure> {
        let stream = self.connect(to).await?;
        let began = Instant::now();
        let tls = weft_certs::client_config(svid, expect);
        let settings = self.shared.settings.clone();
        let (client, driver) =
            client::open(stream, tls, settings).await.map_err(|error| error.failure(to))?;
        self.shared.outcomes.handshake(TunnelSide::Client, began.elapsed());
        self.tasks.spawn(driver);
        Ok(client)
    }

    /// Completes once the pod or the node takes no more connections.
    pub(crate) async fn draining(&self) {
        let (mut node, mut pod) = (self.node.clone(), self.phase.subscribe());
        let is = |phase: &Phase| *phase == Phase::Draining;
        tokio::select! {
            // Biased for repeatability only: both mean the same. A sender that is gone means it too.
            biased;
            _ = node.wait_for(is) => {}
            _ = pod.wait_for(is) => {}
        }
    }

    /// Completes when one more connection is within the limits, and there is memory for it.
    pub(crate) async fn room(&self) {
        let limits = &self.shared.limits;
        let mut pressure = self.shared.pressure.clone();
        loop {
            // Before the look, so that one who leaves in between is not missed.
            let left = self.shared.left.notified();
            let pod = self.connections.get() < limits.pod_connections;
            let node = self.shared.connections.get() < limits.node_connections;
            match *pressure.borrow_and_update() {
                Pressure::Normal if pod && node => return,
                Pressure::Normal => {}
                Pressure::Full | Pressure::Over { .. } => drop(self.shared.unproven.shed(SHED)),
            }
            tokio::select! {
                // Biased for repeatability only: either way all is looked at again.
                biased;
                () = left => {}
                Ok(()) = pressure.changed() => {}
            }
        }
    }

    /// Completes once there is no memory for new connections.
    pub(crate) async fn short_of_memory(&self) {
        let mut pressure = self.shared.pressure.clone();
        if pressure.wait_for(|now| *now != Pressure::Normal).await.is_err() {
            // Nobody watches over it, as in a simulation.
            std::future::pending::<()>().await;
        }
    }

    /// As whom the pod answers; waits a bounded time for the view to know it.
    pub(crate) async fn identity(&self) -> Result<Identity, Failure> {
        let mut views = self.shared.views.clone();
        let is_ours =
            |workload: &Arc<Workload>| workload.service_account == self.name.service_account;
        let known = views
            .wait_for(|view| view.pod(&self.name.namespace, &self.name.name).is_some_and(is_ours));
        let within = self.shared.settings.timeouts.workload_wait;
        let unknown = || Failure::Broken {
            error: Refusal::UnknownPod { pod: self.name.clone() }.to_string(),
        };
        let view = timeout(within, known).await.map_err(|_| unknown())?.map_err(|_| unknown())?;
        let pod = view.pod(&self.name.namespace, &self.name.name);
        pod.map(|workload| workload.identity()).ok_or_else(unknown)
    }
}

impl<S> fmt::Debug for Pod<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pod")
            .field("uid", &self.uid)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
