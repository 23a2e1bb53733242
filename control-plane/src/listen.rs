//! The TLS listener of nodes, with a certificate from our own root that is renewed in time.

use std::{convert::Infallible, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time,
};
use tokio_rustls::TlsAcceptor;
use tonic::{Status, body::Body, transport::server::TcpConnectInfo};
use tower::Service;
use tracing::{debug, info, warn};
use weft_certs::{Authority, IssueError};
use weft_xds::proto::{
    auth::istio_certificate_service_server::{
        self as certificate_server, IstioCertificateServiceServer,
    },
    discovery::aggregated_discovery_service_server::{
        self as discovery_server, AggregatedDiscoveryServiceServer,
    },
};

use crate::{ca::Certificates, clock, serve::Discovery, stop::Stop};

const CERTIFICATE_TTL: Duration = Duration::from_hours(24);
const RENEW_AFTER: Duration = Duration::from_hours(8);
const RETRY_AFTER: Duration = Duration::from_mins(1);
/// From SYN to the end of the handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// More wait in the backlog.
const CONNECTIONS_MAX: usize = 4096;
const STREAMS_MAX: u32 = 64;
const HEAD_BYTES_MAX: u32 = 16 * 1024;
/// A node that is gone without a word is found out.
const PING_AFTER: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// After an error of accept, most likely too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    #[error("cannot issue the listener's certificate")]
    Issue(#[from] IssueError),
    #[error("cannot use the listener's certificate")]
    Pem(#[from] rustls_pki_types::pem::Error),
    #[error("cannot use the listener's certificate")]
    Tls(#[from] rustls::Error),
}

/// The certificate in force.
pub(crate) struct Certificate {
    authority: Arc<Authority>,
    names: Vec<String>,
    config: ArcSwap<ServerConfig>,
}

impl Certificate {
    pub(crate) fn new(authority: Arc<Authority>, names: Vec<String>) -> Result<Self, ListenError> {
        let config = ArcSwap::from(issue(&authority, &names)?);
        Ok(Self { authority, names, config })
    }

    /// Renews it again and again; never ends.
    pub(crate) async fn keep(&self) {
        let mut after = RENEW_AFTER;
        loop {
            time::sleep(after).await;
            after = match issue(&self.authority, &self.names) {
                Ok(config) => {
                    self.config.store(config);
                    info!("listener's certificate renewed");
                    RENEW_AFTER
                }
                Err(error) => {
                    warn!(error = %error, "listener's certificate not renewed");
                    RETRY_AFTER
                }
            };
        }
    }
}

fn issue(authority: &Authority, names: &[String]) -> Result<Arc<ServerConfig>, ListenError> {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let issued = authority.issue_server(&names, CERTIFICATE_TTL, clock::now())?;
    let chain = CertificateDer::pem_slice_iter(issued.certificate.as_bytes())
        .collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(issued.key.to_pem().as_bytes())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// The names that the listener is reached by.
pub(crate) fn server_names(listen: SocketAddr, given: &[String]) -> Vec<String> {
    let mut names = given.to_vec();
    let address = listen.ip();
    if !address.is_unspecified() {
        names.push(address.to_string());
    }
    if address.is_unspecified() || address.is_loopback() {
        names.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
    }
    names.sort();
    names.dedup();
    names
}

/// Accepts and serves until told to stop; then connections may end.
pub(crate) async fn serve(
    listener: TcpListener,
    certificate: Arc<Certificate>,
    routes: Routes,
    mut stop: Stop,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            // Biased: a stop wins, and ended connections are reaped before more are taken.
            biased;
            () = stop.stopped() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, peer)) => {
                    let acceptor = TlsAcceptor::from(certificate.config.load_full());
                    connections.spawn(connection(acceptor, stream, peer, routes.clone(), stop.clone()));
                }
                Err(error) => {
                    warn!(error = %error, "cannot accept");
                    time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    while connections.join_next().await.is_some() {}
}

async fn connection(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    peer: SocketAddr,
    routes: Routes,
    mut stop: Stop,
) {
    stream.set_nodelay(true).ok();
    let stream = match time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return debug!(%peer, error = %error, "no handshake"),
        Err(_) => return debug!(%peer, "no handshake in time"),
    };
    let service = service_fn(move |request| routes.clone().answer(request, peer));
    let mut connection = pin!(
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_AFTER)
            .keep_alive_timeout(PING_TIMEOUT)
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service)
    );
    let ended = tokio::select! {
        // Biased: a stop must win over requests that never end.
        biased;
        () = stop.stopped() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        ended = &mut connection => ended,
    };
    if let Err(error) = ended {
        debug!(%peer, error = %error, "connection failed");
    }
}

/// The two services, by path. tonic's own router would bring a web framework along.
#[derive(Debug, Clone)]
pub(crate) struct Routes {
    pub(crate) discovery: AggregatedDiscoveryServiceServer<Discovery>,
    pub(crate) certificates: IstioCertificateServiceServer<Certificates>,
}

impl Routes {
    async fn answer(
        mut self,
        mut request: Request<Incoming>,
        peer: SocketAddr,
    ) -> Result<Response<Body>, Infallible> {
        let from = TcpConnectInfo { local_addr: None, remote_addr: Some(peer) };
        request.extensions_mut().insert(from);
        let service = request.uri().path().rsplit_once('/').map(|(service, _)| service);
        match service.and_then(|service| service.strip_prefix('/')) {
            Some(discovery_server::SERVICE_NAME) => self.discovery.call(request).await,
            Some(certificate_server::SERVICE_NAME) => self.certificates.call(request).await,
            Some(_) | None => Ok(Status::unimplemented("no such service").into_http()),
        }
    }
}
