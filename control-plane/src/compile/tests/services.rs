use weft_model::{
    AppProtocol, Change, Health, HealthPolicy, IpFamilies, Mode, RoutingScope::*, Visibility,
};

use super::{compiled, endpoints};

fn service(spec: &str) -> std::sync::Arc<weft_model::Service> {
    let yaml = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: shop}}\nspec: {spec}"
    );
    compiled(&yaml).service("shop/web.shop.svc.cluster.local")
}

#[test]
fn a_service_has_its_addresses_ports_and_families() {
    let web = service(
        "{clusterIP: 10.1.0.1, clusterIPs: [10.1.0.1, 'fd01::1'], ipFamilies: [IPv4, IPv6], ports: [{port: 80, targetPort: 8080, appProtocol: http}, {port: 81, targetPort: named, appProtocol: kubernetes.io/h2c}, {port: 82}, {port: 53, protocol: UDP}]}",
    );
    let vips: Vec<String> = web.vips.iter().map(|v| v.address().to_string()).collect();
    assert_eq!(vips, ["10.1.0.1", "fd01::1"]);
    let ports: Vec<_> =
        web.ports.iter().map(|p| (p.service_port, p.target_port, p.app_protocol)).collect();
    assert_eq!(
        ports,
        [
            (80, 8080, AppProtocol::Http11),
            (81, 0, AppProtocol::Http2),
            (82, 82, AppProtocol::Unknown)
        ]
    );
    assert_eq!((web.ip_families, web.canonical), (IpFamilies::Dual, true));
    assert_eq!(web.visibility, Visibility::Public);
}

#[test]
fn a_headless_service_has_no_address_and_ignores_target_ports() {
    let web = service("{clusterIP: None, ports: [{port: 80, targetPort: 8080}]}");
    assert_eq!((web.vips.len(), web.ports[0].target_port), (0, 80));
}

#[test]
fn an_external_name_is_no_service() {
    let outcome = compiled(
        "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {type: ExternalName}",
    );
    assert_eq!(outcome.0.resources().count(), 0);
}

#[test]
fn traffic_policies_become_preferences() {
    let cases = [
        ("{}", Mode::Any, vec![]),
        ("{internalTrafficPolicy: Local}", Mode::Strict, vec![Node]),
        ("{trafficDistribution: PreferClose}", Mode::Failover, vec![Network, Region, Zone]),
        ("{trafficDistribution: PreferSameZone}", Mode::Failover, vec![Network, Region, Zone]),
        (
            "{trafficDistribution: PreferSameNode}",
            Mode::Failover,
            vec![Network, Region, Zone, Subzone, Node],
        ),
    ];
    for (spec, mode, preference) in cases {
        let balancing = service(spec).load_balancing.clone();
        assert_eq!((balancing.mode, balancing.routing_preference), (mode, preference), "{spec}");
        assert_eq!(balancing.health, HealthPolicy::OnlyHealthy, "{spec}");
    }
}

#[test]
fn what_a_port_speaks_is_what_its_app_protocol_says_and_else_unknown() {
    for (said, protocol) in [
        ("http", AppProtocol::Http11),
        ("kubernetes.io/ws", AppProtocol::Http11),
        ("ws", AppProtocol::Http11),
        ("kubernetes.io/h2c", AppProtocol::Http2),
        ("grpc", AppProtocol::Grpc),
        ("https", AppProtocol::Tls),
        ("kubernetes.io/wss", AppProtocol::Tls),
        ("wss", AppProtocol::Tls),
        ("tcp", AppProtocol::Tcp),
        ("mongo.example/wire", AppProtocol::Unknown),
    ] {
        let web = service(&format!("{{ports: [{{port: 80, appProtocol: {said}}}]}}"));
        assert_eq!(web.ports[0].app_protocol, protocol, "{said}");
    }
    let web = service("{ports: [{port: 80, name: http-web}]}");
    assert_eq!(web.ports[0].app_protocol, AppProtocol::Unknown, "a name says nothing");
}

