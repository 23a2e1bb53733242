//! PeerAuthentication to authorization: STRICT is a DENY of whoever has no identity.
//!
//! The client's side never changes: it speaks HBONE wherever the destination does.

use std::sync::Arc;

use weft_model::{
    Action, Authorization, Change, Clause, Field, Match, PolicyName, Rule, Scope, StringMatch,
};

use super::{At, Compiled, Mesh, Report, Target};
use crate::objects::{
    Kind, Labels, Name, PeerAuthentication,
    security::{MtlsMode, PeerAuthenticationSpec, Spec},
    selects,
};

/// The names that Istio gives, which its tools know.
const STATIC_STRICT: &str = "istio_converted_static_strict";
const CONVERTED_PREFIX: &str = "converted_peer_authentication_";

/// What a policy is about. One with a selector holds in its own namespace, the root namespace included.
pub(crate) fn target(mesh: &Mesh, policy: &PeerAuthentication) -> Target {
    match (selector(policy), policy.metadata.namespace == mesh.root_namespace) {
        (Some(selector), _) => {
            Target::Workloads { selector: Some(selector.clone()), services: Vec::new() }
        }
        (None, true) => Target::Mesh,
        (None, false) => Target::Namespace,
    }
}

fn selector(policy: &PeerAuthentication) -> Option<&Labels> {
    let selector = match &policy.spec {
        Spec::Read(spec) => spec.selector.as_ref(),
        Spec::Unreadable { selector, .. } => selector.as_ref(),
    };
    selector.map(|s| &s.match_labels).filter(|labels| !labels.is_empty())
}

/// Whether plain text is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    Strict,
    Permissive,
}

/// `None` inherits. DISABLE is about the client's side, which has no say here: it is as PERMISSIVE.
fn mode(of: MtlsMode) -> Option<Mode> {
    match of {
        MtlsMode::Unset => None,
        MtlsMode::Disable | MtlsMode::Permissive => Some(Mode::Permissive),
        MtlsMode::Strict => Some(Mode::Strict),
    }
}

fn mode_of(policy: &PeerAuthentication) -> Option<Mode> {
    match &policy.spec {
        Spec::Read(spec) => mode(spec.mtls.mode),
        Spec::Unreadable { .. } => Some(Mode::Strict),
    }
}

/// The one in force of several at one level: an unreadable one, since it may be the strict one, or the oldest.
fn in_force<'a>(
    policies: impl Iterator<Item = &'a Arc<PeerAuthentication>>,
) -> Option<&'a Arc<PeerAuthentication>> {
    policies.min_by_key(|policy| (matches!(policy.spec, Spec::Read(_)), policy.metadata.age()))
}

/// The mode of a namespace where no policy with a selector says otherwise.
fn inherited(at: At<'_>, namespace: &str) -> Mode {
    let root = &*at.mesh.root_namespace;
    let level = |namespace: &str| {
        let policies = at.store.peer_authentications.of(namespace);
        in_force(policies.filter(|policy| selector(policy).is_none())).and_then(|p| mode_of(p))
    };
    level(namespace).or_else(|| level(root)).unwrap_or(Mode::Permissive)
}

/// The policies that a workload lists because of its peer authentication.
pub(super) fn policies_of(at: At<'_>, namespace: &str, labels: &Labels) -> Option<PolicyName> {
    let policies = at.store.peer_authentications.of(namespace);
    let own = in_force(policies.filter(|p| selector(p).is_some_and(|s| selects(s, labels))));
    if let Some(own) = own
        && converted(at, own).is_some()
    {
        return converted_name(own);
    }
    let mode = own.and_then(|own| mode_of(own)).unwrap_or_else(|| inherited(at, namespace));
    match mode {
        Mode::Strict => PolicyName::new(&at.mesh.root_namespace, STATIC_STRICT).ok(),
        Mode::Permissive => None,
    }
}

/// What the policy is called that a `PeerAuthentication` of this name becomes.
pub fn name_of(name: &str) -> String {
    format!("{CONVERTED_PREFIX}{name}")
}

fn converted_name(policy: &PeerAuthentication) -> Option<PolicyName> {
    PolicyName::new(&policy.metadata.namespace, &name_of(&policy.metadata.name)).ok()
}

/// Present whenever there is any policy, whether or not a workload lists it.
pub(super) fn static_strict(at: At<'_>) -> Compiled {
    let any = at.store.peer_authentications.all().next().is_some();
    let name = PolicyName::new(&at.mesh.root_namespace, STATIC_STRICT).ok().filter(|_| any);
    let policy = name.map(|name| deny(name, vec![unauthenticated()]));
    let resources = policy.into_iter().map(|policy| Change::Policy(Arc::new(policy))).collect();
    Compiled { resources, problems: Vec::new() }
}

/// A policy with ports of its own mode becomes an authorization of its own.
pub(super) fn compile(at: At<'_>, name: &Name) -> Compiled {
    let mut report = Report::new(Kind::PeerAuthentication, name);
    let Some(policy) = at.store.peer_authentications.get(name) else { return Compiled::default() };
    match &policy.spec {
        Spec::Unreadable { field, reason, .. } => {
            report.add(field, "", format!("{reason}: read as STRICT until it is right"));
        }
        Spec::Read(spec) if selector(policy).is_none() && !spec.port_level_mtls.is_empty() => {
            report.add("spec.portLevelMtls", "", "holds only together with a selector");
        }
        Spec::Read(_) => {}
    }
    report.with(converted(at, policy).map(|policy| Change::Policy(Arc::new(policy))))
}

/// `None` where no port differs from the workload's mode.
fn converted(at: At<'_>, policy: &PeerAuthentication) -> Option<Authorization> {
    selector(policy)?;
    let Spec::Read(spec) = &policy.spec else { return None };
    let base = mode(spec.mtls.mode).unwrap_or_else(|| inherited(at, &policy.metadata.namespace));
    let ports = ports_other_than(base, spec);
    if ports.is_empty() {
        return None;
    }
    let of_ports = match base {
        // Two clauses, so that both must hold (istio#54146: with either of them, STRICT was permissive).
        Mode::Strict => Field::none_of(ports),
        Mode::Permissive => Field::any_of(ports),
    };
    let of_ports = Match { destination_ports: of_ports, ..Match::default() };
    let clauses = vec![unauthenticated(), Clause { matches: vec![of_ports] }];
    Some(deny(converted_name(policy)?, clauses))
}

fn ports_other_than(base: Mode, spec: &PeerAuthenticationSpec) -> Vec<u16> {
    let differs = |of: MtlsMode| mode(of).is_some_and(|mode| mode != base);
    spec.port_level_mtls
        .iter()
        .filter(|(_, m)| differs(m.mode))
        .map(|(port, _)| port.get())
        .collect()
}

fn unauthenticated() -> Clause {
    let principals = Field::none_of([StringMatch::Presence]);
    Clause { matches: vec![Match { principals, ..Match::default() }] }
}

fn deny(name: PolicyName, clauses: Vec<Clause>) -> Authorization {
    Authorization {
        name,
        scope: Scope::Workload,
        action: Action::Deny,
        rules: vec![Rule { clauses }],
        dry_run: false,
    }
}
