//! AuthorizationPolicy to layer 4 authorization, never weaker than it was written.
//!
//! ```text
//!                        ALLOW                          DENY (and CUSTOM, which needs an authorizer we lack)
//!   layer 7 attribute    its rule is left out           the attribute is left out: the rule denies more
//!   invalid value        its rule is left out           the same
//!   nothing else left    nothing is allowed by it       everything on the target is denied
//!   unreadable           everything on the target is denied
//! ```
//!
//! Istio sends an empty match for a DENY with layer 7 attributes only, which never matches (istio#61126).
//! Here such a clause is left out, so that the rule is narrowed by the others only.

use std::sync::Arc;

use weft_model::{Action, Authorization, Change, Clause, Field, Match, PolicyName, Rule, Scope};

use super::{At, Compiled, Mesh, Report, Target, conditions};
use crate::objects::{
    AuthorizationPolicy, Kind, Labels, Name,
    security::{self, AuthorizationSpec, Condition, Operation, Source, Spec, Values},
};

const DRY_RUN: &str = "istio.io/dry-run";

/// What a policy is about.
pub(crate) fn target(mesh: &Mesh, policy: &AuthorizationPolicy) -> Target {
    match &policy.spec {
        Spec::Unreadable { selector, .. } => selected(mesh, policy, selector.as_ref(), Vec::new()),
        // Decides nothing, so no workload may be told to wait for it.
        Spec::Read(spec) if spec.action == security::Action::Audit => Target::Nothing,
        Spec::Read(spec) => {
            let references: Vec<_> = references(spec).map(|(_, reference)| reference).collect();
            let services = references
                .iter()
                .filter(|r| is_service(policy, r))
                .map(|r| Name {
                    namespace: policy.metadata.namespace.clone(),
                    name: r.name.clone(),
                })
                .collect::<Vec<_>>();
            if !references.is_empty() && services.is_empty() && spec.selector.is_none() {
                return Target::Nothing;
            }
            selected(mesh, policy, spec.selector.as_ref(), services)
        }
    }
}

fn selected(
    mesh: &Mesh,
    policy: &AuthorizationPolicy,
    selector: Option<&security::WorkloadSelector>,
    services: Vec<Name>,
) -> Target {
    let selector: Option<Labels> =
        selector.map(|s| s.match_labels.clone()).filter(|labels| !labels.is_empty());
    if selector.is_some() || !services.is_empty() {
        return Target::Workloads { selector, services };
    }
    if policy.metadata.namespace == mesh.root_namespace { Target::Mesh } else { Target::Namespace }
}

fn references(spec: &AuthorizationSpec) -> impl Iterator<Item = (String, &security::TargetRef)> {
    let one = spec.target_ref.iter().map(|r| ("spec.targetRef".to_owned(), r));
    let many = spec.target_refs.iter().enumerate();
    one.chain(many.map(|(i, r)| (format!("spec.targetRefs[{i}]"), r)))
}

fn is_service(policy: &AuthorizationPolicy, reference: &security::TargetRef) -> bool {
    let own = reference.namespace.as_ref().is_none_or(|ns| *ns == policy.metadata.namespace);
    matches!(&*reference.group, "" | "core") && &*reference.kind == "Service" && own
}

pub(super) fn compile(at: At<'_>, name: &Name) -> Compiled {
    let mut report = Report::new(Kind::AuthorizationPolicy, name);
    let Some(policy) = at.store.authorization_policies.get(name) else {
        return Compiled::default();
    };
    let authorization = authorization(at.mesh, policy, &mut report);
    report.with(authorization.map(|a| Change::Policy(Arc::new(a))))
}

fn authorization(
    mesh: &Mesh,
    policy: &AuthorizationPolicy,
    report: &mut Report,
) -> Option<Authorization> {
    let meta = &policy.metadata;
    let name = PolicyName::new(&meta.namespace, &meta.name);
    let name = report.ok(name, "metadata.name", &meta.name)?;
    let (action, rules) = match &policy.spec {
        Spec::Unreadable { field, reason, .. } => {
            let message = format!("{reason}: everything on its target is denied until it is right");
            report.add(field, "", message);
            (Action::Deny, vec![Rule::default()])
        }
        Spec::Read(spec) => {
            report_targets(policy, spec, report);
            let action = action(spec, report)?;
            let mut reading = Reading { mesh, namespace: &meta.namespace, action, report };
            (action, reading.rules(&spec.rules))
        }
    };
    let scope = match target(mesh, policy) {
        Target::Mesh => Scope::Global,
        Target::Namespace => Scope::Namespace,
        Target::Workloads { .. } => Scope::Workload,
        Target::Nothing => return None,
    };
    let dry_run = meta.annotation(DRY_RUN).is_some_and(|value| &**value == "true");
    Some(Authorization { name, scope, action, rules, dry_run })
}

