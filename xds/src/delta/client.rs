//! What a proxy holds, how that follows what it receives, and what it answers.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use prost::Message;
use weft_model::{Authorization, Change, PolicyName, ResourceKey, ServiceName, Texts};

use crate::{
    codec::{self, DecodeError, Problem, ResourceType},
    delta::CUT_OFF,
    proto::{
        discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Resource},
        rpc::Status,
    },
};

/// A client's side of the protocol, over any number of streams.
///
/// Resources are taken one by one: what cannot be decoded is refused by name, and does not keep the others
/// out. Of a refused resource the form that was accepted before stays in force.
#[derive(Debug)]
pub struct Client {
    node: Node,
    addresses: Held,
    policies: Held,
    texts: Texts,
}

/// One type's resources.
#[derive(Debug, Default)]
struct Held {
    entries: HashMap<Arc<str>, Entry>,
    answered: Answered,
}

#[derive(Debug)]
enum Entry {
    /// In force. If `newer_refused`, a later form of it was refused.
    Accepted(Accepted),
    /// Never accepted in any form. `stands_in`: a policy that denies is in force in its place.
    Refused { error: Box<DecodeError>, stands_in: Option<Arc<Authorization>> },
}

/// There are as many as the mesh has workloads: what is seldom there is boxed.
#[derive(Debug)]
struct Accepted {
    kind: KeyKind,
    version: Arc<str>,
    body: Arc<[u8]>,
    newer_refused: Option<Box<DecodeError>>,
}

/// Which kind of key the name of an accepted resource is. It was compared with the key when it was accepted.
#[derive(Clone, Copy, Debug)]
enum KeyKind {
    Workload,
    Service,
    Policy,
}

/// Whether the server has answered for a type.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Answered {
    #[default]
    Never,
    /// On an earlier stream.
    Before,
    OnThisStream,
}

/// A resource as it is kept for the next start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kept {
    pub kind: ResourceType,
    pub name: Arc<str>,
    pub version: Arc<str>,
    /// As received: fields that we do not know survive.
    pub body: Arc<[u8]>,
}

/// What a response came to.
#[derive(Clone, PartialEq, Debug)]
pub struct Received {
    /// To be applied, in order, before `reply` is sent.
    pub changes: Vec<Change>,
    pub reply: DeltaDiscoveryRequest,
    pub refused: Vec<Refused>,
}

/// A resource that was not taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    pub name: Arc<str>,
    pub error: DecodeError,
}

/// A server logs what we answer; names and values in it may be of any length.
const NACK_CHARS_MAX: usize = 4096;

impl Client {
    pub fn new(node: Node) -> Self {
        let (addresses, policies) = (Held::default(), Held::default());
        Self { node, addresses, policies, texts: Texts::default() }
    }

    /// Takes what was kept at an earlier run, as if a server had sent it.
    pub fn restore(&mut self, kept: Kept) -> Result<Vec<Change>, DecodeError> {
        let mut change = decode_named(kept.kind, &kept.name, &kept.body)?;
        self.texts.share(&mut change);
        Ok(self.of_mut(kept.kind).accept(kept.name, change, kept.version, kept.body).collect())
    }

