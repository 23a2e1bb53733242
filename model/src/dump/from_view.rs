//! From a View to its dump.

use std::collections::BTreeMap;

use super::{
    AddressText, ApplicationProtocol, ApplicationTunnelDump, CidrText, Dump, EndpointDump,
    GatewayDump, GatewayText, LoadBalancerDump, PolicyDump, PolicyMatch, ServiceDump, TextMatch,
    WeightedWaypointDump, WorkloadDump,
};
use crate::{
    AppProtocol, ApplicationTunnel, Authorization, GatewayAddress, LoadBalancing, Match,
    NetworkAddress, Ports, Service, ServiceName, StringMatch, View, Workload,
};

impl Dump {
    /// Everything of a View, in the order of names. Certificates and connections are the proxy's to add.
    pub fn of(view: &View) -> Self {
        let mut dump = Self {
            workloads: view.workloads().map(|w| workload(w)).collect(),
            services: view.services().map(|s| service(view, s)).collect(),
            policies: view.policies().map(|p| policy(p)).collect(),
            ..Self::default()
        };
        dump.workloads.sort_by(|a, b| a.uid.cmp(&b.uid));
        dump.services.sort_by(|a, b| (&a.namespace, &a.hostname).cmp(&(&b.namespace, &b.hostname)));
        dump.policies.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        for workload in view.workloads() {
            for (name, ports) in &workload.services {
                if view.service(name).is_none() {
                    let staged = dump.staged_services.entry(name.clone()).or_default();
                    staged.insert(workload.uid.clone(), endpoint(workload, name, ports));
                }
            }
        }
        dump
    }
}

fn workload(w: &Workload) -> WorkloadDump {
    WorkloadDump {
        uid: w.uid.clone(),
        workload_ips: w.addresses.clone(),
        waypoint: w.waypoint.as_ref().map(gateway),
        network_gateway: w.network_gateway.as_ref().map(gateway),
        protocol: w.tunnel,
        name: w.name.clone(),
        namespace: w.namespace.clone(),
        service_account: w.service_account.clone(),
        workload_name: w.workload_name.clone(),
        workload_type: w.workload_type,
        canonical_name: w.canonical_name.clone(),
        canonical_revision: w.canonical_revision.clone(),
        cluster_id: w.cluster_id.clone(),
        trust_domain: w.trust_domain.clone(),
        locality: w.locality.clone(),
        node: w.node.clone(),
        network: w.network.clone(),
        status: w.health,
        hostname: w.hostname.clone(),
        capacity: w.capacity,
        application_tunnel: w.application_tunnel.map(|tunnel| match tunnel {
            ApplicationTunnel::None { port } => {
                ApplicationTunnelDump { protocol: ApplicationProtocol::None, port }
            }
            ApplicationTunnel::Proxy { port } => {
                ApplicationTunnelDump { protocol: ApplicationProtocol::Proxy, port }
            }
        }),
        authorization_policies: w.policies.clone(),
        network_mode: w.network_mode,
        native_tunnel: w.native_tunnel,
    }
}

fn gateway(gateway: &GatewayAddress) -> GatewayDump {
    match gateway {
        GatewayAddress::Hostname { name, hbone_port } => GatewayDump {
            destination: GatewayText::Hostname(name.clone()),
            hbone_mtls_port: *hbone_port,
        },
        GatewayAddress::Address { address, hbone_port } => GatewayDump {
            destination: GatewayText::Address(address.clone()),
            hbone_mtls_port: *hbone_port,
        },
    }
}

fn service(view: &View, s: &Service) -> ServiceDump {
    let name = s.key();
    let known = s.ports.iter().filter(|p| p.app_protocol != AppProtocol::Unknown);
    let named = s.ports.iter().filter_map(|p| Some((p.service_port, p.name.clone()?)));
    let lb = &s.load_balancing;
    ServiceDump {
        name: s.name.clone(),
        namespace: s.namespace.clone(),
        hostname: s.hostname.clone(),
        vips: s.vips.iter().cloned().map(AddressText).collect(),
        cidr_vips: s.cidr_vips.iter().cloned().map(CidrText).collect(),
        ports: s.ports.iter().map(|p| (p.service_port, p.target_port)).collect(),
        load_balancer: (*lb != LoadBalancing::default()).then(|| LoadBalancerDump {
            mode: lb.mode,
            routing_preferences: lb.routing_preference.clone(),
            health_policy: lb.health,
        }),
        waypoint: s.waypoint.as_ref().map(gateway),
        endpoints: view
            .endpoints(&name)
            .map(|e| (e.workload.uid.clone(), endpoint(e.workload, &name, e.ports)))
            .collect::<BTreeMap<_, _>>(),
        subject_alt_names: s.subject_alt_names.clone(),
        ip_families: s.ip_families,
        canonical: s.canonical,
        visibility: s.visibility,
        app_protocols: known.map(|p| (p.service_port, p.app_protocol)).collect(),
        port_names: named.collect(),
        weighted_waypoints: s
            .weighted_waypoints
            .iter()
            .map(|w| {
                let GatewayDump { destination, hbone_mtls_port } = gateway(&w.destination);
                WeightedWaypointDump { destination, hbone_mtls_port, weight: w.weight }
            })
            .collect(),
        ingress_use_waypoint: s.ingress_use_waypoint,
    }
}

fn endpoint(workload: &Workload, service: &ServiceName, ports: &Ports) -> EndpointDump {
    let address = workload
        .addresses
        .first()
        .map(|ip| NetworkAddress::new(workload.network.clone(), *ip).to_string());
    EndpointDump {
        workload_uid: workload.uid.clone(),
        service: service.to_string(),
        address: address.unwrap_or_default(),
        port: ports.clone(),
    }
}

fn policy(p: &Authorization) -> PolicyDump {
    let rules = p.rules.iter().map(|rule| {
        let clauses = rule.clauses.iter();
        clauses.map(|clause| clause.matches.iter().map(policy_match).collect()).collect()
    });
    PolicyDump {
        name: p.name.name().into(),
        namespace: p.name.namespace().into(),
        scope: p.scope,
        action: p.action,
        rules: rules.collect(),
        dry_run: p.dry_run,
    }
}

fn policy_match(m: &Match) -> PolicyMatch {
    let texts = |matches: &[StringMatch]| matches.iter().map(text_match).collect();
    PolicyMatch {
        namespaces: texts(&m.namespaces.any_of),
        not_namespaces: texts(&m.namespaces.none_of),
        principals: texts(&m.principals.any_of),
        not_principals: texts(&m.principals.none_of),
        service_accounts: m.service_accounts.any_of.clone(),
        not_service_accounts: m.service_accounts.none_of.clone(),
        source_ips: m.source_ips.any_of.clone(),
        not_source_ips: m.source_ips.none_of.clone(),
        destination_ips: m.destination_ips.any_of.clone(),
        not_destination_ips: m.destination_ips.none_of.clone(),
        destination_ports: m.destination_ports.any_of.clone(),
        not_destination_ports: m.destination_ports.none_of.clone(),
    }
}

fn text_match(text: &StringMatch) -> TextMatch {
    match text {
        StringMatch::Exact(text) => TextMatch::Exact(text.clone()),
        StringMatch::Prefix(text) => TextMatch::Prefix(text.clone()),
        StringMatch::Suffix(text) => TextMatch::Suffix(text.clone()),
        StringMatch::Presence => TextMatch::Presence {},
    }
}
