//! The server's half of a tunnel.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use h2::server::{Connection, SendResponse};
use http::{HeaderValue, Response, StatusCode};
use rustls::{ServerConfig, pki_types::CertificateDer, server::Acceptor};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};
use weft_model::Workload;
use ztunnel_core::{Failure, Refusal};

pub use super::guard::Unread;
use super::{
    Held, InTunnel, RESETS_REMEMBERED, Settings,
    ahead::ReadAhead,
    bytes,
    guard::{Guarded, Refused},
    head::{self, ConnectHead},
    keepalive,
    window::{Open, Window},
};
use crate::{causes::chain, config::Timeouts};

/// Why a caller got no tunnel.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("the TLS handshake failed")]
    Tls(#[source] io::Error),
    #[error("no ClientHello came within {after:?}")]
    HelloTimeout { after: Duration },
    #[error("the TLS handshake took longer than {after:?}")]
    TlsTimeout { after: Duration },
    #[error("the HTTP/2 preface took longer than {after:?}")]
    PrefaceTimeout { after: Duration },
    #[error("no CONNECT came within {after:?}")]
    HeadersTimeout { after: Duration },
    #[error("the HTTP/2 connection failed")]
    Http2(#[source] h2::Error),
    #[error("the peer does not answer pings")]
    Dead,
}

/// Whose doing the end of a tunnel is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blame {
    /// It broke the protocol or asked for too much, and was cut: somebody should look at it.
    Peer,
    /// Peers and ways to them come and go.
    Network,
}

impl ServerError {
    pub fn blame(&self) -> Blame {
        match self {
            Self::Tls(_)
            | Self::HelloTimeout { .. }
            | Self::TlsTimeout { .. }
            | Self::PrefaceTimeout { .. }
            | Self::HeadersTimeout { .. } => Blame::Peer,
            // What the guard refused comes as an I/O error of this kind.
            Self::Http2(error)
                if error.is_library()
                    || error.get_io().is_some_and(|e| e.kind() == io::ErrorKind::InvalidData) =>
            {
                Blame::Peer
            }
            Self::Http2(_) | Self::Dead => Blame::Network,
        }
    }

    /// As the judgement sees it.
    pub fn failure(&self, from: SocketAddr) -> Failure {
        let error = chain(self);
        match self {
            Self::Tls(_) | Self::HelloTimeout { .. } | Self::TlsTimeout { .. } => {
                Failure::Handshake { to: from, error }
            }
            Self::PrefaceTimeout { .. }
            | Self::HeadersTimeout { .. }
            | Self::Http2(_)
            | Self::Dead => Failure::H2 { to: from, error },
        }
    }
}

/// A caller whose certificate was verified, before its first request.
#[derive(Debug)]
pub struct Handshaken<IO> {
    stream: TlsStream<ReadAhead<IO>>,
}

/// Does the TLS handshake, within the deadlines: a peer that says nothing is given less time than one that does.
pub async fn handshake<IO>(
    io: IO,
    tls: Arc<ServerConfig>,
    timeouts: &Timeouts,
) -> Result<Handshaken<IO>, ServerError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let hello = LazyConfigAcceptor::new(Acceptor::default(), ReadAhead::new(io));
    let hello = timeout(timeouts.client_hello, hello);
    let whole = async {
        let start = hello
            .await
            .map_err(|_| ServerError::HelloTimeout { after: timeouts.client_hello })?
            .map_err(ServerError::Tls)?;
        start.into_stream(tls).await.map_err(ServerError::Tls)
    };
    let after = timeouts.handshake;
    let stream = timeout(after, whole).await.map_err(|_| ServerError::TlsTimeout { after })??;
    Ok(Handshaken { stream })
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Handshaken<IO> {
    /// The caller's certificates, leaf first; verified.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        self.stream.get_ref().1.peer_certificates().unwrap_or_default()
    }

    /// Waits for the HTTP/2 preface, within the deadline.
    pub async fn http2(self, settings: &Settings) -> Result<Server<IO>, ServerError> {
        let after = settings.timeouts.preface;
        let guarded = Guarded::with_preface(self.stream, settings.timeouts.connect_head);
        let refused = guarded.refused();
        let mut connection = timeout(after, builder(settings).handshake::<_, Bytes>(guarded))
            .await
            .map_err(|_| ServerError::PrefaceTimeout { after })?
            .map_err(ServerError::Http2)?;
        let (pings, h2) = (connection.ping_pong(), settings.h2.clone());
        let unanswered = Box::pin(async move { keepalive::unanswered(pings, &h2).await });
        let window = Window::new(settings.connection_window(), settings.stream_window());
        Ok(Server { connection, unanswered, window, refused, draining: false })
    }
}

