//! Who may have which identity, by tokens that a real API server makes and reviews.

use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use weft_certs::KeyPair;
use weft_tests::{
    kube::{Account, eventually},
    lab::LONG,
};

use crate::mesh::{
    AUDIENCE, Control, MESH, NODE, WEB, cluster, node_token, pod, refused, trusting, workload,
};

#[tokio::test]
async fn a_token_of_a_nodes_proxy_is_exchanged_once_for_a_certificate_of_the_node() -> Result<()> {
    let cluster = cluster().await?;
    let control = Control::start(&cluster).await?;
    let svid = control.node_svid(&cluster).await?;
    let node = Api::<Node>::all(cluster.client()?).get("node-1").await?;
    let uid = node.metadata.uid.context("a node has a uid")?;
    assert_eq!(
        svid.identity().to_string(),
        format!("spiffe://cluster.local/weft/node/node-1/{uid}")
    );
    ensure!(svid.not_after() > SystemTime::now());
    let web = Api::<Pod>::namespaced(cluster.client()?, "shop").get("web").await?;
    let uid = web.metadata.uid.context("a pod has a uid")?;
    control.by_certificate(&cluster, &svid, workload(WEB, &[&uid])?).await??;
    // A stock node sends its token each time, and names no pod.
    let token = node_token(&cluster).await?;
    control.by_token(&cluster, &token, workload(WEB, &[])?).await??;
    control.stop().await
}

#[tokio::test]
async fn tokens_that_are_not_of_a_nodes_proxy_for_us_give_nothing() -> Result<()> {
    let cluster = cluster().await?;
    pod(&cluster, MESH, "other", "default", "node-1")?;
    let pods = Api::<Pod>::namespaced(cluster.client()?, MESH);
    let (proxy, other) = (pods.get("proxy").await?, pods.get("other").await?);
    let web = Api::<Pod>::namespaced(cluster.client()?, "shop").get("web").await?;
    let of_web = Account { namespace: "shop", name: "web" };
    let of_default = Account { namespace: MESH, name: "default" };
    let control = Control::start(&cluster).await?;
    let mut count = 0;
    for (what, token) in [
        ("a token for another audience", cluster.token(NODE, "vault", Some(&proxy)).await?),
        ("a token of another namespace", cluster.token(of_web, AUDIENCE, Some(&web)).await?),
        ("a token of another account", cluster.token(of_default, AUDIENCE, Some(&other)).await?),
        ("a token that is bound to no pod", cluster.token(NODE, AUDIENCE, None).await?),
        ("no token at all", "a.b.c".to_owned()),
    ] {
        refused(what, control.by_token(&cluster, &token, workload(WEB, &[])?).await?)?;
        count += 1;
        assert_eq!(control.denied("token").await?, count, "{what}");
    }
    let token = cluster.token(NODE, AUDIENCE, Some(&proxy)).await?;
    control.by_token(&cluster, &token, workload(WEB, &[])?).await??;
    cluster.kubectl(&["delete", "pod", "-n", MESH, "proxy", "--force", "--grace-period=0"])?;
    // A good answer is remembered for five seconds.
    let ended = eventually("the token of a deleted proxy gives nothing", LONG, async || {
        let asked = workload(WEB, &[]).ok()?;
        control.by_token(&cluster, &token, asked).await.ok()?.err()
    });
    assert_eq!(ended.await?.code(), tonic::Code::PermissionDenied);
    control.stop().await
}

