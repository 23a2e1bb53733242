use weft_model::{Health, Locality, NetworkMode, TunnelProtocol};

use super::{compiled, endpoints};

const POD: &str = "
apiVersion: v1
kind: Pod
metadata:
  name: web
  namespace: shop
  annotations: {ambient.istio.io/redirection: enabled}
spec: {nodeName: a, serviceAccountName: web}
status: {phase: Running, podIP: 10.0.0.1, conditions: [{type: Ready, status: 'True'}]}
";

#[test]
fn a_captured_pod_is_a_workload_with_its_identity_behind_hbone() {
    let web = compiled(POD).pod("web");
    assert_eq!(web.identity().to_string(), "spiffe://prod.example/ns/shop/sa/web");
    assert_eq!(web.tunnel, TunnelProtocol::Hbone);
    assert_eq!(web.addresses, ["10.0.0.1".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!((&*web.node, web.health, web.capacity), ("a", Health::Healthy, 1));
    assert_eq!((web.native_tunnel, &*web.cluster_id), (false, "Kubernetes"));
}

#[test]
fn a_finished_pod_is_gone_though_its_address_is_still_written() {
    for phase in ["Succeeded", "Failed"] {
        let outcome = compiled(&POD.replace("Running", phase));
        assert_eq!(outcome.0.resources().count(), 0, "{phase}");
    }
}

#[test]
fn a_pending_pod_with_an_address_is_live_and_not_ready() {
    let pod = POD.replace("Running", "Pending").replace("'True'", "'False'");
    assert_eq!(compiled(&pod).pod("web").health, Health::Unhealthy);
}

#[test]
fn a_pod_without_address_is_not_reachable_and_no_mistake() {
    let outcome = compiled(&POD.replace("podIP: 10.0.0.1, ", ""));
    assert_eq!((outcome.0.resources().count(), outcome.problems()), (0, vec![]));
}

#[test]
fn a_pod_that_is_being_deleted_gets_no_new_connections() {
    let pod = POD.replace("  name: web", "  name: web\n  deletionTimestamp: 2026-01-01T00:00:00Z");
    assert_eq!(compiled(&pod).pod("web").health, Health::Unhealthy);
}

#[test]
fn a_pod_written_by_hand_without_conditions_is_ready() {
    let pod = POD.replace(", conditions: [{type: Ready, status: 'True'}]", "");
    assert_eq!(compiled(&pod).pod("web").health, Health::Healthy);
}

#[test]
fn a_pod_on_the_hosts_network_is_not_captured_and_not_found_by_address() {
    let web = compiled(&POD.replace("nodeName: a", "nodeName: a, hostNetwork: true")).pod("web");
    assert_eq!((web.tunnel, web.network_mode), (TunnelProtocol::None, NetworkMode::HostNetwork));
}

#[test]
fn a_pod_that_is_not_captured_is_reached_in_plain() {
    let web = compiled(&POD.replace(": enabled", ": disabled")).pod("web");
    assert_eq!(web.tunnel, TunnelProtocol::None);
}

#[test]
fn a_pod_that_speaks_hbone_itself_says_so_by_label() {
    let pod = POD.replace(
        "  annotations: {ambient.istio.io/redirection: enabled}",
        "  labels: {networking.istio.io/tunnel: http}",
    );
    let web = compiled(&pod).pod("web");
    assert_eq!((web.tunnel, web.native_tunnel), (TunnelProtocol::Hbone, true));
}

#[test]
fn both_families_are_one_workload() {
    let pod = POD
        .replace("podIP: 10.0.0.1", "podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]");
    let web = compiled(&pod).pod("web");
    let addresses: Vec<String> = web.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.0.0.1", "fd00::1"]);
}

#[test]
fn names_and_locality_come_from_labels_and_owners() {
    let pod = POD.replace(
        "  annotations:",
        "  labels: {app: shop-web, version: v2, pod-template-hash: abc12, topology.kubernetes.io/region: eu, topology.kubernetes.io/zone: eu-1}
  ownerReferences: [{kind: ReplicaSet, name: front-abc12, controller: true}]
  annotations:",
    );
    let web = compiled(&pod).pod("web");
    assert_eq!(
        (&*web.canonical_name, &*web.canonical_revision, &*web.workload_name),
        ("shop-web", "v2", "front")
    );
    let locality = Locality { region: "eu".into(), zone: "eu-1".into(), subzone: "".into() };
    assert_eq!(web.locality, locality);
}

#[test]
fn a_bad_address_is_reported_and_the_pod_left_out() {
    let outcome = compiled(&POD.replace("10.0.0.1", "10.0.0"));
    assert_eq!(outcome.0.resources().count(), 0);
    assert_eq!(outcome.problems(), Vec::<String>::new(), "a pod that is not live says nothing");
}

#[test]
fn a_named_port_is_resolved_in_each_pod_and_left_out_where_it_is_missing() {
    let outcome = compiled(
        "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.1.0.1
  selector: {app: web}
  ports: [{name: a, port: 80, targetPort: http}, {name: b, port: 81, targetPort: 8081}, {name: c, port: 53, protocol: UDP}, {name: d, port: 82}]
---
apiVersion: v1
kind: Pod
metadata: {name: old, namespace: shop, labels: {app: web}}
spec: {containers: [{ports: [{name: http, containerPort: 8080}]}]}
status: {podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: new, namespace: shop, labels: {app: web}}
spec: {containers: [{}], initContainers: [{ports: [{name: http, containerPort: 9090}], restartPolicy: Always}]}
status: {podIP: 10.0.0.2}
---
apiVersion: v1
kind: Pod
metadata: {name: none, namespace: shop, labels: {app: web}}
status: {podIP: 10.0.0.3}
---
apiVersion: v1
kind: Pod
metadata: {name: elsewhere, namespace: other, labels: {app: web}}
status: {podIP: 10.0.0.4}
",
    );
    let of = |name: &str| endpoints(&outcome.pod(name));
    assert_eq!(of("old"), ["shop/web.shop.svc.cluster.local 80:8080,81:8081,82:82"]);
    assert_eq!(of("new"), ["shop/web.shop.svc.cluster.local 80:9090,81:8081,82:82"]);
    assert_eq!(of("none"), ["shop/web.shop.svc.cluster.local 81:8081,82:82"]);
    let elsewhere = outcome.workload("Kubernetes//Pod/other/elsewhere").unwrap();
    assert_eq!(endpoints(&elsewhere), Vec::<String>::new());
}
