//! What is on the wires of a node: every packet of every pod passes its bridge.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::world::{World, at, until};

/// A TCP packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) from: std::net::SocketAddr,
    pub(crate) to: std::net::SocketAddr,
}

/// Records TCP packets until it is read.
pub(crate) struct Tap {
    seen: Arc<Mutex<Vec<Seen>>>,
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Tap {
    /// Records from here on.
    pub(crate) fn open(world: &World) -> Self {
        // ETH_P_ALL, in network order.
        let every = Protocol::from(i32::from(3u16.to_be()));
        let socket = world.on_node(|| Socket::new(Domain::PACKET, Type::RAW, Some(every)).unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let (seen, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let reader = thread::spawn({
            let (seen, stop) = (seen.clone(), stop.clone());
            move || read(&socket, &seen, &stop)
        });
        Self { seen, stop, reader: Some(reader) }
    }

    /// The packets that were seen from one address. Everything sent before is in it: a packet of ours, sent
    /// last, is waited for.
    pub(crate) fn from(&self, world: &World, ip: IpAddr) -> Vec<Seen> {
        // Nobody listens there: the packet is refused by the node, but it was on the wire.
        let marker = at("10.77.0.1".parse().unwrap(), 9);
        world.inside(super::world::Who::C, || {
            let _ = super::app::ask(marker);
        });
        until("the marker is seen", || {
            self.seen.lock().unwrap().iter().find(|s| s.to == marker).map(|_| ())
        });
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|seen| seen.from.ip() == ip).cloned().collect()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

fn read(socket: &Socket, seen: &Mutex<Vec<Seen>>, stop: &AtomicBool) {
    let mut packet = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, _)) =
            rustix::net::recv(socket, &mut packet[..], rustix::net::RecvFlags::empty())
        else {
            continue;
        };
        if let Some(tcp) = parse(&packet[..length]) {
            seen.lock().unwrap().push(tcp);
        }
    }
}

fn parse(frame: &[u8]) -> Option<Seen> {
    let (kind, packet) = (frame.get(12..14)?, frame.get(14..)?);
    let (from, to, tcp): (IpAddr, IpAddr, &[u8]) = match kind {
        [8, 0] if packet.get(9) == Some(&6) => {
            let header = usize::from(packet[0] & 15) * 4;
            let address = |at: usize| <[u8; 4]>::try_from(packet.get(at..at + 4)?).ok();
            (address(12)?.into(), address(16)?.into(), packet.get(header..)?)
        }
        [0x86, 0xdd] if packet.get(6) == Some(&6) => {
            let address = |at: usize| <[u8; 16]>::try_from(packet.get(at..at + 16)?).ok();
            (address(8)?.into(), address(24)?.into(), packet.get(40..)?)
        }
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes(tcp.get(at..at + 2)?.try_into().ok()?));
    Some(Seen { from: at(from, port(0)?), to: at(to, port(2)?) })
}
