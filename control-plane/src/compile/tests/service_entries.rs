use weft_model::{HealthPolicy, Mode, TunnelProtocol, Visibility};

use super::{compiled, endpoints};

fn entry(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n---\n"
    )
}

#[test]
fn a_name_by_dns_is_a_service_with_an_address_of_ours_and_itself_as_endpoint() {
    let outcome = compiled(&entry(
        "pay",
        "{hosts: [pay.example.com], ports: [{number: 443, name: tls, protocol: TLS}], resolution: DNS}",
    ));
    let pay = outcome.service("shop/pay.example.com");
    assert_eq!(pay.vips.len(), 1);
    let vip = pay.vips[0].address().to_string();
    assert!(vip.starts_with("240.240."), "{vip}");
    assert!(pay.canonical);
    let endpoint = outcome
        .workload("Kubernetes/networking.istio.io/ServiceEntry/shop/pay/pay.example.com")
        .unwrap();
    assert_eq!(endpoint.hostname.as_ref().unwrap().as_str(), "pay.example.com");
    assert_eq!((endpoint.addresses.len(), endpoint.tunnel), (0, TunnelProtocol::None));
    assert_eq!(endpoints(&endpoint), ["shop/pay.example.com 443:443"]);
    let again = compiled(&entry("pay", "{hosts: [pay.example.com], resolution: DNS}"));
    assert_eq!(again.service("shop/pay.example.com").vips, pay.vips, "the same every time");
}

#[test]
fn a_name_without_resolution_passes_through() {
    let outcome =
        compiled(&entry("lan", "{hosts: [lan.example.com], addresses: [10.5.0.0/16, 10.6.0.1]}"));
    let lan = outcome.service("shop/lan.example.com");
    let balancing = (lan.load_balancing.mode, lan.load_balancing.health);
    assert_eq!(balancing, (Mode::Passthrough, HealthPolicy::AllowAll));
    assert_eq!((lan.vips.len(), lan.cidr_vips[0].cidr.to_string()), (1, "10.5.0.0/16".into()));
    assert_eq!(outcome.0.resources().count(), 1);
}

#[test]
fn static_endpoints_are_workloads_with_their_own_ports() {
    let outcome = compiled(&entry(
        "db",
        "{hosts: [db.example.com], ports: [{number: 80, name: http}, {number: 90, name: x, targetPort: 91}], resolution: STATIC, endpoints: [{address: 10.7.0.1, ports: {http: 8080}, weight: 3, locality: eu/eu-1}, {address: nowhere.example.com}, {address: /unix}], exportTo: ['.']}",
    ));
    let one =
        outcome.workload("Kubernetes/networking.istio.io/ServiceEntry/shop/db/10.7.0.1").unwrap();
    assert_eq!(endpoints(&one), ["shop/db.example.com 80:8080,90:91"]);
    assert_eq!((one.capacity, &*one.locality.zone), (3, "eu-1"));
    assert_eq!(outcome.0.resources().count(), 2);
    assert_eq!(outcome.service("shop/db.example.com").visibility, Visibility::Namespace);
    assert_eq!(outcome.problems().len(), 2, "{:?}", outcome.problems());
}

#[test]
fn a_selector_draws_in_pods_and_workload_entries() {
    let outcome = compiled(&format!(
        "{}
apiVersion: v1
kind: Pod
metadata: {{name: in, namespace: shop, labels: {{app: db}}}}
status: {{podIP: 10.0.0.1}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: vm, namespace: shop}}
spec: {{address: 10.8.0.1, labels: {{app: db}}, ports: {{http: 8080}}, serviceAccount: db}}
",
        entry(
            "db",
            "{hosts: [db.example.com], ports: [{number: 80, name: http, targetPort: 8081}], resolution: STATIC, workloadSelector: {labels: {app: db}}}"
        )
    ));
    assert_eq!(endpoints(&outcome.pod("in")), ["shop/db.example.com 80:8081"]);
    let vm = outcome.workload("Kubernetes/networking.istio.io/WorkloadEntry/shop/vm").unwrap();
    assert_eq!(endpoints(&vm), ["shop/db.example.com 80:8080"]);
    assert_eq!(vm.identity().to_string(), "spiffe://prod.example/ns/shop/sa/db");
}

#[test]
fn of_two_entries_for_one_host_the_older_is_in_force_and_the_other_is_told() {
    let newer = entry("a", "{hosts: [x.example.com], addresses: [10.1.1.1]}")
        .replace("name: a,", "name: a, creationTimestamp: 2026-02-01T00:00:00Z,");
    let older = entry("b", "{hosts: [x.example.com], addresses: [10.1.1.2]}")
        .replace("name: b,", "name: b, creationTimestamp: 2026-01-01T00:00:00Z,");
    let outcome = compiled(&format!("{newer}{older}"));
    let vip = outcome.service("shop/x.example.com").vips[0].address().to_string();
    assert_eq!(vip, "10.1.1.2");
    assert_eq!(
        outcome.problems(),
        ["ServiceEntry shop/a spec.hosts: is named by b already, which is used"]
    );
}

#[test]
fn a_wildcard_has_neither_address_nor_endpoint() {
    let outcome = compiled(&entry("w", "{hosts: ['*.example.com'], resolution: DNS}"));
    assert_eq!(outcome.service("shop/*.example.com").vips.len(), 0);
    assert_eq!(outcome.0.resources().count(), 1);
}
