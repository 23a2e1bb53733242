//! Which endpoints a service has, and in which state: where other meshes have gone wrong.

use weft_model::{Health, NetworkMode, TunnelProtocol};

use super::{Outcome, compiled, endpoints, objects};

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.1.0.1, selector: {app: web}, ports: [{name: http, port: 80}]}
---
";

/// A pod of the service; `meta` and `status` are more fields of these.
fn pod(name: &str, ip: &str, meta: &str, ready: &str, status: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: shop, labels: {{app: web}}{meta}}}
spec: {{nodeName: n1}}
status: {{podIP: {ip}, conditions: [{{type: Ready, status: '{ready}'}}]{status}}}
---
"
    )
}

const ENDING: &str = ", deletionTimestamp: 2026-01-01T00:00:00Z";

/// A slice of the service; endpoints as in YAML.
fn slice(name: &str, meta: &str, endpoints: &str) -> String {
    format!(
        "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: web}}{meta}}}
ports: [{{name: http, port: 80}}]
endpoints: [{endpoints}]
---
"
    )
}

fn without_selector() -> String {
    SERVICE.replace("selector: {app: web}, ", "")
}

fn health(outcome: &Outcome, name: &str) -> Health {
    outcome.pod(name).health
}

fn of_slice(outcome: &Outcome, slice: &str, ip: &str) -> Option<Health> {
    let uid = format!("Kubernetes/discovery.k8s.io/EndpointSlice/shop/{slice}/{ip}");
    outcome.workload(&uid).map(|w| w.health)
}

#[test]
fn a_pod_that_ends_but_serves_is_used_while_its_service_has_no_ready_one() {
    let ending = pod("old", "10.0.0.1", ENDING, "True", "");
    let dead = pod("dead", "10.0.0.2", ENDING, "False", "");
    let outcome = compiled(&format!("{SERVICE}{ending}{dead}"));
    assert_eq!(health(&outcome, "old"), Health::Healthy);
    assert_eq!(health(&outcome, "dead"), Health::Unhealthy);

    // Compiled again when another comes and goes, or finishes.
    let mut outcome = outcome;
    let next = pod("new", "10.0.0.3", "", "True", "");
    for (next, old) in [
        (next.clone(), Health::Unhealthy),
        (pod("new", "10.0.0.3", "", "False", ""), Health::Healthy),
        (next.clone(), Health::Unhealthy),
        (pod("new", "10.0.0.3", "", "True", ", phase: Failed"), Health::Healthy),
        (next.replace("app: web", "app: other"), Health::Healthy),
    ] {
        outcome.apply(&next);
        assert_eq!(health(&outcome, "old"), old, "{next}");
    }
}

#[test]
fn serving_that_is_not_said_is_as_ready() {
    let endpoint = |conditions: &str| {
        let endpoints = format!("{{addresses: [10.9.0.1], conditions: {{{conditions}}}}}");
        let outcome = compiled(&format!("{}{}", without_selector(), slice("e", "", &endpoints)));
        of_slice(&outcome, "e", "10.9.0.1").unwrap()
    };
    for (conditions, health) in [
        ("", Health::Healthy),
        ("serving: true", Health::Healthy),
        ("ready: true", Health::Healthy),
        ("ready: false", Health::Unhealthy),
        ("ready: false, terminating: true", Health::Unhealthy),
        ("ready: false, serving: false, terminating: true", Health::Unhealthy),
        ("ready: false, serving: true, terminating: true", Health::Healthy),
        ("ready: false, serving: true", Health::Unhealthy),
    ] {
        assert_eq!(endpoint(conditions), health, "{conditions}");
    }
}

#[test]
fn what_two_slices_say_of_one_pod_the_newer_knows_better() {
    let old = slice(
        "a",
        ", creationTimestamp: 2026-01-01T00:00:00Z",
        "{addresses: [10.9.0.1], targetRef: {kind: Pod, name: one, uid: u1}}",
    );
    let new = slice(
        "b",
        ", creationTimestamp: 2026-01-02T00:00:00Z",
        "{addresses: [10.9.0.1], targetRef: {kind: Pod, name: one, uid: u1}, conditions: {ready: false}}",
    );
    let outcome = compiled(&format!("{}{old}{new}", without_selector()));
    assert_eq!(of_slice(&outcome, "a", "10.9.0.1"), None);
    assert_eq!(of_slice(&outcome, "b", "10.9.0.1"), Some(Health::Unhealthy));
}

