//! One proxy, over ZDS: told of pods, given their sockets.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{info, warn};
use weft_xds::zds::workload_request::Payload as Request;
use weft_xds::zds::workload_response::Payload as Response;
use weft_xds::zds::{
    Ack, AddWorkload, DelWorkload, NeedSockets, SnapshotSent, SocketKind, Sockets, Version,
    WorkloadRequest, WorkloadResponse, ZdsHello,
};

use super::ProxyUser;
use super::packet::{PacketListener, PacketSocket, Received};
use super::roster::{Bearing, News, Offer, Order, Roster};
use crate::pod::PodUid;
use crate::sockets;

/// A proxy that neither answers nor takes for so long is cut off; it dials again and is told anew.
const DEADLINE: Duration = Duration::from_secs(5);
/// Sockets handed over in one message.
const SOCKETS_MAX: u32 = 64;
/// Proxies connected at once: two during an upgrade, and some that have not noticed their end.
const PROXIES_MAX: usize = 8;
/// A dialling proxy comes back at its own pace; a failing listener must not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Why a proxy's connection ended.
#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    #[error("the connection broke")]
    Io(#[from] io::Error),
    #[error("user {0} is neither root nor the proxy's")]
    Stranger(u32),
    #[error("nothing came within {0:?}")]
    Late(Duration),
    #[error("what came is no message of ZDS")]
    Decode(#[from] prost::DecodeError),
    #[error("version {0} is not spoken here")]
    Version(i32),
    #[error("an ack came that nothing was waiting for")]
    StrayAck,
    #[error("a response came without a payload")]
    Empty,
    #[error("it let too many orders pile up")]
    Slow,
}

/// How a proxy's connection ended, if it ended well.
#[derive(Debug)]
enum End {
    HungUp,
}

/// Accepts proxies for ever.
pub(super) async fn accept(listener: PacketListener, user: ProxyUser, roster: Roster) {
    let mut proxies = JoinSet::new();
    loop {
        // Biased: ended ones make room for new ones.
        tokio::select! {
            biased;
            Some(ended) = proxies.join_next() => {
                if let Err(error) = ended {
                    warn!(%error, "a proxy's task ended badly");
                }
            }
            accepted = listener.accept(), if proxies.len() < PROXIES_MAX => match accepted {
                Ok(socket) => {
                    proxies.spawn(serve(socket, user, roster.clone()));
                }
                Err(error) => {
                    warn!(%error, "a proxy could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

async fn serve(socket: PacketSocket, user: ProxyUser, roster: Roster) {
    let hello = match hello(&socket, user).await {
        Ok(hello) => hello,
        Err(error) => {
            warn!(error = %Chain(&error), "a proxy was turned away");
            return;
        }
    };
    let pid = socket.peer_pid().unwrap_or_default();
    roster.tell_keeper(News::Joined);
    let bearing = if hello.draining { Bearing::Draining } else { Bearing::Serving };
    let (id, orders) = roster.join(bearing);
    info!(proxy = ?id, pid, takes_fds = hello.takes_fds, ?bearing, "proxy connected");
    let mut proxy = Connection { socket, hello, bearing, roster: roster.clone() };
    match proxy.converse(orders).await {
        Ok(End::HungUp) => info!(proxy = ?id, pid, "proxy disconnected"),
        Err(error) => warn!(proxy = ?id, pid, error = %Chain(&error), "proxy cut off"),
    }
    roster.leave(id);
}

async fn hello(socket: &PacketSocket, user: ProxyUser) -> Result<ZdsHello, ConnectionError> {
    let uid = socket.peer_uid()?;
    if uid != user.uid && uid != 0 {
        return Err(ConnectionError::Stranger(uid));
    }
    let received = timeout(DEADLINE, socket.receive())
        .await
        .map_err(|_| ConnectionError::Late(DEADLINE))??;
    let Received::Packet(packet) = received else {
        return Err(ConnectionError::Io(io::ErrorKind::UnexpectedEof.into()));
    };
    let hello = ZdsHello::decode(packet.as_slice())?;
    if hello.version != i32::from(Version::V1) {
        return Err(ConnectionError::Version(hello.version));
    }
    Ok(hello)
}

#[derive(Debug)]
struct Connection {
    socket: PacketSocket,
    hello: ZdsHello,
    bearing: Bearing,
    roster: Roster,
}

impl Connection {
    async fn converse(
        &mut self,
        mut orders: mpsc::Receiver<Order>,
    ) -> Result<End, ConnectionError> {
        loop {
            // Biased: connections of applications wait for sockets; orders are not urgent.
            tokio::select! {
                biased;
                received = self.socket.receive() => match received? {
                    Received::End => return Ok(End::HungUp),
                    Received::Packet(packet) => match decode(&packet)? {
                        Response::Ack(_) => return Err(ConnectionError::StrayAck),
                        Response::Need(need) => self.give(&need).await?,
                    },
                },
                order = orders.recv() => {
                    let Some(order) = order else { return Err(ConnectionError::Slow) };
                    if let Some(end) = self.carry_out(&order).await? {
                        return Ok(end);
                    }
                }
            }
        }
    }

    /// Tells the proxy and waits for its answer. `Some`: it hung up instead.
    async fn carry_out(&mut self, order: &Order) -> Result<Option<End>, ConnectionError> {
        match order {
            Order::Add(offer) => self.send_add(offer).await?,
            Order::Delete(uid) => {
                let del = DelWorkload { uid: uid.as_str().to_owned() };
                self.send(Request::Del(del), &[]).await?;
            }
            Order::SnapshotSent => {
                self.send(Request::SnapshotSent(SnapshotSent {}), &[]).await?;
            }
        }
        let answered = timeout(DEADLINE, self.acked());
        let Some(ack) = answered.await.map_err(|_| ConnectionError::Late(DEADLINE))?? else {
            return Ok(Some(End::HungUp));
        };
        self.heed(order, ack);
        Ok(None)
    }

    fn heed(&self, order: &Order, ack: Ack) {
        match order {
            // It takes none, whatever it says: it was told of the pod for its sockets.
            Order::Add(_) if self.bearing == Bearing::Draining => {}
            Order::Add(offer) if ack.error.is_empty() => {
                self.roster.tell_keeper(News::Confirmed(offer.uid.clone()));
            }
            Order::Add(offer) => {
                self.roster.tell_keeper(News::Declined(offer.uid.clone(), ack.error));
            }
            Order::Delete(uid) if !ack.error.is_empty() => {
                warn!(pod = %uid, error = ack.error, "the proxy could not let the pod go");
            }
            Order::SnapshotSent if !ack.error.is_empty() => {
                warn!(error = ack.error, "the proxy could not take the snapshot");
            }
            Order::Delete(_) | Order::SnapshotSent => {}
        }
    }

    /// The next ack; requests for sockets that come before it are served. `None`: it hung up.
    async fn acked(&self) -> Result<Option<Ack>, ConnectionError> {
        loop {
            let Received::Packet(packet) = self.socket.receive().await? else { return Ok(None) };
            match decode(&packet)? {
                Response::Ack(ack) => return Ok(Some(ack)),
                Response::Need(need) => self.give(&need).await?,
            }
        }
    }

    /// A stock ztunnel takes the namespace alone, and opens its sockets itself.
    async fn send_add(&self, offer: &Arc<Offer>) -> Result<(), ConnectionError> {
        let mut add = AddWorkload {
            uid: offer.uid.as_str().to_owned(),
            workload_info: Some(offer.info.clone()),
            ..AddWorkload::default()
        };
        let mut descriptors = vec![offer.netns.as_fd()];
        if self.hello.takes_fds {
            add.netns_cookie = offer.netns.cookie();
            add.sockets_offered = true;
            if self.bearing == Bearing::Serving {
                add.listeners = offer.listeners.iter().map(|one| i32::from(one.kind())).collect();
                descriptors.extend(offer.listeners.iter().map(AsFd::as_fd));
            }
        }
        self.send(Request::Add(add), &descriptors).await
    }

    /// Makes sockets in the pod's namespace and hands them over; none, if they cannot be made.
    async fn give(&self, need: &NeedSockets) -> Result<(), ConnectionError> {
        let made = self.make(need).unwrap_or_else(|error| {
            warn!(pod = need.uid, kind = need.kind, %error, "no sockets could be made");
            Vec::new()
        });
        let count = u32::try_from(made.len()).expect("at most SOCKETS_MAX were made");
        let descriptors: Vec<_> = made.iter().map(AsFd::as_fd).collect();
        let sockets = Sockets { uid: need.uid.clone(), kind: need.kind, count };
        self.send(Request::Sockets(sockets), &descriptors).await
    }

    fn make(&self, need: &NeedSockets) -> anyhow::Result<Vec<std::os::fd::OwnedFd>> {
        let kind = SocketKind::try_from(need.kind)?;
        let offer = PodUid::parse(&need.uid)
            .ok()
            .and_then(|uid| self.roster.offer(&uid))
            .ok_or_else(|| anyhow::anyhow!("no such pod is enrolled"))?;
        let count = need.count.min(SOCKETS_MAX) as usize;
        Ok(offer.netns.run(|| sockets::batch(kind, count))??)
    }

    async fn send(
        &self,
        payload: Request,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), ConnectionError> {
        let packet = WorkloadRequest { payload: Some(payload) }.encode_to_vec();
        timeout(DEADLINE, self.socket.send(&packet, descriptors))
            .await
            .map_err(|_| ConnectionError::Late(DEADLINE))??;
        Ok(())
    }
}

fn decode(packet: &[u8]) -> Result<Response, ConnectionError> {
    WorkloadResponse::decode(packet)?.payload.ok_or(ConnectionError::Empty)
}

/// An error and its causes, in one line.
struct Chain<'a>(&'a ConnectionError);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = std::error::Error::source(self.0);
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}
