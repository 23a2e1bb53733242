//! Whether a pod can be reached, and where.

use std::net::IpAddr;

use weft_model::enrollment::PodLife;

use super::Report;
use crate::objects::{Kind, Pod};

/// Reachable: it has an address and has not finished. A pending pod with an address runs its init containers,
/// which talk to the mesh too.
pub(super) fn is_live(pod: &Pod) -> bool {
    // One that will not run again holds nothing any more, whatever its status still says.
    PodLife::of(pod.status.phase.as_deref()) == PodLife::Going
        && addresses(pod, &mut Report::new(Kind::Pod, &pod.metadata.key())).is_some()
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
