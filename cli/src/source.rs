//! Where the picture of the mesh comes from: a proxy's `/config_dump`, or a file of it.

use std::{io::Read, path::Path, time::Duration};

use bytes::Bytes;
use http::Uri;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use weft_model::{
    View,
    dump::{Dump, DumpError},
};

use crate::{causes::last, cluster::ClusterError};

/// How long a proxy may take to answer. It answers from memory, so this is for one that hangs.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A mesh of 100,000 workloads makes about 150 MB.
pub(crate) const BYTES_MAX: usize = 1 << 30;

pub(crate) const PAGE: &str = "/config_dump";

/// Each says what to do next.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error(
        "cannot read {path}: {source}; give a file that `curl {example}` wrote",
        example = "http://127.0.0.1:15000/config_dump"
    )]
    File { path: String, source: std::io::Error },
    #[error("--admin {text} is not an http address; write it as http://127.0.0.1:15000")]
    Address { text: String },
    #[error(
        "no proxy answers at {url}: {reason}; is ztunnel running there? --admin names another, --node or a kubeconfig those of a cluster"
    )]
    Unreachable { url: String, reason: String },
    /// Neither is a proxy here nor is a cluster known.
    #[error(
        "no proxy answers at {url}: {reason}; is ztunnel running here? --admin names another. And {cluster}"
    )]
    Nowhere { url: String, reason: String, cluster: String },
    #[error("{count} of {of} proxies did not answer, as that of node {first}")]
    Silent { count: usize, of: usize, first: String, source: Box<SourceError> },
    #[error("{url} answered with status {status}; is that the admin address of a proxy?")]
    Status { url: String, status: u16 },
    #[error("{origin} is not a config dump: at {path}: {reason}")]
    Malformed { origin: String, path: String, reason: String },
    #[error(
        "no proxy is ready in namespace {namespace}; `weft check` says why, --mesh-namespace names another"
    )]
    NoProxy { namespace: String },
    #[error("node {node} has no proxy in namespace {namespace}; `weft check` says why")]
    NoProxyOn { node: String, namespace: String },
    #[error(
        "cannot reach the proxy of node {node} by pod {pod}: {reason}; it takes the right to get and create \
         pods/portforward in its namespace, and a kubelet that the API server reaches"
    )]
    NotForwarded { node: String, pod: String, reason: String },
    #[error(
        "what {option} names knows no {what}: the API server does; leave {option} out, and name a cluster by --kubeconfig or --context"
    )]
    KnowsNo { option: &'static str, what: &'static str },
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(
        "the config dump contradicts itself: {0}; dump it again, and report it if it comes back"
    )]
    Contradiction(#[from] DumpError),
}

impl SourceError {
    /// What it means that some do not answer, with the node of each, `of` so many that were asked.
    pub(crate) fn of_silent(of: usize, silent: Vec<(String, Self)>) -> Result<(), Self> {
        let count = silent.len();
        match silent.into_iter().next() {
            None => Ok(()),
            Some((first, error)) => Err(Self::Silent { count, of, first, source: Box::new(error) }),
        }
    }
}

/// From a file; `-` is standard input.
pub(crate) fn from_file(path: &Path) -> Result<Dump, SourceError> {
    let origin = path.display().to_string();
    let text = text_of(path);
    let text = text.map_err(|source| SourceError::File { path: origin.clone(), source })?;
    read(&text, &origin)
}

fn text_of(path: &Path) -> std::io::Result<String> {
    if path != Path::new("-") {
        return std::fs::read_to_string(path);
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    Ok(text)
}

/// Reads a dump, JSON or YAML. `origin` names it in errors, which name the field too.
pub fn read(text: &str, origin: &str) -> Result<Dump, SourceError> {
    let malformed = |path: String, reason: String| {
        let origin = origin.to_owned();
        SourceError::Malformed { origin, path, reason }
    };
    if text.trim_start().starts_with('{') {
        let mut json = serde_json::Deserializer::from_str(text);
        serde_path_to_error::deserialize(&mut json)
            .map_err(|e| malformed(e.path().to_string(), e.inner().to_string()))
    } else {
        serde_saphyr::from_str(text).map_err(|e| malformed("its YAML".to_owned(), e.to_string()))
    }
}

/// From a proxy that is reached directly.
pub(crate) async fn fetch(admin: &str) -> Result<Dump, SourceError> {
    let base = if admin.contains("://") { admin.to_owned() } else { format!("http://{admin}") };
    let url = format!("{}{PAGE}", base.trim_end_matches('/'));
    let wrong = || SourceError::Address { text: admin.to_owned() };
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    // Plain HTTP only: the admin address is on loopback, or forwarded to it.
    if uri.scheme_str() != Some("http") || uri.host().is_none() {
        return Err(wrong());
    }
    let body = tokio::time::timeout(TIMEOUT, get(uri, &url)).await.map_err(|_| {
        let reason = format!("no answer within {} s", TIMEOUT.as_secs());
        SourceError::Unreachable { url: url.clone(), reason }
    })??;
    let text = String::from_utf8_lossy(&body);
    read(&text, &url)
}

async fn get(uri: Uri, url: &str) -> Result<Bytes, SourceError> {
    let unreachable = |reason: String| SourceError::Unreachable { url: url.to_owned(), reason };
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let response = client.get(uri).await.map_err(|e| unreachable(last(&e)))?;
    if response.status() != http::StatusCode::OK {
        let status = response.status().as_u16();
        return Err(SourceError::Status { url: url.to_owned(), status });
    }
    let body = Limited::new(response.into_body(), BYTES_MAX).collect().await;
    Ok(body.map_err(|e| unreachable(e.to_string()))?.to_bytes())
}

/// The View that the proxy decides on.
pub(crate) fn view(dump: Dump) -> Result<View, SourceError> {
    Ok(dump.into_changes()?.into_iter().collect())
}
