//! Which of several endpoints.

use std::{fmt, net::SocketAddr, sync::Arc};

use smallvec::SmallVec;
use weft_model::{
    GatewayAddress, Hostname, Identity, IpFamilies, Mode, PeerAddr, Service, View, Workload,
    WorkloadUid,
};

use crate::{
    Authority, Draw, Inbound, Load, Outbound, Permit, Refusal, Resolved, Target,
    resolve::stands_at,
    trace::{Quiet, Trace},
};

mod candidate;
mod every;
pub(crate) use candidate::Need;
use candidate::{Candidate, Place};

/// Whom the connection goes to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Endpoint {
    /// The application in the pod of this node.
    Local(Inbound),
    /// Not of the mesh: the address that was asked for, unchanged.
    Outside {
        to: PeerAddr,
    },
    Workload {
        workload: Arc<Workload>,
        at: Reach,
        expect: Vec<Identity>,
    },
    Waypoint {
        waypoint: Arc<Workload>,
        via: Reach,
        authority: Authority,
        expect: Vec<Identity>,
    },
    /// In another network, behind its gateway.
    Remote {
        workload: Arc<Workload>,
        gateway: Arc<Workload>,
        via: Reach,
        authority: Authority,
        expect_gateway: Vec<Identity>,
        expect: Vec<Identity>,
    },
}

/// Where a socket is to be connected.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Reach {
    At(PeerAddr),
    /// To be resolved by DNS first, to an address of these families.
    Named {
        hostname: Hostname,
        families: IpFamilies,
        port: u16,
    },
}

/// Picks an endpoint: of those that can serve, two by chance, weighted by capacity, and of these the one with
/// fewer open connections for its capacity. `tried` are left out, so that a failed connect goes elsewhere.
pub fn balance(
    view: &View,
    permit: &Permit,
    load: &Load,
    tried: &[WorkloadUid],
    draw: Draw,
) -> Result<Endpoint, Refusal> {
    let outbound = match permit.resolved() {
        Resolved::Inbound(inbound) => return Ok(Endpoint::Local(inbound.clone())),
        Resolved::Outbound(outbound) => outbound,
    };
    Picker { view, outbound, load, tried, draw }.pick(&mut Quiet)
}

pub(crate) struct Picker<'a> {
    pub(crate) view: &'a View,
    pub(crate) outbound: &'a Outbound,
    pub(crate) load: &'a Load,
    pub(crate) tried: &'a [WorkloadUid],
    pub(crate) draw: Draw,
}

impl<'a> Picker<'a> {
    fn pick(&mut self, trace: &mut impl Trace) -> Result<Endpoint, Refusal> {
        let outbound = self.outbound;
        if let Some(gateway) = self.waypoint() {
            let waypoint = self.gateway(gateway, Need::Waypoint)?;
            return self.through(waypoint);
        }
        match &outbound.target {
            Target::Outside => Ok(self.outside()),
            Target::Workload(workload) => self.addressed(workload),
            Target::Service(service) => match service.load_balancing.mode {
                Mode::Passthrough => Ok(self.outside()),
                Mode::Any | Mode::Strict | Mode::Failover => {
                    let port = outbound.dst.port();
                    let chosen = self.choose(service, port, Need::Endpoint, trace)?;
                    self.endpoint(service, &chosen)
                }
            },
        }
    }

    fn addressed(&self, workload: &Arc<Workload>) -> Result<Endpoint, Refusal> {
        if self.tried.contains(&workload.uid) {
            return Err(Refusal::NoOther { workload: workload.uid.clone() });
        }
        Ok(Endpoint::Workload {
            workload: workload.clone(),
            at: Reach::At(PeerAddr(self.outbound.dst.0)),
            expect: vec![workload.identity()],
        })
    }

    fn outside(&self) -> Endpoint {
        Endpoint::Outside { to: PeerAddr(self.outbound.dst.0) }
    }

