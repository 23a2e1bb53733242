//! Between bytes and the model's valid values, both ways.
//!
//! Decoding fails closed: an enum value, address, prefix, port or name that is not understood refuses the
//! resource, and the error names resource, field and value. Nothing is repaired but what the wire defines as
//! a default. The one exception are `subject_alt_names` that name no Kubernetes service account: they are
//! skipped, as the contract says, since each could only widen whom a client accepts.
//!
//! Encoding is deterministic: equal values give equal bytes, and the version is their hash.

mod encoded;
mod error;
mod policy;
mod service;
mod wire;
mod workload;

use std::sync::Arc;

use prost::Message;
use weft_model::{Action, Authorization, Change, PolicyName, ResourceKey, Rule, Scope};

use crate::proto;

pub use encoded::Encoded;
pub use error::{DecodeError, Problem};
pub(crate) use policy::authorization_body;
pub use policy::encode_authorization;
pub use service::encode_service;
pub use workload::encode_workload;

/// The two types that a workload proxy subscribes to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum ResourceType {
    /// Workloads and services.
    Address,
    /// Policies.
    Authorization,
}

impl ResourceType {
    pub const ALL: [Self; 2] = [Self::Authorization, Self::Address];

    pub fn type_url(self) -> &'static str {
        match self {
            Self::Address => "type.googleapis.com/istio.workload.Address",
            Self::Authorization => "type.googleapis.com/istio.security.Authorization",
        }
    }

    pub fn from_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }
}

/// Decodes the body of a resource of either type.
pub fn decode(kind: ResourceType, body: &[u8]) -> Result<Change, DecodeError> {
    match kind {
        ResourceType::Address => decode_address(body),
        ResourceType::Authorization => decode_authorization(body),
    }
}

/// Decodes an `istio.workload.Address`: a workload or a service.
pub fn decode_address(body: &[u8]) -> Result<Change, DecodeError> {
    use proto::workload::address::Type;
    let address = proto::workload::Address::decode(body).map_err(DecodeError::not_protobuf)?;
    match address.r#type {
        Some(Type::Workload(workload)) => {
            workload::decode(workload).map(|w| Change::Workload(Arc::new(w)))
        }
        Some(Type::Service(service)) => {
            service::decode(service).map(|s| Change::Service(Arc::new(s)))
        }
        None => Err(DecodeError::new("address", "type", Problem::Missing)),
    }
}

/// Decodes an `istio.security.Authorization`.
pub fn decode_authorization(body: &[u8]) -> Result<Change, DecodeError> {
    let message =
        proto::security::Authorization::decode(body).map_err(DecodeError::not_protobuf)?;
    // A condition newer than us is dropped by the decoder, and what is left would match more than was meant
    // (CVE-2022-21679). Re-encoding is then shorter.
    let unread = body.len().saturating_sub(message.encoded_len());
    policy::decode(&message, unread).map(|p| Change::Policy(Arc::new(p)))
}

/// The type and name under which a resource goes on the wire.
pub fn wire_name(key: &ResourceKey) -> (ResourceType, Arc<str>) {
    match key {
        ResourceKey::Workload(uid) => (ResourceType::Address, uid.as_str().into()),
        ResourceKey::Service(name) => (ResourceType::Address, name.to_string().into()),
        ResourceKey::Policy(name) => (ResourceType::Authorization, name.to_string().into()),
    }
}

/// Encodes what a change puts; `None` for a removal.
pub fn encode(change: &Change) -> Option<Encoded> {
    match change {
        Change::Workload(workload) => Some(encode_workload(workload)),
        Change::Service(service) => Some(encode_service(service)),
        Change::Policy(policy) => Some(encode_authorization(policy)),
        Change::Remove(_) => None,
    }
}

/// What stands in for a policy that cannot be decoded and of which no earlier form is known: it denies
/// everything that the policy could have governed. Without it, a DENY that we cannot read would allow.
///
/// `None` when nothing needs to stand in: a policy that workloads list by name denies by being unknown, and
/// one that is only tried out was never enforced.
pub fn stand_in(name: &PolicyName, body: &[u8]) -> Option<Authorization> {
    let named = |m: &proto::security::Authorization| {
        m.namespace == name.namespace() && m.name == name.name()
    };
    let scope = match proto::security::Authorization::decode(body) {
        Ok(policy) if named(&policy) => match proto::security::Scope::try_from(policy.scope) {
            _ if policy.dry_run => return None,
            Ok(proto::security::Scope::Global) => Scope::Global,
            Ok(proto::security::Scope::WorkloadSelector) => return None,
            Ok(proto::security::Scope::Namespace) | Err(_) => Scope::Namespace,
        },
        // What it says of itself cannot be believed.
        Ok(_) | Err(_) => Scope::Namespace,
    };
    let everything = vec![Rule::default()];
    Some(Authorization {
        name: name.clone(),
        scope,
        action: Action::Deny,
        rules: everything,
        dry_run: false,
    })
}

#[cfg(test)]
mod tests;
