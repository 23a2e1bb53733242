//! The client's half of a tunnel.

use std::{
    cell::RefCell, future::Future, io, net::SocketAddr, pin::pin, rc::Rc, sync::Arc, time::Duration,
};

use bytes::Bytes;
use h2::client::{Connection, SendRequest};
use http::StatusCode;
use rustls::ClientConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Notify,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use weft_model::Identity;
use ztunnel_core::{Authority, Failure};

use super::{
    Held, InTunnel, RESETS_REMEMBERED, Settings,
    ahead::ReadAhead,
    bytes,
    guard::Guarded,
    head::{self, Introduction},
    keepalive,
    window::Window,
};
use crate::causes::chain;

/// Why no tunnel or no stream in it came about.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("the TLS handshake failed")]
    Tls(#[source] io::Error),
    #[error("the TLS handshake took longer than {after:?}")]
    TlsTimeout { after: Duration },
    #[error("the peer's certificate says not who it is")]
    Peer(#[source] weft_certs::VerifyError),
    #[error("the HTTP/2 connection failed")]
    Http2(#[source] h2::Error),
    #[error("CONNECT could not be built")]
    Head(#[source] http::Error),
    #[error("the peer answered CONNECT {authority} with {status}")]
    Refused { authority: Authority, status: StatusCode },
    #[error("the peer did not answer CONNECT within {after:?}")]
    AnswerTimeout { after: Duration },
}

impl ClientError {
    /// As the judgement sees it.
    pub fn failure(&self, to: SocketAddr) -> Failure {
        let error = chain(self);
        match self {
            Self::Tls(_) | Self::Peer(_) => Failure::Handshake { to, error },
            Self::Http2(_) | Self::Head(_) => Failure::H2 { to, error },
            Self::Refused { status, .. } => Failure::TunnelRefused { to, status: status.as_u16() },
            Self::TlsTimeout { after } | Self::AnswerTimeout { after } => Failure::ConnectTimeout {
                to,
                after_ms: u64::try_from(after.as_millis()).unwrap_or(u64::MAX),
            },
        }
    }
}

/// Opens streams in one tunnel. Cheap to clone; the tunnel ends when the last clone and the last stream are gone.
#[derive(Clone, Debug)]
pub struct Client {
    requests: SendRequest<Bytes>,
    /// One allocation a tunnel, by which it is told from others.
    peer: Rc<Identity>,
    streams: Rc<Streams>,
}

/// What those who open streams tell the driver.
#[derive(Debug)]
struct Streams {
    window: RefCell<Window>,
    grow: Notify,
}

/// Makes a tunnel over `io`. The returned future drives it and must be polled until it completes, which it does
/// when the tunnel has ended.
pub async fn open<IO>(
    io: IO,
    tls: Arc<ClientConfig>,
    settings: Settings,
) -> Result<(Client, impl Future<Output = ()>), ClientError>
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let after = settings.timeouts.handshake;
    let stream = timeout(
        after,
        TlsConnector::from(tls).connect(weft_certs::server_name(), ReadAhead::new(io)),
    )
    .await
    .map_err(|_| ClientError::TlsTimeout { after })?
    .map_err(ClientError::Tls)?;
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let peer = weft_certs::peer_identity(certificates).map_err(ClientError::Peer)?;
    let guarded = Guarded::new(stream, settings.timeouts.connect_head);
    let (requests, connection) =
        builder(&settings).handshake::<_, Bytes>(guarded).await.map_err(ClientError::Http2)?;
    let window = Window::new(settings.connection_window(), settings.stream_window());
    let streams = Rc::new(Streams { window: window.into(), grow: Notify::new() });
    let driver = drive(connection, streams.clone(), settings);
    Ok((Client { requests, peer: Rc::new(peer), streams }, driver))
}

fn builder(settings: &Settings) -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(settings.stream_window())
        .initial_connection_window_size(settings.connection_window())
        .max_frame_size(settings.frame())
        .max_header_list_size(bytes(settings.h2.client_header_list))
        .max_send_buffer_size(settings.stream_window() as usize)
        .initial_max_send_streams(settings.h2.client_streams as usize)
        .max_concurrent_reset_streams(RESETS_REMEMBERED)
        .enable_push(false);
    builder
}

#[expect(clippy::manual_async_fn, reason = "an async fn would hold the connection twice")]
fn drive<IO>(
    mut connection: Connection<Guarded<TlsStream<ReadAhead<IO>>>, Bytes>,
    streams: Rc<Streams>,
    settings: Settings,
) -> impl Future<Output = ()>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    async move {
        let pings = connection.ping_pong();
        let mut unanswered = pin!(keepalive::unanswered(pings, &settings.h2));
        loop {
            tokio::select! {
                // Biased: a connection that has ended needs neither window nor ping.
                biased;
                ended = &mut connection => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "tunnel ended");
                    }
                    return;
                }
                () = streams.grow.notified() => {
                    if let Some(size) = streams.window.borrow_mut().grown() {
                        connection.set_target_window_size(size);
                    }
                }
                () = &mut unanswered => {
                    tracing::info!("tunnel closed: the peer does not answer pings");
                    return;
                }
            }
        }
    }
}

impl Client {
    /// Whether the tunnel takes new streams, as far as is known without waiting.
    pub fn is_open(&mut self) -> bool {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        // Pending means that the peer's limit is reached: open, only full.
        !matches!(self.requests.poll_ready(&mut cx), std::task::Poll::Ready(Err(_)))
    }

    /// Whether both open streams in one tunnel.
    pub fn is_same(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.peer, &other.peer)
    }

    /// Whom the peer proved to be.
    pub fn peer(&self) -> &Identity {
        &self.peer
    }

    /// Streams that the peer allows at once.
    pub fn streams_max(&self) -> usize {
        self.requests.current_max_send_streams()
    }

    /// Opens a stream: sends CONNECT and waits for the answer. `held` lives as long as the stream.
    /// Cancel safe: dropping it resets the stream.
    pub async fn connect<L: Held>(
        &self,
        authority: &Authority,
        about: &Introduction<'_>,
        within: Duration,
        held: L,
    ) -> Result<InTunnel<L>, ClientError> {
        let request = head::request(authority, about).map_err(ClientError::Head)?;
        let open = self.streams.window.borrow().opened();
        self.streams.grow.notify_one();
        let answered = timeout(within, self.answer(request)).await;
        let (send, answer) = answered
            .map_err(|_| ClientError::AnswerTimeout { after: within })?
            .map_err(ClientError::Http2)?;
        if answer.status() != StatusCode::OK {
            let (authority, status) = (authority.clone(), answer.status());
            return Err(ClientError::Refused { authority, status });
        }
        Ok(InTunnel::new(send, answer.into_body(), held, open))
    }

    async fn answer(
        &self,
        request: http::Request<()>,
    ) -> Result<(h2::SendStream<Bytes>, http::Response<h2::RecvStream>), h2::Error> {
        let mut requests = self.requests.clone().ready().await?;
        let (answer, send) = requests.send_request(request, false)?;
        Ok((send, answer.await?))
    }
}
