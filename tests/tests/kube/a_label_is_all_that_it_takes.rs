//! A label on a namespace or a pod is all that it takes to enrol, and its removal to leave.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::{Api, api::ListParams};
use weft_tests::{kube::eventually, lab::LONG};

use super::scene::{AMBIENT, CLIENT, FAR, OUT, Scene, WEB, four_pods};

const ON_THE_HOST: &str = "apiVersion: v1
kind: Pod
metadata: {name: host, namespace: shop, labels: {istio.io/dataplane-mode: ambient}}
spec:
  nodeName: node-1
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  containers: [{name: app, image: weft-app, args: [serve, --port, \"8088\", --name, host]}]
";

#[tokio::test]
async fn a_labelled_namespace_is_captured_and_announced_and_direct_again_without_its_label()
-> Result<()> {
    let mut scene = Scene::new().await?;
    four_pods(&scene).await?;
    scene.cluster.apply(ON_THE_HOST)?;
    ensure!(scene.reaches(CLIENT, FAR)?, "a pod outside of the mesh reaches nobody");
    for round in ["at first", "again"] {
        scene.start_proxy()?;
        scene.label(&["namespace", "shop"], "istio.io/dataplane-mode=ambient")?;
        scene.becomes_announced("shop", "web", true).await?;
        scene.becomes_announced("shop", "client", true).await?;
        ensure!(
            !scene.announced("shop", "out").await?,
            "a pod was enrolled that its label keeps out"
        );
        ensure!(!scene.announced("plain", "far").await?, "a pod of another namespace was enrolled");
        ensure!(
            !scene.announced("shop", "host").await?,
            "a pod of the host's network was enrolled"
        );
        // Captured means: without a proxy nothing leaves, and nothing comes in.
        scene.kill_proxy()?;
        ensure!(!scene.reaches(CLIENT, FAR)?, "{round}: a captured pod spoke without its proxy");
        ensure!(!scene.reaches(OUT, WEB)?, "{round}: a captured pod listened without its proxy");
        ensure!(scene.reaches(OUT, FAR)?, "{round}: a pod that is out was captured");
        ensure!(scene.announced("shop", "web").await?, "{round}: a pod without proxy was given up");
        scene.label(&["namespace", "shop"], "istio.io/dataplane-mode-")?;
        scene.becomes_announced("shop", "web", false).await?;
        scene.becomes_announced("shop", "client", false).await?;
        ensure!(
            scene.reaches(CLIENT, WEB)?,
            "{round}: a pod that was let go is not called directly"
        );
    }
    Ok(())
}

async fn phase(pods: &Api<Pod>, name: &str) -> Result<String> {
    let what = format!("{name} ends");
    eventually(&what, LONG, async || {
        let phase = pods.get(name).await.ok()?.status?.phase?;
        ["Succeeded", "Failed"].contains(&phase.as_str()).then_some(phase)
    })
    .await
}

#[tokio::test]
async fn a_new_pod_s_first_packet_is_captured() -> Result<()> {
    let scene = Scene::new().await?;
    scene.cluster.namespace("plain", &[]).await?;
    scene.cluster.namespace("shop", AMBIENT).await?;
    scene.serve("plain", "far", "").await?;
    let far = scene.kubelet.sandbox("plain", "far")?.v4().to_owned();
    // All that they do is to connect, the instant that they start; and no proxy runs.
    let args = format!("[-sS, -m, \"3\", \"http://{far}/\"]");
    scene.make("plain", "open", "", "curl", &args)?;
    scene.make("shop", "captured", "", "curl", &args)?;
    assert_eq!(phase(&scene.pods("plain")?, "open").await?, "Succeeded");
    assert_eq!(phase(&scene.pods("shop")?, "captured").await?, "Failed", "{}", scene.agent_log());
    Ok(())
}

#[tokio::test]
async fn without_its_agent_a_node_starts_no_pods_but_those_that_bring_it_up() -> Result<()> {
    let mut scene = Scene::new().await?;
    scene.cluster.namespace("shop", AMBIENT).await?;
    scene
        .cluster
        .account(weft_tests::kube::Account { namespace: "kube-system", name: "default" })
        .await?;
    scene.kill_agent()?;
    scene.make("shop", "web", "", "weft-app", "[serve, --port, \"80\", --name, web]")?;
    let events = Api::<Event>::namespaced(scene.cluster.client()?, "shop");
    let told = eventually("the kubelet says why", LONG, async || {
        let events = events.list(&ListParams::default()).await.ok()?;
        let mut notes = events.items.into_iter().filter_map(|event| event.message);
        notes.find(|note| note.contains("weft-redirect"))
    });
    let told = told.await?;
    ensure!(told.contains("pod shop/web: no answer from weft-redirect at"), "{told}");
    scene.serve("kube-system", "dns", "").await?;
    scene.start_agent()?;
    let pods = scene.pods("shop")?;
    eventually("the pod runs", LONG, async || {
        (pods.get("web").await.ok()?.status?.phase? == "Running").then_some(())
    })
    .await
    .with_context(|| scene.agent_log())?;
    scene.kubelet.check("shop", "web")?;
    scene.kubelet.check("kube-system", "dns")?;
    Ok(())
}

#[tokio::test]
async fn a_deleted_pod_is_let_go_and_its_successor_of_the_same_name_captured() -> Result<()> {
    let mut scene = Scene::new().await?;
    scene.start_proxy()?;
    scene.cluster.namespace("shop", AMBIENT).await?;
    for _ in 0..2 {
        scene.serve("shop", "web", "").await?;
        scene.becomes_announced("shop", "web", true).await?;
        scene.cluster.kubectl(&["delete", "pod", "-n", "shop", "web"])?;
    }
    let log = scene.agent_log();
    assert_eq!(log.matches(" enrolled ").count(), 2, "{log}");
    assert_eq!(log.matches("un-enrolled").count(), 2, "{log}");
    ensure!(!log.contains("ERROR"), "{log}");
    Ok(())
}

#[tokio::test]
async fn a_pod_that_cannot_be_enrolled_says_so_in_an_event_and_a_condition() -> Result<()> {
    let mut scene = Scene::new().await?;
    scene.kill_agent()?;
    scene.cluster.namespace("shop", AMBIENT).await?;
    // A pod of a node on which nothing runs has no namespace.
    scene.cluster.apply("apiVersion: v1\nkind: Node\nmetadata: {name: node-9}\n")?;
    scene.cluster.apply(
        "apiVersion: v1
kind: Pod
metadata: {name: lost, namespace: shop}
spec: {nodeName: node-9, containers: [{name: app, image: app}]}
",
    )?;
    scene.cluster.kubectl(&[
        "patch", "-n", "shop", "pod", "lost", "--subresource=status", "--type=merge",
        r#"-p={"status": {"phase": "Running", "podIP": "10.1.1.99", "podIPs": [{"ip": "10.1.1.99"}]}}"#,
    ])?;
    scene.agent = Some(scene.kubelet.start_agent_for(&scene.kubeconfig, "node-9")?);
    let events = Api::<Event>::namespaced(scene.cluster.client()?, "shop");
    let told = eventually("an event says why", LONG, async || {
        let events = events.list(&ListParams::default()).await.ok()?.items.into_iter();
        let mut ours = events.filter(|it| it.reason.as_deref() == Some("WeftEnrollmentFailed"));
        ours.next()
    });
    let told = told.await.with_context(|| scene.agent_log())?;
    assert_eq!(told.type_.as_deref(), Some("Warning"));
    assert_eq!(told.involved_object.name.as_deref(), Some("lost"));
    let note = told.message.unwrap_or_default();
    let start = "the pod cannot be enrolled in the mesh: its network namespace is not found";
    ensure!(note.starts_with(start), "{note}");
    let complaint = async |is: &dyn Fn(&str) -> bool| {
        eventually("the pod's condition", LONG, async || {
            let pod = scene.pods("shop").ok()?.get("lost").await.ok()?;
            let conditions = pod.status?.conditions.unwrap_or_default();
            let ours = conditions.into_iter().find(|it| it.type_ == "weft.mesh/Enrolled");
            is(&ours.and_then(|it| it.message).unwrap_or_default()).then_some(())
        })
        .await
        .with_context(|| scene.agent_log())
    };
    complaint(&|said| said.starts_with("its network namespace is not found")).await?;
    scene.label(&["namespace", "shop"], "istio.io/dataplane-mode-")?;
    complaint(&str::is_empty).await
}
