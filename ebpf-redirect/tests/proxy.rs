//! A tiny proxy, as a process without capabilities: it answers, delivers, and says what it sees.
//!
//! Outbound it answers `outbound <original destination> <peer>` and then echoes, so that nothing of a captured
//! connection has a reason to be on the wire. Inbound it delivers to the application, with the client's address.

use std::collections::HashMap;
use std::io::{self, BufRead, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use prost::Message;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, connect, recvmsg, send, socket_with,
};
use socket2::Socket;
use weft_xds::zds::workload_request::Payload;
use weft_xds::zds::workload_response::Payload as Response;
use weft_xds::zds::{
    Ack, NeedSockets, SocketKind, Version, WorkloadRequest, WorkloadResponse, ZdsHello,
};

use super::app::reply_packet;

/// Says hello as a proxy that takes sockets, or as a stock one.
pub(crate) fn dial(path: &std::path::Path, takes_fds: bool) -> io::Result<OwnedFd> {
    dial_with(path, ZdsHello { version: Version::V1.into(), takes_fds, draining: false })
}

pub(crate) fn dial_with(path: &std::path::Path, hello: ZdsHello) -> io::Result<OwnedFd> {
    let socket =
        socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    send(&socket, &hello.encode_to_vec(), SendFlags::NOSIGNAL)?;
    Ok(socket)
}

/// The next request and its descriptors. `None`: the agent hung up.
pub(crate) fn receive(socket: &OwnedFd) -> io::Result<Option<(Payload, Vec<OwnedFd>)>> {
    let mut bytes = [0; 1024];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let into = &mut [IoSliceMut::new(&mut bytes)];
    let got = recvmsg(socket, into, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let descriptors = control
        .drain()
        .flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect(),
            _ => Vec::new(),
        })
        .collect();
    if got.bytes == 0 {
        return Ok(None);
    }
    let request = WorkloadRequest::decode(&bytes[..got.bytes]).unwrap();
    Ok(Some((request.payload.expect("a request has a payload"), descriptors)))
}

pub(crate) fn respond(socket: &OwnedFd, response: Response) -> io::Result<()> {
    let packet = WorkloadResponse { payload: Some(response) }.encode_to_vec();
    send(socket, &packet, SendFlags::NOSIGNAL)?;
    Ok(())
}

pub(crate) fn acknowledge(socket: &OwnedFd) -> io::Result<()> {
    respond(socket, Response::Ack(Ack { error: String::new() }))
}

/// Shared by all threads of the proxy.
struct Shared {
    agent: Mutex<Option<Arc<OwnedFd>>>,
    stock: Mutex<HashMap<(String, i32), Vec<OwnedFd>>>,
    arrived: Condvar,
    open: Mutex<usize>,
    closed: Condvar,
}

pub(crate) fn main(arguments: &[String]) {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).unwrap();
    assert_eq!(line, "go\n");
    let shared = Arc::new(Shared {
        agent: Mutex::new(None),
        stock: Mutex::default(),
        arrived: Condvar::new(),
        open: Mutex::new(0),
        closed: Condvar::new(),
    });
    let zds = PathBuf::from(&arguments[0]);
    let (stopped, stop) = io::pipe().unwrap();
    let stopped = Arc::new(OwnedFd::from(stopped));
    thread::spawn({
        let (shared, stopped) = (shared.clone(), stopped.clone());
        move || serve(&zds, &shared, &stopped)
    });
    // Until our input ends.
    let _ = io::stdin().read_to_end(&mut Vec::new());
    drop(stop);
    let mut open = shared.open.lock().unwrap();
    while *open > 0 {
        let (again, late) = shared.closed.wait_timeout(open, Duration::from_secs(10)).unwrap();
        open = again;
        assert!(!late.timed_out(), "{} connections do not end", *open);
    }
    // What accept threads are about to take stays in the backlog: `open` is raised before accepting.
    std::mem::forget(open);
}

/// Talks with the agent, and dials it again when it went.
fn serve(zds: &std::path::Path, shared: &Arc<Shared>, stopped: &Arc<OwnedFd>) {
    let mut pods: HashMap<String, io::PipeWriter> = HashMap::new();
    loop {
        if let Ok(socket) = dial(zds, true) {
            let socket = Arc::new(socket);
            *shared.agent.lock().unwrap() = Some(socket.clone());
            while let Ok(Some((request, descriptors))) = receive(&socket) {
                take(&socket, request, descriptors, &mut pods, shared, stopped);
            }
        }
        let time = Timespec::try_from(Duration::from_millis(10)).unwrap();
        let _ = poll(&mut [PollFd::new(stopped, PollFlags::IN)], Some(&time));
    }
}

