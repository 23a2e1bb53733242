//! A label on a namespace or a pod is all that it takes to enrol, and its removal to leave.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::{Api, api::ListParams};
use weft_tests::{
    kube::{Cluster, Kubelet, Relay, eventually},
    lab::{Control, LONG, Lab, Loop, Process, Signal},
};

const REDIRECTION: &str = "ambient.istio.io/redirection";
const AMBIENT: &[(&str, &str)] = &[("istio.io/dataplane-mode", "ambient")];

/// A node with a kubelet, whose network plugins are ours too. Dropped from the first to the last.
struct Scene {
    proxy: Option<Process>,
    agent: Option<Process>,
    kubelet: Kubelet,
    control: Control,
    /// The node's way to the API server.
    kubeconfig: PathBuf,
    _relay: Relay,
    _lab: Lab,
    cluster: Cluster,
}

impl Scene {
    async fn new() -> Result<Self> {
        let cluster = Cluster::own().await?;
        let lab = Lab::new()?;
        let control = lab.control()?;
        let node = lab.furnished_node(1, &control)?;
        let kubelet = Kubelet::start(&cluster, node, "zone-a").await?;
        let (relay, kubeconfig) = cluster.relay_on(lab.wire())?;
        let agent = Some(kubelet.start_agent(&kubeconfig)?);
        Ok(Self {
            proxy: None,
            agent,
            kubelet,
            control,
            kubeconfig,
            _relay: relay,
            _lab: lab,
            cluster,
        })
    }

    fn start_proxy(&mut self) -> Result<()> {
        self.proxy = Some(self.kubelet.node().spawn_proxy()?);
        Ok(())
    }

    fn kill_proxy(&mut self) -> Result<()> {
        self.proxy.take().context("a proxy runs")?.kill()
    }

    fn start_agent(&mut self) -> Result<()> {
        self.agent = Some(self.kubelet.start_agent(&self.kubeconfig)?);
        Ok(())
    }

    fn kill_agent(&mut self) -> Result<()> {
        self.agent.take().context("an agent runs")?.kill()
    }

    fn agent_log(&self) -> String {
        self.kubelet.node().agent_log()
    }

    /// Waits until agents have enrolled so many pods; one that the next agent takes up counts again.
    async fn has_enrolled(&self, count: usize) -> Result<()> {
        eventually(&format!("{count} pods are enrolled"), LONG, async || {
            (self.agent_log().matches(" enrolled ").count() == count).then_some(())
        })
        .await
        .with_context(|| self.agent_log())
    }

    fn proxy_log(&self) -> String {
        self.kubelet.node().proxy_log()
    }

    fn pods(&self, namespace: &str) -> Result<Api<Pod>> {
        Ok(Api::namespaced(self.cluster.client()?, namespace))
    }

    /// A pod that serves on port 80, and waits until it does.
    async fn serve(&self, namespace: &str, name: &str, more: &str) -> Result<()> {
        self.make(
            namespace,
            name,
            more,
            "weft-app",
            &format!("[serve, --port, \"80\", --name, {name}]"),
        )?;
        let pods = self.pods(namespace)?;
        eventually(&format!("{namespace}/{name} runs"), LONG, async || {
            let pod = pods.get(name).await.ok()?;
            (pod.status?.phase? == "Running").then_some(())
        })
        .await
        .with_context(|| self.agent_log())
    }

    fn make(&self, namespace: &str, name: &str, more: &str, image: &str, args: &str) -> Result<()> {
        self.cluster.apply(&format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}{more}}}
