use prost::Message;
use weft_model::{
    Action, Authorization, Hostname, Namespace, NetworkAddress, PolicyName, Ports, Rule, Scope,
    Service, ServiceAccountName, ServiceName, Workload, WorkloadUid,
};

use super::*;
use crate::{
    codec,
    proto::{discovery::Resource, rpc::Status},
};

const ADDRESS: ResourceType = ResourceType::Address;
const POLICY: ResourceType = ResourceType::Authorization;

fn namespace() -> Namespace {
    Namespace::new("shop").unwrap()
}

fn service_name() -> ServiceName {
    ServiceName { namespace: namespace(), hostname: Hostname::new("web.shop").unwrap() }
}

/// `web-<i>` at 10.0.0.<i> on node-<i>, an endpoint of shop/web.shop, listing some policies.
fn workload(i: u8, policies: &[&str]) -> codec::Encoded {
    let uid = WorkloadUid::new(&format!("K//Pod/shop/web-{i}")).unwrap();
    let mut w = Workload::new(uid, "web", namespace(), ServiceAccountName::new("web").unwrap());
    w.addresses = vec![[10, 0, 0, i].into()];
    w.node = format!("node-{i}").into();
    w.services = [(service_name(), Ports::new())].into();
    w.policies = policies.iter().map(|p| PolicyName::new("shop", p).unwrap()).collect();
    codec::encode_workload(&w)
}

fn service() -> codec::Encoded {
    let mut s = Service::new("web", namespace(), service_name().hostname);
    let network = weft_model::Network::default();
    s.vips = vec![NetworkAddress::new(network, [10, 9, 9, 9].into())];
    codec::encode_service(&s)
}

fn policy(name: &str) -> codec::Encoded {
    codec::encode_authorization(&Authorization {
        name: PolicyName::new("shop", name).unwrap(),
        scope: Scope::Workload,
        action: Action::Deny,
        rules: vec![Rule::default()],
        dry_run: false,
    })
}

fn wildcard(kind: ResourceType) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { type_url: kind.type_url().to_owned(), ..Default::default() }
}

fn on_demand(kind: ResourceType) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        resource_names_subscribe: vec!["*".to_owned()],
        resource_names_unsubscribe: vec!["*".to_owned()],
        ..wildcard(kind)
    }
}

fn subscribe(kind: ResourceType, name: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { resource_names_subscribe: vec![name.to_owned()], ..wildcard(kind) }
}

fn ack(response: &DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: response.type_url.clone(),
        response_nonce: response.nonce.clone(),
        ..Default::default()
    }
}

/// Type, names of what is sent, names of what is gone: one line of a transcript.
fn said(response: &DeltaDiscoveryResponse) -> (ResourceType, Vec<String>, Vec<String>) {
    let sent = response.resources.iter();
    let name = |bytes: &bytes::Bytes| Resource::decode(bytes.clone()).unwrap().name;
    let kind = ResourceType::from_type_url(&response.type_url).unwrap();
    (kind, sent.map(name).collect(), response.removed_resources.clone())
}

fn line(
    kind: ResourceType,
    sent: &[&str],
    gone: &[&str],
) -> (ResourceType, Vec<String>, Vec<String>) {
    let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    (kind, owned(sent), owned(gone))
}

struct Stream {
    server: Server,
    now: Resources,
    heard: Option<Heard>,
    last: Vec<DeltaDiscoveryResponse>,
}

impl Stream {
    fn new(resources: impl IntoIterator<Item = codec::Encoded>) -> Self {
        let mut now = Resources::default();
        for resource in resources {
            now.put(resource);
        }
        Self { server: Server::new(), now, heard: None, last: Vec::new() }
    }

    fn ask(
        &mut self,
        request: DeltaDiscoveryRequest,
    ) -> Vec<(ResourceType, Vec<String>, Vec<String>)> {
        self.heard = Some(self.server.request(request, &self.now));
        self.wake()
    }

    fn wake(&mut self) -> Vec<(ResourceType, Vec<String>, Vec<String>)> {
        self.last = self.server.advance(&self.now);
        self.last.iter().map(said).collect()
    }

    /// Both types subscribed, and what there was acknowledged.
    fn settled(resources: impl IntoIterator<Item = codec::Encoded>) -> Self {
        let mut stream = Self::new(resources);
        for kind in ResourceType::ALL {
            stream.ask(wildcard(kind));
            let first = stream.last.remove(0);
            assert_eq!(stream.ask(ack(&first)), []);
        }
        stream
    }
}

