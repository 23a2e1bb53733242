//! What applications do, in the namespace of the calling thread.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) fn tcp(to: SocketAddr) -> Socket {
    let domain = if to.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::STREAM, None).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Connects and reads the line that the other end says first.
pub(crate) fn ask(to: SocketAddr) -> io::Result<String> {
    ask_with(tcp(to), to)
}

pub(crate) fn ask_with(socket: Socket, to: SocketAddr) -> io::Result<String> {
    socket.connect_timeout(&to.into(), PATIENCE)?;
    let stream = TcpStream::from(socket);
    // What the application asked for is what it sees.
    assert_eq!(stream.peer_addr()?, to);
    Talk::new(stream)?.line()
}

/// A connection that stays open.
#[derive(Debug)]
pub(crate) struct Talk {
    lines: BufReader<TcpStream>,
    stream: TcpStream,
}

impl Talk {
    pub(crate) fn open(to: SocketAddr) -> io::Result<Self> {
        let socket = tcp(to);
        socket.connect_timeout(&to.into(), PATIENCE)?;
        Self::new(socket.into())
    }

    pub(crate) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { lines: BufReader::new(stream.try_clone()?), stream })
    }

    pub(crate) fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.lines.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim().to_owned())
    }

    pub(crate) fn local_port(&self) -> u16 {
        self.stream.local_addr().unwrap().port()
    }

    /// Says a word and hears it again.
    pub(crate) fn echo(&mut self, word: &str) -> io::Result<()> {
        writeln!(self.stream, "{word}")?;
        let heard = self.line()?;
        if heard == word { Ok(()) } else { Err(io::Error::other(format!("heard {heard:?}"))) }
    }
}

/// Serves `app <peer>` and then echoes, on a port of all addresses, until the test ends.
pub(crate) fn serve(port: u16) {
    let listener = TcpListener::bind(SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port)));
    let listener = listener.unwrap();
    thread::spawn(move || {
        while let Ok((stream, peer)) = listener.accept() {
            thread::spawn(move || answer(stream, peer));
        }
    });
}

fn answer(mut stream: TcpStream, peer: SocketAddr) {
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let greeted = writeln!(stream, "app {}", peer.ip());
    let mut bytes = [0; 1024];
    while greeted.is_ok() {
        match stream.read(&mut bytes) {
            Ok(0) | Err(_) => return,
            Ok(length) if stream.write_all(&bytes[..length]).is_ok() => {}
            Ok(_) => return,
        }
    }
}

/// A whole IP packet with a datagram, for a raw socket.
pub(crate) fn reply_packet(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap();
    let mut datagram = Vec::new();
    datagram.extend(from.port().to_be_bytes());
    datagram.extend(to.port().to_be_bytes());
    datagram.extend(length.to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let [high, low] = (20 + length).to_be_bytes();
            let mut packet = vec![0x45, 0, high, low, 0, 0, 0, 0, 64, 17, 0, 0];
            packet.extend(from.octets());
            packet.extend(to.octets());
            packet.extend(datagram);
            packet
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut pseudo = [from.octets(), to.octets()].concat();
            pseudo.extend(u32::from(length).to_be_bytes());
            pseudo.extend([0, 0, 0, 17]);
            let sum = checksum(&[pseudo, datagram.clone()].concat());
            datagram[6..8].copy_from_slice(&sum.to_be_bytes());
            let [high, low] = length.to_be_bytes();
            let mut packet = vec![0x60, 0, 0, 0, high, low, 17, 64];
            packet.extend(from.octets());
            packet.extend(to.octets());
            packet.extend(datagram);
            packet
        }
        mixed => panic!("two families: {mixed:?}"),
    }
}

fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}
