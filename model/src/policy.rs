//! Who may call whom at layer 4. Data only; `ztunnel-core` evaluates it.

use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{Namespace, PolicyName, ServiceAccountName};

/// One authorization policy: it matches when any of its rules does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Authorization {
    pub name: PolicyName,
    pub scope: Scope,
    pub action: Action,
    /// No rule: never matches. (An ALLOW without rules therefore allows nothing.)
    pub rules: Vec<Rule>,
    /// Evaluated and logged, never enforced.
    pub dry_run: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Scope {
    Global,
    /// All workloads of the policy's namespace.
    Namespace,
    /// The workloads that list it in `Workload::policies`.
    #[serde(rename = "WorkloadSelector")]
    Workload,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Action {
    Allow,
    Deny,
}

/// Matches when all clauses match; without clauses it matches everything.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rule {
    pub clauses: Vec<Clause>,
}

/// Matches when any match does; without matches it matches everything.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Clause {
    pub matches: Vec<Match>,
}

/// Matches when every attribute that says something is satisfied; one that says nothing at all does not match.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Match {
    pub namespaces: Field<StringMatch>,
    pub principals: Field<StringMatch>,
    pub service_accounts: Field<ServiceAccountMatch>,
    pub source_ips: Field<IpNet>,
    pub destination_ips: Field<IpNet>,
    pub destination_ports: Field<u16>,
}

impl Match {
    pub fn is_empty(&self) -> bool {
        self.namespaces.is_empty()
            && self.principals.is_empty()
            && self.service_accounts.is_empty()
            && self.source_ips.is_empty()
            && self.destination_ips.is_empty()
            && self.destination_ports.is_empty()
    }
}

/// Satisfied when any of `any_of` matches (or it is empty) and none of `none_of` does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Field<T> {
    pub any_of: Vec<T>,
    pub none_of: Vec<T>,
}

impl<T> Field<T> {
    pub fn any_of(values: impl IntoIterator<Item = T>) -> Self {
        Self { any_of: values.into_iter().collect(), none_of: Vec::new() }
    }

    pub fn none_of(values: impl IntoIterator<Item = T>) -> Self {
        Self { any_of: Vec::new(), none_of: values.into_iter().collect() }
    }

    pub fn is_empty(&self) -> bool {
        self.any_of.is_empty() && self.none_of.is_empty()
    }
}

// By hand: the derive would ask for `T: Default`.
impl<T> Default for Field<T> {
    fn default() -> Self {
        Self { any_of: Vec::new(), none_of: Vec::new() }
    }
}

/// How a policy names a text. A principal is compared without `spiffe://`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StringMatch {
    Exact(Arc<str>),
    Prefix(Arc<str>),
    Suffix(Arc<str>),
    /// Any text but the empty one.
    Presence,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceAccountMatch {
    pub namespace: Namespace,
    pub service_account: ServiceAccountName,
}
