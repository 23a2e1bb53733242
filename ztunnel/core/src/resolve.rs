//! Who is calling, and whom.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use weft_model::{
    ApplicationTunnel, GatewayAddress, Hostname, Namespace, NetworkAddress, OriginalDst, PeerAddr,
    Service, View, Workload,
};

use crate::{Arrival, Authority, Captured, PROXY_PORTS, Peer, Plain, Pod, Refusal, Tunnelled};

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Resolved {
    /// On the client's node.
    Outbound(Outbound),
    /// On the server's node.
    Inbound(Inbound),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outbound {
    pub source: Arc<Workload>,
    pub dst: OriginalDst,
    pub target: Target,
}

/// What an outbound connection was meant for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    Service(Arc<Service>),
    /// Addressed by its own address.
    Workload(Arc<Workload>),
    /// Nothing that the mesh knows.
    Outside,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inbound {
    pub workload: Arc<Workload>,
    pub peer: Peer,
    pub from: PeerAddr,
    /// The pod's address and the port of the application: what policies compare.
    pub to: PeerAddr,
    pub delivery: Delivery,
    /// The service that the client meant, for logs and metrics.
    pub service: Option<Arc<Service>>,
}

/// How the application wants to receive it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Delivery {
    Bytes,
    /// A PROXY v2 header first, which names this as the destination.
    ProxyHeader {
        destination: PeerAddr,
    },
}

/// Finds out who calls whom. [`Refusal::retry`] says when a newer view may answer differently.
pub fn resolve(view: &View, arrival: impl Into<Arrival>) -> Result<Resolved, Refusal> {
    match arrival.into() {
        Arrival::Captured(captured) => outbound(view, &captured).map(Resolved::Outbound),
        Arrival::Tunnelled(tunnelled) => inbound(view, tunnelled).map(Resolved::Inbound),
        Arrival::Plain(plain) => inbound_plain(view, &plain).map(Resolved::Inbound),
    }
}

fn outbound(view: &View, captured: &Captured) -> Result<Outbound, Refusal> {
    let source = local(view, &captured.source)?.clone();
    let target = target_of(view, &source, captured.dst);
    let itself = match &target {
        Target::Workload(workload) => workload.uid == source.uid,
        Target::Service(_) => false,
        Target::Outside => {
            not_retired(view, &source, captured.dst)?;
            captured.dst.ip().is_loopback()
        }
    };
    if itself {
        not_the_proxy(captured.dst.port())?;
    }
    Ok(Outbound { source, dst: captured.dst, target })
}

/// What `source` means by an address, in its own network and as far as its namespace may see.
pub(crate) fn target_of(view: &View, source: &Workload, dst: OriginalDst) -> Target {
    let address = NetworkAddress::new(source.network.clone(), dst.ip());
    if let Some(workload) = view.workload_at(&address) {
        Target::Workload(workload.clone())
    } else if let Some(service) = view.service_at(&address, &source.namespace) {
        Target::Service(service.clone())
    } else {
        Target::Outside
    }
}

/// What goes outside goes in the clear, and must not go to where a pod of the mesh was: the next one may be there
/// already, unknown to this view (istio#46628, ztunnel#1637).
fn not_retired(view: &View, source: &Workload, dst: OriginalDst) -> Result<(), Refusal> {
    let address = NetworkAddress::new(source.network.clone(), dst.ip());
    if view.is_retired(&address) { Err(Refusal::Retired { address }) } else { Ok(()) }
}

fn inbound(view: &View, tunnelled: Tunnelled) -> Result<Inbound, Refusal> {
    let workload = local(view, &tunnelled.target)?.clone();
    let client = tunnelled.peer.namespace();
    let (port, mut service) = match &tunnelled.authority {
        Authority::Address(address) => {
            may_stand_for(view, &workload, &tunnelled, address.ip())?;
            (address.port(), None)
        }
        Authority::Host { hostname, port } => {
            let service = named(view, &workload, hostname, client)
                .ok_or_else(|| Refusal::UnknownHost { hostname: hostname.clone() })?;
            (target_port(&workload, service, *port)?, Some(service.clone()))
        }
    };
    let port = tunnel_port(&workload).unwrap_or(port);
    not_the_proxy(port)?;
    let delivery = match workload.application_tunnel {
        None | Some(ApplicationTunnel::None { .. }) => Delivery::Bytes,
        Some(ApplicationTunnel::Proxy { .. }) => {
            Delivery::ProxyHeader { destination: meant(&tunnelled, service.as_deref()) }
        }
    };
    if service.is_none() {
        service = tunnelled
            .forwarded_host
            .as_ref()
            .and_then(|hostname| named(view, &workload, hostname, client).cloned());
    }
    Ok(Inbound {
        to: PeerAddr(SocketAddr::new(tunnelled.local.ip(), port)),
        peer: Peer::Proven(tunnelled.peer),
        from: tunnelled.from,
        workload,
        delivery,
        service,
    })
}

