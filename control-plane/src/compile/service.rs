//! Service to service.

use std::{net::IpAddr, sync::Arc};

use weft_model::{
    AppProtocol, Change, HealthPolicy, IpFamilies, LoadBalancing, Mode, Network, NetworkAddress,
    PortName, RoutingScope, ServiceName, Visibility,
};

use super::{At, Compiled, Report, labels};
use crate::objects::{IntOrString, Kind, Name, ObjectMeta, Service, ServicePort};

const TRAFFIC_DISTRIBUTION: &str = "networking.istio.io/traffic-distribution";
const EXPORT_TO: &str = "networking.istio.io/exportTo";

/// `None` for a name that is not a Kubernetes service's.
pub(super) fn compile(at: At<'_>, name: &ServiceName) -> Option<Compiled> {
    let service = kubernetes(at, name)?;
    let mut report = Report::new(Kind::Service, &service.metadata.key());
    let compiled = from_service(at, name, service, &mut report);
    Some(report.with([Change::Service(Arc::new(compiled))]))
}

/// The Kubernetes service that a name means, if it is one's.
pub(super) fn kubernetes<'a>(at: At<'a>, name: &ServiceName) -> Option<&'a Arc<Service>> {
    let suffix = format!(".{}.svc.{}", name.namespace, at.mesh.domain);
    let short = name.hostname.as_str().strip_suffix(&suffix)?;
    let service = at.store.services.get(&Name::new(name.namespace.as_str(), short))?;
    (!is_external_name(service)).then_some(service)
}

fn from_service(
    at: At<'_>,
    name: &ServiceName,
    service: &Service,
    report: &mut Report,
) -> weft_model::Service {
    let (meta, spec) = (&service.metadata, &service.spec);
    let network = labels::network(at, &meta.labels, &meta.namespace);
    let ports = spec.ports.iter().enumerate().filter(|(_, port)| is_tcp(port.protocol.as_deref()));
    let ports = ports.map(|(i, port)| weft_model::ServicePort {
        name: port_name(port.name.as_deref(), i, report),
        service_port: port.port,
        target_port: match &port.target_port {
            _ if is_headless(service) => port.port,
            Some(IntOrString::Int(number)) => *number,
            Some(IntOrString::String(_)) => 0,
            None => port.port,
        },
        app_protocol: port.app_protocol.as_deref().map_or(AppProtocol::Unknown, app_protocol),
    });
    weft_model::Service {
        ports: in_order(ports.collect()),
        vips: vips(service, &network, report),
        load_balancing: LoadBalancing {
            health: if spec.publish_not_ready_addresses {
                HealthPolicy::AllowAll
            } else {
                HealthPolicy::OnlyHealthy
            },
            ..balancing(at, service, report)
        },
        ip_families: ip_families(&spec.ip_families),
        canonical: true,
        visibility: exported(meta.annotation(EXPORT_TO).into_iter().flat_map(|v| v.split(','))),
        ..weft_model::Service::new(&meta.name, name.namespace.clone(), name.hostname.clone())
    }
}

/// By their numbers, so that a change of their order is none; of two with one number the first counts.
pub(super) fn in_order(mut ports: Vec<weft_model::ServicePort>) -> Vec<weft_model::ServicePort> {
    ports.sort_by_key(|port| port.service_port);
    ports.dedup_by_key(|port| port.service_port);
    ports
}

/// The name of the port at `index`. One that cannot stand in DNS leaves the port nameless.
pub(super) fn port_name(name: Option<&str>, index: usize, report: &mut Report) -> Option<PortName> {
    let name = name.filter(|name| !name.is_empty())?;
    report.ok(PortName::new(name), format!("spec.ports[{index}].name"), name)
}

fn vips(service: &Service, network: &Network, report: &mut Report) -> Vec<NetworkAddress> {
    let spec = &service.spec;
    let several = spec.cluster_ips.iter().enumerate();
    let several = several.map(|(i, ip)| (format!("spec.clusterIPs[{i}]"), ip));
    let one = spec.cluster_ip.iter().map(|ip| ("spec.clusterIP".to_owned(), ip));
    let ingress = service.status.load_balancer.ingress.iter().enumerate();
    let ingress = ingress.filter_map(|(i, ingress)| {
        Some((format!("status.loadBalancer.ingress[{i}].ip"), ingress.ip.as_ref()?))
    });
    let mut vips = Vec::new();
    for (field, text) in one.chain(several).chain(ingress) {
        if text.is_empty() || &**text == "None" {
            continue;
        }
        if let Some(ip) = report.ok(text.parse::<IpAddr>(), field, text) {
            let vip = NetworkAddress::new(network.clone(), ip);
            if !vips.contains(&vip) {
                vips.push(vip);
            }
        }
    }
    vips
}

