//! Against a runtime of a few lines, over a real socket.

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;

use http::{Request, Response};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic_prost::ProstCodec;

use super::*;

/// Sandboxes by UID: id, when it was made, what the runtime tells of it.
type Sandboxes = Vec<(&'static str, &'static str, i64, Value)>;

#[derive(Clone)]
struct Runtime(Arc<Sandboxes>);

impl NamedService for Runtime {
    const NAME: &'static str = "runtime.v1.RuntimeService";
}

impl UnaryService<ListPodSandboxRequest> for Runtime {
    type Response = ListPodSandboxResponse;
    type Future = std::future::Ready<Result<tonic::Response<ListPodSandboxResponse>, Status>>;

    fn call(&mut self, request: tonic::Request<ListPodSandboxRequest>) -> Self::Future {
        let filter = request.into_inner().filter.unwrap();
        assert_eq!(filter.state, Some(PodSandboxStateValue { state: 0 }));
        let uid = &filter.label_selector["io.kubernetes.pod.uid"];
        let items = self.0.iter().filter(|(of, ..)| of == uid);
        let items = items.map(|(_, id, created_at, _)| PodSandbox {
            id: (*id).to_owned(),
            created_at: *created_at,
        });
        let items = items.collect();
        std::future::ready(Ok(tonic::Response::new(ListPodSandboxResponse { items })))
    }
}

impl UnaryService<PodSandboxStatusRequest> for Runtime {
    type Response = PodSandboxStatusResponse;
    type Future = std::future::Ready<Result<tonic::Response<PodSandboxStatusResponse>, Status>>;

    fn call(&mut self, request: tonic::Request<PodSandboxStatusRequest>) -> Self::Future {
        let asked = request.into_inner();
        assert!(asked.verbose);
        let (.., info) = self.0.iter().find(|(_, id, ..)| *id == asked.pod_sandbox_id).unwrap();
        let info = HashMap::from([("info".to_owned(), info.to_string())]);
        std::future::ready(Ok(tonic::Response::new(PodSandboxStatusResponse { info })))
    }
}

async fn route(runtime: Runtime, request: Request<Body>) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    Ok(match path.as_str() {
        "/runtime.v1.RuntimeService/ListPodSandbox" => {
            let codec: ProstCodec<ListPodSandboxResponse, ListPodSandboxRequest> =
                ProstCodec::default();
            Grpc::new(codec).unary(runtime, request).await
        }
        "/runtime.v1.RuntimeService/PodSandboxStatus" => {
            let codec: ProstCodec<PodSandboxStatusResponse, PodSandboxStatusRequest> =
                ProstCodec::default();
            Grpc::new(codec).unary(runtime, request).await
        }
        other => panic!("nobody asks {other}"),
    })
}

struct Running {
    dir: TempDir,
    _tasks: JoinSet<()>,
}

impl Running {
    fn with(sandboxes: Sandboxes) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("cri.sock")).unwrap();
        let runtime = Runtime(Arc::new(sandboxes));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let runtime = runtime.clone();
                let service =
                    hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
                        route(runtime.clone(), request.map(Body::new))
                    });
                let serving =
                    hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
                let _ = serving.serve_connection(TokioIo::new(stream), service).await;
            }
        });
        Self { dir, _tasks: tasks }
    }

    async fn sandbox(&self, uids: &[&str]) -> Result<Found, String> {
        let found = sandbox(&self.dir.path().join("cri.sock"), uids).await;
        found.map_err(|error| error.to_string())
    }
}

fn with_path(path: &str) -> Value {
    let namespaces = json!([{ "type": "pid" }, { "type": "network", "path": path }]);
    json!({ "pid": 77, "runtimeSpec": { "linux": { "namespaces": namespaces } } })
}

fn found(container: &str, netns: &str) -> Found {
    Found { container: container.to_owned(), netns: PathBuf::from(netns) }
}

#[tokio::test]
async fn the_newest_running_sandbox_tells_where_the_pod_is() {
    let runtime = Running::with(vec![
        ("u1", "old", 1, with_path("/run/netns/old")),
        ("u1", "new", 2, with_path("/run/netns/new")),
        ("u2", "other", 3, with_path("/run/netns/other")),
    ]);
    assert_eq!(runtime.sandbox(&["u1"]).await, Ok(found("new", "/run/netns/new")));
    assert_eq!(runtime.sandbox(&["u9", "u2"]).await, Ok(found("other", "/run/netns/other")));
    let unknown = "the runtime has no running sandbox of the pod".to_owned();
    assert_eq!(runtime.sandbox(&["u9"]).await, Err(unknown));
}

#[tokio::test]
async fn a_sandbox_without_a_path_is_found_by_its_process() {
    let silent = json!({ "pid": 77 });
    let runtime = Running::with(vec![("u1", "a", 1, with_path("")), ("u2", "b", 1, silent)]);
    assert_eq!(runtime.sandbox(&["u1"]).await, Ok(found("a", "/proc/77/ns/net")));
    let said = "the runtime does not say where sandbox b is".to_owned();
    assert_eq!(runtime.sandbox(&["u2"]).await, Err(said));
}

#[tokio::test]
async fn a_runtime_that_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("cri.sock");
    let error = sandbox(&socket, &["u1"]).await.unwrap_err();
    assert_eq!(error.to_string(), format!("the runtime at {} cannot be reached", socket.display()));
}