spec:
  nodeName: node-1
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers: [{{name: app, image: {image}, args: {args}}}]
"
        ))
    }

    fn label(&self, object: &[&str], label: &str) -> Result<()> {
        self.cluster.kubectl(&[&["label", "--overwrite"], object, &[label]].concat()).map(drop)
    }

    /// Whether the API server is told that a pod is captured.
    async fn announced(&self, namespace: &str, name: &str) -> Result<bool> {
        let annotations = self.pods(namespace)?.get(name).await?.metadata.annotations;
        Ok(annotations.is_some_and(|all| all.get(REDIRECTION).is_some_and(|is| is == "enabled")))
    }

    async fn becomes_announced(&self, namespace: &str, name: &str, wanted: bool) -> Result<()> {
        let what = format!("{namespace}/{name} is announced: {wanted}");
        eventually(&what, LONG, async || {
            (self.announced(namespace, name).await.ok()? == wanted).then_some(())
        })
        .await
        .with_context(|| self.agent_log())
    }

    /// The proxies' control plane, which reads manifests here, learns of what the API server has of these.
    fn tell_control_plane(&self, namespace: &str, pods: &[&str]) -> Result<()> {
        let manifests = self.control.manifests();
        let told = |object: &[&str]| {
            let manifest = self
                .cluster
                .kubectl(&[&["get", "-o", "json", "-n", namespace], object].concat())?;
            manifests.apply(&object.join("-"), &manifest)
        };
        told(&["namespace", namespace])?;
        pods.iter().try_for_each(|pod| told(&["pod", pod]))
    }

    /// Clients in a pod that call another one, connection after connection.
    fn load(&self, from: (&str, &str), to: (&str, &str), threads: u8) -> Result<Loop> {
        let (from, to) = (self.kubelet.sandbox(from.0, from.1)?, self.kubelet.sandbox(to.0, to.1)?);
        from.hammer(&format!("{}:80", to.v4()), threads, "in-the-clear")
    }

    /// Whether a pod gets an answer from another one, within two seconds.
    fn reaches(&self, from: (&str, &str), to: (&str, &str)) -> Result<bool> {
        let (from, to) = (self.kubelet.sandbox(from.0, from.1)?, self.kubelet.sandbox(to.0, to.1)?);
        let url = format!("http://{}/", to.v4());
        Ok(from.run("curl", &["-sS", "-m", "2", &url])?.status.success())
    }
}

const CLIENT: (&str, &str) = ("shop", "client");
const WEB: (&str, &str) = ("shop", "web");
const OUT: (&str, &str) = ("shop", "out");
const FAR: (&str, &str) = ("plain", "far");

