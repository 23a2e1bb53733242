use weft_model::{Action, View};

use super::*;
use crate::proto::{security, workload as pb};

const ADDRESS: ResourceType = ResourceType::Address;
const POLICY: ResourceType = ResourceType::Authorization;

fn resource(kind: ResourceType, name: &str, version: &str, body: Vec<u8>) -> Bytes {
    let any = prost_types::Any { type_url: kind.type_url().to_owned(), value: body };
    Resource {
        name: name.to_owned(),
        version: version.to_owned(),
        resource: Some(any),
        ..Resource::default()
    }
    .encode_to_vec()
    .into()
}

fn workload(uid: &str, tunnel_protocol: i32) -> Vec<u8> {
    let workload = pb::Workload {
        uid: uid.to_owned(),
        namespace: "shop".to_owned(),
        tunnel_protocol,
        ..pb::Workload::default()
    };
    pb::Address { r#type: Some(pb::address::Type::Workload(workload)) }.encode_to_vec()
}

fn policy(name: &str, scope: i32, action: i32) -> Vec<u8> {
    security::Authorization {
        name: name.to_owned(),
        namespace: "shop".to_owned(),
        scope,
        action,
        ..security::Authorization::default()
    }
    .encode_to_vec()
}

fn response(kind: ResourceType, nonce: &str, resources: Vec<Bytes>) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: kind.type_url().to_owned(),
        nonce: nonce.to_owned(),
        resources,
        ..DeltaDiscoveryResponse::default()
    }
}

fn removal(kind: ResourceType, name: &str) -> DeltaDiscoveryResponse {
    let removed_resources = vec![name.to_owned()];
    DeltaDiscoveryResponse { removed_resources, ..response(kind, "r", Vec::new()) }
}

fn claims(client: &mut Client, kind: ResourceType) -> Vec<(String, String)> {
    let requests = client.connect();
    let request = requests.into_iter().find(|r| r.type_url == kind.type_url()).unwrap();
    request.initial_resource_versions.into_iter().collect()
}

#[test]
fn a_new_stream_asks_for_both_types_and_says_who_asks() {
    let node =
        Node { id: "ztunnel~10.0.0.1~z.istio-system~istio-system.svc".into(), ..Node::default() };
    let requests = Client::new(node.clone()).connect();
    let expected = |kind: ResourceType| DeltaDiscoveryRequest {
        node: Some(node.clone()),
        type_url: kind.type_url().to_owned(),
        ..DeltaDiscoveryRequest::default()
    };
    assert_eq!(requests, [expected(POLICY), expected(ADDRESS)]);
}

#[test]
fn what_is_understood_is_acknowledged_by_its_nonce() {
    let mut client = Client::new(Node::default());
    let received =
        client.receive(response(ADDRESS, "7", vec![resource(ADDRESS, "a", "1", workload("a", 1))]));
    assert_eq!(received.changes.len(), 1);
    assert_eq!(received.reply.response_nonce, "7");
    assert_eq!(received.reply.error_detail, None);
    assert_eq!(claims(&mut client, ADDRESS), [("a".to_owned(), "1".to_owned())]);
}

#[test]
fn a_refused_resource_is_named_and_does_not_keep_the_others_out() {
    let mut client = Client::new(Node::default());
    let received = client.receive(response(
        ADDRESS,
        "1",
        vec![
            resource(ADDRESS, "a", "1", workload("a", 2)),
            resource(ADDRESS, "b", "1", workload("b", 1)),
            Bytes::from_static(b"\xff"),
        ],
    ));
    assert_eq!(received.changes.len(), 1);
    let message = received.reply.error_detail.unwrap().message;
    assert!(
        message.starts_with("a: a: tunnel_protocol: LEGACY_ISTIO_MTLS is not supported; "),
        "{message}"
    );
    assert_eq!(claims(&mut client, ADDRESS), [("b".to_owned(), "1".to_owned())]);
}

#[test]
fn a_refusal_of_more_than_there_is_room_for_says_that_it_was_cut_off() {
    let refused = |count: usize| {
        let names: Vec<String> = (0..count).map(|n| format!("web-{n}")).collect();
        let all = names.iter().map(|name| resource(ADDRESS, name, "1", workload(name, 2)));
        let received = Client::new(Node::default()).receive(response(ADDRESS, "1", all.collect()));
        received.reply.error_detail.unwrap().message
    };
    assert!(!refused(2).ends_with(CUT_OFF));
    let long = refused(200);
    assert!(long.ends_with(CUT_OFF) && long.chars().count() == NACK_CHARS_MAX + 1, "{long}");
}

#[test]
fn the_form_accepted_before_stays_when_a_newer_one_is_refused() {
    let mut client = Client::new(Node::default());
    client.receive(response(ADDRESS, "1", vec![resource(ADDRESS, "a", "1", workload("a", 1))]));
    let received =
        client.receive(response(ADDRESS, "2", vec![resource(ADDRESS, "a", "2", workload("a", 9))]));
    assert_eq!(received.changes, []);
    assert_eq!(client.refused().count(), 1);
    // The accepted version, so that a server sends the newer again, or says that it is gone.
    assert_eq!(claims(&mut client, ADDRESS), [("a".to_owned(), "1".to_owned())]);
    let kept: Vec<_> = client.kept().map(|kept| kept.version.to_string()).collect();
    assert_eq!(kept, ["1"]);

    client.receive(response(ADDRESS, "3", vec![resource(ADDRESS, "a", "3", workload("a", 0))]));
    assert_eq!(client.refused().count(), 0);
}

