//! Why a connection goes where it goes, and who lets it or not.
//!
//! The stages are run, not told again: what is written here is what the proxy does. The client's node is
//! walked first, then, for each endpoint that could be picked, the node of that endpoint.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use serde::Serialize;
use weft_model::{
    Action, Authorization, Identity, OriginalDst, PeerAddr, PolicyName, ServiceName,
    TunnelProtocol, View, Workload, WorkloadUid,
};

use crate::{
    Arrival, Captured, Draw, Endpoint, HBONE_PORT, Hop, LeftOut, Load, Outbound, Permit, Plain,
    Pod, Reach, Refusal, Resolved, Target, Tunnelled,
    authorize::{authorize, authorize_traced},
    balance::Picker,
    next_hop, resolve,
    resolve::target_of,
    trace::Trace,
};

/// Every step of one connection from a workload to an address.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    pub source: WorkloadUid,
    /// What the client proves, where its traffic is captured.
    pub source_identity: Option<Identity>,
    pub destination: String,
    pub service: Option<ServiceName>,
    /// Each place where the connection may end up.
    pub routes: Vec<Route>,
    /// Endpoints that are never picked, and why.
    pub left_out: Vec<Skipped>,
    pub answer: Answer,
}

/// An endpoint that is never picked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Skipped {
    pub workload: WorkloadUid,
    pub reason: LeftOut,
}