fn take(
    agent: &OwnedFd,
    request: Payload,
    mut descriptors: Vec<OwnedFd>,
    pods: &mut HashMap<String, io::PipeWriter>,
    shared: &Arc<Shared>,
    stopped: &Arc<OwnedFd>,
) {
    match request {
        Payload::Add(add) => {
            let kinds: Vec<SocketKind> = add.listeners().collect();
            let listeners = descriptors.split_off(1);
            assert_eq!(listeners.len(), kinds.len());
            let (gone, end) = io::pipe().unwrap();
            let gone = Arc::new(OwnedFd::from(gone));
            for (kind, listener) in kinds.into_iter().zip(listeners) {
                let place = Place { uid: add.uid.clone(), kind, shared: shared.clone() };
                let (gone, stopped) = (gone.clone(), stopped.clone());
                thread::spawn(move || place.listen(listener, &gone, &stopped));
            }
            // The listeners that came before are drained and closed.
            pods.insert(add.uid, end);
            acknowledge(agent).unwrap();
        }
        Payload::Del(del) => {
            pods.remove(&del.uid);
            acknowledge(agent).unwrap();
        }
        Payload::SnapshotSent(_) => {
            acknowledge(agent).unwrap();
            println!("ready");
        }
        Payload::Sockets(sockets) => {
            let mut stock = shared.stock.lock().unwrap();
            stock.entry((sockets.uid, sockets.kind)).or_default().extend(descriptors);
            shared.arrived.notify_all();
        }
        Payload::Keep(_) => acknowledge(agent).unwrap(),
    }
}

#[derive(Clone)]
struct Place {
    uid: String,
    kind: SocketKind,
    shared: Arc<Shared>,
}

impl Place {
    fn listen(&self, listener: OwnedFd, gone: &OwnedFd, stopped: &OwnedFd) {
        if matches!(self.kind, SocketKind::DnsUdpV4 | SocketKind::DnsUdpV6) {
            self.answer_queries(&UdpSocket::from(listener), gone, stopped);
            return;
        }
        let listener = TcpListener::from(listener);
        loop {
            let mut ends = [
                PollFd::new(&listener, PollFlags::IN),
                PollFd::new(gone, PollFlags::IN),
                PollFd::new(stopped, PollFlags::IN),
            ];
            poll(&mut ends, None).unwrap();
            let (removed, stopping) =
                (!ends[1].revents().is_empty(), !ends[2].revents().is_empty());
            if stopping {
                // The next proxy accepts what waits.
                return;
            }
            while self.accept(&listener) {}
            if removed {
                return;
            }
        }
    }

    /// Counted before it is accepted: a proxy that stops waits for it, or leaves it to the next one.
    fn accept(&self, listener: &TcpListener) -> bool {
        *self.shared.open.lock().unwrap() += 1;
        let place = self.clone();
        let accepted = listener.accept();
        let there = accepted.is_ok();
        thread::spawn(move || {
            if let Ok((stream, peer)) = accepted {
                // A client that went away is no failure of ours.
                let _ = place.handle(stream, peer);
            }
            *place.shared.open.lock().unwrap() -= 1;
            place.shared.closed.notify_all();
        });
        there
    }

    fn handle(&self, mut client: TcpStream, peer: SocketAddr) -> io::Result<()> {
        client.set_nonblocking(false)?;
        let destination = client.local_addr()?;
        let name = match self.kind {
            SocketKind::InboundPlaintextV4 | SocketKind::InboundPlaintextV6 => {
                return self.deliver(client, peer, destination);
            }
            SocketKind::HboneV4 | SocketKind::HboneV6 => "hbone",
            SocketKind::DnsTcpV4 | SocketKind::DnsTcpV6 => "dns",
            _ => "outbound",
        };
        // Through the wire, for tests of our own sockets.
        if destination.port() == 7777 {
            return self.dial_out(client, destination);
        }
        writeln!(client, "{name} {destination} {peer}")?;
        let mut echoed = client.try_clone()?;
        io::copy(&mut client, &mut echoed)?;
        Ok(())
    }

    fn deliver(&self, client: TcpStream, peer: SocketAddr, to: SocketAddr) -> io::Result<()> {
        let kind = if to.is_ipv4() { SocketKind::DeliverV4 } else { SocketKind::DeliverV6 };
        let socket = Socket::from(self.socket(kind));
        socket.set_nonblocking(false)?;
        socket.bind(&SocketAddr::new(peer.ip(), 0).into())?;
        socket.connect_timeout(&to.into(), Duration::from_secs(5))?;
        relay(client, socket.into())
    }

