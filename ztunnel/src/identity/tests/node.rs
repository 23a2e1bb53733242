//! A node's own certificate, against a real server over TLS that gives them.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll},
};

use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tonic::{Request, Response, Status};
use weft_certs::{NodeIdentity, node_server_config, peer_node};
use weft_xds::proto::auth::{
    IstioCertificateRequest, IstioCertificateResponse,
    istio_certificate_service_server::{IstioCertificateService, IstioCertificateServiceServer},
};

use super::{
    super::{
        ask::{Asked, ask, connect},
        node::is_refusal,
    },
    *,
};

/// How a request was proven, and whose certificate it was for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    NodeByToken,
    NodeByCertificate,
    WorkloadByToken,
    WorkloadByCertificate { pods: usize },
}

/// What a node's own request is answered with.
#[derive(Debug, Clone, Copy)]
enum Nodes {
    Served,
    Refused,
    /// With a certificate that proves nothing.
    Deceived,
}

struct Control {
    authority: Mutex<Arc<Authority>>,
    nodes: Nodes,
    seen: watch::Sender<Vec<Seen>>,
    /// What the node said last to trust.
    trusted: watch::Sender<String>,
}

impl Control {
    fn authority(&self) -> Arc<Authority> {
        self.authority.lock().unwrap().clone()
    }

    /// Waits until a request was seen so often.
    async fn saw(&self, wanted: &Seen, times: usize) {
        let mut seen = self.seen.subscribe();
        let enough = |all: &Vec<Seen>| all.iter().filter(|one| *one == wanted).count() >= times;
        let in_time = timeout(Duration::from_mins(1), seen.wait_for(enough)).await.is_ok();
        assert!(in_time, "{wanted:?} was not seen {times} times, but {:?}", self.seen.borrow());
    }
}

/// One connection's service.
#[derive(Clone)]
struct Call {
    control: Arc<Control>,
    proven: bool,
}

#[tonic::async_trait]
impl IstioCertificateService for Call {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let token = request.metadata().get("authorization").is_some();
        assert_ne!(token, self.proven, "one proof, and not both");
        let message = request.into_inner();
        let fields = message.metadata.map(|metadata| metadata.fields).unwrap_or_default();
        let ttl = Duration::from_secs(message.validity_duration.unsigned_abs());
        let (authority, now) = (self.control.authority(), SystemTime::now());
        let seen = |seen| self.control.seen.send_modify(|all| all.push(seen));
        let Some(identity) = fields.get("ImpersonatedIdentity") else {
            seen(if self.proven { Seen::NodeByCertificate } else { Seen::NodeByToken });
            if let Some(bundle) = fields.get("WeftTrustBundle").and_then(|v| v.kind.clone()) {
                let prost_types::value::Kind::StringValue(bundle) = bundle else { panic!() };
                self.control.trusted.send_replace(bundle);
            }
            if let Nodes::Refused = self.control.nodes {
                return Err(Status::invalid_argument("no identity is named"));
            }
            let node = NodeIdentity::new(TrustDomain::default(), "worker-1", None).unwrap();
            let cert_chain = authority.issue_node(&message.csr, &node, ttl, now).unwrap();
            return Ok(Response::new(IstioCertificateResponse { cert_chain }));
        };
        let pods = match fields.get("WeftPodUids").and_then(|value| value.kind.clone()) {
            Some(prost_types::value::Kind::ListValue(list)) => list.values.len(),
            _ => 0,
        };
        seen(if self.proven {
            Seen::WorkloadByCertificate { pods }
        } else {
            Seen::WorkloadByToken
        });
        if let (Nodes::Deceived, true) = (self.control.nodes, self.proven) {
            return Err(Status::unauthenticated("this proves no node that is there"));
        }
        let Some(prost_types::value::Kind::StringValue(identity)) = &identity.kind else {
            panic!("{identity:?}")
        };
        let identity = identity.parse().unwrap();
        let cert_chain = authority.issue(&message.csr, &identity, ttl, now).unwrap();
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}

async fn serve(nodes: Nodes) -> (SocketAddr, Arc<Control>, JoinSet<()>) {
    let authority = Authority::new(&TrustDomain::default(), SystemTime::now()).unwrap();
    let control = Arc::new(Control {
        authority: Mutex::new(Arc::new(authority)),
        nodes,
        seen: watch::Sender::new(Vec::new()),
        trusted: watch::Sender::default(),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    let accepted = control.clone();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            connections.spawn(connection(tcp, accepted.clone()));
        }
    });
    (address, control, tasks)
}

