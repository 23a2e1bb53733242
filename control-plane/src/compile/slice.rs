//! EndpointSlice to workloads: the endpoints of services without a selector.

use std::{net::IpAddr, sync::Arc};

use weft_model::{
    Change, Health, Locality, Namespace, NetworkMode, Ports, ServiceAccountName, Workload,
    WorkloadUid,
};

use super::{At, Compiled, Report, labels, liveness, service};
use crate::objects::{Endpoint, EndpointSlice, Kind, Name, Pod, Service};

pub(super) fn compile(at: At<'_>, name: &Name) -> Compiled {
    let mut report = Report::new(Kind::EndpointSlice, name);
    let Some(slice) = at.store.slices.get(name) else { return Compiled::default() };
    let Some(service) = service_of(at, slice) else { return Compiled::default() };
    let mut workloads: Vec<Workload> = Vec::new();
    for (index, endpoint) in slice.endpoints.iter().enumerate() {
        let own = slice.target_pod(endpoint).and_then(|name| at.store.pods.get(&name));
        // The pod itself is the endpoint, with its identity. By name, never by address: that can be reused.
        if own.is_some_and(|own| liveness::is_live(own)) {
            continue;
        }
        for address in &endpoint.addresses {
            let field = format!("endpoints[{index}].addresses");
            let Some(ip) = report.ok(address.parse::<IpAddr>(), field, address) else { continue };
            let ip = ip.to_canonical();
            let here = workloads.iter().any(|w| w.addresses == [ip]);
            if !here && !is_elsewhere(at, service, slice, endpoint, ip) {
                workloads.extend(workload(at, slice, service, endpoint, ip, &mut report));
            }
        }
    }
    report.with(workloads.into_iter().map(|w| Change::Workload(Arc::new(w))))
}

/// The slice's service, if the slice is what decides about its endpoints.
fn service_of<'a>(at: At<'a>, slice: &EndpointSlice) -> Option<&'a Arc<Service>> {
    let name = Name { namespace: slice.metadata.namespace.clone(), name: slice.service()?.clone() };
    let service = at.store.services.get(&name)?;
    (service.spec.selector.is_empty() && !service::is_external_name(service)).then_some(service)
}

/// The services that a pod is an endpoint of by being named in a slice.
pub(super) fn services_of_pod(at: At<'_>, pod: &Pod) -> Vec<(Arc<Service>, Ports)> {
    let name = pod.metadata.key();
    let mut services: Vec<(Arc<Service>, Ports)> = Vec::new();
    for slice in at.store.slices_of_pod(&name) {
        let Some(service) = service_of(at, slice) else { continue };
        let ports = ports(service, slice);
        match services.iter_mut().find(|(known, _)| Arc::ptr_eq(known, service)) {
            // Slices are split by ports and by family; together they say what the pod offers.
            Some((_, all)) => all.extend(ports),
            None => services.push((service.clone(), ports)),
        }
    }
    services
}

fn ports(service: &Service, slice: &EndpointSlice) -> Ports {
    let name = |name: &Option<Arc<str>>| name.clone().unwrap_or_else(|| "".into());
    let target = |port: &crate::objects::ServicePort| {
        let own = slice.ports.iter().find(|p| name(&p.name) == name(&port.name))?;
        Some(own.port.unwrap_or(port.port))
    };
    service::tcp_ports(service).filter_map(|port| Some((port.port, target(port)?))).collect()
}

