//! Pages of a proxy on a node, which are on its pod's loopback: the API server forwards to them.

use std::{cmp::Reverse, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, StatusCode, header::HOST};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use tokio::{io::DuplexStream, task::JoinSet, time};

use weft_model::dump::Dump;

use crate::{
    causes::last,
    cluster::{Cluster, failed},
    pods::{is_ready, node_of},
    source::{BYTES_MAX, PAGE, SourceError, read},
};

const ADMIN_PORT: u16 = 15000;
/// Proxies asked side by side; a dump of a large mesh has megabytes.
const AT_ONCE: usize = 8;
/// For all of it: the way, and the page.
const WITHIN: Duration = Duration::from_secs(30);

/// A pod with agent and proxy, and what its proxy knows, or why it does not say.
pub(crate) struct Answer {
    pub(crate) pod: Pod,
    pub(crate) said: Result<Dump, SourceError>,
}

impl Answer {
    pub(crate) fn node(&self) -> &str {
        node_of(&self.pod).unwrap_or_default()
    }
}

/// Of each node with a proxy, in the order of their names.
pub(crate) async fn each(cluster: &Cluster) -> Result<Vec<Answer>, SourceError> {
    let mut pods = cluster.proxies().await?;
    // One replaces the other: the older one still has connections, the newer one has what is new.
    pods.sort_by_key(|pod| (node_of(pod).map(str::to_owned), Reverse((is_ready(pod), born(pod)))));
    pods.dedup_by(|second, first| node_of(second) == node_of(first));
    // A few at once: each may take as long as it is waited for.
    let answers = stream::iter(pods).map(async |pod| {
        let said = dump(cluster, &pod, node_of(&pod).unwrap_or_default()).await;
        Answer { pod, said }
    });
    Ok(answers.buffered(AT_ONCE).collect().await)
}

/// What the proxy of one node knows.
pub(crate) async fn of_node(cluster: &Cluster, node: &str) -> Result<Dump, SourceError> {
    let pods = cluster.proxies().await?;
    let here = pods.iter().filter(|pod| node_of(pod) == Some(node));
    let newest = here.max_by_key(|pod| (is_ready(pod), born(pod)));
    let missing =
        || SourceError::NoProxyOn { node: node.to_owned(), namespace: cluster.mesh.clone() };
    dump(cluster, newest.ok_or_else(missing)?, node).await
}

/// What the first proxy knows that can be asked: of the mesh, all know the same.
pub(crate) async fn of_any(cluster: &Cluster) -> Result<(String, Dump), SourceError> {
    let mut failure = SourceError::NoProxy { namespace: cluster.mesh.clone() };
    for pod in cluster.proxies().await?.iter().filter(|pod| is_ready(pod)) {
        let node = node_of(pod).unwrap_or_default();
        match dump(cluster, pod, node).await {
            Ok(dump) => return Ok((node.to_owned(), dump)),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn born(pod: &Pod) -> Option<k8s_openapi::jiff::Timestamp> {
    pod.metadata.creation_timestamp.as_ref().map(|time| time.0)
}

async fn dump(cluster: &Cluster, pod: &Pod, node: &str) -> Result<Dump, SourceError> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let body = page(cluster, name, ADMIN_PORT, PAGE).await;
    let pod = format!("{}/{name}", cluster.mesh);
    let unreachable =
        |reason| SourceError::NotForwarded { node: node.to_owned(), pod: pod.clone(), reason };
    let body = body.map_err(unreachable)?;
    read(&String::from_utf8_lossy(&body), &format!("the proxy of node {node}"))
}

/// What a pod of the mesh answers on its loopback. Errors: why it does not.
pub(crate) async fn page(
    cluster: &Cluster,
    pod: &str,
    port: u16,
    path: &str,
) -> Result<Bytes, String> {
    let late = |_| Err(format!("no answer within {} s", WITHIN.as_secs()));
    time::timeout(WITHIN, ask(cluster, pod, port, path)).await.unwrap_or_else(late)
}

async fn ask(cluster: &Cluster, pod: &str, port: u16, path: &str) -> Result<Bytes, String> {
    let pods = Api::<Pod>::namespaced(cluster.client.clone(), &cluster.mesh);
    let forwarded = pods.portforward(pod, &[port]).await;
    let mut forwarded = forwarded.map_err(|error| failed("forward a port")(error).to_string())?;
    let stream = forwarded.take_stream(port).ok_or("the way has no end")?;
    let refusal = forwarded.take_error(port);
    let answer = exchange(TokioIo::new(stream), port, path).await;
    // The way is closed, or nobody needs it any more.
    forwarded.abort();
    match (answer, refusal) {
        // What the node says of its own end explains more.
        (Err(reason), Some(refusal)) => {
            Err(refusal.await.map_or(reason, |said| said.trim().to_owned()))
        }
        (answer, _) => answer,
    }
}

async fn exchange(stream: TokioIo<DuplexStream>, port: u16, path: &str) -> Result<Bytes, String> {
    let (mut ask, connection) = http1::handshake(stream).await.map_err(|e| last(&e))?;
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    let request = Request::get(path).header(HOST, format!("127.0.0.1:{port}"));
    let request = request.body(Empty::<Bytes>::new()).map_err(|e| last(&e))?;
    let response = ask.send_request(request).await.map_err(|e| last(&e))?;
    if response.status() != StatusCode::OK {
        return Err(format!("it answered with status {}", response.status().as_u16()));
    }
    let body = Limited::new(response.into_body(), BYTES_MAX).collect().await;
    Ok(body.map_err(|e| e.to_string())?.to_bytes())
}