async fn connection(tcp: TcpStream, control: Arc<Control>) {
    let authority = control.authority();
    let own = authority.issue_server(&["control.test"], DAY, SystemTime::now()).unwrap();
    let config = node_server_config(&own, authority.bundle(), authority.trust_domain()).unwrap();
    let Ok(stream) = TlsAcceptor::from(config).accept(tcp).await else { return };
    let proven = stream.get_ref().1.peer_certificates().map(|chain| peer_node(chain).unwrap());
    let call = Call { control, proven: proven.is_some() };
    let service = TowerToHyperService::new(IstioCertificateServiceServer::new(call));
    let http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    drop(http2.serve_connection(TokioIo::new(stream), service).await);
}

fn settings(address: SocketAddr, dir: &Path, roots: &str, ttl: Duration) -> CaSettings {
    let (root, token) = (dir.join("root-cert.pem"), dir.join("token"));
    std::fs::write(&root, roots).unwrap();
    std::fs::write(&token, "secret").unwrap();
    CaSettings {
        remote: Remote {
            address: format!("https://{address}"),
            server_name: Some("control.test".to_owned()),
            root,
            token,
            cluster_id: "Kubernetes".to_owned(),
        },
        ttl,
    }
}

fn node_with(settings: CaSettings) -> Node {
    let files = vec![settings.remote.root.clone()];
    node_of(settings, files)
}

fn node_of(settings: CaSettings, files: Vec<PathBuf>) -> Node {
    let (certificate, renewer) = NodeCertificate::new(settings.clone(), "worker-1", files);
    let mut tasks = JoinSet::new();
    let service = CertificateService::new(Some(settings), certificate);
    let (identities, asker) = Identities::new(Options::new(None, Duration::from_secs(30)), service);
    tasks.spawn(asker.run());
    let trusting = identities.clone();
    tasks.spawn(async move { match renewer.run(trusting).await {} });
    Node { identities, _renewer: tasks }
}

#[tokio::test]
async fn the_token_is_sent_once_and_the_nodes_certificate_from_then_on() {
    let (address, control, _server) = serve(Nodes::Served).await;
    let dir = TempDir::new().unwrap();
    let roots = control.authority().bundle().to_pem();
    // Renewed at half its life: after two seconds, and again.
    let node = node_with(settings(address, dir.path(), &roots, Duration::from_secs(4)));
    let pod = Arc::from("u-1");
    let _hold = node.identities.hold_for(&web(), Priority::Warmup, &pod);
    let svid = node.identities.svid(&web()).await.unwrap();
    assert_eq!(svid.identity(), &web());
    control.saw(&Seen::NodeByCertificate, 2).await;
    control.saw(&Seen::WorkloadByCertificate { pods: 1 }, 2).await;
    let seen = control.seen.borrow().clone();
    assert_eq!(seen.iter().filter(|one| **one == Seen::NodeByToken).count(), 1, "{seen:?}");
    assert!(!seen.contains(&Seen::WorkloadByToken), "{seen:?}");
}

#[tokio::test]
async fn a_service_that_gives_nodes_nothing_is_sent_the_token() {
    let (address, control, _server) = serve(Nodes::Refused).await;
    let dir = TempDir::new().unwrap();
    let roots = control.authority().bundle().to_pem();
    let node = node_with(settings(address, dir.path(), &roots, DAY));
    node.identities.svid(&web()).await.unwrap();
    let seen = control.seen.borrow().clone();
    assert_eq!(seen, [Seen::NodeByToken, Seen::WorkloadByToken]);
}

#[tokio::test]
async fn a_certificate_that_is_not_taken_any_more_is_replaced_by_the_token() {
    let (address, control, _server) = serve(Nodes::Served).await;
    let dir = TempDir::new().unwrap();
    let roots = control.authority().bundle().to_pem();
    let node = node_with(settings(address, dir.path(), &roots, Duration::from_hours(1)));
    node.identities.svid(&web()).await.unwrap();
    control.saw(&Seen::NodeByToken, 1).await;
    // The control plane was given another root, and so was the node's file.
    let other = Authority::new(&TrustDomain::default(), SystemTime::now()).unwrap();
    std::fs::write(dir.path().join("root-cert.pem"), other.bundle().to_pem()).unwrap();
    *control.authority.lock().unwrap() = Arc::new(other);
    let bank = "spiffe://cluster.local/ns/bank/sa/vault".parse().unwrap();
    node.identities.svid(&bank).await.unwrap();
    control.saw(&Seen::NodeByToken, 2).await;
}

