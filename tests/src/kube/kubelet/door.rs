//! What a kubelet serves to the API server: a port of a pod, or a command in one of its containers.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr, TcpListener as Listener},
    sync::{Arc, Mutex, PoisonError, mpsc::Sender},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use http::{
    HeaderValue, Request, Response, StatusCode,
    header::{CONNECTION, SEC_WEBSOCKET_PROTOCOL, UPGRADE},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use rustls::{ServerConfig, crypto::aws_lc_rs, pki_types::PrivateKeyDer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinSet,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{handshake::server::create_response_with_body, protocol::Role},
};

use super::{
    Ask, exec, forward, spdy,
    worker::{Order, Places, lock},
};

/// After an accept that failed.
const PAUSE: Duration = Duration::from_millis(50);

/// Where the API server knocks.
#[derive(Debug)]
pub(super) struct Door(Listener);

/// The pods behind it.
#[derive(Debug, Clone)]
pub(super) struct Pods {
    pub(super) places: Arc<Places>,
    pub(super) asks: Sender<Ask>,
}

/// What goes on by a connection that was upgraded.
enum Work {
    Forward(forward::Ask),
    Exec(exec::Program),
    ExecOverSpdy(exec::Program),
}

impl Door {
    /// On this machine's loopback, where the API server is.
    pub(super) fn open() -> Result<Self> {
        let listener =
            Listener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen for the API server")?;
        listener.set_nonblocking(true)?;
        Ok(Self(listener))
    }

    pub(super) fn address(&self) -> Result<SocketAddr> {
        self.0.local_addr().context("find the kubelet's own address")
    }

    /// Never ends.
    pub(super) async fn serve(self, pods: Pods) {
        let listener = TcpListener::from_std(self.0).expect("it does not block");
        let acceptor = acceptor().expect("a certificate of its own needs only random numbers");
        let mut open = JoinSet::new();
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            while open.try_join_next().is_some() {}
            let (acceptor, pods) = (acceptor.clone(), pods.clone());
            // How it ends is told at its other end.
            open.spawn(async move { serve(acceptor.accept(stream).await?, &pods).await });
        }
    }
}

/// The API server of the tests does not ask who a kubelet is.
fn acceptor() -> Result<TlsAcceptor> {
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()])?.self_signed(&key)?;
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let config = config.with_safe_default_protocol_versions()?.with_no_client_auth();
    let config = config.with_single_cert(vec![certificate.der().clone()], key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn serve(stream: TlsStream<TcpStream>, pods: &Pods) -> Result<()> {
    let agreed: Mutex<Option<(OnUpgrade, Work)>> = Mutex::new(None);
    let answer = service_fn(|mut request: Request<Incoming>| {
        let (upgrade, agreed) = (hyper::upgrade::on(&mut request), &agreed);
        async move {
            Ok::<_, Infallible>(match agree(&request, pods).await {
                Ok((response, work)) => {
                    *agreed.lock().unwrap_or_else(PoisonError::into_inner) = Some((upgrade, work));
                    response
                }
                // As the kubelet does, whatever it was: the words are for users.
                Err(error) => refusal(&error),
            })
        }
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
    connection.with_upgrades().await?;
    let agreed = agreed.into_inner().unwrap_or_else(PoisonError::into_inner);
    let Some((upgrade, work)) = agreed else { return Ok(()) };
    let stream = TokioIo::new(upgrade.await?);
    let socket = async |stream| WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
    match work {
        Work::Forward(ask) => forward::serve(socket(stream).await, &pods.places, ask).await,
        Work::Exec(program) => exec::serve(socket(stream).await, program).await,
        Work::ExecOverSpdy(program) => spdy::serve(stream, program).await,
    }
}

fn refusal(error: &anyhow::Error) -> Response<String> {
    let mut response = Response::new(format!("{error:#}"));
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}

async fn agree(request: &Request<Incoming>, pods: &Pods) -> Result<(Response<String>, Work)> {
    let is_spdy = request.headers().get(UPGRADE).is_some_and(|it| it == spdy::UPGRADE);
    match request.uri().path().split('/').nth(1) {
        Some("portForward") => {
            let ask = forward::asked_for(request.uri())?;
            Ok((websocket(request, forward::PROTOCOLS)?, Work::Forward(ask)))
        }
        Some("exec") if is_spdy => {
            let program = pods.start(exec::asked_for(request.uri())?).await?;
            Ok((spdy()?, Work::ExecOverSpdy(program)))
        }
        Some("exec") => {
            let ask = exec::asked_for(request.uri())?;
            let response = websocket(request, exec::PROTOCOLS)?;
            Ok((response, Work::Exec(pods.start(ask).await?)))
        }
        _ => anyhow::bail!("{} is not served", request.uri().path()),
    }
}

fn websocket(request: &Request<Incoming>, spoken: &[&str]) -> Result<Response<String>> {
    let offered = request.headers().get(SEC_WEBSOCKET_PROTOCOL).context("no WebSocket")?;
    let offered = offered.to_str().context("read the protocols that are offered")?;
    let protocol = offered.split(", ").find(|it| spoken.contains(it));
    let protocol = protocol.with_context(|| format!("none of {offered} is spoken here"))?;
    let mut response = create_response_with_body(request, String::new)?;
    response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_str(protocol)?);
    Ok(response)
}

fn spdy() -> Result<Response<String>> {
    let response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, spdy::UPGRADE)
        .header("X-Stream-Protocol-Version", spdy::PROTOCOL);
    Ok(response.body(String::new())?)
}

impl Pods {
    async fn start(&self, ask: exec::Ask) -> Result<exec::Program> {
        let sandbox = lock(&self.places).get(&ask.key).cloned();
        let sandbox = sandbox.with_context(|| format!("no pod {} is here", ask.key.1))?;
        let (answer, found) = oneshot::channel();
        let order = Order::Find(ask.container.clone(), answer);
        ensure!(self.asks.send((ask.key.clone(), order)).is_ok(), "the kubelet has ended");
        let process = found.await.context("the pod has ended")??;
        exec::Program::start(ask, &sandbox, process)
    }
}
