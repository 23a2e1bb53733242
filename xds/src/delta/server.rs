//! What one subscriber was sent, and what it is sent next.

mod refusals;
mod subscription;

use std::sync::Arc;

use crate::{
    codec::ResourceType,
    delta::Resources,
    proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node},
};
pub use refusals::Refusals;
use subscription::{Ack, ByName, Interest, Subscription};

/// One stream's server side. Feed it requests, and call [`Server::advance`] after each and whenever the
/// resources changed; send what it returns, in order.
///
/// Policies come before the workloads that list them and go after those that did, so that no workload ever
/// lists one that the client does not know (which would deny, and cut live connections).
#[derive(Debug, Default)]
pub struct Server {
    node: Option<Node>,
    node_name: Arc<str>,
    nonces: u64,
    addresses: Subscription,
    policies: Subscription,
    /// The policies when the addresses that the client has acknowledged were current: a policy that is not
    /// among them is listed by no workload that the client knows.
    settled: ByName,
    refusals: Refusals,
}

/// What a request meant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Heard {
    /// An interest was declared or changed.
    Subscribed(ResourceType),
    /// The client has applied everything up to this generation of [`Resources`].
    Acknowledged { kind: ResourceType, generation: u64 },
    /// The client could not take some of it. It is not sent again until it changes.
    Refused { kind: ResourceType, generation: u64, message: String },
    /// The answer to a response that is not under way. Nothing was done about it.
    Stale(ResourceType),
    /// A type that we do not serve. Nothing was done about it.
    Unsupported { type_url: String },
}

impl Server {
    pub fn new() -> Self {
        Self::default()
    }

    /// Who subscribes, once it has said so.
    pub fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    /// The generation up to which the client has been sent, and has answered, all that it has asked for. `None`
    /// before it asks for anything.
    pub fn answered(&self) -> Option<u64> {
        let asked = [&self.addresses, &self.policies];
        let asked = asked.into_iter().filter(|of| of.interest != Interest::Unasked);
        asked.map(|of| of.answered).min()
    }

    /// What the client has refused and was not sent otherwise since.
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Takes one request. What it calls for is returned by the next [`Server::advance`].
    pub fn request(&mut self, request: DeltaDiscoveryRequest, now: &Resources) -> Heard {
        if let Some(node) = &request.node {
            self.introduce(node.clone());
        }
        let Some(kind) = ResourceType::from_type_url(&request.type_url) else {
            return Heard::Unsupported { type_url: request.type_url };
        };
        let subscription = match kind {
            ResourceType::Address => &mut self.addresses,
            ResourceType::Authorization => &mut self.policies,
        };
        if subscription.interest == Interest::Unasked {
            subscription.begin(kind, request, now);
            return Heard::Subscribed(kind);
        }
        // A change of interest counts whatever the nonce: dropping it would lose the names for ever.
        let changed = subscription.change_interest(kind, &request, now);
        if request.response_nonce.is_empty() {
            return changed.map_or(Heard::Stale(kind), |()| Heard::Subscribed(kind));
        }
        let Some(Ack { generation, policies, put, removed }) =
            subscription.answer(&request.response_nonce)
        else {
            return changed.map_or(Heard::Stale(kind), |()| Heard::Subscribed(kind));
        };
        if kind == ResourceType::Address {
            self.settled = policies;
        }
        let message = request.error_detail.as_ref().map(|status| status.message.as_str());
        self.refusals.note(kind, put, removed, message);
        match request.error_detail {
            None => Heard::Acknowledged { kind, generation },
            Some(status) => Heard::Refused { kind, generation, message: status.message },
        }
    }

    /// What to send now: at most one response per type.
    pub fn advance(&mut self, now: &Resources) -> Vec<DeltaDiscoveryResponse> {
        let mut responses = Vec::new();
        let addresses = self.addresses.pending(ResourceType::Address, now, &self.node_name);
        if addresses.is_none() && self.addresses.under_way.is_none() {
            self.settled = now.of(ResourceType::Authorization).clone();
        }

        let policies = self.policies.pending(ResourceType::Authorization, now, &self.node_name);
        let mut policies_behind = false;
        if let Some(mut next) = policies {
            next.keep(&self.settled);
            if self.policies.under_way.is_some() {
                policies_behind = next.adds();
            } else if next.says_something() {
                let nonce = self.nonce();
                responses.push(self.policies.send(ResourceType::Authorization, next, nonce, now));
            }
        }

        let mut addresses_wait = false;
        if let Some(next) = addresses
            && self.addresses.under_way.is_none()
        {
            addresses_wait = policies_behind;
            if !policies_behind {
                let nonce = self.nonce();
                responses.push(self.addresses.send(ResourceType::Address, next, nonce, now));
            }
        }
        // What is not under way by now has nothing to say: the client holds it.
        for (of, waits) in [(&mut self.addresses, addresses_wait), (&mut self.policies, false)] {
            if of.under_way.is_none() && of.interest != Interest::Unasked && !waits {
                of.answered = now.generation();
            }
        }
        responses
    }

    fn introduce(&mut self, node: Node) {
        let name = node.metadata.as_ref().and_then(|m| m.fields.get("NODE_NAME"));
        if let Some(prost_types::value::Kind::StringValue(name)) =
            name.and_then(|value| value.kind.as_ref())
        {
            self.node_name = name.as_str().into();
        }
        self.node = Some(node);
    }

    fn nonce(&mut self) -> String {
        self.nonces += 1;
        self.nonces.to_string()
    }
}

#[cfg(test)]
mod tests;
