//! From a dump to the changes that make its View.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{
    ApplicationProtocol, Dump, EndpointDump, GatewayDump, GatewayText, PolicyDump, PolicyMatch,
    ServiceDump, TextMatch, WeightedWaypointDump, WorkloadDump,
};
use crate::{
    ApplicationTunnel, Authorization, Change, Clause, Field, GatewayAddress, LoadBalancing, Match,
    NameError, PolicyName, Ports, Rule, Service, ServiceName, ServicePort, StringMatch,
    WeightedWaypoint, Workload, WorkloadUid,
};

/// What a dump says that cannot be. Nothing of such a dump is taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DumpError {
    #[error("{path}: workload `{uid}` is not in `workloads`")]
    UnknownWorkload { path: String, uid: WorkloadUid },
    #[error("{path}: key `{key}` and workloadUid `{uid}` differ")]
    EndpointKey { path: String, key: WorkloadUid, uid: WorkloadUid },
    #[error("{path}: port 0 cannot be served")]
    PortZero { path: String },
    #[error("{path}: port {port} is not in `ports`")]
    UnknownPort { path: String, port: u16 },
    #[error("{path}: `{key}` is there twice")]
    Twice { path: String, key: String },
    #[error("{path}")]
    Name { path: String, source: NameError },
}

impl Dump {
    /// Checks what one resource says of another; certificates and connections are not looked at.
    pub fn into_changes(self) -> Result<Vec<Change>, DumpError> {
        let mut endpoints = Endpoints::default();
        let mut changes = Vec::new();
        let known: HashSet<_> = self.workloads.iter().map(|w| w.uid.clone()).collect();
        for (i, dump) in self.services.into_iter().enumerate() {
            let path = format!("services[{i}]");
            let name =
                ServiceName { namespace: dump.namespace.clone(), hostname: dump.hostname.clone() };
            endpoints.add(&format!("{path}.endpoints"), &name, &dump.endpoints, &known)?;
            changes.push(Change::Service(service(dump, &path)?.into()));
        }
        for (name, staged) in &self.staged_services {
            endpoints.add(&format!("stagedServices.{name}"), name, staged, &known)?;
        }
        for dump in self.workloads {
            let services = endpoints.of.remove(&dump.uid).unwrap_or_default();
            changes.push(Change::Workload(workload(dump, services).into()));
        }
        for (i, dump) in self.policies.into_iter().enumerate() {
            changes.push(Change::Policy(policy(dump, &format!("policies[{i}]"))?.into()));
        }
        each_once(&changes)?;
        Ok(changes)
    }
}

/// The second of two equal names would silently replace the first.
fn each_once(changes: &[Change]) -> Result<(), DumpError> {
    let mut seen = HashSet::new();
    for change in changes {
        let (path, key) = match change {
            Change::Workload(w) => ("workloads", w.uid.to_string()),
            Change::Service(s) => ("services", s.key().to_string()),
            Change::Policy(p) => ("policies", p.name.to_string()),
            Change::Remove(_) => continue,
        };
        if !seen.insert((path, key.clone())) {
            return Err(DumpError::Twice { path: path.to_owned(), key });
        }
    }
    Ok(())
}

/// A dump lists endpoints below their service; a workload lists its services.
#[derive(Default)]
struct Endpoints {
    of: HashMap<WorkloadUid, BTreeMap<ServiceName, Ports>>,
}

impl Endpoints {
    fn add(
        &mut self,
        path: &str,
        service: &ServiceName,
        endpoints: &BTreeMap<WorkloadUid, EndpointDump>,
        known: &HashSet<WorkloadUid>,
    ) -> Result<(), DumpError> {
        for (key, endpoint) in endpoints {
            let path = format!("{path}.{key}");
            let uid = endpoint.workload_uid.clone();
            if *key != uid {
                return Err(DumpError::EndpointKey { path, key: key.clone(), uid });
            }
            if !known.contains(&uid) {
                return Err(DumpError::UnknownWorkload { path, uid });
            }
            self.of.entry(uid).or_default().insert(service.clone(), endpoint.port.clone());
        }
        Ok(())
    }
}

