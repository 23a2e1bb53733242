//! The TLS listener of nodes, with a certificate from our own root that is renewed in time.

use std::{convert::Infallible, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time,
};
use tokio_rustls::TlsAcceptor;
use tonic::{Status, body::Body, transport::server::TcpConnectInfo};
use tower::Service;
use tracing::{debug, info, warn};
use weft_certs::{IssueError, LEAF_TTL, NodeLeaf, NodeServerError, node_server_config, peer_node};
use weft_xds::proto::{
    auth::istio_certificate_service_server::{
        self as certificate_server, IstioCertificateServiceServer,
    },
    discovery::aggregated_discovery_service_server::{
        self as discovery_server, AggregatedDiscoveryServiceServer,
    },
};

use crate::{ca::Certificates, clock, serve::Discovery, signing::Signing, stop::Stop};

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
    Server(#[from] NodeServerError),
}

/// The certificate in force.
pub(crate) struct Certificate {
    signing: Signing,
    names: Vec<String>,
    config: ArcSwap<ServerConfig>,
}

impl Certificate {
    pub(crate) fn new(signing: Signing, names: Vec<String>) -> Result<Self, ListenError> {
        let config = ArcSwap::from(issue(&signing, &names)?);
        Ok(Self { signing, names, config })
    }

    /// Renews it again and again, and when the authority changes; never ends.
    pub(crate) async fn keep(&self) {
        let mut after = RENEW_AFTER;
        let mut signing = self.signing.clone();
        loop {
            tokio::select! {
                // Biased: another authority may mean other roots, by which nodes are verified.
                biased;
                () = signing.changed() => {}
                () = time::sleep(after) => {}
            }
            after = match issue(&signing, &self.names) {
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

fn issue(signing: &Signing, names: &[String]) -> Result<Arc<ServerConfig>, ListenError> {
    let authority = signing.newest();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let issued = authority.issue_server(&names, LEAF_TTL, clock::now())?;
    Ok(node_server_config(&issued, authority.bundle(), authority.trust_domain())?)
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
    // Verified in the handshake: this only reads it again.
    let node = stream.get_ref().1.peer_certificates().and_then(|chain| peer_node(chain).ok());
    let service = service_fn(move |request| routes.clone().answer(request, peer, node.clone()));
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
        node: Option<NodeLeaf>,
    ) -> Result<Response<Body>, Infallible> {
        let from = TcpConnectInfo { local_addr: None, remote_addr: Some(peer) };
        request.extensions_mut().insert(from);
        if let Some(node) = node {
            request.extensions_mut().insert(node);
        }
        let service = request.uri().path().rsplit_once('/').map(|(service, _)| service);
        match service.and_then(|service| service.strip_prefix('/')) {
            Some(discovery_server::SERVICE_NAME) => self.discovery.call(request).await,
            Some(certificate_server::SERVICE_NAME) => self.certificates.call(request).await,
            Some(_) | None => Ok(Status::unimplemented("no such service").into_http()),
        }
    }
}
