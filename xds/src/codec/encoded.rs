//! A resource as it goes on the wire, made once for all who subscribe to it.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use xxhash_rust::xxh64::xxh64;

use super::ResourceType;
use crate::proto::discovery;

/// One resource, encoded. Equal when the version is: it is a hash of the content.
#[derive(Clone, Debug)]
pub struct Encoded {
    pub kind: ResourceType,
    /// A workload's uid, `namespace/hostname` of a service, `namespace/name` of a policy.
    pub name: Arc<str>,
    /// Other keys by which it may be asked for: `network/ip`, `network/ip/length`.
    pub aliases: Box<[Arc<str>]>,
    /// The names of the services of which it is an endpoint: who asks for one of them is sent this too.
    pub services: Box<[Arc<str>]>,
    /// The node that it runs on, or empty: the node's proxy is sent it unasked.
    pub node: Arc<str>,
    pub version: Arc<str>,
    /// The `discovery.Resource` around it, shared by all responses that carry it.
    pub wire: Bytes,
}

impl PartialEq for Encoded {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind && self.name == other.name && self.version == other.version
    }
}

impl Eq for Encoded {}

/// Where a resource is found besides under its name.
#[derive(Default)]
pub(super) struct FoundBy {
    pub(super) aliases: Vec<String>,
    pub(super) services: Vec<String>,
    pub(super) node: Arc<str>,
}

impl Encoded {
    pub(super) fn new(
        kind: ResourceType,
        name: String,
        body: &impl Message,
        found_by: FoundBy,
    ) -> Self {
        let body = body.encode_to_vec();
        let version = format!("{:016x}", xxh64(&body, 0));
        let resource = discovery::Resource {
            version: version.clone(),
            resource: Some(prost_types::Any { type_url: kind.type_url().to_owned(), value: body }),
            name: name.clone(),
            aliases: found_by.aliases.clone(),
            ttl: None,
            cache_control: None,
        };
        let shared = |texts: Vec<String>| texts.into_iter().map(Arc::from).collect();
        Self {
            kind,
            name: name.into(),
            aliases: shared(found_by.aliases),
            services: shared(found_by.services),
            node: found_by.node,
            version: version.into(),
            wire: resource.encode_to_vec().into(),
        }
    }
}
