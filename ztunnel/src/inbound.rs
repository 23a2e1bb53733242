//! A connection to a pod of this node: proved by a certificate in a tunnel, or in the clear.

use std::{
    cell::Cell,
    future::poll_fn,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll},
};

use futures_util::future::LocalBoxFuture;
use http::StatusCode;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    time::{Instant, sleep},
};
use weft_model::{Identity, OriginalDst, PeerAddr};
use ztunnel_core::{
    Arrival, Direction, Failure, Hop, Parties, Permit, Plain as InTheClear, Preamble, Refusal,
    Security, Side, Tunnelled, balance, next_hop, resolve,
};

mod proxy_header;

use crate::{
    causes::chain,
    outcome::{Cut, Record},
    pod::{Pod, Proof},
    relay::{End, Plain, relay},
    socket::{Accepted, Sockets},
    telemetry::TunnelSide,
    tunnel::hbone::{
        InTunnel,
        server::{self, Blame, Incoming, Server, ServerError, Unread},
    },
};

/// Carries one connection that came in the clear.
pub(crate) fn serve_plain<S: Sockets>(
    pod: Rc<Pod<S>>,
    accepted: Accepted<S::Stream>,
) -> impl Future<Output = ()> {
    carry(Box::pin(connect_plain(pod, accepted)))
}

/// A connection whose two ends are there.
struct Connected<C, S: Sockets> {
    record: Record,
    client: C,
    server: Plain<S::Stream>,
    cut: LocalBoxFuture<'static, Cut>,
}

/// Carries what `connecting` connects to its outcome; `None` has come to it already. It comes in a box, which is
/// freed then: to connect takes more memory than carrying does.
async fn carry<C: End, S: Sockets>(
    connecting: Pin<Box<impl Future<Output = Option<Connected<C, S>>>>>,
) {
    let Some(Connected { record, mut client, mut server, cut }) = connecting.await else { return };
    let ending = relay(&mut client, &mut server, &record.carried, cut).await;
    record.finished(ending);
}

async fn connect_plain<S: Sockets>(
    pod: Rc<Pod<S>>,
    accepted: Accepted<S::Stream>,
) -> Option<Connected<Plain<S::Stream>, S>> {
    let Accepted { stream, peer, to } = accepted;
    let client = Plain::new(stream);
    let arrival = Arrival::from(InTheClear { target: pod.name.clone(), from: peer, dst: to });
    let mut record = Record::new(pod.shared.outcomes.clone(), Parties::arriving(&arrival));
    let permit = match admit(&pod, &arrival, &mut record).await {
        Ok(permit) => permit,
        Err(refusal) => {
            record.refused(refusal);
            return None;
        }
    };
    match deliver(&pod, &permit).await {
        Ok(server) => {
            record.carrying(pod.uid.0.clone(), to.0);
            Some(Connected { record, client, server, cut: pod.shared.cut(&permit) })
        }
        Err(failure) => {
            record.failed(failure);
            None
        }
    }
}

/// Serves one tunnel until it ends. `proof` is set once the caller has shown a certificate.
pub(crate) async fn serve_tunnel<S: Sockets>(
    pod: Rc<Pod<S>>,
    accepted: Accepted<S::Stream>,
    proof: &Cell<Proof>,
) {
    let (from, local) = (accepted.peer, accepted.to);
    // Boxed, and freed when it is done: a handshake takes more memory than the tunnel that it makes.
    match Box::pin(greet(&pod, accepted, proof)).await {
        Ok((server, peer)) => requests(&pod, server, &Rc::new(Caller { peer, from, local })).await,
        Err(failure) => {
            let parties = parties(None, from, local, Security::Plaintext);
            Record::new(pod.shared.outcomes.clone(), parties).failed(failure);
        }
    }
}

/// Who called, and where.
struct Caller {
    peer: Identity,
    from: PeerAddr,
    local: OriginalDst,
}

impl Caller {
    fn parties(&self, security: Security) -> Parties {
        parties(Some(self.peer.clone()), self.from, self.local, security)
    }
}

/// What is known of a caller that asked for nothing that makes sense.
fn parties(
    identity: Option<Identity>,
    from: PeerAddr,
    local: OriginalDst,
    security: Security,
) -> Parties {
    Parties {
        direction: Direction::Inbound,
        source: Side { address: Some(from.0), workload: None, identity },
        destination: Side { address: Some(local.0), workload: None, identity: None },
        service: None,
        hbone: Some(local.0),
        security,
    }
}

async fn greet<S: Sockets>(
    pod: &Pod<S>,
    accepted: Accepted<S::Stream>,
    proof: &Cell<Proof>,
) -> Result<(Box<Server<S::Stream>>, Identity), Failure> {
    let from = accepted.peer.0;
    let identity = pod.identity().await?;
    let tls = pod.shared.server_config(&identity).await?;
    let settings = &pod.shared.settings;
    let began = Instant::now();
    let caller = server::handshake(accepted.stream, tls, &settings.timeouts)
        .await
        .map_err(|error| error.failure(from))?;
    let peer = weft_certs::peer_identity(caller.certificates())
        .map_err(|error| Failure::Handshake { to: from, error: chain(&error) })?;
    proof.set(Proof::Given);
    let server = caller.http2(settings).await.map_err(|error| error.failure(from))?;
    pod.shared.outcomes.handshake(TunnelSide::Server, began.elapsed());
    Ok((Box::new(server), peer))
}

