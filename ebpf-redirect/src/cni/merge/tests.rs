use std::path::Path;

use serde_json::{Value, json};

use super::{Entry, beside, chained, holds};

fn entry() -> Entry {
    Entry {
        socket: "/run/weft-cni/agent.sock".into(),
        exempt_namespaces: vec!["kube-system".into()],
    }
}

fn ours() -> Value {
    json!({ "type": "weft-cni", "socket": "/run/weft-cni/agent.sock", "exemptNamespaces": ["kube-system"] })
}

/// The merged list, or the error's words without the path.
fn merged(name: &str, text: &str) -> Result<Value, String> {
    let path = Path::new("/etc/cni/net.d").join(name);
    chained(&path, text.as_bytes(), &entry()).map_err(|error| {
        let said = error.to_string();
        let start = format!("CNI configuration {}", path.display());
        said.strip_prefix(&start).unwrap_or_else(|| panic!("{said} names no file")).to_owned()
    })
}

#[test]
fn a_list_gets_our_entry_behind_its_own() {
    let text = r#"{"cniVersion":"1.0.0","name":"net","disableCheck":true,
        "plugins":[{"type":"bridge","mtu":1400},{"type":"portmap"}]}"#;
    let expected = json!({
        "cniVersion": "1.0.0", "name": "net", "disableCheck": true,
        "plugins": [{ "type": "bridge", "mtu": 1400 }, { "type": "portmap" }, ours()],
    });
    assert_eq!(merged("10-net.conflist", text), Ok(expected));
}

#[test]
fn a_single_configuration_becomes_a_list() {
    let text = r#"{"cniVersion":"0.3.1","name":"net","type":"bridge","bridge":"cni0"}"#;
    let expected = json!({
        "cniVersion": "0.3.1", "name": "net",
        "plugins": [
            { "cniVersion": "0.3.1", "name": "net", "type": "bridge", "bridge": "cni0" },
            ours(),
        ],
    });
    assert_eq!(merged("10-net.conf", text), Ok(expected.clone()));
    assert_eq!(merged("10-net.json", text), Ok(expected));
}

#[test]
fn an_entry_that_is_there_already_is_replaced_and_not_doubled() {
    let text = r#"{"cniVersion":"1.1.0","name":"net",
        "plugins":[{"type":"bridge"},{"type":"weft-cni","socket":"/old"},{"type":"portmap"}]}"#;
    let expected = json!({
        "cniVersion": "1.1.0", "name": "net",
        "plugins": [{ "type": "bridge" }, { "type": "portmap" }, ours()],
    });
    assert_eq!(merged("10-net.conflist", text), Ok(expected));
}

#[test]
fn what_is_no_configuration_is_named_by_file_and_field() {
    let versions = "0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0";
    let table = [
        ("a.conflist", "{", " is no JSON".to_owned()),
        ("a.conflist", "[]", ": the whole is no object".to_owned()),
        (
            "a.conflist",
            r#"{"cniVersion":"1.0.0","plugins":[{"type":"x"}]}"#,
            ": name is missing".to_owned(),
        ),
        (
            "a.conflist",
            r#"{"cniVersion":"1.0.0","name":7,"plugins":[]}"#,
            ": name is no name".to_owned(),
        ),
        ("a.conflist", r#"{"name":"n","plugins":[]}"#, ": cniVersion is missing".to_owned()),
        (
            "a.conflist",
            r#"{"cniVersion":"0.2.0","name":"n","plugins":[]}"#,
            format!(": cniVersion is none of {versions}"),
        ),
        ("a.conflist", r#"{"cniVersion":"1.0.0","name":"n"}"#, ": plugins is missing".to_owned()),
        (
            "a.conflist",
            r#"{"cniVersion":"1.0.0","name":"n","plugins":{}}"#,
            ": plugins is no array".to_owned(),
        ),
        (
            "a.conflist",
            r#"{"cniVersion":"1.0.0","name":"n","plugins":[]}"#,
            ": plugins is empty".to_owned(),
        ),
        (
            "a.conflist",
            r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"x"},{"mtu":1}]}"#,
            ": plugins[1].type is missing".to_owned(),
        ),
        ("a.conf", r#"{"cniVersion":"1.0.0","name":"n"}"#, ": type is missing".to_owned()),
        ("a.conf", r#"{"name":"n","type":"x"}"#, ": cniVersion is missing".to_owned()),
    ];
    for (name, text, expected) in table {
        assert_eq!(merged(name, text), Err(expected), "{name} {text}");
    }
}

#[test]
fn ours_sorts_right_before_the_original() {
    for name in ["10-net.conflist", "10-net.conf", "10-net.json", "10.net.conf"] {
        let original = Path::new("/etc/cni/net.d").join(name);
        let ours = beside(&original);
        assert_eq!(ours.parent(), original.parent());
        assert!(ours < original, "{} sorts after {}", ours.display(), original.display());
        // A file that sorts before the original sorts before ours too, unless it has the same stem.
        assert!(Path::new("/etc/cni/net.d/09-a.conflist") < ours.as_path());
    }
}

#[test]
fn a_copy_holds_while_it_has_all_that_the_original_has() {
    let text =
        r#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"bridge"},{"type":"portmap"}]}"#;
    let wanted = merged("10-net.conflist", text).unwrap();
    let with = |plugins: Value| {
        let mut list = wanted.clone();
        list["plugins"] = plugins;
        list.to_string()
    };
    let (bridge, portmap) = (json!({ "type": "bridge" }), json!({ "type": "portmap" }));
    let table = [
        ("the same", wanted.to_string(), true),
        ("another's entry behind", with(json!([bridge, portmap, ours(), { "type": "x" }])), true),
        ("another's entry between", with(json!([bridge, { "type": "x" }, portmap, ours()])), true),
        ("without ours", with(json!([bridge, portmap])), false),
        ("without one of the original's", with(json!([bridge, ours()])), false),
        ("in another order", with(json!([portmap, bridge, ours()])), false),
        ("another name", wanted.to_string().replace("net\"", "not\""), false),
        ("half", wanted.to_string()[..20].to_owned(), false),
    ];
    for (what, there, expected) in table {
        assert_eq!(holds(there.as_bytes(), &wanted), expected, "{what}");
    }
}
