//! What things are called. Each name is parsed once, at the edge, and valid from then on.

use std::{borrow::Borrow, fmt, net::Ipv4Addr, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a name was refused. Not transient: the same text is refused again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("{kind} is empty")]
    Empty { kind: &'static str },
    #[error("{kind} `{value}` is longer than {max} bytes")]
    TooLong { kind: &'static str, value: String, max: usize },
    #[error("{kind} `{value}` contains {bad:?}")]
    BadCharacter { kind: &'static str, value: String, bad: char },
    #[error("hostname `{value}` is an address")]
    IsAddress { value: String },
    #[error("`{value}` is not a SPIFFE ID: {reason}")]
    NotSpiffe { value: String, reason: String },
    #[error(
        "SPIFFE ID `{value}` is not of the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>"
    )]
    NotKubernetes { value: String },
    #[error("`{value}` is not of the form <namespace>/<name>")]
    NotNamespaced { value: String },
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, max = $max:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub(crate) Arc<str>);

        impl $name {
            pub fn new(value: &str) -> Result<Self, NameError> {
                check($kind, value, $max, $check)?;
                Ok(Self(value.into()))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(value: &str) -> Result<Self, NameError> {
                Self::new(value)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = String::deserialize(d)?;
                Self::new(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

fn check(
    kind: &'static str,
    value: &str,
    max: usize,
    allowed: fn(char) -> bool,
) -> Result<(), NameError> {
    if value.is_empty() {
        return Err(NameError::Empty { kind });
    }
    if value.len() > max {
        let head = value.chars().take(64).collect();
        return Err(NameError::TooLong { kind, value: head, max });
    }
    match value.chars().find(|c| !allowed(*c)) {
        Some(bad) => {
            Err(NameError::BadCharacter { kind, value: value.escape_debug().to_string(), bad })
        }
        None => Ok(()),
    }
}

fn label(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'
}
fn subdomain(c: char) -> bool {
    label(c) || c == '.'
}
fn printable(c: char) -> bool {
    c.is_ascii_graphic()
}

name!(
    /// A Kubernetes namespace (an RFC 1123 label).
    Namespace, "namespace", max = 63, label);
name!(
    /// A Kubernetes service account's name (an RFC 1123 subdomain).
    ServiceAccountName, "service account", max = 253, subdomain);
name!(
    /// What a service calls one of its ports (an RFC 1123 label).
    PortName, "port name", max = 63, label);
name!(
    /// What tells one workload from another, for example `Kubernetes//Pod/shop/web-0`.
    WorkloadUid, "workload uid", max = 1024, printable);

impl From<WorkloadUid> for Arc<str> {
    /// The same text, not a copy of it.
    fn from(uid: WorkloadUid) -> Self {
        uid.0
    }
}

/// A network in which addresses are unique. The default network's name is empty.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Network(pub(crate) Arc<str>);

impl Network {
    pub fn new(value: &str) -> Result<Self, NameError> {
        if !value.is_empty() {
            check("network", value, 253, printable)?;
        }
        Ok(Self(value.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Network {
    fn default() -> Self {
        Self("".into())
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A fully qualified DNS name in lower case, without the final dot; its first label may be `*`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize)]
#[serde(transparent)]
pub struct Hostname(pub(crate) Arc<str>);

impl Hostname {
    /// Takes upper case and a final dot, as DNS does (RFC 4343), and stores neither.
    pub fn new(value: &str) -> Result<Self, NameError> {
        let value = value.strip_suffix('.').unwrap_or(value).to_ascii_lowercase();
        let rest = value.strip_prefix("*.").unwrap_or(&value);
        // Underscores are not legal in host names but SRV owners and some ServiceEntries carry them.
        check("hostname", rest, 253, |c| subdomain(c) || c == '_')?;
        // RFC 1035 2.3.4: a label has 1 to 63 bytes.
        for label in rest.split('.') {
            check("a hostname's label", label, 63, |_| true)?;
        }
        // Without its final dot it would be read back as an address: two meanings of one text.
        if rest.parse::<Ipv4Addr>().is_ok() {
            return Err(NameError::IsAddress { value });
        }
        Ok(Self(value.as_str().into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Hostname {
    type Err = NameError;
    fn from_str(value: &str) -> Result<Self, NameError> {
        Self::new(value)
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Hostname {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        Self::new(&text).map_err(serde::de::Error::custom)
    }
}

/// A service's key: `<namespace>/<hostname>`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ServiceName {
    pub namespace: Namespace,
    pub hostname: Hostname,
}

impl FromStr for ServiceName {
    type Err = NameError;
    fn from_str(value: &str) -> Result<Self, NameError> {
        let (namespace, hostname) = split_namespaced(value)?;
        Ok(Self { namespace: Namespace::new(namespace)?, hostname: Hostname::new(hostname)? })
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.hostname)
    }
}

/// A policy's key: `<namespace>/<name>`. The namespace is empty for a policy of the whole mesh.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PolicyName {
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
}

impl PolicyName {
    pub fn new(namespace: &str, name: &str) -> Result<Self, NameError> {
        if !namespace.is_empty() {
            check("namespace", namespace, 63, label)?;
        }
        check("policy name", name, 253, printable)?;
        Ok(Self { namespace: namespace.into(), name: name.into() })
    }

    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    pub fn name(&self) -> &str {
        &self.name
    }
}

impl FromStr for PolicyName {
    type Err = NameError;
    fn from_str(value: &str) -> Result<Self, NameError> {
        let (namespace, name) = split_namespaced(value)?;
        Self::new(namespace, name)
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

fn split_namespaced(value: &str) -> Result<(&str, &str), NameError> {
    value
        .split_once('/')
        .ok_or_else(|| NameError::NotNamespaced { value: value.escape_debug().to_string() })
}

macro_rules! serde_by_text {
    ($($name:ty),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = String::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
serde_by_text!(ServiceName, PolicyName, Identity, TrustDomain);

/// A SPIFFE trust domain. SPIFFE-ID 2.1: at most 255 bytes of `a-z 0-9 . - _`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct TrustDomain(pub(crate) Arc<str>);

impl TrustDomain {
    /// Takes a name, never a whole SPIFFE ID.
    pub fn new(value: &str) -> Result<Self, NameError> {
        let name = |c: char| subdomain(c) || c == '_';
        check("trust domain", value, 255, name)?;
        Ok(Self(value.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TrustDomain {
    /// `cluster.local`, what an empty trust domain means on Istio's wire.
    fn default() -> Self {
        Self("cluster.local".into())
    }
}

impl FromStr for TrustDomain {
    type Err = NameError;
    fn from_str(value: &str) -> Result<Self, NameError> {
        Self::new(value)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who a workload is: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
///
/// Holding one says what a name is, not that a peer proved it: see `ztunnel_core::Peer`.
/// Cheap to clone (one reference count).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity(Arc<IdentityParts>);

#[derive(PartialEq, Eq, Hash, PartialOrd, Ord)]
struct IdentityParts {
    trust_domain: TrustDomain,
    namespace: Namespace,
    service_account: ServiceAccountName,
    /// The whole ID without `spiffe://`, as policies spell principals.
    principal: Box<str>,
}

impl Identity {
    pub fn new(
        trust_domain: TrustDomain,
        namespace: Namespace,
        service_account: ServiceAccountName,
    ) -> Self {
        let principal = format!("{trust_domain}/ns/{namespace}/sa/{service_account}").into();
        Self(Arc::new(IdentityParts { trust_domain, namespace, service_account, principal }))
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        &self.0.trust_domain
    }

    pub fn namespace(&self) -> &Namespace {
        &self.0.namespace
    }

    pub fn service_account(&self) -> &ServiceAccountName {
        &self.0.service_account
    }

    /// The SPIFFE ID without its scheme, as an `AuthorizationPolicy` spells a principal.
    pub fn principal(&self) -> &str {
        &self.0.principal
    }
}

impl FromStr for Identity {
    type Err = NameError;

    /// Strict: the SPIFFE grammar first (no port, query, percent-encoding or empty segment), then exactly
    /// the four Kubernetes segments.
    fn from_str(value: &str) -> Result<Self, NameError> {
        let id = spiffe::SpiffeId::new(value).map_err(|e| NameError::NotSpiffe {
            value: value.chars().take(256).collect::<String>().escape_debug().to_string(),
            reason: e.to_string(),
        })?;
        let other = || NameError::NotKubernetes { value: value.to_owned() };
        // The crate takes any case of the scheme (RFC 3986 3.1); policies compare bytes, so we take one.
        if !value.starts_with("spiffe://") {
            return Err(other());
        }
        let mut path = id.path().split('/').skip(1);
        let mut next = || path.next().ok_or_else(other);
        let (ns, namespace, sa, account) = (next()?, next()?, next()?, next()?);
        if ns != "ns" || sa != "sa" || path.next().is_some() {
            return Err(other());
        }
        Ok(Self::new(
            TrustDomain::new(id.trust_domain_name())?,
            Namespace::new(namespace)?,
            ServiceAccountName::new(account)?,
        ))
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}", self.0.principal)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

#[cfg(test)]
mod tests;
