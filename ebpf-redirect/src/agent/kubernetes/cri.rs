//! What the container runtime knows of a pod's sandbox, by the Container Runtime Interface.
//!
//! Five messages of its hundreds, with the fields that are asked; generating them from the interface's own file
//! would want protoc in every build.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;
use tower::service_fn;

#[cfg(test)]
mod tests;

const DEADLINE: Duration = Duration::from_secs(5);
const UID_LABEL: &str = "io.kubernetes.pod.uid";

/// Why a runtime could not tell.
#[derive(Debug, thiserror::Error)]
pub(super) enum CriError {
    #[error("the runtime at {socket} cannot be reached")]
    Reach { socket: PathBuf, source: tonic::transport::Error },
    #[error("the runtime refused {what}")]
    Refused { what: &'static str, source: Box<Status> },
    #[error("the runtime has no running sandbox of the pod")]
    Unknown,
    #[error("the runtime does not say where sandbox {0} is")]
    Silent(String),
}

/// A sandbox that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) container: String,
    pub(super) netns: PathBuf,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct ListPodSandboxRequest {
    #[prost(message, optional, tag = "1")]
    filter: Option<PodSandboxFilter>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct PodSandboxFilter {
    #[prost(message, optional, tag = "2")]
    state: Option<PodSandboxStateValue>,
    #[prost(map = "string, string", tag = "3")]
    label_selector: HashMap<String, String>,
}

/// `SANDBOX_READY` is 0.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
struct PodSandboxStateValue {
    #[prost(int32, tag = "1")]
    state: i32,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct ListPodSandboxResponse {
    #[prost(message, repeated, tag = "1")]
    items: Vec<PodSandbox>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct PodSandbox {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(int64, tag = "4")]
    created_at: i64,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct PodSandboxStatusRequest {
    #[prost(string, tag = "1")]
    pod_sandbox_id: String,
    #[prost(bool, tag = "2")]
    verbose: bool,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct PodSandboxStatusResponse {
    #[prost(map = "string, string", tag = "2")]
    info: HashMap<String, String>,
}

/// The running sandbox of the pod that has one of these UIDs.
pub(super) async fn sandbox(socket: &Path, uids: &[&str]) -> Result<Found, CriError> {
    let mut client = connect(socket).await?;
    for uid in uids {
        let listed: ListPodSandboxResponse =
            call(&mut client, "ListPodSandbox", running(uid)).await?;
        // One that is being replaced may still be listed beside the new one.
        let Some(newest) = listed.items.into_iter().max_by_key(|one| one.created_at) else {
            continue;
        };
        let asked = PodSandboxStatusRequest { pod_sandbox_id: newest.id.clone(), verbose: true };
        let status: PodSandboxStatusResponse = call(&mut client, "PodSandboxStatus", asked).await?;
        let netns = netns(&status.info).ok_or_else(|| CriError::Silent(newest.id.clone()))?;
        return Ok(Found { container: newest.id, netns });
    }
    Err(CriError::Unknown)
}

async fn connect(socket: &Path) -> Result<Grpc<Channel>, CriError> {
    let path = socket.to_owned();
    let connector = service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    // The name is not looked up: the connector knows where to go.
    let endpoint = Endpoint::from_static("http://cri").connect_timeout(DEADLINE).timeout(DEADLINE);
    let channel = endpoint
        .connect_with_connector(connector)
        .await
        .map_err(|source| CriError::Reach { socket: socket.to_owned(), source })?;
    Ok(Grpc::new(channel))
}

async fn call<Q, A>(
    client: &mut Grpc<Channel>,
    what: &'static str,
    request: Q,
) -> Result<A, CriError>
where
    Q: prost::Message + 'static,
    A: prost::Message + Default + 'static,
{
    let refused = |source| CriError::Refused { what, source: Box::new(source) };
    client.ready().await.map_err(|error| refused(Status::unavailable(error.to_string())))?;
    let path = format!("/runtime.v1.RuntimeService/{what}");
    let path = path.parse().expect("it is made of letters, dots and slashes");
    let codec: ProstCodec<Q, A> = ProstCodec::default();
    let answer = client.unary(Request::new(request), path, codec).await.map_err(refused)?;
    Ok(answer.into_inner())
}

fn running(uid: &str) -> ListPodSandboxRequest {
    let label_selector = HashMap::from([(UID_LABEL.to_owned(), uid.to_owned())]);
    let state = Some(PodSandboxStateValue { state: 0 });
    ListPodSandboxRequest { filter: Some(PodSandboxFilter { state, label_selector }) }
}

/// containerd and CRI-O both tell the sandbox's runtime specification in `info`: the path of its network
/// namespace, or else the process that holds it.
fn netns(info: &HashMap<String, String>) -> Option<PathBuf> {
    let info: Value = serde_json::from_str(info.get("info")?).ok()?;
    let namespaces = info.pointer("/runtimeSpec/linux/namespaces")?.as_array()?;
    let network =
        namespaces.iter().find(|one| one.get("type").is_some_and(|is| is == "network"))?;
    match network.get("path").and_then(Value::as_str) {
        Some(path) if !path.is_empty() => Some(path.into()),
        _ => {
            let pid = info.get("pid")?.as_u64().filter(|pid| *pid > 0)?;
            Some(format!("/proc/{pid}/ns/net").into())
        }
    }
}
