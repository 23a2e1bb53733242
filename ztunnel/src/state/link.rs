//! The stream to the control plane: dialled, lost, dialled again.

use std::{future::Future, pin::Pin, time::Duration};

use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Streaming};
use weft_xds::proto::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
    aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
};

use super::backoff::Backoff;
use crate::{
    config::Config,
    identity::NodeCertificate,
    remote::{Remote, RemoteError},
};

/// For the first answers on a stream: a control plane that is starting compiles the mesh meanwhile.
const ANSWER_WITHIN: Duration = Duration::from_mins(1);
/// The wire contract's bound.
const MESSAGE_BYTES_MAX: usize = 200 << 20;
/// A server has one response per type under way, so no more answers than this can wait for it to read.
const REQUESTS_MAX: usize = 8;

/// Where the control plane is, and how it is proven and asked.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    pub remote: Remote,
    /// Sent instead of the token, where there is one.
    pub node: NodeCertificate,
}

impl ServerSettings {
    /// Of the configuration; none where no control plane is configured.
    pub fn of(config: &Config, node: NodeCertificate) -> Option<Self> {
        Some(Self {
            remote: Remote {
                address: config.xds.address.as_ref()?.as_str().to_owned(),
                server_name: config.xds.server_name.clone(),
                root: config.xds.root.clone(),
                token: config.xds.token.clone(),
                cluster_id: config.node.cluster_id.clone(),
            },
            node,
        })
    }
}

/// Why a stream ended or could not be opened. All are tried again.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    /// By what the configuration says of it.
    #[error("control plane cannot be asked")]
    Remote(#[from] RemoteError),
    #[error("{address} cannot be reached")]
    Connect { address: String, source: tonic::transport::Error },
    #[error("{address} refused or broke the stream")]
    Stream { address: String, source: Box<tonic::Status> },
    #[error("{address} ended the stream")]
    Ended { address: String },
    #[error("{address} gave no whole answer within {}s", ANSWER_WITHIN.as_secs())]
    Silent { address: String },
    #[error("{address} does not read our answers")]
    NotReading { address: String },
}

impl LinkError {
    /// One word, for a metric.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Remote(_) => "credentials",
            Self::Connect { .. } => "connect",
            Self::Stream { .. } => "error",
            Self::Ended { .. } => "complete",
            Self::Silent { .. } | Self::NotReading { .. } => "timeout",
        }
    }
}

#[derive(Debug)]
pub(super) enum LinkEvent {
    /// Call [`Link::dial`].
    DialDue,
    Response(DeltaDiscoveryResponse),
    /// The next `DialDue` comes after a while.
    Lost(LinkError),
}

pub(super) struct Link {
    settings: ServerSettings,
    backoff: Backoff,
    state: State,
}

enum State {
    Waiting { until: Instant },
    Dialling { attempt: Pin<Box<dyn Future<Output = Result<Open, LinkError>> + Send>> },
    Open(Box<Open>),
}

struct Open {
    responses: Streaming<DeltaDiscoveryResponse>,
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    /// Until it has answered.
    answer_by: Option<Instant>,
}

impl Link {
    pub(super) fn new(settings: ServerSettings) -> Self {
        let state = State::Waiting { until: Instant::now() };
        Self { settings, backoff: Backoff::new(), state }
    }

    /// What happens next. Cancel safe.
    pub(super) async fn next(&mut self) -> LinkEvent {
        let result = loop {
            match &mut self.state {
                State::Waiting { until } => {
                    tokio::time::sleep_until(*until).await;
                    return LinkEvent::DialDue;
                }
                // Stored before anything else is waited for: a finished attempt must not be polled again.
                State::Dialling { attempt } => match attempt.await {
                    Ok(open) => self.state = State::Open(Box::new(open)),
                    Err(error) => break Err(error),
                },
                State::Open(open) => break hear(&self.settings.remote.address, open).await,
            }
        };
        match result {
            Ok(response) => LinkEvent::Response(response),
            Err(error) => {
                self.lose();
                LinkEvent::Lost(error)
            }
        }
    }

    /// Opens a stream, whose first messages are `requests`.
    pub(super) fn dial(&mut self, requests: Vec<DeltaDiscoveryRequest>) {
        let attempt = Box::pin(open(self.settings.clone(), requests));
        self.state = State::Dialling { attempt };
    }

    /// Sends an answer. An error ends the stream, as a lost one would.
    pub(super) fn send(&mut self, request: DeltaDiscoveryRequest) -> Result<(), LinkError> {
        let State::Open(open) = &self.state else { return Ok(()) };
        if open.requests.try_send(request).is_ok() {
            return Ok(());
        }
        self.lose();
        Err(LinkError::NotReading { address: self.settings.remote.address.clone() })
    }

    /// The stream has answered for everything: it works.
    pub(super) fn worked(&mut self) {
        if let State::Open(open) = &mut self.state {
            open.answer_by = None;
        }
        self.backoff.worked();
    }

    fn lose(&mut self) {
        let wait = self.backoff.after_failure(rand::random());
        self.state = State::Waiting { until: Instant::now() + wait };
    }
}

/// Cancel safe: a response is taken whole or not at all.
async fn hear(address: &str, open: &mut Open) -> Result<DeltaDiscoveryResponse, LinkError> {
    let address = || address.to_owned();
    let message = match open.answer_by {
        Some(by) => tokio::time::timeout_at(by, open.responses.message())
            .await
            .map_err(|_| LinkError::Silent { address: address() })?,
        None => open.responses.message().await,
    };
    match message {
        Ok(Some(response)) => Ok(response),
        Ok(None) => Err(LinkError::Ended { address: address() }),
        Err(status) => Err(LinkError::Stream { address: address(), source: Box::new(status) }),
    }
}

async fn open(
    settings: ServerSettings,
    requests: Vec<DeltaDiscoveryRequest>,
) -> Result<Open, LinkError> {
    let answer_by = Instant::now() + ANSWER_WITHIN;
    let proof = settings.node.current().await;
    let remote = &settings.remote;
    let endpoint = remote.endpoint(&remote.roots()?, proof.as_deref())?;
    let channel = endpoint
        .connect()
        .await
        .map_err(|source| LinkError::Connect { address: remote.address.clone(), source })?;
    let (sender, receiver) = mpsc::channel(REQUESTS_MAX);
    for request in requests {
        // A new channel has room for one request per type.
        let _ = sender.try_send(request);
    }
    let mut call = Request::new(ReceiverStream::new(receiver));
    remote.headers(proof.as_deref(), call.metadata_mut())?;
    let mut client = AggregatedDiscoveryServiceClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let address = remote.address.clone();
    // Some servers send the head of their answer with the first response only.
    let answer = tokio::time::timeout_at(answer_by, client.delta_aggregated_resources(call))
        .await
        .map_err(|_| LinkError::Silent { address: address.clone() })?;
    if let (Err(status), Some(svid)) = (&answer, &proof) {
        settings.node.failed(svid, status);
    }
    let answer =
        answer.map_err(|status| LinkError::Stream { address, source: Box::new(status) })?;
    Ok(Open { responses: answer.into_inner(), requests: sender, answer_by: Some(answer_by) })
}