    fn dial_out(&self, client: TcpStream, to: SocketAddr) -> io::Result<()> {
        let kind = if to.is_ipv4() { SocketKind::ConnectV4 } else { SocketKind::ConnectV6 };
        let socket = Socket::from(self.socket(kind));
        socket.set_nonblocking(false)?;
        socket.connect_timeout(&to.into(), Duration::from_secs(5))?;
        relay(client, socket.into())
    }

    /// A socket of the pod, from the agent.
    fn socket(&self, kind: SocketKind) -> OwnedFd {
        let key = (self.uid.clone(), i32::from(kind));
        let mut stock = self.shared.stock.lock().unwrap();
        loop {
            if let Some(socket) = stock.get_mut(&key).and_then(Vec::pop) {
                return socket;
            }
            let need = NeedSockets { uid: self.uid.clone(), kind: kind.into(), count: 4 };
            let agent = self.shared.agent.lock().unwrap().clone().expect("the agent was there");
            respond(&agent, Response::Need(need)).unwrap();
            let (again, late) =
                self.shared.arrived.wait_timeout(stock, Duration::from_secs(10)).unwrap();
            assert!(!late.timed_out(), "the agent sends no {kind:?}");
            stock = again;
        }
    }

    /// Answers each query as the resolver that was asked.
    fn answer_queries(&self, socket: &UdpSocket, gone: &OwnedFd, stopped: &OwnedFd) {
        let v4 = self.kind == SocketKind::DnsUdpV4;
        let raw = self.socket(if v4 { SocketKind::DnsReplyV4 } else { SocketKind::DnsReplyV6 });
        loop {
            let mut ends = [
                PollFd::new(socket, PollFlags::IN),
                PollFd::new(gone, PollFlags::IN),
                PollFd::new(stopped, PollFlags::IN),
            ];
            poll(&mut ends, None).unwrap();
            if !ends[1].revents().is_empty() || !ends[2].revents().is_empty() {
                return;
            }
            let Ok((peer, asked)) = receive_query(socket.as_fd()) else { continue };
            let text = format!("dns {asked}");
            let packet = reply_packet(asked, peer, text.as_bytes());
            let to = SocketAddr::new(peer.ip(), 0);
            rustix::net::sendto(&raw, &packet, SendFlags::empty(), &to).unwrap();
        }
    }
}

/// Who asked, and whom.
fn receive_query(socket: std::os::fd::BorrowedFd<'_>) -> io::Result<(SocketAddr, SocketAddr)> {
    use nix::sys::socket::{ControlMessageOwned, SockaddrStorage};
    use std::os::fd::AsRawFd;
    let mut bytes = [0; 512];
    let mut into = [IoSliceMut::new(&mut bytes)];
    let mut control = nix::cmsg_space!([u8; 256]);
    let flags = nix::sys::socket::MsgFlags::empty();
    let message = nix::sys::socket::recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut into,
        Some(&mut control),
        flags,
    )?;
    let from = message.address.expect("a datagram has a sender");
    let peer: SocketAddr = match (from.as_sockaddr_in(), from.as_sockaddr_in6()) {
        (Some(v4), _) => std::net::SocketAddrV4::from(*v4).into(),
        (_, Some(v6)) => std::net::SocketAddrV6::from(*v6).into(),
        (None, None) => return Err(io::ErrorKind::InvalidData.into()),
    };
    let asked = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4OrigDstAddr(to) => {
            let ip = IpAddr::from(to.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddr::new(ip, u16::from_be(to.sin_port)))
        }
        ControlMessageOwned::Ipv6OrigDstAddr(to) => {
            Some(SocketAddr::new(IpAddr::from(to.sin6_addr.s6_addr), u16::from_be(to.sin6_port)))
        }
        _ => None,
    });
    Ok((peer, asked.expect("the agent asks the kernel for the destination")))
}

fn relay(one: TcpStream, other: TcpStream) -> io::Result<()> {
    let (mut from, mut to) = (one.try_clone()?, other.try_clone()?);
    let back = thread::spawn(move || {
        let (mut from, mut to) = (other, one);
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(std::net::Shutdown::Write);
    });
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(std::net::Shutdown::Write);
    back.join().expect("a relay does not panic");
    Ok(())
}
