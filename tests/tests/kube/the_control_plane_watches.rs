//! The control plane over a real API server: what it reads, and what it does when it cannot.

use anyhow::{Result, ensure};
use weft_tests::kube::{Account, Cluster, ControlPlane};

/// A pod of `shop` with an address, as a kubelet would report it.
fn pod(cluster: &Cluster, name: &str, address: &str) -> Result<()> {
    cluster.apply(&format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: shop, labels: {{app: web}}}}
spec: {{nodeName: node-1, containers: [{{name: app, image: app, ports: [{{name: http, containerPort: 8080}}]}}]}}
"
    ))?;
    let status = format!(
        "{{\"status\": {{\"phase\": \"Running\", \"podIP\": \"{address}\", \"podIPs\": [{{\"ip\": \"{address}\"}}]}}}}"
    );
    status_of(cluster, name, &status)
}

fn status_of(cluster: &Cluster, pod: &str, status: &str) -> Result<()> {
    let patch = ["patch", "pod", "-n", "shop", pod, "--subresource=status", "--type=merge", "-p"];
    cluster.kubectl(&[&patch[..], &[status]].concat()).map(drop)
}

fn delete(cluster: &Cluster, pod: &str) -> Result<()> {
    cluster.kubectl(&["delete", "pod", "-n", "shop", pod, "--force", "--grace-period=0"]).map(drop)
}

const SERVICE: &str = "apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}
";

/// With a schema that takes anything, as some distributions install them.
fn definition(plural: &str, kind: &str, group: &str) -> String {
    let singular = kind.to_lowercase();
    format!(
        "apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {{name: {plural}.{group}}}
spec:
  group: {group}
  scope: Namespaced
  names: {{plural: {plural}, singular: {singular}, kind: {kind}}}
  versions:
  - name: v1beta1
    served: true
    storage: true
    schema: {{openAPIV3Schema: {{type: object, x-kubernetes-preserve-unknown-fields: true}}}}
"
    )
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1beta1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: shop}}
spec: {spec}
"
    )
}

fn entry(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1beta1
kind: ServiceEntry
metadata: {{name: {name}, namespace: shop}}
spec: {spec}
"
    )
}

const WEB: &str = "Kubernetes//Pod/shop/web-1";

#[tokio::test]
async fn a_real_cluster_is_read_and_followed_with_definitions_that_come_late() -> Result<()> {
    let cluster = Cluster::own().await?;
    cluster.namespace("shop", &[]).await?;
    cluster.apply(SERVICE)?;
    pod(&cluster, "web-1", "10.0.0.1")?;
    let control = ControlPlane::start(cluster.kubeconfig()).await?;
    control.ready().await?;
    control.serves(&[WEB, "shop/web.shop.svc.cluster.local"], &["shop/deny"]).await?;
    // Its lists were streamed: had the server refused that, it would have been counted.
    let failures = control.metric("weft_watch_failures_total{resource=\"pods\"}")?;
    ensure!(failures == 0.0, "{failures} requests failed");

    pod(&cluster, "web-2", "10.0.0.2")?;
    control.serves(&[WEB, "Kubernetes//Pod/shop/web-2"], &[]).await?;
    status_of(&cluster, "web-1", "{\"status\": {\"phase\": \"Succeeded\"}}")?;
    control.serves(&["Kubernetes//Pod/shop/web-2"], &[WEB]).await?;

    cluster.apply(&definition(
        "authorizationpolicies",
        "AuthorizationPolicy",
        "security.istio.io",
    ))?;
    cluster.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"])?;
    cluster.apply(&policy("deny", "{action: DENY, rules: [{}]}"))?;
    control.serves(&["shop/deny"], &[]).await?;

    // What cannot be read is told by name, denies, and stops nothing.
    cluster.apply(&policy("bad", "{action: DENY, unheardOf: 1}"))?;
    let problems = control.until("/problems", |page| page.contains("spec.unheardOf")).await?;
    ensure!(problems.contains("AuthorizationPolicy shop/bad"), "{problems}");
    control.serves(&["shop/deny", "shop/bad"], &[]).await?;
    cluster.apply(&policy("later", "{action: DENY, rules: [{}]}"))?;
    control.serves(&["shop/later"], &[]).await?;

    // Nor does another object that is bad: it is left out, and its neighbours are not.
    cluster.apply(&definition("serviceentries", "ServiceEntry", "networking.istio.io"))?;
    cluster.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"])?;
    cluster.apply(&entry("wrong", "{hosts: 7}"))?;
    cluster.apply(&entry("pay", "{hosts: [pay.example.com], resolution: DNS}"))?;
    control.serves(&["shop/pay.example.com"], &["wrong"]).await?;
    control.until("/problems", |page| page.contains("ServiceEntry shop/wrong")).await?;
    cluster.kubectl(&["delete", "serviceentry", "-n", "shop", "wrong"])?;

    cluster.kubectl(&["delete", "crd", "authorizationpolicies.security.istio.io"])?;
    control.serves(&[], &["shop/deny", "shop/bad", "shop/later"]).await?;
    control.until("/problems", |page| page == "[]\n").await?;
    control.ready().await
}

