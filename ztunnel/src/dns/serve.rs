//! The loop over a pod's DNS sockets.

use std::{
    fmt,
    future::Future,
    io,
    net::{SocketAddr, TcpListener as StdTcpListener, UdpSocket as StdUdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    time::timeout,
};
use weft_model::{Namespace, Network, OriginalDst, View};
use ztunnel_core::names::Asker;

use super::{
    answer::{Decision, Zone, decide, kind},
    datagram::{self, RawReplies, Received},
    forward::{ForwardError, TcpUpstream, Upstreams, over_udp, read_message, write_message},
    wire::{self, Apology},
};
use crate::{
    config::{Dns, Switch},
    descriptors::Descriptors,
    telemetry::{Answered, DnsQuery, DnsTransport, Recorder},
};

/// A connection over TCP that asks nothing for this long is closed (RFC 7766, 6.2.3: a few seconds).
const TCP_IDLE: Duration = Duration::from_secs(10);
/// After an accept that failed for want of descriptors: they come back when something else ends.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The pod whose queries are served.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Client {
    pub namespace: Namespace,
    pub network: Network,
    /// For metrics.
    pub canonical_service: Arc<str>,
    pub canonical_revision: Arc<str>,
}

/// The pod's sockets, listening on the proxy's DNS port in its namespace.
#[derive(Debug, Default)]
pub struct Sockets {
    pub udp: Vec<StdUdpSocket>,
    pub tcp: Vec<StdTcpListener>,
    /// Without them only queries that were sent to our own port can be answered over UDP.
    pub raw: RawReplies,
}

/// What every pod's service has in common.
#[derive(Clone)]
pub struct Service {
    pub config: Dns,
    /// Asked when the resolver that a pod asked cannot be told, as under Istio's own redirect.
    pub fallback: Vec<SocketAddr>,
    pub view: Arc<dyn Fn() -> Arc<View> + Send + Sync>,
    pub recorder: Recorder,
    pub descriptors: Descriptors,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Answers a pod's queries until dropped. Dropping it abandons those that wait.
///
/// Errors: a socket could not be used at all. What goes wrong with one query or connection is that one's end.
pub async fn serve<U: Upstreams>(
    service: Service,
    client: Client,
    sockets: Sockets,
    upstreams: U,
) -> io::Result<()> {
    let raw = sockets.raw;
    let server = Server { service, client, upstreams };
    let mut loops: FuturesUnordered<std::pin::Pin<Box<dyn Future<Output = io::Result<()>> + '_>>> =
        FuturesUnordered::new();
    for socket in sockets.udp {
        socket.set_nonblocking(true)?;
        let socket = UdpSocket::from_std(socket)?;
        datagram::watch_destination(&socket)?;
        loops.push(Box::pin(server.serve_udp(socket, &raw)));
    }
    for listener in sockets.tcp {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        loops.push(Box::pin(server.serve_tcp(listener)));
    }
    while let Some(ended) = loops.next().await {
        ended?;
    }
    Ok(())
}

struct Server<U> {
    service: Service,
    client: Client,
    upstreams: U,
}

impl<U: Upstreams> Server<U> {
    async fn serve_udp(&self, socket: UdpSocket, raw: &RawReplies) -> io::Result<()> {
        let ours = socket.local_addr()?;
        let mut waiting = FuturesUnordered::new();
        loop {
            tokio::select! {
                // Biased: answers that are ready make room for the next query.
                biased;
                Some(()) = waiting.next(), if !waiting.is_empty() => {}
                received = datagram::receive(&socket) => {
                    // An ICMP error about an earlier answer is reported here; the socket is still good.
                    let Ok(received) = received else { continue };
                    let query = self.labels(&received.bytes, DnsTransport::Udp);
                    self.service.recorder.dns_request(&query);
                    match self.decide(&received.bytes, DnsTransport::Udp) {
                        Decision::Drop => {}
                        Decision::Answer(bytes) => reply(&socket, raw, &received, &bytes),
                        Decision::Forward if waiting.len() >= self.service.config.pod_queries => {
                            self.service.recorder.dns_dropped(&query);
                        }
                        Decision::Forward => {
                            waiting.push(self.forward(&socket, raw, ours, received, query));
                        }
                    }
                }
            }
        }
    }

    async fn forward(
        &self,
        socket: &UdpSocket,
        raw: &RawReplies,
        ours: SocketAddr,
        received: Received,
        query: DnsQuery,
    ) {
        let upstreams = self.upstreams_of(received.to, ours);
        let within = self.service.config.timeout;
        let began = Instant::now();
        let answer = over_udp(&self.upstreams, &upstreams, &received.bytes, within).await;
        if let Some(bytes) = self.settle(answer, &received.bytes, &query, began) {
            reply(socket, raw, &received, &bytes);
        }
    }

    /// Counts how a forwarded query went, and turns a failure into what the client is told.
    fn settle(
        &self,
        answer: Result<Vec<u8>, ForwardError>,
        query: &[u8],
        labels: &DnsQuery,
        began: Instant,
    ) -> Option<Vec<u8>> {
        let recorder = &self.service.recorder;
        match answer {
            Ok(bytes) => {
                recorder.dns_forwarded(labels, Answered::Success, began.elapsed());
                Some(bytes)
            }
            Err(error) => {
                recorder.dns_forwarded(labels, Answered::Failure, began.elapsed());
                tracing::debug!(src.namespace = %self.client.namespace, %error, "query not answered");
                wire::apologize(
                    query,
                    match error {
                        ForwardError::NoUpstream => Apology::Refused,
                        ForwardError::Timeout { .. } | ForwardError::Io { .. } => {
                            Apology::ServerFailure
                        }
                    },
                )
            }
        }
    }

