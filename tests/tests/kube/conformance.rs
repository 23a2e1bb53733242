//! Cases of the Gateway API's conformance suite for meshes (`conformance/tests/mesh`), by their names there.
//!
//! `MeshBasic` is the only one of the 23 that needs no route, and so no HTTP.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use weft_tests::{kube::eventually, lab::LONG};

use crate::{
    installed::{At, Installed},
    scene::AMBIENT,
};

const NAMESPACE: &str = "gateway-conformance-mesh";
const ECHO_V1: At = (NAMESPACE, "echo-v1", 0);
const ECHO_V2: At = (NAMESPACE, "echo-v2", 1);
/// As many answers in a row as the suite asks for before it believes them.
const IN_A_ROW: usize = 3;

/// What the suite sets up, as far as it is about TCP.
async fn applications(scene: &Installed) -> Result<()> {
    scene.cluster.namespace(NAMESPACE, AMBIENT).await?;
    for (_, name, node) in [ECHO_V1, ECHO_V2] {
        let (node, version) = (node + 1, name.trim_start_matches("echo-"));
        scene.cluster.apply(&format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {NAMESPACE}, labels: {{app: echo, version: {version}}}}}
spec:
  nodeName: node-{node}
  terminationGracePeriodSeconds: 1
  containers: [{{name: echo, image: weft-app, args: [serve, --port, \"8080\", --name, {name}]}}]
---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {NAMESPACE}}}
spec: {{selector: {{app: echo, version: {version}}}, ports: [{{port: 80, targetPort: 8080}}]}}
"
        ))?;
    }
    scene.cluster.apply(&format!(
        "apiVersion: v1
kind: Service
metadata: {{name: echo, namespace: {NAMESPACE}}}
spec:
  selector: {{app: echo}}
  ports: [{{name: http, port: 80, targetPort: 8080}}, {{name: http-alt, port: 8080}}]
"
    ))?;
    for pod in [ECHO_V1, ECHO_V2] {
        scene.announced(pod, true).await?;
    }
    Ok(())
}

#[tokio::test]
async fn mesh_basic_a_client_reaches_a_service_by_its_name() -> Result<()> {
    let scene = Installed::new().await?;
    applications(&scene).await?;
    // No DNS server and no kube-proxy run here: name and address are the mesh's own work.
    for url in ["http://echo/", "http://echo:8080/"] {
        let what = format!("{url} is answered");
        let answered = eventually(&what, LONG, async || {
            (0..IN_A_ROW).all(|_| scene.curl(ECHO_V1, url).is_ok()).then_some(())
        });
        answered.await.with_context(|| scene.pods_say())?;
    }
    let mut by = BTreeSet::new();
    for _ in 0..20 {
        let answer = scene.curl(ECHO_V1, "http://echo/").with_context(|| scene.pods_say())?;
        by.extend(answer.split_whitespace().next().map(str::to_owned));
    }
    ensure!(by.iter().eq(["echo-v1", "echo-v2"]), "answered by {by:?}");
    // Also where the only endpoint is the caller.
    for (_, name, _) in [ECHO_V1, ECHO_V2] {
        let only = scene.curl(ECHO_V1, &format!("http://{name}/"))?;
        ensure!(only.starts_with(&format!("{name} ")), "{name} is answered by {only:?}");
    }
    Ok(())
}