    /// The waypoint that the target asks to be called through, unless the caller is that waypoint.
    fn waypoint(&mut self) -> Option<&'a GatewayAddress> {
        let waypoints = self.waypoints();
        let mut left = self.draw.below(waypoints.iter().map(|(_, weight)| weight).sum());
        let (gateway, _) = waypoints.into_iter().find(|(_, weight)| {
            let here = left < *weight;
            left = left.saturating_sub(*weight);
            here
        })?;
        (!stands_at(&self.outbound.source, gateway)).then_some(gateway)
    }

    /// Each waypoint that may be chosen, with its weight.
    fn waypoints(&self) -> SmallVec<[(&'a GatewayAddress, u64); 1]> {
        let (weighted, single) = match &self.outbound.target {
            Target::Outside => return SmallVec::new(),
            Target::Workload(workload) => ([].as_slice(), workload.waypoint.as_ref()),
            Target::Service(s) => (s.weighted_waypoints.as_slice(), s.waypoint.as_ref()),
        };
        let weighted = weighted.iter().map(|w| (&w.destination, u64::from(w.weight)));
        let some: SmallVec<_> = weighted.filter(|(_, weight)| *weight > 0).collect();
        if some.is_empty() {
            single.map(|gateway| (gateway, 1)).into_iter().collect()
        } else {
            some
        }
    }

    fn through(&mut self, waypoint: Reached) -> Result<Endpoint, Refusal> {
        match waypoint.place {
            Place::Near(via) => {
                let mut expect = waypoint.service_identities;
                expect.push(waypoint.workload.identity());
                // The waypoint chooses the endpoint, so it is told what was dialled.
                let dst = self.outbound.dst;
                let authority = Authority::address(dst.ip(), dst.port());
                Ok(Endpoint::Waypoint { waypoint: waypoint.workload, via, authority, expect })
            }
            Place::Behind(gateway) => {
                self.remote(&waypoint.workload, &gateway, &waypoint.service_identities)
            }
        }
    }

    fn endpoint(&mut self, service: &Service, chosen: &Candidate<'a>) -> Result<Endpoint, Refusal> {
        let workload = chosen.workload;
        match &chosen.place {
            Place::Near(at) => {
                let mut expect = vec![workload.identity()];
                expect.extend(service.subject_alt_names.iter().cloned());
                Ok(Endpoint::Workload { workload: workload.clone(), at: at.clone(), expect })
            }
            Place::Behind(gateway) => self.remote(workload, gateway, &service.subject_alt_names),
        }
    }

    fn remote(
        &mut self,
        workload: &Arc<Workload>,
        gateway: &GatewayAddress,
        identities: &[Identity],
    ) -> Result<Endpoint, Refusal> {
        let reached = self.gateway(gateway, Need::NetworkGateway)?;
        let Place::Near(via) = reached.place else {
            return Err(Refusal::UnknownGateway { gateway: gateway.clone() });
        };
        let dst = self.outbound.dst;
        let authority = match &self.outbound.target {
            // A VIP means something only in its own network.
            Target::Service(s) => {
                Authority::Host { hostname: s.hostname.clone(), port: dst.port() }
            }
            Target::Workload(_) | Target::Outside => Authority::address(dst.ip(), dst.port()),
        };
        // The other side picks the endpoint: any that the service accepts. Never nobody in particular.
        let expect = match identities {
            [] => vec![workload.identity()],
            some => some.to_vec(),
        };
        Ok(Endpoint::Remote {
            workload: workload.clone(),
            expect_gateway: vec![reached.workload.identity()],
            gateway: reached.workload,
            via,
            authority,
            expect,
        })
    }

    fn gateway(&mut self, gateway: &GatewayAddress, need: Need) -> Result<Reached, Refusal> {
        match self.located(gateway, need)? {
            Located::Workload(reached) => Ok(reached),
            Located::Service(service, port) => {
                let chosen = self.choose(service, port, need, &mut Quiet)?;
                Ok(Reached::of(service, &chosen))
            }
        }
    }

    fn located(&self, gateway: &GatewayAddress, need: Need) -> Result<Located<'a>, Refusal> {
        let unknown = || Refusal::UnknownGateway { gateway: gateway.clone() };
        let (address, port) = match gateway {
            GatewayAddress::Hostname { name, hbone_port } => {
                let service = self.view.service(name).ok_or_else(unknown)?;
                return Ok(Located::Service(service, *hbone_port));
            }
            GatewayAddress::Address { address, hbone_port } => (address, *hbone_port),
        };
        let Some(workload) = self.view.workload_at(address) else {
            let client = &self.outbound.source.namespace;
            let service = self.view.service_at(address, client).ok_or_else(unknown)?;
            return Ok(Located::Service(service, port));
        };
        if need == Need::Waypoint && self.tried.contains(&workload.uid) {
            return Err(Refusal::NoOther { workload: workload.uid.clone() });
        }
        let at = Reach::At(PeerAddr(SocketAddr::new(address.address(), port)));
        let place = self.place(workload, Some(at), need).map_err(|_| unknown())?;
        let workload = workload.clone();
        Ok(Located::Workload(Reached { workload, place, service_identities: Vec::new() }))
    }

    /// Power of two choices.
    fn choose(
        &mut self,
        service: &Service,
        port: u16,
        need: Need,
        trace: &mut impl Trace,
    ) -> Result<Candidate<'a>, Refusal> {
        let mut candidates = self.candidates(service, port, need, trace)?;
        let first = self.weighted(&candidates, None);
        let second = self.weighted(&candidates, Some(first));
        let load = |i: usize| {
            candidates.get(i).map(|c| (u64::from(self.load.open(&c.workload.uid)), c.weight()))
        };
        let better = match (load(first), load(second)) {
            // a/x > b/y without division. A tie goes to the first, which alone follows the capacities.
            (Some((a, x)), Some((b, y))) if a * y > b * x => second,
            (Some(_) | None, _) => first,
        };
        Ok(candidates.swap_remove(better))
    }

    /// An index by chance, in proportion to capacity, other than `not`, if there is another.
    fn weighted(&mut self, candidates: &[Candidate<'_>], not: Option<usize>) -> usize {
        let eligible = || candidates.iter().enumerate().filter(|(i, _)| Some(*i) != not);
        let total = eligible().map(|(_, c)| c.weight()).sum();
        let mut left = self.draw.below(total);
        for (i, candidate) in eligible() {
            if left < candidate.weight() {
                return i;
            }
            left -= candidate.weight();
        }
        not.unwrap_or(0)
    }
}

