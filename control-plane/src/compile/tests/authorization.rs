use weft_model::{
    Action, Clause, Field, Match, Rule, Scope, ServiceAccountMatch,
    StringMatch::{self, Exact, Prefix, Presence, Suffix},
};

use super::{Outcome, compiled, listed};

fn policy_in(namespace: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: {namespace}}}\nspec: {spec}\n---\n"
    )
}

fn policy(spec: &str) -> Outcome {
    compiled(&policy_in("shop", spec))
}

fn rules(spec: &str) -> Vec<Rule> {
    policy(spec).policy().rules.clone()
}

fn clause(matched: Match) -> Clause {
    Clause { matches: vec![matched] }
}

fn principals(any_of: &[StringMatch]) -> Match {
    Match { principals: Field::any_of(any_of.to_vec()), ..Match::default() }
}

fn ports(any_of: &[u16]) -> Match {
    Match { destination_ports: Field::any_of(any_of.to_vec()), ..Match::default() }
}

#[test]
fn every_layer_4_attribute_is_carried_over() {
    let rules = rules(
        "{rules: [{from: [{source: {principals: ['*', 'td/ns/a*', '*/sa/b', 'td/ns/a/sa/b', 'spiffe://td/ns/c/sa/d'], notNamespaces: [x, 'v*']}}, {source: {serviceAccounts: [web, bank/teller], notIpBlocks: [10.0.0.0/8, 1.2.3.4]}}], to: [{operation: {ports: ['80', '81'], notPorts: ['90']}}], when: [{key: source.ip, values: ['fd00::/64']}, {key: source.namespace, notValues: [z]}, {key: source.principal, values: ['*']}, {key: destination.ip, values: [10.1.1.1]}, {key: destination.port, values: ['443']}]}]}",
    );
    let first = Match {
        principals: Field::any_of([
            Presence,
            Prefix("td/ns/a".into()),
            Suffix("/sa/b".into()),
            Exact("td/ns/a/sa/b".into()),
            Exact("td/ns/c/sa/d".into()),
        ]),
        namespaces: Field::none_of([Exact("x".into()), Prefix("v".into())]),
        ..Match::default()
    };
    let account = |namespace: &str, account: &str| ServiceAccountMatch {
        namespace: namespace.parse().unwrap(),
        service_account: account.parse().unwrap(),
    };
    let second = Match {
        service_accounts: Field::any_of([account("shop", "web"), account("bank", "teller")]),
        source_ips: Field::none_of(["10.0.0.0/8".parse().unwrap(), "1.2.3.4/32".parse().unwrap()]),
        ..Match::default()
    };
    let to = Match {
        destination_ports: Field { any_of: vec![80, 81], none_of: vec![90] },
        ..Match::default()
    };
    let source_ip =
        Match { source_ips: Field::any_of(["fd00::/64".parse().unwrap()]), ..Match::default() };
    let namespace = Match { namespaces: Field::none_of([Exact("z".into())]), ..Match::default() };
    let destination = Match {
        destination_ips: Field::any_of(["10.1.1.1/32".parse().unwrap()]),
        ..Match::default()
    };
    let clauses = vec![
        Clause { matches: vec![first, second] },
        clause(to),
        clause(source_ip),
        clause(namespace),
        clause(principals(&[Presence])),
        clause(destination),
        clause(ports(&[443])),
    ];
    assert_eq!(rules, [Rule { clauses }]);
}

#[test]
fn the_scope_is_the_mesh_the_namespace_or_the_selected_workloads() {
    let selector = "{selector: {matchLabels: {app: web}}}";
    for (namespace, spec, scope) in [
        ("istio-system", "{}", Scope::Global),
        ("shop", "{}", Scope::Namespace),
        ("shop", "{selector: {matchLabels: {}}}", Scope::Namespace),
        ("shop", selector, Scope::Workload),
        ("istio-system", selector, Scope::Workload),
    ] {
        assert_eq!(
            compiled(&policy_in(namespace, spec)).policy().scope,
            scope,
            "{namespace} {spec}"
        );
    }
}