fn workload(w: WorkloadDump, services: BTreeMap<ServiceName, Ports>) -> Workload {
    Workload {
        uid: w.uid,
        name: w.name,
        namespace: w.namespace,
        service_account: w.service_account,
        trust_domain: w.trust_domain,
        network: w.network,
        addresses: w.workload_ips,
        hostname: w.hostname,
        tunnel: w.protocol,
        native_tunnel: w.native_tunnel,
        application_tunnel: w.application_tunnel.map(|tunnel| match tunnel.protocol {
            ApplicationProtocol::None => ApplicationTunnel::None { port: tunnel.port },
            ApplicationProtocol::Proxy => ApplicationTunnel::Proxy { port: tunnel.port },
        }),
        waypoint: w.waypoint.map(gateway),
        network_gateway: w.network_gateway.map(gateway),
        network_mode: w.network_mode,
        node: w.node,
        canonical_name: w.canonical_name,
        canonical_revision: w.canonical_revision,
        workload_type: w.workload_type,
        workload_name: w.workload_name,
        cluster_id: w.cluster_id,
        locality: w.locality,
        health: w.status,
        capacity: w.capacity,
        services: services.into(),
        policies: w.authorization_policies,
    }
}

fn gateway(dump: GatewayDump) -> GatewayAddress {
    let hbone_port = dump.hbone_mtls_port;
    match dump.destination {
        GatewayText::Hostname(name) => GatewayAddress::Hostname { name, hbone_port },
        GatewayText::Address(address) => GatewayAddress::Address { address, hbone_port },
    }
}

fn service(s: ServiceDump, path: &str) -> Result<Service, DumpError> {
    if s.ports.contains_key(&0) {
        return Err(DumpError::PortZero { path: format!("{path}.ports") });
    }
    let unknown = |port: &&u16| !s.ports.contains_key(port);
    if let Some(port) = s.app_protocols.keys().find(unknown) {
        return Err(DumpError::UnknownPort { path: format!("{path}.appProtocols"), port: *port });
    }
    if let Some(port) = s.port_names.keys().find(unknown) {
        return Err(DumpError::UnknownPort { path: format!("{path}.portNames"), port: *port });
    }
    let ports = s.ports.iter().map(|(service_port, target_port)| ServicePort {
        name: s.port_names.get(service_port).cloned(),
        service_port: *service_port,
        target_port: *target_port,
        app_protocol: s.app_protocols.get(service_port).copied().unwrap_or_default(),
    });
    let lb = s.load_balancer.unwrap_or_default();
    Ok(Service {
        ports: ports.collect(),
        name: s.name,
        namespace: s.namespace,
        hostname: s.hostname,
        vips: s.vips.into_iter().map(|vip| vip.0).collect(),
        cidr_vips: s.cidr_vips.into_iter().map(|cidr| cidr.0).collect(),
        subject_alt_names: s.subject_alt_names,
        waypoint: s.waypoint.map(gateway),
        weighted_waypoints: s
            .weighted_waypoints
            .into_iter()
            .map(|w| {
                let WeightedWaypointDump { destination, hbone_mtls_port, weight } = w;
                let destination = gateway(GatewayDump { destination, hbone_mtls_port });
                WeightedWaypoint { destination, weight }
            })
            .collect(),
        load_balancing: LoadBalancing {
            routing_preference: lb.routing_preferences,
            mode: lb.mode,
            health: lb.health_policy,
        },
        ip_families: s.ip_families,
        canonical: s.canonical,
        ingress_use_waypoint: s.ingress_use_waypoint,
        visibility: s.visibility,
    })
}

fn policy(p: PolicyDump, path: &str) -> Result<Authorization, DumpError> {
    let name = PolicyName::new(&p.namespace, &p.name)
        .map_err(|source| DumpError::Name { path: path.to_owned(), source })?;
    let clause = |matches: Vec<PolicyMatch>| Clause {
        matches: matches.into_iter().map(policy_match).collect(),
    };
    let rules = p
        .rules
        .into_iter()
        .map(|clauses| Rule { clauses: clauses.into_iter().map(clause).collect() });
    let rules = rules.collect();
    Ok(Authorization { name, scope: p.scope, action: p.action, rules, dry_run: p.dry_run })
}

fn policy_match(m: PolicyMatch) -> Match {
    let texts = |matches: Vec<TextMatch>| matches.into_iter().map(text_match).collect();
    Match {
        namespaces: Field { any_of: texts(m.namespaces), none_of: texts(m.not_namespaces) },
        principals: Field { any_of: texts(m.principals), none_of: texts(m.not_principals) },
        service_accounts: Field { any_of: m.service_accounts, none_of: m.not_service_accounts },
        source_ips: Field { any_of: m.source_ips, none_of: m.not_source_ips },
        destination_ips: Field { any_of: m.destination_ips, none_of: m.not_destination_ips },
        destination_ports: Field { any_of: m.destination_ports, none_of: m.not_destination_ports },
    }
}

fn text_match(text: TextMatch) -> StringMatch {
    match text {
        TextMatch::Exact(text) => StringMatch::Exact(text),
        TextMatch::Prefix(text) => StringMatch::Prefix(text),
        TextMatch::Suffix(text) => StringMatch::Suffix(text),
        TextMatch::Presence {} => StringMatch::Presence,
    }
}
