//! A connection that a pod of this node opened: whom it was meant for, and how it gets there.

use std::{net::SocketAddr, rc::Rc};

use weft_model::{Hostname, Identity, PeerAddr, View, WorkloadUid};
use ztunnel_core::{
    Arrival, Authority, Captured, Carrier, Endpoint, Failure, Hop, Outbound, Parties, Permit,
    Reach, Refusal, Resolved, Target, balance, next_hop,
};

use crate::{
    outcome::Record,
    relay::{Plain, relay},
    socket::{Accepted, Sockets},
    tunnel::{
        Place, PoolKey, Reused,
        hbone::{InTunnel, Introduction, client},
    },
    worker::{Counted, Pod},
};

/// Endpoints tried for one connection, so that a service that is all down does not hold its clients.
const ATTEMPTS_MAX: usize = 3;

/// Carries one captured connection from its arrival to its outcome.
pub async fn serve<S: Sockets>(pod: Rc<Pod<S>>, accepted: Accepted<S::Stream>) {
    let Accepted { stream, peer, to } = accepted;
    let mut client = Plain::new(stream);
    let arrival = Arrival::from(Captured { source: pod.name.clone(), dst: to });
    let mut record = Record::new(pod.shared.outcomes.clone(), Parties::arriving(&arrival));
    record.parties.source.address = Some(peer.0);
    let (view, permit) = pod.shared.permit(&arrival).await;
    let permit = match permit {
        Ok(permit) => permit,
        Err(refusal) => return record.refused(refusal),
    };
    record.parties = record.parties.clone().resolved(&view, permit.resolved());
    let attempt = Attempt { pod: &pod, view: &view, permit: &permit, client: peer };
    let server = match attempt.reach(&mut record.parties).await {
        Ok(server) => server,
        Err(Unreached::Refused(refusal)) => return record.refused(refusal),
        Err(Unreached::Failed(failure)) => return record.failed(failure),
    };
    record.carrying(pod.uid.0.clone(), to.0);
    let revoked = pod.shared.revoked(&permit);
    let ending = match server {
        Server::Plain(stream, _counted) => {
            relay(&mut client, &mut Plain::new(stream), &record.carried, revoked).await
        }
        Server::Tunnel(mut stream, _counted) => {
            relay(&mut client, &mut stream, &record.carried, revoked).await
        }
    };
    record.finished(ending);
}

/// The other end, connected.
enum Server<S: Sockets> {
    Plain(S::Stream, Option<Counted>),
    Tunnel(InTunnel<Place>, Option<Counted>),
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
                let stream = self.pod.connect(address(&to)?).await?;
                Ok(Server::Plain(stream, counted))
            }
            Hop::Hbone { carrier: Carrier::Tcp, via, authority, expect } => {
                let via = address(&via)?;
                let uid = endpoint.uid().cloned();
                let stream = self.tunnel(uid, via, &authority, expect, parties).await?;
                Ok(Server::Tunnel(stream, counted))
            }
            Hop::Nested { via, .. } => Err(Failure::Connect {
                to: address(&via)?,
                error: "tunnels through another network's gateway are not carried".to_owned(),
            }),
            Hop::Deliver { to, .. } => Err(Failure::Connect {
                to: to.0,
                error: "an outbound connection has no local delivery".to_owned(),
            }),
        }
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
        let source = self.permit.local();
        let svid = shared.svids.svid(&source.identity()).await?;
        let key = PoolKey { source: source.identity(), endpoint, to: via, expect };
        let about = Introduction {
            source,
            client: self.client,
            dialled: dialled(self.permit),
            trace: shared.trace(),
        };
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

fn dialled(permit: &Permit) -> Option<&Hostname> {
    match permit.resolved() {
        Resolved::Outbound(Outbound { target: Target::Service(service), .. }) => {
            Some(&service.hostname)
        }
        Resolved::Outbound(_) | Resolved::Inbound(_) => None,
    }
}

fn address(reach: &Reach) -> Result<SocketAddr, Failure> {
    match reach {
        Reach::At(address) => Ok(address.0),
        Reach::Named { hostname, .. } => Err(Failure::Resolve {
            hostname: hostname.clone(),
            error: "endpoints without an address are not resolved".to_owned(),
        }),
    }
}
