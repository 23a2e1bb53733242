//! Workloads.

use std::{collections::BTreeMap, sync::Arc};

use weft_model::{
    ApplicationTunnel, GatewayAddress, Health, Hostname, Locality, Namespace, NetworkMode,
    PolicyName, Ports, ServiceAccountName, ServiceName, Table, TrustDomain, TunnelProtocol,
    Workload, WorkloadType, WorkloadUid,
};

use super::{
    Encoded, ResourceType,
    encoded::FoundBy,
    error::{Bad, DecodeError, Problem},
    wire,
};
use crate::proto::workload as pb;

/// What the wire means by an empty `cluster_id`.
const CLUSTER_DEFAULT: &str = "Kubernetes";
/// What the wire means by an empty `service_account`.
const SERVICE_ACCOUNT_DEFAULT: &str = "default";

pub(super) fn decode(message: pb::Workload) -> Result<Workload, DecodeError> {
    let uid = message.uid.clone();
    fields(message).map_err(|bad| bad.of(if uid.is_empty() { "workload" } else { &uid }))
}

fn fields(m: pb::Workload) -> Result<Workload, Bad> {
    let account = or_default(&m.service_account, SERVICE_ACCOUNT_DEFAULT);
    Ok(Workload {
        uid: wire::name("uid", WorkloadUid::new(&m.uid))?,
        name: m.name.into(),
        namespace: wire::name("namespace", Namespace::new(&m.namespace))?,
        service_account: wire::name("service_account", ServiceAccountName::new(account))?,
        trust_domain: trust_domain(&m.trust_domain)?,
        network: wire::network("network", &m.network)?,
        addresses: m
            .addresses
            .iter()
            .map(|bytes| wire::ip("addresses", bytes))
            .collect::<Result<_, _>>()?,
        hostname: hostname(&m.hostname)?,
        tunnel: tunnel(m.tunnel_protocol)?,
        native_tunnel: m.native_tunnel,
        application_tunnel: m.application_tunnel.map(application_tunnel).transpose()?,
        waypoint: gateway("waypoint", m.waypoint)?,
        network_gateway: gateway("network_gateway", m.network_gateway)?,
        network_mode: network_mode(m.network_mode)?,
        node: m.node.into(),
        canonical_name: m.canonical_name.into(),
        canonical_revision: m.canonical_revision.into(),
        workload_type: workload_type(m.workload_type)?,
        workload_name: m.workload_name.into(),
        cluster_id: or_default(&m.cluster_id, CLUSTER_DEFAULT).into(),
        locality: locality(m.locality.unwrap_or_default()),
        health: health(m.status)?,
        capacity: m.capacity.unwrap_or(1),
        services: services(&m.services)?,
        policies: m
            .authorization_policies
            .iter()
            .map(|text| wire::name("authorization_policies", text.parse::<PolicyName>()))
            .collect::<Result<_, _>>()?,
    })
}

fn or_default<'a>(value: &'a str, default: &'a str) -> &'a str {
    if value.is_empty() { default } else { value }
}

fn trust_domain(value: &str) -> Result<TrustDomain, Bad> {
    match value {
        "" => Ok(TrustDomain::default()),
        name => wire::name("trust_domain", TrustDomain::new(name)),
    }
}

fn hostname(value: &str) -> Result<Option<Hostname>, Bad> {
    match value {
        "" => Ok(None),
        name => wire::name("hostname", Hostname::new(name)).map(Some),
    }
}

fn tunnel(number: i32) -> Result<TunnelProtocol, Bad> {
    match wire::known("tunnel_protocol", number)? {
        pb::TunnelProtocol::None => Ok(TunnelProtocol::None),
        pb::TunnelProtocol::Hbone => Ok(TunnelProtocol::Hbone),
        pb::TunnelProtocol::LegacyIstioMtls => {
            Err(Bad::new("tunnel_protocol", Problem::LegacyMtls))
        }
    }
}

fn application_tunnel(m: pb::ApplicationTunnel) -> Result<ApplicationTunnel, Bad> {
    let port = match wire::port("application_tunnel.port", m.port)? {
        0 => None,
        port => Some(port),
    };
    match wire::known("application_tunnel.protocol", m.protocol)? {
        pb::application_tunnel::Protocol::None => Ok(ApplicationTunnel::None { port }),
        pb::application_tunnel::Protocol::Proxy => Ok(ApplicationTunnel::Proxy { port }),
    }
}

fn gateway(
    field: &'static str,
    value: Option<pb::GatewayAddress>,
) -> Result<Option<GatewayAddress>, Bad> {
    value.map(|gateway| wire::gateway(field, gateway)).transpose()
}

fn network_mode(number: i32) -> Result<NetworkMode, Bad> {
    Ok(match wire::known("network_mode", number)? {
        pb::NetworkMode::Standard => NetworkMode::Standard,
        pb::NetworkMode::HostNetwork => NetworkMode::HostNetwork,
    })
}

fn workload_type(number: i32) -> Result<WorkloadType, Bad> {
    Ok(match wire::known("workload_type", number)? {
        pb::WorkloadType::Deployment => WorkloadType::Deployment,
        pb::WorkloadType::Cronjob => WorkloadType::CronJob,
        pb::WorkloadType::Pod => WorkloadType::Pod,
        pb::WorkloadType::Job => WorkloadType::Job,
    })
}

