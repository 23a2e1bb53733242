//! Services.

use weft_model::{
    AppProtocol, HealthPolicy, Hostname, Identity, IpFamilies, LoadBalancing, Mode, Namespace,
    NetworkAddress, NetworkCidr, PortName, RoutingScope, Service, ServicePort, Visibility,
    WeightedWaypoint,
};

use super::{
    Encoded, ResourceType,
    encoded::FoundBy,
    error::{Bad, DecodeError, Problem},
    wire,
};
use crate::proto::workload as pb;

pub(super) fn decode(message: pb::Service) -> Result<Service, DecodeError> {
    let name = format!("{}/{}", message.namespace, message.hostname);
    fields(message).map_err(|bad| bad.of(&name))
}

fn fields(m: pb::Service) -> Result<Service, Bad> {
    let (vips, cidr_vips) = addresses(&m.addresses)?;
    Ok(Service {
        name: m.name.into(),
        namespace: wire::name("namespace", Namespace::new(&m.namespace))?,
        hostname: wire::name("hostname", Hostname::new(&m.hostname))?,
        vips,
        cidr_vips,
        ports: m.ports.iter().map(port).collect::<Result<_, _>>()?,
        subject_alt_names: identities(&m.subject_alt_names),
        waypoint: m.waypoint.map(|to| wire::gateway("waypoint", to)).transpose()?,
        weighted_waypoints: m
            .weighted_waypoints
            .into_iter()
            .map(weighted_waypoint)
            .collect::<Result<_, _>>()?,
        load_balancing: load_balancing(&m.load_balancing.unwrap_or_default())?,
        ip_families: ip_families(m.ip_families)?,
        canonical: m.canonical,
        ingress_use_waypoint: m.ingress_use_waypoint,
        visibility: match wire::known("visibility", m.visibility)? {
            pb::service::Visibility::Public => Visibility::Public,
            pb::service::Visibility::Namespace => Visibility::Namespace,
        },
    })
}

fn addresses(all: &[pb::NetworkAddress]) -> Result<(Vec<NetworkAddress>, Vec<NetworkCidr>), Bad> {
    let (mut vips, mut cidr_vips) = (Vec::new(), Vec::new());
    for address in all {
        match address.length {
            None => vips.push(wire::network_address("addresses", address)?),
            Some(length) => cidr_vips.push(wire::network_cidr("addresses", address, length)?),
        }
    }
    Ok((vips, cidr_vips))
}

/// A `ServiceEntry` may list names of any kind; we verify SPIFFE IDs only, so no other can ever be matched.
fn identities(names: &[String]) -> Vec<Identity> {
    names.iter().filter_map(|name| name.parse().ok()).collect()
}

fn port(m: &pb::Port) -> Result<ServicePort, Bad> {
    Ok(ServicePort {
        name: match &*m.name {
            "" => None,
            name => Some(wire::name("ports.name", PortName::new(name))?),
        },
        service_port: wire::port("ports.service_port", m.service_port)?,
        target_port: wire::port("ports.target_port", m.target_port)?,
        app_protocol: match wire::known("ports.app_protocol", m.app_protocol)? {
            pb::AppProtocol::Unknown => AppProtocol::Unknown,
            pb::AppProtocol::Http11 => AppProtocol::Http11,
            pb::AppProtocol::Http2 => AppProtocol::Http2,
            pb::AppProtocol::Grpc => AppProtocol::Grpc,
            pb::AppProtocol::Tcp => AppProtocol::Tcp,
            pb::AppProtocol::Tls => AppProtocol::Tls,
        },
    })
}

fn weighted_waypoint(m: pb::WeightedWaypoint) -> Result<WeightedWaypoint, Bad> {
    let field = "weighted_waypoints.destination";
    let destination = m.destination.ok_or_else(|| Bad::new(field, Problem::Missing))?;
    Ok(WeightedWaypoint { destination: wire::gateway(field, destination)?, weight: m.weight })
}

fn load_balancing(m: &pb::LoadBalancing) -> Result<LoadBalancing, Bad> {
    use pb::load_balancing as lb;
    Ok(LoadBalancing {
        routing_preference: m
            .routing_preference
            .iter()
            .map(|number| scope(*number))
            .collect::<Result<_, _>>()?,
        mode: match wire::known("load_balancing.mode", m.mode)? {
            lb::Mode::UnspecifiedMode => Mode::Any,
            lb::Mode::Strict => Mode::Strict,
            lb::Mode::Failover => Mode::Failover,
            lb::Mode::Passthrough => Mode::Passthrough,
        },
        health: match wire::known("load_balancing.health_policy", m.health_policy)? {
            lb::HealthPolicy::OnlyHealthy => HealthPolicy::OnlyHealthy,
            lb::HealthPolicy::AllowAll => HealthPolicy::AllowAll,
        },
    })
}

