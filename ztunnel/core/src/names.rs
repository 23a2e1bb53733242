//! Which service or workload a name means to a client.

use std::net::IpAddr;

use weft_model::{
    Endpoint, Health, HealthPolicy, Hostname, IpFamilies, Namespace, Network, Service, ServicePort,
    View, Workload,
};

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    pub namespace: &'a Namespace,
    /// Addresses of other networks are of no use to it.
    pub network: &'a Network,
}

/// What a name stands for.
#[derive(Debug)]
pub enum Found<'a> {
    Service { service: &'a Service, addresses: Addresses<'a> },
    Workload { workload: &'a Workload, addresses: Vec<IpAddr> },
}

#[derive(Debug)]
pub enum Addresses<'a> {
    Vips(Vec<IpAddr>),
    /// Of a service without an address of its own ("headless").
    Endpoints(Vec<Target<'a>>),
}

/// One endpoint of a service without an address of its own.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    pub workload: &'a Workload,
    endpoint: Endpoint<'a>,
}

impl Target<'_> {
    /// Its label below the service's name: a pod's own, or else its address, as Kubernetes does.
    pub fn label(&self) -> String {
        if is_label(&self.workload.name) {
            return self.workload.name.to_string();
        }
        self.workload.addresses.first().map(|ip| dashed(*ip)).unwrap_or_default()
    }

    pub fn target_port(&self, port: &ServicePort) -> u16 {
        let own = self.endpoint.ports.get(&port.service_port).copied();
        own.or(Some(port.target_port).filter(|p| *p != 0)).unwrap_or(port.service_port)
    }
}

impl Found<'_> {
    pub fn addresses(&self) -> Vec<IpAddr> {
        match self {
            Self::Service { addresses: Addresses::Vips(vips), .. } => vips.clone(),
            Self::Service { service, addresses: Addresses::Endpoints(targets) } => targets
                .iter()
                .flat_map(|t| of_families(&t.workload.addresses, service.ip_families))
                .collect(),
            Self::Workload { addresses, .. } => addresses.clone(),
        }
    }
}

/// The name as asked, then what is left of it without each search domain that a pod's resolver appends.
///
/// A resolver with `ndots:5` asks `example.com.shop.svc.cluster.local` before `example.com`. Answering the first
/// of these saves four questions and as many answers "no such name".
pub fn candidates(
    asked: &Hostname,
    namespace: &Namespace,
    cluster_domain: &str,
) -> impl Iterator<Item = Hostname> {
    let domains = [
        format!(".{namespace}.svc.{cluster_domain}"),
        format!(".svc.{cluster_domain}"),
        format!(".{cluster_domain}"),
    ];
    let name = asked.clone();
    let stripped = domains
        .into_iter()
        .filter_map(move |domain| Hostname::new(name.as_str().strip_suffix(&*domain)?).ok());
    std::iter::once(asked.clone()).chain(stripped)
}

/// What a client means by `name`, if the mesh has an address for it in the client's network.
pub fn find<'a>(view: &'a View, asker: Asker<'_>, name: &Hostname) -> Option<Found<'a>> {
    // A question for `*` is a question for that label, not for everything below.
    if name.as_str().starts_with('*') {
        return None;
    }
    let service = view.service_named(name, asker.namespace).map(AsRef::as_ref);
    let exact = service.filter(|s| s.hostname == *name);
    exact
        .map_or_else(|| below_service(view, asker, name), |s| of_service(view, asker, s))
        .or_else(|| of_workload(view, asker, name))
        .or_else(|| of_service(view, asker, service.filter(|_| exact.is_none())?))
}

fn of_service<'a>(view: &'a View, asker: Asker<'_>, service: &'a Service) -> Option<Found<'a>> {
    let addresses = if service.vips.is_empty() {
        let targets = targets(view, asker.network, service);
        (!targets.is_empty()).then_some(Addresses::Endpoints(targets))?
    } else {
        let ours = service.vips.iter().filter(|vip| vip.network == *asker.network);
        let vips: Vec<_> = ours.map(weft_model::NetworkAddress::address).collect();
        (!vips.is_empty()).then(|| Addresses::Vips(of_families(&vips, service.ip_families)))?
    };
    Some(Found::Service { service, addresses })
}

/// `web-0.web.shop.svc.cluster.local`, or `10-0-0-1.web.shop.svc.cluster.local`.
fn below_service<'a>(view: &'a View, asker: Asker<'_>, name: &Hostname) -> Option<Found<'a>> {
    let (label, parent) = name.as_str().split_once('.')?;
    let parent = Hostname::new(parent).ok()?;
    let service = view.service_named(&parent, asker.namespace)?;
    if service.hostname != parent || !service.vips.is_empty() {
        return None;
    }
    let Target { workload, .. } = targets(view, asker.network, service).into_iter().find(|t| {
        &*t.workload.name == label || t.workload.addresses.iter().any(|ip| dashed(*ip) == label)
    })?;
    let addresses = of_families(&workload.addresses, service.ip_families);
    Some(Found::Workload { workload, addresses })
}

fn of_workload<'a>(view: &'a View, asker: Asker<'_>, name: &Hostname) -> Option<Found<'a>> {
    let workload = view.workload_named(name)?;
    let reachable = workload.network == *asker.network && !workload.addresses.is_empty();
    reachable.then(|| Found::Workload { workload, addresses: workload.addresses.clone() })
}

/// Endpoints that a client could connect to by address.
fn targets<'a>(view: &'a View, network: &Network, service: &'a Service) -> Vec<Target<'a>> {
    let unhealthy_too = match service.load_balancing.health {
        HealthPolicy::OnlyHealthy => false,
        HealthPolicy::AllowAll => true,
    };
    view.endpoints(&service.key())
        .map(|endpoint| Target { workload: endpoint.workload, endpoint })
        .filter(|t| unhealthy_too || t.workload.health == Health::Healthy)
        .filter(|t| t.workload.network == *network && !t.workload.addresses.is_empty())
        .collect()
}

pub fn of_families(addresses: &[IpAddr], families: IpFamilies) -> Vec<IpAddr> {
    let wanted = |ip: &IpAddr| match families {
        IpFamilies::Automatic | IpFamilies::Dual => true,
        IpFamilies::Ipv4Only => ip.is_ipv4(),
        IpFamilies::Ipv6Only => ip.is_ipv6(),
    };
    addresses.iter().copied().filter(wanted).collect()
}

fn is_label(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn dashed(ip: IpAddr) -> String {
    ip.to_string().replace(['.', ':'], "-")
}
