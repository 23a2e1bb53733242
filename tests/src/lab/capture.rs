//! What passes on the interfaces of a namespace: every packet, searched for a marker that must not be seen.

use std::{
    io::Read,
    net::UdpSocket,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use super::{LONG, Namespace, namespace, wait_for};

const ETH_P_ALL: u16 = 3;
const BUFFER: usize = 64 << 20;
/// Packets above TCP's own head: the ones that carry bytes of an application.
const WITH_PAYLOAD: usize = 120;
/// Sent over loopback at the end: when it has come, all before it has been seen.
const LAST: &[u8] = b"weft-lab: the last packet of this capture";

/// A running capture of all interfaces of one namespace.
#[derive(Debug)]
pub struct Capture {
    thread: JoinHandle<Result<Captured>>,
    name: String,
    path: PathBuf,
    given_up: Arc<AtomicBool>,
}

/// What a capture has seen.
#[derive(Debug, Default)]
pub struct Captured {
    /// All packets.
    pub packets: usize,
    /// Packets in which the marker stood in the clear.
    pub marked: usize,
    /// The first packet with the marker, or else the largest one seen.
    pub sample: Vec<u8>,
}

impl Capture {
    /// Starts; from here on no packet is missed.
    pub fn start(namespace: &Namespace, marker: &str) -> Result<Self> {
        let marker = marker.as_bytes().to_vec();
        let socket = namespace.enter(open)??;
        let given_up = Arc::new(AtomicBool::new(false));
        let stop = given_up.clone();
        let thread = std::thread::spawn(move || watch(&socket, &marker, &stop));
        let (name, path) = (namespace.name().to_owned(), namespace.path());
        Ok(Self { thread, name, path, given_up })
    }

    /// Ends it, when all that was sent until here has been seen.
    pub fn stop(self) -> Result<Captured> {
        namespace::enter(&self.path, || -> Result<()> {
            UdpSocket::bind("127.0.0.1:0")?.send_to(LAST, "127.0.0.1:9")?;
            Ok(())
        })??;
        // Without the last packet the receive buffer has overflowed, and the capture proves nothing.
        let what = format!("the last packet in {} is captured", self.name);
        let ended = wait_for(&what, LONG, || self.thread.is_finished().then_some(()));
        self.given_up.store(true, Ordering::Relaxed);
        ended?;
        let captured = self.thread.join().map_err(|_| anyhow!("a capture panicked"))?;
        captured.with_context(|| format!("capture of {}", self.name))
    }
}

impl Captured {
    /// Errors: the marker was seen.
    pub fn refuse_clear_text(&self) -> Result<()> {
        ensure!(
            self.marked == 0,
            "{} of {} packets carried the marker in the clear, the first:\n{}",
            self.marked,
            self.packets,
            self.dump(12)
        );
        Ok(())
    }

    /// The sample as hexadecimal and text, its last `lines` times 16 bytes.
    pub fn dump(&self, lines: usize) -> String {
        let rows: Vec<_> = self.sample.chunks(16).collect();
        let skip = rows.len().saturating_sub(lines);
        let row = |(n, row): (usize, &&[u8])| {
            let hex: Vec<_> = row.iter().map(|b| format!("{b:02x}")).collect();
            let text = row.iter().map(|&b| if (32..127).contains(&b) { b as char } else { '.' });
            format!("    {:04x}  {:<47}  {}", n * 16, hex.join(" "), text.collect::<String>())
        };
        rows.iter().enumerate().skip(skip).map(row).collect::<Vec<_>>().join("\n")
    }
}

fn open() -> Result<Socket> {
    let protocol = Protocol::from(i32::from(ETH_P_ALL.to_be()));
    let socket =
        Socket::new(Domain::PACKET, Type::RAW, Some(protocol)).context("open AF_PACKET")?;
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER)?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    Ok(socket)
}

fn watch(mut socket: &Socket, marker: &[u8], given_up: &AtomicBool) -> Result<Captured> {
    let mut captured = Captured::default();
    let mut packet = vec![0; 1 << 17];
    loop {
        let length = match socket.read(&mut packet) {
            Ok(length) => length,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                ensure!(!given_up.load(Ordering::Relaxed), "the last packet was never seen");
                continue;
            }
            Err(error) => return Err(error).context("read a packet"),
        };
        let seen = packet.get(..length).unwrap_or_default();
        if contains(seen, LAST) {
            return Ok(captured);
        }
        captured.note(seen, marker);
    }
}

impl Captured {
    fn note(&mut self, packet: &[u8], marker: &[u8]) {
        self.packets += 1;
        let found = contains(packet, marker);
        self.marked += usize::from(found);
        let better = if found {
            self.marked == 1
        } else {
            self.marked == 0 && packet.len() > WITH_PAYLOAD && packet.len() > self.sample.len()
        };
        if better {
            self.sample = packet.to_vec();
        }
    }
}

fn contains(packet: &[u8], marker: &[u8]) -> bool {
    let Some(&first) = marker.first() else { return false };
    packet
        .iter()
        .enumerate()
        .any(|(at, &byte)| byte == first && packet.get(at..).is_some_and(|p| p.starts_with(marker)))
}