#[test]
fn both_types_are_answered_when_there_is_nothing() {
    let mut stream = Stream::new([]);
    assert_eq!(stream.ask(wildcard(ADDRESS)), [line(ADDRESS, &[], &[])]);
    assert!(!stream.last[0].nonce.is_empty());
    assert_eq!(stream.ask(wildcard(POLICY)), [line(POLICY, &[], &[])]);
    assert_eq!(stream.wake(), []);
}

#[test]
fn a_returning_client_is_sent_only_what_differs() {
    let mut stream = Stream::new([workload(1, &[]), workload(2, &[]), service()]);
    let same = workload(1, &[]).version.to_string();
    let request = DeltaDiscoveryRequest {
        initial_resource_versions: [
            ("K//Pod/shop/web-1".to_owned(), same),
            ("K//Pod/shop/web-2".to_owned(), "old".to_owned()),
            ("K//Pod/shop/web-3".to_owned(), "gone".to_owned()),
        ]
        .into(),
        ..wildcard(ADDRESS)
    };
    let expected = line(ADDRESS, &["K//Pod/shop/web-2", "shop/web.shop"], &["K//Pod/shop/web-3"]);
    assert_eq!(stream.ask(request), [expected]);
}

#[test]
fn changes_wait_for_the_answer_under_way_and_are_merged() {
    let mut stream = Stream::new([]);
    stream.ask(wildcard(ADDRESS));
    let first = stream.last.remove(0);
    stream.now.put(workload(1, &[]));
    stream.now.put(workload(2, &[]));
    assert_eq!(stream.wake(), []);
    stream.now.put(workload(1, &["p"]));
    stream.now.remove(ADDRESS, "K//Pod/shop/web-2");
    assert_eq!(stream.wake(), []);
    assert_eq!(stream.ask(ack(&first)), [line(ADDRESS, &["K//Pod/shop/web-1"], &[])]);
    assert_eq!(stream.last[0].resources, [workload(1, &["p"]).wire]);
}

#[test]
fn an_answer_to_another_response_is_stale() {
    let mut stream = Stream::new([]);
    stream.ask(wildcard(ADDRESS));
    let first = stream.last.remove(0);
    stream.now.put(workload(1, &[]));
    stream.ask(DeltaDiscoveryRequest { response_nonce: "other".into(), ..ack(&first) });
    assert_eq!(stream.heard, Some(Heard::Stale(ADDRESS)));
    assert_eq!(stream.last, []);
    assert_eq!(stream.ask(ack(&first)).len(), 1);
    assert_eq!(stream.heard, Some(Heard::Acknowledged { kind: ADDRESS, generation: 0 }));
}

#[test]
fn a_refusal_is_reported_and_the_resource_not_sent_until_it_changes() {
    let mut stream = Stream::new([workload(1, &[])]);
    stream.ask(wildcard(ADDRESS));
    let first = stream.last.remove(0);
    let status = Status { code: 0, message: "web-1: no".into() };
    assert_eq!(stream.ask(DeltaDiscoveryRequest { error_detail: Some(status), ..ack(&first) }), []);
    let refused = Heard::Refused { kind: ADDRESS, generation: 1, message: "web-1: no".into() };
    assert_eq!(stream.heard, Some(refused));
    stream.now.put(workload(1, &["p"]));
    assert_eq!(stream.wake(), [line(ADDRESS, &["K//Pod/shop/web-1"], &[])]);
}

fn nack(response: &DeltaDiscoveryResponse, message: &str) -> DeltaDiscoveryRequest {
    let status = Status { code: 0, message: message.into() };
    DeltaDiscoveryRequest { error_detail: Some(status), ..ack(response) }
}

#[test]
fn what_was_answered_is_what_was_asked_for_up_to_a_generation() {
    let mut stream = Stream::new([workload(1, &[])]);
    assert_eq!(stream.server.answered(), None);
    stream.ask(wildcard(ADDRESS));
    let first = stream.last.remove(0);
    assert_eq!(stream.server.answered(), Some(0));
    stream.ask(ack(&first));
    assert_eq!(stream.server.answered(), Some(1));
    // Nobody waits for what this client has not asked for.
    stream.now.put(policy("p"));
    stream.wake();
    assert_eq!(stream.server.answered(), Some(2));
    stream.ask(wildcard(POLICY));
    let policies = stream.last.remove(0);
    assert!(stream.server.answered() < Some(2));
    // A workload waits for the policy that it may list: neither counts before both are answered.
    stream.now.put(policy("q"));
    stream.now.put(workload(1, &["q"]));
    stream.wake();
    assert!(stream.server.answered() < Some(3));
    stream.ask(ack(&policies));
    assert_eq!(stream.last.len(), 2);
    for response in stream.last.clone() {
        assert!(stream.server.answered() < Some(4));
        stream.ask(ack(&response));
    }
    assert_eq!(stream.server.answered(), Some(4));
}

