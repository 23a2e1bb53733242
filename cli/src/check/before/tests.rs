use serde_json::{from_value, json};

use super::*;

fn verdict(line: &Line) -> (Verdict, &str) {
    (line.verdict, &line.says)
}

#[test]
fn an_api_server_is_as_new_as_the_chart_asks() {
    let of = |major: &str, minor: &str| {
        server(&Info { major: major.into(), minor: minor.into(), ..Info::default() }).verdict
    };
    assert_eq!(of("1", "31"), Verdict::Fine);
    assert_eq!(of("1", "32+"), Verdict::Fine);
    assert_eq!(of("2", "0"), Verdict::Fine);
    assert_eq!(of("1", "30"), Verdict::Problem);
    assert_eq!(of("one", "31"), Verdict::Note);
    let chart = include_str!("../../../../manifests/weft/Chart.yaml");
    let (major, minor) = SERVER_MIN;
    assert!(chart.contains(&format!(">={major}.{minor}.0")), "{chart}");
}

#[test]
fn a_node_whose_kernel_is_too_old_is_named() {
    let of = |info: serde_json::Value| {
        let status = json!({"nodeInfo": info});
        let node = json!({"metadata": {"name": "n1"}, "status": status});
        super::node(&from_value(node).unwrap())
    };
    let info = |kernel: &str, system: &str, architecture: &str| {
        json!({"kernelVersion": kernel, "operatingSystem": system, "architecture": architecture,
            "bootID": "", "containerRuntimeVersion": "", "kubeProxyVersion": "", "kubeletVersion": "",
            "machineID": "", "osImage": "", "systemUUID": ""})
    };
    let line = of(info("6.1.0-18-amd64", "linux", "amd64"));
    assert_eq!(verdict(&line), (Verdict::Fine, "kernel 6.1.0-18-amd64"));
    let line = of(info("5.14.9", "linux", "arm64"));
    assert_eq!(verdict(&line), (Verdict::Problem, "kernel 5.14.9; the mesh needs 5.15 or newer"));
    assert_eq!(of(info("6.1", "linux", "s390x")).verdict, Verdict::Problem);
    assert_eq!(of(info("10.0.20348", "windows", "amd64")).verdict, Verdict::Note);
    assert_eq!(of(info("", "linux", "amd64")).verdict, Verdict::Note);
    assert_eq!(line.object, "n1");
}

#[test]
fn another_mesh_that_captures_the_same_pods_is_a_problem() {
    let set = |namespace: &str, name: &str| -> DaemonSet {
        from_value(json!({"metadata": {"name": name, "namespace": namespace}})).unwrap()
    };
    let lines = others(&[set("kube-system", "kube-proxy")], "weft-system");
    assert_eq!(lines, [Line::new("other mesh", "", Verdict::Fine, "none")]);
    let lines = others(&[set("istio-system", "istio-cni-node")], "weft-system");
    assert_eq!(lines.len(), 1);
    assert_eq!(
        (lines[0].verdict, &*lines[0].object),
        (Verdict::Problem, "DaemonSet istio-system/istio-cni-node")
    );
    let lines = others(&[set("mesh", "weft-node")], "weft-system");
    assert_eq!(lines[0].verdict, Verdict::Note);
    assert!(lines[0].says.contains("--mesh-namespace"), "{lines:?}");
}

#[test]
fn the_right_to_create_each_kind_of_the_chart_is_asked_for() {
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/weft/templates");
    // Asked for by a value, of an operator's kinds.
    let others = ["PodMonitor", "PrometheusRule"];
    let mut seen = 0;
    for file in std::fs::read_dir(chart).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        for kind in text.lines().filter_map(|line| line.strip_prefix("kind: ")) {
            let kind = kind.trim();
            let plural = kind.to_lowercase();
            let plural =
                plural.strip_suffix('y').map_or(format!("{plural}s"), |it| format!("{it}ies"));
            let is_asked_for = CREATED.iter().any(|(_, created)| *created == plural);
            assert!(is_asked_for || others.contains(&kind), "{kind}");
            seen += 1;
        }
    }
    assert!(seen >= CREATED.len(), "{seen} kinds in {chart}");
}