    fn decide(&self, query: &[u8], via: DnsTransport) -> Decision {
        let config = &self.service.config;
        if config.proxy == Switch::Off {
            let junk = query.len() < wire::HEADER_BYTES || wire::is_response(query);
            return if junk { Decision::Drop } else { Decision::Forward };
        }
        let asker = Asker { namespace: &self.client.namespace, network: &self.client.network };
        let ttl_s = u32::try_from(config.ttl.as_secs()).unwrap_or(u32::MAX);
        let zone = Zone { cluster_domain: &config.cluster_domain, ttl_s };
        decide(&(self.service.view)(), asker, zone, query, via, rand::random())
    }

    /// Who is asked: those configured, or the one that the pod asked, but never ourselves.
    fn upstreams_of(&self, to: OriginalDst, ours: SocketAddr) -> Vec<SocketAddr> {
        if !self.service.config.upstreams.is_empty() {
            return self.service.config.upstreams.clone();
        }
        // A query that was sent to our own port was not captured; asking there would ask ourselves.
        if to.port() == ours.port() { self.service.fallback.clone() } else { vec![to.0] }
    }

    fn labels(&self, query: &[u8], transport: DnsTransport) -> DnsQuery {
        DnsQuery {
            kind: kind(query),
            transport,
            canonical_service: self.client.canonical_service.clone(),
            canonical_revision: self.client.canonical_revision.clone(),
        }
    }

    async fn serve_tcp(&self, listener: TcpListener) -> io::Result<()> {
        let ours = listener.local_addr()?;
        let mut open = FuturesUnordered::new();
        loop {
            let room = open.len() < self.service.config.pod_queries;
            tokio::select! {
                // Biased: a connection that ends makes room for the next.
                biased;
                Some(()) = open.next(), if !open.is_empty() => {}
                accepted = self.service.descriptors.accept(&listener), if room => match accepted {
                    Ok((stream, _)) => open.push(async move {
                        // A client that goes away, or sends rubbish, ends its own connection only.
                        if let Err(error) = self.connection(stream, ours).await {
                            tracing::debug!(%error, "DNS connection broke");
                        }
                    }),
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a DNS connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
    }

    /// Queries of one connection, one after the other.
    async fn connection(&self, mut stream: TcpStream, ours: SocketAddr) -> io::Result<()> {
        let to = OriginalDst::new(stream.local_addr()?);
        let mut upstream = None;
        loop {
            let read = timeout(TCP_IDLE, read_message(&mut stream));
            let Ok(Some(message)) = read.await.unwrap_or(Ok(None)) else { return Ok(()) };
            let query = self.labels(&message, DnsTransport::Tcp);
            self.service.recorder.dns_request(&query);
            let answer = match self.decide(&message, DnsTransport::Tcp) {
                Decision::Drop => return Ok(()),
                Decision::Answer(bytes) => bytes,
                Decision::Forward => {
                    let began = Instant::now();
                    let upstreams = self.upstreams_of(to, ours);
                    if wire::is_transfer(&message) {
                        return self.transfer(stream, &upstreams, &message).await;
                    }
                    let answer = self.ask_tcp(&mut upstream, &upstreams, &message).await;
                    match self.settle(answer, &message, &query, began) {
                        Some(bytes) => bytes,
                        None => return Ok(()),
                    }
                }
            };
            timeout(TCP_IDLE, write_message(&mut stream, &answer)).await??;
        }
    }

    /// Over the connection that is there, or a new one where the upstream has closed it meanwhile.
    async fn ask_tcp(
        &self,
        upstream: &mut Option<TcpUpstream>,
        upstreams: &[SocketAddr],
        message: &[u8],
    ) -> Result<Vec<u8>, ForwardError> {
        let within = self.service.config.timeout;
        if let Some(mut open) = upstream.take()
            && let Ok(answer) = open.ask(message, within).await
        {
            *upstream = Some(open);
            return Ok(answer);
        }
        let mut fresh = TcpUpstream::connect(&self.upstreams, upstreams, within).await?;
        let answer = fresh.ask(message, within).await?;
        *upstream = Some(fresh);
        Ok(answer)
    }

    async fn transfer(
        &self,
        mut stream: TcpStream,
        upstreams: &[SocketAddr],
        message: &[u8],
    ) -> io::Result<()> {
        let within = self.service.config.timeout;
        let upstream = TcpUpstream::connect(&self.upstreams, upstreams, within)
            .await
            .map_err(io::Error::other)?;
        upstream.join(&mut stream, message).await
    }
}

fn reply(socket: &UdpSocket, raw: &RawReplies, received: &Received, bytes: &[u8]) {
    if let Err(error) = datagram::reply(socket, raw, received.to, received.from, bytes) {
        tracing::debug!(src.addr = %received.from, dst.addr = %received.to, %error, "answer not sent");
    }
}

#[cfg(test)]
mod tests;
