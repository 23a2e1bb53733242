//! A control plane on loopback, on a thread and runtime of its own, so that stopping it cuts all connections.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, OnceLock},
    thread::JoinHandle,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use prost::Message as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};
use weft_certs::{Authority, ServerCertificate};
use weft_model::{Change, TrustDomain};
use weft_xds::{
    codec::{self, Encoded, ResourceType},
    delta::{self, Resources},
    proto::discovery::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource,
        aggregated_discovery_service_server::{
            AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
        },
    },
};

/// The roots that prove the server, in PEM.
pub(super) fn roots() -> &'static str {
    &pki().0
}

fn pki() -> &'static (String, ServerCertificate) {
    static MADE: OnceLock<(String, ServerCertificate)> = OnceLock::new();
    MADE.get_or_init(|| {
        let now = SystemTime::now();
        let authority = Authority::new(&TrustDomain::default(), now).unwrap();
        let day = Duration::from_hours(24);
        let server = authority.issue_server(&["localhost"], day, now).unwrap();
        (authority.bundle().to_pem(), server)
    })
}

#[derive(Clone, Debug)]
pub(super) enum Heard {
    /// The first of a stream, with what came with the stream.
    Request {
        request: DeltaDiscoveryRequest,
        metadata: BTreeMap<String, String>,
    },
    Answer {
        request: DeltaDiscoveryRequest,
    },
}

impl Heard {
    pub(super) fn acknowledges(&self, kind: ResourceType) -> bool {
        match self {
            Self::Answer { request } => {
                request.type_url == kind.type_url() && request.error_detail.is_none()
            }
            Self::Request { .. } => false,
        }
    }

    pub(super) fn refuses(&self) -> Option<&str> {
        match self {
            Self::Answer { request } => request.error_detail.as_ref().map(|s| s.message.as_str()),
            Self::Request { .. } => None,
        }
    }
}

pub(super) struct ControlPlaneServer {
    pub(super) port: u16,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    resources: watch::Sender<Resources>,
    heard: watch::Sender<Vec<Heard>>,
    /// Resources in all responses.
    sent: Mutex<usize>,
    only: Mutex<Option<ResourceType>>,
    rubbish: Notify,
    stop: Notify,
}

impl ControlPlaneServer {
    pub(super) fn start(port: u16) -> Self {
        Self::start_with(port, Resources::default())
    }

    pub(super) fn start_with(port: u16, resources: Resources) -> Self {
        let listener = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            resources: watch::Sender::new(resources),
            heard: watch::Sender::new(Vec::new()),
            sent: Mutex::new(0),
            only: Mutex::new(None),
            rubbish: Notify::new(),
            stop: Notify::new(),
        });
        let service = Service(shared.clone());
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(serve(listener, service));
        });
        Self { port, shared, thread: Some(thread) }
    }

    pub(super) fn put(&self, change: &Change) {
        let encoded = codec::encode(change).unwrap();
        self.shared.resources.send_modify(|resources| {
            resources.put(encoded);
        });
    }

    /// A resource whose envelope is right and whose body is not.
    pub(super) fn put_undecodable(&self, kind: ResourceType, name: &str) {
        let any = prost_types::Any { type_url: kind.type_url().to_owned(), value: vec![0xff; 9] };
        let resource =
            Resource { name: name.to_owned(), resource: Some(any), ..Resource::default() };
        let encoded = Encoded {
            kind,
            name: name.into(),
            aliases: Box::default(),
            services: Box::default(),
            node: Arc::default(),
            version: "undecodable".into(),
            wire: resource.encode_to_vec().into(),
        };
        self.shared.resources.send_modify(|resources| {
            resources.put(encoded);
        });
    }

    pub(super) fn remove(&self, kind: ResourceType, name: &str) {
        self.shared.resources.send_modify(|resources| {
            resources.remove(kind, name);
        });
    }

    pub(super) fn answer_only(&self, kind: ResourceType) {
        *self.shared.only.lock().unwrap() = Some(kind);
    }

    pub(super) fn answer_all(&self) {
        *self.shared.only.lock().unwrap() = None;
        self.shared.resources.send_modify(|_| ());
    }

    pub(super) fn say_rubbish(&self) {
        self.shared.rubbish.notify_one();
    }

    /// How many resources were sent over all streams.
    pub(super) fn sent(&self) -> usize {
        *self.shared.sent.lock().unwrap()
    }

    /// Waits for a message, or finds it among those that came.
    pub(super) async fn heard(&self, is: impl Fn(&Heard) -> bool) -> Heard {
        let mut heard = self.shared.heard.subscribe();
        let wait = heard.wait_for(|all| all.iter().any(&is));
        let all = tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap().unwrap();
        all.iter().find(|one| is(one)).unwrap().clone()
    }

    /// Ends it and all its connections; returns what it had.
    pub(super) fn stop(mut self) -> Resources {
        self.end();
        self.shared.resources.borrow().clone()
    }

    fn end(&mut self) {
        self.shared.stop.notify_one();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for ControlPlaneServer {
    fn drop(&mut self) {
        self.end();
    }
}

/// Dropping the connections' set when it is asked to stop cuts them.
async fn serve(listener: std::net::TcpListener, service: Service) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let mut connections = JoinSet::new();
    loop {
        let tcp = tokio::select! {
            // Biased: asked to stop, it takes nothing more.
            biased;
            () = service.0.stop.notified() => return,
            accepted = listener.accept() => accepted.unwrap().0,
        };
        let (tls, service) = (acceptor(), service.clone());
        connections.spawn(async move {
            // A client that does not trust us ends the handshake: one test is about that.
            let Ok(stream) = tls.accept(tcp).await else { return };
            let service = TowerToHyperService::new(AggregatedDiscoveryServiceServer::new(service));
            let http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            drop(http2.serve_connection(TokioIo::new(stream), service).await);
        });
    }
}

