//! ServiceEntry to service and endpoints: a name outside of the cluster.

use std::sync::Arc;

use weft_model::{
    Change, HealthPolicy, Identity, LoadBalancing, Mode, Network, NetworkAddress, NetworkCidr,
    ServiceName, ServicePort,
};

use super::{
    At, Compiled, Report,
    external::{Address, Endpoint, workload},
    labels,
    selection::{entry_names, ports_of},
    service::{app_protocol, exported, in_order, kubernetes, port_name},
};
use crate::objects::{Kind, Name, Resolution, ServiceEntry, WorkloadEntrySpec};

/// The service of a name that is not a Kubernetes service's. Of several entries the oldest is in force.
pub(super) fn service(at: At<'_>, name: &ServiceName) -> Compiled {
    let entries = at.store.entries_of(name);
    let Some((entry, shadowed)) = entries.split_first() else { return Compiled::default() };
    let meta = &entry.metadata;
    let mut report = Report::new(Kind::ServiceEntry, &meta.key());
    let mut problems = Vec::new();
    for other in shadowed {
        let mut report = Report::new(Kind::ServiceEntry, &other.metadata.key());
        let host = name.hostname.as_str();
        report.add("spec.hosts", host, format!("is named by {} already, which is used", meta.name));
        problems.extend(report.problems);
    }
    let network = labels::network(at, &meta.labels, &meta.namespace);
    let mut service = weft_model::Service {
        ports: ports(entry, &mut report),
        subject_alt_names: identities(entry, &mut report),
        load_balancing: balancing(entry.spec.resolution),
        canonical: is_canonical(at, name, entry),
        visibility: exported(entry.spec.export_to.iter()),
        ..weft_model::Service::new(&meta.name, name.namespace.clone(), name.hostname.clone())
    };
    addresses(at, name, entry, &network, &mut service, &mut report);
    report.problems.extend(problems);
    report.with([Change::Service(Arc::new(service))])
}

fn ports(entry: &ServiceEntry, report: &mut Report) -> Vec<ServicePort> {
    let mut ports = Vec::new();
    for (i, port) in entry.spec.ports.iter().enumerate() {
        let target_port = port.target_port.unwrap_or(port.number);
        if port.number == 0 || target_port == 0 {
            let message = "is not a port (1 to 65535): it is left out";
            report.add(format!("spec.ports[{i}]"), "0", message);
            continue;
        }
        ports.push(ServicePort {
            name: port_name(Some(&port.name), i, report),
            service_port: port.number,
            target_port,
            app_protocol: app_protocol(&port.protocol),
        });
    }
    in_order(ports)
}

fn identities(entry: &ServiceEntry, report: &mut Report) -> Vec<Identity> {
    let names = entry.spec.subject_alt_names.iter().enumerate();
    let identity = |(i, name): (usize, &Arc<str>)| {
        report.ok(name.parse::<Identity>(), format!("spec.subjectAltNames[{i}]"), name)
    };
    names.filter_map(identity).collect()
}

fn balancing(resolution: Resolution) -> LoadBalancing {
    match resolution {
        // Whoever dials has resolved the name; nothing is known about what is there.
        Resolution::None => LoadBalancing {
            mode: Mode::Passthrough,
            health: HealthPolicy::AllowAll,
            routing_preference: Vec::new(),
        },
        Resolution::Static
        | Resolution::Dns
        | Resolution::DnsRoundRobin
        | Resolution::DynamicDns => LoadBalancing::default(),
    }
}

/// Of all that name one host: the Kubernetes service, or else the oldest entry.
fn is_canonical(at: At<'_>, name: &ServiceName, entry: &ServiceEntry) -> bool {
    let host = name.hostname.as_str();
    let of_kubernetes = host.split('.').nth(1).is_some_and(|namespace| {
        weft_model::Namespace::new(namespace).is_ok_and(|namespace| {
            kubernetes(at, &ServiceName { namespace, hostname: name.hostname.clone() }).is_some()
        })
    });
    let oldest = at.store.entries_of_host(&name.hostname).map(|e| e.metadata.age()).min();
    !of_kubernetes && oldest == Some(entry.metadata.age())
}