#[test]
fn what_is_refused_is_so_by_name_until_it_is_sent_otherwise_or_goes() {
    let mut stream = Stream::settled([]);
    for name in ["a", "b", "c"] {
        stream.now.put(policy(name));
    }
    stream.wake();
    let three = stream.last.remove(0);
    stream.ask(nack(&three, "shop/b: no such action; shop/c: the same"));
    let refused = |stream: &Stream| {
        let refusals = stream.server.refusals();
        ["a", "b", "c"].map(|name| refusals.of(POLICY, &format!("shop/{name}").into()).is_some())
    };
    assert_eq!(refused(&stream), [false, true, true]);
    assert_eq!(stream.server.answered(), Some(3));
    // Another one that is taken says nothing of these; their own new form and their end do.
    stream.now.put(policy("a2"));
    stream.wake();
    let other = stream.last.remove(0);
    stream.ask(ack(&other));
    assert_eq!(refused(&stream), [false, true, true]);
    let mut changed = policy("b");
    changed.version = "changed".into();
    stream.now.put(changed);
    stream.now.remove(POLICY, "shop/c");
    stream.wake();
    let better = stream.last.remove(0);
    stream.ask(ack(&better));
    assert_eq!(refused(&stream), [false; 3]);
    assert!(stream.server.refusals().is_empty());
}

#[test]
fn who_refuses_without_a_name_may_mean_all_that_was_sent() {
    let mut stream = Stream::settled([]);
    stream.now.put(policy("a"));
    stream.now.put(policy("b"));
    stream.wake();
    let two = stream.last.remove(0);
    stream.ask(nack(&two, "no"));
    for name in ["shop/a", "shop/b"] {
        assert_eq!(stream.server.refusals().of(POLICY, &name.into()).map(|m| &**m), Some("no"));
    }
}

#[test]
fn a_name_within_another_is_not_that_name_and_one_that_was_cut_off_may_be_any() {
    for (message, refused) in [
        ("shop/allow-admin: no such action", [false, true]),
        ("shop/allow: no such action", [true, false]),
        ("workshop/allow: old; shop/allow-admin: no such action", [false, true]),
        ("shop/allow: no such action; shop/al\u{2026}", [true, true]),
    ] {
        let mut stream = Stream::settled([]);
        stream.now.put(policy("allow"));
        stream.now.put(policy("allow-admin"));
        stream.wake();
        let two = stream.last.remove(0);
        stream.ask(nack(&two, message));
        let refusals = stream.server.refusals();
        let of = |name: &str| refusals.of(POLICY, &name.into()).is_some();
        assert_eq!([of("shop/allow"), of("shop/allow-admin")], refused, "{message}");
    }
}

#[test]
fn a_type_that_we_do_not_serve_is_not_answered() {
    let mut stream = Stream::new([]);
    let type_url = "type.googleapis.com/envoy.config.cluster.v3.Cluster".to_owned();
    let request = DeltaDiscoveryRequest { type_url: type_url.clone(), ..Default::default() };
    assert_eq!(stream.ask(request), []);
    assert_eq!(stream.heard, Some(Heard::Unsupported { type_url }));
}

#[test]
fn a_policy_comes_before_the_workload_that_lists_it_and_goes_after() {
    let mut stream = Stream::settled([workload(1, &[])]);
    stream.now.put(policy("p"));
    stream.now.put(workload(1, &["p"]));
    let policy_line = line(POLICY, &["shop/p"], &[]);
    let workload_line = line(ADDRESS, &["K//Pod/shop/web-1"], &[]);
    assert_eq!(stream.wake(), [policy_line, workload_line.clone()]);
    for response in stream.last.clone() {
        assert_eq!(stream.ask(ack(&response)), []);
    }

    stream.now.put(workload(1, &[]));
    stream.now.remove(POLICY, "shop/p");
    assert_eq!(stream.wake(), [workload_line]);
    let update = stream.last.remove(0);
    assert_eq!(stream.wake(), []);
    assert_eq!(stream.ask(ack(&update)), [line(POLICY, &[], &["shop/p"])]);
}

#[test]
fn a_workload_waits_for_a_policy_that_waits_for_an_answer() {
    let mut stream = Stream::settled([workload(1, &[])]);
    stream.now.put(policy("a"));
    assert_eq!(stream.wake(), [line(POLICY, &["shop/a"], &[])]);
    let under_way = stream.last.remove(0);
    stream.now.put(policy("b"));
    stream.now.put(workload(1, &["b"]));
    assert_eq!(stream.wake(), []);
    let both = [line(POLICY, &["shop/b"], &[]), line(ADDRESS, &["K//Pod/shop/web-1"], &[])];
    assert_eq!(stream.ask(ack(&under_way)), both);
}