#[tokio::test]
async fn a_node_that_is_made_again_under_its_name_is_another_node() -> Result<()> {
    let cluster = cluster().await?;
    let control = Control::start(&cluster).await?;
    let svid = control.node_svid(&cluster).await?;
    let ask = async || control.by_certificate(&cluster, &svid, workload(WEB, &[])?).await;
    ask().await??;
    control.stream(&cluster, &svid).await??;
    cluster.kubectl(&["delete", "node", "node-1"])?;
    cluster.apply("apiVersion: v1\nkind: Node\nmetadata: {name: node-1}\n")?;
    let denied =
        eventually("the node of before has nothing", LONG, async || ask().await.ok()?.err());
    // What the proxy takes for a sign to prove itself with its token again.
    assert_eq!(denied.await?.code(), tonic::Code::Unauthenticated);
    assert_eq!(control.denied("other_node").await?, 1);
    let own = trusting(&KeyPair::generate()?, "abad1dea")?;
    let renewed = control.by_certificate(&cluster, &svid, own).await?;
    assert_eq!(renewed.err().map(|status| status.code()), Some(tonic::Code::Unauthenticated));
    assert_eq!(control.denied("other_node").await?, 2);
    let streamed = control.stream(&cluster, &svid).await?;
    assert_eq!(streamed.err().map(|status| status.code()), Some(tonic::Code::Unauthenticated));
    // Nor is its word taken for that of the node that has its name now: not even when another's is written.
    pod(&cluster, MESH, "proxy-2", "weft-node", "node-2")?;
    let proxy = Api::<Pod>::namespaced(cluster.client()?, MESH).get("proxy-2").await?;
    let token = cluster.token(NODE, AUDIENCE, Some(&proxy)).await?;
    control.by_token(&cluster, &token, trusting(&KeyPair::generate()?, "c0ffee")?).await??;
    let map = ["get", "-n", MESH, "configmap", "weft-node-trust", "-o", "yaml"];
    let written = eventually("what nodes say is written", LONG, async || {
        cluster.kubectl(&map).ok().filter(|said| said.contains("c0ffee"))
    });
    let written = written.await?;
    ensure!(!written.contains("abad1dea"), "{written}");
    control.stop().await
}

#[tokio::test]
async fn a_node_has_only_what_runs_on_it_now() -> Result<()> {
    let cluster = cluster().await?;
    cluster.account(Account { namespace: "shop", name: "far" }).await?;
    pod(&cluster, "shop", "far", "far", "node-2")?;
    let pods = Api::<Pod>::namespaced(cluster.client()?, "shop");
    let old = pods.get("web").await?.metadata.uid.context("a pod has a uid")?;
    let control = Control::start(&cluster).await?;
    let svid = control.node_svid(&cluster).await?;
    let ask = async |identity: &str, pods: &[&str]| -> Result<_> {
        control.by_certificate(&cluster, &svid, workload(identity, pods)?).await
    };
    ask(WEB, &[&old]).await??;
    refused("a pod on another node", ask("spiffe://cluster.local/ns/shop/sa/far", &[]).await?)?;
    refused("another trust domain", ask("spiffe://other.example/ns/shop/sa/web", &[]).await?)?;
    let mut greedy = workload(WEB, &[&old])?;
    greedy.csr = KeyPair::generate()?.request(&"spiffe://cluster.local/ns/shop/sa/far".parse()?)?;
    refused("a request for another name", control.by_certificate(&cluster, &svid, greedy).await?)?;
    for reason in ["no_such_pod", "trust_domain", "request_names"] {
        assert_eq!(control.denied(reason).await?, 1, "{reason}");
    }

    let denied = async |what: &str, uid: &str| {
        let denied = eventually(what, LONG, async || ask(WEB, &[uid]).await.ok()?.err());
        refused(what, Err(denied.await?))
    };
    cluster.kubectl(&["delete", "pod", "-n", "shop", "web", "--force", "--grace-period=0"])?;
    denied("a deleted pod", &old).await?;
    pod(&cluster, "shop", "web", "web", "node-1")?;
    let new = pods.get("web").await?.metadata.uid.context("a pod has a uid")?;
    eventually("the new pod has its identity", LONG, async || ask(WEB, &[&new]).await.ok()?.ok())
        .await?;
    refused("a reused name with another uid", ask(WEB, &[&old]).await?)?;
    assert_eq!(control.denied("other_pod").await?, 1);
    let completed = r#"-p={"status": {"phase": "Succeeded"}}"#;
    let patch = ["patch", "-n", "shop", "pod", "web", "--subresource=status", "--type=merge"];
    cluster.kubectl(&[&patch[..], &[completed]].concat())?;
    denied("a completed pod", &new).await?;
    control.stop().await
}
