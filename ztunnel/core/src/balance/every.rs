//! All that a pick could come to, for `why`: the same steps, without the choice.

use weft_model::{GatewayAddress, Mode, WorkloadUid};

use super::{Endpoint, Located, Need, Picker, Reached};
use crate::{
    Refusal, Target,
    resolve::stands_at,
    trace::{Quiet, Trace},
};

/// Each endpoint that may be picked, or why it could not be reached after all.
pub(crate) type Possible = Vec<(Option<WorkloadUid>, Result<Endpoint, Refusal>)>;

impl Picker<'_> {
    /// Errors: when nothing could be picked.
    pub(crate) fn every(&mut self, trace: &mut impl Trace) -> Result<Possible, Refusal> {
        let waypoints = self.waypoints();
        if waypoints.is_empty() {
            return self.every_direct(trace);
        }
        let mut all = Possible::new();
        for (gateway, _) in waypoints {
            let found = if stands_at(&self.outbound.source, gateway) {
                self.every_direct(trace)
            } else {
                self.every_through(gateway)
            };
            match found {
                Ok(some) => all.extend(some),
                Err(refusal) => all.push((None, Err(refusal))),
            }
        }
        Ok(all)
    }

    fn every_through(&mut self, gateway: &GatewayAddress) -> Result<Possible, Refusal> {
        let reached = match self.located(gateway, Need::Waypoint)? {
            Located::Workload(reached) => vec![reached],
            Located::Service(service, port) => {
                let candidates = self.candidates(service, port, Need::Waypoint, &mut Quiet)?;
                candidates.iter().map(|chosen| Reached::of(service, chosen)).collect()
            }
        };
        let through =
            |waypoint: Reached| (Some(waypoint.workload.uid.clone()), self.through(waypoint));
        Ok(reached.into_iter().map(through).collect())
    }

    /// For a client without a proxy, which knows of no waypoints.
    pub(crate) fn every_direct(&mut self, trace: &mut impl Trace) -> Result<Possible, Refusal> {
        match &self.outbound.target {
            Target::Service(service) if service.load_balancing.mode != Mode::Passthrough => {
                let port = self.outbound.dst.port();
                let candidates = self.candidates(service, port, Need::Endpoint, trace)?;
                let all = candidates.iter().map(|chosen| {
                    (Some(chosen.workload.uid.clone()), self.endpoint(service, chosen))
                });
                Ok(all.collect())
            }
            Target::Service(_) | Target::Outside => Ok(vec![(None, Ok(self.outside()))]),
            Target::Workload(workload) => {
                Ok(vec![(Some(workload.uid.clone()), self.addressed(workload))])
            }
        }
    }
}