fn inbound_plain(view: &View, plain: &Plain) -> Result<Inbound, Refusal> {
    let workload = local(view, &plain.target)?.clone();
    not_the_proxy(plain.dst.port())?;
    Ok(Inbound {
        workload,
        peer: Peer::Unauthenticated,
        from: plain.from,
        to: PeerAddr(plain.dst.0),
        delivery: Delivery::Bytes,
        service: None,
    })
}

fn local<'v>(view: &'v View, pod: &Pod) -> Result<&'v Arc<Workload>, Refusal> {
    view.pod(&pod.namespace, &pod.name)
        .filter(|workload| workload.service_account == pod.service_account)
        .ok_or_else(|| Refusal::UnknownPod { pod: pod.clone() })
}

fn not_the_proxy(port: u16) -> Result<(), Refusal> {
    if PROXY_PORTS.contains(&port) { Err(Refusal::ProxyPort { port }) } else { Ok(()) }
}

/// A tunnel delivers to the address it came to, and to no other: else one pod's tunnel would reach another.
/// The exceptions speak for others by design: a waypoint, and a gateway inside of the pod.
fn may_stand_for(
    view: &View,
    workload: &Workload,
    tunnelled: &Tunnelled,
    asked: IpAddr,
) -> Result<(), Refusal> {
    if asked == tunnelled.local.ip() || workload.application_tunnel.is_some() {
        return Ok(());
    }
    let address = NetworkAddress::new(workload.network.clone(), asked);
    let mut waypoints = view
        .workload_at(&address)
        .map(|behind| behind.waypoint.iter().collect::<Vec<_>>())
        .or_else(|| {
            let service = view.service_at(&address, &workload.namespace)?;
            let weighted = service.weighted_waypoints.iter().map(|w| &w.destination);
            Some(weighted.chain(&service.waypoint).collect())
        })
        .into_iter()
        .flatten();
    if waypoints.any(|gateway| stands_at(workload, gateway)) {
        return Ok(());
    }
    let authority = tunnelled.authority.clone();
    Err(Refusal::WrongAuthority { authority, local: tunnelled.local })
}

/// Whether `workload` is what a gateway address leads to.
pub(crate) fn stands_at(workload: &Workload, gateway: &GatewayAddress) -> bool {
    match gateway {
        GatewayAddress::Hostname { name, .. } => workload.services.contains_key(name),
        GatewayAddress::Address { address, .. } => {
            workload.unique_addresses().any(|own| own == *address)
        }
    }
}

/// The service that a client means by a host name: one that this workload serves, or any that it may see when
/// a gateway inside of the pod speaks for others.
fn named<'v>(
    view: &'v View,
    workload: &Workload,
    hostname: &Hostname,
    client: &Namespace,
) -> Option<&'v Arc<Service>> {
    let mut own = workload.services.keys().filter(|name| name.hostname == *hostname);
    own.find_map(|name| view.service(name))
        .or_else(|| workload.application_tunnel.and_then(|_| view.service_named(hostname, client)))
}

/// Where an endpoint serves a port of a service: its own map first, then the service's.
fn target_port(workload: &Workload, service: &Service, port: u16) -> Result<u16, Refusal> {
    let own = workload.services.get(&service.key());
    own.and_then(|ports| ports.get(&port).copied())
        .or_else(|| service.port(port).map(|p| p.target_port))
        .filter(|target| *target != 0)
        .or_else(|| tunnel_port(workload))
        .ok_or_else(|| Refusal::NoPort { service: service.key(), port })
}

fn tunnel_port(workload: &Workload) -> Option<u16> {
    match workload.application_tunnel? {
        ApplicationTunnel::None { port } | ApplicationTunnel::Proxy { port } => port,
    }
}

/// The destination as the client knew it.
fn meant(tunnelled: &Tunnelled, service: Option<&Service>) -> PeerAddr {
    let port = tunnelled.authority.port();
    let ip = match &tunnelled.authority {
        Authority::Address(address) => address.ip(),
        Authority::Host { .. } => {
            let local = tunnelled.local.ip();
            let mut vips = service.into_iter().flat_map(|s| &s.vips).map(NetworkAddress::address);
            vips.find(|vip| vip.is_ipv4() == local.is_ipv4()).unwrap_or(local)
        }
    };
    PeerAddr(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests;
