//! Which endpoints of a service can serve this client, and why the others cannot.

use std::{net::SocketAddr, sync::Arc};

use smallvec::SmallVec;
use weft_model::{
    GatewayAddress, Health, HealthPolicy, Mode, PeerAddr, Ports, RoutingScope, Service, Workload,
};

use super::{Picker, Reach};
use crate::{LeftOut, Refusal, trace::Trace};

/// What an endpoint is wanted for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Need {
    Endpoint,
    Waypoint,
    /// Reached from any network: that is what it is for.
    NetworkGateway,
}

#[derive(Clone, Debug)]
pub(crate) struct Candidate<'a> {
    pub(crate) workload: &'a Arc<Workload>,
    pub(crate) place: Place,
    rank: usize,
    matches_all: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Place {
    Near(Reach),
    /// In another network, behind this gateway.
    Behind(GatewayAddress),
}

pub(crate) type Candidates<'a> = SmallVec<[Candidate<'a>; 8]>;

impl Candidate<'_> {
    pub(super) fn weight(&self) -> u64 {
        u64::from(self.workload.capacity)
    }
}

impl<'a> Picker<'a> {
    /// All endpoints that may be picked; never none.
    pub(crate) fn candidates(
        &self,
        service: &Service,
        port: u16,
        need: Need,
        trace: &mut impl Trace,
    ) -> Result<Candidates<'a>, Refusal> {
        if need == Need::Endpoint && service.port(port).is_none() {
            return Err(Refusal::NoPort { service: service.key(), port });
        }
        let mut reasons = Vec::new();
        let mut leave = |workload: &Arc<Workload>, reason: LeftOut| {
            trace.left_out(workload, reason);
            count(&mut reasons, reason);
        };
        let mut usable = Candidates::new();
        for endpoint in self.view.endpoints(&service.key()) {
            match self.candidate(service, endpoint.workload, endpoint.ports, port, need) {
                Ok(candidate) => usable.push(candidate),
                Err(reason) => leave(endpoint.workload, reason),
            }
        }
        let best = usable.iter().map(|c| c.rank).max().unwrap_or(0);
        usable.retain(|c| match service.load_balancing.mode {
            Mode::Failover if c.rank < best => {
                leave(c.workload, LeftOut::Farther);
                false
            }
            Mode::Strict if !c.matches_all => {
                leave(c.workload, LeftOut::NotLocal);
                false
            }
            Mode::Any | Mode::Passthrough | Mode::Failover | Mode::Strict => true,
        });
        if usable.is_empty() {
            return Err(Refusal::NoEndpoint { service: service.key(), left_out: reasons });
        }
        Ok(usable)
    }

    fn candidate(
        &self,
        service: &Service,
        workload: &'a Arc<Workload>,
        ports: &Ports,
        port: u16,
        need: Need,
    ) -> Result<Candidate<'a>, LeftOut> {
        if self.tried.contains(&workload.uid) {
            return Err(LeftOut::Tried);
        }
        if workload.health == Health::Unhealthy
            && service.load_balancing.health == HealthPolicy::OnlyHealthy
        {
            return Err(LeftOut::Unhealthy);
        }
        if workload.capacity == 0 {
            return Err(LeftOut::NoCapacity);
        }
        let own = ports.get(&port).copied();
        let target = own
            .or_else(|| service.port(port).map(|p| p.target_port))
            .filter(|target| *target != 0)
            // A waypoint whose proxy listens through an application tunnel need not list its tunnel port.
            .or((need != Need::Endpoint && workload.application_tunnel.is_some()).then_some(port))
            .ok_or(LeftOut::NoPort)?;
        let place = self.place(workload, self.reach(service, workload, target), need)?;
        if let Place::Behind(gateway) = &place {
            self.located(gateway, Need::NetworkGateway).map_err(|_| LeftOut::NoGateway)?;
        }
        let (rank, matches_all) =
            rank(&service.load_balancing.routing_preference, &self.outbound.source, workload);
        Ok(Candidate { workload, place, rank, matches_all })
    }

    /// `reach` is where the workload would be dialled if it were near.
    pub(super) fn place(
        &self,
        workload: &Workload,
        reach: Option<Reach>,
        need: Need,
    ) -> Result<Place, LeftOut> {
        if need != Need::NetworkGateway && workload.network != self.outbound.source.network {
            return workload.network_gateway.clone().map(Place::Behind).ok_or(LeftOut::NoGateway);
        }
        reach.map(Place::Near).ok_or(LeftOut::NoAddress)
    }

    /// An address of the family that the client dialled, if there is one.
    fn reach(&self, service: &Service, workload: &Workload, port: u16) -> Option<Reach> {
        let wanted = self.outbound.dst.ip().is_ipv4();
        let own = workload.addresses.iter();
        let same = own.clone().find(|ip| ip.is_ipv4() == wanted);
        if let Some(ip) = same.or_else(|| workload.addresses.first()) {
            return Some(Reach::At(PeerAddr::new(SocketAddr::new(*ip, port))));
        }
        let hostname = workload.hostname.clone()?;
        Some(Reach::Named { hostname, families: service.ip_families, port })
    }
}

/// How near an endpoint is: how many preferences match before the first that does not; and whether all do.
///
/// When the network comes first, every endpoint of ours outranks every one beyond, and those beyond are still
/// told apart by the rest.
fn rank(preference: &[RoutingScope], client: &Workload, endpoint: &Workload) -> (usize, bool) {
    let same = |scope: &RoutingScope| match scope {
        RoutingScope::Region => client.locality.region == endpoint.locality.region,
        RoutingScope::Zone => client.locality.zone == endpoint.locality.zone,
        RoutingScope::Subzone => client.locality.subzone == endpoint.locality.subzone,
        RoutingScope::Node => client.node == endpoint.node,
        RoutingScope::Cluster => client.cluster_id == endpoint.cluster_id,
        RoutingScope::Network => client.network == endpoint.network,
    };
    let leading = |scopes: &[RoutingScope]| scopes.iter().take_while(|s| same(s)).count();
    let all = preference.iter().all(same);
    match preference {
        [RoutingScope::Network, rest @ ..] => {
            let near = if same(&RoutingScope::Network) { preference.len() } else { 0 };
            (near + leading(rest), all)
        }
        other => (leading(other), all),
    }
}

fn count(reasons: &mut Vec<(LeftOut, usize)>, reason: LeftOut) {
    match reasons.iter_mut().find(|(known, _)| *known == reason) {
        Some((_, count)) => *count += 1,
        None => reasons.push((reason, 1)),
    }
}