#[tokio::test]
async fn a_certificate_that_could_renew_itself_and_proves_nothing_is_replaced_by_the_token() {
    let (address, control, _server) = serve(Nodes::Deceived).await;
    let dir = TempDir::new().unwrap();
    let roots = control.authority().bundle().to_pem();
    let node = node_with(settings(address, dir.path(), &roots, Duration::from_hours(1)));
    let _hold = node.identities.hold_for(&web(), Priority::Warmup, &Arc::from("u-1"));
    // The first one says which roots it has; then its certificates are doubted, again and again.
    control.saw(&Seen::NodeByToken, 3).await;
    let seen = control.seen.borrow().clone();
    let by_itself = seen.iter().filter(|one| **one == Seen::NodeByCertificate).count();
    assert!(by_itself <= 1, "{seen:?}");
}

#[tokio::test]
async fn only_a_refusal_of_the_certificate_is_a_reason_to_ask_for_another() {
    for (status, refused) in [
        (Status::unauthenticated("this proves no node that is there"), true),
        (Status::permission_denied("this node may not have that certificate"), false),
        (Status::resource_exhausted("node a asks too often"), false),
        (Status::unavailable("the control plane stops"), false),
        (failed(std::io::ErrorKind::ConnectionReset), false),
        (failed(std::io::ErrorKind::UnexpectedEof), false),
        (failed(std::io::ErrorKind::InvalidData), true),
        // Ours of it is none of us.
        (of_tls(rustls::CertificateError::UnknownIssuer.into()), false),
        (of_tls(rustls::Error::AlertReceived(rustls::AlertDescription::UnknownCA)), true),
        (talking(std::io::ErrorKind::InvalidData).await, true),
        (talking(std::io::ErrorKind::ConnectionReset).await, false),
    ] {
        assert_eq!(is_refusal(&status), refused, "{status:?}");
    }
}

#[tokio::test]
async fn a_server_that_this_node_does_not_take_has_refused_nobody() {
    let (address, _control, _server) = serve(Nodes::Served).await;
    let dir = TempDir::new().unwrap();
    let other = Authority::new(&TrustDomain::default(), SystemTime::now()).unwrap();
    let roots = other.bundle().to_pem();
    let remote = settings(address, dir.path(), &roots, DAY).remote;
    let channel = connect(&remote, &roots, None).unwrap();
    let asked = Asked { subject: String::new(), ttl: DAY, metadata: None, csr: String::new() };
    let Err(ServiceError::Refused { source, .. }) = ask(&remote, channel, None, asked).await else {
        panic!()
    };
    assert!(format!("{source:?}").contains("UnknownIssuer"), "{source:?}");
    assert!(!is_refusal(&source), "{source:?}");
}

/// What a call comes to whose connection fails.
fn failed(kind: std::io::ErrorKind) -> Status {
    Status::from_error(Box::new(std::io::Error::from(kind)))
}

/// What a call comes to whose connection fails when both sides have been talking.
async fn talking(kind: std::io::ErrorKind) -> Status {
    struct Broken(std::io::ErrorKind);
    impl tokio::io::AsyncRead for Broken {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut tokio::io::ReadBuf<'_>,
        ) -> Poll<std::io::Result<()>> {
            Poll::Ready(Err(self.0.into()))
        }
    }
    let stream = tokio::io::join(Broken(kind), tokio::io::sink());
    let (_requests, connection) = h2::client::handshake(stream).await.unwrap();
    Status::from_error(Box::new(connection.await.unwrap_err()))
}

fn of_tls(error: rustls::Error) -> Status {
    Status::from_error(Box::new(std::io::Error::new(std::io::ErrorKind::InvalidData, error)))
}

