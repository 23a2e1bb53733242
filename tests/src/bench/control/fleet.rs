//! Nodes that subscribe to a control plane: real streams over TLS, each with the client's side of the protocol, which
//! decodes and acknowledges what comes.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use prost::Message;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request,
    transport::{Certificate, ClientTlsConfig, Endpoint},
};
use weft_model::{Change, ResourceKey};
use weft_xds::{
    codec::ResourceType,
    delta::Client,
    proto::discovery::{
        Node, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
};

use super::population::name_of_node;

/// The wire contract's bound.
const MESSAGE_BYTES_MAX: usize = 200 << 20;
/// A server has one response a type under way.
const REPLIES_MAX: usize = 8;

/// What nodes have been sent.
#[derive(Debug, Default)]
struct Seen {
    bytes: AtomicU64,
    /// Nodes that were answered for every type.
    whole: watch::Sender<usize>,
    /// When a workload's change was applied by each node.
    awaited: Mutex<HashMap<String, Vec<Instant>>>,
}

/// Nodes that are connected, until it is dropped or [`Fleet::part`].
#[derive(Debug)]
pub struct Fleet {
    seen: Arc<Seen>,
    tasks: JoinSet<Result<Client>>,
    stop: watch::Sender<bool>,
    nodes: usize,
}

/// From a request of the API server until nodes had applied what came of it; shortest first.
#[derive(Debug, Default)]
pub struct Latencies(Vec<Duration>);

impl Fleet {
    /// Connects nodes, each by its token, with what it holds from before if that is given.
    pub fn connect(
        address: SocketAddr,
        root: &Path,
        tokens: &[String],
        held: Vec<Client>,
    ) -> Result<Self> {
        let root = std::fs::read(root).context("read the root certificate")?;
        let seen = Arc::new(Seen::default());
        let (stop, stopped) = watch::channel(false);
        let mut held = held.into_iter();
        let mut tasks = JoinSet::new();
        for (n, token) in tokens.iter().enumerate() {
            let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&root));
            let endpoint = Endpoint::new(format!("https://{address}"))?.tls_config(tls)?;
            let node = Node { id: name_of_node(n), ..Node::default() };
            let client = held.next().unwrap_or_else(|| Client::new(node));
            tasks.spawn(follow(endpoint, token.clone(), client, seen.clone(), stopped.clone()));
        }
        Ok(Self { seen, tasks, stop, nodes: tokens.len() })
    }

    /// Waits until every node has everything. Errors: one of them was refused.
    pub async fn whole(&mut self) -> Result<()> {
        let mut whole = self.seen.whole.subscribe();
        let nodes = self.nodes;
        tokio::select! {
            // Its sender is ours.
            whole = whole.wait_for(|whole| *whole == nodes) => drop(whole?),
            ended = self.tasks.join_next() => drop(ended.context("no node is connected")???),
        }
        Ok(())
    }

    /// All bytes of responses until here, before TLS.
    pub fn bytes(&self) -> u64 {
        self.seen.bytes.load(Relaxed)
    }

    /// From now on, when this workload changes is noted.
    pub fn await_change(&self, workload: String) {
        self.seen.awaited().insert(workload, Vec::new());
    }

    /// How long after `asked` the nodes that had it by now had applied the workload's change.
    pub fn noted(&self, workload: &str, asked: Instant, into: &mut Latencies) -> usize {
        let noted = self.seen.awaited().remove(workload).unwrap_or_default();
        into.0.extend(noted.iter().map(|at| at.saturating_duration_since(asked)));
        into.0.sort_unstable();
        noted.len()
    }

    /// Ends all streams; what each node holds.
    pub async fn part(mut self) -> Result<Vec<Client>> {
        self.stop.send(true).ok();
        let mut clients = Vec::new();
        while let Some(ended) = self.tasks.join_next().await {
            clients.push(ended??);
        }
        Ok(clients)
    }
}

impl Latencies {
    pub fn sorted(&self) -> &[Duration] {
        &self.0
    }
}

impl Seen {
    fn awaited(&self) -> MutexGuard<'_, HashMap<String, Vec<Instant>>> {
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, changes: &[Change]) {
        let now = Instant::now();
        for change in changes {
            let ResourceKey::Workload(uid) = change.key() else { continue };
            if let Some(noted) = self.awaited().get_mut(uid.as_str()) {
                noted.push(now);
            }
        }
    }
}

async fn follow(
    endpoint: Endpoint,
    token: String,
    mut client: Client,
    seen: Arc<Seen>,
    mut stopped: watch::Receiver<bool>,
) -> Result<Client> {
    let (replies, sent) = mpsc::channel(REPLIES_MAX);
    for request in client.connect() {
        replies.send(request).await?;
    }
    let mut request = Request::new(ReceiverStream::new(sent));
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse()?);
    request.metadata_mut().insert("clusterid", "Kubernetes".parse()?);
    let channel = endpoint.connect().await?;
    let mut stub =
        AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let mut responses = stub.delta_aggregated_resources(request).await?.into_inner();
    let mut types = HashSet::new();
    loop {
        let response = tokio::select! {
            // Biased: what was told to end has no use for more.
            biased;
            _ = stopped.wait_for(|stopped| *stopped) => return Ok(client),
            response = responses.message() => response?.context("the stream ended")?,
        };
        seen.bytes.fetch_add(response.encoded_len() as u64, Relaxed);
        let is_new = types.insert(response.type_url.clone());
        let received = client.receive(response);
        seen.note(&received.changes);
        replies.send(received.reply).await?;
        if is_new && types.len() == ResourceType::ALL.len() {
            seen.whole.send_modify(|whole| *whole += 1);
        }
    }
}