/// Whether another slice of the service has the same endpoint and is to be preferred. What two slices say of one
/// pod, the newer one knows better; of several pods at one address, the one that is ready counts, then that of
/// the newer slice (kubernetes#135266: a terminating ghost shadowed the live endpoint).
fn is_elsewhere(
    at: At<'_>,
    service: &Service,
    slice: &EndpointSlice,
    endpoint: &Endpoint,
    ip: IpAddr,
) -> bool {
    let own_ports = ports(service, slice);
    let slices = at.store.slices_of_service(&service.metadata.key());
    let candidates: Vec<(&EndpointSlice, &Endpoint)> = slices
        .filter(|other| ports(service, other) == own_ports)
        .flat_map(|other| other.endpoints.iter().map(move |endpoint| (&**other, endpoint)))
        .filter(|(_, other)| other.addresses.iter().any(|a| is_address(a, ip)))
        .collect();
    let outdated = |(slice, endpoint): &(&EndpointSlice, &Endpoint)| {
        candidates.iter().any(|(other, candidate)| {
            endpoint.target_ref.is_some()
                && candidate.target_ref == endpoint.target_ref
                && other.metadata.age() > slice.metadata.age()
        })
    };
    let best = candidates.iter().filter(|candidate| !outdated(candidate)).max_by_key(
        |(slice, endpoint)| (is_ready(endpoint), endpoint.conditions.serving, slice.metadata.age()),
    );
    best.is_some_and(|(best, other)| {
        best.metadata.name != slice.metadata.name || other.target_ref != endpoint.target_ref
    })
}

fn is_address(text: &str, ip: IpAddr) -> bool {
    text.parse::<IpAddr>().is_ok_and(|address| address.to_canonical() == ip)
}

fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.ready != Some(false)
}

/// If none of a service's endpoints is ready, one that still serves while it terminates is better than none.
fn health(at: At<'_>, service: &Service, endpoint: &Endpoint) -> Health {
    let conditions = &endpoint.conditions;
    // `serving` that is not said is as `ready`, and that is what it is not.
    let lingers = conditions.terminating == Some(true) && conditions.serving == Some(true);
    let none_ready = || {
        let slices = at.store.slices_of_service(&service.metadata.key());
        !slices.flat_map(|slice| &slice.endpoints).any(is_ready)
    };
    if is_ready(endpoint) || (lingers && none_ready()) {
        Health::Healthy
    } else {
        Health::Unhealthy
    }
}

fn workload(
    at: At<'_>,
    slice: &EndpointSlice,
    service: &Service,
    endpoint: &Endpoint,
    ip: IpAddr,
    report: &mut Report,
) -> Option<Workload> {
    let meta = &slice.metadata;
    let uid = format!(
        "{}/discovery.k8s.io/EndpointSlice/{}/{}/{ip}",
        at.mesh.cluster_id, meta.namespace, meta.name
    );
    let uid = report.ok(WorkloadUid::new(&uid), "metadata.name", &uid)?;
    let namespace = report.ok(Namespace::new(&meta.namespace), "metadata.namespace", "")?;
    let account = ServiceAccountName::new("default").ok()?;
    let key = super::service_name(at.mesh, &service.metadata.key());
    let key = report.ok(key, "metadata.labels", &service.metadata.name)?;
    Some(Workload {
        trust_domain: at.mesh.trust_domain.clone(),
        network: labels::network(at, &meta.labels, &meta.namespace),
        addresses: vec![ip],
        // Nobody is found by this address: whose it is, a slice does not prove.
        network_mode: NetworkMode::HostNetwork,
        node: endpoint.node_name.clone().unwrap_or_else(|| "".into()),
        locality: locality(at, endpoint),
        cluster_id: at.mesh.cluster_id.clone(),
        workload_name: meta.name.clone(),
        canonical_name: service.metadata.name.clone(),
        canonical_revision: "latest".into(),
        health: health(at, service, endpoint),
        services: [(key, ports(service, slice))].into(),
        ..Workload::new(uid, &meta.name, namespace, account)
    })
}

/// Its zone as the slice says, and the rest as its node says: a zone alone would be in no region, and so in no
/// client's.
fn locality(at: At<'_>, endpoint: &Endpoint) -> Locality {
    let of_node = labels::node_locality(at, endpoint.node_name.as_deref().unwrap_or_default());
    let zone = endpoint.zone.clone().unwrap_or_else(|| "".into());
    Locality { zone: labels::or(zone, of_node.zone), ..of_node }
}
