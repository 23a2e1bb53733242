//! What a kubelet serves to the API server: the ports of its pods, each over a WebSocket of its own.
//!
//! Every message begins with its channel: 0 has the bytes of the port, 1 what is wrong with it. The first of each
//! names the port.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener as Listener, TcpStream as Stream},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use futures_util::{SinkExt, StreamExt};
use http::{HeaderValue, Uri, header::SEC_WEBSOCKET_PROTOCOL};
use rcgen::{CertificateParams, KeyPair};
use rustls::{ServerConfig, crypto::aws_lc_rs, pki_types::PrivateKeyDer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{ErrorResponse, Request, Response},
    },
};

use super::worker::{Key, Places, lock};

const PROTOCOL: &str = "v4.channel.k8s.io";
const BYTES: u8 = 0;
const TROUBLE: u8 = 1;
/// After an accept that failed.
const PAUSE: Duration = Duration::from_millis(50);

/// Where the API server knocks.
#[derive(Debug)]
pub(super) struct Door(Listener);

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
    pub(super) async fn serve(self, places: Arc<Places>) {
        let listener = TcpListener::from_std(self.0).expect("it does not block");
        let acceptor = acceptor().expect("a certificate of its own needs only random numbers");
        let mut open = JoinSet::new();
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            while open.try_join_next().is_some() {}
            let (acceptor, places) = (acceptor.clone(), places.clone());
            // How it ends is told at its other end.
            open.spawn(async move { forward(acceptor.accept(stream).await?, &places).await });
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

async fn forward(stream: TlsStream<TcpStream>, places: &Places) -> Result<()> {
    let mut asked = None;
    #[expect(clippy::result_large_err, reason = "the library says so")]
    let agree = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
        asked = asked_for(request.uri());
        let protocol = HeaderValue::from_static(PROTOCOL);
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, protocol);
        Ok(response)
    };
    let mut socket = accept_hdr_async(stream, agree).await?;
    let (key, port) = asked.context("no path of ours")?;
    for channel in [BYTES, TROUBLE] {
        let [low, high] = port.to_le_bytes();
        socket.send(Message::binary(vec![channel, low, high])).await?;
    }
    match reach(places, key, port).await {
        Ok(pod) => carry(socket, pod).await,
        Err(error) => {
            let told = [&[TROUBLE][..], format!("{error:#}").as_bytes()].concat();
            socket.send(Message::binary(told)).await?;
            Ok(socket.close(None).await?)
        }
    }
}

/// From `/portForward/<namespace>/<pod>?port=<port>`.
fn asked_for(uri: &Uri) -> Option<(Key, u16)> {
    let (namespace, pod) = uri.path().strip_prefix("/portForward/")?.split_once('/')?;
    let port = uri.query()?.split('&').find_map(|it| it.strip_prefix("port="))?;
    Some(((namespace.to_owned(), pod.to_owned()), port.parse().ok()?))
}

async fn reach(places: &Places, key: Key, port: u16) -> Result<TcpStream> {
    let sandbox = lock(places).get(&key).cloned();
    let sandbox = sandbox.with_context(|| format!("no pod {}/{} is here", key.0, key.1))?;
    let connect = move || Stream::connect((Ipv4Addr::LOCALHOST, port));
    let connected = tokio::task::spawn_blocking(move || sandbox.namespace().enter(connect));
    let stream = connected.await??.with_context(|| format!("connect to port {port}"))?;
    stream.set_nonblocking(true)?;
    Ok(TcpStream::from_std(stream)?)
}

async fn carry(
    mut socket: WebSocketStream<TlsStream<TcpStream>>,
    mut pod: TcpStream,
) -> Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        // Fair: neither direction may starve the other.
        tokio::select! {
            message = socket.next() => match message {
                Some(Ok(Message::Binary(bytes))) => {
                    if let Some((&BYTES, bytes)) = bytes.split_first() {
                        pod.write_all(bytes).await?;
                    }
                }
                Some(Ok(Message::Close(_))) | None => return Ok(()),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
            },
            read = pod.read(&mut buffer) => {
                let read = read?;
                if read == 0 {
                    return Ok(socket.close(None).await?);
                }
                let bytes = buffer.get(..read).unwrap_or_default();
                socket.send(Message::binary([&[BYTES][..], bytes].concat())).await?;
            }
        }
    }
}
