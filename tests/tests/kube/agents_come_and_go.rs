//! While the agent, the one before it or the API server is away, captured pods stay captured.

use anyhow::{Context, Result, ensure};
use weft_tests::{
    kube::eventually,
    lab::{LONG, Signal},
};

use super::scene::{AMBIENT, CLIENT, FAR, OUT, Scene, WEB};

#[tokio::test]
async fn a_restarted_agent_takes_up_what_is_wanted_and_lets_go_what_is_not() -> Result<()> {
    let mut scene = Scene::in_the_mesh().await?;
    // Without a proxy nothing is answered: what is, went through a gap.
    scene.kill_proxy()?;
    let gaps = scene.load(CLIENT, FAR, 2)?;
    scene.kill_agent()?;
    scene.label(&["pod", "-n", "shop", "web"], "weft.mesh/dataplane-mode=disabled")?;
    scene.label(&["pod", "-n", "shop", "out"], "istio.io/dataplane-mode-")?;
    // The sandboxes are found by their processes: no plugin tells of them again.
    scene.start_agent()?;
    scene.becomes_announced("shop", "web", false).await?;
    scene.has_enrolled(4).await?;
    let tally = gaps.stop()?;
    ensure!(
        tally.ok == 0 && tally.refused > 0,
        "a captured pod spoke between two agents: {tally:?}"
    );
    scene.was_never_let_go("client").await?;
    ensure!(scene.reaches(FAR, WEB)?, "a pod that was let go is not called directly");
    ensure!(!scene.reaches(CLIENT, FAR)?, "a captured pod spoke without its proxy");
    ensure!(!scene.reaches(OUT, FAR)?, "a pod that came in spoke without its proxy");
    let direct = scene.load(FAR, WEB, 1)?;
    direct.answered(1, LONG).context("these clients are never answered")?;
    ensure!(scene.announced("shop", "client").await?, "a captured pod was given up");
    scene.start_proxy()?;
    scene.becomes_announced("shop", "out", true).await
}

#[tokio::test]
async fn what_is_known_stays_in_force_while_the_api_server_is_away() -> Result<()> {
    let mut scene = Scene::in_the_mesh().await?;
    scene.cluster.stop()?;
    scene.kill_proxy()?;
    ensure!(!scene.reaches(CLIENT, FAR)?, "a captured pod spoke while the API server was away");
    ensure!(scene.reaches(OUT, FAR)?, "a pod that is out was captured");
    scene.cluster.restart().await?;
    ensure!(!scene.reaches(CLIENT, FAR)?, "a captured pod was let go by a new list");
    // Both watches hear again: of a namespace and of a pod.
    scene.label(&["namespace", "plain"], "istio.io/dataplane-mode=ambient")?;
    scene.label(&["pod", "-n", "shop", "out"], "istio.io/dataplane-mode-")?;
    scene.has_enrolled(4).await?;
    let forgotten = |log: &str| log.matches("the API server has forgotten what it told").count();
    let before = forgotten(&scene.agent_log());
    // They cannot go on from where they were: 410.
    scene.cluster.forget().await?;
    let what = "pods and namespaces are asked for again";
    eventually(what, LONG, async || (forgotten(&scene.agent_log()) >= before + 2).then_some(()))
        .await
        .with_context(|| scene.agent_log())?;
    scene.label(&["namespace", "plain"], "istio.io/dataplane-mode-")?;
    scene.label(&["pod", "-n", "shop", "out"], "istio.io/dataplane-mode=none")?;
    scene.has_released(2).await?;
    for pod in ["client", "web"] {
        scene.was_never_let_go(pod).await?;
    }
    ensure!(!scene.reaches(CLIENT, FAR)?, "a captured pod was let go by a list from scratch");
    scene.label(&["namespace", "shop"], "istio.io/dataplane-mode-")?;
    scene.becomes_announced("shop", "client", false).await?;
    ensure!(scene.reaches(CLIENT, FAR)?, "what came after the outage is not heard");
    Ok(())
}

#[tokio::test]
async fn an_agent_that_begins_while_the_api_server_is_away_leaves_proxies_what_they_have()
-> Result<()> {
    let mut scene = Scene::in_the_mesh().await?;
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

#[tokio::test]
async fn the_next_agent_takes_over_and_the_last_one_keeps_its_proxies() -> Result<()> {
    let mut scene = Scene::in_the_mesh().await?;
    scene.tell_control_plane("shop", &["client"])?;
    let load = scene.load(CLIENT, FAR, 2)?;
    load.answered(20, LONG)?;
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
    // More connections than the proxy has sockets in stock: somebody gives it more, and it knows only the last agent.
    load.answered(load.so_far() + 500, LONG).with_context(|| scene.proxy_log())?;
    let connected = || scene.agent_log().matches("proxy connected").count();
    ensure!(connected() == 1, "the proxy left the last agent: {}", scene.agent_log());
    ensure!(last.is_running(), "the last agent left its proxies alone");
    last.signal(Signal::Term)?;
    ensure!(last.exit(LONG)?.success(), "the last agent ended badly");
    eventually("the proxy dials the next agent", LONG, async || (connected() == 2).then_some(()))
        .await
        .with_context(|| scene.agent_log())?;
    load.answered(load.so_far() + 500, LONG).with_context(|| scene.proxy_log())?;
    load.stop()?.refuse_failures()?;
    scene.was_never_let_go("client").await?;
    scene.label(&["pod", "-n", "shop", "out"], "istio.io/dataplane-mode-")?;
    scene.becomes_announced("shop", "out", true).await
}

#[tokio::test]
async fn a_pod_deleted_by_force_while_the_agent_was_dead_stays_captured() -> Result<()> {
    let mut scene = Scene::new().await?;
    scene.cluster.namespace("shop", AMBIENT).await?;
    scene.cluster.namespace("plain", &[]).await?;
    scene.serve("plain", "far", "").await?;
    scene.kill_agent()?;
    // Of a node without a kubelet, which would take the pod down.
    let (sandbox, _program) = scene.abandoned_pod("node-9", "lost").await?;
    let far = format!("http://{}/", scene.kubelet.sandbox("plain", "far")?.v4());
    let reaches =
        || -> Result<bool> { Ok(sandbox.run("curl", &["-sS", "-m", "2", &far])?.status.success()) };
    ensure!(reaches()?, "a pod outside of the mesh reaches nobody");
    let mut agent = scene.kubelet.start_agent_for(&scene.kubeconfig, "node-9")?;
    scene.has_enrolled(1).await?;
    ensure!(!reaches()?, "a captured pod spoke without a proxy");
    agent.kill()?;
    scene.cluster.kubectl(&["delete", "pod", "-n", "shop", "lost", "--force"])?;
    let _agent = scene.kubelet.start_agent_for(&scene.kubeconfig, "node-9")?;
    scene.says("deleted, and still there: it stays captured").await?;
    ensure!(!reaches()?, "a pod that was deleted by force was let go");
    sandbox.evict();
    scene.says("nothing of the pod is left").await
}