#[tokio::test]
async fn after_a_restart_and_410_what_was_deleted_meanwhile_is_gone_and_the_rest_never_was()
-> Result<()> {
    let mut cluster = Cluster::own().await?;
    cluster.namespace("shop", &[]).await?;
    pod(&cluster, "web-1", "10.0.0.1")?;
    pod(&cluster, "web-2", "10.0.0.2")?;
    let (relay, kubeconfig) = cluster.relay()?;
    let control = ControlPlane::start(&kubeconfig).await?;
    control.ready().await?;
    let both = [WEB, "Kubernetes//Pod/shop/web-2"];
    control.serves(&both, &[]).await?;

    relay.cut();
    control.until("/problems", |page| page.contains("cannot be reached")).await?;
    delete(&cluster, "web-1")?;
    pod(&cluster, "web-3", "10.0.0.3")?;
    cluster.forget().await?;
    control.ready().await?;
    control.serves(&both, &["web-3"]).await?;
    let age = control.metric("weft_watch_last_event_age_seconds{resource=\"pods\"}")?;
    ensure!(age > 0.0, "{age}");

    relay.open();
    control.serves(&["Kubernetes//Pod/shop/web-2", "Kubernetes//Pod/shop/web-3"], &[WEB]).await?;
    control.until("/problems", |page| page == "[]\n").await?;
    pod(&cluster, "web-4", "10.0.0.4")?;
    control.serves(&["Kubernetes//Pod/shop/web-4"], &[WEB]).await
}

/// All that the control plane may read.
pub(crate) const RIGHTS: &str = "apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: weft-control}
rules:
- apiGroups: ['']
  resources: [pods, services, namespaces, nodes]
  verbs: [list, watch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch]
- apiGroups: [security.istio.io]
  resources: [authorizationpolicies, peerauthentications]
  verbs: [list, watch]
- apiGroups: [networking.istio.io]
  resources: [serviceentries, workloadentries]
  verbs: [list, watch]
- apiGroups: [apiextensions.k8s.io]
  resources: [customresourcedefinitions]
  verbs: [list, watch]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: weft-control}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: weft-control}
subjects: [{kind: ServiceAccount, name: default, namespace: shop}]
";

#[tokio::test]
async fn forbidden_and_then_allowed_recovers_with_the_least_of_rights() -> Result<()> {
    let cluster = Cluster::own().await?;
    let account = Account { namespace: "shop", name: "default" };
    cluster.namespace("shop", &[]).await?;
    pod(&cluster, "web-1", "10.0.0.1")?;
    let control = ControlPlane::start(&cluster.kubeconfig_of(account).await?).await?;
    let problems = control.until("/problems", |page| page.contains("pods are not heard")).await?;
    ensure!(problems.contains("cannot watch resource") || problems.contains("403"), "{problems}");
    let (status, page) = control.page("/readyz")?;
    ensure!(status == 503 && page.contains("pods"), "{status} {page}");

    cluster.apply(RIGHTS)?;
    control.ready().await?;
    control.serves(&[WEB], &[]).await?;
    control.until("/problems", |page| page == "[]\n").await?;

    cluster.kubectl(&["delete", "clusterrolebinding", "weft-control"])?;
    pod(&cluster, "web-2", "10.0.0.2")?;
    control.ready().await?;
    cluster.apply(RIGHTS)?;
    control.serves(&[WEB, "Kubernetes//Pod/shop/web-2"], &[]).await
}