const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
status: {podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
status: {podIP: 10.0.0.2}
---
apiVersion: v1
kind: Service
metadata: {name: front, namespace: shop}
spec: {selector: {app: web}}
---
";

#[test]
fn a_selected_workload_lists_the_policy_and_no_other_does() {
    let selector = "{selector: {matchLabels: {app: web}}}";
    for (namespace, spec, web) in [
        ("shop", selector, vec!["shop/p"]),
        ("istio-system", selector, vec!["istio-system/p"]),
        ("other", selector, vec![]),
        ("shop", "{}", vec![]),
        ("shop", "{targetRefs: [{kind: Service, name: front}]}", vec!["shop/p"]),
        ("shop", "{selector: {matchLabels: {app: web}}, action: AUDIT}", vec![]),
    ] {
        let outcome = compiled(&format!("{PODS}{}", policy_in(namespace, spec)));
        assert_eq!(listed(&outcome.pod("web")), web, "{namespace} {spec}");
        assert_eq!(listed(&outcome.pod("db")), Vec::<String>::new());
    }
}

#[test]
fn an_allow_without_rules_allows_nothing_and_an_empty_rule_everything() {
    assert_eq!(rules("{}"), []);
    assert_eq!(rules("{rules: [{}]}"), [Rule::default()]);
}

#[test]
fn an_allow_rule_with_something_of_layer_7_is_left_out_alone() {
    let outcome = policy(
        "{rules: [{to: [{operation: {paths: [/a], ports: ['80']}}]}, {to: [{operation: {ports: ['81']}}]}, {when: [{key: 'request.headers[x]', values: [v]}]}]}",
    );
    assert_eq!(outcome.policy().rules, [Rule { clauses: vec![clause(ports(&[81]))] }]);
    assert_eq!(outcome.problems().len(), 2, "{:?}", outcome.problems());
}

#[test]
fn a_deny_is_widened_to_what_layer_4_can_tell_and_never_fails_open() {
    let deny = |rule: &str| rules(&format!("{{action: DENY, rules: [{rule}]}}"));
    let everything = [Rule::default()];
    // istio#61126: layer 7 attributes only.
    assert_eq!(deny("{to: [{operation: {methods: [GET]}}]}"), everything);
    assert_eq!(deny("{from: [{source: {requestPrincipals: ['*']}}]}"), everything);
    assert_eq!(deny("{when: [{key: request.auth.claims, values: [x]}]}"), everything);
    // One of two alternatives is of layer 7: both together match everything.
    assert_eq!(
        deny("{to: [{operation: {paths: [/a]}}, {operation: {ports: ['80']}}]}"),
        everything
    );
    // What remains still narrows.
    assert_eq!(
        deny(
            "{from: [{source: {namespaces: [x], remoteIpBlocks: [1.1.1.1]}}], to: [{operation: {paths: [/a]}}]}"
        ),
        [Rule {
            clauses: vec![clause(Match {
                namespaces: Field::any_of([Exact("x".into())]),
                ..Match::default()
            })]
        }]
    );
    // Invalid values.
    assert_eq!(deny("{from: [{source: {ipBlocks: [10.0.0.0/8, bad]}}]}"), everything);
    assert_eq!(deny("{from: [{source: {principals: ['a*b']}}]}"), everything);
    assert_eq!(deny("{from: [{source: {principals: [nobody]}}]}"), everything);
    assert_eq!(deny("{to: [{operation: {ports: ['0']}}]}"), everything);
    assert_eq!(deny("{to: [{operation: {ports: []}}]}"), everything);
    assert_eq!(deny("{from: [{source: {}}]}"), everything);
    assert_eq!(deny("{from: []}"), everything);
}

#[test]
fn an_allow_with_an_invalid_value_allows_less() {
    for rule in [
        "{from: [{source: {ipBlocks: [10.0.0.0/8, bad]}}]}",
        "{from: [{source: {notIpBlocks: [bad]}}]}",
        "{from: [{source: {}}]}",
        "{from: []}",
        "{to: [{operation: {ports: ['http']}}]}",
        "{when: [{key: source.ip}]}",
    ] {
        let outcome = policy(&format!("{{rules: [{rule}]}}"));
        assert_eq!(outcome.policy().rules, [], "{rule}");
        assert!(!outcome.problems().is_empty(), "{rule}");
    }
}

#[test]
fn a_policy_that_cannot_be_read_denies_on_its_target_and_says_why() {
    for (spec, scope) in [
        ("{selector: {matchLabels: {app: web}}, action: MAYBE}", Scope::Workload),
        ("{selector: {matchLabel: {app: web}}}", Scope::Namespace),
        ("{rules: [{form: []}]}", Scope::Namespace),
    ] {
        let outcome = compiled(&format!("{PODS}{}", policy_in("shop", spec)));
        let policy = outcome.policy();
        assert_eq!(
            (policy.action, &policy.rules, &policy.scope),
            (Action::Deny, &vec![Rule::default()], &scope),
            "{spec}"
        );
        assert_eq!(outcome.problems().len(), 1);
        let here = listed(&outcome.pod("web")).len();
        assert_eq!(here == 1, scope == Scope::Workload, "{spec}");
    }
}

#[test]
fn custom_denies_what_it_would_have_asked_about_and_audit_does_nothing() {
    let custom = policy(
        "{action: CUSTOM, provider: {name: opa}, rules: [{to: [{operation: {ports: ['80']}}]}]}",
    );
    assert_eq!(custom.policy().action, Action::Deny);
    assert_eq!(custom.policy().rules, [Rule { clauses: vec![clause(ports(&[80]))] }]);
    assert_eq!(custom.problems().len(), 1);
    let audit = policy("{action: AUDIT, rules: [{}]}");
    assert_eq!((audit.policies().len(), audit.problems().len()), (0, 1));
}

#[test]
fn a_policy_for_a_gateway_is_not_for_nodes() {
    let outcome =
        policy("{targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: g}]}");
    assert_eq!((outcome.policies().len(), outcome.problems().len()), (0, 1));
}

#[test]
fn cluster_local_means_the_own_trust_domain_too() {
    assert_eq!(
        rules("{rules: [{from: [{source: {principals: [cluster.local/ns/a/sa/b]}}]}]}"),
        [Rule {
            clauses: vec![clause(principals(&[
                Exact("cluster.local/ns/a/sa/b".into()),
                Exact("prod.example/ns/a/sa/b".into())
            ]))]
        }]
    );
}

#[test]
fn a_dry_run_is_marked() {
    let yaml = policy_in("shop", "{}")
        .replace("name: p,", "name: p, annotations: {istio.io/dry-run: 'true'},");
    assert!(compiled(&yaml).policy().dry_run);
}
