use weft_model::{Action, Clause, Field, Match, Rule, Scope, StringMatch::Presence};

use super::{Outcome, compiled, listed};

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
status: {podIP: 10.0.0.1}
---
";
const STRICT: &str = "istio-system/istio_converted_static_strict";
const CONVERTED: &str = "shop/converted_peer_authentication_own";

fn peer(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n---\n"
    )
}

fn outcome(mesh: &str, namespace: &str) -> Outcome {
    let level = |name: &str, namespace: &str, spec: &str| match spec {
        "" => String::new(),
        spec => peer(name, namespace, spec),
    };
    compiled(&format!(
        "{POD}{}{}",
        level("mesh", "istio-system", mesh),
        level("ns", "shop", namespace)
    ))
}

#[test]
fn the_narrowest_policy_that_says_something_decides() {
    let (strict, permissive, unset, none) =
        ("{mtls: {mode: STRICT}}", "{mtls: {mode: PERMISSIVE}}", "{mtls: {mode: UNSET}}", "");
    for (mesh, namespace, is_strict) in [
        (none, none, false),
        (strict, none, true),
        (strict, permissive, false),
        (strict, unset, true),
        (permissive, strict, true),
        (none, "{mtls: {mode: DISABLE}}", false),
        (none, "{mtls: {mode: EXTREME}}", true),
        (strict, "{}", true),
    ] {
        let listed = listed(&outcome(mesh, namespace).pod("web"));
        let expected: Vec<&str> = if is_strict { vec![STRICT] } else { vec![] };
        assert_eq!(listed, expected, "{mesh} {namespace}");
    }
}

#[test]
fn a_workloads_own_policy_wins_and_another_workload_keeps_the_namespaces() {
    let own = |app: &str, mode: &str| {
        peer(
            "own",
            "shop",
            &format!("{{selector: {{matchLabels: {{app: {app}}}}}, mtls: {{mode: {mode}}}}}"),
        )
    };
    let ns = peer("ns", "shop", "{mtls: {mode: STRICT}}");
    let of = |own: String| listed(&compiled(&format!("{POD}{ns}{own}")).pod("web"));
    assert_eq!(of(own("web", "PERMISSIVE")), Vec::<String>::new());
    assert_eq!(of(own("web", "UNSET")), [STRICT]);
    assert_eq!(of(own("db", "PERMISSIVE")), [STRICT]);
}

#[test]
fn strict_denies_whoever_has_no_identity() {
    let outcome = compiled(&peer("ns", "shop", "{mtls: {mode: STRICT}}"));
    let policy = outcome.policy();
    assert_eq!(policy.name.to_string(), STRICT);
    assert_eq!((policy.action, &policy.scope), (Action::Deny, &Scope::Workload));
    assert_eq!(policy.rules, [Rule { clauses: vec![anonymous()] }]);
}

fn anonymous() -> Clause {
    let principals = Field::none_of([Presence]);
    Clause { matches: vec![Match { principals, ..Match::default() }] }
}

fn ports(destination_ports: Field<u16>) -> Clause {
    Clause { matches: vec![Match { destination_ports, ..Match::default() }] }
}

#[test]
fn ports_may_differ_from_their_workload() {
    let own = |mtls: &str, ports: &str| {
        let spec =
            format!("{{selector: {{matchLabels: {{app: web}}}}, {mtls}portLevelMtls: {ports}}}");
        format!("{POD}{}", peer("own", "shop", &spec))
    };
    let strict_ns = peer("ns", "shop", "{mtls: {mode: STRICT}}");
    let mixed =
        "{80: {mode: PERMISSIVE}, 81: {mode: DISABLE}, 82: {mode: STRICT}, 83: {mode: UNSET}}";
    let strict_but = vec![anonymous(), ports(Field::none_of([80, 81]))];
    let permissive_but = vec![anonymous(), ports(Field::any_of([82]))];
    for (yaml, expected) in [
        (own("mtls: {mode: STRICT}, ", mixed), &strict_but),
        (own("mtls: {mode: PERMISSIVE}, ", mixed), &permissive_but),
        (own("", mixed), &permissive_but),
        (own("", mixed) + &strict_ns, &strict_but),
    ] {
        let outcome = compiled(&yaml);
        assert_eq!(listed(&outcome.pod("web")), [CONVERTED], "{yaml}");
        let policies = outcome.policies();
        let converted = policies.iter().find(|p| p.name.to_string() == CONVERTED).unwrap();
        assert_eq!(converted.rules, [Rule { clauses: expected.clone() }], "{yaml}");
        assert_eq!(converted.action, Action::Deny);
    }
    let same = compiled(&own("mtls: {mode: STRICT}, ", "{80: {mode: STRICT}}"));
    assert_eq!(listed(&same.pod("web")), [STRICT]);
}

#[test]
fn of_two_at_one_level_the_older_decides_unless_one_is_unreadable() {
    let dated = |name: &str, year: &str, mode: &str| {
        peer(name, "shop", &format!("{{mtls: {{mode: {mode}}}}}")).replace(
            "namespace:",
            &format!("creationTimestamp: {year}-01-01T00:00:00Z, namespace:"),
        )
    };
    let of = |yaml: &str| listed(&compiled(&format!("{POD}{yaml}")).pod("web"));
    assert_eq!(of(&(dated("a", "2026", "STRICT") + &dated("b", "2025", "PERMISSIVE"))), [""; 0]);
    assert_eq!(of(&(dated("a", "2026", "WRONG") + &dated("b", "2025", "PERMISSIVE"))), [STRICT]);
}