fn report_targets(policy: &AuthorizationPolicy, spec: &AuthorizationSpec, report: &mut Report) {
    for (field, reference) in references(spec) {
        if !is_service(policy, reference) {
            let message = "is not a Service of the policy's namespace: not enforced at nodes";
            report.add(field, &format!("{} {}", reference.kind, reference.name), message);
        }
    }
}

/// `None` for a policy that decides nothing.
fn action(spec: &AuthorizationSpec, report: &mut Report) -> Option<Action> {
    match spec.action {
        security::Action::Allow => Some(Action::Allow),
        security::Action::Deny => {
            if spec.rules.is_empty() {
                report.add("spec.rules", "", "a DENY without rules never matches");
            }
            Some(Action::Deny)
        }
        security::Action::Audit => {
            report.add("spec.action", "AUDIT", "is not supported: nothing is recorded");
            None
        }
        security::Action::Custom => {
            let message = "needs an external authorizer, which is not supported: what the rules match is denied";
            report.add("spec.action", "CUSTOM", message);
            Some(Action::Deny)
        }
    }
}

/// Reads rules for one action.
struct Reading<'a> {
    mesh: &'a Mesh,
    namespace: &'a str,
    action: Action,
    report: &'a mut Report,
}

/// Something in a rule could not be carried over.
#[derive(Default)]
struct Lossy(bool);

