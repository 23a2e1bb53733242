use super::*;

#[test]
fn an_identity_is_read_and_written_as_the_same_text() {
    let text = "spiffe://cluster.local/ns/shop/sa/web";
    let identity: Identity = text.parse().unwrap();
    assert_eq!(identity.to_string(), text);
    assert_eq!(identity.principal(), "cluster.local/ns/shop/sa/web");
    assert_eq!(identity.namespace().as_str(), "shop");
    assert_eq!(identity.service_account().as_str(), "web");
}

#[test]
fn what_is_not_exactly_a_workload_identity_is_refused() {
    for bad in [
        "",
        "cluster.local/ns/a/sa/b",
        "http://cluster.local/ns/a/sa/b",
        "SPIFFE://cluster.local/ns/a/sa/b",
        "spiffe://",
        "spiffe:///ns/a/sa/b",
        "spiffe://cluster.local",
        "spiffe://cluster.local/",
        "spiffe://cluster.local/ns/a/sa/b/",
        "spiffe://cluster.local/ns/a/sa/b/c",
        "spiffe://cluster.local/ns//sa/b",
        "spiffe://cluster.local/ns/a/sb/b",
        "spiffe://cluster.local/xs/a/sa/b",
        "spiffe://cluster.local/ns/A/sa/b",
        "spiffe://cluster.local/ns/a/sa/b?x=1",
        "spiffe://cluster.local/ns/a/sa/b#x",
        "spiffe://cluster.local/ns/a/sa/%62",
        "spiffe://user@cluster.local/ns/a/sa/b",
        "spiffe://cluster.local:80/ns/a/sa/b",
        "spiffe://cluster.local/ns/a/../sa/b",
        "spiffe://cluster.local/ns/a/sa/b\0",
        "spiffe://cluster.local/ns/a/sa/b\n",
    ] {
        assert!(bad.parse::<Identity>().is_err(), "{bad:?} was accepted");
    }
    let long = format!("spiffe://{}/ns/a/sa/b", "a".repeat(256));
    assert!(long.parse::<Identity>().is_err());
}

#[test]
fn a_hostname_is_stored_in_one_spelling() {
    assert_eq!(Hostname::new("Web.Shop.svc.").unwrap().as_str(), "web.shop.svc");
    assert_eq!(Hostname::new("*.Example.com").unwrap().as_str(), "*.example.com");
    assert!(Hostname::new("*").is_err());
    assert!(Hostname::new("a b").is_err());
    for empty_label in [".", "..", "a..b", ".a", "*."] {
        assert!(Hostname::new(empty_label).is_err(), "{empty_label:?} was accepted");
    }
    assert!(Hostname::new(&"a".repeat(64)).is_err());
    for address in ["10.0.0.1", "10.0.0.1.", "*.10.0.0.1"] {
        assert!(Hostname::new(address).is_err(), "{address:?} was accepted");
    }
    assert!(Hostname::new("web.123").is_ok(), "a namespace may be a number");
}

#[test]
fn a_refusal_names_the_kind_and_the_value() {
    let error = Namespace::new("Shop").unwrap_err();
    assert_eq!(error.to_string(), "namespace `Shop` contains 'S'");
    let error = "shop".parse::<PolicyName>().unwrap_err();
    assert_eq!(error.to_string(), "`shop` is not of the form <namespace>/<name>");
}