#[test]
fn publishing_endpoints_that_are_not_ready_is_each_services_own_choice() {
    let both = "{publishNotReadyAddresses: true, trafficDistribution: PreferClose}";
    assert_eq!(service(both).load_balancing.health, HealthPolicy::AllowAll);
    assert_eq!(
        service("{trafficDistribution: PreferClose}").load_balancing.health,
        HealthPolicy::OnlyHealthy
    );
}

const SLICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {clusterIP: 10.1.0.2, ports: [{name: sql, port: 5432}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db-0, namespace: shop}
status: {podIP: 10.0.0.9}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-1, namespace: shop, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{name: sql, port: 15432}]
endpoints:
- addresses: [10.9.0.1]
- addresses: [10.9.0.2]
  conditions: {ready: false}
- addresses: [10.9.0.3]
  conditions: {ready: false, serving: true, terminating: true}
- addresses: [10.0.0.9]
  targetRef: {kind: Pod, name: db-0}
- addresses: [10.9.0.4]
  targetRef: {kind: Pod, name: gone}
";

fn health(outcome: &super::Outcome, slice: &str, ip: &str) -> Option<Health> {
    let uid = format!("Kubernetes/discovery.k8s.io/EndpointSlice/shop/{slice}/{ip}");
    outcome.workload(&uid).map(|w| w.health)
}

#[test]
fn endpoints_of_a_service_without_selector_come_from_slices() {
    let outcome = compiled(SLICES);
    let of = |ip: &str| health(&outcome, "db-1", ip);
    assert_eq!(of("10.9.0.1"), Some(Health::Healthy), "not said to be ready is ready");
    assert_eq!(of("10.9.0.2"), Some(Health::Unhealthy));
    assert_eq!(of("10.9.0.3"), Some(Health::Unhealthy), "another one is ready");
    assert_eq!(of("10.0.0.9"), None, "the pod itself is the endpoint");
    assert_eq!(of("10.9.0.4"), Some(Health::Healthy), "its pod is not known");
    assert_eq!(endpoints(&outcome.pod("db-0")), ["shop/db.shop.svc.cluster.local 5432:15432"]);
}

#[test]
fn a_terminating_endpoint_that_serves_is_used_when_none_is_ready() {
    let outcome = compiled(
        &SLICES
            .replace(
                "- addresses: [10.9.0.1]",
                "- addresses: [10.9.0.1]\n  conditions: {ready: false}",
            )
            .replace("  targetRef: {kind: Pod, name: gone}", "  conditions: {ready: false}")
            .replace(
                "{kind: Pod, name: db-0}",
                "{kind: Pod, name: db-0}\n  conditions: {ready: false}",
            ),
    );
    assert_eq!(health(&outcome, "db-1", "10.9.0.3"), Some(Health::Healthy));
}

#[test]
fn of_one_endpoint_in_two_slices_the_ready_one_counts() {
    let second = "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-2, namespace: shop, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{name: sql, port: 15432}]
endpoints: [{addresses: [10.9.0.1], conditions: {ready: false}}, {addresses: [10.9.0.2]}]
";
    let outcome = compiled(&format!("{SLICES}{second}"));
    let of = |ip: &str| (health(&outcome, "db-1", ip), health(&outcome, "db-2", ip));
    assert_eq!(of("10.9.0.1"), (Some(Health::Healthy), None));
    assert_eq!(of("10.9.0.2"), (None, Some(Health::Healthy)));
}

#[test]
fn slices_of_a_service_with_a_selector_are_left_to_its_pods() {
    let outcome = compiled(&SLICES.replace("{clusterIP", "{selector: {app: db}, clusterIP"));
    let workloads = outcome.0.resources().filter(|c| matches!(c, Change::Workload(_))).count();
    assert_eq!(workloads, 1, "the pod alone");
}

#[test]
fn a_slice_cannot_draw_in_a_pod_of_another_namespace() {
    let outcome = compiled(
        &SLICES.replace("kind: Pod, name: db-0", "kind: Pod, namespace: bank, name: db-0"),
    );
    assert_eq!(endpoints(&outcome.pod("db-0")), Vec::<String>::new());
}
