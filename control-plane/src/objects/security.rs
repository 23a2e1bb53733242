//! AuthorizationPolicy and PeerAuthentication.
//!
//! Unknown fields are refused here: an older reader that skipped a new condition would read a policy as
//! matching more or less than was written (CVE-2022-21679).

use std::{collections::BTreeMap, num::NonZeroU16, sync::Arc};

use serde::Deserialize;

use super::{Labels, ObjectMeta};

/// A policy's body, or that it could not be read. An unreadable policy is kept: it denies on its target.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Spec<T> {
    Read(T),
    Unreadable {
        /// As far as it could be read; `None` means everything in the policy's namespace.
        selector: Option<WorkloadSelector>,
        field: String,
        reason: String,
    },
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuthorizationPolicy {
    pub metadata: ObjectMeta,
    pub spec: Spec<AuthorizationSpec>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerAuthentication {
    pub metadata: ObjectMeta,
    pub spec: Spec<PeerAuthenticationSpec>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct WorkloadSelector {
    #[serde(deserialize_with = "super::meta::selecting")]
    pub match_labels: Labels,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct AuthorizationSpec {
    pub selector: Option<WorkloadSelector>,
    pub target_ref: Option<TargetRef>,
    pub target_refs: Vec<TargetRef>,
    pub rules: Vec<Rule>,
    pub action: Action,
    pub provider: Option<Provider>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Action {
    #[default]
    Allow,
    Deny,
    Audit,
    Custom,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Provider {
    pub name: Arc<str>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct TargetRef {
    pub group: Arc<str>,
    pub kind: Arc<str>,
    pub name: Arc<str>,
    pub namespace: Option<Arc<str>>,
    pub section_name: Option<Arc<str>>,
}

/// `None` means not said (matches all); an empty list is said and is invalid.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rule {
    pub from: Option<Vec<From>>,
    pub to: Option<Vec<To>>,
    pub when: Option<Vec<Condition>>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct From {
    pub source: Source,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct To {
    pub operation: Operation,
}

/// A list of values, as it was said.
pub type Values = Option<Vec<Arc<str>>>;

#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Source {
    pub principals: Values,
    pub not_principals: Values,
    pub request_principals: Values,
    pub not_request_principals: Values,
    pub namespaces: Values,
    pub not_namespaces: Values,
    pub service_accounts: Values,
    pub not_service_accounts: Values,
    pub ip_blocks: Values,
    pub not_ip_blocks: Values,
    pub remote_ip_blocks: Values,
    pub not_remote_ip_blocks: Values,
    pub trust_domains: Values,
    pub not_trust_domains: Values,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Operation {
    pub hosts: Values,
    pub not_hosts: Values,
    pub ports: Values,
    pub not_ports: Values,
    pub methods: Values,
    pub not_methods: Values,
    pub paths: Values,
    pub not_paths: Values,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Condition {
    pub key: Arc<str>,
    pub values: Values,
    pub not_values: Values,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct PeerAuthenticationSpec {
    pub selector: Option<WorkloadSelector>,
    pub mtls: Mtls,
    /// By the port of the workload, not of the service.
    pub port_level_mtls: BTreeMap<NonZeroU16, Mtls>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mtls {
    pub mode: MtlsMode,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum MtlsMode {
    /// As the next wider policy says.
    #[default]
    Unset,
    Disable,
    Permissive,
    Strict,
}
