//! Configuration to nodes: delta xDS.

use std::{collections::VecDeque, pin::Pin, sync::Arc};

use futures_util::stream;
use tokio::{sync::watch, time};
use tonic::{Request, Response, Status, Streaming};
use tracing::{info, warn};
use weft_certs::NodeLeaf;
use weft_xds::{
    delta::{Heard, Resources, Server},
    proto::discovery::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node,
        aggregated_discovery_service_server::AggregatedDiscoveryService,
    },
};

use crate::{
    attest::Attestor,
    caller::Caller,
    clock,
    mesh::Known,
    metrics::{Metrics, Open},
    stop::Stop,
    streams::{Stream, Streams},
};

/// The discovery service.
#[derive(Debug)]
pub(crate) struct Discovery {
    pub(crate) known: Arc<Known>,
    pub(crate) attestor: Arc<Attestor>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) stop: Stop,
    pub(crate) streams: Arc<Streams>,
}

type Responses =
    Pin<Box<dyn futures_util::Stream<Item = Result<DeltaDiscoveryResponse, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Discovery {
    type DeltaAggregatedResourcesStream = Responses;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Responses>, Status> {
        let now = clock::now();
        let peer = request.remote_addr();
        let (metadata, extensions, requests) = request.into_parts();
        let leaf = extensions.get::<NodeLeaf>();
        let caller = self.attestor.caller(leaf, &metadata, now).await.map_err(|stranger| {
            warn!(?peer, error = %stranger, "discovery refused");
            stranger.status()
        })?;
        // Before the question, which is asked again whenever the answer may be another.
        let nodes = self.known.nodes();
        self.known.index().is_there(&caller).map_err(|gone| {
            warn!(?peer, error = %gone, "discovery refused");
            gone_away()
        })?;
        info!(node = %caller.node, "node subscribed");
        let subscriber = Subscriber {
            known: self.known.clone(),
            nodes,
            stream: Streams::open(&self.streams, &caller.node),
            until: clock::after(caller.expires.duration_since(now).unwrap_or_default()),
            caller,
            requests,
            server: Server::new(),
            resources: self.known.resources(),
            stop: self.stop.clone(),
            queue: VecDeque::new(),
            metrics: self.metrics.clone(),
            _open: Metrics::open(&self.metrics),
        };
        Ok(Response::new(Box::pin(stream::unfold(Some(subscriber), Subscriber::step))))
    }
}

/// One node's stream. It is driven by whoever reads it: a slow node is asked nothing and sent nothing, and
/// what changes meanwhile is merged, so it costs no more than what it was sent last.
struct Subscriber {
    known: Arc<Known>,
    nodes: watch::Receiver<()>,
    caller: Caller,
    until: time::Instant,
    requests: Streaming<DeltaDiscoveryRequest>,
    server: Server,
    resources: watch::Receiver<Resources>,
    stop: Stop,
    queue: VecDeque<DeltaDiscoveryResponse>,
    metrics: Arc<Metrics>,
    stream: Stream,
    _open: Open,
}

type Step = Option<(Result<DeltaDiscoveryResponse, Status>, Option<Subscriber>)>;

impl Subscriber {
    async fn step(this: Option<Self>) -> Step {
        let mut this = this?;
        loop {
            if let Some(response) = this.queue.pop_front() {
                return Some((Ok(response), Some(this)));
            }
            match this.wait().await {
                Ok(Next::More) => {}
                Ok(Next::End) => {
                    info!(node = %this.caller.node, "node unsubscribed");
                    return None;
                }
                Err(status) => {
                    warn!(node = %this.caller.node, error = status.message(), "node cut off");
                    return Some((Err(status), None));
                }
            }
        }
    }

    async fn wait(&mut self) -> Result<Next, Status> {
        tokio::select! {
            // Biased: an end must win over work that never runs out; then the node's own words, since an
            // acknowledgement is what allows more to be sent.
            biased;
            () = self.stop.stopped() => {
                return Err(Status::unavailable("the control plane stops"));
            }
            () = time::sleep_until(self.until) => {
                return Err(Status::unauthenticated("the token or certificate has expired"));
            }
            changed = self.nodes.changed() => match changed {
                Ok(()) => self.is_there()?,
                Err(_) => return Ok(Next::End),
            },
            request = self.requests.message() => match request {
                Ok(Some(request)) => self.hear(request)?,
                Ok(None) | Err(_) => return Ok(Next::End),
            },
            changed = self.resources.changed() => if changed.is_err() {
                return Ok(Next::End);
            },
        }
        let now = self.resources.borrow_and_update().clone();
        // It may have gone since it was asked, and what was just taken may tell of that.
        if self.nodes.has_changed().unwrap_or(true) {
            self.is_there()?;
        }
        self.queue.extend(self.server.advance(&now));
        self.stream.note(&self.server);
        Ok(Next::More)
    }

    fn is_there(&self) -> Result<(), Status> {
        self.known.index().is_there(&self.caller).map_err(|_| gone_away())
    }

    fn hear(&mut self, request: DeltaDiscoveryRequest) -> Result<(), Status> {
        if let Some(claimed) = request.node.as_ref().and_then(node_name)
            && claimed != &*self.caller.node
        {
            let message = format!("the caller is node {}", self.caller.node);
            return Err(Status::permission_denied(message));
        }
        let now = self.resources.borrow().clone();
        match self.server.request(request, &now) {
            Heard::Refused { kind, generation, message } => {
                self.metrics.refused();
                let message = crate::escape::shown(&message);
                warn!(
                    node = %self.caller.node,
                    ?kind,
                    generation,
                    message,
                    "node refused resources"
                );
            }
            Heard::Unsupported { type_url } => {
                let type_url = crate::escape::shown(&type_url);
                info!(
                    node = %self.caller.node,
                    type_url, "node asked for a type that is not served"
                );
            }
            Heard::Subscribed(_) | Heard::Acknowledged { .. } | Heard::Stale(_) => {}
        }
        Ok(())
    }
}

enum Next {
    More,
    End,
}

/// So that it proves itself anew: whoever has its name now is another node.
fn gone_away() -> Status {
    Status::unauthenticated("this proves no node that is there")
}

fn node_name(node: &Node) -> Option<&str> {
    let value = node.metadata.as_ref()?.fields.get("NODE_NAME")?;
    match value.kind.as_ref()? {
        prost_types::value::Kind::StringValue(name) => Some(name),
        prost_types::value::Kind::NullValue(_)
        | prost_types::value::Kind::NumberValue(_)
        | prost_types::value::Kind::BoolValue(_)
        | prost_types::value::Kind::StructValue(_)
        | prost_types::value::Kind::ListValue(_) => None,
    }
}
