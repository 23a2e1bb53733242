//! What is larger, older or more silent than what a control plane reads every day.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time;
use weft_control::{CaSource, LostRoot};
use weft_tests::{
    kube::{ControlPlane, eventually},
    lab::LONG,
};

use crate::{
    mesh::{Control, cluster},
    written::{defined, loosely_defined},
};

/// etcd takes no request of more than 1.5 MB.
const LARGE: usize = 1_000_000;

fn policy(version: &str, name: &str, rules: &str) -> String {
    format!(
        "apiVersion: security.istio.io/{version}
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: shop}}
spec: {{action: DENY, rules: [{rules}]}}
"
    )
}

/// The version of what is served under this name, as soon as it is served and another than `before`.
async fn served(control: &ControlPlane, name: &str, before: &str) -> Result<String> {
    let version = |page: &str| -> Option<String> {
        let page: serde_json::Value = serde_json::from_str(page).ok()?;
        let version = page.get("authorizations")?.get(name)?.as_str()?;
        (version != before).then(|| version.to_owned())
    };
    let page = control.until("/debug/config", |page| version(page).is_some()).await?;
    Ok(version(&page).unwrap_or_default())
}

#[tokio::test]
async fn an_object_of_a_megabyte_is_served_and_its_neighbours_are_too() -> Result<()> {
    let cluster = loosely_defined().await?;
    let large = |last: &str| {
        let principal = |n: usize| format!("cluster.local/ns/shop/sa/account-of-somebody-{n:06}");
        let all: Vec<_> = (0..LARGE / 48).map(principal).collect();
        let rule = format!("{{from: [{{source: {{principals: [{}, {last}]}}}}]}}", all.join(", "));
        policy("v1", "large", &rule)
    };
    let first = large("cluster.local/ns/shop/sa/a");
    ensure!(first.len() > LARGE, "it has {} bytes", first.len());
    cluster.apply(&first)?;
    let control = ControlPlane::start(cluster.kubeconfig()).await?;
    control.ready().await?;
    let before = served(&control, "shop/large", "").await?;
    // By its watch, too.
    cluster.apply(&large("cluster.local/ns/shop/sa/b"))?;
    served(&control, "shop/large", &before).await?;
    cluster.apply(&policy("v1", "small", "{}"))?;
    served(&control, "shop/small", "").await?;
    let failures =
        control.metric("weft_watch_failures_total{resource=\"authorizationpolicies\"}")?;
    ensure!(failures == 0.0, "{failures} requests failed");
    Ok(())
}

#[tokio::test]
async fn an_object_that_is_written_in_two_versions_is_one_and_the_last_word_counts() -> Result<()> {
    let cluster = defined().await?;
    let control = ControlPlane::start(cluster.kubeconfig()).await?;
    let rule = |principal: &str| format!("{{from: [{{source: {{principals: [{principal}]}}}}]}}");
    let write = |version: &str, principal: &str| {
        cluster.apply(&policy(
            version,
            "deny",
            &rule(&format!("cluster.local/ns/a/sa/{principal}")),
        ))
    };
    write("v1beta1", "one")?;
    let one = served(&control, "shop/deny", "").await?;
    write("v1", "two")?;
    let two = served(&control, "shop/deny", &one).await?;
    write("v1beta1", "one")?;
    assert_eq!(served(&control, "shop/deny", &two).await?, one);
    let objects = control.metric("weft_watch_objects{resource=\"authorizationpolicies\"}")?;
    ensure!((objects - 1.0).abs() < 0.5, "{objects} objects");

    // The newest version is served no more: what was read by it stays, and the other one is followed.
    let name = "authorizationpolicies.security.istio.io";
    let versions =
        cluster.kubectl(&["get", "crd", name, "-o", "jsonpath={.spec.versions[*].name}"])?;
    let at = versions.split(' ').position(|version| version == "v1");
    let at = at.ok_or_else(|| anyhow::anyhow!("no v1 in {versions}"))?;
    let patch = format!(
        "[{{\"op\": \"replace\", \"path\": \"/spec/versions/{at}/served\", \"value\": false}}]"
    );
    cluster.kubectl(&["patch", "crd", name, "--type=json", "-p", &patch])?;
    let gone = eventually("v1 is served no more", LONG, async || {
        cluster.kubectl(&["get", "--raw", "/apis/security.istio.io/v1/authorizationpolicies"]).err()
    });
    gone.await?;
    write("v1beta1", "three")?;
    served(&control, "shop/deny", &one).await?;
    control.until("/problems", |page| page == "[]\n").await.map(drop)
}

#[tokio::test]
async fn a_watch_whose_connection_was_forgotten_is_given_up_and_nothing_is_missed() -> Result<()> {
    let cluster = cluster().await?;
    let service = |name: &str| {
        cluster.apply(&format!(
            "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec: {{selector: {{app: web}}, ports: [{{port: 80}}]}}
"
        ))
    };
    service("first")?;
    let (relay, kubeconfig) = cluster.relay()?;
    let control = Control::by(&kubeconfig, CaSource::Own, LostRoot::Refuse).await?;
    let serves = async |name: &str| {
        control.page("/debug/config").await.is_ok_and(|page| page.contains(name))
    };
    let until = async |what: &str, name: &str, there: bool| {
        eventually(what, LONG, async || (serves(name).await == there).then_some(())).await
    };
    until("what there is is served", "shop/first.shop", true).await?;
    relay.forget();
    cluster.kubectl(&["delete", "service", "-n", "shop", "first"])?;
    service("later")?;
    // Nothing says that the watch is dead; only a clock can.
    let told = until("it is told", "shop/later.shop", true);
    ensure!(time::timeout(Duration::from_secs(2), told).await.is_err(), "it was told");
    ensure!(serves("shop/first.shop").await, "it was told");
    time::pause();
    time::advance(Duration::from_secs(296)).await;
    time::resume();
    until("what came is served", "shop/later.shop", true).await?;
    until("what went is not", "shop/first.shop", false).await?;
    control.stop().await
}
