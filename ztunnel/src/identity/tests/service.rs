//! The client against a real tonic server over TLS on loopback.

use std::{net::SocketAddr, sync::Arc};

use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tonic::{Request, Response, Status};
use weft_xds::proto::auth::{
    IstioCertificateRequest, IstioCertificateResponse,
    istio_certificate_service_server::{IstioCertificateService, IstioCertificateServiceServer},
};

use super::*;

/// What the server saw of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    token: Option<String>,
    cluster: Option<String>,
    impersonated: String,
    validity: i64,
}

#[derive(Clone)]
struct Istiod(Arc<Seeing>);

struct Seeing {
    /// Signs workloads; another one than proves the server itself.
    authority: Authority,
    seen: watch::Sender<Vec<Seen>>,
    required_token: &'static str,
}

#[tonic::async_trait]
impl IstioCertificateService for Istiod {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let header =
            |name: &str| request.metadata().get(name).map(|v| v.to_str().unwrap().to_owned());
        let (token, cluster) = (header("authorization"), header("clusterid"));
        let message = request.get_ref();
        let kind = message.metadata.as_ref().unwrap().fields["ImpersonatedIdentity"].kind.clone();
        let Some(prost_types::value::Kind::StringValue(impersonated)) = kind else {
            panic!("{kind:?}")
        };
        let seen = Seen {
            token: token.clone(),
            cluster,
            impersonated: impersonated.clone(),
            validity: message.validity_duration,
        };
        self.0.seen.send_modify(|all| all.push(seen));
        if token.as_deref() != Some(self.0.required_token) {
            return Err(Status::unauthenticated("token is not the one"));
        }
        let ttl = Duration::from_secs(message.validity_duration.unsigned_abs());
        let identity = impersonated.parse().unwrap();
        let cert_chain =
            self.0.authority.issue(&message.csr, &identity, ttl, SystemTime::now()).unwrap();
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}

struct Served {
    address: SocketAddr,
    istiod: Istiod,
    tasks: JoinSet<()>,
}

/// Serves with a certificate of `root`'s.
async fn serve(root: &Authority, token: &'static str) -> Served {
    let istiod = Istiod(Arc::new(Seeing {
        authority: Authority::new(&TrustDomain::default(), SystemTime::now()).unwrap(),
        seen: watch::Sender::new(Vec::new()),
        required_token: token,
    }));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(accept(listener, tls(root), istiod.clone()));
    Served { address, istiod, tasks }
}

