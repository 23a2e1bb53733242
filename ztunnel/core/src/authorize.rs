//! May this connection be? The only maker of a [`Permit`].

use std::sync::Arc;

use weft_model::{View, Workload};

use crate::{
    Denial, Ground, Inbound, Refusal, Resolved,
    policy::{Judgement, Request, judge},
    trace::{Quiet, Trace},
};

/// Proof that a connection was allowed, and on what ground. No tunnel and no delivery without one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Permit {
    resolved: Resolved,
    ground: Ground,
    dry_run: Option<Denial>,
}

/// Applies the layer 4 policies of the destination, on the identity that was proved and on nothing else.
pub fn authorize(view: &View, resolved: &Resolved) -> Result<Permit, Refusal> {
    authorize_traced(view, resolved, &mut Quiet)
}

pub(crate) fn authorize_traced(
    view: &View,
    resolved: &Resolved,
    trace: &mut impl Trace,
) -> Result<Permit, Refusal> {
    let judgement = match resolved {
        // Only the destination's node enforces: a client's node could be gone around.
        Resolved::Outbound(_) => Judgement { verdict: Ok(Ground::Elsewhere), dry_run: None },
        Resolved::Inbound(inbound) => governed(view, &inbound.workload, inbound, trace),
    };
    let ground = judgement.verdict.map_err(Refusal::Denied)?;
    Ok(Permit { resolved: resolved.clone(), ground, dry_run: judgement.dry_run })
}

fn governed(
    view: &View,
    workload: &Workload,
    inbound: &Inbound,
    trace: &mut impl Trace,
) -> Judgement {
    judge(view.policies_of(workload), request(inbound), trace)
}

fn request(inbound: &Inbound) -> Request<'_> {
    Request { peer: &inbound.peer, source: inbound.from.ip(), destination: inbound.to.0 }
}

impl Permit {
    pub fn resolved(&self) -> &Resolved {
        &self.resolved
    }

    pub fn ground(&self) -> &Ground {
        &self.ground
    }

    /// What the dry-run policies would have said, where that is no.
    pub fn dry_run(&self) -> Option<&Denial> {
        self.dry_run.as_ref()
    }

    /// Whether a newer view would still permit this; when not, the live connection has to be cut.
    ///
    /// The workload is looked up again, since its list of policies may have changed.
    pub fn still_holds(&self, view: &View) -> Result<(), Refusal> {
        let inbound = match &self.resolved {
            Resolved::Outbound(_) => return Ok(()),
            Resolved::Inbound(inbound) => inbound,
        };
        let judgement = if let Some(workload) = view.workload(&inbound.workload.uid) {
            governed(view, workload, inbound, &mut Quiet)
        } else {
            // A pod that finishes its last connections has left the view, and with it may have left the
            // policies that only it listed. What is still known is still enforced.
            let known = view.policies_of(&inbound.workload).flatten().map(Ok);
            judge(known, request(inbound), &mut Quiet)
        };
        judgement.verdict.map(drop).map_err(Refusal::Denied)
    }

    /// The workload of this node that the connection belongs to.
    pub fn local(&self) -> &Arc<Workload> {
        match &self.resolved {
            Resolved::Outbound(outbound) => &outbound.source,
            Resolved::Inbound(inbound) => &inbound.workload,
        }
    }
}

#[cfg(test)]
mod tests;