/// One way that the connection may take.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// The workload at its end; none outside of the mesh.
    pub workload: Option<WorkloadUid>,
    pub path: String,
    pub encryption: Encryption,
    /// What the other end must prove.
    pub expects: Vec<Identity>,
    /// The policies that were evaluated at its end, in order.
    pub policies: Vec<PolicyStep>,
    /// What the dry-run policies would have refused it for.
    pub dry_run: Option<String>,
    pub answer: Answer,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Encryption {
    MutualTls,
    None,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyStep {
    pub policy: PolicyName,
    pub effect: Effect,
    /// The first rule that matched, counted from 0.
    pub rule: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Effect {
    Allow,
    Deny,
    DryRunAllow,
    DryRunDeny,
    /// Listed by the workload, but not known: denies.
    Unknown,
}

/// The verdict.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "verdict")]
pub enum Answer {
    Allowed {
        because: String,
    },
    Refused {
        because: String,
        policy: Option<PolicyName>,
        http_status: u16,
    },
    /// Some endpoints allow it and some refuse.
    Mixed {
        allowed: usize,
        refused: usize,
    },
}

/// Explains a connection from `source` to `dst`, through the proxies on both nodes.
pub fn why(view: &View, source: &Arc<Workload>, dst: OriginalDst) -> Explanation {
    let caller = match source.tunnel {
        TunnelProtocol::Hbone => Caller::Captured,
        TunnelProtocol::None => Caller::Outside,
    };
    let mut notes = Notes::default();
    let walked = walk(view, source, dst, caller, &mut notes);
    let (service, routes, answer) = match walked {
        Ok((service, routes)) => {
            let answer = Answer::of(&routes);
            (service, routes, answer)
        }
        Err((service, refusal)) => (service, Vec::new(), Answer::from(&refusal)),
    };
    Explanation {
        source: source.uid.clone(),
        source_identity: match caller {
            Caller::Captured => Some(source.identity()),
            Caller::Outside => None,
        },
        destination: dst.to_string(),
        service,
        routes,
        left_out: notes.left_out,
        answer,
    }
}

type Walked = Result<(Option<ServiceName>, Vec<Route>), (Option<ServiceName>, Refusal)>;

fn walk(
    view: &View,
    source: &Arc<Workload>,
    dst: OriginalDst,
    caller: Caller,
    notes: &mut Notes,
) -> Walked {
    let outbound = match caller {
        Caller::Captured => match resolve(view, Captured { source: pod_of(source), dst }) {
            Ok(Resolved::Outbound(outbound)) => outbound,
            Ok(Resolved::Inbound(_)) => return Ok((None, Vec::new())),
            Err(refusal) => return Err((None, refusal)),
        },
        Caller::Outside => {
            Outbound { source: source.clone(), dst, target: target_of(view, source, dst) }
        }
    };
    let service = match &outbound.target {
        Target::Service(service) => Some(service.key()),
        Target::Workload(_) | Target::Outside => None,
    };
    let resolved = Resolved::Outbound(outbound.clone());
    let permit = authorize(view, &resolved).map_err(|refusal| (service.clone(), refusal))?;
    let load = Load::default();
    let mut picker = Picker { view, outbound: &outbound, load: &load, tried: &[], draw: Draw(0) };
    let endpoints = match caller {
        Caller::Captured => picker.every(notes),
        Caller::Outside => picker.every_direct(notes),
    }
    .map_err(|refusal| (service.clone(), refusal))?;
    let routes = endpoints.into_iter().map(|(workload, endpoint)| match endpoint {
        Ok(endpoint) => route(view, &outbound, caller, &permit, &endpoint),
        Err(refusal) => Route::refused(workload, &refusal),
    });
    Ok((service, routes.collect()))
}

/// Whether the client's own node has a proxy before it.
#[derive(Clone, Copy)]
enum Caller {
    Captured,
    Outside,
}

fn pod_of(workload: &Workload) -> Pod {
    Pod {
        namespace: workload.namespace.clone(),
        name: workload.name.clone(),
        service_account: workload.service_account.clone(),
    }
}

fn route(
    view: &View,
    outbound: &Outbound,
    caller: Caller,
    permit: &Permit,
    endpoint: &Endpoint,
) -> Route {
    let hop = next_hop(permit, endpoint);
    let workload = endpoint.workload().map(|w| w.uid.clone());
    let (path, encryption, expects) = match caller {
        Caller::Captured => described(&hop),
        Caller::Outside => (format!("direct, to {}", far_end(endpoint)), Encryption::None, vec![]),
    };
    let mut route = Route {
        workload,
        path,
        encryption,
        expects,
        policies: Vec::new(),
        dry_run: None,
        answer: Answer::Allowed { because: UNPROTECTED.to_owned() },
    };
    match arrival(outbound, caller, endpoint, &hop) {
        Ok(arrival) => route.arrive(view, arrival),
        Err(because) => route.answer = Answer::Allowed { because: because.to_owned() },
    }
    route
}

const UNPROTECTED: &str = "no proxy stands before the destination, so nothing is enforced there";

/// What the destination's node sees, or why no proxy of this kind decides there.
fn arrival(
    outbound: &Outbound,
    caller: Caller,
    endpoint: &Endpoint,
    hop: &Hop,
) -> Result<Arrival, &'static str> {
    let (workload, at) = match endpoint {
        Endpoint::Workload { workload, at: Reach::At(at), .. } => (workload, *at),
        Endpoint::Workload { at: Reach::Named { .. }, .. } => {
            return Err("the address comes from DNS; what is behind it decides");
        }
        Endpoint::Local(_) | Endpoint::Outside { .. } => return Err(UNPROTECTED),
        Endpoint::Waypoint { .. } => return Err("the waypoint decides"),
        Endpoint::Remote { .. } => return Err("the other network's node decides"),
    };
    if matches!(workload.tunnel, TunnelProtocol::None) {
        return Err(UNPROTECTED);
    }
    if workload.native_tunnel {
        return Err("the application speaks HBONE itself and decides");
    }
    let from = PeerAddr(SocketAddr::new(address_like(&outbound.source, at.ip()), 0));
    let target = pod_of(workload);
    match (caller, hop) {
        (Caller::Captured, Hop::Hbone { authority, .. }) => Ok(Arrival::Tunnelled(Tunnelled {
            target,
            peer: outbound.source.identity(),
            from,
            local: PeerAddr(SocketAddr::new(at.ip(), HBONE_PORT)),
            authority: authority.clone(),
            forwarded_host: None,
        })),
        (Caller::Captured | Caller::Outside, _) => {
            Ok(Arrival::Plain(Plain { target, from, dst: OriginalDst(at.0) }))
        }
    }
}

/// The client's address of the family that it uses.
fn address_like(source: &Workload, other: IpAddr) -> IpAddr {
    let same = source.addresses.iter().find(|ip| ip.is_ipv4() == other.is_ipv4());
    same.copied().unwrap_or(match other {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    })
}

fn far_end(endpoint: &Endpoint) -> String {
    match endpoint {
        Endpoint::Local(inbound) => inbound.to.to_string(),
        Endpoint::Outside { to } => to.to_string(),
        Endpoint::Workload { at, .. } => at.to_string(),
        Endpoint::Waypoint { via, .. } | Endpoint::Remote { via, .. } => via.to_string(),
    }
}

fn described(hop: &Hop) -> (String, Encryption, Vec<Identity>) {
    match hop {
        Hop::Plaintext { to } => (format!("plaintext, to {to}"), Encryption::None, Vec::new()),
        Hop::Hbone { via, authority, expect, .. } => {
            (format!("HBONE, to {via} for {authority}"), Encryption::MutualTls, expect.clone())
        }
        Hop::Nested { via, authority, expect, .. } => (
            format!("HBONE within HBONE, through gateway {via} for {authority}"),
            Encryption::MutualTls,
            expect.clone(),
        ),
        Hop::Deliver { to, .. } => (format!("to {to} in the pod"), Encryption::None, Vec::new()),
    }
}

impl Route {
    fn refused(workload: Option<WorkloadUid>, refusal: &Refusal) -> Self {
        Self {
            workload,
            path: "none".to_owned(),
            encryption: Encryption::None,
            expects: Vec::new(),
            policies: Vec::new(),
            dry_run: None,
            answer: Answer::from(refusal),
        }
    }

    fn arrive(&mut self, view: &View, arrival: Arrival) {
        let mut notes = Notes::default();
        let permit = resolve(view, arrival)
            .and_then(|resolved| authorize_traced(view, &resolved, &mut notes));
        self.policies = notes.policies;
        self.answer = match permit {
            Ok(permit) => {
                self.dry_run = permit.dry_run().map(ToString::to_string);
                Answer::Allowed { because: permit.ground().to_string() }
            }
            Err(refusal) => Answer::from(&refusal),
        };
    }
}

impl From<&Refusal> for Answer {
    fn from(refusal: &Refusal) -> Self {
        Self::Refused {
            because: refusal.to_string(),
            policy: refusal.policy().cloned(),
            http_status: refusal.http_status(),
        }
    }
}

impl Answer {
    fn of(routes: &[Route]) -> Self {
        let refused = routes.iter().filter(|r| matches!(r.answer, Self::Refused { .. })).count();
        match routes.first() {
            None => Self::Allowed { because: UNPROTECTED.to_owned() },
            Some(first) if refused == 0 || refused == routes.len() => first.answer.clone(),
            Some(_) => Self::Mixed { allowed: routes.len() - refused, refused },
        }
    }
}

#[derive(Default)]
struct Notes {
    policies: Vec<PolicyStep>,
    left_out: Vec<Skipped>,
}

impl Trace for Notes {
    fn policy(&mut self, policy: &Arc<Authorization>, rule: Option<usize>) {
        let effect = match (policy.action, policy.dry_run) {
            (Action::Allow, false) => Effect::Allow,
            (Action::Deny, false) => Effect::Deny,
            (Action::Allow, true) => Effect::DryRunAllow,
            (Action::Deny, true) => Effect::DryRunDeny,
        };
        self.policies.push(PolicyStep { policy: policy.name.clone(), effect, rule });
    }

    fn unknown_policy(&mut self, name: &PolicyName) {
        let effect = Effect::Unknown;
        self.policies.push(PolicyStep { policy: name.clone(), effect, rule: None });
    }

    fn left_out(&mut self, workload: &Arc<Workload>, reason: LeftOut) {
        self.left_out.push(Skipped { workload: workload.uid.clone(), reason });
    }
}

#[cfg(test)]
mod tests;
