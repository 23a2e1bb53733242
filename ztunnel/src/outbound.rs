//! A connection that a pod of this node opened: whom it was meant for, and how it gets there.

use std::{net::SocketAddr, rc::Rc, time::Duration};

use futures_util::future::LocalBoxFuture;
use tokio::{net::lookup_host, time::timeout};
use weft_model::{Hostname, Identity, IpFamilies, Network, PeerAddr, View, WorkloadUid};
use ztunnel_core::{
    Arrival, Authority, Captured, Carrier, Endpoint, Failure, Hop, Outbound, Parties, Permit,
    Reach, Refusal, Resolved, Target, balance, next_hop,
};

use crate::{
    outcome::{Cut, Record},
    pod::{Counted, Pod},
    relay::{Plain, relay},
    socket::{Accepted, Sockets},
    tunnel::{
        Nested, Place, PoolKey, Reused,
        hbone::{InTunnel, Introduction, client},
    },
};

/// Endpoints tried for one connection, so that a service that is all down does not hold its clients.
const ATTEMPTS_MAX: usize = 3;

/// Carries one captured connection from its arrival to its outcome.
pub fn serve<S: Sockets>(
    pod: Rc<Pod<S>>,
    accepted: Accepted<S::Stream>,
) -> impl Future<Output = ()> {
    // Boxed, and freed when both ends are connected: to connect takes ten times the memory that carrying does, and
    // most connections are idle for most of their lives.
    let connecting = Box::pin(connect(pod, accepted));
    async move {
        let Some(Connected { record, mut client, mut server, cut }) = connecting.await else {
            return;
        };
        let carried = &record.carried;
        let ending = match &mut server {
            Server::Plain(server, _counted) => relay(&mut client, server, carried, cut).await,
            Server::Tunnel(server, _counted) => relay(&mut client, server, carried, cut).await,
            Server::Nested(server, _counted) => relay(&mut client, server, carried, cut).await,
        };
        record.finished(ending);
    }
}

/// A connection whose two ends are there.
struct Connected<S: Sockets> {
    record: Record,
    client: Plain<S::Stream>,
    server: Server<S>,
    cut: LocalBoxFuture<'static, Cut>,
}

/// `None` when it has come to its outcome already.
async fn connect<S: Sockets>(
    pod: Rc<Pod<S>>,
    accepted: Accepted<S::Stream>,
) -> Option<Connected<S>> {
    let Accepted { stream, peer, to } = accepted;
    let client = Plain::new(stream);
    let arrival = Arrival::from(Captured { source: pod.name.clone(), dst: to });
    let mut record = Record::new(pod.shared.outcomes.clone(), Parties::arriving(&arrival));
    record.parties.source.address = Some(peer.0);
    let (view, permit) = pod.shared.permit(&arrival).await;
    let permit = match permit {
        Ok(permit) => permit,
        Err(refusal) => {
            record.refused(refusal);
            return None;
        }
    };
    record.parties = record.parties.clone().resolved(&view, permit.resolved());
    let attempt = Attempt { pod: &pod, view: &view, permit: &permit, client: peer };
    match attempt.reach(&mut record.parties).await {
        Ok(server) => {
            record.carrying(pod.uid.0.clone(), to.0);
            return Some(Connected { record, client, server, cut: pod.shared.cut(&permit) });
        }
        Err(Unreached::Refused(refusal)) => record.refused(refusal),
        Err(Unreached::Failed(failure)) => record.failed(failure),
    }
    None
}

/// The other end, connected.
enum Server<S: Sockets> {
    Plain(Plain<S::Stream>, Option<Counted>),
    Tunnel(InTunnel<Place>, Option<Counted>),
    /// In a tunnel of its own, which no other connection shares, inside of a shared one.
    Nested(InTunnel<()>, Option<Counted>),
}

enum Unreached {
    Refused(Refusal),
    Failed(Failure),
}

struct Attempt<'a, S: Sockets> {
    pod: &'a Rc<Pod<S>>,
    view: &'a View,
    permit: &'a Permit,
    client: PeerAddr,
}