fn acceptor() -> TlsAcceptor {
    let ServerCertificate { certificate, key } = &pki().1;
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.to_pem().as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config).into()
}

#[derive(Clone)]
struct Service(Arc<Shared>);

type Responses = Pin<Box<dyn Stream<Item = Result<DeltaDiscoveryResponse, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type DeltaAggregatedResourcesStream = Responses;

    async fn delta_aggregated_resources(
        &self,
        call: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Responses>, Status> {
        let text = |name: &str| {
            let value = call.metadata().get(name).and_then(|value| value.to_str().ok());
            (name.to_owned(), value.unwrap_or_default().to_owned())
        };
        let metadata = [text("authorization"), text("clusterid")].into();
        let (sender, receiver) = mpsc::channel(4);
        let shared = self.0.clone();
        let requests = call.into_inner();
        #[expect(clippy::disallowed_methods, reason = "ends with the runtime of this server")]
        tokio::spawn(subscriber(shared, requests, metadata, sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

async fn subscriber(
    shared: Arc<Shared>,
    mut requests: Streaming<DeltaDiscoveryRequest>,
    metadata: BTreeMap<String, String>,
    responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
) {
    let mut server = delta::Server::new();
    let mut changed = shared.resources.subscribe();
    let mut unanswered = Vec::new();
    loop {
        tokio::select! {
            // Biased: requests first, so that one snapshot answers all that were asked.
            biased;
            request = requests.next() => {
                let Some(Ok(request)) = request else { return };
                let heard = if request.response_nonce.is_empty() {
                    Heard::Request { request: request.clone(), metadata: metadata.clone() }
                } else {
                    Heard::Answer { request: request.clone() }
                };
                shared.heard.send_modify(|all| all.push(heard));
                let only = *shared.only.lock().unwrap();
                if only.is_none_or(|kind| kind.type_url() == request.type_url) {
                    server.request(request, &shared.resources.borrow());
                } else {
                    unanswered.push(request);
                }
            }
            _ = changed.changed() => {}
            () = shared.rubbish.notified() => {
                let rubbish = DeltaDiscoveryResponse {
                    type_url: ResourceType::Address.type_url().to_owned(),
                    nonce: "rubbish".to_owned(),
                    resources: vec![Bytes::from_static(&[0xff; 33])],
                    removed_resources: vec!["\0\u{fffd}".to_owned()],
                    ..DeltaDiscoveryResponse::default()
                };
                responses.send(Ok(rubbish)).await.unwrap();
            }
        }
        let resources = changed.borrow_and_update().clone();
        // After the change was taken note of: one that comes later wakes the loop again.
        if shared.only.lock().unwrap().is_none() {
            for request in unanswered.drain(..) {
                server.request(request, &resources);
            }
        }
        let next = server.advance(&resources);
        for response in next {
            *shared.sent.lock().unwrap() += response.resources.len();
            if responses.send(Ok(response)).await.is_err() {
                return;
            }
        }
    }
}
