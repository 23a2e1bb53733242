//! The mesh's roots as a `ClusterTrustBundle`, on API servers that serve those and on ones that do not.

use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use k8s_openapi::{
    api::certificates::v1::{ClusterTrustBundle, ClusterTrustBundleSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, api::PostParams};
use serde_json::{Value, json};
use weft_certs::Authority;
use weft_model::TrustDomain;
use weft_tests::{
    kube::{Apply, Chart, Cluster, eventually},
    lab::LONG,
};

use crate::mesh::{Control, MESH, cluster, roots};

const BUNDLE: &str = "weft.mesh:ca:weft-system";
const NEITHER: &str = "certificates.k8s.io/v1/clustertrustbundles=false";
const BETA: &str = "certificates.k8s.io/v1/clustertrustbundles=false,certificates.k8s.io/v1beta1/clustertrustbundles=true";
/// Somebody's rule for the whole cluster.
const FORBIDDEN: &str = "apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: no-bundles}
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules:
      - {apiGroups: [certificates.k8s.io], apiVersions: ['*'], operations: [CREATE, UPDATE], resources: [clustertrustbundles]}
  validations: [{expression: 'false', message: not in this cluster, reason: Forbidden}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: no-bundles}
spec: {policyName: no-bundles, validationActions: [Deny]}
";

fn somebody() -> Result<Authority> {
    Ok(Authority::new(&TrustDomain::default(), SystemTime::now())?)
}

/// By its path: kubectl remembers for long what an API server serves.
fn found(cluster: &Cluster, version: &str) -> Result<Value> {
    let path = format!("/apis/certificates.k8s.io/{version}/clustertrustbundles/{BUNDLE}");
    serde_json::from_str(&cluster.kubectl(&["get", "--raw", &path])?).context("read the bundle")
}

/// Waits until it holds what the `ConfigMap` does.
async fn published(cluster: &Cluster, version: &str) -> Result<()> {
    let roots = roots(cluster).await?.context("the roots are published")?;
    let spec = json!({"signerName": "weft.mesh/ca", "trustBundle": roots});
    let bundle = eventually("the bundle holds the roots", LONG, async || {
        (found(cluster, version).ok()?.get("spec") == Some(&spec)).then_some(())
    });
    let bundle = bundle.await;
    bundle.with_context(|| format!("it is {:?}", found(cluster, version)))
}

async fn failing(control: &Control) -> Result<Value> {
    let page: Value = serde_json::from_str(&control.page("/ca").await?)?;
    page.get("failing").cloned().context("it says what fails")
}

fn delete(cluster: &Cluster) -> Result<String> {
    cluster.kubectl(&["delete", "clustertrustbundle", BUNDLE])
}

#[tokio::test]
async fn the_roots_are_a_cluster_trust_bundle_where_those_are_served() -> Result<()> {
    let mut cluster = cluster().await?;
    let control = Control::start(&cluster).await?;
    published(&cluster, "v1").await?;
    // Who changes it, or takes it away, is not the one who says what the roots are.
    let patch = json!({"spec": {"trustBundle": somebody()?.bundle().to_pem()}}).to_string();
    cluster.kubectl(&["patch", "clustertrustbundle", BUNDLE, "--type=merge", "-p", &patch])?;
    published(&cluster, "v1").await?;
    delete(&cluster)?;
    published(&cluster, "v1").await?;

    // An API server without them, and then one with the version of before.
    delete(&cluster)?;
    cluster.serve(NEITHER).await?;
    let again = Control::start(&cluster).await?;
    again.node_svid(&cluster).await?;
    cluster.serve(BETA).await?;
    published(&cluster, "v1beta1").await?;
    again.stop().await?;
    control.stop().await
}

#[tokio::test]
async fn a_cluster_trust_bundle_that_may_not_be_written_harms_nothing() -> Result<()> {
    let cluster = cluster().await?;
    cluster.apply(FORBIDDEN)?;
    let probe = json!({
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "ClusterTrustBundle",
        "metadata": {"name": "probe"},
        "spec": {"trustBundle": somebody()?.bundle().to_pem()},
    });
    let forbidden = eventually("bundles are forbidden", LONG, async || {
        let error = cluster.install(std::slice::from_ref(&probe), Apply::Dry).err()?;
        format!("{error:#}").contains("not in this cluster").then_some(())
    });
    forbidden.await?;
    let control = Control::start(&cluster).await?;
    control.until_ca("the failure shows", "not in this cluster").await?;
    let failing = failing(&control).await?;
    ensure!(failing.as_object().is_some_and(|all| all.keys().eq(["share"])), "{failing}");
    ensure!(control.metric("weft_control_ca_failures_total{work=\"share\"}").await? > 0);
    let svid = control.node_svid(&cluster).await?;
    assert_eq!(roots(&cluster).await?, Some(svid.bundle().to_pem()));
    cluster.kubectl(&["delete", "validatingadmissionpolicybinding", "no-bundles"])?;
    published(&cluster, "v1").await?;
    control.until_ca("nothing fails any more", "\"failing\": {}").await?;
    control.stop().await
}

#[tokio::test]
async fn the_chart_lets_the_control_plane_write_its_own_bundle() -> Result<()> {
    let cluster = Cluster::own().await?;
    cluster.namespace(MESH, &[]).await?;
    let chart = Chart::render(MESH, &json!({}))?;
    cluster.install(&chart.rights(), Apply::Really)?;
    let account = "system:serviceaccount:weft-system:weft-control";
    let client = Client::try_from(cluster.config_as(account, &["system:authenticated"])?)?;
    let bundles = Api::<ClusterTrustBundle>::all(client);
    let bundle = |name: &str, signer: &str| -> Result<_> {
        Ok(ClusterTrustBundle {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            spec: ClusterTrustBundleSpec {
                signer_name: Some(signer.to_owned()),
                trust_bundle: somebody()?.bundle().to_pem(),
            },
        })
    };
    let post = PostParams::default();
    let own = bundle(BUNDLE, "weft.mesh/ca")?;
    // Rights come in force when the API server has heard of them.
    let made = eventually("it is made", LONG, async || bundles.create(&post, &own).await.ok());
    let mut made = made.await?;
    made.spec.trust_bundle = somebody()?.bundle().to_pem();
    bundles.replace(BUNDLE, &post, &made).await?;
    let others = bundle("example.com:ca:root", "example.com/ca")?;
    let Err(kube::Error::Api(status)) = bundles.create(&post, &others).await else {
        anyhow::bail!("it attests for another signer")
    };
    assert_eq!(status.code, 403, "{status:?}");
    Ok(())
}
