use serde_json::Value;

use super::*;

fn two_nodes() -> Picture {
    let dump = |pod: &str, node: &str| -> Dump {
        let workload = serde_json::json!({
            "uid": format!("Kubernetes//Pod/shop/{pod}"), "name": pod, "namespace": "shop",
            "serviceAccount": "web", "protocol": "HBONE", "node": node,
        });
        serde_json::from_value(serde_json::json!({"workloads": [workload]})).unwrap()
    };
    let known = vec![("n1".to_owned(), dump("web", "n3")), ("n2".to_owned(), dump("db", "n4"))];
    Picture::Nodes { known, silent: Vec::new() }
}

fn said(format: Format) -> String {
    let mut out = Vec::new();
    get(&two_nodes(), Rows::Workloads, &Wanted::default(), format, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn a_row_of_several_proxies_says_whose_it_is_beside_the_workloads_own_node() {
    let rows: Vec<Value> = serde_json::from_str(&said(Format::Json)).unwrap();
    let of = |row: &Value| ["proxy", "node", "name"].map(|it| row[it].as_str().unwrap().to_owned());
    let found: Vec<_> = rows.iter().map(of).collect();
    assert_eq!(found, [["n1", "n3", "web"], ["n2", "n4", "db"]]);
    // A field that is written twice would be read back as its last.
    assert_eq!(said(Format::Json).matches("\"node\"").count(), 2);
    let table = said(Format::Table);
    assert!(table.starts_with("PROXY   NAMESPACE   NAME   ADDRESSES   NODE"), "{table}");
}
