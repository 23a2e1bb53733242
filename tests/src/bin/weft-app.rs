//! Programs as pods run them, which know nothing of the mesh.
//!
//! `serve` answers HTTP with its name and the peer's address (`/drip` never ends, `/echo` gives the bytes back);
//! `loop` opens connection after connection and counts how each one went.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "what a program has to say is its output")]

use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Parser;
use serde_json::json;

const BETWEEN_DRIPS: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(10);
const ERRORS_SHOWN: usize = 5;

#[derive(Debug, Parser)]
enum App {
    /// Answer HTTP on a TCP port, and echo datagrams on the same UDP port.
    Serve {
        #[arg(long)]
        port: u16,
        #[arg(long)]
        name: String,
    },
    /// Connect again and again, until the input ends; then print what was counted.
    Loop {
        #[arg(long)]
        to: SocketAddr,
        #[arg(long, default_value_t = 1)]
        threads: u8,
        /// Sent in every request.
        #[arg(long, default_value = "")]
        marker: String,
        /// What the body of an answer must begin with.
        #[arg(long, default_value = "")]
        from: String,
    },
    /// Ask a name server for a name's IPv4 addresses, or its ports, and print them.
    Resolve {
        #[arg(long)]
        server: SocketAddr,
        #[arg(long)]
        name: String,
        /// Ask for SRV records.
        #[arg(long)]
        srv: bool,
    },
    /// Send one datagram and print the answer.
    Ask {
        #[arg(long)]
        to: SocketAddr,
        #[arg(long)]
        text: String,
    },
}

fn main() -> Result<()> {
    match App::parse() {
        App::Serve { port, name } => serve(port, &name),
        App::Loop { to, threads, marker, from } => hammer(to, threads, &Call { marker, from }),
        App::Resolve { server, name, srv: false } => resolve(server, &name, 1),
        App::Resolve { server, name, srv: true } => resolve(server, &name, 33),
        App::Ask { to, text } => ask(to, &text),
    }
}

fn serve(port: u16, name: &str) -> Result<()> {
    let udp = UdpSocket::bind(("::", port)).context("bind UDP")?;
    let tcp = TcpListener::bind(("::", port)).context("bind TCP")?;
    thread::scope(|scope| {
        scope.spawn(move || echo_datagrams(&udp));
        for stream in tcp.incoming().flatten() {
            scope.spawn(move || {
                // A client that goes away ends its connection and nothing else.
                let _ = answer(&stream, name);
            });
        }
    });
    Ok(())
}

fn echo_datagrams(socket: &UdpSocket) {
    let mut datagram = [0; 2048];
    while let Ok((length, from)) = socket.recv_from(&mut datagram) {
        let _ = socket.send_to(datagram.get(..length).unwrap_or_default(), from);
    }
}

fn answer(mut stream: &TcpStream, name: &str) -> Result<()> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    reader.read_line(&mut head)?;
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut line = head;
    while line != "\r\n" && !line.is_empty() {
        line.clear();
        reader.read_line(&mut line)?;
    }
    if path.starts_with("/drip") {
        stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
        loop {
            stream.write_all(format!("{name} still here, {path}\n").as_bytes())?;
            thread::park_timeout(BETWEEN_DRIPS);
        }
    }
    let body = format!("{name} {}\n", stream.peer_addr()?.ip().to_canonical());
    let head =
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all((head + &body).as_bytes())?;
    Ok(())
}

#[derive(Debug, Default)]
struct Tally {
    ok: u64,
    refused: u64,
    reset: u64,
    timed_out: u64,
    wrong: u64,
    other: u64,
    slowest: Duration,
    errors: Vec<String>,
}

