//! One type's half of a stream: what is wanted, what was sent, what is under way.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use imbl::ordmap::DiffItem;

pub(super) use crate::delta::resources::ByName;
use crate::{
    codec::{Encoded, ResourceType},
    delta::Resources,
    proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
};

const WILDCARD: &str = "*";

#[derive(Debug, Default)]
pub(super) struct Subscription {
    pub(super) interest: Interest,
    /// What was asked for by name; it counts when the interest is `Named`.
    names: BTreeSet<Arc<str>>,
    /// What the client holds once it has taken what is under way.
    sent: ByName,
    pub(super) under_way: Option<UnderWay>,
    /// Every first request is answered, if with nothing: the client is not ready before.
    first_answer: FirstAnswer,
    /// Names that were asked for and are not there: the client waits to hear so.
    absent: BTreeSet<Arc<str>>,
    /// The generation up to which all that was asked for has been sent and answered.
    pub(super) answered: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Interest {
    #[default]
    Unasked,
    Everything,
    Named,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum FirstAnswer {
    #[default]
    Due,
    Sent,
}

#[derive(Debug)]
pub(super) struct UnderWay {
    nonce: String,
    is: Ack,
}

/// What an answer to a response says that the client has.
#[derive(Debug)]
pub(super) struct Ack {
    pub(super) generation: u64,
    /// What was put by it, and what was removed.
    pub(super) put: Vec<Arc<str>>,
    pub(super) removed: Vec<Arc<str>>,
    /// All policies at that generation.
    pub(super) policies: ByName,
}

/// What a response would say.
#[derive(Debug)]
pub(super) struct Next {
    wanted: ByName,
    puts: Vec<Arc<Encoded>>,
    gone: Vec<Arc<str>>,
    held_back: Vec<Arc<str>>,
    first: FirstAnswer,
}

impl Next {
    /// Holds removals of these back.
    pub(super) fn keep(&mut self, needed: &ByName) {
        let (held_back, gone) =
            self.gone.drain(..).partition(|name: &Arc<str>| needed.contains_key(name));
        (self.held_back, self.gone) = (held_back, gone);
    }

    pub(super) fn adds(&self) -> bool {
        !self.puts.is_empty()
    }

    pub(super) fn says_something(&self) -> bool {
        self.adds() || !self.gone.is_empty() || self.first == FirstAnswer::Due
    }
}

impl Subscription {
    /// The first request of a type on a stream.
    pub(super) fn begin(
        &mut self,
        kind: ResourceType,
        request: DeltaDiscoveryRequest,
        now: &Resources,
    ) {
        let has = |list: &[String]| list.iter().any(|name| name == WILDCARD);
        // No name at all is how a wildcard was said before there was a name for it.
        let everything =
            request.resource_names_subscribe.is_empty() || has(&request.resource_names_subscribe);
        self.interest = if everything && !has(&request.resource_names_unsubscribe) {
            Interest::Everything
        } else {
            Interest::Named
        };
        let asked = named(&request.resource_names_subscribe);
        self.names.extend(asked);
        for (name, version) in request.initial_resource_versions {
            let name: Arc<str> = name.into();
            let held = match now.get(kind, &name) {
                Some(same) if *same.version == *version => same.clone(),
                Some(_) | None => Arc::new(claimed(kind, &name, &version)),
            };
            self.sent.insert(name.clone(), held);
            if self.interest == Interest::Named {
                self.names.insert(name);
            }
        }
        let absent = self.names.iter().filter(|name| now.asked(kind, name).is_empty());
        self.absent = absent.filter(|name| !self.sent.contains_key(*name)).cloned().collect();
    }

    /// Later subscribing and unsubscribing. `None` when the request says neither.
    pub(super) fn change_interest(
        &mut self,
        kind: ResourceType,
        request: &DeltaDiscoveryRequest,
        now: &Resources,
    ) -> Option<()> {
        let subscribed = &request.resource_names_subscribe;
        let unsubscribed = &request.resource_names_unsubscribe;
        if subscribed.is_empty() && unsubscribed.is_empty() {
            return None;
        }
        if subscribed.iter().any(|name| name == WILDCARD) {
            self.interest = Interest::Everything;
        }
        if unsubscribed.iter().any(|name| name == WILDCARD) {
            self.interest = Interest::Named;
        }
        for name in named(unsubscribed) {
            self.names.remove(&name);
            self.absent.remove(&name);
            // The client has forgotten it. If something else still calls for it, it is sent again.
            for resource in now.asked(kind, &name) {
                self.sent.remove(&resource.name);
            }
            self.sent.remove(&name);
        }
        for name in named(subscribed) {
            let found = now.asked(kind, &name);
            if found.is_empty() {
                self.absent.insert(name.clone());
            }
            // Who subscribes again has lost it.
            for resource in found {
                self.sent.remove(&resource.name);
            }
            self.names.insert(name);
        }
        Some(())
    }

    /// Takes the answer to the response under way; `None` if it answers another.
    pub(super) fn answer(&mut self, nonce: &str) -> Option<Ack> {
        let under_way = self.under_way.take_if(|sent| sent.nonce == nonce)?;
        self.answered = under_way.is.generation;
        Some(under_way.is)
    }

    /// What the client lacks, or has too much; `None` when there is nothing to say.
    pub(super) fn pending(
        &self,
        kind: ResourceType,
        now: &Resources,
        node: &Arc<str>,
    ) -> Option<Next> {
        let wanted = match self.interest {
            Interest::Unasked => return None,
            Interest::Everything => now.of(kind).clone(),
            Interest::Named => self.wanted_by_name(kind, now, node),
        };
        let (mut puts, mut gone) = (Vec::new(), Vec::new());
        for item in self.sent.diff(&wanted) {
            match item {
                DiffItem::Add(_, new) | DiffItem::Update { new: (_, new), .. } => {
                    puts.push(new.clone());
                }
                DiffItem::Remove(name, _) => gone.push(name.clone()),
            }
        }
        gone.extend(self.absent.iter().cloned());
        let next = Next { wanted, puts, gone, held_back: Vec::new(), first: self.first_answer };
        next.says_something().then_some(next)
    }

    fn wanted_by_name(&self, kind: ResourceType, now: &Resources, node: &Arc<str>) -> ByName {
        let own = match kind {
            ResourceType::Address if !node.is_empty() => now.on_node(node),
            ResourceType::Address | ResourceType::Authorization => Vec::new(),
        };
        let asked = self.names.iter().flat_map(|name| now.asked(kind, name));
        asked.chain(own).map(|resource| (resource.name.clone(), resource)).collect()
    }

    /// Makes the response, and takes note that it is under way.
    pub(super) fn send(
        &mut self,
        kind: ResourceType,
        next: Next,
        nonce: String,
        now: &Resources,
    ) -> DeltaDiscoveryResponse {
        debug_assert!(self.under_way.is_none(), "one response per type at a time");
        let mut sent = next.wanted;
        for name in next.held_back {
            if let Some(still) = self.sent.get(&name) {
                sent.insert(name, still.clone());
            }
        }
        self.sent = sent;
        self.absent.clear();
        self.first_answer = FirstAnswer::Sent;
        let policies = now.of(ResourceType::Authorization).clone();
        let put = next.puts.iter().map(|resource| resource.name.clone()).collect();
        let is = Ack { generation: now.generation(), put, removed: next.gone.clone(), policies };
        self.under_way = Some(UnderWay { nonce: nonce.clone(), is });
        DeltaDiscoveryResponse {
            system_version_info: now.generation().to_string(),
            resources: next.puts.iter().map(|resource| resource.wire.clone()).collect(),
            type_url: kind.type_url().to_owned(),
            nonce,
            removed_resources: next.gone.iter().map(ToString::to_string).collect(),
        }
    }
}

fn named(names: &[String]) -> impl Iterator<Item = Arc<str>> + '_ {
    names.iter().filter(|name| *name != WILDCARD).map(|name| name.as_str().into())
}

/// What a client says it holds and we do not: it differs from anything that we could send.
fn claimed(kind: ResourceType, name: &Arc<str>, version: &str) -> Encoded {
    Encoded {
        kind,
        name: name.clone(),
        aliases: Box::default(),
        services: Box::default(),
        node: Arc::default(),
        version: version.into(),
        wire: Bytes::new(),
    }
}
