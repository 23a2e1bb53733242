use std::collections::BTreeSet;

use serde_json::{Value, json};
use weft_model::{
    View,
    dump::{
        Cert, CertificateDump, ConnectionDump, ConnectionsDump, Dump, WorkloadInfoDump,
        WorkloadStateDump,
    },
};

use crate::random::Random;

fn read(text: &str) -> Dump {
    serde_json::from_str(text).unwrap()
}

fn view(dump: Dump) -> View {
    dump.into_changes().unwrap().into_iter().collect()
}

#[test]
fn a_view_made_from_the_dump_of_a_view_equals_it() {
    for seed in 0..1000 {
        let original = Random(seed).view();
        let text = serde_json::to_string(&Dump::of(&original)).unwrap();
        assert_eq!(view(read(&text)), original, "seed {seed}");
    }
}

#[test]
fn a_dump_is_written_the_same_whatever_led_to_the_view() {
    for seed in 0..200 {
        let dump = Dump::of(&Random(seed).view());
        assert_eq!(Dump::of(&view(dump.clone())), dump, "seed {seed}");
    }
}

/// The keys that some value has, over many dumps.
fn keys<'a, I: Iterator<Item = &'a Value>>(values: I) -> BTreeSet<String> {
    values.filter_map(Value::as_object).flat_map(|o| o.keys().cloned()).collect()
}

fn holds(keys: &BTreeSet<String>, expected: &str) {
    let missing: Vec<_> = expected.split_whitespace().filter(|k| !keys.contains(*k)).collect();
    assert!(missing.is_empty(), "{missing:?} is not written; written is {keys:?}");
}

/// Wire contract 5.2: what `istioctl ztunnel-config` decodes.
#[test]
fn every_field_that_istioctl_decodes_is_written_under_its_name() {
    let dumps: Vec<Value> = (0..300)
        .map(|seed| serde_json::to_value(Dump::of(&Random(seed).view())).unwrap())
        .collect();
    let all = |section: &'static str| {
        dumps.iter().flat_map(move |d| d[section].as_array().unwrap().iter())
    };
    holds(&keys(dumps.iter()), "workloads services policies certificates workloadState");
    holds(
        &keys(all("workloads")),
        "uid workloadIps waypoint networkGateway protocol name namespace serviceAccount workloadName \
         workloadType canonicalName canonicalRevision clusterId trustDomain locality node network status \
         hostname capacity applicationTunnel authorizationPolicies",
    );
    holds(&keys(all("workloads").map(|w| &w["locality"])), "region zone subzone");
    holds(&keys(all("workloads").map(|w| &w["applicationTunnel"])), "protocol port");
    holds(&keys(all("workloads").map(|w| &w["waypoint"])), "destination");
    holds(
        &keys(all("services")),
        "name namespace hostname vips cidrVips ports loadBalancer waypoint endpoints subjectAltNames \
         ipFamilies canonical visibility",
    );
    let balancers = all("services").map(|s| &s["loadBalancer"]);
    holds(&keys(balancers), "mode routingPreferences healthPolicy");
    let endpoints = all("services").flat_map(|s| s["endpoints"].as_object().unwrap().values());
    holds(&keys(endpoints), "workloadUid service address port");
    holds(&keys(all("policies")), "name namespace scope action rules");
    let matches = all("policies").flat_map(|p| p["rules"].as_array().unwrap().iter());
    let matches = matches.flat_map(|r| r.as_array().unwrap()).flat_map(|c| c.as_array().unwrap());
    holds(
        &keys(matches),
        "namespaces notNamespaces principals notPrincipals serviceAccounts notServiceAccounts sourceIps \
         notSourceIps destinationIps notDestinationIps destinationPorts notDestinationPorts",
    );
}

#[test]
fn the_parts_of_the_proxy_are_written_as_istioctl_decodes_them() {
    let connection = ConnectionDump {
        src: "10.0.0.1:1".into(),
        original_dst: "10.1.0.1:80".into(),
        actual_dst: "10.0.0.2:15008".into(),
        protocol: "HBONE".into(),
    };
    let mut dump = Dump::default();
    dump.certificates.push(CertificateDump {
        identity: "spiffe://td/ns/a/sa/b".into(),
        state: "Available".into(),
        cert_chain: vec![Cert {
            pem: "cGVt".into(),
            serial_number: "1".into(),
            valid_from: "2026-01-01T00:00:00Z".into(),
            expiration_time: "2026-01-02T00:00:00Z".into(),
        }],
        root_certs: Vec::new(),
    });
    let state = WorkloadStateDump {
        state: "Up".into(),
        connections: ConnectionsDump { inbound: Vec::new(), outbound: vec![connection] },
        info: WorkloadInfoDump {
            name: "w".into(),
            namespace: "a".into(),
            trust_domain: "td".into(),
            service_account: "b".into(),
        },
    };
    dump.workload_state.insert("uid".into(), state);
    let expected = json!({
        "workloads": [], "services": [], "policies": [],
        "certificates": [{
            "identity": "spiffe://td/ns/a/sa/b", "state": "Available", "rootCerts": [],
            "certChain": [{"pem": "cGVt", "serialNumber": "1", "validFrom": "2026-01-01T00:00:00Z",
                           "expirationTime": "2026-01-02T00:00:00Z"}],
        }],
        "workloadState": {"uid": {
            "state": "Up",
            "connections": {"inbound": [], "outbound": [{"src": "10.0.0.1:1",
                "originalDst": "10.1.0.1:80", "actualDst": "10.0.0.2:15008", "protocol": "HBONE"}]},
            "info": {"name": "w", "namespace": "a", "trustDomain": "td", "serviceAccount": "b"},
        }},
    });
    assert_eq!(serde_json::to_value(dump).unwrap(), expected);
}