impl Reading<'_> {
    fn rules(&mut self, rules: &[security::Rule]) -> Vec<Rule> {
        let rules = rules.iter().enumerate();
        rules.filter_map(|(i, rule)| self.rule(&format!("spec.rules[{i}]"), rule)).collect()
    }

    /// `None` leaves the rule out.
    fn rule(&mut self, at: &str, rule: &security::Rule) -> Option<Rule> {
        let mut lossy = Lossy::default();
        let mut clauses = Vec::new();
        if let Some(from) = &rule.from {
            let matches = from.iter().enumerate().map(|(i, from)| {
                let at = format!("{at}.from[{i}].source");
                self.source(&at, &from.source, &mut lossy)
            });
            clauses.push((format!("{at}.from"), matches.collect::<Vec<_>>()));
        }
        if let Some(to) = &rule.to {
            let matches = to.iter().enumerate().map(|(i, to)| {
                let at = format!("{at}.to[{i}].operation");
                self.operation(&at, &to.operation, &mut lossy)
            });
            clauses.push((format!("{at}.to"), matches.collect::<Vec<_>>()));
        }
        for (i, condition) in rule.when.iter().flatten().enumerate() {
            let at = format!("{at}.when[{i}]");
            let matched = self.condition(&at, condition, &mut lossy);
            clauses.push((at, vec![matched]));
        }
        let clauses: Vec<Clause> = clauses
            .into_iter()
            .filter_map(|(at, matches)| self.clause(&at, matches, &mut lossy))
            .collect();
        let left_out = lossy.0 && self.action == Action::Allow;
        (!left_out).then_some(Rule { clauses })
    }

    /// `None` leaves the clause out, which makes it match everything.
    fn clause(&mut self, at: &str, matches: Vec<Match>, lossy: &mut Lossy) -> Option<Clause> {
        if !matches.is_empty() && !matches.iter().any(Match::is_empty) {
            return Some(Clause { matches });
        }
        // A match without attributes would never match on the wire, whatever was meant by it.
        if !lossy.0 {
            lossy.0 = true;
            self.add_loss(at, "", "says nothing");
        }
        None
    }

    fn source(&mut self, at: &str, source: &Source, lossy: &mut Lossy) -> Match {
        let namespace = self.namespace;
        let account = |text: &str| conditions::service_account(namespace, text);
        for (name, values) in [
            ("requestPrincipals", &source.request_principals),
            ("notRequestPrincipals", &source.not_request_principals),
            ("remoteIpBlocks", &source.remote_ip_blocks),
            ("notRemoteIpBlocks", &source.not_remote_ip_blocks),
            ("trustDomains", &source.trust_domains),
            ("notTrustDomains", &source.not_trust_domains),
        ] {
            self.unenforced(&format!("{at}.{name}"), values, lossy);
        }
        let principals =
            [("principals", &source.principals), ("notPrincipals", &source.not_principals)];
        let namespaces =
            [("namespaces", &source.namespaces), ("notNamespaces", &source.not_namespaces)];
        let accounts = [
            ("serviceAccounts", &source.service_accounts),
            ("notServiceAccounts", &source.not_service_accounts),
        ];
        let blocks = [("ipBlocks", &source.ip_blocks), ("notIpBlocks", &source.not_ip_blocks)];
        let mut principals = self.field(at, principals, conditions::principal, lossy);
        self.own_trust_domain(&mut principals);
        Match {
            principals,
            namespaces: self.field(at, namespaces, conditions::namespace, lossy),
            service_accounts: self.field(at, accounts, account, lossy),
            source_ips: self.field(at, blocks, conditions::cidr, lossy),
            ..Match::default()
        }
    }

    /// Istio reads `cluster.local` in a principal as the mesh's own trust domain, whatever that is called.
    fn own_trust_domain(&self, principals: &mut Field<weft_model::StringMatch>) {
        use weft_model::StringMatch::{Exact, Prefix};
        let own = |text: &Arc<str>| -> Option<Arc<str>> {
            let rest = text.strip_prefix("cluster.local/")?;
            Some(format!("{}/{rest}", self.mesh.trust_domain).into())
        };
        for side in [&mut principals.any_of, &mut principals.none_of] {
            let more: Vec<_> = side
                .iter()
                .filter_map(|matched| match matched {
                    Exact(text) => own(text).map(Exact),
                    Prefix(text) => own(text).map(Prefix),
                    weft_model::StringMatch::Suffix(_) | weft_model::StringMatch::Presence => None,
                })
                .filter(|matched| !side.contains(matched))
                .collect();
            side.extend(more);
        }
    }

    fn operation(&mut self, at: &str, operation: &Operation, lossy: &mut Lossy) -> Match {
        for (name, values) in [
            ("hosts", &operation.hosts),
            ("notHosts", &operation.not_hosts),
            ("methods", &operation.methods),
            ("notMethods", &operation.not_methods),
            ("paths", &operation.paths),
            ("notPaths", &operation.not_paths),
        ] {
            self.unenforced(&format!("{at}.{name}"), values, lossy);
        }
        let ports = [("ports", &operation.ports), ("notPorts", &operation.not_ports)];
        let destination_ports = self.field(at, ports, conditions::port, lossy);
        Match { destination_ports, ..Match::default() }
    }

    fn condition(&mut self, at: &str, condition: &Condition, lossy: &mut Lossy) -> Match {
        let mut matched = Match::default();
        let namespace = self.namespace;
        match &*condition.key {
            "source.ip" => matched.source_ips = self.both(at, condition, conditions::cidr, lossy),
            "source.namespace" => {
                matched.namespaces = self.both(at, condition, conditions::namespace, lossy);
            }
            "source.principal" => {
                matched.principals = self.both(at, condition, conditions::principal, lossy);
                self.own_trust_domain(&mut matched.principals);
            }
            "source.serviceAccount" => {
                let account = |text: &str| conditions::service_account(namespace, text);
                matched.service_accounts = self.both(at, condition, account, lossy);
            }
            "destination.ip" => {
                matched.destination_ips = self.both(at, condition, conditions::cidr, lossy);
            }
            "destination.port" => {
                matched.destination_ports = self.both(at, condition, conditions::port, lossy);
            }
            other => {
                lossy.0 = true;
                self.add_loss(&format!("{at}.key"), other, "is not enforced at layer 4");
            }
        }
        matched
    }

    fn both<T>(
        &mut self,
        at: &str,
        condition: &Condition,
        parse: impl Fn(&str) -> Result<T, &'static str>,
        lossy: &mut Lossy,
    ) -> Field<T> {
        let names = [("values", &condition.values), ("notValues", &condition.not_values)];
        self.field(at, names, parse, lossy)
    }

    /// What is wanted and what is not, each by its name.
    fn field<T>(
        &mut self,
        at: &str,
        [(wanted, any_of), (unwanted, none_of)]: [(&str, &Values); 2],
        parse: impl Fn(&str) -> Result<T, &'static str>,
        lossy: &mut Lossy,
    ) -> Field<T> {
        Field {
            any_of: self.values(&format!("{at}.{wanted}"), any_of, &parse, lossy),
            none_of: self.values(&format!("{at}.{unwanted}"), none_of, &parse, lossy),
        }
    }

    /// All of the values, or none when one of them is wrong: a list without it would match less, and a DENY
    /// must not.
    fn values<T>(
        &mut self,
        at: &str,
        values: &Values,
        parse: impl Fn(&str) -> Result<T, &'static str>,
        lossy: &mut Lossy,
    ) -> Vec<T> {
        let Some(values) = values else { return Vec::new() };
        if values.is_empty() {
            lossy.0 = true;
            self.add_loss(at, "", "is an empty list");
        }
        let mut parsed = Vec::new();
        let mut whole = true;
        for (i, value) in values.iter().enumerate() {
            match parse(value) {
                Ok(value) => parsed.push(value),
                Err(reason) => {
                    whole = false;
                    self.add_loss(&format!("{at}[{i}]"), value, reason);
                }
            }
        }
        if whole {
            return parsed;
        }
        lossy.0 = true;
        Vec::new()
    }

    fn unenforced(&mut self, at: &str, values: &Values, lossy: &mut Lossy) {
        if values.is_some() {
            lossy.0 = true;
            self.add_loss(at, "", "is not enforced at layer 4");
        }
    }

    fn add_loss(&mut self, at: &str, value: &str, reason: &str) {
        let consequence = match self.action {
            Action::Allow => "the rule is left out, so that less is allowed",
            Action::Deny => "the condition is left out, so that more is denied",
        };
        self.report.add(at, value, format!("{reason}: {consequence}"));
    }
}
