//! Pod to workload.

use std::sync::Arc;

use weft_model::{
    Change, Health, Identity, NameError, Namespace, NetworkMode, ServiceAccountName,
    TunnelProtocol, Workload, WorkloadUid,
    enrollment::{Candidate, Enrollment, PodLife, PodNetwork, Reason, Wish, enrollment},
};

use super::{
    At, Compiled, Mesh, Report, labels,
    liveness::{addresses, is_live, is_ready, owns, serves},
    selection,
};
use crate::{
    objects::{Kind, Name, ObjectMeta, Pod, Service, selects},
    store::Store,
};

/// Set by the node agent when the pod's traffic is captured.
const REDIRECTION: &str = "ambient.istio.io/redirection";

pub(super) fn compile(at: At<'_>, name: &Name) -> Compiled {
    let mut report = Report::new(Kind::Pod, name);
    let workload = at
        .store
        .pods
        .get(name)
        .filter(|pod| is_live(pod))
        .and_then(|pod| workload(at, pod, &mut report));
    report.with(workload.map(|w| Change::Workload(Arc::new(w))))
}

fn workload(at: At<'_>, pod: &Pod, report: &mut Report) -> Option<Workload> {
    let mut addresses = addresses(pod, report)?;
    addresses.retain(|address| owns(at, pod, *address));
    if addresses.is_empty() {
        return None;
    }
    let meta = &pod.metadata;
    let uid = format!("{}//Pod/{}/{}", at.mesh.cluster_id, meta.namespace, meta.name);
    let uid = report.ok(WorkloadUid::new(&uid), "metadata.name", &uid)?;
    let identity = report.ok(identity(at.mesh, pod), "spec.serviceAccountName", "")?;
    let owner = workload_name(pod);
    let (canonical_name, canonical_revision) = labels::canonical(&meta.labels, &owner);
    let services = selection::services_of_pod(at, pod);
    let native = labels::speaks_hbone(&meta.labels);
    let captured = is_captured(pod) || native;
    Some(Workload {
        trust_domain: at.mesh.trust_domain.clone(),
        network: labels::network(at, &meta.labels, &meta.namespace),
        addresses,
        tunnel: if captured { TunnelProtocol::Hbone } else { TunnelProtocol::None },
        native_tunnel: native,
        network_mode: if pod.spec.host_network {
            NetworkMode::HostNetwork
        } else {
            NetworkMode::Standard
        },
        node: pod.spec.node_name.clone(),
        canonical_name,
        canonical_revision,
        workload_name: owner,
        cluster_id: at.mesh.cluster_id.clone(),
        locality: labels::pod_locality(at, pod),
        health: health(at, pod, &services.selecting),
        policies: selection::policies_of(at, &meta.namespace, &meta.labels, &services.selecting),
        services: services.ports.into(),
        ..Workload::new(
            uid,
            &meta.name,
            identity.namespace().clone(),
            identity.service_account().clone(),
        )
    })
}

pub(crate) fn identity(mesh: &Mesh, pod: &Pod) -> Result<Identity, NameError> {
    let account = match &*pod.spec.service_account_name {
        "" => "default",
        named => named,
    };
    Ok(Identity::new(
        mesh.trust_domain.clone(),
        Namespace::new(&pod.metadata.namespace)?,
        ServiceAccountName::new(account)?,
    ))
}

/// The agent has said that the traffic is captured. Never true on the host's network, which is not captured.
fn is_captured(pod: &Pod) -> bool {
    let redirected = pod.metadata.annotation(REDIRECTION).is_some_and(|v| &**v == "enabled");
    redirected && !pod.spec.host_network
}

/// Whether a node may hold the pod's identity: it is captured, is to be captured, or speaks HBONE itself. A
/// node asks before it captures, so that the first connection need not wait.
pub(crate) fn is_enrolled(store: &Store, pod: &Pod) -> bool {
    let wish = |meta: &ObjectMeta| Wish::of(|key| meta.label(key).map(|value| &**value));
    let namespace = store.namespace(&pod.metadata.namespace);
    let candidate = Candidate {
        namespace: namespace.map_or(Wish::Unsaid, |namespace| wish(&namespace.metadata)),
        pod: wish(&pod.metadata),
        network: if pod.spec.host_network { PodNetwork::Host } else { PodNetwork::Own },
        life: PodLife::of(pod.status.phase.as_deref()),
    };
    match enrollment(candidate) {
        Enrollment::Enrolled => true,
        Enrollment::Out(Reason::HostNetwork | Reason::Finished) => false,
        // Its agent still holds it, or it needs no agent.
        Enrollment::Out(Reason::OptedOut | Reason::NotAsked) => {
            is_captured(pod) || labels::speaks_hbone(&pod.metadata.labels)
        }
    }
}

/// A pod that ends gets no new connections, unless it still serves and a service has nothing better.
fn health(at: At<'_>, pod: &Pod, services: &[Name]) -> Health {
    let needed = || {
        let services = services.iter().filter_map(|name| at.store.services.get(name));
        services.into_iter().any(|service| !has_ready(at, service))
    };
    if is_ready(pod) || (serves(pod) && needed()) { Health::Healthy } else { Health::Unhealthy }
}

fn has_ready(at: At<'_>, service: &Service) -> bool {
    let selector = &service.spec.selector;
    // Without one its slices say who is ready: see `slice::health`.
    selector.is_empty()
        || at
            .store
            .pods
            .of(&service.metadata.namespace)
            .any(|pod| is_ready(pod) && selects(selector, &pod.metadata.labels) && is_live(pod))
}

/// What made the pod: the Deployment rather than its ReplicaSet, the CronJob rather than its Job.
fn workload_name(pod: &Pod) -> Arc<str> {
    let meta = &pod.metadata;
    let Some(owner) = meta.owner_references.iter().find(|owner| owner.controller) else {
        return meta.name.clone();
    };
    let hash = meta.label("pod-template-hash").map(|hash| format!("-{hash}"));
    let made_by = match &*owner.kind {
        "ReplicaSet" => hash.and_then(|hash| owner.name.strip_suffix(&hash)),
        // A CronJob's Jobs end in the minute that they were due, a number.
        "Job" => owner
            .name
            .rsplit_once('-')
            .filter(|(_, due)| due.len() >= 8 && due.bytes().all(|b| b.is_ascii_digit()))
            .map(|(name, _)| name),
        _ => None,
    };
    made_by.map_or_else(|| owner.name.clone(), Arc::from)
}
