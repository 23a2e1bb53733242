//! What runs outside of the cluster: a WorkloadEntry, or an endpoint written in a ServiceEntry.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use weft_model::{
    Change, Hostname, NameError, Namespace, Network, Ports, ServiceAccountName, ServiceName,
    TunnelProtocol, Workload, WorkloadUid,
};

use super::{At, Compiled, Report, labels, labels_of, selection};
use crate::objects::{Kind, Labels, Name, ServiceEntry, WorkloadEntrySpec};

/// An address as it was written, or a name to be resolved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Address {
    Ip(IpAddr),
    Name(Hostname),
}

impl Address {
    pub(super) fn parse(text: &str) -> Result<Self, NameError> {
        match text.parse::<IpAddr>() {
            Ok(ip) => Ok(Self::Ip(ip.to_canonical())),
            // A path of a Unix socket is refused here: nothing but its own host could dial it.
            Err(_) => Hostname::new(text).map(Self::Name),
        }
    }
}

/// One endpoint of a ServiceEntry.
pub(super) struct Endpoint<'a> {
    pub(super) entry: &'a ServiceEntry,
    pub(super) spec: &'a WorkloadEntrySpec,
    /// What tells it from the entry's other endpoints.
    pub(super) suffix: &'a str,
    pub(super) address: Address,
    pub(super) services: BTreeMap<ServiceName, Ports>,
    pub(super) field: &'a str,
}

pub(super) fn workload(
    at: At<'_>,
    endpoint: Endpoint<'_>,
    report: &mut Report,
) -> Option<Workload> {
    let Endpoint { entry, spec, suffix, address, services, field } = endpoint;
    let name = entry.metadata.key();
    let uid = format!("{}/networking.istio.io/ServiceEntry/{name}/{suffix}", at.mesh.cluster_id);
    let base = base(at, &name, &uid, spec, &spec.labels, field, report)?;
    Some(Workload { services: services.into(), ..with_address(base, address) })
}

pub(super) fn workload_entry(at: At<'_>, name: &Name) -> Compiled {
    let Some(entry) = at.store.workload_entries.get(name) else { return Compiled::default() };
    let mut report = Report::new(Kind::WorkloadEntry, name);
    for (name, _) in entry.spec.ports.iter().filter(|(_, port)| **port == 0) {
        report.add(format!("spec.ports.{name}"), "0", "is not a port (1 to 65535)");
    }
    let mut compile = || {
        let spec = &entry.spec;
        let address = report.ok(Address::parse(&spec.address), "spec.address", &spec.address)?;
        let uid = format!("{}/networking.istio.io/WorkloadEntry/{name}", at.mesh.cluster_id);
        let labels = labels_of(entry);
        let base = base(at, name, &uid, spec, labels, "spec", &mut report)?;
        let services = selection::services_of_entry(at, entry);
        Some(Workload {
            policies: selection::policies_of(at, &name.namespace, labels, &services.selecting),
            services: services.ports.into(),
            ..with_address(base, address)
        })
    };
    let workload = compile();
    report.with(workload.map(|w| Change::Workload(Arc::new(w))))
}

fn with_address(base: Workload, address: Address) -> Workload {
    match address {
        Address::Ip(ip) => Workload { addresses: vec![ip], ..base },
        Address::Name(hostname) => Workload { hostname: Some(hostname), ..base },
    }
}

fn base(
    at: At<'_>,
    name: &Name,
    uid: &str,
    spec: &WorkloadEntrySpec,
    labels: &Labels,
    field: &str,
    report: &mut Report,
) -> Option<Workload> {
    let uid = report.ok(WorkloadUid::new(uid), field, uid)?;
    let namespace = report.ok(Namespace::new(&name.namespace), "metadata.namespace", "")?;
    let account = match &*spec.service_account {
        "" => "default",
        named => named,
    };
    let account_field = format!("{field}.serviceAccount");
    let account = report.ok(ServiceAccountName::new(account), account_field, account)?;
    let network = match &*spec.network {
        "" => labels::network(at, labels, &name.namespace),
        named => report.ok(Network::new(named), format!("{field}.network"), named)?,
    };
    let native = labels::speaks_hbone(labels);
    let (canonical_name, canonical_revision) = labels::canonical(labels, &name.name);
    Some(Workload {
        trust_domain: at.mesh.trust_domain.clone(),
        network,
        tunnel: if native { TunnelProtocol::Hbone } else { TunnelProtocol::None },
        native_tunnel: native,
        canonical_name,
        canonical_revision,
        workload_name: name.name.clone(),
        cluster_id: at.mesh.cluster_id.clone(),
        locality: labels::locality(&spec.locality),
        // Not said is 0, and means as much as the others.
        capacity: spec.weight.max(1),
        ..Workload::new(uid, &name.name, namespace, account)
    })
}