#[test]
fn of_two_pods_at_one_address_in_slices_the_ready_one_counts_though_its_slice_is_older() {
    let live = slice(
        "a",
        ", creationTimestamp: 2026-01-01T00:00:00Z",
        "{addresses: [10.9.0.1], targetRef: {kind: Pod, name: two, uid: u2}}",
    );
    let ghost = slice(
        "b",
        ", creationTimestamp: 2026-01-02T00:00:00Z",
        "{addresses: [10.9.0.1], targetRef: {kind: Pod, name: one, uid: u1}, conditions: {ready: false, serving: true, terminating: true}}",
    );
    let outcome = compiled(&format!("{}{live}{ghost}", without_selector()));
    assert_eq!(of_slice(&outcome, "a", "10.9.0.1"), Some(Health::Healthy));
    assert_eq!(of_slice(&outcome, "b", "10.9.0.1"), None);
}

#[test]
fn of_one_address_in_three_slices_exactly_one_counts() {
    // Each is better than another by one of the rules: a is newer than c for one pod, b is ready and a is not,
    // c is newer than b.
    let a = slice(
        "a",
        ", creationTimestamp: 2026-01-03T00:00:00Z",
        "{addresses: [10.9.0.1], targetRef: {kind: Pod, name: one}, conditions: {ready: false}}",
    );
    let b = slice(
        "b",
        ", creationTimestamp: 2026-01-01T00:00:00Z",
        "{addresses: [10.9.0.1], targetRef: {kind: Pod, name: two}}",
    );
    let c = slice(
        "c",
        ", creationTimestamp: 2026-01-02T00:00:00Z",
        "{addresses: [10.9.0.1], targetRef: {kind: Pod, name: one}}",
    );
    let outcome = compiled(&format!("{}{a}{b}{c}", without_selector()));
    let of = |slice: &str| of_slice(&outcome, slice, "10.9.0.1");
    assert_eq!((of("a"), of("b"), of("c")), (None, Some(Health::Healthy), None));
}

#[test]
fn an_address_that_two_live_pods_name_is_the_one_that_is_not_ending_and_else_the_newest() {
    let early = ", creationTimestamp: 2026-01-01T00:00:00Z";
    let late = ", creationTimestamp: 2026-01-02T00:00:00Z";
    for (a, b, status, owner) in [
        (early.to_owned(), late.to_owned(), "", "b"),
        (late.to_owned(), early.to_owned(), "", "a"),
        (early.to_owned(), format!("{late}{ENDING}"), "", "a"),
        (early.to_owned(), late.to_owned(), ", phase: Succeeded", "a"),
    ] {
        let yaml = format!(
            "{}{}",
            pod("a", "10.0.0.1", &a, "True", ""),
            pod("b", "10.0.0.1", &b, "True", status)
        );
        let mut outcome = compiled(&yaml);
        let owners = |outcome: &Outcome| {
            let uid = |name: &str| format!("Kubernetes//Pod/shop/{name}");
            ["a", "b"]
                .into_iter()
                .filter(|n| outcome.workload(&uid(n)).is_some())
                .collect::<Vec<_>>()
        };
        assert_eq!(owners(&outcome), [owner], "{yaml}");
        // The other has it when the owner is gone.
        let gone = objects(&yaml).into_iter().find(|o| *o.meta().name == *owner).unwrap();
        outcome.0.delete(&gone.key());
        outcome.0.flush();
        let other = if owner == "a" && status.is_empty() {
            vec!["b"]
        } else if owner == "b" {
            vec!["a"]
        } else {
            vec![]
        };
        assert_eq!(owners(&outcome), other, "{yaml}");
    }
}

#[test]
fn pods_on_the_hosts_network_share_its_address() {
    let host = |name: &str| {
        pod(name, "10.0.0.1", "", "True", "")
            .replace("nodeName: n1", "nodeName: n1, hostNetwork: true")
    };
    let outcome = compiled(&format!("{SERVICE}{}{}", host("a"), host("b")));
    for name in ["a", "b"] {
        let pod = outcome.pod(name);
        assert_eq!(
            (pod.network_mode, pod.tunnel),
            (NetworkMode::HostNetwork, TunnelProtocol::None)
        );
        assert_eq!(endpoints(&pod), ["shop/web.shop.svc.cluster.local 80:80"]);
    }
}

