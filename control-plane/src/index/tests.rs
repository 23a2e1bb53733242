use proptest::prelude::*;
use weft_model::{Change, ResourceKey, View};

use super::*;
use crate::{
    compile::tests::{compiled, mesh, objects},
    objects::Kind,
};

/// Names are few, so that objects meet: each is written in a few ways, and may be absent.
fn object() -> impl Strategy<Value = String> {
    let namespace = || prop_oneof![6 => Just("a"), 1 => Just("b"), 1 => Just("istio-system")];
    let app = || prop_oneof![Just("x"), Just("y1")];
    let id = || 0..2u8;
    let host = || prop_oneof![Just("h.example"), Just("i.example"), Just("s0.a.svc.cluster.local")];
    let mode = || prop_oneof![Just("STRICT"), Just("PERMISSIVE"), Just("UNSET"), Just("BROKEN")];
    prop_oneof![
        4 => (namespace(), id(), app(), 0..4u8, any::<bool>()).prop_map(|(ns, id, app, ip, done)| format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: p{id}, namespace: {ns}, labels: {{app: {app}}}}}, spec: {{nodeName: n{ip}, containers: [{{ports: [{{name: web, containerPort: 808{ip}}}]}}]}}, status: {{podIP: 10.0.0.{ip}, phase: {}}}}}",
            if done { "Succeeded" } else { "Running" }
        )),
        2 => (namespace(), id(), proptest::option::of(app()), 0..2u8).prop_map(|(ns, id, app, kind)| format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: s{id}, namespace: {ns}}}, spec: {{clusterIP: 10.1.0.{id}, type: {}, selector: {{{}}}, ports: [{{name: web, port: 80, targetPort: web}}]}}}}",
            if kind == 0 { "ClusterIP" } else { "ExternalName" },
            app.map(|app| format!("app: {app}")).unwrap_or_default()
        )),
        2 => (namespace(), id(), id(), id(), any::<bool>()).prop_map(|(ns, id, service, pod, ready)| format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: e{id}, namespace: {ns}, labels: {{kubernetes.io/service-name: s{service}}}}}, ports: [{{name: web, port: 90}}], endpoints: [{{addresses: [10.9.0.{pod}], targetRef: {{kind: Pod, name: p{pod}}}, conditions: {{ready: {ready}}}}}, {{addresses: [10.9.0.9], conditions: {{ready: false, terminating: true}}}}]}}"
        )),
        2 => (namespace(), id(), host(), 0..4u8, app()).prop_map(|(ns, id, host, shape, app)| {
            let shape = match shape {
                0 => "resolution: DNS".to_owned(),
                1 => "addresses: [10.3.0.0/16]".to_owned(),
                2 => format!("resolution: STATIC, workloadSelector: {{labels: {{app: {app}}}}}"),
                _ => "resolution: STATIC, endpoints: [{address: 10.4.0.1}, {address: 10.4.0.1}]".to_owned(),
            };
            format!("{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: se{id}, namespace: {ns}}}, spec: {{hosts: [{host}], ports: [{{number: 80, name: web}}], {shape}}}}}")
        }),
        1 => (namespace(), id(), app()).prop_map(|(ns, id, app)| format!(
            "{{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {{name: w{id}, namespace: {ns}}}, spec: {{address: 10.5.0.{id}, labels: {{app: {app}}}}}}}"
        )),
        2 => (namespace(), id(), app(), 0..5u8).prop_map(|(ns, id, app, shape)| {
            let spec = match shape {
                0 => "{}".to_owned(),
                1 => format!("{{selector: {{matchLabels: {{app: {app}}}}}, action: DENY, rules: [{{}}]}}"),
                2 => format!("{{selector: {{matchLabels: {{app: {app}}}}}, action: AUDIT}}"),
                3 => "{targetRefs: [{kind: Service, name: s0}]}".to_owned(),
                _ => format!("{{selector: {{matchLabels: {{app: {app}}}}}, broken: true}}"),
            };
            format!("{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: a{id}, namespace: {ns}}}, spec: {spec}}}")
        }),
        2 => (namespace(), id(), app(), mode(), 0..3u8).prop_map(|(ns, id, app, mode, shape)| {
            let spec = match shape {
                0 => format!("{{mtls: {{mode: {mode}}}}}"),
                1 => format!("{{selector: {{matchLabels: {{app: {app}}}}}, mtls: {{mode: {mode}}}}}"),
                _ => format!("{{selector: {{matchLabels: {{app: {app}}}}}, portLevelMtls: {{80: {{mode: {mode}}}}}}}"),
            };
            format!("{{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {{name: pa{id}, namespace: {ns}}}, spec: {spec}}}")
        }),
        1 => (namespace(), 0..3u8).prop_map(|(ns, network)| format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: {ns}, labels: {{topology.istio.io/network: net{network}}}, annotations: {{networking.istio.io/traffic-distribution: {}}}}}}}",
            if network == 0 { "PreferClose" } else { "Any" }
        )),
    ]
}

