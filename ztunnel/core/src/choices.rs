//! All endpoints of a service, and why those that are never picked are not.

use std::sync::Arc;

use weft_model::{Mode, OriginalDst, Service, View, Workload};

use crate::{
    Draw, LeftOut, Load, Outbound, Refusal, Target,
    balance::{Need, Picker},
    trace::Trace,
};

/// One endpoint as a client sees it.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'v> {
    pub workload: &'v Arc<Workload>,
    pub left_out: Option<LeftOut>,
}

/// The endpoints of a service for a client that dials `dst`, which is the service's, in the order of their uids.
///
/// Errors: the service has no such port.
pub fn choices<'v>(
    view: &'v View,
    source: &Arc<Workload>,
    service: &Arc<Service>,
    dst: OriginalDst,
) -> Result<Vec<Choice<'v>>, Refusal> {
    let target = Target::Service(service.clone());
    let outbound = Outbound { source: source.clone(), dst, target };
    let load = Load::default();
    let picker = Picker { view, outbound: &outbound, load: &load, tried: &[], draw: Draw(0) };
    let mut skipped = Skipped::default();
    // Whoever has dialled an address of a service that passes all through goes to that address.
    if service.load_balancing.mode != Mode::Passthrough
        && let Err(refusal) = picker.candidates(service, dst.port(), Need::Endpoint, &mut skipped)
        && !matches!(refusal, Refusal::NoEndpoint { .. })
    {
        return Err(refusal);
    }
    let of = |workload: &'v Arc<Workload>| {
        let reason = skipped.0.iter().find(|(other, _)| Arc::ptr_eq(other, workload));
        Choice { workload, left_out: reason.map(|(_, reason)| *reason) }
    };
    Ok(view.endpoints(&service.key()).map(|endpoint| of(endpoint.workload)).collect())
}

#[derive(Default)]
struct Skipped(Vec<(Arc<Workload>, LeftOut)>);

impl Trace for Skipped {
    fn left_out(&mut self, workload: &Arc<Workload>, reason: LeftOut) {
        self.0.push((workload.clone(), reason));
    }
}

#[cfg(test)]
mod tests;
