//! Whatever comes in whatever order: step by step is as from scratch.

use std::collections::BTreeMap;

use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{RngAlgorithm, TestRng, TestRunner},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use weft_model::View;

use crate::{
    compile::tests::{mesh, objects},
    index::Index,
    objects::{Object, ObjectKey},
};

/// Names are few, so that objects meet: each is written in a few ways, and may be absent.
fn object() -> impl Strategy<Value = String> {
    prop_oneof![
        5 => pod(),
        2 => service(),
        3 => slice(),
        3 => external(),
        4 => policy(),
        2 => place(),
    ]
}

fn namespace() -> impl Strategy<Value = &'static str> {
    prop_oneof![6 => Just("a"), 1 => Just("b"), 1 => Just("istio-system")]
}

fn app() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("x"), Just("y1")]
}

fn id() -> impl Strategy<Value = u8> {
    0..2u8
}

/// One of several fields, or none.
fn some(fields: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    prop_oneof![1 => Just(""), 2 => proptest::sample::select(fields)]
}

fn pod() -> impl Strategy<Value = String> {
    let meta = some(&[
        ", deletionTimestamp: 2026-01-01T00:00:00Z",
        ", creationTimestamp: 2026-01-02T00:00:00Z",
        ", annotations: {ambient.istio.io/redirection: enabled}",
    ]);
    let label = some(&[
        ", networking.istio.io/tunnel: http",
        ", istio.io/dataplane-mode: ambient",
        ", topology.kubernetes.io/zone: z9",
    ]);
    let spec = some(&["hostNetwork: true, ", "serviceAccountName: db, "]);
    let status = some(&[
        ", phase: Succeeded",
        ", phase: Running",
        ", conditions: [{type: Ready, status: 'True'}]",
        ", conditions: [{type: Ready, status: 'False'}]",
        ", podIPs: [{ip: 'fd00::1'}]",
    ]);
    let shape = (0..4u8, meta, label, spec, status);
    (namespace(), 0..3u8, app(), shape).prop_map(|(ns, id, app, (ip, meta, label, spec, status))| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: p{id}, namespace: {ns}, labels: {{app: {app}{label}}}{meta}}}, spec: {{{spec}nodeName: n{}, containers: [{{ports: [{{name: web, containerPort: 808{ip}}}]}}]}}, status: {{podIP: 10.0.0.{ip}{status}}}}}",
            ip % 2,
        )
    })
}

fn service() -> impl Strategy<Value = String> {
    let more = some(&[
        "type: ExternalName, ",
        "publishNotReadyAddresses: true, ",
        "trafficDistribution: PreferSameNode, ",
        "internalTrafficPolicy: Local, ",
        "trafficDistribution: Wrong, ",
    ]);
    let address = prop_oneof![Just("None"), Just("10.1.0.1"), Just("10.1.0")];
    let target = prop_oneof![Just("web"), Just("90"), Just("absent")];
    let selector = proptest::option::of(app());
    let shape = (more, address, target, selector);
    (namespace(), id(), shape).prop_map(|(ns, id, (more, address, target, app))| {
        let selector = app.map(|app| format!("app: {app}")).unwrap_or_default();
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: s{id}, namespace: {ns}}}, spec: {{{more}clusterIP: {address}, selector: {{{selector}}}, ports: [{{name: web, port: 80, targetPort: {target}}}]}}}}"
        )
    })
}

fn slice() -> impl Strategy<Value = String> {
    let conditions =
        some(&["ready: true", "ready: false", "ready: false, serving: true, terminating: true"]);
    let reference = some(&[
        ", targetRef: {kind: Pod, name: p0}",
        ", targetRef: {kind: Pod, name: p1}",
        ", targetRef: {kind: Pod, namespace: b, name: p0}",
    ]);
    let place = some(&[", nodeName: n0", ", nodeName: n1, zone: z1", ", zone: z2"]);
    let age = some(&[", creationTimestamp: 2026-01-02T00:00:00Z"]);
    let shape = (conditions, reference, place, age, 0..3u8, 90..92u16);
    (namespace(), 0..3u8, id(), shape).prop_map(
        |(ns, id, service, (conditions, reference, place, age, ip, port))| {
            format!(
                "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: e{id}, namespace: {ns}, labels: {{kubernetes.io/service-name: s{service}}}{age}}}, ports: [{{name: web, port: {port}}}], endpoints: [{{addresses: [10.9.0.{ip}]{reference}{place}, conditions: {{{conditions}}}}}, {{addresses: [10.9.0.9], conditions: {{ready: false, serving: true, terminating: true}}}}]}}"
            )
        },
    )
}

fn external() -> impl Strategy<Value = String> {
    let host = prop_oneof![Just("h.example"), Just("i.example"), Just("s0.a.svc.cluster.local")];
    let shape = proptest::sample::select(vec![
        "resolution: DNS",
        "addresses: [10.3.0.0/16]",
        "resolution: STATIC, workloadSelector: {labels: {app: x}}",
        "resolution: STATIC, workloadSelector: {labels: {app: y1}}",
        "resolution: STATIC, endpoints: [{address: 10.4.0.1}, {address: 10.4.0.1}]",
    ]);
    prop_oneof![
        2 => (namespace(), id(), host, shape).prop_map(|(ns, id, host, shape)| format!(
            "{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: se{id}, namespace: {ns}}}, spec: {{hosts: [{host}], ports: [{{number: 80, name: web}}], {shape}}}}}"
        )),
        1 => (namespace(), id(), app()).prop_map(|(ns, id, app)| format!(
            "{{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {{name: w{id}, namespace: {ns}}}, spec: {{address: 10.5.0.{id}, labels: {{app: {app}}}}}}}"
        )),
    ]
}

