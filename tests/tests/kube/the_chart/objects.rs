//! What the chart promises of its objects, whatever the values.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_tests::kube::Chart;

use super::{CONTROL, MESH, NODE, lost_root, other_values};

/// Each object of the values that a test is about.
fn charts() -> Result<Vec<Chart>> {
    [json!({}), other_values(), lost_root()].iter().map(|all| Chart::render(MESH, all)).collect()
}

fn at<'a>(object: &'a Value, path: &str) -> Result<&'a Value> {
    object.pointer(path).with_context(|| format!("no {path} in {object}"))
}

/// Both kinds, with names and whether they run as long as the pod.
fn containers(workload: &Value) -> Result<Vec<&Value>> {
    let pod = at(workload, "/spec/template/spec")?;
    let mut all: Vec<&Value> = at(pod, "/containers")?.as_array().into_iter().flatten().collect();
    all.extend(pod["initContainers"].as_array().into_iter().flatten());
    Ok(all)
}

#[test]
fn the_control_plane_survives_the_loss_of_any_one_pod() -> Result<()> {
    for chart in charts()? {
        let control = chart.object(CONTROL.0, CONTROL.1)?;
        ensure!(at(control, "/spec/replicas")?.as_u64() >= Some(2), "{control}");
        assert_eq!(at(control, "/spec/strategy/rollingUpdate/maxUnavailable")?, 0);
        let selector = at(control, "/spec/selector/matchLabels")?;
        for (kind, path) in
            [("PodDisruptionBudget", "/spec/selector/matchLabels"), ("Service", "/spec/selector")]
        {
            assert_eq!(at(chart.object(kind, CONTROL.1)?, path)?, selector, "{kind}");
        }
        assert_eq!(at(chart.object("PodDisruptionBudget", CONTROL.1)?, "/spec/maxUnavailable")?, 1);
        let pod = at(control, "/spec/template/spec")?;
        assert_eq!(pod["priorityClassName"], "system-cluster-critical");
        let spread = at(pod, "/topologySpreadConstraints")?.as_array().context("a list")?;
        let keys: Vec<_> = spread.iter().map(|constraint| &constraint["topologyKey"]).collect();
        assert_eq!(keys, ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]);
        for constraint in spread {
            assert_eq!(at(constraint, "/labelSelector/matchLabels")?, selector);
        }
    }
    Ok(())
}

#[test]
fn a_nodes_pod_is_replaced_without_a_gap_and_is_on_every_node() -> Result<()> {
    for chart in charts()? {
        let node = chart.object(NODE.0, NODE.1)?;
        let update = at(node, "/spec/updateStrategy/rollingUpdate")?;
        assert_eq!(*update, json!({ "maxSurge": 1, "maxUnavailable": 0 }));
        let pod = at(node, "/spec/template/spec")?;
        assert_eq!(pod["priorityClassName"], "system-node-critical");
        // Two of them at once: no port may be the node's, and neither may share what only one can have.
        ensure!(pod.get("hostNetwork").is_none(), "{pod}");
        for container in containers(node)? {
            for port in container["ports"].as_array().into_iter().flatten() {
                ensure!(port.get("hostPort").is_none(), "{port}");
            }
        }
        for volume in at(pod, "/volumes")?.as_array().into_iter().flatten() {
            let private = ["zds", "state", "tmp"].iter().any(|name| volume["name"] == *name);
            assert_eq!(volume.get("emptyDir").is_some(), private, "{volume}");
        }
        // The agent starts before the proxy and ends after it.
        let agent = at(pod, "/initContainers/0")?;
        assert_eq!(
            (&agent["name"], &agent["restartPolicy"]),
            (&json!("weft-redirect"), &json!("Always"))
        );
        let grace = at(pod, "/terminationGracePeriodSeconds")?.to_string();
        let fields = [
            ("spec.nodeName", "node-1"),
            ("metadata.name", "x"),
            ("metadata.namespace", MESH),
            ("status.podIP", "10.0.0.9"),
        ];
        let proxy = chart.container(NODE, "ztunnel", &fields)?;
        assert_eq!(proxy.env.get("TERMINATION_GRACE_PERIOD_SECONDS"), Some(&grace));
    }
    let everywhere = Chart::render(MESH, &json!({}))?;
    let tolerations = "/spec/template/spec/tolerations";
    let tolerations = at(everywhere.object(NODE.0, NODE.1)?, tolerations)?;
    assert_eq!(*tolerations, json!([{ "operator": "Exists" }]));
    Ok(())
}