#[test]
fn nobody_is_known_by_an_address_that_a_slice_names() {
    // The address of a pod, without a reference to it: that it is the pod's, a slice does not prove.
    let captured = ", annotations: {ambient.istio.io/redirection: enabled}";
    let pod = pod("web", "10.0.0.1", captured, "True", "");
    let slice = slice("e", "", "{addresses: [10.0.0.1]}");
    let outcome = compiled(&format!("{}{pod}{slice}", without_selector()));
    let uid = "Kubernetes/discovery.k8s.io/EndpointSlice/shop/e/10.0.0.1";
    let endpoint = outcome.workload(uid).unwrap();
    assert_eq!(endpoint.network_mode, NetworkMode::HostNetwork);
    assert_eq!(endpoint.service_account.as_str(), "default");
    assert_eq!(endpoints(&outcome.pod("web")), Vec::<String>::new(), "not merged by address");
    assert_eq!(outcome.pod("web").tunnel, TunnelProtocol::Hbone);
}

#[test]
fn a_selector_that_goes_hands_over_to_the_slices_and_back() {
    let web = pod("web", "10.0.0.1", "", "True", "");
    let slice = slice("e", "", "{addresses: [10.9.0.1]}");
    let mut outcome = compiled(&format!("{SERVICE}{web}{slice}"));
    for (service, by_slice, by_pod) in [
        (SERVICE.to_owned(), None, 1),
        (without_selector(), Some(Health::Healthy), 0),
        (SERVICE.to_owned(), None, 1),
        (SERVICE.replace("clusterIP", "type: ExternalName, clusterIP"), None, 0),
        (without_selector(), Some(Health::Healthy), 0),
    ] {
        outcome.apply(&service);
        assert_eq!(of_slice(&outcome, "e", "10.9.0.1"), by_slice, "{service}");
        assert_eq!(outcome.pod("web").services.len(), by_pod, "{service}");
        assert_eq!(outcome.0.check(), []);
    }
}

#[test]
fn slices_of_both_families_are_one_service_and_a_pod_in_both_is_one_workload() {
    let web = pod("web", "10.0.0.1", "", "True", ", podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]");
    let reference = "targetRef: {kind: Pod, name: web}";
    let four = slice(
        "four",
        "",
        &format!("{{addresses: [10.0.0.1], {reference}}}, {{addresses: [10.9.0.1]}}"),
    );
    let six = slice(
        "six",
        "",
        &format!("{{addresses: ['fd00::1'], {reference}}}, {{addresses: ['fd09::1']}}"),
    );
    let outcome = compiled(&format!("{}{web}{four}{six}", without_selector()));
    assert_eq!(endpoints(&outcome.pod("web")), ["shop/web.shop.svc.cluster.local 80:80"]);
    assert_eq!(outcome.pod("web").addresses.len(), 2);
    assert_eq!(of_slice(&outcome, "four", "10.9.0.1"), Some(Health::Healthy));
    assert_eq!(of_slice(&outcome, "six", "fd09::1"), Some(Health::Healthy));
    assert_eq!(of_slice(&outcome, "four", "10.0.0.1"), None);
}

const NODE: &str = "
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {topology.kubernetes.io/region: eu, topology.kubernetes.io/zone: eu-1}}
---
";

#[test]
fn a_pod_is_where_its_node_is_unless_it_says_so_itself() {
    let plain = pod("plain", "10.0.0.1", "", "True", "");
    let own = pod("own", "10.0.0.2", "", "True", "")
        .replace("app: web", "app: web, topology.kubernetes.io/zone: eu-2");
    let mut outcome = compiled(&format!("{plain}{own}"));
    let place = |outcome: &Outcome, name: &str| {
        let locality = outcome.pod(name).locality.clone();
        format!("{}/{}", locality.region, locality.zone)
    };
    assert_eq!((&*place(&outcome, "plain"), &*place(&outcome, "own")), ("/", "/eu-2"));
    for (node, plain) in [(NODE.to_owned(), "eu/eu-1"), (NODE.replace("eu-1", "eu-3"), "eu/eu-3")] {
        outcome.apply(&node);
        assert_eq!((&*place(&outcome, "plain"), &*place(&outcome, "own")), (plain, "eu/eu-2"));
    }
}

#[test]
fn an_endpoint_of_a_slice_is_in_the_region_of_its_node() {
    // In a zone without a region it would be in nobody's zone, and `PreferSameZone` would pass it over.
    let slice = slice("e", "", "{addresses: [10.9.0.1], nodeName: n1, zone: eu-1}");
    let outcome = compiled(&format!("{NODE}{}{slice}", without_selector()));
    let uid = "Kubernetes/discovery.k8s.io/EndpointSlice/shop/e/10.9.0.1";
    let locality = outcome.workload(uid).unwrap().locality.clone();
    assert_eq!((&*locality.region, &*locality.zone), ("eu", "eu-1"));
}