fn addresses(
    at: At<'_>,
    name: &ServiceName,
    entry: &ServiceEntry,
    network: &Network,
    service: &mut weft_model::Service,
    report: &mut Report,
) {
    let written = entry.spec.addresses.iter().enumerate();
    let written = written.map(|(i, text)| (format!("spec.addresses[{i}]"), text));
    let given = entry.status.addresses.iter().enumerate();
    let given = given
        .filter(|(_, a)| a.host.is_empty() || *a.host == *name.hostname.as_str())
        .map(|(i, a)| (format!("status.addresses[{i}].value"), &a.value));
    for (field, text) in written.chain(given) {
        let Some(cidr) = report.ok(super::conditions::cidr(text), field, text) else { continue };
        if cidr.prefix_len() == cidr.max_prefix_len() {
            service.vips.push(NetworkAddress::new(network.clone(), cidr.addr()));
        } else {
            service.cidr_vips.push(NetworkCidr { network: network.clone(), cidr });
        }
    }
    if let Some(vip) = at.store.vip(name) {
        service.vips.push(NetworkAddress::new(network.clone(), vip.into()));
    }
}

/// The endpoints that are written in an entry, or that its hosts stand for.
pub(super) fn endpoints(at: At<'_>, name: &Name) -> Compiled {
    let Some(entry) = at.store.service_entries.get(name) else { return Compiled::default() };
    let mut report = Report::new(Kind::ServiceEntry, name);
    for (i, host) in entry.spec.hosts.iter().enumerate() {
        report.ok(weft_model::Hostname::new(host), format!("spec.hosts[{i}]"), host);
    }
    if entry.spec.resolution == Resolution::None {
        return report.with([]);
    }
    let workloads = if !entry.spec.endpoints.is_empty() {
        written(at, entry, &mut report)
    } else if entry.spec.workload_selector.is_some() {
        Vec::new()
    } else {
        implied(at, entry, &mut report)
    };
    report.with(workloads.into_iter().map(|w| Change::Workload(Arc::new(w))))
}

fn written(at: At<'_>, entry: &ServiceEntry, report: &mut Report) -> Vec<weft_model::Workload> {
    let mut workloads: Vec<weft_model::Workload> = Vec::new();
    for (i, spec) in entry.spec.endpoints.iter().enumerate() {
        let field = format!("spec.endpoints[{i}]");
        let address = Address::parse(&spec.address);
        let Some(address) = report.ok(address, format!("{field}.address"), &spec.address) else {
            continue;
        };
        if matches!(address, Address::Name(_)) && entry.spec.resolution == Resolution::Static {
            let message = "is a name, and the resolution is STATIC";
            report.add(format!("{field}.address"), &spec.address, message);
            continue;
        }
        let mut suffix = spec.address.to_string();
        // One address may appear with several sets of ports.
        let twice = entry.spec.endpoints.iter().take(i).any(|other| other.address == spec.address);
        if twice {
            suffix = format!("{suffix}/{i}");
        }
        let ports = ports_of(entry, &spec.ports);
        let services = entry_names(entry).map(|name| (name, ports.clone())).collect();
        let endpoint = Endpoint { entry, spec, suffix: &suffix, address, services, field: &field };
        workloads.extend(workload(at, endpoint, report));
    }
    workloads
}

/// An entry by DNS without endpoints means its hosts themselves.
fn implied(at: At<'_>, entry: &ServiceEntry, report: &mut Report) -> Vec<weft_model::Workload> {
    let by_name = match entry.spec.resolution {
        Resolution::Dns | Resolution::DnsRoundRobin | Resolution::DynamicDns => true,
        Resolution::None | Resolution::Static => false,
    };
    if !by_name {
        return Vec::new();
    }
    let mut workloads = Vec::new();
    let mut names: Vec<ServiceName> = entry_names(entry).collect();
    names.sort();
    names.dedup();
    for name in names {
        let host: Arc<str> = name.hostname.as_str().into();
        if host.starts_with('*') {
            report.add("spec.hosts", &host, "a wildcard cannot be resolved: it has no endpoints");
            continue;
        }
        let spec = WorkloadEntrySpec { address: host.clone(), ..WorkloadEntrySpec::default() };
        let address = Address::Name(name.hostname.clone());
        let services = [(name, ports_of(entry, &spec.ports))].into();
        let field = "spec.hosts";
        let endpoint = Endpoint { entry, spec: &spec, suffix: &host, address, services, field };
        workloads.extend(workload(at, endpoint, report));
    }
    workloads
}
