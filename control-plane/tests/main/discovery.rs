use std::fs;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use weft_control::Connected;
use weft_model::{Change, View};
use weft_xds::{
    delta::Client,
    proto::discovery::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
};

use crate::certificates::{node_svid, node_svid_of};
use crate::scene::{HOUR, POD, POLICY, Scene, node, with_token, within};

const NODE: &str = "apiVersion: v1
kind: Node
metadata: {name: a, uid: n-1}
";

/// A node's end of a stream, and what it knows by it.
pub(crate) struct Proxy {
    pub(crate) client: Client,
    pub(crate) view: View,
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

async fn open(
    scene: &Scene,
    token: &str,
    requests: mpsc::Receiver<DeltaDiscoveryRequest>,
) -> Result<Streaming<DeltaDiscoveryResponse>, Status> {
    let mut service = AggregatedDiscoveryServiceClient::new(scene.channel().await);
    let request = with_token(ReceiverStream::new(requests), token);
    let opened = within("the stream opens", service.delta_aggregated_resources(request)).await;
    opened.map(tonic::Response::into_inner)
}

impl Proxy {
    pub(crate) async fn connect(scene: &Scene) -> Self {
        let (requests, receiver) = mpsc::channel(8);
        let mut client = Client::new(node("a"));
        for request in client.connect() {
            requests.send(request).await.unwrap();
        }
        let responses = open(scene, &scene.token("a", HOUR), receiver).await.unwrap();
        Self { client, view: View::default(), requests, responses }
    }