#[test]
fn a_resource_under_another_name_is_refused() {
    let mut client = Client::new(Node::default());
    let received =
        client.receive(response(ADDRESS, "1", vec![resource(ADDRESS, "b", "1", workload("a", 1))]));
    assert_eq!(received.changes, []);
    assert_eq!(received.reply.error_detail.unwrap().message, "b: b: name: what it holds is `a`");
}

#[test]
fn a_name_that_stands_for_something_else_removes_what_it_stood_for() {
    let mut client = Client::new(Node::default());
    let mut view = View::default();
    let service = pb::Service {
        namespace: "shop".to_owned(),
        hostname: "web".to_owned(),
        ..pb::Service::default()
    };
    let service = pb::Address { r#type: Some(pb::address::Type::Service(service)) };
    for body in [workload("shop/web", 1), service.encode_to_vec()] {
        let sent = response(ADDRESS, "1", vec![resource(ADDRESS, "shop/web", "1", body)]);
        for change in client.receive(sent).changes {
            view.apply(change);
        }
    }
    assert_eq!((view.workloads().count(), view.services().count()), (0, 1));
}

#[test]
fn a_type_that_was_not_asked_for_is_refused() {
    let mut client = Client::new(Node::default());
    let mut odd = response(ADDRESS, "1", Vec::new());
    odd.type_url = "type.googleapis.com/envoy.config.cluster.v3.Cluster".to_owned();
    assert!(client.receive(odd).reply.error_detail.is_some());
    let inside = resource(POLICY, "shop/p", "1", policy("p", 1, 0));
    assert!(client.receive(response(ADDRESS, "2", vec![inside])).reply.error_detail.is_some());
}

#[test]
fn a_policy_that_cannot_be_read_denies_until_it_can_or_is_gone() {
    let mut client = Client::new(Node::default());
    let mut view = View::default();
    let mut receive = |client: &mut Client, response| {
        let received = client.receive(response);
        received.changes.into_iter().for_each(|change| view.apply(change));
        let action = view.policies().next().map(|policy| policy.action);
        (action, received.reply.error_detail.is_some())
    };
    let sent = |version: &str, action| {
        let body = policy("p", 1, action);
        response(POLICY, version, vec![resource(POLICY, "shop/p", version, body)])
    };
    assert_eq!(receive(&mut client, sent("1", 5)), (Some(Action::Deny), true));
    assert_eq!(claims(&mut client, POLICY), [("shop/p".to_owned(), String::new())]);
    assert_eq!(receive(&mut client, sent("2", 0)), (Some(Action::Allow), false));
    assert_eq!(receive(&mut client, removal(POLICY, "shop/p")), (None, false));
    assert_eq!(receive(&mut client, sent("3", 5)), (Some(Action::Deny), true));
    assert_eq!(receive(&mut client, removal(POLICY, "shop/p")), (None, false));
}

#[test]
fn a_policy_that_never_could_be_read_denies_after_a_restart_too_and_is_asked_for_again() {
    let mut before = Client::new(Node::default());
    let broken = resource(POLICY, "shop/p", "1", policy("p", 1, 5));
    before.receive(response(POLICY, "1", vec![broken.clone()]));
    let mut after = Client::new(Node::default());
    let kept: Vec<_> = before.kept().collect();
    let mut view = View::default();
    for kept in kept {
        after.restore(kept).unwrap().into_iter().for_each(|change| view.apply(change));
    }
    let actions: Vec<_> = view.policies().map(|policy| policy.action).collect();
    assert_eq!(actions, [Action::Deny]);
    assert_eq!(claims(&mut after, POLICY), [("shop/p".to_owned(), String::new())]);
    assert!(
        after.receive(response(POLICY, "1", vec![broken])).changes.is_empty(),
        "it denies still"
    );
}

#[test]
fn an_empty_response_answers_and_a_new_stream_waits_for_its_own() {
    let mut client = Client::new(Node::default());
    assert_eq!(client.answered(ADDRESS), Answered::Never);
    client.connect();
    client.receive(response(ADDRESS, "1", Vec::new()));
    assert_eq!(client.answered(ADDRESS), Answered::OnThisStream);
    assert_eq!(client.answered(POLICY), Answered::Never);
    client.connect();
    assert_eq!(client.answered(ADDRESS), Answered::Before);
    assert_eq!(client.answered(POLICY), Answered::Never);
}

#[test]
fn what_was_kept_is_checked_again_when_it_is_restored() {
    let mut client = Client::new(Node::default());
    let kept = |body| Kept { kind: ADDRESS, name: "a".into(), version: "1".into(), body };
    assert!(client.restore(kept(b"\xff\xff".as_slice().into())).is_err());
    assert_eq!(client.restore(kept(workload("a", 1).into())).unwrap().len(), 1);
    assert_eq!(claims(&mut client, ADDRESS), [("a".to_owned(), "1".to_owned())]);
}

proptest::proptest! {
    #[test]
    fn rubbish_from_a_server_never_panics(
        bodies in proptest::collection::vec(proptest::collection::vec(proptest::num::u8::ANY, 0..60), 0..4),
        removed in proptest::collection::vec(".*", 0..3),
        wrapped in proptest::bool::ANY,
    ) {
        let mut client = Client::new(Node::default());
        for kind in ResourceType::ALL {
            let resources = bodies.iter().cloned().map(|body| {
                if wrapped { resource(kind, "shop/p", "1", body) } else { body.into() }
            });
            let mut rubbish = response(kind, "1", resources.collect());
            rubbish.removed_resources = removed.clone();
            client.receive(rubbish);
        }
    }
}