#[test]
fn only_the_agent_has_any_privilege() -> Result<()> {
    for chart in charts()? {
        for (kind, name) in [CONTROL, NODE] {
            let workload = chart.object(kind, name)?;
            for container in containers(workload)? {
                let context = at(container, "/securityContext")?;
                assert_eq!(context["readOnlyRootFilesystem"], true, "{container}");
                if container["name"] == "weft-redirect" {
                    assert_eq!(context["privileged"], true);
                    continue;
                }
                assert_eq!(
                    *context,
                    json!({
                        "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                        "runAsNonRoot": true, "runAsUser": 65534, "runAsGroup": 65534,
                        "capabilities": { "drop": ["ALL"] }, "seccompProfile": { "type": "RuntimeDefault" },
                    })
                );
                reaches_no_host(workload, container)?;
            }
        }
    }
    Ok(())
}

/// Its volumes are not the node's folders.
fn reaches_no_host(workload: &Value, container: &Value) -> Result<()> {
    let volumes = at(workload, "/spec/template/spec/volumes")?.as_array().context("a list")?;
    for mount in container["volumeMounts"].as_array().into_iter().flatten() {
        let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]);
        let volume = volume.with_context(|| format!("no volume for {mount}"))?;
        ensure!(volume.get("hostPath").is_none(), "{mount} is the host's {volume}");
    }
    Ok(())
}

#[test]
fn every_container_is_probed_by_ports_that_it_has_and_limited_in_memory() -> Result<()> {
    let chart = Chart::render(MESH, &json!({}))?;
    for (kind, name) in [CONTROL, NODE] {
        for container in containers(chart.object(kind, name)?)? {
            ensure!(at(container, "/resources/limits")?.get("memory").is_some(), "{container}");
            if container["name"] == "weft-redirect" {
                // The proxy is not ready without it.
                continue;
            }
            let ports: Vec<_> = at(container, "/ports")?.as_array().into_iter().flatten().collect();
            let probe = at(container, "/readinessProbe/httpGet")?;
            ensure!(ports.iter().any(|port| port["name"] == probe["port"]), "{probe} in {ports:?}");
        }
    }
    let control = chart.object(CONTROL.0, CONTROL.1)?;
    let probes = ["readinessProbe", "livenessProbe"];
    let paths = probes.map(|probe| {
        control.pointer(&format!("/spec/template/spec/containers/0/{probe}/httpGet/path"))
    });
    assert_eq!(paths, [Some(&json!("/readyz")), Some(&json!("/livez"))]);
    Ok(())
}

#[test]
fn only_the_nodes_proxies_reach_the_control_plane() -> Result<()> {
    let chart = Chart::render(MESH, &json!({}))?;
    let labels = |workload: (&str, &str)| -> Result<Value> {
        let workload = chart.object(workload.0, workload.1)?;
        Ok(at(workload, "/spec/selector/matchLabels")?.clone())
    };
    let control = at(chart.object("NetworkPolicy", CONTROL.1)?, "/spec")?.clone();
    let tcp = |port: &str| json!([{ "port": port, "protocol": "TCP" }]);
    let expected = json!({
        "podSelector": { "matchLabels": labels(CONTROL)? },
        "policyTypes": ["Ingress"],
        "ingress": [
            { "from": [{ "podSelector": { "matchLabels": labels(NODE)? } }], "ports": tcp("xds") },
            { "ports": tcp("admin") },
        ],
    });
    assert_eq!(control, expected);
    let node = at(chart.object("NetworkPolicy", NODE.1)?, "/spec/ingress")?;
    assert_eq!(*node, json!([{ "ports": tcp("metrics") }]));
    let without = Chart::render(MESH, &json!({ "networkPolicy": { "enabled": false } }))?;
    ensure!(without.object("NetworkPolicy", CONTROL.1).is_err());
    Ok(())
}

#[test]
fn another_configuration_is_another_pod_and_the_same_one_is_not() -> Result<()> {
    let template = |values: &Value| -> Result<Value> {
        let chart = Chart::render(MESH, values)?;
        Ok(at(chart.object(NODE.0, NODE.1)?, "/spec/template")?.clone())
    };
    let plain = template(&json!({}))?;
    assert_eq!(template(&json!({ "monitoring": { "dashboard": true } }))?, plain);
    ensure!(template(&json!({ "node": { "proxy": { "workers": 3 } } }))? != plain);
    Ok(())
}