fn balancing(at: At<'_>, service: &Service, report: &mut Report) -> LoadBalancing {
    let preferring = |mode, preference: &[RoutingScope]| LoadBalancing {
        mode,
        routing_preference: preference.to_vec(),
        health: HealthPolicy::OnlyHealthy,
    };
    if service.spec.internal_traffic_policy.as_deref() == Some("Local") {
        return preferring(Mode::Strict, &[RoutingScope::Node]);
    }
    let annotated = |meta: &ObjectMeta| meta.annotation(TRAFFIC_DISTRIBUTION).cloned();
    let of_namespace = || annotated(&at.store.namespace(&service.metadata.namespace)?.metadata);
    let (field, wish) = match &service.spec.traffic_distribution {
        Some(wish) => ("spec.trafficDistribution", Some(wish.clone())),
        None => ("metadata.annotations", annotated(&service.metadata).or_else(of_namespace)),
    };
    let zone = [RoutingScope::Network, RoutingScope::Region, RoutingScope::Zone];
    let node = [RoutingScope::Subzone, RoutingScope::Node];
    match wish.as_deref() {
        Some("PreferClose" | "PreferSameZone") => preferring(Mode::Failover, &zone),
        Some("PreferSameNode") => preferring(Mode::Failover, &[zone.as_slice(), &node].concat()),
        Some("" | "Any") | None => preferring(Mode::Any, &[]),
        Some(other) => {
            report.add(field, other, "is not a traffic distribution: every endpoint is used alike");
            preferring(Mode::Any, &[])
        }
    }
}

fn ip_families(families: &[Arc<str>]) -> IpFamilies {
    let has = |family: &str| families.iter().any(|f| &**f == family);
    match (has("IPv4"), has("IPv6")) {
        (true, true) => IpFamilies::Dual,
        (true, false) => IpFamilies::Ipv4Only,
        (false, true) => IpFamilies::Ipv6Only,
        (false, false) => IpFamilies::Automatic,
    }
}

/// Narrower than the mesh but wider than the namespace cannot be said on the wire; it is read as the mesh.
pub(super) fn exported(to: impl Iterator<Item: AsRef<str>>) -> Visibility {
    let mut to = to.peekable();
    let named = to.peek().is_some();
    if named && to.all(|namespace| matches!(namespace.as_ref().trim(), "." | "~")) {
        Visibility::Namespace
    } else {
        Visibility::Public
    }
}

/// What a port's application protocol is called, in Kubernetes or in Istio.
pub(super) fn app_protocol(name: &str) -> AppProtocol {
    match &*name.to_ascii_lowercase() {
        "http" | "ws" | "kubernetes.io/ws" => AppProtocol::Http11,
        "http2" | "h2c" | "kubernetes.io/h2c" => AppProtocol::Http2,
        "grpc" | "grpc-web" => AppProtocol::Grpc,
        "https" | "tls" | "wss" | "kubernetes.io/wss" => AppProtocol::Tls,
        "tcp" => AppProtocol::Tcp,
        _ => AppProtocol::Unknown,
    }
}

pub(super) fn tcp_ports(service: &Service) -> impl Iterator<Item = &ServicePort> {
    service.spec.ports.iter().filter(|port| is_tcp(port.protocol.as_deref()))
}

/// Only TCP is captured. Kubernetes reads no protocol as TCP.
pub(super) fn is_tcp(protocol: Option<&str>) -> bool {
    matches!(protocol, None | Some("" | "TCP"))
}

pub(super) fn is_headless(service: &Service) -> bool {
    service.spec.cluster_ip.as_deref() == Some("None")
}

/// An alias in DNS; it has no endpoints.
pub(super) fn is_external_name(service: &Service) -> bool {
    service.spec.kind.as_deref() == Some("ExternalName")
}
