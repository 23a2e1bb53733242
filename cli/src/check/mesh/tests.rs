use serde_json::{from_value, json};

use super::*;

fn now() -> Timestamp {
    "2026-06-01T00:00:00Z".parse().unwrap()
}

fn proxy(node: &str, ready: &str) -> Pod {
    from_value(json!({
        "metadata": {"name": format!("weft-node-{node}")},
        "spec": {"nodeName": node, "containers": []},
        "status": {
            "conditions": [{"type": "Ready", "status": ready}],
            "containerStatuses": [{"name": "ztunnel", "image": "", "imageID": "", "ready": false,
                "restartCount": 0, "state": {"waiting": {"reason": "ImagePullBackOff"}}}],
        },
    }))
    .unwrap()
}

#[test]
fn a_node_without_a_ready_proxy_is_named_with_the_reason() {
    let nodes = ["a", "b", "c"]
        .map(|name| from_value::<Node>(json!({"metadata": {"name": name}})).unwrap());
    let ready = ["a", "b", "c"].map(|node| proxy(node, "True"));
    let lines = on_nodes(&nodes, &ready);
    let all = "agent and proxy are ready on all 3 nodes";
    assert_eq!(lines, [Line::new("node", "", Verdict::Fine, all)]);

    // One replaces the other: the one that is ready counts.
    let lines = on_nodes(&nodes, &[proxy("a", "False"), proxy("a", "True"), proxy("b", "False")]);
    let waits = "pod weft-node-b is not ready: container ztunnel: ImagePullBackOff";
    let none = "no pod of the mesh runs here: enrolled pods cannot start";
    let problem = Verdict::Problem;
    assert_eq!(
        lines,
        [Line::new("node", "b", problem, waits), Line::new("node", "c", problem, none)]
    );
}

#[test]
fn a_control_plane_without_all_its_replicas_is_a_problem() {
    let of = |ready: i32| {
        let deployment = json!({
            "metadata": {},
            "spec": {"replicas": 2, "selector": {}, "template": {}},
            "status": {"readyReplicas": ready},
        });
        control_plane("it", &from_value(deployment).unwrap())
    };
    assert_eq!((of(2).verdict, &*of(2).says), (Verdict::Fine, "2 of 2 replicas are ready"));
    assert_eq!(of(1).verdict, Verdict::Problem);
    assert_eq!(of(0).verdict, Verdict::Problem);
}

#[test]
fn a_duty_that_is_not_renewed_is_a_problem() {
    let of = |spec: serde_json::Value| {
        held("it", &from_value(json!({"metadata": {}, "spec": spec})).unwrap(), now())
    };
    let lease = |renewed: &str| json!({"holderIdentity": "one", "leaseDurationSeconds": 15, "renewTime": renewed});
    assert_eq!(of(lease("2026-05-31T23:59:50.000000Z")).verdict, Verdict::Fine);
    let stale = of(lease("2026-05-31T23:59:00.000000Z"));
    assert_eq!(stale.verdict, Verdict::Problem);
    assert!(stale.says.contains("one has not renewed it since 2026-05-31"), "{}", stale.says);
    assert_eq!(of(json!({"holderIdentity": ""})).says, "nobody holds it");
}

fn root_until(name: &str, year: i32) -> String {
    let mut root = rcgen::CertificateParams::default();
    root.distinguished_name = rcgen::DistinguishedName::new();
    root.distinguished_name.push(rcgen::DnType::OrganizationName, name);
    root.not_after = rcgen::date_time_ymd(year, 7, 15);
    root.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
}

fn trusted(roots: &str, now: &str) -> Vec<(Verdict, String)> {
    let map = json!({"metadata": {}, "data": {"root-cert.pem": roots}});
    let lines = trust("it", &from_value(map).unwrap(), now.parse().unwrap());
    lines.into_iter().map(|line| (line.verdict, line.says)).collect()
}

#[test]
fn a_root_that_ends_soon_is_a_problem_before_it_does() {
    let pem = root_until("cluster.local", 2026);
    let of = |now: &str| trusted(&pem, now).remove(0);
    let root = "root O=cluster.local until 2026-07-15T00:00:00Z";
    assert_eq!(of("2026-06-01T00:00:00Z"), (Verdict::Fine, root.to_owned()));
    let soon = format!("{root}: it is to be changed; `weft ca status` says who keeps it");
    assert_eq!(of("2026-07-01T00:00:00Z"), (Verdict::Problem, soon));
    let over = format!("{root}: it has expired");
    assert_eq!(of("2026-07-15T00:00:00Z"), (Verdict::Problem, over));
}

#[test]
fn a_root_that_another_one_follows_may_come_near_its_end() {
    let both = root_until("last", 2026) + &root_until("next", 2036);
    let verdicts = trusted(&both, "2026-07-01T00:00:00Z");
    let last = "root O=last until 2026-07-15T00:00:00Z: another one follows it";
    let next = "root O=next until 2036-07-15T00:00:00Z";
    assert_eq!(verdicts, [(Verdict::Note, last.to_owned()), (Verdict::Fine, next.to_owned())]);
    // It may sign to this day: nobody has changed to the next one.
    let over = trusted(&both, "2026-07-15T00:00:00Z").remove(0);
    let expired = "root O=last until 2026-07-15T00:00:00Z: it has expired";
    assert_eq!(over, (Verdict::Problem, expired.to_owned()));
}

#[test]
fn a_bundle_without_roots_is_a_problem() {
    for (data, says) in [
        (json!({}), "it has no `root-cert.pem`"),
        (json!({"root-cert.pem": ""}), "holds no certificate"),
        (
            json!({"root-cert.pem": "-----BEGIN CERTIFICATE-----\naGk=\n-----END CERTIFICATE-----\n"}),
            "cannot be read",
        ),
    ] {
        let map = from_value(json!({"metadata": {}, "data": data})).unwrap();
        let lines = trust("it", &map, now());
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].verdict, Verdict::Problem);
        assert!(lines[0].says.contains(says), "{}", lines[0].says);
    }
}

#[test]
fn only_nodes_that_the_chart_selects_and_that_run_linux_are_to_be_in_the_mesh() {
    let set = |selector: serde_json::Value| {
        let spec = json!({"containers": [], "nodeSelector": selector});
        let set = json!({"metadata": {}, "spec": {"selector": {}, "template": {"spec": spec}}});
        from_value::<DaemonSet>(set).unwrap()
    };
    let node = |labels: serde_json::Value| {
        from_value::<Node>(json!({"metadata": {"name": "n", "labels": labels}})).unwrap()
    };
    let (all, some) = (set(json!({})), set(json!({"mesh": "yes"})));
    assert!(is_wanted(None, &node(json!({}))));
    assert!(is_wanted(Some(&all), &node(json!({"kubernetes.io/os": "linux"}))));
    assert!(!is_wanted(Some(&all), &node(json!({"kubernetes.io/os": "windows"}))));
    assert!(!is_wanted(Some(&some), &node(json!({"mesh": "no"}))));
    assert!(is_wanted(Some(&some), &node(json!({"mesh": "yes"}))));
}
