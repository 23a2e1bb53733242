use serde_json::json;

use super::{security::*, *};

fn policy(spec: &serde_json::Value) -> Parsed {
    let value = json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": spec});
    parse(Kind::AuthorizationPolicy, value).unwrap()
}

#[test]
fn an_unknown_field_in_a_policy_makes_it_unreadable_and_keeps_its_selector() {
    let parsed = policy(&json!({
        "selector": {"matchLabels": {"app": "web"}},
        "rules": [{"from": [{"source": {"principles": ["x"]}}]}],
    }));
    let Parsed::Unreadable(Object::AuthorizationPolicy(policy), error) = parsed else {
        panic!("{parsed:?}")
    };
    assert_eq!(error.field, "spec.rules[0].from[0].source.principles");
    let Spec::Unreadable { selector: Some(selector), .. } = &policy.spec else { panic!() };
    assert_eq!(selector.match_labels.get("app").map(|v| &**v), Some("web"));
}

#[test]
fn an_unknown_field_in_a_pod_is_ignored() {
    let value = json!({"metadata": {"name": "p"}, "spec": {"dnsPolicy": "None"}});
    let Parsed::Object(object) = parse(Kind::Pod, value).unwrap() else { panic!() };
    assert_eq!(object.key().to_string(), "Pod default/p");
}

#[test]
fn names_that_would_forge_a_uid_are_refused() {
    for (namespace, name) in [
        ("shop", "a/b"),
        ("shop", ""),
        ("shop", "a b"),
        ("shop", "istio_converted_static_strict"),
        ("a/b", "x"),
        ("A", "x"),
    ] {
        let value = json!({"metadata": {"name": name, "namespace": namespace}});
        assert!(parse(Kind::Pod, value).is_err(), "{namespace}/{name}");
    }
}

#[test]
fn any_version_of_a_known_group_is_read() {
    assert_eq!(
        Kind::of("security.istio.io/v1beta1", "AuthorizationPolicy"),
        Some(Kind::AuthorizationPolicy)
    );
    assert_eq!(Kind::of("v1", "Pod"), Some(Kind::Pod));
    assert_eq!(Kind::of("example.com/v1", "Pod"), None);
}

#[test]
fn a_selector_that_could_select_nothing_makes_a_policy_unreadable() {
    for labels in [
        json!({"app": "we b"}),
        json!({"app": "*"}),
        json!({"": "web"}),
        json!({"/app": "web"}),
        json!({"A.b/app": "web"}),
        json!({"a_b/app": "web"}),
        json!({"-a.b/app": "web"}),
        json!({"a.-b/app": "web"}),
        json!({"a..b/app": "web"}),
        json!({"a/b/app": "web"}),
        json!({"app": "-web"}),
        json!({"app": "w".repeat(64)}),
    ] {
        let parsed = policy(&json!({"selector": {"matchLabels": labels}, "action": "DENY"}));
        let Parsed::Unreadable(Object::AuthorizationPolicy(policy), error) = parsed else {
            panic!("{parsed:?}")
        };
        assert_eq!(error.field, "spec.selector.matchLabels", "{error}");
        assert!(error.message.ends_with("is no label that an object can have"), "{error}");
        assert!(matches!(policy.spec, Spec::Unreadable { selector: None, .. }));
    }
    for labels in [json!({"app": ""}), json!({"a-1.b/c_D": "V-1.x"}), json!({})] {
        let parsed = policy(&json!({"selector": {"matchLabels": labels}}));
        assert!(matches!(parsed, Parsed::Object(_)), "{parsed:?}");
    }
}