fn scope(number: i32) -> Result<RoutingScope, Bad> {
    use pb::load_balancing::Scope;
    let field = "load_balancing.routing_preference";
    Ok(match wire::known(field, number)? {
        // Skipping it would rank endpoints by fewer scopes than were asked for.
        Scope::UnspecifiedScope => return Err(Bad::new(field, Problem::UnknownValue(number))),
        Scope::Region => RoutingScope::Region,
        Scope::Zone => RoutingScope::Zone,
        Scope::Subzone => RoutingScope::Subzone,
        Scope::Node => RoutingScope::Node,
        Scope::Cluster => RoutingScope::Cluster,
        Scope::Network => RoutingScope::Network,
    })
}

fn ip_families(number: i32) -> Result<IpFamilies, Bad> {
    Ok(match wire::known("ip_families", number)? {
        pb::IpFamilies::Automatic => IpFamilies::Automatic,
        pb::IpFamilies::Ipv4Only => IpFamilies::Ipv4Only,
        pb::IpFamilies::Ipv6Only => IpFamilies::Ipv6Only,
        pb::IpFamilies::Dual => IpFamilies::Dual,
    })
}

/// Encodes a service. Values that the wire takes as default are left out.
pub fn encode_service(service: &Service) -> Encoded {
    let address = pb::Address { r#type: Some(pb::address::Type::Service(message(service))) };
    let ranges = service
        .cidr_vips
        .iter()
        .map(|r| format!("{}/{}/{}", r.network, r.cidr.addr(), r.cidr.prefix_len()));
    let aliases = service.vips.iter().map(ToString::to_string).chain(ranges).collect();
    let found_by = FoundBy { aliases, ..FoundBy::default() };
    Encoded::new(ResourceType::Address, service.key().to_string(), &address, found_by)
}

fn message(s: &Service) -> pb::Service {
    let ranges = s.cidr_vips.iter().map(wire::cidr_message);
    pb::Service {
        name: s.name.to_string(),
        namespace: s.namespace.to_string(),
        hostname: s.hostname.to_string(),
        addresses: s.vips.iter().map(wire::address_message).chain(ranges).collect(),
        ports: s.ports.iter().map(port_message).collect(),
        subject_alt_names: s.subject_alt_names.iter().map(ToString::to_string).collect(),
        waypoint: s.waypoint.as_ref().map(wire::gateway_message),
        load_balancing: load_balancing_message(&s.load_balancing),
        ip_families: match s.ip_families {
            IpFamilies::Automatic => pb::IpFamilies::Automatic,
            IpFamilies::Ipv4Only => pb::IpFamilies::Ipv4Only,
            IpFamilies::Ipv6Only => pb::IpFamilies::Ipv6Only,
            IpFamilies::Dual => pb::IpFamilies::Dual,
        }
        .into(),
        extensions: Vec::new(),
        canonical: s.canonical,
        ingress_use_waypoint: s.ingress_use_waypoint,
        weighted_waypoints: s.weighted_waypoints.iter().map(weighted_waypoint_message).collect(),
        visibility: match s.visibility {
            Visibility::Public => pb::service::Visibility::Public,
            Visibility::Namespace => pb::service::Visibility::Namespace,
        }
        .into(),
    }
}

fn port_message(port: &ServicePort) -> pb::Port {
    pb::Port {
        service_port: port.service_port.into(),
        target_port: port.target_port.into(),
        app_protocol: match port.app_protocol {
            AppProtocol::Unknown => pb::AppProtocol::Unknown,
            AppProtocol::Http11 => pb::AppProtocol::Http11,
            AppProtocol::Http2 => pb::AppProtocol::Http2,
            AppProtocol::Grpc => pb::AppProtocol::Grpc,
            AppProtocol::Tcp => pb::AppProtocol::Tcp,
            AppProtocol::Tls => pb::AppProtocol::Tls,
        }
        .into(),
        name: port.name.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
}

fn weighted_waypoint_message(w: &WeightedWaypoint) -> pb::WeightedWaypoint {
    pb::WeightedWaypoint {
        destination: Some(wire::gateway_message(&w.destination)),
        weight: w.weight,
    }
}

fn load_balancing_message(l: &LoadBalancing) -> Option<pb::LoadBalancing> {
    use pb::load_balancing as lb;
    let scope = |scope: &RoutingScope| match scope {
        RoutingScope::Region => lb::Scope::Region.into(),
        RoutingScope::Zone => lb::Scope::Zone.into(),
        RoutingScope::Subzone => lb::Scope::Subzone.into(),
        RoutingScope::Node => lb::Scope::Node.into(),
        RoutingScope::Cluster => lb::Scope::Cluster.into(),
        RoutingScope::Network => lb::Scope::Network.into(),
    };
    let message = pb::LoadBalancing {
        routing_preference: l.routing_preference.iter().map(scope).collect(),
        mode: match l.mode {
            Mode::Any => lb::Mode::UnspecifiedMode,
            Mode::Strict => lb::Mode::Strict,
            Mode::Failover => lb::Mode::Failover,
            Mode::Passthrough => lb::Mode::Passthrough,
        }
        .into(),
        health_policy: match l.health {
            HealthPolicy::OnlyHealthy => lb::HealthPolicy::OnlyHealthy,
            HealthPolicy::AllowAll => lb::HealthPolicy::AllowAll,
        }
        .into(),
    };
    (*l != LoadBalancing::default()).then_some(message)
}