#[derive(Debug, Clone)]
enum Event {
    Apply(String),
    /// Of those that are present, counted around.
    Delete(usize),
    Flush,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => object().prop_map(Event::Apply),
        2 => any::<usize>().prop_map(Event::Delete),
        2 => Just(Event::Flush),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn step_by_step_equals_from_scratch(events in proptest::collection::vec(event(), 1..60)) {
        let mut index = Index::new(mesh());
        let mut present: BTreeMap<ObjectKey, Object> = BTreeMap::new();
        let mut view = View::default();
        for event in events {
            match event {
                Event::Apply(yaml) => for object in objects(&yaml) {
                    present.insert(object.key(), object.clone());
                    index.apply(&object);
                },
                Event::Delete(which) => {
                    let at = which.checked_rem(present.len()).unwrap_or_default();
                    if let Some(key) = present.keys().nth(at).cloned() {
                        present.remove(&key);
                        index.delete(&key);
                    }
                }
                Event::Flush => index.flush().into_iter().for_each(|change| view.apply(change)),
            }
        }
        index.flush().into_iter().for_each(|change| view.apply(change));
        let scratch = index.from_scratch();
        let mut expected = View::default();
        for change in scratch.values() {
            expected.apply(change.clone());
        }
        prop_assert_eq!(&index.resources, &scratch);
        let mut fresh = Index::new(mesh());
        for object in present.values() {
            fresh.apply(object);
        }
        fresh.flush();
        prop_assert_eq!(&fresh.resources, &scratch);
        prop_assert_eq!(index.problems(), fresh.problems());
        prop_assert_eq!(index.check(), vec![]);
        // The changes that were told on the way lead to the same.
        prop_assert_eq!(view, expected);
    }
}

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}, annotations: {ambient.istio.io/redirection: enabled}}
spec: {nodeName: a, serviceAccountName: web}
status: {podIP: 10.0.0.1}
---
";

#[test]
fn applying_the_same_again_changes_nothing() {
    let mut index = compiled(POD).0;
    for object in &objects(POD) {
        index.apply(object);
    }
    assert_eq!(index.flush(), []);
}

#[test]
fn policies_come_before_what_they_guard_and_go_after_it() {
    let policy = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p, namespace: shop}\nspec: {mtls: {mode: STRICT}}";
    let mut index = Index::new(mesh());
    for object in &objects(&format!("{POD}{policy}")) {
        index.apply(object);
    }
    assert!(matches!(index.flush()[..], [Change::Policy(_), Change::Workload(_)]));
    for kind in [Kind::PeerAuthentication, Kind::Pod] {
        let key = objects(&format!("{POD}{policy}"))
            .iter()
            .map(Object::key)
            .find(|key| key.kind == kind)
            .unwrap();
        index.delete(&key);
    }
    assert!(matches!(
        index.flush()[..],
        [Change::Remove(ResourceKey::Workload(_)), Change::Remove(ResourceKey::Policy(_))]
    ));
}

#[test]
fn a_node_may_have_the_identities_of_enrolled_pods_that_run_on_it() {
    let entitled = |yaml: &str, node: &str, identity: &str| {
        compiled(yaml).0.entitled(node, &identity.parse().unwrap(), &[]).is_ok()
    };
    let web = "spiffe://prod.example/ns/shop/sa/web";
    assert!(entitled(POD, "a", web));
    assert!(!entitled(POD, "b", web), "another node");
    assert!(!entitled(POD, "a", "spiffe://prod.example/ns/shop/sa/db"), "another account");
    assert!(!entitled(POD, "a", "spiffe://prod.example/ns/bank/sa/web"), "another namespace");
    assert!(!entitled(POD, "a", "spiffe://cluster.local/ns/shop/sa/web"), "another trust domain");
    let with = |from: &str, to: &str| entitled(&POD.replace(from, to), "a", web);
    assert!(!with("{podIP", "{phase: Succeeded, podIP"), "finished");
    assert!(!with(": enabled", ": disabled"), "not enrolled");
    assert!(!with("{nodeName: a", "{hostNetwork: true, nodeName: a"), "on the host's network");
    assert!(with("status: {podIP: 10.0.0.1}", ""), "before it has an address");
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}\n---";
    let plain = POD.replace(": enabled", ": disabled");
    assert!(entitled(&format!("{plain}{namespace}"), "a", web), "by its namespace");
    let out = plain.replace("{app: web}", "{istio.io/dataplane-mode: none}");
    assert!(!entitled(&format!("{out}{namespace}"), "a", web), "though its namespace");
}

#[test]
fn a_service_that_comes_after_its_slice_draws_in_the_pods_that_the_slice_names() {
    let slice = "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: e, namespace: shop, labels: {kubernetes.io/service-name: web}}
ports: [{port: 90}]
endpoints: [{addresses: [10.0.0.1], targetRef: {kind: Pod, name: web}}]
";
    let service = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.1.0.1, ports: [{port: 80}]}
";
    let mut index = compiled(&format!("{POD}{slice}")).0;
    index.apply(&objects(service)[0]);
    let changes = index.flush();
    let endpoint = changes.iter().find_map(|change| match change {
        Change::Workload(pod) => pod.services.values().next().cloned(),
        _ => None,
    });
    assert_eq!(endpoint, Some([(80, 90)].into()), "{changes:?}");
}
