//! A node's stream of configuration, on which it answers when the test says so.

use anyhow::{Context, Result};
use futures_util::stream;
use tokio::{sync::mpsc, time::timeout};
use weft_certs::NodeSvid;
use weft_tests::{kube::Cluster, lab::LONG};
use weft_xds::{
    codec::ResourceType,
    delta::Client,
    proto::{
        discovery::{
            DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node,
            aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
        },
        rpc,
    },
};

use crate::mesh::Control;

/// It ends when this is dropped.
pub(crate) struct Subscriber {
    client: Client,
    requests: mpsc::UnboundedSender<DeltaDiscoveryRequest>,
    responses: tonic::Streaming<DeltaDiscoveryResponse>,
}

impl Subscriber {
    /// Subscribes to everything, and takes what there is.
    pub(crate) async fn new(control: &Control, cluster: &Cluster, svid: &NodeSvid) -> Result<Self> {
        let mut service =
            AggregatedDiscoveryServiceClient::new(control.channel(cluster, Some(svid)).await?);
        let mut client = Client::new(Node::default());
        let (requests, queue) = mpsc::unbounded_channel();
        for first in client.connect() {
            requests.send(first)?;
        }
        let queue = stream::unfold(queue, async |mut queue: mpsc::UnboundedReceiver<_>| {
            Some((queue.recv().await?, queue))
        });
        let responses = timeout(LONG, service.delta_aggregated_resources(queue)).await??;
        let mut subscriber = Self { client, requests, responses: responses.into_inner() };
        for _ in ResourceType::ALL {
            let answer = subscriber.answer().await?;
            subscriber.send(answer)?;
        }
        Ok(subscriber)
    }

    /// Waits for the next response, takes it, and returns what is to be answered.
    pub(crate) async fn answer(&mut self) -> Result<DeltaDiscoveryRequest> {
        let response = timeout(LONG, self.responses.message()).await.context("no response")??;
        Ok(self.client.receive(response.context("the stream has ended")?).reply)
    }

    pub(crate) fn send(&self, answer: DeltaDiscoveryRequest) -> Result<()> {
        Ok(self.requests.send(answer)?)
    }

    /// Answers that it cannot take what was sent.
    pub(crate) fn refuse(&self, answer: DeltaDiscoveryRequest, message: &str) -> Result<()> {
        let status = rpc::Status { code: 3, message: message.to_owned() };
        self.send(DeltaDiscoveryRequest { error_detail: Some(status), ..answer })
    }
}
