//! Whether a pod can be reached, and where.

use std::{net::IpAddr, sync::Arc};

use weft_model::enrollment::PodLife;

use super::{At, Report};
use crate::objects::{Kind, Pod};

/// Reachable: it has an address and has not finished. A pending pod with an address runs its init containers,
/// which talk to the mesh too.
pub(super) fn is_live(pod: &Pod) -> bool {
    // One that will not run again holds nothing any more, whatever its status still says.
    PodLife::of(pod.status.phase.as_deref()) == PodLife::Going
        && addresses(pod, &mut Report::new(Kind::Pod, &pod.metadata.key())).is_some()
}

/// Ready, by its condition, and not being deleted.
pub(super) fn is_ready(pod: &Pod) -> bool {
    serves(pod) && pod.metadata.deletion_timestamp.is_none()
}

/// Its condition says ready, though it may be ending.
pub(super) fn serves(pod: &Pod) -> bool {
    let ready = pod.status.conditions.iter().find(|condition| &*condition.kind == "Ready");
    match ready {
        Some(condition) => &*condition.status == "True",
        // Only a pod written by hand has no such condition: then its phase, if any, decides.
        None => matches!(pod.status.phase.as_deref(), None | Some("Running")),
    }
}

/// Whether an address is this pod's. Of several live pods that name it the one has it that is not ending, then
/// the newest: an older one has not yet said that it lost it. Those on the host's network share theirs.
pub(super) fn owns(at: At<'_>, pod: &Pod, address: IpAddr) -> bool {
    let rank = |pod: &Pod| {
        let meta = &pod.metadata;
        let age = (meta.creation_timestamp.clone(), meta.uid.clone(), meta.key());
        (meta.deletion_timestamp.is_none(), age)
    };
    let newer =
        |other: &&Arc<Pod>| !other.spec.host_network && rank(other) > rank(pod) && is_live(other);
    pod.spec.host_network || !at.store.pods_at(address).any(|other| newer(&other))
}

/// `None` without a valid address.
pub(super) fn addresses(pod: &Pod, report: &mut Report) -> Option<Vec<IpAddr>> {
    let several = pod.status.pod_ips.iter().map(|ip| &ip.ip).enumerate();
    let several = several.map(|(i, ip)| (format!("status.podIPs[{i}].ip"), ip));
    let one = pod.status.pod_ip.iter().map(|ip| ("status.podIP".to_owned(), ip));
    let mut addresses: Vec<IpAddr> = Vec::new();
    for (field, text) in one.chain(several).filter(|(_, text)| !text.is_empty()) {
        if let Some(ip) = report.ok(text.parse::<IpAddr>(), field, text) {
            let ip = ip.to_canonical();
            if !addresses.contains(&ip) {
                addresses.push(ip);
            }
        }
    }
    (!addresses.is_empty()).then_some(addresses)
}