fn health(number: i32) -> Result<Health, Bad> {
    Ok(match wire::known("status", number)? {
        pb::WorkloadStatus::Healthy => Health::Healthy,
        pb::WorkloadStatus::Unhealthy => Health::Unhealthy,
    })
}

fn locality(m: pb::Locality) -> Locality {
    Locality { region: m.region.into(), zone: m.zone.into(), subzone: m.subzone.into() }
}

fn services(named: &BTreeMap<String, pb::PortList>) -> Result<Table<ServiceName, Ports>, Bad> {
    let mut services = BTreeMap::new();
    for (service, list) in named {
        let mut ports = BTreeMap::new();
        for port in &list.ports {
            let from = wire::port("services.service_port", port.service_port)?;
            ports.insert(from, wire::port("services.target_port", port.target_port)?);
        }
        services.insert(wire::name("services", service.parse::<ServiceName>())?, ports.into());
    }
    Ok(services.into())
}

/// Encodes a workload. Values that the wire takes as default are left out.
pub fn encode_workload(workload: &Workload) -> Encoded {
    let address = pb::Address { r#type: Some(pb::address::Type::Workload(message(workload))) };
    let found_by = FoundBy {
        aliases: workload.unique_addresses().map(|address| address.to_string()).collect(),
        services: workload.services.keys().map(ToString::to_string).collect(),
        node: workload.node.clone(),
    };
    Encoded::new(ResourceType::Address, workload.uid.to_string(), &address, found_by)
}

fn message(w: &Workload) -> pb::Workload {
    let unless = |value: &str, default: &str| {
        if value == default { String::new() } else { value.to_owned() }
    };
    let text = |value: &Arc<str>| String::from(&**value);
    pb::Workload {
        uid: w.uid.to_string(),
        name: text(&w.name),
        namespace: w.namespace.to_string(),
        service_account: w.service_account.to_string(),
        trust_domain: unless(w.trust_domain.as_str(), TrustDomain::default().as_str()),
        network: w.network.to_string(),
        addresses: w.addresses.iter().map(|ip| wire::ip_bytes(*ip)).collect(),
        hostname: w.hostname.as_ref().map(ToString::to_string).unwrap_or_default(),
        tunnel_protocol: match w.tunnel {
            TunnelProtocol::None => pb::TunnelProtocol::None,
            TunnelProtocol::Hbone => pb::TunnelProtocol::Hbone,
        }
        .into(),
        native_tunnel: w.native_tunnel,
        application_tunnel: w.application_tunnel.map(application_tunnel_message),
        waypoint: w.waypoint.as_ref().map(wire::gateway_message),
        network_gateway: w.network_gateway.as_ref().map(wire::gateway_message),
        network_mode: match w.network_mode {
            NetworkMode::Standard => pb::NetworkMode::Standard,
            NetworkMode::HostNetwork => pb::NetworkMode::HostNetwork,
        }
        .into(),
        node: text(&w.node),
        canonical_name: text(&w.canonical_name),
        canonical_revision: text(&w.canonical_revision),
        workload_type: match w.workload_type {
            WorkloadType::Deployment => pb::WorkloadType::Deployment,
            WorkloadType::CronJob => pb::WorkloadType::Cronjob,
            WorkloadType::Pod => pb::WorkloadType::Pod,
            WorkloadType::Job => pb::WorkloadType::Job,
        }
        .into(),
        workload_name: text(&w.workload_name),
        cluster_id: unless(&w.cluster_id, CLUSTER_DEFAULT),
        locality: locality_message(&w.locality),
        status: match w.health {
            Health::Healthy => pb::WorkloadStatus::Healthy,
            Health::Unhealthy => pb::WorkloadStatus::Unhealthy,
        }
        .into(),
        capacity: (w.capacity != 1).then_some(w.capacity),
        services: w.services.iter().map(|(n, p)| (n.to_string(), ports_message(p))).collect(),
        authorization_policies: w.policies.iter().map(ToString::to_string).collect(),
        extensions: Vec::new(),
    }
}

fn application_tunnel_message(tunnel: ApplicationTunnel) -> pb::ApplicationTunnel {
    use pb::application_tunnel::Protocol;
    let (protocol, port) = match tunnel {
        ApplicationTunnel::None { port } => (Protocol::None, port),
        ApplicationTunnel::Proxy { port } => (Protocol::Proxy, port),
    };
    pb::ApplicationTunnel { protocol: protocol.into(), port: port.unwrap_or(0).into() }
}

fn locality_message(l: &Locality) -> Option<pb::Locality> {
    let message = pb::Locality {
        region: l.region.to_string(),
        zone: l.zone.to_string(),
        subzone: l.subzone.to_string(),
    };
    (message != pb::Locality::default()).then_some(message)
}

fn ports_message(ports: &Ports) -> pb::PortList {
    let port = |(from, to): (&u16, &u16)| pb::Port {
        service_port: (*from).into(),
        target_port: (*to).into(),
        app_protocol: pb::AppProtocol::Unknown.into(),
        name: String::new(),
    };
    pb::PortList { ports: ports.iter().map(port).collect() }
}