#[test]
fn a_dump_in_the_form_of_a_stock_ztunnel_is_read() {
    let text = r#"{
        "workloads": {"10.0.0.1": {"uid": "Kubernetes//Pod/shop/web-0", "workloadIps": ["10.0.0.1"],
            "protocol": "HBONE", "name": "web-0", "namespace": "shop", "serviceAccount": "web",
            "waypoint": {"destination": "shop/wp.shop.svc.cluster.local"}, "hostname": "",
            "networkGateway": {"destination": "east/10.9.9.9", "hboneMtlsPort": 15443},
            "status": "Healthy", "services": [{"namespace": "shop", "hostname": "x"}]}},
        "services": [{"name": "web", "namespace": "shop", "hostname": "web.shop.svc.cluster.local",
            "vips": ["net/one/10.1.0.1", "/fd00::1"], "ports": {"80": 8080},
            "endpoints": {"Kubernetes//Pod/shop/web-0": {"workloadUid": "Kubernetes//Pod/shop/web-0",
                "service": "", "port": {"80": 8080}}}}],
        "policies": [{"name": "p", "namespace": "shop", "scope": "WorkloadSelector", "action": "Deny",
            "rules": [[[{"notPrincipals": [{"Presence": {}}, {"Exact": "a"}]}]]]}]
    }"#;
    let dump = read(text);
    let again = view(dump);
    let pod = again.workloads().next().unwrap();
    assert_eq!(pod.services.len(), 1);
    assert_eq!(again.services().next().unwrap().vips[0].to_string(), "net/one/10.1.0.1");
    assert_eq!(again.policies().count(), 1);
}

#[test]
fn a_wrong_value_is_refused_by_its_name() {
    let refused = |text: &str| {
        let dump: Result<Dump, _> = serde_json::from_str(text);
        match dump {
            Err(error) => error.to_string(),
            Ok(dump) => dump.into_changes().unwrap_err().to_string(),
        }
    };
    let workload = |more: &str| {
        format!(
            r#"{{"uid":"u","name":"n","namespace":"a","serviceAccount":"s","protocol":"TCP"{more}}}"#
        )
    };
    let service = |more: &str| {
        format!(r#"{{"services":[{{"name":"n","namespace":"a","hostname":"h"{more}}}]}}"#)
    };
    for (text, says) in [
        (r#"{"workloads":[{"uid":"u","name":"n","namespace":"a","serviceAccount":"s"}]}"#.into(),
         "missing field `protocol`"),
        (format!(r#"{{"workloads":[{}]}}"#, workload(r#","status":"Well""#)), "`Well`"),
        (format!(r#"{{"workloads":[{0},{0}]}}"#, workload("")), "workloads: `u` is there twice"),
        (format!(r#"{{"workloads":[{}]}}"#, workload(r#","waypoint":{"destination":"x"}"#)), "`x`"),
        (service(r#","vips":["10.0.0.1"]"#), "`10.0.0.1` is not of the form <network>/<address>"),
        (service(r#","cidrVips":["/10.0.0.1"]"#), "`/10.0.0.1` is not of the form"),
        (service(r#","ports":{"0":80}"#), "services[0].ports: port 0"),
        (service(r#","appProtocols":{"80":"Grpc"}"#), "services[0].appProtocols: port 80"),
        (service(r#","endpoints":{"u":{"workloadUid":"v"}}"#), "services[0].endpoints.u: key `u`"),
        (service(r#","endpoints":{"u":{"workloadUid":"u"}}"#), "workload `u` is not in `workloads`"),
        (r#"{"policies":[{"name":"p","scope":"Global","action":"Deny","rules":[[[{"principal":[]}]]]}]}"#
            .into(), "unknown field `principal`"),
        (r#"{"policies":[{"name":"","scope":"Global","action":"Deny"}]}"#.into(), "policies[0]"),
    ] {
        let error = refused(&text);
        assert!(error.contains(says), "{text} said {error:?}, without {says:?}");
    }
}
