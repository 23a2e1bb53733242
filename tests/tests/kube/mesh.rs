//! A mesh's control plane over a real API server, in this process, and nodes that ask it.

use std::{collections::BTreeMap, net::SocketAddr, path::Path, time::SystemTime};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::Api;
use prost_types::{ListValue, Struct, Value, value::Kind};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    task::JoinSet,
};
use tonic::{
    Status,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use weft_certs::{KeyPair, NodeSvid};
use weft_control::{
    CaSource, Keys, LostRoot, Mesh as Named, NodeAccounts, Options, Source, start, watch::Access,
};
use weft_model::TrustDomain;
use weft_tests::{
    kube::{Account, Cluster, eventually},
    lab::LONG,
};
use weft_xds::proto::{
    auth::{
        IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient,
    },
    discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
};

pub(crate) const MESH: &str = "weft-system";
pub(crate) const AUDIENCE: &str = "weft-ca";
pub(crate) const NODE: Account<'static> = Account { namespace: MESH, name: "weft-node" };
pub(crate) const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

/// A cluster with a node, its proxy and an enrolled pod.
pub(crate) async fn cluster() -> Result<Cluster> {
    let cluster = Cluster::own().await?;
    cluster.namespace(MESH, &[]).await?;
    cluster.namespace("shop", &[("istio.io/dataplane-mode", "ambient")]).await?;
    cluster.account(NODE).await?;
    for name in ["node-1", "node-2"] {
        cluster.apply(&format!("apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\n"))?;
    }
    cluster.account(Account { namespace: "shop", name: "web" }).await?;
    pod(&cluster, MESH, "proxy", "weft-node", "node-1")?;
    pod(&cluster, "shop", "web", "web", "node-1")?;
    Ok(cluster)
}

pub(crate) fn pod(
    cluster: &Cluster,
    namespace: &str,
    name: &str,
    account: &str,
    node: &str,
) -> Result<()> {
    cluster.apply(&format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{nodeName: {node}, serviceAccountName: {account}, containers: [{{name: app, image: app}}]}}
"
    ))
}

/// The token of a node's proxy, bound to its pod.
pub(crate) async fn node_token(cluster: &Cluster) -> Result<String> {
    token_of(cluster, "proxy").await
}

async fn token_of(cluster: &Cluster, proxy: &str) -> Result<String> {
    let proxy = Api::<Pod>::namespaced(cluster.client()?, MESH).get(proxy).await?;
    cluster.token(NODE, AUDIENCE, Some(&proxy)).await
}

/// A control plane that runs.
pub(crate) struct Control {
    listen: SocketAddr,
    admin: SocketAddr,
    /// Its keys; gone with it, also when a test fails.
    _data: TempDir,
    stop: oneshot::Sender<()>,
    process: JoinSet<Result<()>>,
}

impl Control {
    pub(crate) async fn start(cluster: &Cluster) -> Result<Self> {
        Self::with(cluster, CaSource::Own, LostRoot::Refuse).await
    }

    pub(crate) async fn with(cluster: &Cluster, ca: CaSource, lost_root: LostRoot) -> Result<Self> {
        Self::by(cluster.kubeconfig(), ca, lost_root).await
    }

    /// One that reaches the API server by a kubeconfig.
    pub(crate) async fn by(kubeconfig: &Path, ca: CaSource, lost_root: LostRoot) -> Result<Self> {
        let data = tempfile::tempdir().context("make the data folder")?;
        let access = Access::Kubeconfig(kubeconfig.to_owned());
        let accounts = NodeAccounts {
            namespace: MESH.to_owned(),
            names: vec![NODE.name.to_owned()],
            audience: AUDIENCE.to_owned(),
        };
        let any = "127.0.0.1:0".parse()?;
        let running = start(Options {
            source: Source::Kubernetes(access.clone()),
            data: data.path().to_owned(),
            keys: Keys::Cluster { access, accounts, ca, lost_root },
            listen: any,
            server_names: vec!["control.mesh".to_owned()],
            admin: any,
            mesh: Named::new("Kubernetes", TrustDomain::default()),
            self_check: LONG,
        })
        .await?;
        let (listen, admin) = (running.listen(), running.admin());
        let (stop, stopped) = oneshot::channel();
        let until = async {
            stopped.await.ok();
        };
        let mut process = JoinSet::new();
        process.spawn(running.until(until));
        Ok(Self { listen, admin, _data: data, stop, process })
    }

    pub(crate) async fn stop(mut self) -> Result<()> {
        self.stop.send(()).ok();
        self.process.join_next().await.context("it was started")??
    }

    /// Ends it in the middle of whatever it does.
    pub(crate) fn kill(mut self) {
        self.process.abort_all();
    }

