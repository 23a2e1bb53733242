use serde_json::json;

use super::*;

fn config(addresses: &[(&str, &str)], authorizations: &[(&str, &str)]) -> Config {
    let of = |all: &[(&str, &str)]| {
        all.iter().map(|(name, version)| ((*name).to_owned(), (*version).to_owned())).collect()
    };
    Config { generation: 7, addresses: of(addresses), authorizations: of(authorizations) }
}

#[test]
fn what_is_missing_added_or_different_is_told_apart() {
    let served = config(
        &[("Kubernetes//Pod/shop/web", "1"), ("shop/web.shop.svc.cluster.local", "2")],
        &[("shop/deny", "3"), ("zoo/same", "4")],
    );
    let held = config(
        &[("Kubernetes//Pod/shop/web", "1"), ("Kubernetes//Pod/shop/gone", "5")],
        &[("shop/deny", "6"), ("zoo/same", "4")],
    );
    let found = differences(&served, &held);
    assert_eq!(
        serde_json::to_value(&found).unwrap(),
        json!([
            {"resource": "address", "name": "Kubernetes//Pod/shop/gone", "how": "added", "held": "5"},
            {"resource": "address", "name": "shop/web.shop.svc.cluster.local", "how": "missing",
             "served": "2"},
            {"resource": "authorization", "name": "shop/deny", "how": "differs", "served": "3",
             "held": "6"},
        ])
    );
    let yaml = serde_saphyr::to_string(&found).unwrap();
    assert!(yaml.contains("how: differs") && yaml.contains("served: \"3\""), "{yaml}");
    let mut out = Vec::new();
    told(&found, "n1", &mut out).unwrap();
    let said = String::from_utf8(out).unwrap();
    assert!(said.contains("has another    3                   6"), "{said}");
    assert!(found.iter().all(|it| it.is_of("shop") && !it.is_of("sho")));
    assert!(differences(&served, &served).is_empty());
}
