//! Both ends against each other, over a stream that may break at any point.

use std::{collections::VecDeque, sync::Arc};

use proptest::prelude::*;
use weft_model::{
    Action, Authorization, Change, Hostname, Namespace, PolicyName, ResourceKey, Rule, Scope,
    Service, ServiceAccountName, View, Workload, WorkloadUid,
};

use super::*;
use crate::{
    codec::{self, ResourceType},
    proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node},
};

/// What may happen between two steps.
#[derive(Clone, Debug)]
enum Event {
    Put(Change),
    Remove(ResourceKey),
    /// The server notices that resources changed.
    Wake,
    ToServer,
    ToClient,
    /// The newest response arrives twice.
    Duplicate,
    /// The two oldest messages of each direction change places.
    Reorder,
    Disconnect,
    /// The client restarts with what it kept.
    Restart,
}

/// Few names, so that changes meet.
fn change() -> impl Strategy<Value = Change> {
    let namespace = || Namespace::new("shop").unwrap();
    let workload = (0..6u8, 0..3u32).prop_map(move |(i, capacity)| {
        let uid = WorkloadUid::new(&format!("Kubernetes//Pod/shop/web-{i}")).unwrap();
        let account = ServiceAccountName::new("web").unwrap();
        let mut w = Workload::new(uid, "web", namespace(), account);
        w.capacity = capacity;
        w.addresses = vec![[10, 0, 0, i].into()];
        Change::Workload(Arc::new(w))
    });
    let service = (0..3u8, any::<bool>()).prop_map(move |(i, canonical)| {
        let hostname = Hostname::new(&format!("web-{i}.shop")).unwrap();
        let mut s = Service::new("web", namespace(), hostname);
        s.canonical = canonical;
        Change::Service(Arc::new(s))
    });
    let policy = (0..4u8, any::<bool>()).prop_map(|(i, deny)| {
        let action = if deny { Action::Deny } else { Action::Allow };
        Change::Policy(Arc::new(Authorization {
            name: PolicyName::new("shop", &format!("p{i}")).unwrap(),
            scope: Scope::Namespace,
            action,
            rules: vec![Rule::default()],
            dry_run: false,
        }))
    });
    prop_oneof![workload, service, policy]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        5 => change().prop_map(Event::Put),
        3 => change().prop_map(|c| Event::Remove(c.key())),
        4 => Just(Event::Wake),
        6 => Just(Event::ToServer),
        6 => Just(Event::ToClient),
        1 => Just(Event::Duplicate),
        1 => Just(Event::Reorder),
        1 => Just(Event::Disconnect),
        1 => Just(Event::Restart),
    ]
}

struct Mesh {
    truth: View,
    resources: Resources,
    server: Server,
    client: Client,
    view: View,
    to_server: VecDeque<DeltaDiscoveryRequest>,
    to_client: VecDeque<DeltaDiscoveryResponse>,
}

impl Mesh {
    fn new() -> Self {
        let mut mesh = Self {
            truth: View::default(),
            resources: Resources::default(),
            server: Server::new(),
            client: Client::new(Node::default()),
            view: View::default(),
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
        };
        mesh.connect();
        mesh
    }

    fn connect(&mut self) {
        self.server = Server::new();
        self.to_client.clear();
        self.to_server = self.client.connect().into();
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Put(change) => {
                self.resources.put(codec::encode(&change).unwrap());
                self.truth.apply(change);
            }
            Event::Remove(key) => {
                match &key {
                    ResourceKey::Workload(uid) => {
                        self.resources.remove(ResourceType::Address, uid.as_str())
                    }
                    ResourceKey::Service(name) => {
                        self.resources.remove(ResourceType::Address, &name.to_string())
                    }
                    ResourceKey::Policy(name) => {
                        self.resources.remove(ResourceType::Authorization, &name.to_string())
                    }
                };
                self.truth.apply(Change::Remove(key));
            }
            Event::Wake => self.wake(),
            Event::ToServer => {
                if let Some(request) = self.to_server.pop_front() {
                    self.server.request(request, &self.resources);
                    self.wake();
                }
            }
            Event::ToClient => {
                if let Some(response) = self.to_client.pop_front() {
                    self.receive(response);
                }
            }
            Event::Duplicate => {
                if let Some(response) = self.to_client.pop_front() {
                    self.receive(response.clone());
                    self.receive(response);
                }
            }
            Event::Reorder => {
                if self.to_client.len() > 1 {
                    self.to_client.swap(0, 1);
                }
                if self.to_server.len() > 1 {
                    self.to_server.swap(0, 1);
                }
            }
            Event::Disconnect => self.connect(),
            Event::Restart => self.restart(),
        }
    }

    fn wake(&mut self) {
        self.to_client.extend(self.server.advance(&self.resources));
        for kind in ResourceType::ALL {
            let under_way = self.to_client.iter().filter(|r| r.type_url == kind.type_url());
            assert!(under_way.count() <= 1, "one response per type at a time");
        }
    }

    fn receive(&mut self, response: DeltaDiscoveryResponse) {
        let received = self.client.receive(response);
        assert_eq!(received.refused, Vec::new());
        for change in received.changes {
            self.view.apply(change);
        }
        self.to_server.push_back(received.reply);
    }

    fn restart(&mut self) {
        let kept: Vec<_> = self.client.kept().collect();
        self.client = Client::new(Node::default());
        self.view = View::default();
        for resource in kept {
            let changes = self.client.restore(resource).unwrap();
            for change in changes {
                self.view.apply(change);
            }
        }
        self.connect();
    }

    /// Delivers everything until nobody has anything to say.
    fn settle(&mut self) {
        self.wake();
        while !self.to_server.is_empty() || !self.to_client.is_empty() {
            self.step(Event::ToServer);
            self.step(Event::ToClient);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn once_all_is_delivered_the_client_holds_what_the_server_has(
        events in proptest::collection::vec(event(), 0..120),
    ) {
        let mut mesh = Mesh::new();
        for event in events { mesh.step(event); }
        mesh.settle();
        prop_assert_eq!(&mesh.view, &mesh.truth);
        for kind in ResourceType::ALL {
            prop_assert_eq!(mesh.client.answered(kind), Answered::OnThisStream);
        }
    }

    #[test]
    fn a_client_that_is_up_to_date_is_sent_nothing_on_reconnect(
        changes in proptest::collection::vec(change(), 0..30),
    ) {
        let mut mesh = Mesh::new();
        for change in changes { mesh.step(Event::Put(change)); }
        mesh.settle();
        mesh.restart();
        while let Some(request) = mesh.to_server.pop_front() {
            mesh.server.request(request, &mesh.resources);
        }
        for response in mesh.server.advance(&mesh.resources) {
            prop_assert!(response.resources.is_empty() && response.removed_resources.is_empty());
        }
        prop_assert_eq!(&mesh.view, &mesh.truth);
    }
}