fn builder(settings: &Settings) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(settings.stream_window())
        .initial_connection_window_size(settings.connection_window())
        .max_frame_size(settings.frame())
        .max_header_list_size(bytes(settings.h2.server_header_list))
        .max_send_buffer_size(bytes(settings.h2.send_buffer) as usize)
        .max_concurrent_reset_streams(RESETS_REMEMBERED)
        .max_concurrent_streams(settings.h2.server_streams);
    builder
}

/// A tunnel that takes requests.
pub struct Server<IO> {
    connection: Connection<Guarded<TlsStream<ReadAhead<IO>>>, Bytes>,
    unanswered: Pin<Box<dyn Future<Output = ()>>>,
    window: Window,
    refused: Refused,
    draining: bool,
}

impl<IO> std::fmt::Debug for Server<IO> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("draining", &self.draining).finish_non_exhaustive()
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Server<IO> {
    /// The next request; `None` when the tunnel has ended. Must be polled for the tunnel to move at all, also
    /// while requests are being served. Ready with an error when the peer is dead or misbehaves.
    pub fn poll_request(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Incoming, ServerError>>> {
        // The connection first: a ping's answer may be among the bytes that have arrived.
        match self.connection.poll_accept(cx) {
            Poll::Ready(Some(Ok((request, respond)))) => {
                let (head, open) = (ConnectHead::parse(&request), self.window.opened());
                if let Some(size) = self.window.grown() {
                    self.connection.set_target_window_size(size);
                }
                let body = request.into_body();
                let refused = self.refused.clone();
                return Poll::Ready(Some(Ok(Incoming { head, body, respond, open, refused })));
            }
            Poll::Ready(Some(Err(error))) => {
                return Poll::Ready(Some(Err(ServerError::Http2(error))));
            }
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => {}
        }
        self.unanswered.as_mut().poll(cx).map(|()| Some(Err(ServerError::Dead)))
    }

    /// Requests that nobody was handed: each was refused for its head, or for `h2.server_streams`.
    pub fn unread(&self) -> Unread {
        self.refused.unread()
    }

    /// Takes no more requests and tells the peer (GOAWAY); those being served go on.
    pub fn drain(&mut self) {
        if !std::mem::replace(&mut self.draining, true) {
            self.connection.graceful_shutdown();
        }
    }
}

/// One request, not yet answered. Dropping it resets the stream.
#[derive(Debug)]
pub struct Incoming {
    head: Result<ConnectHead, Refusal>,
    body: h2::RecvStream,
    respond: SendResponse<Bytes>,
    open: Open,
    refused: Refused,
}

impl Incoming {
    pub fn head(&self) -> Result<&ConnectHead, &Refusal> {
        self.head.as_ref()
    }

    /// Answers 200 and becomes a stream. `about` is the workload that was reached.
    pub fn accept<L: Held>(mut self, about: &Workload, held: L) -> Result<InTunnel<L>, h2::Error> {
        let mut answer = Response::new(());
        *answer.status_mut() = StatusCode::OK;
        if let Ok(baggage) = HeaderValue::try_from(head::baggage(about)) {
            answer.headers_mut().insert("baggage", baggage);
        }
        let send = self.respond.send_response(answer, false)?;
        Ok(InTunnel::new(send, self.body, held, self.open))
    }

    /// Answers with an empty body.
    pub fn refuse(mut self, status: StatusCode) {
        let mut answer = Response::new(());
        *answer.status_mut() = status;
        self.refused.ours();
        // The peer may have reset the stream already; then there is nobody to tell.
        if let Err(error) = self.respond.send_response(answer, true) {
            tracing::debug!(%error, "a refusal was not delivered");
        }
    }
}