/// A waypoint or gateway that was found.
struct Reached {
    workload: Arc<Workload>,
    place: Place,
    service_identities: Vec<Identity>,
}

impl Reached {
    fn of(service: &Service, chosen: &Candidate<'_>) -> Self {
        Self {
            workload: chosen.workload.clone(),
            place: chosen.place.clone(),
            service_identities: service.subject_alt_names.clone(),
        }
    }
}

enum Located<'a> {
    Workload(Reached),
    Service(&'a Service, u16),
}

impl Endpoint {
    /// What to count in [`Load`], and to leave out when it could not be connected. `None` outside of the mesh:
    /// there is no other to try.
    pub fn uid(&self) -> Option<&WorkloadUid> {
        self.workload().map(|workload| &workload.uid)
    }

    /// The workload that was chosen.
    pub fn workload(&self) -> Option<&Arc<Workload>> {
        match self {
            Self::Local(inbound) => Some(&inbound.workload),
            Self::Outside { .. } => None,
            Self::Workload { workload, .. } | Self::Remote { workload, .. } => Some(workload),
            Self::Waypoint { waypoint, .. } => Some(waypoint),
        }
    }
}

impl Reach {
    pub fn port(&self) -> u16 {
        match self {
            Self::At(address) => address.port(),
            Self::Named { port, .. } => *port,
        }
    }

    pub(crate) fn with_port(&self, port: u16) -> Self {
        match self {
            Self::At(address) => Self::At(PeerAddr(SocketAddr::new(address.ip(), port))),
            Self::Named { hostname, families, .. } => {
                Self::Named { hostname: hostname.clone(), families: *families, port }
            }
        }
    }

    pub(crate) fn authority(&self) -> Authority {
        match self {
            Self::At(address) => Authority::address(address.ip(), address.port()),
            Self::Named { hostname, port, .. } => {
                Authority::Host { hostname: hostname.clone(), port: *port }
            }
        }
    }
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(address) => address.fmt(f),
            Self::Named { hostname, port, .. } => write!(f, "{hostname}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests;