/// Takes requests until the tunnel ends or drains; each is served on its own.
async fn requests<S: Sockets>(
    pod: &Rc<Pod<S>>,
    mut server: Box<Server<S::Stream>>,
    caller: &Rc<Caller>,
) {
    let after = pod.shared.settings.timeouts.connect_head;
    let mut quiet = pin!(sleep(after));
    let mut draining = pin!(pod.draining());
    let mut state = Requests::None;
    let mut unread = Unread::default();
    loop {
        let request = tokio::select! {
            // Biased: no request may be taken once the peer is to be told that none will be.
            biased;
            () = &mut draining, if state != Requests::Draining => {
                state = Requests::Draining;
                server.drain();
                continue;
            }
            request = poll_fn(|cx| poll_request(&mut server, caller, &mut unread, cx)) => request,
            () = &mut quiet, if state == Requests::None => {
                Some(Err(ServerError::HeadersTimeout { after }))
            }
        };
        match request {
            Some(Ok(incoming)) => {
                if state == Requests::None {
                    state = Requests::Some;
                }
                let connecting = connect_request(pod.clone(), incoming, caller.clone());
                pod.tasks.spawn(carry(Box::pin(connecting)));
            }
            Some(Err(error)) => {
                let (peer, from, text) = (&caller.peer, caller.from, chain(&error));
                match error.blame() {
                    Blame::Peer => tracing::warn!(%peer, %from, error = text, "tunnel cut"),
                    Blame::Network => tracing::debug!(%peer, %from, error = text, "tunnel ended"),
                }
                return;
            }
            None => return,
        }
    }
}

/// As the server's; the first request of each kind that it refused unread is told, `unread` are those before.
fn poll_request<IO: AsyncRead + AsyncWrite + Unpin>(
    server: &mut Server<IO>,
    caller: &Caller,
    unread: &mut Unread,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Incoming, ServerError>>> {
    let polled = server.poll_request(cx);
    let before = std::mem::replace(unread, server.unread());
    let (peer, from) = (&caller.peer, caller.from);
    // Once for each tunnel: how often is the peer's choice.
    if before.heads == 0 && unread.heads > 0 {
        tracing::warn!(%peer, %from, "request refused: its head is over h2.server_header_list, or is none");
    }
    if before.streams == 0 && unread.streams > 0 {
        tracing::warn!(%peer, %from, "request refused: the tunnel has h2.server_streams streams");
    }
    polled
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Requests {
    None,
    Some,
    Draining,
}

async fn connect_request<S: Sockets>(
    pod: Rc<Pod<S>>,
    incoming: Incoming,
    caller: Rc<Caller>,
) -> Option<Connected<InTunnel<()>, S>> {
    let head = match incoming.head() {
        Ok(head) => head,
        Err(refusal) => {
            let refusal = refusal.clone();
            let record =
                Record::new(pod.shared.outcomes.clone(), caller.parties(Security::MutualTls));
            incoming.refuse(status(refusal.http_status()));
            record.refused(refusal);
            return None;
        }
    };
    let arrival = Arrival::from(Tunnelled {
        target: pod.name.clone(),
        peer: caller.peer.clone(),
        from: caller.from,
        local: PeerAddr(caller.local.0),
        authority: head.authority.clone(),
        forwarded_host: head.forwarded_host.clone(),
    });
    let mut record = Record::new(pod.shared.outcomes.clone(), Parties::arriving(&arrival));
    let permit = match admit(&pod, &arrival, &mut record).await {
        Ok(permit) => permit,
        Err(refusal) => {
            incoming.refuse(status(refusal.http_status()));
            record.refused(refusal);
            return None;
        }
    };
    let server = match deliver(&pod, &permit).await {
        Ok(server) => server,
        Err(failure) => {
            incoming.refuse(StatusCode::SERVICE_UNAVAILABLE);
            record.failed(failure);
            return None;
        }
    };
    match incoming.accept(permit.local(), ()) {
        Ok(client) => {
            record.carrying(pod.uid.0.clone(), caller.local.0);
            Some(Connected { record, client, server, cut: pod.shared.cut(&permit) })
        }
        Err(error) => {
            record.failed(Failure::Broken { error: chain(&error) });
            None
        }
    }
}

async fn admit<S: Sockets>(
    pod: &Pod<S>,
    arrival: &Arrival,
    record: &mut Record,
) -> Result<Permit, Refusal> {
    let (view, permit) = pod.shared.permit(arrival).await;
    let resolved = match &permit {
        Ok(permit) => Some(permit.resolved().clone()),
        // A refused connection is logged with who it was, as far as the view knows.
        Err(_) => resolve(&view, arrival.clone()).ok(),
    };
    if let Some(resolved) = resolved {
        record.parties = record.parties.clone().resolved(&view, &resolved);
    }
    permit
}

/// Connects to the application, and tells it first who calls where it wants to know.
async fn deliver<S: Sockets>(pod: &Pod<S>, permit: &Permit) -> Result<Plain<S::Stream>, Failure> {
    let endpoint = pod
        .shared
        .with_load(|load| balance(&pod.shared.view(), permit, load, &[], pod.shared.draw()))
        .map_err(|refusal| Failure::Broken { error: refusal.to_string() })?;
    match next_hop(permit, &endpoint) {
        Hop::Deliver { to, bind, preamble } => {
            let mut stream = pod.deliver(bind, to.0).await?;
            if let Preamble::ProxyV2 { source, destination, identity } = preamble {
                let header = proxy_header::write(source, destination, identity.as_ref());
                let written = stream.write_all(&header).await;
                written.map_err(|error| Failure::Connect { to: to.0, error: chain(&error) })?;
            }
            Ok(Plain::new(stream))
        }
        hop @ (Hop::Plaintext { .. } | Hop::Hbone { .. } | Hop::Nested { .. }) => {
            Err(Failure::Broken { error: format!("{hop:?} is no delivery to a pod of this node") })
        }
    }
}

fn status(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap_or(StatusCode::SERVICE_UNAVAILABLE)
}
