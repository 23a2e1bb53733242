use serde_json::{Value, json};

use super::*;

fn pod(name: &str, ip: &str, more: &Value) -> Value {
    let mut pod = json!({
        "uid": format!("Kubernetes//Pod/shop/{name}"), "name": name, "namespace": "shop",
        "serviceAccount": name, "protocol": "HBONE", "workloadIps": [ip], "node": "n1",
    });
    pod.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    pod
}

fn endpoints(names: &[&str], ports: &Value) -> Value {
    let of = |name: &&str| {
        let uid = format!("Kubernetes//Pod/shop/{name}");
        (uid.clone(), json!({"workloadUid": uid, "port": ports}))
    };
    Value::Object(names.iter().map(of).collect())
}

/// `web` has an address and four pods, `db` none and one, `far` is outside.
fn view() -> View {
    let zone = |zone: &str| json!({"locality": {"region": "r", "zone": zone, "subzone": ""}});
    let service = |name: &str, host: &str, vips: &Value, ports: &Value, endpoints: Value| {
        json!({"name": name, "namespace": "shop", "hostname": host, "vips": vips, "ports": ports,
            "endpoints": endpoints})
    };
    let mut web = service(
        "web",
        "web.shop.svc.cluster.local",
        &json!(["/10.1.0.1"]),
        &json!({"80": 8080, "81": 0}),
        endpoints(&["web-0", "web-1", "web-2"], &json!({"80": 8080})),
    );
    web["loadBalancer"] = json!({"mode": "Failover", "routingPreferences": ["Zone"],
        "healthPolicy": "OnlyHealthy"});
    let dump = json!({
        "workloads": [
            pod("client", "10.0.0.1", &zone("a")),
            pod("web-0", "10.0.0.3", &zone("a")),
            pod("web-1", "10.0.0.4", &json!({"status": "Unhealthy"})),
            pod("web-2", "10.0.0.5", &zone("b")),
            pod("db-0", "10.0.0.6", &json!({})),
        ],
        "services": [
            web,
            service("db", "db.shop.svc.cluster.local", &json!([]), &json!({"5432": 5432}),
                endpoints(&["db-0"], &json!({}))),
            service("far", "api.example.com", &json!(["/240.240.0.1"]), &json!({"443": 443}), json!({})),
        ],
    });
    let dump: Dump = serde_json::from_value(dump).unwrap();
    crate::source::view(dump).unwrap()
}

fn asked(text: &str, from: Option<&str>, namespace: Option<&str>) -> Value {
    let question = Question { text, from, namespace, cluster_domain: "cluster.local" };
    serde_json::to_value(resolve(&view(), &question).unwrap()).unwrap()
}

/// The endpoints' names, and why each is left out.
fn left_out(resolution: &Value) -> Vec<(String, Value)> {
    let all = resolution["endpoints"].as_array().unwrap().iter();
    let name = |it: &Value| it["workload"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    all.map(|it| (name(it), it["leftOut"].clone())).collect()
}

#[test]
fn each_way_to_write_a_service_leads_to_it_and_says_why_an_endpoint_is_left_out() {
    for text in [
        "web",
        "web.shop",
        "web.shop.svc",
        "web.shop.svc.cluster.local",
        "web.shop.svc.cluster.local.",
        "WEB.shop",
        "10.1.0.1",
    ] {
        let said = asked(&format!("{text}:80"), Some("shop/client"), None);
        assert_eq!(said["service"], "shop/web.shop.svc.cluster.local", "{text}: {said}");
        assert_eq!(said["addresses"], json!(["10.1.0.1"]), "{text}");
        assert_eq!(said["ports"], json!({"80": 8080}), "{text}");
        let why = [
            ("web-0".to_owned(), Value::Null),
            ("web-1".to_owned(), json!({"80": "unhealthy"})),
            ("web-2".to_owned(), json!({"80": "farther"})),
        ];
        assert_eq!(left_out(&said), why, "{text}");
        assert_eq!(said.get("problem"), None, "{text}");
    }
}

#[test]
fn without_a_port_all_are_looked_at_and_one_that_nobody_serves_is_a_problem() {
    let said = asked("web", Some("shop/client"), None);
    assert_eq!(said["ports"], json!({"80": 8080, "81": 0}));
    assert_eq!(left_out(&said)[0].1, json!({"81": "noPort"}));
    assert_eq!(said["problem"], "no endpoint can serve port 81");
    let said = asked("web:82", Some("shop/client"), None);
    assert!(said["problem"].as_str().unwrap().contains("82"), "{said}");
}

#[test]
fn nobody_in_particular_of_a_namespace_may_ask() {
    let said = asked("web:80", None, Some("shop"));
    assert_eq!((&said["namespace"], said.get("from")), (&json!("shop"), None));
    // Equally far from all, as long as none says where it is.
    assert_eq!(left_out(&said)[1].1, json!({"80": "unhealthy"}));
    let said = asked("web:80", None, None);
    assert_eq!((&said["is"], &said["namespace"]), (&json!("unknown"), &json!("default")));
    assert!(said["problem"].as_str().unwrap().contains("resolver"), "{said}");
}

#[test]
fn a_service_without_an_address_has_those_of_its_endpoints_and_each_its_own_name() {
    let said = asked("db.shop:5432", Some("shop/client"), None);
    assert_eq!((&said["is"], &said["addresses"]), (&json!("service"), &json!(["10.0.0.6"])));
    let said = asked("db-0.db", Some("shop/client"), None);
    assert_eq!(
        (&said["is"], &said["name"]),
        (&json!("workload"), &json!("db-0.db.shop.svc.cluster.local"))
    );
    assert_eq!(left_out(&said), [("db-0".to_owned(), Value::Null)]);
}

#[test]
fn addresses_of_pods_and_of_nobody_and_names_outside_are_told_apart() {
    let said = asked("10.0.0.3", None, None);
    assert_eq!((&said["is"], left_out(&said)[0].0.as_str()), (&json!("workload"), "web-0"));
    let said = asked("192.0.2.1:80", None, None);
    assert_eq!(said["is"], "unknown");
    assert!(said["problem"].as_str().unwrap().contains("in the clear"), "{said}");
    let said = asked("api.example.com", None, None);
    assert_eq!(
        (&said["service"], &said["name"]),
        (&json!("shop/api.example.com"), &json!("api.example.com"))
    );
    assert_eq!(said["problem"], "no endpoint can serve port 443");
}