    /// What is in force, to be kept. What stands in for a policy is kept as a policy without a version: after a
    /// restart it denies all the same, and the server sends the policy again.
    pub fn kept(&self) -> impl Iterator<Item = Kept> + '_ {
        ResourceType::ALL.into_iter().flat_map(move |kind| {
            self.of(kind).entries.iter().filter_map(move |(name, entry)| match entry {
                Entry::Accepted(Accepted { version, body, .. }) => Some(Kept {
                    kind,
                    name: name.clone(),
                    version: version.clone(),
                    body: body.clone(),
                }),
                Entry::Refused { stands_in, .. } => Some(Kept {
                    kind,
                    name: name.clone(),
                    version: "".into(),
                    body: codec::authorization_body(stands_in.as_deref()?).into(),
                }),
            })
        })
    }

    /// Everything whose newest form was refused.
    pub fn refused(&self) -> impl Iterator<Item = Refused> + '_ {
        let entries = [&self.policies, &self.addresses].into_iter().flat_map(|h| &h.entries);
        entries.filter_map(|(name, entry)| match entry {
            Entry::Refused { error, .. } => {
                Some(Refused { name: name.clone(), error: (**error).clone() })
            }
            Entry::Accepted(Accepted { newer_refused, .. }) => {
                let error = newer_refused.as_deref()?.clone();
                Some(Refused { name: name.clone(), error })
            }
        })
    }

    pub fn answered(&self, kind: ResourceType) -> Answered {
        self.of(kind).answered
    }

    /// The first requests of a new stream, one per type, naming what is held so that only differences come.
    pub fn connect(&mut self) -> Vec<DeltaDiscoveryRequest> {
        // Policies first: a workload that lists an unknown policy is denied.
        let request = |kind: ResourceType| {
            let held = self.of_mut(kind);
            held.answered = held.answered.min(Answered::Before);
            let initial_resource_versions =
                held.entries.iter().filter_map(|(name, entry)| entry.claim(name)).collect();
            DeltaDiscoveryRequest {
                node: Some(self.node.clone()),
                type_url: kind.type_url().to_owned(),
                initial_resource_versions,
                ..DeltaDiscoveryRequest::default()
            }
        };
        ResourceType::ALL.map(request).into()
    }

    /// Takes a response: what of it to apply, and what to answer.
    pub fn receive(&mut self, response: DeltaDiscoveryResponse) -> Received {
        let mut reply = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce,
            ..DeltaDiscoveryRequest::default()
        };
        let Some(kind) = ResourceType::from_type_url(&response.type_url) else {
            let url: String = response.type_url.chars().take(256).collect();
            reply.error_detail = Some(status(format!("type {url:?} was not asked for")));
            return Received { changes: Vec::new(), reply, refused: Vec::new() };
        };
        let held = match kind {
            ResourceType::Address => &mut self.addresses,
            ResourceType::Authorization => &mut self.policies,
        };
        let (mut changes, mut refused) = (Vec::new(), Vec::new());
        for bytes in response.resources {
            refused.extend(held.take(kind, bytes, &mut self.texts, &mut changes).err());
        }
        for name in response.removed_resources {
            changes.extend(held.drop_named(&name).map(Change::Remove));
        }
        held.answered = Answered::OnThisStream;
        reply.error_detail = nack(&refused);
        Received { changes, reply, refused }
    }

    fn of(&self, kind: ResourceType) -> &Held {
        match kind {
            ResourceType::Address => &self.addresses,
            ResourceType::Authorization => &self.policies,
        }
    }

    fn of_mut(&mut self, kind: ResourceType) -> &mut Held {
        match kind {
            ResourceType::Address => &mut self.addresses,
            ResourceType::Authorization => &mut self.policies,
        }
    }
}

impl Entry {
    /// What to say in the first request of a stream that we hold: the last version that we accepted, so that
    /// a newer one is sent again; or no version for what merely stands in, so that we hear of its removal.
    fn claim(&self, name: &Arc<str>) -> Option<(String, String)> {
        match self {
            Self::Accepted(of) => Some((name.to_string(), of.version.to_string())),
            Self::Refused { stands_in: Some(_), .. } => Some((name.to_string(), String::new())),
            Self::Refused { stands_in: None, .. } => None,
        }
    }

    /// What is in force under its name.
    fn key(&self, name: &str) -> Option<ResourceKey> {
        match self {
            Self::Accepted(of) => of.key(name),
            Self::Refused { stands_in, .. } => {
                stands_in.as_ref().map(|policy| ResourceKey::Policy(policy.name.clone()))
            }
        }
    }
}

impl Accepted {
    fn new(key: &ResourceKey, version: Arc<str>, body: Arc<[u8]>) -> Self {
        let kind = match key {
            ResourceKey::Workload(_) => KeyKind::Workload,
            ResourceKey::Service(_) => KeyKind::Service,
            ResourceKey::Policy(_) => KeyKind::Policy,
        };
        Self { kind, version, body, newer_refused: None }
    }

    fn key(&self, name: &str) -> Option<ResourceKey> {
        match self.kind {
            KeyKind::Workload => name.parse().ok().map(ResourceKey::Workload),
            KeyKind::Service => name.parse().ok().map(ResourceKey::Service),
            KeyKind::Policy => name.parse().ok().map(ResourceKey::Policy),
        }
    }
}