fn policy() -> impl Strategy<Value = String> {
    let mode = prop_oneof![Just("STRICT"), Just("PERMISSIVE"), Just("UNSET"), Just("BROKEN")];
    let authorization = (namespace(), id(), app(), 0..5u8).prop_map(|(ns, id, app, shape)| {
        let selector = format!("selector: {{matchLabels: {{app: {app}}}}}");
        let spec = match shape {
            0 => "{}".to_owned(),
            1 => format!("{{{selector}, action: DENY, rules: [{{}}]}}"),
            2 => format!("{{{selector}, action: AUDIT}}"),
            3 => "{targetRefs: [{kind: Service, name: s0}]}".to_owned(),
            _ => format!("{{{selector}, broken: true}}"),
        };
        format!(
            "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: a{id}, namespace: {ns}}}, spec: {spec}}}"
        )
    });
    let peer = (namespace(), id(), app(), mode, 0..3u8).prop_map(|(ns, id, app, mode, shape)| {
        let selector = format!("selector: {{matchLabels: {{app: {app}}}}}");
        let spec = match shape {
            0 => format!("{{mtls: {{mode: {mode}}}}}"),
            1 => format!("{{{selector}, mtls: {{mode: {mode}}}}}"),
            _ => format!("{{{selector}, portLevelMtls: {{80: {{mode: {mode}}}}}}}"),
        };
        format!(
            "{{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {{name: pa{id}, namespace: {ns}}}, spec: {spec}}}"
        )
    });
    prop_oneof![authorization, peer]
}

/// Namespaces, nodes and accounts.
fn place() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => (namespace(), 0..3u8, any::<bool>()).prop_map(|(ns, network, near)| format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: {ns}, labels: {{topology.istio.io/network: net{network}, istio.io/dataplane-mode: ambient}}, annotations: {{networking.istio.io/traffic-distribution: {}}}}}}}",
            if near { "PreferClose" } else { "Any" }
        )),
        2 => (id(), 0..3u8).prop_map(|(id, zone)| format!(
            "{{apiVersion: v1, kind: Node, metadata: {{name: n{id}, labels: {{topology.kubernetes.io/region: r, topology.kubernetes.io/zone: z{zone}}}}}}}"
        )),
        1 => namespace().prop_map(|ns| format!(
            "{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: db, namespace: {ns}}}}}"
        )),
    ]
}

/// An index that objects come to and go from, and what its changes come to.
struct Run {
    index: Index,
    present: BTreeMap<ObjectKey, Object>,
    view: View,
}

impl Run {
    fn new() -> Self {
        Self { index: Index::new(mesh()), present: BTreeMap::new(), view: View::default() }
    }

    fn apply(&mut self, object: &Object) {
        self.present.insert(object.key(), object.clone());
        self.index.apply(object);
    }

    /// One of those that are present, counted around.
    fn delete(&mut self, which: usize) {
        let at = which.checked_rem(self.present.len()).unwrap_or_default();
        if let Some(key) = self.present.keys().nth(at).cloned() {
            self.present.remove(&key);
            self.index.delete(&key);
        }
    }

    fn flush(&mut self) {
        self.index.flush().into_iter().for_each(|change| self.view.apply(change));
    }

    fn check(&mut self, what: &str) {
        self.flush();
        let scratch = self.index.from_scratch();
        assert_eq!(self.index.resources, scratch, "{what}");
        let mut fresh = Index::new(mesh());
        self.present.values().for_each(|object| fresh.apply(object));
        fresh.flush();
        assert_eq!(fresh.resources, scratch, "{what}");
        assert_eq!(self.index.problems(), fresh.problems(), "{what}");
        assert_eq!(self.index.check(), vec![], "{what}");
        // The changes that were told on the way lead to the same.
        let mut expected = View::default();
        for change in scratch.into_values() {
            expected.apply(change);
        }
        assert_eq!(self.view, expected, "{what}");
    }
}

/// So many objects, as many as possible unlike.
fn pool(seed: u64, size: usize) -> Vec<Object> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(ProptestConfig::default(), rng);
    let strategy = object();
    let mut one = || strategy.new_tree(&mut runner).unwrap().current();
    (0..size).flat_map(|_| objects(&one())).collect()
}

fn random_events(seed: u64, events: usize) {
    let pool = pool(seed, 3000);
    let mut rng = StdRng::seed_from_u64(seed);
    let mut run = Run::new();
    for event in 0..events {
        match rng.random_range(0..100) {
            0..70 => run.apply(&pool[rng.random_range(0..pool.len())]),
            70..90 => run.delete(rng.random_range(0..usize::MAX)),
            _ => {
                // Each time: what was not compiled would soon be compiled for another reason.
                run.flush();
                let scratch = run.index.from_scratch();
                assert_eq!(run.index.resources, scratch, "seed {seed}, event {event}");
            }
        }
        if event % 250 == 0 {
            run.check(&format!("seed {seed}, event {event}"));
        }
    }
    run.check(&format!("seed {seed}, at the end"));
}

#[test]
fn a_hundred_thousand_random_events_come_to_the_same_as_from_scratch() {
    // One seed is the same in every run; the other is not, and is named when it fails.
    random_events(1, 50_000);
    random_events(rand::random(), 50_000);
}

#[derive(Debug, Clone)]
enum Event {
    Apply(String),
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
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    /// Few, but what fails here is made small.
    #[test]
    fn step_by_step_equals_from_scratch(events in proptest::collection::vec(event(), 1..60)) {
        let mut run = Run::new();
        for event in events {
            match event {
                Event::Apply(yaml) => objects(&yaml).iter().for_each(|object| run.apply(object)),
                Event::Delete(which) => run.delete(which),
                Event::Flush => run.flush(),
            }
        }
        run.check("at the end");
    }
}