#[tokio::test]
async fn new_roots_are_trusted_by_all_identities_and_the_nodes_file_before_it_says_so() {
    let (address, control, _server) = serve(Nodes::Served).await;
    let dir = TempDir::new().unwrap();
    let old = control.authority();
    let roots = old.bundle().to_pem();
    let node = node_with(settings(address, dir.path(), &roots, Duration::from_secs(4)));
    // Without a pod that has it, an identity is forgotten when its renewal is due, which is when new roots come too.
    let _hold = node.identities.hold_for(&web(), Priority::Warmup, &Arc::from("u-1"));
    let svid = node.identities.svid(&web()).await.unwrap();
    assert_eq!(svid.bundle(), old.bundle());
    let domain = TrustDomain::default();
    let next = Authority::new(&domain, SystemTime::now()).unwrap();
    let both = old.bundle().to_pem() + &next.bundle().to_pem();
    let both = Authority::from_pem(&domain, &both, &old.key_pem()).unwrap();
    let wanted = both.bundle().clone();
    *control.authority.lock().unwrap() = Arc::new(both);
    // The certificates tell of it first; its file, by which it knows the control plane, comes later or never.
    let mut slot = node.identities.watch(&web());
    let trusts = |slot: &Slot| slot.svid().is_some_and(|svid| svid.bundle() == &wanted);
    timeout(Duration::from_mins(1), slot.wait_for(trusts)).await.unwrap().unwrap();
    let renewed = control.seen.borrow().iter().filter(|s| **s == Seen::NodeByCertificate).count();
    control.saw(&Seen::NodeByCertificate, renewed + 2).await;
    assert_eq!(*control.trusted.borrow(), old.bundle().fingerprint(), "its file has the old root");
    std::fs::write(dir.path().join("root-cert.pem"), wanted.to_pem()).unwrap();
    let mut trusted = control.trusted.subscribe();
    let told = trusted.wait_for(|said| *said == wanted.fingerprint());
    timeout(Duration::from_mins(1), told).await.unwrap().unwrap();
    assert_eq!(node.identities.current(&web()).unwrap().bundle(), &wanted);
}

#[tokio::test]
async fn a_node_with_a_file_of_roots_that_its_identities_do_not_trust_says_nothing() {
    let (address, control, _server) = serve(Nodes::Served).await;
    let dir = TempDir::new().unwrap();
    let roots = control.authority().bundle().to_pem();
    let settings = settings(address, dir.path(), &roots, Duration::from_secs(4));
    let others = dir.path().join("others.pem");
    let other = Authority::new(&TrustDomain::default(), SystemTime::now()).unwrap();
    std::fs::write(&others, other.bundle().to_pem()).unwrap();
    let files = vec![settings.remote.root.clone(), others.clone()];
    let _node = node_of(settings, files);
    control.saw(&Seen::NodeByCertificate, 2).await;
    assert_eq!(*control.trusted.borrow(), "");
    std::fs::write(&others, roots + &other.bundle().to_pem()).unwrap();
    let mut trusted = control.trusted.subscribe();
    let told = trusted.wait_for(|said| *said == control.authority().bundle().fingerprint());
    timeout(Duration::from_mins(1), told).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn roots_that_a_node_said_to_trust_are_trusted_after_a_restart_too() {
    let (ca, dir) = (Ca::new(DAY), TempDir::new().unwrap());
    let root = || Authority::new(&TrustDomain::default(), ca.clock.now()).unwrap();
    let (old, next) = (root(), root());
    sign_with(&ca, &old, &old);
    let both = Bundle::from_pem(&(old.bundle().to_pem() + &next.bundle().to_pem())).unwrap();
    let bank = "spiffe://cluster.local/ns/bank/sa/vault".parse().unwrap();
    let first = node(&ca, Some(&dir));
    for identity in [&web(), &bank] {
        first.identities.svid(identity).await.unwrap();
    }
    drop(first);
    ca.die();
    // One of them is back when the roots come.
    let second = node(&ca, Some(&dir));
    second.identities.svid(&web()).await.unwrap();
    assert!(second.identities.all_trust(old.bundle()));
    second.identities.trust(&both);
    assert!(!second.identities.all_trust(&both), "the disk has the old ones");
    tokio::task::yield_now().await;
    assert!(second.identities.all_trust(&both));
    drop(second);
    let third = node(&ca, Some(&dir));
    for identity in [&web(), &bank] {
        assert_eq!(third.identities.svid(identity).await.unwrap().bundle(), &both);
    }
    // One that has a root of its own until it is renewed does not trust what the others do.
    third.identities.trust(next.bundle());
    tokio::task::yield_now().await;
    assert!(!third.identities.all_trust(next.bundle()));
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_comes_with_older_roots_follows_those_that_the_node_trusts() {
    let ca = Ca::new(DAY);
    let node = node(&ca, None);
    let root = || Authority::new(&TrustDomain::default(), ca.clock.now()).unwrap();
    let (old, next) = (root(), root());
    sign_with(&ca, &old, &old);
    let both = Bundle::from_pem(&(old.bundle().to_pem() + &next.bundle().to_pem())).unwrap();
    node.identities.trust(&both);
    assert_eq!(node.identities.svid(&web()).await.unwrap().bundle(), &both);
    // Roots by which it would not be good itself are none to follow.
    node.identities.trust(next.bundle());
    let bank = "spiffe://cluster.local/ns/bank/sa/vault".parse().unwrap();
    assert_eq!(node.identities.svid(&bank).await.unwrap().bundle(), old.bundle());
}
