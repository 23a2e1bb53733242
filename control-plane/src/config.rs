//! What a replica serves, and how far the nodes that are connected to it are: as its pages say it, and as `weft`
//! reads them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use weft_model::Change;
use weft_xds::{
    codec::{Encoded, ResourceType, encode},
    delta::Resources,
};

/// From a resource's name to its version: a hash of its content, so the same in each replica.
pub type Versions = BTreeMap<String, String>;

/// All resources: page `/debug/config`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Counts up in each replica on its own.
    pub generation: u64,
    pub addresses: Versions,
    pub authorizations: Versions,
}

/// The connected nodes: page `/debug/nodes`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connected {
    /// Of what is served.
    pub generation: u64,
    pub nodes: BTreeMap<String, Applied>,
}

/// How far a node is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// The generation up to which it has answered; none before it has asked for anything.
    pub answered: Option<u64>,
    /// The names of the resources that it has refused, in the form that they have.
    pub refused: Vec<String>,
}

impl Config {
    pub(crate) fn of(resources: &Resources) -> Self {
        let of = |kind| resources.iter(kind).map(|it| versioned(it)).collect();
        Self {
            generation: resources.generation(),
            addresses: of(ResourceType::Address),
            authorizations: of(ResourceType::Authorization),
        }
    }

    /// What a control plane that served these would say, whatever its generation.
    pub fn of_changes(changes: &[Change]) -> Self {
        let mut config = Self::default();
        for encoded in changes.iter().filter_map(encode) {
            let (name, version) = versioned(&encoded);
            match encoded.kind {
                ResourceType::Address => config.addresses.insert(name, version),
                ResourceType::Authorization => config.authorizations.insert(name, version),
            };
        }
        config
    }
}

fn versioned(encoded: &Encoded) -> (String, String) {
    (encoded.name.to_string(), encoded.version.to_string())
}

#[cfg(test)]
mod tests;