impl Tally {
    fn note(&mut self, result: Result<(), std::io::Error>, took: Duration) {
        let Err(error) = result else {
            self.ok += 1;
            self.slowest = self.slowest.max(took);
            return;
        };
        match error.kind() {
            ErrorKind::ConnectionRefused => self.refused += 1,
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => self.reset += 1,
            ErrorKind::TimedOut | ErrorKind::WouldBlock => self.timed_out += 1,
            ErrorKind::AddrNotAvailable => self.wrong += 1,
            _ => self.other += 1,
        }
        if self.errors.len() < ERRORS_SHOWN {
            self.errors.push(format!("{error} after {took:.0?}"));
        }
    }
}

fn hammer(to: SocketAddr, threads: u8, call: &Call) -> Result<()> {
    let (tally, over) = (Mutex::new(Tally::default()), AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let start = Instant::now();
                    let result = one(to, call);
                    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
                    tally.note(result, start.elapsed());
                    eprintln!("ok {}", tally.ok);
                }
            });
        }
        // Whoever started us closes our input when it has seen enough.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        over.store(true, Ordering::Relaxed);
    });
    let tally = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!(
        "{}",
        json!({
            "ok": tally.ok, "refused": tally.refused, "reset": tally.reset,
            "timed_out": tally.timed_out, "wrong": tally.wrong, "other": tally.other,
            "slowest_ms": u64::try_from(tally.slowest.as_millis())?, "errors": tally.errors,
        })
    );
    Ok(())
}

/// What is asked, and of whom.
#[derive(Debug)]
struct Call {
    marker: String,
    from: String,
}

fn one(to: SocketAddr, call: &Call) -> Result<(), std::io::Error> {
    let Call { marker, from } = call;
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET /?{marker} HTTP/1.0\r\nHost: app\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let parts = answer.split_once(' ').and_then(|(_, rest)| rest.split_once("\r\n\r\n"));
    match parts {
        Some((head, body)) if head.starts_with("200 OK") && body.ends_with('\n') => {
            if !body.starts_with(from) {
                let text = format!("answered by another: {body:?}");
                return Err(std::io::Error::new(ErrorKind::AddrNotAvailable, text));
            }
        }
        Some(_) | None => {
            let text = format!("answered {answer:?}");
            return Err(std::io::Error::new(ErrorKind::InvalidData, text));
        }
    }
    Ok(())
}

fn ask(to: SocketAddr, text: &str) -> Result<()> {
    let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send_to(text.as_bytes(), to)?;
    let mut answer = [0; 2048];
    let (length, from) = socket.recv_from(&mut answer).context("wait for the answer")?;
    println!("{from} {}", String::from_utf8_lossy(answer.get(..length).unwrap_or_default()));
    Ok(())
}

/// One question of this type. All answers are taken to have the name that was asked for.
fn resolve(server: SocketAddr, name: &str, kind: u8) -> Result<()> {
    let mut query = vec![0x77, 0x65, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).context("a label is too long")?);
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(&[0, 0, kind, 0, 1]);
    let socket = UdpSocket::bind(if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send_to(&query, server)?;
    let mut answer = [0; 2048];
    let (length, from) = socket.recv_from(&mut answer).context("wait for the answer")?;
    let answer = answer.get(..length).unwrap_or_default();
    let code = answer.get(3).map_or(0, |flags| flags & 15);
    let count = answer.get(7).copied().unwrap_or_default();
    let mut rest = answer.get(query.len()..).unwrap_or_default();
    let mut said = Vec::new();
    for _ in 0..count {
        // A pointer to the name, type, class, lifetime, length, data.
        let length = *rest.get(11).context("the answer ends in a record")?;
        let (record, next) =
            rest.split_at_checked(12 + usize::from(length)).context("the answer ends in data")?;
        rest = next;
        said.push(match record.get(12..).unwrap_or_default() {
            [a, b, c, d] => std::net::Ipv4Addr::new(*a, *b, *c, *d).to_string(),
            // Priority, weight, port, target.
            [_, _, _, _, high, low, ..] => u16::from_be_bytes([*high, *low]).to_string(),
            other => format!("{other:02x?}"),
        });
    }
    println!("{from} code {code} {}", said.join(" "));
    Ok(())
}
