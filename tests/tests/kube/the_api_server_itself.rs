//! What all other proofs stand on: an API server that is the real one, and faults that are felt.

use std::{pin::pin, time::Duration};

use anyhow::{Context, Result, ensure};
use futures_util::TryStreamExt;
use k8s_openapi::{
    api::{
        authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus},
        core::v1::{ConfigMap, Pod, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Config,
    api::{ListParams, PostParams, WatchEvent, WatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use weft_tests::{
    kube::{Account, Cluster, eventually},
    lab::LONG,
};

const AUDIENCE: &str = "weft-ca";

fn note(name: &str) -> ConfigMap {
    let metadata = ObjectMeta { name: Some(name.to_owned()), ..Default::default() };
    ConfigMap { metadata, ..Default::default() }
}

#[tokio::test]
async fn the_api_server_answers_and_forgets_nothing_over_a_restart() -> Result<()> {
    let mut cluster = Cluster::own().await?;
    let notes = Api::<ConfigMap>::namespaced(cluster.client()?, "default");
    let made = notes.create(&PostParams::default(), &note("kept")).await?;
    cluster.stop()?;
    ensure!(notes.get("kept").await.is_err(), "a stopped API server answered");
    cluster.restart().await?;
    assert_eq!(notes.get("kept").await?.metadata.uid, made.metadata.uid);
    Ok(())
}

#[tokio::test]
async fn a_paused_api_server_says_nothing_and_goes_on_where_it_was() -> Result<()> {
    let mut cluster = Cluster::own().await?;
    let notes = Api::<ConfigMap>::namespaced(cluster.client()?, "default");
    notes.create(&PostParams::default(), &note("kept")).await?;
    cluster.pause()?;
    let asked = tokio::time::timeout(Duration::from_millis(300), notes.get("kept")).await;
    ensure!(asked.is_err(), "a paused API server answered: {asked:?}");
    cluster.resume()?;
    tokio::time::timeout(LONG, notes.get("kept")).await.context("it did not go on")??;
    Ok(())
}

#[tokio::test]
async fn a_watch_and_a_page_from_before_what_was_forgotten_are_answered_410() -> Result<()> {
    let mut cluster = Cluster::own().await?;
    let notes = Api::<ConfigMap>::namespaced(cluster.client()?, "default");
    let before = notes.list(&ListParams::default()).await?.metadata.resource_version;
    let before = before.context("a list has a version")?;
    notes.create(&PostParams::default(), &note("later")).await?;
    // A watch that is still known goes on, so that the 410 below proves something.
    let mut events = pin!(notes.watch(&WatchParams::default(), &before).await?);
    let event = tokio::time::timeout(LONG, events.try_next()).await??;
    ensure!(matches!(event, Some(WatchEvent::Added(_))), "{event:?}");
    notes.create(&PostParams::default(), &note("latest")).await?;
    let first = notes.list(&ListParams::default().limit(1)).await?.metadata;
    cluster.forget().await?;
    let next = ListParams::default().limit(1).continue_token(&first.continue_.unwrap_or_default());
    let Err(kube::Error::Api(status)) = notes.list(&next).await else { panic!("a page was known") };
    assert_eq!(status.code, 410, "{status:?}");
    let mut events = pin!(notes.watch(&WatchParams::default(), &before).await?);
    let event = tokio::time::timeout(LONG, events.try_next()).await??;
    let Some(WatchEvent::Error(status)) = event else { panic!("{event:?}") };
    assert_eq!(status.code, 410, "{status:?}");
    Ok(())
}

#[tokio::test]
async fn a_held_relay_is_silent_and_a_cut_one_ends_its_connections() -> Result<()> {
    let cluster = Cluster::own().await?;
    let (relay, kubeconfig) = cluster.relay()?;
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let options = KubeConfigOptions::default();
    let client = Client::try_from(Config::from_custom_kubeconfig(kubeconfig, &options).await?)?;
    let far = Api::<ConfigMap>::namespaced(client, "default");
    let near = Api::<ConfigMap>::namespaced(cluster.client()?, "default");
    let before = far.list(&ListParams::default()).await?.metadata.resource_version;
    let mut events = pin!(far.watch(&WatchParams::default(), &before.unwrap_or_default()).await?);
    relay.hold();
    near.create(&PostParams::default(), &note("unseen")).await?;
    let early = tokio::time::timeout(Duration::from_millis(300), events.try_next()).await;
    ensure!(early.is_err(), "a held relay let something pass: {early:?}");
    relay.open();
    let late = tokio::time::timeout(LONG, events.try_next()).await??;
    ensure!(matches!(late, Some(WatchEvent::Added(_))), "{late:?}");
    relay.cut();
    let end = tokio::time::timeout(LONG, events.try_next()).await?;
    ensure!(!matches!(end, Ok(Some(_))), "the watch went on: {end:?}");
    ensure!(far.get("unseen").await.is_err(), "a cut relay led somewhere");
    relay.open();
    far.get("unseen").await?;
    Ok(())
}

async fn review(client: Client, token: &str) -> Result<TokenReviewStatus> {
    let spec =
        TokenReviewSpec { token: token.to_owned(), audiences: Some(vec![AUDIENCE.to_owned()]) };
    let review = TokenReview { spec, ..Default::default() };
    let made = Api::all(client).create(&PostParams::default(), &review).await?;
    made.status.context("a review without an answer")
}

#[tokio::test]
async fn a_token_is_reviewed_by_its_audience_and_ends_with_its_pod() -> Result<()> {
    let cluster = Cluster::own().await?;
    cluster.namespace("shop", &[]).await?;
    let account = Account { namespace: "shop", name: "default" };
    cluster.apply(
        "apiVersion: v1
kind: Pod
metadata: {name: cart, namespace: shop}
spec: {nodeName: node-1, containers: [{name: app, image: app}]}
",
    )?;
    let pods = Api::<Pod>::namespaced(cluster.client()?, "shop");
    let pod = pods.get("cart").await?;
    let token = cluster.token(account, AUDIENCE, Some(&pod)).await?;
    let status = review(cluster.client()?, &token).await?;
    assert_eq!(status.authenticated, Some(true), "{status:?}");
    assert_eq!(status.audiences, Some(vec![AUDIENCE.to_owned()]));
    let extra = status.user.and_then(|user| user.extra).unwrap_or_default();
    let uid = extra.get("authentication.kubernetes.io/pod-uid").and_then(|uids| uids.first());
    assert_eq!(uid, pod.metadata.uid.as_ref());
    let other = cluster.token(account, "somebody-else", None).await?;
    let status = review(cluster.client()?, &other).await?;
    ensure!(status.authenticated != Some(true), "a foreign audience was accepted: {status:?}");
    cluster.kubectl(&["delete", "pod", "-n", "shop", "cart", "--force", "--grace-period=0"])?;
    let ended = eventually("the token of a deleted pod is refused", LONG, async || {
        let status = review(cluster.client().ok()?, &token).await.ok()?;
        (status.authenticated != Some(true)).then_some(())
    });
    ended.await
}

#[tokio::test]
async fn the_controllers_make_slices_accounts_and_the_roots_config_map() -> Result<()> {
    let mut cluster = Cluster::own().await?;
    cluster.control()?;
    // The endpoint of a pod on a node that is not there is no endpoint.
    cluster.apply("apiVersion: v1\nkind: Node\nmetadata: {name: node-1}\n")?;
    cluster.kubectl(&["create", "namespace", "shop"])?;
    let notes = Api::<ConfigMap>::namespaced(cluster.client()?, "shop");
    let root = eventually("the root's certificate is published", LONG, async || {
        notes.get("kube-root-ca.crt").await.ok()?.data?.remove("ca.crt")
    });
    ensure!(root.await?.starts_with("-----BEGIN CERTIFICATE-----"), "no certificate");
    // Refused until the namespace's service account is there.
    let pod = "apiVersion: v1
kind: Pod
metadata: {name: cart, namespace: shop, labels: {app: cart}}
spec: {nodeName: node-1, containers: [{name: app, image: app}]}
";
    eventually("a pod is admitted", LONG, async || cluster.apply(pod).ok()).await?;
    cluster.kubectl(&["expose", "-n", "shop", "pod", "cart", "--port=80"])?;
    cluster.kubectl(&[
        "patch",
        "-n",
        "shop",
        "pod",
        "cart",
        "--subresource=status",
        "--type=merge",
        r#"-p={"status": {"phase": "Running", "podIP": "10.1.1.10", "podIPs": [{"ip": "10.1.1.10"}],
            "conditions": [{"type": "Ready", "status": "True"}]}}"#,
    ])?;
    let slices = Api::<EndpointSlice>::namespaced(cluster.client()?, "shop");
    let addresses = eventually("the service has an endpoint", LONG, async || {
        let of_cart = ListParams::default().labels("kubernetes.io/service-name=cart");
        let slices = slices.list(&of_cart).await.ok()?;
        let endpoint = slices.items.into_iter().find_map(|s| s.endpoints?.pop())?;
        Some(endpoint.addresses)
    });
    assert_eq!(addresses.await?, ["10.1.1.10"]);
    // Its pods go first, and no kubelet says that this one has ended.
    cluster.kubectl(&["delete", "pod", "-n", "shop", "cart", "--force", "--grace-period=0"])?;
    cluster.kubectl(&["delete", "namespace", "shop", "--wait=false"])?;
    let services = Api::<Service>::namespaced(cluster.client()?, "shop");
    eventually("what was in the namespace goes with it", LONG, async || {
        matches!(services.get_opt("cart").await, Ok(None)).then_some(())
    })
    .await
}