fn tls(root: &Authority) -> TlsAcceptor {
    let own = root.issue_server(&["istiod.test"], DAY, SystemTime::now()).unwrap();
    let certificate = CertificateDer::from_pem_slice(own.certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(own.key.to_pem().as_bytes()).unwrap();
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

async fn accept(listener: TcpListener, tls: TlsAcceptor, istiod: Istiod) {
    let mut connections = JoinSet::new();
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        let (tls, istiod) = (tls.clone(), istiod.clone());
        connections.spawn(async move {
            // A client that does not trust us ends the handshake: that is what some tests are about.
            let Ok(stream) = tls.accept(tcp).await else { return };
            let service = TowerToHyperService::new(IstioCertificateServiceServer::new(istiod));
            let http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            drop(http2.serve_connection(TokioIo::new(stream), service).await);
        });
    }
}

struct Client {
    identities: Identities,
    dir: TempDir,
    _renewer: JoinSet<()>,
}

fn client(server: &Served, roots: &str, token: Option<&str>) -> Client {
    client_of(format!("https://{}", server.address), roots, token)
}

fn client_of(address: String, roots: &str, token: Option<&str>) -> Client {
    let dir = TempDir::new().unwrap();
    let (root, token_file) = (dir.path().join("root-cert.pem"), dir.path().join("token"));
    std::fs::write(&root, roots).unwrap();
    if let Some(token) = token {
        std::fs::write(&token_file, token).unwrap();
    }
    let settings = CaSettings {
        remote: Remote {
            address,
            server_name: Some("istiod.test".to_owned()),
            root,
            token: token_file,
            cluster_id: "Kubernetes".to_owned(),
        },
        ttl: DAY,
    };
    let options = Options::new(None, Duration::from_secs(20));
    let (identities, renewer) =
        Identities::new(options, CertificateService::new(Some(settings), NodeCertificate::none()));
    let mut tasks = JoinSet::new();
    tasks.spawn(renewer.run());
    Client { identities, dir, _renewer: tasks }
}

fn any_root() -> Authority {
    Authority::new(&TrustDomain::new("control").unwrap(), SystemTime::now()).unwrap()
}

async fn failure(client: &Client) -> String {
    let mut slot = client.identities.watch(&web());
    let failed = slot.wait_for(|s| s.failure().is_some());
    let slot = timeout(Duration::from_secs(20), failed).await.unwrap().unwrap().clone();
    chain(&*slot.failure().unwrap().error)
}

#[tokio::test]
async fn a_certificate_is_asked_for_as_istiod_expects_it() {
    let root = any_root();
    let server = serve(&root, "Bearer secret").await;
    let client = client(&server, &root.bundle().to_pem(), Some("secret\n"));
    let svid = client.identities.svid(&web()).await.unwrap();
    assert_eq!(svid.identity(), &web());
    assert_eq!(svid.bundle(), server.istiod.0.authority.bundle());
    let expected = Seen {
        token: Some("Bearer secret".to_owned()),
        cluster: Some("Kubernetes".to_owned()),
        impersonated: web().to_string(),
        validity: 86_400,
    };
    assert_eq!(*server.istiod.0.seen.borrow(), [expected]);
}

#[tokio::test]
async fn a_token_is_read_again_for_each_request() {
    let root = any_root();
    let server = serve(&root, "Bearer new").await;
    let client = client(&server, &root.bundle().to_pem(), Some("old"));
    let said = failure(&client).await;
    assert!(said.contains("token is not the one"), "{said}");
    std::fs::write(client.dir.path().join("token"), "new").unwrap();
    client.identities.svid(&web()).await.unwrap();
    let seen: Vec<_> = server.istiod.0.seen.borrow().iter().map(|s| s.token.clone()).collect();
    assert_eq!(seen.first(), Some(&Some("Bearer old".to_owned())));
    assert_eq!(seen.last(), Some(&Some("Bearer new".to_owned())));
}

#[tokio::test]
async fn without_a_token_file_no_token_is_sent() {
    let root = any_root();
    let server = serve(&root, "Bearer any").await;
    let client = client(&server, &root.bundle().to_pem(), None);
    failure(&client).await;
    assert_eq!(server.istiod.0.seen.borrow().first().unwrap().token, None);
}

#[tokio::test]
async fn no_token_is_sent_in_clear_text() {
    let root = any_root();
    let server = serve(&root, "Bearer secret").await;
    let address = format!("http://{}", server.address);
    let client = client_of(address.clone(), &root.bundle().to_pem(), Some("secret"));
    let said = failure(&client).await;
    assert_eq!(
        said,
        format!("certificate service cannot be asked: address `{address}` is not https")
    );
}

#[tokio::test]
async fn a_root_that_is_rotated_in_its_file_is_taken_up_without_restart() {
    let (old, new) = (any_root(), any_root());
    let server = serve(&new, "Bearer secret").await;
    let client = client(&server, &old.bundle().to_pem(), Some("secret"));
    let said = failure(&client).await;
    assert!(said.contains("UnknownIssuer"), "{said}");
    assert_eq!(server.istiod.0.seen.borrow().len(), 0);
    std::fs::write(client.dir.path().join("root-cert.pem"), new.bundle().to_pem()).unwrap();
    client.identities.svid(&web()).await.unwrap();
}

#[tokio::test]
async fn a_root_file_that_is_missing_or_rubbish_is_named() {
    let root = any_root();
    let server = serve(&root, "Bearer secret").await;
    let rubbish = client(&server, "rubbish", Some("secret"));
    let said = failure(&rubbish).await;
    assert!(said.contains("root-cert.pem are not usable: trust bundle cannot be read"), "{said}");
    let missing = client(&server, "", Some("secret"));
    std::fs::remove_file(missing.dir.path().join("root-cert.pem")).unwrap();
    let said = failure(&missing).await;
    assert!(said.contains("cannot be read from"), "{said}");
    assert!(said.contains("No such file"), "{said}");
}

#[tokio::test]
async fn a_service_that_dies_and_comes_back_is_asked_again() {
    let root = any_root();
    let mut server = serve(&root, "Bearer secret").await;
    let client = client(&server, &root.bundle().to_pem(), Some("secret"));
    client.identities.svid(&web()).await.unwrap();
    server.tasks.shutdown().await;
    let mut slot = client.identities.watch(&numbered(1));
    let failed = slot.wait_for(|s| s.failure().is_some());
    timeout(Duration::from_secs(20), failed).await.unwrap().unwrap();
    let listener = TcpListener::bind(server.address).await.unwrap();
    server.tasks.spawn(accept(listener, tls(&root), server.istiod.clone()));
    client.identities.svid(&numbered(1)).await.unwrap();
}