const ON_THE_HOST: &str = "apiVersion: v1
kind: Pod
metadata: {name: host, namespace: shop, labels: {istio.io/dataplane-mode: ambient}}
spec:
  nodeName: node-1
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  containers: [{name: app, image: weft-app, args: [serve, --port, \"8088\", --name, host]}]
";

/// Pods that were there before anybody asked for them.
async fn four_pods(scene: &Scene) -> Result<()> {
    scene.cluster.namespace("shop", &[]).await?;
    scene.cluster.namespace("plain", &[]).await?;
    scene.serve("plain", "far", "").await?;
    scene.serve("shop", "web", "").await?;
    scene.serve("shop", "client", "").await?;
    scene.serve("shop", "out", ", labels: {istio.io/dataplane-mode: none}").await
}

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

#[tokio::test]
async fn a_restarted_agent_takes_up_what_is_wanted_and_lets_go_what_is_not() -> Result<()> {
    let mut scene = Scene::new().await?;
    four_pods(&scene).await?;
    scene.start_proxy()?;
    scene.label(&["namespace", "shop"], "weft.mesh/dataplane-mode=enabled")?;
    scene.becomes_announced("shop", "web", true).await?;
    scene.becomes_announced("shop", "client", true).await?;
    scene.kill_agent()?;
    scene.label(&["pod", "-n", "shop", "web"], "weft.mesh/dataplane-mode=disabled")?;
    scene.label(&["pod", "-n", "shop", "out"], "istio.io/dataplane-mode-")?;
    // The sandboxes are found by their processes: no plugin tells of them again.
    scene.start_agent()?;
    scene.becomes_announced("shop", "web", false).await?;
    scene.becomes_announced("shop", "out", true).await?;
    ensure!(scene.announced("shop", "client").await?, "a captured pod was given up");
    let uid = scene.pods("shop")?.get("client").await?.metadata.uid.context("a pod has a UID")?;
    let log = scene.agent_log();
    let let_go = log.lines().find(|line| line.contains("un-enrolled") && line.contains(&uid));
    ensure!(let_go.is_none(), "a captured pod was let go and taken up again: {let_go:?}");
    scene.kill_proxy()?;
    ensure!(scene.reaches(FAR, WEB)?, "a pod that was let go is not called directly");
    ensure!(!scene.reaches(CLIENT, FAR)?, "a captured pod spoke without its proxy");
    ensure!(!scene.reaches(OUT, FAR)?, "a pod that came in spoke without its proxy");
    Ok(())
}

#[tokio::test]
async fn what_is_known_stays_in_force_while_the_api_server_is_away() -> Result<()> {
    let mut scene = Scene::new().await?;
    four_pods(&scene).await?;
    scene.start_proxy()?;
    scene.label(&["namespace", "shop"], "istio.io/dataplane-mode=ambient")?;
    scene.becomes_announced("shop", "client", true).await?;
    scene.cluster.stop()?;
    scene.kill_proxy()?;
    ensure!(!scene.reaches(CLIENT, FAR)?, "a captured pod spoke while the API server was away");
    ensure!(scene.reaches(OUT, FAR)?, "a pod that is out was captured");
    scene.cluster.restart().await?;
    ensure!(!scene.reaches(CLIENT, FAR)?, "a captured pod was let go by a new list");
    // The watches cannot go on from where they were: 410.
    scene.cluster.forget().await?;
    ensure!(!scene.reaches(CLIENT, FAR)?, "a captured pod was let go by a list from scratch");
    scene.label(&["namespace", "shop"], "istio.io/dataplane-mode-")?;
    scene.becomes_announced("shop", "client", false).await?;
    ensure!(scene.reaches(CLIENT, FAR)?, "what came after the outage is not heard");
    Ok(())
}

#[tokio::test]
async fn an_agent_that_begins_while_the_api_server_is_away_leaves_proxies_what_they_have()
-> Result<()> {
    let mut scene = Scene::new().await?;
    four_pods(&scene).await?;
    scene.start_proxy()?;
    scene.label(&["namespace", "shop"], "istio.io/dataplane-mode=ambient")?;
    scene.becomes_announced("shop", "client", true).await?;
    scene.tell_control_plane("shop", &["client"])?;
    let load = scene.load(CLIENT, FAR, 1)?;
    // The proxy has a stock of the pod's sockets from here on: an agent that knows nobody makes none.
    load.answered(20, LONG)?;
    load.stop()?.refuse_failures()?;
    scene.cluster.stop()?;
    scene.kill_agent()?;
    scene.start_agent()?;
    let what = "the proxy dials the next agent, and is answered";
    eventually(what, LONG, async || {
        (scene.agent_log().matches("proxy connected").count() == 2).then_some(())
    })
    .await
    .with_context(|| scene.agent_log())?;
    for _ in 0..3 {
        ensure!(scene.reaches(CLIENT, FAR)?, "the proxy dropped a pod: {}", scene.proxy_log());
    }
    scene.cluster.restart().await?;
    scene.has_enrolled(4).await?;
    let load = scene.load(CLIENT, FAR, 1)?;
    load.answered(200, LONG).with_context(|| scene.agent_log())?;
    load.stop()?.refuse_failures()?;
    scene.kill_proxy()?;
    ensure!(!scene.reaches(CLIENT, FAR)?, "a captured pod spoke without its proxy");
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

#[tokio::test]
async fn the_next_agent_takes_over_and_the_last_one_keeps_its_proxies() -> Result<()> {
    let mut scene = Scene::new().await?;
    four_pods(&scene).await?;
    scene.start_proxy()?;
    scene.label(&["namespace", "shop"], "istio.io/dataplane-mode=ambient")?;
    scene.becomes_announced("shop", "client", true).await?;
    let mut last = scene.agent.take().context("an agent runs")?;
    scene.start_agent()?;
    let what = "the last agent yields and the next one has its pods";
    eventually(what, LONG, async || {
        let log = scene.agent_log();
        (log.contains("yielded to another agent") && log.matches(" enrolled ").count() == 4)
            .then_some(())
    })
    .await
    .with_context(|| scene.agent_log())?;
    ensure!(last.is_running(), "the last agent left its proxies alone");
    // Its proxy is still there, and is the only one that could answer.
    scene.label(&["pod", "-n", "shop", "out"], "istio.io/dataplane-mode-")?;
    scene.kill_proxy()?;
    scene.start_proxy()?;
    scene.becomes_announced("shop", "out", true).await?;
    last.signal(Signal::Term)?;
    ensure!(last.exit(LONG)?.success(), "the last agent ended badly");
    Ok(())
}
