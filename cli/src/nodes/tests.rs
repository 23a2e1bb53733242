use serde_json::{from_value, json};

use super::*;

fn replica(generation: u64, nodes: &[(&str, Option<u64>, &[&str])]) -> Connected {
    let applied = |(node, answered, refused): &(&str, Option<u64>, &[&str])| {
        let refused = refused.iter().map(ToString::to_string).collect();
        ((*node).to_owned(), Applied { answered: *answered, refused })
    };
    Connected { generation, nodes: nodes.iter().map(applied).collect() }
}

#[test]
fn a_node_is_as_far_as_the_replica_says_that_it_is_connected_to() {
    let replicas = [
        replica(7, &[("a", Some(7), &[]), ("b", Some(5), &[]), ("c", None, &[])]),
        replica(3, &[("d", Some(3), &["shop/deny"]), ("b", Some(3), &[])]),
    ];
    let of = |node| Configuration::of(node, &replicas);
    assert_eq!(of("a"), Configuration::Current { generation: 7 });
    // It has changed to the other one.
    assert_eq!(of("b"), Configuration::Current { generation: 3 });
    assert_eq!(of("c"), Configuration::Behind { generation: 7, acknowledged: None });
    let refused = vec!["shop/deny".to_owned()];
    assert_eq!(of("d"), Configuration::Refused { generation: 3, refused });
    assert_eq!(of("e"), Configuration::NotConnected);
}

fn answer() -> Answer {
    let labels = json!({"app.kubernetes.io/version": "0.1.0"});
    let container = |name: &str, state: serde_json::Value| {
        let ready = state.get("running").is_some();
        json!({"name": name, "ready": ready, "state": state, "image": "", "imageID": "", "restartCount": 0})
    };
    let agent = container("weft-redirect", json!({"running": {}}));
    let proxy = container("ztunnel", json!({"waiting": {"reason": "CrashLoopBackOff"}}));
    let status = json!({"initContainerStatuses": [agent], "containerStatuses": [proxy]});
    let pod = json!({
        "metadata": {"name": "weft-node-1", "labels": labels},
        "spec": {"nodeName": "a", "containers": []}, "status": status,
    });
    let certificate = |until: &str| json!({"identity": "", "state": "Available", "certChain": [{"expirationTime": until}]});
    let said = json!({
        "certificates": [certificate("2026-03-01T00:00:00Z"), certificate("2026-02-01T00:00:00Z"),
            certificate("")],
        "workloadState": {"u": {"state": "Up"}, "v": {"state": "Up"}, "w": {"state": "Pending"}},
    });
    Answer { pod: from_value(pod).unwrap(), said: Ok(from_value(said).unwrap()) }
}

#[test]
fn a_row_sums_up_what_pod_proxy_and_control_plane_say() {
    let connected = [replica(7, &[("a", Some(5), &[])])];
    let rows = [
        Row::of("a", Some(&answer()), Some(&connected)),
        Row::of("b", None, Some(&connected)),
        Row::of("c", None, None),
    ];
    let mut out = Vec::new();
    table(&rows, Format::Table).write(&mut out).unwrap();
    let said = String::from_utf8(out).unwrap();
    let cells: Vec<Vec<_>> = said
        .lines()
        .map(|line| line.split("   ").map(str::trim).filter(|cell| !cell.is_empty()).collect())
        .collect();
    assert_eq!(
        cells,
        [
            vec![
                "NODE",
                "AGENT",
                "PROXY",
                "VERSION",
                "PODS",
                "CERTIFICATES UNTIL",
                "CONFIGURATION"
            ],
            vec![
                "a",
                "ready",
                "CrashLoopBackOff",
                "0.1.0",
                "2",
                "2026-02-01T00:00:00Z",
                "behind, 5 of 7"
            ],
            vec!["b", "none", "none", "-", "-", "-", "not connected"],
            vec!["c", "none", "none", "-", "-", "-", "not known"],
        ]
    );
    let row = serde_json::to_value(&rows[0]).unwrap();
    let behind = json!({"state": "behind", "generation": 7, "acknowledged": 5});
    assert_eq!((&row["configuration"], &row["pending"]), (&behind, &json!(1)));
    let yaml = serde_saphyr::to_string(&rows).unwrap();
    assert!(yaml.contains("acknowledged: 5"), "{yaml}");
    let mut out = Vec::new();
    table(&rows, Format::Wide).write(&mut out).unwrap();
    let wide = String::from_utf8(out).unwrap();
    assert!(wide.contains("PENDING") && wide.contains("weft-node-1   1"), "{wide}");
}