#[test]
fn removals_of_policies_are_not_starved_by_changing_workloads() {
    let mut stream = Stream::settled([workload(1, &[]), policy("p")]);
    stream.now.put(workload(1, &["q"]));
    stream.wake();
    let mut update = stream.last.remove(0);
    stream.now.remove(POLICY, "shop/p");
    for round in 0..3 {
        stream.now.put(workload(2, &[format!("r{round}").as_str()]));
        let said = stream.ask(ack(&update));
        update = stream.last.pop().unwrap();
        // The first round's response is the first that was made without the policy.
        assert_eq!(said.contains(&line(POLICY, &[], &["shop/p"])), round == 1);
    }
}

#[test]
fn on_demand_answers_by_name_and_alias_and_brings_the_endpoints_of_a_service() {
    let mut stream = Stream::new([workload(1, &[]), workload(2, &[]), service()]);
    assert_eq!(stream.ask(on_demand(ADDRESS)), [line(ADDRESS, &[], &[])]);
    let first = stream.last.remove(0);
    stream.ask(ack(&first));

    let all = line(ADDRESS, &["K//Pod/shop/web-1", "K//Pod/shop/web-2", "shop/web.shop"], &[]);
    assert_eq!(stream.ask(subscribe(ADDRESS, "/10.9.9.9")), [all]);
    let answer = stream.last.remove(0);
    stream.ask(ack(&answer));

    // A new endpoint of the service follows by itself.
    stream.now.put(workload(3, &[]));
    assert_eq!(stream.wake(), [line(ADDRESS, &["K//Pod/shop/web-3"], &[])]);
}

#[test]
fn on_demand_says_that_a_name_is_not_there_and_sends_it_when_it_comes() {
    let mut stream = Stream::new([]);
    stream.ask(on_demand(ADDRESS));
    let first = stream.last.remove(0);
    stream.ask(ack(&first));
    assert_eq!(stream.ask(subscribe(ADDRESS, "/10.0.0.1")), [line(ADDRESS, &[], &["/10.0.0.1"])]);
    let answer = stream.last.remove(0);
    stream.ask(ack(&answer));
    stream.now.put(workload(1, &[]));
    assert_eq!(stream.wake(), [line(ADDRESS, &["K//Pod/shop/web-1"], &[])]);
}

#[test]
fn on_demand_sends_the_workloads_of_the_clients_own_node_unasked() {
    let mut stream = Stream::new([workload(1, &[]), workload(2, &[])]);
    let name = prost_types::Value {
        kind: Some(prost_types::value::Kind::StringValue("node-2".to_owned())),
    };
    let metadata = prost_types::Struct { fields: [("NODE_NAME".to_owned(), name)].into() };
    let node = Node { metadata: Some(metadata), ..Node::default() };
    let request = DeltaDiscoveryRequest { node: Some(node), ..on_demand(ADDRESS) };
    assert_eq!(stream.ask(request), [line(ADDRESS, &["K//Pod/shop/web-2"], &[])]);
}

#[test]
fn what_is_unsubscribed_is_neither_sent_nor_reported_as_gone() {
    let mut stream = Stream::new([workload(1, &[])]);
    stream.ask(on_demand(ADDRESS));
    let first = stream.last.remove(0);
    stream.ask(ack(&first));
    stream.ask(subscribe(ADDRESS, "/10.0.0.1"));
    let answer = stream.last.remove(0);
    stream.ask(ack(&answer));
    let unsubscribe = DeltaDiscoveryRequest {
        resource_names_unsubscribe: vec!["/10.0.0.1".to_owned()],
        ..wildcard(ADDRESS)
    };
    assert_eq!(stream.ask(unsubscribe), []);
    stream.now.remove(ADDRESS, "K//Pod/shop/web-1");
    assert_eq!(stream.wake(), []);
}

#[test]
fn a_name_that_is_subscribed_again_is_sent_again() {
    let mut stream = Stream::settled([workload(1, &[])]);
    let again = subscribe(ADDRESS, "K//Pod/shop/web-1");
    assert_eq!(stream.ask(again), [line(ADDRESS, &["K//Pod/shop/web-1"], &[])]);
}

#[test]
fn subscribers_share_one_encoding() {
    let mut now = Resources::default();
    now.put(workload(1, &[]));
    let sent = |now: &Resources| {
        let mut server = Server::new();
        server.request(wildcard(ADDRESS), now);
        server.advance(now).remove(0).resources.remove(0)
    };
    assert_eq!(sent(&now).as_ptr(), sent(&now).as_ptr());
}