    /// Receives until the view is as wanted; returns the changes in their order.
    pub(crate) async fn until(&mut self, wanted: impl Fn(&View) -> bool) -> Vec<Change> {
        let mut all = Vec::new();
        while !wanted(&self.view) {
            let response = within("a response comes", self.responses.message()).await;
            let received = self.client.receive(response.unwrap().expect("the stream is open"));
            assert!(received.refused.is_empty(), "{:?}", received.refused);
            for change in received.changes {
                self.view.apply(change.clone());
                all.push(change);
            }
            self.requests.send(received.reply).await.unwrap();
        }
        all
    }
}

pub(crate) fn policies(view: &View) -> usize {
    let web = view.workloads().next();
    web.map_or(0, |web| view.policies_of(web).flatten().count())
}

async fn connected(scene: &Scene) -> Connected {
    serde_json::from_str(&scene.page("/debug/nodes").await).unwrap()
}

#[tokio::test]
async fn a_node_is_served_what_is_in_the_folder_and_what_changes() {
    let scene = Scene::new(&[("web.yaml", POD)]).await;
    assert_eq!(connected(&scene).await.nodes.len(), 0);
    let mut proxy = Proxy::connect(&scene).await;
    proxy.until(|view| view.workloads().count() == 1).await;
    let all = async {
        loop {
            let Connected { generation, nodes } = connected(&scene).await;
            if nodes.get("a").is_some_and(|a| a.answered >= Some(generation)) {
                assert!(generation > 0 && nodes.len() == 1 && nodes["a"].refused.is_empty());
                return;
            }
        }
    };
    within("the node is said to have everything", all).await;

    scene.write("strict.yaml", POLICY);
    let changes = proxy.until(|view| policies(view) == 1).await;
    assert!(
        matches!(changes[..], [Change::Policy(_), Change::Workload(_)]),
        "the policy comes before the workload that lists it: {changes:?}"
    );

    scene.write("strict.yaml", "");
    let relaxed = |view: &View| view.workloads().all(|web| web.policies.is_empty());
    proxy.until(relaxed).await;
    scene.write("web.yaml", "");
    proxy.until(|view| view.workloads().count() == 0).await;
    scene.stop().await;
}

#[tokio::test]
async fn an_empty_folder_is_answered_for_both_types() {
    let scene = Scene::new(&[]).await;
    let mut proxy = Proxy::connect(&scene).await;
    for _ in 0..2 {
        let response = within("an answer comes", proxy.responses.message()).await.unwrap().unwrap();
        assert!(response.resources.is_empty() && !response.nonce.is_empty());
        proxy.client.receive(response);
    }
    scene.stop().await;
}

#[tokio::test]
async fn a_file_that_turns_bad_changes_nothing_for_the_nodes_and_is_reported() {
    let scene = Scene::new(&[("web.yaml", POD)]).await;
    let before = scene.page("/debug/config").await;
    assert!(before.contains("Kubernetes//Pod/shop/web"), "{before}");
    scene.write("web.yaml", &POD.replace("{nodeName: a", "{hostNetwork: 7, nodeName: a"));
    scene.until_page("/problems", "\"field\": \"spec.hostNetwork\"").await;
    assert!(scene.page("/problems").await.contains("\"line\": 4"));
    assert_eq!(scene.page("/debug/config").await, before);
    scene.write("web.yaml", &POD.replace("10.0.0.1", "10.0.0.2"));
    scene.until_page("/metrics", "weft_control_problems 0").await;
    assert_ne!(scene.page("/debug/config").await, before);
    scene.stop().await;
}

#[tokio::test]
async fn a_policy_whose_file_is_broken_at_the_start_is_served_all_the_same_and_reported() {
    let scene = Scene::new(&[("web.yaml", POD), ("strict.yaml", POLICY)]).await;
    let dir = scene.stop().await;
    fs::write(dir.path().join("manifests/strict.yaml"), POLICY.replace("STRICT}", "STRICT"))
        .unwrap();
    let scene = Scene::over(dir).await;
    let mut proxy = Proxy::connect(&scene).await;
    proxy.until(|view| policies(view) == 1).await;
    let problems = scene.page("/problems").await;
    assert!(problems.contains("is served as it last was good"), "{problems}");

    scene.write("strict.yaml", "");
    scene.until_page("/metrics", "weft_control_problems 0").await;
    proxy.until(|view| policies(view) == 0).await;
    scene.stop().await;
}

async fn refusal(scene: &Scene, token: &str, claimed: &str) -> Code {
    let (requests, receiver) = mpsc::channel(8);
    for request in Client::new(node(claimed)).connect() {
        requests.send(request).await.unwrap();
    }
    match open(scene, token, receiver).await {
        Err(status) => status.code(),
        Ok(mut responses) => {
            let first = within("the server answers", responses.message()).await;
            first.expect_err("a stranger must be told nothing").code()
        }
    }
}

#[tokio::test]
async fn a_stranger_is_told_nothing() {
    let scene = Scene::new(&[("web.yaml", POD)]).await;
    let expired = scene.token("a", std::time::Duration::ZERO);
    assert_eq!(refusal(&scene, "", "a").await, Code::Unauthenticated);
    assert_eq!(refusal(&scene, "e30.e30.e30", "a").await, Code::Unauthenticated);
    assert_eq!(refusal(&scene, &expired, "a").await, Code::Unauthenticated);
    let other = scene.token("b", HOUR);
    assert_eq!(refusal(&scene, &other, "a").await, Code::PermissionDenied);
    scene.stop().await;
}

#[tokio::test]
async fn a_nodes_certificate_opens_its_stream_and_no_others() {
    let scene = Scene::new(&[("web.yaml", POD)]).await;
    let svid = node_svid(&scene, "a").await;
    for (claimed, expected) in [("a", None), ("b", Some(Code::PermissionDenied))] {
        let (requests, receiver) = mpsc::channel(8);
        for request in Client::new(node(claimed)).connect() {
            requests.send(request).await.unwrap();
        }
        let channel = scene.channel_with(svid.chain_pem(), &svid.key_pem()).await.unwrap();
        let mut service = AggregatedDiscoveryServiceClient::new(channel);
        let opened = service.delta_aggregated_resources(ReceiverStream::new(receiver));
        let mut responses = within("the stream opens", opened).await.unwrap().into_inner();
        let first = within("the server answers", responses.message()).await;
        assert_eq!(first.err().map(|status| status.code()), expected, "{claimed}");
    }
    scene.stop().await;
}

#[tokio::test]
async fn a_stream_ends_when_its_node_is_another_or_gone() {
    for later in [NODE.replace("n-1", "n-2"), String::new()] {
        let scene = Scene::new(&[("web.yaml", POD), ("node.yaml", NODE)]).await;
        let svid = node_svid_of(&scene, "a", "n-1");
        let (requests, receiver) = mpsc::channel(8);
        let mut client = Client::new(node("a"));
        for request in client.connect() {
            requests.send(request).await.unwrap();
        }
        let channel = scene.channel_with(svid.chain_pem(), &svid.key_pem()).await.unwrap();
        let mut service = AggregatedDiscoveryServiceClient::new(channel);
        let opened = service.delta_aggregated_resources(ReceiverStream::new(receiver));
        let mut responses = within("the stream opens", opened).await.unwrap().into_inner();
        within("it is served", responses.message()).await.unwrap();
        // Nothing that it is served changes.
        scene.write("node.yaml", &later);
        let end = async {
            loop {
                if let Err(status) = responses.message().await {
                    return status.code();
                }
            }
        };
        assert_eq!(within("the stream ends", end).await, Code::Unauthenticated, "{later}");
        scene.stop().await;
    }
}

#[tokio::test]
async fn a_stream_ends_with_its_token() {
    let scene = Scene::new(&[("web.yaml", POD)]).await;
    let (requests, receiver) = mpsc::channel(8);
    for request in Client::new(node("a")).connect() {
        requests.send(request).await.unwrap();
    }
    let token = scene.token("a", std::time::Duration::from_secs(2));
    let mut responses = open(&scene, &token, receiver).await.unwrap();
    let end = async {
        loop {
            if let Err(status) = responses.message().await {
                return status.code();
            }
        }
    };
    assert_eq!(within("the token expires", end).await, Code::Unauthenticated);
    scene.stop().await;
}