    pub(crate) async fn channel(
        &self,
        cluster: &Cluster,
        proof: Option<&NodeSvid>,
    ) -> Result<Channel> {
        let roots = roots(cluster).await?.context("the roots are published")?;
        let mut tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(roots))
            .domain_name("control.mesh");
        if let Some(svid) = proof {
            let key = svid.key_pem();
            tls = tls.identity(Identity::from_pem(svid.chain_pem(), key.as_bytes()));
        }
        let endpoint = Endpoint::new(format!("https://{}", self.listen))?.tls_config(tls)?;
        // It listens from the start, and answers when it has read everything.
        Ok(tokio::time::timeout(LONG, endpoint.connect()).await??)
    }

    /// What a node is answered that proves itself with a token.
    pub(crate) async fn by_token(
        &self,
        cluster: &Cluster,
        token: &str,
        asked: IstioCertificateRequest,
    ) -> Result<Result<Vec<String>, Status>> {
        let mut request = tonic::Request::new(asked);
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse()?);
        let channel = self.channel(cluster, None).await?;
        let answer = IstioCertificateServiceClient::new(channel).create_certificate(request).await;
        Ok(answer.map(|answer| answer.into_inner().cert_chain))
    }

    /// And one that has a certificate.
    pub(crate) async fn by_certificate(
        &self,
        cluster: &Cluster,
        svid: &NodeSvid,
        asked: IstioCertificateRequest,
    ) -> Result<Result<Vec<String>, Status>> {
        let channel = self.channel(cluster, Some(svid)).await?;
        let answer = IstioCertificateServiceClient::new(channel).create_certificate(asked).await;
        Ok(answer.map(|answer| answer.into_inner().cert_chain))
    }

    /// Opens a stream of configuration.
    pub(crate) async fn stream(
        &self,
        cluster: &Cluster,
        svid: &NodeSvid,
    ) -> Result<Result<(), Status>> {
        let channel = self.channel(cluster, Some(svid)).await?;
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let answer = client.delta_aggregated_resources(futures_util::stream::pending());
        Ok(tokio::time::timeout(LONG, answer).await?.map(drop))
    }

    /// Exchanges the token of the node's proxy.
    pub(crate) async fn node_svid(&self, cluster: &Cluster) -> Result<NodeSvid> {
        self.node_svid_of(cluster, "proxy", "node-1").await
    }

    /// Exchanges the token of another node's proxy.
    pub(crate) async fn node_svid_of(
        &self,
        cluster: &Cluster,
        proxy: &str,
        node: &str,
    ) -> Result<NodeSvid> {
        let key = KeyPair::generate()?;
        let asked = IstioCertificateRequest { csr: key.request_node()?, ..Default::default() };
        let token = token_of(cluster, proxy).await?;
        let chain = self.by_token(cluster, &token, asked).await??;
        Ok(NodeSvid::from_pem(node, key, &chain, SystemTime::now())?)
    }

    /// The body of an admin page.
    pub(crate) async fn page(&self, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect(self.admin).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text.split_once("\r\n\r\n").context("an answer has a head")?.1.to_owned())
    }

    /// Waits until the CA's status is as wanted.
    pub(crate) async fn until_ca(&self, what: &str, says: &str) -> Result<()> {
        let found = eventually(what, LONG, async || {
            let page = self.page("/ca").await.ok()?;
            page.contains(says).then_some(())
        });
        let found = found.await;
        found.with_context(|| format!("the status never said {says}"))
    }

    /// How often a certificate was denied for a reason.
    pub(crate) async fn denied(&self, reason: &str) -> Result<u64> {
        let row = format!("weft_control_certificates_denied_total{{reason=\"{reason}\"}}");
        self.metric(&row).await
    }

    /// The value of a metric, by the whole of its name and labels.
    pub(crate) async fn metric(&self, row: &str) -> Result<u64> {
        let page = self.page("/metrics").await?;
        let found = page.lines().find_map(|line| line.strip_prefix(row)?.strip_prefix(' '));
        found.with_context(|| format!("no {row}"))?.parse().context("a number")
    }
}

/// A request for a workload's certificate.
pub(crate) fn workload(identity: &str, pods: &[&str]) -> Result<IstioCertificateRequest> {
    let text = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
    let mut fields = BTreeMap::from([("ImpersonatedIdentity".to_owned(), text(identity))]);
    if !pods.is_empty() {
        let values = pods.iter().map(|pod| text(pod)).collect();
        let list = Value { kind: Some(Kind::ListValue(ListValue { values })) };
        fields.insert("WeftPodUids".to_owned(), list);
    }
    let csr = KeyPair::generate()?.request(&identity.parse()?)?;
    Ok(IstioCertificateRequest { csr, validity_duration: 600, metadata: Some(Struct { fields }) })
}

/// A node's request for its own certificate, which says what it trusts.
pub(crate) fn trusting(key: &KeyPair, bundle: &str) -> Result<IstioCertificateRequest> {
    let text = Value { kind: Some(Kind::StringValue(bundle.to_owned())) };
    let fields = BTreeMap::from([("WeftTrustBundle".to_owned(), text)]);
    let metadata = Some(Struct { fields });
    Ok(IstioCertificateRequest { csr: key.request_node()?, validity_duration: 0, metadata })
}

/// What is published of roots.
pub(crate) async fn roots(cluster: &Cluster) -> Result<Option<String>> {
    let maps = Api::<ConfigMap>::namespaced(cluster.client()?, MESH);
    let map = maps.get_opt("weft-trust-bundle").await?;
    Ok(map.and_then(|map| map.data?.remove("root-cert.pem")))
}

pub(crate) fn secrets(cluster: &Cluster) -> Result<Api<Secret>> {
    Ok(Api::namespaced(cluster.client()?, MESH))
}

/// The request was refused, and nothing was told of why.
pub(crate) fn refused(what: &str, answer: Result<Vec<String>, Status>) -> Result<()> {
    let Err(status) = answer else { anyhow::bail!("{what} was given a certificate") };
    ensure!(status.code() == tonic::Code::PermissionDenied, "{what}: {status}");
    ensure!(!status.message().contains("shop"), "{what} is told why: {status}");
    Ok(())
}
