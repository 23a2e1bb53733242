//! What the policies say about one connection.
//!
//! Istio's semantics for layer 4 (wire contract 7.1): any DENY that matches refuses; then, if there are ALLOW
//! policies, one of them must match. A dry-run policy decides nothing, but what it would decide is told.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use smallvec::SmallVec;
use weft_model::{
    Action, Authorization, Clause, Field, Match, PolicyName, Rule, ServiceAccountMatch, StringMatch,
};

use crate::{Peer, trace::Trace};

/// Why a connection is permitted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ground {
    /// No ALLOW policy governs the destination.
    Open,
    /// An ALLOW policy matched.
    Matched { policy: PolicyName, rule: usize },
    /// The node of the destination decides, where nobody can get around it.
    Elsewhere,
}

/// Why it is not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Denial {
    /// A DENY policy matched.
    Matched { policy: PolicyName, rule: usize },
    /// ALLOW policies govern the destination and none of them matched.
    NothingAllows { policies: Vec<PolicyName> },
    /// The destination lists a policy that is not known, so what it would deny cannot be told.
    UnknownPolicy { policy: PolicyName },
}

/// What a policy may look at. The identity is the proven one or none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    pub(crate) peer: &'a Peer,
    pub(crate) source: IpAddr,
    pub(crate) destination: SocketAddr,
}

pub(crate) struct Judgement {
    pub(crate) verdict: Result<Ground, Denial>,
    /// What the verdict would be if the dry-run policies were enforced; `None` when it would be the same
    /// or more permissive.
    pub(crate) dry_run: Option<Denial>,
}

/// Evaluates every policy, in the order given: the first match of each action is the one that is named.
pub(crate) fn judge<'a>(
    policies: impl Iterator<Item = Result<&'a Arc<Authorization>, &'a PolicyName>>,
    request: Request<'_>,
    trace: &mut impl Trace,
) -> Judgement {
    let mut enforced = Tally::default();
    let mut rehearsed = Tally::default();
    let mut rehearsing = false;
    for policy in policies {
        match policy {
            Err(name) => {
                trace.unknown_policy(name);
                enforced.unknown.get_or_insert(name);
                rehearsed.unknown.get_or_insert(name);
            }
            Ok(policy) => {
                let rule = policy.rules.iter().position(|rule| rule_matches(rule, request));
                trace.policy(policy, rule);
                rehearsed.count(policy, rule);
                if policy.dry_run {
                    rehearsing = true;
                } else {
                    enforced.count(policy, rule);
                }
            }
        }
    }
    let verdict = enforced.verdict();
    let dry_run = if rehearsing && verdict.is_ok() { rehearsed.verdict().err() } else { None };
    Judgement { verdict, dry_run }
}

#[derive(Default)]
struct Tally<'a> {
    denied: Option<(&'a PolicyName, usize)>,
    unknown: Option<&'a PolicyName>,
    allowed: Option<(&'a PolicyName, usize)>,
    allows: SmallVec<[&'a PolicyName; 4]>,
}

impl<'a> Tally<'a> {
    fn count(&mut self, policy: &'a Authorization, rule: Option<usize>) {
        let found = rule.map(|rule| (&policy.name, rule));
        match policy.action {
            Action::Deny => self.denied = self.denied.or(found),
            Action::Allow => {
                self.allows.push(&policy.name);
                self.allowed = self.allowed.or(found);
            }
        }
    }

    fn verdict(&self) -> Result<Ground, Denial> {
        if let Some((policy, rule)) = self.denied {
            return Err(Denial::Matched { policy: policy.clone(), rule });
        }
        if let Some(policy) = self.unknown {
            return Err(Denial::UnknownPolicy { policy: policy.clone() });
        }
        if let Some((policy, rule)) = self.allowed {
            return Ok(Ground::Matched { policy: policy.clone(), rule });
        }
        if self.allows.is_empty() {
            return Ok(Ground::Open);
        }
        let policies = self.allows.iter().map(|name| (*name).clone()).collect();
        Err(Denial::NothingAllows { policies })
    }
}

fn rule_matches(rule: &Rule, request: Request<'_>) -> bool {
    rule.clauses.iter().all(|clause| clause_matches(clause, request))
}

fn clause_matches(clause: &Clause, request: Request<'_>) -> bool {
    clause.matches.is_empty() || clause.matches.iter().any(|m| match_matches(m, request))
}

fn match_matches(m: &Match, request: Request<'_>) -> bool {
    let identity = request.peer.identity();
    // A peer without identity has the empty text for a principal and a namespace, as in ztunnel: then a
    // `not` of anything matches it, which is what STRICT (DENY unless a principal is present) relies on.
    let principal = identity.map_or("", |id| id.principal());
    let namespace = identity.map_or("", |id| id.namespace().as_str());
    let runs_as = |wanted: &ServiceAccountMatch| {
        identity.is_some_and(|id| {
            *id.namespace() == wanted.namespace && *id.service_account() == wanted.service_account
        })
    };
    !m.is_empty()
        && satisfied(&m.namespaces, |wanted| text_matches(wanted, namespace))
        && satisfied(&m.principals, |wanted| text_matches(wanted, principal))
        && satisfied(&m.service_accounts, runs_as)
        && satisfied(&m.source_ips, |range| range.contains(&request.source))
        && satisfied(&m.destination_ips, |range| range.contains(&request.destination.ip()))
        && satisfied(&m.destination_ports, |port| *port == request.destination.port())
}

fn satisfied<T>(field: &Field<T>, holds: impl Fn(&T) -> bool) -> bool {
    (field.any_of.is_empty() || field.any_of.iter().any(&holds))
        && !field.none_of.iter().any(&holds)
}

fn text_matches(wanted: &StringMatch, text: &str) -> bool {
    match wanted {
        StringMatch::Exact(exact) => text == without_scheme(exact),
        StringMatch::Prefix(prefix) => text.starts_with(without_scheme(prefix)),
        StringMatch::Suffix(suffix) => text.ends_with(&**suffix),
        StringMatch::Presence => !text.is_empty(),
    }
}

fn without_scheme(text: &str) -> &str {
    text.strip_prefix("spiffe://").unwrap_or(text)
}

impl fmt::Display for Ground {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("no ALLOW policy governs it and no DENY policy matches"),
            Self::Matched { policy, rule } => write!(f, "allowed by policy {policy} rule {rule}"),
            Self::Elsewhere => f.write_str("the destination's node decides"),
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Matched { policy, rule } => write!(f, "denied by policy {policy} rule {rule}"),
            Self::NothingAllows { policies } => {
                f.write_str("no ALLOW policy matches:")?;
                policies.iter().try_for_each(|name| write!(f, " {name}"))
            }
            Self::UnknownPolicy { policy } => {
                write!(f, "policy {policy} governs it and is not known, so it is denied")
            }
        }
    }
}

#[cfg(test)]
mod tests;