impl<S: Sockets> Attempt<'_, S> {
    /// Tries endpoints until one is reached. Nothing of the client's was sent before that, so no byte is lost or
    /// sent twice.
    async fn reach(&self, parties: &mut Parties) -> Result<Server<S>, Unreached> {
        let shared = &self.pod.shared;
        let mut tried = Vec::<WorkloadUid>::new();
        let mut last: Option<Failure> = None;
        while tried.len() < ATTEMPTS_MAX {
            let draw = shared.draw();
            let chosen =
                shared.with_load(|load| balance(self.view, self.permit, load, &tried, draw));
            let endpoint = match (chosen, last.take()) {
                (Ok(endpoint), _) => endpoint,
                // All were tried: how the last one failed says more than that none is left.
                (Err(_), Some(failure)) => return Err(Unreached::Failed(failure)),
                (Err(refusal), None) => return Err(Unreached::Refused(refusal)),
            };
            let hop = next_hop(self.permit, &endpoint);
            *parties = parties.clone().towards(&endpoint, &hop);
            let counted = shared.counted(endpoint.uid());
            match (self.go(&endpoint, hop, counted, parties).await, endpoint.uid()) {
                (Ok(server), _) => return Ok(server),
                (Err(failure), Some(uid)) if failure.try_another() => {
                    tried.push(uid.clone());
                    last = Some(failure);
                }
                (Err(failure), _) => return Err(Unreached::Failed(failure)),
            }
        }
        Err(Unreached::Failed(last.unwrap_or(Failure::Stopping)))
    }

    async fn go(
        &self,
        endpoint: &Endpoint,
        hop: Hop,
        counted: Option<Counted>,
        parties: &mut Parties,
    ) -> Result<Server<S>, Failure> {
        match hop {
            Hop::Plaintext { to } => {
                let stream = self.pod.connect(self.address(&to, parties).await?).await?;
                Ok(Server::Plain(Plain::new(stream), counted))
            }
            Hop::Hbone { carrier: Carrier::Tcp, via, authority, expect } => {
                let via = self.address(&via, parties).await?;
                let uid = endpoint.uid().cloned();
                let stream = self.tunnel(uid, via, &authority, expect, parties).await?;
                Ok(Server::Tunnel(stream, counted))
            }
            Hop::Nested { via, authority, expect_gateway, expect } => {
                let via = self.address(&via, parties).await?;
                let uid = endpoint.uid().cloned();
                let outer = self.tunnel(uid, via, &authority, expect_gateway, parties).await?;
                let stream = self.nested(outer, via, &authority, &expect, parties).await?;
                Ok(Server::Nested(stream, counted))
            }
            Hop::Deliver { to, .. } => Err(Failure::Connect {
                to: to.0,
                error: "an outbound connection has no local delivery".to_owned(),
            }),
        }
    }

    async fn address(&self, reach: &Reach, parties: &Parties) -> Result<SocketAddr, Failure> {
        match reach {
            Reach::At(address) => Ok(address.0),
            Reach::Named { hostname, families, port } => {
                self.pod.shared.outcomes.looked_up(&parties.source, hostname);
                resolve(hostname, *port, *families).await
            }
        }
    }

    fn introduction<'b>(&'b self, network: Option<&'b Network>) -> Introduction<'b> {
        Introduction {
            source: self.permit.local(),
            client: self.client,
            dialled: dialled(self.permit),
            network,
            trace: self.pod.shared.trace(),
        }
    }

    /// A stream in a tunnel of its own, which runs inside of `outer` to beyond the gateway.
    async fn nested(
        &self,
        outer: InTunnel<Place>,
        via: SocketAddr,
        authority: &Authority,
        expect: &[Identity],
        parties: &mut Parties,
    ) -> Result<InTunnel<()>, Failure> {
        let shared = &self.pod.shared;
        let source = self.permit.local();
        let svid = shared.svids.svid(&source.identity()).await?;
        let tls = weft_certs::client_config(&svid, expect);
        let settings = shared.settings.clone();
        let within = settings.timeouts.connect_head;
        let (client, driver) = client::open(Nested::new(outer), tls, settings)
            .await
            .map_err(|error| error.failure(via))?;
        self.pod.tasks.spawn(driver);
        parties.destination.identity = Some(client.peer().clone());
        let about = self.introduction(Some(&source.network));
        client.connect(authority, &about, within, ()).await.map_err(|error| error.failure(via))
    }

    /// A stream in a tunnel to `via`, shared with other connections of this pod where one is open.
    async fn tunnel(
        &self,
        endpoint: Option<WorkloadUid>,
        via: SocketAddr,
        authority: &Authority,
        expect: Vec<Identity>,
        parties: &mut Parties,
    ) -> Result<InTunnel<Place>, Failure> {
        let shared = &self.pod.shared;
        let source = self.permit.local().identity();
        let svid = shared.svids.svid(&source).await?;
        let key = PoolKey { source, endpoint, to: via, expect };
        let about = self.introduction(None);
        loop {
            let place = self.pod.place(&key, &svid).await?;
            let (client, reused) = (place.client(), place.reused);
            parties.destination.identity = Some(client.peer().clone());
            let within = shared.settings.timeouts.connect + shared.settings.timeouts.connect_head;
            match client.connect(authority, &about, within, place).await {
                Ok(stream) => return Ok(stream),
                // A tunnel that waited in the pool may have ended just now. The peer has served nothing of this
                // stream, so a fresh one is tried; that one's failure is final.
                Err(client::ClientError::Http2(error)) if reused == Reused::Yes => {
                    tracing::debug!(%error, to = %via, "a pooled tunnel had ended");
                    self.pod.pool.forget(&key, &client);
                }
                Err(error) => return Err(error.failure(via)),
            }
        }
    }
}

/// How long a name may take to become an address.
const RESOLVE_WITHIN: Duration = Duration::from_secs(5);

/// The first address of a name that is of a wanted family. The system caches; a workload without an address of its
/// own is rare.
async fn resolve(
    hostname: &Hostname,
    port: u16,
    families: IpFamilies,
) -> Result<SocketAddr, Failure> {
    let failed = |error: String| Failure::Resolve { hostname: hostname.clone(), error };
    let found = timeout(RESOLVE_WITHIN, lookup_host((hostname.as_str(), port))).await;
    let mut found = found
        .map_err(|_| failed(format!("no answer within {RESOLVE_WITHIN:?}")))?
        .map_err(|error| failed(error.to_string()))?;
    let wanted = |address: &SocketAddr| match families {
        IpFamilies::Automatic | IpFamilies::Dual => true,
        IpFamilies::Ipv4Only => address.is_ipv4(),
        IpFamilies::Ipv6Only => address.is_ipv6(),
    };
    found.find(wanted).ok_or_else(|| failed("it has no address of a wanted family".to_owned()))
}

fn dialled(permit: &Permit) -> Option<&Hostname> {
    match permit.resolved() {
        Resolved::Outbound(Outbound { target: Target::Service(service), .. }) => {
            Some(&service.hostname)
        }
        Resolved::Outbound(_) | Resolved::Inbound(_) => None,
    }
}
