//! The chart is installed, a namespace is labelled, and that is all.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use weft_tests::lab::LONG;

use crate::installed::{
    Answer, CLIENT, HEIR, INTRUDER, Installed, MARKER, OUTSIDER, VIRTUAL, WEB, policy,
};

#[tokio::test]
async fn an_installed_chart_and_a_label_give_encryption_identity_and_policy() -> Result<()> {
    let scene = Installed::new().await?;
    let web = scene.url(WEB)?;
    let call = || {
        let answer = scene.curl(CLIENT, &web)?;
        ensure!(answer.starts_with("web "), "web answered {answer:?}");
        Ok(())
    };
    let seen = scene.watched(call)?;
    ensure!(seen.iter().all(|it| it.marked > 0), "without the mesh the marker is not to be seen");

    scene.enroll().await?;
    let seen = scene.watched(|| {
        call()?;
        // The service's own address leads nowhere without the mesh: no kube-proxy runs here.
        scene.curl(CLIENT, &format!("http://{VIRTUAL}/{MARKER}")).map(drop)
    });
    for captured in seen.with_context(|| scene.pods_say())? {
        captured.refuse_clear_text()?;
        ensure!(captured.packets > 0, "nothing passed at all");
    }
    let check = scene.weft_outside(&["check"])?;
    ensure!(check.contains("3 are in the mesh") && check.contains("no problems"), "{check}");
    let log = scene.proxy_log(1).await?;
    ensure!(log.contains("ns/shop/sa/client"), "the proxy of web does not say who called: {log}");

    // An outsider is let in until somebody asks for more.
    scene.becomes(OUTSIDER, WEB, Answer::Given).await?;
    scene.cluster.apply(&policy("PeerAuthentication", "strict", "{mtls: {mode: STRICT}}"))?;
    scene.becomes(OUTSIDER, WEB, Answer::Refused).await?;
    scene.becomes(CLIENT, WEB, Answer::Given).await?;

    let source = "{source: {principals: [cluster.local/ns/shop/sa/intruder]}}";
    let deny = format!("{{action: DENY, rules: [{{from: [{source}]}}]}}");
    scene.cluster.apply(&policy("AuthorizationPolicy", "no-intruders", &deny))?;
    let programmed = ["wait", "--for=condition=Programmed", "--timeout=60s", "-n", "shop"];
    scene.cluster.kubectl(&[&programmed[..], &["authorizationpolicy/no-intruders"]].concat())?;
    scene.becomes(INTRUDER, WEB, Answer::Refused).await?;
    scene.becomes(CLIENT, WEB, Answer::Given).await?;
    let why = scene.weft(1, &["why", "shop/intruder", "web.shop:80"]).await?;
    ensure!(why.contains("no-intruders"), "weft why says: {why}");
    // The same without knowing of nodes and pods: the API server forwards to the proxy that decides.
    let from_outside = scene.weft_outside(&["why", "shop/intruder", "web.shop:80"])?;
    ensure!(from_outside == why, "from outside weft why says: {from_outside}");
    let certs = scene.weft_outside(&["get", "certs", "--all-nodes"])?;
    for (node, pod) in [("node-1", "client"), ("node-2", "web")] {
        let told =
            certs.lines().any(|it| it.starts_with(node) && it.contains(&format!("/sa/{pod}")));
        ensure!(told, "no certificate of {pod} on {node}: {certs}");
    }
    let ca = scene.weft_outside(&["ca", "status"])?;
    ensure!(ca.contains("kept by own, stage settled"), "weft ca status says: {ca}");
    let versions = scene.weft_outside(&["version"])?;
    ensure!(versions.contains("control plane: 0.1.0 (2)\nnodes: 0.1.0 (2)"), "{versions}");
    let log = scene.proxy_log(1).await?;
    let told = log.lines().any(|line| line.contains("no-intruders") && line.contains("intruder"));
    ensure!(told, "the access log does not name the policy: {log}");

    scene.un_enroll().await?;
    // Policies bind those who are in the mesh.
    scene.becomes(INTRUDER, WEB, Answer::Given).await?;
    scene.becomes(OUTSIDER, WEB, Answer::Given).await?;
    let seen = scene.watched(call)?;
    ensure!(seen.iter().all(|it| it.marked > 0), "without the label the marker is not to be seen");
    Ok(())
}

#[tokio::test]
async fn an_upgrade_of_the_chart_under_load_loses_no_connection() -> Result<()> {
    let scene = Installed::new().await?;
    scene.enroll().await?;
    let before = [scene.mesh_pod(0).await?, scene.mesh_pod(1).await?];
    let load = scene.load(CLIENT, WEB, 2)?;
    load.answered(20, LONG)?;
    let upgraded = scene.install(&json!({"node": {"proxy": {"workers": 2}}})).await;
    upgraded.context("the next agents and proxies take over")?;
    let after = [scene.mesh_pod(0).await?, scene.mesh_pod(1).await?];
    ensure!(before[0] != after[0] && before[1] != after[1], "{before:?} became {after:?}");
    load.answered(load.so_far() + 20, LONG).with_context(|| scene.pods_say())?;
    load.stop()?.refuse_failures().with_context(|| scene.pods_say())?;
    for pod in [CLIENT, INTRUDER, WEB] {
        scene.announced(pod, true).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_pod_that_has_the_address_of_a_deleted_one_is_never_called_for_it() -> Result<()> {
    let scene = Installed::new().await?;
    scene.enroll().await?;
    let address = scene.address(WEB)?;
    let last = address.rsplit('.').next().context("an address has parts")?;
    let load = scene.load_by(CLIENT, VIRTUAL, "web", 2)?;
    load.answered(20, LONG).with_context(|| scene.pods_say())?;
    let now = ["--force", "--grace-period=0"];
    scene.cluster.kubectl(&[&["delete", "pod", "-n", "shop", "web"], &now[..]].concat())?;
    scene.make(HEIR, &format!("{{test.weft.mesh/host: \"{last}\"}}"))?;
    scene.announced(HEIR, true).await?;
    ensure!(scene.address(HEIR)? == address, "the heir has another address");
    // Of its own name, at once, and by an identity of its own.
    scene.becomes(CLIENT, HEIR, Answer::Given).await?;
    let log = scene.proxy_log(1).await?;
    ensure!(log.contains("ns/shop/sa/heir"), "nobody has called the heir by its identity: {log}");
    let before = load.so_far();
    scene.make(WEB, "{}")?;
    load.answered(before + 20, LONG).with_context(|| scene.pods_say())?;
    let tally = load.stop()?;
    ensure!(tally.wrong == 0, "calls for web were answered by the heir: {tally:?}");
    Ok(())
}