impl Held {
    /// Takes one resource of a response, or refuses it, perhaps with a policy to stand in for it.
    fn take(
        &mut self,
        kind: ResourceType,
        bytes: Bytes,
        texts: &mut Texts,
        changes: &mut Vec<Change>,
    ) -> Result<(), Refused> {
        let resource = Resource::decode(bytes).map_err(|e| {
            let problem = Problem::NotProtobuf(e.to_string());
            Refused { name: "".into(), error: DecodeError::new("resource", "envelope", problem) }
        })?;
        let name: Arc<str> = resource.name.into();
        let (body, decoded) = match resource.resource {
            Some(any) if any.type_url == kind.type_url() => {
                let decoded = decode_named(kind, &name, &any.value);
                (any.value, decoded)
            }
            Some(any) => {
                (Vec::new(), Err(DecodeError::new(&name, "type_url", Problem::Holds(any.type_url))))
            }
            None => (Vec::new(), Err(DecodeError::new(&name, "resource", Problem::Missing))),
        };
        match decoded {
            Ok(mut change) => {
                texts.share(&mut change);
                let (version, body) = (resource.version.into(), body.into());
                changes.extend(self.accept(name, change, version, body));
                Ok(())
            }
            Err(error) => {
                changes.extend(self.refuse(kind, name.clone(), &body, error.clone()));
                Err(Refused { name, error })
            }
        }
    }

    /// Puts a resource in force. A removal comes first where the name stood for something else.
    fn accept(
        &mut self,
        name: Arc<str>,
        change: Change,
        version: Arc<str>,
        body: Arc<[u8]>,
    ) -> impl Iterator<Item = Change> {
        let key = change.key();
        let entry = Entry::Accepted(Accepted::new(&key, version, body));
        let before = self.entries.get(&name).and_then(|before| before.key(&name));
        let stale = before.filter(|old| *old != key);
        let name = match key {
            // The View has the same text.
            ResourceKey::Workload(uid) => uid.into(),
            ResourceKey::Service(_) | ResourceKey::Policy(_) => name,
        };
        // With its name, which an insertion alone would leave as it was.
        self.entries.remove(&name);
        self.entries.insert(name, entry);
        stale.map(Change::Remove).into_iter().chain([change])
    }

    /// Takes note that a resource was refused. What was accepted under its name stays in force; where there
    /// was nothing, a policy is stood in for.
    fn refuse(
        &mut self,
        kind: ResourceType,
        name: Arc<str>,
        body: &[u8],
        error: DecodeError,
    ) -> Option<Change> {
        let error = Box::new(error);
        if let Some(Entry::Accepted(of)) = self.entries.get_mut(&name) {
            of.newer_refused = Some(error);
            return None;
        }
        let policy = match kind {
            ResourceType::Address => None,
            ResourceType::Authorization => {
                name.parse::<PolicyName>().ok().and_then(|policy| codec::stand_in(&policy, body))
            }
        };
        let stands_in = policy.map(Arc::new);
        let change = stands_in.clone().map(Change::Policy);
        let before = self.entries.get(&name).and_then(|before| before.key(&name));
        self.entries.insert(name, Entry::Refused { error, stands_in });
        let stood_in = before.map(Change::Remove);
        change.or(stood_in)
    }

    fn drop_named(&mut self, name: &str) -> Option<ResourceKey> {
        self.entries.remove(name).and_then(|entry| entry.key(name))
    }
}

/// Decodes a resource and checks that it is what its name says: it is removed by that name.
fn decode_named(kind: ResourceType, name: &str, body: &[u8]) -> Result<Change, DecodeError> {
    let change = codec::decode(kind, body)?;
    let (same, holds) = match change.key() {
        ResourceKey::Workload(uid) => (uid.as_str() == name, uid.to_string()),
        // Host names are compared as DNS does.
        ResourceKey::Service(service) => {
            (name.parse::<ServiceName>().is_ok_and(|n| n == service), service.to_string())
        }
        ResourceKey::Policy(policy) => {
            (name.parse::<PolicyName>().is_ok_and(|n| n == policy), policy.to_string())
        }
    };
    if same { Ok(change) } else { Err(DecodeError::new(name, "name", Problem::Holds(holds))) }
}

fn nack(refused: &[Refused]) -> Option<Status> {
    if refused.is_empty() {
        return None;
    }
    let reasons: Vec<_> = refused.iter().map(|r| format!("{}: {}", r.name, r.error)).collect();
    let mut text = reasons.join("; ");
    if let Some((at, _)) = text.char_indices().nth(NACK_CHARS_MAX) {
        text.truncate(at);
        text.push(CUT_OFF);
    }
    Some(status(text))
}

fn status(message: String) -> Status {
    // The code says nothing that the message does not: peers send none.
    Status { code: 0, message }
}

#[cfg(test)]
mod tests;
