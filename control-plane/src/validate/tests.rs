use super::*;

fn told(manifests: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("all.yaml"), manifests).unwrap();
    validate(folder.path()).into_iter().map(|problem| problem.to_string()).collect()
}

#[test]
fn two_wrong_values_of_one_field_are_both_told() {
    let entry = |name: &str| {
        format!(
            "---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}, namespace: shop}}
spec: {{hosts: [one.example.com, two.example.com]}}
"
        )
    };
    let told = told(&[entry("a"), entry("b")].concat());
    let of = |host: &str| {
        format!(
            "all.yaml:10: ServiceEntry shop/b: spec.hosts: is named by a already, which is used (`{host}`)"
        )
    };
    assert_eq!(told, [of("one.example.com"), of("two.example.com")]);
}

#[test]
fn what_cannot_be_read_is_told_once_with_what_follows() {
    let policy = |spec: &str| {
        format!(
            "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: a, namespace: shop}}
spec: {spec}
"
        )
    };
    let denies = "everything on its target is denied until it is right";
    for spec in ["{action: REFUSE}", "{rules: [{form: []}]}"] {
        let told = told(&policy(spec));
        assert!(matches!(&told[..], [one] if one.contains(denies)), "{told:?}");
    }
}
